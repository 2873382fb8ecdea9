"""`/metrics`: what Prometheus can be told from the database alone. Needs the extra ``[metrics]``.

No account, contract or reason is among the labels. What only the daemon knows (times by rule as they come, writes that
failed) it serves itself: :class:`risk_store.metrics.Metrics`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from risk_store.dashboard.reader import Reader
from risk_store.dashboard.view import View
from risk_store.metrics import StoreGauges
from risk_store.texts import visible

__all__ = ["exposition"]


def exposition(reader: Reader) -> Callable[[Request], Awaitable[Response]]:
    """The endpoint."""
    registry = CollectorRegistry()
    registry.register(StoreGauges(reader))
    registry.register(_OfTheLog(reader))

    async def answer(_request: Request) -> Response:
        body = await run_in_threadpool(generate_latest, registry)
        return Response(body, headers={"content-type": CONTENT_TYPE_LATEST})

    return answer


class _OfTheLog:
    """Counts of the log; nothing but `risk_store_up 0` for a store that cannot be read."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def describe(self) -> Iterable[Any]:
        return []  # or registering would read once

    def collect(self) -> Iterator[Any]:
        look = self._reader.look(View())
        up = look.snapshot is not None and look.trouble is None
        yield GaugeMetricFamily("risk_store_up", "Whether the store can be read.", value=float(up))
        if look.snapshot is None or not up:
            return
        facts = look.snapshot.facts
        # A gauge: pruning takes rows away, which of a counter would be taken for a restart.
        yield GaugeMetricFamily("risk_store_log_rows", "Rows of the log.", value=facts.total)
        states = [owner.value for _, owner in facts.in_flight]
        in_flight = GaugeMetricFamily(
            "risk_store_enforcements_in_flight",
            "Begun and not ended, by what is known of the process.",
            labels=["owner"],
        )
        for state in sorted(set(states)):
            in_flight.add_metric([state], states.count(state))
        yield in_flight
        week = GaugeMetricFamily(
            "risk_store_alerts_7_days", "Enforcements of the last 7 days at each level.", labels=["rule", "level"]
        )
        for line in look.snapshot.summary.rules:
            for level, count in (("WARNING", line.warnings), ("CRITICAL", line.criticals), ("TIMEOUT", line.timeouts)):
                week.add_metric([visible(line.rule_id), level], count)
        yield week

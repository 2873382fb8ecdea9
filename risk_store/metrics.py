"""Prometheus metrics of the daemon's enforcements: the extra ``[metrics]``.

Names and labels are bounded: no account, contract or reason (cardinality, and privacy).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

from risk_store.alerts import Alert, Thresholds
from risk_store.models import EnforcementLog
from risk_store.settings import configured_thresholds
from risk_store.texts import visible

try:
    from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram
    from prometheus_client.core import GaugeMetricFamily
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(f"{error}; for metrics: pip install 'risk-store[metrics]'", name=error.name) from error

if TYPE_CHECKING:
    from risk_store.repositories import Transaction
    from risk_store.schema import SchemaStatus
    from risk_store.store import RiskStore

__all__ = ["Metrics", "StoreGauges"]

_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 10.0)


class Metrics:
    """What a RiskStore tells Prometheus: give it to the store as ``metrics=``, and serve `registry` as you do already.

    The three thresholds (give it the store's, if they are not those of the environment) are edges of the histogram's
    buckets, so that the alerts can be told from it: an enforcement is
    over a threshold if it is in no bucket up to it.

    >>> metrics = Metrics(registry=CollectorRegistry())
    >>> metrics.observe(EnforcementLog(rule_id="RULE-003", action="CLOSE_ALL", success=True, execution_time_ms=145))
    >>> metrics.registry.get_sample_value("risk_store_enforcements_total",
    ...     {"rule": "RULE-003", "action": "CLOSE_ALL", "outcome": "success"})
    1.0
    """

    def __init__(self, thresholds: Thresholds | None = None, registry: CollectorRegistry = REGISTRY) -> None:
        limits = thresholds or configured_thresholds()
        edges = {limits.slow_threshold_ms / 1000, limits.critical_threshold_ms / 1000, limits.timeout_ms / 1000}
        self.registry = registry
        self._duration = Histogram(
            "risk_store_enforcement_duration_seconds",
            "From the beginning of an enforcement to the writing of its row.",
            ["rule", "action"],
            buckets=sorted(edges.union(_BUCKETS_S)),
            registry=registry,
        )
        self._enforcements = Counter(
            "risk_store_enforcements",
            "Enforcements that ended, by outcome: success, failure, timeout.",
            ["rule", "action", "outcome"],
            registry=registry,
        )
        self._alerts = Counter(
            "risk_store_alerts",
            "Alerts raised, by level; running: while it hung.",
            ["rule", "level", "running"],
            registry=registry,
        )
        self._write_errors = Counter(
            "risk_store_write_errors", "Writes that failed: intent, lockout, outcome.", ["operation"], registry=registry
        )
        self._timeout_ms = limits.timeout_ms

    def observe(self, log: EnforcementLog) -> None:
        """One finished enforcement, whether its row could be written or not."""
        took_ms = log.execution_time_ms or 0
        late = took_ms > self._timeout_ms or (log.error_message or "").startswith("timed out after ")
        outcome = "timeout" if late else "success" if log.success else "failure"
        self._duration.labels(log.rule_id, log.action).observe(took_ms / 1000)
        self._enforcements.labels(log.rule_id, log.action, outcome).inc()

    def alert(self, alert: Alert) -> None:
        """One alert."""
        self._alerts.labels(alert.rule_id, alert.level.value, str(alert.running).lower()).inc()

    def write_error(self, operation: str) -> None:
        """A write of an enforcement that failed: ``intent``, ``lockout`` or ``outcome``."""
        self._write_errors.labels(operation).inc()

    def watch(self, store: RiskStore) -> None:
        """Adds gauges that are read from the store when they are asked for: lockouts, working orders, its schema."""
        self.registry.register(StoreGauges(store))


class Readable(Protocol):
    """What the gauges are read from: a RiskStore, or the dashboard's reader."""

    def status(self) -> SchemaStatus: ...

    def read(self) -> AbstractContextManager[Transaction]: ...


class StoreGauges:
    """Lockouts, working orders and the schema, read at each scrape: a collector for a registry of yours.

    A store that cannot be read gives none of them, and the scrape goes on.
    """

    def __init__(self, store: Readable) -> None:
        self._store = store

    def describe(self) -> Iterable[Any]:
        return []  # or registering would scrape once

    def collect(self) -> Iterator[Any]:
        from risk_store.errors import RiskStoreError

        try:
            status = self._store.status()
            schema = GaugeMetricFamily("risk_store_schema_info", "The schema's revision.", labels=["revision", "head"])
            schema.add_metric([status.found or "", status.expected], 1)
            yield schema
            with self._store.read() as tx:
                lockouts = [visible(str(lockout.rule_id)) for lockout in tx.lockouts.active()]
                orders = [visible(getattr(order.type, "name", str(order.type))) for order in tx.orders.working()]
        except RiskStoreError:
            return
        yield _counted("risk_store_lockouts_active", "Accounts that may not trade now.", "rule", lockouts)
        yield _counted("risk_store_working_orders", "Orders that the venue may still fill.", "type", orders)


def _counted(name: str, text: str, label: str, values: list[str]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=[label])
    for value in sorted(set(values)):
        family.add_metric([value], values.count(value))
    return family

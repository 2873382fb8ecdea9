"""The page as HTML, from a look at the store: Jinja2 templates, which escape whatever comes from the database."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from risk_store import __version__
from risk_store.alerts import AlertLevel, Thresholds
from risk_store.codes import OrderSide
from risk_store.dashboard import charts, words
from risk_store.dashboard.reader import Look, Trouble
from risk_store.dashboard.snapshot import DAY_S, Bucket, RuleLine, Snapshot, Summary, level_of
from risk_store.dashboard.view import View
from risk_store.models import OrderSnapshot
from risk_store.owner import OwnerState
from risk_store.schema.verdict import shell_word

__all__ = ["NOT_WAL_REFRESH_S", "render", "render_message"]

MOST_LISTED = 12
MOST_RULES = 100
NOT_WAL_REFRESH_S = 30

_ENVIRONMENT = Environment(
    loader=PackageLoader("risk_store.dashboard"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    auto_reload=False,
)
_ENVIRONMENT.filters |= {
    "count": words.count,
    "day_and_time": words.day_and_time,
    "milliseconds": words.milliseconds,
    "share": words.share,
    "text": words.text,
    "time_of_day": words.time_of_day,
}


class Banner(NamedTuple):
    """One sentence above all else, and the command that helps."""

    text: str
    command: str | None = None
    bad: bool = False


def render(look: Look, view: View, database: str, file: str | None) -> str:
    """The whole page. `database` is its name, fit to be shown; `file` SQLite's."""
    snapshot = look.snapshot
    is_wal = snapshot is None or snapshot.facts.journal_mode in (None, "wal")
    values: dict[str, Any] = {
        "view": view,
        "snapshot": snapshot,
        "schema": look.schema,
        "database": database,
        "version": __version__,
        "refresh": view.refresh if is_wal or not view.refresh else max(view.refresh, NOT_WAL_REFRESH_S),
        "banners": list(_banners(look.trouble, snapshot, file)),
        "title": snapshot.summary.status if snapshot and not look.trouble else "trouble",
    }
    if snapshot is not None:
        values |= _values_of(snapshot, file)
    return _ENVIRONMENT.get_template("page.html").render(values)


def render_message(title: str, text: str) -> str:
    """A page that only says something."""
    return _ENVIRONMENT.get_template("message.html").render(title=title, text=text)


def _banners(trouble: Trouble | None, snapshot: Snapshot | None, file: str | None) -> list[Banner]:
    banners = []
    if trouble is not None:
        text = trouble.text
        if snapshot is not None:
            text += f" Below is what was read at {snapshot.at:%H:%M} UTC."
        banners.append(Banner(text, trouble.command, bad=True))
    if snapshot is not None and snapshot.facts.journal_mode not in (None, "wal"):
        mode = snapshot.facts.journal_mode
        text = (
            f"This file is in journal mode {mode}, not WAL: whoever reads it makes the daemon wait. So this page is "
            f"read anew each {NOT_WAL_REFRESH_S} s only. The store switches it to WAL with its first write; by hand:"
        )
        banners.append(Banner(text, f'sqlite3 {shell_word(file or "")} "PRAGMA journal_mode = WAL"'))
    return banners


def _values_of(snapshot: Snapshot, file: str | None) -> dict[str, Any]:
    summary, limits, now = snapshot.summary, snapshot.thresholds, snapshot.at

    def level(ms: Any) -> str:
        found = level_of(ms, limits) if words.is_number(ms) else None
        return found.value.lower() if found else ""

    def ago(at: Any) -> str:
        return f"{words.span((now - at).total_seconds())} ago" if isinstance(at, datetime) else words.text(at, 40)

    def ends(until: Any) -> str:
        if until is None:
            return "until reset"
        if not isinstance(until, datetime):
            return f"until {words.text(until, 40)}"
        return f"ends in {words.span((until - now).total_seconds())}"

    return {
        "thresholds": limits,
        "level": level,
        "ago": ago,
        "ends": ends,
        "step": _step(summary.bucket_s),
        "trend": Markup(_trend(summary, limits)),  # from numbers and words of ours
        "points": json.dumps([_point(bucket) for bucket in summary.buckets]),
        "most_of_a_rule": max((line.enforcement_count for line in summary.rules), default=0) or 1,
        "most_listed": MOST_LISTED,
        "most_rules": MOST_RULES,
        "interrupted_command": f"risk-store interrupted {shell_word(file) if file else 'URL'}"
        if any(owner != OwnerState.ALIVE for _, owner in snapshot.facts.in_flight)
        else None,
    }


def _step(seconds: int) -> str:
    return f"{seconds // 60} min" if seconds < 3600 else "day" if seconds == DAY_S else f"{seconds // 3600} h"


def _trend(summary: Summary, limits: Thresholds) -> str:
    buckets = [
        charts.ChartBucket(
            bucket.p50_time_ms,
            bucket.p95_time_ms,
            bucket.worst_time_ms,
            bucket.enforcements,
            bucket.worst_level.value.lower() if bucket.worst_level else "",
        )
        for bucket in summary.buckets
    ]
    lines = [charts.Limit(level.value.lower(), limits.limit(level)) for level in AlertLevel]
    title = f"Execution time per {_step(summary.bucket_s)}: median, p95 and worst, with the thresholds; a table follows"
    return charts.trend(buckets, lines, list(_ticks(summary)), limits.critical_threshold_ms, title)


def _ticks(summary: Summary) -> Iterator[charts.Tick]:
    """A name in the middle of each day, or of each of a few; of a single day a name at each fourth hour."""
    buckets = summary.buckets
    whole_s = len(buckets) * summary.bucket_s
    begin = summary.window_from
    if whole_s <= DAY_S:
        hours = (begin + timedelta(hours=hour) for hour in range(25))
        for at in (at.replace(minute=0) for at in hours if at.hour % 4 == 0):
            share = (at - begin).total_seconds() / whole_s
            if 0.03 < share < 0.97:
                yield charts.Tick(share, f"{at:%H:%M}")
        return
    every = max(1, whole_s // DAY_S // 7)
    for number, day in enumerate(summary.days):
        share = (day + timedelta(hours=12) - begin).total_seconds() / whole_s
        if number % every == 0 and 0.03 < share < 0.97:
            names = (f"{day:%a}", str(day.day)) if every == 1 else (str(day.day), f"{day:%b}")
            yield charts.Tick(share, *names)


def _point(bucket: Bucket) -> list[str]:
    """What the crosshair says, line by line."""
    at = bucket.begins_at
    lines = [f"{at:%a} {at.day} {at:%b %H:%M}", f"{words.count(bucket.enforcements)} enforcements"]
    if bucket.p50_time_ms is not None:
        lines += [f"p50 {bucket.p50_time_ms:,.0f} ms", f"p95 {bucket.p95_time_ms:,.0f} ms"]
    if bucket.worst_time_ms is not None:
        lines.append(f"max {bucket.worst_time_ms:,.0f} ms")
    return lines


def _sparkline(line: RuleLine) -> Markup:
    said = ", ".join(words.milliseconds(ms) for ms in line.daily_avg_ms)
    drawn = charts.sparkline(line.daily_avg_ms, f"Daily average, oldest first: {said}")
    return Markup(drawn)


def _name(code: Any) -> str:
    return str(getattr(code, "name", f"code {code}"))


def _symbol(contract_id: str) -> str:
    """
    >>> _symbol("CON.F.US.MNQ.U25"), _symbol("MNQ")
    ('MNQ.U25', 'MNQ')
    """
    parts = words.text(contract_id, 60).split(".")
    return ".".join(parts[-2:]) if parts[0] == "CON" and len(parts) > 3 else ".".join(parts)


def _order_kind(order: OrderSnapshot) -> str:
    """What kind of order, and of a trailing stop how far behind which price it trails."""
    said = [_name(order.type).replace("_", " ").lower()]
    if isinstance(order.trailing_amount, float):
        trails = f"{words.price(order.trailing_amount)} behind"
        if isinstance(order.stop_price, float) and order.side in (OrderSide.BUY, OrderSide.SELL):
            best = order.stop_price + (
                order.trailing_amount if order.side == OrderSide.SELL else -order.trailing_amount
            )
            trails += f" {words.price(round(best, 9))}"
        said.append(trails)
    if order.triggered_at is not None:
        said.append("triggered")
    elif isinstance(order.venue_stop_price, float) and order.venue_stop_price != order.stop_price:
        said.append(f"venue has {words.price(order.venue_stop_price)}")
    if order.unconfirmed_since is not None:
        said.append("unconfirmed")
    return " · ".join(said)


def _order_price(order: OrderSnapshot) -> str:
    stop, limit = order.stop_price, order.limit_price
    if stop is not None and limit is not None:
        return f"{words.price(stop)} / {words.price(limit)}"
    return words.price(limit if stop is None else stop)


_ENVIRONMENT.filters |= {
    "name": _name,
    "order_kind": _order_kind,
    "order_price": _order_price,
    "sparkline": _sparkline,
    "symbol": _symbol,
}

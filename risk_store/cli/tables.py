"""What the reading verbs show: which rows, in which columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from risk_store.cli.render import Column, Table, plain

if TYPE_CHECKING:
    from risk_store.repositories import Transaction

__all__ = ["alerts_of", "daily_trend", "everything", "lockouts", "orders", "slow", "time_by_rule"]


def _count(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else ""


def _milliseconds(value: Any) -> str:
    return "" if value is None else f"{value:,.0f}"


def _by_threshold(value: Any) -> str:
    """Colour beside the figure, never instead of it; the default thresholds."""
    if not isinstance(value, (int, float)):
        return ""
    for limit, style in ((5000, "bold magenta"), (2000, "red"), (500, "yellow")):
        if value > limit:
            return style
    return ""


def _alarming(style: str) -> Any:
    return lambda value: style if value else "dim"


def _price(value: Any) -> str:
    return "" if value is None else f"{value:,.9f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


_UNITS = ((86400, "d"), (3600, "h"), (60, "m"), (1, "s"))


def _span(seconds: float) -> str:
    """A time span in its two largest units.

    >>> _span(7_380), _span(59)
    ('2h 3m', '59s')
    """
    whole = int(max(0, seconds))
    for (size, unit), (smaller, smaller_unit) in pairwise(_UNITS):
        if whole >= size:
            return f"{whole // size}{unit} {whole % size // smaller}{smaller_unit}"
    return f"{whole}s"


_MS: dict[str, Any] = {"right": True, "show": _milliseconds, "style": _by_threshold}


def alerts_of(rows: Iterable[Any]) -> dict[str, tuple[int, int, int]]:
    """Warnings, criticals and timeouts by rule."""
    return {row.rule_id: (row.warnings, row.criticals, row.timeouts) for row in rows}


def time_by_rule(tx: Transaction, title: str, outcome: Any, filters: Mapping[str, Any]) -> Table:
    alerts = alerts_of(tx.enforcements.alert_counts(**filters))
    rows = []
    for row in tx.enforcements.time_by_rule(outcome, **filters):
        warnings, criticals, timeouts = alerts.get(row.rule_id, (0, 0, 0))
        rows.append({**row._mapping, "warnings": warnings, "criticals": criticals, "timeouts": timeouts})
    columns = [
        Column("rule_id", "Rule"),
        Column("enforcement_count", "Count", right=True, show=_count),
        Column("avg_time_ms", "Avg ms", **_MS),
        Column("min_time_ms", "Min", **_MS),
        Column("p50_time_ms", "p50", **_MS),
        Column("p95_time_ms", "p95", **_MS),
        Column("p99_time_ms", "p99", **_MS),
        Column("max_time_ms", "Max", **_MS),
        Column("warnings", ">500", right=True, show=_count, style=_alarming("yellow")),
        Column("criticals", ">2000", right=True, show=_count, style=_alarming("red")),
        Column("timeouts", ">5000", right=True, show=_count, style=_alarming("bold magenta")),
    ]
    return Table("time_by_rule", title, columns, rows, "No timed enforcement.")


def slow(tx: Transaction, threshold_ms: int, limit: int, filters: Mapping[str, Any]) -> Table:
    rows = [dict(row._mapping) for row in tx.enforcements.slow_enforcements(threshold_ms, limit, **filters)]
    columns = [
        Column("timestamp", "Time (UTC)"),
        Column("account_id", "Account", right=True),
        Column("rule_id", "Rule"),
        Column("action", "Action", fold=True),
        Column("execution_time_ms", "Took ms", **_MS),
        Column("positions_closed", "Closed", right=True, show=_count),
        Column("orders_canceled", "Canceled", right=True, show=_count),
        Column("id", "Log id", right=True),
    ]
    title = f"Slow enforcements, over {threshold_ms:,} ms"
    return Table("slow_enforcements", title, columns, rows, f"None took more than {threshold_ms:,} ms.")


def daily_trend(tx: Transaction, days: int, account_id: int | None, rule_id: str | None) -> Table:
    found = tx.enforcements.daily_trend(days, account_id=account_id, rule_id=rule_id)
    columns = [
        Column("date", "Day (UTC)"),
        Column("avg_time_ms", "Avg ms", **_MS),
        Column("enforcement_count", "Count", right=True, show=_count),
    ]
    title = f"Daily trend, {days} days"
    return Table("daily_trend", title, columns, [dict(row._mapping) for row in found], "No timed enforcement.")


def orders(tx: Transaction, account_id: int | None, contract_id: str | None) -> Table:
    now = datetime.now(UTC)
    rows = []
    for order in tx.orders.working(account_id, contract_id):
        created = order.created_at
        age = (now - created).total_seconds() if isinstance(created, datetime) else None
        rows.append(order.to_dict() | {name: getattr(order, name) for name in _AS_ENUM} | {"age_s": age})
    columns = [
        Column("account_id", "Account", right=True),
        Column("id", "Order", right=True),
        Column("contract_id", "Contract"),
        Column("side", "Side"),
        Column("size", "Size", right=True, show=_count),
        Column("filled_size", "Filled", right=True, show=_count),
        Column("type", "Type"),
        Column("limit_price", "Limit", right=True, show=_price),
        Column("stop_price", "Stop", right=True, show=_price),
        Column("trailing_amount", "Trail by", right=True, show=_price),
        Column("state", "State"),
        Column("created_at", "Created (UTC)", on_terminal=False),
        Column("age_s", "Age", right=True, show=lambda value: "" if value is None else _span(value)),
    ]
    return Table("working_orders", "Working orders, oldest first", columns, rows, "No working orders.")


def everything(tx: Transaction, days: int) -> list[Table]:
    """What a risk manager wants to know: times, slow ones, trend, working orders, lockouts."""
    filters = {"since": since(days)}
    return [
        time_by_rule(tx, "Execution time by rule, slowest first", "success", filters),
        slow(tx, 500, 10, filters),
        daily_trend(tx, days, None, None),
        orders(tx, None, None),
        lockouts(tx),
    ]


_AS_ENUM = ("type", "side", "state", "created_at")


def lockouts(tx: Transaction) -> Table:
    now = datetime.now(UTC)
    rows = []
    for lockout in tx.lockouts.active(now):
        until = lockout.locked_until
        left = (until - now).total_seconds() if isinstance(until, datetime) else None
        values = {name: getattr(lockout, name) for name in ("account_id", "rule_id", "reason", "locked_at")}
        rows.append(values | {"locked_until": until, "left_s": left})
    columns = [
        Column("account_id", "Account", right=True, style=lambda _value: "bold red"),
        Column("rule_id", "Rule"),
        Column("reason", "Reason", fold=True),
        Column("locked_at", "Locked (UTC)"),
        Column("locked_until", "Until (UTC)", show=lambda value: plain(value) or "until released"),
        Column("left_s", "Left", right=True, show=lambda value: "" if value is None else _span(value)),
    ]
    return Table("lockouts", "Lockouts", columns, rows, "No account is locked.")


def since(days: int) -> datetime:
    """The instant `days` ago."""
    return datetime.now(UTC) - timedelta(days=days)

"""What the reading verbs show: which rows, in which columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

from risk_store.cli.render import Column, Table, plain
from risk_store.codes import OrderType

if TYPE_CHECKING:
    from risk_store.copying import CopyReport
    from risk_store.interrupted import Interrupted
    from risk_store.models import Order
    from risk_store.repositories import Transaction
    from risk_store.schema import Finding, OddValue

__all__ = [
    "ODD_COLUMNS",
    "alert_counts",
    "copied",
    "daily_trend",
    "everything",
    "interrupted",
    "is_code",
    "lockouts",
    "odd_lines",
    "odd_row",
    "orders",
    "since",
    "slow",
    "time_by_rule",
    "trailing_orders",
]


def _count(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else ""


def _milliseconds(value: Any) -> str:
    return "–" if value is None else f"{value:,.0f}"


_ALERT_STYLES = {"WARNING": "yellow", "CRITICAL": "red", "TIMEOUT": "bold magenta"}


def _alert(milliseconds: Any) -> str | None:
    """The name of the alert level, by the thresholds that are configured."""
    from risk_store.settings import configured_thresholds

    level = configured_thresholds().level(milliseconds) if isinstance(milliseconds, int) else None
    return level.name if level is not None else None


def _by_threshold(value: Any) -> str:
    """Colour beside the figure, never instead of it."""
    return _ALERT_STYLES.get(_alert(value) or "", "")


def _alarming(level: str) -> Any:
    return lambda count: _ALERT_STYLES[level] if count else "dim"


def _price(value: Any) -> str:
    """Two decimals or, where the price has them, more.

    >>> _price(20990.0), _price(28446.375)
    ('20,990.00', '28,446.375')
    """
    if not isinstance(value, float):
        return plain(value)
    whole, _, decimals = f"{value:,.9f}".partition(".")
    return f"{whole}.{decimals.rstrip('0'):0<2}"


def _instant(value: Any) -> str:
    # The heading says UTC. An old row's instant that cannot be read is shown as it is stored.
    return value.strftime("%Y-%m-%d %H:%M:%S") if isinstance(value, datetime) else plain(value)


def _until(value: Any) -> str:
    return "until released" if value is None else _instant(value)


_UNITS = ((86400, "d"), (3600, "h"), (60, "m"), (1, "s"))


def _span(seconds: int) -> str:
    """A time span in its two largest units.

    >>> _span(7_380), _span(59)
    ('2h 3m', '59s')
    """
    whole = max(0, seconds)
    for (size, unit), (smaller, smaller_unit) in pairwise(_UNITS):
        if whole >= size:
            return f"{whole // size}{unit} {whole % size // smaller}{smaller_unit}"
    return f"{whole}s"


_MS: dict[str, Any] = {"right": True, "show": _milliseconds, "style": _by_threshold}


_NO_TIMES = dict.fromkeys(f"{name}_time_ms" for name in ("avg", "min", "max", "p50", "p95", "p99"))


def time_by_rule(tx: Transaction, days: int, outcome: Literal["success", "all"], filters: Mapping[str, Any]) -> Table:
    from risk_store.settings import configured_thresholds

    limits = configured_thresholds()
    alerts = {row.rule_id: row for row in tx.enforcements.alert_counts(limits, **filters)}
    rows = [dict(row._mapping) for row in tx.enforcements.time_by_rule(outcome, **filters)]
    # Alerts count every outcome: a rule that only ever failed has no times, and is the last to be left out.
    unsuccessful = sorted(alerts.keys() - {row["rule_id"] for row in rows}, key=str)  # v1 may have left a number
    rows += [{"rule_id": rule_id, "enforcement_count": 0, **_NO_TIMES} for rule_id in unsuccessful]
    for row in rows:
        row["avg_time_ms"] = _tenths(row["avg_time_ms"])
        row |= {name: getattr(alerts[row["rule_id"]], name) for name in ("warnings", "criticals", "timeouts")}
    columns = [
        Column("rule_id", "Rule"),
        Column("enforcement_count", "Count", right=True, show=_count),
        Column("avg_time_ms", "Avg ms", **_MS),
        Column("min_time_ms", "Min", **_MS),
        Column("p50_time_ms", "p50", **_MS),
        Column("p95_time_ms", "p95", **_MS),
        Column("p99_time_ms", "p99", **_MS),
        Column("max_time_ms", "Max", **_MS),
        Column("warnings", f">{limits.slow_threshold_ms}", right=True, show=_count, style=_alarming("WARNING")),
        Column("criticals", f">{limits.critical_threshold_ms}", right=True, show=_count, style=_alarming("CRITICAL")),
        Column("timeouts", f">{limits.timeout_ms}", right=True, show=_count, style=_alarming("TIMEOUT")),
    ]
    which = "successes" if outcome == "success" else "all outcomes"
    title = f"Execution time by rule, {days} days, {which}, slowest first"
    return Table("time_by_rule", title, columns, rows, "No timed enforcement.")


def slow(tx: Transaction, threshold_ms: int, limit: int, filters: Mapping[str, Any]) -> Table:
    found = tx.enforcements.slow_enforcements(threshold_ms, limit, **filters)
    rows = [{**row._mapping, "alert": _alert(row.execution_time_ms)} for row in found]
    columns = [
        Column("timestamp", "Time (UTC)", show=_instant),
        Column("account_id", "Account", right=True),
        Column("rule_id", "Rule"),
        Column("action", "Action", fold=True),
        Column("execution_time_ms", "Took ms", **_MS),
        Column("alert", "Alert", style=lambda level: _ALERT_STYLES.get(level, "")),
        Column("positions_closed", "Closed", right=True, show=_count),
        Column("orders_canceled", "Canceled", right=True, show=_count),
        Column("id", "Log id", on_terminal=False),
    ]
    cut = f", the first {limit:,}" if len(rows) == limit else ""
    title = f"Enforcements over {threshold_ms:,} ms, slowest first{cut}"
    return Table("slow_enforcements", title, columns, rows, f"None took more than {threshold_ms:,} ms.")


def alert_counts(tx: Transaction, days: int, filters: Mapping[str, Any]) -> Table:
    """How many enforcements of each rule were over each threshold, whatever their outcome."""
    from risk_store.settings import configured_thresholds

    limits = configured_thresholds()
    columns = [
        Column("rule_id", "Rule"),
        Column("warnings", f">{limits.slow_threshold_ms}", right=True, show=_count, style=_alarming("WARNING")),
        Column("criticals", f">{limits.critical_threshold_ms}", right=True, show=_count, style=_alarming("CRITICAL")),
        Column("timeouts", f">{limits.timeout_ms}", right=True, show=_count, style=_alarming("TIMEOUT")),
    ]
    rows = [dict(row._mapping) for row in tx.enforcements.alert_counts(limits, **filters)]
    alarming = [row for row in rows if row["warnings"] or row["criticals"] or row["timeouts"]]
    title = f"Alerts by rule, {days} days, all outcomes, each enforcement once"
    return Table("alert_counts", title, columns, alarming, "No enforcement was over a threshold.")


def interrupted(found: Sequence[Interrupted]) -> Table:
    """Enforcements whose process is gone."""
    now = datetime.now(UTC)
    rows = []
    for item in found:
        values = {name: getattr(item.row, name) for name in ("account_id", "rule_id", "action", "reason", "started_at")}
        began = item.row.started_at
        age = _seconds(now - began) if isinstance(began, datetime) else None
        process = {"host": item.row.host, "pid": item.row.pid, "enforcement_id": item.row.enforcement_id}
        rows.append(values | {"age_s": age, "owner": item.owner.value} | process)
    columns = [
        Column("account_id", "Account", right=True, style=lambda _value: "bold red"),
        Column("rule_id", "Rule"),
        Column("action", "Action"),
        Column("started_at", "Began (UTC)", show=_instant),
        Column("age_s", "Ago", right=True, show=lambda value: "" if value is None else _span(value)),
        Column("owner", "Process"),
        Column("host", "Host"),
        Column("pid", "Pid", right=True),
        Column("enforcement_id", "Enforcement"),
        Column("reason", "Reason", fold=True),
    ]
    title = "Enforcements that began and whose process is gone (unknown: of another host)"
    return Table("interrupted", title, columns, rows, "No enforcement was interrupted.")


def daily_trend(tx: Transaction, days: int, account_id: int | None, rule_id: str | None) -> Table:
    found = tx.enforcements.daily_trend(days, account_id=account_id, rule_id=rule_id)
    columns = [
        Column("date", "Day (UTC)"),
        Column("avg_time_ms", "Avg ms", **_MS),
        Column("enforcement_count", "Count", right=True, show=_count),
    ]
    title = f"Daily trend, {days} days, successes"
    rows = [{**row._mapping, "avg_time_ms": _tenths(row.avg_time_ms)} for row in found]
    return Table("daily_trend", title, columns, rows, "No timed enforcement.")


def orders(tx: Transaction, account_id: int | None, contract_id: str | None) -> Table:
    rows = [_order(order) for order in tx.orders.working(account_id, contract_id)]
    columns = [
        Column("account_id", "Account", right=True),
        Column("id", "Order", right=True),
        Column("parent_order_id", "Parent", right=True, on_terminal=_any(rows, "parent_order_id")),
        Column("contract_id", "Contract"),
        Column("side", "Side"),
        Column("size", "Size", right=True, show=_count),
        Column("filled_size", "Filled", right=True, show=_count),
        Column("type", "Type"),
        Column("limit_price", "Limit", right=True, show=_price),
        Column("stop_price", "Stop", right=True, show=_price),
        Column("trailing_amount", "Trail by", right=True, show=_price),
        Column("state", "State"),
        _unconfirmed(rows),
        Column("created_at", "Created (UTC)", on_terminal=False),
        Column("age_s", "Age", right=True, show=lambda value: "" if value is None else _span(value)),
    ]
    return Table("working_orders", "Working orders, oldest first", columns, rows, "No working orders.")


def trailing_orders(tx: Transaction, account_id: int | None, contract_id: str | None) -> Table:
    """Where each trailing stop is: as held here, as the venue confirmed it, and how far apart the two are."""
    working = tx.orders.working(account_id, contract_id)
    rows = [_order(order) for order in working if order.type == OrderType.TRAILING_STOP]
    for row in rows:
        ours, theirs = row["stop_price"], row["venue_stop_price"]
        both = isinstance(ours, float) and isinstance(theirs, float)
        row["ahead"] = round(abs(ours - theirs), 9) if both else None
    columns = [
        Column("account_id", "Account", right=True),
        Column("id", "Order", right=True),
        Column("contract_id", "Contract"),
        Column("side", "Side"),
        Column("size", "Size", right=True, show=_count),
        Column("trailing_amount", "Trail by", right=True, show=_price, style=_lacking),
        Column("stop_price", "Stop", right=True, show=_price, style=_lacking),
        Column("venue_stop_price", "Venue's stop", right=True, show=_price),
        Column("ahead", "Apart", right=True, show=_price, style=lambda apart: "yellow" if apart else ""),
        Column("state", "State"),
        Column("triggered_at", "Triggered (UTC)", show=_instant, style=lambda _value: "bold red"),
        _unconfirmed(rows),
        Column("venue_updated_at", "Venue's time (UTC)", show=_instant),
        Column("created_at", "Created (UTC)", on_terminal=False),
    ]
    title = "Working trailing stops, oldest first"
    return Table("trailing_orders", title, columns, rows, "No working trailing stops.")


def _order(order: Order) -> dict[str, Any]:
    created = order.created_at
    age = _seconds(datetime.now(UTC) - created) if isinstance(created, datetime) else None
    return {name: getattr(order, name) for name in order.to_dict()} | {"age_s": age}


def _any(rows: Sequence[Mapping[str, Any]], key: str) -> bool:
    return any(row[key] is not None for row in rows)


def _lacking(value: Any) -> str:
    return "bold red" if value is None else ""


def _unconfirmed(rows: Sequence[Mapping[str, Any]]) -> Column:
    title = "Unconfirmed since (UTC)"
    return Column(
        "unconfirmed_since",
        title,
        show=_instant,
        style=lambda _value: "yellow",
        on_terminal=_any(rows, "unconfirmed_since"),
    )


def everything(tx: Transaction, days: int) -> list[Table]:
    """What a risk manager wants to know: times, slow ones, trend, working orders, lockouts."""
    filters = {"since": since(days)}
    return [
        time_by_rule(tx, days, "success", filters),
        slow(tx, 500, 10, filters),
        daily_trend(tx, days, None, None),
        orders(tx, None, None),
        lockouts(tx),
    ]


def lockouts(tx: Transaction, account_id: int | None = None, rule_id: str | None = None) -> Table:
    """The lockouts in force, all or those of one account or rule."""
    now = datetime.now(UTC)
    rows = []
    for lockout in tx.lockouts.active(now):
        if account_id not in (None, lockout.account_id) or rule_id not in (None, lockout.rule_id):
            continue
        until = lockout.locked_until
        left = _seconds(until - now) if isinstance(until, datetime) else None
        values = {name: getattr(lockout, name) for name in ("account_id", "rule_id", "reason", "locked_at")}
        rows.append(values | {"locked_until": until, "left_s": left})
    columns = [
        Column("account_id", "Account", right=True, style=lambda _value: "bold red"),
        Column("rule_id", "Rule"),
        Column("reason", "Reason", fold=True),
        Column("locked_at", "Locked (UTC)", on_terminal=False),
        Column("locked_until", "Until (UTC)", show=_until),
        Column("left_s", "Left", right=True, show=lambda value: "" if value is None else _span(value)),
    ]
    return Table("lockouts", "Lockouts", columns, rows, "No account is locked.")


def _tenths(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else round(milliseconds, 1)


def _seconds(span: timedelta) -> int:
    return int(span.total_seconds())


def since(days: int | None) -> datetime | None:
    """The instant `days` ago, if days were asked for."""
    return None if days is None else datetime.now(UTC) - timedelta(days=days)


ODD_COLUMNS = ("table", "row", "column", "kind", "stored", "becomes")


def odd_row(odd: OddValue) -> dict[str, Any]:
    """One line of `check --list`."""
    becomes = odd.becomes if odd.becomes is None else str(odd.becomes)
    return {
        "table": odd.table,
        "row": odd.row,
        "column": odd.column,
        "kind": odd.kind.value,
        "stored": odd.stored,
        "becomes": becomes,
    }


def odd_lines(found: Iterable[Finding], database: str) -> Iterator[str]:
    """What `check` says of the rows: how many are odd, and what helps."""
    from risk_store.schema import FindingKind
    from risk_store.schema.verdict import shell_word

    kinds = set()
    for finding in found:
        kinds.add(finding.kind)
        counted = "1 row" if finding.rows == 1 else f"{finding.rows:,} rows"
        what = {
            FindingKind.INSTANT: "with an instant in another form than ours, read all the same",
            FindingKind.OUTCOME: "whose counts or error only `details` says",
            FindingKind.UNREADABLE: "with a value that this release cannot read, kept as it is",
        }.get(finding.kind, f"with {finding.kind.value}")
        yield f"{finding.column}: {counted} {what} ({finding.examples[0]})"
    if kinds - {FindingKind.UNREADABLE}:
        yield f"To make them canonical: risk-store upgrade {shell_word(database)}"
    if kinds:
        yield f"To list them: risk-store check {shell_word(database)} --list"


def is_code(column: str) -> bool:
    """Whether ``table.column`` holds codes."""
    from risk_store.columns import IntCode
    from risk_store.models import Base

    table, _, name = column.partition(".")
    return isinstance(Base.metadata.tables[table].columns[name].type, IntCode)


def copied(report: CopyReport) -> Table:
    """What arrived of each table."""
    rows = [
        {
            "table": table.table,
            "rows": table.rows,
            "rejected": table.rejected,
            "escaped": table.escaped,
            "sums": ", ".join(f"{name} {total:,.15g}" for name, total in table.sums.items() if total),
        }
        for table in report.tables
    ]
    columns = [
        Column("table", "Table"),
        Column("rows", "Rows", right=True, show=_count),
        Column("rejected", "Rejected", right=True, show=_count),
        Column("escaped", "Escaped", right=True, show=_count),
        Column("sums", "Sums, the same on both sides", fold=True),
    ]
    title = f"{report.source} -> {report.target}: {report.rows:,} rows, compared one by one, {report.seconds:.1f} s"
    return Table("copied", title, columns, rows, "No tables.")

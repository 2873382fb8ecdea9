"""The analytics of execution times (SPEC 6): one definition for SQLite and PostgreSQL.

Each function returns a :class:`sqlalchemy.Select` that a caller can filter, join, explain or compile. Averages speak of
successes with a time, as the specification has it; the slow list and the alert counts have no such filter, so the
enforcements that hurt most are in them. Times are milliseconds, dates UTC.

Two traps are avoided on purpose: booleans are compared with a literal (bound, or as ``IS 1``, they miss partial
indexes), and an expression that is both selected and grouped by is one object (PostgreSQL with server-side parameters
takes two equal ones for different).
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Literal

import sqlalchemy as sa

from risk_store.alerts import Thresholds
from risk_store.columns import Int64, utc_date
from risk_store.errors import InvalidValue
from risk_store.models import EnforcementLog
from risk_store.models.enforcement import SLOW_INDEX_ABOVE_MS
from risk_store.statements.filters import at_least, aware, of_log

__all__ = ["Outcome", "alert_counts", "daily_trend", "slow_enforcements", "time_by_rule"]

Outcome = Literal["success", "all"]
"""Which enforcements count: successes only, or failures and timeouts too."""

_time_ms = EnforcementLog.execution_time_ms
_IS_TIMED = _time_ms.is_not(None)
_SUCCEEDED = EnforcementLog.success == sa.true()


def _average(milliseconds: sa.SQLColumnExpression[int | None]) -> sa.ColumnElement[float]:
    return sa.cast(sa.func.avg(milliseconds), sa.Double())  # PostgreSQL averages integers to a Decimal


def time_by_rule(
    outcome: Outcome = "success",
    *,
    account_id: int | None = None,
    rule_id: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> sa.Select[str, float, int, int, int, int, int, int]:
    """Execution time by rule, slowest average first.

    Columns: rule_id, avg_time_ms, min_time_ms, max_time_ms, enforcement_count (as in DB-SCHEMA-003), p50_time_ms,
    p95_time_ms, p99_time_ms (exact, nearest rank). Raises InvalidValue for another `outcome`.
    """
    if outcome not in ("success", "all"):
        raise InvalidValue("outcome", outcome, "'success' or 'all'")
    ranked = sa.select(
        EnforcementLog.rule_id,
        _time_ms.label("ms"),
        sa.func.row_number().over(partition_by=EnforcementLog.rule_id, order_by=_time_ms).label("rank"),
        sa.func.count().over(partition_by=EnforcementLog.rule_id).label("size"),
    ).where(_IS_TIMED)
    if outcome == "success":
        ranked = ranked.where(_SUCCEEDED)
    rows = of_log(ranked, account_id, rule_id, since, until).subquery("ranked")

    def nearest_rank(percent: int) -> sa.ColumnElement[int]:
        # The smallest value with at least `percent` of all at or below it: rank ⌈size · percent / 100⌉, in integers.
        rank = (rows.c.size * percent + 99) // 100
        return sa.func.max(sa.case((rows.c.rank == rank, rows.c.ms))).label(f"p{percent}_time_ms")

    average = _average(rows.c.ms).label("avg_time_ms")
    return (
        sa.select(
            rows.c.rule_id,
            average,
            sa.func.min(rows.c.ms).label("min_time_ms"),
            sa.func.max(rows.c.ms).label("max_time_ms"),
            sa.func.count().label("enforcement_count"),
            nearest_rank(50),
            nearest_rank(95),
            nearest_rank(99),
        )
        .group_by(rows.c.rule_id)
        .order_by(average.desc(), rows.c.rule_id)
    )


def slow_enforcements(
    threshold_ms: int = 1000,
    limit: int = 10,
    after: tuple[int, int] | None = None,
    *,
    account_id: int | None = None,
    rule_id: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> sa.Select[datetime | None, int, str, str, int | None, int, int, int | None]:
    """Enforcements that took more than `threshold_ms`, slowest first, whatever their outcome.

    Columns: timestamp, account_id, rule_id, action, execution_time_ms, positions_closed, orders_canceled (as in
    DB-SCHEMA-003), and id. `after` is (execution_time_ms, id) of the last row of the page before.
    """
    at_least("threshold_ms", threshold_ms, 0)
    statement = sa.select(
        EnforcementLog.timestamp,
        EnforcementLog.account_id,
        EnforcementLog.rule_id,
        EnforcementLog.action,
        EnforcementLog.execution_time_ms,
        EnforcementLog.positions_closed,
        EnforcementLog.orders_canceled,
        EnforcementLog.id,
    ).where(_time_ms > threshold_ms)
    if threshold_ms >= SLOW_INDEX_ABOVE_MS:
        # Says nothing new, but in the index's own words: only so do the engines see that the index applies.
        statement = statement.where(_time_ms > sa.literal_column(str(SLOW_INDEX_ABOVE_MS)))
    if after is not None:
        milliseconds, row_id = after
        statement = statement.where(
            sa.or_(_time_ms < milliseconds, sa.and_(_time_ms == milliseconds, EnforcementLog.id < row_id))
        )
    statement = of_log(statement, account_id, rule_id, since, until)
    return statement.order_by(_time_ms.desc(), EnforcementLog.id.desc()).limit(at_least("limit", limit, 1))


def daily_trend(
    days: int = 7,
    now: datetime | None = None,
    *,
    account_id: int | None = None,
    rule_id: str | None = None,
) -> sa.Select[date, float, int]:
    """Average time and count of each UTC day since `now` (default: the current instant) minus `days`, newest first.

    Columns: date, avg_time_ms, enforcement_count.
    """
    try:
        since = (datetime.now(UTC) if now is None else aware("now", now)) - timedelta(days=at_least("days", days, 1))
    except OverflowError:
        raise InvalidValue("days", days, "a number of days that a calendar holds") from None
    day = utc_date(EnforcementLog.timestamp)
    statement = sa.select(
        day.label("date"), _average(_time_ms).label("avg_time_ms"), sa.func.count().label("enforcement_count")
    ).where(_SUCCEEDED, _IS_TIMED)
    return of_log(statement, account_id, rule_id, since, None).group_by(day).order_by(day.desc())


def alert_counts(
    thresholds: Thresholds | None = None,
    *,
    account_id: int | None = None,
    rule_id: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> sa.Select[str, int, int, int]:
    """How many enforcements of each rule reached which level; each counts once, under the worst. All outcomes.

    Columns: rule_id, warnings, criticals, timeouts; one row for every rule with a timed enforcement.
    """
    limits = thresholds or Thresholds()

    def count(above: int, up_to: int | None) -> sa.ColumnElement[int]:
        within = _time_ms > above if up_to is None else sa.and_(_time_ms > above, _time_ms <= up_to)
        # Through our own type: PostgreSQL sums integers to a Decimal.
        return sa.cast(sa.func.coalesce(sa.func.sum(sa.case((within, 1), else_=0)), 0), Int64())

    statement = sa.select(
        EnforcementLog.rule_id,
        count(limits.slow_threshold_ms, limits.critical_threshold_ms).label("warnings"),
        count(limits.critical_threshold_ms, limits.timeout_ms).label("criticals"),
        count(limits.timeout_ms, None).label("timeouts"),
    ).where(_IS_TIMED)
    return (
        of_log(statement, account_id, rule_id, since, until)
        .group_by(EnforcementLog.rule_id)
        .order_by(EnforcementLog.rule_id)
    )

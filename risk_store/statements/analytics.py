"""How long enforcements took (SPEC 6): one definition of each report for SQLite (3.35 and later) and PostgreSQL.

Each builder takes the filters `account_id`, `rule_id`, `since` (inclusive) and `until` (exclusive; both aware instants)
and returns one Select. Times are milliseconds. Bad arguments raise :class:`~risk_store.errors.InvalidValue`, which
names them.

Conditions are spelled so that partial indexes serve them: ``success == sa.true()`` (``.is_(True)`` renders ``IS 1``,
which matches no index, and a bound boolean is read again from every row: 18 times slower, measured).
"""

from __future__ import annotations

import math
from datetime import date, datetime, timedelta
from typing import Literal

import sqlalchemy as sa

from risk_store.alerts import Thresholds
from risk_store.columns import INT64_MAX, INT64_MIN, instant_of, utc_date, within
from risk_store.errors import InvalidValue
from risk_store.models import EnforcementLog
from risk_store.models.base import utc_now
from risk_store.models.enforcement import SLOW_INDEX_ABOVE_MS
from risk_store.statements import arguments

__all__ = ["UNREADABLE_IN_REPORTS", "alert_counts", "daily_trend", "log_filters", "slow_enforcements", "time_by_rule"]

LOG = EnforcementLog.__table__.c
# A number of 64 bits: a text, a blob or an infinity, which SQLite may hold in its place, compares greater.
TIMED = LOG.execution_time_ms.between(sa.literal_column(str(INT64_MIN)), sa.literal_column(str(INT64_MAX)))
SUCCEEDED = LOG.success == sa.true()

OUTCOMES = {"success": (TIMED, SUCCEEDED), "all": (TIMED,)}


UNREADABLE_IN_REPORTS = (
    sa.select(LOG.id, LOG.timestamp, LOG.execution_time_ms)
    .where(
        LOG.id > sa.bindparam("after"),
        LOG.id <= sa.bindparam("last"),
        sa.or_(
            sa.and_(LOG.execution_time_ms.is_not(None), sa.not_(TIMED)),
            sa.and_(LOG.timestamp.is_not(None), instant_of(LOG.timestamp).is_(None)),
        ),
    )
    .order_by(LOG.id)
)
"""Log rows on SQLite, of ids over ``after`` up to ``last``, whose time or duration these reports cannot use."""


def log_filters(
    account_id: int | None = None,
    rule_id: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> list[sa.ColumnElement[bool]]:
    """The conditions on a log row that were asked for.

    Times compare as instants, in whatever form a v1 daemon wrote them. What cannot be read is neither before nor after.
    """
    conditions: list[sa.ColumnElement[bool]] = []
    if account_id is not None:
        conditions.append(LOG.account_id == arguments.account(account_id))
    if rule_id is not None:
        conditions.append(LOG.rule_id == arguments.text("rule_id", rule_id))
    return conditions + within(
        LOG.timestamp,
        None if since is None else arguments.instant("since", since),
        None if until is None else arguments.instant("until", until),
    )


def time_by_rule(
    outcome: Literal["success", "all"] = "success",
    *,
    account_id: int | None = None,
    rule_id: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> sa.Select[str, float, int, int, int, int, int, int]:
    """How long each rule's enforcements take, slowest average first.

    Columns: rule_id, avg_time_ms, min_time_ms, max_time_ms, enforcement_count, p50_time_ms, p95_time_ms, p99_time_ms.
    Only what was timed counts, and only successes unless `outcome` is ``"all"``: failures and timeouts are the
    enforcements that hurt most. Percentiles are exact, by nearest rank: always a time that did occur.

    >>> print(time_by_rule().subquery().c.p99_time_ms.type)
    BIGINT
    """
    # How often each time occurred, instead of a rank for each row: there are far fewer distinct milliseconds than rows
    # (1.6 s against 6.4 s for a million rows on SQLite).
    conditions = OUTCOMES[arguments.choice("outcome", outcome, OUTCOMES)]
    times = (
        sa.select(LOG.rule_id, LOG.execution_time_ms.label("ms"), sa.func.count().label("n"))
        .where(*conditions, *log_filters(account_id, rule_id, since, until))
        .group_by(LOG.rule_id, LOG.execution_time_ms)
        .subquery("times")
        .c
    )
    ranked = (
        sa.select(
            times.rule_id,
            times.ms,
            times.n,
            sa.func.sum(times.n).over(partition_by=times.rule_id, order_by=times.ms).label("rank"),
            sa.func.sum(times.n).over(partition_by=times.rule_id).label("total"),
        )
        .subquery("ranked")
        .c
    )

    def percentile(p: int) -> sa.ColumnElement[int]:
        # rank >= ceil(total * p / 100), without a division that each engine would round in its own way.
        return sa.func.min(ranked.ms).filter(ranked.rank * 100 >= ranked.total * p).label(f"p{p}_time_ms")

    # Sums in float64: SQLite's sum() of integers fails on overflow, PostgreSQL's gives Decimals.
    count = sa.cast(sa.func.sum(ranked.n), sa.BigInteger)
    total_ms = sa.func.sum(sa.cast(ranked.ms, sa.Double) * sa.cast(ranked.n, sa.Double))
    average = (total_ms / sa.cast(count, sa.Double)).label("avg_time_ms")
    return (
        sa.select(
            ranked.rule_id,
            average,
            sa.func.min(ranked.ms).label("min_time_ms"),
            sa.func.max(ranked.ms).label("max_time_ms"),
            count.label("enforcement_count"),
            percentile(50),
            percentile(95),
            percentile(99),
        )
        .group_by(ranked.rule_id)
        .order_by(average.desc(), ranked.rule_id)
    )


def slow_enforcements(
    threshold_ms: int = 1000,
    limit: int = 10,
    after: tuple[float, int] | None = None,
    *,
    account_id: int | None = None,
    rule_id: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> sa.Select[datetime, int, str, str, int, int, int, int]:
    """Enforcements of any outcome that took more than `threshold_ms`, slowest first, the newest first among equals.

    Columns: those of DB-SCHEMA-003 (timestamp, account_id, rule_id, action, execution_time_ms, positions_closed,
    orders_canceled) and id. For the next page, `after` is ``(execution_time_ms, id)`` of the last row seen.
    """
    arguments.whole("threshold_ms", threshold_ms, 0)
    conditions = [LOG.execution_time_ms > threshold_ms, TIMED, *log_filters(account_id, rule_id, since, until)]
    if threshold_ms >= SLOW_INDEX_ABOVE_MS:
        # Says nothing new, but says it in the words of ix_enforcement_log_slow, so that the index serves it.
        conditions.append(LOG.execution_time_ms > sa.literal_column(str(SLOW_INDEX_ABOVE_MS)))
    if after is not None:
        conditions.append(sa.tuple_(LOG.execution_time_ms, LOG.id) < _position(after))
    return (
        sa.select(
            LOG.timestamp,
            LOG.account_id,
            LOG.rule_id,
            LOG.action,
            LOG.execution_time_ms,
            LOG.positions_closed,
            LOG.orders_canceled,
            LOG.id,
        )
        .where(*conditions)
        .order_by(LOG.execution_time_ms.desc(), LOG.id.desc())
        .limit(arguments.whole("limit", limit, 1))
    )


def daily_trend(
    days: int = 7,
    now: datetime | None = None,
    *,
    account_id: int | None = None,
    rule_id: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> sa.Select[date, float, int]:
    """How long successful enforcements took on each UTC day since `now` (default: this moment) − `days`, newest first.

    Columns: date, avg_time_ms, enforcement_count. The oldest day is not whole unless `now` is a midnight.
    """
    arguments.whole("days", days, 1)
    now = utc_now() if now is None else arguments.instant("now", now)
    try:
        start = now - timedelta(days=days)
    except OverflowError:
        raise InvalidValue("days", days, "a number of days that begins in the year 1 or later") from None
    day = utc_date(instant_of(LOG.timestamp)).label("date")
    return (
        sa.select(
            day,
            sa.cast(sa.func.avg(LOG.execution_time_ms), sa.Double).label("avg_time_ms"),
            sa.func.count().label("enforcement_count"),
        )
        .where(TIMED, SUCCEEDED, *within(LOG.timestamp, start), *log_filters(account_id, rule_id, since, until))
        .group_by(day)
        .order_by(day.desc())
    )


def alert_counts(
    thresholds: Thresholds | None = None,
    *,
    account_id: int | None = None,
    rule_id: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> sa.Select[str, int, int, int]:
    """How many enforcements of each rule raised which alert, whatever their outcome; by rule.

    Columns: rule_id, warnings, criticals, timeouts. Each enforcement counts once, at its highest level. There is a row
    for every rule that has a timed enforcement, also where nothing was slow.
    """
    limits = thresholds or Thresholds()
    ms = LOG.execution_time_ms
    return (
        sa.select(
            LOG.rule_id,
            _count(ms > limits.slow_threshold_ms, ms <= limits.critical_threshold_ms).label("warnings"),
            _count(ms > limits.critical_threshold_ms, ms <= limits.timeout_ms).label("criticals"),
            _count(ms > limits.timeout_ms).label("timeouts"),
        )
        .where(TIMED, *log_filters(account_id, rule_id, since, until))
        .group_by(LOG.rule_id)
        .order_by(LOG.rule_id)
    )


def _count(*conditions: sa.ColumnElement[bool]) -> sa.ColumnElement[int]:
    return sa.func.count().filter(*conditions)


def _position(after: tuple[float, int]) -> sa.Tuple:
    expected = "(execution_time_ms, id) of the last row seen"
    try:
        ms, row = after
        # Not only integers: a v1 daemon's time may have been stored with its fraction.
        known = isinstance(ms, (int, float)) and not isinstance(ms, bool) and math.isfinite(ms)
    except (TypeError, ValueError, OverflowError):
        raise InvalidValue("after", after, expected) from None
    if not known:
        raise InvalidValue("after", after, expected)
    if isinstance(ms, int):
        arguments.whole("after", ms, 0)
    return sa.tuple_(sa.literal(ms), sa.literal(arguments.whole("after", row, 1)))

"""How long enforcements took (SPEC 6): one definition of each report for SQLite (3.35 and later) and PostgreSQL.

Each builder takes the filters `account_id`, `rule_id`, `since` (inclusive) and `until` (exclusive; both aware instants)
and returns one Select. Times are milliseconds. Bad arguments raise :class:`~risk_store.errors.InvalidValue`, which
names them.

All but the slow list read the roll-up, the rows that it does not hold, and of a window the parts of a day or an hour at
its ends (:mod:`risk_store.statements.rollup`): what they return is what a scan of the log returns, to the last digit.
An account's reports read the account's rows. With `include_pruned` the days that `store.prune` took out of the log
count as well, as far as they are whole in the window.
"""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import date, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from risk_store.alerts import Thresholds
from risk_store.columns import INT64_MIN, instant_of
from risk_store.errors import InvalidValue
from risk_store.models.base import utc_now
from risk_store.models.enforcement import SLOW_INDEX_ABOVE_MS
from risk_store.models.rollup import BUCKETS, TIMES
from risk_store.statements import arguments
from risk_store.statements.conditions import LOG, TIMED, log_filters, opaque
from risk_store.statements.filters import DAY, HOUR, Asked, Filters, Outcome, built
from risk_store.statements.rollup import bucket, not_rolled_up_times, number, of_not_rolled_up, times_of, trend_of

__all__ = [
    "UNREADABLE_IN_REPORTS",
    "alert_counts",
    "alert_counts_of",
    "daily_trend",
    "daily_trend_of",
    "filters_of_trend",
    "slow_enforcements",
    "time_by_rule",
    "time_by_rule_of",
]

_UNREADABLE = of_not_rolled_up(
    LOG.id,
    LOG.timestamp,
    LOG.execution_time_ms,
    where=[
        LOG.id > sa.bindparam("after"),
        LOG.id <= sa.bindparam("last"),
        sa.or_(
            sa.and_(LOG.execution_time_ms.is_not(None), sa.not_(TIMED)),
            sa.and_(LOG.timestamp.is_not(None), instant_of(LOG.timestamp).is_(None)),
        ),
    ],
)
UNREADABLE_IN_REPORTS = sa.select(_UNREADABLE).order_by(_UNREADABLE.c.id)
"""Log rows on SQLite, of ids over ``after`` up to ``last``, whose time or duration these reports cannot use. (The rows
that the roll-up holds have both.)"""


# Row by row: for the default, which sums up at once what is equal in its order, an engine compares each with the next.
_SO_FAR = (None, 0)


def time_by_rule(
    outcome: Outcome = "success",
    *,
    account_id: int | None = None,
    rule_id: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    include_pruned: bool = False,
) -> sa.Select[str, float, int, int, int, int, int, int]:
    """How long each rule's enforcements take, slowest average first.

    Columns: rule_id, avg_time_ms, min_time_ms, max_time_ms, enforcement_count, p50_time_ms, p95_time_ms, p99_time_ms.
    Only what was timed counts, and only successes unless `outcome` is ``"all"``: failures and timeouts are the
    enforcements that hurt most. Percentiles are exact, by nearest rank: always a time that did occur.

    >>> print(time_by_rule().subquery().c.p99_time_ms.type)
    BIGINT
    """
    return built(time_by_rule_of, Filters(account_id, rule_id, since, until, outcome, include_pruned).by(DAY))


def time_by_rule_of(asked: Asked) -> sa.Select[str, float, int, int, int, int, int, int]:
    """:func:`time_by_rule` of filters for counts by days."""
    by_buckets = "account_id" not in asked.shape.names and not asked.shape.has_window
    ranked = _ranked_by_bucket(asked) if by_buckets else _ranked(asked)
    of_rule = ranked.c

    def percentile(p: int) -> sa.ColumnElement[int]:
        # rank >= ceil(total * p / 100), without a division that each engine would round in its own way.
        rank = sa.func.min(of_rule.ms).filter(of_rule.rank * number(100) >= of_rule.n_of_rule * number(p))
        return rank.label(f"p{p}_time_ms")

    count = sa.cast(sa.func.max(of_rule.n_of_rule), sa.BigInteger)
    average = (sa.func.max(of_rule.ms_of_rule) / sa.cast(count, sa.Double)).label("avg_time_ms")
    return (
        sa.select(
            of_rule.rule_id,
            average,
            sa.func.min(of_rule.ms).label("min_time_ms"),
            sa.func.max(of_rule.ms).label("max_time_ms"),
            count.label("enforcement_count"),
            percentile(50),
            percentile(95),
            percentile(99),
        )
        .group_by(of_rule.rule_id)
        .order_by(average.desc(), of_rule.rule_id)
    )


def _ranked(asked: Asked) -> sa.Subquery:
    """Each time of each rule with the rank of its last occurrence (rule_id, ms, rank), and the rule's sums."""
    # How often each time occurred, instead of a rank for each row: there are far fewer distinct milliseconds than rows
    # (1.6 s against 6.4 s for a million rows on SQLite).
    found = times_of(asked).subquery("found").c
    times = (
        sa.select(found.rule_id, found.ms, sa.func.sum(sa.cast(found.n, sa.Double)).label("n"))
        .group_by(found.rule_id, found.ms)
        .subquery("times")
        .c
    )
    rule: dict[str, Any] = {"partition_by": times.rule_id}
    # Sums in float64, which holds counts up to 2**53 exactly: SQLite's sum() of integers fails on overflow, and
    # PostgreSQL's gives Decimals, with which all of this takes a third longer.
    total = sa.cast(times.ms, sa.Double) * times.n
    return sa.select(
        times.rule_id,
        times.ms,
        sa.func.sum(times.n).over(**rule, order_by=times.ms, rows=_SO_FAR).label("rank"),
        sa.func.sum(times.n).over(**rule).label("n_of_rule"),
        sa.func.sum(total).over(**rule).label("ms_of_rule"),
    ).subquery("ranked")


def _ranked_by_bucket(asked: Asked) -> sa.Subquery:
    """The same of those times only among which the extremes and the percentiles are: in two steps, by the buckets.

    There are thousands of distinct times a rule and a hundred buckets, so all that is read in full are the buckets.
    """
    found = not_rolled_up_times(asked).subquery("found").c
    n = sa.cast(found.n, sa.Double).label("n")
    rest = sa.select(found.rule_id, bucket(found.ms).label("bucket"), found.ms, n).cte()
    held_n, held_ms = (sa.cast(BUCKETS.c[name], sa.Double) for name in ("enforcements", "total_ms"))
    rolled_up = [*asked.of_rollup(BUCKETS), BUCKETS.c.enforcements > number(0)]
    nothing: sa.ColumnElement[float] = sa.literal_column("0.0", sa.Double())
    lowest = number(INT64_MIN)
    # A rule's sums come as a row before its first bucket, so that all that has to be known of a bucket is summed up in
    # one go: with a window of their own the sums would take an eighth more of the whole on SQLite.
    pieces = sa.union_all(
        sa.select(
            BUCKETS.c.rule_id,
            BUCKETS.c.bucket,
            held_n.label("n"),
            nothing.label("n_of_rule"),
            nothing.label("ms_of_rule"),
        ).where(*rolled_up),
        sa.select(rest.c.rule_id, rest.c.bucket, rest.c.n, nothing, nothing),
        sa.select(BUCKETS.c.rule_id, lowest, nothing, sa.func.sum(held_n), sa.func.sum(held_ms))
        .where(*rolled_up)
        .group_by(BUCKETS.c.rule_id),
        sa.select(
            rest.c.rule_id,
            lowest,
            nothing,
            sa.func.sum(rest.c.n),
            sa.func.sum(sa.cast(rest.c.ms, sa.Double) * rest.c.n),
        ).group_by(rest.c.rule_id),
    ).subquery("pieces")
    piece = pieces.c

    def up_to_here(values: sa.ColumnElement[float]) -> sa.ColumnElement[float]:
        return sa.func.sum(sa.func.sum(values)).over(partition_by=piece.rule_id, order_by=piece.bucket, rows=_SO_FAR)

    upto = (
        sa.select(
            piece.rule_id,
            piece.bucket,
            sa.func.sum(piece.n).label("n"),
            up_to_here(piece.n).label("rank"),
            up_to_here(piece.n_of_rule).label("n_of_rule"),
            up_to_here(piece.ms_of_rule).label("ms_of_rule"),
        )
        .group_by(piece.rule_id, piece.bucket)
        .subquery("upto")
        .c
    )
    here = [
        sa.and_(upto.rank * number(100) >= rank, (upto.rank - upto.n) * number(100) < rank)
        for p in (50, 95, 99)
        for rank in [upto.n_of_rule * number(p)]
    ]
    wanted = (
        sa.select(
            upto.rule_id,
            upto.bucket,
            (upto.rank - upto.n).label("before"),
            upto.n_of_rule,
            upto.ms_of_rule,
        )
        # The least, the most, and those: five of a rule. PostgreSQL would expect so many that it hashes all the times.
        .where(upto.n > nothing, opaque(sa.or_(upto.rank == upto.n, upto.rank == upto.n_of_rule, *here)))
        .cte()
    )
    held = sa.and_(TIMES.c.rule_id == wanted.c.rule_id, TIMES.c.bucket == wanted.c.bucket)
    open_ = sa.and_(rest.c.rule_id == wanted.c.rule_id, rest.c.bucket == wanted.c.bucket)
    both = sa.union_all(
        sa.select(wanted, TIMES.c.ms, sa.cast(TIMES.c.enforcements, sa.Double).label("n"))
        .select_from(sa.join(wanted, TIMES, held))
        .where(*asked.of_rollup(TIMES), TIMES.c.enforcements > number(0)),
        sa.select(wanted, rest.c.ms, rest.c.n).select_from(sa.join(wanted, rest, open_)),
    ).subquery("both")
    each = both.c
    # Of a time that is there more than once the last has the rank, and that is enough for the least time of some rank.
    # To group them before would take a fifth of the whole.
    within_bucket = sa.func.sum(each.n).over(partition_by=(each.rule_id, each.bucket), order_by=each.ms, rows=_SO_FAR)
    return sa.select(
        each.rule_id,
        each.ms,
        (each.before + within_bucket).label("rank"),
        each.n_of_rule,
        each.ms_of_rule,
    ).subquery("ranked")


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
    include_pruned: bool = False,
) -> sa.Select[date, float, int]:
    """How long successful enforcements took on each UTC day since `now` (default: this moment) − `days`, newest first.

    Columns: date, avg_time_ms, enforcement_count. The oldest day is not whole unless `now` is a midnight.
    """
    filters = filters_of_trend(days, now, account_id, rule_id, since, until, include_pruned=include_pruned)
    return built(daily_trend_of, filters.by(HOUR))


def filters_of_trend(
    days: int,
    now: datetime | None,
    account_id: int | None,
    rule_id: str | None,
    since: datetime | None,
    until: datetime | None,
    *,
    include_pruned: bool,
) -> Filters:
    """The window of a trend begins `days` before `now`, if not later."""
    arguments.whole("days", days, 1)
    now = utc_now() if now is None else arguments.instant("now", now)
    try:
        start = now - timedelta(days=days)
    except OverflowError:
        raise InvalidValue("days", days, "a number of days that begins in the year 1 or later") from None
    filters = Filters(account_id, rule_id, since, until, include_pruned=include_pruned)
    if filters.since is None or filters.since < start:
        filters = replace(filters, since=start)
    return filters


def daily_trend_of(asked: Asked) -> sa.Select[date, float, int]:
    """:func:`daily_trend` of filters for counts by hours."""
    found = trend_of(asked).subquery("found").c
    count = sa.cast(sa.func.sum(found.n), sa.BigInteger)
    return (
        sa.select(
            found.date,
            (sa.func.sum(found.total) / sa.cast(count, sa.Double)).label("avg_time_ms"),
            count.label("enforcement_count"),
        )
        .group_by(found.date)
        .order_by(found.date.desc())
    )


def alert_counts(
    thresholds: Thresholds | None = None,
    *,
    account_id: int | None = None,
    rule_id: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    include_pruned: bool = False,
) -> sa.Select[str, int, int, int]:
    """How many enforcements of each rule raised which alert, whatever their outcome; by rule.

    Columns: rule_id, warnings, criticals, timeouts. Each enforcement counts once, at its highest level. There is a row
    for every rule that has a timed enforcement, also where nothing was slow.
    """
    filters = Filters(account_id, rule_id, since, until, "all", include_pruned)
    return built(alert_counts_of, filters.by(DAY), thresholds or Thresholds())


def alert_counts_of(asked: Asked, limits: Thresholds) -> sa.Select[str, int, int, int]:
    """:func:`alert_counts` of filters for counts by days."""
    found = times_of(asked).subquery("found").c

    def count(*conditions: sa.ColumnElement[bool]) -> sa.ColumnElement[int]:
        return sa.cast(sa.func.coalesce(sa.func.sum(found.n).filter(*conditions), 0), sa.BigInteger)

    return (
        sa.select(
            found.rule_id,
            count(found.ms > limits.slow_threshold_ms, found.ms <= limits.critical_threshold_ms).label("warnings"),
            count(found.ms > limits.critical_threshold_ms, found.ms <= limits.timeout_ms).label("criticals"),
            count(found.ms > limits.timeout_ms).label("timeouts"),
        )
        .group_by(found.rule_id)
        .order_by(found.rule_id)
    )


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

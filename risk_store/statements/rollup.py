"""The roll-up of the enforcement log: how it is filled, and what of it and of the log a report has to read.

The roll-up says how often each time occurred (:mod:`risk_store.models.rollup`). It is filled behind the log, outside
the enforcements' transactions, and knows by their ids which rows it holds. A report adds the rows that it does not
hold, so it is right at each moment, whoever wrote to the log and in whatever order the ids were committed: an id that
was not there yet when its neighbours were rolled up (PostgreSQL commits them in any order, an import may bring its own)
is simply not in it.

Only plain rows are rolled up: as this release and v1's own defaults write them. What a v1 daemon wrote in another form
is read from the log, as it always was, until `risk-store upgrade` makes it canonical.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from risk_store.columns import INT64_MAX, INT64_MIN, instant_of, is_no_canonical_instant, utc_date, utc_hour
from risk_store.models import EnforcementLog
from risk_store.models.rollup import BUCKETS, DAY_TIMES, HOURS, ROLLED_UP, TIMES
from risk_store.statements import arguments
from risk_store.statements.conditions import LOG, opaque
from risk_store.statements.filters import DAY, HOUR, Asked, floor
from risk_store.statements.ids import DISTRIBUTED

__all__ = ["bucket", "end_of_days", "not_rolled_up_times", "number", "of_not_rolled_up", "times_of", "trend_of"]

Column = sa.ColumnElement[Any]
LONGEST_MS = 2**31 - 1  # 24 days; what took longer stays in the log alone, and no sum of the roll-up can overflow

# below how many milliseconds → how wide a bucket is
_STEPS = ((512, 16), (1024, 32), (2048, 64), (4096, 128), (8192, 256), (2**14, 512), (2**18, 2**12))

_MS = LOG.execution_time_ms
_RANGE = ROLLED_UP.c


def number(value: int) -> Column:
    """A number that is part of a statement: one without parameters is planned once."""
    return sa.literal_column(str(value), sa.BigInteger())


def bucket(ms: Column) -> Column:
    """The bucket that a time is in, by its least milliseconds: 16 ms wide below half a second, from there on a
    sixteenth to a thirty-second of the time, and coarse above 16 seconds.

    Never falls as the time grows, which is all that is asked of it: a rank is found in two steps, and exactly. A report
    reads all buckets, and all times of five of them: as wide as these, about as many of the one as of the other.
    """
    whole = sa.cast(ms, sa.BigInteger)

    def of(step: int) -> Column:
        return whole - whole % number(step)

    return sa.case(*((whole < number(below), of(step)) for below, step in _STEPS), else_=of(2**16))


# Which rows the roll-up holds -----------------------------------------------------------------------------------------


def is_rolled_up(id_: Column) -> Column:
    """Whether the roll-up holds the row of this id: one probe of its ranges."""
    nearest = (
        sa.select(_RANGE.last_id).where(_RANGE.first_id <= id_).order_by(_RANGE.first_id.desc()).limit(number(1))
    ).scalar_subquery()
    return sa.func.coalesce(nearest >= id_, sa.false())


@cache  # a report of a caller's own is put together at each call
def gaps() -> sa.Subquery:
    """Ranges of ids between those that the roll-up holds; columns first_id and last_id, both in it."""
    first, last = _RANGE.last_id + number(1), sa.func.lead(_RANGE.first_id).over(order_by=_RANGE.first_id) - number(1)
    ranges = sa.select(first.label("first_id"), last.label("last_id")).subquery()
    return sa.select(ranges).where(ranges.c.first_id <= ranges.c.last_id).subquery()


_LEAST = sa.select(sa.func.min(_RANGE.first_id) - number(1)).scalar_subquery()
_MOST = sa.select(sa.func.max(_RANGE.last_id) + number(1)).scalar_subquery()
_BEFORE_IT = LOG.id.between(number(INT64_MIN), sa.func.coalesce(_LEAST, number(INT64_MAX)))
_BEHIND_IT = LOG.id.between(_MOST, number(INT64_MAX))


def of_not_rolled_up(
    *columns: Column, where: Sequence[sa.ColumnElement[bool]] = (), by: Sequence[Column] = ()
) -> sa.Subquery:
    """Columns of the log rows that the roll-up does not hold: before its ids, behind them, and between.

    Grouped `by` some of them, each of the three by itself: a distributed PostgreSQL counts them where the rows are.
    """
    between = gaps()
    # There are few such rows, and only the key leads to them: by another index the whole of a rule or a window is read.
    asked = [opaque(sa.and_(*where))] if where else []
    rows = sa.select(*columns).where(*asked).group_by(*by)
    return sa.union_all(
        rows.where(_BEFORE_IT),
        rows.where(_BEHIND_IT),
        # SQLite goes through the left side of a join on "true" first: the gaps, and for each the log by its key.
        rows.select_from(sa.join(between, EnforcementLog.__table__, sa.true())).where(
            LOG.id.between(between.c.first_id, between.c.last_id)
        ),
    ).subquery()


_HELD = sa.select(sa.func.coalesce(sa.func.sum(_RANGE.last_id - _RANGE.first_id + number(1)), number(0)))
_NOT_HELD = sa.select(sa.func.count()).select_from(of_not_rolled_up(LOG.id))
COUNT_OF_LOG = sa.select(sa.cast(_HELD.scalar_subquery() + _NOT_HELD.scalar_subquery(), sa.BigInteger).label("rows"))
"""How many rows the log has: each id of a range is one, so only those that the roll-up does not hold are counted."""

# Filling it -----------------------------------------------------------------------------------------------------------


def is_plain(dialect: str) -> sa.ColumnElement[bool]:
    """Whether a log row may be rolled up: dated in the canonical form, and not timed or timed in whole milliseconds."""
    ms = sa.or_(_MS.is_(None), _MS.between(number(0), number(LONGEST_MS)))
    if dialect == "sqlite":
        kinds = [sa.func.typeof(LOG.rule_id) == sa.literal_column("'text'")]
        kinds.append(sa.or_(_MS.is_(None), sa.func.typeof(_MS) == sa.literal_column("'integer'")))
        dated = sa.not_(is_no_canonical_instant(LOG.timestamp))
    else:
        kinds = []
        dated = sa.func.isfinite(LOG.timestamp)
    return sa.and_(LOG.timestamp.is_not(None), dated, ms, *kinds)


_FIRST, _LAST = sa.bindparam("first", type_=sa.BigInteger()), sa.bindparam("last", type_=sa.BigInteger())
_CHUNK = LOG.id.between(_FIRST, _LAST)
_LIMIT = sa.bindparam("limit", type_=sa.BigInteger())


def _runs(rows: sa.Select[int]) -> sa.Select[int, int]:
    """Runs of ids that follow on each other, first and last, among those selected."""
    id_ = rows.subquery("chosen").c.id
    numbered = sa.select(id_, (id_ - sa.func.row_number().over(order_by=id_)).label("run")).subquery("numbered").c
    first, last = sa.func.min(numbered.id).label("first_id"), sa.func.max(numbered.id).label("last_id")
    return sa.select(first, last).group_by(numbered.run).order_by(first)


_TOGETHER = 512


def _runs_over_shards(rows: sa.Select[int]) -> Any:
    """The same, in pieces that may follow on each other, for rows that lie on many servers.

    To number them all their ids would have to be brought together. So each server counts those of 512 ids at a time: if
    as many are there as lie between the first and the last, they are a run. Only others are looked at one by one.
    """

    def together(id_: Column) -> Column:
        return id_ // number(_TOGETHER)

    chosen = rows.subquery("chosen").c.id
    parts = (
        sa.select(
            together(chosen).label("part"),
            sa.func.min(chosen).label("least"),
            sa.func.max(chosen).label("most"),
            sa.func.count().label("n"),
        )
        .group_by(together(chosen))
        .cte("parts")
    )
    part = parts.c
    is_run = part.n == part.most - part.least + number(1)
    each = rows.subquery("each_one")
    beside = sa.and_(together(each.c.id) == part.part, sa.not_(is_run))
    return sa.union_all(
        sa.select(part.least.label("first_id"), part.most.label("last_id")).where(is_run),
        sa.select(each.c.id, each.c.id.label("same_id")).select_from(sa.join(each, parts, beside)),
    ).order_by(sa.literal_column("1"))


ENDS = sa.select(sa.func.min(_RANGE.first_id), sa.func.max(_RANGE.last_id))

END_OF_CHUNK: sa.Select[Any] = sa.select(sa.func.max(sa.column("id"))).select_from(
    sa.select(LOG.id).where(_CHUNK).order_by(LOG.id).limit(_LIMIT).subquery("ahead")
)
"""Parameters: ``first``, ``last``, ``limit``. The last id of as many rows; NULL where there is none."""

FORMS = ("sqlite", "postgresql", DISTRIBUTED)
"""Of each statement that fills the roll-up or takes from it: by dialect, and for a PostgreSQL whose log is sharded. The
roll-up's tables are on its coordinator alone: they go to the shards as a subquery's rows, to be joined there."""


def _gaps_with_rows(form: str) -> sa.Select[Any]:
    ranges = gaps()
    between = LOG.id.between(ranges.c.first_id, ranges.c.last_id)
    found = sa.select(ranges.c.first_id, ranges.c.last_id).order_by(ranges.c.first_id)
    if form == DISTRIBUTED:
        return found.distinct().select_from(sa.join(ranges, EnforcementLog.__table__, between)).where(is_plain(form))
    return found.where(sa.exists().where(between, is_plain(form)))


GAPS_WITH_ROWS = {form: _gaps_with_rows(form) for form in FORMS}
"""Gaps with a plain row, which came after its neighbours or was made canonical."""


def _runs_of(form: str, rows: sa.Select[int]) -> Any:
    return _runs_over_shards(rows) if form == DISTRIBUTED else _runs(rows)


PLAIN_RUNS = {form: _runs_of(form, sa.select(LOG.id).where(_CHUNK, is_plain(form))) for form in FORMS}
"""Parameters: ``first``, ``last``. In order; on shards in pieces, of which some follow on each other."""

TOUCHING = sa.select(ROLLED_UP).where(_RANGE.last_id >= _FIRST - 1, _RANGE.first_id <= _LAST + 1)
"""Ranges held that overlap ``first`` to ``last`` or are beside it."""

HOLD, LET_GO = sa.insert(ROLLED_UP), sa.delete(ROLLED_UP).where(_RANGE.first_id == _FIRST)


def _held(form: str, selected: Any) -> Any:
    """`selected` rows of the log, as far as the roll-up holds them."""
    if form != DISTRIBUTED:
        return selected.where(is_rolled_up(LOG.id))
    ranges = sa.select(ROLLED_UP).subquery("held")
    inside = LOG.id.between(ranges.c.first_id, ranges.c.last_id)
    if isinstance(selected, sa.Delete):
        return selected.where(inside)  # USING
    return selected.select_from(sa.join(EnforcementLog.__table__, ranges, inside))


_RULE = (LOG.rule_id, sa.case((LOG.success == sa.true(), sa.true()), else_=sa.false()))
_GROUPS: dict[sa.Table, tuple[Column, ...]] = {
    HOURS: (utc_hour(LOG.timestamp), *_RULE),
    DAY_TIMES: (utc_date(LOG.timestamp), *_RULE, _MS),
    TIMES: (*_RULE, bucket(_MS), _MS),
    BUCKETS: (*_RULE, bucket(_MS)),
}


def _count(table: sa.Table, form: str, rows: Sequence[sa.ColumnElement[bool]], *, by: int, pruned: bool) -> Any:
    """Adds the held log rows that fulfil the conditions to `table`, `by` times: once, or with -1 takes them away."""
    keys = [key.label(f"k{n}") for n, key in enumerate(_GROUPS[table])]
    sums = [sa.func.count() * number(by)]
    if "total_ms" in table.c:
        sums.append(sa.cast(sa.func.sum(_MS), sa.BigInteger) * number(by))
    selected = (
        sa.select(*keys, sa.literal_column("true" if pruned else "false", sa.Boolean()), *sums)
        .where(*rows, _MS.is_not(None))
        .group_by(*(sa.literal_column(str(n + 1)) for n in range(len(keys))))
    )
    insert: Any = (sqlite.insert if form == "sqlite" else postgresql.insert)(table).from_select(
        table.c.keys(), _held(form, selected)
    )
    names = [column.name for column in table.c if not column.primary_key]
    return insert.on_conflict_do_update(
        index_elements=list(table.primary_key.columns),
        set_={name: table.c[name] + insert.excluded[name] for name in names},
    )


ROLL_UP = {form: [_count(table, form, [_CHUNK], by=1, pruned=False) for table in _GROUPS] for form in FORMS}
"""The plain rows of ``first`` to ``last``, of which none was held before and whose ranges are held now."""

# Taking away what is pruned -------------------------------------------------------------------------------------------

_end = sa.tuple_(sa.bindparam("up_to", type_=LOG.timestamp.type), sa.bindparam("up_to_id", type_=LOG.id.type))
_OLD = [
    LOG.timestamp < sa.bindparam("before", type_=LOG.timestamp.type),
    LOG.timestamp <= sa.bindparam("up_to", type_=LOG.timestamp.type),
    sa.tuple_(LOG.timestamp, LOG.id) <= _end,
]


def end_of_days(before: datetime) -> datetime:
    """The end of the whole UTC days that end by `before`. Raises InvalidValue for what is no aware instant."""
    return floor(arguments.instant("before", before), DAY)


_BEFORE = sa.bindparam("before", type_=LOG.timestamp.type)


def _prunable(form: str) -> sa.Select[Any]:
    # Each row that the roll-up holds is plain: only the others need to be looked at.
    plain, old = is_plain(form), LOG.timestamp < _BEFORE
    odd = sa.select(sa.func.count()).select_from(of_not_rolled_up(LOG.id, where=[old, sa.not_(plain)]))
    rows = sa.select(sa.func.count()).select_from(EnforcementLog.__table__).where(old)
    one = sa.select(LOG.timestamp).where(old, plain).limit(number(1))
    return sa.select(
        (rows.scalar_subquery() - odd.scalar_subquery()).label("rows"),
        one.order_by(LOG.timestamp).scalar_subquery().label("first"),
        one.order_by(LOG.timestamp.desc()).scalar_subquery().label("last"),
        odd.scalar_subquery().label("in_another_form"),
    )


PRUNABLE = {form: _prunable(form) for form in FORMS}
"""What `prune` would remove: how many rows, of when, and how many of as old a text it would leave."""

OLDEST = {
    form: _held(form, sa.select(LOG.timestamp, LOG.id).where(_OLD[0])).order_by(LOG.timestamp, LOG.id).limit(_LIMIT)
    for form in FORMS
}
"""When and which: the first ``limit`` rows of those held whose enforcement began ``before`` an instant."""

OLD_RUNS = {form: _runs_of(form, _held(form, sa.select(LOG.id).where(*_OLD))) for form in FORMS}
"""Parameters, also of the next two: ``before``, and ``up_to`` and ``up_to_id``, the place of a batch's last row."""

COUNT_AS_PRUNED = {
    form: [
        _count(table, form, _OLD, by=by, pruned=pruned) for table in _GROUPS for by, pruned in ((-1, False), (1, True))
    ]
    for form in FORMS
}
DELETE_OLD = {form: _held(form, sa.delete(EnforcementLog.__table__).where(*_OLD)) for form in FORMS}

_SINCE = sa.bindparam("since", type_=LOG.timestamp.type)
FORGET_EMPTY_SINCE = [
    sa.delete(HOURS).where(HOURS.c.enforcements == 0, HOURS.c.hour >= utc_hour(_SINCE)),
    sa.delete(DAY_TIMES).where(DAY_TIMES.c.enforcements == 0, DAY_TIMES.c.day >= utc_date(_SINCE)),
]
FORGET_EMPTY = [
    sa.delete(TIMES).where(TIMES.c.enforcements == 0),
    sa.delete(BUCKETS).where(BUCKETS.c.enforcements == 0),
]
"""What counts nothing any more. Parameter of the first two: ``since``, where the batch began."""

# Reading --------------------------------------------------------------------------------------------------------------


def times_of(asked: Asked) -> Any:
    """How often each time occurred: rule_id, ms and n, a time of a rule perhaps more than once. Asked for by days."""
    asked.check_step(DAY)
    if "account_id" in asked.shape.names or not asked.shape.has_whole:
        return _counted(asked.of_log())
    table = DAY_TIMES if asked.shape.has_window else TIMES
    days = asked.between(table.c.day, "first_day", "end_day") if asked.shape.has_window else []
    rolled = sa.select(table.c.rule_id, table.c.ms, table.c.enforcements.label("n")).where(
        *asked.of_rollup(table), *days
    )
    edges = asked.edges()
    read = [_counted([edge, *asked.of_edge()]) for edge in edges]
    return sa.union_all(rolled, not_rolled_up_times(asked, edges), *read)


def not_rolled_up_times(asked: Asked, but: Sequence[sa.ColumnElement[bool]] = ()) -> sa.Select[Any]:
    """The same of the rows that the roll-up does not hold, `but` of some that are counted otherwise."""
    where = [*asked.of_log(), *map(sa.not_, but)]
    return sa.select(
        of_not_rolled_up(LOG.rule_id, _MS.label("ms"), sa.func.count().label("n"), where=where, by=(LOG.rule_id, _MS))
    )


def trend_of(asked: Asked) -> Any:
    """How many enforcements began on each UTC day and how long they took: date, n and total (milliseconds, float).

    Asked for by hours.
    """
    asked.check_step(HOUR)
    day = utc_date(instant_of(LOG.timestamp)).label("date")
    sums = (sa.func.count().label("n"), sa.func.sum(sa.cast(_MS, sa.Double)).label("total"))
    if "account_id" in asked.shape.names or not asked.shape.has_whole:
        return sa.select(day, *sums).where(*asked.of_log()).group_by(day)
    rolled = sa.select(
        utc_date(HOURS.c.hour).label("date"),
        HOURS.c.enforcements.label("n"),
        sa.cast(HOURS.c.total_ms, sa.Double).label("total"),
    ).where(*asked.of_rollup(HOURS), *asked.between(HOURS.c.hour, "begin", "end"))
    edges = asked.edges()
    rest = of_not_rolled_up(day, *sums, where=[*asked.of_log(), *map(sa.not_, edges)], by=(day,))
    own_day = utc_date(LOG.timestamp).label("date")
    read = [sa.select(own_day, *sums).where(edge, *asked.of_edge()).group_by(own_day) for edge in edges]
    return sa.union_all(rolled, sa.select(rest), *read)


def _counted(rows: Sequence[sa.ColumnElement[bool]]) -> sa.Select[Any]:
    """How often each time occurred among the log rows that fulfil the conditions, read one by one."""
    return sa.select(LOG.rule_id, _MS.label("ms"), sa.func.count().label("n")).where(*rows).group_by(LOG.rule_id, _MS)

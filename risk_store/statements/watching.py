"""What somebody who watches a store asks it for, again and again: only what is new.

A watcher keeps what it has read, and asks first whether anything was committed since (:data:`STAMP`), which touches no
table. The log only grows, so what is new of it is what has a higher id; on PostgreSQL also what committed late with a
lower one.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from risk_store.models import EnforcementLog
from risk_store.models.enforcement import SLOW_INDEX_ABOVE_MS
from risk_store.models.rollup import BUCKETS
from risk_store.statements import arguments
from risk_store.statements.conditions import LOG, TIMED, log_filters
from risk_store.statements.ids import among, by_dialect
from risk_store.statements.rollup import COUNT_OF_LOG

__all__ = [
    "COUNT_OF_LOG",
    "ENDS",
    "IS_DISTRIBUTED",
    "LATE_TIMES",
    "NEW_TIMES",
    "PRUNED",
    "STAMP",
    "newest_slow",
    "times_since",
]

STAMP: dict[str, str] = {"sqlite": "PRAGMA data_version", "postgresql": "SELECT pg_current_snapshot()::text"}
"""Another value once anything was committed. SQLite's is for comparing on one connection only; PostgreSQL's also
changes for other databases of the server."""

IS_DISTRIBUTED = "SELECT count(*) > 0 FROM pg_extension WHERE extname = 'citus'"
"""Whether commits may happen on other servers, of which :data:`STAMP` does not tell."""

ENDS = sa.select(
    sa.select(sa.func.min(LOG.id)).scalar_subquery().label("first"),  # apart: SQLite would scan for both at once
    sa.select(sa.func.max(LOG.id)).scalar_subquery().label("last"),
)
"""The lowest id of the log and the highest, by the key; NULL where it is empty."""

PRUNED = sa.select(sa.cast(sa.func.coalesce(sa.func.sum(BUCKETS.c.enforcements), 0), sa.BigInteger)).where(
    BUCKETS.c.pruned == sa.true()
)
"""Another number once timed rows were pruned, also where the row with the lowest id was not among them."""

_MS = sa.case((TIMED, LOG.execution_time_ms))
_SECOND = {
    "sqlite": LOG.timestamp,  # as it is stored: to make a number of it costs SQLite three times the reading of the row
    "postgresql": sa.case(
        (
            sa.func.isfinite(LOG.timestamp),
            sa.cast(sa.func.floor(sa.extract("epoch", LOG.timestamp)), sa.BigInteger),
        )
    ),
}


def _times(dialect: str) -> Any:
    columns: list[sa.ColumnElement[Any]] = [LOG.id, _SECOND[dialect], LOG.account_id, LOG.rule_id, LOG.success, _MS]
    # As the driver gives them: these are read by the hundred thousand.
    return sa.select(*(sa.type_coerce(column, sa.types.NullType()) for column in columns))


_TIMES = by_dialect(_times)


def times_since(dialect: str, since: datetime, account_id: int | None = None) -> sa.Select[Any]:
    """Log rows that began at `since` or later, perhaps of one account only; on SQLite also some of two days before.

    Columns, also of :data:`NEW_TIMES` and :data:`LATE_TIMES`: id; when it began, as stored on SQLite, in seconds since
    1970 on PostgreSQL; account; rule; whether it succeeded; milliseconds (NULL if it was not timed, or cannot be read).
    """
    # A v1 daemon's text with an offset may lie two days before its instant; the reader knows better than the index.
    earliest = since - timedelta(days=2) if dialect == "sqlite" else since
    times: sa.Select[Any] = _TIMES[dialect].where(LOG.timestamp >= earliest, *log_filters(account_id))
    return times


NEW_TIMES = by_dialect(lambda dialect: _TIMES[dialect].where(LOG.id > sa.bindparam("after", type_=LOG.id.type)))
"""Parameter: ``after``, the highest id that was read."""

LATE_TIMES = by_dialect(lambda dialect: _TIMES[dialect].where(among(LOG.id, dialect)))
"""Those of the parameter ``ids``, which others with higher ids were committed before."""


def newest_slow(
    threshold_ms: int = SLOW_INDEX_ABOVE_MS,
    limit: int = 20,
    before: int | None = None,
    *,
    account_id: int | None = None,
    rule_id: str | None = None,
) -> sa.Select[EnforcementLog]:
    """Log rows of any outcome that took more than `threshold_ms` milliseconds, the last written first.

    For the next page, `before` is the id of the last row seen. Raises InvalidValue for a bad argument.
    """
    arguments.whole("threshold_ms", threshold_ms, 0)
    conditions = [LOG.execution_time_ms > threshold_ms, TIMED, *log_filters(account_id, rule_id)]
    if before is not None:
        conditions.append(LOG.id < arguments.whole("before", before, 1))
    newest_first: sa.ColumnElement[Any] = LOG.id.desc()
    if threshold_ms >= SLOW_INDEX_ABOVE_MS:
        # The index of the slow ones holds few rows. By the key, which gives them in order, a log where nothing was slow
        # for a year would be read for a year; so the order is asked for in words that the key does not serve.
        conditions.append(LOG.execution_time_ms > sa.literal_column(str(SLOW_INDEX_ABOVE_MS)))
        newest_first = (LOG.id + sa.literal_column("0")).desc()
    ids = sa.select(LOG.id).where(*conditions).order_by(newest_first).limit(arguments.whole("limit", limit, 1))
    return sa.select(EnforcementLog).where(EnforcementLog.id.in_(ids)).order_by(EnforcementLog.id.desc())

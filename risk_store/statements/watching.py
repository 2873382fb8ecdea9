"""What somebody who watches a store asks it for, again and again: only what is new.

A watcher keeps what it has read, and asks first whether anything was committed since (:data:`STAMP`), which touches no
table. The log only grows, so what is new of it is what has a higher id; on PostgreSQL also what committed late with a
lower one.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa

from risk_store.columns import utc_second
from risk_store.models import EnforcementLog
from risk_store.models.enforcement import SLOW_INDEX_ABOVE_MS
from risk_store.statements import arguments
from risk_store.statements.conditions import LOG, TIMED, log_filters
from risk_store.statements.ids import among, by_dialect
from risk_store.statements.rollup import COUNT_OF_LOG

__all__ = [
    "COUNT_OF_LOG",
    "COUNT_OVER",
    "ENDS",
    "IS_DISTRIBUTED",
    "LATE_TIMES",
    "NEW_TIMES",
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


_MS = sa.case((TIMED, LOG.execution_time_ms))
# As the driver gives them: these are read by the hundred thousand.
_COLUMNS: list[sa.ColumnElement[Any]] = [LOG.id, utc_second(LOG.timestamp), LOG.rule_id, LOG.success, _MS]
_TIMES: Any = sa.select(*(sa.type_coerce(column, sa.types.NullType()) for column in _COLUMNS))
_OF_ACCOUNT = LOG.account_id == sa.bindparam("account_id", type_=LOG.account_id.type)


def times_since(since: datetime, account_id: int | None = None) -> sa.Select[Any]:
    """Log rows that began at `since` or later, perhaps of one account only.

    Columns, also of :data:`NEW_TIMES` and :data:`LATE_TIMES`: id, the second it began in (since 1970, UTC), rule,
    whether it succeeded, milliseconds (NULL if it was not timed, or cannot be read).
    """
    times: sa.Select[Any] = _TIMES.where(*log_filters(account_id, since=since))
    return times


COUNT_OVER = (
    sa.select(sa.func.count())
    .select_from(EnforcementLog.__table__)
    .where(LOG.id > sa.bindparam("after", type_=LOG.id.type))
)
"""How many rows have an id over ``after``."""


def _by_account(rows: sa.Select[Any]) -> dict[bool, sa.Select[Any]]:
    return {False: rows, True: rows.where(_OF_ACCOUNT)}


NEW_TIMES = _by_account(_TIMES.where(LOG.id > sa.bindparam("after", type_=LOG.id.type)))
"""By whether one account's are asked for. Parameters: ``after``, the highest id seen, and ``account_id``."""

LATE_TIMES = by_dialect(lambda dialect: _by_account(_TIMES.where(among(LOG.id, dialect))))
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

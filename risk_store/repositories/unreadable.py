"""What nobody can read is told once: a warning that names the row, for each value, in each database.

A row that an old daemon wrote oddly is returned like any other (D2, D3), so nothing else would tell. `risk-store check`
counts and lists them all.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.orm import Session

from risk_store.columns import CheckedType, Unreadable
from risk_store.errors import shown
from risk_store.models import Base, EnforcementLog
from risk_store.statements.analytics import UNREADABLE_IN_REPORTS

__all__ = ["tell", "tell_of_reports", "telling"]

logger = logging.getLogger("risk_store.unreadable")

S = TypeVar("S", bound=Sequence[Any])

_LAST = sa.select(sa.func.max(EnforcementLog.id))
MOST = 100  # values told of in one database; a file of nothing else must not fill the disk with warnings

_told: dict[tuple[Any, ...], set[tuple[str, str, str]]] = {}
_reported_up_to: dict[tuple[Any, ...], int] = {}


def telling(session: Session, load: Callable[[], S], table: sa.Table | None = None) -> S:
    """What `load` returns: models, or named tuples of `table`'s columns. Tells of the unreadable values in them."""
    before = Unreadable.met
    rows = load()
    if Unreadable.met != before:  # almost never; another thread's is no harm
        for row in rows:
            _tell_of_row(session, row, table)
    return rows


def tell_of_reports(session: Session) -> None:
    """Tells of the log rows that are in no report, or not at their time, because a value can't be read.

    Only SQLite can hold such rows. Looks at each row once a process: the first look is a walk over the log.
    """
    bind = session.get_bind(EnforcementLog)
    if bind.dialect.name != "sqlite":
        return
    place = _place(bind.engine)
    last = session.scalar(_LAST) or 0
    after = _reported_up_to.get(place, 0)
    if last == after:
        return
    new = {"after": after, "last": last}
    for row in session.execute(UNREADABLE_IN_REPORTS, new, execution_options={"yield_per": MOST}):
        if isinstance(row.timestamp, datetime) and isinstance(row.execution_time_ms, (int, type(None))):
            # One that Python reads and SQLite does not, such as 20251021T170000.
            tell(session, "enforcement_log.timestamp", f"id {row.id}", str(row.timestamp), NOT_FOUND)
        else:
            _tell_of_row(session, row, EnforcementLog.__table__)
        if len(_told.get(place, ())) > MOST:
            break  # enough is told
    _reported_up_to[place] = last


def _tell_of_row(session: Session, row: Any, table: sa.Table | None) -> None:
    table = row.__table__ if isinstance(row, Base) else table
    if table is None:
        return
    given = set(getattr(row, "_fields", table.columns.keys()))
    if not {column.name for column in table.primary_key} <= given:
        return  # an aggregate is of no one row
    values = {column.name: getattr(row, column.name) for column in table.columns if column.name in given}
    key = ", ".join(f"{column.name} {values.get(column.name)}" for column in table.primary_key)
    for name, value in values.items():
        type_ = table.columns[name].type
        if value is not None and isinstance(type_, CheckedType) and not type_.is_readable(value):
            tell(session, type_.field, key, shown(value), UNREADABLE)


UNREADABLE = "cannot be read; the row is kept as it is (risk-store check --list)"
NOT_FOUND = "is not found by its time, in the form it is stored in, until risk-store upgrade makes it canonical"


def tell(session: Session, column: str, key: str, value: str, what: str) -> None:
    """Warns, once, of one value of one row: ``what`` ends the sentence that the other three begin."""
    told = _told.setdefault(_place(session.get_bind().engine), set())
    if (column, key, value) in told or len(told) > MOST:
        return
    told.add((column, key, value))
    if len(told) > MOST:
        logger.warning("more than %d values cannot be read; see risk-store check --list", MOST)
    else:
        logger.warning("%s, %s: %s %s", column, key, value, what)


def _place(engine: sa.Engine) -> tuple[Any, ...]:
    """One database, whichever of a store's engines reads it."""
    url = engine.url
    return (url.host, url.port, url.database) if url.database else (id(engine),)

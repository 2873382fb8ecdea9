"""Statements on lockouts. What "running" means is defined here, once.

A lockout runs while ``is_locked`` and the instant is before ``locked_until``; NULL there means until released, and an
end that cannot be read never comes: in doubt an account stays locked.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from risk_store.columns import UtcInstant, instant_key
from risk_store.models import Lockout

__all__ = [
    "ACTIVE",
    "EXPIRE",
    "GET_LOCKOUT",
    "IS_LOCKED",
    "RELEASE",
    "SET_LOCKOUT",
    "SET_LOCKOUT_BESIDE",
    "set_lockouts",
]

LOCKOUTS = Lockout.__table__
_ROW = LOCKOUTS.c
_END = instant_key(_ROW.locked_until)  # in order of time, whatever form a v1 daemon wrote
_AT = sa.bindparam("at", type_=UtcInstant())
_NOW = sa.bindparam("now", type_=UtcInstant())
_ACCOUNT = _ROW.account_id == sa.bindparam("account")
_LOCKED = _ROW.is_locked == sa.true()


def _running(at: sa.ColumnElement[Any]) -> sa.ColumnElement[bool]:
    return sa.and_(_LOCKED, sa.or_(_ROW.locked_until.is_(None), at < _END))


_RUNNING = _running(_AT)

GET_LOCKOUT = sa.select(Lockout).where(_ACCOUNT)

IS_LOCKED = sa.select(sa.literal(1)).where(_ACCOUNT, _RUNNING)
"""One row if the account is locked at ``at``, else none."""

ACTIVE = sa.select(Lockout).where(_RUNNING).order_by(_ROW.account_id)

RELEASE = (
    sa.update(LOCKOUTS)
    .where(_ACCOUNT, _RUNNING)
    .values(is_locked=sa.false(), updated_at=_NOW)
    .returning(_ROW.rule_id, _ROW.reason, _ROW.locked_at, _ROW.locked_until)
)
"""Unlocks the account if it is locked at ``at``, and returns what the lockout was."""

EXPIRE = (
    sa.update(LOCKOUTS)
    .where(_LOCKED, _END <= _AT)
    .values(is_locked=sa.false(), updated_at=_NOW)
    .returning(_ROW.account_id)
)
"""Unlocks what has ended by ``at``. The condition is judged by the UPDATE itself: a lockout that was extended meanwhile
stays."""


def _set_lockout(statement: Any, at: sa.ColumnElement[Any] = _AT) -> Any:
    """Insert or replace, but never so that a running lockout gets shorter: NULL beats any time, later beats earlier."""
    new = statement.excluded
    longer = sa.and_(_ROW.locked_until.is_not(None), sa.or_(new.locked_until.is_(None), new.locked_until > _END))
    return statement.on_conflict_do_update(
        index_elements=[_ROW.account_id],
        # Values from `excluded` only: a distributed PostgreSQL refuses now() here.
        set_={c.name: new[c.name] for c in LOCKOUTS.columns if c.name not in ("account_id", "created_at")},
        where=sa.or_(longer, sa.not_(_running(at))),  # in this order: most are longer, and ends are dear to read
    )


SET_LOCKOUT = {"sqlite": _set_lockout(sqlite.insert(LOCKOUTS)), "postgresql": _set_lockout(postgresql.insert(LOCKOUTS))}
"""By dialect. Parameters: every column, and ``at``, the instant at which the lockout in place is running or not.

One row is written if the new lockout is in place, none if a running one stays."""

SET_LOCKOUT_BESIDE = _set_lockout(
    postgresql.insert(LOCKOUTS).values({c: sa.bindparam(f"lockout_{c.name}", type_=c.type) for c in LOCKOUTS.columns})
)
"""PostgreSQL: the same within another statement. Its parameters begin with ``lockout_``, but for ``at``."""


def set_lockouts(rows: sa.Select[Any]) -> Any:
    """PostgreSQL: the same for several accounts, each once; `rows` has every column, and ``at`` is its locked_at."""
    statement = postgresql.insert(LOCKOUTS).from_select(LOCKOUTS.columns.keys(), rows)
    return _set_lockout(statement, statement.excluded.locked_at)

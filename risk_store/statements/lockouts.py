"""Statements over `lockouts`."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa

from risk_store.columns import UtcInstant, instant_key
from risk_store.models import Lockout
from risk_store.statements.upserts import PerDialect

__all__ = ["EXPIRE", "RELEASE", "SET", "active_lockouts"]

_LOCKOUTS = Lockout.__table__
_ENDS = instant_key(_LOCKOUTS.c.locked_until)
_IS_LOCKED = _LOCKOUTS.c.is_locked == sa.true()
_NOW = sa.bindparam("now", type_=UtcInstant())


def _set(insert: Any) -> sa.Insert:
    new = insert.excluded
    over = sa.or_(~_IS_LOCKED, _ENDS <= _NOW)
    # NULL, until released, is later than any instant; what cannot be read counts as NULL (instant_key).
    longer = _LOCKOUTS.c.locked_until.is_not(None) & sa.or_(
        new.locked_until.is_(None), instant_key(new.locked_until) > _ENDS
    )
    values = {name: new[name] for name in ("is_locked", "reason", "locked_at", "locked_until", "rule_id", "updated_at")}
    statement: sa.Insert = insert.on_conflict_do_update(
        index_elements=[_LOCKOUTS.c.account_id], set_=values, where=sa.or_(over, longer)
    )
    return statement


SET = PerDialect(_LOCKOUTS, _set)
"""Locks an account; a running lockout that ends later, or never, stays as it is. One statement, so two rules that lock
at once cannot undo each other. Needs the parameter `now`."""

EXPIRE = (
    sa.update(_LOCKOUTS)
    .where(_IS_LOCKED, _ENDS <= _NOW)
    .values(is_locked=False, updated_at=_NOW)
    .returning(_LOCKOUTS.c.account_id)
)

RELEASE = (
    sa.update(_LOCKOUTS)
    .where(_LOCKOUTS.c.account_id == sa.bindparam("of_account"), _IS_LOCKED)
    .values(is_locked=False, updated_at=_NOW)
)


def active_lockouts(at: datetime) -> sa.Select[Lockout]:
    """The lockouts that hold at `at`, by account: one whose end cannot be read holds."""
    return (
        sa.select(Lockout)
        .where(_IS_LOCKED, sa.or_(_LOCKOUTS.c.locked_until.is_(None), at < _ENDS))
        .order_by(Lockout.account_id)
    )

"""Statements on the mirror of the broker's positions."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from risk_store.columns import instant_of
from risk_store.models import Position
from risk_store.statements import arguments
from risk_store.statements.confirmation import confirm, mark_unconfirmed

__all__ = [
    "CONFIRM_POSITIONS",
    "DELETE_POSITIONS",
    "LISTED_POSITIONS",
    "MARK_UNCONFIRMED_POSITIONS",
    "REQUIRED",
    "SAME_POSITION",
    "SAVE_POSITION",
    "open_positions",
]

POSITIONS = Position.__table__

REQUIRED = ("account_id", "contract_id", "type", "size", "average_price")
"""What an update must carry to make a row."""

SAME_POSITION = sa.select(Position).where(
    sa.or_(
        Position.id == sa.bindparam("id"),
        sa.and_(Position.account_id == sa.bindparam("account"), Position.contract_id == sa.bindparam("contract")),
    )
)
"""The row with an id, and whatever else is kept of the same account and contract, of which the venue has one."""


def _save_position(insert: Any) -> Any:
    statement = insert(POSITIONS)
    # Not the account: a position never moves to another one, and on a distributed PostgreSQL its row could not.
    set_ = {c.name: statement.excluded[c.name] for c in POSITIONS.columns if c.name not in ("id", "account_id")}
    return statement.on_conflict_do_update(index_elements=[POSITIONS.c.id], set_=set_)


SAVE_POSITION = {"sqlite": _save_position(sqlite.insert), "postgresql": _save_position(postgresql.insert)}
"""By dialect: insert, or replace the row with this id. Parameters: every column."""

DELETE_POSITIONS = sa.delete(POSITIONS).where(POSITIONS.c.id.in_(sa.bindparam("ids", expanding=True)))

LISTED_POSITIONS = sa.select(Position).where(
    sa.or_(Position.account_id == sa.bindparam("account"), Position.id.in_(sa.bindparam("ids", expanding=True)))
)
"""The positions of an account, and those with these ids."""

CONFIRM_POSITIONS = confirm(POSITIONS)
MARK_UNCONFIRMED_POSITIONS = mark_unconfirmed(POSITIONS)


def open_positions(account_id: int | None = None, contract_id: str | None = None) -> sa.Select[Position]:
    """Open positions, oldest first, whatever form their times have; without a readable time, last.

    Raises InvalidValue for a bad argument.

    >>> print(open_positions().with_only_columns(Position.id).order_by(None))
    SELECT positions.id
    FROM positions
    """
    statement = sa.select(Position)
    if account_id is not None:
        statement = statement.where(Position.account_id == arguments.account(account_id))
    if contract_id is not None:
        statement = statement.where(Position.contract_id == arguments.text("contract_id", contract_id))
    return statement.order_by(sa.nulls_last(instant_of(Position.created_at)), Position.id)

"""Statements on the mirror of the broker's positions."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from risk_store.columns import instant_of
from risk_store.models import ClosedPosition, Position
from risk_store.statements import arguments
from risk_store.statements.confirmation import confirm, mark_unconfirmed
from risk_store.statements.ids import among, by_dialect, key_of, within_account

__all__ = [
    "CLOSED_LIKE",
    "CLOSED_SINCE",
    "CONFIRM_POSITIONS",
    "DELETE_POSITION",
    "FORGET_CLOSED",
    "LISTED_POSITIONS",
    "LOCK_POSITION",
    "MARK_UNCONFIRMED_POSITIONS",
    "NOTE_CLOSED",
    "REQUIRED",
    "SAME_POSITION",
    "SAVE_POSITION",
    "open_positions",
]

POSITIONS = Position.__table__

REQUIRED = ("account_id", "contract_id", "type", "size", "average_price")
"""What an update must carry to make a row."""


def _everywhere(statement: Any) -> dict[str, Any]:
    return by_dialect(lambda _dialect: statement)


SAME_POSITION = within_account(
    _everywhere(
        sa.select(Position).where(
            sa.or_(
                Position.id == sa.bindparam("id"),
                sa.and_(
                    Position.account_id == sa.bindparam("account"), Position.contract_id == sa.bindparam("contract")
                ),
            )
        )
    ),
    POSITIONS,
)
"""The row with an id, and whatever else is kept of the same account and contract, of which the venue has one."""


def _save_position(insert: Any) -> Any:
    statement = insert(POSITIONS)
    # Not the account: a position never moves to another one, and on a distributed PostgreSQL its row could not.
    set_ = {c.name: statement.excluded[c.name] for c in POSITIONS.columns if c.name not in ("id", "account_id")}
    return statement.on_conflict_do_update(**key_of(POSITIONS, insert), set_=set_)


SAVE_POSITION = {"sqlite": _save_position(sqlite.insert), "postgresql": _save_position(postgresql.insert)}
"""By dialect: insert, or replace the row with this id. Parameters: every column."""

DELETE_POSITION = sa.delete(POSITIONS).where(
    POSITIONS.c.id == sa.bindparam("position"), POSITIONS.c.account_id == sa.bindparam("account")
)

LISTED_POSITIONS = within_account(
    by_dialect(
        lambda dialect: sa.select(Position).where(
            sa.or_(Position.account_id == sa.bindparam("account"), among(POSITIONS.c.id, dialect))
        )
    ),
    POSITIONS,
)
"""By dialect: the positions of an account, and those of ``ids``."""

LOCK_POSITION = sa.select(sa.func.pg_advisory_xact_lock(sa.bindparam("key", type_=sa.BigInteger())))
"""For PostgreSQL: one writer at a time of what ``key`` stands for, to the end of the transaction. A row that is not
there yet cannot be locked itself."""

# Positions that were closed

CLOSED = ClosedPosition.__table__

CLOSED_LIKE = within_account(
    _everywhere(
        sa.select(ClosedPosition).where(
            sa.or_(
                ClosedPosition.id == sa.bindparam("id"),
                sa.and_(
                    ClosedPosition.account_id == sa.bindparam("account"),
                    ClosedPosition.contract_id == sa.bindparam("contract"),
                ),
            )
        )
    ),
    CLOSED,
)
"""The position with an id if it was closed, and what else was closed of the same account and contract."""


def _note_closed(insert: Any) -> Any:
    statement = insert(CLOSED)
    return statement.on_conflict_do_update(
        **key_of(CLOSED, insert),
        set_={
            "created_at": sa.func.coalesce(statement.excluded.created_at, CLOSED.c.created_at),
            "closed_at": statement.excluded.closed_at,
        },
    )


NOTE_CLOSED = {"sqlite": _note_closed(sqlite.insert), "postgresql": _note_closed(postgresql.insert)}
"""By dialect. Parameters: every column."""

FORGET_CLOSED = within_account(
    _everywhere(
        sa.delete(CLOSED).where(
            sa.or_(
                CLOSED.c.id == sa.bindparam("closed"),
                sa.and_(
                    CLOSED.c.account_id == sa.bindparam("account"), CLOSED.c.contract_id == sa.bindparam("contract")
                ),
            )
        )
    ),
    CLOSED,
)
"""What was closed of a contract is over once it has a position again."""

CLOSED_SINCE = sa.select(CLOSED.c.id).where(
    CLOSED.c.account_id == sa.bindparam("account"),
    CLOSED.c.closed_at >= sa.bindparam("asked", type_=CLOSED.c.closed_at.type),
)

# The gateway's own list

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

"""Statements on the mirror of the broker's orders."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from risk_store.codes import WORKING_STATES
from risk_store.columns import instant_of
from risk_store.models import Order
from risk_store.statements import arguments

__all__ = ["GET_ORDER", "SAVE_ORDER", "working_orders"]

ORDERS = Order.__table__

# NULL says something in these columns ("never", "not yet"): it is not a gap that a copy of the order could fill.
# venue_updated_at in particular is the age that every later event is judged by, and only an event may set it (SPEC 7).
_OF_THE_VENUE = {"venue_updated_at", "triggered_at", "seen_at", "unconfirmed_since"}
FILLABLE = [c.name for c in ORDERS.columns if c.nullable and c.name not in {*_OF_THE_VENUE, "updated_at"}]

GET_ORDER = sa.select(Order).where(Order.id == sa.bindparam("id"))


def _save_order(insert: Any) -> Any:
    """Insert; on an id that exists, fill what the row lacks, and touch nothing where it lacks nothing."""
    statement = insert(ORDERS)
    row, new = ORDERS.c, statement.excluded
    grown = sa.and_(new.filled_size > row.filled_size, new.filled_size <= row.size)
    return statement.on_conflict_do_update(
        index_elements=[row.id],
        set_={
            **{name: sa.func.coalesce(row[name], new[name]) for name in FILLABLE},
            "filled_size": sa.case((grown, new.filled_size), else_=row.filled_size),
            "updated_at": sa.bindparam("now", type_=row.updated_at.type),
        },
        where=sa.or_(grown, *(sa.and_(row[name].is_(None), new[name].is_not(None)) for name in FILLABLE)),
    )


SAVE_ORDER = {"sqlite": _save_order(sqlite.insert), "postgresql": _save_order(postgresql.insert)}
"""By dialect. Parameters: every column, and ``now`` for the row's updated_at if it exists and something is filled."""


def working_orders(account_id: int | None = None, contract_id: str | None = None) -> sa.Select[Order]:
    """Orders the venue may still fill, oldest first, whatever form their times have; without a readable time, last.

    Raises InvalidValue for a bad argument.

    >>> from sqlalchemy.dialects import postgresql
    >>> print(working_orders().with_only_columns(Order.id).compile(dialect=postgresql.dialect()))
    SELECT orders.id
    FROM orders
    WHERE orders.state IN (1, 2, 7, 8) ORDER BY orders.created_at NULLS LAST, orders.id
    """
    # Literals, as in ix_orders_working: a bound list would not let the planner use that partial index.
    statement = sa.select(Order).where(Order.state.in_([sa.literal_column(str(int(s))) for s in WORKING_STATES]))
    if account_id is not None:
        statement = statement.where(Order.account_id == arguments.account(account_id))
    if contract_id is not None:
        statement = statement.where(Order.contract_id == arguments.text("contract_id", contract_id))
    return statement.order_by(sa.nulls_last(instant_of(Order.created_at)), Order.id)

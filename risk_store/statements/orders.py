"""Expressions over `orders`."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from risk_store.codes import WORKING_STATES
from risk_store.models import Order
from risk_store.statements.upserts import PerDialect

__all__ = ["SAVE", "working_orders"]

ORDERS = Order.__table__

# Literals, as in the index's own predicate: with bound parameters no engine sees that ix_orders_working applies.
IS_WORKING = ORDERS.c.state.in_([sa.literal_column(str(int(state))) for state in WORKING_STATES])

# What a later save may fill in; whatever else the row says, the event stream has said it and it stays.
_FILLABLE = [
    column.name
    for column in ORDERS.columns
    if column.nullable and column.name not in ("updated_at", "unconfirmed_since", "triggered_at")
]


def _save(insert: Any) -> sa.Insert:
    new = insert.excluded
    filled = {name: sa.func.coalesce(ORDERS.c[name], new[name]) for name in _FILLABLE}
    lacking = sa.or_(*(ORDERS.c[name].is_(None) & new[name].is_not(None) for name in _FILLABLE))
    statement: sa.Insert = insert.on_conflict_do_update(
        index_elements=[ORDERS.c.id],
        set_={**filled, "updated_at": new.updated_at},
        where=lacking,
    )
    return statement


SAVE = PerDialect(ORDERS, _save)
"""Inserts an order; on an id that is there it fills only columns that are NULL, and touches no row that lacks none."""


def working_orders(account_id: int | None = None, contract_id: str | None = None) -> sa.Select[Order]:
    """The working orders, oldest first.

    >>> print(working_orders(account_id=456).with_only_columns(Order.id))
    SELECT orders.id
    FROM orders
    WHERE orders.state IN (1, 2, 7, 8) AND orders.account_id = :account_id_1 ORDER BY orders.created_at, orders.id
    """
    statement = sa.select(Order).where(IS_WORKING).order_by(Order.created_at, Order.id)
    if account_id is not None:
        statement = statement.where(Order.account_id == account_id)
    if contract_id is not None:
        statement = statement.where(Order.contract_id == contract_id)
    return statement

"""Rows of the mirror that the gateway's own list of what is open has, or lacks. The same for orders and positions.

Parameters: ``ids``; ``asked``, when the list was asked for; ``now``; for a distributed store ``account``, whose list it
is. What an event told of since then is left alone.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from risk_store.statements.ids import among, by_dialect, within_account

__all__ = ["confirm", "mark_unconfirmed"]


def confirm(table: sa.Table) -> dict[str, sa.Update]:
    """By dialect: the venue has just named these rows."""
    now = sa.bindparam("now", type_=table.c.seen_at.type)
    confirmed = {"seen_at": now, "updated_at": now, "unconfirmed_since": None}
    return within_account(by_dialect(lambda dialect: _of_ids(table, dialect).values(confirmed)), table)


def mark_unconfirmed(table: sa.Table, *conditions: sa.ColumnElement[Any]) -> dict[str, sa.Update]:
    """By dialect: the venue's list lacks these rows. Since when is kept from the first list that did."""
    values = {
        "unconfirmed_since": sa.bindparam("asked", type_=table.c.unconfirmed_since.type),
        "updated_at": sa.bindparam("now", type_=table.c.updated_at.type),
    }
    unmarked = table.c.unconfirmed_since.is_(None)
    marked = by_dialect(lambda dialect: _of_ids(table, dialect).where(*conditions, unmarked).values(values))
    return within_account(marked, table)


def _of_ids(table: sa.Table, dialect: str) -> sa.Update:
    seen = table.c.seen_at
    unseen = sa.or_(seen.is_(None), seen < sa.bindparam("asked", type_=seen.type))
    return sa.update(table).where(among(table.c.id, dialect), unseen)

"""Rows of the mirror that the gateway's own list of what is open has, or lacks. The same for orders and positions.

Parameters: ``ids``; ``asked``, when the list was asked for; ``now``. What an event told of since then is left alone.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

__all__ = ["confirm", "mark_unconfirmed"]


def confirm(table: sa.Table) -> sa.Update:
    """The venue has just named these rows."""
    now = sa.bindparam("now", type_=table.c.seen_at.type)
    return _of_ids(table).values(seen_at=now, updated_at=now, unconfirmed_since=None)


def mark_unconfirmed(table: sa.Table, *conditions: sa.ColumnElement[Any]) -> sa.Update:
    """The venue's list lacks these rows. Since when is kept from the first list that did."""
    return (
        _of_ids(table)
        .where(*conditions, table.c.unconfirmed_since.is_(None))
        .values(
            unconfirmed_since=sa.bindparam("asked", type_=table.c.unconfirmed_since.type),
            updated_at=sa.bindparam("now", type_=table.c.updated_at.type),
        )
    )


def _of_ids(table: sa.Table) -> sa.Update:
    seen = table.c.seen_at
    unseen = sa.or_(seen.is_(None), seen < sa.bindparam("asked", type_=seen.type))
    return sa.update(table).where(table.c.id.in_(sa.bindparam("ids", expanding=True)), unseen)

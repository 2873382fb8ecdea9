"""Many ids, or many rows, as one parameter: JSON, which every engine takes apart by itself.

A list of parameters would end at the engine's own limit (65,535 on PostgreSQL), and would be another statement for each
length.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

__all__ = [
    "DISTRIBUTED",
    "EACH_ID",
    "among",
    "as_parameter",
    "by_dialect",
    "each_row",
    "key_of",
    "row_as_json",
    "rows_as_parameter",
    "within_account",
]

S = TypeVar("S")

DISTRIBUTED = "distributed"
"""Beside the dialects: the form of a statement for a PostgreSQL whose tables are sharded by account."""

_IDS = sa.bindparam("ids", type_=sa.Text())
_AS_TEXT = sa.func.json_array_elements_text(sa.cast(_IDS, postgresql.JSON)).column_valued()
EACH_ID: dict[str, sa.Select[Any]] = {
    "sqlite": sa.select(sa.func.json_each(_IDS).table_valued("value").c.value.label("id")),
    "postgresql": sa.select(sa.cast(_AS_TEXT, sa.BigInteger()).label("id")),
}
"""By dialect: the parameter ``ids`` as rows."""


def by_dialect(build: Callable[[str], S]) -> dict[str, S]:
    """A statement for each dialect."""
    return {dialect: build(dialect) for dialect in EACH_ID}


def among(column: sa.ColumnElement[Any], dialect: str) -> sa.ColumnElement[bool]:
    """A condition: `column` is among the parameter ``ids``."""
    return column.in_(EACH_ID[dialect])


def within_account(forms: Mapping[str, Any], table: sa.Table) -> dict[str, Any]:
    """The same statements, and one for a distributed store that looks only at the rows of ``account``: at one shard.

    There a row is known by its account and its id; elsewhere by its id, whatever account it is told of with.
    """
    of_account = table.c.account_id == sa.bindparam("account", type_=table.c.account_id.type)
    return {**forms, DISTRIBUTED: forms["postgresql"].where(of_account)}


def key_of(table: sa.Table, insert: Any) -> dict[str, Any]:
    """What an ``ON CONFLICT`` of a dialect's `insert` names: the table's primary key, as SQLAlchemy's keyword.

    On PostgreSQL by its name, since on a distributed one the key is wider: (id, account_id) instead of (id).

    >>> from risk_store.models import Order
    >>> list(key_of(Order.__table__, postgresql.insert)), list(key_of(Order.__table__, sqlite.insert))
    (['constraint'], ['index_elements'])
    """
    key = table.primary_key
    return {"index_elements": list(key.columns)} if insert is sqlite.insert else {"constraint": key}


def as_parameter(ids: Iterable[int]) -> str:
    """The value of the parameter ``ids``.

    >>> as_parameter([3, 1])
    '[3, 1]'
    """
    return json.dumps(list(ids))


def each_row(name: str, columns: Iterable[sa.Column[Any]], *order: str) -> sa.Select[Any]:
    """The rows of the parameter `name` on PostgreSQL, in an order: any number of them is the same statement."""
    given = sa.cast(sa.bindparam(name, type_=sa.Text()), postgresql.JSON())
    typed = [sa.column(c.name, c.type) for c in columns]
    ordinal = [sa.column("n", sa.Integer())] if "n" in order else []
    rows = sa.func.json_to_recordset(given).table_valued(*typed, *ordinal)
    rows = rows.render_derived(name=f"given_{name}", with_types=True)
    return sa.select(*(rows.c[c.name] for c in typed)).order_by(*(rows.c[column] for column in order))


def rows_as_parameter(rows: Sequence[Mapping[str, Any]]) -> str:
    """The value of such a parameter: rows by column, as a driver of PostgreSQL's takes their values, without the NULLs.

    >>> from datetime import UTC
    >>> rows_as_parameter([{"id": 1, "price": 0.1, "note": None, "at": datetime(2025, 10, 21, 17, tzinfo=UTC)}])
    '[{"id":1,"price":0.1,"at":"2025-10-21 17:00:00+00:00"}]'
    """
    return _encode([_without_nulls(row) for row in rows])


def row_as_json(row: Mapping[str, Any]) -> str:
    """One of them.

    >>> row_as_json({"id": 1, "note": "daily \\"loss\\""})
    '{"id":1,"note":"daily \\\\"loss\\\\""}'
    """
    return _encode(_without_nulls(row))


def _without_nulls(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if value is not None}


@lru_cache(maxsize=256)  # many rows have the same: "now"
def _instant(value: datetime) -> str:
    """As PostgreSQL reads it, whatever a class of somebody's own makes of it as text."""
    return datetime.isoformat(value, " ")


# Instants are all that JSON cannot say, and no row holds another one.
_encode = json.JSONEncoder(ensure_ascii=False, check_circular=False, separators=(",", ":"), default=_instant).encode

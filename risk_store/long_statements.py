"""Statements as PostgreSQL takes them, for psycopg, whose text is read once instead of each time.

psycopg turns ``%(name)s`` into PostgreSQL's own ``$1`` and keeps what it made of a statement, but not of one of more
than 4,096 characters. The upsert of an order event is longer, and reading it took as long as the server takes; so
are the reports. Such a statement gets its ``$1`` here, once, and goes by psycopg's cursor for statements in that form.
So do the statements of the hot paths, of whatever length: it does without looking for the names of each value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event

__all__ = ["native", "native_cursor", "send_long_statements_native", "send_native"]

# The longest that psycopg keeps (3.3).
KEPT_BY_PSYCOPG = 4096


@lru_cache(maxsize=256)
def native(statement: str) -> tuple[bytes, tuple[str, ...]]:
    """The statement as PostgreSQL takes it, and the names of its parameters in their order.

    >>> native("SELECT %(a)s, %(b)s, 10 %% %(a)s")
    (b'SELECT $1, $2, 10 % $1', ('a', 'b'))
    """
    names: dict[str, str] = {}

    def number(found: re.Match[str]) -> str:
        return "%" if found[1] is None else names.setdefault(found[1], f"${len(names) + 1}")

    return re.sub(r"%(?:\(([^)]+)\)s|%)", number, statement).encode(), tuple(names)


def native_cursor(connection: Any) -> Any:
    """A cursor of psycopg's for statements in that form, on a connection of its own."""
    from psycopg import RawCursor

    return RawCursor(connection)


def send_native(cursor: Any, statement: str, values: Mapping[str, Any]) -> None:
    """Sends a statement with ``%(name)s`` by a cursor for statements with ``$1``."""
    text, names = native(statement)
    cursor.execute(text, [values[name] for name in names])


def send_long_statements_native(engine: sa.Engine) -> None:
    """On an engine of psycopg's. SQLAlchemy's events and errors are as ever."""
    from psycopg import Cursor

    @event.listens_for(engine, "do_execute")
    def execute(cursor: Any, statement: str, parameters: Any, context: Any) -> bool | None:
        if len(statement) <= KEPT_BY_PSYCOPG or type(cursor) is not Cursor or not isinstance(parameters, Mapping):
            return None  # SQLAlchemy sends it
        context.cursor = native_cursor(cursor.connection)  # whose result is the statement's
        cursor.close()
        send_native(context.cursor, statement, parameters)
        return True

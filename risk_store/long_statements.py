"""Long statements on psycopg, whose text is read once instead of each time.

psycopg turns ``%(name)s`` into PostgreSQL's own ``$1`` and keeps what it made of a statement, but not of one of more
than 4,096 characters. The upsert of an order event is longer, and reading it took as long as the server takes; so
are the reports. Such a statement gets its ``$1`` here, once, and goes by psycopg's cursor for statements in that form.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event

__all__ = ["native", "send_long_statements_native"]

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


def send_long_statements_native(engine: sa.Engine) -> None:
    """On an engine of psycopg's. SQLAlchemy's events and errors are as ever."""
    from psycopg import Cursor, RawCursor

    @event.listens_for(engine, "do_execute")
    def execute(cursor: Any, statement: str, parameters: Any, context: Any) -> bool | None:
        if len(statement) <= KEPT_BY_PSYCOPG or type(cursor) is not Cursor or not isinstance(parameters, Mapping):
            return None  # SQLAlchemy sends it
        text, names = native(statement)
        context.cursor = raw = RawCursor(cursor.connection)  # whose result is the statement's
        cursor.close()
        raw.execute(text, [parameters[name] for name in names])
        return True

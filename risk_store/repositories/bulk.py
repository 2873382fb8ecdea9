"""Many rows at once, by the way that the driver has for them: COPY with psycopg, executemany elsewhere.

The values are checked and converted by the column types, as in every insert, but a column of a chunk at a time: to ask
of a thousand values at once whether they are as usual costs next to nothing. Memory is bounded by a chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, TypeVar

import sqlalchemy as sa

from risk_store.deadlines import may_take_its_time
from risk_store.repositories.encoding import encode_column
from risk_store.repositories.prepared import Prepared

__all__ = ["CHUNK", "Bulk", "copy_into"]

CHUNK = 1000
# Of a COPY, which the server works at while we convert the next rows, and whose end has to be waited for.
COPIED_AT_A_TIME = 10 * CHUNK

T = TypeVar("T")
Columns = Sequence[Sequence[Any]]


class Bulk:
    """Inserts into some columns of a table."""

    def __init__(self, table: sa.Table, columns: Sequence[str]) -> None:
        self._table = table
        self._columns = columns
        self._insert = Prepared(sa.insert(table), columns)

    def write(
        self,
        connect: Callable[[], sa.Connection],
        rows: Iterable[T],
        columns_of: Callable[[Sequence[T]], Columns],
        progress: Callable[[int], None] = lambda _count: None,
    ) -> int:
        """Writes all rows and returns their number; `progress` is told how many are written, a chunk at a time.

        `columns_of` makes of some rows their values, a column after another. Raises InvalidValue, and what the database
        raises, as an insert does.
        """
        source = iter(rows)
        first = list(islice(source, CHUNK))
        if not first:
            return 0
        columns_of(first)  # what may not be written is refused before a database is asked
        connection = connect()
        copies = connection.dialect.driver == "psycopg" and not connection.dialect.is_async
        size, write = (COPIED_AT_A_TIME, self._copy) if copies else (CHUNK, self._insert_many)
        count = 0
        # Whoever makes the rows, and who is told, may use this transaction: not while a COPY has the connection.
        chunk = [*first, *islice(source, size - len(first))]
        while chunk:
            write(connection, (columns_of(chunk[start : start + CHUNK]) for start in range(0, len(chunk), CHUNK)))
            count += len(chunk)
            progress(count)
            chunk = list(islice(source, size))
        return count

    def _insert_many(self, connection: sa.Connection, parts: Iterable[Columns]) -> None:
        dialect = connection.dialect
        compiled = self._insert.on(dialect)
        for columns in parts:
            by_name = dict(zip(self._columns, columns, strict=True))
            if not compiled.by_position or connection.get_execution_options().get("schema_translate_map"):
                rows = zip(*columns, strict=True)
                self._insert.execute(connection, [dict(zip(self._columns, row, strict=True)) for row in rows])
            else:
                sent = [encode_column(self._type(key), by_name[key], dialect) for _, key, *_ in compiled.taken]
                connection.exec_driver_sql(compiled.sql, list(zip(*sent, strict=True)))

    def _copy(self, connection: sa.Connection, parts: Iterable[Columns]) -> None:
        """COPY in binary form: no text is made of a value and read again, which is most of the cost."""
        dialect = connection.dialect
        types = [self._type(name) for name in self._columns]
        with copy_into(connection, self._table, self._columns, binary=True) as copy:
            copy.set_types([type_.dialect_impl(dialect).compile(dialect).lower() for type_ in types])
            for columns in parts:
                sent = [encode_column(type_, column, dialect) for type_, column in zip(types, columns, strict=True)]
                for row in zip(*sent, strict=True):
                    copy.write_row(row)

    def _type(self, name: str) -> Any:
        return self._table.columns[name].type


@contextmanager
def copy_into(
    connection: sa.Connection, table: sa.Table, columns: Sequence[str], *, binary: bool = False
) -> Iterator[Any]:
    """A COPY by psycopg, to whose ``write_row`` the rows are given. Raises what the database raises, as an insert."""
    dialect: Any = connection.dialect
    quote = dialect.identifier_preparer.quote
    names = ", ".join(map(quote, columns))
    statement = f"COPY {quote(table.name)} ({names}) FROM STDIN{' (FORMAT BINARY)' if binary else ''}"
    raw: Any = connection.connection.driver_connection
    try:
        with may_take_its_time(raw), raw.cursor() as cursor, cursor.copy(statement) as copy:
            yield copy
    except dialect.loaded_dbapi.Error as error:
        told = _as_told(error, table, dialect.loaded_dbapi)
        raise sa.exc.DBAPIError.instance(
            statement, None, told, dialect.loaded_dbapi.Error, hide_parameters=True, dialect=dialect
        ) from error


_INTERNAL = "XX000"


def _as_told(error: Any, table: sa.Table, driver: Any) -> Any:
    """A distributed PostgreSQL hands on what a shard says of a COPY as an internal error, in the shard's words.

    If they name a unique key of the table, that is what was in the way.
    """
    keys = [str(table.primary_key.name), *(str(index.name) for index in table.indexes if index.unique)]
    if error.sqlstate == _INTERNAL and any(f'"{key}_' in str(error) for key in keys):
        return driver.IntegrityError(str(error))
    return error

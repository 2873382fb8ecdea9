"""Many rows at once, by the way that the driver has for them: COPY with psycopg, executemany elsewhere.

The values are checked and converted by the column types, as in every insert. Memory is bounded by a chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any

import sqlalchemy as sa

from risk_store.repositories.lane import Prepared, encoder

__all__ = ["CHUNK", "Bulk"]

CHUNK = 1000


class Bulk:
    """Inserts into some columns of a table."""

    def __init__(self, table: sa.Table, columns: Sequence[str]) -> None:
        self._table = table
        self._columns = columns
        self._insert = Prepared(sa.insert(table), columns)

    def write(
        self,
        connect: Callable[[], sa.Connection],
        rows: Iterable[Mapping[str, Any]],
        progress: Callable[[int], None] = lambda _count: None,
    ) -> int:
        """Writes all rows and returns their number; `progress` is told how many are written, a chunk at a time.

        Raises InvalidValue, and what the database raises, as an insert does.
        """
        chunks = _chunks(rows)
        first = next(chunks, None)
        if first is None:
            return 0
        connection = connect()
        copies = connection.dialect.driver == "psycopg" and not connection.dialect.is_async
        count = 0
        # Whoever makes the rows, and who is told, may use this transaction: not while a COPY has the connection.
        for chunk in chain([first], chunks):
            if copies:
                self._copy(connection, chunk)
            else:
                self._insert.execute(connection, chunk)
            count += len(chunk)
            progress(count)
        return count

    def _copy(self, connection: sa.Connection, rows: Sequence[Mapping[str, Any]]) -> None:
        """COPY in binary form: no text is made of a value and read again, which is most of the cost."""
        dialect: Any = connection.dialect
        types = [self._table.columns[name].type.dialect_impl(dialect) for name in self._columns]
        convert = [(name, encoder(type_, dialect)) for name, type_ in zip(self._columns, types, strict=True)]
        names = ", ".join(map(dialect.identifier_preparer.quote, self._columns))
        statement = f"COPY {self._table.name} ({names}) FROM STDIN (FORMAT BINARY)"
        raw: Any = connection.connection.driver_connection
        try:
            with raw.cursor() as cursor, cursor.copy(statement) as copy:
                copy.set_types([type_.compile(dialect).lower() for type_ in types])
                for row in rows:
                    copy.write_row(
                        [value if (value := row[name]) is None or to is None else to(value) for name, to in convert]
                    )
        except dialect.loaded_dbapi.Error as error:
            told = self._as_told(error, dialect.loaded_dbapi)
            raise sa.exc.DBAPIError.instance(
                statement, None, told, dialect.loaded_dbapi.Error, hide_parameters=True, dialect=dialect
            ) from error

    def _as_told(self, error: Any, driver: Any) -> Any:
        """A distributed PostgreSQL hands on what a shard says of a COPY as an internal error, in the shard's words.

        If they name a unique key of the table, that is what was in the way.
        """
        keys = [str(self._table.primary_key.name), *(str(index.name) for index in self._table.indexes if index.unique)]
        if error.sqlstate == _INTERNAL and any(f'"{key}_' in str(error) for key in keys):
            return driver.IntegrityError(str(error))
        return error


_INTERNAL = "XX000"


def _chunks(rows: Iterable[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    source = iter(rows)
    while chunk := list(islice(source, CHUNK)):
        yield chunk

"""What the repositories of one transaction go through: a connection, or a Session on it for those who ask.

A Session costs 45 µs. Hot statements (:mod:`risk_store.repositories.prepared`) need none; their errors are SQLAlchemy's
as ever. So are the events of the cursor (but not `before_execute`), unless it is the driver's own that sends it: see
:class:`Lane`. What is left is printed by `python -m benchmarks`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from risk_store.engines import HAS_BEGUN
from risk_store.errors import StoreClosed
from risk_store.long_statements import native_cursor, send_native
from risk_store.models import Base
from risk_store.repositories.prepared import Prepared
from risk_store.sharding import is_distributed

__all__ = ["Lane", "Written"]


class Written(NamedTuple):
    """What a statement without rows did."""

    rowcount: int
    """Rows changed, where the driver counts them."""
    id: int | None
    """Of the row that an insert made, where the database gives it."""


class Lane:
    """A transaction's connection, or a Session of the caller's own.

    With a `cursor` the driver has begun the transaction, and SQLAlchemy not: hot statements then go by that cursor, and
    whoever asks for the connection or for a Session makes SQLAlchemy join. Beginning, a statement and committing take
    SQLAlchemy some 40 µs, which an order event alone takes as well; its events do not see what goes by the cursor.

    With `by_psycopg` the transaction is SQLAlchemy's from the beginning, and hot statements go by a cursor of the
    driver's in it until somebody asks for a Session: SQLAlchemy would take as long for each as the server does.
    """

    def __init__(self, given: sa.Connection | Session, cursor: Any = None, *, by_psycopg: bool = False) -> None:
        self._given: sa.Connection | Session | None = given
        self._session = given if isinstance(given, Session) else None
        self._cursor = cursor
        self._by_psycopg = by_psycopg
        self._of_psycopg: Any = None  # its cursor, made when it is first needed
        self._joined: ExitStack | None = None
        self.is_only_writer = cursor is not None
        """Whether nobody else can write before the transaction ends: that of a file which the driver has begun so."""

    @property
    def session(self) -> Session:
        """A Session of this transaction, made when it is first asked for."""
        if self._session is None:
            # From now on the transaction is the Session's: what it is told, commit and rollback too, holds.
            mode: Any = "control_fully"
            self._session = Session(self._bind(), expire_on_commit=False, join_transaction_mode=mode)
            self._session.connection()
        return self._session

    def write(self, prepared: Prepared, model: type[Base], parameters: Mapping[str, Any]) -> Written:
        """Carries out a hot statement that returns no rows, or on PostgreSQL an id.

        Raises InvalidValue for a value that its column cannot keep, and SQLAlchemy's errors.
        """
        by_driver = self._by_driver()
        if by_driver is not None:
            given, cursor = by_driver
            compiled = prepared.on(given.dialect)
            _send(given, cursor, compiled.sql, compiled.values(parameters))
            if given.dialect.name == "sqlite":
                return Written(cursor.rowcount, cursor.lastrowid)
            return Written(cursor.rowcount, cursor.fetchone()[0] if cursor.pgresult.nfields else None)
        result = prepared.execute(self.connection(model), parameters)
        if result.returns_rows:
            return Written(result.rowcount, result.scalar_one())
        return Written(result.rowcount, result.lastrowid if self.dialect(model).name == "sqlite" else None)

    def read(self, prepared: Prepared, model: type[Base], parameters: Mapping[str, Any]) -> Sequence[tuple[Any, ...]]:
        """The rows of a hot statement, as the driver gives them. Raises as :meth:`write` does."""
        by_driver = self._by_driver()
        if by_driver is not None:
            given, cursor = by_driver
            compiled = prepared.on(given.dialect)
            rows: list[tuple[Any, ...]] = _send(
                given, cursor, compiled.sql, compiled.values(parameters), fetch=cursor.fetchall
            )
            return rows
        return [tuple(row) for row in prepared.execute(self.connection(model), parameters)]

    def parts(self, statement: sa.Select[Any], model: type[Base], size: int) -> Iterator[Sequence[Sequence[Any]]]:
        """The rows of a statement whose columns are as the driver gives them, `size` at a time.

        By the driver's own cursor, since SQLAlchemy's rows would cost a tenth of a snapshot; its errors all the same.
        """
        connection = self.connection(model)
        options = connection.get_execution_options()
        with closing(connection.execute(statement)) as result:
            if options.get("stream_results") or options.get("yield_per"):  # SQLAlchemy has taken some rows already
                yield from result.partitions(size)
                return
            cursor: Any = result.cursor
            while rows := _carried_out(connection, str(result.context.statement), None, lambda: cursor.fetchmany(size)):
                yield rows

    def _by_driver(self) -> tuple[sa.Connection, Any] | None:
        """The connection and the driver's cursor, if that may send: options of somebody's own may change what is sent
        (schema_translate_map)."""
        cursor, given = self._cursor, self._given
        if not isinstance(given, sa.Connection) or given.get_execution_options():
            return None
        if cursor is None and self._by_psycopg and self._session is None:
            cursor = self._of_psycopg = self._of_psycopg or native_cursor(given.connection.driver_connection)
        return None if cursor is None else (given, cursor)

    def connection(self, model: type[Base]) -> sa.Connection:
        """The connection to the database of `model`; what is pending in the Session has been written."""
        session = self._session
        if session is None:
            return self._bind()
        if session.autoflush and (session.new or session.dirty or session.deleted):
            session.flush()
        return session.connection(bind_arguments={"mapper": model})

    def dialect(self, model: type[Base]) -> sa.Dialect:
        """Of the database in which `model` lives."""
        given = self._given
        if given is None:
            raise StoreClosed(_OVER)
        return given.get_bind(model).dialect if isinstance(given, Session) else given.dialect

    def is_distributed(self, model: type[Base]) -> bool:
        """Whether the store's tables are sharded by account over a Citus cluster."""
        return self.dialect(model).name == "postgresql" and is_distributed(self.connection(model))

    def finish(self) -> None:
        """Commits, by the Session if there is one: with what is pending, and whatever its listeners add to it.

        What the driver began it commits, unless SQLAlchemy has joined: from then on that is SQLAlchemy's alone.
        """
        if self._session is not None:
            self._session.commit()
        if self._joined is not None:
            self._joined.close()  # commits, unless the Session has
        elif self._cursor is not None and isinstance(self._given, sa.Connection):
            _send(self._given, self._cursor, "COMMIT")

    def end(self) -> None:
        """Lets go of the connection, which is the next transaction's."""
        if self._session is not None:
            self._session.close()
        self._given = self._cursor = self._of_psycopg = None

    def _bind(self) -> sa.Connection:
        if not isinstance(self._given, sa.Connection):
            raise StoreClosed(_OVER)
        if self._cursor is not None:
            self._cursor = None
            self._given.info[HAS_BEGUN] = True
            # As a block: once it was committed or rolled back, SQLAlchemy refuses to go on in it.
            self._joined = ExitStack()
            self._joined.enter_context(self._given.begin())
        return self._given


def _send(
    connection: sa.Connection, cursor: Any, sql: str, values: Any = (), fetch: Callable[[], Any] = lambda: None
) -> Any:
    """By the driver's cursor; returns what `fetch` does. Raises SQLAlchemy's errors, as its connection would."""

    def send() -> Any:
        if isinstance(values, dict):
            send_native(cursor, sql, values)
        else:
            cursor.execute(sql, values)
        return fetch()

    return _carried_out(connection, sql, values, send)


def _carried_out(connection: sa.Connection, sql: str, values: Any, work: Callable[[], Any]) -> Any:
    try:
        return work()
    except connection.dialect.loaded_dbapi.Error as error:
        is_lost = connection.dialect.is_disconnect(error, connection.connection, None)
        if is_lost:
            connection.invalidate(error)
        raise sa.exc.DBAPIError.instance(
            sql,
            values,
            error,
            connection.dialect.loaded_dbapi.Error,
            hide_parameters=connection.engine.hide_parameters,
            connection_invalidated=is_lost,
            dialect=connection.dialect,
        ) from error


_OVER = "this transaction is over: begin another one"

"""The one connection that writes to an SQLite file: whoever has the turn uses it.

Its twin for servers, with many connections, is :mod:`risk_store.recorders`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import URL

from risk_store.deadlines import left_until
from risk_store.engines import set_busy_timeout, set_wal, translated

__all__ = ["FileWriter", "OfThread"]

T = TypeVar("T")


class OfThread(threading.local):
    """What a store knows of a thread."""

    writing = False
    """Whether it is in a write transaction of the store's."""


class FileWriter:
    """Of one store, which tells `thread` whether it is writing.

    Its connection is kept: taking one from the pool and giving it back costs as much as two rows.
    """

    def __init__(self, engine: sa.Engine, url: URL, thread: OfThread) -> None:
        self._engine = engine
        self._translated = translated(url)
        self._thread = thread
        self._connection: sa.Connection | None = None
        self._raw: Any = None  # the driver's own
        self._info: dict[Any, Any] = {}  # what the connection's own `info` holds
        self._cursor: Any = None  # for what returns no rows: one that was not read to its end would keep a snapshot
        self._wal_is_set = False
        self._is_closed = False

    @contextmanager
    def transaction(self, deadline: float) -> Iterator[tuple[sa.Connection, Any]]:
        """A transaction of the thread that has the turn: the connection, and a cursor of the driver's.

        The driver begins it; whoever asked for it commits. (SQLAlchemy may join it: `repositories/lane.py`.) An error
        in the block, or no commit, rolls back and closes the connection.
        """
        with self._translated:
            try:
                self._thread.writing = True
                if self._connection is not None and (self._connection.closed or self._connection.invalidated):
                    self.drop()  # by a caller who kept it
                connection = self._ready(deadline)
                cursor = self._raw.cursor()
                cursor.execute("BEGIN IMMEDIATE")
                yield connection, cursor
                if self._raw.in_transaction:
                    self.drop()  # a Session was given up in the middle
                else:
                    cursor.close()
            except BaseException:
                self.drop()  # a COMMIT that failed may have left it in its transaction
                raise
            finally:
                self._thread.writing = False
            if self._is_closed or connection.get_execution_options():
                self.drop()  # options that somebody set for his own transaction are not the next one's

    def run(self, deadline: float, write: Callable[[Any], T]) -> T:
        """The same for a function that is given the cursor, and reads no rows: then it is committed.

        A block would take 5 µs more. Neither SQLAlchemy nor a caller's code comes near the connection meanwhile, so at
        the end there is nothing to look for. (One that a caller kept and has closed fails at once, and is not kept.)
        """
        try:
            self._thread.writing = True
            self._ready(deadline)
            cursor = self._cursor
            cursor.execute("BEGIN IMMEDIATE")
            result = write(cursor)
            cursor.execute("COMMIT")
        except BaseException as error:
            self.drop()
            self._translated.tell(error)
            raise
        finally:
            self._thread.writing = False
        if self._is_closed:
            self.drop()
        return result

    def keep_no_more(self) -> None:
        """The store is closed: whoever writes now closes the connection when done."""
        self._is_closed = True

    def drop(self) -> None:
        """Closes the connection; the next transaction opens another one. By the thread that has the turn."""
        connection, self._connection = self._connection, None
        raw, self._raw = self._raw, None
        self._cursor = None
        try:
            if connection is not None:
                connection.close()
        finally:
            if raw is not None:  # SQLAlchemy does not close one that it has invalidated, which keeps the file's lock
                raw.close()

    def _ready(self, deadline: float) -> sa.Connection:
        """The connection, which waits until `deadline` for a writer in another process."""
        if not self._wal_is_set:
            self._wal_is_set = set_wal(self._engine, left_until(deadline) / 2)
        if self._connection is None or self._raw.in_transaction:
            self.drop()  # Ctrl-C came between a transaction that failed and its end
            self._connection = self._engine.connect()
            self._raw = self._connection.connection.dbapi_connection
            self._cursor = self._raw.cursor()
            self._connection.detach()
            self._info = self._connection.info
        milliseconds = int((deadline - time.monotonic()) * 1000)
        if not milliseconds * 0.99 <= self._info.get("busy_timeout_ms", -1) <= milliseconds:
            set_busy_timeout(self._connection, milliseconds / 1000)
        return self._connection

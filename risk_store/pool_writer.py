"""Write transactions on connections of the pool: to a server, and to an SQLite database in memory.

Its twins: :mod:`risk_store.file_writer` for an SQLite file, :mod:`risk_store.recorders` for finished enforcements.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import sqlalchemy as sa
from sqlalchemy import exc

from risk_store.deadlines import answered_by, check_alive, cut_off_at, left_until, note_use

__all__ = ["PoolWriter"]

SET_TIMEOUTS = sa.text(
    "SELECT set_config('lock_timeout', :milliseconds, true), set_config('statement_timeout', :milliseconds, true)"
)


class PoolWriter:
    """Of one store. Several threads may write at a time.

    `most_kept` of its connections stay with it between transactions: to take one from the pool and to give it back
    takes a quarter of what an order event takes on a server.
    """

    def __init__(self, engine: sa.Engine, most_kept: int) -> None:
        self._engine = engine
        self._most_kept = most_kept
        self._kept: deque[sa.Connection] = deque()
        self._is_closed = False

    @contextmanager
    def transaction(self, deadline: float | None = None) -> Iterator[sa.Connection]:
        """A transaction, committed at the end of the block, rolled back by an exception.

        With a `deadline` (of ``time.monotonic()``), for a server alone, it is over by then whatever the server does,
        and be it nothing.
        """
        connection = self._take(deadline)
        try:
            if deadline is None:
                with connection.begin():
                    yield connection
            else:
                with cut_off_at(deadline, connection.connection), connection.begin():
                    milliseconds = str(max(1, math.ceil(left_until(deadline) * 1000)))
                    connection.execute(SET_TIMEOUTS, {"milliseconds": milliseconds})
                    yield connection
        except BaseException:
            self._let_go(connection)
            raise
        self._keep(connection)

    def close(self) -> None:
        """Closes those that nobody has at the moment; the others are closed when they come back."""
        self._is_closed = True
        with suppress(IndexError):
            while True:
                self._let_go(self._kept.pop())

    def _take(self, deadline: float | None) -> sa.Connection:
        if deadline is not None:
            with answered_by(deadline):
                return self._take(None)
        try:
            connection = self._kept.pop()
        except IndexError:
            return self._engine.connect()
        if _is_usable(connection):
            return connection
        self._let_go(connection)
        return self._engine.connect()

    def _keep(self, connection: sa.Connection) -> None:
        is_as_it_was = not (connection.closed or connection.in_transaction() or connection.get_execution_options())
        if self._is_closed or len(self._kept) >= self._most_kept or not is_as_it_was:
            self._let_go(connection)
            return
        note_use(connection.info)
        self._kept.append(connection)
        if self._is_closed:
            self.close()  # who closed the store meanwhile has not seen this one

    def _let_go(self, connection: sa.Connection) -> None:
        """Back to the pool, which rolls back what there is; of a store that is closed it would be nobody's there."""
        if self._is_closed and not (connection.closed or connection.invalidated):
            connection.detach()
        connection.close()


def _is_usable(connection: sa.Connection) -> bool:
    """Whether a connection that was kept is alive; a caller who has kept it as well may have used it meanwhile."""
    if connection.closed or connection.invalidated or connection.in_transaction():
        return False
    try:
        check_alive(connection.dialect, connection.connection.dbapi_connection, connection.info)
    except exc.DisconnectionError as error:
        connection.invalidate(error)
        return False
    return True

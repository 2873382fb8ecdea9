"""Connections to a server that are kept for finished enforcements: each statement is a transaction of its own.

What the general way takes instead (a connection from the pool and back, BEGIN, timeouts, COMMIT: a round trip each) is
printed by `python -m benchmarks --only W1`.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import URL

from risk_store.deadlines import CutOff, answered_by, cut_off_at
from risk_store.engines import translated
from risk_store.long_statements import native_cursor
from risk_store.sharding import is_distributed

__all__ = ["KEPT_S", "Recorder", "Recorders", "session_timeouts"]

T = TypeVar("T")

# A connection kept for records is not used again when it was idle for longer (seconds).
KEPT_S = 60.0
# How long a record waits for a lock of somebody else's (seconds) before it is tried in the general way, which waits as
# long as there is time: others may be in the same statement.
LOCKED_S = 0.1


def session_timeouts(most_s: float) -> str:
    """The statement after which the server ends those of a connection that is kept for records, after `most_s` seconds.

    >>> session_timeouts(5)
    "SELECT set_config('lock_timeout', '100', false), set_config('statement_timeout', '5000', false)"
    """
    lock_ms, most_ms = (math.ceil(seconds * 1000) for seconds in (min(LOCKED_S, most_s), most_s))
    return f"SELECT set_config('lock_timeout', '{lock_ms}', false), set_config('statement_timeout', '{most_ms}', false)"


class Recorder:
    """One such connection, the driver's own, with a cursor of it. Whoever has it is the only one."""

    def __init__(self, connection: sa.Connection, raw: Any, deadline: float, most_s: float) -> None:
        self._raw = raw
        with cut_off_at(deadline, raw):
            connection.execution_options(isolation_level="AUTOCOMMIT")
            self.takes_others = not is_distributed(connection)  # whose shards each have accounts of their own
            connection.detach()
            raw.execute(session_timeouts(most_s))
        self.dialect = connection.dialect
        self.cursor = native_cursor(raw)
        self.used = time.monotonic()
        self.cut = CutOff(raw)

    def close(self) -> None:
        self.cut.close()
        self._raw.close()  # SQLAlchemy would ask for a ROLLBACK first, and fail where the connection is lost


class Recorders:
    """Those of one store, `most` at most; the server ends their statements after `most_s` seconds.

    They are not tested before they are used: on a connection that died meanwhile the statement fails, and is tried
    again in the general way.
    """

    def __init__(self, engine: sa.Engine, url: URL, most_s: float, most: int) -> None:
        self._engine = engine
        self._translated = translated(url, engine.dialect.loaded_dbapi)
        self._most_s = most_s
        self._most = most
        self._kept: deque[Recorder] = deque()
        self._is_closed = False

    def run(self, deadline: float, work: Callable[[Recorder], T]) -> T:
        """Has `work` done on a connection, by `deadline`, whatever the server does; an error in it closes that one.

        The driver's errors are the store's own then. (It is no block: that would cost each record 5 µs.)
        """
        recorder = None
        try:
            recorder = self._take() or self._open(deadline)
            recorder.cut.begin(deadline)
            result = work(recorder)
            is_whole = recorder.cut.end()
        except BaseException as error:
            if recorder is not None:
                recorder.close()
            self._translated.tell(error if recorder is None else recorder.cut.told(error))
            raise
        recorder.used = time.monotonic()
        if is_whole and len(self._kept) < self._most:
            self._kept.append(recorder)
        else:
            recorder.close()
        if self._is_closed:
            self.close()  # who closed the store meanwhile has not seen this one
        return result

    def close(self) -> None:
        """Closes all that nobody has at the moment; the others are closed when they come back."""
        self._is_closed = True
        with suppress(IndexError):
            while True:
                self._kept.pop().close()

    def _take(self) -> Recorder | None:
        """The one that was used last. Not one that nobody has used for a while: what lies between may have forgotten it
        without a word, and finding that out takes all the time there is."""
        while True:
            try:
                recorder = self._kept.pop()
            except IndexError:
                return None
            if time.monotonic() - recorder.used < KEPT_S:
                return recorder
            recorder.close()

    def _open(self, deadline: float) -> Recorder:
        with answered_by(deadline):
            connection = self._engine.connect()
        raw: Any = connection.connection.dbapi_connection
        try:
            return Recorder(connection, raw, deadline, self._most_s)
        except BaseException:
            connection.invalidate()
            raw.close()  # if it belongs to no pool any more
            raise

"""How an enforcement of asyncio's gets to a server by the driver itself: one statement, a transaction of its own.

The twin of ``sending.py`` and ``recorders.py``, without their queue: tasks that record at once have a connection each.
What fails is tried again in the general way, which first looks whether it was written after all. What that takes
instead is printed by `python -m benchmarks --only W1`.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine

from risk_store.deadlines import CutOff, answered_by, cut_off_at
from risk_store.engines import translated
from risk_store.models import EnforcementInFlight, EnforcementLog, Lockout
from risk_store.recorders import KEPT_S, session_timeouts
from risk_store.recording import Limits
from risk_store.repositories.outcomes import Forms, Intent, Outcome
from risk_store.sharding import is_distributed

__all__ = ["AsyncSender", "IsDistributed"]


class IsDistributed(Exception):
    """The store is on several servers: there a record is two statements, which the general way sends."""


class AsyncSender:
    """Of one store on a server. Each deadline is one of ``time.monotonic()``; who waits gives up soon after it."""

    def __init__(
        self, engine: AsyncEngine, url: URL, limits: Limits, pool_size: int, clock: Callable[[], datetime]
    ) -> None:
        self._forms = Forms(engine.dialect)
        self._clock = clock
        self._recorders = _Recorders(engine, url, limits.record_s, pool_size)
        self._beginners = _Recorders(engine, url, limits.intent_s, pool_size)  # the server gives these up earlier

    def outcome(self, log: EnforcementLog, lockouts: Sequence[Lockout]) -> Outcome:
        """A finished enforcement and its lockouts, to be recorded. Raises InvalidValue."""
        outcome = Outcome(self._forms, log, lockouts, self._clock)
        outcome.encoded()
        return outcome

    async def record(self, outcome: Outcome, deadline: float) -> EnforcementLog:
        """It is durable when this returns."""
        async with self._recorders.one(deadline) as recorder:
            outcome.answered(await recorder.send(*outcome.one()))
        return outcome.told()

    async def begin(self, in_flight: EnforcementInFlight, lockouts: Sequence[Lockout], deadline: float) -> None:
        """The beginning of an enforcement, and its lockouts."""
        statement = Intent(self._forms, in_flight, lockouts, self._clock).one()
        async with self._beginners.one(deadline) as recorder:
            await recorder.send(*statement)

    async def end(self, latest: Callable[[], EnforcementLog], deadline: float) -> EnforcementLog:
        """The end of an enforcement that has begun, whose time runs until `latest` is asked for it.

        Raises LookupError if it is not in flight: then nothing was written.
        """
        async with self._recorders.one(deadline) as recorder:
            outcome = Outcome(self._forms, latest(), [], self._clock, in_flight=True)
            outcome.answered(await recorder.send(*outcome.one()))
        return outcome.told()

    async def close(self) -> None:
        """Closes the connections that nobody has at the moment; the others when they come back."""
        await self._recorders.close()
        await self._beginners.close()


class _Recorder(ABC):
    """A connection of the driver's in autocommit. Whoever has it is the only one."""

    def __init__(self, raw: Any) -> None:
        self.raw = raw
        self.cut = CutOff(raw)
        self.used = time.monotonic()

    @abstractmethod
    async def send(self, sql: Any, values: Sequence[Any]) -> Sequence[Any]:
        """Carries out one statement, with ``$1``, and gives the rows that it returns."""

    @abstractmethod
    async def close(self) -> None:
        """Without waiting for the server, which may not answer."""


class _ByPsycopg(_Recorder):
    def __init__(self, raw: Any) -> None:
        from psycopg import AsyncRawCursor

        super().__init__(raw)
        self._cursor = AsyncRawCursor(raw)

    async def send(self, sql: Any, values: Sequence[Any]) -> Sequence[Any]:
        await self._cursor.execute(sql, values)
        return await self._cursor.fetchall() if self._cursor.description is not None else ()

    async def close(self) -> None:
        self.cut.close()
        await self.raw.close()


class _ByAsyncpg(_Recorder):
    async def send(self, sql: Any, values: Sequence[Any]) -> Sequence[Any]:
        rows: Sequence[Any] = await self.raw.fetch(sql, *values)
        return rows

    async def close(self) -> None:
        self.cut.close()
        with suppress(RuntimeError):  # its event loop is closed: then so is the connection
            self.raw.terminate()


class _Recorders:
    """Those of one store, of which `most` are kept; the server ends their statements after `most_s` seconds."""

    def __init__(self, engine: AsyncEngine, url: URL, most_s: float, most: int) -> None:
        self._engine = engine
        self._translated = translated(url, _errors(engine.dialect))
        self._most_s = most_s
        self._most = most
        self._kept: deque[_Recorder] = deque()
        self._is_closed = False

    @asynccontextmanager
    async def one(self, deadline: float) -> AsyncIterator[_Recorder]:
        """A connection for this block, which is cut at `deadline`; an error closes it.

        The driver's errors are the store's own then. Raises IsDistributed.
        """
        recorder = None
        try:
            recorder = await self._take() or await self._open(deadline)
            recorder.cut.begin(deadline)
            yield recorder
            is_whole = recorder.cut.end()
        except BaseException as error:
            if recorder is not None:
                await recorder.close()
                error = recorder.cut.told(error)
            self._translated.tell(error)
            raise
        recorder.used = time.monotonic()
        if is_whole and not self._is_closed and len(self._kept) < self._most:
            self._kept.append(recorder)
        else:
            await recorder.close()

    async def close(self) -> None:
        self._is_closed = True
        while self._kept:
            await self._kept.pop().close()

    async def _take(self) -> _Recorder | None:
        """The one that was used last, unless nobody has used it for a while: as :class:`~risk_store.recorders`."""
        while self._kept:
            recorder = self._kept.pop()
            if time.monotonic() - recorder.used < KEPT_S:
                return recorder
            await recorder.close()
        return None

    async def _open(self, deadline: float) -> _Recorder:
        with answered_by(deadline):
            connection = await self._engine.connect()
        try:
            raw = (await connection.get_raw_connection()).driver_connection
            with cut_off_at(deadline, raw):
                await connection.execution_options(isolation_level="AUTOCOMMIT")
                if await connection.run_sync(is_distributed):
                    raise IsDistributed
                await connection.exec_driver_sql(session_timeouts(self._most_s))
            recorder = (_ByAsyncpg if self._engine.dialect.driver == "asyncpg" else _ByPsycopg)(raw)
        except BaseException:
            await connection.invalidate()
            await connection.close()
            raise
        assert connection.sync_connection is not None
        connection.sync_connection.detach()  # it is no longer the pool's
        return recorder


def _errors(dialect: sa.Dialect) -> Any:
    """The driver's own errors, as :class:`translated` asks for them."""
    if dialect.driver != "asyncpg":
        return dialect.loaded_dbapi
    asyncpg: Any = import_module("asyncpg")  # which has no types
    lost = (asyncpg.InterfaceError, OSError)  # without an answer of the server's
    return SimpleNamespace(Error=(asyncpg.PostgresError, *lost), OperationalError=lost)

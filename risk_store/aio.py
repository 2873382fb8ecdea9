"""AsyncRiskStore: the same door for asyncio.

The statements, the repositories and the rules of an enforcement are those of the other door, run in SQLAlchemy's own
way from asyncio into synchronous code (D13). Only what waits has a twin here: the writers' turn, the transaction, the
watchdog.

Drivers: ``sqlite+aiosqlite``, ``postgresql+psycopg``, ``postgresql+asyncpg``; the extra ``[asyncio]``.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import time
import uuid
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar, Unpack

from sqlalchemy import event
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session

from risk_store import schema
from risk_store.aio_sending import AsyncSender, IsDistributed
from risk_store.alerts import Thresholds
from risk_store.deadlines import NoAnswerInTime, answered_by, cut_off_at, left_until
from risk_store.enforcement import NOT_ASKED, EnforcementContext, EnforcementCore, NotAsked, OnAlert, ShortWay
from risk_store.engines import (
    BUSY_TIMEOUT_S,
    database_file,
    display_url,
    end_reading,
    open_async_engine,
    open_engine,
    parse_url,
    set_wal,
    sync_url,
    translated,
)
from risk_store.errors import InvalidValue, NestedTransaction, SchemaMismatch, StoreBusy, StoreClosed, StoreUnavailable
from risk_store.interrupted import Interrupted
from risk_store.models import EnforcementInFlight, EnforcementLog, Lockout
from risk_store.models.base import utc_now
from risk_store.recording import Limits, Step, Steps, Tried, recording
from risk_store.repositories import Transaction
from risk_store.store import SET_TIMEOUTS, RiskStore

if TYPE_CHECKING:
    from risk_store.metrics import Metrics

__all__ = ["AsyncEnforcement", "AsyncRiskStore", "AsyncTransaction"]

logger = logging.getLogger("risk_store.aio")

T = TypeVar("T")

# How much longer than its limit a call may take before asyncio itself gives it up: the driver's own end comes first.
_GRACE_S = 0.25
# How long a driver may wait for a server to close its end: asyncpg does, for ever if that says nothing.
_GOODBYE_S = 2.0


class AsyncTransaction:
    """What ``store.begin()`` and ``store.read()`` give: the repositories, awaited.

    ``await tx.orders.working(456)`` runs the method of :class:`~risk_store.repositories.OrderRepository`; several at
    once, or what has no repository, go through :meth:`run`.
    """

    def __init__(self, session: AsyncSession, clock: Callable[[], datetime]) -> None:
        self.session = session
        self._clock = clock
        self.orders: Any = _Awaited(self, "orders")
        self.positions: Any = _Awaited(self, "positions")
        self.trades: Any = _Awaited(self, "trades")
        self.enforcements: Any = _Awaited(self, "enforcements")
        self.lockouts: Any = _Awaited(self, "lockouts")

    async def run(self, work: Callable[[Transaction], T]) -> T:
        """What `work` returns, called with the repositories of this transaction; it must not wait for anything else."""

        def with_repositories(session: Session) -> T:
            return work(Transaction(session, self._clock))

        return await self.session.run_sync(with_repositories)


class _Awaited:
    """A repository whose methods are awaited."""

    def __init__(self, tx: AsyncTransaction, name: str) -> None:
        self._tx = tx
        self._name = name

    def __getattr__(self, method: str) -> Callable[..., Coroutine[Any, Any, Any]]:
        async def call(*arguments: Any, **keywords: Any) -> Any:
            return await self._tx.run(lambda tx: getattr(getattr(tx, self._name), method)(*arguments, **keywords))

        return call


class _RunSteps(Protocol):
    def __call__(self, steps: Steps[T]) -> Coroutine[Any, Any, T]: ...


@dataclass(kw_only=True)
class AsyncEnforcement(EnforcementCore):
    """An enforcement under way in a task. Made by :meth:`AsyncRiskStore.enforce`; used with ``async with``.

    Everything in the block is as in :class:`~risk_store.enforcement.Enforcement`; :meth:`lock_out` is awaited.
    """

    run: _RunSteps
    short_way: ShortWay | None = None
    cancel_on_timeout: bool = False

    async def lock_out(self, until: datetime | None = None, reason: str | None = None) -> None:
        """Locks the account now, in a transaction of its own; `until` None is until released.

        Never raises for a store in trouble, since the rest of the block must run: the lockout is then written with the
        outcome. Raises InvalidValue for an `until` that is not an aware instant, and for an empty reason.
        """
        await self.run(self._locking_out(until, reason))

    async def __aenter__(self) -> Self:
        await self.run(self._beginning(self.short_way))
        self._call = self._watched()  # by a thread: it tells also when a block holds up the whole event loop
        self._timeout = asyncio.timeout(max(0.0, self._limit - time.monotonic())) if self.cancel_on_timeout else None
        if self._timeout is not None:
            await self._timeout.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._call.cancel()
        overrun: BaseException | None = None
        if self._timeout is not None:
            try:
                await self._timeout.__aexit__(kind, error, traceback)
            except TimeoutError as raised:  # the block was cancelled because its time was over, and by nobody else
                overrun = raised
        cancelled = await _to_the_end(self._end(overrun or error))
        if overrun is not None:
            raise overrun
        if cancelled is not None and error is None:
            raise cancelled  # (an error of the block's own is never replaced)

    async def _end(self, error: BaseException | None) -> None:
        try:
            await self.run(self._ending(error, self.short_way))
        finally:
            if self._ended is not None:
                await asyncio.to_thread(self._tell_of_end)  # a callback that hangs holds up this task, and no other


async def _to_the_end(work: Coroutine[Any, Any, object]) -> asyncio.CancelledError | None:
    """Waits for `work` however often this task is cancelled meanwhile: a record must not be lost to impatience.

    Returns the last cancellation. Only the end of the event loop itself ends `work` before its time.
    """
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            if task.cancelled():
                raise
            cancelled = error
        except BaseException:
            break  # the task's own: told below
    task.result()
    return cancelled


class AsyncRiskStore:
    """A risk daemon's memory, for asyncio: the same rules and outcomes as :class:`~risk_store.RiskStore`.

    One event loop uses a store; tasks may share it, writers take turns.

    >>> async def main(url):
    ...     async with AsyncRiskStore(url) as store:
    ...         await store.upgrade()
    ...         async with store.enforce(account_id=456, rule_id="RULE-003", action="CLOSE_ALL", reason="loss",
    ...                                  lock_until=None) as enforcement:
    ...             enforcement.positions_closed += 1
    ...         async with store.read() as tx:
    ...             return enforcement.log.success, await tx.lockouts.is_locked(456)
    >>> asyncio.run(main("sqlite+aiosqlite:///" + str(getfixture("tmp_path") / "risk.db")))
    (True, True)
    """

    def __init__(
        self,
        url: str | URL,
        *,
        clock: Callable[[], datetime] = utc_now,
        monotonic: Callable[[], float] = time.monotonic,
        thresholds: Thresholds | None = None,
        limits: Limits | None = None,
        on_alert: OnAlert | Sequence[OnAlert] = (),
        metrics: Metrics | None = None,
        pool_size: int = 5,
    ) -> None:
        self._url = parse_url(url)
        self._is_sqlite = self._url.get_backend_name() == "sqlite"
        if self._is_sqlite:
            file = database_file(self._url)
            if file is None:
                raise InvalidValue("url", display_url(self._url), "an SQLite file: a database in memory has one thread")
            self._url = self._url.set(drivername="sqlite+aiosqlite", database=str(file))
        self._clock = clock
        self._context = EnforcementContext.of(clock, monotonic, thresholds, limits, on_alert, metrics)
        self._engine = open_async_engine(self._url, "store", pool_size=pool_size)
        self._readers = open_async_engine(self._url, "read", pool_size=pool_size)
        self._sender: AsyncSender | None = None  # on a server: the short way for enforcements
        if not self._is_sqlite:
            self._sender = AsyncSender(self._engine, self._url, self._context.limits, pool_size, clock)
        self._of_asyncpg: weakref.WeakSet[Any] = weakref.WeakSet()  # its connections, which may have to be let go
        if self._engine.dialect.driver == "asyncpg":
            for engine in (self._engine, self._readers):
                event.listen(
                    engine.sync_engine, "connect", lambda raw, _record: self._of_asyncpg.add(raw.driver_connection)
                )
        self._turn = asyncio.Lock()  # fair: the writers of this loop come in the order in which they asked
        self._writing: set[asyncio.Task[Any] | None] = set()
        self._verdict: schema.SchemaStatus | None = None
        self._wal_is_set = not self._is_sqlite
        self._closed = False
        self._pid = os.getpid()
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def engine(self) -> AsyncEngine:
        """The engine that writes; for SQLAlchemy code of your own. It does not take the verdict or a turn for you."""
        return self._engine

    def __repr__(self) -> str:
        return f"AsyncRiskStore({display_url(self._url)!r})"

    async def status(self) -> schema.SchemaStatus:
        """The schema's verdict, taken now and read-only."""
        if self._is_sqlite:
            return await asyncio.to_thread(schema.status, sync_url(self._url))
        with translated(self._url):
            async with self._readers.connect() as connection:
                return await connection.run_sync(lambda plain: schema.inspect_schema(plain, self._url))

    async def upgrade(self, **options: Unpack[schema.UpgradeOptions]) -> schema.UpgradeReport:
        """Brings the database to head, in a thread: see :func:`risk_store.schema.upgrade`, whose options it takes.

        Migrations run with the synchronous driver (on PostgreSQL psycopg 3).
        """
        report = await asyncio.to_thread(lambda: schema.upgrade(sync_url(self._url), **options))
        self._verdict = None
        return report

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncTransaction]:
        """One write transaction: committed at the end of the block, rolled back by an exception.

        Raises SchemaMismatch, StoreBusy, StoreFull, StoreReadOnly, StoreUnavailable, StoreClosed, NestedTransaction.
        """
        async with self._write(None) as tx:
            yield tx

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncTransaction]:
        """One read-only transaction, a consistent view of the moment of its first statement. Writing in it fails."""
        await self._check_ready()
        with translated(self._url):
            async with AsyncSession(self._readers, expire_on_commit=False) as session:
                yield AsyncTransaction(session, self._clock)
                await session.run_sync(end_reading)

    def enforce(
        self,
        account_id: int,
        rule_id: str,
        action: str,
        reason: str,
        details: Mapping[str, Any] | str | None = None,
        lock_until: datetime | NotAsked | None = NOT_ASKED,
        exclusive: bool = False,
        cancel_on_timeout: bool = False,
    ) -> AsyncEnforcement:
        """An asynchronous context manager around one enforcement: as :meth:`risk_store.RiskStore.enforce`.

        A block over its time is alerted while it hangs and left to finish: a close that is cancelled may have been
        executed, and an aborted flattening leaves the rest open. With `cancel_on_timeout` it is cancelled at
        ``timeout_ms``; TimeoutError then tells the caller, after the row is written.
        """
        self._check_not_nested()
        return AsyncEnforcement(
            account_id=account_id,
            rule_id=rule_id,
            action=action,
            reason=reason,
            details=details,
            lock_until=lock_until,
            exclusive=exclusive,
            cancel_on_timeout=cancel_on_timeout,
            run=self._run_steps,
            short_way=None if self._sender is None else ShortWay(self._send_beginning, self._send_end),
            context=self._context,
        )

    async def record(self, log: EnforcementLog, lockout: Lockout | None = None) -> EnforcementLog:
        """Writes one finished enforcement, and its lockout if there is one: as :meth:`risk_store.RiskStore.record`."""
        log.enforcement_id = log.enforcement_id or uuid.uuid4().hex
        lockouts = [lockout] if lockout is not None else []
        tried = None
        if self._sender is not None:
            deadline = time.monotonic() + self._context.limits.record_s
            try:
                outcome = self._sender.outcome(log, lockouts)
                return await self._short(lambda sender: sender.record(outcome, deadline), deadline)
            except BaseException as error:
                tried = Tried(error, log, deadline)
        else:
            log.check_writable()
        steps = recording(lambda: log, lockouts, self._context.limits, in_flight=False, tried=tried)
        return await self._run_steps(steps)

    async def interrupted(self) -> list[Interrupted]:
        """Enforcements whose process is gone, or of other hosts: as :meth:`risk_store.RiskStore.interrupted`."""
        async with self.read() as tx:
            return Interrupted.among(await tx.run(lambda plain: plain.enforcements.in_flight()))

    async def close_interrupted(
        self, row: Interrupted | EnforcementInFlight, note: str, *, other_host: bool = False
    ) -> EnforcementLog:
        """Moves one to the log, as failed: as :meth:`risk_store.RiskStore.close_interrupted`."""
        in_flight = Interrupted.check(row, other_host)
        async with self.begin() as tx:
            return await tx.run(lambda plain: plain.enforcements.close(in_flight, note))

    async def roll_up(self) -> int:
        """Rolls up what is new in the log, in a thread: as :meth:`risk_store.RiskStore.roll_up`.

        With the synchronous driver, like :meth:`upgrade`.
        """

        def work() -> int:
            with RiskStore(sync_url(self._url), clock=self._clock) as store:
                return store.roll_up()

        return await asyncio.to_thread(work)

    async def prune(self, before: datetime) -> int:
        """Deletes old days from the log, in a thread: as :meth:`risk_store.RiskStore.prune`."""

        def work() -> int:
            with RiskStore(sync_url(self._url), clock=self._clock) as store:
                return store.prune(before)

        return await asyncio.to_thread(work)

    async def close(self) -> None:
        """Closes all connections. The store cannot be used afterwards."""
        self._closed = True
        if self._sender is not None:
            await self._sender.close()
        try:
            async with asyncio.timeout(None if self._is_sqlite else _GOODBYE_S):
                await self._readers.dispose()
                await self._engine.dispose()
        except TimeoutError:
            logger.warning("%s did not let its connections go within %g s", display_url(self._url), _GOODBYE_S)
            for raw in self._of_asyncpg:
                raw.terminate()
            await self._readers.dispose(close=False)
            await self._engine.dispose(close=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def _run_steps(self, steps: Steps[T]) -> T:
        """Runs each step in a transaction of its own: the twin of :func:`risk_store.enforcement.run_steps`."""
        try:
            step = next(steps)
            while True:
                try:
                    if not isinstance(step, Step):
                        result = await step
                    elif step.to_the_end:
                        result = await _to_the_end(self._in_transaction(step))
                    else:
                        result = await self._in_transaction(step)
                except BaseException as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(result)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]

    async def _in_transaction(self, step: Step) -> Any:
        try:
            async with asyncio.timeout(step.timeout_s + _GRACE_S), self._write(step.timeout_s) as tx:
                return await tx.run(step.work)
        except TimeoutError as error:
            raise StoreUnavailable(f"{display_url(self._url)}: no answer within {step.timeout_s:.3g} s") from error

    async def _send_beginning(
        self, in_flight: EnforcementInFlight, lockouts: Sequence[Lockout], deadline: float
    ) -> None:
        self._check_not_nested()  # of this task, and not of the next one
        begun = self._short(lambda sender: sender.begin(in_flight, lockouts, deadline), deadline)
        sending = asyncio.ensure_future(begun)
        sending.add_done_callback(lambda done: done.cancelled() or done.exception())  # somebody has looked at it
        try:
            await asyncio.shield(sending)
        except asyncio.CancelledError:
            # Not before it is over, which is soon: else a server might carry it out after it was taken back.
            while not sending.done():
                with suppress(asyncio.CancelledError):
                    await asyncio.wait([sending])
            raise

    def _send_end(self, latest: Callable[[], EnforcementLog], deadline: float) -> Awaitable[EnforcementLog]:
        return self._short(lambda sender: sender.end(latest, deadline), deadline)

    async def _short(self, send: Callable[[AsyncSender], Awaitable[T]], deadline: float) -> T:
        """What the sender does, if the store may write now. Raises IsDistributed where it is of no use, once."""
        self._check_not_nested()
        with translated(self._url):
            try:
                async with asyncio.timeout(left_until(deadline) + _GRACE_S):
                    await self._check_ready(left_until(deadline))
                    if self._sender is None:
                        raise IsDistributed
                    return await send(self._sender)
            except TimeoutError as error:
                raise NoAnswerInTime from error
            except IsDistributed:
                sender, self._sender = self._sender, None
                if sender is not None:
                    await sender.close()
                raise

    @asynccontextmanager
    async def _write(self, timeout_s: float | None) -> AsyncIterator[AsyncTransaction]:
        """One write transaction, waited for at most about `timeout_s` seconds; None is SQLite's own patience."""
        self._check_not_nested()
        bounded = timeout_s is not None
        patience_s = BUSY_TIMEOUT_S if timeout_s is None else timeout_s
        deadline = time.monotonic() + patience_s
        await self._check_ready(patience_s)
        task = asyncio.current_task()
        async with AsyncExitStack() as stack:
            stack.enter_context(translated(self._url))
            if self._is_sqlite:
                await stack.enter_async_context(self._turn_within(patience_s))
            if not self._wal_is_set:
                self._wal_is_set = await self._set_wal(patience_s / 2)
            self._writing.add(task)
            stack.callback(self._writing.discard, task)
            options = {"busy_timeout_s": left_until(deadline)} if bounded and self._is_sqlite else {}
            session = await stack.enter_async_context(
                AsyncSession(self._engine, expire_on_commit=False, sync_session_class=Session)
            )
            with answered_by(deadline) if bounded else nullcontext():
                connection = await session.connection(execution_options=options)
            raw = (await connection.get_raw_connection()).dbapi_connection
            cut = cut_off_at(deadline, raw) if bounded and not self._is_sqlite else nullcontext()
            with cut:
                if bounded and not self._is_sqlite:
                    left_ms = max(1, math.ceil((deadline - time.monotonic()) * 1000))
                    await session.execute(SET_TIMEOUTS, {"milliseconds": str(left_ms)})
                try:
                    yield AsyncTransaction(session, self._clock)
                    await session.commit()
                except BaseException:
                    await session.rollback()
                    raise

    @asynccontextmanager
    async def _turn_within(self, timeout_s: float) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(timeout_s):
                await self._turn.acquire()
        except TimeoutError:
            raise StoreBusy(f"other writers of this process kept the store for {timeout_s:g} s") from None
        try:
            yield
        finally:
            self._turn.release()

    async def _set_wal(self, timeout_s: float) -> bool:
        def switch() -> bool:
            engine = open_engine(sync_url(self._url), "store")
            try:
                return set_wal(engine, timeout_s)
            finally:
                engine.dispose()

        return await asyncio.to_thread(switch)

    def _check_not_nested(self) -> None:
        if asyncio.current_task() in self._writing:
            raise NestedTransaction

    async def _check_ready(self, timeout_s: float = BUSY_TIMEOUT_S) -> None:
        if self._closed:
            raise StoreClosed
        loop = asyncio.get_running_loop()
        if self._loop not in (None, loop):
            raise StoreClosed("this AsyncRiskStore belongs to another event loop: make a new one in this one")
        self._loop = loop
        if self._pid != os.getpid():
            raise StoreClosed("this AsyncRiskStore was made before a fork(): make a new one in the child process")
        if self._verdict is not None:
            return
        if self._is_sqlite:
            status = await asyncio.to_thread(schema.status, sync_url(self._url), busy_timeout_s=timeout_s)
        else:
            status = await self.status()
        if not status.ok:
            raise SchemaMismatch(status)  # not kept: after an upgrade the same store works
        self._verdict = status

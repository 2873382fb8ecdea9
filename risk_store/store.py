"""RiskStore: the front door. Engine, transactions, the schema's guard."""

from __future__ import annotations

import math
import os
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import replace
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, Unpack

import sqlalchemy as sa
from sqlalchemy.engine import URL
from sqlalchemy.orm import Session

from risk_store import schema
from risk_store.alerts import Thresholds
from risk_store.deadlines import answered_by, cut_off_at, left_until
from risk_store.enforcement import (
    NOT_ASKED,
    Enforcement,
    EnforcementContext,
    LiveEnforcements,
    NotAsked,
    OnAlert,
    ShortWay,
)
from risk_store.engines import (
    BUSY_TIMEOUT_S,
    database_file,
    display_url,
    end_reading,
    open_engine,
    parse_url,
    translated,
)
from risk_store.errors import NestedTransaction, SchemaMismatch, StoreBusy, StoreClosed
from risk_store.file_writer import FileWriter, OfThread
from risk_store.interrupted import Interrupted
from risk_store.models import EnforcementInFlight, EnforcementLog, Lockout
from risk_store.models.base import utc_now
from risk_store.recording import Limits, Tried, recording, run_steps
from risk_store.repositories import Transaction
from risk_store.repositories.rollup import RollUpRepository
from risk_store.sending import Sender, ToFile, ToServer
from risk_store.statements.rollup import end_of_days
from risk_store.writers import WriterQueue

if TYPE_CHECKING:
    from risk_store.metrics import Metrics

__all__ = ["RiskStore"]

SET_TIMEOUTS = sa.text(
    "SELECT set_config('lock_timeout', :milliseconds, true), set_config('statement_timeout', :milliseconds, true)"
)

# Rows of the log in one transaction of the roll-up's. An SQLite file has one writer: 2,000 rows keep it for some 20 ms.
ROLLED_UP_AT_A_TIME = {True: 2_000, False: 20_000}
PRUNED_AT_A_TIME = 1_000

_stores: weakref.WeakSet[RiskStore] = weakref.WeakSet()


class RiskStore:
    """A risk daemon's memory: one SQLite file or one PostgreSQL database.

    Making one touches nothing. The first use takes the schema's verdict and raises SchemaMismatch, which names what to
    run, unless it is current; only :meth:`upgrade` ever creates a file. Threads may share a store; writers take turns.

    `clock` gives the current instant (aware UTC), `monotonic` seconds for durations (D6): inject them in tests.
    `thresholds` that are not given are those of the environment or its YAML file (:mod:`risk_store.settings`).
    `on_alert`, a function or several, is called with an :class:`~risk_store.alerts.Alert`: from a thread of its own
    while a block hangs, else in the thread of the enforcement after its row is written.

    >>> from risk_store import Order, OrderSide, OrderState, OrderType
    >>> store = RiskStore("sqlite:///" + str(getfixture("tmp_path") / "risk.db"))
    >>> store.upgrade().after
    '0006'
    >>> with store.begin() as tx:
    ...     _ = tx.orders.save(Order(id=123, account_id=456, contract_id="CON.F.US.MNQ.U25", type=OrderType.LIMIT,
    ...                              side=OrderSide.BUY, size=1, limit_price=21000.0, state=OrderState.ACTIVE))
    >>> with store.read() as tx:
    ...     [order.id for order in tx.orders.working(account_id=456)]
    [123]
    >>> with store.enforce(account_id=456, rule_id="RULE-003", action="CLOSE_ALL_AND_LOCKOUT",
    ...                    reason="Daily loss limit hit: -$550", lock_until=None) as enforcement:
    ...     enforcement.positions_closed += 1
    >>> enforcement.log.success
    True
    >>> store.close()
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
        if (file := database_file(self._url)) is not None:
            self._url = self._url.set(database=str(file))  # a later chdir must not lead to another file
        self._clock = clock
        self._context = EnforcementContext.of(clock, monotonic, thresholds, limits, on_alert, metrics)
        self._engine = open_engine(self._url, "store", pool_size=pool_size)
        self._is_sqlite = self._url.get_backend_name() == "sqlite"
        # An in-memory database is its one connection: readers share it, and wait for their turn like writers.
        self._in_memory = self._is_sqlite and database_file(self._url) is None
        self._readers = self._engine if self._in_memory else open_engine(self._url, "read", pool_size=pool_size)
        self._queue = WriterQueue()
        self._pool_size = pool_size
        self._guard = threading.Lock()
        self._verdict: schema.SchemaStatus | None = None
        self._closed = False
        self._thread = OfThread()
        self._file = FileWriter(self._engine, self._url, self._thread)
        self._sender = self._make_sender()
        self._of_parents: list[object] = []  # what a forked process has of those it comes from
        _stores.add(self)

    @property
    def engine(self) -> sa.Engine:
        """The engine that writes; for SQLAlchemy code of your own. It does not take the verdict or a turn for you.

        Its cursor events do not see what :meth:`record` and :meth:`enforce` send, nor, on an SQLite file and by
        psycopg, the hot statements of :meth:`begin` (an event, a log row, a lockout): those go by the driver.
        """
        return self._engine

    def __repr__(self) -> str:
        return f"RiskStore({display_url(self._url)!r})"

    def status(self) -> schema.SchemaStatus:
        """The schema's verdict, taken now and read-only."""
        if self._in_memory:
            self._check_not_nested()  # its one connection is in the transaction, which the look would end
        return schema.status(self._database)

    def upgrade(self, **options: Unpack[schema.UpgradeOptions]) -> schema.UpgradeReport:
        """Brings the database to head: the same as ``alembic upgrade head``, with a verified copy first.

        See :func:`risk_store.schema.upgrade`, whose options it takes.
        """
        report = schema.upgrade(self._database, **options)
        self._verdict = None
        return report

    @property
    def _database(self) -> URL | sa.Engine:
        return self._engine if self._in_memory else self._url

    def begin(self) -> AbstractContextManager[Transaction]:
        """One write transaction: committed at the end of the block, rolled back by an exception.

        Raises SchemaMismatch, StoreBusy, StoreFull, StoreReadOnly, StoreUnavailable, StoreClosed, NestedTransaction.
        """
        return self._write(None)

    @contextmanager
    def read(self) -> Iterator[Transaction]:
        """One read-only transaction, a consistent view of the moment of its first statement. Writing in it fails."""
        self._check_ready()
        turn = self._queue.turn(BUSY_TIMEOUT_S) if self._in_memory else nullcontext()
        options = {"sqlite_begin": "DEFERRED"}
        with (
            turn,
            translated(self._url),
            Session(self._readers, expire_on_commit=False, execution_options=options) as session,
        ):
            yield Transaction(session, self._clock)
            end_reading(session)

    def enforce(
        self,
        account_id: int,
        rule_id: str,
        action: str,
        reason: str,
        details: Mapping[str, Any] | str | None = None,
        lock_until: datetime | NotAsked | None = NOT_ASKED,
        exclusive: bool = False,
    ) -> Enforcement:
        """A context manager around one enforcement: timed, and in the log whatever happens in its block.

        With `lock_until` (an instant, or None for until released) the account is locked before the block runs. Only
        bad arguments raise here (InvalidValue, and NestedTransaction inside :meth:`begin`): a store in trouble never
        keeps a position from being closed. After the block, EnforcementNotRecorded tells that the row could not be
        written; an exception of the block's own is logged and goes on its way.

        `exclusive` refuses a second live enforcement of the same account and rule before its block
        (EnforcementInProgress): a breach that repeats ten times a second must not flatten twice. One of another host,
        of which nobody here knows whether it lives, counts as live for a minute.
        """
        self._check_not_nested()
        return Enforcement(
            account_id=account_id,
            rule_id=rule_id,
            action=action,
            reason=reason,
            details=details,
            lock_until=lock_until,
            exclusive=exclusive,
            write=self._write,
            short_way=None if self._sender is None else ShortWay(self._send_beginning, self._send_end),
            context=self._context,
        )

    def record(self, log: EnforcementLog, lockout: Lockout | None = None) -> EnforcementLog:
        """Writes one finished enforcement, and its lockout if there is one, in one transaction; durable on return.

        The same path that :meth:`enforce` ends with. The log gets an enforcement_id if it has none, so that calling
        again with it after an error never doubles the row. Raises InvalidValue, EnforcementNotRecorded.
        """
        # Its attribute is asked only if need be: that takes ten times as long.
        if not vars(log).get("enforcement_id") and not log.enforcement_id:
            log.enforcement_id = uuid.uuid4().hex
        lockouts = [] if lockout is None else [lockout]
        tried = None
        if self._sender is not None:
            deadline = time.monotonic() + self._context.limits.record_s
            try:
                return self._sender.record(log, lockouts, deadline, self._check_sending, self._transaction)
            except BaseException as error:
                tried = Tried(error, log, deadline)
        else:
            log.check_writable()
        return run_steps(
            recording(lambda: log, lockouts, self._context.limits, in_flight=False, tried=tried), self._write
        )

    def interrupted(self) -> list[Interrupted]:
        """Enforcements that have begun and whose process is gone: nobody will finish them. Those of other hosts, of
        which this one cannot tell, are there too, as unknown. What they did at the broker has to be looked up there.
        """
        with self.read() as tx:
            return Interrupted.among(tx.enforcements.in_flight())

    def close_interrupted(
        self, row: Interrupted | EnforcementInFlight, note: str, *, other_host: bool = False
    ) -> EnforcementLog:
        """Moves an interrupted enforcement into the log, as failed: `note` says what was found out about it.

        Refuses, with InvalidValue, one whose process is alive, and one of another host unless `other_host` says that it
        is known to be gone. Should its process finish it all the same, that is written too, marked as late.
        """
        in_flight = Interrupted.check(row, other_host)
        with self.begin() as tx:
            return tx.enforcements.close(in_flight, note)

    def roll_up(self, progress: Callable[[int], None] = lambda _count: None) -> int:
        """Rolls up what is new in the log, and returns how many rows that were: reports then need not read them.

        Reports are right without it, and slower the more there is that is not rolled up: call it when
        the daemon has nothing to do, or `risk-store roll-up` by a timer. In transactions of some milliseconds each,
        between which others write; `progress` is told how many rows are done. Another one's work is waited for.
        """
        rows = 0
        while done := self._rolling(lambda rollup: rollup.advance(ROLLED_UP_AT_A_TIME[self._is_sqlite])):
            rows += done
            progress(rows)
        if rows:
            self._rolling(lambda rollup: rollup.analyze(grown=rows > ROLLED_UP_AT_A_TIME[self._is_sqlite]))
        return rows

    def prune(self, before: datetime, progress: Callable[[int], None] = lambda _count: None) -> int:
        """Deletes from the log what began on the UTC days that end by `before`, and returns how many rows that were.

        The one way for rows to leave the log (D5). Reports count them on with `include_pruned`. In transactions of some
        milliseconds each, whatever was done by an earlier one stays done. Rows that the roll-up cannot hold (a v1
        daemon's in another form) stay until `risk-store upgrade` makes them canonical. Raises InvalidValue.
        """
        day = end_of_days(before)
        self.roll_up()
        rows = 0
        while done := self._rolling(lambda rollup: rollup.prune(day, PRUNED_AT_A_TIME)):
            rows += done
            progress(rows)
        return rows

    def _rolling(self, work: Callable[[RollUpRepository], int]) -> int:
        """One step of the roll-up's, in a transaction of its own."""
        if self._is_sqlite:
            began = time.monotonic()
            with self._write(None) as tx:
                done = work(tx.rollup)
            if not self._in_memory:  # another process polls for the file: it gets as long as this one took
                time.sleep(min(time.monotonic() - began, 0.05))
            return done
        self._check_not_nested()
        self._check_ready()
        with translated(self._url), self._engine.connect() as connection:
            connection.execution_options(isolation_level="REPEATABLE READ")
            with connection.begin():
                rollup = Transaction(connection, self._clock).rollup
                rollup.lock()
                return work(rollup)

    def close(self) -> None:
        """Closes all connections. The store cannot be used afterwards."""
        self._closed = True
        self._file.keep_no_more()
        # Readers first: a read-only connection that is the last to close a WAL file cannot remove what lies beside it.
        self._readers.dispose()
        with suppress(StoreBusy), self._queue.turn(timeout_s=0):  # else whoever is writing drops it
            self._file.drop()
        if self._sender is not None:
            self._sender.close()
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def _write(self, timeout_s: float | None) -> Iterator[Transaction]:
        """One write transaction, waited for at most about `timeout_s` seconds; None is SQLite's own patience."""
        self._check_not_nested()
        bounded = timeout_s is not None
        patience_s = BUSY_TIMEOUT_S if timeout_s is None else timeout_s
        deadline = time.monotonic() + patience_s
        if self._closed or self._verdict is None:
            with answered_by(deadline) if bounded else nullcontext():
                self._check_ready(patience_s)
        if self._is_sqlite and not self._in_memory:  # each block around an order event costs it one or two percent
            with self._queue.turn(patience_s):
                until = deadline if bounded else time.monotonic() + BUSY_TIMEOUT_S
                with self._file.transaction(until) as (writer, cursor), Transaction(writer, self._clock, cursor) as tx:
                    yield tx
        else:
            turn = self._queue.turn(patience_s) if self._in_memory else nullcontext()
            with turn, self._connected_transaction(deadline, bounded) as tx:
                yield tx

    @contextmanager
    def _transaction(self, deadline: float) -> Iterator[Transaction]:
        """A write transaction of the thread that has the turn, over by `deadline`."""
        if self._is_sqlite:
            with self._file.transaction(deadline) as (writer, cursor), Transaction(writer, self._clock, cursor) as tx:
                yield tx
        else:
            with self._connected_transaction(deadline, bounded=True) as tx:
                yield tx

    @contextmanager
    def _connected_transaction(self, deadline: float, bounded: bool) -> Iterator[Transaction]:
        with translated(self._url):
            try:
                self._thread.writing = True
                with (
                    self._connected(deadline, bounded) as connection,
                    Transaction(connection, self._clock, by_psycopg=self._engine.driver == "psycopg") as tx,
                ):
                    yield tx
            finally:
                self._thread.writing = False

    def _make_sender(self) -> Sender | None:
        """The short way for enforcements, where there is one."""
        if self._engine.driver == "psycopg":
            return ToServer(self._engine, self._url, self._context.limits, self._pool_size, self._clock)
        if self._is_sqlite and not self._in_memory:
            return ToFile(self._engine.dialect, self._queue, self._file, self._clock)
        return None

    def _send_beginning(self, in_flight: EnforcementInFlight, lockouts: Sequence[Lockout], deadline: float) -> None:
        assert self._sender is not None
        self._check_sending(deadline)
        self._sender.begin(in_flight, lockouts, deadline, self._transaction)

    def _send_end(self, latest: Callable[[], EnforcementLog], deadline: float) -> EnforcementLog:
        assert self._sender is not None
        self._check_sending(deadline)
        return self._sender.end(latest, deadline)

    def _check_sending(self, deadline: float) -> None:
        if self._thread.writing:  # _check_not_nested, without a call
            raise NestedTransaction
        if self._closed or self._verdict is None:
            with answered_by(deadline):
                self._check_ready(left_until(deadline))

    @contextmanager
    def _connected(self, deadline: float, bounded: bool) -> Iterator[sa.Connection]:
        """A connection in a transaction, committed at the end: to a server, or to an SQLite database in memory."""
        if self._in_memory:
            with self._engine.begin() as connection:
                yield connection
        else:
            with self._connected_to_server(deadline, bounded) as connection:
                yield connection

    @contextmanager
    def _connected_to_server(self, deadline: float, bounded: bool) -> Iterator[sa.Connection]:
        """If `bounded`, over by `deadline` whatever the server does, and be it nothing."""
        if not bounded:
            with self._engine.begin() as connection:
                yield connection
            return
        with answered_by(deadline):
            connection = self._engine.connect()
        with connection, cut_off_at(deadline, connection.connection), connection.begin():
            left_ms = max(1, math.ceil((deadline - time.monotonic()) * 1000))
            connection.execute(SET_TIMEOUTS, {"milliseconds": str(left_ms)})
            yield connection

    def _prepare_fork(self) -> None:
        """No write of another thread's is under way while the process is copied, and no idle connection is open.

        SQLite keeps in the process's memory who holds which lock on a file. A child that inherited a write lock there
        could never write. (A thread that forks inside its own write transaction must not use the store in the child.)
        """
        self._turn_of_fork = ExitStack()
        if not self._is_sqlite or self._in_memory or self._thread.writing:
            return
        with suppress(StoreBusy):
            self._turn_of_fork.enter_context(self._queue.turn(BUSY_TIMEOUT_S))
            self._file.drop()
        self._engine.dispose()
        self._readers.dispose()

    def _go_on_after_fork(self) -> None:
        self._turn_of_fork.close()

    def _start_over_after_fork(self) -> None:
        """In a forked child: connections of its own, and locks that no thread of the parent's holds."""
        if not self._in_memory:
            # The parent's connections are kept and never touched: to close one here would end what the parent does.
            self._of_parents.append((self._engine.pool, self._readers.pool, self._file, self._sender))
            self._engine.dispose(close=False)
            self._readers.dispose(close=False)
        self._queue = WriterQueue()
        self._guard = threading.Lock()
        self._thread = OfThread()
        self._file = FileWriter(self._engine, self._url, self._thread)
        self._sender = self._make_sender()
        self._context = replace(self._context, live=LiveEnforcements())

    def _check_not_nested(self) -> None:
        if self._thread.writing:
            raise NestedTransaction

    def _check_ready(self, timeout_s: float = BUSY_TIMEOUT_S) -> None:
        if self._closed:
            raise StoreClosed
        if self._verdict is not None:
            return
        if not self._guard.acquire(timeout=timeout_s):
            raise StoreBusy(f"{display_url(self._url)}: the schema's verdict is not in after {timeout_s:g} s")
        try:
            if self._verdict is not None:
                return  # somebody else asked meanwhile
            verdict = schema.status(self._database, busy_timeout_s=timeout_s)
            if not verdict.ok:
                raise SchemaMismatch(verdict)  # not kept: after an upgrade the same store works
            self._verdict = verdict
        finally:
            self._guard.release()


def _each(work: Callable[[RiskStore], None]) -> Callable[[], None]:
    def at_fork() -> None:
        for store in list(_stores):
            work(store)

    return at_fork


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_each(RiskStore._prepare_fork),
        after_in_parent=_each(RiskStore._go_on_after_fork),
        after_in_child=_each(RiskStore._start_over_after_fork),
    )

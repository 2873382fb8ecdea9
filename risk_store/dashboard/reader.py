"""The one reader that all pages share: read-only, and it reads only what is new.

It keeps one connection and what it has read. A look asks first whether anything was committed since the last one, which
touches no table; if so it reads the short lists and the log rows that are new, and else nothing.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.engine import URL

from risk_store.alerts import Thresholds
from risk_store.dashboard.snapshot import DAY_S, Facts, Parts, Snapshot, summed_up, window_from
from risk_store.dashboard.view import View
from risk_store.dashboard.window import MOST_GAPS, Arrivals, LogWindow
from risk_store.deadlines import answered_by, cut_off_at
from risk_store.engines import database_file, open_engine, parse_url, sync_url, translated
from risk_store.errors import InvalidValue, RiskStoreError, StoreBusy, StoreClosed, StoreReadOnly, StoreUnavailable
from risk_store.models.base import utc_now
from risk_store.repositories import Transaction
from risk_store.schema.verdict import VERSION_TABLE, SchemaState, SchemaStatus, inspect_schema, shell_word
from risk_store.settings import configured_thresholds

__all__ = ["Look", "Reader", "SLOW_ON_PAGE", "Trouble"]

logger = logging.getLogger("risk_store.dashboard")

SLOW_ON_PAGE = 20
_LATEST = 10
_ANSWER_S = 5.0  # a server that takes longer counts as out of reach
_WINDOWS = 4  # accounts whose times are kept in memory, the one of all accounts among them
_VIEWS = 64
_MOST_DAYS = 91
_COUNTED_EACH_S = 60.0
_CLOCK_BACK = timedelta(minutes=1)
_LATE_AT_FIRST = 1_000  # ids: transactions that were open at the first look are not farther behind the last row


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why a page cannot show what is in the store now."""

    kind: str
    """``missing``, ``locked``, ``unreachable``, or a state of the schema."""
    text: str
    command: str | None = None
    """What helps, if a command does."""


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen: a snapshot, or a trouble and the last snapshot before it, if there is one.

    Looks at a store in which nothing changed are the same object within a minute.
    """

    snapshot: Snapshot | None
    schema: SchemaStatus | None
    trouble: Trouble | None = None


class _NotCurrent(Exception):
    def __init__(self, status: SchemaStatus) -> None:
        super().__init__(status.state.value)
        self.status = status


class Reader:
    """Reads one store, for any number of pages and threads.

    Its connection cannot write (``mode=ro`` and ``query_only``; ``default_transaction_read_only`` on PostgreSQL), waits
    0.25 s for a locked file, and a server's statement ends after 2 s. Nothing is opened before the first look.
    `thresholds` that are not given are those of the environment. Raises InvalidValue for a URL that cannot be watched.
    """

    def __init__(
        self, url: str | URL, *, clock: Callable[[], datetime] = utc_now, thresholds: Thresholds | None = None
    ) -> None:
        self.url = sync_url(parse_url(url))
        self.file = database_file(self.url)
        """SQLite's file; None on a server."""
        if self.url.get_backend_name() == "sqlite":
            if self.file is None:
                raise InvalidValue("url", "an in-memory database", "a database that another program writes to")
            self.url = self.url.set(database=str(self.file))
        self.thresholds = thresholds or configured_thresholds()
        self._clock = clock
        self._engine = open_engine(self.url, "watch", pool_size=2)
        self._lock = threading.Lock()
        self._closed = False
        self._connection: sa.Connection | None = None
        self._file_id: tuple[int, int] | None = None
        self._schema: SchemaStatus | None = None
        self._version: str | None = None
        self._windows: OrderedDict[int | None, tuple[LogWindow, Parts]] = OrderedDict()
        self._least: tuple[int | None, int] | None = None
        self._arrivals: Arrivals | None = None
        self._total = 0
        self._counted = 0.0
        self._looks: OrderedDict[View, tuple[tuple[str | None, datetime], Look]] = OrderedDict()
        self._told: str | None = None
        self._last_now = datetime.min.replace(tzinfo=UTC)

    @property
    def name(self) -> str:
        """Which database this is, fit for a page: dialect, host and name, nothing that could be a secret."""
        if self.file is not None:
            return f"SQLite {self.file.name}"
        return f"PostgreSQL {self.url.host or 'local'}/{self.url.database or ''}"

    def status(self) -> SchemaStatus:
        """The schema's verdict. Raises StoreUnavailable where the store cannot be read."""
        look = self.look(View())
        if look.schema is None or (look.trouble is not None and look.trouble.kind in ("locked", "unreachable")):
            raise StoreUnavailable(look.trouble.text if look.trouble else None)
        return look.schema

    def look(self, view: View) -> Look:
        """What the store holds now. Never raises for a store in trouble: the look says so."""
        with self._lock:
            try:
                return self._look(view)
            except (RiskStoreError, exc.SQLAlchemyError, OSError, _NotCurrent) as error:
                self._drop()
                kept = self._looks.get(view)
                trouble = self._trouble(error)
                if trouble.kind not in ("locked", "unreachable"):
                    self._forget()
                    kept = None
                last = kept[1] if kept else Look(None, self._schema)
                return last if last.trouble == trouble else replace(last, trouble=trouble, schema=self._schema)

    @contextmanager
    def read(self) -> Iterator[Transaction]:
        """A read-only transaction on a connection of its own, for what a look does not hold. Raises as a store does."""
        with answered_by(time.monotonic() + _ANSWER_S), translated(self.url), self._engine.begin() as connection:
            yield Transaction(connection, self._clock)

    def close(self) -> None:
        """Closes the connections. A look then says that the store cannot be reached."""
        with self._lock:
            self._closed = True
            self._drop()
            self._engine.dispose()

    # What follows runs under the lock.

    def _look(self, view: View) -> Look:
        now = self._clock()
        if now + _CLOCK_BACK < self._last_now:
            self._forget()  # the clock was set back: what was let go as too old may be asked for again
        self._last_now = now
        minute = now.replace(second=0, microsecond=0)
        with translated(self.url), self._answered(self._connected()) as connection:
            key = (self._stamp(connection), minute)
            kept = self._looks.get(view)
            if kept is not None and kept[0] == key and key[0] is not None and kept[1].trouble is None:
                return kept[1]
            with connection.begin():  # a COMMIT at its end: as `end_reading` says
                snapshot = self._read(Transaction(connection, self._clock), connection, view, now)
        self._told = None
        look = Look(snapshot, self._schema)
        self._looks[view] = (key, look)
        self._looks.move_to_end(view)
        while len(self._looks) > _VIEWS:
            self._looks.popitem(last=False)
        return look

    def _connected(self) -> sa.Connection:
        if self._closed:
            raise StoreClosed
        if self.file is not None and self._connection is not None and self._file_id != _identity(self.file):
            self._drop()  # the file was removed, or another one put in its place
            self._forget()
        if self._connection is None:
            if self.file is not None:
                if not self.file.exists():
                    raise _NotCurrent(SchemaStatus(state=SchemaState.EMPTY, database=self.name, found=None))
                self._file_id = _identity(self.file)
            with answered_by(time.monotonic() + _ANSWER_S):
                self._connection = self._engine.connect()
            self._version = None
        return self._connection

    @contextmanager
    def _answered(self, connection: sa.Connection) -> Iterator[sa.Connection]:
        """In this block a connection on which the server says nothing is cut."""
        if self.file is not None:
            yield connection
            return
        with cut_off_at(time.monotonic() + _ANSWER_S, connection.connection.dbapi_connection):
            yield connection

    def _stamp(self, connection: sa.Connection) -> str | None:
        """Another text once anything was committed. On its own, so that nothing committed meanwhile is missed."""
        with connection.begin():
            return Transaction(connection, self._clock).watch.stamp()

    def _read(self, tx: Transaction, connection: sa.Connection, view: View, now: datetime) -> Snapshot:
        self._check_schema(connection)
        self._arrived(tx, now.timestamp())
        window, parts = self._window(tx, view, now)
        slow = tx.watch.newest_slow(
            view.slow, SLOW_ON_PAGE + 1, view.before, account_id=view.account, rule_id=view.rule
        )
        facts = Facts(
            total=self._total,
            lockouts=[
                row
                for row in tx.lockouts.active(now)
                if view.account in (None, row.account_id) and view.rule in (None, row.rule_id)
            ],
            orders=tx.orders.snapshot(view.account),
            in_flight=[
                (row, row.owner_state())
                for row in tx.enforcements.in_flight()
                if view.account in (None, row.account_id) and view.rule in (None, row.rule_id)
            ],
            latest=tx.enforcements.list(account_id=view.account, rule_id=view.rule, limit=_LATEST),
            slow=slow[:SLOW_ON_PAGE],
            has_older=len(slow) > SLOW_ON_PAGE,
            journal_mode=self._journal_mode(connection),
        )
        tx.session.expunge_all()
        summary = summed_up(window, now, view.days, view.rule, self.thresholds, parts)
        return Snapshot(at=now, summary=summary, facts=facts, thresholds=self.thresholds)

    def _check_schema(self, connection: sa.Connection) -> None:
        if self._version is None or self._version != _version(connection):
            self._schema = inspect_schema(connection, self.url)
            if not self._schema.ok:
                raise _NotCurrent(self._schema)
            self._version = _version(connection)

    def _arrived(self, tx: Transaction, now: float) -> None:
        """What is new of the log, for all windows in memory."""
        first, last = tx.watch.ends()
        least = first, tx.watch.pruned()
        if self._arrivals is None or least != self._least or (last or 0) < self._arrivals.last:
            self._forget()  # the first look; or rows were pruned, or it is another log
            self._least, self._arrivals = least, Arrivals(max((last or 0) - _LATE_AT_FIRST, (first or 1) - 1))
            self._arrivals.note([time.id for time in tx.watch.new(self._arrivals.last)], now)
            self._total, self._counted = tx.watch.count(), now
            return
        came = list(tx.watch.new(self._arrivals.last)) if last != self._arrivals.last else []
        if missing := self._arrivals.missing(now):
            came += tx.watch.late(missing)
        self._arrivals.note([time.id for time in came], now)
        self._total += len(came)
        has_wide_gaps = (last or 0) - (first or 0) - self._total > MOST_GAPS
        if has_wide_gaps and abs(now - self._counted) >= _COUNTED_EACH_S:
            # Who writes ids of his own (an import, a worker of a cluster) may fill them, too many to be looked for.
            self._counted = now
            if tx.watch.count() != self._total:
                self._forget()
                self._arrived(tx, now)
                return
        for window, _ in self._windows.values():
            window.add(came, now)
            window.forget_before(int(now) - _MOST_DAYS * DAY_S, now)

    def _window(self, tx: Transaction, view: View, now: datetime) -> tuple[LogWindow, Parts]:
        """The times of the view's days and account: those in memory, or read now."""
        seconds = now.timestamp()
        since = min(window_from(seconds, view.days), int(seconds) - DAY_S)
        kept = self._windows.get(view.account)
        if kept is None or kept[0].since > since:
            window = LogWindow(since, view.account)
            window.add(tx.watch.since(datetime.fromtimestamp(window.since, UTC), view.account), seconds)
            kept = self._windows[view.account] = (window, Parts())
        self._windows.move_to_end(view.account)
        while len(self._windows) > _WINDOWS:
            self._windows.popitem(last=False)
        return kept

    def _journal_mode(self, connection: sa.Connection) -> str | None:
        if self.file is None:
            return None
        return str(connection.exec_driver_sql("PRAGMA journal_mode").scalar_one())

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.invalidate()
                connection.close()
            except exc.SQLAlchemyError:
                pass  # it is lost already
        self._looks = OrderedDict((view, ((None, at), look)) for view, ((_, at), look) in self._looks.items())

    def _forget(self) -> None:
        self._windows.clear()
        self._looks.clear()
        self._arrivals = None

    def _trouble(self, error: Exception) -> Trouble:
        if isinstance(error, _NotCurrent):
            self._schema = error.status
            trouble = self._trouble_of_schema(error.status)
        elif isinstance(error, StoreBusy):
            trouble = Trouble("locked", "The database is locked, or takes too long to answer. Trying again.")
        elif isinstance(error, InvalidValue):
            raise error
        elif isinstance(error, StoreReadOnly):
            text = (
                "SQLite has to write beside the file before it can be read: the folder cannot be written, or a program "
                "was killed in the middle of a write, which another one has to undo:"
            )
            trouble = Trouble("unreachable", text, f"risk-store check {self._place}")
        else:
            text = "The database cannot be reached. What went wrong is in the output of risk-store dashboard."
            trouble = Trouble("unreachable", text)
        if self._told != trouble.kind:
            self._told = trouble.kind
            # Errors of the store's own hold no secret; others might, a driver's in the lines after its first.
            told = str(error) if isinstance(error, RiskStoreError) else trouble.text
            if isinstance(error, exc.DBAPIError):
                told = f"{type(error.orig).__name__}: {str(error.orig).partition(chr(10))[0]}"
            logger.warning("%s: %s", trouble.kind, told)
        return trouble

    @property
    def _place(self) -> str:
        """The database as the argument of a command."""
        return shell_word(str(self.file)) if self.file is not None else "URL"

    def _trouble_of_schema(self, status: SchemaStatus) -> Trouble:
        upgrade = f"risk-store upgrade {self._place}"
        if status.state is SchemaState.EMPTY and self.file is not None and not self.file.exists():
            return Trouble("missing", f"There is no database {self.file}.", upgrade)
        text = status.message.splitlines()[0].removeprefix(f"{status.database}: ")
        text = {
            SchemaState.EMPTY: "This store is not set up: the database has no tables of risk_store.",
            SchemaState.LEGACY_V1: "This is the database of a v1 daemon, which has not been upgraded.",
        }.get(status.state, text[:1].upper() + text[1:])
        return Trouble(status.state.value, text, upgrade if status.upgradable else None)


def _identity(file: Any) -> tuple[int, int] | None:
    try:
        found = os.stat(file)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _version(connection: sa.Connection) -> str:
    rows = connection.exec_driver_sql(f"SELECT version_num FROM {VERSION_TABLE}").scalars()  # noqa: S608 (constant)
    return ",".join(sorted(map(str, rows)))

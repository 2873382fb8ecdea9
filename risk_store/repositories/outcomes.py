"""Enforcements by the driver itself: what ``store.enforce`` and ``store.record`` send at their first attempts.

The values are checked before anybody waits for the database: whoever has the turn may then write the rows of other
threads among its own (group commit). It converts them too: for thirty rows in one go that takes a third of what thirty
threads take, each of which begins with the caches of another one. What the general way costs more (a
transaction's repositories, SQLAlchemy's begin, commit and result) is printed by `python -m benchmarks --only W1`.
SQLAlchemy's events of the cursor and of the connection (and `echo`) do not see it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

import sqlalchemy as sa

from risk_store.long_statements import native, native_cursor, send_native
from risk_store.models import EnforcementInFlight, EnforcementLog, Lockout
from risk_store.repositories.enforcements import (
    IN_FLIGHT_COLUMNS,
    INSERT,
    START,
    TAKE_BACK,
    in_flight_values,
    log_values,
)
from risk_store.repositories.lockouts import SET, lockout_values
from risk_store.repositories.plain_rows import LOCKOUT_COLUMNS, LOG_COLUMNS, plain_lockout, plain_log
from risk_store.repositories.prepared import Prepared
from risk_store.statements import outcomes as statements

__all__ = ["Intent", "Outcome", "write_apart", "write_together"]

_RECORD, _RECORD_AND_LOCK = Prepared(statements.RECORD), Prepared(statements.RECORD_AND_LOCK)
_ENDED, _START_AND_LOCK = Prepared(statements.RECORD_ENDED), Prepared(statements.START_AND_LOCK)
_TOGETHER = Prepared(statements.RECORD_TOGETHER)
# Parameters for columns, in the order in which the values come: the statement's, which then takes them as they are.
_KEY = ("account_id", "enforcement_id")
_SET = (*LOCKOUT_COLUMNS, "at")
_OF_BEGUN = tuple(f"begun_{name}" for name in IN_FLIGHT_COLUMNS)
_OF_LOG = tuple(f"log_{name}" for name in LOG_COLUMNS)
_OF_LOCKOUT = (*(f"lockout_{name}" for name in LOCKOUT_COLUMNS), "at")
_OF_BOTH = (*_OF_LOCKOUT, *_OF_LOG)
_OF_ENDED = (_OF_LOG[0], _OF_LOG[-1], *_OF_LOG[1:-1])  # the key comes first

Values = Sequence[Any]


class _Job:
    """What a thread wants to be written: statements, each with the names of its parameters and their values.

    If they are `plain` (:mod:`risk_store.repositories.plain_rows`) they are what the driver takes already.
    """

    __slots__ = ("_dialect", "_encoded", "_plain", "_statements", "account_id", "locks", "refused")

    def __init__(
        self,
        dialect: sa.Dialect,
        account_id: int,
        statements: Sequence[tuple[Prepared, Sequence[str], Values]],
        *,
        locks: bool,
        plain: bool = False,
    ) -> None:
        self.account_id = account_id
        self.locks = locks
        self.refused: Exception | None = None
        """What is wrong with a value, for its own thread to raise: found by another one, which goes on without it."""
        self._dialect = dialect
        self._statements = statements
        self._plain = plain
        self._encoded: list[tuple[str | bytes, Any]] | None = None

    def encoded(self) -> list[tuple[str | bytes, Any]]:
        """Its statements in order, as the driver takes them. Raises InvalidValue for what a column cannot keep."""
        if self._encoded is None:
            form = self._by_position if self._dialect.name == "sqlite" else self._native
            self._encoded = [form(*each) for each in self._statements]
        return self._encoded

    def _by_position(self, statement: Prepared, names: Sequence[str], values: Values) -> tuple[str, Any]:
        sql = statement.on(self._dialect).sql
        return sql, values if self._plain else self._taken(statement, names, values)

    def _native(self, statement: Prepared, names: Sequence[str], values: Values) -> tuple[bytes, Any]:
        text, order = native(statement.on(self._dialect).sql)
        if self._plain and order == names:
            return text, values
        taken = self._taken(statement, names, values)
        return text, [taken[name] for name in order]

    def _taken(self, statement: Prepared, names: Sequence[str], values: Values) -> Any:
        if self._plain:
            return values if self._dialect.name == "sqlite" else dict(zip(names, values, strict=True))
        return statement.on(self._dialect).values(dict(zip(names, values, strict=True)))

    def is_ready(self) -> bool:
        """Whether it can be sent along with others; if not, it is `refused`."""
        try:
            self._convert()
        except Exception as error:
            self.refused = error
        return self.refused is None

    def _convert(self) -> object:
        """Makes of it what is sent along with others."""
        return self.encoded()


class Intent(_Job):
    """An enforcement that begins, and its lockouts. Raises InvalidValue.

    On PostgreSQL one statement for both, unless `apart`, as a distributed one takes them.
    """

    __slots__ = ()

    def __init__(
        self,
        dialect: sa.Dialect,
        in_flight: EnforcementInFlight,
        lockouts: Sequence[Lockout],
        clock: Callable[[], datetime],
        *,
        apart: bool = False,
    ) -> None:
        locks, begun = _lockouts(lockouts, clock), tuple(in_flight_values(in_flight).values())
        statements = [*[(SET, _SET, lock) for lock in locks], (START, IN_FLIGHT_COLUMNS, begun)]
        if dialect.name == "postgresql" and len(locks) == 1 and not apart:
            statements = [(_START_AND_LOCK, (*_OF_LOCKOUT, *_OF_BEGUN), (*locks[0], *begun))]
        super().__init__(dialect, in_flight.account_id, statements, locks=bool(locks))

    def write(self, cursor: Any) -> None:
        """Sends it by a cursor of the driver's, within a transaction unless it is one statement."""
        for sql, values in self.encoded():
            cursor.execute(sql, values)

    def send(self, cursor: Any) -> None:
        """Sends it to PostgreSQL: a transaction, and one round trip."""
        if len(self._statements) == 1:
            self.write(cursor)
            return
        connection = cursor.connection
        with connection.pipeline(), connection.transaction():
            self.write(cursor)


class Outcome(_Job):
    """A log row and its lockouts. Raises InvalidValue for what may not be written.

    Of one that is `in_flight`, without lockouts, the row there goes at the same time.
    """

    __slots__ = ("_in_flight", "_locks", "_parts", "_row", "log", "log_id")

    def __init__(
        self,
        dialect: sa.Dialect,
        log: EnforcementLog,
        lockouts: Sequence[Lockout],
        clock: Callable[[], datetime],
        *,
        in_flight: bool = False,
    ) -> None:
        on_file = dialect.name == "sqlite"
        plain = _plain(log, lockouts, clock, for_sqlite=on_file)
        row, locks = plain or _checked(log, lockouts, clock)
        if on_file:
            ended = [(TAKE_BACK, _KEY, (row[0], row[-1]))] if in_flight else []  # the first column and the last
            statements = [*ended, *[(SET, _SET, lock) for lock in locks], (INSERT, LOG_COLUMNS, row)]
        elif locks:  # one at most
            statements = [(_RECORD_AND_LOCK, _OF_BOTH, (*locks[0], *row))]
        elif in_flight:
            statements = [(_ENDED, _OF_ENDED, (row[0], row[-1], *row[1:-1]))]
        else:
            statements = [(_RECORD, _OF_LOG, row)]
        super().__init__(dialect, row[0], statements, locks=bool(locks), plain=plain is not None)
        self.log = log
        self.log_id: int | None = None
        """Of the log row, once it is written; durable it is when the transaction is."""
        self._in_flight = in_flight
        self._row, self._locks = row, locks
        self._parts: tuple[dict[str, Any], dict[str, Any] | None] | None = None

    def write(self, cursor: Any) -> None:
        """Sends it by a cursor of the driver's. On PostgreSQL it is one statement, a transaction of its own.

        Raises LookupError if it is not in flight as it should be: what was sent is then not to be committed.
        """
        for sql, values in self._encoded or self.encoded():
            cursor.execute(sql, values)
            if self._in_flight and cursor.rowcount == 0:
                raise LookupError(f"enforcement {self.log.enforcement_id} is not in flight")
        self.log_id = cursor.lastrowid if self._dialect.name == "sqlite" else cursor.fetchone()[0]

    def parts(self) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """The values that PostgreSQL takes, by column: of the log row, and of the lockout if there is one."""
        if self._parts is None:
            locks = [self._taken(SET, _SET, lock) for lock in self._locks]
            self._parts = self._taken(INSERT, LOG_COLUMNS, self._row), locks[0] if locks else None
        return self._parts

    def _convert(self) -> object:
        return self.encoded() if self._dialect.name == "sqlite" else self.parts()

    def told(self) -> EnforcementLog:
        """The log with its id: once it is durable."""
        vars(self.log)["id"] = self.log_id  # the database's, so there is no change to note, which takes 2 µs
        return self.log


def _plain(
    log: EnforcementLog, lockouts: Sequence[Lockout], clock: Callable[[], datetime], *, for_sqlite: bool
) -> tuple[Values, Sequence[Values]] | None:
    row = plain_log(log, for_sqlite=for_sqlite)
    if row is None:
        return None
    locks: list[Values] = []
    for lock in lockouts:
        values = plain_lockout(lock, clock(), for_sqlite=for_sqlite)
        if values is None:
            return None
        locks.append(values)
    return row, locks


def _checked(
    log: EnforcementLog, lockouts: Sequence[Lockout], clock: Callable[[], datetime]
) -> tuple[Values, Sequence[Values]]:
    return tuple(log_values(log, clock).values()), _lockouts(lockouts, clock)


def _lockouts(lockouts: Sequence[Lockout], clock: Callable[[], datetime]) -> list[Values]:
    checked = [
        lockout_values(lock.account_id, lock.reason or "", lock.rule_id or "", lock.locked_until, clock())
        for lock in lockouts
    ]
    return [tuple(values.values()) for values in checked]


def write_apart(dialect: sa.Dialect, cursor: Any, outcome: Outcome) -> None:
    """Sends one to a distributed PostgreSQL: lockout and log row as two statements, which both go to one worker.

    As one statement they cost the coordinator more: it carries out each part by itself, keeps what each returns, and
    plans all of it anew every time. In a pipeline the transaction is one round trip as well.
    """
    log, lockout = outcome.parts()
    if lockout is None:
        outcome.write(cursor)
        return
    connection = cursor.connection
    with connection.pipeline(), connection.transaction(), native_cursor(connection) as first:
        send_native(first, SET.on(dialect).sql, lockout)
        send_native(cursor, INSERT.on(dialect).sql, log)
    outcome.log_id = cursor.fetchone()[0]


def write_together(dialect: sa.Dialect, cursor: Any, outcomes: Sequence[Outcome]) -> None:
    """Sends several to PostgreSQL, of which no two lock one account: one statement, a transaction of its own.

    All of them are written, or none.
    """
    parts = [outcome.parts() for outcome in outcomes]
    logs = [log | {"n": n} for n, (log, _) in enumerate(parts)]
    lockouts = [{name: lockout[name] for name in LOCKOUT_COLUMNS} for _, lockout in parts if lockout is not None]
    together = _TOGETHER.on(dialect)
    send_native(cursor, together.sql, together.values({"logs": _json(logs), "lockouts": _json(lockouts)}))
    ids = {(account_id, enforcement_id): id_ for account_id, enforcement_id, id_ in cursor.fetchall()}
    for outcome, (log, _) in zip(outcomes, parts, strict=True):
        outcome.log_id = ids[log["account_id"], log["enforcement_id"]]


# Instants are all that JSON cannot say, and PostgreSQL reads what str() makes of them: of "now" once.
_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=lru_cache(maxsize=256)(str)).encode

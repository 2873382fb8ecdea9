"""Enforcements by the driver itself: what ``store.enforce`` and ``store.record`` send at their first attempts.

The values are checked and converted before anybody waits for the database: whoever has the turn may then write the rows
of other threads among its own (group commit) and runs no code of theirs. What the general way costs more (a
transaction's repositories, SQLAlchemy's begin, commit and result) is printed by `python -m benchmarks --only W1`.
SQLAlchemy's events of the cursor and of the connection (and `echo`) do not see it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from risk_store.models import EnforcementInFlight, EnforcementLog, Lockout
from risk_store.repositories.enforcements import (
    IN_FLIGHT_COLUMNS,
    INSERT,
    LOG_COLUMNS,
    START,
    TAKE_BACK,
    in_flight_values,
    log_values,
)
from risk_store.repositories.lane import Prepared
from risk_store.repositories.lockouts import SET, lockout_values
from risk_store.statements import outcomes as statements

__all__ = ["Intent", "Outcome", "write_apart", "write_together"]

_RECORD, _RECORD_AND_LOCK = Prepared(statements.RECORD), Prepared(statements.RECORD_AND_LOCK)
_ENDED, _START_AND_LOCK = Prepared(statements.RECORD_ENDED), Prepared(statements.START_AND_LOCK)
_TOGETHER = Prepared(statements.RECORD_TOGETHER)
# The columns, and the parameters for them.
_LOG_PARTS = [(name, f"log_{name}") for name in LOG_COLUMNS]
_LOCKOUT_PARTS = [(column.name, f"lockout_{column.name}") for column in Lockout.__table__.columns]
_OF_BEGUN = [f"begun_{name}" for name in IN_FLIGHT_COLUMNS]
_OF_LOG = [parameter for _, parameter in _LOG_PARTS]
_OF_LOCKOUT = [*(parameter for _, parameter in _LOCKOUT_PARTS), "at"]


class Intent:
    """An enforcement that begins, and its lockouts, as the driver takes them. Raises InvalidValue.

    On PostgreSQL one statement for both, unless `apart`, as a distributed one takes them.
    """

    __slots__ = ("_sent", "account_id", "locks")

    def __init__(
        self,
        dialect: sa.Dialect,
        in_flight: EnforcementInFlight,
        lockouts: Sequence[Lockout],
        clock: Callable[[], datetime],
        *,
        apart: bool = False,
    ) -> None:
        locks, begun = _lockout_values(lockouts, clock), in_flight_values(in_flight)
        self.account_id = in_flight.account_id
        self.locks = bool(locks)
        sent = [*[(SET, lock) for lock in locks], (START, begun)]
        if dialect.name == "postgresql" and len(locks) == 1 and not apart:
            named = dict(zip((*_OF_BEGUN, *_OF_LOCKOUT), (*begun.values(), *locks[0].values()), strict=True))
            sent = [(_START_AND_LOCK, named)]
        self._sent = _encoded(dialect, sent)

    def write(self, cursor: Any) -> None:
        """Sends it by a cursor of the driver's, within a transaction unless it is one statement."""
        for sql, values in self._sent:
            cursor.execute(sql, values)

    def send(self, cursor: Any) -> None:
        """Sends it to PostgreSQL: a transaction, and one round trip."""
        if len(self._sent) == 1:
            self.write(cursor)
            return
        connection = cursor.connection
        with connection.pipeline(), connection.transaction():
            self.write(cursor)


class Outcome:
    """A log row and its lockouts, as the driver takes them. Raises InvalidValue for what may not be written.

    Of one that is `in_flight`, without lockouts, the row there goes at the same time.
    """

    __slots__ = ("_in_flight", "_sent", "account_id", "locks", "log", "log_id")

    def __init__(
        self,
        dialect: sa.Dialect,
        log: EnforcementLog,
        lockouts: Sequence[Lockout],
        clock: Callable[[], datetime],
        *,
        in_flight: bool = False,
    ) -> None:
        values = log_values(log, clock)
        locks = _lockout_values(lockouts, clock)
        self.account_id: int = values["account_id"]
        self.locks = bool(locks)
        self.log = log
        self.log_id: int | None = None
        """Of the log row, once it is written; durable it is when the transaction is."""
        self._in_flight = in_flight
        if dialect.name == "sqlite":
            ended = [(TAKE_BACK, values)] if in_flight else []
            sent = [*ended, *[(SET, lock) for lock in locks], (INSERT, values)]
        elif locks:  # one at most
            named = dict(zip((*_OF_LOG, *_OF_LOCKOUT), (*values.values(), *locks[0].values()), strict=True))
            sent = [(_RECORD_AND_LOCK, named)]
        else:
            sent = [(_ENDED if in_flight else _RECORD, dict(zip(_OF_LOG, values.values(), strict=True)))]
        self._sent = _encoded(dialect, sent)

    def write(self, cursor: Any) -> None:
        """Sends it by a cursor of the driver's. On PostgreSQL it is one statement, a transaction of its own.

        Raises LookupError if it is not in flight as it should be: what was sent is then not to be committed.
        """
        for sql, values in self._sent:
            cursor.execute(sql, values)
            if self._in_flight and cursor.rowcount == 0:
                raise LookupError(f"enforcement {self.log.enforcement_id} is not in flight")
        self.log_id = cursor.lastrowid if cursor.description is None else cursor.fetchone()[0]

    def parts(self) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """What it sends to PostgreSQL, by column: the log row, and the lockout if there is one."""
        [(_, values)] = self._sent
        log = {name: values[key] for name, key in _LOG_PARTS}
        return log, {name: values[key] for name, key in _LOCKOUT_PARTS} if self.locks else None

    def told(self) -> EnforcementLog:
        """The log with its id: once it is durable."""
        vars(self.log)["id"] = self.log_id  # the database's, so there is no change to note, which takes 2 µs
        return self.log


def _lockout_values(lockouts: Sequence[Lockout], clock: Callable[[], datetime]) -> list[dict[str, object]]:
    return [
        lockout_values(lock.account_id, lock.reason or "", lock.rule_id or "", lock.locked_until, clock())
        for lock in lockouts
    ]


def _encoded(dialect: sa.Dialect, sent: Sequence[tuple[Prepared, dict[str, Any]]]) -> list[tuple[str, Any]]:
    return [((on := statement.on(dialect)).sql, on.values(given)) for statement, given in sent]


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
    with connection.pipeline(), connection.transaction(), connection.cursor() as first:
        for on, sender, given in (
            (SET.on(dialect), first, lockout | {"at": lockout["locked_at"]}),
            (INSERT.on(dialect), cursor, log),
        ):
            sender.execute(on.sql, {name: {**on.fixed, **given}[key] for name, key, *_ in on.taken})
    outcome.log_id = cursor.fetchone()[0]


def write_together(dialect: sa.Dialect, cursor: Any, outcomes: Sequence[Outcome]) -> None:
    """Sends several to PostgreSQL, of which no two lock one account: one statement, a transaction of its own.

    All of them are written, or none.
    """
    parts = [outcome.parts() for outcome in outcomes]
    logs = [log | {"n": n} for n, (log, _) in enumerate(parts)]
    lockouts = [lockout for _, lockout in parts if lockout is not None]
    together = _TOGETHER.on(dialect)
    cursor.execute(together.sql, together.values({"logs": _json(logs), "lockouts": _json(lockouts)}))
    ids = {(account_id, enforcement_id): id_ for account_id, enforcement_id, id_ in cursor.fetchall()}
    for outcome, (log, _) in zip(outcomes, parts, strict=True):
        outcome.log_id = ids[log["account_id"], log["enforcement_id"]]


# Instants are all that JSON cannot say, and PostgreSQL reads what str() makes of them.
_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=str).encode

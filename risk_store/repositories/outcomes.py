"""One finished enforcement by the driver itself: what ``store.record`` sends at its first attempt.

The values are checked and converted before anybody waits for the database: whoever has the turn may then write the rows
of other threads among its own (group commit) and runs no code of theirs. What the general way costs more (a
transaction's repositories, SQLAlchemy's begin, commit and result) is printed by `python -m benchmarks --only W1`.
SQLAlchemy's events of the cursor and of the connection (and `echo`) do not see it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from risk_store.models import EnforcementLog, Lockout
from risk_store.repositories.enforcements import INSERT, log_values
from risk_store.repositories.lane import Prepared
from risk_store.repositories.lockouts import SET, lockout_values
from risk_store.statements import outcomes as statements

__all__ = ["Outcome"]

_RECORD, _RECORD_AND_LOCK = Prepared(statements.RECORD), Prepared(statements.RECORD_AND_LOCK)


class Outcome:
    """A log row and its lockouts, as the driver takes them. Raises InvalidValue for what may not be written."""

    __slots__ = ("_sent", "log", "log_id")

    def __init__(
        self, dialect: sa.Dialect, log: EnforcementLog, lockouts: Sequence[Lockout], clock: Callable[[], datetime]
    ) -> None:
        values = log_values(log, clock)
        locks = [
            lockout_values(lock.account_id, lock.reason or "", lock.rule_id or "", lock.locked_until, clock())
            for lock in lockouts
        ]
        self.log = log
        self.log_id: int | None = None
        """Of the log row, once it is written; durable it is when the transaction is."""
        if dialect.name == "sqlite":
            sent = [*[(SET, lock) for lock in locks], (INSERT, values)]
        else:  # one at most
            named = {f"log_{name}": value for name, value in values.items()}
            for lock in locks:
                named |= {name if name == "at" else f"lockout_{name}": value for name, value in lock.items()}
            sent = [(_RECORD_AND_LOCK if locks else _RECORD, named)]
        self._sent = [((on := statement.on(dialect)).sql, on.values(given)) for statement, given in sent]

    def write(self, cursor: Any) -> None:
        """Sends it by a cursor of the driver's. On PostgreSQL it is one statement, a transaction of its own."""
        for sql, values in self._sent:
            cursor.execute(sql, values)
        self.log_id = cursor.lastrowid if cursor.description is None else cursor.fetchone()[0]

    def told(self) -> EnforcementLog:
        """The log with its id: once it is durable."""
        self.log.id = self.log_id
        return self.log

"""Enforcements by the driver itself: what ``store.enforce`` and ``store.record`` send at their first attempts.

The values are checked before anybody waits for the database: whoever has the turn may then write the rows of other
threads among its own (group commit). A plain row is what a file's driver takes once it is checked; other rows, and
those of a server, whoever has the turn converts too: thirty in one go take a third of what thirty threads take, each of
which begins with the caches of another one. What the general way costs more (a transaction's repositories, SQLAlchemy's
begin, commit and result) is printed by `python -m benchmarks --only W1`.
SQLAlchemy's events of the cursor and of the connection (and `echo`) do not see it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from datetime import datetime
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
from risk_store.repositories.plain_rows import (
    LOCKOUT_COLUMNS,
    LOG_COLUMNS,
    lockout_as_json,
    log_as_json,
    plain_lockout,
    plain_log,
)
from risk_store.repositories.prepared import Prepared
from risk_store.statements import outcomes as statements
from risk_store.statements.ids import row_as_json

__all__ = ["Forms", "Intent", "Outcome", "write_apart", "write_together"]

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
Encoded = list[tuple[str | bytes, Any]]


class Forms(dict[Prepared, tuple[Any, Sequence[str]]]):
    """Statements as the driver of a dialect takes them, and the order of their parameters on a server: a store's own,
    since each record would have to look for them in a few more places.

    >>> engine = sa.create_engine("sqlite://")
    >>> Forms(engine.dialect)[Prepared(sa.text("SELECT 1"))]
    ('SELECT 1', ())
    >>> engine.dispose()
    """

    def __init__(self, dialect: sa.Dialect) -> None:
        super().__init__()
        self.dialect = dialect
        self.for_sqlite = dialect.name == "sqlite"

    def __missing__(self, statement: Prepared) -> tuple[Any, Sequence[str]]:
        compiled = statement.on(self.dialect)
        form: tuple[Any, Sequence[str]]
        if self.for_sqlite:
            form = compiled.sql, ()
        elif compiled.by_position:  # asyncpg's
            form = compiled.sql, tuple(each.name for each in compiled.taken)
        else:
            form = native(compiled.sql)
        self[statement] = form
        return form


class _Job(ABC):
    """What a thread wants to be written.

    If its values are `plain` (:mod:`risk_store.repositories.plain_rows`) they are what the driver takes already.
    """

    __slots__ = ("_forms", "_plain", "account_id", "lockouts", "locks", "refused", "statements")

    def __init__(self, forms: Forms, account_id: int, lockouts: Sequence[Lockout]) -> None:
        self.account_id = account_id
        self.lockouts = lockouts
        self.locks = bool(lockouts)
        self.refused: Exception | None = None
        """What is wrong with a value, for its own thread to raise: found by another one, which goes on without it."""
        self.statements: Encoded | None = None
        """As the driver takes them, once they are made: see :meth:`encoded`."""
        self._forms = forms
        self._plain = False

    def encoded(self) -> Encoded:
        """Its statements in order, as the driver takes them. Raises InvalidValue for what a column cannot keep."""
        if self.statements is None:
            self.statements = self._encode()
        return self.statements

    @abstractmethod
    def _encode(self) -> Encoded: ...

    def one(self) -> tuple[Any, Any]:
        """The one statement that it is on a server, as :meth:`encoded`. Raises ValueError for one that is several."""
        [statement] = self.encoded()
        return statement

    def is_ready(self) -> bool:
        """Whether it can be sent along with others; if not, it is `refused`."""
        if self.statements is None:
            try:
                self._convert()
            except Exception as error:
                self.refused = error
        return self.refused is None

    def _convert(self) -> object:
        """Makes of it what is sent along with others."""
        return self.encoded()

    def _form(self, statement: Prepared, names: Sequence[str], values: Values) -> tuple[str | bytes, Any]:
        """The statement with these values for its parameters, as the driver takes both."""
        text, order = self._forms[statement]
        if self._forms.for_sqlite:
            return text, values if self._plain else self._taken(statement, names, values)
        if self._plain and order == names:
            return text, values
        taken = self._taken(statement, names, values)
        return text, [taken[name] for name in order]

    def _taken(self, statement: Prepared, names: Sequence[str], values: Values) -> Any:
        named = dict(zip(names, values, strict=True))
        if self._plain:
            return named
        compiled = statement.on(self._forms.dialect)
        return compiled.values(named) if self._forms.for_sqlite else compiled.by_name(named)


class Intent(_Job):
    """An enforcement that begins, and its lockouts. Raises InvalidValue.

    On PostgreSQL one statement for both, unless `apart`, as a distributed one takes them.
    """

    __slots__ = ("_apart", "_begun", "_locks", "in_flight")

    def __init__(
        self,
        forms: Forms,
        in_flight: EnforcementInFlight,
        lockouts: Sequence[Lockout],
        clock: Callable[[], datetime],
        *,
        apart: bool = False,
    ) -> None:
        self._locks, self._begun = _lockouts(lockouts, clock), tuple(in_flight_values(in_flight).values())
        self._apart = apart
        super().__init__(forms, in_flight.account_id, lockouts)
        self.in_flight = in_flight

    def _encode(self) -> Encoded:
        if not self._forms.for_sqlite and len(self._locks) == 1 and not self._apart:
            return [self._form(_START_AND_LOCK, (*_OF_LOCKOUT, *_OF_BEGUN), (*self._locks[0], *self._begun))]
        locks = [self._form(SET, _SET, lock) for lock in self._locks]
        return [*locks, self._form(START, IN_FLIGHT_COLUMNS, self._begun)]

    def write(self, cursor: Any) -> None:
        """Sends it by a cursor of the driver's, within a transaction unless it is one statement."""
        for sql, values in self.encoded():
            cursor.execute(sql, values)

    def send(self, cursor: Any) -> None:
        """Sends it to PostgreSQL: a transaction, and one round trip."""
        if len(self.encoded()) == 1:
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
        forms: Forms,
        log: EnforcementLog,
        lockouts: Sequence[Lockout],
        clock: Callable[[], datetime],
        *,
        in_flight: bool = False,
    ) -> None:
        # Written out, with what the base does and what `_encode` comes to: each call less is one thing less that the
        # thread of a record finds in no cache (seven of them were a twentieth of the whole).
        for_sqlite = forms.for_sqlite
        plain: Values | None = plain_log(log, for_sqlite=for_sqlite)
        locks: list[Values] = []
        if plain is not None:
            for lockout in lockouts:
                lock = plain_lockout(lockout, clock(), for_sqlite=for_sqlite)
                if lock is None:
                    plain = None
                    break
                locks.append(lock)
        if plain is not None:
            row = plain
        else:
            row, locks = _checked(log, lockouts, clock)
        self.account_id = row[0]
        self.lockouts = lockouts
        self.locks = bool(lockouts)
        self.refused = None
        self.statements = None
        self.log = log
        self.log_id: int | None = None
        """Of the log row, once it is written; durable it is when the transaction is."""
        self._forms = forms
        self._plain = plain is not None
        self._in_flight = in_flight
        self._row, self._locks = row, locks
        self._parts: tuple[dict[str, Any], dict[str, Any] | None] | None = None
        if plain is not None and not in_flight:
            if for_sqlite:
                self.statements = sent = []
                for values in locks:
                    sent.append((forms[SET][0], values))  # noqa: PERF401 (a comprehension is a call)
                sent.append((forms[INSERT][0], row))
            elif locks:
                sql, order = forms[_RECORD_AND_LOCK]
                if order == _OF_BOTH:
                    self.statements = [(sql, (*locks[0], *row))]

    def _encode(self) -> Encoded:
        row, locks = self._row, self._locks
        if self._forms.for_sqlite:
            ended = [self._form(TAKE_BACK, _KEY, self.key)] if self._in_flight else []
            return [*ended, *[self._form(SET, _SET, lock) for lock in locks], self._form(INSERT, LOG_COLUMNS, row)]
        if locks:  # one at most
            return [self._form(_RECORD_AND_LOCK, _OF_BOTH, (*locks[0], *row))]
        if self._in_flight:
            return [self._form(_ENDED, _OF_ENDED, (row[0], row[-1], *row[1:-1]))]
        return [self._form(_RECORD, _OF_LOG, row)]

    def write(self, cursor: Any) -> None:
        """Sends it by a cursor of the driver's. On PostgreSQL it is one statement, a transaction of its own.

        Raises LookupError if it is not in flight as it should be: what was sent is then not to be committed.
        """
        for sql, values in self.statements or self.encoded():
            cursor.execute(sql, values)
            if self._in_flight and cursor.rowcount == 0:
                raise LookupError(f"enforcement {self.log.enforcement_id} is not in flight")
        self.log_id = cursor.lastrowid if self._forms.for_sqlite else cursor.fetchone()[0]

    def answered(self, rows: Sequence[Any]) -> None:
        """Takes the rows with which a server has answered its statement, for who has sent it without a cursor.

        Raises LookupError as :meth:`write` does: then nothing was written.
        """
        if not rows:
            raise LookupError(f"enforcement {self.log.enforcement_id} is not in flight")
        self.log_id = rows[0][0]

    @property
    def key(self) -> tuple[int, str]:
        """What is unique of the log row: the first column and the last."""
        return self._row[0], self._row[-1]

    def parts(self) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """The values that PostgreSQL takes, by column: of the log row, and of the lockout if there is one."""
        if self._parts is None:
            locks = [self._taken(SET, _SET, lock) for lock in self._locks]
            self._parts = self._taken(INSERT, LOG_COLUMNS, self._row), locks[0] if locks else None
        return self._parts

    def as_json(self, n: int) -> tuple[str, str | None]:
        """The same as the rows of RECORD_TOGETHER, of which it is the `n`-th."""
        if self._plain:
            return log_as_json(self._row, n), lockout_as_json(self._locks[0]) if self._locks else None
        log, lockout = self.parts()
        if lockout is None:
            return row_as_json(log | {"n": n}), None
        return row_as_json(log | {"n": n}), row_as_json({name: lockout[name] for name in LOCKOUT_COLUMNS})

    def _convert(self) -> object:
        if self._forms.for_sqlite:
            return self.encoded()
        return None if self._plain else self.parts()

    def told(self) -> EnforcementLog:
        """The log with its id: once it is durable."""
        vars(self.log)["id"] = self.log_id  # the database's, so there is no change to note, which takes 2 µs
        return self.log


def _checked(
    log: EnforcementLog, lockouts: Sequence[Lockout], clock: Callable[[], datetime]
) -> tuple[Values, list[Values]]:
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
    rows = [outcome.as_json(n) for n, outcome in enumerate(outcomes)]
    logs, lockouts = [log for log, _ in rows], [lockout for _, lockout in rows if lockout is not None]
    together = _TOGETHER.on(dialect)
    given = {"logs": f"[{','.join(logs)}]", "lockouts": f"[{','.join(lockouts)}]"}
    send_native(cursor, together.sql, together.values(given))
    ids = {(account_id, enforcement_id): id_ for account_id, enforcement_id, id_ in cursor.fetchall()}
    for outcome in outcomes:
        outcome.log_id = ids[outcome.key]

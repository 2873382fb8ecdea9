"""One timed enforcement, from intent to outcome (SPEC 4).

The order of things is the point: the account is locked before the first position is closed; a store in trouble never
keeps a position from being closed; and what was done is either in the log, or in the in-flight table and on the log at
CRITICAL.
"""

from __future__ import annotations

import json
import logging
import math
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from datetime import datetime
from enum import Enum
from types import TracebackType
from typing import Any, Final, Protocol, Self

from sqlalchemy.exc import SQLAlchemyError

from risk_store.alerts import Thresholds
from risk_store.columns import INT64_MAX
from risk_store.errors import EnforcementNotRecorded, InvalidValue, NestedTransaction, RiskStoreError, shown
from risk_store.models import EnforcementInFlight, EnforcementLog, Lockout
from risk_store.owner import this_process
from risk_store.repositories import Transaction
from risk_store.statements import arguments

__all__ = ["NOT_ASKED", "Enforcement", "Limits", "record"]

logger = logging.getLogger("risk_store.enforcement")

# What a database in trouble raises, whatever the driver. Anything else is a bug and must not be taken for trouble.
_TROUBLE = (RiskStoreError, SQLAlchemyError, OSError)
_ATTEMPTS = 2


class NotAsked(Enum):
    """Tells "no lockout" apart from ``lock_until=None``, which is a lockout until released."""

    NOT_ASKED = "not asked"


NOT_ASKED: Final = NotAsked.NOT_ASKED


class Write(Protocol):
    """Opens one write transaction, waiting for it at most `timeout_s` seconds."""

    def __call__(self, timeout_s: float) -> AbstractContextManager[Transaction]: ...


@dataclass(frozen=True, slots=True)
class Limits:
    """How long an enforcement may wait for the store, in seconds."""

    intent_s: float = 0.5
    """For the first transaction: after that the block runs without it."""
    record_s: float = 5.0
    """For each attempt to write the outcome."""

    def __post_init__(self) -> None:
        for name in ("intent_s", "record_s"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0.001 <= value <= 3600:
                raise InvalidValue(name, value, "a number of seconds from 0.001 to 3600")


@dataclass(kw_only=True)
class Enforcement:
    """An enforcement under way. Made by :meth:`risk_store.RiskStore.enforce`; used as a context manager.

    In the block: count what was done (``positions_closed``, ``orders_canceled``), say what did not work
    (:meth:`fail`), add facts (:meth:`detail`), lock the account (:meth:`lock_out`). Afterwards ``log`` is the row that
    was written.
    """

    account_id: int
    rule_id: str
    action: str
    reason: str
    details: Mapping[str, Any] | str | None = None
    lock_until: datetime | NotAsked | None = NOT_ASKED
    write: Write
    clock: Callable[[], datetime]
    monotonic: Callable[[], float]
    thresholds: Thresholds = field(default_factory=Thresholds)
    limits: Limits = field(default_factory=Limits)

    positions_closed: int = field(default=0, init=False)
    orders_canceled: int = field(default=0, init=False)
    enforcement_id: str = field(default_factory=lambda: uuid.uuid4().hex, init=False)
    log: EnforcementLog | None = field(default=None, init=False)
    """The row of the log; None until the block has ended and the row is written."""

    def __post_init__(self) -> None:
        self._failures: list[str] = []
        self._lockouts: list[Lockout] = []  # asked for and not yet known to be written
        self._facts: dict[str, Any] = {}
        if isinstance(self.details, Mapping):
            self._facts.update(self.details)
        elif self.details is not None and not isinstance(self.details, str):
            raise InvalidValue("details", self.details, "a mapping of facts, text, or None")
        self._log_row(success=True).check_writable()
        self._details()
        if self.lock_until is not NOT_ASKED:
            self._lockouts.append(self._lockout(self.lock_until, self.reason))

    # What a caller says in the block

    def fail(self, message: str) -> None:
        """Notes what did not work; the enforcement is then not a success.

        A gateway that answers HTTP 200 with ``success: false`` has failed.
        """
        self._failures.append(_text(message))

    def detail(self, **facts: Any) -> None:
        """Adds facts that a dispute will ask for: observed value, limit, rule version, ids. Kept as JSON."""
        self._facts.update(facts)

    def lock_out(self, until: datetime | None = None, reason: str | None = None) -> None:
        """Locks the account now, in a transaction of its own; `until` None is until released.

        Never raises for a store in trouble, since the rest of the block must run: the lockout is then written with the
        outcome. Raises InvalidValue for an `until` that is not an aware instant, and for an empty reason.
        """
        lockout = self._lockout(until, self.reason if reason is None else reason)
        try:
            with self.write(self.limits.intent_s) as tx:
                _lock(tx, lockout)
        except _TROUBLE as error:
            self._lockouts.append(lockout)
            self._shout("lockout not written yet", error)

    # The two transactions around the block

    def __enter__(self) -> Self:
        self._started = self.monotonic()
        self._timestamp = self.clock()
        try:
            with self.write(self.limits.intent_s) as tx:
                self._write_intent(tx)
        except NestedTransaction:
            raise  # a bug of the caller, told before anything is closed
        except _TROUBLE as error:
            self._shout("enforcement begun without an in-flight row", error)
        else:
            self._lockouts.clear()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:  # Ctrl-C and task cancel too: the position may be open
            self.fail(f"{type(error).__name__}: {_text(error)}")
        try:
            self.log = record(self.write, self._outcome, self._lockouts, self.limits, in_flight=True)
        except EnforcementNotRecorded:
            if error is None:  # never in place of the caller's own exception
                raise

    def _write_intent(self, tx: Transaction) -> None:
        for lockout in self._lockouts:
            _lock(tx, lockout)
        tx.enforcements.start(
            EnforcementInFlight(
                account_id=self.account_id,
                enforcement_id=self.enforcement_id,
                rule_id=self.rule_id,
                action=self.action,
                reason=self.reason,
                details=self._details(),
                started_at=self._timestamp,
                **asdict(this_process()),
            )
        )

    def _outcome(self) -> EnforcementLog:
        """The log row as of now: called last thing before the insert, so that its time has everything in it."""
        took_ms = max(0, math.ceil((self.monotonic() - self._started) * 1000))
        failures = list(self._failures)
        positions_closed = self._count("positions_closed", failures)
        orders_canceled = self._count("orders_canceled", failures)
        if took_ms > self.thresholds.timeout_ms:
            failures.insert(0, f"timed out after {took_ms} ms (limit {self.thresholds.timeout_ms} ms)")
        log = self._log_row(success=not failures)
        log.error_message = "; ".join(failures) or None
        log.positions_closed = positions_closed
        log.orders_canceled = orders_canceled
        log.timestamp = self._timestamp
        log.execution_time_ms = took_ms
        log.details = self._details()
        return log

    def _log_row(self, success: bool) -> EnforcementLog:
        return EnforcementLog(
            account_id=self.account_id,
            rule_id=self.rule_id,
            action=self.action,
            reason=self.reason,
            success=success,
            enforcement_id=self.enforcement_id,
        )

    def _count(self, name: str, failures: list[str]) -> int:
        """A count that the block set. What is no count becomes a failure that says so: the row must not be lost."""
        value = getattr(self, name)
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= INT64_MAX:
            return value
        failures.append(f"{name} was set to {shown(value)}, which is no count")
        return 0

    def _details(self) -> str | None:
        if isinstance(self.details, str):
            return _json({"details": self.details} | self._facts) if self._facts else self.details
        return _json(self._facts) if self._facts else None

    def _lockout(self, until: datetime | None, reason: str) -> Lockout:
        return Lockout(
            account_id=self.account_id,
            is_locked=True,
            reason=arguments.text("reason", reason),
            locked_until=None if until is None else arguments.instant("lock_until", until),
            rule_id=self.rule_id,
        )

    def _shout(self, what: str, error: BaseException) -> None:
        facts = {
            "enforcement_id": self.enforcement_id,
            "account_id": self.account_id,
            "rule_id": self.rule_id,
            "action": self.action,
            "reason": self.reason,
            "lockouts": [lockout.to_dict() for lockout in self._lockouts],
        }
        _shout(what, facts, error)


def record(
    write: Write,
    outcome: Callable[[], EnforcementLog],
    lockouts: Sequence[Lockout],
    limits: Limits,
    *,
    in_flight: bool,
) -> EnforcementLog:
    """Writes one finished enforcement and its lockouts in one transaction; durable when it returns.

    A first attempt whose COMMIT got no reply may have been carried out: the second looks for its enforcement_id before
    it writes, so nothing is doubled. Raises EnforcementNotRecorded, from the cause, when neither succeeds; the row is
    then on the log at CRITICAL as one line of JSON.
    """
    log: EnforcementLog | None = None
    for attempt in range(_ATTEMPTS):
        try:
            with write(limits.record_s) as tx:
                for lockout in lockouts:  # never shortens, so a second time does no harm
                    _lock(tx, lockout)
                if log is not None and log.enforcement_id is not None:
                    found = tx.enforcements.find(log.account_id, log.enforcement_id)
                    if found is not None:
                        log.id = found
                        return log
                log = outcome()
                if in_flight:
                    tx.enforcements.finish(log)
                else:
                    tx.enforcements.add(log)
            return log
        except _TROUBLE as error:
            if isinstance(error, (InvalidValue, NestedTransaction)) and not in_flight:
                raise  # the caller's mistake, told as it is; after an enforcement it must not cost the record
            log = log or outcome()
            if attempt + 1 == _ATTEMPTS:
                _shout("enforcement not recorded", log.to_dict(), error)
                raise EnforcementNotRecorded(
                    log,
                    f"enforcement {log.enforcement_id} of account {log.account_id} ({log.rule_id}, {log.action}) was "
                    f"carried out but not recorded: {error}",
                ) from error
    raise AssertionError("unreachable: the last attempt returns or raises")


def _text(value: object) -> str:
    """`str(value)`, also where that is broken: the record must not fail on it."""
    try:
        return str(value)
    except Exception:
        return shown(value)


def _json(facts: Mapping[str, Any]) -> str:
    """Facts as JSON; what JSON cannot say is kept as text, since the record must not fail on it."""
    try:
        return json.dumps(facts, default=_text)
    except (TypeError, ValueError, RecursionError):
        return json.dumps({_text(name): shown(value) for name, value in facts.items()})


def _lock(tx: Transaction, lockout: Lockout) -> None:
    tx.lockouts.set(lockout.account_id, lockout.reason or "", lockout.rule_id or "", until=lockout.locked_until)


def _shout(what: str, facts: Mapping[str, Any], error: BaseException) -> None:
    cause = f"{type(error).__name__}: {_text(error)}"
    logger.critical("%s", json.dumps({"event": what, **facts, "cause": cause}, default=_text))

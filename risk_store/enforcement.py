"""One timed enforcement, from intent to outcome (SPEC 4).

The order of things is the point: the account is locked before the first position is closed; a store in trouble never
keeps a position from being closed; and what was done is either in the log, or in the in-flight table and on the log at
CRITICAL.

How it is written is in ``recording.py``; the form for asyncio is in ``aio.py``.
"""

from __future__ import annotations

import inspect
import json
import logging
import math
import os
import threading
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, Self

from risk_store.alerts import Alert, AlertLevel, Thresholds
from risk_store.columns import INT64_MAX
from risk_store.deadlines import left_until
from risk_store.errors import (
    EnforcementInProgress,
    EnforcementNotRecorded,
    InvalidValue,
    NestedTransaction,
    shown,
)
from risk_store.models import EnforcementInFlight, EnforcementLog, Lockout
from risk_store.owner import RUNNING, OwnerState, this_process
from risk_store.recording import (
    Limits,
    Step,
    Steps,
    Tried,
    Write,
    lock,
    lock_all,
    recording,
    run_steps,
    shout,
    text_of,
)
from risk_store.repositories import Transaction
from risk_store.settings import configured_thresholds
from risk_store.statements import arguments
from risk_store.watchdog import WATCHDOG, Call

if TYPE_CHECKING:
    from risk_store.metrics import Metrics

__all__ = [
    "NOT_ASKED",
    "Enforcement",
    "EnforcementContext",
    "EnforcementCore",
    "LiveEnforcements",
    "NotAsked",
    "OnAlert",
    "ShortWay",
]

logger = logging.getLogger("risk_store.enforcement")
alert_logger = logging.getLogger("risk_store.alerts")

# How long an enforcement of another host, of which nobody here can tell whether it still runs, counts as running.
FOREIGN_COUNTS_AS_LIVE = timedelta(seconds=60)


class NotAsked(Enum):
    """Tells "no lockout" apart from ``lock_until=None``, which is a lockout until released."""

    NOT_ASKED = "not asked"


NOT_ASKED: Final = NotAsked.NOT_ASKED


class LiveEnforcements:
    """Which enforcements run in this process, by account and rule: known also while the store is in trouble."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._live: Counter[tuple[int, str]] = Counter()

    def enter(self, account_id: int, rule_id: str, enforcement_id: str, *, exclusive: bool) -> None:
        """One more. Raises EnforcementInProgress if it wants to be the only one, and is not."""
        with self._lock:
            if exclusive and self._live[account_id, rule_id]:
                raise in_progress(account_id, rule_id, "in this process")
            self._live[account_id, rule_id] += 1
        RUNNING.add(enforcement_id)

    def leave(self, account_id: int, rule_id: str, enforcement_id: str) -> None:
        """One less."""
        RUNNING.discard(enforcement_id)
        with self._lock:
            self._live[account_id, rule_id] -= 1
            if not self._live[account_id, rule_id]:
                del self._live[account_id, rule_id]


def in_progress(account_id: int, rule_id: str, where: str) -> EnforcementInProgress:
    return EnforcementInProgress(f"{rule_id} is being enforced on account {account_id} already, {where}")


class Meter(Protocol):
    """What metrics want to know; :class:`risk_store.metrics.Metrics` is one."""

    def observe(self, log: EnforcementLog) -> object: ...

    def write_error(self, operation: str) -> object: ...


class ShortWay(NamedTuple):
    """How a store writes the beginning and the end of an enforcement with less than a transaction of the repositories.

    Each by a deadline of ``time.monotonic()``; what fails is tried again in a transaction. For asyncio they give what
    is to be awaited.
    """

    begin: Callable[[EnforcementInFlight, Sequence[Lockout], float], Awaitable[None] | None]
    end: Callable[[Callable[[], EnforcementLog], float], EnforcementLog | Awaitable[EnforcementLog]]


OnAlert = Callable[[Alert], object]


@dataclass(frozen=True, kw_only=True)
class EnforcementContext:
    """What all enforcements of one store share: its clocks, its thresholds, who is told, and which run now."""

    clock: Callable[[], datetime]
    monotonic: Callable[[], float]
    thresholds: Thresholds
    limits: Limits
    on_alert: Sequence[OnAlert]
    meter: Meter | None
    """Told of each finished enforcement, recorded or not, and of writes that failed."""
    live: LiveEnforcements = field(default_factory=LiveEnforcements)

    @classmethod
    def of(
        cls,
        clock: Callable[[], datetime],
        monotonic: Callable[[], float],
        thresholds: Thresholds | None,
        limits: Limits | None,
        on_alert: OnAlert | Sequence[OnAlert],
        metrics: Metrics | None,
    ) -> Self:
        """From what a store was given; thresholds that were not are those of the environment."""
        for name, value, kind in (("thresholds", thresholds, Thresholds), ("limits", limits, Limits)):
            if not isinstance(value, (kind, type(None))):  # told now, and not at a breach
                raise InvalidValue(name, value, f"a {kind.__name__}(...)")
        told = [on_alert] if callable(on_alert) or not isinstance(on_alert, Sequence) else list(on_alert)
        for function in told:
            if not callable(function) or inspect.iscoroutinefunction(function):
                raise InvalidValue("on_alert", function, "a plain function that takes an Alert, or several of them")
        return cls(
            clock=clock,
            monotonic=monotonic,
            thresholds=thresholds or configured_thresholds(),
            limits=limits or Limits(),
            on_alert=[*told, metrics.alert] if metrics is not None else told,
            meter=metrics,
        )


@dataclass(kw_only=True)
class EnforcementCore:
    """What an enforcement is, whoever waits for its transactions: a thread or a task.

    In the block: count what was done (``positions_closed``, ``orders_canceled``), say what did not work
    (:meth:`fail`), add facts (:meth:`detail`). Afterwards ``log`` is the row that was written.
    """

    account_id: int
    rule_id: str
    action: str
    reason: str
    details: Mapping[str, Any] | str | None = None
    lock_until: datetime | NotAsked | None = NOT_ASKED
    exclusive: bool = False
    context: EnforcementContext

    positions_closed: int = field(default=0, init=False)
    orders_canceled: int = field(default=0, init=False)
    enforcement_id: str = field(default_factory=lambda: uuid.uuid4().hex, init=False)
    log: EnforcementLog | None = field(default=None, init=False)
    """The row of the log; None until the block has ended and the row is written."""

    def __post_init__(self) -> None:
        self._failures: list[str] = []
        self._lockouts: list[Lockout] = []  # asked for and not yet known to be written
        self._facts: dict[str, Any] = {}
        self._pid: int | None = None  # of the process that began it
        self._ended: EnforcementLog | None = None
        if isinstance(self.details, Mapping):
            self._facts.update(self.details)
        elif self.details is not None and not isinstance(self.details, str):
            raise InvalidValue("details", self.details, "a mapping of facts, text, or None")
        EnforcementLog.check_asked(self.account_id, self.rule_id, self.action, self.reason)
        self._details()
        if self.lock_until is not NOT_ASKED:
            self._lockouts.append(self._lockout(self.lock_until, self.reason))

    # What a caller says in the block

    def fail(self, message: str) -> None:
        """Notes what did not work; the enforcement is then not a success.

        A gateway that answers HTTP 200 with ``success: false`` has failed.
        """
        self._failures.append(text_of(message))

    def detail(self, **facts: Any) -> None:
        """Adds facts that a dispute will ask for: observed value, limit, rule version, ids. Kept as JSON."""
        self._facts.update(facts)

    # What is written before, within and after the block

    def _beginning(self, short_way: ShortWay | None = None) -> Steps[None]:
        """The intent, and the lockout that was asked for. A store in trouble is no reason not to begin."""
        if self._pid is not None:
            raise InvalidValue(
                "enforcement", self.enforcement_id, "one that has not begun: call enforce() for each anew"
            )
        self._started = self.context.monotonic()
        # After that: who is told that it took too long while it runs is not told at its end that it did not.
        self._limit = time.monotonic() + self.context.thresholds.timeout_ms / 1000
        self._timestamp = self.context.clock()
        self.context.live.enter(self.account_id, self.rule_id, self.enforcement_id, exclusive=self.exclusive)
        self._pid = os.getpid()
        try:
            yield from self._intending(short_way)
        except GeneratorExit:
            raise
        except (EnforcementInProgress, NestedTransaction):
            self._leave()
            raise  # told before anything is closed
        except Exception as error:
            self._shout("enforcement begun without an in-flight row", error, "intent")
        except BaseException:  # Ctrl-C or a task's cancel: the block will not run
            self._leave()
            # The intent may be written; nobody is to take it for an enforcement that was interrupted.
            with suppress(Exception):
                yield Step(self.context.limits.intent_s, self._take_back_intent, to_the_end=True)
            raise
        else:
            self._lockouts.clear()

    def _intending(self, short_way: ShortWay | None) -> Steps[None]:
        deadline = time.monotonic() + self.context.limits.intent_s
        if short_way is not None and not self.exclusive:
            try:
                begun = short_way.begin(self._in_flight(), self._lockouts, deadline)
                if begun is not None:
                    yield begun
                return
            except NestedTransaction:
                raise
            except Exception:
                if left_until(deadline) < self.context.limits.intent_s / 10:
                    raise
            yield Step(left_until(deadline), lambda tx: self._write_intent(tx, again=True))
        else:
            yield Step(self.context.limits.intent_s, self._write_intent)

    def _leave(self) -> None:
        self.context.live.leave(self.account_id, self.rule_id, self.enforcement_id)

    def _locking_out(self, until: datetime | None, reason: str | None) -> Steps[None]:
        lockout = self._lockout(until, self.reason if reason is None else reason)
        try:
            yield Step(self.context.limits.intent_s, lambda tx: lock(tx, lockout))
        except GeneratorExit:
            raise
        except BaseException as error:
            self._lockouts.append(lockout)  # with the outcome
            self._shout("lockout not written yet", error, "lockout")
            if not isinstance(error, Exception):
                raise

    def _ending(self, error: BaseException | None, short_way: ShortWay | None = None) -> Steps[None]:
        """The outcome, whatever it was; an exception of the block's own is never replaced."""
        if self._pid != os.getpid():
            return  # a child that was forked in the block: the enforcement is its parent's
        if error is not None:  # Ctrl-C and task cancel too: the position may be open
            self.fail(f"{type(error).__name__}: {text_of(error)}")

        def latest() -> EnforcementLog:
            self._ended = self._outcome()
            return self._ended

        limits, tried = self.context.limits, None
        try:
            if short_way is not None and not self._lockouts:  # else some are left to be written
                deadline = time.monotonic() + limits.record_s
                try:
                    ended = short_way.end(latest, deadline)
                    self.log = ended if isinstance(ended, EnforcementLog) else (yield ended)
                    return
                except BaseException as failure:
                    tried = Tried(failure, self._ended, deadline)
            self.log = yield from recording(latest, self._lockouts, limits, in_flight=True, tried=tried)
        except EnforcementNotRecorded:
            self._meter_failure("outcome")
            if error is None:
                raise
        finally:
            self._leave()

    def _write_intent(self, tx: Transaction, *, again: bool = False) -> None:
        if self.exclusive:
            self._refuse_second(tx)
        lock_all(tx, self._lockouts)
        (tx.enforcements.start_again if again else tx.enforcements.start)(self._in_flight())

    def _in_flight(self) -> EnforcementInFlight:
        owner = this_process()
        return EnforcementInFlight(
            account_id=self.account_id,
            enforcement_id=self.enforcement_id,
            rule_id=self.rule_id,
            action=self.action,
            reason=self.reason,
            details=self._details(),
            started_at=self._timestamp,
            host=owner.host,
            boot_id=owner.boot_id,
            pid=owner.pid,
            process_started=owner.process_started,
        )

    def _take_back_intent(self, tx: Transaction) -> None:
        tx.enforcements.take_back(self.account_id, self.enforcement_id)

    def _refuse_second(self, tx: Transaction) -> None:
        tx.enforcements.lock_rule(self.account_id, self.rule_id)
        for row in tx.enforcements.in_flight(self.account_id, self.rule_id):
            state = row.owner_state()
            began = row.started_at
            young = isinstance(began, datetime) and abs(self._timestamp - began) < FOREIGN_COUNTS_AS_LIVE
            if state is OwnerState.ALIVE or (state is OwnerState.UNKNOWN and young):
                where = f"by process {row.pid} of {row.host} since {began}"
                raise in_progress(self.account_id, self.rule_id, where)

    # Alerts

    def _watched(self) -> Call:
        """The call that tells if the block still runs at its limit. Without one it runs all the same."""
        try:
            return WATCHDOG.call_at(self._limit, self._tell_while_running)
        except Exception:  # no thread can be started
            _harmless(logger.exception, "the watchdog cannot be started: no alert while this enforcement runs")
            return Call(lambda: None)

    def _tell_while_running(self) -> None:
        """Called by the watchdog: the block hangs, and the position is open now."""
        # In a thread of its own: a callback that hangs must not stop the watchdog.
        took_ms = max(self._took_ms(), self.context.thresholds.timeout_ms)
        alert = self._alert(AlertLevel.TIMEOUT, took_ms, running=True)
        threading.Thread(target=self._tell, args=(alert,), name="risk_store alert", daemon=True).start()

    def _tell_of_end(self) -> None:
        """What is told of an enforcement that is over, whether it was recorded or not."""
        log, self._ended = self._ended, None
        if log is None:
            return
        took_ms = log.execution_time_ms or 0
        level = self.context.thresholds.level(took_ms)
        if level is not None:
            self._tell(self._alert(level, took_ms, running=False))
        if self.context.meter is not None:
            _harmless(self.context.meter.observe, log)

    def _meter_failure(self, operation: str) -> None:
        if self.context.meter is not None:
            _harmless(self.context.meter.write_error, operation)

    def _alert(self, level: AlertLevel, took_ms: int, *, running: bool) -> Alert:
        return Alert(
            level=level,
            rule_id=self.rule_id,
            account_id=self.account_id,
            execution_time_ms=took_ms,
            limit_ms=self.context.thresholds.limit(level),
            running=running,
            enforcement_id=self.enforcement_id,
            action=self.action,
            positions_closed=self._count("positions_closed", []),
            orders_canceled=self._count("orders_canceled", []),
        )

    def _tell(self, alert: Alert) -> None:
        with suppress(Exception):
            alert_logger.log(alert.level.log_level, "%s", alert)
        for observer in self.context.on_alert:
            _harmless(observer, alert)

    # The record

    def _took_ms(self) -> int:
        return max(0, math.ceil((self.context.monotonic() - self._started) * 1000))

    def _outcome(self) -> EnforcementLog:
        """The log row as of now: called last thing before the insert, so that its time has everything in it."""
        took_ms = self._took_ms()
        failures = list(self._failures)
        positions_closed = self._count("positions_closed", failures)
        orders_canceled = self._count("orders_canceled", failures)
        if took_ms > self.context.thresholds.timeout_ms:
            failures.insert(0, f"timed out after {took_ms} ms (limit {self.context.thresholds.timeout_ms} ms)")
        return EnforcementLog(
            account_id=self.account_id,
            rule_id=self.rule_id,
            action=self.action,
            reason=self.reason,
            success=not failures,
            error_message="; ".join(failures) or None,
            positions_closed=positions_closed,
            orders_canceled=orders_canceled,
            timestamp=self._timestamp,
            execution_time_ms=took_ms,
            details=self._details(),
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

    def _shout(self, what: str, error: BaseException, operation: str) -> None:
        self._meter_failure(operation)
        facts = {
            "enforcement_id": self.enforcement_id,
            "account_id": self.account_id,
            "rule_id": self.rule_id,
            "action": self.action,
            "reason": self.reason,
            "lockouts": [lockout.to_dict() for lockout in self._lockouts],
        }
        shout(what, facts, error)


@dataclass(kw_only=True)
class Enforcement(EnforcementCore):
    """An enforcement under way. Made by :meth:`risk_store.RiskStore.enforce`; used as a context manager.

    In the block: count what was done (``positions_closed``, ``orders_canceled``), say what did not work
    (:meth:`fail`), add facts (:meth:`detail`), lock the account (:meth:`lock_out`). Afterwards ``log`` is the row that
    was written.
    """

    write: Write
    short_way: ShortWay | None = None

    def lock_out(self, until: datetime | None = None, reason: str | None = None) -> None:
        """Locks the account now, in a transaction of its own; `until` None is until released.

        Never raises for a store in trouble, since the rest of the block must run: the lockout is then written with the
        outcome. Raises InvalidValue for an `until` that is not an aware instant, and for an empty reason.
        """
        run_steps(self._locking_out(until, reason), self.write)

    def __enter__(self) -> Self:
        run_steps(self._beginning(self.short_way), self.write)
        self._call = self._watched()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._call.cancel()
        try:
            run_steps(self._ending(error, self.short_way), self.write)
        finally:
            self._tell_of_end()


def _harmless(function: Callable[[Any], object], about: Any) -> None:
    """Tells an observer; what goes wrong there is logged, and the enforcement does not notice."""
    try:
        function(about)
    except (Exception, SystemExit):
        with suppress(Exception):  # a handler of the log may be what fails
            logger.exception("an observer failed, told of: %s", shown(about))


def _json(facts: Mapping[str, Any]) -> str:
    """Facts as JSON; what JSON cannot say is kept as text, since the record must not fail on it."""
    try:
        return json.dumps(facts, default=text_of)
    except (TypeError, ValueError, RecursionError):
        return json.dumps({text_of(name): shown(value) for name, value in facts.items()})

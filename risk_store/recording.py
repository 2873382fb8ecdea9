"""How an enforcement is written, whatever happens: in steps, in a bounded time, and if not there then on the log.

What is written, and what happens when it cannot be, is here once for threads and for asyncio (D13): as *steps*, each a
function that wants to run in one write transaction within a time. :func:`run_steps` takes them for threads; its asyncio
twin is in ``aio.py``.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar

from risk_store.errors import EnforcementNotRecorded, InvalidValue, NestedTransaction, shown
from risk_store.models import EnforcementLog, Lockout
from risk_store.repositories import Transaction

__all__ = [
    "Limits",
    "Step",
    "Steps",
    "Tried",
    "Write",
    "lock",
    "lock_all",
    "recording",
    "run_steps",
    "shout",
    "text_of",
    "written_before",
]

logger = logging.getLogger("risk_store.enforcement")

_ATTEMPTS = 3  # the second may meet the first one's COMMIT on its way, and be refused its enforcement_id

T = TypeVar("T")


class Step(NamedTuple):
    """Work that wants to run in one write transaction, waited for at most `timeout_s` seconds."""

    timeout_s: float
    work: Callable[[Transaction], Any]
    to_the_end: bool = False
    """However often a task is cancelled meanwhile."""


Steps = Generator[Step | Awaitable[Any], Any, T]
"""Yields steps, is sent their results (or thrown what they raised), and returns what they were for. For asyncio a step
may also be something to wait for."""


class Write(Protocol):
    """Opens one write transaction, waiting for it at most `timeout_s` seconds."""

    def __call__(self, timeout_s: float) -> AbstractContextManager[Transaction]: ...


def run_steps(steps: Steps[T], write: Write) -> T:
    """Runs each step in a transaction of its own, in this thread."""
    try:
        step = next(steps)
        while True:
            assert isinstance(step, Step)
            try:
                with write(step.timeout_s) as tx:
                    result = step.work(tx)
            except BaseException as error:
                step = steps.throw(error)
            else:
                step = steps.send(result)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True)
class Limits:
    """How long an enforcement may wait for the store, in seconds.

    >>> Limits(intent_s=0.25, record_s=2)
    Limits(intent_s=0.25, record_s=2)

    Raises InvalidValue for what bounds nothing.
    """

    intent_s: float = 0.5
    """For the first transaction: after that the block runs without it."""
    record_s: float = 5.0
    """For writing the outcome, all attempts together: after that it goes to the log at CRITICAL."""

    def __post_init__(self) -> None:
        for name in ("intent_s", "record_s"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0.001 <= value <= 3600:
                raise InvalidValue(name, value, "a number of seconds from 0.001 to 3600")


class Tried(NamedTuple):
    """An attempt to record by a shorter way than a transaction of the repositories', which failed."""

    error: BaseException
    log: EnforcementLog | None
    """What it may have written all the same; None if it came to no row."""
    deadline: float
    """Of all attempts together, by ``time.monotonic()``."""


def recording(
    outcome: Callable[[], EnforcementLog],
    lockouts: Sequence[Lockout],
    limits: Limits,
    *,
    in_flight: bool,
    tried: Tried | None = None,
) -> Steps[EnforcementLog]:
    """Writes one finished enforcement and its lockouts in one transaction; durable when it returns.

    A first attempt (maybe `tried` already) whose COMMIT got no reply may have been carried out: the second looks for
    its enforcement_id before it writes, so nothing is doubled. Raises EnforcementNotRecorded, from the cause, when it
    cannot be written within ``limits.record_s`` in all; the row is then on the log at CRITICAL as one line of JSON,
    which ``risk-store import`` reads back.
    """
    deadline = time.monotonic() + limits.record_s if tried is None else tried.deadline
    log = None if tried is None else tried.log

    def write(tx: Transaction) -> EnforcementLog:
        nonlocal log
        lock_all(tx, lockouts)
        if log is not None and written_before(tx, log):
            return log
        log = outcome()
        if in_flight:
            tx.enforcements.finish(log)
        else:
            tx.enforcements.add(log)
        return log

    def judge(error: BaseException, attempt: int) -> None:
        """Of a failed attempt: raises, unless another one may succeed."""
        nonlocal log
        if isinstance(error, (InvalidValue, NestedTransaction)) and not in_flight:
            raise error  # the caller's mistake, told as it is; after an enforcement it must not cost the record
        log = log or outcome()
        interrupted = not isinstance(error, Exception)  # Ctrl-C, or the end of the event loop
        # The rest of the time is for finding out what a lost reply meant; there may be none left.
        if not interrupted and attempt < _ATTEMPTS and deadline - time.monotonic() >= limits.record_s / 10:
            return
        facts = log.to_dict() | {"lockouts": [lockout.to_dict() for lockout in lockouts]}
        shout("enforcement not recorded", facts, error)
        if interrupted:
            raise error
        raise EnforcementNotRecorded(
            log,
            f"enforcement {log.enforcement_id} of account {log.account_id} ({log.rule_id}, {log.action}) was "
            f"carried out but not recorded: {error}",
        ) from error

    if tried is not None:
        judge(tried.error, 1)
    for attempt in range(1 if tried is None else 2, _ATTEMPTS + 1):
        try:
            written: EnforcementLog = yield Step(max(deadline - time.monotonic(), 0.001), write)
        except GeneratorExit:
            raise
        except BaseException as error:
            judge(error, attempt)
        else:
            return written
    raise AssertionError("unreachable: the last attempt returns or raises")


def written_before(tx: Transaction, log: EnforcementLog) -> bool:
    """Whether an earlier attempt has written `log` after all; it then has its id."""
    found = tx.enforcements.find_recorded(log)
    if found is not None:
        log.id = found
    return found is not None


def lock_all(tx: Transaction, lockouts: Sequence[Lockout]) -> None:
    """Never shortens one, so a second time does no harm."""
    for lockout in lockouts:
        lock(tx, lockout)


def lock(tx: Transaction, lockout: Lockout) -> None:
    tx.lockouts.set(lockout.account_id, lockout.reason or "", lockout.rule_id or "", until=lockout.locked_until)


def shout(what: str, facts: Mapping[str, Any], error: BaseException) -> None:
    cause = f"{type(error).__name__}: {text_of(error)}"
    line = json.dumps({"event": what, **facts, "cause": cause}, default=text_of)
    try:
        logger.critical("%s", line)
    except Exception:  # a handler of the log that fails must not cost the record, nor the block
        with suppress(Exception):
            print(line, file=sys.stderr, flush=True)  # noqa: T201 (the last place that is left)


def text_of(value: object) -> str:
    """`str(value)`, also where that is broken: the record must not fail on it."""
    try:
        return str(value)
    except Exception:
        return shown(value)

"""How an enforcement gets into the database by the driver itself: in its turn, and along with others.

This is the short way, without a transaction of the repositories. What fails is tried again in one, in the general way,
which first looks whether it was written after all.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import URL

from risk_store.deadlines import left_until
from risk_store.errors import StoreBusy
from risk_store.file_writer import FileWriter
from risk_store.models import EnforcementInFlight, EnforcementLog, Lockout
from risk_store.recorders import Recorder, Recorders
from risk_store.recording import Limits, lock_all, written_before
from risk_store.repositories import Transaction
from risk_store.repositories.outcomes import Forms, Intent, Outcome, write_apart, write_together
from risk_store.writers import AccountQueue, Place, WriterQueue

__all__ = ["MOST_TOGETHER", "RECORDED_AT_ONCE", "Sender", "ToFile", "ToServer"]

# Records of other threads that one commit may carry: with 32 threads the 99th percentile of a record is that of two.
MOST_TOGETHER = 64
# Records that a server is asked to write at a time, each with those that waited meanwhile.
RECORDED_AT_ONCE = 2

GeneralWay = Callable[[float], AbstractContextManager[Transaction]]
"""A write transaction of the thread that has the turn, over by a deadline."""


class Sender(ABC):
    """Of one store. Each deadline is one of ``time.monotonic()``."""

    def __init__(self, dialect: sa.Dialect, queue: WriterQueue | AccountQueue, clock: Callable[[], datetime]) -> None:
        self.queue = queue
        self._forms = Forms(dialect)
        self._clock = clock

    def record(
        self,
        log: EnforcementLog,
        lockouts: Sequence[Lockout],
        deadline: float,
        check: Callable[[float], None],
        general_way: GeneralWay,
    ) -> EnforcementLog:
        """A finished enforcement and its lockouts: durable when it returns.

        Raises InvalidValue, before `check` says whether the store may write now.
        """
        outcome = Outcome(self._forms, log, lockouts, self._clock)
        check(deadline)
        self._send_in_turn(outcome, deadline, general_way)
        return outcome.told()

    @abstractmethod
    def begin(
        self, in_flight: EnforcementInFlight, lockouts: Sequence[Lockout], deadline: float, general_way: GeneralWay
    ) -> None:
        """The beginning of an enforcement, and its lockouts."""

    @abstractmethod
    def end(self, latest: Callable[[], EnforcementLog], deadline: float) -> EnforcementLog:
        """The end of an enforcement that has begun. Not with others: its time runs until `latest` is asked for it."""

    @abstractmethod
    def close(self) -> None:
        """Closes the connections of its own; those that are in use, when they are no more."""

    def _send_in_turn(self, job: Outcome | Intent, deadline: float, general_way: GeneralWay) -> None:
        """Sends it when its turn comes, unless another thread has taken it along."""
        queue, place = self.queue, Place(job)
        try:
            try:
                queue.enter(place, deadline)
                if place.settled:
                    if job.refused is not None:
                        raise job.refused
                elif place.alone or not self._is_sent(place, deadline):
                    with general_way(deadline) as tx:
                        _write_again(tx, job)
            except StoreBusy:
                job.encoded()  # what may not be written is refused as that, however long it has waited
                raise
            finally:
                queue.leave(place)
        except BaseException:
            queue.leave(place)  # again: Ctrl-C may have broken off the first call
            raise

    def _is_sent(self, place: Place, deadline: float) -> bool:
        """Whether it went, along with what waits behind it; if not, each of them goes by itself now, this one first.

        Raises what is wrong with one that nobody went along with.
        """
        try:
            if place.job.statements is None:  # seldom
                place.job.encoded()  # what is wrong with its own values must not cost the connection
            self._send(place, deadline)
        except Exception:
            if not place.taken:
                raise
            # Whose row it was that failed does not matter, and nobody knows what a failed COMMIT did.
            self.queue.go_alone(place)
            return False
        place.committed = True
        return True

    @abstractmethod
    def _send(self, place: Place, deadline: float) -> None:
        """Writes its rows and commits, and with them those of threads that wait."""


class ToFile(Sender):
    """Into an SQLite file: rows of this thread and of those that wait behind it in one transaction, with one fsync."""

    queue: WriterQueue

    def __init__(
        self, dialect: sa.Dialect, queue: WriterQueue, file: FileWriter, clock: Callable[[], datetime]
    ) -> None:
        super().__init__(dialect, queue, clock)
        self._file = file

    def begin(
        self, in_flight: EnforcementInFlight, lockouts: Sequence[Lockout], deadline: float, general_way: GeneralWay
    ) -> None:
        self._send_in_turn(Intent(self._forms, in_flight, lockouts, self._clock), deadline, general_way)

    def end(self, latest: Callable[[], EnforcementLog], deadline: float) -> EnforcementLog:
        def write(cursor: Any) -> Outcome:
            return _ended(self._forms, cursor, latest, self._clock)

        with self.queue.turn(left_until(deadline)):
            return self._file.run(deadline, write).told()

    def close(self) -> None:
        return None  # its connection is that of all writers

    def _send(self, place: Place, deadline: float) -> None:
        """The others are taken along only when the file is ours, so that none waits longer than it would have."""

        def write(cursor: Any) -> None:
            place.job.write(cursor)
            for follower in self.queue.take(place, MOST_TOGETHER - 1):
                if follower.job.is_ready():
                    follower.job.write(cursor)
            self.queue.sent(place)

        self._file.run(deadline, write)


class ToServer(Sender):
    """To PostgreSQL: one statement, which is a transaction of its own, by connections that are kept for this."""

    queue: AccountQueue

    def __init__(
        self, engine: sa.Engine, url: URL, limits: Limits, pool_size: int, clock: Callable[[], datetime]
    ) -> None:
        super().__init__(engine.dialect, AccountQueue(RECORDED_AT_ONCE), clock)
        self.recorders = Recorders(engine, url, limits.record_s, pool_size)
        # Apart for beginnings, which the server itself is to give up earlier: else one that nobody waits for any more
        # could be carried out when its enforcement is over.
        self._beginners = Recorders(engine, url, limits.intent_s, pool_size)

    def begin(
        self,
        in_flight: EnforcementInFlight,
        lockouts: Sequence[Lockout],
        deadline: float,
        general_way: GeneralWay,  # noqa: ARG002 (all senders are given it)
    ) -> None:
        """Not with others: it waits for nobody."""

        def begin(recorder: Recorder) -> None:
            apart = not recorder.takes_others
            Intent(self._forms, in_flight, lockouts, self._clock, apart=apart).send(recorder.cursor)

        self._beginners.run(deadline, begin)

    def end(self, latest: Callable[[], EnforcementLog], deadline: float) -> EnforcementLog:
        def write(recorder: Recorder) -> Outcome:
            return _ended(self._forms, recorder.cursor, latest, self._clock)

        return self.recorders.run(deadline, write).told()

    def close(self) -> None:
        self.recorders.close()
        self._beginners.close()

    def _send(self, place: Place, deadline: float) -> None:
        """Those who wait are taken along when the connection is there, as many as have come until then."""

        def send(recorder: Recorder) -> None:
            if not recorder.takes_others:
                self.queue.let_all_in()  # they lie on many workers, of which one may be silent
                write_apart(recorder.dialect, recorder.cursor, place.job)
            elif taken := self.queue.take(place, MOST_TOGETHER - 1):
                others = [follower.job for follower in taken if follower.job.is_ready()]
                write_together(recorder.dialect, recorder.cursor, [place.job, *others])
            else:
                place.job.write(recorder.cursor)

        self.recorders.run(deadline, send)


def _write_again(tx: Transaction, job: Outcome | Intent) -> None:
    """What may have been written before: nothing of it twice."""
    lock_all(tx, job.lockouts)
    if isinstance(job, Intent):
        tx.enforcements.start_again(job.in_flight)
        return
    if not written_before(tx, job.log):
        tx.enforcements.add(job.log)
    job.log_id = job.log.id


def _ended(forms: Forms, cursor: Any, latest: Callable[[], EnforcementLog], clock: Callable[[], datetime]) -> Outcome:
    outcome = Outcome(forms, latest(), [], clock, in_flight=True)
    outcome.write(cursor)
    return outcome

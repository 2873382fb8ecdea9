"""Writers that wait for the same file share one commit (D10).

A durable commit is one fsync, which is most of what a record costs (80 %, SQLite with synchronous=FULL). Threads that
come while one is written wait for it anyway: whoever has the turn next carries out all that has come by then, in the
order it came, in one transaction, and commits once. One thread alone pays nothing.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from risk_store.errors import StoreBusy
from risk_store.recording import Write
from risk_store.repositories import Transaction

__all__ = ["GroupCommit"]

T = TypeVar("T")

MOST = 128  # jobs in one transaction: a caller should not wait for many times what its own would take


class GroupCommit:
    """Runs jobs of several threads in common transactions. A job that fails fails alone.

    A job may be run twice, the first time in a transaction that came to nothing: it must not mind.
    """

    def __init__(self, write: Write) -> None:
        self._write = write
        self._mutex = threading.Lock()
        self._led = False
        self._waiting: deque[_Job] = deque()

    def run(self, timeout_s: float, work: Callable[[Transaction], T]) -> T:
        """What `work` returns, once its transaction is committed; waits for its turn at most `timeout_s` seconds.

        Raises what `work` raises, and what the transaction raises, StoreBusy when the time is over.
        """
        job = _Job(work)
        deadline = time.monotonic() + timeout_s
        if self._is_to_wait(job) and not self._comes_to_lead(job, timeout_s):
            return job.outcome()  # type: ignore[no-any-return]
        try:
            self._lead(job, max(0.001, deadline - time.monotonic()))
        finally:
            self._hand_on()
        return job.outcome()  # type: ignore[no-any-return]

    def _is_to_wait(self, job: _Job) -> bool:
        with self._mutex:
            if self._led:
                self._waiting.append(job)
                return True
            self._led = True
            return False

    def _comes_to_lead(self, job: _Job, timeout_s: float) -> bool:
        """Waits until another thread has written the job, or has given it the lead: then True."""
        try:
            if not job.gate.acquire(timeout=timeout_s):
                if self._withdrawn(job):
                    raise StoreBusy(f"other writers of this process kept the store for {timeout_s:g} s")
                job.gate.acquire()  # it is being written: what becomes of it must be known
        except BaseException:
            if not self._withdrawn(job) and job.leads:  # Ctrl-C at the moment at which it was given the lead
                self._hand_on()
            raise
        return job.leads

    def _withdrawn(self, job: _Job) -> bool:
        with self._mutex, suppress(ValueError):
            self._waiting.remove(job)
            return True
        return False

    def _lead(self, own: _Job, timeout_s: float) -> None:
        jobs = [own]
        try:
            with self._write(timeout_s) as tx:
                jobs += self._come_by_now()
                for job in jobs:
                    job.attempt(tx)
                    if job.error is not None:
                        raise job.error if len(jobs) == 1 else _OneFailed
            for job in jobs:
                job.is_committed = True
        except _OneFailed:
            self._one_by_one(jobs, timeout_s)
        except BaseException as error:
            for job in jobs:
                job.fail(error, is_own=job is own)
        finally:
            for job in jobs:
                job.gate.release()

    def _come_by_now(self) -> list[_Job]:
        with self._mutex:
            return [self._waiting.popleft() for _ in range(min(MOST - 1, len(self._waiting)))]

    def _one_by_one(self, jobs: Sequence[_Job], timeout_s: float) -> None:
        """Each in a transaction of its own, so that the one that fails takes no other with it."""
        for job in jobs:
            try:
                with self._write(timeout_s) as tx:
                    job.attempt(tx)
                    if job.error is not None:
                        raise job.error
                job.is_committed = True
            except BaseException as error:
                job.fail(error, is_own=job is jobs[0])
                if not isinstance(error, Exception):
                    raise  # Ctrl-C: the jobs that are left are not committed

    def _hand_on(self) -> None:
        with self._mutex:
            if self._waiting:
                job = self._waiting.popleft()
                job.leads = True
                job.gate.release()
            else:
                self._led = False


class _OneFailed(Exception):
    """One of several jobs failed: the transaction is undone, and each gets one of its own."""


class _Job:
    """What one thread wants written, and what became of it."""

    def __init__(self, work: Callable[[Transaction], Any]) -> None:
        self._work = work
        self._result: Any = None
        self.error: BaseException | None = None
        self.is_committed = False
        self.leads = False
        self.gate = threading.Lock()
        self.gate.acquire()

    def attempt(self, tx: Transaction) -> None:
        self.error = None
        try:
            self._result = self._work(tx)
        except Exception as error:
            self.error = error

    def fail(self, error: BaseException, *, is_own: bool) -> None:
        """The transaction failed. What only the leading thread was told (Ctrl-C) is no error of another's."""
        self.error = error if is_own or isinstance(error, Exception) else None

    def outcome(self) -> Any:
        if self.error is not None:
            raise self.error
        if not self.is_committed:
            raise StoreBusy("the thread that wrote for several was interrupted: nothing was written")
        return self._result

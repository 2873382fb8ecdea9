"""The queues in front of a database: of one that takes one writer at a time, and of one that takes many."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from risk_store.deadlines import left_until
from risk_store.errors import StoreBusy

__all__ = ["AccountQueue", "Place", "WriterQueue"]

# How long a thread has the interpreter from being told until it waits with its next record (seconds, on the machine of
# docs/performance.md), and from how many on it is worth a second commit that half of them do so while the other half is
# written. Where a commit takes about as long it makes no difference, so neither has to be exact.
COMES_BACK_S = 80e-6
HALVED_FROM = 6
# How long those who are done stand back for the next one at most (seconds): it may hang before its rows are sent.
STANDS_BACK_S = 0.005


class Job(Protocol):
    """What an :class:`AccountQueue` asks of a job."""

    @property
    def account_id(self) -> int: ...

    @property
    def locks(self) -> bool:
        """Whether it writes the account's lockout."""
        ...


class Place:
    """One thread's place in the queue.

    With a `job` whoever has the turn may do that job along with its own, in one commit (group commit); without one the
    thread wants the turn for itself.
    """

    __slots__ = ("alone", "committed", "gate", "gone", "job", "settled", "taken")

    def __init__(self, job: Any = None) -> None:
        self.job = job
        self.gate: threading.Lock | None = None
        self.taken: list[Place] = []
        """Whose jobs this one does along with its own; what becomes of them is decided when it leaves."""
        self.committed = False
        """What it has done, those jobs too, is durable. Nothing is until that is said."""
        self.settled = False
        """Another one has done its job, and that is durable."""
        self.alone = False
        """Another one has tried its job, and came to nothing or to what nobody knows: to be tried by itself."""
        self.gone = False
        """Its thread does not wait any more."""


class WriterQueue:
    """Lets the writers of one process in one at a time, in the order they came (D10).

    Without it the threads of a process poll a busy SQLite file: the wait is unfair, and its p99 over 600 ms where the
    queue's is 27 ms (reference figures in `docs/architecture.md`).

    Threads that record one after another would all come together in one commit, and none of them do anything until it
    is synced. While that is quick they go in two halves: one is written while the other comes back with its next. And
    those who are done stand back until the rows of the next half are sent: its commit then needs no interpreter.

    >>> queue = WriterQueue()
    >>> with queue.turn(timeout_s=1.0):
    ...     "writing"
    'writing'

    Ctrl-C may come between any two calls. So who has the turn is one attribute; :meth:`leave` can be called again
    wherever it was broken off; and it is called twice if anything was raised, also within the first call.
    """

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._has_turn: Place | None = None  # None only if nobody waits
        self._waiting: deque[Place] = deque()
        self._standing_back: threading.Lock | None = None  # where those who are done wait for who has the turn
        self._told = 0  # for how many the last commit was that have not come again yet
        self._commit_s = math.inf  # what a commit for several takes, on the average of some eight
        self._sent_at = 0.0

    @contextmanager
    def turn(self, timeout_s: float) -> Iterator[None]:
        """Waits for this thread's turn, at most `timeout_s` seconds; raises StoreBusy when that is over."""
        place = Place()
        try:
            try:
                self.enter(place, time.monotonic() + timeout_s)
                yield
            finally:
                self.leave(place)
        except BaseException:
            self.leave(place)
            raise

    def enter(self, place: Place, deadline: float) -> None:
        """Waits until `place` has the turn, or until another one has done its job (`place.settled`).

        Raises StoreBusy at `deadline` (of ``time.monotonic()``); of a job that another one is doing then, nobody knows
        what becomes. The caller calls :meth:`leave` whatever happens in here.
        """
        with self._mutex:
            if self._told:
                self._told -= 1
            if self._has_turn is None:
                self._has_turn = place
                return
            place.gate = gate = threading.Lock()
            gate.acquire()
            self._waiting.append(place)
        timeout_s = left_s = left_until(deadline)
        while gate.acquire(timeout=left_s):
            if place.settled or self._has_turn is place:
                return
            left_s = left_until(deadline)
        with self._mutex:
            if place.settled or self._has_turn is place:
                return  # at the last moment
            place.gone = True
            if place in self._waiting:  # from here on nobody does its job
                self._waiting.remove(place)
        raise StoreBusy(f"other writers of this process kept the store for {round(timeout_s, 3):g} s")

    def take(self, place: Place, most: int) -> Sequence[Place]:
        """Those who wait right behind `place`, which has the turn, and whose jobs it may do: at most `most`.

        It stops at the first that wants the turn for itself: nobody is overtaken. If they go in halves, it is half.
        """
        if not self._waiting:  # as nearly always; who comes at this moment waits for the next one
            return place.taken
        with self._mutex:
            if self._waiting and self._go_in_halves():
                most = min(most, (len(self._waiting) + self._told) // 2)
            while self._waiting and len(place.taken) < most:
                first = self._waiting[0]
                if first.job is None or first.alone:
                    break
                place.taken.append(first)
                self._waiting.popleft()
        return place.taken

    def sent(self, place: Place) -> None:
        """The rows of `place`, which has the turn, and of those it took along are sent: only the commit is left."""
        if place.taken or place.gate is not None:  # else nobody is beside it
            self._sent_at = time.monotonic()
            self._let_go()

    def go_alone(self, place: Place) -> None:
        """`place` and whoever it took along came to nothing together: each goes by itself, it first, then they."""
        if self._has_turn is place:
            self._let_go()  # that may take a while

    def leave(self, place: Place) -> None:
        """`place` is done, or has given up: whoever it took along is told, and the turn goes to the next one."""
        is_first_call, place.gone = not place.gone, True
        if place.settled:
            return  # thirty of them at a time: not one of them has to wait here
        standing_back = None
        with self._mutex:
            if not place.committed:
                self._give_back(place)
            had_turn = self._has_turn is place
            if had_turn:
                if self._standing_back is not None:
                    self._let_go()
                self._told = 1 + len(place.taken)
                self._has_turn = self._waiting[0] if self._waiting else None
            elif place in self._waiting:
                self._waiting.remove(place)
            following = self._has_turn
            if following is not None and self._waiting and self._waiting[0] is following:
                self._waiting.popleft()
            if place.taken:
                for follower in place.taken:
                    follower.settled = True  # whatever comes now, even if its time is over before it is woken
                if had_turn and is_first_call:
                    self._note_commit(time.monotonic() - self._sent_at)
                    standing_back = self._stand_back_for(following)
            if following is not None:
                _wake(following)
        # After the next one, which has thirty statements to send: woken before it they would all be in its way.
        if standing_back is not None:
            standing_back.acquire(timeout=STANDS_BACK_S)
        while place.taken:
            _wake(place.taken[-1])
            place.taken.pop()

    def _note_commit(self, took_s: float) -> None:
        """Until its thread went on, which others may keep from it: that long they have for what they do meanwhile."""
        self._commit_s = took_s if self._commit_s == math.inf else self._commit_s + (took_s - self._commit_s) / 8

    def _stand_back_for(self, following: Place | None) -> threading.Lock | None:
        """Where to wait until the rows of the next one are sent, if that is to be waited for."""
        if following is None or following.job is None or not self._go_in_halves():
            return None
        gate = threading.Lock()
        gate.acquire()
        self._standing_back = gate
        return gate

    def _let_go(self) -> None:
        """Those who stand back for who has the turn go on. (It alone calls this: it needs no mutex.)"""
        standing_back, self._standing_back = self._standing_back, None
        if standing_back is not None:
            standing_back.release()

    def _go_in_halves(self) -> bool:
        """Whether those who write at the moment would take longer to come back, all at once, than a commit takes."""
        writing = 1 + len(self._waiting) + self._told  # the one who has the turn is in neither
        return writing >= HALVED_FROM and self._commit_s < COMES_BACK_S * writing

    def _give_back(self, place: Place) -> None:
        """To where they were: first."""
        while place.taken:
            follower = place.taken[-1]
            if not follower.gone:
                follower.alone = True
                if follower not in self._waiting:
                    self._waiting.appendleft(follower)
            place.taken.pop()


class AccountQueue:
    """In front of a server: jobs of several accounts at once, those of one account one after another.

    At most `at_once` threads write at a time; whoever waits meanwhile goes along with the next one of them, in one
    commit. Nobody waits for company: who comes when there is room goes on at once. A job that has to go by itself
    takes nobody's room: it may hang on a lock of somebody else's, and only its own account waits for it.

    Ctrl-C may come between any two calls: what holds is told by lists alone, and :meth:`leave` can be called again.

    >>> from types import SimpleNamespace
    >>> queue, place = AccountQueue(at_once=2), Place(SimpleNamespace(account_id=7, locks=False))
    >>> queue.enter(place, time.monotonic() + 1.0)
    >>> queue.take(place, most=10)
    []
    >>> queue.leave(place)
    """

    def __init__(self, at_once: int) -> None:
        self._mutex = threading.Lock()
        self._at_once: int | None = at_once
        self._running: list[Place] = []
        self._waiting: list[Place] = []

    def let_all_in(self) -> None:
        """From now on nobody waits but for another one of the same account.

        >>> from types import SimpleNamespace
        >>> queue = AccountQueue(at_once=1)
        >>> queue.let_all_in()
        >>> for account in (7, 8, 9):
        ...     queue.enter(Place(SimpleNamespace(account_id=account, locks=False)), time.monotonic())
        """
        if self._at_once is not None:
            with self._mutex:
                self._at_once = None
                self._start_waiting()

    def enter(self, place: Place, deadline: float) -> None:
        """Waits until `place` may write, or until another one has done its job (`place.settled`).

        Raises StoreBusy at `deadline` (of ``time.monotonic()``); of a job that another one is doing then, nobody knows
        what becomes. The caller calls :meth:`leave` whatever happens in here.
        """
        with self._mutex:
            others = self._running or self._waiting
            if not others or (
                self._has_room() and place.job.account_id not in {*self._busy(), *map(_account, self._waiting)}
            ):
                self._running.append(place)
                return
            place.gate = gate = threading.Lock()
            gate.acquire()
            self._waiting.append(place)
        timeout_s = left_s = left_until(deadline)
        while gate.acquire(timeout=left_s):
            if place.settled or place in self._running:
                return
            left_s = left_until(deadline)
        with self._mutex:
            if place.settled or place in self._running:
                return  # at the last moment
            place.gone = True
            self._waiting = [other for other in self._waiting if other is not place]
        raise StoreBusy(f"other records of this process kept the store for {round(timeout_s, 3):g} s")

    def take(self, place: Place, most: int) -> Sequence[Place]:
        """Those who wait, and whose jobs `place` may do along with its own: at most `most`, in the order they came.

        Nobody overtakes another one of the same account; and one statement can lock an account only once.
        """
        if not self._waiting:
            return place.taken
        with self._mutex:
            passed = {account for account in self._busy() if account != place.job.account_id}
            mine = {place.job.account_id: place.job.locks}
            for follower in self._waiting:
                account, locks = follower.job.account_id, follower.job.locks
                together = not (locks and mine.get(account, False))
                if len(place.taken) == most or follower.alone or account in passed or not together:
                    passed.add(account)
                else:
                    mine[account] = mine.get(account, False) or locks
                    place.taken.append(follower)
            taken = {*place.taken}
            self._waiting = [other for other in self._waiting if other not in taken]
        return place.taken

    def go_alone(self, place: Place) -> None:
        """`place` and whoever it took along came to nothing together: from now on each goes by itself."""
        with self._mutex:
            place.alone = True
            self._give_back(place)
            self._start_waiting()

    def leave(self, place: Place) -> None:
        """`place` is done, or has given up: whoever may go on now does, and whoever it took along is told."""
        place.gone = True
        if place.settled:
            return  # thirty of them at a time: not one of them has to wait here
        with self._mutex:
            if not place.committed and place.taken:
                self._give_back(place)
            if place in self._running:
                self._running.remove(place)
            if self._waiting:  # also the second time: the first may have been broken off before anybody was woken
                self._waiting = [other for other in self._waiting if other is not place]
                self._start_waiting()
        while place.taken:
            _settle(place.taken[-1])
            place.taken.pop()

    def _give_back(self, place: Place) -> None:
        back = [follower for follower in place.taken if not follower.gone]
        for follower in back:
            follower.alone = True
        self._waiting = [*back, *(other for other in self._waiting if other not in back)]
        place.taken = []

    def _start_waiting(self) -> None:
        passed = self._busy()
        self._waiting = [place for place in self._waiting if not place.settled]
        for place in list(self._waiting):
            if place.job.account_id not in passed and (place.alone or self._has_room()):
                self._running.append(place)
                self._waiting.remove(place)
                _wake(place)
            passed.add(place.job.account_id)

    def _has_room(self) -> bool:
        return self._at_once is None or sum(not place.alone for place in self._running) < self._at_once

    def _busy(self) -> set[int]:
        """The accounts whose jobs are being done."""
        return {other.job.account_id for place in self._running for other in (place, *place.taken)}


def _account(place: Place) -> int:
    job: Job = place.job
    return job.account_id


def _settle(place: Place) -> None:
    place.settled = True
    _wake(place)


def _wake(place: Place) -> None:
    if place.gate is not None and place.gate.locked():
        place.gate.release()

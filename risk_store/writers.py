"""The queue in front of a database that takes one writer at a time."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from risk_store.errors import StoreBusy

__all__ = ["Place", "WriterQueue"]


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

    @contextmanager
    def turn(self, timeout_s: float) -> Iterator[None]:
        """Waits for this thread's turn, at most `timeout_s` seconds; raises StoreBusy when that is over."""
        place = Place()
        try:
            try:
                self.enter(place, timeout_s)
                yield
            finally:
                self.leave(place)
        except BaseException:
            self.leave(place)
            raise

    def enter(self, place: Place, timeout_s: float) -> None:
        """Waits until `place` has the turn, or until another one has done its job (`place.settled`).

        Raises StoreBusy after `timeout_s` seconds; of a job that another one is doing then, nobody knows what becomes.
        The caller calls :meth:`leave` whatever happens in here.
        """
        with self._mutex:
            if self._has_turn is None:
                self._has_turn = place
                return
            place.gate = gate = threading.Lock()
            gate.acquire()
            self._waiting.append(place)
        deadline = time.monotonic() + timeout_s
        while gate.acquire(timeout=max(0.0, deadline - time.monotonic())):
            if place.settled or self._has_turn is place:
                return
        with self._mutex:
            if place.settled or self._has_turn is place:
                return  # at the last moment
            place.gone = True
            if place in self._waiting:  # from here on nobody does its job
                self._waiting.remove(place)
        raise StoreBusy(f"other writers of this process kept the store for {timeout_s:g} s")

    def take(self, place: Place, most: int) -> Sequence[Place]:
        """Those who wait right behind `place`, which has the turn, and whose jobs it may do: at most `most`.

        It stops at the first that wants the turn for itself: nobody is overtaken.
        """
        with self._mutex:
            while self._waiting and len(place.taken) < most:
                first = self._waiting[0]
                if first.job is None or first.alone:
                    break
                place.taken.append(first)
                self._waiting.popleft()
        return place.taken

    def leave(self, place: Place) -> None:
        """`place` is done, or has given up: whoever it took along is told, and the turn goes to the next one."""
        with self._mutex:
            place.gone = True
            while place.taken:
                self._let_go(place.taken[-1], place.committed)
                place.taken.pop()
            if self._has_turn is place:
                self._has_turn = self._waiting[0] if self._waiting else None
            elif place in self._waiting:
                self._waiting.remove(place)
            following = self._has_turn
            if following is not None and self._waiting and self._waiting[0] is following:
                self._waiting.popleft()
            if following is not None:
                self._wake(following)

    def _let_go(self, follower: Place, committed: bool) -> None:
        if committed:
            follower.settled = True
            self._wake(follower)
        elif not follower.gone:  # to where it was: first
            follower.alone = True
            if follower not in self._waiting:
                self._waiting.appendleft(follower)

    def _wake(self, place: Place) -> None:
        if place.gate is not None and place.gate.locked():
            place.gate.release()

"""How far the plain driver goes where threads wait for each other: with the same trick, and nothing beside it.

No value is checked, no error is handled, nobody's time is over: what a store with those can reach at most.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Self

from benchmarks.places import Place
from benchmarks.plain import Plain
from benchmarks.values import Event

__all__ = ["OneCommit", "OneStatement"]


@dataclass(slots=True, eq=False)
class _Waiting:
    """A thread that waits, until it is written or is the next one to write."""

    rows: tuple[Any, Any]
    gate: threading.Lock = field(default_factory=threading.Lock)
    is_written: bool = False


class OneCommit(Plain):
    """SQLite: one connection for all threads, and whoever has it writes and commits for half of those about; the other
    half is told meanwhile, when nothing but the commit is left to do."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._mutex = threading.Lock()
        self._is_writing = False
        self._waiting: deque[_Waiting] = deque()
        self._done: list[_Waiting] = []

    def of_thread(self) -> Self:
        return self

    def leave(self) -> None:
        return None

    def record(self, event: Event) -> None:
        own = _Waiting((self._of_log(event), self._of_lockout(event, self._instant(datetime.now(UTC)))))
        with self._mutex:
            waits, self._is_writing = self._is_writing, True
            if waits:
                own.gate.acquire()
                self._waiting.append(own)
        if waits:
            own.gate.acquire()
            if own.is_written:
                return
        done, self._done = self._done, []
        others: list[_Waiting] = []
        try:
            self.execute(self._begin)
            self._write(own)
            with self._mutex:
                half = (len(self._waiting) + 1 + len(done)) // 2
                others = [self._waiting.popleft() for _ in range(min(half, len(self._waiting)))]
            for each in others:
                self._write(each)
            _tell(done)
            self.execute("COMMIT")
        finally:  # after an error they are told the same, so that nobody hangs: the comparison will show it
            _tell(done)
            for each in others:
                each.is_written = True
            with self._mutex:
                following = self._waiting.popleft() if self._waiting else None
                self._is_writing = following is not None
                self._done = others if following else []
            _tell([following] if following else others)

    def _write(self, waiting: _Waiting) -> None:
        self.execute(self._log, waiting.rows[0])
        self.execute(self._lock, waiting.rows[1])


def _tell(those: list[_Waiting]) -> None:
    while those:
        those.pop().gate.release()


class OneStatement(Plain):
    """PostgreSQL: both rows in one statement, by a connection for each thread."""

    def record(self, event: Event) -> None:
        self.record_in_one(event)

"""A watchdog: calls back when a time is over, whatever the program is doing meanwhile.

One daemon thread a process, started at the first use. It tells of enforcements that hang while they hang, and ends the
wait for a server that never answers.
"""

from __future__ import annotations

import heapq
import logging
import os
import threading
import time
from collections.abc import Callable
from itertools import count

__all__ = ["Call", "Watchdog", "WATCHDOG"]

logger = logging.getLogger("risk_store.watchdog")


class Call:
    """One call to come."""

    def __init__(self, function: Callable[[], object]) -> None:
        self._function: Callable[[], object] | None = function
        self._lock = threading.Lock()

    def cancel(self) -> None:
        """The function will not be called any more; if it is being called at this moment, waits until it has ended."""
        with self._lock:
            self._function = None

    def _run(self) -> None:
        with self._lock:
            function, self._function = self._function, None
            try:
                if function is not None:
                    function()
            except Exception:
                logger.exception("a call of the watchdog failed")


class Watchdog:
    """Calls functions at instants of :func:`time.monotonic`. They must be short: they share one thread.

    >>> called = threading.Event()
    >>> call = Watchdog().call_at(time.monotonic(), called.set)
    >>> called.wait(10)
    True
    """

    def __init__(self) -> None:
        self._start_over()

    def _start_over(self) -> None:
        self._calls: list[tuple[float, int, Call]] = []
        self._order = count()
        self._changed = threading.Condition()
        self._running = False

    def call_at(self, when: float, function: Callable[[], object]) -> Call:
        """`function` is called as soon as ``time.monotonic()`` is `when`, unless the call is cancelled before."""
        call = Call(function)
        with self._changed:
            heapq.heappush(self._calls, (when, next(self._order), call))
            if not self._running:
                threading.Thread(target=self._work, name="risk_store watchdog", daemon=True).start()
                self._running = True
            elif self._calls[0][2] is call:
                self._changed.notify()
        return call

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._calls or self._calls[0][0] > time.monotonic():
                    left = self._calls[0][0] - time.monotonic() if self._calls else threading.TIMEOUT_MAX
                    self._changed.wait(min(left, threading.TIMEOUT_MAX))
                _, _, call = heapq.heappop(self._calls)
            call._run()


WATCHDOG = Watchdog()
"""The process's own."""

if hasattr(os, "register_at_fork"):  # threads do not survive a fork, and a lock may have been held
    os.register_at_fork(after_in_child=WATCHDOG._start_over)

"""Records for the tests of group commit, threads that write them, and Ctrl-C at any moment of theirs."""

from __future__ import annotations

import dis
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import risk_store
from risk_store import EnforcementLog, Lockout, RiskStore
from risk_store.writers import Place

__all__ = ["CHILD", "CtrlC", "a_lockout", "a_log", "sizes_of_groups", "together", "until"]


def a_log(account_id: int = 1, **changes: Any) -> EnforcementLog:
    values = {"rule_id": "RULE-003", "action": "CLOSE_ALL", "reason": "loss", "success": True}
    return EnforcementLog(account_id=account_id, **(values | changes))


def a_lockout(account_id: int) -> Lockout:
    return Lockout(account_id=account_id, is_locked=True, reason="loss", rule_id="RULE-003")


@contextmanager
def together(*works: Callable[[], object]) -> Iterator[list[BaseException]]:
    """Threads that do these works, and what they raise; at the end of the block all of them have ended."""
    raised: list[BaseException] = []

    def guarded(work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=guarded, args=(work,), daemon=True) for work in works]
    for thread in threads:
        thread.start()
    yield raised
    for thread in threads:
        thread.join(timeout=60)
        assert not thread.is_alive(), "a writer waits for ever"


def until(happened: Callable[[], bool]) -> None:
    for _ in range(20_000):
        if happened():
            return
        time.sleep(0.001)
    raise AssertionError("it did not happen")


def sizes_of_groups(monkeypatch: pytest.MonkeyPatch, queue: type[Any]) -> list[int]:
    """How many records each commit carries: grows whenever somebody takes others out of such a queue with its own."""
    sizes: list[int] = []
    take = queue.take

    def counting(self: Any, place: Place, most: int) -> Any:
        taken = take(self, place, most)
        sizes.append(1 + len(taken))
        return taken

    monkeypatch.setattr(queue, "take", counting)
    return sizes


PACKAGE = f"{Path(risk_store.__file__).parent}{os.sep}"  # the checkout's folder may have that name too


class CtrlC:
    """Raises KeyboardInterrupt in this thread at the n-th place in risk_store at which CPython looks for signals.

    These are: the beginning of a function, a jump back, and the end of a call.
    """

    LOOKS_AFTER = frozenset({"CALL", "CALL_KW", "CALL_FUNCTION_EX", "RESUME", "JUMP_BACKWARD"})

    def __init__(self, at: int) -> None:
        self.at = at
        self.seen = 0
        self._before: dict[FrameType, str] = {}

    def __enter__(self) -> CtrlC:
        sys.settrace(self._trace)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _trace(self, frame: FrameType, event: str, _argument: object) -> Any:
        # Not in other libraries, whose callbacks of weak references may run anywhere, and tell nobody of an exception.
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            before = self._before.get(frame)
            self._before[frame] = dis.opname[frame.f_code.co_code[frame.f_lasti]]
            if before in self.LOOKS_AFTER:
                self.seen += 1
                if self.seen == self.at:
                    sys.settrace(None)
                    raise KeyboardInterrupt
        return self._trace


CHILD = """
import sys, threading
from risk_store import EnforcementLog, Lockout, RiskStore
url, process = sys.argv[1], int(sys.argv[2])
lock = threading.Lock()
def work(thread):
    number = 0
    while True:
        number += 1
        account = process * 1_000_000 + thread * 10_000 + number
        log = EnforcementLog(account_id=account, rule_id="R", action="A", reason="r", success=True)
        store.record(log, Lockout(account_id=account, is_locked=True, reason="r", rule_id="R"))
        with lock:
            print(account, flush=True)
with RiskStore(url) as store:
    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
"""
"""A program whose eight threads record until it is killed, and print the account of each record that returned."""


def records_with_an_unfit_one(store: RiskStore) -> list[Callable[[], object]]:
    """Of accounts 2, 1 and 3, each with a lockout; no column keeps a value of account 1's."""
    unfit: Any = {"limit": -500}
    return [
        lambda: store.record(a_log(2), a_lockout(2)),
        lambda: store.record(a_log(1, details=unfit), a_lockout(1)),
        lambda: store.record(a_log(3), a_lockout(3)),
    ]

"""Which process this is, in words that stay true after it is gone."""

from __future__ import annotations

import functools
import os
import socket
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

__all__ = ["RUNNING", "Owner", "OwnerState", "this_process"]

RUNNING: set[str] = set()
"""The enforcement_ids of what this process carries out now: of itself a process knows better than by its pid."""


class OwnerState(StrEnum):
    """What is known of a process by another one."""

    ALIVE = "alive"
    GONE = "gone"
    UNKNOWN = "unknown"
    """A process of another host, or on a system that does not tell."""


@dataclass(frozen=True, slots=True)
class Owner:
    """One process of one boot of one host: a pid alone is used again.

    >>> this_process().pid == os.getpid()
    True
    """

    host: str
    boot_id: str | None
    """None where the system does not tell (only Linux does)."""
    pid: int
    process_started: str | None
    """Start time of the process in clock ticks since boot; None where the system does not tell."""

    def state(self) -> OwnerState:
        """Whether the process still runs, as far as this one can tell.

        >>> this_process().state()
        <OwnerState.ALIVE: 'alive'>
        """
        here = this_process()
        if self.host != here.host:
            return OwnerState.UNKNOWN
        if self == here:
            return OwnerState.ALIVE
        if None in (self.boot_id, here.boot_id):
            return _state_of_pid(self.pid)
        if self.boot_id != here.boot_id:
            return OwnerState.GONE  # the host has been started anew since
        stat = _stat(self.pid)
        if stat is None or stat.state in "ZXx":  # dead, and only not buried yet
            return OwnerState.GONE
        return OwnerState.ALIVE if stat.started == self.process_started else OwnerState.GONE  # a pid used again


def this_process() -> Owner:
    """The process that calls."""
    return _owner(os.getpid())


@functools.lru_cache(maxsize=1)  # by pid: a forked child is another owner
def _owner(pid: int) -> Owner:
    stat = _stat(pid)
    boot_id = _read("/proc/sys/kernel/random/boot_id")
    return Owner(socket.gethostname(), boot_id, pid, stat.started if stat else None)


class _Stat(NamedTuple):
    state: str
    started: str


def _stat(pid: int) -> _Stat | None:
    text = _read(f"/proc/{pid}/stat")
    if not text:
        return None
    # The second field is the program's name in parentheses and may hold spaces; start time is the 22nd field.
    after_name = text.rpartition(")")[2].split()
    return _Stat(after_name[0], after_name[19])


def _state_of_pid(pid: int) -> OwnerState:
    """Where the system tells neither boot nor start time: a pid that is in use may be another's by now."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return OwnerState.GONE
    except (OSError, OverflowError):
        pass
    return OwnerState.UNKNOWN


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None


if hasattr(os, "register_at_fork"):  # what the parent does, a child does not
    os.register_at_fork(after_in_child=RUNNING.clear)

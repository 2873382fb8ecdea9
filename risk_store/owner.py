"""Which process this is, in words that stay true after it is gone."""

from __future__ import annotations

import functools
import os
import socket
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Owner", "this_process"]


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


def this_process() -> Owner:
    """The process that calls."""
    return _owner(os.getpid())


@functools.lru_cache(maxsize=1)  # by pid: a forked child is another owner
def _owner(pid: int) -> Owner:
    stat = _read(f"/proc/{pid}/stat")
    # The second field is the program's name in parentheses and may hold spaces; start time is the 22nd field.
    started = stat.rpartition(")")[2].split()[19] if stat else None
    return Owner(socket.gethostname(), _read("/proc/sys/kernel/random/boot_id"), pid, started)


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None

"""How far a long verb has come: a bar on a terminal, nothing where nobody looks."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

__all__ = ["shown"]

_AFTER_S = 0.5  # what is done sooner needs no bar


@contextmanager
def shown() -> Iterator[Callable[[str, int, int], None] | None]:
    """A function to tell of progress: (what, done, of how much). None where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    task = bar.add_task("", total=None)
    began = time.monotonic()

    def tell(what: str, done: int, total: int) -> None:
        if not bar.live.is_started and time.monotonic() - began > _AFTER_S:
            bar.start()
        bar.update(task, description=what, completed=done, total=total)

    try:
        yield tell
    finally:
        bar.stop()

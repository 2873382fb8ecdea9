"""Files that a verb reads or writes, and the file of lines that it could not use."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

__all__ = ["Output", "Rejected", "lines_of"]


@contextmanager
def lines_of(file: str, tell: Callable[[str, int, int], None] | None = None) -> Iterator[Iterator[str]]:
    """The lines of a file, or of standard input for ``-``, whatever bytes they hold. `tell` is told how far it is."""
    if file == "-":
        yield _lines(sys.stdin.buffer, "standard input", 0, None)
        return
    with open(file, "rb") as opened:
        yield _lines(opened, f"reading {Path(file).name}", os.fstat(opened.fileno()).st_size, tell)


def _lines(opened: IO[bytes], what: str, total: int, tell: Callable[[str, int, int], None] | None) -> Iterator[str]:
    done = 0
    for line in opened:
        if not done:
            line = line.removeprefix(b"\xef\xbb\xbf")  # noqa: PLW2901 (a mark that some editors put first)
        done += len(line)
        yield line.decode("utf-8", "surrogateescape")
        if tell is not None:
            tell(what, done, total)


class Rejected:
    """A file of what could not be used, one JSON object a line. Made with the first; without any there is none.

    By default it stands beside the file that is read, `FILE.rejected.jsonl`, and what an earlier run left there goes. A
    name that was given must not be that of a file that is there: it could be anything.
    """

    def __init__(self, read: str, given: str | None) -> None:
        self.path = Path(given or f"{read}.rejected.jsonl")
        self._is_ours = given is None
        self._file: IO[str] | None = None

    def __enter__(self) -> Rejected:
        if not self._is_ours and self.path.is_file():
            raise FileExistsError(f"{self.path} is there already, and would be overwritten: give another name")
        if self.path.is_dir() or not os.access(self.path.parent, os.W_OK):
            raise PermissionError(f"{self.path}: refused lines could not be written there (--rejected FILE)")
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if self._file is not None:
            self._file.close()
        elif kind is None and self._is_ours and self.path.is_file():
            self.path.unlink()

    def write(self, values: Mapping[str, Any]) -> None:
        """One line more."""
        if self._file is None:
            self._file = self.path.open("w", encoding="utf-8")
        self._file.write(json.dumps(values) + "\n")
        self._file.flush()  # killed, the lines refused so far are there


class Output:
    """A file that has its name only when it is whole: until then it is written under another one beside it.

    A file that is there is replaced only by `force`, and only a plain file. What goes wrong, Ctrl-C too, leaves nothing
    of the new one.
    """

    def __init__(self, name: str, *, force: bool) -> None:
        self.path = Path(os.path.realpath(name))  # of a link, what it leads to is replaced
        self._force = force
        self._draft = self.path.with_name(f".{self.path.name}.{os.getpid()}.part")
        self._file: IO[str] | None = None

    def __enter__(self) -> IO[str]:
        if self.path.exists() and not self.path.is_file():
            raise FileExistsError(f"{self.path} is no plain file, and is not replaced by one: give another name")
        if self.path.exists() and not self._force:
            raise self._taken()
        self._file = self._draft.open("x", encoding="utf-8", errors="backslashreplace", newline="")
        return self._file

    def __exit__(self, kind: object, *_: object) -> None:
        assert self._file is not None
        try:
            with self._file:
                if kind is None:
                    self._file.flush()
                    os.fsync(self._file.fileno())
            if kind is None:
                self._name()
        finally:
            self._draft.unlink(missing_ok=True)

    def _name(self) -> None:
        if self._force:
            self._draft.replace(self.path)
            return
        try:
            self.path.hardlink_to(self._draft)  # takes a free name only, whoever else wants it at this moment
        except FileExistsError:
            raise self._taken() from None
        except (OSError, NotImplementedError):  # a file system without links
            self.path.touch(exist_ok=False)
            self._draft.replace(self.path)

    def _taken(self) -> FileExistsError:
        return FileExistsError(f"{self.path} is there already: give another name, or --force to replace it")

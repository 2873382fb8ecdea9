"""Rows as CSV that a spreadsheet opens without carrying anything out.

RFC 4180: comma, double quotes where they are needed, CRLF. Text that a spreadsheet would take for a formula gets an
apostrophe in front; numbers are numbers, negative ones too.
"""

from __future__ import annotations

import csv
from collections.abc import Generator, Iterable, Sequence
from datetime import date
from enum import Enum
from itertools import chain
from typing import Any

__all__ = ["csv_text"]

# As OWASP lists them: the four signs, their full-width forms, and what some spreadsheets skip before looking for them.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


class _Line:
    """What a csv.writer writes to: it has the last line."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> None:
        self.text = text


def csv_text(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Generator[str]:
    r"""A header and one line a row, each with its end, as they come: a million rows take no more memory than one.

    Instants and dates are ISO 8601, codes their names, bytes as SQL spells a blob, None is empty.

    >>> list(csv_text(["rule_id", "reason", "pnl"], [("RULE-003", "=HYPERLINK(1)", -550.5), ("RULE-008", "a,b", None)]))
    ['rule_id,reason,pnl\r\n', "RULE-003,'=HYPERLINK(1),-550.5\r\n", 'RULE-008,"a,b",\r\n']
    """
    line = _Line()
    writer = csv.writer(line)
    for row in chain([columns], rows):
        writer.writerow([_cell(value) for value in row])
        yield line.text


def _cell(value: Any) -> Any:
    """What the csv module is to write of `value`: numbers as they are, all else as guarded text."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Enum):
        return _guarded(value.name)
    if value is None or isinstance(value, (int, float)):
        return value
    if isinstance(value, date):  # a datetime is one too
        return value.isoformat()
    return _guarded(f"x'{value.hex()}'" if isinstance(value, bytes) else str(value))


def _guarded(text: str) -> str:
    return f"'{text}" if text.startswith(_FORMULA) else text

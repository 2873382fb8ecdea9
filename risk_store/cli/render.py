"""How rows are printed: a table on a terminal, tab-separated lines when piped, one JSON object when asked.

What a broker wrote is data: it is never taken for markup, and characters that would move the cursor or turn the text
around are shown as escapes.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from enum import Enum
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from risk_store.texts import visible

__all__ = ["Column", "Table", "plain", "print_json", "print_lines", "print_tables", "say", "visible", "write"]

JSON_SCHEMA = 1
"""Version of the JSON that reading verbs print."""

_SHOWN_AS: dict[type, Callable[[Any], str]] = {
    Enum: lambda value: str(value.name),
    bool: lambda value: "yes" if value else "no",
    datetime: lambda value: value.isoformat(" ", "seconds").replace("+00:00", "Z"),
    bytes: lambda value: f"x'{value.hex()}'",  # as SQL spells a blob
    float: lambda value: f"{value:.15g}",  # every price seen on the wire, whole: five digits and nine decimals
}


def plain(value: Any) -> str:
    """A value as one cell of text; None is empty."""
    if value is None:
        return ""
    for kind, show in _SHOWN_AS.items():
        if isinstance(value, kind):
            return show(value)
    return visible(str(value))


def write(text: str, stream: TextIO | None = None) -> bool:
    """Writes `text` at once. A reader that has seen enough (`| head`) is no failure: the rest goes nowhere.

    Returns whether it is still read.
    """
    stream = stream or sys.stdout
    try:
        stream.write(text)
        stream.flush()
        return True
    except OSError as error:
        # What is still in the buffer must not fail once more when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        if not isinstance(error, BrokenPipeError):
            raise
        return False


def say(line: str = "") -> None:
    """Writes one line for a person."""
    write(f"{visible(line)}\n")


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its key in JSON and in the header of piped rows, its title on a terminal, and how it looks there."""

    key: str
    title: str
    right: bool = False
    show: Callable[[Any], str] = plain
    style: Callable[[Any], str] = field(default=lambda _value: "")
    fold: bool = False
    """Free text, which may be cut where the terminal is narrow; other columns never are."""
    on_terminal: bool = True
    """False for what only programs need."""


@dataclass(frozen=True, slots=True)
class Table:
    """A list of rows with a name (its key in JSON), a title, and what to say when there are none."""

    name: str
    title: str
    columns: Sequence[Column]
    rows: Sequence[Mapping[str, Any]]
    none: str


def print_tables(tables: Sequence[Table], *, as_json: bool, console: Console | None = None) -> None:
    """Prints tables in the form that fits where the output goes."""
    if as_json:
        print_json({table.name: [_json_row(table, row) for row in table.rows] for table in tables})
    elif (
        console is not None or sys.stdout.isatty()
    ):  # Rich takes FORCE_COLOR for a terminal; a pipe gets rows all the same
        for table in tables:
            _print_rich(table, console or Console(highlight=False))
    else:
        _print_tab_separated(tables)


def print_json(values: Mapping[str, Any]) -> None:
    """One JSON object on one line, with the version of its form."""
    write(json.dumps({"schema": JSON_SCHEMA, **values}, default=_json_value) + "\n")


def print_lines(columns: Sequence[str], rows: Iterable[Mapping[str, Any]], *, as_json: bool) -> None:
    """Rows of a list that may be longer than memory: tab-separated, or one JSON object a line."""
    if not as_json:
        write("\t".join(columns) + "\n")
    for row in rows:
        as_object = {name: _json_value(value) for name, value in row.items()}
        line = json.dumps(as_object) if as_json else "\t".join(plain(row[name]) for name in columns)
        write(line + "\n")


def _json_row(table: Table, row: Mapping[str, Any]) -> dict[str, Any]:
    return {column.key: _json_value(row[column.key]) for column in table.columns}


def _json_value(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, (datetime, date)):
        return value.isoformat()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has no infinity
    return value if isinstance(value, (str, int, float, list, dict, type(None))) else plain(value)


def _print_tab_separated(tables: Sequence[Table]) -> None:
    blocks = []
    for table in tables:
        lines = ["\t".join(column.key for column in table.columns)]
        lines += ["\t".join(plain(row[column.key]) for column in table.columns) for row in table.rows]
        blocks.append("\n".join(lines) + "\n")
    write("\n".join(blocks))


def _print_rich(table: Table, console: Console) -> None:
    console.print(Text(table.title, style="bold"))
    if not table.rows:
        console.print(Text(f"  {table.none}\n", style="dim"))
        return
    columns = [column for column in table.columns if column.on_terminal]
    # Text, never str: a str would be read as markup.
    cells = [[Text(c.show(row[c.key]), style=c.style(row[c.key])) for c in columns] for row in table.rows]
    widths = [max(len(c.title), *(line[i].cell_len for line in cells)) for i, c in enumerate(columns)]
    # A figure that is cut is a wrong figure. Only free text gives way; else the line is as long as it must be.
    fixed = sum(width + 2 for width, column in zip(widths, columns, strict=True) if not column.fold)
    grid = RichTable(box=None, pad_edge=True, header_style="dim", show_edge=False)
    for width, column in zip(widths, columns, strict=True):
        room = max(12, console.width - fixed - 2) if column.fold else width
        grid.add_column(
            column.title,
            justify="right" if column.right else "left",
            no_wrap=True,
            overflow="ellipsis",
            width=min(width, room),
        )
    for line in cells:
        grid.add_row(*line)
    seen, console.width = console.width, max(console.width, sum(widths) + 2 * len(widths) + 2)
    try:
        console.print(grid)
        console.print()
    finally:
        console.width = seen

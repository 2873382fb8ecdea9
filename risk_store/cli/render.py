"""How rows are printed: a table on a terminal, tab-separated lines when piped, one JSON object when asked.

What a broker wrote is data: it is never taken for markup, and characters that would move the cursor or turn the text
around are shown as escapes.
"""

from __future__ import annotations

import json
import sys
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from enum import Enum
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

__all__ = ["Column", "Table", "plain", "print_json", "print_tables", "visible"]

JSON_SCHEMA = 1
"""Version of the JSON that reading verbs print."""

# Control characters, and format characters such as right-to-left overrides.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def visible(text: str) -> str:
    r"""`text` on one line, with what cannot be seen or would act on the terminal as an escape.

    >>> print(visible("a\tb\u202ec"))
    a\tb\u202ec
    """
    if text.isprintable():
        return text
    return "".join(
        character.encode("unicode_escape").decode() if unicodedata.category(character) in _HIDDEN else character
        for character in text
    )


def plain(value: Any) -> str:
    """A value as one cell of text; None is empty."""
    if value is None:
        return ""
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return value.isoformat(" ", "seconds").replace("+00:00", "Z")
    if isinstance(value, float):
        return f"{value:.10g}"
    return visible(str(value))


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its key in JSON and in the header of piped rows, its title on a terminal, and how it looks there."""

    key: str
    title: str
    right: bool = False
    show: Callable[[Any], str] = plain
    style: Callable[[Any], str] = field(default=lambda _value: "")
    fold: bool = False
    """Free text that may be cut at the end of the line; other columns are never cut."""


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
    console = console or Console(highlight=False)
    if as_json:
        print_json({table.name: [_json_row(table, row) for row in table.rows] for table in tables})
    elif console.is_terminal:
        for table in tables:
            _print_rich(table, console)
    else:
        _print_tab_separated(tables)


def print_json(values: Mapping[str, Any]) -> None:
    """One JSON object on one line, with the version of its form."""
    sys.stdout.write(json.dumps({"schema": JSON_SCHEMA, **values}, default=_json_value) + "\n")


def _json_row(table: Table, row: Mapping[str, Any]) -> dict[str, Any]:
    return {column.key: _json_value(row[column.key]) for column in table.columns}


def _json_value(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.name
    return value.isoformat() if isinstance(value, (datetime, date)) else value


def _print_tab_separated(tables: Sequence[Table]) -> None:
    blocks = []
    for table in tables:
        lines = ["\t".join(column.key for column in table.columns)]
        lines += ["\t".join(plain(row[column.key]) for column in table.columns) for row in table.rows]
        blocks.append("\n".join(lines) + "\n")
    sys.stdout.write("\n".join(blocks))


def _print_rich(table: Table, console: Console) -> None:
    console.print(Text(table.title, style="bold"))
    if not table.rows:
        console.print(Text(f"  {table.none}\n", style="dim"))
        return
    grid = RichTable(box=None, pad_edge=True, header_style="dim", show_edge=False)
    for column in table.columns:
        grid.add_column(
            column.title,
            justify="right" if column.right else "left",
            no_wrap=True,
            overflow="ellipsis" if column.fold else "fold",
            min_width=0 if column.fold else len(column.title),
        )
    for row in table.rows:
        # Text, never str: a str would be read as markup.
        grid.add_row(
            *(Text(column.show(row[column.key]), style=column.style(row[column.key])) for column in table.columns)
        )
    console.print(grid)
    console.print()

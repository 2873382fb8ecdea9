"""What is in the tables afterwards, read by the plain driver: the proof that contenders did the same work.

Instants are compared as instants and flags as flags, since each library writes them in its own form. Ids that the
database gives, and times by a contender's own clock, are not compared; that the latter are there, is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime
from itertools import zip_longest
from typing import Any

from benchmarks.places import Place, connect
from benchmarks.values import Event

__all__ = ["LOCKOUTS", "LOG", "ORDERS", "Table", "as_instant", "as_logged", "difference", "read"]

Row = tuple[Any, ...]
Table = tuple[str, Sequence[str], str]
"""A table, the expressions that are compared, and their order."""

LOG: Table = (
    "enforcement_log",
    (
        *("account_id", "rule_id", "action", "reason", "success", "positions_closed", "orders_canceled"),
        *("timestamp", "execution_time_ms", "details", "enforcement_id", "error_message"),
    ),
    "account_id, reason",
)
LOCKOUTS: Table = (
    "lockouts",
    ("account_id", "is_locked", "reason", "locked_until", "rule_id", "locked_at IS NULL", "updated_at IS NULL"),
    "account_id",
)
ORDERS: Table = (
    "orders",
    (
        *("id", "account_id", "contract_id", "type", "side", "size", "limit_price", "stop_price", "state"),
        *("filled_size", "fill_price", "custom_tag", "trailing_amount", "venue_stop_price", "created_at"),
        *("venue_updated_at", "triggered_at"),
    ),
    "id",
)
INSTANTS = {"timestamp", "locked_until", "created_at", "venue_updated_at", "triggered_at"}
FLAGS = {"success", "is_locked", "locked_at IS NULL", "updated_at IS NULL"}


def read(place: Place, table: Table, without: Iterable[str] = ()) -> Iterator[Row]:
    """The rows of `table`, but for the columns `without`."""
    name, columns, order = table
    kept = [column for column in columns if column not in set(without)]
    forms = [_form(column) for column in kept]
    with closing(connect(place)) as connection:
        found = connection.execute(f"SELECT {', '.join(kept)} FROM {name} ORDER BY {order}")
        for row in found:
            yield tuple([form(value) for form, value in zip(forms, row, strict=True)])


def as_logged(event: Event) -> Row:
    """The row of LOG that `event` makes."""
    return tuple(getattr(event, column, None) for column in LOG[1])


def difference(found: Iterable[Row], expected: Iterable[Row]) -> str | None:
    """The first row that differs, in words; None if there is none."""
    for number, (ours, theirs) in enumerate(zip_longest(found, expected), 1):
        if ours != theirs:
            return f"row {number} is {ours}, not {theirs}"
    return None


def _form(column: str) -> Callable[[Any], Any]:
    if column in INSTANTS:
        return as_instant
    return bool if column in FLAGS else _same


def _same(value: Any) -> Any:
    return value


def as_instant(value: Any) -> Any:
    """What was stored, in UTC; without an offset it is in UTC already."""
    if value is None:
        return None
    instant = datetime.fromisoformat(value) if isinstance(value, str) else value
    return (instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant).astimezone(UTC)

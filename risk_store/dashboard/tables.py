"""The tables of the page as columns and rows, for CSV: what is on the page, and of the long lists all of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields
from typing import Any

from starlette.exceptions import HTTPException

from risk_store.dashboard.reader import Reader
from risk_store.dashboard.snapshot import IN_FLIGHT_COLUMNS, LOCKOUT_COLUMNS, LOG_COLUMNS, Bucket, RuleLine, Snapshot
from risk_store.dashboard.view import View
from risk_store.models import OrderSnapshot

__all__ = ["NAMES", "table"]

Rows = Iterable[Sequence[Any]]

_AT_A_TIME = 1_000
_BUCKET_COLUMNS = tuple(field.name for field in fields(Bucket))
_RULE_COLUMNS = tuple(field.name for field in fields(RuleLine) if field.name != "daily_avg_ms")


def _of(columns: Sequence[str], rows: Iterable[Any]) -> Rows:
    return ([getattr(row, column) for column in columns] for row in rows)


def _slow(reader: Reader, view: View) -> Iterator[Sequence[Any]]:
    """All of them, a page at a time: each a short statement of its own, beside the looks."""
    before = None
    while True:
        with reader.read() as tx:
            rows = tx.watch.newest_slow(view.slow, _AT_A_TIME, before, account_id=view.account, rule_id=view.rule)
            page = list(_of(LOG_COLUMNS, rows))
        yield from page
        if len(page) < _AT_A_TIME:
            return
        before = rows[-1].id


_ON_PAGE: dict[str, tuple[Sequence[str], Callable[[Snapshot], Rows]]] = {
    "trend": (_BUCKET_COLUMNS, lambda s: _of(_BUCKET_COLUMNS, s.summary.buckets)),
    "rules": (_RULE_COLUMNS, lambda s: _of(_RULE_COLUMNS, s.summary.rules)),
    "lockouts": (LOCKOUT_COLUMNS, lambda s: _of(LOCKOUT_COLUMNS, s.facts.lockouts)),
    "in_flight": (
        (*IN_FLIGHT_COLUMNS, "owner"),
        lambda s: ([*next(iter(_of(IN_FLIGHT_COLUMNS, [row]))), owner.value] for row, owner in s.facts.in_flight),
    ),
    "orders": (OrderSnapshot._fields, lambda s: s.facts.orders),
    "latest": (LOG_COLUMNS, lambda s: _of(LOG_COLUMNS, s.facts.latest)),
}

NAMES = (*_ON_PAGE, "slow")


def table(name: str, reader: Reader, view: View) -> tuple[Sequence[str], Rows]:
    """The columns of a table and its rows. Raises HTTPException (503) for a store that cannot be read now."""
    look = reader.look(view.what)
    if look.snapshot is None or look.trouble is not None:
        raise HTTPException(503)
    if name == "slow":
        return LOG_COLUMNS, _slow(reader, view)
    columns, rows = _ON_PAGE[name]
    return columns, rows(look.snapshot)

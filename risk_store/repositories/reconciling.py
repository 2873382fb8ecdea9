"""The store's rows beside the gateway's own list of what is open: what differs, and what nobody can tell.

The list tells what is there, never what is not: an order that it lacks may have been filled, canceled, or placed a
moment ago (TexasCoding/project-x-py#100: "not in open orders" read as unfilled, position left naked). So a row that it
lacks is marked as unconfirmed, and stays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, NamedTuple, TypeVar

from risk_store.errors import InvalidValue

__all__ = ["Difference", "Reconciled", "compare", "of_account"]


class Difference(NamedTuple):
    """One value of a row that the gateway's list gave otherwise. `ours` is as stored before, `theirs` as listed.

    >>> Difference(3425270858, "stop_price", 21040.0, 21030.0).theirs
    21030.0
    """

    id: int
    field: str
    ours: Any
    theirs: Any


class Reconciled(NamedTuple):
    """What a list of the gateway's and the store did not agree on, by id.

    >>> Reconciled(unknown_here=[7], unknown_there=[], different=[]).agreed
    False
    """

    unknown_here: list[int]
    """Listed, and not known until now: these are stored."""
    unknown_there: list[int]
    """Held to be open here, and not listed: these are marked as unconfirmed, and not assumed gone."""
    different: list[Difference]
    """Known on both sides and not the same: what the gateway said is applied by the rules of `apply`."""

    @property
    def agreed(self) -> bool:
        """Whether nothing differed."""
        return not any(self)


L = TypeVar("L", bound=Any)


def of_account(account_id: int, rows: Iterable[L], kind: type[L]) -> list[L]:
    """`rows`, all of them updates of `kind` of this account. Raises InvalidValue for another one, before anything."""
    listed = list(rows)
    for number, row in enumerate(listed):
        if not isinstance(row, kind):
            expected = f"an {kind.__name__}: make them of the gateway's JSON with risk_store.projectx.parse(rows)"
            raise InvalidValue(f"rows[{number}]", row, expected)
        if row.account_id not in (None, account_id):
            raise InvalidValue(f"rows[{number}].account_id", row.account_id, f"{account_id}, whose list this is to be")
    return [replace(row, account_id=account_id) for row in listed]


def compare(
    here: Mapping[int, Any],
    listed: Sequence[L],
    asked_at: datetime,
    fields: Sequence[str],
    is_listed: Callable[[Any], bool] = lambda _row: True,
) -> tuple[Reconciled, list[L]]:
    """What differs between the rows `here`, by id, and the list; and the updates of the list that are to be applied.

    `is_listed` says whether a row of ours would be in the list if it is open.
    """
    later = {id_ for id_, row in here.items() if _was_told_since(row, asked_at)}
    theirs = [update for update in listed if update.id not in later]
    named = {update.id for update in listed}
    unlisted = [id_ for id_, row in here.items() if id_ not in named | later and is_listed(row)]
    result = Reconciled(
        unknown_here=sorted({update.id for update in theirs} - here.keys()),
        unknown_there=sorted(unlisted),
        different=[found for update in theirs for found in _differences(here.get(update.id), update, fields)],
    )
    return result, theirs


def _was_told_since(row: Any, asked_at: datetime) -> bool:
    """Whether the store knows of the row by something later than the list.

    By an event, or, for one that no event has told of, by its beginning. (Of one that the venue told of, that is the
    venue's clock, which says nothing beside ours.)
    """
    told_at = row.created_at if row.seen_at is None else row.seen_at
    return isinstance(told_at, datetime) and told_at >= asked_at


def _differences(row: Any, update: Any, fields: Sequence[str]) -> Iterator[Difference]:
    """The values that the update carries and that are not the row's."""
    for name in fields if row is not None else ():
        ours, theirs = getattr(row, name), getattr(update, name)
        if theirs is not None and theirs != ours:
            yield Difference(update.id, name, ours, theirs)

"""A way to do the works: the plain driver's, the store's, a peer's. Each keeps what its library lets it keep."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol, Self

from benchmarks.places import Place
from benchmarks.values import Event
from risk_store.events import OrderUpdate

__all__ = ["Way", "durability"]


class Way(Protocol):
    """One library on one database. Whatever it returns from has been committed."""

    place: Place

    def record(self, event: Event) -> object:
        """W1: a log row and a lockout, in one transaction."""
        ...

    def add_many(self, events: Sequence[Event]) -> object:
        """W2: log rows, in one transaction."""
        ...

    def apply(self, update: OrderUpdate) -> object:
        """W3: one order event."""
        ...

    def apply_many(self, updates: Iterable[OrderUpdate]) -> object:
        """W3: many, in one transaction."""
        ...

    def working(self) -> Sequence[Any]:
        """R5: the working orders, as objects with the columns' names."""
        ...

    def ask(self, question: str) -> object:
        """The one value that a statement answers with, on a connection that writes."""
        ...

    def of_thread(self) -> Self:
        """What a thread of its own uses."""
        ...

    def leave(self) -> object:
        """The thread ends."""
        ...

    def close(self) -> object: ...


def durability(way: Way) -> str | None:
    """What is wrong with the durability of what `way` commits: all contenders have the same."""
    found = str(way.ask(way.place.question))
    return None if found == way.place.durability else f"{way.place.question} is {found}, not {way.place.durability}"

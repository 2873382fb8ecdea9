"""W1: one enforcement and its lockout, durable, one transaction each, by one thread."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from benchmarks.contest import Contender, contest
from benchmarks.ours import Ours
from benchmarks.places import Ground, Place, settle
from benchmarks.plain import Plain
from benchmarks.report import Book
from benchmarks.rows import LOCKOUTS, LOG, difference, read
from benchmarks.sizes import Size
from benchmarks.values import Event, events
from benchmarks.way import Way, durability

__all__ = ["W1", "entered", "same_enforcements"]

W1 = "W1"
FLOOR = "plain driver, BEGIN … COMMIT"
ENFORCE = "store.enforce, an empty block"
RECORD = "store.record(log, lockout)"

# What `store.enforce` makes itself: when it began, how long it took, its id.
OWN = ("timestamp", "execution_time_ms", "enforcement_id")


@dataclass(frozen=True, slots=True)
class Entry:
    """Who takes part, and how he writes one event."""

    name: str
    way: Way
    write: Callable[[Event], object]
    without: tuple[str, ...] = ()


@contextmanager
def entered(ground: Ground, makers: Iterable[Callable[[Place], Way]]) -> Iterator[list[Way]]:
    """Each on a place of its own; all are closed afterwards."""
    ways: list[Way] = []
    try:
        ways += [make(ground.place()) for make in makers]
        yield ways
    finally:
        for way in ways:
            way.close()


def same_enforcements(place: Place, floor: Place, without: Iterable[str] = ()) -> str | None:
    """What differs between the enforcements and lockouts of two places."""
    without = tuple(without)
    return difference(read(place, LOG, without), read(floor, LOG, without)) or difference(
        read(place, LOCKOUTS), read(floor, LOCKOUTS)
    )


def run(ground: Ground, size: Size, book: Book, peers: Mapping[str, Callable[[Place], Way]]) -> None:
    count = size.events if ground.is_sqlite else size.server_events
    batches = [events(number * count, count) for number in range(size.rounds + 1)]
    with entered(ground, [Plain, Plain, Plain, Ours, Ours, Ours, *peers.values()]) as ways:
        plain, in_two, in_one, record, begin, enforce, *others = ways
        entries = [Entry(FLOOR, plain, plain.record)]
        if isinstance(in_two, Plain):
            entries.append(Entry("plain driver, intent and outcome", in_two, in_two.enforce))
        if not ground.is_sqlite and isinstance(in_one, Plain):
            entries.append(Entry("plain driver, one statement", in_one, in_one.record_in_one))
        if isinstance(begin, Ours) and isinstance(enforce, Ours):
            entries += [
                Entry(RECORD, record, record.record),
                Entry("store.begin(): lockouts.set, enforcements.add", begin, begin.begin_add),
                Entry(ENFORCE, enforce, enforce.enforce, OWN),
            ]
        entries += [Entry(name, way, way.record) for name, way in zip(peers, others, strict=True)]
        outcome = contest([_contender(entry, plain, batches) for entry in entries], size.rounds)
    book.refuse(W1, ground.label, outcome)
    book.add(W1, ground.label, outcome, "µs", lambda seconds: seconds / count * 1e6)
    limit = 0.7 if not ground.is_sqlite else 1.3 if ground.label.endswith("FULL") else 1.7
    book.floor_ratio(W1, ground.label, outcome, RECORD, limit)
    book.best_peer(W1, ground.label, outcome, RECORD, list(peers), 1.7)


def _contender(entry: Entry, floor: Way, batches: list[list[Event]]) -> Contender:
    write = entry.write

    def turn(number: int) -> None:
        for event in batches[number]:
            write(event)

    def check() -> str | None:
        return durability(entry.way) or same_enforcements(entry.way.place, floor.place, entry.without)

    return Contender(entry.name, turn, check, before=lambda _number: settle(entry.way.place))

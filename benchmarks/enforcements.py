"""W1: one enforcement and its lockout, durable, one transaction each, by one thread."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from benchmarks.contest import Contender, Outcome, contest
from benchmarks.ours import Ours
from benchmarks.ours_in_tasks import OursInTasks
from benchmarks.places import Ground, Place, settle
from benchmarks.plain import Plain
from benchmarks.report import Book
from benchmarks.rows import LOCKOUTS, LOG, difference, read
from benchmarks.sizes import Size
from benchmarks.values import Event, events
from benchmarks.way import Way, durability

__all__ = ["W1", "W1_PEERS", "W1_WAYS", "entered", "same_enforcements"]

W1, W1_WAYS, W1_PEERS = "W1", "W1, in other ways", "W1, beside other libraries"
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
    write_all: Callable[[Sequence[Event]], object] | None = None
    """All of a turn instead, where to begin and end with each event would be a cost of its own."""


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
    """In three contests: a turn of the peers takes as long as ten of the floor and of `store.record`, and the machine's
    speed changes meanwhile. So these two have many short rounds of their own."""
    _beside_the_floor(ground, size, book)
    _in_other_ways(ground, size, book)
    if peers:
        _beside_peers(ground, size, book, peers)


def _beside_the_floor(ground: Ground, size: Size, book: Book) -> None:
    with entered(ground, [Plain, Plain, Ours]) as ways:
        plain, in_one, record = ways
        entries = [Entry(FLOOR, plain, plain.record), Entry(RECORD, record, record.record)]
        if not ground.is_sqlite and isinstance(in_one, Plain):
            entries.insert(1, Entry("plain driver, one statement", in_one, in_one.record_in_one))
        outcome = _contest(W1, ground, book, entries, size.event_rounds, _events(ground, size, size.events))
    limit = 0.7 if not ground.is_sqlite else 1.3 if ground.label.endswith("FULL") else 1.7
    book.floor_ratio(W1, ground.label, outcome, RECORD, limit)


def _in_other_ways(ground: Ground, size: Size, book: Book) -> None:
    drivers = ["sqlite+aiosqlite"] if ground.is_sqlite else ["postgresql+psycopg", "postgresql+asyncpg"]
    in_tasks = [partial(OursInTasks, driver=driver) for driver in drivers]
    with entered(ground, [Plain, Plain, Ours, Ours, *in_tasks]) as ways:
        plain, in_two, begin, enforce, *awaited = ways
        entries = [Entry(FLOOR, plain, plain.record)]
        if isinstance(in_two, Plain):
            entries.append(Entry("plain driver, intent and outcome", in_two, in_two.enforce))
        if isinstance(begin, Ours) and isinstance(enforce, Ours):
            entries += [
                Entry("store.begin(): lockouts.set, enforcements.add", begin, begin.begin_add),
                Entry(ENFORCE, enforce, enforce.enforce, OWN),
            ]
        entries += [
            Entry(f"await store.record, {driver}", way, way.record, write_all=way.record_all)
            for driver, way in zip(drivers, awaited, strict=True)
            if isinstance(way, OursInTasks)
        ]
        _contest(W1_WAYS, ground, book, entries, size.rounds, _events(ground, size, size.peer_events))


def _beside_peers(ground: Ground, size: Size, book: Book, peers: Mapping[str, Callable[[Place], Way]]) -> None:
    names = (FLOOR, RECORD, *peers)
    with entered(ground, [Plain, Ours, *peers.values()]) as ways:
        entries = [Entry(name, way, way.record) for name, way in zip(names, ways, strict=True)]
        count = _events(ground, size, size.peer_events)
        outcome = _contest(W1_PEERS, ground, book, entries, size.peer_rounds, count)
    book.best_peer(W1_PEERS, ground.label, outcome, RECORD, list(peers), 1.7)


def _events(ground: Ground, size: Size, on_sqlite: int) -> int:
    return on_sqlite if ground.is_sqlite else size.server_events


def _contest(work: str, ground: Ground, book: Book, entries: list[Entry], rounds: int, count: int) -> Outcome:
    batches = [events(number * count, count) for number in range(rounds + 1)]
    outcome = contest([_contender(entry, entries[0].way, batches) for entry in entries], rounds)
    book.refuse(work, ground.label, outcome)
    book.add(work, ground.label, outcome, "µs", lambda seconds: seconds / count * 1e6)
    return outcome


def _contender(entry: Entry, floor: Way, batches: list[list[Event]]) -> Contender:
    write = entry.write

    def turn(number: int) -> None:
        if entry.write_all is not None:
            entry.write_all(batches[number])
            return
        for event in batches[number]:
            write(event)

    def check() -> str | None:
        return durability(entry.way) or same_enforcements(entry.way.place, floor.place, entry.without)

    return Contender(entry.name, turn, check, before=lambda _number: settle(entry.way.place))

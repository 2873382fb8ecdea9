"""W2: many log rows in one transaction, into an empty table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing

from benchmarks.contest import Contender, Turn, contest
from benchmarks.enforcements import entered
from benchmarks.ours import Ours, as_log
from benchmarks.peers import NAMES
from benchmarks.peers.sqlalchemy_orm import Peer
from benchmarks.places import Ground, Place, connect, settle
from benchmarks.plain import Plain
from benchmarks.report import Book
from benchmarks.rows import LOG, difference, read
from benchmarks.sizes import Size
from benchmarks.values import Event, events
from benchmarks.way import Way, durability

__all__ = ["run"]

OURS = "tx.enforcements.add_many(rows)"


def run(ground: Ground, size: Size, book: Book, peers: Mapping[str, Callable[[Place], Way]]) -> None:
    rows = events(0, size.bulk)
    _alone(ground, size, book, rows)
    _with_peers(ground, size, book, peers, rows[: size.peer_bulk])


def _alone(ground: Ground, size: Size, book: Book, rows: Sequence[Event]) -> None:
    """Rows that are there already, as a program has them that reads them from somewhere; and with making them."""
    work = f"W2, {size.bulk:,} rows"
    logs = [as_log(event) for event in rows]
    with entered(ground, [Plain, Plain, Ours, Ours]) as ways:
        floor, binary, ours, making = ways
        turns: list[tuple[str, Way, Turn]] = [(_floor_name(ground), floor, _all(floor.add_many, rows))]
        if not ground.is_sqlite and isinstance(binary, Plain):
            turns.append(("plain driver, COPY in binary form", binary, _all(binary.add_many_binary, rows)))
        if isinstance(ours, Ours):
            add_logs = ours.add_logs
            turns.append((OURS, ours, lambda _number: add_logs(logs)))
        turns.append((f"{OURS}, with making each row", making, _all(making.add_many, rows)))
        outcome = contest([_contender(*turn, floor) for turn in turns], size.bulk_rounds)
    book.refuse(work, ground.label, outcome)
    book.add(work, ground.label, outcome, "µs per row", lambda seconds: seconds / size.bulk * 1e6)
    book.floor_ratio(work, ground.label, outcome, OURS, 1.3 if ground.is_sqlite else 1.1)


def _with_peers(
    ground: Ground, size: Size, book: Book, peers: Mapping[str, Callable[[Place], Way]], rows: Sequence[Event]
) -> None:
    """The peers' bulk ways, on fewer rows. Each makes its objects from the same values."""
    work = f"W2, {len(rows):,} rows, objects made"
    orm = NAMES["sqlalchemy_orm"]
    ordered = {"SQLAlchemy ORM, insert(Model)": Peer, **peers}
    with entered(ground, [Plain, Ours, *ordered.values()]) as ways:
        floor, ours, by_insert, *others = ways
        turns: list[tuple[str, Way, Turn]] = [
            (_floor_name(ground), floor, _all(floor.add_many, rows)),
            (OURS, ours, _all(ours.add_many, rows)),
        ]
        if isinstance(by_insert, Peer):
            turns.append(("SQLAlchemy ORM, insert(Model)", by_insert, _all(by_insert.add_many_by_insert, rows)))
        for name, way in zip(peers, others, strict=True):
            turns.append((f"{name}, add_all" if name == orm else name, way, _all(way.add_many, rows)))
        outcome = contest([_contender(*turn, floor) for turn in turns], min(size.bulk_rounds, size.peer_rounds))
    book.refuse(work, ground.label, outcome)
    book.add(work, ground.label, outcome, "µs per row", lambda seconds: seconds / len(rows) * 1e6)


def _floor_name(ground: Ground) -> str:
    return "plain driver, executemany" if ground.is_sqlite else "plain driver, COPY of lines made by hand"


def _all(add_many: Callable[[Sequence[Event]], object], rows: Sequence[Event]) -> Turn:
    def turn(_number: int) -> None:
        add_many(rows)

    return turn


def _contender(name: str, way: Way, turn: Turn, floor: Way) -> Contender:
    def check() -> str | None:
        return durability(way) or difference(read(way.place, LOG), read(floor.place, LOG))

    return Contender(name, turn, check, before=lambda _number: _empty(way.place))


def _empty(place: Place) -> None:
    """No rows, and nothing of earlier turns left to be written into the file while this one is timed."""
    with closing(connect(place)) as connection:
        connection.execute(f"{'DELETE FROM' if place.is_sqlite else 'TRUNCATE'} enforcement_log")
    settle(place)

"""W3: order events. W4: trailing stops. R5: the working orders, read at start.

Every event changes its order, whatever the round, and every price moves each stop, or none.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

from benchmarks.contest import Contender, Turn, contest
from benchmarks.enforcements import entered
from benchmarks.ours import Ours
from benchmarks.peers import some
from benchmarks.peers.sqlalchemy_orm import Peer
from benchmarks.places import Ground, Place, connect, settle
from benchmarks.plain import ORDER_COLUMNS, Plain
from benchmarks.report import Book
from benchmarks.rows import ORDERS, as_instant, difference, read
from benchmarks.sizes import Size
from benchmarks.values import MNQ, order_events, stop
from benchmarks.way import Way, durability

__all__ = ["read_at_start", "single_and_batch", "trail"]

FLOOR = "plain driver, one upsert"
APPLY, APPLY_MANY, TRAIL = "tx.orders.apply", "tx.orders.apply_many", "tx.orders.trail"
SNAPSHOT, WORKING = "tx.orders.snapshot()", "tx.orders.working()"
ALL, NONE = "all move", "none moves"  # the measures of W4
OTHER_CONTRACT = "CON.F.US.EP.U26"
COLUMNS = [name.strip() for name in ORDER_COLUMNS.split(",")]
# Each contender's own clock said when: that is compared nowhere.
OWN = {"updated_at", "seen_at"}


class _Upserts(NamedTuple):
    """One work of W3: `events` a turn. The limit is on how many times the floor's time `ours` takes on SQLite."""

    work: str
    ours: str
    turn_of: Callable[[Way, list[Any]], Turn]
    events: int
    unit: str
    limit: float


def single_and_batch(ground: Ground, size: Size, book: Book, peers: Mapping[str, Callable[[Place], Way]]) -> None:
    """W3: one commit each, and many in one transaction."""
    count = size.orders if ground.is_sqlite else size.server_events
    limit = 1.25 if ground.label.endswith("FULL") else 1.4
    batch = f"W3, {size.batch} in a transaction"
    for work in (
        _Upserts("W3, one commit each", APPLY, _each, count, "µs", limit),
        _Upserts(batch, APPLY_MANY, _at_once, size.batch, "µs per event", 1.4),
    ):
        _upserts(work, ground, size, book, peers)


def _upserts(of: _Upserts, ground: Ground, size: Size, book: Book, peers: Mapping[str, Callable[[Place], Way]]) -> None:
    """In two contests, as W1: the floor and the store have many short rounds of their own."""
    peers = some(peers, size)
    contests = [(of.work, {}, size.event_rounds), (f"{of.work}, beside other libraries", peers, size.peer_rounds)]
    for title, others, rounds in contests if peers else contests[:1]:
        turns = [order_events(of.events, number) for number in range(rounds + 1)]
        with entered(ground, [Plain, Ours, *others.values()]) as ways:
            names = [FLOOR, of.ours, *others]
            contenders = [
                _writing(name, way, ways[0], of.turn_of(way, turns)) for name, way in zip(names, ways, strict=True)
            ]
            outcome = contest(contenders, rounds)
        book.refuse(title, ground.label, outcome)
        book.add(title, ground.label, outcome, of.unit, lambda seconds: seconds / of.events * 1e6)
        if ground.is_sqlite and title == of.work:
            book.floor_ratio(title, ground.label, outcome, of.ours, of.limit)


def trail(ground: Ground, size: Size, book: Book, _peers: Mapping[str, Callable[[Place], Way]]) -> None:
    """W4: a price moves all stops of a contract, or none. In one contest, since one is promised as a part of the other;
    each contender has a database for either."""
    floor, objects = "plain driver, one UPDATE with the arithmetic", "SQLAlchemy ORM, load, set, flush"
    makers: list[Callable[[Place], Way]] = [Plain, Ours, Peer]
    with entered(ground, makers + makers) as ways:
        for way in ways:
            _fill(way.place, size.stops, size.others)
        moved, still = ways[: len(makers)], ways[len(makers) :]
        contenders = [
            _trailing(name, (all_, none), (moved[0], still[0]), size.prices)
            for name, all_, none in zip((floor, TRAIL, objects), moved, still, strict=True)
        ]
        outcome = contest(contenders, size.rounds)
    all_move, none_moves = (f"W4, {size.stops:,} stops, {measure}" for measure in (ALL, NONE))
    book.refuse(all_move, ground.label, outcome)
    for work, measure in ((all_move, ALL), (none_moves, NONE)):
        book.add(work, ground.label, outcome, "ms", lambda seconds: seconds / size.prices * 1e3, measure)
    ours, loaded = outcome.get(TRAIL), outcome.get(objects)
    if ours is None:
        return
    book.floor_ratio(all_move, ground.label, outcome, TRAIL, 2.5, ALL)
    if loaded is not None:
        book.at_least(all_move, ground.label, f"{TRAIL}: faster than {objects}", 4, loaded.ratio_to(ours, ALL))
    book.at_most(none_moves, ground.label, f"{TRAIL}: of all move", 0.15, ours.ratio_to(ours, NONE, of=ALL))


def read_at_start(ground: Ground, size: Size, book: Book, peers: Mapping[str, Callable[[Place], Way]]) -> None:
    """R5: the working orders among others that are done. As W1: those of which something is promised have rounds of
    their own, and more of them, since models take several times as long."""
    work = f"R5, {size.working:,} working orders"
    peers = some(peers, size)
    with entered(ground, [Plain, Ours, *peers.values()]) as ways:
        for way in ways:
            _fill(way.place, size.working, size.stops)
        plain, ours, *others = ways
        of_floor = cache(lambda: [*map(_values, plain.working())])
        reads = {"plain driver, a dataclass with slots": plain.working}
        if isinstance(ours, Ours):
            _read(work, reads | {SNAPSHOT: ours.snapshot}, of_floor, size.read_rounds, ground, size, book)
        models = {WORKING: ours.working, **{name: way.working for name, way in zip(peers, others, strict=True)}}
        _read(f"{work}, as models", reads | models, of_floor, size.report_rounds, ground, size, book)


def _read(
    work: str,
    reads: Mapping[str, Callable[[], Iterable[Any]]],
    of_floor: Callable[[], list[Any]],
    rounds: int,
    ground: Ground,
    size: Size,
    book: Book,
) -> None:
    kept: list[Any] = []
    outcome = contest([_reading(name, read_, of_floor, kept) for name, read_ in reads.items()], rounds)
    book.refuse(work, ground.label, outcome)
    book.add(work, ground.label, outcome, "µs per order", lambda seconds: seconds / size.working * 1e6)
    book.floor_ratio(work, ground.label, outcome, SNAPSHOT, 1.3)


def _each(way: Way, turns: list[Any]) -> Turn:
    apply = way.apply

    def turn(number: int) -> None:
        for update in turns[number]:
            apply(update)

    return turn


def _at_once(way: Way, turns: list[Any]) -> Turn:
    def turn(number: int) -> None:
        way.apply_many(turns[number])

    return turn


def _trailing(name: str, ways: tuple[Any, Any], floor: tuple[Way, Way], prices: int) -> Contender:
    """Some prices that move none, of a database of their own, and as many that move all. One after another, as they
    come: the first finds nothing in the processor's caches."""
    moved, still = ways

    def before(_number: int) -> None:
        settle(moved.place)
        settle(still.place)

    def turn(number: int) -> Mapping[str, float]:
        started = time.perf_counter()
        for _ in range(prices):
            still.trail(MNQ, 21_005.0)
        moves = time.perf_counter()
        for price in range(number * prices, (number + 1) * prices):
            moved.trail(MNQ, 22_000.0 + 10.0 * price)
        return {NONE: moves - started, ALL: time.perf_counter() - moves}

    def check() -> str | None:
        found = (_same_orders(way, floor_way) for way, floor_way in zip(ways, floor, strict=True))
        return next(filter(None, found), None)

    return Contender(name, turn, check, before)


def _writing(name: str, way: Way, floor: Way, turn: Turn) -> Contender:
    return Contender(name, turn, lambda: _same_orders(way, floor), before=lambda _number: settle(way.place))


def _same_orders(way: Way, floor: Way) -> str | None:
    """What is wrong with how somebody wrote orders."""
    return durability(way) or difference(read(way.place, ORDERS), read(floor.place, ORDERS))


def _reading(
    name: str, read_: Callable[[], Iterable[Any]], of_floor: Callable[[], list[Any]], kept: list[Any]
) -> Contender:
    """`of_floor` gives what the floor reads.

    `kept` is one for all: what is read goes after the turn, and never lies there while another one reads.
    """

    def turn(_number: int) -> None:
        kept.append(read_())

    def check() -> str | None:
        kept.clear()
        return difference(map(_values, read_()), of_floor())

    return Contender(name, turn, check, before=lambda _number: kept.clear())


def _values(order: Any) -> tuple[Any, ...]:
    return tuple(
        as_instant(getattr(order, name)) if name.endswith(("_at", "_since")) else getattr(order, name)
        for name in COLUMNS
        if name not in OWN
    )


def _fill(place: Place, stops: int, others: int) -> None:
    """Working trailing stops, and orders of another contract that are done."""
    made = Plain(place)
    done = replace(stop(0), contract_id=OTHER_CONTRACT, trailing_amount=None)
    with closing(made):
        made.apply_many(stop(number) for number in range(1, stops + 1))
        made.apply_many(replace(done, id=number) for number in range(stops + 1, stops + others + 1))
        made.execute(f"UPDATE orders SET state = 3 WHERE contract_id = {made.mark}", (OTHER_CONTRACT,))
    with closing(connect(place)) as connection:
        if not place.is_sqlite:
            connection.execute("ANALYZE orders")

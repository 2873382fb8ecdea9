"""Order events and trailing stops: the store beside the plain driver, and beside objects that are loaded and flushed.

    python -m benchmarks.orders [--postgresql URL]

Every event changes its order, every contender gets the same Python values, and afterwards the rows must be the same.
"""

from __future__ import annotations

import argparse
import sqlite3
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import sqlalchemy as sa
from sqlalchemy.orm import Session

from benchmarks.contest import Result, contest
from risk_store import EnforcementLog, Order, OrderSide, OrderSnapshot, OrderState, OrderType, RiskStore
from risk_store.columns import UtcInstant
from risk_store.engines import parse_url
from risk_store.events import OrderUpdate

ROUNDS = 9
SINGLE, BATCH, STOPS, WORKING, LOGS = 200, 500, 1000, 10_000, 5000
MNQ = "CON.F.US.MNQ.U26"
SENT = datetime(2026, 8, 19, 19, 0, tzinfo=UTC)
FIRST = OrderUpdate(
    id=0,
    account_id=26000001,
    contract_id=MNQ,
    type=OrderType.STOP,
    side=OrderSide.SELL,
    size=5,
    stop_price=21000.0,
    state=OrderState.ACTIVE,
    filled_size=0,
    custom_tag="glt-33fa8e1e-d19c-422d-ac43-efb12061d97c",
    created_at=SENT,
    venue_updated_at=SENT,
)
# What a careful hand writes: the age decides, nothing is blanked, a finished order stays finished.
UPSERT = """
INSERT INTO orders (id, account_id, contract_id, type, side, size, limit_price, stop_price, state, filled_size,
                    fill_price, custom_tag, venue_stop_price, created_at, venue_updated_at, updated_at, seen_at)
VALUES ({})
ON CONFLICT (id) DO UPDATE SET
    limit_price = coalesce(excluded.limit_price, orders.limit_price),
    stop_price = coalesce(excluded.stop_price, orders.stop_price),
    venue_stop_price = coalesce(excluded.venue_stop_price, orders.venue_stop_price),
    fill_price = coalesce(excluded.fill_price, orders.fill_price),
    custom_tag = coalesce(excluded.custom_tag, orders.custom_tag),
    state = CASE WHEN orders.state IN (3, 4, 5, 6) THEN orders.state ELSE excluded.state END,
    filled_size = CASE WHEN excluded.filled_size > orders.filled_size THEN excluded.filled_size
                  ELSE orders.filled_size END,
    venue_updated_at = excluded.venue_updated_at, updated_at = excluded.updated_at, seen_at = excluded.seen_at
WHERE orders.venue_updated_at IS NULL OR excluded.venue_updated_at >= orders.venue_updated_at
"""
RAISE = """
UPDATE orders SET stop_price = {0} - trailing_amount, updated_at = {0}
WHERE contract_id = {0} AND type = 5 AND state IN (2, 7) AND triggered_at IS NULL AND side = 1
  AND stop_price < {0} - trailing_amount
"""


WORKING_ROWS = "SELECT * FROM orders WHERE state IN (1, 2, 7, 8) ORDER BY created_at, id"
LOG = "enforcement_log (account_id, rule_id, action, reason, success, error_message, positions_closed, \
orders_canceled, timestamp, execution_time_ms, details, enforcement_id)"


@dataclass(slots=True)
class Row:
    """What a careful hand makes of a row: an object with slots, codes as enums, instants as aware datetimes."""

    id: int
    account_id: int
    contract_id: str
    type: OrderType
    side: OrderSide
    size: int
    limit_price: float | None
    stop_price: float | None
    state: OrderState
    created_at: datetime
    updated_at: datetime | None
    trailing_amount: float | None
    filled_size: int
    fill_price: float | None
    custom_tag: str | None
    parent_order_id: int | None
    linked_order_id: int | None
    venue_stop_price: float | None
    venue_updated_at: datetime | None
    triggered_at: datetime | None
    seen_at: datetime | None
    unconfirmed_since: datetime | None


@dataclass
class Plain:
    """The plain driver on one kept connection, with explicit transactions and statements it has prepared."""

    execute: Callable[[str, Sequence[Any]], Any]
    executemany: Callable[[str, Sequence[Sequence[Any]]], Any]
    begin: str
    mark: str
    instant: Callable[[datetime], Any]
    read: Callable[[Any], Any]
    write_all: Callable[[Sequence[Sequence[Any]]], None]
    """Rows of LOG, by what the driver has for many."""

    def event(self, update: OrderUpdate) -> tuple[Any, ...]:
        now = self.instant(datetime.now(UTC))
        return (
            *(update.id, update.account_id, update.contract_id, int(update.type or 0), int(update.side or 0)),
            *(update.size, update.limit_price, update.stop_price, int(update.state or 0), update.filled_size),
            *(update.fill_price, update.custom_tag, update.stop_price),
            *(self.instant(update.created_at or SENT), self.instant(update.venue_updated_at or SENT), now, now),
        )

    @property
    def upsert(self) -> str:
        return UPSERT.format(", ".join([self.mark] * 17))

    def apply_each(self, updates: Sequence[OrderUpdate]) -> None:
        upsert = self.upsert
        for update in updates:
            self.execute(self.begin, ())
            self.execute(upsert, self.event(update))
            self.execute("COMMIT", ())

    def apply_batch(self, updates: Sequence[OrderUpdate]) -> None:
        self.execute(self.begin, ())
        self.executemany(self.upsert, [self.event(update) for update in updates])
        self.execute("COMMIT", ())

    def working(self) -> list[Row]:
        read = self.read
        types = {int(code): code for code in OrderType}
        sides = {int(code): code for code in OrderSide}
        states = {int(code): code for code in OrderState}
        found = []
        for row in self.execute(WORKING_ROWS, ()).fetchall():
            (i, a, c, kind, side, z, lp, sp, state, at, up, ta, fs, fp, ct, po, lo, vs, vu, tr, se, un) = row
            times = (read(vu), read(tr), read(se), read(un))
            codes = (types[kind], sides[side], z, lp, sp, states[state])
            found.append(Row(i, a, c, *codes, read(at), read(up), ta, fs, fp, ct, po, lo, vs, *times))
        return found

    def add(self, logs: Sequence[EnforcementLog]) -> None:
        self.execute(self.begin, ())
        self.write_all(
            [
                (
                    *(log.account_id, log.rule_id, log.action, log.reason, log.success, log.error_message),
                    *(log.positions_closed, log.orders_canceled, self.instant(log.timestamp or SENT)),
                    *(log.execution_time_ms, log.details, log.enforcement_id),
                )
                for log in logs
            ]
        )
        self.execute("COMMIT", ())

    def trail(self, price: float) -> None:
        now = self.instant(datetime.now(UTC))
        self.execute(self.begin, ())
        self.execute(RAISE.format(self.mark), (price, now, MNQ, price))
        self.execute("COMMIT", ())


def through_objects(store: RiskStore, price: float) -> None:
    """What an ORM invites to: load the orders, set their stops, flush."""
    working = sa.select(Order).where(
        Order.contract_id == MNQ, Order.type == OrderType.TRAILING_STOP, Order.state == OrderState.ACTIVE
    )
    with Session(store.engine) as session, session.begin():
        for order in session.scalars(working):
            new = price - (order.trailing_amount or 0)
            if order.stop_price is not None and order.stop_price < new:
                order.stop_price = new


def events(first_id: int, count: int, number: int) -> list[OrderUpdate]:
    """The events of one turn: each of an order of its own, each newer than the last one of that order."""
    sent = SENT + timedelta(seconds=number)
    return [
        replace(FIRST, id=first_id + n, stop_price=21000.0 + number, venue_updated_at=sent) for n in range(1, count + 1)
    ]


def compare(engine: str, store: RiskStore, plain: Plain) -> Iterator[tuple[str, str, int, list[Result]]]:
    """Each work with its contenders: (engine, work, events in a turn, results)."""

    def each(number: int) -> None:
        for update in events(1_000_000, SINGLE, number):
            with store.begin() as tx:
                tx.orders.apply(update)

    def in_one_transaction(number: int) -> None:
        with store.begin() as tx:
            for update in events(2_000_000, BATCH, number):
                tx.orders.apply(update)

    def many(number: int) -> None:
        with store.begin() as tx:
            tx.orders.apply_many(events(3_000_000, BATCH, number))

    single = {
        "plain driver": lambda number: plain.apply_each(events(4_000_000, SINGLE, number)),
        "tx.orders.apply, one commit each": each,
    }
    yield engine, "order event, one commit each", SINGLE, contest(single, ROUNDS)
    batch = {
        "plain driver, executemany": lambda number: plain.apply_batch(events(5_000_000, BATCH, number)),
        "tx.orders.apply_many": many,
        "tx.orders.apply in one transaction": in_one_transaction,
    }
    yield engine, f"order events, {BATCH} in a transaction", BATCH, contest(batch, ROUNDS)
    check_events(store)

    for what, moves in (("all move", True), ("none moves", False)):
        make_stops(store)
        prices = iter(range(22_000, 22_000 + 100 * (3 * ROUNDS + 6), 100)) if moves else iter([])

        def price(prices: Iterator[int] = prices) -> float:
            return float(next(prices, 21_005))

        def trail(_number: int, price: Callable[[], float] = price) -> None:
            with store.begin() as tx:
                tx.orders.trail(MNQ, price(), tick_size=0.25)

        stops: dict[str, Callable[[int], None]] = {
            "plain driver, one UPDATE with the arithmetic": lambda _number, price=price: plain.trail(price()),
            "tx.orders.trail": trail,
            "ORM objects loaded and flushed": lambda _number, price=price: through_objects(store, price()),
        }
        yield engine, f"{STOPS:,} trailing stops, {what}", 1, contest(stops, ROUNDS)
        if moves:
            check_stops(store)

    make_stops(store, WORKING)
    read: list[list[Any]] = [[], [], []]

    def snapshot(_number: int) -> None:
        with store.read() as tx:
            read[1] = tx.orders.snapshot()

    def working(_number: int) -> None:
        with store.read() as tx:
            read[2] = tx.orders.working()

    def by_hand(_number: int) -> None:
        read[0] = plain.working()

    starts = {"plain driver into slots": by_hand, "tx.orders.snapshot": snapshot, "tx.orders.working": working}
    yield engine, f"{WORKING:,} working orders read", WORKING, contest(starts, ROUNDS)
    by_name = [[tuple(getattr(order, name) for name in OrderSnapshot._fields) for order in orders] for orders in read]
    if len(read[0]) != WORKING or not by_name[0] == by_name[1] == by_name[2]:
        sys.exit("the contenders did not read the same orders")

    # Made before the time is taken: each turn has its own, since no two rows may have the same name.
    logs = {(turn, ours): enforcements() for turn in range(ROUNDS + 1) for ours in (False, True)}

    def add_many(number: int) -> None:
        with store.begin() as tx:
            tx.enforcements.add_many(logs[number, True])

    adding = {
        "plain driver": lambda number: plain.add(logs[number, False]),
        "tx.enforcements.add_many": add_many,
    }
    yield engine, f"{LOGS:,} enforcements added", LOGS, contest(adding, ROUNDS)
    with store.read() as tx:
        if tx.session.scalar(sa.select(sa.func.count()).select_from(EnforcementLog)) != len(logs) * LOGS:
            sys.exit("the contenders did not write the same number of rows")


def enforcements() -> list[EnforcementLog]:
    return [
        EnforcementLog(
            account_id=123 + n % 20,
            rule_id=f"RULE-{n % 12:03}",
            action="CLOSE_ALL",
            reason="Daily loss limit hit: -$550",
            success=True,
            positions_closed=2,
            orders_canceled=1,
            timestamp=SENT + timedelta(milliseconds=n),
            execution_time_ms=n % 500,
            enforcement_id=uuid.uuid4().hex,
        )
        for n in range(LOGS)
    ]


def check_events(store: RiskStore) -> None:
    """Afterwards each contender's orders are the same but for their ids and our own clock."""
    with store.read() as tx:
        found: dict[int, list[tuple[Any, ...]]] = {}
        for order in tx.orders.working():
            row = (order.stop_price, order.venue_stop_price, order.state, order.filled_size, order.venue_updated_at)
            found.setdefault(order.id // 1_000_000, []).append((order.id % 1_000_000, *row, order.custom_tag))
    groups = [sorted(rows) for rows in found.values()]
    same = [rows for rows in groups if rows == groups[0] or rows == next(g for g in groups if len(g) == len(rows))]
    if len(groups) != 5 or len(same) != 5:
        sys.exit("the contenders did not write the same rows")


def make_stops(store: RiskStore, count: int = STOPS) -> None:
    with store.begin() as tx:
        tx.session.execute(sa.delete(Order.__table__))
        stop = replace(FIRST, type=OrderType.TRAILING_STOP, stop_price=21_000.0, trailing_amount=10.0)
        made = (replace(stop, id=n, created_at=SENT + timedelta(milliseconds=n)) for n in range(1, count + 1))
        tx.orders.apply_many(made)


def check_stops(store: RiskStore) -> None:
    with store.read() as tx:
        stops = {order.stop_price for order in tx.orders.working()}
    if stops != {22_000.0 + 100 * (3 * ROUNDS + 2) - 10.0}:
        sys.exit(f"the contenders did not move the same stops: {sorted(map(str, stops))[:3]}")


@contextmanager
def sqlite(folder: Path) -> Iterator[tuple[RiskStore, Plain]]:
    file = folder / "orders.db"
    with RiskStore(f"sqlite:///{file}") as store, closing(sqlite3.connect(file, isolation_level=None)) as plain:
        store.upgrade()
        plain.execute("PRAGMA journal_mode = WAL")
        plain.execute("PRAGMA synchronous = FULL")

        def read(text: str | None) -> datetime | None:
            return None if text is None else datetime.fromisoformat(text).replace(tzinfo=UTC)

        def write_all(rows: Sequence[Sequence[Any]]) -> None:
            plain.executemany(f"INSERT INTO {LOG} VALUES ({', '.join('?' * 12)})", rows)  # noqa: S608 (constant)

        yield store, Plain(plain.execute, plain.executemany, "BEGIN IMMEDIATE", "?", UtcInstant.text, read, write_all)


@contextmanager
def postgresql(url: str) -> Iterator[tuple[RiskStore, Plain]]:
    given = parse_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    with RiskStore(url) as store, psycopg.connect(given, autocommit=True) as plain, plain.cursor() as cursor:
        store.upgrade()

        def execute(statement: str, values: Sequence[Any]) -> Any:
            return cursor.execute(statement.encode(), values or None)

        def executemany(statement: str, rows: Sequence[Sequence[Any]]) -> None:
            cursor.executemany(statement.encode(), rows)

        def write_all(rows: Sequence[Sequence[Any]]) -> None:
            with cursor.copy(f"COPY {LOG} FROM STDIN".encode()) as copy:
                for row in rows:
                    copy.write_row(row)

        yield store, Plain(execute, executemany, "BEGIN", "%s", lambda instant: instant, lambda kept: kept, write_all)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.orders", description=__doc__.partition("\n")[0])
    parser.add_argument("--postgresql", metavar="URL", help="an empty PostgreSQL database to use as well")
    arguments = parser.parse_args()
    print("| engine | work | contender | µs | ratio |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder, sqlite(Path(folder)) as (store, plain):
        show(compare("SQLite, FULL", store, plain))
    if arguments.postgresql:
        with postgresql(arguments.postgresql) as (store, plain):
            show(compare("PostgreSQL", store, plain))


def show(compared: Iterator[tuple[str, str, int, list[Result]]]) -> None:
    for engine, work, count, results in compared:
        for result in results:
            cells = (engine, work, result.name, f"{result.seconds / count * 1e6:,.0f}", f"{result.ratio:.2f}")
            print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()

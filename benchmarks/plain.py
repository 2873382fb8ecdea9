"""The floor: the same work by hand in sqlite3 or psycopg, on one kept connection with explicit transactions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self

from benchmarks.places import Place, connect
from benchmarks.values import Event
from risk_store import OrderSide, OrderState, OrderType
from risk_store.events import OrderUpdate

__all__ = ["Plain", "PlainOrder"]

LOG_COLUMNS = (
    "account_id, rule_id, action, reason, success, error_message, positions_closed, orders_canceled, timestamp, "
    "execution_time_ms, details, enforcement_id"
)
LOG = f"INSERT INTO enforcement_log ({LOG_COLUMNS}) VALUES ({{}})"
LOCK = """
INSERT INTO lockouts (account_id, is_locked, reason, locked_at, locked_until, rule_id, created_at, updated_at)
VALUES ({})
ON CONFLICT (account_id) DO UPDATE SET is_locked = excluded.is_locked, reason = excluded.reason,
    locked_at = excluded.locked_at, locked_until = excluded.locked_until, rule_id = excluded.rule_id,
    updated_at = excluded.updated_at
"""
BEGUN = """
INSERT INTO enforcement_in_flight (account_id, enforcement_id, rule_id, action, reason, details, started_at, host, pid)
VALUES ({})
"""
ENDED = "DELETE FROM enforcement_in_flight WHERE account_id = {0} AND enforcement_id = {0}"
# What a careful hand writes: the age decides, nothing is blanked, a finished order stays finished.
UPSERT = """
INSERT INTO orders (id, account_id, contract_id, type, side, size, limit_price, stop_price, state, filled_size,
                    fill_price, custom_tag, trailing_amount, venue_stop_price, created_at, venue_updated_at, updated_at,
                    seen_at)
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
ORDER_COLUMNS = (
    "id, account_id, contract_id, type, side, size, limit_price, stop_price, state, created_at, updated_at, "
    "trailing_amount, filled_size, fill_price, custom_tag, parent_order_id, linked_order_id, venue_stop_price, "
    "venue_updated_at, triggered_at, seen_at, unconfirmed_since"
)
WORKING = f"SELECT {ORDER_COLUMNS} FROM orders WHERE state IN (1, 2, 7, 8) ORDER BY created_at, id"
TYPES = {int(code): code for code in OrderType}
SIDES = {int(code): code for code in OrderSide}
STATES = {int(code): code for code in OrderState}


@dataclass(slots=True)
class PlainOrder:
    """An order as a careful hand keeps it: codes as members, instants as datetimes."""

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


class Plain:
    """The plain driver. On a server the statements are prepared by psycopg itself, from the sixth time on."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.connection = connect(place)
        self.cursor = self.connection.cursor()
        self.execute = self.cursor.execute
        self._begin = "BEGIN IMMEDIATE" if place.is_sqlite else "BEGIN"
        self.mark = "?" if place.is_sqlite else "%s"
        self._log, self._lock, self._upsert = (
            statement.format(", ".join([self.mark] * count))
            for statement, count in ((LOG, 12), (LOCK, 8), (UPSERT, 18))
        )
        self._begun, self._ended = BEGUN.format(", ".join([self.mark] * 9)), ENDED.format(self.mark)
        self._instant = _text if place.is_sqlite else _as_it_is

    def record(self, event: Event) -> None:
        now = self._instant(datetime.now(UTC))
        self.execute(self._begin)
        self.execute(self._log, self._of_log(event))
        self.execute(self._lock, self._of_lockout(event, now))
        self.execute("COMMIT")

    def enforce(self, event: Event) -> None:
        """What `store.enforce` writes: intent and lockout before the block, the outcome after it."""
        now = self._instant(datetime.now(UTC))
        intent = (event.account_id, event.enforcement_id, event.rule_id, event.action, event.reason, event.details)
        self.execute(self._begin)
        self.execute(self._begun, (*intent, now, "host", 1))
        self.execute(self._lock, self._of_lockout(event, now))
        self.execute("COMMIT")
        self.execute(self._begin)
        self.execute(self._ended, (event.account_id, event.enforcement_id))
        self.execute(self._log, self._of_log(event))
        self.execute("COMMIT")

    def record_in_one(self, event: Event) -> None:
        """On a server: both rows in one statement, which is one transaction in one round trip."""
        values = (*self._of_log(event), *self._of_lockout(event, datetime.now(UTC)))
        self.execute(f"WITH logged AS ({self._log}) {self._lock}", values)

    def add_many(self, events: Sequence[Event]) -> None:
        self.execute(self._begin)
        if self.place.is_sqlite:
            self.cursor.executemany(self._log, map(self._of_log, events))
        else:
            self._copy(events)
        self.execute("COMMIT")

    def add_many_binary(self, events: Sequence[Event]) -> None:
        """On a server: COPY in binary form, row by row."""
        types = ("int8", *("text",) * 3, "bool", "text", "int8", "int8", "timestamptz", "int8", "text", "text")
        with (
            self.connection.transaction(),
            self.cursor.copy(f"COPY enforcement_log ({LOG_COLUMNS}) FROM STDIN (FORMAT BINARY)") as copy,
        ):
            copy.set_types(types)
            for event in events:
                copy.write_row(self._of_log(event))

    def _copy(self, events: Sequence[Event]) -> None:
        with self.cursor.copy(f"COPY enforcement_log ({LOG_COLUMNS}) FROM STDIN") as copy:
            for start in range(0, len(events), 1000):
                copy.write("".join(map(_line, events[start : start + 1000])))

    def apply(self, update: OrderUpdate) -> None:
        self.execute(self._begin)
        self.execute(self._upsert, self._of_order(update))
        self.execute("COMMIT")

    def apply_many(self, updates: Iterable[OrderUpdate]) -> None:
        self.execute(self._begin)
        self.cursor.executemany(self._upsert, [self._of_order(update) for update in updates])
        self.execute("COMMIT")

    def trail(self, contract_id: str, price: float) -> None:
        """W4: one UPDATE with the arithmetic in SQL. `price` is in price units."""
        now = self._instant(datetime.now(UTC))
        self.execute(self._begin)
        self.execute(RAISE.format(self.mark), (price, now, contract_id, price))
        self.execute("COMMIT")

    def working(self) -> list[PlainOrder]:
        make: Any = PlainOrder
        self.execute(WORKING)
        if not self.place.is_sqlite:
            return [
                make(id_, account, contract, TYPES[type_], SIDES[side], size, limit, stop, STATES[state], *others)
                for id_, account, contract, type_, side, size, limit, stop, state, *others in self.cursor
            ]
        # fmt: off
        return [
            make(id_, account, contract, TYPES[type_], SIDES[side], size, limit, stop, STATES[state], _read(created),
                 _read(updated), distance, filled, fill, tag, parent, linked, venue_stop, _read(venue_updated),
                 _read(triggered), _read(seen), _read(unconfirmed))
            for id_, account, contract, type_, side, size, limit, stop, state, created, updated, distance, filled,
                fill, tag, parent, linked, venue_stop, venue_updated, triggered, seen, unconfirmed in self.cursor
        ]
        # fmt: on

    def ask(self, question: str) -> object:
        self.execute(question)
        return self.cursor.fetchone()[0]

    def of_thread(self) -> Self:
        return type(self)(self.place)

    def leave(self) -> None:
        self.connection.close()

    def close(self) -> None:
        self.connection.close()

    # Each tuple is written out and each instant made text by hand: half of a row's time in a bulk is spent here.

    def _of_log(self, event: Event) -> tuple[Any, ...]:
        return (
            event.account_id,
            event.rule_id,
            event.action,
            event.reason,
            event.success,
            None,
            event.positions_closed,
            event.orders_canceled,
            self._instant(event.timestamp),
            event.execution_time_ms,
            event.details,
            event.enforcement_id,
        )

    def _of_lockout(self, event: Event, now: Any) -> tuple[Any, ...]:
        until = self._instant(event.locked_until)
        return (event.account_id, True, event.reason, now, until, event.rule_id, now, now)

    def _of_order(self, update: OrderUpdate) -> tuple[Any, ...]:
        now = self._instant(datetime.now(UTC))
        return (
            update.id,
            update.account_id,
            update.contract_id,
            int(update.type or 0),  # sqlite3 would look for an adapter of the member's class
            int(update.side or 0),
            update.size,
            update.limit_price,
            update.stop_price,
            int(update.state or 0),
            update.filled_size,
            update.fill_price,
            update.custom_tag,
            update.trailing_amount,
            update.stop_price,
            self._instant(update.created_at),
            self._instant(update.venue_updated_at),
            now,
            now,
        )


def _text(instant: Any) -> str:
    """Canonical text of an instant that is in UTC already."""
    text: str = instant.isoformat(" ")[:-6]
    return text


def _read(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text + "+00:00")


def _as_it_is(instant: Any) -> Any:
    return instant


def _line(event: Event) -> str:
    """A line of COPY in text form. Only what may hold anything is escaped."""
    return (
        f"{event.account_id}\t{_escaped(event.rule_id)}\t{_escaped(event.action)}\t{_escaped(event.reason)}\t"
        f"{'t' if event.success else 'f'}\t\\N\t{event.positions_closed}\t{event.orders_canceled}\t{event.timestamp}\t"
        f"{event.execution_time_ms}\t{_escaped(event.details)}\t{event.enforcement_id}\n"
    )


def _escaped(text: str) -> str:
    if "\\" in text or "\t" in text or "\n" in text or "\r" in text:
        return text.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")
    return text

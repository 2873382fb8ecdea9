"""The store, by its public API only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Self

import sqlalchemy as sa
from sqlalchemy import event as sa_event

from benchmarks.places import Place
from benchmarks.values import Event
from risk_store import EnforcementLog, Lockout, RiskStore
from risk_store.events import OrderUpdate

__all__ = ["Ours", "as_lockout", "as_log", "set_normal"]

THREADS = 40  # of a pool that holds a connection for each


class Ours:
    """One store. It always opens SQLite with synchronous=FULL; NORMAL is set from outside, for the comparison."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.store = RiskStore(place.url, pool_size=THREADS)
        if place.synchronous == "NORMAL":
            sa_event.listen(self.store.engine, "connect", set_normal)

    def record(self, event: Event) -> None:
        self.store.record(as_log(event), as_lockout(event))

    def begin_add(self, event: Event) -> None:
        """The same in a transaction of the caller's."""
        with self.store.begin() as tx:
            tx.lockouts.set(event.account_id, event.reason, event.rule_id, until=event.locked_until)
            tx.enforcements.add(as_log(event))

    def enforce(self, event: Event) -> None:
        """An empty block, with an intent before it: the time, the duration and the id are the store's own."""
        with self.store.enforce(
            event.account_id, event.rule_id, event.action, event.reason, event.details, lock_until=event.locked_until
        ) as enforcement:
            enforcement.positions_closed = event.positions_closed
            enforcement.orders_canceled = event.orders_canceled

    def add_many(self, events: Sequence[Event]) -> None:
        self.add_logs(map(as_log, events))

    def add_logs(self, logs: Iterable[EnforcementLog]) -> None:
        """The same of rows that are there already."""
        with self.store.begin() as tx:
            tx.enforcements.add_many(logs)

    def apply(self, update: OrderUpdate) -> None:
        with self.store.begin() as tx:
            tx.orders.apply(update)

    def apply_many(self, updates: Iterable[OrderUpdate]) -> None:
        with self.store.begin() as tx:
            tx.orders.apply_many(updates)

    def trail(self, contract_id: str, price: float) -> None:
        """W4. `price` is in price units."""
        with self.store.begin() as tx:
            tx.orders.trail(contract_id, price, tick_size=0.25)

    def working(self) -> Sequence[Any]:
        with self.store.read() as tx:
            return tx.orders.working()

    def snapshot(self) -> Sequence[Any]:
        """R5: the working orders as plain objects, read only."""
        with self.store.read() as tx:
            return list(tx.orders.snapshot())

    def ask(self, question: str) -> object:
        with self.store.begin() as tx:
            return tx.session.execute(sa.text(question)).scalar_one()

    def of_thread(self) -> Self:
        return self

    def leave(self) -> None:
        return None

    def close(self) -> None:
        self.store.close()


def as_log(event: Event) -> EnforcementLog:
    return EnforcementLog(
        account_id=event.account_id,
        rule_id=event.rule_id,
        action=event.action,
        reason=event.reason,
        success=event.success,
        positions_closed=event.positions_closed,
        orders_canceled=event.orders_canceled,
        timestamp=event.timestamp,
        execution_time_ms=event.execution_time_ms,
        details=event.details,
        enforcement_id=event.enforcement_id,
    )


def as_lockout(event: Event) -> Lockout:
    return Lockout(
        account_id=event.account_id,
        is_locked=True,
        reason=event.reason,
        locked_until=event.locked_until,
        rule_id=event.rule_id,
    )


def set_normal(raw: Any, _record: object) -> None:
    cursor = raw.cursor()
    cursor.execute("PRAGMA synchronous = NORMAL")
    cursor.close()

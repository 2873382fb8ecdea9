"""Pony: entities of a database of their own, got and set in a session. On a server it needs psycopg2."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Self

from pony import orm

from benchmarks.peers import lock_values, log_values, order_values
from benchmarks.places import Place
from benchmarks.values import Event
from risk_store.events import OrderUpdate

__all__ = ["Peer"]


def entities(database: Any) -> tuple[type[Any], type[Any], type[Any]]:
    """The three entities on `database`. Their texts may be empty in the tables, and so here."""
    text = {"sql_type": "TEXT", "nullable": True}

    class Log(database.Entity):
        _table_ = "enforcement_log"
        id = orm.PrimaryKey(int, auto=True, size=64)
        account_id = orm.Required(int, size=64)
        rule_id = orm.Required(str)
        action = orm.Required(str)
        reason = orm.Required(str)
        success = orm.Required(bool)
        error_message = orm.Optional(str, **text)
        positions_closed = orm.Required(int, size=64)
        orders_canceled = orm.Required(int, size=64)
        timestamp = orm.Optional(datetime)
        execution_time_ms = orm.Optional(int, size=64)
        details = orm.Optional(str, **text)
        enforcement_id = orm.Optional(str, **text)

    class Lockout(database.Entity):
        _table_ = "lockouts"
        account_id = orm.PrimaryKey(int, size=64)
        is_locked = orm.Required(bool)
        reason = orm.Optional(str, **text)
        locked_at = orm.Optional(datetime)
        locked_until = orm.Optional(datetime)
        rule_id = orm.Optional(str, **text)
        created_at = orm.Optional(datetime)
        updated_at = orm.Optional(datetime)

    class Order(database.Entity):
        _table_ = "orders"
        id = orm.PrimaryKey(int, size=64)
        account_id = orm.Required(int, size=64)
        contract_id = orm.Required(str)
        type = orm.Required(int, size=64)
        side = orm.Required(int, size=64)
        size = orm.Required(int, size=64)
        limit_price = orm.Optional(float)
        stop_price = orm.Optional(float)
        state = orm.Required(int, size=64)
        created_at = orm.Required(datetime)
        updated_at = orm.Optional(datetime)
        trailing_amount = orm.Optional(float)
        filled_size = orm.Required(int, size=64, default=0)
        fill_price = orm.Optional(float)
        custom_tag = orm.Optional(str, **text)
        parent_order_id = orm.Optional(int, size=64)
        linked_order_id = orm.Optional(int, size=64)
        venue_stop_price = orm.Optional(float)
        venue_updated_at = orm.Optional(datetime)
        triggered_at = orm.Optional(datetime)
        seen_at = orm.Optional(datetime)
        unconfirmed_since = orm.Optional(datetime)

    return Log, Lockout, Order


class Peer:
    def __init__(self, place: Place) -> None:
        self.place = place
        self.database = orm.Database()
        self.log, self.lockout, self.order = entities(self.database)

        @self.database.on_connect(provider="sqlite")
        def prepare(_database: Any, connection: Any) -> None:
            connection.execute(f"PRAGMA synchronous = {place.synchronous}")

        if place.is_sqlite:
            self.database.bind(provider="sqlite", filename=place.file, timeout=60)
        else:
            # Pony knows no aware datetimes: the server takes what it is sent for UTC.
            options = "-c timezone=UTC"
            self.database.bind(provider="postgres", dbname=place.database, options=options, **place.server)
        self.database.generate_mapping(create_tables=False, check_tables=False)

    def record(self, event: Event) -> None:
        with orm.db_session(immediate=True):
            self.log(**_naive(log_values(event)))
            values = _naive(lock_values(event))
            found = self.lockout.get(account_id=event.account_id)
            if found is None:
                self.lockout(account_id=event.account_id, **values)
            else:
                found.set(**values)

    def add_many(self, events: Sequence[Event]) -> None:
        with orm.db_session(immediate=True):
            for event in events:
                self.log(**_naive(log_values(event)))

    def apply(self, update: OrderUpdate) -> None:
        self.apply_many([update])

    def apply_many(self, updates: Iterable[OrderUpdate]) -> None:
        with orm.db_session(immediate=True):
            for update in updates:
                values = _naive(order_values(update))
                found = self.order.get(id=update.id)
                if found is None:
                    self.order(id=update.id, **values)
                else:
                    found.set(**values)

    def working(self) -> Sequence[Any]:
        order = self.order
        with orm.db_session:
            found = order.select().filter("lambda o: o.state in (1, 2, 7, 8)")
            return found.order_by(order.created_at, order.id)[:]

    def ask(self, question: str) -> object:
        with orm.db_session:
            return self.database.execute(question).fetchone()[0]

    def of_thread(self) -> Self:
        return self

    def leave(self) -> None:
        self.database.disconnect()

    def close(self) -> None:
        self.database.disconnect()


def _naive(values: dict[str, Any]) -> dict[str, Any]:
    for name, value in values.items():
        if isinstance(value, datetime):
            values[name] = value.astimezone(UTC).replace(tzinfo=None)
    return values

"""peewee: models bound to a database of their own, `insert … on_conflict` where a row may be there already."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Self

import peewee
from playhouse.postgres_ext import Psycopg3Database

from benchmarks.peers import lock_values, log_values, order_values
from benchmarks.places import Place
from benchmarks.values import Event
from risk_store.events import OrderUpdate

__all__ = ["Peer"]

CHUNK = 500  # rows in one INSERT … VALUES


class Instant(peewee.DateTimeField):
    """peewee writes a datetime as it prints itself: its offset has to go where the column is text."""

    def db_value(self, value: datetime | None) -> Any:
        if value is not None and isinstance(self.model._meta.database, peewee.SqliteDatabase):
            value = value.astimezone(UTC).replace(tzinfo=None)
        return super().db_value(value)


def models(database: peewee.Database) -> tuple[type[Any], type[Any], type[Any]]:
    """The three models on `database`: peewee binds a model to one."""

    class Base(peewee.Model):
        class Meta:
            pass

    Base._meta.database = database

    class Log(Base):
        id = peewee.BigAutoField() if not isinstance(database, peewee.SqliteDatabase) else peewee.AutoField()
        account_id = peewee.BigIntegerField()
        rule_id = peewee.TextField()
        action = peewee.TextField()
        reason = peewee.TextField()
        success = peewee.BooleanField()
        error_message = peewee.TextField(null=True)
        positions_closed = peewee.BigIntegerField()
        orders_canceled = peewee.BigIntegerField()
        timestamp = Instant(null=True)
        execution_time_ms = peewee.BigIntegerField(null=True)
        details = peewee.TextField(null=True)
        enforcement_id = peewee.TextField(null=True)

        class Meta:
            table_name = "enforcement_log"

    class Lockout(Base):
        account_id = peewee.BigIntegerField(primary_key=True)
        is_locked = peewee.BooleanField()
        reason = peewee.TextField(null=True)
        locked_at = Instant(null=True)
        locked_until = Instant(null=True)
        rule_id = peewee.TextField(null=True)
        created_at = Instant(null=True)
        updated_at = Instant(null=True)

        class Meta:
            table_name = "lockouts"

    class Order(Base):
        id = peewee.BigIntegerField(primary_key=True)
        account_id = peewee.BigIntegerField()
        contract_id = peewee.TextField()
        type = peewee.BigIntegerField()
        side = peewee.BigIntegerField()
        size = peewee.BigIntegerField()
        limit_price = peewee.DoubleField(null=True)
        stop_price = peewee.DoubleField(null=True)
        state = peewee.BigIntegerField()
        created_at = Instant()
        updated_at = Instant(null=True)
        trailing_amount = peewee.DoubleField(null=True)
        filled_size = peewee.BigIntegerField(default=0)
        fill_price = peewee.DoubleField(null=True)
        custom_tag = peewee.TextField(null=True)
        parent_order_id = peewee.BigIntegerField(null=True)
        linked_order_id = peewee.BigIntegerField(null=True)
        venue_stop_price = peewee.DoubleField(null=True)
        venue_updated_at = Instant(null=True)
        triggered_at = Instant(null=True)
        seen_at = Instant(null=True)
        unconfirmed_since = Instant(null=True)

        class Meta:
            table_name = "orders"

    return Log, Lockout, Order


class Peer:
    def __init__(self, place: Place) -> None:
        self.place = place
        if place.is_sqlite:
            self.database: Any = peewee.SqliteDatabase(
                place.file, pragmas={"synchronous": place.synchronous}, timeout=60
            )
        else:
            self.database = Psycopg3Database(place.database, **place.server)
        self.log, self.lockout, self.order = models(self.database)

    def record(self, event: Event) -> None:
        with self._atomic():
            self.log.create(**log_values(event))
            values = lock_values(event)
            self.lockout.insert(account_id=event.account_id, **values).on_conflict(
                conflict_target=[self.lockout.account_id], update=values
            ).execute()

    def add_many(self, events: Sequence[Event]) -> None:
        source = map(log_values, events)
        with self._atomic():
            while chunk := list(islice(source, CHUNK)):
                self.log.insert_many(chunk).execute()

    def apply(self, update: OrderUpdate) -> None:
        self.apply_many([update])

    def apply_many(self, updates: Iterable[OrderUpdate]) -> None:
        with self._atomic():
            for chunk in _chunks([{"id": update.id, **order_values(update)} for update in updates]):
                kept = [getattr(self.order, name) for name in chunk[0] if name not in ("id", "created_at")]
                self.order.insert_many(chunk).on_conflict(conflict_target=[self.order.id], preserve=kept).execute()

    def working(self) -> Sequence[Any]:
        order = self.order
        return list(order.select().where(order.state.in_([1, 2, 7, 8])).order_by(order.created_at, order.id))

    def ask(self, question: str) -> object:
        return self.database.execute_sql(question).fetchone()[0]

    def of_thread(self) -> Self:
        self.database.connect(reuse_if_open=True)
        return self

    def leave(self) -> None:
        self.database.close()

    def close(self) -> None:
        self.database.close()

    def _atomic(self) -> Any:
        return self.database.atomic("IMMEDIATE") if self.place.is_sqlite else self.database.atomic()


def _chunks(rows: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    for start in range(0, len(rows), CHUNK):
        yield rows[start : start + CHUNK]

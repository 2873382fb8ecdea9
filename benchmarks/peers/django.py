"""Django's ORM outside of a site: settings made here, tables that it does not manage, `bulk_create` for upserts."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any, Self

import django
from django.conf import settings
from django.db import connections, models, transaction

from benchmarks.peers import lock_values, log_values, order_values
from benchmarks.places import Place
from benchmarks.values import Event
from risk_store.events import OrderUpdate

__all__ = ["Peer"]

CHUNK = 500

if not settings.configured:
    nowhere = {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}
    settings.configure(DATABASES={"default": nowhere}, INSTALLED_APPS=[], USE_TZ=True, TIME_ZONE="UTC")
    django.setup()


class Log(models.Model):
    id = models.BigAutoField(primary_key=True)
    account_id = models.BigIntegerField()
    rule_id = models.TextField()
    action = models.TextField()
    reason = models.TextField()
    success = models.BooleanField()
    error_message = models.TextField(null=True)
    positions_closed = models.BigIntegerField()
    orders_canceled = models.BigIntegerField()
    timestamp = models.DateTimeField(null=True)
    execution_time_ms = models.BigIntegerField(null=True)
    details = models.TextField(null=True)
    enforcement_id = models.TextField(null=True)

    class Meta:
        app_label = "benchmarks"
        managed = False
        db_table = "enforcement_log"


class Lockout(models.Model):
    account_id = models.BigIntegerField(primary_key=True)
    is_locked = models.BooleanField()
    reason = models.TextField(null=True)
    locked_at = models.DateTimeField(null=True)
    locked_until = models.DateTimeField(null=True)
    rule_id = models.TextField(null=True)
    created_at = models.DateTimeField(null=True)
    updated_at = models.DateTimeField(null=True)

    class Meta:
        app_label = "benchmarks"
        managed = False
        db_table = "lockouts"


class Order(models.Model):
    id = models.BigIntegerField(primary_key=True)
    account_id = models.BigIntegerField()
    contract_id = models.TextField()
    type = models.BigIntegerField()
    side = models.BigIntegerField()
    size = models.BigIntegerField()
    limit_price = models.FloatField(null=True)
    stop_price = models.FloatField(null=True)
    state = models.BigIntegerField()
    created_at = models.DateTimeField()
    updated_at = models.DateTimeField(null=True)
    trailing_amount = models.FloatField(null=True)
    filled_size = models.BigIntegerField(default=0)
    fill_price = models.FloatField(null=True)
    custom_tag = models.TextField(null=True)
    parent_order_id = models.BigIntegerField(null=True)
    linked_order_id = models.BigIntegerField(null=True)
    venue_stop_price = models.FloatField(null=True)
    venue_updated_at = models.DateTimeField(null=True)
    triggered_at = models.DateTimeField(null=True)
    seen_at = models.DateTimeField(null=True)
    unconfirmed_since = models.DateTimeField(null=True)

    class Meta:
        app_label = "benchmarks"
        managed = False
        db_table = "orders"


class Peer:
    numbers = itertools.count()

    def __init__(self, place: Place) -> None:
        self.place = place
        self.alias = f"place_{next(self.numbers)}"
        usual = connections.databases["default"]
        if place.is_sqlite:
            options = {
                "timeout": 60,
                "transaction_mode": "IMMEDIATE",
                "init_command": f"PRAGMA synchronous = {place.synchronous}",
            }
            connections.databases[self.alias] = usual | {"NAME": place.file, "OPTIONS": options}
        else:
            server = {name.upper(): value for name, value in place.server.items()}
            engine = "django.db.backends.postgresql"
            connections.databases[self.alias] = usual | server | {"ENGINE": engine, "NAME": place.database}

    def record(self, event: Event) -> None:
        with transaction.atomic(using=self.alias):
            Log.objects.using(self.alias).create(**log_values(event))
            values = lock_values(event)
            Lockout.objects.using(self.alias).bulk_create(
                [Lockout(account_id=event.account_id, **values)],
                update_conflicts=True,
                unique_fields=["account_id"],
                update_fields=list(values),
            )

    def add_many(self, events: Sequence[Event]) -> None:
        with transaction.atomic(using=self.alias):
            Log.objects.using(self.alias).bulk_create([Log(**log_values(event)) for event in events], batch_size=CHUNK)

    def apply(self, update: OrderUpdate) -> None:
        self.apply_many([update])

    def apply_many(self, updates: Iterable[OrderUpdate]) -> None:
        values = [{"id": update.id, **order_values(update)} for update in updates]
        rows = [Order(**row) for row in values]
        changed = [name for name in values[0] if name not in ("id", "created_at")]
        with transaction.atomic(using=self.alias):
            Order.objects.using(self.alias).bulk_create(
                rows, batch_size=CHUNK, update_conflicts=True, unique_fields=["id"], update_fields=changed
            )

    def working(self) -> Sequence[Any]:
        found = Order.objects.using(self.alias).filter(state__in=[1, 2, 7, 8])
        return list(found.order_by("created_at", "id"))

    def ask(self, question: str) -> object:
        with connections[self.alias].cursor() as cursor:
            cursor.execute(question)
            return cursor.fetchone()[0]

    def of_thread(self) -> Self:
        connections[self.alias].ensure_connection()
        return self

    def leave(self) -> None:
        connections[self.alias].close()

    def close(self) -> None:
        connections[self.alias].close()

"""Other libraries on the same tables, each in its ordinary idiom with models of its own.

SQLAlchemy's ORM is always there; the others come with the extra `peers`. What belongs to all: the values of a row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib import import_module
from typing import Any

from benchmarks.places import Place
from benchmarks.sizes import Size
from benchmarks.values import Event
from benchmarks.way import Way
from risk_store.events import OrderUpdate

__all__ = ["INSTALL", "NAMES", "lock_values", "log_values", "order_values", "peers", "some"]

INSTALL = "pip install -e '.[peers]'"
NAMES = {
    "sqlalchemy_orm": "SQLAlchemy ORM",
    "sqlmodel": "SQLModel",
    "peewee": "peewee",
    "django": "Django ORM",
    "pony": "Pony",
}


def peers(missing: dict[str, str] | None = None) -> Mapping[str, Callable[[Place], Way]]:
    """The peers that are installed, by name; those that are not are put into `missing`, with what helps."""
    found: dict[str, Callable[[Place], Way]] = {}
    for module, name in NAMES.items():
        try:
            found[name] = import_module(f"benchmarks.peers.{module}").Peer
        except ModuleNotFoundError as error:
            if missing is not None:
                missing[name] = f"not installed ({error.name}): {INSTALL}"
    return found


def some(found: Mapping[str, Callable[[Place], Way]], size: Size) -> Mapping[str, Callable[[Place], Way]]:
    """Those of `found` that take part where nothing is promised of them: in the quick form SQLAlchemy's ORM alone."""
    return found if size.all_peers else {name: found[name] for name in found if name == NAMES["sqlalchemy_orm"]}


def log_values(event: Event) -> dict[str, Any]:
    """The columns of a log row."""
    return {
        "account_id": event.account_id,
        "rule_id": event.rule_id,
        "action": event.action,
        "reason": event.reason,
        "success": event.success,
        "positions_closed": event.positions_closed,
        "orders_canceled": event.orders_canceled,
        "timestamp": event.timestamp,
        "execution_time_ms": event.execution_time_ms,
        "details": event.details,
        "enforcement_id": event.enforcement_id,
    }


def lock_values(event: Event) -> dict[str, Any]:
    """The columns of a lockout, but for its account."""
    now = datetime.now(UTC)
    return {
        "is_locked": True,
        "reason": event.reason,
        "locked_at": now,
        "locked_until": event.locked_until,
        "rule_id": event.rule_id,
        "created_at": now,
        "updated_at": now,
    }


def order_values(update: OrderUpdate) -> dict[str, Any]:
    """The columns of an order but for its id. What an event leaves out stays as it is; which is newer nobody asks."""
    now = datetime.now(UTC)
    return {
        "account_id": update.account_id,
        "contract_id": update.contract_id,
        "type": int(update.type or 0),
        "side": int(update.side or 0),
        "size": update.size,
        "stop_price": update.stop_price,
        "state": int(update.state or 0),
        "filled_size": update.filled_size,
        "custom_tag": update.custom_tag,
        "venue_stop_price": update.stop_price,
        "created_at": update.created_at,
        "venue_updated_at": update.venue_updated_at,
        "updated_at": now,
        "seen_at": now,
    }

"""What an order's id, unique by itself, promises on a file and on one server, and a cluster does not (docs/scaling.md).

The other half is in `test_citus.py`; what each engine promises is the contract suite.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from risk_store import Order, OrderSide, OrderState, OrderType, RiskStore
from risk_store.events import OrderUpdate

SENT = datetime(2026, 8, 19, 19, 0, tzinfo=UTC)
SAID: dict[str, Any] = {
    "contract_id": "CON.F.US.MNQ.U26",
    "type": OrderType.STOP,
    "side": OrderSide.SELL,
    "size": 5,
    "state": OrderState.ACTIVE,
}


@pytest.fixture
def known(store: RiskStore) -> RiskStore:
    """A store with order 1 of account 456, its stop at 20990."""
    with store.begin() as tx:
        tx.orders.apply(OrderUpdate(id=1, account_id=456, stop_price=20990.0, venue_updated_at=SENT, **SAID))
    return store


def test_an_event_that_names_another_account_is_of_the_order_that_is_known(known: RiskStore) -> None:
    later = SENT + timedelta(seconds=1)
    with known.begin() as tx:
        assert tx.orders.apply(OrderUpdate(id=1, account_id=7, stop_price=20991.0, venue_updated_at=later, **SAID))
    with known.read() as tx:
        assert [(order.account_id, order.stop_price) for order in tx.orders.working()] == [(456, 20991.0)]


def test_the_reply_to_a_placement_fills_the_order_that_is_known_whatever_account_it_names(known: RiskStore) -> None:
    with known.begin() as tx:
        stored = tx.orders.save(Order(id=1, account_id=7, custom_tag="ours", stop_price=1.0, **SAID))
        assert (stored.account_id, stored.custom_tag, stored.stop_price) == (456, "ours", 20990.0)
    with known.read() as tx:
        assert [order.account_id for order in tx.orders.working()] == [456]

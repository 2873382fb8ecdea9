"""The mirror of the venue through each door: threads and asyncio, every driver, the same rows."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from risk_store import OrderSide, OrderState, OrderType
from risk_store.codes import PositionType
from risk_store.events import OrderUpdate, PositionUpdate, TradeUpdate
from tests.support.doors import ASYNC_DOORS, BEGAN, Clocks, Door

MNQ = "CON.F.US.MNQ.U26"
SENT = datetime(2026, 8, 19, 19, 0, tzinfo=UTC)
STOP = OrderUpdate(
    id=3_425_270_858,
    account_id=26000001,
    contract_id=MNQ,
    type=OrderType.TRAILING_STOP,
    side=OrderSide.SELL,
    size=2,
    stop_price=20990.0,
    trailing_amount=10.0,
    state=OrderState.ACTIVE,
    created_at=SENT,
    venue_updated_at=SENT,
)


async def test_orders_are_applied_and_trailed(door: Door) -> None:
    assert await door.write(lambda tx: tx.orders.apply(STOP))
    assert not await door.write(lambda tx: tx.orders.apply(STOP))
    later = replace(STOP, filled_size=1, venue_updated_at=SENT + timedelta(seconds=1))
    part = OrderUpdate(id=STOP.id, custom_tag="ours", venue_updated_at=SENT + timedelta(seconds=2))
    await door.write(lambda tx: tx.orders.apply_many([later, part, replace(STOP, id=7), replace(STOP, id=8)]))
    result = await door.write(lambda tx: tx.orders.trail(MNQ, 21050.1, tick_size=0.1))
    assert result.moves == [(id_, 20990.0, 21040.1) for id_ in (7, 8, STOP.id)]
    assert (await door.write(lambda tx: tx.orders.trail(MNQ, 21040.1))).triggered == [7, 8, STOP.id]
    found = {order.id: order for order in await door.look(lambda tx: tx.orders.working(26000001))}
    order = found[STOP.id]
    assert (order.filled_size, order.custom_tag, order.stop_price) == (1, "ours", 21040.1)
    assert (order.venue_stop_price, order.triggered_at, order.seen_at) == (20990.0, BEGAN, BEGAN)


async def test_the_gateways_lists_are_reconciled(door: Door, clocks: Clocks) -> None:
    position = PositionUpdate(
        id=5, account_id=26000001, contract_id=MNQ, type=PositionType.LONG, size=2, average_price=1.5, created_at=SENT
    )
    await door.write(lambda tx: tx.orders.apply(STOP))
    await door.write(lambda tx: tx.positions.apply(position))
    clocks.now += timedelta(minutes=1)
    asked_at = clocks.now
    assert (await door.write(lambda tx: tx.orders.reconcile(26000001, [], asked_at))).unknown_there == [STOP.id]
    assert (await door.write(lambda tx: tx.positions.reconcile(26000001, [], asked_at))).unknown_there == [5]
    assert (await door.write(lambda tx: tx.orders.reconcile(26000001, [STOP], asked_at))).agreed
    [order] = await door.look(lambda tx: tx.orders.working())
    [row] = await door.look(lambda tx: tx.orders.snapshot())
    assert row._asdict() == {name: getattr(order, name) for name in row._fields}
    [kept] = await door.look(lambda tx: tx.positions.open())
    assert (order.unconfirmed_since, order.seen_at, kept.unconfirmed_since) == (None, asked_at, asked_at)


async def test_trades_count_once_and_a_void_is_taken_out(door: Door) -> None:
    trade = TradeUpdate(id=9, account_id=26000001, contract_id=MNQ, timestamp=SENT, pnl=12.5, fees=0.36)
    assert await door.write(lambda tx: tx.trades.record(trade))
    assert not await door.write(lambda tx: tx.trades.record(trade))
    assert await door.write(lambda tx: tx.trades.record(replace(trade, id=10, pnl=-2.5)))
    assert await door.write(lambda tx: tx.trades.record(replace(trade, voided=True)))
    day = await door.look(lambda tx: tx.trades.day(26000001, SENT.date()))
    assert day is not None
    assert (day.realized_pnl, day.fees) == (-2.5, 0.36)


@pytest.mark.parametrize("driver", ASYNC_DOORS)
async def test_repositories_of_the_mirror_are_awaited_method_by_method(door: Door, driver: str) -> None:
    async with door.store.begin() as tx:
        assert await tx.orders.apply(STOP)
        assert (await tx.orders.trail(MNQ, 21050.0)).moves == [(STOP.id, 20990.0, 21040.0)]
        assert await tx.positions.open() == []
        assert await tx.trades.get(1) is None

"""Our codes and readings beside those of a public client of the gateway, `topstep-client-py` (MIT).

It was written by others from the same documentation: where both read a payload alike, neither has it upside down.
"""

from __future__ import annotations

from typing import Any

import pytest
from topstep.models.order import Order as TheirOrder
from topstep.models.order import OrderSide as TheirSide
from topstep.models.order import OrderStatus as TheirStatus
from topstep.models.order import OrderType as TheirType
from topstep.models.order import PlaceOrderRequest
from topstep.models.position import Position as TheirPosition
from topstep.models.position import PositionType as TheirPositionType
from topstep.models.trade import Trade as TheirTrade

from risk_store import Order, OrderSide, OrderState, OrderType
from risk_store.codes import PositionType
from risk_store.events import OrderUpdate, PositionUpdate, TradeUpdate
from risk_store.projectx import ORDER_STATUSES, ORDER_TYPES, parse, to_place_request
from risk_store.projectx.codes import ORDER_SIDES, PLACEABLE_TYPES, POSITION_TYPES
from tests.support.samples import samples_of

TYPES = {
    TheirType.LIMIT: OrderType.LIMIT,
    TheirType.MARKET: OrderType.MARKET,
    TheirType.STOP_LIMIT: OrderType.STOP_LIMIT,
    TheirType.STOP: OrderType.STOP,
    TheirType.TRAILING_STOP: OrderType.TRAILING_STOP,
    TheirType.JOIN_BID: OrderType.LIMIT,
    TheirType.JOIN_ASK: OrderType.LIMIT,
}
STATUSES = {
    TheirStatus.OPEN: OrderState.ACTIVE,
    TheirStatus.FILLED: OrderState.FILLED,
    TheirStatus.CANCELLED: OrderState.CANCELED,
    TheirStatus.EXPIRED: OrderState.EXPIRED,
    TheirStatus.REJECTED: OrderState.REJECTED,
    TheirStatus.PENDING: OrderState.PENDING,
}


def test_every_code_that_the_client_has_means_the_same_here() -> None:
    assert {TheirType(wire): stored for wire, stored in ORDER_TYPES.items()} == TYPES
    assert set(TheirType) - TYPES.keys() == {TheirType.UNKNOWN}
    known = {TheirStatus(wire): stored for wire, stored in ORDER_STATUSES.items() if wire in STATUSES}
    assert known == STATUSES
    assert set(TheirStatus) - STATUSES.keys() == {TheirStatus.NONE}
    assert set(ORDER_STATUSES) - {int(status) for status in STATUSES} == {7, 8}  # which this client does not know
    assert {side.name: ORDER_SIDES[int(side)].name for side in TheirSide} == {"BUY": "BUY", "SELL": "SELL"}
    assert {kind: POSITION_TYPES[int(kind)] for kind in TheirPositionType} == {
        TheirPositionType.UNDEFINED: None,
        TheirPositionType.LONG: PositionType.LONG,
        TheirPositionType.SHORT: PositionType.SHORT,
    }


def _bare(sample: dict[str, Any]) -> dict[str, Any]:
    payload = sample["payload"]
    return dict(payload.get("data", payload))


def _of(*events: str) -> list[Any]:
    return [pytest.param(sample, id=sample["sample_id"]) for sample in samples_of(*events)]


@pytest.mark.parametrize("sample", _of("GatewayUserOrder", "Order/search"))
def test_an_order_reads_as_the_client_reads_it(sample: dict[str, Any]) -> None:
    [ours] = parse(sample["payload"])
    assert isinstance(ours, OrderUpdate)
    payload = _bare(sample)
    # What the client insists on, and the gateway does not always send.
    payload["symbolId"] = payload.get("symbolId") or "F.US"
    payload["updateTimestamp"] = payload.get("updateTimestamp") or payload["creationTimestamp"]
    if payload["status"] in (7, 8):
        assert ours.state in (OrderState.ACTIVE, OrderState.SUSPENDED)
        payload["status"] = 1
    else:
        assert ours.state is ORDER_STATUSES[int(payload["status"])]
    theirs = TheirOrder.model_validate({key: _number(key, value) for key, value in payload.items()})
    assert (ours.id, ours.account_id, ours.contract_id) == (theirs.id, theirs.account_id, theirs.contract_id)
    assert ours.type is TYPES[theirs.type]
    assert ours.state is STATUSES[theirs.status]
    assert (int(ours.side or 0), ours.size) == (int(theirs.side), theirs.size)
    assert (ours.limit_price, ours.stop_price) == (theirs.limit_price, theirs.stop_price)
    assert (ours.fill_price, ours.custom_tag) == (theirs.filled_price, theirs.custom_tag)
    assert (ours.filled_size or 0) == theirs.fill_volume
    assert (ours.created_at, ours.venue_updated_at) == (theirs.creation_timestamp, theirs.update_timestamp)


def _number(key: str, value: Any) -> Any:
    """The client's enums take no numbers in text, which we do (gw-032)."""
    return int(value) if key in ("status", "type", "side") else value


@pytest.mark.parametrize("sample", _of("GatewayUserPosition", "Position/searchOpen"))
def test_a_position_reads_as_the_client_reads_it(sample: dict[str, Any]) -> None:
    [ours] = parse(sample["payload"])
    assert isinstance(ours, PositionUpdate)
    theirs = TheirPosition.model_validate(_bare(sample))
    assert (ours.id, ours.account_id, ours.contract_id) == (theirs.id, theirs.account_id, theirs.contract_id)
    assert (ours.size, ours.average_price) == (theirs.size, theirs.average_price)
    assert ours.created_at == theirs.creation_timestamp
    assert (ours.type or PositionType(1)).name == theirs.type.name or ours.closed


@pytest.mark.parametrize("sample", _of("GatewayUserTrade", "Trade/search"))
def test_a_trade_reads_as_the_client_reads_it(sample: dict[str, Any]) -> None:
    [ours] = parse(sample["payload"])
    assert isinstance(ours, TradeUpdate)
    theirs = TheirTrade.model_validate(_bare(sample))
    assert (ours.id, ours.order_id, ours.price, ours.size) == (theirs.id, theirs.order_id, theirs.price, theirs.size)
    assert (ours.pnl, ours.fees, ours.voided) == (theirs.profit_and_loss, theirs.fees, theirs.voided)
    assert (int(ours.side or 0), ours.timestamp) == (theirs.side, theirs.creation_timestamp)


@pytest.mark.parametrize("type_", PLACEABLE_TYPES)
@pytest.mark.parametrize("side", OrderSide)
def test_a_placement_is_what_the_client_would_send(type_: OrderType, side: OrderSide) -> None:
    below = -1 if side is OrderSide.SELL else 1
    order = Order(
        id=1, account_id=465, contract_id="CON.F.US.MNQ.U26", type=type_, side=side, size=2, custom_tag="ours",
        limit_price=21000.0, stop_price=21000.0 + below * 10, trailing_amount=10.0, state=OrderState.PENDING,
    )  # fmt: skip
    prices: dict[OrderType, dict[str, float]] = {
        OrderType.LIMIT: {"limit_price": 21000.0},
        OrderType.STOP: {"stop_price": 21000.0 + below * 10},
        OrderType.TRAILING_STOP: {"trail_price": 21000.0 + below * 10},
    }
    theirs = PlaceOrderRequest(
        account_id=465,
        contract_id="CON.F.US.MNQ.U26",
        type=next(their for their, stored in TYPES.items() if stored is type_),
        side=TheirSide[side.name],
        size=2,
        custom_tag="ours",
        **prices.get(type_, {}),
    )  # type: ignore[arg-type]
    assert to_place_request(order, price=21000.0) == theirs.to_api_dict()

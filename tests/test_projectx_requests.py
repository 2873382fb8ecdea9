"""Orders as the gateway's JSON: `to_place_request`, `to_modify_request`, and what they refuse."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from risk_store import InvalidValue, Order, OrderSide, OrderState, OrderType
from risk_store.projectx import parse, to_modify_request, to_place_request

MNQ = "CON.F.US.MNQ.U26"
BOTH = [to_place_request, to_modify_request]
Request = Callable[..., dict[str, Any]]


def an_order(type: OrderType = OrderType.TRAILING_STOP, side: OrderSide = OrderSide.SELL, **changes: Any) -> Order:
    prices: dict[OrderType, dict[str, float]] = {
        OrderType.MARKET: {},
        OrderType.LIMIT: {"limit_price": 21010.0},
        OrderType.STOP: {"stop_price": 20990.0},
        OrderType.STOP_LIMIT: {"limit_price": 20989.0, "stop_price": 20990.0},
        OrderType.TRAILING_STOP: {"stop_price": 20990.0, "trailing_amount": 10.0},
    }
    values: dict[str, Any] = {
        "id": 9056,
        "account_id": 465,
        "contract_id": MNQ,
        "type": type,
        "side": side,
        "size": 1,
        "state": OrderState.ACTIVE,
    }
    return Order(**(values | prices[type] | changes))


PLACED = {"accountId": 465, "contractId": MNQ, "size": 1}


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        (an_order(OrderType.MARKET), {"type": 2, "side": 1}),
        (an_order(OrderType.MARKET, OrderSide.BUY, limit_price=1.0), {"type": 2, "side": 0}),
        (an_order(OrderType.LIMIT), {"type": 1, "side": 1, "limitPrice": 21010.0}),
        (an_order(OrderType.STOP), {"type": 4, "side": 1, "stopPrice": 20990.0}),
        (
            an_order(OrderType.STOP, custom_tag="glt-1", size=3),
            {"type": 4, "side": 1, "stopPrice": 20990.0, "size": 3, "customTag": "glt-1"},
        ),
    ],
)
def test_a_placement_has_exactly_the_keys_and_codes_of_the_gateway(order: Order, expected: dict[str, Any]) -> None:
    request = to_place_request(order)
    assert request == PLACED | expected
    assert json.loads(json.dumps(request)) == request
    assert {type(value) for value in request.values()} <= {int, float, str}


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        (an_order(OrderType.MARKET), {}),
        (an_order(OrderType.LIMIT, size=2), {"limitPrice": 21010.0, "size": 2}),
        (an_order(OrderType.STOP), {"stopPrice": 20990.0}),
        (an_order(OrderType.STOP_LIMIT), {"limitPrice": 20989.0, "stopPrice": 20990.0}),
    ],
)
def test_a_modification_names_the_order_and_what_can_be_modified(order: Order, expected: dict[str, Any]) -> None:
    assert to_modify_request(order) == {"accountId": 465, "orderId": 9056, "size": 1} | expected


def test_the_trail_price_of_a_request_is_absolute_and_the_one_read_back_is_the_distance() -> None:
    """One name, two meanings: what is sent must never be what was read."""
    [update] = parse(
        {"id": 1, "accountId": 465, "contractId": MNQ, "status": 1, "type": 5, "side": 1, "size": 1}
        | {"stopPrice": 20990.0, "trailPrice": -10.0, "trailDistance": -40}
    )
    order = an_order(trailing_amount=update.trailing_amount)  # type: ignore[union-attr]
    assert to_place_request(order, price=21000.0) == PLACED | {"type": 5, "side": 1, "trailPrice": 20990.0}
    assert to_modify_request(order, price=21050.0)["trailPrice"] == 21040.0


@pytest.mark.parametrize(
    ("side", "distance", "price", "tick_size", "expected"),
    [
        (OrderSide.SELL, 10.0, 21000.1, None, 20990.1),
        (OrderSide.BUY, 10.0, 21000.1, None, 21010.1),
        (OrderSide.SELL, 10.1, 21000.25, 0.25, 20990.0),  # away from the market
        (OrderSide.BUY, 10.1, 21000.25, 0.25, 21010.5),
        (OrderSide.SELL, 0.06, 70.5, 0.01, 70.44),  # six ticks, as in johnamcruz/projectx-mcp
        (OrderSide.SELL, 0.046875, 108.0625, 1 / 64, 108.015625),
        (OrderSide.SELL, 0.0000005, 0.0065, 0.0000005, 0.0064995),
        (OrderSide.BUY, 0.5, -37.63, 0.01, -37.13),
        (OrderSide.SELL, 250.0, 21000.0, 0.25, 20750.0),  # 1000 ticks
    ],
)
def test_a_trailing_stop_is_sent_its_distance_behind_the_market_on_the_tick(
    side: OrderSide, distance: float, price: float, tick_size: float | None, expected: float
) -> None:
    order = an_order(
        side=side, trailing_amount=distance, stop_price=price - 1e6 if side is OrderSide.SELL else price + 1e6
    )
    assert to_place_request(order, price, tick_size)["trailPrice"] == expected
    assert "stopPrice" not in to_place_request(order, price, tick_size)


@given(
    st.sampled_from(OrderSide),
    st.floats(0.01, 999.5),
    st.floats(-1000, 1000),
    st.sampled_from([None, 0.01, 0.25, 1 / 64, 1.0]),
)
def test_a_trailing_stop_is_never_sent_on_the_wrong_side_or_nearer_than_its_distance(
    side: OrderSide, distance: float, price: float, tick_size: float | None
) -> None:
    away = -1e6 if side is OrderSide.SELL else 1e6
    order = an_order(side=side, trailing_amount=distance, stop_price=away)
    if tick_size is not None and distance / tick_size > 1000:
        with pytest.raises(InvalidValue, match=r"1000 ticks"):
            to_place_request(order, price, tick_size)
        return
    level = to_place_request(order, price, tick_size)["trailPrice"]
    gap = price - level if side is OrderSide.SELL else level - price
    assert gap > 0
    assert gap >= distance - 1e-6


@pytest.mark.parametrize("request_of", BOTH)
@pytest.mark.parametrize(
    ("order", "market", "field", "words"),
    [
        (an_order(), {}, "price", "the market's price"),
        (an_order(), {"price": float("nan")}, "price", "finite"),
        (an_order(), {"price": 21000.0, "tick_size": 0}, "tick_size", "price step"),
        (an_order(), {"price": 20990.0}, "stop_price", "below the market, which is at 20990.0"),
        (an_order(OrderType.STOP), {"price": 20980.0}, "stop_price", "triggers at once"),
        (an_order(OrderType.STOP, OrderSide.BUY), {"price": 21000.0}, "stop_price", "above the market"),
        (an_order(OrderType.STOP), {"tick_size": 0.7}, "stop_price", "multiple of the tick size, 0.7"),
        (an_order(OrderType.LIMIT, limit_price=21010.1), {"tick_size": 0.25}, "limit_price", "multiple of the tick"),
        (
            an_order(trailing_amount=250.25, stop_price=1.0),
            {"price": 21000.0, "tick_size": 0.25},
            "trailing_amount",
            "1000 ticks of 0.25 or less: it is 1001",
        ),
        (an_order(account_id=2**31), {"price": 21000.0}, "account_id", "2147483647"),
        (an_order(size=2**31), {"price": 21000.0}, "size", "2147483647"),
    ],
)  # fmt: skip
def test_what_the_gateway_cannot_take_is_refused_by_name(
    request_of: Request, order: Order, market: dict[str, Any], field: str, words: str
) -> None:
    with pytest.raises(InvalidValue) as caught:
        request_of(order, **market)
    assert caught.value.field == field
    assert words in str(caught.value)


def test_a_stop_limit_cannot_be_placed() -> None:
    with pytest.raises(InvalidValue, match=r"type: .*STOP_LIMIT.* can be placed: MARKET \(the gateway's 2\), LIMIT"):
        to_place_request(an_order(OrderType.STOP_LIMIT))


@pytest.mark.parametrize("state", [state for state in OrderState if state.is_terminal])
def test_an_order_that_is_done_cannot_be_modified(state: OrderState) -> None:
    with pytest.raises(InvalidValue, match=r"^state: "):
        to_modify_request(an_order(OrderType.STOP, state=state))


@pytest.mark.parametrize("tag", ["a\0b", "\ud800", ""])
def test_a_tag_that_no_json_can_carry_is_refused(tag: str) -> None:
    with pytest.raises(InvalidValue, match=r"^custom_tag: "):
        to_place_request(an_order(OrderType.STOP, custom_tag=tag))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"type": 99}, "type"),
        ({"side": 9}, "side"),
        ({"stop_price": None, "type": OrderType.STOP}, "stop_price"),
        ({"limit_price": None, "type": OrderType.LIMIT}, "limit_price"),
        ({"trailing_amount": None}, "trailing_amount"),
        ({"trailing_amount": -1.0}, "trailing_amount"),
        ({"stop_price": "about 20990"}, "stop_price"),
        ({"trailing_amount": "ten"}, "trailing_amount"),
        ({"contract_id": ""}, "contract_id"),
    ],
)
@pytest.mark.parametrize("request_of", BOTH)
def test_an_odd_row_that_was_loaded_is_refused_by_name(
    request_of: Request, changes: dict[str, Any], field: str
) -> None:
    """Loading validates nothing: what is sent is checked here."""
    order = Order.from_dict(an_order().to_dict() | {"stop_price": 1.0} | changes)
    if field == "contract_id" and request_of is to_modify_request:
        assert "contractId" not in to_modify_request(order, price=21000.0)
        return
    with pytest.raises(InvalidValue) as caught:
        request_of(order, price=21000.0)
    assert caught.value.field == field


def test_prices_given_as_decimals_are_sent_as_numbers() -> None:
    order = an_order(OrderType.STOP, stop_price=Decimal("20990.25"))
    assert to_place_request(order, price=Decimal(21000), tick_size=Decimal("0.25"))["stopPrice"] == 20990.25  # type: ignore[arg-type]

"""Orders as the gateway's requests: the exact JSON, or a refusal before anything is sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from risk_store.codes import TERMINAL_STATES, OrderSide, OrderType
from risk_store.errors import InvalidValue
from risk_store.projectx.codes import PLACEABLE_TYPES, WIRE_SIDES
from risk_store.trailing import check_market, finite_price, in_ticks, stop_behind

if TYPE_CHECKING:
    from risk_store.models import Order

__all__ = ["to_modify_request", "to_place_request"]


def to_place_request(order: Order, price: float | None = None, tick_size: float | None = None) -> dict[str, Any]:
    """The JSON of /api/Order/place for `order`; what is not set is left out. Its id is not sent: the gateway gives one.

    `price` is the market's at this moment, `tick_size` the contract's, both in price units. A trailing stop needs
    `price`, since its ``trailPrice`` in a request is an absolute price, the market's price less (SELL) or plus (BUY)
    the distance, on the tick where that is known; the gateway derives the distance from it. That is what most clients
    say, and it was not verified against the live gateway (`docs/orders.md`). Read back, ``trailPrice`` is the distance.

    Refuses, with :class:`~risk_store.errors.InvalidValue` naming the field, what the gateway cannot take: a STOP_LIMIT
    (it is in its enum and not among what can be placed), a stop on the wrong side of `price`, a distance of more than
    1000 ticks, a price that is on no tick, an account or a size beyond 32 bits, an order that lacks a price of its
    type, a custom_tag that no JSON can carry.

    Source: `orders/place_order.md` in Jakers471/simple.rm and PlaceOrderRequest in jaypatrick/TopstepApi; the absolute
    trailPrice from topstep-sdk 0.1.4 and johnamcruz/projectx-mcp.

    >>> from risk_store import Order, OrderState
    >>> order = Order(id=1, account_id=465, contract_id="CON.F.US.MNQ.U26", type=OrderType.TRAILING_STOP,
    ...               side=OrderSide.SELL, size=1, stop_price=20990.0, trailing_amount=10.0, state=OrderState.PENDING)
    >>> to_place_request(order, price=21000.0, tick_size=0.25)
    {'accountId': 465, 'contractId': 'CON.F.US.MNQ.U26', 'type': 5, 'side': 1, 'size': 1, 'trailPrice': 20990.0}
    """
    if order.type not in PLACEABLE_TYPES:
        known = ", ".join(f"{stored.name} (the gateway's {wire})" for stored, wire in PLACEABLE_TYPES.items())
        raise InvalidValue("type", order.type, f"a type that can be placed: {known}")
    prices = _request_prices(order, price, tick_size)
    request = {
        "accountId": _request_int("account_id", order.account_id),
        "contractId": _request_text("contract_id", order.contract_id),
        "type": PLACEABLE_TYPES[order.type],
        "side": WIRE_SIDES[order.side],
        "size": _request_int("size", order.size),
        **prices,
    }
    if order.custom_tag is not None:
        request["customTag"] = _request_text("custom_tag", order.custom_tag)
    return request


def to_modify_request(order: Order, price: float | None = None, tick_size: float | None = None) -> dict[str, Any]:
    """The JSON of /api/Order/modify that makes the gateway's order what `order` is: its size, the prices of its type.

    Takes and refuses what :func:`to_place_request` does, and an order that is done. Its type, side and contract cannot
    be modified and are not sent. A stop limit can be modified, if the venue holds one.

    Source: `orders/modify_order.md` in Jakers471/simple.rm and ModifyOrderRequest in jaypatrick/TopstepApi.

    >>> from risk_store import Order, OrderState
    >>> order = Order(id=9056, account_id=465, contract_id="CON.F.US.MNQ.U26", type=OrderType.STOP,
    ...               side=OrderSide.SELL, size=1, stop_price=20990.0, state=OrderState.ACTIVE)
    >>> to_modify_request(order)
    {'accountId': 465, 'orderId': 9056, 'size': 1, 'stopPrice': 20990.0}
    >>> to_modify_request(order, price=20980.0)
    Traceback (most recent call last):
    risk_store.errors.InvalidValue: stop_price: 20990.0 is not a stop below the market, which is at 20980.0: ...
    """
    if order.state in TERMINAL_STATES:
        raise InvalidValue("state", order.state, "that of a working order: this one is done")
    return {
        "accountId": _request_int("account_id", order.account_id),
        "orderId": _request_int("id", order.id, 2**63),
        "size": _request_int("size", order.size),
        **_request_prices(order, price, tick_size),
    }


_MOST_TICKS = 1000  # how far behind the market a trailing stop may be (topstep-sdk 0.1.4)
_KEYS = {"limit_price": "limitPrice", "stop_price": "stopPrice"}
_PRICES_OF_TYPE: dict[OrderType, tuple[str, ...]] = {
    OrderType.MARKET: (),
    OrderType.LIMIT: ("limit_price",),
    OrderType.STOP: ("stop_price",),
    OrderType.STOP_LIMIT: ("limit_price", "stop_price"),
    OrderType.TRAILING_STOP: (),
}


def _request_prices(order: Order, price: float | None, tick_size: float | None) -> dict[str, float]:
    """The price keys that an order of this type has, checked."""
    if order.type not in _PRICES_OF_TYPE:
        raise InvalidValue("type", order.type, "an order type")
    if order.side not in WIRE_SIDES:
        raise InvalidValue("side", order.side, "BUY or SELL")
    if tick_size is not None:
        _, tick_size = check_market(0.0, tick_size)
    if price is not None:
        price, _ = check_market(price, tick_size)
    prices = {}
    for field in _PRICES_OF_TYPE[order.type]:
        value = finite_price(field, getattr(order, field))
        if tick_size is not None and not float(in_ticks(value, tick_size)).is_integer():
            raise InvalidValue(field, value, f"a multiple of the tick size, {tick_size:.10g}")
        prices[_KEYS[field]] = value
    if order.stop_price is not None and price is not None and order.type in _STOPS:
        _check_side("stop_price", order, finite_price("stop_price", order.stop_price), price)
    if order.type is OrderType.TRAILING_STOP:
        prices["trailPrice"] = _trail_price(order, price, tick_size)
    return prices


_STOPS = (OrderType.STOP, OrderType.STOP_LIMIT, OrderType.TRAILING_STOP)


def _trail_price(order: Order, price: float | None, tick_size: float | None) -> float:
    distance = finite_price("trailing_amount", order.trailing_amount)
    if distance <= 0:
        raise InvalidValue("trailing_amount", distance, "a distance in price units greater than 0")
    if price is None:
        raise InvalidValue("price", None, "the market's price, from which the request of a trailing stop is made")
    if tick_size is not None and (ticks := in_ticks(distance, tick_size)) > _MOST_TICKS:
        expected = f"a distance of {_MOST_TICKS} ticks of {tick_size:.10g} or less: it is {ticks:.10g}"
        raise InvalidValue("trailing_amount", distance, expected)
    level = stop_behind(order.side, distance, price, tick_size)
    _check_side("trailPrice", order, level, price)
    return level


def _check_side(field: str, order: Order, stop: float, price: float) -> None:
    is_sell = order.side == OrderSide.SELL
    if not (stop < price if is_sell else stop > price):
        where = "below" if is_sell else "above"
        expected = f"a stop {where} the market, which is at {price}: a {order.side.name} stop there triggers at once"
        raise InvalidValue(field, stop, expected)


def _request_int(field: str, value: object, end: int = 2**31) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value < end:
        return int(value)
    raise InvalidValue(field, value, f"a whole number from 1 to {end - 1}, as the gateway has it")


def _request_text(field: str, value: object) -> str:
    try:
        if isinstance(value, str) and value and value.encode() and "\0" not in value:
            return value
    except UnicodeEncodeError:
        pass
    raise InvalidValue(field, value, "text without NUL characters and lone surrogates")

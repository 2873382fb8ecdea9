"""The gateway's JSON read: events of the user hub, and rows of the search endpoints, as the values of `events`.

What is unsure is refused, never guessed: a wrong guess here is a position believed protected.

Sources: the gateway's own pages (Jakers471/simple.rm, `project-specs/SPECS/01-EXTERNAL-API/projectx_gateway_api/`), its
OpenAPI export (jaypatrick/TopstepApi), and recorded payloads (GlitchTrader/glitch-topstep).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, TypeVar

from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

from risk_store.codes import OrderSide, OrderState, OrderType, PositionType
from risk_store.errors import InvalidGatewayEvent
from risk_store.events import AccountUpdate, OrderUpdate, PositionUpdate, TradeUpdate, Update
from risk_store.projectx.codes import ORDER_SIDES, ORDER_STATUSES, ORDER_TYPES, POSITION_TYPES

__all__ = ["parse"]

# What wraps an event is one or two levels deep. The limit keeps a hostile payload from exhausting the stack.
_MAX_DEPTH = 32


def parse(payload: object) -> list[Update]:
    """What a decoded JSON payload of the gateway says, in the order it says it.

    ``payload`` is an event or a search row (the bare object), an envelope ``{"action": …, "data": …}`` around one or
    around a list of them, or lists and envelopes nested up to 32 levels. ``action`` is not read: what it means is
    documented nowhere. Values come back in stored codes, price units, contracts and UTC; null and absent are the same,
    "not carried". Keys not known here are ignored.

    The gateway does not say what kind of thing an object is, so its keys must:

    1. keys that only one kind has: ``averagePrice`` is a position; ``price``, ``profitAndLoss``, ``fees``,
       ``commissions``, ``voided`` a trade; ``balance``, ``canTrade``, ``isVisible``, ``simulated`` an account;
       ``status``, ``limitPrice``, ``stopPrice``, ``trailPrice``, ``fillVolume``, ``filledPrice``, ``parentOrderId``,
       ``linkedOrderId`` an order;
    2. where there is none of these, a partial event: ``side``, ``customTag``, ``updateTimestamp`` or ``orderId`` is an
       order, ``name`` an account. (Other kinds may come to carry them, and a trade does carry side and orderId.)

    Keys of two kinds, or of none, are refused. So is a response (it has ``success`` or ``errorCode``). An order may
    give its id as ``orderId``. Only the id is required here: whether an order is known already is not.

    ``trailPrice`` read back is the distance of a trailing stop (type 5), in price units; its sign is dropped, and 0 is
    no distance. On any other type it is the offset of a bracket and ignored, as it is where the type is not carried.

    Raises `InvalidGatewayEvent`, naming the wire's field and value and what would be right, and keeping the payload.
    One bad row refuses the payload it is in: parse the rows of a list one by one to keep the others.

    Source: Jakers471/simple.rm, `realtime_updates/realtime_data_overview.md`; the envelope, the omitted nulls and the
    distance are from GlitchTrader/glitch-topstep, `docs/PROJECTX-API-REFERENCE.md`.

    >>> [update] = parse({"action": 1, "data": {"id": "3425270858", "status": 2, "type": 4, "fillVolume": 1}})
    >>> update.type, update.state, update.filled_size
    (<OrderType.STOP: 3>, <OrderState.FILLED: 3>, 1)
    >>> parse({"id": 3425270858, "status": 0})
    Traceback (most recent call last):
    risk_store.errors.InvalidGatewayEvent: status: 0 is not an order status: 1 Open, 2 Filled, 3 Cancelled, ...
    """
    try:
        return [_update(row) for row in _rows(payload)]
    except _RefusedError as refused:
        error = refused.about(payload)
    raise error


class _RefusedError(Exception):
    """A value that cannot be right, raised where the whole payload is out of sight."""

    def __init__(self, field: str, value: object, expected: str) -> None:
        super().__init__(field, value, expected)
        self.field, self.value, self.expected = field, value, expected

    def about(self, payload: object) -> InvalidGatewayEvent:
        try:
            return InvalidGatewayEvent(self.field, self.value, self.expected, payload)
        except (RecursionError, ValueError):  # repr() of a value nested too deep, or of an integer of 4300 digits
            stand_in = f"<{type(self.value).__name__} too deep or too long to show>"
            return InvalidGatewayEvent(self.field, stand_in, self.expected, payload)


# From payload to rows -------------------------------------------------------------------------------------------------


def _rows(payload: object, depth: int = 0) -> Iterator[dict[str, Any]]:
    """The event objects inside lists and envelopes, each without its nulls."""
    if depth > _MAX_DEPTH:
        raise _RefusedError("payload", payload, f"nested {_MAX_DEPTH} levels or less")
    if isinstance(payload, list):
        for item in payload:
            yield from _rows(item, depth + 1)
    elif isinstance(payload, dict):
        row = {key: value for key, value in payload.items() if value is not None}
        _refuse_response(row)
        if "data" in row and not row.keys() & {"id", "orderId"}:
            yield from _rows(row["data"], depth + 1)
        else:
            yield row
    else:
        raise _RefusedError("payload", payload, "an object or a list of objects")


def _refuse_response(row: dict[str, Any]) -> None:
    for key in ("success", "errorCode"):
        if key in row:
            raise _RefusedError(
                key, row[key], "part of an event: this is the response to a request; parse the rows of a search instead"
            )


# From row to update ---------------------------------------------------------------------------------------------------


def _update(row: dict[str, Any]) -> Update:
    try:
        return _kind(row).model_validate(row).update()
    except ValidationError as invalid:
        first = invalid.errors(include_url=False)[0]
        raise _RefusedError(str(first["loc"][0]), first["input"], first["msg"]) from None


def _kind(row: dict[str, Any]) -> type[_Wire]:
    """Which kind of thing a row is about, told from its keys by the rule in `parse`."""
    for telling in (_OWN_KEYS, _PARTIAL_KEYS):
        found = {kind: sorted(keys & row.keys()) for kind, keys in telling.items() if keys & row.keys()}
        if len(found) > 1:
            clash = " and ".join(keys[0] for keys in found.values())
            raise _RefusedError("payload", row, f"of one kind: {clash} do not occur together")
        if found:
            return next(iter(found))
    raise _RefusedError("payload", row, "an order, position, trade or account: no key tells which")


# Values ---------------------------------------------------------------------------------------------------------------


def _wire(expected: str, read: Callable[[Any], object]) -> PlainValidator:
    """A pydantic validator: ``read`` makes the value, or fails on one that is not ``expected``."""

    def validate(value: Any) -> object:
        try:
            return read(value)
        except (ArithmeticError, LookupError, TypeError, ValueError):
            raise _unexpected(expected) from None

    return PlainValidator(validate)


def _unexpected(expected: str) -> PydanticCustomError:
    return PydanticCustomError("unexpected", "{expected}", {"expected": expected})


def _number(value: object) -> int | float | Decimal:
    if isinstance(value, str):
        return Decimal(value)
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        return value
    raise TypeError


def _whole(value: object) -> int:
    number = _number(value)
    # From 2**53 on a float stands for more than one integer: which id was meant is lost.
    limit = 2**53 if isinstance(number, float) else 2**63
    if not -limit < number < limit:  # false for NaN too
        raise ValueError
    whole = round(number)
    if abs(float(number - whole)) > 1e-6:
        raise ValueError
    return whole


def _at_least(least: int) -> Callable[[object], int]:
    def read(value: object) -> int:
        whole = _whole(value)
        if whole < least:
            raise ValueError
        return whole

    return read


def _finite(value: object) -> float:
    number = float(_number(value))
    if not math.isfinite(number):
        raise ValueError
    return number


def _money(value: object) -> float:
    """Bounded, since amounts are added up: one of 1e308 would leave the day at infinity for good."""
    amount = _finite(value)
    if abs(amount) > 1e12:
        raise ValueError
    return amount


def _instant(value: str) -> datetime:
    """``fromisoformat`` cuts the gateway's seventh digit, so that stream and REST agree on an instant.

    A naive time is refused: no page or payload of the gateway has one, so its zone would be a guess, and an event aged
    by a wrong guess wins or loses against newer ones for hours.
    """
    instant = datetime.fromisoformat(value)
    if instant.tzinfo is None:
        raise ValueError
    return instant.astimezone(UTC)


def _flag(value: object) -> bool:
    return {True: True, False: False, "true": True, "false": False}[value.lower() if isinstance(value, str) else value]


def _text(value: object) -> str:
    """Free text: whatever a broker wrote, lone surrogates too, which pydantic's own str refuses."""
    if not isinstance(value, str):
        raise TypeError
    return value


_NAME_LENGTH = 256  # characters; an index of PostgreSQL's takes no more than 2,704 bytes


def _name(value: object) -> str:
    """Text that identifies, and so has to be storable as it is (DESIGN D4), in an index too."""
    name = _text(value)
    name.encode()
    if not name or len(name) > _NAME_LENGTH or "\0" in name:
        raise ValueError
    return name


_Id = Annotated[int, _wire(f"a whole number from 1 to {2**63 - 1}", _at_least(1))]
_Contracts = Annotated[int, _wire("a whole number of contracts, 0 or more", _at_least(0))]
_Price = Annotated[float, _wire("a finite number of price units", _finite)]
_Distance = Annotated[
    float | None, _wire("a finite distance in price units", lambda value: abs(_finite(value)) or None)
]
_Money = Annotated[float, _wire("an amount of money within ±1,000,000,000,000", _money)]
_Instant = Annotated[datetime, _wire("an ISO 8601 instant with Z or an offset, 2026-08-19T20:49:25Z", _instant)]
_Flag = Annotated[bool, _wire("true or false", _flag)]
_Text = Annotated[str, _wire("text", _text)]
_Contract = Annotated[
    str, _wire("a contract id, CON.F.US.MNQ.U26: at most 256 characters without NUL or lone surrogates", _name)
]
_OrderType = Annotated[
    OrderType,
    _wire(
        "an order type: 1 Limit, 2 Market, 3 StopLimit, 4 Stop, 5 TrailingStop, 6 JoinBid, 7 JoinAsk",
        lambda value: ORDER_TYPES[_whole(value)],
    ),
]
_Side = Annotated[OrderSide, _wire("a side: 0 Bid (buy), 1 Ask (sell)", lambda value: ORDER_SIDES[_whole(value)])]
_Status = Annotated[
    OrderState,
    _wire(
        "an order status: 1 Open, 2 Filled, 3 Cancelled, 4 Expired, 5 Rejected, 6 Pending, 7 PendingCancellation, "
        "8 Suspended",
        lambda value: ORDER_STATUSES[_whole(value)],
    ),
]
_POSITION_TYPE = "a position type: 1 Long, 2 Short, or 0 with size 0"
_PositionType = Annotated[PositionType | None, _wire(_POSITION_TYPE, lambda value: POSITION_TYPES[_whole(value)])]


# Payloads -------------------------------------------------------------------------------------------------------------


class _Wire(BaseModel):
    """One object of the gateway. Fields are named like the update's; an alias stands where the wire's name differs
    from that in more than its camelCase."""

    model_config = ConfigDict(extra="ignore", alias_generator=to_camel)

    def update(self) -> Update:
        raise NotImplementedError


class _Order(_Wire):
    id: _Id = Field(None, validate_default=True, validation_alias=AliasChoices("id", "orderId"))
    order_id: _Id | None = None
    account_id: _Id | None = None
    contract_id: _Contract | None = None
    type: _OrderType | None = None
    side: _Side | None = None
    size: _Contracts | None = None
    limit_price: _Price | None = None
    stop_price: _Price | None = None
    state: _Status | None = Field(None, alias="status")
    filled_size: _Contracts | None = Field(None, alias="fillVolume")
    fill_price: _Price | None = Field(None, alias="filledPrice")
    custom_tag: _Text | None = None
    parent_order_id: _Id | None = None
    linked_order_id: _Id | None = None
    trailing_amount: _Distance | None = Field(None, alias="trailPrice")  # after type, which says whether it is ours
    created_at: _Instant | None = Field(None, alias="creationTimestamp")
    venue_updated_at: _Instant | None = Field(None, alias="updateTimestamp")

    @field_validator("order_id")
    @classmethod
    def _names_one_order(cls, order_id: int, info: ValidationInfo) -> int:
        if order_id != info.data.get("id"):
            raise _unexpected("the id of this order")
        return order_id

    @field_validator("trailing_amount", mode="before")
    @classmethod
    def _only_of_a_trailing_stop(cls, distance: object, info: ValidationInfo) -> object:
        return distance if info.data.get("type") is OrderType.TRAILING_STOP else None

    def update(self) -> OrderUpdate:
        return replace(_copy(OrderUpdate, self), venue_updated_at=self.venue_updated_at or self.created_at)


class _Position(_Wire):
    id: _Id = Field(None, validate_default=True)
    account_id: _Id | None = None
    contract_id: _Contract | None = None
    size: _Contracts | None = None  # before type, whose check reads it
    type: _PositionType | None = None
    average_price: _Price | None = None
    created_at: _Instant | None = Field(None, alias="creationTimestamp")

    @field_validator("type")
    @classmethod
    def _undefined_only_when_closed(cls, kind: PositionType | None, info: ValidationInfo) -> PositionType | None:
        if kind is None and info.data.get("size") != 0:
            raise _unexpected(_POSITION_TYPE)
        return kind

    def update(self) -> PositionUpdate:
        update = _copy(PositionUpdate, self)
        return replace(update, type=None) if update.closed else update


class _Trade(_Wire):
    id: _Id = Field(None, validate_default=True)
    account_id: _Id | None = None
    contract_id: _Contract | None = None
    timestamp: _Instant | None = Field(None, alias="creationTimestamp")
    pnl: _Money | None = Field(None, alias="profitAndLoss")
    fees: _Money | None = None
    commissions: _Money | None = None
    side: _Side | None = None
    size: _Contracts | None = None
    price: _Price | None = None
    voided: _Flag | None = None
    order_id: _Id | None = None

    def update(self) -> TradeUpdate:
        return _copy(TradeUpdate, self)


class _Account(_Wire):
    id: _Id = Field(None, validate_default=True)
    name: _Text | None = None
    balance: _Money | None = None
    can_trade: _Flag | None = None
    is_visible: _Flag | None = None
    simulated: _Flag | None = None

    def update(self) -> AccountUpdate:
        return _copy(AccountUpdate, self)


_U = TypeVar("_U", OrderUpdate, PositionUpdate, TradeUpdate, AccountUpdate)


def _copy(update: type[_U], wire: _Wire) -> _U:
    return update(**{field.name: getattr(wire, field.name) for field in fields(update)})


_OWN_KEYS: dict[type[_Wire], frozenset[str]] = {
    _Order: frozenset(
        {
            "status",
            "limitPrice",
            "stopPrice",
            "trailPrice",
            "fillVolume",
            "filledPrice",
            "parentOrderId",
            "linkedOrderId",
        }
    ),
    _Position: frozenset({"averagePrice"}),
    _Trade: frozenset({"price", "profitAndLoss", "fees", "commissions", "voided"}),
    _Account: frozenset({"balance", "canTrade", "isVisible", "simulated"}),
}
_PARTIAL_KEYS: dict[type[_Wire], frozenset[str]] = {
    _Order: frozenset({"side", "customTag", "updateTimestamp", "orderId"}),
    _Account: frozenset({"name"}),
}

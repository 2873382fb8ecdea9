"""`projectx.parse`: what the gateway's JSON says, in stored codes.

`data/gateway_samples.jsonl` holds recorded, documented and constructed payloads, each with its public source; a
`meaning` there is in the gateway's terms and is translated here by the table of SPEC 7.
"""

import math
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from risk_store.codes import OrderSide, OrderState, OrderType, PositionType
from risk_store.errors import InvalidGatewayEvent
from risk_store.events import AccountUpdate, OrderUpdate, PositionUpdate, TradeUpdate, Update
from risk_store.projectx import parse
from tests.support.samples import SAMPLES

EVENTS = [sample for sample in SAMPLES if sample.get("meaning", {"expect": "reject"}).get("expect") != "reject"]
KINDS = {
    "GatewayUserOrder": OrderUpdate,
    "Order/search": OrderUpdate,
    "GatewayUserPosition": PositionUpdate,
    "Position/searchOpen": PositionUpdate,
    "GatewayUserTrade": TradeUpdate,
    "Trade/search": TradeUpdate,
    "GatewayUserAccount": AccountUpdate,
}

# The gateway's number and name, and what is stored (SPEC 7).
TYPES = [
    (1, "LIMIT", OrderType.LIMIT),
    (2, "MARKET", OrderType.MARKET),
    (3, "STOP_LIMIT", OrderType.STOP_LIMIT),
    (4, "STOP", OrderType.STOP),
    (5, "TRAILING_STOP", OrderType.TRAILING_STOP),
    (6, "JOIN_BID", OrderType.LIMIT),
    (7, "JOIN_ASK", OrderType.LIMIT),
]
STATUSES = [
    (1, "OPEN", OrderState.ACTIVE),
    (2, "FILLED", OrderState.FILLED),
    (3, "CANCELLED", OrderState.CANCELED),
    (4, "EXPIRED", OrderState.EXPIRED),
    (5, "REJECTED", OrderState.REJECTED),
    (6, "PENDING", OrderState.PENDING),
    (7, "PENDING_CANCELLATION", OrderState.ACTIVE),
    (8, "SUSPENDED", OrderState.SUSPENDED),
]
SIDES = [(0, "BUY", OrderSide.BUY), (1, "SELL", OrderSide.SELL)]
POSITION_TYPES = [(1, "LONG", PositionType.LONG), (2, "SHORT", PositionType.SHORT)]
STORED = {
    "order_type": {name: stored for _, name, stored in TYPES},
    "status": {name: stored for _, name, stored in STATUSES},
    "side": {name: stored for _, name, stored in SIDES},
    "position_type": {name: stored for _, name, stored in POSITION_TYPES} | {"UNDEFINED": None},
}

# What an update says for each word of a sample's meaning, in the form that meaning has after translation.
SAYS = {
    "order_type": lambda update: update.type,
    "status": lambda update: update.state,
    "side": lambda update: update.side,
    "position_type": lambda update: update.type,
    "closed": lambda update: update.closed,
    "closing_half_turn": lambda update: update.pnl is not None,
    "can_trade": lambda update: update.can_trade,
    "trailing_amount": lambda update: update.trailing_amount,
    "partial": lambda update: 0 < update.filled_size < update.size,
    "remaining": lambda update: update.size - update.filled_size,
    "role": lambda update: {"-SL": "stop_loss", "-TP": "take_profit"}[update.custom_tag[-3:]],
}
UNSTORED = {"trailing_ticks"}  # signed ticks: the distance is stored in price units only

ORDER = {"id": 26970, "accountId": 212, "contractId": "CON.F.US.EP.M25", "status": 1, "type": 4, "side": 1, "size": 1}
POSITION = {"id": 6124, "accountId": 536, "contractId": "CON.F.US.GMET.J25", "type": 1, "size": 2, "averagePrice": 15.5}
TRADE = {"id": 8603, "accountId": 203, "price": 6064.25, "side": 0, "size": 1, "voided": False, "orderId": 14326}
ACCOUNT = {"id": 26000001, "name": "PRAC-EXAMPLE", "balance": 149848.64, "canTrade": True}

IDS = st.integers(1, 2**63 - 1)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None, exclude_categories=[])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=20,
)
KEYS = [
    *sorted({*ORDER, *POSITION, *TRADE, *ACCOUNT}),
    *("action", "data", "success", "errorCode", "creationTimestamp", "updateTimestamp", "limitPrice", "stopPrice"),
    *("trailPrice", "fillVolume", "customTag", "parentOrderId", "profitAndLoss", "fees", "isVisible", "alien"),
]


def only(payload: object) -> Any:
    """The one update in a payload."""
    [update] = parse(payload)
    return update


def refusal(payload: object) -> InvalidGatewayEvent:
    with pytest.raises(InvalidGatewayEvent) as caught:
        parse(payload)
    assert caught.value.payload is payload
    return caught.value


def outcome(payload: object) -> list[Update] | InvalidGatewayEvent:
    """What parse gives, or the one error it may raise."""
    try:
        return parse(payload)
    except InvalidGatewayEvent as error:
        return error


def wrapped(payload: object, layers: list[str]) -> object:
    for layer in layers:
        payload = [payload] if layer == "list" else {"action": 1, "data": payload}
    return payload


LAYERS = st.lists(st.sampled_from(["list", "envelope"]), max_size=6)


# The samples


@pytest.mark.parametrize("sample", EVENTS, ids=lambda sample: sample["sample_id"])
def test_a_sample_says_what_it_is_stated_to_mean(sample: dict[str, Any]) -> None:
    update = only(sample["payload"])
    assert type(update) is KINDS[sample["event"]]
    for word, meant in sample["meaning"].items():
        if word not in UNSTORED:
            stored = float(meant) if word == "trailing_amount" else STORED.get(word, {}).get(meant, meant)
            assert SAYS[word](update) == stored, word


@pytest.mark.parametrize("sample", EVENTS, ids=lambda sample: sample["sample_id"])
def test_every_price_size_and_id_of_a_sample_arrives_unchanged(sample: dict[str, Any]) -> None:
    wire = sample["payload"].get("data", sample["payload"])
    update = only(sample["payload"])
    names = {
        "id": "id",
        "accountId": "account_id",
        "size": "size",
        "limitPrice": "limit_price",
        "stopPrice": "stop_price",
        "fillVolume": "filled_size",
        "filledPrice": "fill_price",
        "parentOrderId": "parent_order_id",
        "linkedOrderId": "linked_order_id",
        "averagePrice": "average_price",
        "price": "price",
        "profitAndLoss": "pnl",
        "fees": "fees",
        "commissions": "commissions",
        "balance": "balance",
    }
    for key in wire.keys() & names.keys():
        expected = None if wire[key] is None else float(wire[key])
        assert getattr(update, names[key]) == expected, key
    for key, name in (("contractId", "contract_id"), ("customTag", "custom_tag"), ("name", "name")):
        if key in wire:
            assert getattr(update, name) == wire[key]


def test_the_samples_to_refuse_are_the_response_and_the_negative_size() -> None:
    refused = {sample["sample_id"]: refusal(sample["payload"]) for sample in SAMPLES if sample not in EVENTS}
    assert {name: error.field for name, error in refused.items()} == {"gw-031": "success", "gw-035": "size"}
    assert "response to a request" in str(refused["gw-031"])
    assert (refused["gw-035"].value, len(SAMPLES)) == (-1, 33)


def test_stream_and_rest_agree_on_the_same_order() -> None:
    first, second = (sample["payload"] for sample in SAMPLES if sample.get("group") == "dup-3425270858")
    assert parse(first) == parse(second)


def test_every_event_of_one_payload_comes_back_in_order() -> None:
    together = parse([sample["payload"] for sample in EVENTS])
    assert together == [only(sample["payload"]) for sample in EVENTS]


# Codes


@pytest.mark.parametrize(("wire", "name", "stored"), TYPES)
def test_an_order_type_is_stored_by_the_table(wire: int, name: str, stored: OrderType) -> None:
    assert [only(ORDER | {"type": form}).type for form in (wire, str(wire), float(wire))] == [stored] * 3


@pytest.mark.parametrize(("wire", "name", "stored"), STATUSES)
def test_an_order_status_is_stored_by_the_table(wire: int, name: str, stored: OrderState) -> None:
    assert [only(ORDER | {"status": form}).state for form in (wire, str(wire), float(wire))] == [stored] * 3


@pytest.mark.parametrize(("wire", "name", "stored"), SIDES)
def test_a_side_is_stored_by_the_table(wire: int, name: str, stored: OrderSide) -> None:
    assert only(ORDER | {"side": wire}).side is stored
    assert only(TRADE | {"side": wire}).side is stored


@pytest.mark.parametrize(("wire", "name", "stored"), POSITION_TYPES)
def test_a_position_type_is_stored_by_the_table(wire: int, name: str, stored: PositionType) -> None:
    assert only(POSITION | {"type": wire}).type is stored


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("type", 0), ("type", 8), ("type", -1), ("status", 0), ("status", 9), ("side", 2), ("side", -1)),
        *((field, odd) for field in ("type", "status", "side") for odd in (True, 1.5, "1.5", "Open", math.nan, [1])),
    ],
)
def test_a_code_outside_the_table_is_refused_by_name(field: str, value: object) -> None:
    error = refusal({"action": 1, "data": ORDER | {field: value}})
    assert error.field == field
    assert error.value is value
    assert "0 Bid (buy)" in str(error) or "1 Limit" in str(error) or "1 Open" in str(error)


# Positions


def test_a_position_of_no_contracts_is_closed_and_points_nowhere() -> None:
    for wire in (0, 1, 2, None):
        update = only(POSITION | {"type": wire, "size": 0})
        assert (update.closed, update.type) == (True, None)


@pytest.mark.parametrize("size", [1, None])
def test_an_undefined_position_type_is_refused_unless_the_size_is_0(size: int | None) -> None:
    error = refusal(POSITION | {"type": 0, "size": size})
    assert (error.field, error.value) == ("type", 0)


def test_a_position_event_without_a_size_does_not_say_closed() -> None:
    assert not only({"id": 6124, "averagePrice": 15.5}).closed


# Trailing stops


@pytest.mark.parametrize("distance", [8.0, -8.0, "8", "-8.000000000"])
def test_the_trail_price_of_a_trailing_stop_is_its_distance_without_sign(distance: object) -> None:
    assert only(ORDER | {"type": 5, "trailPrice": distance}).trailing_amount == 8.0


@pytest.mark.parametrize("other", [1, 2, 3, 4, 6, 7, None])
@pytest.mark.parametrize("offset", [25.25, "no number"])
def test_the_trail_price_of_another_type_is_not_ours(other: int | None, offset: object) -> None:
    assert only(ORDER | {"type": other, "trailPrice": offset, "trailDistance": 101}).trailing_amount is None


def test_a_trail_price_of_0_is_no_distance() -> None:
    assert only(ORDER | {"type": 5, "trailPrice": 0}).trailing_amount is None


def test_a_trailing_stop_may_come_without_distance_or_stop() -> None:
    update = only(ORDER | {"type": 5})
    assert (update.trailing_amount, update.stop_price) == (None, None)


# Which kind of thing an object is


@pytest.mark.parametrize(
    ("payload", "kind"),
    [
        (ORDER, OrderUpdate),
        (POSITION, PositionUpdate),
        (TRADE, TradeUpdate),
        (ACCOUNT, AccountUpdate),
        *(({"id": 1, "orderId": 2, key: 1}, TradeUpdate) for key in ("price", "profitAndLoss", "fees", "voided")),
        *(({"id": 1, key: 1}, OrderUpdate) for key in ("status", "limitPrice", "stopPrice", "trailPrice", "side")),
        *(({"id": 1, key: 1}, OrderUpdate) for key in ("fillVolume", "filledPrice", "parentOrderId", "linkedOrderId")),
        *(({"id": 1, key: 1}, AccountUpdate) for key in ("balance", "canTrade", "isVisible", "simulated")),
        ({"id": 1, "customTag": "x"}, OrderUpdate),
        ({"id": 1, "updateTimestamp": "2026-08-19T20:49:25Z"}, OrderUpdate),
        ({"id": 1, "name": "x"}, AccountUpdate),
        ({"orderId": 1, "size": 2}, OrderUpdate),
    ],
)
def test_the_keys_of_an_object_tell_its_kind(payload: dict[str, Any], kind: type[Update]) -> None:
    assert type(only(payload)) is kind


@pytest.mark.parametrize("extra", ["updateTimestamp", "customTag", "name"])
@pytest.mark.parametrize("payload", [ORDER, POSITION, TRADE, ACCOUNT])
def test_a_key_that_several_kinds_might_carry_never_changes_the_kind(payload: dict[str, Any], extra: str) -> None:
    value = "2026-08-19T20:49:25Z"
    assert type(only(payload | {extra: value})) is type(only(payload))


@pytest.mark.parametrize("payload", [{}, {"id": 1}, {"id": 1, "size": 2}, {"action": 1}, {"action": 1, "data": None}])
def test_an_object_that_shows_no_kind_is_refused(payload: dict[str, Any]) -> None:
    assert "no key tells which" in str(refusal(payload))


def test_an_object_of_two_kinds_is_refused_and_not_guessed() -> None:
    assert "status and averagePrice do not occur together" in str(refusal(ORDER | {"averagePrice": 1.5}))


@pytest.mark.parametrize(
    "payload",
    [
        {"orderId": 9056, "success": True, "errorCode": 0, "errorMessage": None},
        {"orderId": None, "success": False, "errorCode": 2, "errorMessage": None},
        {"orders": [ORDER], "success": True, "errorCode": 0},
        {"data": [ORDER], "success": True},
        {"errorCode": 5},
        [ORDER, {"orderId": 9056, "success": True}],
    ],
)
def test_a_response_is_refused_as_a_response(payload: object) -> None:
    error = refusal(payload)
    assert error.field in {"success", "errorCode"}
    assert "response to a request" in str(error)


def test_keys_that_nobody_knows_are_ignored() -> None:
    for payload in (ORDER, POSITION, TRADE, ACCOUNT):
        assert parse(payload | {"contractDisplayName": "MNQU26", "alien": [{}], "": None}) == parse(payload)


# Ids


@given(IDS)
def test_an_id_may_be_a_number_or_its_text(number: int) -> None:
    for form in (number, str(number), f"{number}.000000000"):
        assert only({"id": form, "status": 1}).id == number


@given(st.integers(1, 2**31), st.floats(-4e-7, 4e-7))
def test_an_id_may_be_a_nearly_whole_float(number: int, noise: float) -> None:
    assert only({"id": float(number), "status": 1}).id == number
    assert only({"id": number + noise, "status": 1}).id == number


@given(IDS)
def test_an_order_may_name_itself_by_order_id(number: int) -> None:
    assert parse({"orderId": str(number), "status": 1}) == parse({"id": number, "status": 1})
    assert parse({"orderId": number, "id": str(number), "status": 1}) == parse({"id": number, "status": 1})


def test_an_order_with_two_ids_is_refused() -> None:
    error = refusal(ORDER | {"orderId": 7})
    assert (error.field, error.value) == ("orderId", 7)


@pytest.mark.parametrize(
    "odd",
    [
        *(True, False, 0, -1, 2**63, 10**400, 1.5, 5.00001, 2.0**53, math.nan, math.inf, -math.inf, [1], {"id": 1}),
        *("", "x", "1.5", "nan", "inf", "9223372036854775808", "1e30"),
    ],
)
@pytest.mark.parametrize("field", ["id", "orderId", "accountId", "parentOrderId", "linkedOrderId"])
def test_what_cannot_be_an_id_is_refused(field: str, odd: object) -> None:
    order = ORDER if field != "orderId" else {key: value for key, value in ORDER.items() if key != "id"}
    error = refusal(order | {field: odd})
    assert error.field == field
    assert error.value is odd
    assert "whole number from 1 to 9223372036854775807" in str(error)


@pytest.mark.parametrize("payload", [ORDER, POSITION, TRADE, ACCOUNT])
def test_an_event_without_an_id_is_refused(payload: dict[str, Any]) -> None:
    error = refusal(payload | {"id": None})
    assert (error.field, error.value) == ("id", None)


def test_only_the_id_is_required() -> None:
    assert only({"id": 5, "status": 3}) == OrderUpdate(id=5, state=OrderState.CANCELED)
    assert only({"id": 5, "averagePrice": 1.5}) == PositionUpdate(id=5, average_price=1.5)
    assert only({"id": 5, "voided": True}) == TradeUpdate(id=5, voided=True)
    assert only({"id": 5, "canTrade": False}) == AccountUpdate(id=5, can_trade=False)


# Numbers, flags and text


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_price_of_any_sign_keeps_every_bit_as_number_and_as_text(price: float) -> None:
    for form in (price, repr(price)):
        assert only({"id": 1, "stopPrice": form}).stop_price == price


def test_a_price_printed_with_nine_decimals_or_an_exponent_is_read() -> None:
    assert only(ORDER | {"stopPrice": "5138.000000000"}).stop_price == 5138.0
    assert only(ORDER | {"stopPrice": "5E-7"}).stop_price == 0.0000005


@pytest.mark.parametrize("odd", [math.nan, math.inf, "NaN", "-inf", "1e400", 10**400, True, "", "ten", [], {}])
@pytest.mark.parametrize(
    ("payload", "field"),
    [
        *((ORDER, key) for key in ("limitPrice", "stopPrice", "filledPrice")),
        *((TRADE, key) for key in ("price", "profitAndLoss", "fees", "commissions")),
        *((POSITION, "averagePrice"), (ACCOUNT, "balance")),
    ],
)
def test_a_number_that_is_not_finite_is_refused(payload: dict[str, Any], field: str, odd: object) -> None:
    error = refusal(payload | {field: odd})
    assert (error.field, error.value is odd) == (field, True)


@pytest.mark.parametrize(
    ("payload", "field"), [(ORDER, "size"), (ORDER, "fillVolume"), (POSITION, "size"), (TRADE, "size")]
)
def test_a_size_is_a_whole_number_of_contracts_and_never_negative(payload: dict[str, Any], field: str) -> None:
    parse(payload | {field: "2"})
    for odd in (-1, "-1", 0.5, True, 2**63):
        assert refusal(payload | {field: odd}).field == field


def test_a_venue_may_fill_more_than_the_size() -> None:
    assert only(ORDER | {"size": 1, "fillVolume": 2}).filled_size == 2


@pytest.mark.parametrize(("form", "meant"), [(True, True), ("true", True), ("False", False), (0, False), (1, True)])
def test_a_flag_may_be_a_boolean_or_its_text(form: object, meant: bool) -> None:
    assert only(TRADE | {"voided": form}).voided is meant


@pytest.mark.parametrize("odd", [2, "", "yes please", [], {}, math.nan])
def test_what_cannot_be_a_flag_is_refused(odd: object) -> None:
    assert refusal(ACCOUNT | {"canTrade": odd}).field == "canTrade"


@pytest.mark.parametrize("odd", ["", "CON\0", "CON\ud800", 5, ["CON"]])
def test_a_contract_id_that_cannot_be_stored_is_refused(odd: object) -> None:
    assert refusal(ORDER | {"contractId": odd}).field == "contractId"


@given(st.text(st.characters(codec=None, exclude_categories=[])))
def test_a_custom_tag_is_whatever_was_written(tag: str) -> None:
    assert only(ORDER | {"customTag": tag}).custom_tag == tag


# Instants


@given(
    seconds=st.integers(0, 2**32),
    fraction=st.text("0123456789", max_size=7),
    offset=st.none() | st.integers(-14 * 60, 14 * 60),
)
def test_an_instant_is_utc_cut_to_microseconds(seconds: int, fraction: str, offset: int | None) -> None:
    local = datetime.fromtimestamp(seconds, timezone(timedelta(minutes=offset or 0)))
    text = local.strftime("%Y-%m-%dT%H:%M:%S") + (f".{fraction}" if fraction else "")
    suffix = "Z" if offset is None else f"{'-' if offset < 0 else '+'}{abs(offset) // 60:02}:{abs(offset) % 60:02}"

    read = only(ORDER | {"creationTimestamp": text + suffix}).created_at

    assert read == local.replace(microsecond=int(fraction.ljust(6, "0")[:6]))
    assert read.tzinfo is UTC


@pytest.mark.parametrize(
    "odd",
    ["2024-07-21T13:45:00", "2024-07-21", "yesterday", "", "0001-01-01T00:00:00+14:00", 1721569500, True, ["x"]],
)
@pytest.mark.parametrize("field", ["creationTimestamp", "updateTimestamp"])
def test_a_time_without_zone_or_that_is_none_is_refused(field: str, odd: object) -> None:
    error = refusal(ORDER | {field: odd})
    assert (error.field, error.value) == (field, odd)
    assert "with Z or an offset" in str(error)


def test_an_order_is_aged_by_its_update_and_else_by_its_creation() -> None:
    created, updated = "2024-07-21T13:45:00Z", "2024-07-21T13:46:00Z"
    fresh = only(ORDER | {"creationTimestamp": created, "updateTimestamp": None})
    later = only(ORDER | {"creationTimestamp": created, "updateTimestamp": updated})
    assert fresh.venue_updated_at == fresh.created_at == datetime(2024, 7, 21, 13, 45, tzinfo=UTC)
    assert (later.created_at, later.venue_updated_at) == (fresh.created_at, datetime(2024, 7, 21, 13, 46, tzinfo=UTC))
    assert only(ORDER).venue_updated_at is None


# Shapes


@given(st.sampled_from(EVENTS), LAYERS)
def test_wrapping_never_changes_what_an_event_says(sample: dict[str, Any], layers: list[str]) -> None:
    assert parse(wrapped(sample["payload"], layers)) == parse(sample["payload"])


@given(st.sampled_from([ORDER, POSITION, TRADE, ACCOUNT]), st.data())
def test_null_and_absent_are_the_same(payload: dict[str, Any], data: st.DataObject) -> None:
    gone = data.draw(st.sets(st.sampled_from(KEYS)))
    absent = {key: value for key, value in payload.items() if key not in gone}
    without, with_null = outcome(absent), outcome(absent | dict.fromkeys(gone))
    if isinstance(without, InvalidGatewayEvent):
        without, with_null = str(without), str(with_null)
    assert with_null == without


@pytest.mark.parametrize("odd", [[], {}, "x"])
def test_an_event_that_has_a_key_named_data_is_not_an_envelope(odd: object) -> None:
    assert parse(ORDER | {"data": odd}) == parse(ORDER)


def test_an_empty_list_says_nothing() -> None:
    assert parse([]) == parse({"action": 1, "data": []}) == parse([[], []]) == []


def test_one_bad_event_refuses_the_payload_it_is_in() -> None:
    assert refusal([ORDER, ORDER | {"status": 0}, ORDER]).field == "status"


@pytest.mark.parametrize("payload", [None, True, 5, 1.5, "{}", b"{}", (ORDER,), {1, 2}, [ORDER, 5], {"data": "x"}])
def test_what_is_neither_object_nor_list_is_refused(payload: object) -> None:
    assert "an object or a list of objects" in str(refusal(payload))


@pytest.mark.parametrize("layer", ["list", "envelope"])
def test_a_payload_nested_beyond_reason_is_refused(layer: str) -> None:
    assert parse(wrapped(ORDER, [layer] * 32)) == parse(ORDER)
    for depth in (33, 1_000, 10_000):
        assert "nested 32 levels or less" in str(refusal(wrapped(ORDER, [layer] * depth)))


def test_a_list_that_holds_itself_is_refused() -> None:
    loop: list[object] = []
    loop += [loop, loop]
    assert refusal(loop).field == "payload"


HOSTILE = {"10,000 lists": wrapped(1, ["list"] * 10_000), "5,000 digits": 10**5_000, "odd keys": {1: 2, None: 3}}


@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.parametrize("field", ["id", "status", "size", "stopPrice", "creationTimestamp", "contractId"])
def test_a_hostile_value_is_refused_by_name(field: str, hostile: object) -> None:
    assert refusal(ORDER | {field: hostile}).field == field


@pytest.mark.parametrize("field", ["id", "status", "size", "stopPrice", "creationTimestamp"])
def test_a_text_of_too_many_digits_is_refused_by_name(field: str) -> None:
    assert refusal(ORDER | {field: "9" * 100_000}).field == field


@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_value_under_an_unknown_key_is_ignored(hostile: object) -> None:
    assert parse(ORDER | {"alien": hostile}) == parse(ORDER)
    assert refusal({"id": 1, "alien": hostile}).field == "payload"


def says_or_refuses(payload: object) -> None:
    result = outcome(payload)
    if isinstance(result, InvalidGatewayEvent):
        assert result.payload is payload
        assert str(result).startswith(f"{result.field}: ")
    else:
        assert all(isinstance(update, Update) for update in result)


@given(JSON)
def test_any_json_is_understood_or_refused(payload: object) -> None:
    says_or_refuses(payload)


@given(st.dictionaries(st.sampled_from(KEYS), JSON))
def test_any_json_under_the_gateways_own_keys_is_understood_or_refused(payload: dict[str, Any]) -> None:
    says_or_refuses(payload)


@given(st.sampled_from([ORDER, POSITION, TRADE, ACCOUNT]), st.sampled_from(KEYS), JSON)
def test_an_event_with_one_value_replaced_by_anything_is_understood_or_refused(
    payload: dict[str, Any], key: str, value: object
) -> None:
    says_or_refuses(payload | {key: value})

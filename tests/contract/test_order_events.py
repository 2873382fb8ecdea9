"""What the gateway says of orders, mirrored: `OrderRepository.apply`, the same on each engine (SPEC 7)."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sqlalchemy.orm import Session

from risk_store import (
    InvalidGatewayEvent,
    InvalidValue,
    NotKnownYet,
    Order,
    OrderRepository,
    OrderSide,
    OrderState,
    OrderType,
    projectx,
    repositories,
)
from risk_store.codes import TERMINAL_STATES, WORKING_STATES
from risk_store.events import OrderUpdate, PositionUpdate
from tests.support.samples import SAMPLES, samples_of

if TYPE_CHECKING:
    from tests.contract.conftest import Clock

MNQ = "CON.F.US.MNQ.U26"
SENT = datetime(2026, 8, 19, 19, 0, tzinfo=UTC)
OPTIONAL = (
    "limit_price",
    "stop_price",
    "fill_price",
    "custom_tag",
    "parent_order_id",
    "linked_order_id",
    "trailing_amount",
)


@pytest.fixture
def orders(session: Session, clock: Clock) -> OrderRepository:
    return OrderRepository(session, clock)


def an_update(seconds: float = 0, **changes: Any) -> OrderUpdate:
    """A complete event, sent so many seconds after the order was made."""
    values: dict[str, Any] = {
        "id": 3_425_270_858,
        "account_id": 26000001,
        "contract_id": MNQ,
        "type": OrderType.STOP,
        "side": OrderSide.SELL,
        "size": 5,
        "state": OrderState.ACTIVE,
        "created_at": SENT,
        "venue_updated_at": SENT + timedelta(seconds=seconds),
    }
    return OrderUpdate(**(values | changes))


def a_trailing_stop(seconds: float = 0, **changes: Any) -> OrderUpdate:
    return an_update(
        seconds, **({"type": OrderType.TRAILING_STOP, "stop_price": 100.0, "trailing_amount": 10.0} | changes)
    )


def stored(orders: OrderRepository, id: int = 3_425_270_858) -> Order:
    order = orders.get(id)
    assert order is not None
    return order


def as_row(orders: OrderRepository, id: int = 3_425_270_858) -> dict[str, Any]:
    return stored(orders, id).to_dict()


# One event


@pytest.mark.parametrize("sample", samples_of("GatewayUserOrder", "Order/search"), ids=lambda s: s["sample_id"])
def test_every_sample_of_an_order_is_mirrored_as_it_reads(orders: OrderRepository, sample: dict[str, Any]) -> None:
    [update] = projectx.parse(sample["payload"])
    assert isinstance(update, OrderUpdate)
    assert orders.apply(update)
    order = stored(orders, update.id)
    said = {name: value for name, value in asdict(update).items() if value is not None}
    assert {name: getattr(order, name) for name in said} == said
    assert order.venue_stop_price == update.stop_price
    assert {name for name in OPTIONAL if getattr(order, name) is None} == set(OPTIONAL) - said.keys()


def test_a_stream_event_and_the_search_row_of_the_same_order_are_one(orders: OrderRepository) -> None:
    stream, rest = (projectx.parse(s["payload"])[0] for s in SAMPLES if s.get("group") == "dup-3425270858")
    assert isinstance(stream, OrderUpdate)
    assert isinstance(rest, OrderUpdate)
    orders.apply(stream)
    before = as_row(orders)
    assert not orders.apply(rest)
    assert as_row(orders) == before


def test_a_new_order_is_seen_now_and_aged_by_the_venue(orders: OrderRepository, clock: Clock) -> None:
    orders.apply(an_update(7))
    order = stored(orders)
    assert (order.seen_at, order.updated_at) == (clock.now, clock.now)
    assert (order.created_at, order.venue_updated_at) == (SENT, SENT + timedelta(seconds=7))


def test_an_event_without_a_creation_time_makes_a_row_as_old_as_the_event(orders: OrderRepository) -> None:
    orders.apply(an_update(7, created_at=None))
    assert stored(orders).created_at == SENT + timedelta(seconds=7)
    orders.apply(an_update(8))
    assert stored(orders).created_at == SENT


def test_what_an_event_leaves_out_is_not_blanked(orders: OrderRepository) -> None:
    orders.apply(an_update(0, limit_price=1.5, custom_tag="ours", parent_order_id=7, fill_price=2.5))
    orders.apply(OrderUpdate(id=3_425_270_858, filled_size=2, venue_updated_at=SENT + timedelta(seconds=1)))
    order = stored(orders)
    assert (order.limit_price, order.custom_tag, order.parent_order_id, order.fill_price) == (1.5, "ours", 7, 2.5)
    assert (order.filled_size, order.state) == (2, OrderState.ACTIVE)


def test_the_same_event_twice_is_one_and_touches_nothing(orders: OrderRepository, clock: Clock) -> None:
    update = a_trailing_stop(3, filled_size=1, custom_tag="a\0b")
    assert orders.apply(update)
    before = as_row(orders)
    clock.forward(minutes=1)
    assert not orders.apply(update)
    assert as_row(orders) == before


def test_an_older_event_only_fills_what_is_empty(orders: OrderRepository) -> None:
    orders.apply(an_update(5, stop_price=100.0, size=5))
    orders.apply(an_update(4, stop_price=90.0, limit_price=89.0, size=6))
    order = stored(orders)
    assert (order.stop_price, order.limit_price, order.size) == (100.0, 89.0, 5)
    assert order.venue_updated_at == SENT + timedelta(seconds=5)


def test_an_equally_old_event_sets_what_it_carries(orders: OrderRepository) -> None:
    orders.apply(an_update(5, stop_price=100.0))
    assert orders.apply(an_update(5, stop_price=101.0, limit_price=99.0))
    assert (stored(orders).stop_price, stored(orders).limit_price) == (101.0, 99.0)


def test_an_event_without_any_time_is_newer_than_none(orders: OrderRepository) -> None:
    ageless = {"created_at": None, "venue_updated_at": None}
    orders.apply(an_update(stop_price=100.0, **ageless))
    orders.apply(an_update(stop_price=101.0, **ageless))
    assert stored(orders).stop_price == 101.0
    orders.apply(an_update(1, stop_price=102.0))
    orders.apply(an_update(stop_price=103.0, limit_price=9.0, **ageless))
    assert (stored(orders).stop_price, stored(orders).limit_price) == (102.0, 9.0)


@pytest.mark.parametrize("terminal", TERMINAL_STATES)
@pytest.mark.parametrize("working", WORKING_STATES)
def test_a_terminal_state_wins_whatever_its_age(
    orders: OrderRepository, terminal: OrderState, working: OrderState
) -> None:
    orders.apply(an_update(5, state=working, filled_size=1))
    orders.apply(an_update(1, state=terminal, filled_size=0))
    assert stored(orders).state is terminal
    orders.apply(an_update(9, state=working, filled_size=2))
    assert (stored(orders).state, stored(orders).filled_size) == (terminal, 2)


def test_between_equals_the_larger_fill_decides_and_then_the_later_time(orders: OrderRepository) -> None:
    orders.apply(an_update(5, state=OrderState.CANCELED, filled_size=1))
    orders.apply(an_update(6, state=OrderState.REJECTED, filled_size=0))
    assert stored(orders).state is OrderState.CANCELED
    orders.apply(an_update(4, state=OrderState.FILLED, filled_size=5))
    assert stored(orders).state is OrderState.FILLED
    orders.apply(an_update(3, state=OrderState.EXPIRED, filled_size=5))
    assert stored(orders).state is OrderState.FILLED
    orders.apply(an_update(7, state=OrderState.EXPIRED, filled_size=5))
    assert stored(orders).state is OrderState.EXPIRED


def test_an_order_is_never_moved_to_another_account(orders: OrderRepository) -> None:
    orders.apply(an_update(1))
    orders.apply(an_update(2, account_id=7))  # what else becomes of such an event: tests/test_one_server.py, test_citus
    assert [order.account_id for order in orders.working(account_id=26000001)] == [26000001]


# Orders not known yet


@pytest.mark.parametrize("missing", ["account_id", "contract_id", "type", "side", "size", "state"])
def test_an_unknown_order_that_lacks_what_a_row_needs_is_refused_and_nothing_is_written(
    orders: OrderRepository, missing: str
) -> None:
    update = an_update(**{missing: None})
    with pytest.raises(NotKnownYet) as caught:
        orders.apply(update)
    assert (caught.value.field, caught.value.value, caught.value.payload) == (missing, None, asdict(update))
    assert "order 3425270858 is not known yet" in str(caught.value)
    assert orders.get(update.id) is None
    orders.apply(an_update())
    orders.apply(update)  # now it is


def test_the_first_refused_one_of_many_is_named(orders: OrderRepository) -> None:
    with pytest.raises(InvalidGatewayEvent, match="order 2 is not known yet"):
        orders.apply_many([an_update(id=1), OrderUpdate(id=1), OrderUpdate(id=2), OrderUpdate(id=3)])


def test_an_order_that_came_complete_a_moment_before_is_known(orders: OrderRepository) -> None:
    orders.apply_many([an_update(id=1), OrderUpdate(id=1, filled_size=3), an_update(id=2)])
    assert (stored(orders, 1).filled_size, stored(orders, 2).filled_size) == (3, 0)


def test_many_are_applied_each_as_it_would_be_alone(
    orders: OrderRepository, sent: list[tuple[str, Any]], session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repositories.orders, "_TOGETHER", 8)
    chance = random.Random(7)
    updates = [
        an_update(chance.randint(0, 9), id=chance.randint(1, 12), stop_price=float(n), filled_size=chance.randint(0, 5))
        for n in range(100)
    ]
    sent.clear()
    orders.apply_many(updates)
    if session.connection().dialect.name == "postgresql" and not orders._is_distributed(Order):
        assert 2 < sum("json_to_recordset" in sql for sql, _ in sent) < 12
    mixed = [replace(update, created_at=None) if update.id % 4 else update for update in updates[:40]]
    orders.apply_many(mixed)
    for update in (*updates, *mixed):
        orders.apply(replace(update, id=update.id + 100))
    for id_ in range(1, 13):
        together, alone = as_row(orders, id_), as_row(orders, id_ + 100)
        assert together | {"id": 0} == alone | {"id": 0}


@pytest.mark.parametrize("engine", ["postgresql"], indirect=True)
def test_of_many_none_is_written_if_one_may_not_be(
    orders: OrderRepository, session: Session, few_are_many: None
) -> None:
    too_large = [*(an_update(n, id=id_) for n in range(3) for id_ in (1, 2)), an_update(3, id=2, size=2**63)]
    with pytest.raises(InvalidValue, match=r"orders\.size"):
        orders.apply_many(too_large)
    with pytest.raises(InvalidValue, match=r"orders\.id"):
        orders.apply_many([an_update(id=[1]), an_update(id=[2])])
    assert session.execute(sa.text("SELECT count(*) FROM orders")).scalar_one() == 0


@pytest.mark.parametrize("engine", ["postgresql"], indirect=True)
def test_an_instant_of_a_class_of_somebodys_own_is_kept_as_the_instant_it_is(
    orders: OrderRepository, few_are_many: None
) -> None:
    class American(datetime):
        def __str__(self) -> str:
            return self.strftime("%d/%m/%Y at %H:%M")

    at = American(2026, 2, 1, 12, 30, 15, 123456, tzinfo=UTC)
    orders.apply_many(an_update(id=id_, venue_updated_at=at) for id_ in (1, 2))
    assert stored(orders, 1).venue_updated_at == datetime(2026, 2, 1, 12, 30, 15, 123456, tzinfo=UTC)


@pytest.fixture
def few_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a server updates of two orders are written together, and two statements take three of them."""
    monkeypatch.setattr(repositories.orders, "_TOGETHER", 2)
    monkeypatch.setattr(repositories.orders, "_AT_MOST_TOGETHER", 2)


@settings(max_examples=60)
@given(
    id=st.integers(1, 2**63 - 1),
    limit_price=st.floats(allow_nan=False, allow_infinity=False),
    custom_tag=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
    venue_updated_at=st.datetimes(timezones=st.just(UTC)),
)
@example(id=1, limit_price=-0.0, custom_tag='"\\u0000\\ \x7f €', venue_updated_at=datetime(1, 1, 1, tzinfo=UTC))
def test_values_of_many_are_kept_as_they_are(
    orders: OrderRepository,
    few_are_many: None,
    undone: Callable[[], Any],
    id: int,
    **values: Any,
) -> None:
    with undone():
        orders.apply_many([an_update(id=id, **values), an_update(id=id ^ 1 or 2, **values)])
        order = stored(orders, id)
        assert {name: getattr(order, name) for name in values} == values


indexed = st.fixed_dictionaries(
    {
        "id": st.integers(1, 4),
        "contract_id": st.sampled_from([MNQ, "ES"]),
        "type": st.sampled_from([OrderType.STOP, OrderType.TRAILING_STOP]),
        "state": st.sampled_from(OrderState),
        "created_at": st.none() | st.sampled_from([SENT, SENT + timedelta(microseconds=1)]),
        "stop_price": st.none() | st.sampled_from([100.0, 101.0]),
        "filled_size": st.none() | st.integers(0, 2),
        "venue_updated_at": st.none() | st.integers(0, 3).map(lambda n: SENT + timedelta(seconds=n)),
    }
)


@settings(max_examples=80)
@given(first=st.lists(indexed, max_size=4), later=st.lists(indexed, min_size=2, max_size=8), odd=st.booleans())
def test_many_that_change_indexed_columns_or_not_are_applied_each_as_it_would_be_alone(
    orders: OrderRepository,
    few_are_many: None,
    session: Session,
    undone: Callable[[], Any],
    first: list[dict[str, Any]],
    later: list[dict[str, Any]],
    odd: bool,
) -> None:
    rows = []
    for apart in (False, True):
        with undone():
            orders.apply_many(an_update(**values) for values in first)
            if odd and session.connection().dialect.name == "sqlite":
                session.execute(sa.text("UPDATE orders SET created_at = replace(created_at, ' ', 'T') WHERE id < 3"))
                session.execute(sa.text("UPDATE orders SET type = 'STOP', state = 99 WHERE id = 3"))
            for values in later if apart else ():
                orders.apply(an_update(**values))
            if not apart:
                orders.apply_many(an_update(**values) for values in later)
            rows.append(session.execute(sa.text("SELECT * FROM orders WHERE id < 5 ORDER BY id")).all())
    assert rows[0] == rows[1]


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_an_event_of_nothing_indexed_is_one_statement_alone_and_two_of_many(
    orders: OrderRepository, sent: list[tuple[str, Any]]
) -> None:
    orders.apply_many(an_update(id=id) for id in (1, 2, 3))
    sent.clear()
    orders.apply(an_update(1, id=1, stop_price=7.0))
    assert len(sent) == 1
    orders.apply_many(an_update(2, id=id, stop_price=8.0) for id in (1, 2, 3))
    assert len(sent) == 3
    orders.apply(an_update(3, id=1, state=OrderState.SUSPENDED))
    assert len(sent) == 3 + 2
    orders.apply(an_update(4, id=1, state=OrderState.FILLED))
    assert len(sent) == 3 + 2 + 1
    orders.apply_many([an_update(3, id=2, state=OrderState.FILLED), an_update(3, id=3, stop_price=9.0)])
    assert len(sent) == 3 + 2 + 1 + 3
    assert [stored(orders, id).stop_price for id in (1, 2, 3)] == [8.0, 8.0, 9.0]


@pytest.mark.parametrize("wrong", [[1], "yesterday", 5])
def test_an_instant_that_is_none_is_refused_by_name_also_among_known_orders(
    orders: OrderRepository, wrong: Any
) -> None:
    orders.apply_many(an_update(id=id) for id in (1, 2))
    with pytest.raises(InvalidValue, match=r"orders\.created_at"):
        orders.apply_many([an_update(1, id=1), an_update(1, id=2, created_at=wrong)])


@pytest.mark.parametrize("wrong", [PositionUpdate(id=1), {"id": 1, "status": 2}, None])
def test_what_is_no_order_update_is_refused_with_the_way_to_make_one(orders: OrderRepository, wrong: Any) -> None:
    for apply in (orders.apply, lambda update: orders.apply_many([update])):
        with pytest.raises(InvalidValue, match=r"projectx\.parse"):
            apply(wrong)


@pytest.mark.parametrize(
    ("field", "value"), [("type", 99), ("side", 2), ("size", 2**63), ("stop_price", float("nan")), ("state", 0)]
)
def test_a_value_that_its_column_cannot_keep_is_refused_by_name(
    orders: OrderRepository, field: str, value: Any
) -> None:
    for known in (False, True):
        with pytest.raises(InvalidValue) as caught:
            orders.apply(an_update(1, **{field: value}))
        assert caught.value.field == f"orders.{field}"
        if not known:
            orders.apply(an_update(0))
    assert stored(orders).venue_updated_at == SENT


# Whatever arrives


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        ({"id": "3425270858"}, {"id": 3425270858}),
        ({"id": 3425270858.0000001}, {"id": 3425270858}),
        ({"id": None, "orderId": 2**63 - 1}, {"id": 2**63 - 1}),
        ({"stopPrice": "27200"}, {"stop_price": 27200.0}),
        ({"stopPrice": 5e-7}, {"stop_price": 0.0000005}),
        ({"stopPrice": "1.0E-9"}, {"stop_price": 0.000000001}),
        ({"limitPrice": -37.63, "type": 1}, {"limit_price": -37.63}),
        (
            {"updateTimestamp": "2026-08-19T19:00:25.3962109+00:00"},
            {"venue_updated_at": "2026-08-19T19:00:25.396210+00:00"},
        ),
        ({"customTag": "x" * 1_000_000}, {"custom_tag": "x" * 1_000_000}),
        ({"customTag": "a\0b\ud800"}, {"custom_tag": "a\\x00b\\ud800"}),
        ({"somethingNew": {"deep": [1]}}, {}),
        ({"fillVolume": 9}, {"filled_size": 9}),  # more than was ordered: the venue is the truth (D12)
    ],
)
def test_hazards_of_the_wire_make_the_right_row(
    orders: OrderRepository, payload: dict[str, Any], expected: dict[str, Any]
) -> None:
    bare = {"id": 1, "accountId": 2, "contractId": MNQ, "status": 1, "type": 4, "side": 1, "size": 5}
    [update] = projectx.parse({"action": 1, "data": bare | payload})
    assert isinstance(update, OrderUpdate)
    orders.apply(update)
    row = as_row(orders, update.id)
    assert {name: row[name] for name in expected} == expected


# Arrival

states = st.sampled_from(WORKING_STATES)
said = {
    "limit_price": st.none() | st.sampled_from([1.0, 1.5, -2.0]),
    "stop_price": st.none() | st.sampled_from([100.0, 101.0, 99.5, -3.0]),
    "fill_price": st.none() | st.sampled_from([7.0, 8.0]),
    "custom_tag": st.none() | st.sampled_from(["a", "b"]),
    "parent_order_id": st.none() | st.sampled_from([11, 12]),
    "linked_order_id": st.none() | st.sampled_from([21, 22]),
    "trailing_amount": st.none() | st.sampled_from([10.0, 5.0]),
}
anything = st.fixed_dictionaries(
    said
    | {
        "type": st.none() | st.sampled_from([OrderType.STOP, OrderType.TRAILING_STOP]),
        "side": st.none() | st.sampled_from(OrderSide),
        "size": st.none() | st.integers(1, 5),
        "state": st.none() | st.sampled_from(OrderState),
        "filled_size": st.none() | st.integers(0, 5),
        "venue_updated_at": st.none() | st.integers(0, 6).map(lambda n: SENT + timedelta(milliseconds=n * 500)),
    }
)


def told(row: dict[str, Any] | None, update: OrderUpdate) -> dict[str, Any]:
    """What SPEC 7 makes of a row and an event, in plain Python."""
    new = asdict(update)
    if row is None:
        return new | {"filled_size": update.filled_size or 0, "venue_stop_price": update.stop_price}
    age, known = update.venue_updated_at, row["venue_updated_at"]
    current = known is None or (age is not None and age >= known)
    after = dict(row)
    for name in ("contract_id", "type", "side", "size", *OPTIONAL, "created_at"):
        if new[name] is not None and (current or row[name] is None):
            after[name] = new[name]
    if update.stop_price is not None and (current or row["venue_stop_price"] is None):
        after["venue_stop_price"] = update.stop_price
    keeps_distance = update.trailing_amount in (None, row["trailing_amount"])
    if (
        current
        and after["type"] is OrderType.TRAILING_STOP
        and keeps_distance
        and None not in (row["stop_price"], update.stop_price)
    ):
        tighter = max if after["side"] is OrderSide.SELL else min
        after["stop_price"] = tighter(row["stop_price"], update.stop_price)
    after["filled_size"] = max(row["filled_size"], update.filled_size or 0)
    if update.state is not None:
        here = (row["state"].is_terminal, row["filled_size"])
        there = (update.state.is_terminal, update.filled_size or 0)
        if there > here or (there == here and current):
            after["state"] = update.state
    if current and age is not None:
        after["venue_updated_at"] = age
    return after


@settings(max_examples=60)
@given(first=anything, later=st.lists(anything, max_size=6), as_batch=st.booleans())
def test_the_row_is_the_fold_of_its_events(
    orders: OrderRepository,
    undone: Callable[[], Any],
    monkeypatch: pytest.MonkeyPatch,
    first: dict[str, Any],
    later: list[dict[str, Any]],
    as_batch: bool,
) -> None:
    monkeypatch.setattr(repositories.orders, "_TOGETHER", 1)  # on a server, each by the statement for many
    whole = {name: value for name, value in first.items() if value is not None or name in OPTIONAL}
    updates = [an_update(**whole), *(an_update(account_id=None, created_at=None, **values) for values in later)]
    expected: dict[str, Any] | None = None
    for update in updates:
        expected = told(expected, update)
    assert expected is not None
    with undone():
        if as_batch:
            orders.apply_many(updates)
        else:
            for update in updates:
                orders.apply(update)
        order = stored(orders)
        assert {name: getattr(order, name) for name in expected} == expected


@st.composite
def lives(draw: st.DrawFn) -> list[OrderUpdate]:
    """The events of an order's life, in order: times grow and fills do not shrink; the last may end it."""
    events = []
    filled = 0
    count = draw(st.integers(1, 6))
    for number in range(count):
        filled = draw(st.integers(filled, 5))
        state = draw(states)
        if number == count - 1 and draw(st.booleans()):
            state = draw(st.sampled_from(TERMINAL_STATES))
        events.append(an_update(number, state=state, filled_size=filled, **draw(st.fixed_dictionaries(said))))
    return events


@settings(max_examples=80)
@given(data=st.data(), life=lives())
def test_after_any_permutation_loss_and_repetition_the_newest_event_holds(
    orders: OrderRepository, undone: Callable[[], Any], data: st.DataObject, life: list[OrderUpdate]
) -> None:
    delivered: Sequence[OrderUpdate] = data.draw(st.lists(st.sampled_from(life), min_size=1, max_size=12))
    newest = max(delivered, key=lambda update: update.venue_updated_at or SENT)
    with undone():
        for update in delivered:
            orders.apply(update)
            order = stored(orders)
            assert order.filled_size >= (update.filled_size or 0)
        carried = {f.name: value for f in fields(newest) if (value := getattr(newest, f.name)) is not None}
        assert {name: getattr(order, name) for name in carried} == carried
        known = {name for update in delivered for name in OPTIONAL if getattr(update, name) is not None}
        assert {name for name in OPTIONAL if getattr(order, name) is not None} == known
        before = order.to_dict()
        for update in delivered:
            assert not orders.apply(update) or update.venue_updated_at == newest.venue_updated_at
        assert stored(orders).to_dict() == before


# Ours and the venue's


def test_what_we_write_ourselves_never_makes_an_event_look_old(orders: OrderRepository, clock: Clock) -> None:
    """Our clock is two months ahead of the venue's, and our writes are newer than every event."""
    clock.now = SENT + timedelta(days=60)
    orders.save(Order.from_dict(Order(**asdict_of(a_trailing_stop()), filled_size=0).to_dict()))
    orders.trail(MNQ, 120.0)
    orders.apply(a_trailing_stop(1, custom_tag="theirs", size=4))
    order = stored(orders)
    assert (order.custom_tag, order.size, order.created_at) == ("theirs", 4, SENT)
    orders.save(Order(**asdict_of(a_trailing_stop(linked_order_id=3)), filled_size=0))
    orders.trail(MNQ, 130.0)
    orders.apply(a_trailing_stop(2, custom_tag="later"))
    assert (stored(orders).custom_tag, stored(orders).linked_order_id) == ("later", 3)


def asdict_of(update: OrderUpdate) -> dict[str, Any]:
    """An update as the fields of an order of ours: without what only the venue sets."""
    return {name: value for name, value in asdict(update).items() if name not in ("venue_updated_at", "filled_size")}


@pytest.mark.parametrize(("side", "tighter", "looser"), [(OrderSide.SELL, 1, -1), (OrderSide.BUY, -1, 1)])
def test_an_event_that_lags_behind_our_stop_does_not_loosen_it_and_the_difference_shows(
    orders: OrderRepository, side: OrderSide, tighter: int, looser: int
) -> None:
    orders.apply(a_trailing_stop(0, side=side))
    orders.trail(MNQ, 100.0 + tighter * 30)  # ours: 20 tighter
    ours = 100.0 + tighter * 20
    assert stored(orders).stop_price == ours
    orders.apply(a_trailing_stop(1, side=side, stop_price=100.0 + tighter * 5))
    assert (stored(orders).stop_price, stored(orders).venue_stop_price) == (ours, 100.0 + tighter * 5)
    orders.apply(a_trailing_stop(2, side=side, stop_price=100.0 + tighter * 25))
    assert stored(orders).stop_price == stored(orders).venue_stop_price == 100.0 + tighter * 25
    orders.apply(a_trailing_stop(3, side=side, stop_price=100.0 + looser * 50, trailing_amount=20.0))
    order = stored(orders)
    assert (order.stop_price, order.trailing_amount) == (100.0 + looser * 50, 20.0)


def test_the_stop_of_another_type_is_what_the_venue_says(orders: OrderRepository) -> None:
    orders.apply(an_update(0, stop_price=100.0))
    orders.apply(an_update(1, stop_price=90.0))
    assert stored(orders).stop_price == 90.0


def test_a_distance_that_comes_later_makes_a_stop_trail(orders: OrderRepository, session: Session) -> None:
    session.execute(
        sa.text(
            "INSERT INTO orders (id, account_id, contract_id, type, side, size, stop_price, state, created_at) "
            f"VALUES (3425270858, 26000001, '{MNQ}', 5, 1, 1, 20990.0, 2, '2025-10-21 14:00:00')"
        )
    )
    assert orders.trail(MNQ, 21050.0).incomplete == [3_425_270_858]
    orders.apply(OrderUpdate(id=3_425_270_858, trailing_amount=10.0, venue_updated_at=SENT))
    assert orders.trail(MNQ, 21050.0).moves == [(3_425_270_858, 20990.0, 21040.0)]


def test_an_event_confirms_an_order_that_a_list_lacked(orders: OrderRepository, clock: Clock) -> None:
    orders.apply(an_update(0))
    clock.forward(minutes=1)
    orders.reconcile(26000001, [], clock.now)
    assert stored(orders).unconfirmed_since == clock.now
    orders.apply(an_update(0))  # the same event again tells nothing new
    assert stored(orders).unconfirmed_since is not None
    orders.apply(an_update(1))
    assert stored(orders).unconfirmed_since is None

"""The gateway's own lists of what is open, beside ours: `reconcile` of orders and positions (SPEC 7)."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from risk_store import (
    InvalidValue,
    NotKnownYet,
    Order,
    OrderRepository,
    OrderSide,
    OrderState,
    OrderType,
    PositionRepository,
    RiskStore,
    projectx,
)
from risk_store.codes import PositionType
from risk_store.events import OrderUpdate, PositionUpdate
from risk_store.repositories import Difference, Reconciled

if TYPE_CHECKING:
    from tests.contract.conftest import Clock

MNQ = "CON.F.US.MNQ.U26"
SENT = datetime(2026, 8, 19, 19, 0, tzinfo=UTC)
AGREED = Reconciled([], [], [])
MINUTE = timedelta(minutes=1)


@pytest.fixture
def orders(session: Session, clock: Clock) -> OrderRepository:
    return OrderRepository(session, clock)


@pytest.fixture
def positions(session: Session, clock: Clock) -> PositionRepository:
    return PositionRepository(session, clock)


def an_order(id: int, **changes: Any) -> OrderUpdate:
    values: dict[str, Any] = {
        "id": id,
        "account_id": 212,
        "contract_id": MNQ,
        "type": OrderType.STOP,
        "side": OrderSide.SELL,
        "size": 1,
        "stop_price": 5138.0,
        "state": OrderState.ACTIVE,
        "created_at": SENT,
        "venue_updated_at": SENT,
    }
    return OrderUpdate(**(values | changes))


def a_position(id: int, **changes: Any) -> PositionUpdate:
    values: dict[str, Any] = {
        "id": id,
        "account_id": 212,
        "contract_id": f"C{id}",
        "type": PositionType.LONG,
        "size": 2,
        "average_price": 1575.75,
        "created_at": SENT,
    }
    return PositionUpdate(**(values | changes))


def unconfirmed(orders: OrderRepository) -> dict[int, datetime]:
    return {o.id: o.unconfirmed_since for o in orders.working() if o.unconfirmed_since is not None}


# Orders


def test_a_list_that_says_what_is_known_agrees_and_confirms(orders: OrderRepository, clock: Clock) -> None:
    orders.apply_many([an_order(1), an_order(2)])
    clock.forward(minutes=1)
    asked_at = clock.now
    clock.forward(minutes=1)
    result = orders.reconcile(212, [an_order(2), an_order(1)], asked_at)
    assert result == AGREED
    assert result.agreed
    assert [order.seen_at for order in orders.working()] == [clock.now, clock.now]


def test_the_answer_of_the_gateway_is_taken_as_it_comes(orders: OrderRepository, clock: Clock) -> None:
    """The row that the documentation of searchOpen prints (gw-026): no symbol, no fill, no tag."""
    row = {
        **{
            "id": 26970,
            "accountId": 212,
            "contractId": "CON.F.US.EP.M25",
            "status": 1,
            "type": 4,
            "side": 1,
            "size": 1,
        },
        "creationTimestamp": "2025-04-21T19:45:52.105808+00:00",
        "updateTimestamp": "2025-04-21T19:45:52.105808+00:00",
        **{"limitPrice": None, "stopPrice": 5138.0, "filledPrice": None},
    }
    rows: Any = projectx.parse([row])
    assert orders.reconcile(212, rows, clock.now) == Reconciled([26970], [], [])
    assert orders.reconcile(212, rows, clock.now + MINUTE) == AGREED
    assert [(o.id, o.stop_price, o.state) for o in orders.working(212)] == [(26970, 5138.0, OrderState.ACTIVE)]


def test_what_differs_is_returned_and_what_the_gateway_said_is_applied(orders: OrderRepository, clock: Clock) -> None:
    orders.apply_many([an_order(1, custom_tag="ours", limit_price=1.0), an_order(2)])
    clock.forward(minutes=1)
    listed = [an_order(1, stop_price=5140.0, size=2, venue_updated_at=SENT + MINUTE), an_order(3)]
    assert orders.reconcile(212, listed, clock.now) == Reconciled(
        unknown_here=[3],
        unknown_there=[2],
        different=[Difference(1, "size", 1, 2), Difference(1, "stop_price", 5138.0, 5140.0)],
    )
    first, second, third = orders.working()
    assert (first.stop_price, first.size, first.custom_tag, first.limit_price) == (5140.0, 2, "ours", 1.0)
    assert (second.state, second.unconfirmed_since) == (OrderState.ACTIVE, clock.now)
    assert third.id == 3


def test_an_order_that_is_not_listed_is_marked_once_and_never_assumed_gone(
    orders: OrderRepository, clock: Clock
) -> None:
    orders.apply_many([an_order(1), an_order(2, state=OrderState.PARTIAL), an_order(3, account_id=999)])
    clock.forward(minutes=1)
    first = clock.now
    for _ in range(3):
        assert orders.reconcile(212, [], clock.now).unknown_there == [1, 2]
        clock.forward(minutes=1)
    assert unconfirmed(orders) == {1: first, 2: first}
    assert [order.state for order in orders.working(212)] == [OrderState.ACTIVE, OrderState.PARTIAL]
    assert orders.reconcile(212, [an_order(1)], clock.now) == Reconciled([], [2], [])
    assert unconfirmed(orders) == {2: first}


def test_suspended_and_pending_orders_which_the_list_hides_stay_as_they_are(
    orders: OrderRepository, clock: Clock
) -> None:
    orders.apply_many([an_order(1, state=OrderState.SUSPENDED), an_order(2, state=OrderState.PENDING)])
    orders.apply(an_order(3, state=OrderState.FILLED))
    clock.forward(minutes=1)
    assert orders.reconcile(212, [], clock.now) == AGREED
    assert unconfirmed(orders) == {}


def test_what_an_event_told_since_the_list_was_asked_for_is_left_alone(orders: OrderRepository, clock: Clock) -> None:
    orders.apply(an_order(1))
    clock.forward(minutes=1)
    asked_at = clock.now
    orders.apply(an_order(1, stop_price=5150.0, venue_updated_at=SENT + MINUTE))
    orders.apply(an_order(2))
    before = [order.to_dict() for order in orders.working()]
    stale = an_order(1, stop_price=1.0, venue_updated_at=SENT + 2 * MINUTE)
    assert orders.reconcile(212, [stale], asked_at) == AGREED
    assert [order.to_dict() for order in orders.working()] == before


def test_an_order_placed_since_the_list_was_asked_for_is_left_alone(orders: OrderRepository, clock: Clock) -> None:
    asked_at = clock.now
    clock.forward(minutes=1)
    placed = {"account_id": 212, "contract_id": MNQ, "side": OrderSide.BUY, "size": 1, "state": OrderState.ACTIVE}
    orders.save(Order(id=1, type=OrderType.MARKET, created_at=clock.now, **placed))
    orders.save(Order(id=2, type=OrderType.MARKET, created_at=asked_at - MINUTE, **placed))
    assert orders.reconcile(212, [], asked_at) == Reconciled([], [2], [])


def test_an_order_that_is_done_here_and_listed_there_is_told_and_stays_done(
    orders: OrderRepository, clock: Clock
) -> None:
    orders.apply(an_order(1, state=OrderState.FILLED, filled_size=1))
    clock.forward(minutes=1)
    listed = an_order(1, venue_updated_at=SENT + MINUTE)
    result = orders.reconcile(212, [listed], clock.now)
    assert result.different == [Difference(1, "state", OrderState.FILLED, OrderState.ACTIVE)]
    assert orders.working() == []


def test_a_list_never_loosens_a_trailing_stop_and_the_difference_shows(orders: OrderRepository, clock: Clock) -> None:
    trailing = an_order(1, type=OrderType.TRAILING_STOP, stop_price=100.0, trailing_amount=10.0)
    orders.apply(trailing)
    orders.trail(MNQ, 130.0)
    clock.forward(minutes=1)
    listed = replace(trailing, stop_price=105.0, trailing_amount=None, venue_updated_at=SENT + MINUTE)
    assert orders.reconcile(212, [listed], clock.now).different == [Difference(1, "stop_price", 120.0, 105.0)]
    [order] = orders.working()
    assert (order.stop_price, order.venue_stop_price) == (120.0, 105.0)


def test_a_row_of_another_account_refuses_the_whole_list_before_anything_is_written(
    orders: OrderRepository, clock: Clock
) -> None:
    with pytest.raises(InvalidValue, match=r"rows\[1\]\.account_id: 213 is not 212"):
        orders.reconcile(212, [an_order(1), an_order(2, account_id=213)], clock.now)
    assert orders.working() == []


def test_rows_may_leave_out_whose_list_it_is(orders: OrderRepository, clock: Clock) -> None:
    orders.reconcile(212, [an_order(1, account_id=None)], clock.now)
    assert [order.account_id for order in orders.working()] == [212]


def test_json_that_was_not_parsed_is_refused_with_the_way_to_do_it(
    orders: OrderRepository, positions: PositionRepository, clock: Clock
) -> None:
    wrong: Any = [{"id": 1}]
    for repository in (orders, positions):
        with pytest.raises(InvalidValue, match=r"rows\[0\]: .* risk_store\.projectx\.parse\(rows\)"):
            repository.reconcile(212, wrong, clock.now)


@pytest.mark.parametrize(
    ("account_id", "asked_at", "field"),
    [(0, SENT, "account_id"), (212, datetime(2026, 8, 19), "asked_at"), (212, None, "asked_at")],  # noqa: DTZ001
)
def test_bad_arguments_are_refused_by_name(
    orders: OrderRepository, positions: PositionRepository, account_id: int, asked_at: Any, field: str
) -> None:
    for repository in (orders, positions):
        with pytest.raises(InvalidValue) as caught:
            repository.reconcile(account_id, [], asked_at)
        assert caught.value.field == field


def test_an_unknown_row_that_lacks_what_is_needed_is_refused_before_anything_is_written(
    orders: OrderRepository, positions: PositionRepository, clock: Clock
) -> None:
    with pytest.raises(NotKnownYet, match="order 5 is not known yet"):
        orders.reconcile(212, [an_order(1), OrderUpdate(id=5, state=OrderState.ACTIVE)], clock.now)
    with pytest.raises(NotKnownYet, match="position 5 is not known yet"):
        positions.reconcile(212, [a_position(1), PositionUpdate(id=5, size=1)], clock.now)
    assert (orders.working(), positions.open()) == ([], [])


def test_an_order_that_ended_since_is_no_open_question_any_more(orders: OrderRepository, clock: Clock) -> None:
    orders.apply(an_order(1))
    clock.forward(minutes=1)
    orders.reconcile(212, [], clock.now)
    orders.apply(an_order(1, state=OrderState.FILLED, filled_size=1, venue_updated_at=SENT - MINUTE))
    order = orders.get(1)
    assert order is not None
    assert (order.state, order.unconfirmed_since) == (OrderState.FILLED, None)


@pytest.mark.parametrize("store_url", ["postgresql"], indirect=True)
def test_an_event_that_comes_while_a_list_is_worked_on_is_not_undone_by_it(
    store: RiskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with store.begin() as tx:
        tx.orders.apply_many([an_order(1), an_order(2)])
    asked_at = datetime.now(UTC)
    apply_many = OrderRepository._apply_many

    def apply_slowly(self: OrderRepository, updates: list[OrderUpdate]) -> None:
        with store.engine.begin() as other:  # events of both, whose rows were read already
            other.execute(sa.text("UPDATE orders SET seen_at = now()"))
        apply_many(self, updates)

    monkeypatch.setattr(OrderRepository, "_apply_many", apply_slowly)
    monkeypatch.setattr(OrderRepository, "_lock", lambda *_, **__: None)  # the other one came before
    with store.begin() as tx:
        tx.orders.reconcile(212, [], asked_at)
    with store.read() as tx:
        assert unconfirmed(tx.orders) == {}


# Positions


def test_positions_are_reconciled_alike(positions: PositionRepository, clock: Clock) -> None:
    for number in (1, 2, 3):
        positions.apply(a_position(number))
    clock.forward(minutes=1)
    first = clock.now
    listed = [a_position(1, size=5), a_position(2), a_position(4)]
    assert positions.reconcile(212, listed, first) == Reconciled(
        unknown_here=[4], unknown_there=[3], different=[Difference(1, "size", 2, 5)]
    )
    found = {position.id: position for position in positions.open(212)}
    assert {id_: (p.size, p.seen_at, p.unconfirmed_since) for id_, p in found.items()} == {
        1: (5, first, None),
        2: (2, first, None),
        3: (2, first - MINUTE, first),
        4: (2, first, None),
    }
    clock.forward(minutes=1)
    assert positions.reconcile(212, [a_position(3)], clock.now).unknown_there == [1, 2, 4]
    assert positions.get(3).unconfirmed_since is None  # type: ignore[union-attr]


def test_a_position_that_an_event_told_of_since_is_left_alone(positions: PositionRepository, clock: Clock) -> None:
    asked_at = clock.now
    clock.forward(minutes=1)
    positions.apply(a_position(1))
    assert positions.reconcile(212, [a_position(1, size=9)], asked_at) == AGREED
    assert positions.reconcile(212, [], asked_at) == AGREED
    assert [(p.size, p.unconfirmed_since) for p in positions.open()] == [(2, None)]


def test_a_position_that_was_closed_since_the_list_was_asked_for_stays_closed(
    positions: PositionRepository, clock: Clock
) -> None:
    """Else a daemon would flatten a position that is not there, and be short."""
    opened = a_position(1)
    positions.apply(opened)
    clock.forward(minutes=1)
    asked_at = clock.now
    positions.apply(replace(opened, type=None, size=0))
    assert positions.reconcile(212, [opened], asked_at) == AGREED
    assert positions.open() == []
    clock.forward(minutes=1)  # a list that was asked for later, and has it all the same, is the later news
    assert positions.reconcile(212, [opened], clock.now).unknown_here == [1]
    assert [position.id for position in positions.open()] == [1]


def test_a_listed_position_ends_another_one_of_its_contract_which_is_no_open_question(
    positions: PositionRepository, clock: Clock
) -> None:
    positions.apply(a_position(1, contract_id=MNQ))
    clock.forward(minutes=1)
    listed = a_position(2, contract_id=MNQ, created_at=SENT + MINUTE)
    assert positions.reconcile(212, [listed], clock.now) == Reconciled([2], [], [])
    assert [position.id for position in positions.open()] == [2]


def test_an_event_confirms_a_position_that_a_list_lacked(positions: PositionRepository, clock: Clock) -> None:
    positions.apply(a_position(1))
    clock.forward(minutes=1)
    positions.reconcile(212, [], clock.now)
    assert positions.apply(a_position(1))
    assert positions.get(1).unconfirmed_since is None  # type: ignore[union-attr]

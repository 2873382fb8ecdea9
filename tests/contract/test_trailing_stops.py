"""`OrderRepository.trail`: all working trailing stops of a contract at once, the same on each engine (SPEC 2)."""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.orm import Session

from risk_store import InvalidValue, Order, OrderRepository, OrderSide, OrderState, OrderType, RiskStore, StoreBusy
from risk_store.events import OrderUpdate
from risk_store.repositories.lane import Lane
from risk_store.repositories.trailing_stops import TrailingStops
from risk_store.trailing import StopMove, TrailResult, trail

if TYPE_CHECKING:
    from tests.contract.conftest import Clock

MNQ = "CON.F.US.MNQ.U25"
PLACED = datetime(2025, 10, 21, 14, 30, tzinfo=UTC)
BUY, SELL = OrderSide.BUY, OrderSide.SELL


@pytest.fixture
def orders(session: Session, clock: Clock) -> OrderRepository:
    return OrderRepository(session, clock)


def a_stop(id: int = 123, **changes: Any) -> Order:
    values = {
        "id": id,
        "account_id": 456,
        "contract_id": MNQ,
        "type": OrderType.TRAILING_STOP,
        "side": SELL,
        "size": 1,
        "stop_price": 20990.0,
        "trailing_amount": 10.0,
        "state": OrderState.ACTIVE,
        "created_at": PLACED,
    }
    return Order(**(values | changes))


def stops(orders: OrderRepository) -> dict[int, float | None]:
    return {order.id: order.stop_price for order in orders.working()}


def test_the_specifications_example_holds_to_the_cent_in_the_store(orders: OrderRepository, clock: Clock) -> None:
    orders.save(a_stop())
    assert orders.trail(MNQ, 21000.0) == TrailResult([], [], [])
    assert orders.trail(MNQ, 21050.0) == TrailResult([(123, 20990.0, 21040.0)], [], [])  # type: ignore[list-item]
    clock.forward(minutes=1)
    assert orders.trail(MNQ, 21100.0, tick_size=0.25).moves == [(123, 21040.0, 21090.0)]
    assert orders.working()[0].updated_at == clock.now
    clock.forward(minutes=1)
    assert orders.trail(MNQ, 21090.0) == TrailResult([], [123], [])
    [order] = orders.working()  # until the venue says that it is done
    assert (order.stop_price, order.triggered_at, order.state) == (21090.0, clock.now, OrderState.ACTIVE)


def test_an_order_is_triggered_once_and_its_stop_is_frozen(orders: OrderRepository) -> None:
    orders.save(a_stop())
    assert orders.trail(MNQ, 20000.0, at=PLACED + timedelta(seconds=1)).triggered == [123]
    assert orders.trail(MNQ, 20000.0) == orders.trail(MNQ, 30000.0) == TrailResult([], [], [])
    [order] = orders.working()
    assert (order.stop_price, order.triggered_at) == (20990.0, PLACED + timedelta(seconds=1))


def test_one_price_moves_the_stops_of_longs_and_triggers_those_of_shorts(orders: OrderRepository) -> None:
    orders.save(a_stop(1))
    orders.save(a_stop(2, side=BUY, stop_price=21010.0))
    orders.save(a_stop(3, account_id=789, trailing_amount=25.0, state=OrderState.PARTIAL))
    assert orders.trail(MNQ, 21040.0) == TrailResult(
        [(1, 20990.0, 21030.0), (3, 20990.0, 21015.0)],
        [2],
        [],  # type: ignore[list-item]
    )
    assert stops(orders) == {1: 21030.0, 2: 21010.0, 3: 21015.0}


@pytest.mark.parametrize("state", [s for s in OrderState if s not in (OrderState.ACTIVE, OrderState.PARTIAL)])
def test_suspended_and_pending_children_and_finished_orders_do_not_trail(
    orders: OrderRepository, state: OrderState
) -> None:
    orders.save(a_stop(state=state, parent_order_id=7))
    assert orders.trail(MNQ, 30000.0) == orders.trail(MNQ, 1.0) == TrailResult([], [], [])
    assert orders.get(123) == a_stop(state=state, parent_order_id=7, updated_at=orders.get(123).updated_at)  # type: ignore[union-attr]


def test_only_trailing_stops_of_the_contract_trail(orders: OrderRepository) -> None:
    orders.save(a_stop(1, type=OrderType.STOP))
    orders.save(a_stop(2, contract_id="CON.F.US.EP.U25"))
    assert orders.trail(MNQ, 30000.0) == TrailResult([], [], [])


def test_an_order_made_after_a_delayed_tick_is_not_moved_by_it(orders: OrderRepository) -> None:
    orders.save(a_stop(1))
    orders.save(a_stop(2, created_at=PLACED + timedelta(seconds=5)))
    result = orders.trail(MNQ, 21050.0, at=PLACED + timedelta(seconds=4))
    assert [move.order_id for move in result.moves] == [1]
    assert orders.trail(MNQ, 20000.0, at=PLACED + timedelta(seconds=4)).triggered == [1]
    assert orders.trail(MNQ, 21050.0, at=PLACED + timedelta(seconds=5)).moves == [(2, 20990.0, 21040.0)]


def test_orders_that_are_alike_go_together_and_no_other_goes_along(store: RiskStore) -> None:
    """All that this price concerns have their figures in common: on a file they are written by those."""
    others = [
        a_stop(11, contract_id="CON.F.US.EP.U25"),
        a_stop(12, state=OrderState.SUSPENDED, parent_order_id=7),
        a_stop(13, created_at=PLACED + timedelta(seconds=5)),
        a_stop(14, stop_price=21040.0),
        a_stop(15, side=BUY, stop_price=21060.0, trailing_amount=20.0),
        a_stop(16, triggered_at=PLACED),
    ]
    with store.begin() as tx:
        for order in [*(a_stop(id_, account_id=id_) for id_ in (3, 1, 2)), *others]:
            tx.orders.save(order)
    at = PLACED + timedelta(seconds=4)
    with store.begin() as tx:
        moves = [StopMove(id_, 20990.0, 21040.0) for id_ in (1, 2, 3)]
        assert tx.orders.trail(MNQ, 21050.0, at=at) == TrailResult(moves, [], [])
    with store.begin() as tx:
        assert tx.orders.trail(MNQ, 21040.0, at=at) == TrailResult([], [1, 2, 3, 14], [])
    with store.read() as tx:
        found = {order.id: (order.stop_price, order.triggered_at) for order in tx.orders.working()}
    assert found == {
        **dict.fromkeys((1, 2, 3, 14), (21040.0, at)),
        **{order.id: (order.stop_price, order.triggered_at) for order in others if order.id != 14},
    }


def test_stops_of_orders_with_the_largest_ids_are_moved(store: RiskStore) -> None:
    ids = [2**63 - 3, 2**63 - 2, 2**63 - 1]
    with store.begin() as tx:
        for id_ in ids:
            tx.orders.save(a_stop(id_))
    with store.begin() as tx:
        assert [move.order_id for move in tx.orders.trail(MNQ, 21050.0).moves] == ids


@pytest.mark.parametrize(("stop", "distance"), [("NULL", "10.0"), ("20990.0", "NULL"), ("NULL", "NULL")])
def test_orders_that_are_alike_in_what_they_lack_are_named(store: RiskStore, stop: str, distance: str) -> None:
    with store.begin() as tx:
        for id_ in (3, 1, 2):
            tx.orders.save(a_stop(id_))
        lacking = f"UPDATE orders SET stop_price = {stop}, trailing_amount = {distance} WHERE id < 3"
        tx.session.execute(sa.text(lacking))
    with store.begin() as tx:
        assert tx.orders.trail(MNQ, 20995.0) == TrailResult([], [], [1, 2])


def test_orders_that_should_trail_and_cannot_are_named(orders: OrderRepository, session: Session) -> None:
    orders.save(a_stop(1))
    lacking = {2: ("20990.0", "NULL"), 3: ("NULL", "10.0"), 4: ("20990.0", "0.0"), 5: ("20990.0", "-10.0")}
    for id_, (stop, distance) in lacking.items():
        session.execute(
            sa.text(
                "INSERT INTO orders (id, account_id, contract_id, type, side, size, stop_price, trailing_amount, "
                f"state, created_at) VALUES ({id_}, 456, '{MNQ}', 5, 1, 1, {stop}, {distance}, 2, '2025-10-21')"
            )
        )
    result = orders.trail(MNQ, 21050.0)
    assert (result.moves, result.incomplete) == ([(1, 20990.0, 21040.0)], [2, 3, 4, 5])


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)  # no other engine lets such values in
def test_values_that_cannot_be_read_stop_no_other_order(orders: OrderRepository, session: Session) -> None:
    orders.save(a_stop(1))
    odd = (
        "1, 'about 20990', 10.0, '2025-10-21'",
        "9, 20990.0, 10.0, '2025-10-21'",
        "1, 20990.0, 10.0, 'yesterday'",
        "1, 9e999, 10.0, '2025-10-21'",
        "1, 20990.0, 9e999, '2025-10-21'",
    )
    for id_, values in enumerate(odd, 2):
        session.execute(
            sa.text(
                "INSERT INTO orders (id, account_id, contract_id, type, size, state, side, stop_price, "
                f"trailing_amount, created_at) VALUES ({id_}, 456, '{MNQ}', 5, 1, 2, {values})"
            )
        )
    result = orders.trail(MNQ, 21050.0, at=PLACED)
    assert ([move.order_id for move in result.moves], result.incomplete) == ([1, 4], [2, 3, 5, 6])


@pytest.mark.parametrize("engine", ["postgresql"], indirect=True)
def test_numbers_beyond_all_prices_do_no_harm_on_a_server(orders: OrderRepository, session: Session) -> None:
    """Whose arithmetic fails where a float overflows."""
    numbers = (20990.0, math.nan, math.inf, -math.inf, 1.7e308, -1.7e308, 5e-324)
    placed = dict(enumerate(product(OrderSide, numbers, numbers), 1))
    for id_, (side, stop, distance) in placed.items():
        orders.save(a_stop(id_, side=side))
        odd = sa.text("UPDATE orders SET stop_price = :stop, trailing_amount = :distance WHERE id = :id")
        session.execute(odd, {"stop": stop, "distance": distance, "id": id_})
    complete = {id_ for id_, (_, stop, distance) in placed.items() if math.isfinite(stop) and 0 < distance < math.inf}
    for price, tick_size in ((-1.7e308, None), (21000.0, 1e300), (20995.0, 0.25), (42000.0, None)):
        expected = {id_: trail(*placed[id_], price, tick_size) for id_ in complete}
        with session.begin_nested() as savepoint:
            result = orders.trail(MNQ, price, tick_size)
            savepoint.rollback()
        assert {move.order_id: move.new for move in result.moves} == {
            id_: trailed.new for id_, trailed in expected.items() if trailed.moved
        }
        assert result.triggered == sorted(id_ for id_, trailed in expected.items() if trailed.triggered)
        assert result.incomplete == sorted(placed.keys() - complete)


def test_stops_follow_across_zero_long_and_short(orders: OrderRepository) -> None:
    orders.save(a_stop(1, stop_price=-40.0, trailing_amount=0.5))
    orders.save(a_stop(2, side=BUY, stop_price=3.0, trailing_amount=1.25))
    assert orders.trail(MNQ, -1.0, tick_size=0.01).moves == [(1, -40.0, -1.5), (2, 3.0, 0.25)]
    assert orders.trail(MNQ, 0.2, tick_size=0.01).moves == [(1, -1.5, -0.3)]
    assert orders.trail(MNQ, -37.63, tick_size=0.01) == TrailResult(
        [(2, 0.25, -36.38)],
        [1],
        [],  # type: ignore[list-item]
    )


@settings(max_examples=40)
@given(
    side=st.sampled_from(OrderSide),
    stop=st.floats(-500, 500).map(lambda value: value + 0.0),
    distance=st.floats(0.001, 100),
    tick_size=st.sampled_from([None, 0.01, 0.1, 0.25, 1 / 64, 0.0000005]),
    prices=st.lists(st.floats(-500, 500), min_size=1, max_size=6),
)
def test_the_store_and_an_object_in_memory_agree_to_the_bit(
    orders: OrderRepository,
    undone: Callable[[], Any],
    side: OrderSide,
    stop: float,
    distance: float,
    tick_size: float | None,
    prices: list[float],
) -> None:
    in_memory = a_stop(side=side, stop_price=stop, trailing_amount=distance)
    with undone():
        orders.save(a_stop(side=side, stop_price=stop, trailing_amount=distance))
        for price in prices:
            result, trailed = orders.trail(MNQ, price, tick_size), in_memory.trail(price, tick_size)
            assert result.moves == ([(123, trailed.old, trailed.new)] if trailed.moved else [])
            assert result.triggered == ([123] if trailed.triggered else [])
            [stored] = orders.working()
            assert isinstance(stored.stop_price, float)
            assert isinstance(in_memory.stop_price, float)
            assert stored.stop_price.hex() == in_memory.stop_price.hex()


def test_orders_of_one_distance_move_in_one_statement_wherever_they_were(
    orders: OrderRepository, sent: list[tuple[str, Any]]
) -> None:
    for id_ in range(1, 51):
        orders.save(a_stop(id_, stop_price=20900.0 + id_))
    sent.clear()
    result = orders.trail(MNQ, 21050.0)
    assert result.moves == [(id_, 20900.0 + id_, 21040.0) for id_ in range(1, 51)]
    assert sum("UPDATE orders SET" in statement for statement, _ in sent) == 1
    sent.clear()
    assert orders.trail(MNQ, 21050.0).moves == []
    assert len(sent) == 1
    sent.clear()
    assert orders.trail(MNQ, 21040.0).triggered == list(range(1, 51))
    assert sum("UPDATE orders SET" in statement for statement, _ in sent) == 1


def test_a_stop_at_which_nothing_is_known_to_lie_yet_is_no_reason_to_stop(orders: OrderRepository) -> None:
    assert orders.trail("CON.F.US.UNKNOWN", 1.0) == TrailResult([], [], [])


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        (("", 1.0), "contract_id"),
        ((MNQ, float("nan")), "price"),
        ((MNQ, None), "price"),
        ((MNQ, 1.0, 0.0), "tick_size"),
        ((MNQ, 1.0, None, datetime(2025, 10, 21)), "at"),  # noqa: DTZ001
    ],
)
def test_a_market_that_cannot_be_is_refused_by_name(orders: OrderRepository, arguments: Any, field: str) -> None:
    orders.save(a_stop())
    with pytest.raises(InvalidValue) as caught:
        orders.trail(*arguments)
    assert caught.value.field == field
    assert stops(orders) == {123: 20990.0}


# With other writers


def test_prices_from_several_threads_leave_the_best_stop(store: RiskStore) -> None:
    with store.begin() as tx:
        for id_ in range(1, 21):
            tx.orders.save(a_stop(id_))
    moved: list[Any] = []

    def follow(first: int) -> None:
        for step in range(first, 200, 4):
            with store.begin() as tx:
                moved.extend(tx.orders.trail(MNQ, 21000.0 + step).moves)

    threads = [threading.Thread(target=follow, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with store.read() as tx:
        found = stops(tx.orders)
    # A price may come late and trigger what a better one has raised. Whatever happened, each order tells its moves.
    for id_, stop in found.items():
        own = sorted(move.new for move in moved if move.order_id == id_)
        assert len(set(own)) == len(own), "a stop was moved twice to one place"
        assert stop == (own[-1] if own else 20990.0)


MEANWHILE = [
    ("stop_price = 21045.0", [], 21045.0),  # tighter than what was decided
    ("stop_price = 21030.0", [(123, 21030.0, 21040.0)], 21040.0),  # tighter than before, and looser than that
    ("trailing_amount = 30.0", [(123, 20990.0, 21020.0)], 21020.0),  # another distance: decided again
    ("state = 4", [], 20990.0),  # canceled
    ("triggered_at = now()", [], 20990.0),
]


@pytest.mark.parametrize("store_url", ["postgresql"], indirect=True)
@pytest.mark.parametrize(("change", "moves", "stop"), MEANWHILE)
def test_a_decision_holds_only_for_the_order_as_it_was(
    store: RiskStore, monkeypatch: pytest.MonkeyPatch, change: str, moves: list[Any], stop: float
) -> None:
    """Another program comes between reading and writing, as it can on a server."""
    with store.begin() as tx:
        tx.orders.save(a_stop())
    between(store, monkeypatch, change)
    with store.begin() as tx:
        assert tx.orders.trail(MNQ, 21050.0) == TrailResult(moves, [], [])
        assert tx.orders.get(123).stop_price == stop  # type: ignore[union-attr]


@pytest.mark.parametrize("store_url", ["postgresql"], indirect=True)
@pytest.mark.parametrize(
    ("change", "triggered"), [("stop_price = 20995.0", [123]), ("trailing_amount = 5.0", [123]), ("state = 4", [])]
)
def test_an_order_is_triggered_as_it_is_when_that_is_written(
    store: RiskStore, monkeypatch: pytest.MonkeyPatch, change: str, triggered: list[int]
) -> None:
    with store.begin() as tx:
        tx.orders.save(a_stop())
    between(store, monkeypatch, change)
    with store.begin() as tx:
        assert tx.orders.trail(MNQ, 20980.0) == TrailResult([], triggered, [])


@pytest.mark.parametrize("store_url", ["postgresql"], indirect=True)
def test_one_that_leaves_those_that_are_alike_is_not_replaced_by_one_that_comes(
    store: RiskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with store.begin() as tx:
        for id_ in (1, 2):
            tx.orders.save(a_stop(id_))
    third = a_stop(3)
    another = sa.insert(Order).values({c.name: getattr(third, c.name) for c in Order.__table__.columns})
    between(store, monkeypatch, "stop_price = 20980.0 WHERE id = 1", another)
    with store.begin() as tx:
        assert sorted(move.order_id for move in tx.orders.trail(MNQ, 21050.0).moves) == [1, 2, 3]
        assert {order.stop_price for order in tx.orders.working()} == {21040.0}


@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
def test_in_a_session_that_begins_late_no_order_is_told_that_was_not_written(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A caller's own engine: SQLite's driver begins only at the first statement that writes."""
    engine = sa.create_engine(store_url)
    with Session(engine) as session:
        orders = OrderRepository(session)
        for id_ in (1, 2):
            orders.save(a_stop(id_))
        session.commit()
    read = Lane.read

    def read_slowly(self: Lane, prepared: Any, model: Any, parameters: Any) -> Any:
        found = read(self, prepared, model, parameters)
        with engine.begin() as other:
            other.execute(sa.text("UPDATE orders SET stop_price = 20980.0 WHERE id = 1"))
        return found

    monkeypatch.setattr(Lane, "read", read_slowly)
    with Session(engine) as session:
        moves = OrderRepository(session).trail(MNQ, 21050.0).moves
        session.commit()
    with engine.connect() as connection:
        stored = dict(map(tuple, connection.execute(sa.text("SELECT id, stop_price FROM orders"))))
    assert {move.order_id: move.new for move in moves} == stored == {1: 21040.0, 2: 21040.0}
    engine.dispose()


@pytest.mark.parametrize("store_url", ["postgresql"], indirect=True)
def test_an_order_that_cannot_be_written_is_given_up_and_not_tried_for_ever(store: RiskStore) -> None:
    with store.begin() as tx:
        tx.orders.save(a_stop())
        tx.session.execute(
            sa.text("CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$")
        )
        tx.session.execute(sa.text("CREATE TRIGGER t BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION nothing()"))
    with pytest.raises(StoreBusy), store.begin() as tx:
        tx.orders.trail(MNQ, 22000.0)


def between(store: RiskStore, monkeypatch: pytest.MonkeyPatch, change: str, *more: sa.Executable) -> None:
    """Has another connection make a change after the first decision and before it is written."""
    decide = TrailingStops._decide
    left = [change]

    def decide_slowly(self: TrailingStops, *arguments: Any) -> Any:
        decided = decide(self, *arguments)
        if left:
            left.pop()
            with store.engine.begin() as other:
                for statement in (sa.text(f"UPDATE orders SET {change}"), *more):
                    other.execute(statement)
        return decided

    monkeypatch.setattr(TrailingStops, "_decide", decide_slowly)


def test_ticks_events_and_lists_in_several_threads_do_not_wait_for_each_other(store: RiskStore) -> None:
    """On a server two transactions that lock many orders in another order each would."""
    updates = [
        OrderUpdate(
            **{
                name: getattr(a_stop(id_), name) for name in ("id", "account_id", "contract_id", "type", "side", "size")
            },
            **{name: getattr(a_stop(id_), name) for name in ("stop_price", "trailing_amount", "state", "created_at")},
            venue_updated_at=PLACED,
        )
        for id_ in range(1, 101)
    ]
    with store.begin() as tx:
        tx.orders.apply_many(updates)
    chance = random.Random(5)
    failed: list[BaseException] = []

    def ticks() -> None:
        for step in range(60):
            with store.begin() as tx:
                tx.orders.trail(MNQ, 21000.0 + step)

    def events() -> None:
        for step in range(60):
            some = [replace(u, venue_updated_at=PLACED + timedelta(seconds=step + 1)) for u in updates]
            chance.shuffle(some)
            with store.begin() as tx:
                tx.orders.apply_many(some)

    def parts_of_events() -> None:
        """Which do not say what contract they are of."""
        for step in range(60):
            some = [
                OrderUpdate(id=u.id, size=1, venue_updated_at=PLACED + timedelta(seconds=step + 1)) for u in updates
            ]
            chance.shuffle(some)
            with store.begin() as tx:
                tx.orders.apply_many(some)

    def lists() -> None:
        for _ in range(60):
            with store.begin() as tx:
                tx.orders.reconcile(456, updates[::-1], datetime.now(UTC) + timedelta(seconds=60))

    def guarded(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            failed.append(error)

    threads = [
        threading.Thread(target=guarded, args=(work,)) for work in (ticks, ticks, events, parts_of_events, lists)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    with store.read() as tx:
        assert set(stops(tx.orders).values()) == {21049.0}


@pytest.mark.parametrize("contract", [MNQ, None], ids=["named", "not named"])
def test_a_price_that_waits_for_many_events_has_no_order_of_theirs(
    store: RiskStore, monkeypatch: pytest.MonkeyPatch, contract: str | None
) -> None:
    """So that whoever writes them may go on with any other order of the contract."""
    with store.begin() as tx:
        for id_ in (1, 2, 3):
            tx.orders.save(a_stop(id_))
    decided = threading.Event()
    decide = TrailingStops._decide

    def telling(self: TrailingStops, *arguments: Any) -> Any:
        decisions = decide(self, *arguments)
        decided.set()
        return decisions

    monkeypatch.setattr(TrailingStops, "_decide", telling)

    def price() -> None:
        with store.begin() as tx:
            tx.orders.trail(MNQ, 21050.0)

    waiting = threading.Thread(target=price)
    with store.begin() as tx:
        tx.orders.apply_many(
            [OrderUpdate(id=id_, contract_id=contract, size=2, venue_updated_at=PLACED) for id_ in (3, 2)]
        )
        waiting.start()
        decided.wait(0.3)  # on a file it does not come so far: it waits for its turn
        time.sleep(0.05)
        tx.orders.apply(OrderUpdate(id=1, size=2, venue_updated_at=PLACED))
    waiting.join()
    with store.read() as tx:
        assert {order.size for order in tx.orders.working()} == {2}
        assert set(stops(tx.orders).values()) == {21040.0}


def a_few(ids: Iterable[int], contract: str | None = MNQ) -> list[OrderUpdate]:
    return [OrderUpdate(id=id_, contract_id=contract, size=2, venue_updated_at=PLACED) for id_ in ids]


@pytest.mark.parametrize(
    "batches",
    [[[1, 2, 3]], [[11, 12]], [[2], [1, 3]], [[3], [2], [1]]],
    ids=["the same orders", "others", "one, then many", "one after another"],
)
def test_batches_of_events_and_prices_in_one_transaction_do_not_wait_for_those_in_another(
    store: RiskStore, batches: list[list[int]]
) -> None:
    with store.begin() as tx:
        for id_ in (1, 2, 3, 11, 12, 21, 22):
            tx.orders.save(a_stop(id_, trailing_amount=10.0 + id_ % 2))
    failed: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            for step in range(20):
                with store.begin() as tx:
                    for ids in batches:
                        tx.orders.apply_many(a_few(ids if ids[0] < 11 or seed else [id_ + 10 for id_ in ids]))
                    tx.orders.trail(MNQ, 21000.0 + step)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []


def test_what_a_price_says_it_moved_was_there_although_prices_came_at_once(store: RiskStore) -> None:
    """Each move begins where the one before it ended."""
    with store.begin() as tx:
        for id_ in range(1, 7):
            tx.orders.save(a_stop(id_, trailing_amount=10.0 + id_ % 2))
    told: list[StopMove] = []

    def prices(first: float) -> None:
        for step in range(15):
            with store.begin() as tx:
                moved = tx.orders.trail(MNQ, first + 2.0 * step).moves
            told.extend(moved)

    threads = [threading.Thread(target=prices, args=(21000.0 + offset,)) for offset in (0.0, 0.5, 1.0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for id_ in range(1, 7):
        own = sorted(move[1:] for move in told if move[0] == id_)
        assert own[0][0] == 20990.0
        assert [old for old, _ in own[1:]] == [new for _, new in own[:-1]]


@pytest.mark.parametrize("contract", [7, b"MNQ", "a\0b", "a\ud800"])
def test_a_batch_with_a_contract_that_is_none_is_refused_by_its_column(store: RiskStore, contract: Any) -> None:
    with pytest.raises(InvalidValue, match="contract_id"), store.begin() as tx:
        tx.orders.apply_many(
            [
                *(
                    replace(
                        update,
                        account_id=456,
                        type=OrderType.LIMIT,
                        side=SELL,
                        limit_price=1.0,
                        state=OrderState.ACTIVE,
                        contract_id=contract,
                    )
                    for update in a_few([1, 2])
                )
            ]
        )

"""OrderRepository, the same on each engine (SPEC 2)."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.orm import Session

from risk_store import InvalidValue, Order, OrderRepository, OrderSide, OrderSnapshot, OrderState, OrderType, RiskStore
from risk_store.statements import working_orders
from risk_store.statements.orders import FILLABLE

if TYPE_CHECKING:
    from tests.contract.conftest import Clock

MNQ = "CON.F.US.MNQ.U25"
PLACED = datetime(2025, 10, 21, 14, 30, 5, 123456, tzinfo=UTC)
COLUMNS = Order.__table__.columns.keys()


@pytest.fixture
def orders(session: Session, clock: Clock) -> OrderRepository:
    return OrderRepository(session, clock)


def an_order(**changes: Any) -> Order:
    values = {
        "id": 3_425_270_858,
        "account_id": 456,
        "contract_id": MNQ,
        "type": OrderType.TRAILING_STOP,
        "side": OrderSide.SELL,
        "size": 5,
        "stop_price": 20990.0,
        "trailing_amount": 10.0,
        "state": OrderState.ACTIVE,
        "created_at": PLACED,
    }
    return Order(**(values | changes))


def a_v1_row(session: Session, **changes: Any) -> None:
    """As a v1 daemon writes it: its own columns, and whatever it likes in them."""
    values = {
        "id": 1,
        "account_id": 456,
        "contract_id": MNQ,
        "type": 2,
        "side": 0,
        "size": 1,
        "limit_price": 21000.25,
        "stop_price": None,
        "state": 2,
        "created_at": "2025-10-21 14:00:00",
        "updated_at": None,
    } | changes
    names = ", ".join(values)
    marks = ", ".join(f":{name}" for name in values)
    session.execute(sa.text(f"INSERT INTO orders ({names}) VALUES ({marks})"), values)


# save


def test_an_order_is_read_back_as_it_was_saved(orders: OrderRepository, session: Session, clock: Clock) -> None:
    order = an_order(
        limit_price=-37.63,
        filled_size=2,
        fill_price=20995.123456789,
        custom_tag="a tag",
        parent_order_id=2**63 - 1,
        linked_order_id=1,
        venue_stop_price=20985.25,
        venue_updated_at=PLACED,
        triggered_at=PLACED + timedelta(microseconds=1),
        seen_at=PLACED,
        unconfirmed_since=PLACED,
    )
    saved = orders.save(order)
    session.expunge_all()
    assert saved.to_dict() == order.to_dict() | {"updated_at": clock.now.isoformat()}
    assert orders.get(order.id) == saved


def test_an_updated_at_that_is_given_is_kept_by_the_insert(orders: OrderRepository) -> None:
    assert orders.save(an_order(updated_at=PLACED)).updated_at == PLACED


def test_no_order_has_an_id_that_was_never_saved(orders: OrderRepository) -> None:
    assert orders.get(7) is None


def test_the_reply_to_a_placement_fills_what_the_faster_stream_left_out(orders: OrderRepository, clock: Clock) -> None:
    streamed = an_order(type=OrderType.STOP, state=OrderState.FILLED, filled_size=3)
    streamed.stop_price = None
    streamed.trailing_amount = None
    orders.save(streamed)
    clock.forward(minutes=1)
    stored = orders.save(an_order(size=9, side=OrderSide.BUY, custom_tag="ours", filled_size=1))
    assert (stored.stop_price, stored.trailing_amount, stored.custom_tag) == (20990.0, 10.0, "ours")
    assert (stored.type, stored.state, stored.side, stored.size) == (
        OrderType.STOP,
        OrderState.FILLED,
        OrderSide.SELL,
        5,
    )
    assert stored.filled_size == 3
    assert stored.updated_at == clock.now


def test_filled_size_may_grow(orders: OrderRepository) -> None:
    orders.save(an_order(filled_size=1))
    assert orders.save(an_order(filled_size=2)).filled_size == 2


def test_a_row_that_lacks_nothing_is_not_touched(orders: OrderRepository, clock: Clock) -> None:
    before = orders.save(an_order()).updated_at
    clock.forward(minutes=1)
    assert orders.save(an_order(stop_price=1.0)).updated_at == before


def test_what_only_the_venue_says_comes_with_an_insert_or_not_at_all(orders: OrderRepository) -> None:
    told = dict.fromkeys(("venue_updated_at", "triggered_at", "seen_at", "unconfirmed_since"), PLACED)
    orders.save(an_order())
    stored = orders.save(an_order(**told))
    assert [getattr(stored, name) for name in told] == [None] * 4


prices = st.none() | st.floats(-1e6, 1e6).map(lambda price: price + 0.0)
copies = st.fixed_dictionaries(
    {
        "state": st.sampled_from(OrderState),
        "size": st.integers(1, 9),
        "filled_size": st.integers(0, 9),
        "limit_price": prices,
        "stop_price": prices,
        "trailing_amount": prices,
        "fill_price": prices,
        "venue_stop_price": prices,
        "custom_tag": st.none() | st.text("abc", max_size=3),
        "parent_order_id": st.none() | st.integers(1, 2**63 - 1),
        "linked_order_id": st.none() | st.integers(1, 2**63 - 1),
    }
)


@settings(max_examples=40)
@given(st.lists(copies, min_size=1, max_size=4))
def test_the_first_copy_that_says_something_is_believed(
    orders: OrderRepository, undone: Callable[[], Any], said: list[dict[str, Any]]
) -> None:
    expected = dict(said[0])
    for later in said[1:]:
        expected |= {name: later[name] for name in FILLABLE if expected[name] is None}
        if later["filled_size"] <= expected["size"]:  # more than was ordered is said of another order
            expected["filled_size"] = max(expected["filled_size"], later["filled_size"])
    with undone():
        for values in said:
            stored = orders.save(Order.from_dict(an_order().to_dict() | values))
        assert {name: getattr(stored, name) for name in expected} == expected


def test_an_order_made_from_a_v1_row_can_be_saved(orders: OrderRepository) -> None:
    row = (7, 456, MNQ, 5, 1, 1, None, 20990.0, 2, "2025-10-21 14:00:00", None)
    stored = orders.save(Order.from_db_row(row))
    assert (stored.type, stored.trailing_amount, stored.filled_size) == (OrderType.TRAILING_STOP, None, 0)


def test_rules_across_fields_are_those_of_construction_only(orders: OrderRepository) -> None:
    order = an_order(type=OrderType.LIMIT, limit_price=1.0)
    order.limit_price = None
    assert orders.save(order).limit_price is None


def test_a_value_that_its_column_cannot_keep_is_refused_by_name(orders: OrderRepository) -> None:
    for field, value in (
        ("id", 2**63),
        ("account_id", "456"),
        ("contract_id", "a\0b"),
        ("type", 99),
        ("side", 2),
        ("state", 0),
        ("size", 1.5),
        ("limit_price", float("nan")),
        ("stop_price", float("inf")),
        ("trailing_amount", "10"),
        ("created_at", datetime(2025, 10, 21)),  # noqa: DTZ001
        ("seen_at", "2025-10-21"),
    ):
        order = an_order()
        setattr(order, field, value)
        with pytest.raises(InvalidValue) as caught:
            orders.save(order)
        assert caught.value.field == f"orders.{field}"
    assert orders.working() == []


def test_what_a_person_wrote_is_escaped_and_not_refused(orders: OrderRepository) -> None:
    assert orders.save(an_order(custom_tag="a\0b\udc80")).custom_tag == "a\\x00b\\udc80"


def test_an_object_read_before_a_save_shows_what_it_changed(orders: OrderRepository) -> None:
    orders.save(an_order())
    held = orders.get(an_order().id)
    assert held is not None
    orders.save(an_order(custom_tag="later"))
    assert held.custom_tag == "later"


def test_nothing_is_committed_behind_the_callers_back(orders: OrderRepository, session: Session) -> None:
    orders.save(an_order())
    session.rollback()
    assert orders.get(an_order().id) is None


# working


def test_the_working_orders_are_those_the_venue_may_still_fill(orders: OrderRepository) -> None:
    for state in OrderState:
        orders.save(an_order(id=int(state), state=state))
    assert [order.state for order in orders.working()] == [
        OrderState.PENDING,
        OrderState.ACTIVE,
        OrderState.PARTIAL,
        OrderState.SUSPENDED,
    ]


def test_working_orders_come_oldest_first_and_by_id_among_equals(orders: OrderRepository) -> None:
    for id, minutes in ((4, 0), (2, 5), (3, 5), (1, 9)):
        orders.save(an_order(id=id, created_at=PLACED + timedelta(minutes=minutes)))
    assert [order.id for order in orders.working()] == [4, 2, 3, 1]


def test_working_orders_can_be_asked_of_one_account_and_one_contract(orders: OrderRepository) -> None:
    for id, account_id, contract_id in ((1, 456, MNQ), (2, 456, "ES"), (3, 789, MNQ)):
        orders.save(an_order(id=id, account_id=account_id, contract_id=contract_id))
    assert [order.id for order in orders.working(account_id=456)] == [1, 2]
    assert [order.id for order in orders.working(contract_id=MNQ)] == [1, 3]
    assert [order.id for order in orders.working(456, MNQ)] == [1]
    assert orders.working(account_id=1) == []


def test_rows_that_v1_wrote_are_working_beside_todays(orders: OrderRepository, session: Session) -> None:
    a_v1_row(session, id=1, state=7)
    a_v1_row(session, id=2, type=5, side=1, stop_price=20990.0)  # no trailing_amount: v1 has none
    a_v1_row(session, id=3, type=99, side=9)
    a_v1_row(session, id=4, state=99)  # not known to be working
    orders.save(an_order(id=5))
    found = orders.working()
    assert [(order.id, order.type, order.trailing_amount) for order in found] == [
        (1, OrderType.LIMIT, None),
        (2, OrderType.TRAILING_STOP, None),
        (3, 99, None),
        (5, OrderType.TRAILING_STOP, 10.0),
    ]
    assert found[0].state is OrderState.PARTIAL
    assert orders.get(4) is not None


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)  # no other engine lets such values in
def test_values_that_cannot_be_read_hide_no_working_order(orders: OrderRepository, session: Session) -> None:
    orders.save(an_order(id=1))
    a_v1_row(session, id=2, created_at="yesterday", limit_price="about 21000")
    a_v1_row(session, id=3, created_at=1761055200, size="five", updated_at=b"\xff")
    a_v1_row(session, id=4, created_at="2025-10-21T09:00:00-05:00", type="STOP")
    found = {order.id: order for order in orders.working()}
    assert sorted(found) == [1, 2, 3, 4]
    assert (found[2].created_at, found[2].limit_price) == ("yesterday", "about 21000")
    assert (found[3].created_at, found[3].size) == (1761055200, "five")
    assert (found[4].created_at, found[4].type) == (datetime(2025, 10, 21, 14, tzinfo=UTC), "STOP")


def test_the_working_orders_of_an_account_are_found_by_their_index(
    orders: OrderRepository, plan_of: Callable[[sa.Select[Any]], str]
) -> None:
    orders.save(an_order())
    assert "ix_orders_working" in plan_of(working_orders(account_id=456))


READS = [OrderRepository.working, OrderRepository.snapshot]


@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("account_id", [0, -1, 2**63, True, "456", 1.5])
def test_an_account_that_cannot_exist_is_refused(read: Callable[..., Any], account_id: Any) -> None:
    with pytest.raises(InvalidValue) as caught:
        read(OrderRepository(Session()), account_id=account_id)
    assert (caught.value.field, caught.value.value) == ("account_id", account_id)


@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("contract_id", ["", 7])
def test_a_contract_that_cannot_exist_is_refused(read: Callable[..., Any], contract_id: Any) -> None:
    with pytest.raises(InvalidValue) as caught:
        read(OrderRepository(Session()), contract_id=contract_id)
    assert (caught.value.field, caught.value.value) == ("contract_id", contract_id)


def test_an_id_that_cannot_exist_is_refused(orders: OrderRepository) -> None:
    with pytest.raises(InvalidValue, match=r"orders\.id"):
        orders.get("7")  # type: ignore[arg-type]


# snapshot


def same_as_working(orders: OrderRepository, **asked: Any) -> list[OrderSnapshot]:
    """The snapshot, which is what `working` gives: each row, each value, and each value's type."""
    found = orders.snapshot(**asked)
    expected = [tuple(getattr(order, name) for name in COLUMNS) for order in orders.working(**asked)]
    assert found == expected
    for row, order in zip(found, expected, strict=True):
        assert list(map(type, row)) == list(map(type, order))
        assert [getattr(value, "tzinfo", None) for value in row] == [getattr(value, "tzinfo", None) for value in order]
    return found


def test_a_snapshot_is_the_working_orders_as_values(orders: OrderRepository, session: Session) -> None:
    assert same_as_working(orders) == []
    saved = [orders.save(an_order(id=id, account_id=account_id)) for id, account_id in ((3, 456), (1, 456), (2, 789))]
    orders.save(an_order(id=4, state=OrderState.FILLED))
    a_v1_row(session, id=5, contract_id="ES")
    assert [row.id for row in same_as_working(orders)] == [5, 1, 2, 3]
    assert [row.id for row in same_as_working(orders, account_id=456)] == [5, 1, 3]
    assert [row.id for row in same_as_working(orders, account_id=456, contract_id=MNQ)] == [1, 3]
    (row,) = same_as_working(orders, account_id=789)
    assert (row.state, row.created_at, row._asdict()) == (
        OrderState.ACTIVE,
        PLACED,
        {name: getattr(saved[2], name) for name in COLUMNS},
    )


@pytest.mark.parametrize("number", [499, 500, 501, 1203])
def test_a_snapshot_of_many_orders_is_whole_and_in_order(
    orders: OrderRepository, session: Session, number: int
) -> None:
    """They are read in parts."""
    rows = [{"id": id_, "account": id_ % 7} for id_ in range(1, number + 1)]
    session.execute(
        sa.text(
            "INSERT INTO orders (id, account_id, contract_id, type, side, size, state, created_at) "
            f"VALUES (:id, :account, '{MNQ}', 2, 1, 1, 2, '2025-10-21 14:00:00')"
        ),
        rows,
    )
    assert [row.id for row in same_as_working(orders)] == [row["id"] for row in rows]


@pytest.mark.parametrize("options", [{"stream_results": True}, {"yield_per": 7}], ids=str)
def test_a_snapshot_is_whole_however_its_caller_has_rows_fetched(store: RiskStore, options: dict[str, Any]) -> None:
    with store.begin() as tx:
        for id_ in range(1, 21):
            tx.orders.save(an_order(id=id_))
    with Session(store.engine.execution_options(**options)) as session:
        assert len(same_as_working(OrderRepository(session))) == 20


@pytest.mark.parametrize("store_url", ["postgresql"], indirect=True)
@pytest.mark.parametrize("look", [OrderRepository.snapshot, OrderRepository.working])
def test_what_fails_in_a_snapshot_fails_as_in_working(
    store: RiskStore, look: Callable[[OrderRepository], object]
) -> None:
    engine = store.engine
    with Session(engine) as session:
        OrderRepository(session).save(an_order())
        session.commit()
    with Session(engine) as session, engine.connect() as other:
        other.execute(sa.text("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE"))
        session.execute(sa.text("SET LOCAL lock_timeout = '20ms'"))
        with pytest.raises(sa.exc.OperationalError, match="lock timeout"):
            look(OrderRepository(session))
    with Session(engine) as session:
        session.execute(sa.text("UPDATE orders SET updated_at = 'infinity'"))
        with pytest.raises(sa.exc.DataError, match="infinity"):  # as SQLAlchemy's, not as the driver's own
            look(OrderRepository(session))


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)  # no other engine lets such text in
def test_a_text_that_is_no_utf_8_among_many_doubles_no_order_of_a_snapshot(
    orders: OrderRepository, session: Session
) -> None:
    for id_ in range(1, 1003):
        a_v1_row(session, id=id_)
    session.execute(sa.text("UPDATE orders SET contract_id = CAST(x'58ff' AS TEXT) WHERE id = 901"))
    found = same_as_working(orders)
    assert [row.id for row in found] == list(range(1, 1003))
    assert found[900].contract_id == "X\udcff"


def test_a_snapshot_shows_what_the_session_holds_unwritten(orders: OrderRepository, session: Session) -> None:
    order = orders.save(an_order())
    order.custom_tag = "changed"
    assert [row.custom_tag for row in orders.snapshot()] == ["changed"]


instants = st.none() | st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
stored_orders = copies.flatmap(
    lambda values: st.fixed_dictionaries(
        {"created_at": instants.filter(bool), "venue_updated_at": instants, "triggered_at": instants}
    ).map(lambda times: values | times)
)
# What an old daemon may have left: forms of instants, codes of another release, and on SQLite anything at all.
odd = {
    "created_at": st.sampled_from(
        ["2025-10-21T09:00:00-05:00", "2025-10-21 14:00:00.5", "2025-10-21", "2025-10-21T14:00:00Z"]
    ),
    "updated_at": st.none() | st.sampled_from(["2025-10-21T14:00:00+00:00", "2025-10-21 14:00:00.000001"]),
    "type": st.integers(0, 9),
    "side": st.integers(0, 3),
    "limit_price": st.none() | st.floats(-10, 10) | st.integers(-10, 10),
}
unreadable = st.sampled_from(
    ["", "yesterday", "now", "21000.5", 1761055200, 2.5, b"\xff", b"2025-10-21", "2025-10-21+"]
)


@settings(max_examples=60)
@given(data=st.data(), whole=st.lists(stored_orders, max_size=4))
def test_a_snapshot_is_what_working_gives_whatever_is_stored(
    orders: OrderRepository, session: Session, undone: Callable[[], Any], data: st.DataObject, whole: list[Any]
) -> None:
    on_sqlite = session.connection().dialect.name == "sqlite"
    wild = {name: st.none() | unreadable for name in ("updated_at", "limit_price", "stop_price")}
    wild |= dict.fromkeys(("created_at", "type", "side", "size", "contract_id", "account_id"), unreadable)
    rows = st.fixed_dictionaries(
        {}, optional=odd | ({n: odd.get(n, v) | v for n, v in wild.items()} if on_sqlite else {})
    )
    with undone():
        for id, values in enumerate(whole, 1):
            orders.save(Order.from_dict(an_order(id=id).to_dict() | values))
        for id, values in enumerate(data.draw(st.lists(rows, max_size=4)), 101):
            a_v1_row(session, id=id, **values)
        same_as_working(orders)


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)  # no other engine lets such values in
def test_of_what_a_snapshot_cannot_read_is_told_as_working_tells(
    orders: OrderRepository, session: Session, caplog: pytest.LogCaptureFixture
) -> None:
    a_v1_row(session, id=2, created_at="yesterday", type=99)
    a_v1_row(session, id=3)
    with caplog.at_level("WARNING", "risk_store.unreadable"):
        assert [row.created_at for row in orders.snapshot()] == [datetime(2025, 10, 21, 14, tzinfo=UTC), "yesterday"]
    told = [record.getMessage() for record in caplog.records]
    assert [text.partition(" cannot")[0] for text in told] == [
        "orders.type, id 2: 99",
        "orders.created_at, id 2: 'yesterday'",
    ]
    caplog.clear()
    orders.working()
    orders.snapshot()
    assert not caplog.records  # once is enough

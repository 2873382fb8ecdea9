"""The models: what building one refuses, what a row becomes, and what a plain Session may write."""

import copy
import dataclasses
import inspect
import json
import pickle
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg import sql
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session
from sqlalchemy.orm.exc import UnmappedInstanceError

from risk_store.codes import OrderSide, OrderState, OrderType, PositionType
from risk_store.engines import open_engine, parse_url
from risk_store.errors import InvalidValue, shown
from risk_store.models import (
    Base,
    ClosedPosition,
    Contract,
    DailyPnl,
    EnforcementInFlight,
    EnforcementLog,
    Lockout,
    Order,
    Position,
    ResetSchedule,
    SessionState,
    Trade,
)
from tests.support.postgres import Server

# Nothing here depends on how fast the machine is.
often = settings(max_examples=60)

FIVE = datetime(2025, 10, 21, 17, tzinfo=UTC)
NAN, INF = float("nan"), float("inf")
BEYOND = 2**63
CHECKED = (
    *("account_id", "rule_id", "action", "reason", "success"),
    *("positions_closed", "orders_canceled", "execution_time_ms"),
)


def create_tables(url: str) -> None:
    creating = open_engine(parse_url(url), "migrate")
    Base.metadata.create_all(creating)
    creating.dispose()


@pytest.fixture(scope="module")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "risk.db"
    create_tables(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="module")
def postgres_tables(postgres_server: Server) -> Iterator[str]:
    """The URL of one database for all tests here, each of which leaves it empty: making one takes a while."""
    name = f"t_{uuid4().hex}"
    url = sa.make_url(postgres_server.url).set(drivername="postgresql+psycopg", database=name)
    with psycopg.connect(postgres_server.url, autocommit=True) as administrator:
        administrator.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(name)))
        try:
            create_tables(text := url.render_as_string(hide_password=False))
            yield text
        finally:
            administrator.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[sa.Engine]:
    """An engine with the store's settings, on empty tables of today."""
    if request.param == "sqlite":
        file = shutil.copy(request.getfixturevalue("sqlite_template"), tmp_path / "risk.db")
        url = f"sqlite:///{file}"
    else:
        url = request.getfixturevalue("postgres_tables")
    engine = open_engine(parse_url(url), "store")
    yield engine
    if request.param == "postgresql":
        with engine.begin() as connection:
            connection.execute(sa.text(f"TRUNCATE {', '.join(Base.metadata.tables)}"))
    engine.dispose()


@pytest.fixture
def sqlite_file(sqlite_template: Path, tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """Tables of today as another program sees them: the driver, and no code of ours."""
    with closing(sqlite3.connect(shutil.copy(sqlite_template, tmp_path / "risk.db"))) as connection:
        yield connection


def order(**changes: Any) -> Order:
    """A valid order, with `changes`."""
    values: dict[str, Any] = {
        "id": 123,
        "account_id": 456,
        "contract_id": "CON.F.US.MNQ.U25",
        "type": OrderType.MARKET,
        "side": OrderSide.SELL,
        "size": 2,
        "state": OrderState.ACTIVE,
    }
    return Order(**values | changes)


TRAILING: dict[str, Any] = {"type": OrderType.TRAILING_STOP, "stop_price": 20990.0, "trailing_amount": 10.0}


def log(**changes: Any) -> EnforcementLog:
    """A log row that may be written, with `changes`."""
    values: dict[str, Any] = {
        "account_id": 123,
        "rule_id": "RULE-003",
        "action": "CLOSE_ALL_AND_LOCKOUT",
        "reason": "Daily loss limit hit: -$550",
        "success": True,
    }
    return EnforcementLog(**values | changes)


# An order is refused


PRICES = ("limit_price", "stop_price", "trailing_amount", "fill_price", "venue_stop_price")
NOT_FINITE = (NAN, INF, -INF, 10**400, Decimal("NaN"), Decimal("sNaN"), Decimal("1e400"), "1.5", b"1", True, 1j, [1.0])
NOT_IDS = (0, -1, BEYOND, -BEYOND, 1.0, "1", True, Decimal(1))
REFUSED: list[tuple[str, Any]] = [
    *(("size", value) for value in (0, -1, BEYOND, 1.0, "1", True, None)),
    *((field, value) for field in PRICES for value in NOT_FINITE),
    *(("trailing_amount", value) for value in (0, 0.0, -0.0, -10.0, -5e-324)),
    *(("filled_size", value) for value in (-1, 3, BEYOND, 0.5, "1", True, None)),
    *((field, value) for field in ("id", "account_id") for value in (*NOT_IDS, None)),
    *((field, value) for field in ("parent_order_id", "linked_order_id") for value in NOT_IDS),
    *(("contract_id", value) for value in ("", None, 5, b"X")),
    *(("type", value) for value in (0, 6, 99, -1, 2.0, "LIMIT", "2", True, None)),
    *(("side", value) for value in (2, -1, 0.0, "SELL", False, None)),
    *(("state", value) for value in (0, 9, -1, 2.0, "ACTIVE", True, None)),
]


@pytest.mark.parametrize(("field", "value"), REFUSED, ids=lambda value: shown(value)[:30])
def test_an_order_with_an_impossible_value_is_refused_by_field_and_value(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{field}: ") as refusal:
        order(**TRAILING | {field: value})
    assert isinstance(refusal.value, InvalidValue)
    assert refusal.value.field == field
    assert refusal.value.value is value or refusal.value.value == value
    assert shown(value) in str(refusal.value)


@pytest.mark.parametrize(
    ("kind", "given_prices", "missing"),
    [
        (OrderType.LIMIT, {}, "limit_price"),
        (OrderType.LIMIT, {"stop_price": 1.0}, "limit_price"),
        (OrderType.STOP, {}, "stop_price"),
        (OrderType.STOP, {"limit_price": 1.0}, "stop_price"),
        (OrderType.STOP_LIMIT, {"stop_price": 1.0}, "limit_price"),
        (OrderType.STOP_LIMIT, {"limit_price": 1.0}, "stop_price"),
        (OrderType.STOP_LIMIT, {}, "limit_price"),
    ],
)
def test_an_order_without_a_price_of_its_type_is_refused(
    kind: OrderType, given_prices: dict[str, float], missing: str
) -> None:
    with pytest.raises(ValueError, match=f"^{missing}: None is not a price, which a {kind.name} order must have$"):
        order(type=kind, **given_prices)


def test_a_trailing_stop_without_a_stop_is_refused_in_the_specifications_words() -> None:
    with pytest.raises(ValueError) as refusal:  # noqa: PT011 (the whole text is compared below)
        order(type=OrderType.TRAILING_STOP, trailing_amount=10.0)
    assert str(refusal.value) == "Trailing stop order must have stop_price"
    with pytest.raises(ValueError) as refusal:  # noqa: PT011
        order(type=OrderType.TRAILING_STOP)
    assert str(refusal.value) == "Trailing stop order must have stop_price"


def test_a_trailing_stop_without_a_distance_is_refused_in_the_specifications_words() -> None:
    with pytest.raises(ValueError) as refusal:  # noqa: PT011
        order(type=OrderType.TRAILING_STOP, stop_price=20990.0)
    assert str(refusal.value) == "Trailing stop order must have trailing_amount"
    assert isinstance(refusal.value, InvalidValue)
    assert (refusal.value.field, refusal.value.value) == ("trailing_amount", None)


def test_an_order_is_built_by_keyword_only() -> None:
    with pytest.raises(TypeError):
        Order(123, 456, "CON.F.US.MNQ.U25", OrderType.MARKET, OrderSide.BUY, 1, OrderState.ACTIVE)  # type: ignore[call-arg,misc]


# An order is taken


@pytest.mark.parametrize("price", [-37.63, 0.0, -0.0, 5e-324, -1.7976931348623157e308, 21000, Decimal("20990.25")])
def test_the_sign_and_size_of_a_price_are_not_checked(price: Any) -> None:
    made = order(type=OrderType.STOP_LIMIT, limit_price=price, stop_price=price, fill_price=price)
    assert made.limit_price == made.stop_price == made.fill_price == float(price)


def test_a_trailing_stop_may_stand_below_zero() -> None:
    assert order(**TRAILING | {"stop_price": -37.63}).stop_price == -37.63


def test_codes_given_as_integers_become_members() -> None:
    made = order(type=1, side=0, state=7)
    assert (made.type, made.side, made.state) == (OrderType.MARKET, OrderSide.BUY, OrderState.PARTIAL)
    assert [type(code) for code in (made.type, made.side, made.state)] == [OrderType, OrderSide, OrderState]


def test_the_largest_ids_and_sizes_are_taken() -> None:
    made = order(id=BEYOND - 1, account_id=BEYOND - 1, size=BEYOND - 1, filled_size=BEYOND - 1)
    assert made.filled_size == made.size == made.id


@pytest.mark.parametrize("filled", [0, 1, 2])
def test_an_order_may_be_filled_from_nothing_to_its_size(filled: int) -> None:
    assert order(size=2, filled_size=filled).filled_size == filled


def test_an_order_is_created_now_in_utc_unless_told_otherwise() -> None:
    before = datetime.now(UTC)
    made = order()
    assert before <= made.created_at <= datetime.now(UTC)
    assert made.created_at.tzinfo is UTC
    assert order(created_at=FIVE).created_at == FIVE


def test_a_price_given_as_a_decimal_or_an_integer_is_the_number_that_will_be_stored() -> None:
    values = order(**TRAILING | {"stop_price": Decimal("20990.1"), "trailing_amount": 2**53 + 1}).to_dict()
    assert (values["stop_price"], values["trailing_amount"]) == (20990.1, 2.0**53)
    assert json.loads(json.dumps(values)) == values


# Orders to dictionaries and back


finite = st.floats(allow_nan=False, allow_infinity=False)
distances = st.floats(min_value=0, exclude_min=True, allow_infinity=False)
ids = st.integers(1, BEYOND - 1)
offsets = st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))
instants = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC) | offsets)  # noqa: DTZ001
words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20)


@st.composite
def valid_orders(draw: st.DrawFn) -> Order:
    kind = draw(st.sampled_from(OrderType))

    def needed(strategy: st.SearchStrategy[float], *kinds: OrderType) -> float | None:
        return draw(strategy if kind in kinds else st.none() | strategy)

    size = draw(st.integers(1, BEYOND - 1) | st.integers(1, 5))
    return Order(
        id=draw(ids),
        account_id=draw(ids),
        contract_id=draw(words),
        type=kind,
        side=draw(st.sampled_from(OrderSide)),
        size=size,
        limit_price=needed(finite, OrderType.LIMIT, OrderType.STOP_LIMIT),
        stop_price=needed(finite, OrderType.STOP, OrderType.STOP_LIMIT, OrderType.TRAILING_STOP),
        state=draw(st.sampled_from(OrderState)),
        created_at=draw(instants),
        updated_at=draw(st.none() | instants),
        trailing_amount=needed(distances, OrderType.TRAILING_STOP),
        filled_size=draw(st.integers(0, size)),
        fill_price=draw(st.none() | finite),
        custom_tag=draw(st.none() | words),
        parent_order_id=draw(st.none() | ids),
        linked_order_id=draw(st.none() | ids),
        venue_stop_price=draw(st.none() | finite),
        venue_updated_at=draw(st.none() | instants),
        triggered_at=draw(st.none() | instants),
        seen_at=draw(st.none() | instants),
        unconfirmed_since=draw(st.none() | instants),
    )


@often
@given(made=valid_orders())
def test_from_dict_is_the_inverse_of_to_dict_also_through_json(made: Order) -> None:
    values = made.to_dict()
    through_json = json.loads(json.dumps(values, allow_nan=False))
    assert through_json == values
    assert Order.from_dict(values) == made
    back = Order.from_dict(through_json)
    assert back == made
    assert datetime.fromisoformat(values["created_at"]) == made.created_at
    assert datetime.fromisoformat(values["created_at"]).utcoffset() is not None
    assert {name: type(getattr(back, name)) for name in values} == {name: type(getattr(made, name)) for name in values}


def test_to_dict_has_every_field_in_order_codes_as_integers_and_instants_with_offset() -> None:
    values = order(created_at=FIVE).to_dict()
    assert list(values) == [field.name for field in dataclasses.fields(Order)] == list(Order.__table__.columns.keys())
    assert [(values[name], type(values[name])) for name in ("type", "side", "state")] == [(1, int), (1, int), (2, int)]
    assert (values["created_at"], values["seen_at"]) == ("2025-10-21T17:00:00+00:00", None)


def test_an_instant_in_a_repeated_hour_survives_to_dict_as_the_same_instant() -> None:
    from zoneinfo import ZoneInfo

    for fold in (0, 1):
        local = datetime(2025, 11, 2, 1, 30, tzinfo=ZoneInfo("America/Chicago"), fold=fold)
        back = Order.from_dict(order(created_at=local).to_dict()).created_at
        assert back == local.astimezone(UTC)
        assert back.hour == 6 + fold


def test_from_dict_takes_what_a_store_may_hold_without_validating() -> None:
    loaded = Order.from_dict({"id": -1, "type": 99, "size": 0, "stop_price": 21000, "created_at": "yesterday"})
    assert (loaded.id, loaded.type, loaded.size, loaded.created_at) == (-1, 99, 0, "yesterday")
    assert (loaded.stop_price, type(loaded.stop_price)) == (21000.0, float)
    assert Order.from_dict({"type": [5], "limit_price": 10**400}).type == [5]


def test_from_dict_refuses_a_key_that_is_no_field_and_names_it() -> None:
    with pytest.raises(ValueError, match="Order has no field colour, trailing_distance; it has id, account_id"):
        Order.from_dict({"id": 1, "trailing_distance": 5, "colour": "red"})


def test_reading_a_row_may_be_the_first_thing_a_program_does() -> None:
    """Before any query or construction, which would have made the mappers ready."""
    row = (7, 123, "RULE-003", "CLOSE_ALL", "loss", 1, None, 2, 1, "2025-10-21 17:00:00")
    program = f"from risk_store.models import EnforcementLog; print(EnforcementLog.from_db_row({row}).id)"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.stdout, done.stderr) == ("7\n", "")


# Orders from rows


V1_ROW = (7, 1, "CON.F.US.MNQ.U25", 5, 1, 3, None, 20990.0, 2, "2025-10-21 17:00:00", "2025-10-21T12:00:01-05:00")
TODAY_ROW = (
    *V1_ROW,
    *(10.0, 1, 20991.25, "tag", 8, 9, 20985.0),
    *("2025-10-21 17:00:02", None, "2025-10-21 17:00:03.5", "2025-10-21T17:00:04Z"),
)


def assert_read(loaded: Order) -> None:
    assert (loaded.id, loaded.account_id, loaded.contract_id) == (7, 1, "CON.F.US.MNQ.U25")
    assert (loaded.type, loaded.side, loaded.state) == (OrderType.TRAILING_STOP, OrderSide.SELL, OrderState.ACTIVE)
    assert (loaded.size, loaded.limit_price, loaded.stop_price) == (3, None, 20990.0)
    assert (loaded.created_at, loaded.updated_at) == (FIVE, FIVE + timedelta(seconds=1))
    assert loaded.created_at.tzinfo is UTC


def assert_read_whole(loaded: Order) -> None:
    assert_read(loaded)
    assert (loaded.trailing_amount, loaded.filled_size, loaded.fill_price, loaded.custom_tag) == (
        10,
        1,
        20991.25,
        "tag",
    )
    assert (loaded.parent_order_id, loaded.linked_order_id, loaded.venue_stop_price) == (8, 9, 20985.0)
    assert (loaded.venue_updated_at, loaded.triggered_at) == (FIVE + timedelta(seconds=2), None)
    assert (loaded.seen_at, loaded.unconfirmed_since) == (FIVE + timedelta(seconds=3.5), FIVE + timedelta(seconds=4))


def test_a_row_of_v1s_width_is_an_order_without_what_came_later() -> None:
    loaded = Order.from_db_row(V1_ROW)
    assert_read(loaded)
    assert (loaded.trailing_amount, loaded.filled_size, loaded.venue_updated_at) == (None, 0, None)


def test_a_row_of_todays_width_is_a_whole_order() -> None:
    assert len(TODAY_ROW) == 22
    assert_read_whole(Order.from_db_row(TODAY_ROW))
    assert_read_whole(Order.from_db_row(list(TODAY_ROW)))


@pytest.mark.parametrize("width", sorted(set(range(40)) - {11, 22}))
def test_an_order_row_of_another_width_is_refused(width: int) -> None:
    with pytest.raises(ValueError, match=f"^a row of orders has 11 or 22 values, this one has {width}$"):
        Order.from_db_row((1,) * width)


def test_a_mapping_is_an_order_whatever_the_order_of_its_keys() -> None:
    named = dict(zip(Order.__table__.columns.keys(), TODAY_ROW, strict=True))
    assert_read_whole(Order.from_db_row(named))
    assert_read_whole(Order.from_db_row(dict(reversed(named.items())) | {"rowid": 7, "note": "not ours"}))
    assert_read(Order.from_db_row(dict(zip(Order.V1_COLUMNS, V1_ROW, strict=True))))


def test_a_mapping_without_any_column_of_ours_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^this row has no column of orders: \['colour'\]$"):
        Order.from_db_row({"colour": "red"})


def test_a_row_of_the_sqlite_driver_is_an_order(sqlite_file: sqlite3.Connection) -> None:
    sqlite_file.execute(f"INSERT INTO orders VALUES ({', '.join('?' * 22)})", TODAY_ROW)
    whole, v1 = "SELECT * FROM orders", f"SELECT {', '.join(Order.V1_COLUMNS)} FROM orders"
    assert_read_whole(Order.from_db_row(sqlite_file.execute(whole).fetchone()))
    assert_read(Order.from_db_row(sqlite_file.execute(v1).fetchone()))
    sqlite_file.row_factory = sqlite3.Row
    assert_read_whole(Order.from_db_row(sqlite_file.execute(whole).fetchone()))
    assert_read(Order.from_db_row(sqlite_file.execute(v1).fetchone()))


def test_a_row_of_sqlalchemy_is_an_order(engine: sa.Engine) -> None:
    written = Order.from_db_row(TODAY_ROW)
    with Session(engine) as session, session.begin():
        session.add(written)
    with engine.begin() as connection:
        core = connection.execute(sa.select(Order.__table__)).one()
        plain = connection.execute(sa.text("SELECT * FROM orders")).one()
        some = connection.execute(sa.select(Order.id, Order.state)).one()
    for row in (core, core._mapping, tuple(core), plain, plain._mapping):
        assert_read_whole(Order.from_db_row(row))
    assert (Order.from_db_row(some).id, Order.from_db_row(some).state) == (7, OrderState.ACTIVE)


def test_rows_are_not_validated() -> None:
    """A v1 row of type 5 has no distance, and a code of a later release must not hide an order."""
    assert Order.from_db_row(V1_ROW).trailing_amount is None
    odd = Order.from_db_row((-1, 0, "", 99, 7, 0, None, None, 42, "soon", 5))
    assert (odd.type, odd.side, odd.state, odd.created_at, odd.updated_at) == (99, 7, 42, "soon", 5)


# Orders in a database


def test_a_valid_order_comes_back_from_the_database_as_it_was(engine: sa.Engine) -> None:
    @settings(often, max_examples=25)
    @given(made=valid_orders())
    def check(made: Order) -> None:
        values = made.to_dict()
        expected = Order.from_dict(values)
        with Session(engine) as session:
            session.add(made)
            session.flush()
            session.expunge_all()
            loaded = session.scalars(sa.select(Order)).one()
            if expected.updated_at is None:  # then the database sets it
                expected.updated_at = loaded.updated_at
            for name in ("limit_price", "stop_price", "fill_price", "venue_stop_price"):
                if getattr(expected, name) == 0:
                    setattr(expected, name, 0.0)  # the sign of zero is not kept
            assert loaded == expected
            assert Order.from_dict(loaded.to_dict()) == loaded
            session.rollback()

    check()


def test_a_trailing_stop_is_stored_as_type_5_and_there_after_a_restart(engine: sa.Engine) -> None:
    with Session(engine) as session, session.begin():
        session.add(order(**TRAILING))
    with engine.connect() as connection:
        raw = connection.execute(sa.text("SELECT type, side, state, stop_price, trailing_amount FROM orders")).one()
    assert tuple(raw) == (5, 1, 2, 20990.0, 10.0)
    url = engine.url
    engine.dispose()
    again = sa.create_engine(url)
    with Session(again) as session:
        loaded = session.get_one(Order, 123)
    again.dispose()
    assert loaded.type is OrderType.TRAILING_STOP
    assert (loaded.side, loaded.stop_price, loaded.trailing_amount) == (OrderSide.SELL, 20990.0, 10.0)


def test_loading_never_validates_and_the_row_can_be_worked_on(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        connection.execute(
            sa.text(
                "INSERT INTO orders (id, account_id, contract_id, type, side, size, stop_price, state, created_at)"
                " VALUES (123, 456, 'CON.F.US.MNQ.U25', 5, 1, 1, 20990.00, 2, CURRENT_TIMESTAMP),"
                " (124, 456, '', 99, 1, 0, NULL, 2, CURRENT_TIMESTAMP)"
            )
        )
    with Session(engine) as session, session.begin():
        trailing, unknown = session.scalars(sa.select(Order).order_by(Order.id)).all()
        assert (trailing.type, trailing.trailing_amount, trailing.filled_size) == (OrderType.TRAILING_STOP, None, 0)
        assert (unknown.type, unknown.size) == (99, 0)
        unknown.state = OrderState.CANCELED
    with Session(engine) as session:
        assert session.scalars(sa.select(Order.type).where(Order.state == OrderState.CANCELED)).all() == [99]


def test_an_assignment_that_skips_the_constructor_is_refused_when_written(engine: sa.Engine) -> None:
    with Session(engine) as session, session.begin():
        session.add(order())
    for field, value in [("limit_price", NAN), ("state", 9), ("created_at", datetime.min), ("id", BEYOND)]:  # noqa: DTZ901
        with Session(engine) as session:
            setattr(session.get_one(Order, 123), field, value)
            with pytest.raises(InvalidValue, match=rf"^orders\.{field}: "):
                session.flush()


# When a row last changed


def changing_rows() -> list[tuple[Base, str, str, Any]]:
    """One row of each model that says when it changed: the column, and a change."""
    return [
        (order(), "updated_at", "state", OrderState.FILLED),
        (Lockout(account_id=456), "updated_at", "is_locked", True),
        (
            Position(id=1, account_id=2, contract_id="X", type=PositionType.LONG, size=1, average_price=1.5),
            "updated_at",
            "size",
            2,
        ),
        (SessionState(account_id=456, session_start=FIVE), "updated_at", "session_start", FIVE + timedelta(days=1)),
        (DailyPnl(account_id=456, date=date(2025, 10, 21)), "last_updated", "realized_pnl", -550.0),
    ]


def test_the_database_says_when_a_row_was_written_and_the_model_when_it_changed(engine: sa.Engine) -> None:
    for row, column, field, value in changing_rows():
        assert getattr(row, column) is None
        with Session(engine) as session, session.begin():
            session.add(row)
        with Session(engine) as session:
            found = session.scalars(sa.select(type(row))).one()
            written = getattr(found, column)
            assert abs(written - datetime.now(UTC)) < timedelta(minutes=5)  # the server's clock may be another one
            assert written.tzinfo is UTC
            before = datetime.now(UTC)
            setattr(found, field, value)
            session.commit()
            assert before <= getattr(found, column) <= datetime.now(UTC)


def test_a_statement_of_the_callers_own_sets_the_time_of_change_too(engine: sa.Engine) -> None:
    with Session(engine) as session, session.begin():
        session.add(order(updated_at=FIVE))
    before = datetime.now(UTC)
    with Session(engine) as session, session.begin():
        assert session.get_one(Order, 123).updated_at == FIVE  # given, so kept
        session.execute(sa.update(Order).where(Order.state == OrderState.ACTIVE).values(state=OrderState.FILLED))
    with Session(engine) as session:
        changed = session.get_one(Order, 123).updated_at
    assert changed is not None
    assert before <= changed <= datetime.now(UTC)


def test_every_model_survives_the_database_and_a_dictionary(engine: sa.Engine) -> None:
    rows: list[Base] = [
        *(row for row, *_ in changing_rows()),
        log(execution_time_ms=145, positions_closed=2, details='{"a": 1}', enforcement_id="e-1", timestamp=FIVE),
        EnforcementInFlight(
            account_id=1, enforcement_id="e", rule_id="R", action="A", reason="r", host="h", pid=7, started_at=FIVE
        ),
        Trade(account_id=1, timestamp=FIVE, contract_id="X", side=OrderSide.BUY, size=1, price=-37.63, fees=0.37),
        Contract(contract_id="X", tick_size=0.25, tick_value=0.5, symbol_id="F.US.MNQ"),
        ClosedPosition(id=1, account_id=2, contract_id="X", created_at=FIVE, closed_at=FIVE),
        ResetSchedule(
            account_id=1,
            last_reset_date=date(2025, 10, 20),
            next_reset_time=FIVE,
            reset_time_config="17:00",
            timezone="America/Chicago",
        ),
    ]
    assert {type(row) for row in rows} == {mapper.class_ for mapper in Base.registry.mappers}
    for row in rows:
        with Session(engine) as session, session.begin():
            session.add(row)
        with Session(engine) as session:
            loaded = session.scalars(sa.select(type(row))).one()
        values = loaded.to_dict()
        assert json.loads(json.dumps(values, allow_nan=False)) == values
        assert type(row).from_dict(values) == loaded
        with Session(engine) as session:
            session.add(row)
            assert row.to_dict() == values  # what the writer holds is what the reader gets


# The log: construction


def test_the_specifications_validation_queries_hold() -> None:
    # Test OrderType.TRAILING_STOP
    assert OrderType.TRAILING_STOP == 5
    assert OrderType.TRAILING_STOP in OrderType.__members__.values()

    # Test EnforcementLog.execution_time_ms
    log = EnforcementLog(
        account_id=123,
        rule_id="RULE-003",
        action="CLOSE_ALL",
        reason="Test",
        success=True,
        execution_time_ms=145,
    )
    assert log.execution_time_ms == 145

    # Test backward compatibility
    old_log = EnforcementLog(
        account_id=123,
        rule_id="RULE-003",
        action="CLOSE_ALL",
        reason="Test",
        success=True,
        # No execution_time_ms
    )
    assert old_log.execution_time_ms is None  # Default value


LOG_FIELDS = [
    *("id", "account_id", "rule_id", "action", "reason", "success", "error_message"),
    *("positions_closed", "orders_canceled", "timestamp", "execution_time_ms", "details", "enforcement_id"),
]


def test_a_log_is_built_by_position_in_the_specifications_order() -> None:
    values = (7, 123, "RULE-003", "CLOSE_ALL", "loss", True, "late", 2, 1, FIVE, 145, '{"a": 1}', "e-1")
    made = EnforcementLog(*values)
    assert [field.name for field in dataclasses.fields(EnforcementLog)] == LOG_FIELDS
    assert tuple(getattr(made, name) for name in LOG_FIELDS) == values
    assert EnforcementLog(*values[:10]).execution_time_ms is None  # as v1 code does


def test_a_log_built_from_nothing_has_the_specifications_defaults() -> None:
    before = datetime.now(UTC)
    made = EnforcementLog()
    assert made.timestamp is not None
    assert before <= made.timestamp <= datetime.now(UTC)
    assert made.timestamp.tzinfo is UTC
    defaults = {name: getattr(made, name) for name in LOG_FIELDS if name != "timestamp"}
    assert defaults == {
        "id": None,
        "account_id": 0,
        "rule_id": "",
        "action": "",
        "reason": "",
        "success": False,
        "error_message": None,
        "positions_closed": 0,
        "orders_canceled": 0,
        "execution_time_ms": None,
        "details": None,
        "enforcement_id": None,
    }
    assert list(made.to_dict()) == LOG_FIELDS


@pytest.mark.parametrize("milliseconds", [None, 0, 145, BEYOND - 1])
def test_to_dict_of_a_log_includes_its_time(milliseconds: int | None) -> None:
    values = log(execution_time_ms=milliseconds, timestamp=FIVE).to_dict()
    assert values["execution_time_ms"] == milliseconds
    assert values["timestamp"] == "2025-10-21T17:00:00+00:00"
    assert EnforcementLog.from_dict(json.loads(json.dumps(values))) == log(
        execution_time_ms=milliseconds, timestamp=FIVE
    )


# The log: rows


def test_a_log_row_9_wide_is_in_v1s_order() -> None:
    row = (1, "2025-10-21 17:00:00", 123, "RULE-003", "CLOSE_ALL", "loss", 1, '{"positions_closed": 2}', 145)
    loaded = EnforcementLog.from_db_row(row)
    assert (loaded.id, loaded.timestamp, loaded.account_id, loaded.rule_id) == (1, FIVE, 123, "RULE-003")
    assert (loaded.action, loaded.reason, loaded.success) == ("CLOSE_ALL", "loss", True)
    assert (loaded.details, loaded.execution_time_ms) == ('{"positions_closed": 2}', 145)
    assert (loaded.error_message, loaded.positions_closed, loaded.enforcement_id) == (None, 0, None)


SPECIFICATION_ROW = (1, 123, "RULE-003", "CLOSE_ALL", "loss", 0, "closed 3 of 4", 3, 1, "2025-10-21 17:00:00", 145)


@pytest.mark.parametrize(("width", "milliseconds"), [(10, None), (11, 145)])
def test_a_log_row_10_or_11_wide_is_in_the_specifications_order(width: int, milliseconds: int | None) -> None:
    loaded = EnforcementLog.from_db_row(SPECIFICATION_ROW[:width])
    assert (loaded.id, loaded.account_id, loaded.rule_id, loaded.action) == (1, 123, "RULE-003", "CLOSE_ALL")
    assert (loaded.reason, loaded.success, loaded.error_message) == ("loss", False, "closed 3 of 4")
    assert (loaded.positions_closed, loaded.orders_canceled, loaded.timestamp) == (3, 1, FIVE)
    assert loaded.execution_time_ms == milliseconds


def test_an_old_log_row_without_a_time_has_none() -> None:
    assert EnforcementLog.from_db_row((*SPECIFICATION_ROW[:10], None)).execution_time_ms is None


@pytest.mark.parametrize("width", sorted(set(range(30)) - {9, 10, 11}))
def test_a_log_row_of_another_width_is_refused(width: int) -> None:
    with pytest.raises(ValueError, match=f"^a row of enforcement_log has 9 or 10 or 11 values, this one has {width}$"):
        EnforcementLog.from_db_row((1,) * width)


def test_a_log_row_of_the_sqlite_driver_is_a_log(sqlite_file: sqlite3.Connection) -> None:
    columns = ", ".join(EnforcementLog.SPECIFICATION_COLUMNS)
    marks = ", ".join("?" * 11)
    sqlite_file.execute(f"INSERT INTO enforcement_log ({columns}) VALUES ({marks})", SPECIFICATION_ROW)
    expected = EnforcementLog.from_db_row(SPECIFICATION_ROW)
    v1 = f"SELECT {', '.join(EnforcementLog.V1_COLUMNS)} FROM enforcement_log"
    assert EnforcementLog.from_db_row(sqlite_file.execute(v1).fetchone()).execution_time_ms == 145
    sqlite_file.row_factory = sqlite3.Row
    assert EnforcementLog.from_db_row(sqlite_file.execute("SELECT * FROM enforcement_log").fetchone()) == expected


def test_a_log_row_of_sqlalchemy_is_a_log(engine: sa.Engine) -> None:
    with Session(engine) as session, session.begin():
        session.add(EnforcementLog.from_db_row(SPECIFICATION_ROW))
    with engine.begin() as connection:
        core = connection.execute(sa.select(EnforcementLog.__table__)).one()
        plain = connection.execute(sa.text("SELECT * FROM enforcement_log")).one()
    expected = EnforcementLog.from_db_row(SPECIFICATION_ROW)
    for row in (core, core._mapping, plain, dict(plain._mapping)):
        assert EnforcementLog.from_db_row(row) == expected


# The log: writing


NOT_WRITABLE: list[tuple[str, Any]] = [
    *(("account_id", value) for value in (0, -1, BEYOND, True, 1.0, "1", None)),
    *((field, value) for field in ("rule_id", "action", "reason") for value in ("", None, 5, b"R")),
    *((field, value) for field in ("rule_id", "action") for value in ("a\0b", "\udc80")),
    *(("success", value) for value in (None, 1, 0, "yes")),
    *((field, value) for field in ("positions_closed", "orders_canceled") for value in (-1, 1.5, True, None)),
    *(("execution_time_ms", value) for value in (-1, 0.5, 145.0, "145", True)),
]


def test_a_bad_log_row_is_refused_also_through_a_plain_session(engine: sa.Engine) -> None:
    for field, value in NOT_WRITABLE:
        bad = log(**{field: value})
        with Session(engine) as session:
            session.add(log())
            session.add(bad)
            with pytest.raises(InvalidValue, match=f"^{field}: ") as refusal:
                session.commit()
        assert (refusal.value.field, refusal.value.value) == (field, value)
        with pytest.raises(InvalidValue, match=f"^{field}: "):
            bad.check_writable()
    for field, value in [("execution_time_ms", BEYOND), ("positions_closed", BEYOND), ("enforcement_id", "a\0b")]:
        with Session(engine) as session:
            session.add(log(**{field: value}))
            with pytest.raises(InvalidValue, match=rf"^enforcement_log\.{field}: "):
                session.commit()
    with Session(engine) as session:
        assert session.scalars(sa.select(sa.func.count()).select_from(EnforcementLog)).one() == 0


def test_a_log_built_from_nothing_cannot_be_written(engine: sa.Engine) -> None:
    with Session(engine) as session:
        session.add(EnforcementLog())
        with pytest.raises(InvalidValue, match=r"^account_id: 0 is not an account id from 1 to"):
            session.flush()


def test_a_time_of_zero_is_a_time(engine: sa.Engine) -> None:
    with Session(engine) as session, session.begin():
        session.add_all([log(execution_time_ms=0), log(execution_time_ms=None)])
    with Session(engine) as session:
        statement = sa.select(EnforcementLog.execution_time_ms).order_by(EnforcementLog.id)
        assert session.scalars(statement).all() == [0, None]


def test_free_text_never_keeps_a_row_out_of_the_log(engine: sa.Engine) -> None:
    with Session(engine) as session, session.begin():
        session.add(log(reason="bad\0byte \udc80", error_message="\ud800", details="\0", success=False))
    with Session(engine) as session:
        loaded = session.scalars(sa.select(EnforcementLog)).one()
    assert (loaded.reason, loaded.error_message, loaded.details) == (r"bad\x00byte \udc80", r"\ud800", r"\x00")


def test_an_enforcement_is_in_the_log_once_per_account(engine: sa.Engine) -> None:
    with Session(engine) as session, session.begin():
        session.add_all([log(enforcement_id="e-1"), log(enforcement_id="e-1", account_id=124), log(), log()])
    with Session(engine) as session:
        session.add(log(enforcement_id="e-1"))
        with pytest.raises(IntegrityError):
            session.flush()


def test_an_id_of_the_log_is_never_given_twice(engine: sa.Engine) -> None:
    with Session(engine) as session, session.begin():
        session.add_all([log(), last := log()])
        session.flush()
        gone = last.id
        session.delete(last)
    with Session(engine) as session, session.begin():
        session.add(new := log())
        session.flush()
        assert gone is not None
        assert new.id is not None
        assert new.id > gone


def test_a_row_inserted_with_v1s_columns_alone_gets_its_defaults_from_the_database(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        connection.execute(
            sa.text("INSERT INTO enforcement_log (account_id, rule_id, action, reason) VALUES (123, 'R', 'A', 'x')")
        )
        connection.execute(sa.text("INSERT INTO lockouts (account_id) VALUES (123)"))
        connection.execute(sa.text("INSERT INTO daily_pnl (account_id, date) VALUES (123, '2025-10-21')"))
    with Session(engine) as session:
        row = session.scalars(sa.select(EnforcementLog)).one()
        lockout = session.get_one(Lockout, 123)
        pnl = session.scalars(sa.select(DailyPnl)).one()
    assert (row.success, row.positions_closed, row.orders_canceled, row.execution_time_ms) == (True, 0, 0, None)
    assert row.timestamp is not None
    assert abs(row.timestamp - datetime.now(UTC)) < timedelta(minutes=5)
    assert (lockout.is_locked, lockout.locked_until) == (False, None)
    assert lockout.created_at is not None
    assert (pnl.date, pnl.realized_pnl, pnl.fees) == (date(2025, 10, 21), 0.0, 0.0)


# The specification's own SQL on tables and rows of ours

TREND = """
SELECT
    DATE(timestamp) as date,
    AVG(execution_time_ms) as avg_time_ms,
    COUNT(*) as enforcement_count
FROM enforcement_log
WHERE success = 1
  AND execution_time_ms IS NOT NULL
  AND timestamp >= datetime('now', '-7 days')
GROUP BY DATE(timestamp)
ORDER BY date DESC;
"""


def test_the_specifications_insert_and_its_queries_work_on_our_tables(sqlite_file: sqlite3.Connection) -> None:
    for made in [
        log(execution_time_ms=100, timestamp=datetime.now(UTC), positions_closed=2, orders_canceled=1),
        log(execution_time_ms=200, timestamp=datetime.now(UTC)),
        log(execution_time_ms=1500, timestamp=datetime.now(UTC), rule_id="RULE-001"),
        log(execution_time_ms=9000, timestamp=datetime.now(UTC), success=False),
        log(timestamp=datetime.now(UTC)),
    ]:
        sqlite_file.execute(
            """
    INSERT INTO enforcement_log
    (account_id, rule_id, action, reason, success, positions_closed,
     orders_canceled, execution_time_ms)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?)
""",
            (
                made.account_id,
                made.rule_id,
                made.action,
                made.reason,
                made.success,
                made.positions_closed,
                made.orders_canceled,
                made.execution_time_ms,
            ),
        )
    by_rule = sqlite_file.execute(
        """
SELECT
    rule_id,
    AVG(execution_time_ms) as avg_time_ms,
    MIN(execution_time_ms) as min_time_ms,
    MAX(execution_time_ms) as max_time_ms,
    COUNT(*) as enforcement_count
FROM enforcement_log
WHERE success = 1
  AND execution_time_ms IS NOT NULL
GROUP BY rule_id
ORDER BY avg_time_ms DESC;
"""
    ).fetchall()
    assert by_rule == [("RULE-001", 1500.0, 1500, 1500, 1), ("RULE-003", 150.0, 100, 200, 2)]
    slow = sqlite_file.execute(
        """
SELECT
    timestamp,
    account_id,
    rule_id,
    action,
    execution_time_ms,
    positions_closed,
    orders_canceled
FROM enforcement_log
WHERE execution_time_ms > 1000  -- >1 second
ORDER BY execution_time_ms DESC
LIMIT 10;
"""
    ).fetchall()
    assert [row[4] for row in slow] == [9000, 1500]
    trend = sqlite_file.execute(TREND).fetchall()
    assert sum(row[2] for row in trend) == 3


def test_the_specifications_trend_reads_what_our_models_wrote(sqlite_template: Path, tmp_path: Path) -> None:
    engine = open_engine(parse_url(f"sqlite:///{shutil.copy(sqlite_template, tmp_path / 'risk.db')}"), "store")
    now = datetime.now(UTC)
    with Session(engine) as session, session.begin():
        session.add_all(
            [log(execution_time_ms=145, timestamp=now), log(execution_time_ms=5, timestamp=now - timedelta(days=8))]
        )
    with engine.connect() as connection:
        days = connection.exec_driver_sql(TREND).all()
    engine.dispose()
    assert [tuple(day) for day in days] == [(now.date().isoformat(), 145.0, 1)]


# Models that are made with every enforcement have an __init__ of their own


@pytest.mark.parametrize("model", [EnforcementLog, EnforcementInFlight, Lockout])
def test_a_model_with_an_init_of_its_own_is_made_as_its_dataclass_says(model: type[Base]) -> None:
    required = {
        field.name: 7
        for field in dataclasses.fields(model)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }
    made: Any = model(**required)
    for field in dataclasses.fields(model):
        value = getattr(made, field.name)
        if field.name in required:
            assert value == 7
        elif field.default_factory is not dataclasses.MISSING:
            assert isinstance(value, datetime)
        else:
            assert value == getattr(model._loaded({}), field.name), "its default, as a row without a value has it"
    assert sa.inspect(made).transient
    for again in (dataclasses.replace(made), copy.copy(made), pickle.loads(pickle.dumps(made))):
        assert (type(again), again.to_dict()) == (model, made.to_dict())
    for name in required:
        with pytest.raises(TypeError, match=name):
            model(**{other: 7 for other in required if other != name})
    with pytest.raises(TypeError, match="unknown"):
        model(**required, unknown=1)
    assert list(inspect.signature(model).parameters) == [field.name for field in dataclasses.fields(model)]


@pytest.mark.parametrize(
    ("look", "reason"),
    [(sa.inspect, "one"), (lambda log: log.reason, "one"), (lambda log: setattr(log, "reason", "two"), "two")],
    ids=["inspected", "read", "changed"],
)
def test_what_the_orm_knows_of_a_new_object_is_made_when_it_is_asked_for(
    look: Any, reason: str, engine: sa.Engine
) -> None:
    log = EnforcementLog(account_id=5, rule_id="R", action="A", reason="one")
    assert "_sa_instance_state" not in vars(log)
    look(log)
    assert sa.inspect(log) is sa.inspect(log)
    with Session(engine) as session:
        session.add(log)
        session.commit()
        assert session.scalars(sa.select(EnforcementLog.reason)).all() == [reason]


def test_threads_that_look_at_one_new_object_at_once_see_the_same() -> None:
    logs = [EnforcementLog(account_id=n) for n in range(2_000)]
    seen: list[list[Any]] = [[], []]
    began = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=lambda own=own: own.extend(map(sa.inspect, logs))) for own in seen]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(began)
    assert all(one is other for one, other in zip(*seen, strict=True))


READ_FIRST = """
import pickle, sys
import sqlalchemy as sa
[log, lockout] = pickle.loads(bytes.fromhex(sys.stdin.read()))
log.reason = "two"
print(log.reason, lockout.locked_until, sa.inspect(log).transient, lockout.to_dict()["account_id"])
"""


def test_a_pickled_object_can_be_the_first_that_another_process_sees() -> None:
    sent = pickle.dumps([EnforcementLog(account_id=5, reason="one"), Lockout(account_id=5)]).hex()
    told = subprocess.run(
        [sys.executable, "-c", READ_FIRST], input=sent, capture_output=True, text=True, check=True, timeout=60
    )
    assert told.stdout.strip() == "two None True 5"


def test_the_class_itself_is_no_object_of_the_orm() -> None:
    EnforcementLog()
    with Session() as session, pytest.raises(UnmappedInstanceError, match="was a class"):
        session.add(EnforcementLog)

    class Ours(EnforcementLog):
        __abstract__ = True

        def __init__(self, account_id: int) -> None:
            super().__init__(account_id=account_id)

    ours = Ours(7)
    ours.reason = "two"
    assert (ours.account_id, sa.inspect(ours).transient) == (7, True)


def test_objects_made_while_somebody_watches_the_init_are_as_others(monkeypatch: pytest.MonkeyPatch) -> None:
    before, init, told = Lockout(account_id=1), Lockout.__init__, []

    def traced(self: Lockout, **given: Any) -> None:
        told.append(given)
        init(self, **given)

    monkeypatch.setattr(Lockout, "__init__", traced)
    for lockout in (before, Lockout(account_id=2)):
        lockout.reason = "loss"
        assert sa.inspect(lockout).transient
    assert told == [{"account_id": 2}]


SUBCLASS = """
from sqlalchemy import event
from risk_store import EnforcementLog

class Own(EnforcementLog):
    def __init__(self, text, told=False):
        super().__init__(account_id=1, rule_id="R", action="A", reason=text)
        if told:
            self.told = True

@event.listens_for(Own, "init")
def told(log, args, keywords):
    assert args in (("one",), ("two",), ("four",)), "as of any other class of theirs"
    keywords["told"] = True

made = [Own(text) for text in ("one", "two")] + [EnforcementLog(account_id=2, reason="three"), Own("four")]
assert [hasattr(log, "told") for log in made] == [True, True, False, True]
print([(type(log).__name__, log.account_id, log.reason) for log in made])
"""


def test_a_callers_own_class_keeps_its_own_init() -> None:
    """In a process of its own, in which no object was made before."""
    told = subprocess.run([sys.executable, "-c", SUBCLASS], capture_output=True, text=True, check=True, timeout=60)
    assert told.stdout.strip() == str(
        [("Own", 1, "one"), ("Own", 1, "two"), ("EnforcementLog", 2, "three"), ("Own", 1, "four")]
    )


AT_ONCE = """
import sys, threading
from risk_store import EnforcementLog, Lockout

sys.setswitchinterval(1e-6)
ready, made = threading.Barrier(16), []

def make(number):
    ready.wait()
    made.append((EnforcementLog(account_id=number).account_id, Lockout(account_id=number).account_id))

threads = [threading.Thread(target=make, args=(number,)) for number in range(16)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(sorted(made) == [(number, number) for number in range(16)])
"""


@pytest.mark.parametrize("attempt", range(5))
def test_the_first_objects_may_be_made_by_many_threads_at_once(attempt: int) -> None:
    told = subprocess.run([sys.executable, "-c", AT_ONCE], capture_output=True, text=True, check=True, timeout=60)
    assert told.stdout.strip() == "True", (attempt, told.stderr)


def test_a_log_row_may_be_made_by_position_as_v1_made_it() -> None:
    log = EnforcementLog(None, 5, "RULE-003", "CLOSE_ALL", reason="loss")
    assert (log.id, log.account_id, log.rule_id, log.action, log.reason, log.success) == (
        *(None, 5, "RULE-003", "CLOSE_ALL", "loss", False),
    )
    with pytest.raises(TypeError, match="multiple values"):
        EnforcementLog(None, 5, account_id=6)  # type: ignore[misc]
    with pytest.raises(TypeError, match="takes 1 positional argument but 2 were given"):
        Lockout(5)  # type: ignore[misc]


def test_a_new_object_is_written_whole_and_its_changes_after_that(engine: sa.Engine) -> None:
    with Session(engine) as session:
        log = EnforcementLog(account_id=5, rule_id="R", action="A", reason="loss", success=True, details="{}")
        session.add_all([log, Lockout(account_id=5, is_locked=True, reason="loss", rule_id="R")])
        session.commit()
        assert (log.id is not None, log.success, log.details, log.positions_closed) == (True, True, "{}", 0)
        lockout = session.get(Lockout, 5)
        assert lockout is not None
        assert (lockout.is_locked, lockout.reason, lockout.created_at is not None) == (True, "loss", True)
        session.merge(Lockout(account_id=5, is_locked=False))
        session.commit()
        session.refresh(lockout)
        assert (lockout.is_locked, lockout.reason) == (False, "loss"), "what was not given is left alone"
        assert lockout.created_at is not None


row_values = st.sampled_from([0, 1, -1, BEYOND, True, None, "", "R", "a\0", "\udc80", 1.5, "é"])


@often
@given(rows=st.lists(st.fixed_dictionaries({}, optional=dict.fromkeys(CHECKED, row_values)), min_size=1, max_size=3))
def test_rows_that_are_taken_for_plain_at_a_glance_are_those_that_the_checks_pass(rows: list[dict[str, Any]]) -> None:
    usual = {"account_id": 1, "rule_id": "R", "action": "A", "reason": "r", "success": True}
    counts = {"positions_closed": 0, "orders_canceled": 0, "execution_time_ms": None}
    full = [usual | counts | row for row in rows]
    if EnforcementLog.are_plain({name: [row[name] for row in full] for name in CHECKED}):
        for row in full:
            EnforcementLog.check_values(row)
    assert EnforcementLog.are_plain({name: [value] for name, value in (usual | counts).items()})

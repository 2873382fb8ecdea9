"""Rows that a v1 daemon wrote, before an upgrade or after it: all of them load, and none hides another (D2, D3, D7).

Nothing here goes through our own writing side: the rows are made with the driver alone, as a v1 daemon makes them.
"""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.orm import Session
from sqlalchemy.schema import CreateColumn, CreateTable

from risk_store.codes import WORKING_STATES, OrderSide, OrderState, OrderType, PositionType
from risk_store.columns import instant_key
from risk_store.engines import open_engine, parse_url
from risk_store.models import (
    Base,
    Contract,
    DailyPnl,
    EnforcementLog,
    Lockout,
    Order,
    Position,
    ResetSchedule,
    SessionState,
    Trade,
)

FIVE = datetime(2025, 10, 21, 17, tzinfo=UTC)

# SPEC 8, to the letter.
V1 = """
CREATE TABLE lockouts (account_id INTEGER PRIMARY KEY, is_locked BOOLEAN NOT NULL DEFAULT 0, reason TEXT,
    locked_at DATETIME, locked_until DATETIME, rule_id TEXT, created_at DATETIME DEFAULT CURRENT_TIMESTAMP,
    updated_at DATETIME DEFAULT CURRENT_TIMESTAMP);
CREATE INDEX idx_lockouts_until ON lockouts(locked_until);
CREATE TABLE daily_pnl (account_id INTEGER NOT NULL, date DATE NOT NULL, realized_pnl REAL NOT NULL DEFAULT 0.0,
    last_updated DATETIME DEFAULT CURRENT_TIMESTAMP, PRIMARY KEY (account_id, date));
CREATE INDEX idx_daily_pnl_date ON daily_pnl(date);
CREATE TABLE contract_cache (contract_id TEXT PRIMARY KEY, tick_size REAL NOT NULL, tick_value REAL NOT NULL,
    symbol_id TEXT NOT NULL, name TEXT, cached_at DATETIME DEFAULT CURRENT_TIMESTAMP);
CREATE INDEX idx_contract_cache_symbol ON contract_cache(symbol_id);
CREATE TABLE trade_history (id INTEGER PRIMARY KEY AUTOINCREMENT, account_id INTEGER NOT NULL,
    timestamp DATETIME NOT NULL, contract_id TEXT NOT NULL, pnl REAL, created_at DATETIME DEFAULT CURRENT_TIMESTAMP);
CREATE INDEX idx_trade_history_account_time ON trade_history(account_id, timestamp DESC);
CREATE INDEX idx_trade_history_timestamp ON trade_history(timestamp);
CREATE TABLE session_state (account_id INTEGER PRIMARY KEY, session_start DATETIME NOT NULL,
    updated_at DATETIME DEFAULT CURRENT_TIMESTAMP);
CREATE TABLE positions (id INTEGER PRIMARY KEY, account_id INTEGER NOT NULL, contract_id TEXT NOT NULL,
    type INTEGER NOT NULL, size INTEGER NOT NULL, average_price REAL NOT NULL, created_at DATETIME NOT NULL,
    updated_at DATETIME DEFAULT CURRENT_TIMESTAMP);
CREATE INDEX idx_positions_account ON positions(account_id);
CREATE INDEX idx_positions_contract ON positions(contract_id);
CREATE TABLE orders (id INTEGER PRIMARY KEY, account_id INTEGER NOT NULL, contract_id TEXT NOT NULL,
    type INTEGER NOT NULL, side INTEGER NOT NULL, size INTEGER NOT NULL, limit_price REAL, stop_price REAL,
    state INTEGER NOT NULL, created_at DATETIME NOT NULL, updated_at DATETIME DEFAULT CURRENT_TIMESTAMP);
CREATE INDEX idx_orders_account ON orders(account_id);
CREATE INDEX idx_orders_contract ON orders(contract_id);
CREATE INDEX idx_orders_state ON orders(state);
CREATE TABLE enforcement_log (id INTEGER PRIMARY KEY AUTOINCREMENT, timestamp DATETIME DEFAULT CURRENT_TIMESTAMP,
    account_id INTEGER NOT NULL, rule_id TEXT NOT NULL, action TEXT NOT NULL, reason TEXT NOT NULL,
    success BOOLEAN NOT NULL DEFAULT 1, details TEXT, execution_time_ms INTEGER);
CREATE INDEX idx_enforcement_account ON enforcement_log(account_id);
CREATE INDEX idx_enforcement_timestamp ON enforcement_log(timestamp DESC);
CREATE INDEX idx_enforcement_rule ON enforcement_log(rule_id);
CREATE TABLE reset_schedule (account_id INTEGER PRIMARY KEY, last_reset_date DATE NOT NULL,
    next_reset_time DATETIME NOT NULL, reset_time_config TEXT NOT NULL, timezone TEXT NOT NULL);
"""

V1_ORDER = "id, account_id, contract_id, type, side, size, limit_price, stop_price, state, created_at"


def create_as_upgraded(daemon: sqlite3.Connection) -> None:
    """v1's own tables with our additions beside, as an adopted file has them."""
    daemon.executescript(f"PRAGMA synchronous = OFF; BEGIN; {V1} COMMIT")
    dialect = sa.create_engine("sqlite://").dialect
    for table in Base.metadata.sorted_tables:
        columns = {row[1] for row in daemon.execute(f"PRAGMA table_info({table.name})")}
        if not columns:
            daemon.execute(str(CreateTable(table).compile(dialect=dialect)))
        for column in table.columns if columns else ():
            if column.name not in columns:
                daemon.execute(f"ALTER TABLE {table.name} ADD COLUMN {CreateColumn(column).compile(dialect=dialect)}")
    daemon.commit()


@pytest.fixture(scope="module", params=["v1 tables with today's columns added", "tables of today"])
def template(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "risk.db"
    if request.param == "tables of today":
        engine = open_engine(parse_url(f"sqlite:///{path}"), "migrate")
        Base.metadata.create_all(engine)
        engine.dispose()
    else:
        with closing(sqlite3.connect(path)) as daemon:
            create_as_upgraded(daemon)
    return path


@pytest.fixture
def file(template: Path, tmp_path: Path) -> Path:
    return shutil.copy(template, tmp_path / "risk.db")


@pytest.fixture
def daemon(file: Path) -> Iterator[sqlite3.Connection]:
    """The v1 daemon's connection: in autocommit, since what it has written is written."""
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = OFF")  # for speed: no test here cuts the power
        yield connection


@pytest.fixture
def session(file: Path) -> Iterator[Session]:
    engine = open_engine(parse_url(f"sqlite:///{file}"), "store")
    with Session(engine) as session:
        yield session
    engine.dispose()


def insert(
    daemon: sqlite3.Connection, *rows: tuple[object, ...], columns: str = V1_ORDER, table: str = "orders"
) -> None:
    marks = ", ".join("?" * len(rows[0]))
    daemon.executemany(f"INSERT INTO {table} ({columns}) VALUES ({marks})", rows)


def good(number: int) -> tuple[object, ...]:
    return (number, 456, "CON.F.US.MNQ.U25", 2, 0, 1, 21000.25, None, 2, "2025-10-21 17:00:00")


def odd(number: int, **changes: object) -> tuple[object, ...]:
    values = dict(zip(V1_ORDER.split(", "), good(number), strict=True)) | changes
    return tuple(values.values())


def orders(session: Session) -> list[Order]:
    return list(session.scalars(sa.select(Order).order_by(Order.id)))


# Orders


def test_the_order_of_a_v1_daemon_loads_with_the_defaults_of_what_came_later(
    daemon: sqlite3.Connection, session: Session
) -> None:
    insert(daemon, good(1))
    (order,) = orders(session)
    assert (order.id, order.account_id, order.contract_id, order.size) == (1, 456, "CON.F.US.MNQ.U25", 1)
    assert (order.type, order.side, order.state) == (OrderType.LIMIT, OrderSide.BUY, OrderState.ACTIVE)
    assert (order.limit_price, order.stop_price, order.created_at) == (21000.25, None, FIVE)
    assert order.updated_at is not None  # CURRENT_TIMESTAMP
    assert abs(order.updated_at - datetime.now(UTC)) < timedelta(minutes=5)
    assert (order.filled_size, order.trailing_amount, order.venue_updated_at) == (0, None, None)


def test_the_specifications_own_row_loads_although_it_has_no_distance(
    daemon: sqlite3.Connection, session: Session
) -> None:
    daemon.execute(
        "INSERT INTO orders (id, account_id, contract_id, type, side, size, stop_price, state, created_at)"
        " VALUES (123, 456, 'CON.F.US.MNQ.U25', 5, 1, 1, 20990.00, 2, CURRENT_TIMESTAMP)"
    )
    insert(daemon, good(124))
    first, second = orders(session)
    assert (first.type, first.side, first.state) == (OrderType.TRAILING_STOP, OrderSide.SELL, OrderState.ACTIVE)
    assert (first.stop_price, first.trailing_amount) == (20990.0, None)
    assert second.id == 124


@pytest.mark.parametrize(
    ("column", "stored"),
    [
        *(("type", code) for code in (0, 6, 7, 99, -1, "x", "", b"\xff", 2.5)),
        *(("side", code) for code in (2, -1, "SELL")),
        *(("size", size) for size in (0, -1, "many", 2.5, b"")),
        *((price, value) for price in ("limit_price", "stop_price") for value in ("abc", "", b"\x00", float("inf"))),
        *(("contract_id", value) for value in ("", "a\0b", b"\xff\xfe", "😀", 5)),
        *(("account_id", value) for value in (0, -5, "x")),
    ],
    ids=repr,
)
def test_an_odd_value_comes_back_as_stored_beside_the_good_rows(
    daemon: sqlite3.Connection, session: Session, column: str, stored: Any
) -> None:
    insert(daemon, good(1), odd(2, **{column: stored}), good(3))
    raw = daemon.execute(f"SELECT {column} FROM orders WHERE id = 2").fetchone()[0]
    loaded = orders(session)
    assert [order.id for order in loaded] == [1, 2, 3]
    assert (type(getattr(loaded[1], column)), getattr(loaded[1], column)) == (type(raw), raw)
    assert [order.type for order in (loaded[0], loaded[2])] == [OrderType.LIMIT, OrderType.LIMIT]


def test_unknown_states_do_not_disturb_a_question_about_the_known_ones(
    daemon: sqlite3.Connection, session: Session
) -> None:
    states = [*OrderState, 0, 9, 42, "x"]
    insert(daemon, *(odd(number, state=state) for number, state in enumerate(states, 1)))
    assert [order.state for order in orders(session)] == states
    working = session.scalars(sa.select(Order).where(Order.state.in_(WORKING_STATES)).order_by(Order.id)).all()
    assert [order.state for order in working] == sorted(WORKING_STATES)
    assert session.scalars(sa.select(Order.state).where(sa.not_(Order.state.in_(list(OrderState))))).all() == [
        0,
        9,
        42,
        "x",
    ]


TIMESTAMPS: list[tuple[object, object]] = [
    ("2025-10-21 17:00:00", FIVE),
    ("2025-10-21T17:00:00", FIVE),
    ("2025-10-21 17:00", FIVE),
    ("2025-10-21 17:00:00.000000", FIVE),
    ("2025-10-21 17:00:00.123", FIVE.replace(microsecond=123000)),
    ("2025-10-21T17:00:00.123456", FIVE.replace(microsecond=123456)),
    ("2025-10-21T17:00:00Z", FIVE),
    ("2025-10-21T17:00:00+00:00", FIVE),
    ("2025-10-21 12:00:00-05:00", FIVE),
    ("2025-10-21", FIVE.replace(hour=0)),
    (1761066000, 1761066000),
    ("1761066000", 1761066000),  # SQLite makes a number of it
    (1761066000.5, 1761066000.5),
    ("", ""),
    ("0000-00-00 00:00:00", "0000-00-00 00:00:00"),
    ("yesterday", "yesterday"),
    (b"\x00\xff", b"\x00\xff"),
]


def test_every_timestamp_of_every_form_loads_and_none_hides_the_others(
    daemon: sqlite3.Connection, session: Session
) -> None:
    insert(daemon, *(odd(number, created_at=stored) for number, (stored, _) in enumerate(TIMESTAMPS)))
    daemon.executemany(
        "UPDATE orders SET updated_at = ? WHERE id = ?",
        [(stored, number) for number, (stored, _) in enumerate(TIMESTAMPS)],
    )
    loaded = orders(session)
    assert [order.created_at for order in loaded] == [value for _, value in TIMESTAMPS]
    assert [order.updated_at for order in loaded] == [value for _, value in TIMESTAMPS]
    zones = {order.created_at.tzinfo for order in loaded if isinstance(order.created_at, datetime)}
    assert zones == {UTC}


def test_the_oldest_come_first_in_every_form_and_the_unreadable_last(
    daemon: sqlite3.Connection, session: Session
) -> None:
    forms = ["soon", "2025-10-21T12:00:03-05:00", 5, "2025-10-21 17:00:02", "2025-10-21T17:00:01Z", "2025-10-21"]
    insert(daemon, *(odd(number, created_at=stored) for number, stored in enumerate(forms)))
    ordered = session.scalars(sa.select(Order.id).order_by(instant_key(Order.created_at), Order.id)).all()
    assert list(ordered) == [5, 4, 3, 1, 0, 2]


def test_an_odd_row_is_found_by_its_id_refreshed_and_streamed(daemon: sqlite3.Connection, session: Session) -> None:
    insert(daemon, good(1), odd(2, type=99, created_at="soon"), good(3))
    order = session.get_one(Order, 2)
    session.refresh(order)
    assert (order.type, order.created_at) == (99, "soon")
    streamed = session.scalars(sa.select(Order).order_by(Order.id), execution_options={"yield_per": 1})
    assert [order.type for order in streamed] == [OrderType.LIMIT, 99, OrderType.LIMIT]


def test_changing_one_column_of_an_odd_row_leaves_the_odd_values_as_stored(
    daemon: sqlite3.Connection, session: Session
) -> None:
    insert(daemon, odd(2, type=99, created_at="soon", limit_price="abc"))
    session.get_one(Order, 2).state = OrderState.CANCELED
    session.commit()
    row = daemon.execute("SELECT type, created_at, limit_price, state FROM orders").fetchone()
    assert row == (99, "soon", "abc", 4)


stored_values = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text() | st.binary()


def test_as_many_orders_load_as_there_are_rows_whatever_they_hold(file: Path, session: Session) -> None:
    @settings(max_examples=40)
    @given(rows=st.lists(st.tuples(*[stored_values] * 6, *[st.none() | stored_values] * 3), max_size=4))
    def check(rows: list[tuple[object, ...]]) -> None:
        raw = session.connection().connection.driver_connection
        assert isinstance(raw, sqlite3.Connection)
        columns = "account_id, contract_id, type, side, size, state, limit_price, stop_price, updated_at"
        for number, row in enumerate(rows, 1):
            marks = ", ".join("?" * 9)
            raw.execute(f"INSERT INTO orders (id, {columns}, created_at) VALUES ({number}, {marks}, 'soon')", row)
        assert [order.id for order in orders(session)] == list(range(1, len(rows) + 1))
        session.rollback()

    check()


# A v1 daemon beside us, on an upgraded file


def test_a_v1_daemon_reads_and_replaces_orders_as_before(daemon: sqlite3.Connection, session: Session) -> None:
    session.add(
        Order(
            id=1,
            account_id=456,
            contract_id="X",
            type=OrderType.TRAILING_STOP,
            side=OrderSide.SELL,
            size=2,
            stop_price=20990.0,
            trailing_amount=10.0,
            filled_size=1,
            state=OrderState.ACTIVE,
            created_at=FIVE,
        )
    )
    session.commit()
    row = daemon.execute(f"SELECT {V1_ORDER} FROM orders").fetchone()
    assert row == (1, 456, "X", 5, 1, 2, None, 20990.0, 2, "2025-10-21 17:00:00")
    marks = ", ".join("?" * 10)
    daemon.execute(f"INSERT OR REPLACE INTO orders ({V1_ORDER}) VALUES ({marks})", odd(1, state=3))
    (order,) = orders(session)
    assert (order.state, order.filled_size, order.trailing_amount) == (OrderState.FILLED, 0, None)  # D7: reset
    assert Order.from_db_row(daemon.execute("SELECT * FROM orders").fetchone()) == order


def test_the_log_of_a_v1_daemon_loads_with_and_without_a_time(daemon: sqlite3.Connection, session: Session) -> None:
    v1 = "account_id, rule_id, action, reason, success, details"
    insert(daemon, (123, "RULE-003", "CLOSE_ALL", "loss", 1, '{"a": 1}'), columns=v1, table="enforcement_log")
    insert(
        daemon,
        (None, 0, "", "", "", 0, "not JSON", 145),
        ("soon", -1, "R", "A", "x", "perhaps", None, "slow"),
        columns=f"timestamp, {v1}, execution_time_ms",
        table="enforcement_log",
    )
    loaded = session.scalars(sa.select(EnforcementLog).order_by(EnforcementLog.id)).all()
    assert [row.execution_time_ms for row in loaded] == [None, 145, "slow"]
    assert [row.success for row in loaded] == [True, False, True]
    assert [row.details for row in loaded] == ['{"a": 1}', "not JSON", None]
    assert loaded[0].timestamp is not None
    assert abs(loaded[0].timestamp - datetime.now(UTC)) < timedelta(minutes=5)
    assert [row.timestamp for row in loaded[1:]] == [None, "soon"]
    assert {(row.error_message, row.positions_closed, row.enforcement_id) for row in loaded} == {(None, 0, None)}


def test_the_tuples_of_a_v1_daemons_own_select_become_logs(daemon: sqlite3.Connection) -> None:
    insert(
        daemon,
        ("2025-10-21 17:00:00", 123, "RULE-003", "CLOSE_ALL", "loss", 1, None, 145),
        columns="timestamp, account_id, rule_id, action, reason, success, details, execution_time_ms",
        table="enforcement_log",
    )
    nine = daemon.execute(f"SELECT {', '.join(EnforcementLog.V1_COLUMNS)} FROM enforcement_log").fetchone()
    ten = daemon.execute(
        "SELECT id, account_id, rule_id, action, reason, success, NULL, 2, 1, timestamp FROM enforcement_log"
    ).fetchone()
    eleven = (*ten, 145)
    for row, milliseconds, closed in [(nine, 145, 0), (ten, None, 2), (eleven, 145, 2)]:
        log = EnforcementLog.from_db_row(row)
        assert (log.id, log.account_id, log.rule_id, log.success, log.timestamp) == (1, 123, "RULE-003", True, FIVE)
        assert (log.execution_time_ms, log.positions_closed) == (milliseconds, closed)


def test_the_lockouts_of_a_v1_daemon_all_load(daemon: sqlite3.Connection, session: Session) -> None:
    insert(
        daemon,
        (1, 1, "loss", "2025-10-21T12:00:00-05:00", None, "RULE-003"),
        (2, 1, "loss", "soon", "0000-00-00 00:00:00", ""),
        (3, "true", None, None, 1761066000, None),
        columns="account_id, is_locked, reason, locked_at, locked_until, rule_id",
        table="lockouts",
    )
    lockouts = session.scalars(sa.select(Lockout).order_by(Lockout.account_id)).all()
    assert [row.is_locked for row in lockouts] == [True, True, True]
    assert [row.locked_at for row in lockouts] == [FIVE, "soon", None]
    assert [row.locked_until for row in lockouts] == [None, "0000-00-00 00:00:00", 1761066000]


def test_a_lockout_with_an_unreadable_end_is_not_over(daemon: sqlite3.Connection, session: Session) -> None:
    ends = ["2025-10-21T12:00:00-05:00", "2025-10-21 17:00:01", "0000-00-00 00:00:00", "now", "12:00", 5, "", "soon"]
    rows = [(number, 1, end) for number, end in enumerate(ends)]
    insert(daemon, *rows, columns="account_id, is_locked, locked_until", table="lockouts")
    over = session.scalars(sa.select(Lockout.account_id).where(instant_key(Lockout.locked_until) <= FIVE)).all()
    assert list(over) == [0]
    far = datetime.max.replace(tzinfo=UTC)
    over = session.scalars(sa.select(Lockout.account_id).where(instant_key(Lockout.locked_until) <= far)).all()
    assert sorted(over) == [0, 1]


def test_the_positions_of_a_v1_daemon_all_load(daemon: sqlite3.Connection, session: Session) -> None:
    insert(
        daemon,
        (1, 456, "X", 1, 2, -37.63, "2025-10-21 17:00:00"),
        (2, 456, "X", 0, 0, "abc", "soon"),
        columns="id, account_id, contract_id, type, size, average_price, created_at",
        table="positions",
    )
    positions = session.scalars(sa.select(Position).order_by(Position.id)).all()
    assert [(row.type, row.average_price) for row in positions] == [(PositionType.LONG, -37.63), (0, "abc")]


def test_the_days_of_a_v1_daemon_all_load(daemon: sqlite3.Connection, session: Session) -> None:
    insert(
        daemon,
        (1, "2025-10-21", -550),
        (1, "2025-10-22 00:00:00", 1.5),
        (1, "someday", 0),
        (1, 20251023, 0),
        columns="account_id, date, realized_pnl",
        table="daily_pnl",
    )
    days = {row.date: row.realized_pnl for row in session.scalars(sa.select(DailyPnl))}
    assert days == {date(2025, 10, 21): -550.0, date(2025, 10, 22): 1.5, "someday": 0.0, 20251023: 0.0}


def test_the_remaining_tables_of_a_v1_daemon_load(daemon: sqlite3.Connection, session: Session) -> None:
    insert(daemon, (1, "soon", "X"), columns="account_id, timestamp, contract_id", table="trade_history")
    insert(
        daemon,
        ("X", "1/4", 0.5, "MNQ"),
        columns="contract_id, tick_size, tick_value, symbol_id",
        table="contract_cache",
    )
    insert(daemon, (1, 5), columns="account_id, session_start", table="session_state")
    insert(
        daemon,
        (1, "never", "", "17:00", "America/Chicago"),
        columns="account_id, last_reset_date, next_reset_time, reset_time_config, timezone",
        table="reset_schedule",
    )
    trade = session.scalars(sa.select(Trade)).one()
    assert (trade.timestamp, trade.pnl, trade.voided, trade.venue_trade_id) == ("soon", None, False, None)
    assert session.scalars(sa.select(Contract)).one().tick_size == "1/4"
    assert session.scalars(sa.select(SessionState)).one().session_start == 5
    reset = session.scalars(sa.select(ResetSchedule)).one()
    assert (reset.last_reset_date, reset.next_reset_time) == ("never", "")

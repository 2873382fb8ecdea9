"""Each read that an event, a tick or an enforcement waits for is found by the index meant for it, on each engine.

Explained with the parameters that are really sent: a bound value where a literal belongs would miss a partial index.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy.orm import Session

from risk_store.statements import enforcements, lockouts, orders, positions, slow_enforcements, trades
from risk_store.trailing import Reach

NOW = datetime(2025, 10, 21, 17, 0, tzinfo=UTC)
REACH = Reach.of(21_000.0, 0.25)._asdict()
KEY = {"account_id": 1, "enforcement_id": "e-1"}

# What is asked, with which parameters, and the index: one name, or SQLite's and PostgreSQL's.
READS: dict[str, tuple[Any, dict[str, Any], tuple[str, str]]] = {
    "the log row of an enforcement": (
        enforcements.FIND_LOG,
        KEY,
        ("uq_enforcement_log_account_id_enforcement_id", "uq_enforcement_log_account_id_enforcement_id"),
    ),
    "enforcements in flight of a rule": (
        enforcements.IN_FLIGHT_OF_RULE,
        {"account_id": 1, "rule_id": "R"},
        ("sqlite_autoindex_enforcement_in_flight", "pk_enforcement_in_flight"),
    ),
    "slow enforcements": (slow_enforcements(threshold_ms=1000), {}, ("ix_enforcement_log_slow",) * 2),
    "whether an account is locked": (
        lockouts.IS_LOCKED,
        {"account": 1, "at": NOW},
        ("INTEGER PRIMARY KEY", "pk_lockouts"),
    ),
    "an order": (orders.GET_ORDER, {"id": 1}, ("INTEGER PRIMARY KEY", "pk_orders")),
    "which orders are known": (orders.KNOWN_ORDERS, {"ids": "[1, 2]"}, ("INTEGER PRIMARY KEY", "pk_orders")),
    "working orders of an account": (orders.working_orders(account_id=1), {}, ("ix_orders_working",) * 2),
    "what indexes have of some orders": (
        orders.INDEXED_OF_ORDERS,
        {"ids": "[1, 2]"},
        ("INTEGER PRIMARY KEY", "pk_orders"),
    ),
    "a snapshot of the working orders of an account": (
        orders.snapshot_of(orders.working_orders(account_id=1)),
        {},
        ("ix_orders_working",) * 2,
    ),
    "trailing stops of a contract": (
        orders.TRAILING_ORDERS,
        {"contract": "X", "at": None, **REACH},
        ("ix_orders_trailing",) * 2,
    ),
    "what decides about the trailing stops of a contract": (
        orders.TRAILING_FIGURES,
        {"contract": "X", "at": None, **REACH},
        ("ix_orders_trailing",) * 2,
    ),
    "trailing stops of a contract by a time": (
        orders.TRAILING_ORDERS,
        {"contract": "X", "at": NOW, **REACH},
        ("ix_orders_trailing",) * 2,
    ),
    "a position": (
        positions.SAME_POSITION,
        {"id": 1, "account": 1, "contract": "X"},
        ("idx_positions_", "idx_positions_"),
    ),
    "a position that was closed": (
        positions.CLOSED_LIKE,
        {"id": 1, "account": 1, "contract": "X"},
        ("ix_closed_positions_account_id_contract_id",) * 2,
    ),
    "a trade": (trades.GET_TRADE, {"venue_trade": 1}, ("uq_trade_history_venue_trade_id",) * 2),
    "a trading day": (
        trades.GET_DAY,
        {"account": 1, "day": NOW.date()},
        ("sqlite_autoindex_daily_pnl", "pk_daily_pnl"),
    ),
}


# A server goes by statistics: on tables of no rows all indexes are alike. Here every row has the account and the
# contract that are asked for, so that only the right index leads to few of them.
ROWS = [
    "INSERT INTO orders (id, account_id, contract_id, type, side, size, state, created_at) SELECT n, 1 + n / 100, 'X', "
    "CASE WHEN mod(n, 100) = 0 THEN 5 ELSE 4 END, 1, 1, CASE WHEN mod(n, 50) = 0 THEN 2 ELSE 3 END, now() "
    "FROM generate_series(1, 5000) n",
    "INSERT INTO enforcement_log (account_id, rule_id, action, reason, execution_time_ms, enforcement_id) "
    "SELECT 1, 'R', 'A', 'x', mod(n, 520), n::text FROM generate_series(1, 5000) n",
    "INSERT INTO trade_history (account_id, timestamp, contract_id, venue_trade_id) "
    "SELECT 1, now(), 'X', n FROM generate_series(1, 5000) n",
    "INSERT INTO closed_positions (id, account_id, contract_id, closed_at) "
    "SELECT n, 1, n::text, now() FROM generate_series(1, 5000) n",
    "INSERT INTO positions (id, account_id, contract_id, type, size, average_price, created_at) "
    "SELECT n, n, n::text, 1, 1, 1, now() FROM generate_series(1, 5000) n",
    "INSERT INTO daily_pnl (account_id, date) SELECT n, '2025-10-21' FROM generate_series(1, 5000) n",
    "ANALYZE orders, enforcement_log, trade_history, closed_positions, positions, daily_pnl",
]


@pytest.mark.parametrize("read", READS)
def test_a_hot_read_is_found_by_its_index(session: Session, sent: list[tuple[str, Any]], read: str) -> None:
    statement, parameters, indexes = READS[read]
    connection = session.connection()
    dialect = connection.dialect.name
    session.execute(statement[dialect] if isinstance(statement, dict) else statement, parameters).all()
    sql, bound = sent[-1]
    if dialect == "postgresql":
        connection.exec_driver_sql("SET LOCAL enable_seqscan = off")  # on a table of a few rows it always wins
        for fill in ROWS:
            connection.exec_driver_sql(fill)
    explain = "EXPLAIN QUERY PLAN" if dialect == "sqlite" else "EXPLAIN"
    plan = str(connection.exec_driver_sql(f"{explain} {sql}", bound).all())
    assert indexes[dialect == "postgresql"] in plan
    assert "SCAN orders" not in plan
    assert "Seq Scan" not in plan


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_writing_an_order_event_looks_at_no_other_row(session: Session) -> None:
    connection = session.connection()
    update = str(orders.APPLY_TO_KNOWN.compile(dialect=connection.dialect))
    marks = (None,) * update.count("?")
    plan = str(connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {update}", marks).all())
    assert "INTEGER PRIMARY KEY" in plan


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_the_usual_order_event_writes_no_index(session: Session) -> None:
    """In SQLite's byte code each index that an update rewrites has an IdxDelete."""
    connection = session.connection()
    rewritten = []
    for statement in (orders.APPLY_IN_PLACE, orders.APPLY_NEW["sqlite"]):
        sql = str(statement.compile(dialect=connection.dialect))
        code = connection.exec_driver_sql(f"EXPLAIN {sql}", (None,) * sql.count("?")).all()
        rewritten.append(sum(step.opcode == "IdxDelete" for step in code))
    assert rewritten == [0, 4]

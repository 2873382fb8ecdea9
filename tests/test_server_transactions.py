"""Transactions on PostgreSQL whose hot statements go by the driver's cursor: nothing shows it but its events."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.orm import Session

from risk_store import (
    EnforcementLog,
    InvalidValue,
    Lockout,
    LockoutRepository,
    OrderState,
    RiskStore,
    StoreUnavailable,
    repositories,
)
from risk_store.aio import AsyncRiskStore
from risk_store.events import OrderUpdate

FAR = datetime(2099, 1, 1, tzinfo=UTC)


@pytest.fixture
def store(postgres_store_url: str) -> Iterator[RiskStore]:
    with RiskStore(postgres_store_url) as opened:
        yield opened
        assert opened.engine.pool.checkedout() == 0  # type: ignore[attr-defined]


@pytest.fixture
def other(postgres_store_url: str) -> Iterator[psycopg.Connection[Any]]:
    """Another program on the same database, which commits each statement."""
    plain = sa.make_url(postgres_store_url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(plain, autocommit=True) as connection:
        yield connection


@pytest.fixture
def seen(store: RiskStore) -> list[str]:
    """The statements of which SQLAlchemy's events tell."""
    statements: list[str] = []
    with store.begin() as tx:  # looks at the schema first
        tx.enforcements.add(a_log(9))
    event.listen(store.engine, "before_cursor_execute", lambda *given: statements.append(given[2]))
    return statements


def a_log(account_id: int, **values: Any) -> EnforcementLog:
    return EnforcementLog(account_id=account_id, rule_id="R", action="A", reason="x", success=True, **values)


def accounts(other: psycopg.Connection[Any], table: str = "enforcement_log") -> list[int]:
    return [row[0] for row in other.execute(f"SELECT account_id FROM {table} ORDER BY 1".encode()).fetchall()]


def test_a_log_row_and_a_lockout_are_there_together_or_not_at_all(
    store: RiskStore, other: psycopg.Connection[Any], seen: list[str]
) -> None:
    with store.begin() as tx:
        assert tx.lockouts.set(1, "loss", "R", until=FAR)
        assert not tx.lockouts.set(1, "loss", "R", until=datetime(2098, 1, 1, tzinfo=UTC))
        log = tx.enforcements.add(a_log(1))
        assert accounts(other) == [9]
    assert seen == []
    assert (accounts(other), accounts(other, "lockouts")) == ([1, 9], [1])
    assert other.execute("SELECT id FROM enforcement_log WHERE account_id = 1").fetchone() == (log.id,)
    with pytest.raises(KeyError), store.begin() as tx:
        tx.lockouts.set(2, "loss", "R", until=FAR)
        tx.enforcements.add(a_log(2))
        raise KeyError("of the caller's own")
    assert (accounts(other), accounts(other, "lockouts")) == ([1, 9], [1])


def test_the_session_sees_what_the_driver_wrote_and_writes_with_it(
    store: RiskStore, other: psycopg.Connection[Any], seen: list[str]
) -> None:
    with store.begin() as tx:
        tx.enforcements.add(a_log(1))
        assert tx.session.scalar(sa.select(sa.func.count()).select_from(EnforcementLog)) == 2
        tx.session.add(Lockout(account_id=1, is_locked=True, reason="loss"))
        tx.enforcements.add(a_log(2))  # from here on by SQLAlchemy, and what is pending goes first
        assert tx.session.get(Lockout, 1, populate_existing=True) is not None
    assert len(seen) == 4
    assert (accounts(other), accounts(other, "lockouts")) == ([1, 2, 9], [1])


def test_an_error_is_sqlalchemys_and_shows_no_values(store: RiskStore, other: psycopg.Connection[Any]) -> None:
    named = {"enforcement_id": "once", "details": "secret"}
    with pytest.raises(sa.exc.IntegrityError, match="uq_enforcement_log") as raised, store.begin() as tx:
        tx.enforcements.add(a_log(1, **named))
        tx.enforcements.add(a_log(1, **named))
    assert "secret" not in str(raised.value)
    assert not raised.value.connection_invalidated
    assert accounts(other) == []
    with pytest.raises(InvalidValue, match="execution_time_ms"), store.begin() as tx:
        tx.enforcements.add(a_log(1, execution_time_ms=2**63))
    with store.begin() as tx:
        tx.enforcements.add(a_log(1, **named))
    assert accounts(other) == [1]


def test_a_connection_that_is_lost_between_two_statements_is_told_and_not_used_again(
    store: RiskStore, other: psycopg.Connection[Any]
) -> None:
    kill = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = current_database()"
    with pytest.raises(StoreUnavailable) as raised, store.begin() as tx:
        tx.enforcements.add(a_log(1))
        other.execute(f"{kill} AND pid <> pg_backend_pid()".encode())
        tx.enforcements.add(a_log(2))
    assert isinstance(raised.value.__cause__, sa.exc.OperationalError)
    assert raised.value.__cause__.connection_invalidated
    assert accounts(other) == []
    with store.begin() as tx:
        tx.enforcements.add(a_log(3))
    assert accounts(other) == [3]


def test_a_caller_that_catches_the_error_cannot_commit_half(store: RiskStore, other: psycopg.Connection[Any]) -> None:
    with store.begin() as tx:
        tx.enforcements.add(a_log(1, enforcement_id="once"))
        with pytest.raises(sa.exc.IntegrityError):
            tx.enforcements.add(a_log(1, enforcement_id="once"))
        with pytest.raises(sa.exc.InternalError, match="aborted"):
            tx.enforcements.add(a_log(2))
    assert accounts(other) == []  # as PostgreSQL does with each transaction in which a statement failed


def test_a_schema_of_the_callers_own_is_followed(store: RiskStore, other: psycopg.Connection[Any]) -> None:
    """Options of the connection change the SQL, so hot statements then go SQLAlchemy's way."""
    other.execute("CREATE SCHEMA elsewhere")
    other.execute("CREATE TABLE elsewhere.lockouts (LIKE lockouts INCLUDING ALL)")
    with store.begin() as tx:
        moved = tx.lockouts._lane.connection(Lockout).execution_options(schema_translate_map={None: "elsewhere"})
        tx.lockouts.set(1, "loss", "R", until=None)
        assert moved.in_transaction()
    assert (accounts(other, "elsewhere.lockouts"), accounts(other, "lockouts")) == ([1], [])


def test_stops_trail_in_a_schema_of_the_callers_own(store: RiskStore, other: psycopg.Connection[Any]) -> None:
    other.execute("CREATE SCHEMA elsewhere")
    other.execute("CREATE TABLE elsewhere.orders (LIKE orders INCLUDING ALL)")
    other.execute(
        "INSERT INTO elsewhere.orders (id, account_id, contract_id, type, side, size, stop_price, trailing_amount, "
        "state, created_at) SELECT n, 7, 'X', 5, 1, 1, 90, 10, 2, now() FROM generate_series(1, 3) n"
    )
    with store.begin() as tx:
        tx.session.connection().execution_options(schema_translate_map={None: "elsewhere"})
        assert [move.new for move in tx.orders.trail("X", 105.0, 0.25).moves] == [95.0] * 3
    assert other.execute("SELECT DISTINCT side, stop_price FROM elsewhere.orders").fetchall() == [(1, 95.0)]


def test_many_events_go_to_a_schema_of_the_callers_own(store: RiskStore, other: psycopg.Connection[Any]) -> None:
    other.execute("CREATE SCHEMA elsewhere")
    other.execute("CREATE TABLE elsewhere.orders (LIKE orders INCLUDING ALL)")
    other.execute("ALTER TABLE elsewhere.orders RENAME CONSTRAINT orders_pkey TO pk_orders")
    common: dict[str, Any] = {"account_id": 7, "contract_id": "X", "type": 1, "side": 1, "size": 1, "limit_price": 9.5}
    with store.begin() as tx:
        tx.session.connection().execution_options(schema_translate_map={None: "elsewhere"})
        for state in (OrderState.PENDING, OrderState.ACTIVE):
            tx.orders.apply_many(OrderUpdate(id=n, state=state, created_at=FAR, **common) for n in range(1, 61))
    assert other.execute("SELECT DISTINCT state, limit_price FROM elsewhere.orders").fetchall() == [(2, 9.5)]
    assert other.execute("SELECT count(*) FROM orders").fetchone() == (0,)


def test_repositories_in_a_session_of_the_callers_own_are_seen_by_its_events(store: RiskStore, seen: list[str]) -> None:
    with Session(store.engine) as session:
        LockoutRepository(session).set(1, "loss", "R", until=None)
        session.commit()
    assert [statement.partition(" (")[0] for statement in seen] == ["INSERT INTO lockouts"]


@pytest.mark.parametrize("act", ["close", "rollback", "commit", "execute"])
def test_what_is_left_of_a_transaction_does_nothing_to_the_next(
    store: RiskStore, other: psycopg.Connection[Any], act: str
) -> None:
    """Whoever keeps a connection for the next one must still keep them apart."""
    with store.begin() as tx:
        session, connection = tx.session, tx.session.connection()
    with store.begin() as tx:
        tx.lockouts.set(1, "loss", "R", until=None)
        with suppress(sa.exc.SQLAlchemyError):
            if act == "execute":
                session.execute(sa.text("SELECT 1"))
                session.close()
            else:
                getattr(connection, act)()
        tx.lockouts.set(2, "loss", "R", until=None)
    assert accounts(other, "lockouts") == [1, 2]


def test_a_transaction_that_the_driver_left_open_is_rolled_back(
    store: RiskStore, other: psycopg.Connection[Any]
) -> None:
    with store.begin() as tx:
        raw: Any = tx.session.connection().connection.driver_connection
        tx.session.commit()
        raw.execute("INSERT INTO lockouts (account_id, is_locked) VALUES (9, true)")
    with store.begin() as tx:
        tx.lockouts.set(1, "loss", "R", until=None)
    assert accounts(other, "lockouts") == [1]


def test_what_a_caller_has_detached_or_set_on_the_engine_holds_as_far_as_it_should(store: RiskStore) -> None:
    with store.begin() as tx:
        connection = tx.session.connection()
        connection.detach()
        connection.execute(sa.text("SET search_path TO nowhere"))
    store.engine.update_execution_options(isolation_level="SERIALIZABLE")
    with store.begin() as tx:
        tx.lockouts.set(1, "loss", "R", until=None)
        assert tx.session.scalar(sa.text("SHOW transaction_isolation")) == "serializable"


def test_many_events_lock_their_orders_by_id_whatever_they_carry(
    store: RiskStore, other: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that they wait for who writes one after another in that order, and he does not wait for them."""
    monkeypatch.setattr(repositories.orders, "_TOGETHER", 2)
    common: dict[str, Any] = {"account_id": 7, "contract_id": "X", "type": 1, "side": 1, "state": 2, "limit_price": 9.5}

    def event_of(id_: int, size: int) -> OrderUpdate:
        return OrderUpdate(id=id_, size=size, created_at=None if id_ == 1 else FAR, **common)

    with store.begin() as tx:
        tx.orders.apply_many(event_of(id_, 1) for id_ in range(1, 11))
    has_first = threading.Event()
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"

    def one_by_one() -> None:
        with store.begin() as tx:
            tx.orders.apply(event_of(1, 2))
            has_first.set()
            until = time.monotonic() + 10
            while other.execute(waiting).fetchone() == (0,) and time.monotonic() < until:
                pass  # the many come to wait for the first one
            tx.orders.apply(event_of(2, 2))

    with ThreadPoolExecutor(1) as threads:
        written = threads.submit(one_by_one)
        assert has_first.wait(10)
        with store.begin() as tx:
            tx.orders.apply_many(event_of(id_, 3) for id_ in range(1, 11))
        written.result()


# Reading -------------------------------------------------------------------------------------------------------------

PLANS_OF_REPORTS = (
    "SELECT generic_plans, custom_plans FROM pg_prepared_statements WHERE statement LIKE '%p95_time_ms%' "
    "ORDER BY cardinality(parameter_types)"
)
# psycopg prepares what it is sent for the sixth time. What is asked of one account is planned for that account, since
# another one may have a thousand times as many rows.
ALL_PREPARED_AND_THOSE_OF_AN_ACCOUNT_PLANNED = [(4, 0), (0, 4)]


def test_a_report_that_is_asked_for_again_is_not_prepared_anew(store: RiskStore) -> None:
    for account_id in range(1, 10):
        with store.read() as tx:
            tx.enforcements.time_by_rule()
            tx.enforcements.time_by_rule(account_id=account_id)
    with store.read() as tx:
        plans = tx.session.execute(sa.text(PLANS_OF_REPORTS)).all()
    assert plans == ALL_PREPARED_AND_THOSE_OF_AN_ACCOUNT_PLANNED


def test_nor_is_one_that_is_asked_for_with_asyncio(postgres_store_url: str) -> None:
    async def reports() -> object:
        async with AsyncRiskStore(sa.make_url(postgres_store_url).set(drivername="postgresql+psycopg")) as store:
            for account_id in range(1, 10):
                async with store.read() as tx:
                    await tx.enforcements.time_by_rule()
                    await tx.enforcements.time_by_rule(account_id=account_id)
            async with store.read() as tx:
                return (await tx.session.execute(sa.text(PLANS_OF_REPORTS))).all()

    assert asyncio.run(reports()) == ALL_PREPARED_AND_THOSE_OF_AN_ACCOUNT_PLANNED


KILL_MYSELF = sa.text("SELECT pg_terminate_backend(pg_backend_pid())")


def test_a_reader_that_catches_the_loss_of_its_connection_ends_quietly(store: RiskStore) -> None:
    with store.read() as tx, pytest.raises(sa.exc.DBAPIError):
        tx.session.execute(KILL_MYSELF)
    with store.read() as tx:
        tx.enforcements.time_by_rule()
        tx.session.connection().invalidate()
    with store.read() as tx:
        assert tx.enforcements.time_by_rule() == []


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
def test_so_does_one_with_asyncio(postgres_store_url: str, driver: str) -> None:
    async def read() -> Sequence[object]:
        async with AsyncRiskStore(sa.make_url(postgres_store_url).set(drivername=f"postgresql+{driver}")) as store:
            async with store.read() as tx:
                with pytest.raises(sa.exc.DBAPIError):
                    await tx.session.execute(KILL_MYSELF)
            async with store.read() as tx:
                return await tx.enforcements.time_by_rule()

    assert asyncio.run(read()) == []


def test_what_a_reader_adds_to_its_session_is_written_by_nobody(
    store: RiskStore, other: psycopg.Connection[Any]
) -> None:
    with store.read() as tx:
        tx.session.add(a_log(1))
    with store.read() as tx:
        assert tx.enforcements.time_by_rule() == []
        tx.session.add(a_log(2))
    with pytest.raises(Exception, match="read-only"), store.read() as tx:
        tx.session.add(a_log(3))
        tx.session.flush()
    assert other.execute("SELECT count(*) FROM enforcement_log").fetchone() == (0,)


def test_a_reader_may_end_its_transaction_itself_or_catch_an_error_in_it(store: RiskStore) -> None:
    with store.read() as tx:
        tx.enforcements.time_by_rule()
        tx.session.rollback()
    with store.read() as tx:
        tx.enforcements.time_by_rule()
        tx.session.commit()
    with store.read() as tx, pytest.raises(sa.exc.DataError):
        tx.session.execute(sa.text("SELECT 1 / 0"))
    with store.read() as tx:
        tx.session.begin_nested()
        assert tx.enforcements.time_by_rule() == []
    with store.read() as tx:
        assert tx.session.scalar(sa.text("SELECT 1")) == 1
    assert store.engine.pool.checkedout() == 0  # type: ignore[attr-defined]

"""A store to watch on each engine, its reader, and a client of the application."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event
from starlette.testclient import TestClient

from risk_store import EnforcementLog, Order, OrderSide, OrderState, OrderType, RiskStore
from risk_store.dashboard.app import application
from risk_store.dashboard.reader import Reader

NOW = datetime(2026, 11, 24, 11, 37, 16, tzinfo=UTC)


def trailing_stop(account_id: int = 456, contract_id: str = "CON.F.US.MNQ.Z26") -> Order:
    """A working trailing stop, 12.50 behind 21,492.75."""
    return Order(
        id=1,
        account_id=account_id,
        contract_id=contract_id,
        type=OrderType.TRAILING_STOP,
        side=OrderSide.SELL,
        size=2,
        stop_price=21480.25,
        trailing_amount=12.5,
        state=OrderState.ACTIVE,
    )


class Clock:
    """An instant that tests set."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now

    def pass_by(self, **span: float) -> None:
        self.now += timedelta(**span)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def reader(store_url: str, clock: Clock) -> Iterator[Reader]:
    watching = Reader(store_url, clock=clock)
    yield watching
    watching.close()


@pytest.fixture
def sent(reader: Reader) -> list[str]:
    """What the reader sends, statement by statement."""
    statements: list[str] = []

    @event.listens_for(reader._engine, "before_cursor_execute")
    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        statements.append(statement)

    return statements


def client_of(reader: Reader, **options: Any) -> TestClient:
    return TestClient(application(reader, **options), base_url="http://127.0.0.1:8377", raise_server_exceptions=False)


@pytest.fixture
def client(reader: Reader) -> TestClient:
    return client_of(reader)


@pytest.fixture(scope="module")
def plain_client(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """A client for what has nothing to do with the store: an empty one will do."""
    target = tmp_path_factory.mktemp("plain") / "risk.db"
    target.write_bytes(sqlite_template.read_bytes())
    watching = Reader(f"sqlite:///{target}")
    yield client_of(watching, allowed_hosts=["risk.example"], metrics=True)
    watching.close()


@pytest.fixture
def file(sqlite_template: Path, tmp_path: Path) -> Path:
    """An SQLite file at head, in WAL."""
    target = tmp_path / "watched.db"
    target.write_bytes(sqlite_template.read_bytes())
    with sqlite3.connect(target) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
    connection.close()
    return target


@pytest.fixture
def enforced(store: RiskStore, clock: Clock) -> Callable[..., EnforcementLog]:
    """Writes one finished enforcement, which began `ago` before the clock's now."""

    def write(ms: int | None = 145, ago: timedelta = timedelta(minutes=5), **values: Any) -> EnforcementLog:
        given = {"account_id": 456, "rule_id": "RULE-003", "action": "CLOSE_ALL", "reason": "loss", "success": True}
        log = EnforcementLog(**(given | {"timestamp": clock.now - ago, "execution_time_ms": ms} | values))
        with store.begin() as tx:
            return tx.enforcements.add(log)

    return write

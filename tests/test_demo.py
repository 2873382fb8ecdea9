"""The demo: a new store, real payloads, enforcements that take real time."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from risk_store import OrderType, RiskStore, RiskStoreError, demo
from risk_store.demo.broker import StandInBroker

SAMPLES = Path(demo.__file__).with_name("gateway_day.jsonl")


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgresql":
        return str(request.getfixturevalue("postgres_database"))
    return f"sqlite:///{tmp_path / 'risk.db'}"


def test_the_demo_fills_a_new_store_on_each_engine(empty_url: str) -> None:
    told = io.StringIO()
    result = demo.run(empty_url, Console(file=told), speed=20)
    assert told.getvalue().splitlines()[-1] == "demo: 57 of 57"
    with RiskStore(empty_url) as store, store.read() as tx:
        logs = tx.enforcements.list(limit=1000)
        assert len(logs) == result.enforcements == 37
        assert (result.payloads, result.orders, result.positions, result.trades, result.skipped) == (20, 9, 4, 5, 2)
        assert [log.error_message for log in logs if not log.success] == [
            "closed 1 of 2: Outside trading hours",
            "canceled 1 of 2: Order not found",
        ]
        assert len(tx.enforcements.daily_trend(7)) >= 7
        assert {order.type for order in tx.orders.working()} == {
            OrderType.LIMIT,
            OrderType.STOP,
            OrderType.TRAILING_STOP,
        }
        assert {lockout.account_id for lockout in tx.lockouts.active()} == {212, 26000001}


def test_a_demo_into_a_store_that_is_there_is_refused_and_changes_nothing(store_url: str) -> None:
    with pytest.raises(RiskStoreError, match="writes only into a new store"):
        demo.run(store_url, Console(file=io.StringIO()), speed=20)
    with RiskStore(store_url) as store, store.read() as tx:
        assert list(tx.enforcements.list()) == []


def test_every_payload_of_the_demo_is_captured_or_documented_and_names_its_source() -> None:
    for line in SAMPLES.read_text().splitlines():
        sample = json.loads(line)
        assert sample["provenance"] in ("captured", "captured-in-prose", "documented")
        assert sample["source"]


def test_the_broker_waits_the_same_times_for_the_same_seed_and_refuses_once() -> None:
    broker = StandInBroker(speed=10_000, refuse_next="Order not found")
    assert [broker.cancel_order(1).success, broker.cancel_order(1).success] == [False, True]


def test_the_command_makes_risk_db_in_the_current_folder_and_prints_the_report(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "risk_store", "demo"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    assert "2 skipped), 37 enforcements carried out" in result.stdout
    assert "milliseconds are real" in result.stdout
    alerts = [line.split("\t")[5] for line in result.stdout.splitlines() if "\tCLOSE_" in line or "\tCANCEL_" in line]
    assert alerts[0] == "CRITICAL"  # over 2000 ms
    assert alerts.count("WARNING") >= 3
    assert "alembic -x url=sqlite:///risk.db current" in result.stdout
    for header in ("rule_id\tenforcement_count", "timestamp\taccount_id", "date\tavg_time_ms", "account_id\tid"):
        assert header in result.stdout
    assert (tmp_path / "risk.db").is_file()
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert again.returncode == 1
    assert "risk-store demo sqlite:///demo.db" in again.stderr

"""store.enforce and store.record, the same on each engine (SPEC 4 in its sync form)."""

import dataclasses
import json
import os
import sqlite3
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

from risk_store import (
    EnforcementInFlight,
    EnforcementLog,
    EnforcementNotRecorded,
    InvalidValue,
    Limits,
    Lockout,
    RiskStore,
    schema,
)
from tests.support.doors import BEGAN, Clocks, critical_lines
from tests.support.hurry import in_a_hurry


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


@pytest.fixture
def timed(store_url: str, clocks: Clocks) -> Iterator[RiskStore]:
    with RiskStore(store_url, clock=lambda: clocks.now, monotonic=lambda: clocks.seconds) as store:
        yield store


def rows(store: RiskStore, model: type[EnforcementLog] | type[EnforcementInFlight]) -> list[sa.Row[tuple[object, ...]]]:
    with store.read() as tx:
        return list(tx.session.execute(sa.select(model.__table__)).all())


def test_the_account_is_locked_before_the_first_position_is_closed(timed: RiskStore) -> None:
    until = BEGAN + timedelta(hours=6)
    with timed.enforce(123, "RULE-003", "CLOSE_ALL", "loss", lock_until=until), timed.read() as tx:
        assert tx.lockouts.is_locked(123)
        [in_flight] = tx.session.scalars(sa.select(EnforcementInFlight)).all()
        assert (in_flight.account_id, in_flight.rule_id, in_flight.pid) == (123, "RULE-003", os.getpid())
        assert in_flight.started_at == BEGAN
    with timed.read() as tx:
        lockout = tx.lockouts.get(123)
    assert lockout is not None
    assert (lockout.locked_until, lockout.reason, lockout.rule_id) == (until, "loss", "RULE-003")


def test_lock_until_none_locks_until_released_and_no_lock_until_locks_nothing(timed: RiskStore) -> None:
    with timed.enforce(1, "R", "A", "x", lock_until=None):
        pass
    with timed.enforce(2, "R", "A", "x"):
        pass
    with timed.read() as tx:
        assert tx.lockouts.is_locked(1, at=BEGAN + timedelta(days=9999))
        assert tx.lockouts.get(2) is None


def test_an_exception_in_the_block_is_logged_and_goes_on(timed: RiskStore) -> None:
    with (
        pytest.raises(ConnectionError, match="gateway gone"),
        timed.enforce(123, "RULE-003", "CLOSE_ALL", "loss") as enforcement,
    ):
        enforcement.positions_closed += 1
        raise ConnectionError("gateway gone")
    assert enforcement.log is not None
    assert enforcement.log.success is False
    assert enforcement.log.error_message == "ConnectionError: gateway gone"
    assert enforcement.log.positions_closed == 1


def test_ctrl_c_in_the_block_is_logged_and_goes_on(timed: RiskStore) -> None:
    with pytest.raises(KeyboardInterrupt), timed.enforce(123, "RULE-003", "CLOSE_ALL", "loss"):
        raise KeyboardInterrupt
    with timed.read() as tx:
        [log] = tx.enforcements.list()
    assert (log.success, log.error_message) == (False, "KeyboardInterrupt: ")


def test_what_did_not_work_makes_a_failure_that_lists_it(timed: RiskStore) -> None:
    with timed.enforce(123, "RULE-003", "CLOSE_ALL", "loss") as enforcement:
        enforcement.positions_closed = 3
        enforcement.fail("closed 3 of 4: market closed")
        enforcement.fail("order 77 not canceled")
    assert enforcement.log is not None
    assert (enforcement.log.success, enforcement.log.error_message) == (
        False,
        "closed 3 of 4: market closed; order 77 not canceled",
    )


def test_details_are_json_facts_from_the_start_and_from_the_block(timed: RiskStore) -> None:
    with timed.enforce(123, "R", "A", "x", details={"limit": -500.0}) as mapping:
        mapping.detail(observed=-550.25, order_ids=[1, 2], at=BEGAN)
    with timed.enforce(123, "R", "A", "x", details="as v1 wrote it") as text:
        pass
    with timed.enforce(123, "R", "A", "x", details="as v1 wrote it") as both:
        both.detail(observed=1)
    assert mapping.log is not None
    assert json.loads(mapping.log.details or "") == {
        "limit": -500.0,
        "observed": -550.25,
        "order_ids": [1, 2],
        "at": str(BEGAN),
    }
    assert text.log is not None
    assert text.log.details == "as v1 wrote it"
    assert both.log is not None
    assert json.loads(both.log.details or "") == {"details": "as v1 wrote it", "observed": 1}


def test_lock_out_in_the_block_locks_at_once(timed: RiskStore) -> None:
    with timed.enforce(123, "RULE-006", "WARN", "too many trades") as enforcement:
        enforcement.lock_out(until=BEGAN + timedelta(minutes=30), reason="cooldown")
        with timed.read() as tx:
            lockout = tx.lockouts.get(123)
        assert lockout is not None
        assert (lockout.reason, lockout.rule_id) == ("cooldown", "RULE-006")


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"account_id": 0}, "account_id"),
        ({"account_id": "123"}, "account_id"),
        ({"rule_id": ""}, "rule_id"),
        ({"action": ""}, "action"),
        ({"reason": ""}, "reason"),
        ({"lock_until": datetime(2026, 11, 23)}, "lock_until"),  # noqa: DTZ001 (naive on purpose)
        ({"details": 5}, "details"),
        ({"rule_id": "R\0"}, "rule_id"),
        ({"lock_until": datetime.max.replace(tzinfo=timezone(timedelta(hours=-5)))}, "lock_until"),
    ],
)
def test_bad_arguments_raise_before_anything_is_done(
    timed: RiskStore, arguments: dict[str, object], field: str
) -> None:
    good: dict[str, object] = {"account_id": 1, "rule_id": "R", "action": "A", "reason": "x"}
    with pytest.raises(InvalidValue) as caught:
        timed.enforce(**(good | arguments))  # type: ignore[arg-type]
    assert caught.value.field == field
    assert rows(timed, EnforcementInFlight) == []


def test_whatever_the_block_says_the_row_is_not_lost(timed: RiskStore) -> None:
    circular: list[object] = []
    circular.append(circular)
    with timed.enforce(123, "R", "A", "x") as enforcement:
        enforcement.positions_closed = "three"  # type: ignore[assignment]
        enforcement.orders_canceled = -1
        enforcement.detail(order=circular, limit=-500)
        enforcement.fail("broker said \0 \udc80")
        with pytest.raises(InvalidValue, match="reason"):
            enforcement.lock_out(reason="")
    with timed.read() as tx:
        [log] = tx.enforcements.list()
    assert (log.positions_closed, log.orders_canceled, log.success) == (0, 0, False)
    assert log.error_message == (
        "broker said \\x00 \\udc80; positions_closed was set to 'three', which is no count; "
        "orders_canceled was set to -1, which is no count"
    )
    assert json.loads(log.details or "") == {"order": "[[...]]", "limit": "-500"}


def test_concurrent_enforcements_of_one_account_are_both_recorded(timed: RiskStore) -> None:
    with timed.enforce(123, "RULE-003", "CLOSE_ALL", "loss"), timed.enforce(123, "RULE-006", "CANCEL_ALL", "trades"):
        pass
    with timed.read() as tx:
        assert {log.rule_id for log in tx.enforcements.list(account_id=123)} == {"RULE-003", "RULE-006"}


class Held:
    """Another program that holds the database's write lock (or the log's tables) until told to let go."""

    def __init__(self, store: RiskStore) -> None:
        url = store.engine.url
        self._connection: sqlite3.Connection | psycopg.Connection[tuple[object, ...]]
        if url.get_backend_name() == "sqlite":
            self._connection = sqlite3.connect(str(url.database), uri=True, isolation_level=None)
            self._connection.execute("BEGIN IMMEDIATE")
        else:
            plain = url.set(drivername="postgresql", query={}).render_as_string(hide_password=False)
            self._connection = psycopg.connect(plain)
            self._connection.execute("LOCK TABLE enforcement_in_flight, enforcement_log IN EXCLUSIVE MODE")

    def let_go(self) -> None:
        self._connection.rollback()
        self._connection.close()


def test_an_outcome_that_cannot_be_written_is_told_whole_and_the_in_flight_row_stays(
    timed: RiskStore, caplog: pytest.LogCaptureFixture
) -> None:
    holders: list[Held] = []
    with (
        in_a_hurry(timed, Limits(record_s=1.0)),
        pytest.raises(EnforcementNotRecorded, match="carried out but not recorded") as caught,
        timed.enforce(123, "RULE-003", "CLOSE_ALL", "loss") as enforcement,
    ):
        enforcement.positions_closed += 2
        holders.append(Held(timed))
    holders[0].let_go()
    assert caught.value.__cause__ is not None
    assert caught.value.log.positions_closed == 2
    [line] = critical_lines(caplog)
    assert (line["event"], line["positions_closed"]) == ("enforcement not recorded", 2)
    assert len(rows(timed, EnforcementInFlight)) == 1
    assert rows(timed, EnforcementLog) == []
    again = EnforcementLog.from_dict({key: line[key] for key in caught.value.log.to_dict()})
    assert timed.record(again).id is not None, "the line on the log is enough to write the row later"


def test_a_database_without_a_store_does_not_stop_the_block(tmp_path: object) -> None:
    ran = False
    with (
        RiskStore(f"sqlite:///{tmp_path}/missing.db") as store,
        pytest.raises(EnforcementNotRecorded),
        store.enforce(123, "RULE-003", "CLOSE_ALL", "loss"),
    ):
        ran = True
    assert ran
    assert os.listdir(str(tmp_path)) == []


def test_record_writes_one_finished_enforcement_and_its_lockout(timed: RiskStore) -> None:
    log = EnforcementLog(account_id=5, rule_id="R", action="A", reason="x", success=True, execution_time_ms=7)
    lockout = Lockout(account_id=5, is_locked=True, reason="x", rule_id="R", locked_until=None)
    assert timed.record(log, lockout).id is not None
    with timed.read() as tx:
        assert tx.lockouts.is_locked(5)
        assert [row.execution_time_ms for row in tx.enforcements.list(account_id=5)] == [7]


def test_enforcements_of_several_threads_are_each_recorded_once(store: RiskStore) -> None:
    def work(account_id: int) -> None:
        for _ in range(5):
            with store.enforce(account_id, "R", "A", "x", lock_until=None):
                pass

    threads = [threading.Thread(target=work, args=(account,)) for account in range(1, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    logged = rows(store, EnforcementLog)
    assert len(logged) == 30
    assert len({row.enforcement_id for row in logged}) == 30
    assert rows(store, EnforcementInFlight) == []


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("str is broken")

    __repr__ = __str__


def test_an_exception_that_cannot_be_printed_is_recorded_and_goes_on(timed: RiskStore) -> None:
    with pytest.raises(Unprintable), timed.enforce(1, "R", "A", "x") as enforcement:
        enforcement.detail(order=Unprintable())
        raise Unprintable
    with timed.read() as tx:
        [log] = tx.enforcements.list()
    assert log.success is False
    assert (log.error_message or "").startswith("Unprintable: ")


def test_record_gives_an_enforcement_id_and_a_second_call_still_locks(timed: RiskStore) -> None:
    first = timed.record(EnforcementLog(account_id=8, rule_id="R", action="A", reason="x", success=True))
    assert first.enforcement_id
    again = EnforcementLog.from_dict(first.to_dict())
    lockout = Lockout(account_id=8, is_locked=True, reason="x", rule_id="R")
    assert timed.record(again, lockout).id == first.id
    with timed.read() as tx:
        assert tx.lockouts.is_locked(8)
    assert len(rows(timed, EnforcementLog)) == 1


@pytest.mark.parametrize("seconds", [0, -1, 0.0001, float("nan"), float("inf"), "1", True])
def test_a_limit_that_bounds_nothing_is_refused(seconds: float) -> None:
    with pytest.raises(InvalidValue, match="intent_s"):
        Limits(intent_s=seconds)


def test_an_enforcement_waits_half_a_second_for_its_beginning_and_five_seconds_for_its_record() -> None:
    assert {field.name: field.default for field in dataclasses.fields(Limits)} == {"intent_s": 0.5, "record_s": 5.0}


@pytest.mark.usefixtures("nothing_else_ends_a_wait")
def test_a_first_use_is_within_the_limit_too(tmp_path: Path) -> None:
    file = tmp_path / "risk.db"
    schema.upgrade(f"sqlite:///{file}")
    holder = sqlite3.connect(file, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    with (
        RiskStore(f"sqlite:///{file}", limits=Limits(intent_s=0.1, record_s=0.1)) as store,
        pytest.raises(EnforcementNotRecorded),
        store.enforce(1, "R", "A", "x"),
    ):
        pass
    holder.rollback()
    holder.close()

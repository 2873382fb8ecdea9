"""One enforcement through each door: threads and asyncio, SQLite and PostgreSQL, the same outcome rules (SPEC 4, 5)."""

import asyncio
import contextlib
import dataclasses
import json
import logging
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from risk_store import (
    Alert,
    AlertLevel,
    EnforcementInFlight,
    EnforcementInProgress,
    EnforcementLog,
    EnforcementNotRecorded,
    InvalidValue,
    Limits,
    Lockout,
    NestedTransaction,
    StoreClosed,
    Thresholds,
)
from risk_store import owner as owners
from risk_store.enforcement import FOREIGN_COUNTS_AS_LIVE, EnforcementCore
from risk_store.owner import Owner, OwnerState, this_process
from tests.support.doors import ASYNC_DOORS, BEGAN, Clocks, Door, critical_lines
from tests.support.forks import ROOT
from tests.support.hurry import in_a_hurry

FAST = Thresholds(slow_threshold_ms=40, critical_threshold_ms=80, timeout_ms=120)


@pytest.fixture
async def ticking(url: str, driver: str) -> AsyncIterator[Door]:
    """With real clocks, fast thresholds, and every alert it raises in `door.alerts`."""
    alerts: list[Alert] = []
    opened = Door(url, driver, thresholds=FAST, on_alert=alerts.append)
    opened.alerts = alerts  # type: ignore[attr-defined]
    yield opened
    await opened.close()


# The outcome


async def test_an_enforcement_is_logged_with_what_it_did_and_how_long_it_took(door: Door, clocks: Clocks) -> None:
    async with door.enforce(details={"observed": -550.0}, lock_until=BEGAN + timedelta(hours=1)) as enforcement:
        assert await door.is_locked(123), "before the first position is closed"
        [begun] = await door.look(lambda tx: list(tx.enforcements.in_flight()))
        assert (begun.enforcement_id, begun.started_at, begun.owner) == (
            enforcement.enforcement_id,
            BEGAN,
            this_process(),
        )
        enforcement.positions_closed += 2
        enforcement.orders_canceled += 1
        enforcement.detail(limit=-500)
        clocks.spend(144.2)
    [log] = await door.logs()
    assert (log.success, log.execution_time_ms, log.positions_closed, log.orders_canceled) == (True, 145, 2, 1)
    assert (log.timestamp, json.loads(log.details or "")) == (BEGAN, {"observed": -550.0, "limit": -500})
    assert enforcement.log is not None
    assert enforcement.log.id == log.id
    assert await door.look(lambda tx: list(tx.enforcements.in_flight())) == []


async def test_what_did_not_work_and_what_was_raised_make_a_failure(door: Door) -> None:
    with pytest.raises(ConnectionError, match="gateway gone"):
        async with door.enforce() as enforcement:
            enforcement.fail("closed 3 of 4: order rejected")
            raise ConnectionError("gateway gone")
    [log] = await door.logs()
    assert (log.success, log.error_message) == (
        False,
        "closed 3 of 4: order rejected; ConnectionError: gateway gone",
    )


async def test_longer_than_the_timeout_is_a_failure_that_says_so(door: Door, clocks: Clocks) -> None:
    async with door.enforce() as enforcement:
        enforcement.fail("late")
        clocks.spend(5000.5)
    [log] = await door.logs()
    assert (log.success, log.error_message) == (False, "timed out after 5001 ms (limit 5000 ms); late")


async def test_clock_steps_and_the_end_of_summer_time_change_no_duration(door: Door, clocks: Clocks) -> None:
    chicago_goes_back = datetime(2026, 11, 1, 7, 0, tzinfo=UTC)
    for step in (timedelta(hours=-1), timedelta(hours=1)):
        clocks.now = chicago_goes_back
        async with door.enforce():
            clocks.now += step
            clocks.spend(10)
    logs = await door.logs()
    assert [(log.timestamp, log.execution_time_ms) for log in logs] == [(chicago_goes_back, 10)] * 2
    async with door.enforce():
        clocks.seconds -= 3600  # which no monotonic clock does; if one did, the time is not negative
    assert [log.execution_time_ms for log in await door.logs()][-1] == 0
    ids = [log.id for log in await door.logs()]
    assert ids == sorted(ids)


async def test_lock_out_in_the_block_locks_at_once(door: Door) -> None:
    async with door.enforce() as enforcement:
        assert not await door.is_locked(123)
        await door.lock_out(enforcement, None, "found worse")
        assert await door.is_locked(123)
        lockout = await door.look(lambda tx: tx.lockouts.get(123))
        assert lockout is not None
        assert lockout.reason == "found worse"


@pytest.mark.parametrize(
    "bad", [{"account_id": 0}, {"rule_id": ""}, {"reason": ""}, {"lock_until": "soon"}, {"details": 5}], ids=str
)
async def test_bad_arguments_raise_before_anything_is_done(door: Door, bad: dict[str, Any]) -> None:
    with pytest.raises(InvalidValue, match=next(iter(bad)).replace("account_id", "account")):
        async with door.enforce(**bad):
            raise AssertionError("the block must not run")
    assert await door.logs() == []


async def test_enforcing_inside_a_transaction_raises_at_once(door: Door) -> None:
    if door.is_async:
        async with door.store.begin():
            with pytest.raises(NestedTransaction):
                door.store.enforce(123, "R", "A", "r")
    else:
        with door.store.begin(), pytest.raises(NestedTransaction):
            door.store.enforce(123, "R", "A", "r")


async def test_nested_and_concurrent_enforcements_of_one_account_are_both_recorded(door: Door) -> None:
    async with door.enforce(rule_id="OUTER"), door.enforce(rule_id="INNER"):
        assert len(await door.look(lambda tx: list(tx.enforcements.in_flight()))) == 2
    assert [log.rule_id for log in await door.logs()] == ["INNER", "OUTER"]
    if not door.is_async:
        return

    async def one(number: int) -> None:
        async with door.enforce(rule_id=f"TASK-{number}", lock_until=None):
            await asyncio.sleep(0)

    await asyncio.gather(*(one(number) for number in range(20)))
    logs = await door.logs()
    assert sorted(log.rule_id for log in logs[2:]) == sorted(f"TASK-{number}" for number in range(20))
    assert await door.look(lambda tx: list(tx.enforcements.in_flight())) == []


async def test_record_writes_one_finished_enforcement_once(door: Door) -> None:
    log = EnforcementLog(account_id=5, rule_id="R", action="A", reason="x", success=True, execution_time_ms=7)
    await door.record(log, Lockout(account_id=5, is_locked=True, reason="x", rule_id="R"))
    assert await door.is_locked(5)
    with pytest.raises(InvalidValue):
        await door.record(EnforcementLog(account_id=5))
    assert [row.execution_time_ms for row in await door.logs()] == [7]


async def test_a_closed_store_says_what_to_do_and_still_lets_the_block_run(door: Door) -> None:
    await door.close()
    with pytest.raises(StoreClosed, match="Make a new"):
        await door.logs()
    ran = False
    with pytest.raises(EnforcementNotRecorded, match="closed"):
        async with door.enforce():
            ran = True
    assert ran


# The store in trouble


class Held:
    """Another process that keeps the database from being written, until it is let go."""

    def __init__(self, url: str) -> None:
        given = sa.make_url(url)
        self._engine = sa.create_engine(
            given.set(drivername="sqlite" if given.get_backend_name() == "sqlite" else "postgresql+psycopg"),
            poolclass=sa.NullPool,
        )
        self._connection = self._engine.connect()
        if given.get_backend_name() == "sqlite":
            raw: Any = self._connection.connection.dbapi_connection
            raw.isolation_level = None
            raw.execute("BEGIN IMMEDIATE")
        else:
            self._connection.exec_driver_sql("LOCK TABLE enforcement_in_flight, enforcement_log IN EXCLUSIVE MODE")

    def let_go(self) -> None:
        self._connection.close()
        self._engine.dispose()


async def test_a_store_that_is_held_at_the_start_does_not_stop_the_block(
    door: Door, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    await door.logs()  # the verdict is taken
    held = Held(url)
    with in_a_hurry(door.store, Limits(intent_s=0.3)):
        async with door.enforce(lock_until=None) as enforcement:
            held.let_go()
            enforcement.positions_closed += 1
    [line] = critical_lines(caplog)
    assert (line["event"], line["account_id"]) == ("enforcement begun without an in-flight row", 123)
    assert [log.positions_closed for log in await door.logs()] == [1]
    assert await door.is_locked(123), "the lockout asked for was written with the outcome"


async def test_an_outcome_that_cannot_be_written_is_told_whole_within_its_time(
    door: Door, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    holders: list[Held] = []
    with (
        in_a_hurry(door.store, Limits(record_s=1.0)),
        pytest.raises(EnforcementNotRecorded, match="carried out but not recorded") as caught,
    ):
        async with door.enforce() as enforcement:
            enforcement.positions_closed += 2
            await door.lock_out(enforcement)
            holders.append(Held(url))
    holders[0].let_go()
    assert caught.value.__cause__ is not None
    [line] = critical_lines(caplog)
    assert (line["event"], line["positions_closed"], line["enforcement_id"]) == (
        "enforcement not recorded",
        2,
        enforcement.enforcement_id,
    )
    assert await door.logs() == []
    assert len(await door.look(lambda tx: list(tx.enforcements.in_flight()))) == 1, "the in-flight row stays"


async def test_the_blocks_own_exception_is_never_replaced(door: Door, url: str) -> None:
    holders: list[Held] = []
    with in_a_hurry(door.store, Limits(record_s=1.0)), pytest.raises(ConnectionError, match="gateway gone"):
        async with door.enforce():
            holders.append(Held(url))
            raise ConnectionError("gateway gone")
    holders[0].let_go()


# Alerts


@pytest.mark.parametrize(
    ("milliseconds", "level", "log_level"),
    [
        (500, None, None),
        (500.1, AlertLevel.WARNING, logging.WARNING),
        (2000, AlertLevel.WARNING, logging.WARNING),
        (2001, AlertLevel.CRITICAL, logging.ERROR),
        (5000, AlertLevel.CRITICAL, logging.ERROR),
        (5001, AlertLevel.TIMEOUT, logging.CRITICAL),
    ],
)
async def test_a_slow_enforcement_is_alerted_at_its_level(
    url: str,
    driver: str,
    clocks: Clocks,
    caplog: pytest.LogCaptureFixture,
    milliseconds: float,
    level: AlertLevel | None,
    log_level: int | None,
) -> None:
    alerts: list[Alert] = []
    door = Door(url, driver, monotonic=lambda: clocks.seconds, on_alert=alerts.append)
    with caplog.at_level(logging.WARNING, "risk_store.alerts"):
        async with door.enforce() as enforcement:
            enforcement.positions_closed = 3
            clocks.spend(milliseconds)
    await door.close()
    lines = [record for record in caplog.records if record.name == "risk_store.alerts"]
    if level is None:
        assert (alerts, lines) == ([], [])
        return
    [alert], [line] = alerts, lines
    assert (alert.level, alert.rule_id, alert.account_id, alert.running) == (level, "RULE-003", 123, False)
    assert (alert.execution_time_ms, alert.positions_closed) == (math.ceil(milliseconds), 3)
    assert line.levelno == log_level
    for part in ("RULE-003", "123", f"{math.ceil(milliseconds)} ms", "3 positions"):
        assert part in line.getMessage()


async def _wait_until(condition: Callable[[], object], blocking: bool) -> None:
    deadline = time.monotonic() + 30
    while not condition() and time.monotonic() < deadline:
        if blocking:
            time.sleep(0.005)
        else:
            await asyncio.sleep(0.005)
    assert condition()


async def test_a_block_that_hangs_is_alerted_while_it_hangs_and_left_to_finish(ticking: Door) -> None:
    alerts: list[Alert] = ticking.alerts  # type: ignore[attr-defined]
    async with ticking.enforce() as enforcement:
        enforcement.positions_closed += 1
        await _wait_until(lambda: alerts, blocking=not ticking.is_async)
        [alert] = alerts
        assert (alert.level, alert.running, alert.positions_closed) == (AlertLevel.TIMEOUT, True, 1)
        assert alert.execution_time_ms >= FAST.timeout_ms
        assert "still runs" in str(alert)
        enforcement.positions_closed += 1
    assert [(alert.level, alert.running) for alert in alerts] == [
        (AlertLevel.TIMEOUT, True),
        (AlertLevel.TIMEOUT, False),
    ]
    [log] = await ticking.logs()
    assert (log.success, log.positions_closed) == (False, 2)
    assert (log.error_message or "").startswith("timed out after ")


async def quick(ticking: Door, **options: Any) -> EnforcementCore:
    """One that was over in time; on a busy machine not the first one."""
    while True:
        with suppress(TimeoutError):
            async with ticking.enforce(**options) as enforcement:
                pass
            if (await ticking.logs())[-1].success:
                return enforcement


async def test_an_enforcement_that_is_over_raises_no_alert_later(ticking: Door) -> None:
    enforcement = await quick(ticking)
    await asyncio.sleep(FAST.timeout_ms / 1000 * 2)
    late = [alert for alert in ticking.alerts if alert.enforcement_id == enforcement.enforcement_id]  # type: ignore[attr-defined]
    assert [alert for alert in late if alert.running] == []


async def test_a_callback_that_fails_or_hangs_harms_nothing(
    url: str, driver: str, caplog: pytest.LogCaptureFixture
) -> None:
    never = threading.Event()
    told: list[Alert] = []

    def hang(alert: Alert) -> None:
        if alert.running:
            never.wait(60)

    def fail(alert: Alert) -> None:
        raise RuntimeError("the pager is down")

    door = Door(url, driver, thresholds=FAST, on_alert=[fail, told.append, hang])
    for _ in range(2):  # the watchdog lives on
        told.clear()
        async with door.enforce():
            await _wait_until(lambda: told, blocking=not door.is_async)
    assert [log.success for log in await door.logs()] == [False, False]
    assert "the pager is down" in caplog.text
    never.set()
    await door.close()


# Exclusive


async def test_a_breach_that_repeats_is_enforced_once_at_a_time(door: Door) -> None:
    async with door.enforce(exclusive=True):
        for _ in range(10):
            with pytest.raises(EnforcementInProgress, match="RULE-003 is being enforced on account 123 already"):
                async with door.enforce(exclusive=True):
                    raise AssertionError("it must not flatten twice")
        async with door.enforce(exclusive=True, rule_id="RULE-004"), door.enforce(124, exclusive=True):
            pass  # another rule, another account
    async with door.enforce(exclusive=True):
        pass  # the first is over
    assert len(await door.logs()) == 4


def in_flight(owner: Owner, **values: Any) -> EnforcementInFlight:
    known = {
        "account_id": 123,
        "enforcement_id": "e1",
        "rule_id": "RULE-003",
        "action": "CLOSE_ALL",
        "reason": "loss",
        "started_at": BEGAN,
    }
    return EnforcementInFlight(**(known | dataclasses.asdict(owner) | values))


@pytest.fixture
def other_process() -> Any:
    """A process of this host that is alive."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    process.communicate(b"\n")


def owner_of(pid: int) -> Owner:
    return owners._owner.__wrapped__(pid)


async def test_only_a_live_enforcement_of_another_process_stops_an_exclusive_one(
    door: Door, clocks: Clocks, other_process: Any
) -> None:
    alive = owner_of(other_process.pid)
    gone = dataclasses.replace(alive, process_started="1")
    foreign = dataclasses.replace(alive, host="another")
    for owner, age, stops in [
        (alive, timedelta(days=1), True),
        (gone, timedelta(0), False),
        (foreign, FOREIGN_COUNTS_AS_LIVE - timedelta(seconds=1), True),
        (foreign, FOREIGN_COUNTS_AS_LIVE, False),
    ]:
        row = in_flight(owner, enforcement_id=f"{owner.host}{age}", started_at=BEGAN - age)
        await door.write(lambda tx, row=row: tx.enforcements.start(row))
        if stops:
            with pytest.raises(EnforcementInProgress, match=f"by process {owner.pid} of {owner.host}"):
                async with door.enforce(exclusive=True):
                    raise AssertionError("it must not flatten twice")
        else:
            async with door.enforce(exclusive=True):
                pass
        await door.write(lambda tx: tx.session.execute(sa.delete(EnforcementInFlight.__table__)))


# Interrupted


async def test_what_a_dead_process_was_doing_is_listed_and_can_be_closed(
    door: Door, clocks: Clocks, other_process: Any
) -> None:
    alive = owner_of(other_process.pid)
    rows = {
        "alive": alive,
        "died": dataclasses.replace(alive, process_started="1"),
        "no such pid": dataclasses.replace(alive, pid=2**22 + 1),
        "before the reboot": dataclasses.replace(alive, boot_id="another boot"),
        "elsewhere": dataclasses.replace(alive, host="another"),
        "mine": this_process(),
    }
    for place, (name, owner) in enumerate(rows.items()):
        row = in_flight(owner, enforcement_id=name, started_at=BEGAN + timedelta(seconds=place), details='{"a": 1}')
        await door.write(lambda tx, row=row: tx.enforcements.start(row))
    found = await door.interrupted()
    assert [(item.row.enforcement_id, item.owner) for item in found] == [
        ("died", OwnerState.GONE),
        ("no such pid", OwnerState.GONE),
        ("before the reboot", OwnerState.GONE),
        ("elsewhere", OwnerState.UNKNOWN),
        ("mine", OwnerState.GONE),  # of itself a process knows what it carries out
    ]
    clocks.now += timedelta(hours=1)
    log = await door.close_interrupted(found[0], "looked up at the broker: flat")
    assert (log.success, log.error_message, log.execution_time_ms, log.timestamp, log.enforcement_id) == (
        False,
        "interrupted: looked up at the broker: flat",
        None,
        BEGAN + timedelta(seconds=1),
        "died",
    )
    facts = json.loads(log.details or "")
    assert facts == {"a": 1, "interrupted_process": {"host": alive.host, "pid": alive.pid, "boot_id": alive.boot_id}}
    with pytest.raises(InvalidValue, match="in flight; it has ended or was closed"):
        await door.close_interrupted(found[0], "again")
    with pytest.raises(InvalidValue, match="other_host=True"):
        await door.close_interrupted(found[3], "who knows")
    await door.close_interrupted(found[3].row, "that host is gone", other_host=True)
    running = await door.look(
        lambda tx: next(row for row in tx.enforcements.in_flight() if row.enforcement_id == "alive")
    )
    with pytest.raises(InvalidValue, match=r"its process \d+ is running"):
        await door.close_interrupted(running, "no", other_host=True)
    with pytest.raises(InvalidValue, match="note"):
        await door.close_interrupted(found[1], "")
    assert [item.row.enforcement_id for item in await door.interrupted()] == [
        "no such pid",
        "before the reboot",
        "mine",
    ]
    assert [row.enforcement_id for row in await door.logs()] == ["died", "elsewhere"]


async def test_a_finisher_whose_row_was_closed_meanwhile_is_recorded_as_late(door: Door) -> None:
    async with door.enforce(details="plain words") as enforcement:
        enforcement.positions_closed = 4
        await door.write(lambda tx: tx.enforcements.close(tx.enforcements.in_flight()[0], "thought dead"))
    closed, late = await door.logs()
    assert (closed.enforcement_id, closed.execution_time_ms) == (enforcement.enforcement_id, None)
    assert (late.enforcement_id, late.success, late.positions_closed) == (
        f"{enforcement.enforcement_id}:late",
        True,
        4,
    )
    assert json.loads(late.details or "") == {
        "details": "plain words",
        "late": True,
        "closed_as_interrupted_in_log_id": closed.id,
    }
    again = EnforcementLog.from_dict(late.to_dict())
    assert await door.look(lambda tx: tx.enforcements.find_recorded(again)) == late.id, "a retry does not double it"


async def test_an_intent_that_arrives_after_its_outcome_counts_for_nothing(door: Door) -> None:
    async with door.enforce(exclusive=True) as enforcement:
        pass
    gone = dataclasses.replace(this_process(), process_started="1")
    late = in_flight(gone, enforcement_id=enforcement.enforcement_id)
    await door.write(lambda tx: tx.enforcements.start(late))
    assert await door.interrupted() == []


async def test_an_enforcement_whose_record_failed_stops_no_later_one(door: Door, url: str) -> None:
    holders: list[Held] = []
    with in_a_hurry(door.store, Limits(record_s=1.0)), pytest.raises(EnforcementNotRecorded):
        async with door.enforce(exclusive=True) as enforcement:
            holders.append(Held(url))
    holders[0].let_go()
    async with door.enforce(exclusive=True):
        pass
    [left] = await door.interrupted()
    assert left.row.enforcement_id == enforcement.enforcement_id
    await door.close_interrupted(left, "its record is in the log of the program")


async def test_a_row_whose_beginning_nobody_can_read_stops_nobody_and_can_be_closed(door: Door, driver: str) -> None:
    # What is odd and a server can hold is only a wrong time.
    odd = BEGAN + timedelta(days=400) if driver.startswith("postgresql") else "garbage"
    foreign = dataclasses.replace(this_process(), host="another")
    await door.write(lambda tx: tx.enforcements.start(in_flight(foreign)))
    await door.write(
        lambda tx: tx.session.execute(sa.text("UPDATE enforcement_in_flight SET started_at = :odd"), {"odd": odd})
    )
    async with door.enforce(exclusive=True):
        pass
    [left] = await door.interrupted()
    log = await door.close_interrupted(left, "gone", other_host=True)
    assert log.id is not None
    if odd == "garbage":
        assert json.loads(log.details or "")["started_at"] == "garbage"


async def test_an_enforcement_is_used_once(door: Door) -> None:
    context = door.store.enforce(123, "RULE-003", "CLOSE_ALL", "loss")
    for turn in range(2):
        with pytest.raises(InvalidValue, match=r"call enforce\(\) for each anew") if turn else contextlib.nullcontext():
            if door.is_async:
                async with context:
                    pass
            else:
                with context:
                    pass
    assert len(await door.logs()) == 1


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("thresholds", {"timeout_ms": 3000}),
        ("limits", 0.5),
        ("on_alert", "page"),
        ("on_alert", None),
        ("on_alert", [print, 5]),
        ("on_alert", asyncio.sleep),
    ],
    ids=["thresholds", "limits", "a word", "None", "one that is none", "a coroutine function"],
)
def test_a_store_that_could_not_enforce_is_refused_when_it_is_made(
    url: str, driver: str, option: str, value: Any
) -> None:
    given: dict[str, Any] = {option: value}
    with pytest.raises(InvalidValue, match=f"^{option}: "):
        Door(url, driver, **given)


async def test_a_log_handler_that_fails_costs_neither_block_nor_record(
    door: Door, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise RuntimeError(f"no room for {record.levelname}")

    logger = logging.getLogger("risk_store")
    broken = Broken()
    logger.addHandler(broken)
    try:
        await door.logs()
        held = Held(url)
        with in_a_hurry(door.store, Limits(intent_s=0.3)):
            async with door.enforce(lock_until=None):
                held.let_go()
    finally:
        logger.removeHandler(broken)
    assert len(await door.logs()) == 1
    assert "enforcement begun without an in-flight row" in capsys.readouterr().err


async def test_a_lock_out_that_is_broken_off_is_written_with_the_outcome(
    door: Door, driver: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class BrokenOff(BaseException):
        """As Ctrl-C or a task's cancel."""

    with pytest.raises(BrokenOff):
        async with door.enforce() as enforcement:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(
                    "risk_store.repositories.lockouts.LockoutRepository.set",
                    lambda *_, **__: (_ for _ in ()).throw(BrokenOff()),
                )
                await door.lock_out(enforcement)
    assert await door.is_locked(123)


# asyncio alone


@pytest.mark.parametrize("driver", ASYNC_DOORS)
async def test_a_cancelled_task_is_recorded_and_stays_cancelled(door: Door, driver: str) -> None:
    entered = asyncio.Event()

    async def flatten() -> None:
        async with door.enforce(lock_until=None) as enforcement:
            enforcement.positions_closed = 1
            entered.set()
            await asyncio.sleep(60)

    task = asyncio.create_task(flatten())
    await entered.wait()
    task.cancel()
    for _ in range(3):  # impatient: while the record is being written
        await asyncio.sleep(0)
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    [log] = await door.logs()
    assert (log.success, log.positions_closed, log.error_message) == (False, 1, "CancelledError: ")
    assert await door.look(lambda tx: list(tx.enforcements.in_flight())) == []


@pytest.mark.parametrize("driver", ASYNC_DOORS)
async def test_cancel_on_timeout_ends_the_block_and_tells_after_the_record(ticking: Door, driver: str) -> None:
    with pytest.raises(TimeoutError):
        async with ticking.enforce(cancel_on_timeout=True) as enforcement:
            enforcement.positions_closed = 1
            await asyncio.sleep(60)
    [log] = await ticking.logs()
    assert (log.success, log.positions_closed) == (False, 1)
    assert (log.error_message or "").startswith("timed out after ")
    assert "TimeoutError" in (log.error_message or "")
    await quick(ticking, cancel_on_timeout=True)


@pytest.mark.parametrize("driver", ASYNC_DOORS)
async def test_a_hanging_block_leaves_the_event_loop_to_the_others(ticking: Door, driver: str) -> None:
    alerts: list[Alert] = ticking.alerts  # type: ignore[attr-defined]
    ticks: list[bool] = []

    async def tick() -> None:
        while True:
            ticks.append(bool(alerts))
            await asyncio.sleep(0.005)

    beside = asyncio.create_task(tick())
    async with ticking.enforce():
        await _wait_until(lambda: ticks.count(True) > 5, blocking=False)
    beside.cancel()


@pytest.mark.parametrize("driver", ASYNC_DOORS)
async def test_a_block_that_holds_up_the_event_loop_is_alerted_all_the_same(ticking: Door, driver: str) -> None:
    alerts: list[Alert] = ticking.alerts  # type: ignore[attr-defined]
    async with ticking.enforce():
        await _wait_until(lambda: alerts, blocking=True)
        assert alerts[0].running


@pytest.mark.parametrize("driver", ASYNC_DOORS)
async def test_a_callback_that_hangs_after_the_block_holds_up_its_task_alone(url: str, driver: str) -> None:
    release = threading.Event()
    door = Door(url, driver, thresholds=Thresholds(1, 2, 10**6), on_alert=lambda _alert: release.wait(30))

    async def slow() -> None:
        async with door.enforce():
            await asyncio.sleep(0.02)

    task = asyncio.create_task(slow())
    for _ in range(500):  # the others go on
        await asyncio.sleep(0.002)
        if await door.logs():
            break
    assert not task.done()
    release.set()
    await task
    await door.close()


@pytest.mark.parametrize("driver", ASYNC_DOORS)
async def test_an_error_of_the_block_is_not_replaced_by_a_cancel_during_the_record(
    door: Door, url: str, driver: str
) -> None:
    await door.logs()
    reached = asyncio.Event()

    async def flatten() -> None:
        async with door.enforce():
            reached.set()
            raise ValueError("mine")

    task = asyncio.create_task(flatten())
    await reached.wait()
    task.cancel()
    with pytest.raises(ValueError, match="mine"):
        await task
    assert len(await door.logs()) == 1


THE_LOOP_ENDS = """
import asyncio, sys
from tests.contract.test_doors import Held
from tests.support.doors import Door
url, driver = sys.argv[1:]
holders = []
async def main():
    door = Door(url, driver)
    await door.logs()
    begun = asyncio.Event()
    async def flatten():
        async with door.enforce() as enforcement:
            enforcement.positions_closed = 2
            holders.append(Held(url))
            begun.set()
    kept = asyncio.create_task(flatten())
    await begun.wait()
    await asyncio.sleep(0.1)
asyncio.run(main())
"""


@pytest.mark.parametrize("driver", ASYNC_DOORS)
def test_a_record_that_the_end_of_the_event_loop_breaks_off_is_told(url: str, driver: str) -> None:
    # A process of its own: what is left of such a loop is closed by nobody.
    command = [sys.executable, "-c", THE_LOOP_ENDS, url, driver]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    [line] = [json.loads(line) for line in result.stderr.splitlines() if "enforcement not recorded" in line]
    assert line["positions_closed"] == 2


@pytest.mark.parametrize("driver", ASYNC_DOORS)
async def test_a_store_in_another_event_loop_says_what_to_do(door: Door, driver: str) -> None:
    await door.logs()
    other = asyncio.new_event_loop()
    door.store._loop, here = other, door.store._loop
    with pytest.raises(StoreClosed, match="belongs to another event loop: make a new one"):
        await door.logs()
    door.store._loop = here
    other.close()


@pytest.mark.parametrize("driver", ASYNC_DOORS)
async def test_repositories_are_awaited_method_by_method(door: Door, driver: str) -> None:
    async with door.store.begin() as tx:
        assert await tx.lockouts.set(5, "loss", "RULE-003")
        assert await tx.lockouts.is_locked(5)
        assert await tx.run(lambda plain: [lockout.account_id for lockout in plain.lockouts.active()]) == [5]
    with pytest.raises(RuntimeError):
        async with door.store.begin() as tx:
            await tx.lockouts.release(5, "mistake", by="ann")
            raise RuntimeError
    assert await door.is_locked(5)
    assert (await door.store.status()).ok
    assert (await door.store.upgrade()).steps == 0
    assert os.getpid() == door.store._pid


@pytest.mark.parametrize("driver", ASYNC_DOORS)
async def test_a_task_cancelled_before_its_block_leaves_nothing_that_stops_the_next_one(
    door: Door, driver: str
) -> None:
    await door.logs()
    for turns in range(0, 60, 3):  # further and further into the first transaction
        ran = False

        async def flatten() -> None:
            nonlocal ran
            async with door.enforce(exclusive=True):
                ran = True

        task = asyncio.create_task(flatten())
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        assert await door.look(lambda tx: list(tx.enforcements.in_flight())) == []
        assert len(await door.logs()) == ran
        await door.write(lambda tx: tx.session.execute(sa.delete(EnforcementLog.__table__)))
    async with door.enforce(exclusive=True):
        pass


@pytest.mark.parametrize("driver", ["sqlite", "postgresql"])
async def test_ctrl_c_before_the_block_leaves_nothing_that_stops_the_next_one(
    door: Door, driver: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = door.store._write
    presses = iter([True])

    @contextlib.contextmanager
    def pressed(timeout_s: float) -> Any:
        with write(timeout_s) as tx:
            yield tx
        if next(presses, False):
            raise KeyboardInterrupt  # the intent is committed

    monkeypatch.setattr(door.store, "_write", pressed)
    with pytest.raises(KeyboardInterrupt):
        async with door.enforce(exclusive=True):
            raise AssertionError("the block must not run")
    assert await door.look(lambda tx: list(tx.enforcements.in_flight())) == []
    async with door.enforce(exclusive=True):
        pass

"""Threads that record at once on PostgreSQL share a statement and its commit, as far as their accounts let them."""

from __future__ import annotations

import gc
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, timezone
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from risk_store import EnforcementLog, EnforcementNotRecorded, InvalidValue, RiskStore, StoreBusy
from risk_store.repositories.outcomes import Outcome
from risk_store.sending import MOST_TOGETHER, RECORDED_AT_ONCE, ToServer
from risk_store.writers import AccountQueue, Place
from tests.support.hurry import in_a_hurry
from tests.support.records import (
    CHILD,
    CtrlC,
    a_lockout,
    a_log,
    records_with_an_unfit_one,
    sizes_of_groups,
    together,
    until,
)

FAR = datetime(2099, 1, 1, tzinfo=UTC)


@pytest.fixture
def store(postgres_store_url: str) -> Iterator[RiskStore]:
    with RiskStore(postgres_store_url) as opened:
        yield opened


@pytest.fixture
def other(postgres_store_url: str) -> Iterator[psycopg.Connection[Any]]:
    """Another program on the same database, which commits each statement."""
    plain = sa.make_url(postgres_store_url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(plain, autocommit=True) as connection:
        yield connection


def rows(other: psycopg.Connection[Any], columns: str = "account_id, reason") -> list[Any]:
    return other.execute(f"SELECT {columns} FROM enforcement_log ORDER BY id".encode()).fetchall()


def locked(other: psycopg.Connection[Any]) -> list[int]:
    return [a for (a,) in other.execute("SELECT account_id FROM lockouts WHERE is_locked ORDER BY 1").fetchall()]


def sender_of(store: RiskStore) -> ToServer:
    sender = store._sender
    assert isinstance(sender, ToServer)
    return sender


def records_of(store: RiskStore) -> AccountQueue:
    return sender_of(store).queue


@contextmanager
def held(store: RiskStore) -> Iterator[None]:
    """Within the block there is no room for another record: each waits."""
    queue = records_of(store)
    holders = [Place(SimpleNamespace(account_id=-1 - n, locks=False)) for n in range(RECORDED_AT_ONCE)]
    for holder in holders:
        queue.enter(holder, time.monotonic() + 1.0)
    try:
        yield
    finally:
        queue.leave(holders[0])
        until(lambda: not queue._running or queue._running == holders[1:])
        queue.leave(holders[1])


@contextmanager
def queued(store: RiskStore, *works: Callable[[], object]) -> Iterator[list[BaseException]]:
    """The works wait, in their order, until the end of the block; then they are written."""

    no_room = threading.Event()

    def in_its_turn(number: int, work: Callable[[], object]) -> None:
        no_room.wait(60)
        until(lambda: len(records_of(store)._waiting) == number)
        work()

    with (
        together(*(lambda n=n, work=work: in_its_turn(n, work) for n, work in enumerate(works))) as raised,
        held(store),
    ):
        no_room.set()
        until(lambda: len(records_of(store)._waiting) == len(works))
        yield raised


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many records each statement carried."""
    return sizes_of_groups(monkeypatch, AccountQueue)


def test_records_that_wait_together_are_one_transaction_in_the_order_they_came(
    store: RiskStore, other: psycopg.Connection[Any], groups: list[int]
) -> None:
    accounts = [7, 3, 7, 9, 1, 7]
    works = [lambda n=n, a=a: store.record(a_log(a, reason=f"{n}")) for n, a in enumerate(accounts)]
    with queued(store, *works) as raised:
        pass
    assert raised == []
    assert groups == [6]
    assert rows(other) == [(account, f"{n}") for n, account in enumerate(accounts)]
    assert len(set(rows(other, "xmin::text"))) == 1


def test_each_of_them_is_told_its_own_id(store: RiskStore, other: psycopg.Connection[Any]) -> None:
    logs = [a_log(account) for account in (5, 4, 5, 3)]
    with queued(store, *(lambda log=log: store.record(log) for log in logs)) as raised:
        pass
    assert raised == []
    assert [(log.id, log.account_id, log.enforcement_id) for log in logs] == rows(
        other, "id, account_id, enforcement_id"
    )


def test_a_statement_carries_no_more_than_it_should_and_loses_nobody(
    store: RiskStore, other: psycopg.Connection[Any], groups: list[int]
) -> None:
    works = [lambda n=n: store.record(a_log(n), a_lockout(n)) for n in range(1, MOST_TOGETHER + 6)]
    with queued(store, *works) as raised:
        pass
    assert raised == []
    assert sum(groups) == MOST_TOGETHER + 5
    assert max(groups) == MOST_TOGETHER
    assert locked(other) == list(range(1, MOST_TOGETHER + 6))


def test_two_lockouts_of_one_account_come_one_after_another_and_nobody_overtakes(
    store: RiskStore, other: psycopg.Connection[Any], groups: list[int]
) -> None:
    first, second = a_lockout(7), a_lockout(7)
    first.locked_until, second.locked_until = FAR, FAR + timedelta(days=1)
    works = [
        lambda: store.record(a_log(7, reason="0"), first),
        lambda: store.record(a_log(7, reason="1"), second),
        lambda: store.record(a_log(8, reason="2"), a_lockout(8)),
        lambda: store.record(a_log(7, reason="3")),
    ]
    with queued(store, *works) as raised:
        pass
    assert raised == []
    assert groups[0] == 2, "7 with its first lockout, and 8"
    assert [reason for account, reason in rows(other) if account == 7] == ["0", "1", "3"]
    assert other.execute("SELECT locked_until FROM lockouts WHERE account_id = 7").fetchone() == (second.locked_until,)


def test_a_lockout_that_runs_is_not_shortened_by_one_in_a_group(
    store: RiskStore, other: psycopg.Connection[Any]
) -> None:
    store.record(a_log(1), a_lockout(1))  # until released
    shorter, longer = a_lockout(1), a_lockout(2)
    shorter.locked_until = longer.locked_until = FAR
    with queued(store, lambda: store.record(a_log(1), shorter), lambda: store.record(a_log(2), longer)) as raised:
        pass
    assert raised == []
    found = other.execute("SELECT account_id, locked_until FROM lockouts ORDER BY 1").fetchall()
    assert found == [(1, None), (2, FAR)]


ODD: list[dict[str, Any]] = [
    {"reason": "a\0b \ud800 ✓ \\ \" ' \n\t", "error_message": "{}[],:\\u0000", "details": '{"a": "\\u0000 \\n é"}'},
    {"account_id": 2**63 - 1, "positions_closed": 2**63 - 1, "orders_canceled": 0, "execution_time_ms": 2**63 - 1},
    {"success": False, "execution_time_ms": 0, "details": None, "rule_id": "R ü", "action": "\\"},
    {"timestamp": datetime(1, 1, 1, tzinfo=UTC)},
    {"timestamp": datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)},
    {"timestamp": datetime(2025, 11, 2, 1, 30, 0, 1, tzinfo=timezone(timedelta(hours=-5, minutes=-30)))},
]


def test_a_row_is_the_same_whether_it_was_written_alone_or_with_others(
    store: RiskStore, other: psycopg.Connection[Any], groups: list[int]
) -> None:
    at = datetime(2025, 10, 21, 17, tzinfo=UTC)
    for changes in ODD:
        store.record(a_log(**({"account_id": 1, "timestamp": at} | changes)))
    works = [lambda c=changes: store.record(a_log(**({"account_id": 1, "timestamp": at} | c))) for changes in ODD]
    with queued(store, *works) as raised:
        pass
    assert (raised, groups[-1]) == ([], len(ODD))
    columns = "account_id, rule_id, action, reason, success, error_message, positions_closed, orders_canceled, "
    found = rows(other, columns + "timestamp::text, execution_time_ms, details")
    assert found[: len(ODD)] == found[len(ODD) :]


def test_a_record_is_there_for_others_when_its_caller_returns(
    store: RiskStore, postgres_store_url: str, groups: list[int]
) -> None:
    missing: list[object] = []
    plain = sa.make_url(postgres_store_url).set(drivername="postgresql").render_as_string(hide_password=False)

    def record(account_id: int) -> None:
        with psycopg.connect(plain, autocommit=True) as connection:
            for number in range(15):
                log = store.record(a_log(account_id, reason=f"{number:02}"), a_lockout(account_id))
                row = connection.execute(
                    "SELECT l.account_id, l.enforcement_id, k.is_locked FROM enforcement_log l JOIN lockouts k "
                    "USING (account_id) WHERE l.id = %s",
                    (log.id,),
                ).fetchone()
                if row != (account_id, log.enforcement_id, True):
                    missing.append((log, row))

    with together(*(lambda account_id=account_id: record(account_id) for account_id in range(1, 17))) as raised:
        pass
    assert (raised, missing) == ([], [])
    assert max(groups) > 1
    with store.read() as tx:
        found = [(log.account_id, log.reason) for log in tx.enforcements.list(limit=1000)][::-1]
    for account_id in range(1, 17):
        assert [reason for account, reason in found if account == account_id] == [f"{n:02}" for n in range(15)]


def test_a_record_that_fails_fails_alone(store: RiskStore, other: psycopg.Connection[Any]) -> None:
    store.record(a_log(1, enforcement_id="e-1"))
    same = a_log(1, enforcement_id="e-1", execution_time_ms=5)  # of another outcome: refused by the database
    works = [
        lambda: store.record(a_log(2, reason="0"), a_lockout(2)),
        lambda: store.record(same, a_lockout(1)),
        lambda: store.record(a_log(3), a_lockout(3)),
        lambda: store.record(a_log(2, reason="1")),
    ]
    with queued(store, *works) as raised:
        pass
    assert [type(error) for error in raised] == [EnforcementNotRecorded]
    assert isinstance(raised[0].__cause__, sa.exc.IntegrityError)
    assert sorted(account for account, _ in rows(other)) == [1, 2, 2, 3]
    assert [reason for account, reason in rows(other) if account == 2] == ["0", "1"], "in their order, too"
    assert locked(other) == [2, 3]
    assert (records_of(store)._running, records_of(store)._waiting) == ([], [])


def test_a_value_that_no_column_keeps_is_refused_alone_and_costs_the_others_nothing(
    store: RiskStore, other: psycopg.Connection[Any], groups: list[int]
) -> None:
    """Another thread converts it, and tells its own."""
    _, unfit, _ = works = records_with_an_unfit_one(store)
    with queued(store, *works) as raised:
        pass
    assert [(type(error), "enforcement_log.details" in str(error)) for error in raised] == [(InvalidValue, True)]
    assert sum(groups) == 3, "no one went alone"
    assert sorted(account for account, _ in rows(other)) == [2, 3]
    assert locked(other) == [2, 3]
    kept = list(sender_of(store).recorders._kept)
    with pytest.raises(InvalidValue, match=r"enforcement_log\.details"):
        unfit()  # by itself
    assert list(sender_of(store).recorders._kept) == kept, "and costs no connection"


def test_one_that_waits_is_woken_by_who_leaves_again_after_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    queue, told = AccountQueue(at_once=2), []
    first, second = (Place(SimpleNamespace(account_id=7, locks=False)) for _ in range(2))
    queue.enter(first, time.monotonic() + 1.0)
    waiting = threading.Thread(target=lambda: told.append(queue.enter(second, time.monotonic() + 30.0)))
    waiting.start()
    until(lambda: second in queue._waiting)

    def broken_off() -> None:
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr(queue, "_start_waiting", broken_off)
    with pytest.raises(KeyboardInterrupt):
        queue.leave(first)
    queue.leave(first)
    waiting.join(timeout=10)
    assert (told, queue._running) == ([None], [second])


def test_one_that_was_recorded_before_is_found_and_told_its_id(
    store: RiskStore, other: psycopg.Connection[Any]
) -> None:
    first = store.record(a_log(1))
    again = EnforcementLog.from_dict(first.to_dict() | {"id": None})
    works = [lambda: store.record(a_log(2)), lambda: store.record(again), lambda: store.record(a_log(3))]
    with queued(store, *works) as raised:
        pass
    assert (raised, again.id) == ([], first.id)
    assert sorted(account for account, _ in rows(other)) == [1, 2, 3]


def test_an_account_that_somebody_else_has_locked_holds_up_no_other_account(
    store: RiskStore, other: psycopg.Connection[Any]
) -> None:
    store.record(a_log(2), a_lockout(2))
    later = a_lockout(2)
    later.reason = "again"
    works = [
        lambda: store.record(a_log(1), a_lockout(1)),
        lambda: store.record(a_log(2, reason="waits"), later),
        lambda: store.record(a_log(2, reason="waits behind it")),
        lambda: store.record(a_log(3), a_lockout(3)),
    ]
    other.execute("BEGIN")
    other.execute("SELECT 1 FROM lockouts WHERE account_id = 2 FOR UPDATE")

    def let_go() -> None:
        until(lambda: {1, 3} <= {account for account, _ in rows(other)})
        other.execute("COMMIT")

    with together(let_go) as failed, queued(store, *works) as raised:
        pass
    assert (raised, failed) == ([], [])
    assert [reason for account, reason in rows(other) if account == 2] == ["loss", "waits", "waits behind it"]


def test_a_record_that_may_not_be_written_never_joins_the_others(
    store: RiskStore, other: psycopg.Connection[Any], groups: list[int]
) -> None:
    with pytest.raises(InvalidValue):
        store.record(a_log(0))
    with pytest.raises(InvalidValue):
        store.record(a_log(1, details=7))
    assert (groups, rows(other)) == ([], [])


def test_who_has_waited_long_enough_is_told_and_is_not_written_later(
    postgres_store_url: str, other: psycopg.Connection[Any]
) -> None:
    with RiskStore(postgres_store_url) as store:
        works = [lambda number=number: store.record(a_log(number)) for number in (1, 2, 3)]
        store.record(a_log(9))  # which takes the verdict
        with in_a_hurry(store), held(store), together(*works) as raised:
            until(lambda: len(raised) == 3)
        assert {type(error) for error in raised} == {EnforcementNotRecorded}
        assert {type(error.__cause__) for error in raised} == {StoreBusy}
        assert [account for account, _ in rows(other)] == [9]
        store.record(a_log(4))
        assert [account for account, _ in rows(other)] == [9, 4]


def test_a_connection_that_dies_under_a_group_costs_nobody_a_row(
    store: RiskStore, other: psycopg.Connection[Any]
) -> None:
    store.record(a_log(9))
    kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> %s"
    works = [lambda n=n: store.record(a_log(n), a_lockout(n)) for n in range(1, 9)]
    with queued(store, *works) as raised:
        other.execute(kill, (other.info.backend_pid,))
    assert raised == []
    assert sorted(account for account, _ in rows(other)) == list(range(1, 10))
    assert locked(other) == list(range(1, 9))


def test_on_a_distributed_store_each_record_goes_by_itself(
    store: RiskStore, other: psycopg.Connection[Any], groups: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("risk_store.recorders.is_distributed", lambda _connection: True)
    with queued(store, *(lambda n=n: store.record(a_log(n), a_lockout(n)) for n in (1, 2, 3))) as raised:
        pass
    assert (raised, groups) == ([], [])  # nobody is taken along
    assert locked(other) == [1, 2, 3]


# The end of an enforcement


def test_the_end_of_an_enforcement_is_one_statement(
    store: RiskStore, other: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []
    write = Outcome.write

    def noting(outcome: Outcome, cursor: Any) -> None:
        assert other.execute("SELECT count(*) FROM enforcement_in_flight").fetchone() == (1,)
        write(outcome, cursor)
        assert other.execute("SELECT count(*) FROM enforcement_in_flight").fetchone() == (0,), "it is durable"
        written.append(outcome.account_id)

    monkeypatch.setattr(Outcome, "write", noting)
    with store.enforce(5, "RULE-003", "CLOSE_ALL", "loss", lock_until=None) as enforcement:
        enforcement.positions_closed += 1
    assert enforcement.log is not None
    assert written == [5]
    assert rows(other, "id, account_id, positions_closed") == [(enforcement.log.id, 5, 1)]
    assert locked(other) == [5]


def test_an_end_that_meets_a_lock_of_somebody_else_waits_for_it(
    store: RiskStore, other: psycopg.Connection[Any], postgres_store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given_up: list[int] = []
    write = Outcome.write

    def noting(outcome: Outcome, cursor: Any) -> None:
        try:
            write(outcome, cursor)
        except psycopg.errors.LockNotAvailable:
            given_up.append(outcome.account_id)
            raise

    monkeypatch.setattr(Outcome, "write", noting)
    waiting = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    plain = sa.make_url(postgres_store_url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(plain) as holder:

        def let_go() -> None:
            until(lambda: given_up == [5])  # the short way
            until(lambda: other.execute(waiting).fetchone() is not None)  # the general way, which comes after it
            holder.commit()

        running = store.enforce(5, "RULE-003", "CLOSE_ALL", "loss")
        with together(let_go) as raised, running:
            assert holder.execute("SELECT account_id FROM enforcement_in_flight FOR UPDATE").fetchall() == [(5,)]
    assert raised == []
    assert running.log is not None
    assert rows(other, "id, account_id") == [(running.log.id, 5)]


# Ctrl-C


def interrupted_leader(store: RiskStore, at: int, account: int) -> bool:
    """The first of three that wait is interrupted at its `at`-th place. Whether there was such a place."""
    presses = CtrlC(at)
    told: list[BaseException] = []

    def lead() -> None:
        try:
            with presses:
                store.record(a_log(account, reason="leader"), a_lockout(account))
        except KeyboardInterrupt as error:
            told.append(error)

    followers = [lambda n=n: store.record(a_log(account + n), a_lockout(account + n)) for n in (1, 2)]
    no_room = threading.Event()
    works = [lambda work=work: (no_room.wait(60), work()) for work in (lead, *followers)]
    with together(*works) as raised, held(store):
        no_room.set()
        until(lambda: len(records_of(store)._waiting) == 3 or bool(told))
    assert raised == [], at
    assert (records_of(store)._running, records_of(store)._waiting) == ([], []), at
    return bool(told)


# A connection that Ctrl-C takes from whoever was about to keep it is closed by psycopg itself, which says so.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize("step", [23, pytest.param(1, marks=pytest.mark.full)])
def test_ctrl_c_anywhere_in_the_thread_that_writes_for_others_costs_them_nothing(
    store: RiskStore, other: psycopg.Connection[Any], step: int
) -> None:
    store.record(a_log(900_000))
    at, account, interrupted = 1, 10, 0
    while interrupted_leader(store, at, account):
        interrupted += 1
        at, account = at + step, account + 10
    assert interrupted > 60 / step
    found = [number for number, _ in rows(other) if number < 900_000]
    assert len(found) == len(set(found)), "nothing is doubled"
    for begun in range(10, account + 10, 10):
        assert {begun + 1, begun + 2} <= set(found), "no follower lost its row"
    assert sorted(found) == locked(other), "each with its lockout"
    store.record(a_log(900_001))
    gc.collect()  # now, where it is expected


@pytest.mark.parametrize("step", [3, pytest.param(1, marks=pytest.mark.full)])
def test_ctrl_c_anywhere_in_the_queue_leaves_the_room_to_others(step: int) -> None:
    at, went_on = 1, True
    queue = AccountQueue(at_once=1)
    while went_on:
        went_on = False
        place = Place(SimpleNamespace(account_id=1, locks=True))
        follower = Place(SimpleNamespace(account_id=2, locks=True))
        try:
            with CtrlC(at):
                try:
                    queue.enter(place, time.monotonic() + 1.0)
                    if follower not in queue._waiting:
                        queue._waiting.append(follower)
                    queue.take(place, 10)
                    place.committed = True
                finally:
                    queue.leave(place)
        except KeyboardInterrupt:
            went_on = True
            queue.leave(place)
        queue.leave(follower)
        assert (queue._running, queue._waiting) == ([], []), at
        at += step
    assert at > 2 * step


# Killed


@pytest.mark.parametrize("kills", [2, pytest.param(40, marks=pytest.mark.full)])
def test_a_process_killed_while_its_threads_record_has_lost_nothing_that_returned(
    postgres_store_url: str, other: psycopg.Connection[Any], kills: int
) -> None:
    chance = random.Random(7)
    told: set[int] = set()
    for process in range(1, kills + 1):
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, postgres_store_url, str(process)], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        for _ in range(chance.randrange(20, 200)):
            told.add(int(child.stdout.readline()))
        os.kill(child.pid, signal.SIGKILL)
        lines = child.stdout.read().split("\n")
        child.stdout.close()
        child.wait()
        told |= {int(line) for line in lines[:-1]}
    sessions = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
    until(lambda: other.execute(sessions).fetchone() == (1,))
    found = [account for account, _ in rows(other)]
    assert told <= set(found), "what returned is there"
    assert len(found) == len(set(found))
    assert sorted(found) == locked(other), "never a log row without its lockout"

"""Threads that record at once share a commit: each record is durable when its caller returns, and fails alone."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from risk_store import EnforcementLog, EnforcementNotRecorded, InvalidValue, Limits, Lockout, RiskStore, StoreBusy
from risk_store.errors import NestedTransaction
from risk_store.repositories.outcomes import Outcome
from risk_store.sending import MOST_TOGETHER
from risk_store.writers import Place, WriterQueue
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


@pytest.fixture
def store_url(sqlite_template: Path, tmp_path: Path) -> str:
    """A file has one writer at a time; a server is in test_group_commit_on_a_server.py."""
    (tmp_path / "risk.db").write_bytes(sqlite_template.read_bytes())
    return f"sqlite:///{tmp_path / 'risk.db'}"


@pytest.fixture
def store(store_url: str) -> Iterator[RiskStore]:
    with RiskStore(store_url) as opened:
        yield opened


def rows(store: RiskStore, sql: str = "SELECT account_id, reason FROM enforcement_log ORDER BY id") -> list[Any]:
    """As another program sees them, at once."""
    file = str(store.engine.url.database).removeprefix("file://").partition("?")[0]
    with closing(sqlite3.connect(file)) as other:
        return other.execute(sql).fetchall()


LOCKED = "SELECT account_id FROM lockouts WHERE is_locked AND account_id <> 999 ORDER BY account_id"


@contextmanager
def queued(store: RiskStore, *works: Callable[[], object]) -> Iterator[list[BaseException]]:
    """Within the block another transaction has the turn; the works wait behind it in their order until its end."""
    raised: list[BaseException] = []
    threads = []

    def guarded(work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    with store.begin() as tx:
        tx.lockouts.set(999, "writing", "R")
        for number, work in enumerate(works):
            threads.append(threading.Thread(target=guarded, args=(work,), daemon=True))
            threads[-1].start()
            until(lambda number=number: len(store._queue._waiting) == number + 1)  # type: ignore[misc]
        yield raised
    for thread in threads:
        thread.join(timeout=60)
        assert not thread.is_alive(), "a writer waits for ever"


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many records each commit carried."""
    return sizes_of_groups(monkeypatch, WriterQueue)


def test_records_that_wait_together_are_committed_together_in_the_order_they_came(
    store: RiskStore, groups: list[int]
) -> None:
    works = [lambda number=number: store.record(a_log(7, reason=f"{number:02}")) for number in range(20)]
    with queued(store, *works) as raised:
        pass
    assert raised == []
    assert groups == [20]
    assert rows(store) == [(7, f"{number:02}") for number in range(20)]


def test_a_commit_carries_no_more_than_it_should_and_loses_nobody(store: RiskStore, groups: list[int]) -> None:
    works = [lambda number=number: store.record(a_log(number)) for number in range(1, MOST_TOGETHER + 6)]
    with queued(store, *works) as raised:
        pass
    assert raised == []
    assert groups == [MOST_TOGETHER, 5]
    assert [account for account, _ in rows(store)] == list(range(1, MOST_TOGETHER + 6))


@pytest.fixture
def in_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every commit is quick beside threads that come back, once one has been measured."""
    monkeypatch.setattr("risk_store.writers.COMES_BACK_S", 1e6)
    monkeypatch.setattr("risk_store.writers.HALVED_FROM", 0)


def measured(store: RiskStore) -> None:
    """A commit for two, so that the queue knows how long one takes."""
    with queued(store, lambda: store.record(a_log(999_998)), lambda: store.record(a_log(999_998))) as raised:
        pass
    assert raised == []


@pytest.mark.usefixtures("in_halves")
def test_while_a_commit_is_quick_records_go_in_two_halves_in_the_order_they_came(
    store: RiskStore, groups: list[int]
) -> None:
    measured(store)
    works = [lambda number=number: store.record(a_log(7, reason=f"{number:02}")) for number in range(20)]
    with queued(store, *works) as raised:
        pass
    assert raised == []
    assert groups == [2, 11, 9], "of twenty and of the one before; then of nine and of the eleven who may come back"
    assert [reason for account, reason in rows(store) if account == 7] == [f"{number:02}" for number in range(20)]


def test_while_a_commit_is_slow_all_records_go_in_one(
    store: RiskStore, groups: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("risk_store.writers.COMES_BACK_S", 0.0)
    measured(store)
    works = [lambda number=number: store.record(a_log(number)) for number in range(1, 21)]
    with queued(store, *works) as raised:
        pass
    assert (raised, groups) == ([], [2, 20])


def taken_of(queue: WriterQueue, waiting: int) -> int:
    """How many the next one takes along, of so many that wait behind it."""
    leader, later = Place(object()), time.monotonic() + 60.0

    def follow() -> None:
        place = Place(object())
        queue.enter(place, later)
        place.committed = True
        queue.leave(place)

    queue.enter(leader, later)
    with together(*[follow] * waiting) as raised:
        until(lambda: len(queue._waiting) == waiting)
        taken = len(queue.take(leader, 63))
        leader.committed = True
        queue.leave(leader)
    assert raised == []
    return taken


def test_who_may_come_back_is_expected_once_and_a_few_go_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("risk_store.writers.COMES_BACK_S", 1e6)
    queue = WriterQueue()
    queue._commit_s = 0.001
    assert taken_of(queue, 4) == 4, "five at once are too few"
    assert taken_of(queue, 5) == 2
    queue._told = 20
    assert taken_of(queue, 19) == 9, "twenty have come back: they are not waited for as well"
    queue._told = 20
    assert taken_of(queue, 9) == 9, "ten may come back"


def test_one_slow_commit_does_not_end_the_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that copies the write-ahead log into the file, which the other commits are spared."""
    monkeypatch.setattr("risk_store.writers.COMES_BACK_S", 0.001)
    queue = WriterQueue()
    for took_s in (0.010, 0.010, 0.050):
        queue._note_commit(took_s)
    assert taken_of(queue, 31) == 15
    for _ in range(8):
        queue._note_commit(0.050)
    assert taken_of(queue, 31) == 31


@pytest.mark.usefixtures("in_halves")
def test_nobody_stands_back_for_a_transaction_of_the_callers_own(
    store: RiskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which may take as long as it likes."""
    monkeypatch.setattr("risk_store.writers.STANDS_BACK_S", 60.0)
    measured(store)
    done: list[int] = []

    def record(account: int) -> None:
        store.record(a_log(account))
        done.append(account)

    def begin() -> None:
        with store.begin() as tx:
            until(lambda: {*done} == {1, 2})
            tx.enforcements.add(a_log(3))

    with queued(store, lambda: record(1), lambda: record(2), begin) as raised:
        pass
    assert raised == []
    assert [account for account, _ in rows(store)] == [999_998, 999_998, 1, 2, 3]


@pytest.mark.usefixtures("in_halves")
def test_whose_time_is_over_while_another_stands_back_is_told_that_it_is_written(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("risk_store.writers.STANDS_BACK_S", 60.0)
    with RiskStore(store_url, limits=Limits(record_s=10.0)) as store:
        measured(store)
        told = threading.Event()
        write = Outcome.write

        def hanging(outcome: Outcome, cursor: Any) -> None:
            if outcome.account_id == 4:
                told.wait(60)
            write(outcome, cursor)

        def record(account: int) -> None:
            assert store.record(a_log(account)).id
            if account == 2:
                told.set()

        monkeypatch.setattr(Outcome, "write", hanging)
        with queued(store, *[lambda account=account: record(account) for account in range(1, 5)]) as raised:
            pass
        assert raised == []
        assert {account for account, _ in rows(store)} == {999_998, 1, 2, 3, 4}


@pytest.mark.usefixtures("in_halves")
@pytest.mark.parametrize("stands_back_s", [60.0, 0.001], ids=["until it has sent its rows", "no longer than it should"])
@pytest.mark.parametrize("fails", [False, True], ids=["is written", "fails"])
def test_who_is_done_stands_back_for_the_next_one(
    store: RiskStore, monkeypatch: pytest.MonkeyPatch, stands_back_s: float, fails: bool
) -> None:
    monkeypatch.setattr("risk_store.writers.STANDS_BACK_S", stands_back_s)
    measured(store)
    done: list[int] = []
    when_it_hung: list[int] = []
    write, sent = Outcome.write, WriterQueue.sent

    def slow(outcome: Outcome, cursor: Any) -> None:
        if outcome.account_id == 4 and not when_it_hung:
            if stands_back_s < 1:
                until(lambda: {*done} == {1, 2, 3})
            when_it_hung.extend([0, *done])
            if fails:
                raise sqlite3.OperationalError("disk I/O error")
        write(outcome, cursor)

    def before_its_commit(queue: WriterQueue, place: Place) -> None:
        sent(queue, place)
        if place.job.account_id == 4:
            until(lambda: {*done} == {1, 2, 3})

    def record(account: int) -> None:
        store.record(a_log(account))
        done.append(account)

    monkeypatch.setattr(Outcome, "write", slow)
    monkeypatch.setattr(WriterQueue, "sent", before_its_commit)
    with queued(store, *[lambda account=account: record(account) for account in range(1, 5)]) as raised:
        pass
    assert raised == []
    assert sorted(when_it_hung) == ([0, 1, 2, 3] if stands_back_s < 1 else [0])
    assert sorted(done) == [1, 2, 3, 4]
    assert {account for account, _ in rows(store)} == {999_998, 1, 2, 3, 4}


def test_a_transaction_of_its_own_is_not_overtaken(store: RiskStore, groups: list[int]) -> None:
    def begin() -> None:
        with store.begin() as tx:
            tx.enforcements.add(a_log(3))

    works = [
        lambda: store.record(a_log(1)),
        lambda: store.record(a_log(2)),
        begin,
        lambda: store.record(a_log(4)),
        lambda: store.record(a_log(5)),
    ]
    with queued(store, *works) as raised:
        pass
    assert raised == []
    assert groups == [2, 2]
    assert [account for account, _ in rows(store)] == [1, 2, 3, 4, 5]


def test_a_record_is_there_for_others_when_its_caller_returns(store: RiskStore) -> None:
    missing: list[object] = []

    def record(account_id: int) -> None:
        for number in range(15):
            log = store.record(a_log(account_id, reason=f"{number:02}"), a_lockout(account_id))
            found = rows(store, f"SELECT account_id, enforcement_id FROM enforcement_log WHERE id = {log.id}")
            locked = rows(store, f"SELECT 1 FROM lockouts WHERE is_locked AND account_id = {account_id}")
            if (found, locked) != ([(account_id, log.enforcement_id)], [(1,)]):
                missing.append(log)

    with together(*(lambda account_id=account_id: record(account_id) for account_id in range(1, 17))) as raised:
        pass
    assert (raised, missing) == ([], [])
    found = rows(store)
    for account_id in range(1, 17):
        assert [reason for account, reason in found if account == account_id] == [f"{n:02}" for n in range(15)]


def test_a_record_that_fails_fails_alone(store: RiskStore, monkeypatch: pytest.MonkeyPatch) -> None:
    tried_again, write = [], store._write
    monkeypatch.setattr(store, "_write", lambda timeout_s: (tried_again.append(timeout_s), write(timeout_s))[1])
    store.record(a_log(1, enforcement_id="e-1"))
    same = a_log(1, enforcement_id="e-1", execution_time_ms=5)  # of another outcome: refused by the database
    works = [
        lambda: store.record(a_log(2), a_lockout(2)),
        lambda: store.record(same, a_lockout(1)),
        lambda: store.record(a_log(3), a_lockout(3)),
    ]
    with queued(store, *works) as raised:
        pass
    assert [type(error) for error in raised] == [EnforcementNotRecorded]
    assert isinstance(raised[0].__cause__, sa.exc.IntegrityError)
    assert [account for account, _ in rows(store)] == [1, 2, 3], "in their order, too"
    assert rows(store, LOCKED) == [(2,), (3,)]
    assert len(tried_again) == 1 + 2, "the block of this test; its own further attempts; the others keep their places"


def test_a_record_that_may_not_be_written_never_joins_the_others(store: RiskStore, groups: list[int]) -> None:
    with pytest.raises(InvalidValue):
        store.record(a_log(0))
    with pytest.raises(InvalidValue):
        store.record(a_log(1), Lockout(account_id=1, is_locked=True, reason="", rule_id="R"))
    with store.begin(), pytest.raises(NestedTransaction):
        store.record(a_log(1))
    assert (groups, rows(store)) == ([], [])


@pytest.mark.parametrize("trouble", ["no file", "closed", "within a transaction"])
def test_what_may_not_be_written_is_refused_as_that_whatever_else_is_wrong(
    trouble: str, store: RiskStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    asked = store if trouble != "no file" else RiskStore(f"sqlite:///{tmp_path / 'none.db'}")
    if trouble == "closed":
        asked.close()
    with (
        store.begin() if trouble == "within a transaction" else nullcontext(),
        pytest.raises(InvalidValue, match="account_id"),
    ):
        asked.record(EnforcementLog())
    assert not caplog.records, "and nobody is told that it was carried out and not recorded"
    asked.close()


def test_a_value_that_no_column_keeps_is_refused_alone_and_costs_the_others_nothing(
    store: RiskStore, groups: list[int]
) -> None:
    """Another thread converts it, and tells its own."""
    _, unfit, _ = works = records_with_an_unfit_one(store)
    with queued(store, *works) as raised:
        pass
    assert [(type(error), "enforcement_log.details" in str(error)) for error in raised] == [(InvalidValue, True)]
    assert groups == [3], "one commit for all that could be written"
    assert [account for account, _ in rows(store)] == [2, 3]
    assert rows(store, LOCKED) == [(2,), (3,)]
    with pytest.raises(InvalidValue, match=r"enforcement_log\.details"):
        unfit()  # by itself
    assert store.record(a_log(1)).id is not None


def test_a_value_that_no_column_keeps_is_refused_as_that_also_when_its_turn_never_came(
    store_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    unfit: Any = datetime(2025, 10, 21)  # noqa: DTZ001 (no zone)
    with RiskStore(store_url) as store:
        store.record(a_log(1))
        with (
            in_a_hurry(store, Limits(record_s=2.0)),
            queued(store, lambda: store.record(a_log(2, timestamp=unfit))) as raised,
        ):
            until(lambda: bool(raised))
    assert [type(error) for error in raised] == [InvalidValue]
    assert not caplog.records, "nothing that a later import would write"


def test_one_that_was_recorded_before_is_found_and_told_its_id(store: RiskStore) -> None:
    first = store.record(a_log(1))
    again = EnforcementLog.from_dict(first.to_dict() | {"id": None})
    works = [lambda: store.record(a_log(2)), lambda: store.record(again), lambda: store.record(a_log(3))]
    with queued(store, *works) as raised:
        pass
    assert (raised, again.id) == ([], first.id)
    assert [account for account, _ in rows(store)] == [1, 2, 3]


def test_who_has_waited_long_enough_is_told_and_is_not_written_later(store_url: str) -> None:
    with RiskStore(store_url) as store:
        works = [lambda number=number: store.record(a_log(number)) for number in (1, 2, 3)]
        with in_a_hurry(store), queued(store) as _, together(*works) as raised:
            until(lambda: len(raised) == 3)
        assert {type(error) for error in raised} == {EnforcementNotRecorded}
        assert {type(error.__cause__) for error in raised} == {StoreBusy}
        assert rows(store) == []
        store.record(a_log(4))
        assert rows(store) == [(4, "loss")]


def test_who_was_taken_along_waits_no_longer_than_its_own_time(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its row may come all the same, as after a lost reply: a second call with the same log finds it."""
    with RiskStore(store_url) as store:
        go_on = threading.Event()
        write = Outcome.write

        def hanging(outcome: Outcome, cursor: Any) -> None:
            write(outcome, cursor)
            if outcome.log.account_id == 2:
                go_on.wait(60)

        monkeypatch.setattr(Outcome, "write", hanging)
        second = a_log(2)
        works = [lambda: store.record(a_log(1)), lambda: store.record(second)]
        with in_a_hurry(store, Limits(record_s=5.0)), queued(store, *works) as raised:
            threading.Timer(0.0, lambda: (until(lambda: len(raised) == 1), go_on.set())).start()
        [error] = raised
        assert isinstance(error, EnforcementNotRecorded)
        assert store.record(second).id == 2
        assert [account for account, _ in rows(store)] == [1, 2]


def test_a_commit_that_fails_is_tried_again_by_each_and_doubles_nothing(
    store: RiskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once it fails before it is carried out, once its reply is lost."""
    take = WriterQueue.take
    for when in ("before", "after"):
        failing = [when]

        def fail(queue: WriterQueue, place: Place, most: int, failing: list[str] = failing) -> Any:
            taken = list(take(queue, place, most))
            if not failing:
                return taken
            for follower in taken:
                follower.job.write(store._file._connection.connection.cursor())  # type: ignore[union-attr]
            if failing.pop() == "after":
                store._file._connection.connection.cursor().execute("COMMIT")  # type: ignore[union-attr]
            raise sqlite3.OperationalError("disk I/O error")

        monkeypatch.setattr(WriterQueue, "take", fail)
        works = [lambda n=n, when=when: store.record(a_log(n, reason=when), a_lockout(n)) for n in range(1, 9)]
        with queued(store, *works) as raised:
            pass
        assert (raised, failing) == ([], [])
        assert [account for account, reason in rows(store) if reason == when] == list(range(1, 9))
    assert rows(store, LOCKED) == [(n,) for n in range(1, 9)]


# Ctrl-C


def interrupted_leader(store: RiskStore, at: int, account: int) -> bool:
    """The first of three that wait is interrupted at its `at`-th place. Whether there was such a place."""
    presses = CtrlC(at)
    leader = a_log(account, reason="leader")
    told: list[BaseException] = []

    def lead() -> None:
        try:
            with presses:
                store.record(leader, a_lockout(account))
        except KeyboardInterrupt as error:
            told.append(error)

    followers = [lambda n=n: store.record(a_log(account + n), a_lockout(account + n)) for n in (1, 2)]
    holder = Place()
    store._queue.enter(holder, time.monotonic() + 1.0)
    with together(lead, *followers) as raised:
        until(lambda: len(store._queue._waiting) == 3 or bool(told))
        store._queue.leave(holder)
    assert raised == [], at
    assert (store._queue._has_turn, list(store._queue._waiting)) == (None, []), at
    return bool(told)


@pytest.mark.parametrize("halves", [False, True], ids=["all in one", "in halves"])
@pytest.mark.parametrize("step", [7, pytest.param(1, marks=pytest.mark.full)])
def test_ctrl_c_anywhere_in_the_thread_that_writes_for_others_costs_them_nothing(
    store: RiskStore, step: int, halves: bool, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    if halves:
        request.getfixturevalue("in_halves")
        measured(store)
    else:
        monkeypatch.setattr("risk_store.writers.COMES_BACK_S", 0.0)
    store.record(a_log(900_000))
    at, account, interrupted = 1, 10, 0
    while interrupted_leader(store, at, account):
        interrupted += 1
        at, account = at + step, account + 10
    assert interrupted > 60 / step
    found = [number for number, _ in rows(store) if number < 900_000]
    assert len(found) == len(set(found)), "nothing is doubled"
    for begun in range(10, account + 10, 10):
        assert {begun + 1, begun + 2} <= set(found), "no follower lost its row"
    assert {(a,) for a in found} == set(rows(store, LOCKED)), "each with its lockout"
    store.record(a_log(900_001))


@pytest.mark.parametrize("step", [3, pytest.param(1, marks=pytest.mark.full)])
def test_ctrl_c_anywhere_in_a_transaction_of_its_own_leaves_the_turn_to_others(store: RiskStore, step: int) -> None:
    at, went_on = 1, True
    while went_on:
        went_on = False
        try:
            with CtrlC(at), store._queue.turn(1.0):
                pass
        except KeyboardInterrupt:
            went_on = True
        assert (store._queue._has_turn, list(store._queue._waiting)) == (None, []), at
        at += step
    assert at > 2 * step


# Killed


@pytest.mark.parametrize("kills", [3, pytest.param(40, marks=pytest.mark.full)])
def test_a_process_killed_while_its_threads_record_has_lost_nothing_that_returned(
    store: RiskStore, store_url: str, kills: int
) -> None:
    chance = random.Random(7)
    told: set[int] = set()
    for process in range(1, kills + 1):
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, store_url, str(process)], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        for _ in range(chance.randrange(20, 200)):
            told.add(int(child.stdout.readline()))
        os.kill(child.pid, signal.SIGKILL)
        lines = child.stdout.read().split("\n")
        child.stdout.close()
        child.wait()
        told |= {int(line) for line in lines[:-1]}
    found = [account for account, _ in rows(store)]
    assert told <= set(found), "what returned is there"
    assert len(found) == len(set(found))
    assert {(account,) for account in found} == set(rows(store, LOCKED)), "never a log row without its lockout"

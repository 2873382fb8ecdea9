"""Threads that write at once share a commit: each record is durable when its caller returns, and fails alone."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from risk_store import EnforcementLog, EnforcementNotRecorded, InvalidValue, Limits, Lockout, RiskStore, StoreBusy
from risk_store.grouping import MOST
from risk_store.repositories import Transaction


@pytest.fixture
def store_url(sqlite_template: Path, tmp_path: Path) -> str:
    """Only a file has one writer at a time: on a server each thread commits for itself."""
    (tmp_path / "risk.db").write_bytes(sqlite_template.read_bytes())
    return f"sqlite:///{tmp_path / 'risk.db'}"


@pytest.fixture
def commits(store: RiskStore) -> list[None]:
    counted: list[None] = []
    sa.event.listen(store.engine, "commit", lambda _connection: counted.append(None))
    return counted


def a_log(account_id: int = 1, **changes: Any) -> EnforcementLog:
    values = {"rule_id": "RULE-003", "action": "CLOSE_ALL", "reason": "loss", "success": True}
    return EnforcementLog(account_id=account_id, **(values | changes))


def rows(store: RiskStore, what: str = "account_id, reason") -> list[Any]:
    """As another program sees them, at once."""
    with closing(sqlite3.connect(str(store.engine.url.database).removeprefix("file://").partition("?")[0])) as other:
        return other.execute(f"SELECT {what} FROM enforcement_log ORDER BY id").fetchall()


def together(*works: Callable[[], object]) -> list[BaseException]:
    """Runs them in threads of their own and returns what they raised."""
    raised: list[BaseException] = []

    def guarded(work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=guarded, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
        assert not thread.is_alive(), "a writer waits for ever"
    return raised


@contextmanager
def queue_behind_a_writer(store: RiskStore, *works: Callable[[], object]) -> Iterator[list[BaseException]]:
    """Within the block another thread writes; the works begin, each after the other, and can't go on before its end."""
    raised: list[BaseException] = []

    def guarded(work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    threads = []
    with store.begin() as tx:
        tx.lockouts.set(999, "writing", "R")
        for number, work in enumerate(works):
            threads.append(threading.Thread(target=guarded, args=(work,)))
            threads[-1].start()
            # The first leads and waits for the turn; the others wait for it.
            until(lambda number=number: len(store._group._waiting) == number and store._group._led)
        yield raised
    for thread in threads:
        thread.join(timeout=60)
        assert not thread.is_alive(), "a writer waits for ever"


def until(happened: Callable[[], bool]) -> None:
    for _ in range(20_000):
        if happened():
            return
        threading.Event().wait(0.001)
    raise AssertionError("it did not happen")


def test_what_waits_together_is_committed_together_in_the_order_it_came(store: RiskStore, commits: list[None]) -> None:
    works = [lambda number=number: store.record(a_log(7, reason=f"{number:02}")) for number in range(20)]
    with queue_behind_a_writer(store, *works) as raised:
        before = len(commits)
    assert raised == []
    assert len(commits) - before == 2  # the one that wrote before, and one for all
    assert rows(store) == [(7, f"{number:02}") for number in range(20)]


def test_a_record_is_there_for_others_when_its_caller_returns(store: RiskStore) -> None:
    def record(account_id: int) -> None:
        for number in range(15):
            log = store.record(
                a_log(account_id, reason=f"{number:02}"),
                Lockout(account_id=account_id, is_locked=True, reason="x", rule_id="R"),
            )
            found = rows(store, f"id, account_id, enforcement_id FROM enforcement_log WHERE id = {log.id} --")
            assert found == [(log.id, account_id, log.enforcement_id)]

    assert together(*(lambda account_id=account_id: record(account_id) for account_id in range(1, 17))) == []
    found = rows(store)
    assert len(found) == 16 * 15
    for account_id in range(1, 17):
        assert [reason for account, reason in found if account == account_id] == [f"{n:02}" for n in range(15)]


def test_a_record_that_fails_fails_alone(store: RiskStore) -> None:
    twice = a_log(1, enforcement_id="e-1", execution_time_ms=5)
    store.record(a_log(1, enforcement_id="e-1"))

    def bad(tx: Transaction) -> None:
        tx.enforcements.add(twice)

    works = [
        lambda: store.record(a_log(2)),
        lambda: store._run(1.0, bad),
        lambda: store.record(a_log(3)),
        lambda: store._run(1.0, lambda tx: tx.enforcements.add(a_log(0))),
        lambda: store.record(a_log(4)),
    ]
    with queue_behind_a_writer(store, *works) as raised:
        pass
    assert sorted(type(error).__name__ for error in raised) == ["IntegrityError", "InvalidValue"]
    assert [account for account, _ in rows(store)] == [1, 2, 3, 4]


def test_one_alone_that_fails_is_told_so_and_leaves_nothing(store: RiskStore) -> None:
    with pytest.raises(InvalidValue):
        store._run(1.0, lambda tx: [tx.enforcements.add(a_log(5)), tx.enforcements.add(a_log(0))])
    assert rows(store) == []
    store.record(a_log(6))
    assert rows(store) == [(6, "loss")]


def test_who_has_waited_long_enough_is_told_and_is_not_written_later(store_url: str) -> None:
    with RiskStore(store_url, limits=Limits(intent_s=0.05, record_s=0.1)) as store:
        works = [lambda number=number: store.record(a_log(number)) for number in (1, 2, 3)]
        with queue_behind_a_writer(store, *works) as raised:
            until(lambda: len(raised) == 3)
        assert {type(error) for error in raised} == {EnforcementNotRecorded}
        assert {type(error.__cause__) for error in raised} == {StoreBusy}
        assert rows(store) == []
        store.record(a_log(4))
        assert rows(store) == [(4, "loss")]


def test_the_end_of_the_thread_that_leads_costs_no_other_its_record(store: RiskStore) -> None:
    """Ctrl-C reaches the main thread, which may be writing for others."""

    def interrupted(_tx: Transaction) -> None:
        raise KeyboardInterrupt

    works = [lambda: store._run(5.0, interrupted), *(lambda n=n: store.record(a_log(n)) for n in range(1, 6))]
    with queue_behind_a_writer(store, *works) as raised:
        pass
    assert [type(error) for error in raised] == [KeyboardInterrupt]
    assert sorted(account for account, _ in rows(store)) == [1, 2, 3, 4, 5]


def test_the_end_of_the_thread_that_leads_costs_no_other_its_record_when_one_had_failed(store: RiskStore) -> None:
    """The jobs are then written one by one, and Ctrl-C comes before the last of them."""
    presses = [False, True]

    def interrupted_the_second_time(_tx: Transaction) -> None:
        if presses.pop(0):
            raise KeyboardInterrupt

    works: list[Callable[[], object]] = [
        lambda: store.record(a_log(1)),
        lambda: store._run(5.0, interrupted_the_second_time),
        lambda: store._run(5.0, lambda tx: tx.enforcements.add(a_log(0))),
        lambda: store.record(a_log(2)),
        lambda: store.record(a_log(3)),
    ]
    with queue_behind_a_writer(store, *works) as raised:
        pass
    # The thread that led is told of the Ctrl-C, whoever's job it came in; its record is in the log all the same.
    assert sorted(type(error).__name__ for error in raised) == ["InvalidValue", "KeyboardInterrupt", "StoreBusy"]
    assert sorted(account for account, _ in rows(store)) == [1, 2, 3]


def test_a_commit_that_fails_is_tried_again_by_each_and_doubles_nothing(
    store: RiskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once it fails before it is carried out, once its reply is lost."""
    for when in ("before", "after"):
        failing = [when]

        ours = f"SELECT count(*) FROM enforcement_log WHERE reason = '{when}'"

        def fail(connection: sa.Connection, failing: list[str] = failing, ours: str = ours) -> None:
            if failing and connection.exec_driver_sql(ours).scalar_one():
                if failing.pop() == "after":
                    connection.connection.dbapi_connection.commit()  # type: ignore[union-attr]
                raise sqlite3.OperationalError("disk I/O error")

        sa.event.listen(store.engine, "commit", fail)
        works = [lambda n=n, when=when: store.record(a_log(n, reason=when)) for n in range(1, 9)]
        with queue_behind_a_writer(store, *works) as raised:
            pass
        sa.event.remove(store.engine, "commit", fail)
        assert raised == []
        assert failing == []
        assert sorted(a for a, reason in rows(store) if reason == when) == list(range(1, 9))


def test_more_than_one_commit_should_carry_are_written_all_the_same(store: RiskStore, commits: list[None]) -> None:
    works = [lambda number=number: store.record(a_log(number)) for number in range(1, MOST + 20)]
    with queue_behind_a_writer(store, *works) as raised:
        before = len(commits)
    assert raised == []
    assert len(commits) - before == 3
    assert [account for account, _ in rows(store)] == list(range(1, MOST + 20))


def test_enforcements_of_several_threads_share_their_transactions_too(store: RiskStore) -> None:
    def enforce(account_id: int) -> None:
        for _ in range(5):
            with store.enforce(account_id, "RULE-003", "CLOSE_ALL", "loss", lock_until=None) as enforcement:
                enforcement.positions_closed += 1

    assert together(*(lambda account_id=account_id: enforce(account_id) for account_id in range(1, 13))) == []
    with store.read() as tx:
        assert tx.session.scalar(sa.select(sa.func.count()).select_from(EnforcementLog)) == 60
        assert list(tx.enforcements.in_flight()) == []
        assert [lockout.account_id for lockout in tx.lockouts.active()] == list(range(1, 13))

"""What becomes of an enforcement when its process dies, the reply to its COMMIT is lost, or the server says nothing."""

import asyncio
import json
import logging
import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from risk_store import (
    EnforcementLog,
    EnforcementNotRecorded,
    InvalidValue,
    Limits,
    Lockout,
    RiskStore,
    StoreClosed,
    StoreUnavailable,
    Thresholds,
)
from risk_store.aio import AsyncRiskStore
from risk_store.deadlines import CutOff, NoAnswerInTime, _fileno, cut_off_at
from risk_store.engines import Purpose, open_async_engine, open_engine
from risk_store.repositories.bulk import copy_into
from risk_store.watchdog import Watchdog
from tests.support.forks import Kill, Nursery, enforce
from tests.support.hurry import SHORT, in_a_hurry
from tests.support.proxy import Proxy
from tests.support.records import together, until


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with Nursery() as warm:
        yield warm


# Killed


def check_after_a_kill(url: str, marker: Path, account: int) -> str:
    """What is left of one enforcement: it is in the log, or listed as interrupted, or it had not begun; never two."""
    with RiskStore(url) as store:
        interrupted = [item.row for item in store.interrupted() if item.row.account_id == account]
        with store.read() as tx:
            logged = tx.enforcements.list(account_id=account)
            in_flight = [row for row in tx.enforcements.in_flight() if row.account_id == account]
            locked = tx.lockouts.is_locked(account)
    assert len(logged) + len(in_flight) <= 1, "never both"
    assert len(interrupted) == len(in_flight), "its process is gone: it is listed"
    begun = marker.exists()
    assert not begun or len(logged) + len(in_flight) == 1, "never neither"
    assert locked is bool(logged or in_flight), "the account is locked either way"
    if logged:
        assert (logged[0].success, logged[0].positions_closed) == (True, 3)
    return "logged" if logged else "interrupted" if in_flight else "not begun"


def kill_enforcements(nursery: Nursery, url: str, folder: Path, kills: int) -> dict[str, int]:
    """Kill one enforcement after the other, each at another call of the driver, round and round."""
    seen = {"logged": 0, "interrupted": 0, "not begun": 0}
    account, at = 0, 0
    while account < kills:
        jobs = []
        for _ in range(6):
            account, at = account + 1, at + 1
            marker = folder / f"begun-{account}"
            jobs.append((account, marker, enforce(url, account, marker, Kill(at=at))))
        ends = nursery.run(*(job for *_, job in jobs))
        for (number, marker, _), end in zip(jobs, ends, strict=True):
            assert end.killed or end.passed, end
            seen[check_after_a_kill(url, marker, number)] += 1
        if all(end.passed for end in ends):
            at = 0  # past its last call: from the first one again
    return seen


@pytest.mark.parametrize("engine", ["sqlite", "postgresql"])
def test_an_enforcement_killed_at_any_step_is_whole_in_the_log_or_listed_as_interrupted(
    nursery: Nursery, request: pytest.FixtureRequest, tmp_path: Path, engine: str
) -> None:
    seen = kill_enforcements(nursery, _fresh(engine, request, tmp_path), tmp_path, 42)
    assert all(seen.values()), f"the loop met every end: {seen}"


@pytest.mark.full
@pytest.mark.parametrize("engine", ["sqlite", "postgresql"])
def test_two_hundred_enforcements_killed_at_any_step_are_logged_or_interrupted(
    nursery: Nursery, request: pytest.FixtureRequest, tmp_path: Path, engine: str
) -> None:
    seen = kill_enforcements(nursery, _fresh(engine, request, tmp_path), tmp_path, 200)
    assert all(seen.values()), f"the loop met every end: {seen}"


def _fresh(engine: str, request: pytest.FixtureRequest, folder: Path) -> str:
    if engine == "postgresql":
        return str(request.getfixturevalue("postgres_store_url"))
    shutil.copy(request.getfixturevalue("sqlite_template"), folder / "risk.db")
    return f"sqlite:///{folder / 'risk.db'}"


WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"


@contextmanager
def other_programs(url: str) -> Iterator[tuple[psycopg.Connection[Any], psycopg.Connection[Any]]]:
    """One in a transaction, and one that commits each statement, and so sees each time what the others are at."""
    plain = sa.make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(plain) as holder, psycopg.connect(plain, autocommit=True) as other:
        yield holder, other


# The reply to COMMIT is lost


def lose_replies(url: str, cuts: int) -> None:
    chance, cut = random.Random(7), 0
    with Proxy(url) as proxy, RiskStore(proxy.url) as store:
        with store.read() as tx:
            tx.enforcements.list()
        for number in range(1, cuts + 1):
            verdict = chance.choice(["cut before", "cut after"])
            place = chance.randrange(2)  # the intent, which carries its COMMIT, or the outcome, which is its own
            reason, met = f"loss of account {number}.", 0

            def judge(
                data: bytes, verdict: str = verdict, place: int = place, reason: bytes = reason.encode()
            ) -> str | None:
                nonlocal met, cut
                if reason not in data:
                    return None
                met += 1
                cut += met == place + 1
                return verdict if met == place + 1 else None

            proxy.on_request = judge
            with store.enforce(number, "RULE-003", "CLOSE_ALL", reason, lock_until=None) as enforcement:
                enforcement.positions_closed = 1
        proxy.on_request = lambda _data: None
    assert cut == cuts
    with RiskStore(url) as store, store.read() as tx:
        logs = tx.enforcements.list(limit=10 * cuts)
        assert sorted(log.account_id for log in logs) == list(range(1, cuts + 1)), "0 doubled, 0 missing"
        assert all(log.success and log.positions_closed == 1 for log in logs)
        assert [row.account_id for row in tx.enforcements.in_flight()] == []
        assert len(tx.lockouts.active()) == cuts


def test_a_lost_reply_to_commit_doubles_nothing_and_loses_nothing(
    postgres_store_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL + 1, "risk_store.enforcement")
    lose_replies(postgres_store_url, 200)


def test_a_record_whose_reply_is_lost_is_written_once(postgres_store_url: str) -> None:
    for verdict in ("cut before", "cut after"):
        with Proxy(postgres_store_url) as proxy, RiskStore(proxy.url) as store:
            with store.read() as tx:
                tx.enforcements.list()
            verdicts = iter([verdict])
            # A record is one statement, and that is its commit.
            proxy.on_request = lambda data, v=verdicts: next(v, None) if b"INTO enforcement_log" in data else None
            log = EnforcementLog(account_id=1, rule_id=verdict, action="A", reason="r", success=True)
            assert store.record(log, Lockout(account_id=1, is_locked=True, reason="r", rule_id="R")).id
            assert list(verdicts) == [], "the reply was lost"
    with RiskStore(postgres_store_url) as store, store.read() as tx:
        assert [log.rule_id for log in tx.enforcements.list()] == ["cut after", "cut before"]


def test_a_record_meets_a_server_that_falls_silent_in_time_and_uses_it_again(postgres_store_url: str) -> None:
    with Proxy(postgres_store_url) as proxy, RiskStore(proxy.url) as store:
        store.record(EnforcementLog(account_id=1, rule_id="R", action="A", reason="before"))
        proxy.silent.set()
        with in_a_hurry(store), pytest.raises(EnforcementNotRecorded, match=NO_ANSWER):
            store.record(EnforcementLog(account_id=2, rule_id="R", action="A", reason="silence"))
        proxy.cut()
        proxy.silent.clear()
        store.record(EnforcementLog(account_id=3, rule_id="R", action="A", reason="afterwards"))
    with RiskStore(postgres_store_url) as store, store.read() as tx:
        assert [log.reason for log in tx.enforcements.list()] == ["afterwards", "before"]


def test_a_record_waits_for_a_lock_in_the_server_no_longer_than_its_time(postgres_store_url: str) -> None:
    before = EnforcementLog(account_id=1, rule_id="R", action="A", reason="before")
    with RiskStore(postgres_store_url, limits=SHORT) as store, other_programs(postgres_store_url) as (holder, other):

        def is_recorded() -> bool:
            try:
                store.record(before)
            except EnforcementNotRecorded:  # the machine is busy
                return False
            return True

        until(is_recorded)
        holder.execute("LOCK TABLE enforcement_log IN EXCLUSIVE MODE")
        with pytest.raises(EnforcementNotRecorded):
            store.record(EnforcementLog(account_id=2, rule_id="R", action="A", reason="held"))
        # Its statement does not stay behind; the server's own end comes at the same time as ours.
        until(lambda: other.execute(WAITING).fetchone() == (0,))


def test_an_intent_that_was_given_up_is_given_up_by_the_server_too(postgres_store_url: str) -> None:
    with other_programs(postgres_store_url) as (_, other):
        other.execute(
            "CREATE FUNCTION hang() RETURNS trigger AS 'BEGIN PERFORM pg_sleep(1.5); RETURN NEW; END' LANGUAGE plpgsql"
        )
        other.execute("CREATE TRIGGER own BEFORE INSERT ON enforcement_in_flight FOR EACH ROW EXECUTE FUNCTION hang()")
        with (
            RiskStore(postgres_store_url, limits=Limits(intent_s=0.3)) as store,
            store.enforce(1, "R", "A", "r", lock_until=None),
        ):
            pass
        busy = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()"
        until(lambda: other.execute(busy).fetchone() == (0,))
        assert other.execute("SELECT count(*) FROM enforcement_in_flight").fetchone() == (0,)
        assert other.execute("SELECT count(*) FROM enforcement_log").fetchone() == (1,)


def test_an_attempt_that_meets_its_own_earlier_commit_on_the_way_finds_it(postgres_store_url: str) -> None:
    """The first attempt is given up before the server has carried it out: the second must not take it for another's."""
    with RiskStore(postgres_store_url) as first, RiskStore(postgres_store_url) as second:
        running = first.enforce(1, "RULE-003", "CLOSE_ALL", "loss")
        running.__enter__()
        running._call.cancel()
        ended: list[EnforcementLog] = []

        def again() -> None:
            log = running._outcome()
            with second.begin() as tx:
                assert tx.enforcements.finish(log) is False
            ended.append(log)

        with first.begin() as tx:
            log = running._outcome()
            assert tx.enforcements.finish(log)
            thread = threading.Thread(target=again)
            thread.start()
            thread.join(0.5)  # it waits for the row that this transaction has taken out
            assert thread.is_alive()
        thread.join(30)
        assert [log.id for log in ended] == [log.id]
        with first.read() as tx:
            assert len(tx.enforcements.list()) == 1


# A server that is gone, or accepts and never answers


class Silence:
    """A host that accepts connections and never says a word."""

    def __enter__(self) -> str:
        self._listening = socket.create_server(("127.0.0.1", 0))
        return f"postgresql+psycopg://ann@127.0.0.1:{self._listening.getsockname()[1]}/risk"

    def __exit__(self, *_: object) -> None:
        self._listening.close()


NO_ANSWER = "the server did not answer in time. The database cannot be reached"


def is_given_up(store: RiskStore, told: str = NO_ANSWER) -> None:
    """Enforcements run their block and end, both without an answer."""
    ran: list[bool] = []

    def enforce() -> None:
        for exclusive in (False, True):  # which goes the general way
            with (
                pytest.raises(EnforcementNotRecorded, match=told),
                store.enforce(1, "R", "A", "r", lock_until=None, exclusive=exclusive),
            ):
                ran.append(exclusive)

    with together(enforce) as raised:  # which tells of one that waits for ever
        pass
    assert (raised, ran) == ([], [False, True])


@pytest.mark.usefixtures("nothing_else_ends_a_wait")
def test_a_server_that_never_answers_a_first_connection_holds_nobody(caplog: pytest.LogCaptureFixture) -> None:
    with Silence() as url, RiskStore(url, limits=SHORT) as store:
        is_given_up(store)
    events = [json.loads(r.getMessage())["event"] for r in caplog.records if r.name == "risk_store.enforcement"]
    assert events == ["enforcement begun without an in-flight row", "enforcement not recorded"] * 2


def test_a_server_that_falls_silent_holds_nobody_and_is_used_again(postgres_store_url: str) -> None:
    with Proxy(postgres_store_url) as proxy, RiskStore(proxy.url) as store:
        with store.enforce(1, "R", "A", "before"):
            pass
        proxy.silent.set()  # the pooled connections, their test and new ones alike
        with in_a_hurry(store):
            is_given_up(store)
        proxy.cut()
        proxy.silent.clear()
        with store.enforce(2, "R", "A", "afterwards"):
            pass
    with RiskStore(postgres_store_url) as store, store.read() as tx:
        assert [log.reason for log in tx.enforcements.list()] == ["afterwards", "before"]


def test_a_server_that_falls_silent_in_the_block_is_given_up_in_time(postgres_store_url: str) -> None:
    with Proxy(postgres_store_url) as proxy, RiskStore(proxy.url) as store:
        with store.enforce(1, "R", "A", "before"):
            pass
        with (
            in_a_hurry(store, Limits(record_s=0.6)),
            pytest.raises(EnforcementNotRecorded, match=NO_ANSWER),
            store.enforce(2, "R", "A", "r", lock_until=None),
        ):
            proxy.silent.set()
        proxy.cut()
        proxy.silent.clear()
    with RiskStore(postgres_store_url) as store, store.read() as tx:
        [row] = tx.enforcements.in_flight()
        assert (row.account_id, tx.lockouts.is_locked(2)) == (2, True), "the in-flight row tells, and the lockout holds"


@pytest.mark.usefixtures("nothing_else_ends_a_wait")
@pytest.mark.parametrize("driver", ["postgresql+psycopg", "postgresql+asyncpg"])
async def test_a_silent_server_holds_no_task_either(postgres_store_url: str, driver: str) -> None:
    ran: list[int] = []
    with Proxy(postgres_store_url) as proxy:
        async with AsyncRiskStore(sa.make_url(proxy.url).set(drivername=driver)) as store:
            async with store.enforce(1, "R", "A", "before"):
                pass
            proxy.silent.set()
            with in_a_hurry(store), pytest.raises(EnforcementNotRecorded, match=NO_ANSWER):
                async with store.enforce(2, "R", "A", "r"):
                    ran.append(2)
            proxy.cut()
            proxy.silent.clear()
            async with store.enforce(3, "R", "A", "afterwards"):
                pass
    with Silence() as url:
        async with AsyncRiskStore(sa.make_url(url).set(drivername=driver), limits=SHORT) as store:
            with pytest.raises(EnforcementNotRecorded, match=NO_ANSWER):
                async with store.enforce(4, "R", "A", "r"):
                    ran.append(4)
    assert ran == [2, 4]


@pytest.mark.parametrize("driver", ["postgresql+psycopg", "postgresql+asyncpg"])
async def test_a_store_can_be_closed_while_its_server_is_silent(postgres_store_url: str, driver: str) -> None:
    with Proxy(postgres_store_url) as proxy:
        async with AsyncRiskStore(sa.make_url(proxy.url).set(drivername=driver)) as store:
            async with asyncio.TaskGroup() as tasks:
                for account in range(1, 4):
                    tasks.create_task(_enforced_and_read(store, account))
            proxy.silent.set()
            connections = list(store._of_asyncpg)
    assert bool(connections) is driver.endswith("asyncpg")
    assert all(connection.is_closed() for connection in connections)


async def _enforced_and_read(store: AsyncRiskStore, account: int) -> None:
    async with store.enforce(account, "R", "A", "r", exclusive=True), store.read() as tx:
        await tx.enforcements.list()
        await asyncio.sleep(0.05)


def test_only_what_a_driver_says_of_a_connection_that_was_cut_is_told_as_silence() -> None:
    mine = (KeyboardInterrupt(), SystemExit(1), InvalidValue("reason", "", "text"))
    here, there = socket.socketpair()
    with here, there:
        kept = CutOff(here)
        kept.begin(time.monotonic())
        assert here.recv(1) == b"", "it is cut"
        assert [kept.told(error) for error in mine] == list(mine)
        assert isinstance(kept.told(OSError("lost")), NoAnswerInTime)
        assert not kept.end(), "it can't be used again"
        kept.close()
    for error in (*mine, OSError("lost")):
        here, there = socket.socketpair()
        told = NoAnswerInTime if isinstance(error, OSError) else type(error)
        with here, there, pytest.raises(told), cut_off_at(time.monotonic(), here):
            assert here.recv(1) == b""
            raise error


OF_THE_SYSTEM = ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT", "TCP_USER_TIMEOUT")
OF_THE_SERVER = ("tcp_keepalives_idle", "tcp_keepalives_interval", "tcp_keepalives_count")


def asked_of_the_system(raw: Any) -> list[int]:
    with socket.socket(fileno=os.dup(_fileno(raw))) as handle:
        assert handle.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        return [handle.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) for name in OF_THE_SYSTEM]


@pytest.mark.parametrize("driver", ["postgresql+psycopg", "postgresql+asyncpg"])
@pytest.mark.parametrize("purpose", ["store", "read"])
async def test_each_end_of_a_connection_asks_whether_the_other_is_still_there(
    postgres_store_url: str, driver: str, purpose: Purpose
) -> None:
    engine = open_async_engine(sa.make_url(postgres_store_url).set(drivername=driver), purpose)
    async with engine.connect() as connection:
        raw = (await connection.get_raw_connection()).dbapi_connection
        assert asked_of_the_system(raw) == [30, 10, 3, 60_000]
        of_the_server = [(await connection.exec_driver_sql(f"SHOW {name}")).scalar_one() for name in OF_THE_SERVER]
        assert of_the_server == ["30", "10", "3"]
    await engine.dispose()


def test_what_a_url_says_of_that_counts(postgres_store_url: str) -> None:
    options = "-c tcp_keepalives_idle=9 -c timezone=Asia/Tokyo"
    given = {"tcp_user_timeout": "5000", "keepalives_idle": "7", "options": options}
    engine = open_engine(sa.make_url(postgres_store_url).update_query_dict(given), "store")
    with engine.connect() as connection:
        assert asked_of_the_system(connection.connection.dbapi_connection) == [7, 10, 3, 5_000]
        assert connection.exec_driver_sql("SHOW tcp_keepalives_idle").scalar_one() == "9"
        assert connection.exec_driver_sql("SHOW timezone").scalar_one() == "UTC"
    engine.dispose()


def test_a_copy_may_wait_as_long_as_it_must(postgres_store_url: str) -> None:
    """In the middle of one the server may wait for a lock, and takes nothing meanwhile."""
    engine = open_engine(sa.make_url(postgres_store_url), "store")
    with engine.connect() as connection:
        raw = connection.connection.dbapi_connection
        with copy_into(connection, EnforcementLog.__table__, ["account_id"]):
            assert asked_of_the_system(raw)[-1] == 0
        assert asked_of_the_system(raw)[-1] == 60_000
    engine.dispose()


def test_a_server_that_is_gone_holds_nobody() -> None:
    with RiskStore("postgresql+psycopg://ann@127.0.0.1:1/risk", limits=SHORT) as store:
        is_given_up(store, "Connection refused")
        with pytest.raises(StoreUnavailable):
            store.interrupted()


def test_a_server_started_anew_is_found_again(postgres_store_url: str) -> None:
    with Proxy(postgres_store_url) as proxy, RiskStore(proxy.url) as store:
        for account in range(1, 6):
            with store.enforce(account, "R", "A", "r"):
                pass
            proxy.cut()  # every pooled connection is dead
        with store.read() as tx:
            assert len(tx.enforcements.list()) == 5


@pytest.mark.parametrize("driver", ["postgresql+psycopg", "postgresql+asyncpg"])
async def test_connections_that_died_in_the_pool_cost_no_task_its_lockout(
    postgres_store_url: str, driver: str, caplog: pytest.LogCaptureFixture
) -> None:
    with Proxy(postgres_store_url) as proxy:
        async with AsyncRiskStore(sa.make_url(proxy.url).set(drivername=driver)) as store:

            async def enforce(account: int) -> None:
                async with store.enforce(account, "R", "A", "r", lock_until=None):
                    await asyncio.sleep(0.05)

            await asyncio.gather(*(enforce(account) for account in range(1, 6)))  # five connections in the pool
            proxy.cut()
            await asyncio.sleep(0.2)
            for account in range(6, 12):
                await enforce(account)
            async with store.read() as tx:
                assert len(await tx.lockouts.active()) == 11
    assert [record for record in caplog.records if record.name == "risk_store.enforcement"] == []


def test_a_limit_of_thirty_seconds_is_a_limit() -> None:
    """Thirty seconds is also SQLite's own patience, and must not be taken for no limit."""
    with Silence() as url, RiskStore(url, limits=Limits(intent_s=30.0, record_s=30.0)) as store:
        asked: list[float] = []
        write, check = store._write, store._check_sending
        store._write = lambda timeout_s: (asked.append(timeout_s), write(0.2))[1]  # type: ignore[method-assign,arg-type]
        store._check_sending = lambda deadline: (  # type: ignore[method-assign]
            asked.append(deadline - time.monotonic()),
            check(time.monotonic() + 0.2),
        )[1]
        with pytest.raises(EnforcementNotRecorded), store.enforce(1, "R", "A", "r"):
            pass
    # The beginning and the end, each by itself and then in transactions: one, and two.
    assert len(asked) == 5
    assert all(0 < seconds <= 30 for seconds in asked)


# SQLite in trouble


@pytest.fixture
def sqlite_file(sqlite_template: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(sqlite_template, tmp_path / "risk.db"))


def test_a_full_disk_does_not_stop_the_block_and_the_record_is_told(
    sqlite_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with RiskStore(f"sqlite:///{sqlite_file}") as store:

        @sa.event.listens_for(store.engine, "connect")
        def cramp(raw: Any, _record: object) -> None:
            [pages] = raw.execute("PRAGMA page_count").fetchone()
            raw.execute(f"PRAGMA max_page_count = {pages}")

        with (
            pytest.raises(EnforcementNotRecorded, match="full"),
            store.enforce(1, "R", "A", "r" * 100_000) as enforcement,
        ):
            enforcement.positions_closed = 1
    lines = [json.loads(r.getMessage()) for r in caplog.records if r.name == "risk_store.enforcement"]
    assert [line["event"] for line in lines] == [
        "enforcement begun without an in-flight row",
        "enforcement not recorded",
    ]
    assert all("full" in line["cause"] for line in lines)


def test_a_read_only_file_does_not_stop_the_block(sqlite_file: Path) -> None:
    with RiskStore(f"sqlite:///{sqlite_file}") as store:

        @sa.event.listens_for(store.engine, "connect")
        def read_only(raw: sqlite3.Connection, _record: object) -> None:
            raw.execute("PRAGMA query_only = ON")

        with pytest.raises(EnforcementNotRecorded, match="readonly"), store.enforce(1, "R", "A", "r"):
            pass


def test_a_file_that_is_gone_does_not_stop_the_block(sqlite_file: Path) -> None:
    sqlite_file.unlink()
    with (
        RiskStore(f"sqlite:///{sqlite_file}") as store,
        pytest.raises(EnforcementNotRecorded, match="no store here yet"),
        store.enforce(1, "R", "A", "r"),
    ):
        pass
    assert not sqlite_file.exists()


# Threads, processes, forks

CHILD = """
import sys, threading
from risk_store import Limits, RiskStore, Thresholds
url, process, each = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
failed = []
def work(thread):
    for number in range(each):
        try:
            with store.enforce(1 + process * 100 + thread, "RULE-003", "CLOSE_ALL", f"{process}/{thread}/{number}",
                               lock_until=None) as enforcement:
                enforcement.positions_closed = 1
        except BaseException as error:
            failed.append(repr(error))
with RiskStore(url, limits=Limits(intent_s=60, record_s=60), thresholds=Thresholds(10**6, 10**7, 10**8)) as store:
    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
if failed:
    sys.exit("\\n".join(failed))
"""


def test_eight_processes_of_eight_threads_enforce_on_one_file_at_once(sqlite_file: Path) -> None:
    each = 5
    children = [
        subprocess.Popen(
            [sys.executable, "-c", CHILD, f"sqlite:///{sqlite_file}", str(n), str(each)],
            stderr=subprocess.PIPE,
            text=True,
        )
        for n in range(8)
    ]
    for child in children:
        _, err = child.communicate(timeout=300)
        assert (child.returncode, err) == (0, ""), "no error, no warning: nobody met a locked database"
    with closing(sqlite3.connect(sqlite_file)) as connection:
        count, distinct = connection.execute("SELECT count(*), count(DISTINCT reason) FROM enforcement_log").fetchone()
        assert (count, distinct) == (8 * 8 * each, 8 * 8 * each), "every row once"
        assert connection.execute("SELECT count(*) FROM enforcement_in_flight").fetchone() == (0,)
        assert connection.execute("SELECT count(*) FROM lockouts WHERE is_locked").fetchone() == (64,)


@pytest.mark.parametrize("engine", ["sqlite", "postgresql"])
def test_a_store_that_is_open_works_in_a_forked_child_and_in_its_parent(
    request: pytest.FixtureRequest, tmp_path: Path, engine: str
) -> None:
    url = _fresh(engine, request, tmp_path)
    code = f"""
import os, threading, time
from risk_store import Limits, RiskStore
with RiskStore({url!r}, limits=Limits(intent_s=30, record_s=60)) as store:
    with store.enforce(1, "R", "A", "parent before"):
        pass
    with store.read() as tx:
        tx.enforcements.list()
    over = threading.Event()
    written = 0
    def write():  # other threads go on writing while this one forks
        global written
        while not over.is_set():
            with store.begin() as tx:
                tx.lockouts.set(99, "held", "R")
            written += 1
    threads = [threading.Thread(target=write) for _ in range(2)]
    for thread in threads:
        thread.start()
    children = []
    for number in range(5):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                with store.enforce(2 + number, "R", "A", "child"):
                    pass
                with store.read() as tx:
                    assert len(tx.enforcements.list()) >= 2
                code = 0
            finally:
                os._exit(code)
        children.append(child)
        before = written
        while written == before:
            time.sleep(0.001)
    over.set()
    for thread in threads:
        thread.join()
    for child in children:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    with store.enforce(3, "R", "A", "parent after"):
        pass
    with store.read() as tx:
        reasons = sorted(log.reason for log in tx.enforcements.list())
        assert reasons == ["child"] * 5 + ["parent after", "parent before"], reasons
        assert tx.lockouts.is_locked(99)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr


def test_a_child_forked_in_the_block_leaves_the_record_to_its_parent(sqlite_file: Path) -> None:
    code = f"""
import os, sys
from risk_store import RiskStore
with RiskStore("sqlite:///{sqlite_file}") as store:
    with store.enforce(1, "R", "A", "r") as enforcement:
        child = os.fork()
        if child == 0:
            sys.exit(0)
        os.waitpid(child, 0)
        enforcement.positions_closed = 4
    with store.read() as tx:
        [log] = tx.enforcements.list()
        assert (log.success, log.positions_closed) == (True, 4), log
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr


def test_a_record_broken_off_by_ctrl_c_is_told(sqlite_file: Path, caplog: pytest.LogCaptureFixture) -> None:
    def press() -> None:
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGINT)

    with (
        RiskStore(f"sqlite:///{sqlite_file}") as store,
        closing(sqlite3.connect(sqlite_file, isolation_level=None, check_same_thread=False)) as holder,
    ):
        thread = threading.Thread(target=press)
        with pytest.raises(KeyboardInterrupt), store.enforce(1, "R", "A", "r") as enforcement:
            enforcement.positions_closed = 2
            holder.execute("BEGIN IMMEDIATE")
            releaser = threading.Timer(1.0, holder.rollback)  # SQLite's own wait is deaf to Ctrl-C until it ends
            releaser.start()
            thread.start()
        thread.join()
        releaser.join()
    lines = [json.loads(r.getMessage()) for r in caplog.records if r.name == "risk_store.enforcement"]
    with RiskStore(f"sqlite:///{sqlite_file}") as store, store.read() as tx:
        logged = tx.enforcements.list()
    told = [line for line in lines if line["event"] == "enforcement not recorded" and line["positions_closed"] == 2]
    assert len(told) + len(logged) == 1, "it is in the log, or told"


def test_a_watchdog_that_was_asked_for_the_end_of_time_still_barks(sqlite_file: Path) -> None:
    told: list[Any] = []
    url = f"sqlite:///{sqlite_file}"
    with (
        RiskStore(url, thresholds=Thresholds(1, 2, sys.maxsize)) as patient,
        RiskStore(url, thresholds=Thresholds(1, 2, 50), on_alert=told.append) as store,
        patient.enforce(1, "R", "A", "r"),
        store.enforce(2, "R", "A", "r"),
    ):
        deadline = time.monotonic() + 30
        while not any(alert.running for alert in told) and time.monotonic() < deadline:
            time.sleep(0.01)
    assert any(alert.running for alert in told)


def _no_more_threads(_thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_where_no_thread_can_be_started_the_block_runs_and_is_recorded(
    sqlite_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RiskStore(f"sqlite:///{sqlite_file}") as store:
        monkeypatch.setattr("risk_store.enforcement.WATCHDOG", Watchdog())
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                threading.Thread, "start", lambda _self: (_ for _ in ()).throw(RuntimeError("no more threads"))
            )
            with store.enforce(1, "R", "A", "r", exclusive=True):
                pass
        with store.enforce(1, "R", "A", "r", exclusive=True):
            pass
        with store.read() as tx:
            assert len(tx.enforcements.list()) == 2


def test_an_async_store_says_after_a_fork_what_to_do(sqlite_file: Path) -> None:
    async def main() -> None:
        async with AsyncRiskStore(f"sqlite+aiosqlite:///{sqlite_file}") as store:
            await store.interrupted()
            store._pid = os.getpid() + 1  # as a forked child sees it
            with pytest.raises(StoreClosed, match="make a new one in the child process"):
                await store.interrupted()

    asyncio.run(main())


def test_threads_that_share_a_store_are_watched_each(sqlite_file: Path) -> None:
    told: list[Any] = []
    store = RiskStore(f"sqlite:///{sqlite_file}", thresholds=Thresholds(10, 20, 50), on_alert=told.append)
    ready = threading.Barrier(4)

    def hang(account: int) -> None:
        with store.enforce(account, "R", "A", "r"):
            ready.wait(30)
            deadline = time.monotonic() + 30
            while account not in {a.account_id for a in list(told) if a.running} and time.monotonic() < deadline:
                time.sleep(0.005)

    threads = [threading.Thread(target=hang, args=(n,)) for n in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store.close()
    assert {alert.account_id for alert in told if alert.running} == {1, 2, 3, 4}
    assert {alert.account_id for alert in told if not alert.running} == {1, 2, 3, 4}


def test_the_server_side_of_a_held_row_is_left_in_time(postgres_store_url: str) -> None:
    """A lock in the server is waited for no longer than the limit, and its statement does not stay behind."""
    limits = Limits(intent_s=0.3)
    with RiskStore(postgres_store_url, limits=limits) as store, other_programs(postgres_store_url) as (holder, other):
        with store.read() as tx:
            tx.enforcements.list()
        holder.execute("LOCK TABLE enforcement_in_flight IN EXCLUSIVE MODE")
        with store.enforce(1, "R", "A", "r"):
            until(lambda: other.execute(WAITING).fetchone() == (0,))
            holder.rollback()

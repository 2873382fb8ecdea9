"""Enforcements of asyncio's on a server go by the driver itself: the same rows, in one statement each."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from risk_store import EnforcementLog, EnforcementNotRecorded, InvalidValue, Limits, Lockout, RiskStore
from risk_store.aio import AsyncRiskStore
from tests.support.hurry import in_a_hurry
from tests.support.proxy import Proxy
from tests.support.records import a_lockout, a_log

FAR = datetime(2099, 1, 1, tzinfo=UTC)


@pytest.fixture(params=["postgresql+psycopg", "postgresql+asyncpg"])
def driver(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def store(postgres_store_url: str, driver: str) -> AsyncIterator[AsyncRiskStore]:
    async with AsyncRiskStore(sa.make_url(postgres_store_url).set(drivername=driver)) as opened:
        yield opened


@pytest.fixture
async def watched(postgres_store_url: str, driver: str) -> AsyncIterator[tuple[AsyncRiskStore, Proxy]]:
    """A store, and the proxy by which it reaches its server."""
    with Proxy(postgres_store_url) as proxy:
        async with AsyncRiskStore(sa.make_url(proxy.url).set(drivername=driver)) as opened:
            yield opened, proxy


@pytest.fixture
def other(postgres_store_url: str) -> Any:
    """Another program on the same database, which commits each statement."""
    plain = sa.make_url(postgres_store_url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(plain, autocommit=True) as connection:
        yield connection


def count(other: psycopg.Connection[Any], table: str) -> int:
    [(number,)] = other.execute(f"SELECT count(*) FROM {table}".encode()).fetchall()
    return int(number)


async def enforced(store: AsyncRiskStore, account_id: int, **options: Any) -> EnforcementLog:
    async with store.enforce(account_id, "RULE-003", "CLOSE_ALL", "loss", **options) as enforcement:
        enforcement.positions_closed += 1
    assert enforcement.log is not None
    return enforcement.log


ODD: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({"reason": "loss of 550 €", "details": '{"é": 1}'}, {"reason": "loss of 550 €"}),
    ({"success": False, "error_message": "closed 3 of 4", "execution_time_ms": 2**31}, {"locked_until": FAR}),
    ({"account_id": 2**62, "positions_closed": 3}, {"account_id": 2**62}),
    ({"timestamp": datetime(2026, 3, 8, 2, 30, tzinfo=timezone(timedelta(hours=-5)))}, {}),
]


async def test_a_record_is_what_a_thread_would_have_written(
    store: AsyncRiskStore, postgres_store_url: str, other: psycopg.Connection[Any]
) -> None:
    written = []
    at = datetime(2026, 11, 23, 15, 30, tzinfo=UTC)
    columns = [c.name for c in EnforcementLog.__table__.columns if c.name not in ("id", "enforcement_id")]
    with RiskStore(postgres_store_url, clock=lambda: at) as threads:
        store._clock = store._sender._clock = lambda: at  # type: ignore[union-attr]
        for of_log, of_lockout in ODD:
            for by_task in (False, True):
                log = a_log(**{"timestamp": at, "account_id": 1} | of_log)
                lockout = Lockout(**{"account_id": 1, "is_locked": True, "reason": "r", "rule_id": "R"} | of_lockout)
                recorded = await store.record(log, lockout) if by_task else threads.record(log, lockout)
                assert recorded is log
                row = other.execute(f"SELECT {', '.join(columns)} FROM enforcement_log WHERE id = {log.id}".encode())
                locked = other.execute("SELECT * FROM lockouts")
                written.append((row.fetchall(), locked.fetchall()))
                other.execute("DELETE FROM lockouts")
    assert all(row for row, _ in written)
    assert written[0::2] == written[1::2]


async def test_what_may_not_be_written_is_told_before_anything_is_sent(
    store: AsyncRiskStore, other: psycopg.Connection[Any]
) -> None:
    with pytest.raises(InvalidValue, match="account_id"):
        await store.record(a_log(0))
    with pytest.raises(InvalidValue, match="reason"):
        await store.record(a_log(1), Lockout(account_id=1, is_locked=True, reason=""))
    assert (count(other, "enforcement_log"), count(other, "lockouts")) == (0, 0)


async def test_a_record_is_one_request_and_an_enforcement_two(watched: tuple[AsyncRiskStore, Proxy]) -> None:
    store, proxy = watched
    for account in range(1, 10):  # psycopg prepares what it has sent five times
        await enforced(store, account, lock_until=None)
        await store.record(a_log(account), a_lockout(account))
    requests: list[bytes] = []
    proxy.on_request = requests.append  # type: ignore[assignment]
    await store.record(a_log(1), a_lockout(1))
    assert len(requests) == 1
    await enforced(store, 1, lock_until=None)
    assert len(requests) == 3


class LosesReply:
    """Breaks off the connection at the n-th request in which a text is, before the server gets it or after that."""

    def __init__(self, text: str, place: int, verdict: str) -> None:
        self._text, self._left, self._verdict = text.encode(), place, verdict

    def __call__(self, data: bytes) -> str | None:
        self._left -= self._text in data
        if self._text in data and self._left == 0:
            return self._verdict
        return None

    @property
    def has_cut(self) -> bool:
        return self._left <= 0


async def test_a_lost_reply_doubles_nothing_and_loses_nothing(
    watched: tuple[AsyncRiskStore, Proxy], other: psycopg.Connection[Any], caplog: pytest.LogCaptureFixture
) -> None:
    store, proxy = watched
    chance = random.Random(7)
    await store.interrupted()
    for number in range(1, 41):
        reason = f"loss of account {number}."
        lost = LosesReply(reason, chance.choice([1, 2]), chance.choice(["cut before", "cut after"]))
        proxy.on_request = lost
        async with store.enforce(number, "RULE-003", "CLOSE_ALL", reason, lock_until=None) as enforcement:
            enforcement.positions_closed += 1
        assert lost.has_cut
        proxy.on_request = lost = LosesReply(reason, 1, chance.choice(["cut before", "cut after"]))
        await store.record(a_log(number, reason=reason), a_lockout(number))
        assert lost.has_cut
    proxy.on_request = lambda _data: None
    both = "SELECT account_id, count(*), count(DISTINCT enforcement_id) FROM enforcement_log GROUP BY 1 ORDER BY 1"
    assert other.execute(both).fetchall() == [(number, 2, 2) for number in range(1, 41)]
    assert count(other, "lockouts") == 40
    assert await store.interrupted() == []
    async with store.read() as tx:
        assert list(await tx.enforcements.in_flight()) == []
    assert [record for record in caplog.records if record.name == "risk_store.enforcement"] == []


async def test_tasks_that_record_at_once_are_each_recorded_once(
    store: AsyncRiskStore, other: psycopg.Connection[Any]
) -> None:
    works = [store.record(a_log(n % 7 + 1), a_lockout(n % 7 + 1)) for n in range(100)]
    logs = await asyncio.gather(*works)
    ids = [row for (row,) in other.execute("SELECT id FROM enforcement_log ORDER BY id").fetchall()]
    assert sorted(log.id for log in logs) == ids
    assert (len(ids), count(other, "lockouts")) == (100, 7)


async def test_one_that_was_closed_as_interrupted_meanwhile_is_recorded_as_late(
    store: AsyncRiskStore, other: psycopg.Connection[Any]
) -> None:
    async with store.enforce(5, "RULE-003", "CLOSE_ALL", "loss") as enforcement, store.begin() as tx:
        [row] = await tx.enforcements.in_flight()
        await tx.enforcements.close(row, "thought dead")
    written = other.execute("SELECT enforcement_id FROM enforcement_log ORDER BY id").fetchall()
    assert written == [(enforcement.enforcement_id,), (f"{enforcement.enforcement_id}:late",)]


async def test_a_lock_of_somebody_else_is_waited_for(
    store: AsyncRiskStore, other: psycopg.Connection[Any], postgres_store_url: str
) -> None:
    """For a tenth of a second by the short way, and as long as there is time in a transaction."""
    await store.record(a_log(1), a_lockout(1))
    plain = sa.make_url(postgres_store_url).set(drivername="postgresql").render_as_string(hide_password=False)
    waiting = "SELECT query FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    with psycopg.connect(plain) as holder:
        holder.execute("SELECT 1 FROM lockouts FOR UPDATE")
        works = [asyncio.create_task(store.record(a_log(account), a_lockout(account))) for account in (1, 2)]
        await works[1]  # held up by nobody
        while not any(query.startswith("INSERT INTO lockouts") for (query,) in other.execute(waiting).fetchall()):
            await asyncio.sleep(0.005)
        holder.rollback()
    await works[0]
    assert count(other, "enforcement_log") == 3


async def test_a_record_whose_task_is_cancelled_is_told(
    store: AsyncRiskStore,
    other: psycopg.Connection[Any],
    postgres_store_url: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    plain = sa.make_url(postgres_store_url).set(drivername="postgresql").render_as_string(hide_password=False)
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    await store.record(a_log(1))
    with psycopg.connect(plain) as holder:
        holder.execute("LOCK TABLE enforcement_log IN EXCLUSIVE MODE")
        task = asyncio.create_task(store.record(a_log(2)))
        while other.execute(waiting).fetchone() == (0,):
            await asyncio.sleep(0.005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    [line] = [json.loads(r.getMessage()) for r in caplog.records if r.name == "risk_store.enforcement"]
    assert (line["event"], line["account_id"]) == ("enforcement not recorded", 2)
    assert (await store.record(a_log(3))).id


@pytest.mark.parametrize("times", [1, 2, 5])
async def test_a_task_that_is_cancelled_at_the_beginning_leaves_nothing_in_flight(
    store: AsyncRiskStore, other: psycopg.Connection[Any], times: int
) -> None:
    await enforced(store, 1)
    slow = "CREATE FUNCTION slow() RETURNS trigger AS 'BEGIN PERFORM pg_sleep(0.3); RETURN NEW; END' LANGUAGE plpgsql"
    other.execute(slow)
    other.execute("CREATE TRIGGER slow BEFORE INSERT ON enforcement_in_flight FOR EACH ROW EXECUTE FUNCTION slow()")
    busy = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()"
    task = asyncio.create_task(enforced(store, 2))
    while other.execute(busy).fetchone() == (0,):
        await asyncio.sleep(0.005)
    for _ in range(times):
        task.cancel()
        await asyncio.sleep(0.02)
    with pytest.raises(asyncio.CancelledError):
        await task
    while other.execute(busy).fetchone() != (0,):
        await asyncio.sleep(0.005)
    assert (count(other, "enforcement_in_flight"), count(other, "enforcement_log")) == (0, 1)


async def test_a_server_that_falls_silent_costs_a_record_its_time_and_is_used_again(
    watched: tuple[AsyncRiskStore, Proxy], other: psycopg.Connection[Any]
) -> None:
    store, proxy = watched
    await store.record(a_log(1))
    proxy.silent.set()
    with in_a_hurry(store, Limits(record_s=0.5)), pytest.raises(EnforcementNotRecorded, match="did not answer in time"):
        await store.record(a_log(2))
    proxy.cut()
    proxy.silent.clear()
    await store.record(a_log(3))
    assert other.execute("SELECT account_id FROM enforcement_log ORDER BY id").fetchall() == [(1,), (3,)]


async def test_its_connections_are_closed_with_the_store(
    postgres_store_url: str, driver: str, other: psycopg.Connection[Any]
) -> None:
    async with AsyncRiskStore(sa.make_url(postgres_store_url).set(drivername=driver), pool_size=2) as store:
        await asyncio.gather(*(enforced(store, account) for account in range(1, 9)))
        assert store._sender is not None
        assert len(store._sender._recorders._kept) == 2
    here = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    while other.execute(here).fetchone() != (0,):  # the server notices in its own time
        await asyncio.sleep(0.005)


async def test_on_a_distributed_store_enforcements_go_the_general_way(
    store: AsyncRiskStore, other: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr("risk_store.aio_sending.is_distributed", lambda connection: not asked.append(connection))
    for account in (1, 2, 3):
        await store.record(a_log(account), a_lockout(account))
        await enforced(store, account)
    assert len(asked) == 1
    assert (count(other, "enforcement_log"), count(other, "lockouts")) == (6, 3)


async def test_one_that_becomes_distributed_keeps_no_connection_of_before(
    store: AsyncRiskStore, other: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.record(a_log(1))
    assert store._sender is not None
    [kept] = store._sender._recorders._kept
    monkeypatch.setattr("risk_store.aio_sending.is_distributed", lambda _connection: True)
    await enforced(store, 2)  # whose beginning needs another connection
    assert store._sender is None
    assert kept.raw.closed if hasattr(kept.raw, "closed") else kept.raw.is_closed()
    assert count(other, "enforcement_log") == 2


LOOPS = """
import asyncio, sys
from risk_store import EnforcementLog
from risk_store.aio import AsyncRiskStore
store = AsyncRiskStore(sys.argv[1])
async def record():
    await store.record(EnforcementLog(account_id=1, rule_id="R", action="A", reason="r", success=True))
asyncio.run(record())
asyncio.run(store.close())
"""


def test_a_store_may_be_closed_when_its_event_loop_is_over(postgres_store_url: str, driver: str) -> None:
    # In a process of its own: what such a loop had open is left to be collected.
    url = sa.make_url(postgres_store_url).set(drivername=driver).render_as_string(hide_password=False)
    result = subprocess.run([sys.executable, "-c", LOOPS, url], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr

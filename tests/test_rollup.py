"""Reports that read the roll-up return what a scan of the log returns, whatever was written, rolled up or pruned."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.orm import Session

from risk_store import EnforcementLog, InvalidValue, RiskStore, Thresholds
from risk_store.aio import AsyncRiskStore
from risk_store.columns import UtcInstant
from risk_store.engines import open_engine, parse_url
from risk_store.models import ROLLED_UP, ROLLUP
from risk_store.models.rollup import BUCKETS, TIMES
from risk_store.repositories import Transaction
from risk_store.statements import alert_counts, daily_trend, filters, time_by_rule
from risk_store.statements.analytics import daily_trend_of, time_by_rule_of
from risk_store.statements.filters import HOUR, Filters
from risk_store.statements.rollup import bucket
from tests.conftest import ENGINES, url_on
from tests.support.plugin import with_citus

NOW = datetime(2025, 10, 21, 17, 20, 30, tzinfo=UTC)
DAY = timedelta(days=1)
LOG = EnforcementLog.__table__
LIMITS = Thresholds(slow_threshold_ms=120, critical_threshold_ms=1500, timeout_ms=20_000)

only_sqlite = pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
only_postgresql = pytest.mark.parametrize("store_url", ["postgresql"], indirect=True)

Row = tuple[datetime | None, str, bool, int | None]


@pytest.fixture(params=with_citus(*ENGINES))
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database at head, on each engine and distributed over a cluster."""
    return url_on(request.param, request, tmp_path)


@pytest.fixture
def session(store_url: str) -> Iterator[Session]:
    engine = open_engine(parse_url(store_url), "store")
    with engine.connect() as connection:
        if connection.dialect.name == "postgresql":
            connection.execution_options(isolation_level="REPEATABLE READ")
        with connection.begin() as transaction:
            with Session(connection, join_transaction_mode="create_savepoint") as opened:
                yield opened
            transaction.rollback()
    engine.dispose()


# What a scan returns, counted in Python


def nearest_rank(times: list[int], percent: int) -> int:
    return sorted(times)[-(-len(times) * percent // 100) - 1]


def times(rows: list[Row], outcome: str, since: datetime | None, until: datetime | None) -> list[tuple[Any, ...]]:
    by_rule: dict[str, list[int]] = {}
    for at, rule, success, ms in rows:
        dated = since is None and until is None
        inside = dated or (at is not None and (since is None or since <= at) and (until is None or at < until))
        if ms is not None and inside and (success or outcome == "all"):
            by_rule.setdefault(rule, []).append(ms)
    found = [
        (rule, sum(t) / len(t), min(t), max(t), len(t), *(nearest_rank(t, p) for p in (50, 95, 99)))
        for rule, t in by_rule.items()
    ]
    return sorted(found, key=lambda row: (-row[1], row[0]))


def trend(rows: list[Row], since: datetime) -> list[tuple[date, float, int]]:
    days: dict[date, list[int]] = {}
    for at, _, success, ms in rows:
        if at is not None and at >= since and success and ms is not None:
            days.setdefault(at.date(), []).append(ms)
    return [(day, sum(t) / len(t), len(t)) for day, t in sorted(days.items(), reverse=True)]


def alerts(rows: list[Row]) -> list[tuple[str, int, int, int]]:
    counts: dict[str, list[int]] = {}
    for _, rule, _, ms in rows:
        if ms is not None:
            level = sum(ms > limit for limit in (120, 1500, 20_000))
            found = counts.setdefault(rule, [0, 0, 0])
            if level:
                found[level - 1] += 1
    return [(rule, *found) for rule, found in sorted(counts.items())]  # type: ignore[misc]


def check(
    session: Session, rows: list[Row], windows: list[tuple[datetime | None, datetime | None]], **asked: Any
) -> None:
    """The repository's reports, whose statements are kept, and a caller's own, with his values in them."""
    now = NOW.replace(minute=0, second=0) if asked else NOW  # of pruned days whole hours are known
    reports = Transaction(session, lambda: now).enforcements

    def both(kept: Sequence[sa.Row[*tuple[Any, ...]]], built: sa.Select[Any]) -> list[tuple[Any, ...]]:
        answer = [tuple(row) for row in session.execute(built)]
        assert [tuple(row) for row in kept] == answer
        return answer

    for since, until in windows:
        for outcome in ("success", "all"):
            options = {"since": since, "until": until, **asked}
            found = both(reports.time_by_rule(outcome, **options), time_by_rule(outcome, **options))  # type: ignore[arg-type]
            expected = times(rows, outcome, since, until)
            assert [r[2:] + r[:1] for r in found] == [r[2:] + r[:1] for r in expected]
            assert [r[1] for r in found] == pytest.approx([r[1] for r in expected], rel=1e-12)
    assert both(reports.daily_trend(5, **asked), daily_trend(5, now, **asked)) == [
        (day, pytest.approx(average, rel=1e-12), n) for day, average, n in trend(rows, now - 5 * DAY)
    ]
    assert both(reports.alert_counts(LIMITS, **asked), alert_counts(LIMITS, **asked)) == alerts(rows)


# Sequences

MS = st.none() | st.integers(0, 40) | st.integers(0, 3_000) | st.integers(0, 2**40)
INSTANTS = st.integers(-8 * 86_400, 3_600).map(lambda s: NOW + timedelta(seconds=s)) | st.sampled_from(
    [NOW.replace(hour=0, minute=0, second=0), NOW - 5 * DAY, NOW - DAY + timedelta(microseconds=500_000)]
)
ROWS = st.lists(st.tuples(INSTANTS, st.sampled_from(["R-1", "R-2"]), st.booleans(), MS), min_size=1, max_size=12)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), ROWS),
        st.tuples(st.just("import with ids of its own"), ROWS),
        st.tuples(st.just("write oddly"), ROWS),
        st.tuples(st.just("roll up"), st.integers(1, 9)),
        st.tuples(st.just("prune"), st.integers(0, 9)),
    ),
    min_size=2,
    max_size=8,
)
EDGES = st.none() | INSTANTS


@settings(max_examples=40)
@given(STEPS, st.lists(st.tuples(EDGES, EDGES), max_size=3))
def test_reports_equal_a_scan_after_any_sequence(
    session: Session, steps: list[tuple[str, Any]], windows: list[tuple[datetime | None, datetime | None]]
) -> None:
    savepoint = session.begin_nested()
    try:
        connection = session.connection()
        tx = Transaction(session)
        present: dict[int, Row] = {}
        pruned: list[Row] = []
        free = list(range(900, -900, -7))
        for step, what in steps:
            if step in ("write", "write oddly", "import with ids of its own"):
                for at, rule, success, ms in what:
                    odd = step == "write oddly" and connection.dialect.name == "sqlite"
                    values: dict[str, Any] = {"account_id": 1, "rule_id": rule, "action": "A", "reason": "r"}
                    values |= {"success": success, "execution_time_ms": ms, "timestamp": at}
                    if step == "import with ids of its own":
                        values["id"] = free.pop()
                    if odd:
                        values["timestamp"] = sa.literal(at.isoformat(), sa.Text())  # with a T and an offset
                    new = connection.execute(sa.insert(LOG).values(values)).inserted_primary_key
                    assert new is not None
                    present[new[0]] = (at, rule, success, ms)
            elif step == "roll up":
                while tx.rollup.advance(what):
                    pass
            else:
                before = (NOW - what * DAY).replace(hour=0, minute=0, second=0)
                tx.rollup.prune(before, 3)
                left = set(connection.execute(sa.select(LOG.c.id)).scalars())
                for id_ in [id_ for id_ in present if id_ not in left]:
                    at = present[id_][0]
                    assert at is not None
                    assert at < before
                    pruned.append(present.pop(id_))
            check(session, list(present.values()), [(None, None), *windows])
            check(session, [*present.values(), *pruned], [(None, None)], include_pruned=True)
    finally:
        savepoint.rollback()
        session.expunge_all()


@pytest.mark.parametrize(
    "ms",
    [
        0,
        15,
        16,
        511,
        512,
        1023,
        1024,
        2047,
        2048,
        4095,
        4096,
        8191,
        8192,
        16_383,
        16_384,
        262_143,
        262_144,
        2**31,
        2**62,
    ],
)
def test_a_longer_time_is_in_no_earlier_bucket(session: Session, ms: int) -> None:
    numbers = [ms - 1, ms, ms + 1, ms + 17]
    buckets = [session.scalar(sa.select(bucket(sa.literal(n, sa.BigInteger)))) for n in numbers]
    assert buckets == sorted(buckets)
    assert all(found <= number or number < 0 for found, number in zip(buckets, numbers, strict=True))


# Through the store


def a_log(ms: int, at: datetime = NOW, rule: str = "R-1") -> EnforcementLog:
    return EnforcementLog(
        account_id=1, rule_id=rule, action="A", reason="r", success=True, execution_time_ms=ms, timestamp=at
    )


def test_rolling_up_tells_how_far_it_is_and_leaves_nothing_to_do(store_url: str) -> None:
    with RiskStore(store_url) as store:
        with store.begin() as tx:
            tx.enforcements.add_many(a_log(n) for n in range(50))
        told: list[int] = []
        assert store.roll_up(told.append) == 50
        assert told[-1] == 50
        assert store.roll_up() == 0
        with store.read() as tx:
            (row,) = tx.enforcements.time_by_rule()
        assert (row.enforcement_count, row.p95_time_ms, row.max_time_ms) == (50, 47, 49)


def test_pruning_takes_whole_old_days_out_of_the_log_and_counts_them_on(store_url: str) -> None:
    with RiskStore(store_url) as store:
        with store.begin() as tx:
            tx.enforcements.add_many(a_log(100 + n, NOW - n * DAY) for n in range(10))
        assert store.prune(NOW - 6 * DAY) == 3  # the day of the instant itself is not over
        with store.read() as tx:
            assert len(tx.enforcements.list()) == 7
            (row,) = tx.enforcements.time_by_rule()
            (whole,) = tx.enforcements.time_by_rule(include_pruned=True)
            days = tx.enforcements.daily_trend(days=3650, include_pruned=True)
            levels = tx.enforcements.alert_counts(Thresholds(105, 107, 108), include_pruned=True)
        assert (row.enforcement_count, row.max_time_ms) == (7, 106)
        assert (whole.enforcement_count, whole.max_time_ms) == (10, 109)
        assert len(days) == 10
        assert [tuple(level) for level in levels] == [("R-1", 2, 1, 1)]
        assert store.prune(NOW - 6 * DAY) == 0


async def test_the_asynchronous_store_rolls_up_and_prunes_as_well(store_url: str) -> None:
    url = store_url.replace("sqlite:", "sqlite+aiosqlite:").replace("+psycopg", "+asyncpg")
    async with AsyncRiskStore(url) as store:
        async with store.begin() as tx:
            await tx.run(lambda plain: plain.enforcements.add_many([a_log(1, NOW - 9 * DAY), a_log(2)]))
        assert await store.roll_up() == 2
        assert await store.prune(NOW - DAY) == 1


def test_two_reports_of_a_callers_own_are_one_statement_with_the_values_of_each(session: Session) -> None:
    Transaction(session).enforcements.add_many(a_log(ms, NOW, rule) for rule in ("R-1", "R-2") for ms in (5, 7))
    reports: list[Callable[[str], sa.Select[Any]]] = [
        lambda rule: time_by_rule(rule_id=rule),
        lambda rule: time_by_rule(rule_id=rule, since=NOW - DAY),
        lambda rule: alert_counts(rule_id=rule),
    ]
    for report in reports:
        of_each = [sa.select(report(rule).subquery()) for rule in ("R-1", "R-2")]
        assert sorted(row.rule_id for row in session.execute(sa.union_all(*of_each))) == ["R-1", "R-2"]
    of_all, of_failures_too = (sa.select(time_by_rule(outcome).subquery()) for outcome in ("success", "all"))  # type: ignore[arg-type]
    assert len(session.execute(sa.union_all(of_all, of_failures_too)).all()) == 4
    days = [sa.select(daily_trend(2, NOW, rule_id=rule).subquery()) for rule in ("R-1", "R-2", "R-3")]
    assert [row.enforcement_count for row in session.execute(sa.union_all(*days))] == [2, 2]


def test_a_report_by_days_refuses_filters_by_hours() -> None:
    with pytest.raises(InvalidValue, match="step"):
        time_by_rule_of(Filters(since=NOW - DAY).by(HOUR))
    with pytest.raises(InvalidValue, match="step"):
        daily_trend_of(Filters(since=NOW - DAY).by(filters.DAY))


def test_an_enforcement_in_the_last_instant_of_the_calendar_is_rolled_up(store_url: str) -> None:
    last = datetime.max.replace(tzinfo=UTC)
    with RiskStore(store_url, clock=lambda: last) as store:
        with store.begin() as tx:
            tx.enforcements.add(a_log(5, last))
        assert store.roll_up() == 1
        with store.read() as tx:
            assert [tuple(row) for row in tx.enforcements.daily_trend(1)] == [(last.date(), 5.0, 1)]


@only_postgresql
def test_a_report_looks_up_the_times_it_needs_in_a_log_of_any_length(store_url: str) -> None:
    """PostgreSQL judges by what it expects of a log of ten million rows: it is told of as many."""
    with RiskStore(store_url) as store, store.begin() as tx:
        connection = tx.session.connection()
        rows = [(f"R-{rule}", ms) for rule in range(12) for ms in range(1700)]
        counted = {"succeeded": True, "pruned": False, "enforcements": 400}
        connection.execute(
            sa.insert(TIMES), [{"rule_id": r, "bucket": ms - ms % 16, "ms": ms, **counted} for r, ms in rows]
        )
        buckets = sorted({(r, ms - ms % 16) for r, ms in rows})
        connection.execute(
            sa.insert(BUCKETS), [{"rule_id": r, "bucket": ms, "total_ms": ms * 400, **counted} for r, ms in buckets]
        )
        tx.enforcements.add(a_log(5))
        connection.execute(sa.insert(ROLLED_UP), {"first_id": 1, "last_id": 10_000_000})
        for table in (TIMES, BUCKETS, LOG, ROLLED_UP):
            connection.exec_driver_sql(f"ANALYZE {table.name}")
        connection.exec_driver_sql(
            "UPDATE pg_class SET reltuples = 1e7, relpages = 1 WHERE oid = 'enforcement_log'::regclass"
        )
        compiled = time_by_rule().compile(connection, compile_kwargs={"literal_binds": True})
        plan = str(connection.exec_driver_sql(f"EXPLAIN {compiled}".replace("%%", "%").replace("%", "%%")).all())
        tx.session.rollback()
    assert "pk_enforcement_times" in plan
    assert "Seq Scan on enforcement_times" not in plan


def test_pruned_days_cannot_be_asked_for_by_account() -> None:
    with pytest.raises(InvalidValue, match="include_pruned"):
        time_by_rule(account_id=1, include_pruned=True)


def test_pruning_refuses_a_time_without_a_zone(store_url: str) -> None:
    with RiskStore(store_url) as store, pytest.raises(InvalidValue, match="before"):
        store.prune(datetime(2025, 10, 21))  # noqa: DTZ001


def test_a_roll_up_that_is_emptied_is_filled_again(store_url: str) -> None:
    with RiskStore(store_url) as store:
        with store.begin() as tx:
            tx.enforcements.add_many(a_log(n) for n in range(20))
        store.roll_up()
        with store.begin() as tx:
            for table in (*ROLLUP, ROLLED_UP):
                tx.session.execute(sa.delete(table))
        with store.read() as tx:
            assert tx.enforcements.time_by_rule()[0].enforcement_count == 20
        assert store.roll_up() == 20


@pytest.mark.postgres
def test_rows_that_commit_late_are_neither_missed_nor_counted_twice(postgres_store_url: str) -> None:
    """Ids are given before the commit: while others roll up and read, most rows appear between rows that were there."""
    store = RiskStore(postgres_store_url)
    writers, each = 4, 40
    stop = threading.Event()
    wrong: list[Any] = []

    def write(seed: int) -> None:
        for n in range(each):
            with store.begin() as tx:
                tx.enforcements.add(a_log(seed * 1000 + n))
                stop.wait(0.001 * (n % 5))  # the id is given, the commit comes later
                tx.enforcements.add(a_log(seed * 1000 + n))

    def roll_up() -> None:
        while not stop.is_set():
            store.roll_up()

    def read() -> None:
        while not stop.is_set():
            with store.read() as tx:
                counted = sum(row.enforcement_count for row in tx.enforcements.time_by_rule())
                there = tx.session.scalar(sa.select(sa.func.count()).select_from(LOG))
            if counted != there:
                wrong.append((counted, there))

    helpers = [threading.Thread(target=work) for work in (roll_up, roll_up, read)]
    working = [threading.Thread(target=write, args=(n,)) for n in range(writers)]
    for thread in [*helpers, *working]:
        thread.start()
    for thread in working:
        thread.join()
    stop.set()
    for thread in helpers:
        thread.join()
    store.roll_up()
    with store.read() as tx:
        (row,) = tx.enforcements.time_by_rule()
        held = tx.session.execute(sa.select(ROLLED_UP)).all()
    store.close()
    assert wrong == []
    assert row.enforcement_count == 2 * writers * each
    assert sum(r.last_id - r.first_id + 1 for r in held) == row.enforcement_count


@only_sqlite
def test_rows_in_another_form_are_read_from_the_log_until_they_are_canonical(store_url: str) -> None:
    with RiskStore(store_url) as store:
        with store.begin() as tx:
            tx.enforcements.add_many([a_log(1), a_log(3)])
            odd = {"timestamp": "2025-10-21T17:20:30Z", "account_id": 1, "rule_id": "R-1", "action": "A", "reason": "r"}
            insert = sa.text(
                "INSERT INTO enforcement_log (timestamp, account_id, rule_id, action, reason, success, "
                "execution_time_ms) VALUES (:timestamp, :account_id, :rule_id, :action, :reason, 1, 2)"
            )
            tx.session.execute(insert, odd)
            tx.enforcements.add(a_log(4))
        assert store.roll_up() == 3
        with store.read() as tx:
            assert tx.enforcements.time_by_rule(since=NOW - DAY)[0].enforcement_count == 4
        with store.begin() as tx:
            tx.session.execute(
                sa.text("UPDATE enforcement_log SET timestamp = :at WHERE execution_time_ms = 2"),
                {"at": UtcInstant.text(NOW)},
            )
        assert store.roll_up() == 1
        with store.read() as tx:
            assert tx.enforcements.time_by_rule(since=NOW - DAY)[0].enforcement_count == 4


REPORTS: dict[str, Any] = {
    "time by rule": time_by_rule(),
    "time by rule, all": time_by_rule("all"),
    "time by rule of one rule": time_by_rule(rule_id="R-1"),
    "time by rule in a window": time_by_rule(since=NOW - 5 * DAY, until=NOW - DAY),
    "daily trend": daily_trend(7, NOW),
    "alert counts": alert_counts(),
    "alert counts in a window": alert_counts(since=NOW - 5 * DAY),
}


@pytest.mark.parametrize("report", REPORTS)
def test_a_report_finds_what_is_not_rolled_up_by_the_logs_key_and_its_window_by_its_time(
    store_url: str, report: str
) -> None:
    with RiskStore(store_url) as store:
        with store.begin() as tx:
            tx.enforcements.add_many(a_log(n % 900, NOW - timedelta(minutes=5 * n), f"R-{n % 3}") for n in range(5_000))
        store.roll_up()
        sent: list[tuple[str, Any]] = []
        with store.begin() as tx:
            connection = tx.session.connection()
            is_sqlite = connection.dialect.name == "sqlite"
            if not is_sqlite:
                connection.exec_driver_sql("ANALYZE enforcement_log")
            sa.event.listen(connection, "before_cursor_execute", lambda *a: sent.append((a[2], a[3])))
            connection.execute(REPORTS[report]).all()
            sql, values = sent[0]
            plan = str(connection.exec_driver_sql(f"EXPLAIN {'QUERY PLAN ' * is_sqlite}{sql}", values).all())
    assert "pk_enforcement_log" in plan or "SEARCH enforcement_log USING INTEGER PRIMARY KEY" in plan
    assert "SCAN enforcement_log'" not in plan
    assert "enforcement_log USING AUTOMATIC" not in plan
    assert "Seq Scan on enforcement_log " not in plan
    if "window" in report or "trend" in report:
        assert "idx_enforcement_timestamp" in plan

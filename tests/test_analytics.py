"""The reports on execution times (SPEC 6), the same on each engine, and the same as the specification's own SQL."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import event
from sqlalchemy.orm import Session

from risk_store import EnforcementLog, EnforcementLogRepository, InvalidValue, Thresholds, statements
from risk_store.columns import UtcInstant
from risk_store.engines import open_engine, parse_url

NOW = datetime(2025, 10, 21, 17, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)

REPORTS: dict[str, Callable[..., sa.Select[Any]]] = {
    "time_by_rule": statements.time_by_rule,
    "slow_enforcements": statements.slow_enforcements,
    "daily_trend": lambda **filters: statements.daily_trend(days=30, now=NOW, **filters),
    "alert_counts": statements.alert_counts,
}


@pytest.fixture
def session(store_url: str) -> Iterator[Session]:
    engine = open_engine(parse_url(store_url), "store")
    with Session(engine) as opened:
        yield opened
    engine.dispose()


only_sqlite = pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)


def a_row(ms: int | None, rule_id: str = "RULE-003", success: bool = True, **changes: Any) -> EnforcementLog:
    values = {"account_id": 123, "action": "CLOSE_ALL", "reason": "loss", "timestamp": NOW - HOUR} | changes
    return EnforcementLog(rule_id=rule_id, success=success, execution_time_ms=ms, **values)


def add(session: Session, *rows: EnforcementLog) -> None:
    EnforcementLogRepository(session).add_many(rows)


def answer(session: Session, report: sa.Select[Any]) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in session.execute(report)]


@contextmanager
def undone(session: Session) -> Iterator[None]:
    savepoint = session.begin_nested()
    try:
        yield
    finally:
        savepoint.rollback()


# time by rule


def nearest_rank(times: list[int], percent: int) -> int:
    return sorted(times)[-(-len(times) * percent // 100) - 1]


def expected_times(rows: list[tuple[str, int | None, bool]]) -> list[tuple[Any, ...]]:
    by_rule: dict[str, list[int]] = {}
    for rule_id, ms, _ in rows:
        if ms is not None:
            by_rule.setdefault(rule_id, []).append(ms)
    found = [
        (rule, sum(t) / len(t), min(t), max(t), len(t), *(nearest_rank(t, percent) for percent in (50, 95, 99)))
        for rule, t in by_rule.items()
    ]
    return sorted(found, key=lambda row: (-row[1], row[0]))


logged = st.tuples(
    st.sampled_from(["RULE-001", "RULE-002", "rule-001"]),
    st.none() | st.integers(0, 30) | st.integers(0, 10_000),
    st.booleans(),
)


@settings(max_examples=40)
@given(st.lists(logged, max_size=150))
def test_times_by_rule_are_those_of_a_plain_count(session: Session, rows: list[tuple[str, int | None, bool]]) -> None:
    with undone(session):
        add(session, *(a_row(ms, rule_id, success) for rule_id, ms, success in rows))
        everything = answer(session, statements.time_by_rule(outcome="all"))
        successes = answer(session, statements.time_by_rule())
    assert everything == expected_times(rows)
    assert successes == expected_times([row for row in rows if row[2]])
    assert all(type(row[1]) is float and {type(value) for value in row[2:]} == {int} for row in everything)


def test_a_percentile_is_the_time_at_its_nearest_rank(session: Session) -> None:
    ranks = {1: (1, 1, 1), 2: (1, 2, 2), 20: (10, 19, 20), 21: (11, 20, 21), 100: (50, 95, 99), 101: (51, 96, 100)}
    for count in ranks:
        add(session, *(a_row(10 * rank, f"RULE-{count}") for rank in range(count, 0, -1)))
    for row in session.execute(statements.time_by_rule()):
        times = (row.p50_time_ms, row.p95_time_ms, row.p99_time_ms)
        assert times == tuple(10 * rank for rank in ranks.pop(row.enforcement_count))
    assert ranks == {}


def test_failures_count_only_when_asked_for(session: Session) -> None:
    add(session, a_row(100), a_row(7000, success=False), a_row(None, success=False))
    assert answer(session, statements.time_by_rule())[0][:5] == ("RULE-003", 100.0, 100, 100, 1)
    assert answer(session, statements.time_by_rule(outcome="all"))[0][:5] == ("RULE-003", 3550.0, 100, 7000, 2)


def test_the_slowest_rule_comes_first_and_equals_by_name(session: Session) -> None:
    add(session, a_row(5, "b"), a_row(5, "a"), a_row(9, "c"), a_row(0, "d"))
    assert [row[0] for row in answer(session, statements.time_by_rule())] == ["c", "a", "b", "d"]


def test_absurdly_long_times_are_still_averaged(session: Session) -> None:
    longest = 2**63 - 1
    add(session, a_row(longest), a_row(longest), a_row(longest))
    ((_, average, _, maximum, *_),) = answer(session, statements.time_by_rule())
    assert (average, maximum) == (float(longest), longest)


# slow enforcements


def test_the_slowest_enforcements_come_first_and_the_newest_among_equals(session: Session) -> None:
    add(
        session,
        a_row(1000),
        a_row(1001, rule_id="first"),
        a_row(None),
        a_row(3000, success=False, positions_closed=2, orders_canceled=3),
        a_row(1001, rule_id="second", account_id=124),
    )
    found = answer(session, statements.slow_enforcements())
    assert [row[:7] for row in found] == [
        (NOW - HOUR, 123, "RULE-003", "CLOSE_ALL", 3000, 2, 3),
        (NOW - HOUR, 124, "second", "CLOSE_ALL", 1001, 0, 0),
        (NOW - HOUR, 123, "first", "CLOSE_ALL", 1001, 0, 0),
    ]
    assert [row.rule_id for row in session.execute(statements.slow_enforcements(limit=1))] == ["RULE-003"]


def test_slow_is_strictly_more_than_the_threshold(session: Session) -> None:
    times = [0, 1, 499, 500, 501, 502, 1000, 1001]
    add(session, *map(a_row, times))
    for threshold_ms in (0, 499, 500, 501, 1000):
        found = session.execute(statements.slow_enforcements(threshold_ms=threshold_ms))
        assert [row.execution_time_ms for row in found] == [ms for ms in reversed(times) if ms > threshold_ms]


def test_pages_show_every_slow_enforcement_once(session: Session) -> None:
    add(session, *(a_row(1000 + number % 7) for number in range(40)))
    everything = answer(session, statements.slow_enforcements(limit=100))
    paged: list[tuple[Any, ...]] = []
    after = None
    while page := answer(session, statements.slow_enforcements(limit=6, after=after)):
        assert len(paged) < 34, "pages without end"
        paged += page
        after = (page[-1][4], page[-1][7])
    assert paged == everything
    assert len(paged) == 34


def test_the_slow_list_is_read_from_its_index_in_order(session: Session) -> None:
    add(session, *(a_row(ms) for ms in range(900, 1200)))
    for after in (None, (3000, 7), (2**62, 2**62)):
        plan = plan_of(session, statements.slow_enforcements(after=after))
        assert "ix_enforcement_log_slow" in plan
        assert "TEMP B-TREE" not in plan  # SQLite would sort
        assert "Sort" not in plan  # PostgreSQL would


def plan_of(session: Session, statement: sa.Select[Any]) -> str:
    """How the engine carries it out, with the parameters bound as they are in use."""
    sent: list[tuple[str, Any]] = []
    connection = session.connection()

    @event.listens_for(connection, "before_cursor_execute")
    def note(_connection: Any, _cursor: Any, sql: str, parameters: Any, _context: Any, _many: bool) -> None:
        sent.append((sql, parameters))

    session.execute(statement).all()
    event.remove(connection, "before_cursor_execute", note)
    ((sql, parameters),) = sent
    if connection.dialect.name == "sqlite":
        return str(connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", parameters).all())
    for method in ("seqscan", "bitmapscan"):  # on a table of a few rows they always win
        connection.exec_driver_sql(f"SET LOCAL enable_{method} = off")
    return str(connection.exec_driver_sql(f"EXPLAIN {sql}", parameters).all())


# trend


def test_the_trend_is_by_utc_day_newest_first(session: Session) -> None:
    chicago = timezone(timedelta(hours=-5))
    add(
        session,
        a_row(100, timestamp=datetime(2025, 10, 20, 23, 59, 59, 999999, tzinfo=UTC)),
        a_row(300, timestamp=datetime(2025, 10, 20, 19, 0, tzinfo=chicago)),  # the 21st in UTC
        a_row(201, timestamp=datetime(2025, 10, 21, 0, 0, tzinfo=UTC)),
        a_row(None, timestamp=datetime(2025, 10, 21, 1, 0, tzinfo=UTC)),
        a_row(9000, timestamp=datetime(2025, 10, 21, 1, 0, tzinfo=UTC), success=False),
    )
    assert answer(session, statements.daily_trend(now=NOW)) == [
        (date(2025, 10, 21), 250.5, 2),
        (date(2025, 10, 20), 100.0, 1),
    ]


def test_the_trend_goes_back_so_many_days_to_the_instant(session: Session) -> None:
    add(session, a_row(1, timestamp=NOW - 7 * DAY), a_row(2, timestamp=NOW - 7 * DAY - timedelta(microseconds=1)))
    assert [row[2] for row in answer(session, statements.daily_trend(now=NOW))] == [1]
    assert [row[2] for row in answer(session, statements.daily_trend(days=8, now=NOW))] == [2]
    assert answer(session, statements.daily_trend(days=6, now=NOW)) == []


def test_the_trend_is_of_the_last_days_from_now(session: Session) -> None:
    now = datetime.now(UTC)
    add(session, a_row(1, timestamp=now - HOUR), a_row(2, timestamp=now - 8 * DAY))
    assert sum(row[2] for row in answer(session, statements.daily_trend())) == 1


# alert counts


def test_each_enforcement_counts_once_at_its_level_whatever_its_outcome(session: Session) -> None:
    times = [0, 500, 501, 2000, 2001, 5000, 5001, 9000]
    add(session, *(a_row(ms, success=ms < 3000) for ms in times), a_row(10, "fast"), a_row(None, "untimed"))
    assert answer(session, statements.alert_counts()) == [("RULE-003", 2, 2, 2), ("fast", 0, 0, 0)]
    limits = Thresholds(slow_threshold_ms=1, critical_threshold_ms=500, timeout_ms=501)
    assert answer(session, statements.alert_counts(thresholds=limits))[0] == ("RULE-003", 1, 1, 5)


@settings(max_examples=30)
@given(st.lists(logged, max_size=60), st.sets(st.integers(1, 9000), min_size=3, max_size=3).map(sorted))
def test_counts_and_levels_say_the_same(
    session: Session, rows: list[tuple[str, int | None, bool]], limits: list[int]
) -> None:
    thresholds = Thresholds(*limits)
    expected: dict[str, list[int]] = {}
    for rule_id, ms, _ in rows:
        if ms is not None:
            counts = expected.setdefault(rule_id, [0, 0, 0])
            if level := thresholds.level(ms):
                counts[["WARNING", "CRITICAL", "TIMEOUT"].index(level.name)] += 1
    with undone(session):
        add(session, *(a_row(ms, rule_id, success) for rule_id, ms, success in rows))
        found = answer(session, statements.alert_counts(thresholds=thresholds))
    assert {rule_id: counts for rule_id, *counts in found} == expected


# what all reports share


def test_an_empty_log_gives_empty_reports(session: Session) -> None:
    assert [answer(session, report()) for report in REPORTS.values()] == [[]] * 4


@pytest.mark.parametrize(
    ("filters", "kept"),
    [
        ({}, {1, 2, 3, 4}),
        ({"account_id": 123}, {1, 2, 4}),
        ({"rule_id": "RULE-003"}, {1, 3, 4}),
        ({"since": NOW - 2 * HOUR}, {3, 4}),
        ({"until": NOW - 2 * HOUR}, {1, 2}),
        ({"since": NOW - 3 * HOUR, "until": NOW - HOUR}, {2, 3}),
        ({"account_id": 123, "rule_id": "RULE-003", "since": NOW - HOUR}, {4}),
    ],
)
def test_a_report_speaks_of_the_rows_that_were_asked_for(
    session: Session, filters: dict[str, Any], kept: set[int]
) -> None:
    rows = {
        1: a_row(1001, timestamp=NOW - 4 * HOUR),
        2: a_row(1002, timestamp=NOW - 3 * HOUR, rule_id="RULE-001"),
        3: a_row(1003, timestamp=NOW - 2 * HOUR, account_id=124),
        4: a_row(1004, timestamp=NOW - HOUR),
    }
    add(session, *rows.values())
    filtered = [answer(session, report(**filters)) for report in REPORTS.values()]
    session.execute(sa.delete(EnforcementLog).where(EnforcementLog.execution_time_ms.not_in([1000 + n for n in kept])))
    assert filtered == [answer(session, report()) for report in REPORTS.values()]
    assert [] not in filtered


def test_a_report_can_be_filtered_joined_and_counted_by_its_caller(session: Session) -> None:
    add(session, a_row(100), a_row(300), a_row(50, "RULE-001"), a_row(2500, "RULE-001", success=False))
    times, alerts = statements.time_by_rule().subquery(), statements.alert_counts().subquery()
    joined = (
        sa.select(times.c.rule_id, times.c.avg_time_ms, alerts.c.criticals)
        .join(alerts, alerts.c.rule_id == times.c.rule_id)
        .where(times.c.avg_time_ms > 10)
        .order_by(times.c.rule_id)
    )
    assert answer(session, joined) == [("RULE-001", 50.0, 1), ("RULE-003", 200.0, 0)]


def test_conditions_are_spelled_so_that_partial_indexes_serve_them() -> None:
    from sqlalchemy.dialects import postgresql, sqlite

    for dialect, spelled in ((sqlite.dialect(), "success = 1"), (postgresql.dialect(), "success = true")):
        for report in (statements.time_by_rule(), statements.daily_trend()):
            assert spelled in str(report.compile(dialect=dialect))  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("report", REPORTS.values(), ids=REPORTS)
@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("account_id", 0),
        ("account_id", 2**63),
        ("account_id", True),
        ("account_id", "123"),
        ("rule_id", ""),
        ("rule_id", 3),
        ("since", datetime(2025, 10, 21)),  # noqa: DTZ001
        ("since", date(2025, 10, 21)),
        ("until", datetime(2025, 10, 21)),  # noqa: DTZ001
        ("until", "2025-10-21"),
        ("until", datetime.max.replace(tzinfo=timezone(-HOUR))),
    ],
)
def test_a_bad_filter_is_refused_by_name(report: Callable[..., sa.Select[Any]], argument: str, value: Any) -> None:
    with pytest.raises(InvalidValue) as caught:
        report(**{argument: value})
    assert (caught.value.field, caught.value.value) == (argument, value)


@pytest.mark.parametrize(
    ("report", "argument", "value"),
    [
        (statements.time_by_rule, "outcome", "failure"),
        (statements.time_by_rule, "outcome", None),
        (statements.slow_enforcements, "threshold_ms", -1),
        (statements.slow_enforcements, "threshold_ms", 1.5),
        (statements.slow_enforcements, "limit", 0),
        (statements.slow_enforcements, "limit", True),
        (statements.slow_enforcements, "after", 7),
        (statements.slow_enforcements, "after", (1, 2, 3)),
        (statements.slow_enforcements, "after", ("slow", 7)),
        (statements.slow_enforcements, "after", (float("inf"), 7)),
        (statements.daily_trend, "days", 0),
        (statements.daily_trend, "days", 7.0),
        (statements.daily_trend, "days", 10**9),
        (statements.daily_trend, "days", 2**62),
        (statements.daily_trend, "now", datetime(2025, 10, 21)),  # noqa: DTZ001
    ],
)
def test_a_bad_argument_is_refused_by_name(report: Callable[..., sa.Select[Any]], argument: str, value: Any) -> None:
    with pytest.raises(InvalidValue) as caught:
        report(**{argument: value})
    assert (caught.value.field, caught.value.value) == (argument, value)


# the specification's own SQL (DB-SCHEMA-003, Performance Analytics), to the letter

AVERAGE_BY_RULE = """
SELECT
    rule_id,
    AVG(execution_time_ms) as avg_time_ms,
    MIN(execution_time_ms) as min_time_ms,
    MAX(execution_time_ms) as max_time_ms,
    COUNT(*) as enforcement_count
FROM enforcement_log
WHERE success = 1
  AND execution_time_ms IS NOT NULL
GROUP BY rule_id
ORDER BY avg_time_ms DESC;
"""
SLOW = """
SELECT
    timestamp,
    account_id,
    rule_id,
    action,
    execution_time_ms,
    positions_closed,
    orders_canceled
FROM enforcement_log
WHERE execution_time_ms > 1000  -- >1 second
ORDER BY execution_time_ms DESC
LIMIT 10;
"""
TREND = """
SELECT
    DATE(timestamp) as date,
    AVG(execution_time_ms) as avg_time_ms,
    COUNT(*) as enforcement_count
FROM enforcement_log
WHERE success = 1
  AND execution_time_ms IS NOT NULL
  AND timestamp >= datetime('now', '-7 days')
GROUP BY DATE(timestamp)
ORDER BY date DESC;
"""


def raw(session: Session, sql: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    result = session.connection().exec_driver_sql(sql)
    return list(result.keys()), [tuple(row) for row in result]


def as_stored(value: Any) -> Any:
    if isinstance(value, datetime):
        return UtcInstant.text(value)
    return value.isoformat() if isinstance(value, date) else value


@only_sqlite
@pytest.mark.parametrize("seed", range(3))
def test_the_specifications_own_queries_give_the_same_rows(session: Session, seed: int) -> None:
    dice = random.Random(seed)
    now = datetime.now(UTC)
    times = dice.sample(range(6000), 500)  # no two equal: the specification's queries leave the order of equals open
    add(
        session,
        *(
            a_row(
                ms if dice.random() < 0.9 else None,
                f"RULE-{dice.randrange(12):03}",
                dice.random() < 0.9,
                account_id=dice.randrange(1, 5),
                # Not within a minute of seven days ago, where the time between two questions would show.
                timestamp=now - timedelta(minutes=dice.choice([1, 7 * 1440 - 1]) + 2 * dice.randrange(10_000)),
                positions_closed=dice.randrange(4),
            )
            for ms in times
        ),
    )
    for sql, ours in (
        (AVERAGE_BY_RULE, statements.time_by_rule()),
        (SLOW, statements.slow_enforcements()),
        (TREND, statements.daily_trend(now=now)),
    ):
        columns, rows = raw(session, sql)
        assert list(ours.selected_columns.keys())[: len(columns)] == columns
        found = answer(session, ours)
        assert rows
        assert [tuple(map(as_stored, row[: len(columns)])) for row in found] == rows

"""EnforcementLogRepository, the same on each engine (SPEC 3)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from risk_store import EnforcementInFlight, EnforcementLog, EnforcementLogRepository, InvalidValue

if TYPE_CHECKING:
    from tests.contract.conftest import Clock

BEGAN = datetime(2025, 10, 21, 14, 30, 5, 123456, tzinfo=UTC)


@pytest.fixture
def log(session: Session, clock: Clock) -> EnforcementLogRepository:
    return EnforcementLogRepository(session, clock)


def a_row(**changes: Any) -> EnforcementLog:
    values = {"account_id": 123, "rule_id": "RULE-003", "action": "CLOSE_ALL", "reason": "loss", "success": True}
    return EnforcementLog(**(values | changes))


def in_flight(**changes: Any) -> EnforcementInFlight:
    values = {
        "account_id": 123,
        "enforcement_id": "e1",
        "rule_id": "RULE-003",
        "action": "CLOSE_ALL",
        "reason": "loss",
        "started_at": BEGAN,
        "host": "here",
        "pid": 7,
    }
    return EnforcementInFlight(**(values | changes))


# add


def test_a_row_is_read_back_as_it_was_added(log: EnforcementLogRepository, session: Session) -> None:
    row = a_row(
        account_id=3_425_270_858,
        success=False,
        error_message="closed 3 of 4",
        positions_closed=3,
        orders_canceled=2,
        timestamp=BEGAN,
        execution_time_ms=145,
        details='{"limit": -500}',
        enforcement_id="e1",
    )
    assert log.add(row) is row
    assert row.id is not None
    assert log.get(row.id) == row
    assert log.get(row.id + 1) is None


def test_a_row_without_a_timestamp_gets_the_clocks(log: EnforcementLogRepository, clock: Clock) -> None:
    assert log.add(a_row(timestamp=None)).timestamp == clock.now


def test_ids_are_the_databases_to_give(log: EnforcementLogRepository) -> None:
    first = log.add(a_row()).id
    again = log.add(a_row(id=first)).id
    assert first is not None
    assert again is not None
    assert again > first


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("account_id", 0),
        ("account_id", 2**63),
        ("account_id", "123"),
        ("rule_id", ""),
        ("action", ""),
        ("reason", ""),
        ("reason", None),
        ("success", 1),
        ("positions_closed", -1),
        ("rule_id", "a\0b"),
        ("action", "\udc80"),
        ("orders_canceled", 1.5),
        ("execution_time_ms", -1),
        ("execution_time_ms", 0.5),
    ],
)
def test_a_row_that_may_not_enter_the_log_is_refused_by_name(field: str, value: Any) -> None:
    log = EnforcementLogRepository(Session())  # without a database: refused before one is asked
    for write in (log.add, lambda row: log.add_many([a_row(), row])):
        with pytest.raises(InvalidValue) as caught:
            write(a_row(**{field: value}))
        assert (caught.value.field, caught.value.value) == (field, value)


def test_a_value_that_its_column_cannot_keep_is_refused_by_name(log: EnforcementLogRepository) -> None:
    for field, value in (
        ("enforcement_id", "a\0b"),
        ("positions_closed", 2**63),
        ("timestamp", datetime(2025, 10, 21)),  # noqa: DTZ001
        ("details", 7),
    ):
        with pytest.raises(InvalidValue) as caught:
            log.add(a_row(**{field: value}))
        assert caught.value.field == f"enforcement_log.{field}"
    assert log.list() == []


def test_what_a_broker_wrote_is_escaped_and_not_refused(log: EnforcementLogRepository, session: Session) -> None:
    log.add(a_row(reason="a\0b", error_message="\udc80", details="\0"))
    (stored,) = log.list()
    assert (stored.reason, stored.error_message, stored.details) == ("a\\x00b", "\\udc80", "\\x00")


def test_an_enforcement_is_logged_once_per_account(log: EnforcementLogRepository, session: Session) -> None:
    log.add(a_row(enforcement_id="e1"))
    log.add(a_row(enforcement_id="e1", account_id=124))
    log.add(a_row())
    log.add(a_row())  # no enforcement_id, as v1 writes: nothing to tell them apart by
    with pytest.raises(IntegrityError), session.begin_nested():
        log.add(a_row(enforcement_id="e1"))
    assert len(log.list()) == 4


# add_many


def test_many_rows_are_added_in_chunks_from_any_iterable(
    log: EnforcementLogRepository, session: Session, sent: list[tuple[str, Any]]
) -> None:
    made = 0

    def rows() -> Iterator[EnforcementLog]:
        nonlocal made
        for made in range(1, 2502):
            yield a_row(timestamp=None, execution_time_ms=made)

    sent.clear()
    assert log.add_many(rows()) == made == 2501
    if log._dialect(EnforcementLog) == "sqlite":  # with psycopg they are copied
        assert [len(parameters) for _, parameters in sent[:2]] == [1000, 1000]
    assert [row.execution_time_ms for row in log.list(limit=3)] == [2501, 2500, 2499]
    assert session.scalar(sa.select(sa.func.count()).select_from(EnforcementLog)) == 2501


def test_no_rows_are_no_work(log: EnforcementLogRepository) -> None:
    assert log.add_many([]) == 0
    assert log.list() == []


def test_rows_added_in_one_go_are_those_that_would_have_been_added_one_by_one(log: EnforcementLogRepository) -> None:
    rows = [
        a_row(),
        a_row(reason="a\0b\ud800 ✓", details='{"a": 1}', error_message="\\N\t\n", execution_time_ms=0, success=False),
        a_row(account_id=2**63 - 1, execution_time_ms=2**63 - 1, enforcement_id="e-1", positions_closed=3),
    ]
    log.add_many(rows)
    for row in rows:
        row.enforcement_id = row.enforcement_id and "e-2"
        log.add(row)
    kept = [row.to_dict() | {"id": 0, "enforcement_id": None} for row in log.list()][::-1]
    assert kept[:3] == kept[3:]


def test_whoever_adds_many_is_told_how_many_are_written(log: EnforcementLogRepository) -> None:
    told: list[int] = []
    assert log.add_many((a_row() for _ in range(2300)), told.append) == 2300
    assert told == ([1000, 2000, 2300] if log._dialect(EnforcementLog) == "sqlite" else [2300])  # as it is written


def test_of_many_a_bad_one_is_named_and_a_rollback_leaves_none(
    log: EnforcementLogRepository, session: Session, undone: Callable[[], Any]
) -> None:
    with undone(), pytest.raises(InvalidValue, match="account_id"):
        log.add_many([*(a_row() for _ in range(1500)), a_row(account_id=0)])
    with undone(), pytest.raises(IntegrityError):
        log.add_many([a_row(enforcement_id="e-1"), a_row(enforcement_id="e-1")])
    assert log.list() == []


# list


def test_pages_show_every_row_once_the_last_written_first(log: EnforcementLogRepository) -> None:
    log.add_many(a_row(execution_time_ms=number) for number in range(25))
    seen: list[int | None] = []
    after = None
    while page := log.list(after=after, limit=10):
        assert len(seen) < 25, "pages without end"
        seen += [row.execution_time_ms for row in page]
        after = page[-1].id
        log.add(a_row(execution_time_ms=99))  # a row that comes meanwhile shifts nothing
    assert seen == list(range(24, -1, -1))


def test_a_page_has_a_hundred_rows_unless_asked(log: EnforcementLogRepository) -> None:
    log.add_many(a_row() for _ in range(101))
    assert len(log.list()) == 100


def test_rows_can_be_asked_by_account_rule_and_time(log: EnforcementLogRepository) -> None:
    rows = [
        log.add(a_row(timestamp=BEGAN)).id,
        log.add(a_row(timestamp=BEGAN + timedelta(hours=1), rule_id="RULE-001")).id,
        log.add(a_row(timestamp=BEGAN + timedelta(hours=2), account_id=124)).id,
    ]
    numbered = {id: number for number, id in enumerate(rows)}

    def found(**filters: Any) -> list[int]:
        return [numbered[row.id] for row in log.list(**filters)]

    assert found(account_id=123) == [1, 0]
    assert found(rule_id="RULE-003") == [2, 0]
    assert found(account_id=123, rule_id="RULE-003") == [0]
    assert found(since=BEGAN + timedelta(hours=1)) == [2, 1]  # since is inclusive
    assert found(until=BEGAN + timedelta(hours=1)) == [0]  # until is not
    assert found(since=BEGAN, until=BEGAN) == []


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("account_id", 0),
        ("account_id", True),
        ("rule_id", ""),
        ("rule_id", 3),
        ("since", datetime(2025, 10, 21)),  # noqa: DTZ001
        ("since", "2025-10-21"),
        ("until", datetime(2025, 10, 21)),  # noqa: DTZ001
        ("after", 0),
        ("after", "7"),
        ("limit", 0),
        ("limit", -1),
        ("limit", 1.5),
    ],
)
def test_a_bad_argument_is_refused_by_name(argument: str, value: Any) -> None:
    with pytest.raises(InvalidValue) as caught:
        EnforcementLogRepository(Session()).list(**{argument: value})
    assert (caught.value.field, caught.value.value) == (argument, value)


def test_a_limit_may_be_as_large_as_it_likes(log: EnforcementLogRepository) -> None:
    log.add(a_row())
    assert len(log.list(limit=2**63 - 1)) == 1


# rows of v1


def v1_row(session: Session, **changes: Any) -> None:
    values = {
        "account_id": 123,
        "rule_id": "RULE-003",
        "action": "CLOSE_ALL",
        "reason": "loss",
        "success": True,
        "details": '{"positions_closed": 2}',
    } | changes
    names = ", ".join(values)
    marks = ", ".join(f":{name}" for name in values)
    session.execute(sa.text(f"INSERT INTO enforcement_log ({names}) VALUES ({marks})"), values)


def test_rows_that_v1_wrote_are_listed_beside_todays(log: EnforcementLogRepository, session: Session) -> None:
    v1_row(session)
    v1_row(session, timestamp="2025-10-21 14:30:05", success=False, execution_time_ms=0)
    log.add(a_row())
    _, second, first = log.list()
    assert (second.timestamp, second.success, second.execution_time_ms) == (BEGAN.replace(microsecond=0), False, 0)
    assert isinstance(first.timestamp, datetime)
    assert (first.positions_closed, first.execution_time_ms, first.error_message) == (0, None, None)


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)  # no other engine lets such values in
def test_values_that_cannot_be_read_hide_no_row(log: EnforcementLogRepository, session: Session) -> None:
    v1_row(session, timestamp="2025-10-21T09:30:05.5-05:00", execution_time_ms=145.5)
    v1_row(session, timestamp="some time", execution_time_ms="slow")
    v1_row(session, timestamp=None)
    log.add(a_row(timestamp=BEGAN, execution_time_ms=1500))
    assert [row.timestamp for row in log.list()] == [
        BEGAN,
        None,
        "some time",
        datetime(2025, 10, 21, 14, 30, 5, 500000, tzinfo=UTC),
    ]
    assert log.time_by_rule()[0].rule_id == "RULE-003"  # the reports still answer
    assert [row.execution_time_ms for row in log.slow_enforcements()] == [1500]  # nobody knows how slow "slow" was
    assert [row.execution_time_ms for row in log.slow_enforcements(100, after=(1500, 9))] == [1500, 145.5]
    assert [row.execution_time_ms for row in log.slow_enforcements(100, after=(145.5, 9))] == [145.5]
    assert log.alert_counts()


# enforcements in flight


def test_finishing_takes_the_enforcement_out_of_flight_and_into_the_log(
    log: EnforcementLogRepository, session: Session
) -> None:
    log.start(in_flight())
    log.start(in_flight(account_id=124))  # the same id of another account is another enforcement
    (row, _) = session.scalars(sa.select(EnforcementInFlight).order_by(EnforcementInFlight.account_id))
    assert row == in_flight()
    assert log.find(123, "e1") is None
    finished = a_row(enforcement_id="e1")
    assert log.finish(finished) is True
    assert log.find(123, "e1") == finished.id
    assert log.find(124, "e1") is None
    assert session.scalars(sa.select(EnforcementInFlight.account_id)).all() == [124]


def test_a_finisher_whose_row_someone_closed_still_writes_the_log(log: EnforcementLogRepository) -> None:
    finished = a_row(enforcement_id="e1")
    assert log.finish(finished) is False
    assert log.find(123, "e1") == finished.id


def test_an_enforcement_without_an_id_cannot_be_finished(log: EnforcementLogRepository) -> None:
    with pytest.raises(InvalidValue) as caught:
        log.finish(a_row())
    assert (caught.value.field, caught.value.value) == ("enforcement_id", None)
    assert log.list() == []


def test_an_enforcement_starts_once(log: EnforcementLogRepository, session: Session) -> None:
    log.start(in_flight())
    with pytest.raises(IntegrityError), session.begin_nested():
        log.start(in_flight())


def test_nothing_is_committed_behind_the_callers_back(log: EnforcementLogRepository, session: Session) -> None:
    log.start(in_flight())
    log.finish(a_row(enforcement_id="e1"))
    log.add_many([a_row()])
    session.rollback()
    assert log.list() == []


# reports: their content is in tests/test_analytics.py


def test_reports_are_rows_with_named_columns(log: EnforcementLogRepository, clock: Clock) -> None:
    log.add(a_row(timestamp=clock.now, execution_time_ms=100))
    log.add(a_row(timestamp=clock.now, execution_time_ms=2501, positions_closed=2))
    (rule,) = log.time_by_rule()
    assert (rule.rule_id, rule.avg_time_ms, rule.p50_time_ms, rule.enforcement_count) == ("RULE-003", 1300.5, 100, 2)
    (slow,) = log.slow_enforcements()
    assert (slow.timestamp, slow.execution_time_ms, slow.positions_closed) == (clock.now, 2501, 2)
    (day,) = log.daily_trend()
    assert (day.date, day.enforcement_count) == (clock.now.date(), 2)
    (alerts,) = log.alert_counts()
    assert (alerts.warnings, alerts.criticals, alerts.timeouts) == (0, 1, 0)


def test_the_trend_ends_at_the_clocks_now(log: EnforcementLogRepository, clock: Clock) -> None:
    log.add(a_row(timestamp=clock.now, execution_time_ms=100))
    clock.forward(minutes=7 * 24 * 60)
    assert len(log.daily_trend()) == 1
    clock.forward(minutes=1)
    assert log.daily_trend() == []
    assert len(log.daily_trend(days=8)) == 1


def test_the_expressions_are_found_where_the_data_is() -> None:
    expressions = EnforcementLogRepository.statements
    assert expressions.time_by_rule().subquery().c.keys()[0] == "rule_id"
    assert {"slow_enforcements", "daily_trend", "alert_counts", "log_page"} <= set(expressions.__all__)

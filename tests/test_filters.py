"""Filters of reports: one statement for each shape, and every value that it wants is given."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.dialects import postgresql, sqlite

from risk_store import Thresholds
from risk_store.statements.analytics import alert_counts_of, daily_trend_of, time_by_rule_of
from risk_store.statements.filters import DAY, HOUR, Filters, kept

MIDNIGHT = datetime(2025, 10, 21, tzinfo=UTC)
REPORTS: list[tuple[Any, timedelta, tuple[Any, ...]]] = [
    (time_by_rule_of, DAY, ()),
    (daily_trend_of, HOUR, ()),
    (alert_counts_of, DAY, (Thresholds(),)),
]

DIALECTS = [sqlite.dialect(), postgresql.dialect()]  # type: ignore[no-untyped-call]
INSTANTS = st.sampled_from(
    [
        datetime(1, 1, 1, tzinfo=UTC),
        MIDNIGHT,
        MIDNIGHT + timedelta(hours=3),
        MIDNIGHT + timedelta(days=1, minutes=7),
        datetime.max.replace(tzinfo=UTC),
    ]
)
FILTERS = st.builds(
    Filters,
    account_id=st.none(),
    rule_id=st.sampled_from([None, "RULE-003"]),
    since=st.none() | INSTANTS,
    until=st.none() | INSTANTS,
    outcome=st.sampled_from(["success", "all"]),
    include_pruned=st.booleans(),
) | st.builds(Filters, account_id=st.just(123), since=st.none() | INSTANTS, until=st.none() | INSTANTS)


@pytest.mark.parametrize(("report", "step", "more"), REPORTS)
def test_reports_of_another_week_are_the_same_statement_with_other_values(
    report: Any, step: timedelta, more: tuple[Any, ...]
) -> None:
    this, last = (
        kept(report, Filters(since=since, until=since + timedelta(days=7)).by(step), *more)
        for since in (MIDNIGHT + timedelta(hours=3, minutes=7), MIDNIGHT - timedelta(days=6, minutes=5))
    )
    assert this[0] is last[0]
    assert this[1] != last[1]


def test_a_window_of_whole_hours_is_another_statement_than_one_that_begins_between() -> None:
    whole, between = (Filters(since=MIDNIGHT + timedelta(minutes=minutes)).by(HOUR) for minutes in (60, 61))
    assert kept(daily_trend_of, whole)[0] is not kept(daily_trend_of, between)[0]


@pytest.mark.parametrize(("report", "step", "more"), REPORTS)
@pytest.mark.parametrize("dialect", DIALECTS, ids=["sqlite", "postgresql"])
@given(filters=FILTERS)
def test_a_kept_statement_is_the_one_that_is_built_with_the_values_in_it(
    report: Any, step: timedelta, more: tuple[Any, ...], dialect: sa.Dialect, filters: Filters
) -> None:
    asked = filters.by(step)
    statement, values = kept(report, asked, *more)
    built = report(asked, *more)
    assert sent(statement.compile(dialect=dialect), values) == sent(built.compile(dialect=dialect), {})


def sent(compiled: Any, values: Mapping[str, Any]) -> tuple[str, list[Any]]:
    """The text of a statement without the names of its values, and these in their order."""
    named = re.compile(r"%\((\w+)\)s")
    given_values = compiled.construct_params(values)  # raises if one is not given
    return named.sub("?", compiled.string), [
        given_values[name] for name in compiled.positiontup or named.findall(compiled.string)
    ]

"""Thresholds and alert levels (SPEC 5)."""

import logging
from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from risk_store.alerts import AlertLevel, Thresholds
from risk_store.errors import InvalidValue

FIELDS = ("slow_threshold_ms", "critical_threshold_ms", "timeout_ms")


@pytest.mark.parametrize(
    ("took_ms", "level"),
    [
        (None, None),
        (0, None),
        (500, None),
        (501, AlertLevel.WARNING),
        (2000, AlertLevel.WARNING),
        (2001, AlertLevel.CRITICAL),
        (5000, AlertLevel.CRITICAL),
        (5001, AlertLevel.TIMEOUT),
        (2**62, AlertLevel.TIMEOUT),
    ],
)
def test_a_level_is_reached_by_what_is_strictly_greater(took_ms: int | None, level: AlertLevel | None) -> None:
    assert Thresholds().level(took_ms) is level


def test_limits_of_ones_own_move_the_levels() -> None:
    limits = Thresholds(slow_threshold_ms=1, critical_threshold_ms=2, timeout_ms=3)
    assert [limits.level(ms) for ms in (1, 2, 3, 4)] == [None, *AlertLevel]


def test_each_level_has_its_log_level() -> None:
    assert [level.log_level for level in AlertLevel] == [logging.WARNING, logging.ERROR, logging.CRITICAL]


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("value", [0, -1, True, 500.0, float("nan"), "500", None])
def test_a_limit_that_is_no_positive_whole_number_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(InvalidValue) as caught:
        Thresholds(**{field: value})
    assert (caught.value.field, caught.value.expected) == (field, "a whole number of milliseconds, 1 or more")
    assert caught.value.value is value


@pytest.mark.parametrize(
    ("limits", "field", "value"),
    [
        ((2000, 2000, 5000), "critical_threshold_ms", 2000),
        ((500, 400, 5000), "critical_threshold_ms", 400),
        ((500, 2000, 2000), "timeout_ms", 2000),
        ((500, 2000, 100), "timeout_ms", 100),
        ((3000, 2000, 1000), "critical_threshold_ms", 2000),
    ],
)
def test_limits_out_of_order_are_refused_with_the_first_that_is_out_of_line(
    limits: tuple[int, int, int], field: str, value: int
) -> None:
    with pytest.raises(InvalidValue, match="is not more than") as caught:
        Thresholds(*limits)
    assert (caught.value.field, caught.value.value) == (field, value)


def test_limits_cannot_be_changed_past_the_check() -> None:
    with pytest.raises(FrozenInstanceError):
        Thresholds().timeout_ms = 1  # type: ignore[misc]

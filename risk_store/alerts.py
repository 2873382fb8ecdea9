"""When an enforcement took too long: thresholds and alert levels (SPEC 5). Pure: no clock, no store, no logging."""

from __future__ import annotations

import logging
from dataclasses import dataclass, fields
from enum import StrEnum

from risk_store.errors import InvalidValue

__all__ = ["AlertLevel", "Thresholds"]


class AlertLevel(StrEnum):
    """How bad a slow enforcement is.

    >>> AlertLevel.CRITICAL.log_level == logging.ERROR
    True
    """

    WARNING = "WARNING"
    CRITICAL = "CRITICAL"
    TIMEOUT = "TIMEOUT"

    @property
    def log_level(self) -> int:
        """The level of :mod:`logging` that its log line has."""
        return _LOG_LEVELS[self]


_LOG_LEVELS = {
    AlertLevel.WARNING: logging.WARNING,
    AlertLevel.CRITICAL: logging.ERROR,
    AlertLevel.TIMEOUT: logging.CRITICAL,
}


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Above how many whole milliseconds an enforcement raises which alert; strictly greater.

    Raises :class:`~risk_store.errors.InvalidValue`, naming the field and its value, for anything but positive whole
    numbers with slow < critical < timeout. The defaults are those of DB-SCHEMA-003.

    >>> Thresholds().level(2001)
    <AlertLevel.CRITICAL: 'CRITICAL'>
    >>> Thresholds(slow_threshold_ms=3000)
    Traceback (most recent call last):
    risk_store.errors.InvalidValue: critical_threshold_ms: 2000 is not more than slow_threshold_ms (3000)
    """

    slow_threshold_ms: int = 500
    critical_threshold_ms: int = 2000
    timeout_ms: int = 5000

    def __post_init__(self) -> None:
        lower, least = "", 0
        for field in fields(self):  # in rising order
            value = getattr(self, field.name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise InvalidValue(field.name, value, "a whole number of milliseconds, 1 or more")
            if value <= least:
                raise InvalidValue(field.name, value, f"more than {lower} ({least})")
            lower, least = field.name, value

    def level(self, execution_time_ms: int | None) -> AlertLevel | None:
        """The alert of an enforcement that took this long; None for a fast one, and for one that was not timed."""
        if execution_time_ms is None:  # not `not execution_time_ms`: 0 ms is a time
            return None
        if execution_time_ms > self.timeout_ms:
            return AlertLevel.TIMEOUT
        if execution_time_ms > self.critical_threshold_ms:
            return AlertLevel.CRITICAL
        if execution_time_ms > self.slow_threshold_ms:
            return AlertLevel.WARNING
        return None

"""When an enforcement took too long: thresholds and alert levels (SPEC 5). Pure: no clock, no store, no logging."""

from __future__ import annotations

import logging
from dataclasses import dataclass, fields
from enum import StrEnum

from risk_store.errors import InvalidValue

__all__ = ["Alert", "AlertLevel", "Thresholds"]


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """One enforcement that takes, or took, too long.

    >>> print(Alert(level=AlertLevel.TIMEOUT, rule_id="RULE-003", account_id=123, execution_time_ms=5001, limit_ms=5000,
    ...             running=True, enforcement_id="01890a5d", action="CLOSE_ALL", positions_closed=1, orders_canceled=0))
    TIMEOUT: RULE-003 on account 123 (CLOSE_ALL) still runs after 5001 ms, over 5000 ms; 1 position closed so far...
    """

    level: AlertLevel
    rule_id: str
    account_id: int
    execution_time_ms: int
    """So far, if it is still running."""
    limit_ms: int
    """The threshold that it is over."""
    running: bool
    """True while its block still runs (level TIMEOUT only), False once it is done."""
    enforcement_id: str
    action: str
    positions_closed: int
    orders_canceled: int

    def __str__(self) -> str:
        closed = "1 position" if self.positions_closed == 1 else f"{self.positions_closed} positions"
        what = f"{self.rule_id} on account {self.account_id} ({self.action})"
        if self.running:
            took = f"still runs after {self.execution_time_ms} ms, over {self.limit_ms} ms; {closed} closed so far"
        else:
            took = f"took {self.execution_time_ms} ms, over {self.limit_ms} ms; {closed} closed"
        return f"{self.level}: {what} {took} (enforcement {self.enforcement_id})"


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

    def limit(self, level: AlertLevel) -> int:
        """Over how many milliseconds an enforcement has this level."""
        return {
            AlertLevel.WARNING: self.slow_threshold_ms,
            AlertLevel.CRITICAL: self.critical_threshold_ms,
            AlertLevel.TIMEOUT: self.timeout_ms,
        }[level]

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

"""Thresholds of an enforcement's time, and the alert level a time reaches. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from risk_store.errors import InvalidValue

__all__ = ["AlertLevel", "Thresholds"]


class AlertLevel(IntEnum):
    """How bad an execution time is; a later member is worse.

    >>> AlertLevel.TIMEOUT > AlertLevel.WARNING
    True
    """

    WARNING = 1
    CRITICAL = 2
    TIMEOUT = 3


@dataclass(frozen=True, slots=True)
class Thresholds:
    """The three limits, in milliseconds. A time is over a limit when it is strictly greater (SPEC 5).

    Raises InvalidValue unless slow < critical < timeout, naming the value that is out of line.

    >>> Thresholds().level(2001)
    <AlertLevel.CRITICAL: 2>
    >>> Thresholds(slow_threshold_ms=3000)
    Traceback (most recent call last):
    risk_store.errors.InvalidValue: critical_threshold_ms: 2000 is not more than slow_threshold_ms (3000)
    """

    slow_threshold_ms: int = 500
    critical_threshold_ms: int = 2000
    timeout_ms: int = 5000

    def __post_init__(self) -> None:
        below: tuple[str, int] | None = None
        for name in ("slow_threshold_ms", "critical_threshold_ms", "timeout_ms"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
                raise InvalidValue(name, value, "a whole number of milliseconds, 1 or more")
            if below is not None and value <= below[1]:
                raise InvalidValue(name, value, f"more than {below[0]} ({below[1]})")
            below = (name, value)

    def level(self, execution_time_ms: int | None) -> AlertLevel | None:
        """The level that a time in ms reaches; None for a fast one and for one that was not measured."""
        if execution_time_ms is None or execution_time_ms <= self.slow_threshold_ms:
            return None
        if execution_time_ms <= self.critical_threshold_ms:
            return AlertLevel.WARNING
        return AlertLevel.CRITICAL if execution_time_ms <= self.timeout_ms else AlertLevel.TIMEOUT

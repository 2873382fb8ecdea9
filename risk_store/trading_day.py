"""Which trading day an instant belongs to: pure, by the clock of the exchange and never by UTC.

A trading day ends at the reset time, 17:00 in Chicago unless an account has another (SPEC 7; Topstep's day rolls at
17:00 CT); that instant belongs to the next day already. A day has the date on which it ends, and one that ends at
midnight the date that it fills.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from risk_store.errors import InvalidValue

__all__ = ["CHICAGO_17", "DayEnd"]


@dataclass(frozen=True, slots=True)
class DayEnd:
    """The wall-clock time at which an account's day ends: local ``HH:MM`` and the IANA name of its zone.

    >>> end = DayEnd("17:00", "America/Chicago")
    >>> str(end.day_of(datetime.fromisoformat("2026-08-19T21:59:59Z")))
    '2026-08-19'
    >>> str(end.day_of(datetime.fromisoformat("2026-08-19T22:00:00Z")))
    '2026-08-20'
    """

    local_time: str
    zone: str

    def day_of(self, instant: datetime) -> date:
        """The trading day of an aware instant.

        Where the clocks go back the first passing of the time counts, and where they skip it the moment that they do.
        Raises :class:`~risk_store.errors.InvalidValue` for a time or a zone that is none, and for an instant at the
        edge of what a date can be.
        """
        clock, zone = _clock(self.local_time), _zone(self.zone)
        try:
            local = instant.astimezone(zone)
            if clock == time.min:
                return local.date()
            ends = datetime.combine(local.date(), clock, zone)
            # As instants: on the wall a time may come twice.
            return local.date() + timedelta(days=instant.timestamp() >= ends.timestamp())
        except OverflowError:
            raise InvalidValue("timestamp", instant, "an instant within the years 1 to 9999") from None


CHICAGO_17 = DayEnd("17:00", "America/Chicago")
"""Of accounts that have no reset schedule."""


@lru_cache(maxsize=64)
def _clock(text: str) -> time:
    try:
        clock = time.fromisoformat(text)
    except (ValueError, TypeError):
        clock = None
    if clock is None or clock.tzinfo is not None:
        raise InvalidValue("reset_time_config", text, "a local time of day, such as 17:00")
    return clock


@lru_cache(maxsize=64)
def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError, TypeError):  # not found, an absolute path, a folder
        raise InvalidValue("timezone", name, "the IANA name of a time zone, such as America/Chicago") from None

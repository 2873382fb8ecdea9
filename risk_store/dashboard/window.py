"""The last days of the log in memory: how long each enforcement took, by half hour and rule.

Filled once and then kept up with what is new, so that a page need not read the log. 8 bytes a row; a million rows are
8 MB. Pure: rows come from :class:`~risk_store.repositories.watching.WatchRepository`.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from math import ceil

from risk_store.repositories.watching import Time

__all__ = ["HOUR_S", "SLOT_S", "Cell", "LogWindow", "percentile"]

SLOT_S = 1800
HOUR_S = 3600
# A transaction may commit later than one that took a higher id. So long an id that is missing is looked for again.
LATE_UP_TO_S = 600
_MOST_GAPS = 10_000  # an import may leave a million ids out, and they are not late


@dataclass(slots=True)
class Cell:
    """The enforcements of one half hour and one rule: milliseconds of those that succeeded, of the others, and how many
    were not timed."""

    succeeded: array[float] = field(default_factory=lambda: array("d"))
    failed: array[float] = field(default_factory=lambda: array("d"))
    untimed: int = 0

    @property
    def rows(self) -> int:
        """How many."""
        return len(self.succeeded) + len(self.failed) + self.untimed


class LogWindow:
    """The rows of the log that began at `since` (seconds since 1970, UTC) or later.

    >>> window = LogWindow(since=0)
    >>> window.fill([Time(1, 1800, "RULE-003", True, 145.0)], last=1, now=2000)
    >>> [(slot, rule, list(cell.succeeded)) for slot, rule, cell in window.cells(0)]
    [(1800, 'RULE-003', [145.0])]
    """

    def __init__(self, since: int) -> None:
        self.since = since - since % SLOT_S
        self.last = 0
        self._slots: dict[int, dict[str, Cell]] = {}
        self._recent: list[Time] = []
        self._missing: dict[int, float] = {}

    def fill(self, times: Iterable[Time], last: int, now: float) -> None:
        """All rows there are `now`; `last` is the log's highest id at that moment."""
        for time in times:
            self._add(time, now)
        self.last = last

    def add_new(self, times: Iterable[Time], now: float) -> None:
        """Rows with a higher id than `last`, in any order."""
        ids = []
        for time in times:
            self._add(time, now)
            ids.append(time.id)
        if not ids:
            return
        highest = max(ids)
        if highest - self.last > len(ids):
            there = set(ids)
            gaps = range(self.last + 1, highest) if highest - self.last < _MOST_GAPS else range(0)
            self._missing |= {id_: now for id_ in gaps if id_ not in there}
        self.last = highest

    def add_late(self, times: Iterable[Time], now: float) -> None:
        """Those of :meth:`missing` that are there now."""
        for time in times:
            if self._missing.pop(time.id, None) is not None:
                self._add(time, now)

    def missing(self, now: float) -> list[int]:
        """Ids that may still come, since others with higher ones were committed before them."""
        self._missing = {id_: seen for id_, seen in self._missing.items() if seen >= now - LATE_UP_TO_S}
        return list(self._missing)

    def forget_before(self, since: int) -> None:
        """Lets go what began before, by whole half hours."""
        self.since = max(self.since, since - since % SLOT_S)
        for slot in [slot for slot in self._slots if slot < self.since]:
            del self._slots[slot]

    def cells(self, since: int, rule: str | None = None) -> Iterator[tuple[int, str, Cell]]:
        """Of each half hour from `since` on, oldest first: when it begins, the rule, its enforcements."""
        for slot in sorted(slot for slot in self._slots if slot >= since):
            for name, cell in self._slots[slot].items():
                if rule in (None, name):
                    yield slot, name, cell

    def last_hour(self, now: float, rule: str | None = None) -> list[Time]:
        """What began in the hour before `now`."""
        self._recent = [time for time in self._recent if (time.second or 0) > now - HOUR_S]
        return [time for time in self._recent if rule in (None, time.rule_id)]

    def _add(self, time: Time, now: float) -> None:
        if time.second is None or time.second < self.since:
            return
        of_slot = self._slots.setdefault(time.second - time.second % SLOT_S, {})
        cell = of_slot.get(time.rule_id) or of_slot.setdefault(time.rule_id, Cell())
        if time.ms is None:
            cell.untimed += 1
        else:
            (cell.succeeded if time.succeeded else cell.failed).append(time.ms)
        if time.second > now - HOUR_S:
            self._recent.append(time)


def percentile(ordered: array[float] | list[float], p: int) -> float:
    """The time of nearest rank `p` among ordered ones: always one that did occur.

    >>> percentile([10.0, 20.0, 30.0], 50)
    20.0
    """
    return ordered[ceil(len(ordered) * p / 100) - 1]

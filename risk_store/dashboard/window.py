"""The last days of the log in memory: how long each enforcement took, by half hour and rule.

Filled once and then kept up with what is new, so that a page need not read the log. 8 bytes a row; a million rows are
8 MB. Pure: rows come from :class:`~risk_store.repositories.watching.WatchRepository`.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from math import ceil

from risk_store.repositories.watching import Time

__all__ = ["HOUR_S", "LATE_UP_TO_S", "MOST_GAPS", "SLOT_S", "Arrivals", "Cell", "LogWindow", "percentile"]

SLOT_S = 1800
HOUR_S = 3600
# A transaction may commit later than one that took a higher id. So long an id that is missing is looked for again.
LATE_UP_TO_S = 600
MOST_GAPS = 10_000  # an import may leave a million ids out, and they are not late


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


class Arrivals:
    """Which rows of the log have been read: all up to `last`, but for the ids that may still come.

    >>> arrivals = Arrivals(last=10)
    >>> arrivals.note([11, 13], now=0.0)
    >>> arrivals.last, arrivals.missing(now=1.0)
    (13, [12])
    """

    def __init__(self, last: int) -> None:
        self.last = last
        self._missing: dict[int, float] = {}

    def note(self, ids: Collection[int], now: float) -> None:
        """Rows that were read: new ones, or some that were missing."""
        for id_ in ids:
            self._missing.pop(id_, None)
        highest = max(ids, default=self.last)
        if highest - self.last <= MOST_GAPS:
            there = set(ids)
            self._missing |= {id_: now for id_ in range(self.last + 1, highest) if id_ not in there}
        self.last = max(self.last, highest)

    def missing(self, now: float) -> list[int]:
        """Ids that may still come, since others with higher ones were committed before them."""
        self._missing = {id_: seen for id_, seen in self._missing.items() if seen >= now - LATE_UP_TO_S}
        return list(self._missing)


class LogWindow:
    """The rows of the log, perhaps of one account only, that began at `since` (seconds since 1970, UTC) or later.

    >>> window = LogWindow(since=0)
    >>> window.add([Time(1, 1800, 456, "RULE-003", True, 145.0)], now=2000)
    >>> [(slot, rule, list(cell.succeeded)) for slot, rule, cell in window.cells(0)]
    [(1800, 'RULE-003', [145.0])]
    """

    def __init__(self, since: int, account_id: int | None = None) -> None:
        self.since = since - since % SLOT_S
        self._account_id = account_id
        self._slots: dict[int, dict[str, Cell]] = {}
        self._recent: list[Time] = []

    def add(self, times: Iterable[Time], now: float) -> None:
        """Rows that it does not hold yet, in any order; those that are not its own are passed over."""
        for time in times:
            second = time.second
            if second is None or second < self.since or self._account_id not in (None, time.account_id):
                continue
            of_slot = self._slots.setdefault(second - second % SLOT_S, {})
            cell = of_slot.get(time.rule_id) or of_slot.setdefault(time.rule_id, Cell())
            if time.ms is None:
                cell.untimed += 1
            else:
                (cell.succeeded if time.succeeded else cell.failed).append(time.ms)
            if second > now - HOUR_S:
                self._recent.append(time)

    def forget_before(self, since: int, now: float) -> None:
        """Lets go what began before `since`, by whole half hours, and what the hour before `now` does not ask for."""
        self._recent = [time for time in self._recent if (time.second or 0) > now - HOUR_S]
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
        """What began in the hour before `now`, or in the hour after it: clocks differ, but not by more."""
        return [
            time
            for time in self._recent
            if now - HOUR_S < (time.second or 0) <= now + HOUR_S and rule in (None, time.rule_id)
        ]


def percentile(ordered: array[float] | list[float], p: int) -> float:
    """The time of nearest rank `p` among ordered ones: always one that did occur.

    >>> percentile([10.0, 20.0, 30.0], 50)
    20.0
    """
    return ordered[ceil(len(ordered) * p / 100) - 1]

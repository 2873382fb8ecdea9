"""R1 to R4: reports over a long log, beside plain SQL that reads the log.

Each call opens a read transaction of its own. `store.roll_up()` has run after the log was filled, as a daemon would let
it run now and then; what it took is told, too.
"""

from __future__ import annotations

import math
import time
from array import array
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

from benchmarks.contest import Contender, Outcome, contest
from benchmarks.log import END, fill
from benchmarks.ours import THREADS
from benchmarks.places import Ground, Place
from benchmarks.plain import Plain
from benchmarks.report import Book, Figure
from benchmarks.sizes import Size
from benchmarks.way import Way
from risk_store import RiskStore

__all__ = ["PERCENT_OFF", "percentiles_off", "run"]

PERCENT_OFF = 1.1  # how far a percentile may be from the exact one, in percent of it
R1, R2, R3, R4 = "R1 time by rule", "R2 slow list", "R3 daily trend", "R4 percentiles by rule"
BY_RULE = "time_by_rule()"
TREND, SLOW = "daily_trend(days=7)", "slow_enforcements(), second page"
RANKS = (50, 95, 99)
THRESHOLD_MS, LIMIT = 1000, 10
WARMED_S = 0.15  # how long each contender is asked again and again before it is measured (seconds)

GROUPED = """
SELECT rule_id, avg(execution_time_ms), min(execution_time_ms), max(execution_time_ms), count(*) FROM enforcement_log
WHERE success AND execution_time_ms IS NOT NULL GROUP BY rule_id ORDER BY 2 DESC, 1
"""
TIMES = "SELECT rule_id, execution_time_ms FROM enforcement_log WHERE success AND execution_time_ms IS NOT NULL"
DAILY = """
SELECT {day} AS day, avg(execution_time_ms), count(*) FROM enforcement_log
WHERE success AND execution_time_ms IS NOT NULL AND timestamp >= {mark} GROUP BY 1 ORDER BY 1 DESC
"""
PAGE = """
SELECT id, execution_time_ms, account_id, rule_id FROM enforcement_log
WHERE execution_time_ms > 1000 AND execution_time_ms > 500 AND (execution_time_ms, id) < ({0}, {0})
ORDER BY execution_time_ms DESC, id DESC LIMIT 10
"""

Percentiles = Mapping[str, Sequence[int]]


class PlainReports:
    """The reports by hand: each reads the log itself, with the indexes that are there."""

    def __init__(self, place: Place) -> None:
        self._plain = Plain(place)
        day = "date(timestamp)" if place.is_sqlite else "(timestamp AT TIME ZONE 'UTC')::date"
        self._daily = DAILY.format(day=day, mark=self._plain.mark)
        self._page = PAGE.format(self._plain.mark)
        self._is_sqlite = place.is_sqlite

    def by_rule(self) -> list[tuple[Any, ...]]:
        return self._all(GROUPED)

    def percentiles(self) -> dict[str, list[int]]:
        """By nearest rank, of all times fetched and sorted here."""
        times: dict[str, array[int]] = {}
        self._plain.execute(TIMES)
        while rows := self._plain.cursor.fetchmany(10_000):
            for rule, milliseconds in rows:
                if rule not in times:
                    times[rule] = array("q")
                times[rule].append(milliseconds)
        found = {}
        for rule, unsorted in times.items():
            by_size = sorted(unsorted)
            found[rule] = [by_size[math.ceil(len(by_size) * rank / 100) - 1] for rank in RANKS]
        return found

    def daily(self) -> list[tuple[Any, ...]]:
        since = END - timedelta(days=7)
        rows = self._all(self._daily, str(since.replace(tzinfo=None)) if self._is_sqlite else since)
        return [(date.fromisoformat(day) if isinstance(day, str) else day, *others) for day, *others in rows]

    def page(self, after: tuple[int, int]) -> list[tuple[Any, ...]]:
        return self._all(self._page, *after)

    def close(self) -> None:
        self._plain.close()

    def _all(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        self._plain.execute(statement, values or ())
        return list(self._plain.cursor.fetchall())


@dataclass(frozen=True, slots=True)
class Reports:
    """The store's, each in a transaction of its own."""

    store: RiskStore

    def by_rule(self) -> Sequence[Any]:
        with self.store.read() as tx:
            return tx.enforcements.time_by_rule()

    def daily(self) -> Sequence[Any]:
        with self.store.read() as tx:
            return tx.enforcements.daily_trend(days=7)

    def page(self, after: tuple[float, int] | None) -> Sequence[Any]:
        with self.store.read() as tx:
            return tx.enforcements.slow_enforcements(threshold_ms=THRESHOLD_MS, limit=LIMIT, after=after)


def run(ground: Ground, size: Size, book: Book, _peers: Mapping[str, Callable[[Place], Way]]) -> None:
    """The smaller log and the larger one; targets are those of the larger one."""
    smaller, larger = (_of_rows(ground, rows, size.report_rounds, book) for rows in size.log_rows)
    engine, rows = ground.label, size.log_rows[1]
    for work, name, limit in ((R1, BY_RULE, 10), (R2, SLOW, 5), (R3, TREND, 10), (R4, BY_RULE, 20)):
        if (found := larger[work].get(name)) is not None:
            book.at_most(f"{work}, {rows:,} rows", engine, name, limit, found.median() * 1e3, "ms")
    for work, name in ((R1, BY_RULE), (R3, TREND)):
        before, after = smaller[work].get(name), larger[work].get(name)
        if before is not None and after is not None:
            what = f"{name}: of the time at {size.log_rows[0]:,} rows"
            book.at_most(f"{work}, {rows:,} rows", engine, what, 2, after.median() / before.median())


def _of_rows(ground: Ground, rows: int, rounds: int, book: Book) -> dict[str, Outcome]:
    place = ground.place()
    fill(place, rows)
    with (
        closing(PlainReports(place)) as plain,
        RiskStore(place.url, clock=lambda: END, pool_size=THREADS) as store,
    ):
        started = time.perf_counter()
        store.roll_up()
        took = time.perf_counter() - started
        book.figures.append(Figure("roll-up", ground.label, f"store.roll_up(), {rows:,} rows", took, "s", None, [took]))
        found = _contests(plain, Reports(store), rounds)
    for work, (outcome, off) in found.items():
        label = f"{work}, {rows:,} rows"
        book.refuse(label, ground.label, outcome)
        book.add(label, ground.label, outcome, "ms", lambda seconds: seconds * 1e3)
        if off is not None:
            book.at_most(label, ground.label, f"{BY_RULE}: furthest from exact", PERCENT_OFF, off, "%")
    return {work: outcome for work, (outcome, _) in found.items()}


def _contests(plain: PlainReports, ours: Reports, rounds: int) -> dict[str, tuple[Outcome, float | None]]:
    grouped, exact, daily = plain.by_rule(), plain.percentiles(), plain.daily()
    first = ours.page(None)
    after = (first[-1].execution_time_ms, first[-1].id)

    def sums_differ() -> str | None:
        return _differ([row[:5] for row in ours.by_rule()], grouped)

    def trend_differs() -> str | None:
        return _differ(ours.daily(), daily)

    def page_differs() -> str | None:
        found = [(row.id, row.execution_time_ms, row.account_id, row.rule_id) for row in ours.page(after)]
        return None if found == plain.page(after) else f"{found} is not {plain.page(after)}"

    def percentiles_differ() -> str | None:
        off = percentiles_off(ours.by_rule(), exact)
        return None if off == 0 else f"a percentile is {off:.2f} % off, and all are exact"

    def one_of(*contenders: tuple[str, Callable[[], object], Callable[[], str | None] | None]) -> Outcome:
        return contest(
            [Contender(name, _calling(call), check or (lambda: None)) for name, call, check in contenders], rounds
        )

    return {
        R1: (one_of(("plain SQL, GROUP BY", plain.by_rule, None), (BY_RULE, ours.by_rule, sums_differ)), None),
        R2: (
            one_of(
                ("plain SQL, the same page", lambda: plain.page(after), None),
                (SLOW, lambda: ours.page(after), page_differs),
            ),
            None,
        ),
        R3: (one_of(("plain SQL, GROUP BY", plain.daily, None), (TREND, ours.daily, trend_differs)), None),
        R4: (
            one_of(
                ("plain driver, fetched and sorted", plain.percentiles, None),
                (BY_RULE, ours.by_rule, percentiles_differ),
            ),
            percentiles_off(ours.by_rule(), exact),
        ),
    }


def percentiles_off(rows: Sequence[Any], exact: Percentiles) -> float:
    """How far the furthest percentile of any rule is from the exact one, in percent; infinite if a rule lacks."""
    if {row.rule_id for row in rows} != exact.keys():
        return math.inf
    return max(
        abs(int(getattr(row, f"p{rank}_time_ms")) - true) / true * 100
        for row in rows
        for rank, true in zip(RANKS, exact[row.rule_id], strict=True)
    )


def _calling(call: Callable[[], object]) -> Callable[[int], None]:
    """One call a turn. The first turn, which only warms, is as many as a daemon's or a dashboard's connection has made
    soon: psycopg prepares a statement that it is sent for the sixth time."""

    def turn(number: int) -> None:
        until = time.perf_counter() + (WARMED_S if number == 0 else 0.0)
        call()
        while time.perf_counter() < until:
            call()

    return turn


def _differ(found: Sequence[Any], expected: Sequence[Any]) -> str | None:
    """The first row that is not the same, averages to eleven digits: their sums are added in another order."""
    if len(found) != len(expected):
        return f"{len(found)} rows, not {len(expected)}"
    for ours, theirs in zip(found, expected, strict=True):
        for mine, other in zip(ours, theirs, strict=True):
            is_number = isinstance(mine, float) or isinstance(other, float)
            if not (math.isclose(mine, other, rel_tol=1e-11) if is_number else mine == other):
                return f"{tuple(ours)} is not {tuple(theirs)}"
    return None

"""What the page shows, as values: computed from the window of times in memory and a few short lists."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum, StrEnum
from functools import cached_property
from itertools import chain
from math import isfinite
from typing import Any

from risk_store.alerts import AlertLevel, Thresholds
from risk_store.dashboard.window import HOUR_S, SLOT_S, Cell, LogWindow, percentile
from risk_store.models import EnforcementInFlight, EnforcementLog, Lockout, OrderSnapshot
from risk_store.owner import OwnerState

__all__ = ["Bucket", "Facts", "RuleLine", "Snapshot", "Status", "Summary", "bucket_s", "level_of", "summed_up"]

DAY_S = 86_400


class Status(StrEnum):
    """How the last hour was, by the worst enforcement in it."""

    QUIET = "QUIET"
    """Nothing was timed: that is not the same as OK."""
    OK = "OK"
    SLOW = "SLOW"
    CRITICAL = "CRITICAL"
    TIMEOUT = "TIMEOUT"


_STATUS = {
    None: Status.OK,
    AlertLevel.WARNING: Status.SLOW,
    AlertLevel.CRITICAL: Status.CRITICAL,
    AlertLevel.TIMEOUT: Status.TIMEOUT,
}


@dataclass(frozen=True, slots=True)
class Bucket:
    """One step of the trend. Times are milliseconds; median and p95 are of the successes, the worst is of all."""

    begins_at: datetime
    enforcements: int
    p50_time_ms: float | None
    p95_time_ms: float | None
    worst_time_ms: float | None
    worst_level: AlertLevel | None


@dataclass(frozen=True, slots=True)
class RuleLine:
    """One rule in the window. Times and the count are of the successes, as in `time_by_rule`; alerts are of all."""

    rule_id: str
    max_time_ms: float | None
    avg_time_ms: float | None
    min_time_ms: float | None
    p95_time_ms: float | None
    enforcement_count: int
    warnings: int
    criticals: int
    timeouts: int
    daily_avg_ms: tuple[float | None, ...]
    """Of each UTC day in the window, oldest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What the window of times says."""

    window_from: datetime
    bucket_s: int
    status: Status
    last_hour: int
    last_hour_worst_ms: float | None
    last_day: int
    last_day_median_ms: float | None
    last_day_worst_p95_ms: float | None
    """The p95 of the rule where it is the worst."""
    enforcements: int
    """In the window, of any outcome, timed or not."""
    warnings: int
    criticals: int
    timeouts: int
    days: tuple[datetime, ...]
    """The UTC days of the window, oldest first."""
    buckets: tuple[Bucket, ...]
    rules: tuple[RuleLine, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is read anew whenever anything was committed: short lists, and where the log and its schema are."""

    total: int
    lockouts: Sequence[Lockout]
    orders: Sequence[OrderSnapshot]
    in_flight: Sequence[tuple[EnforcementInFlight, OwnerState]]
    latest: Sequence[EnforcementLog]
    slow: Sequence[EnforcementLog]
    has_older: bool
    """Whether there are slow ones behind those of `slow`."""
    journal_mode: str | None
    """SQLite's; None on a server."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One moment of a store, for one view."""

    at: datetime
    summary: Summary
    facts: Facts
    thresholds: Thresholds

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values: instants as ISO 8601, codes by name."""
        summary, facts = self.summary, self.facts
        return {
            "at": _json(self.at),
            "thresholds": _fields(self.thresholds),
            **{name: _json(value) for name, value in _fields(summary).items() if name not in ("buckets", "rules")},
            "total": facts.total,
            "buckets": [_fields(bucket) for bucket in summary.buckets],
            "rules": [_fields(rule) for rule in summary.rules],
            "lockouts": [_row(row, LOCKOUT_COLUMNS) for row in facts.lockouts],
            "orders": [{name: _json(value) for name, value in order._asdict().items()} for order in facts.orders],
            "in_flight": [_row(row, IN_FLIGHT_COLUMNS) | {"owner": owner.value} for row, owner in facts.in_flight],
            "latest": [_row(row, LOG_COLUMNS) for row in facts.latest],
            "slow": [_row(row, LOG_COLUMNS) for row in facts.slow],
            "journal_mode": facts.journal_mode,
        }


LOCKOUT_COLUMNS = ("account_id", "rule_id", "reason", "locked_at", "locked_until")
IN_FLIGHT_COLUMNS = ("account_id", "rule_id", "action", "reason", "started_at", "host", "pid", "enforcement_id")
LOG_COLUMNS = (
    *("id", "timestamp", "account_id", "rule_id", "action", "reason", "success", "error_message"),
    *("positions_closed", "orders_canceled", "execution_time_ms", "enforcement_id"),
)


def _fields(value: Any) -> dict[str, Any]:
    return {name: _json(getattr(value, name)) for name in value.__slots__}


def _row(row: Any, columns: Iterable[str]) -> dict[str, Any]:
    return {name: _json(getattr(row, name)) for name in columns}


def _json(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, (list, tuple)):
        return [_json(each) for each in value]
    if isinstance(value, float) and not isfinite(value):
        return str(value)  # JSON has no infinity
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def level_of(ms: float | None, thresholds: Thresholds) -> AlertLevel | None:
    """The alert level of a time, also of one that an old daemon stored with its fraction.

    >>> level_of(500.5, Thresholds()).value
    'WARNING'
    """
    over = [level for level in AlertLevel if ms is not None and ms > thresholds.limit(level)]
    return over[-1] if over else None


def bucket_s(days: int) -> int:
    """How long one step of the trend is, in seconds: some sixty of them in each window, whole parts of a day.

    >>> [bucket_s(days) // 60 for days in (1, 7, 30, 90)]
    [30, 180, 720, 1440]
    """
    steps = (1, 2, 6, 12, 24, 48)  # half hours
    return SLOT_S * next(step for step in steps if step == steps[-1] or days * 48 / step <= 60)


def window_from(now: float, days: int) -> int:
    """Where a window of whole steps begins that ends with the step that `now` is in."""
    step = bucket_s(days)
    return int(now) // step * step + step - days * DAY_S


class _Times:
    """Times gathered from cells; what is asked of them is computed once."""

    def __init__(self, cells: Iterable[Cell]) -> None:
        self._cells = list(cells)

    @cached_property
    def rows(self) -> int:
        return sum(cell.rows for cell in self._cells)

    @cached_property
    def succeeded(self) -> list[float]:
        """Ordered."""
        return sorted(chain.from_iterable(cell.succeeded for cell in self._cells))

    @cached_property
    def worst(self) -> float | None:
        return max((max(times) for c in self._cells for times in (c.succeeded, c.failed) if times), default=None)

    def percentile(self, p: int) -> float | None:
        return percentile(self.succeeded, p) if self.succeeded else None

    @cached_property
    def average(self) -> float | None:
        return sum(self.succeeded) / len(self.succeeded) if self.succeeded else None

    def alerts(self, thresholds: Thresholds) -> list[int]:
        """How many were at each level, each counted once."""
        failed = sorted(chain.from_iterable(cell.failed for cell in self._cells))
        over = [
            sum(len(times) - bisect_right(times, thresholds.limit(level)) for times in (self.succeeded, failed))
            for level in AlertLevel
        ]
        return [here - worse for here, worse in zip(over, [*over[1:], 0], strict=True)]


Part = tuple[object, ...]


class Parts:
    """What was computed of parts of a window, kept until the part has more rows: the log only grows, and most of it is
    past."""

    _MOST = 50_000

    def __init__(self) -> None:
        self._kept: dict[Part, tuple[int, Any]] = {}

    def of(self, part: Part, cells: Sequence[Cell], compute: Callable[[_Times], Any]) -> Any:
        """What `compute` says of the cells."""
        rows = sum(cell.rows for cell in cells)
        kept = self._kept.get(part)
        if kept is None or kept[0] != rows:
            if len(self._kept) > self._MOST:
                self._kept.clear()
            self._kept[part] = kept = (rows, compute(_Times(cells)))
        return kept[1]


@dataclass(slots=True)
class _Gathered:
    """The cells of a window, by what they are summed up by."""

    of_bucket: defaultdict[int, list[Cell]] = field(default_factory=lambda: defaultdict(list))
    of_rule: defaultdict[str, list[Cell]] = field(default_factory=lambda: defaultdict(list))
    of_rule_day: defaultdict[tuple[str, int], list[Cell]] = field(default_factory=lambda: defaultdict(list))
    of_last_day: defaultdict[str, list[Cell]] = field(default_factory=lambda: defaultdict(list))


def summed_up(
    window: LogWindow, now: datetime, days: int, rule: str | None, thresholds: Thresholds, parts: Parts
) -> Summary:
    """The window as seen at `now`: its last `days` days, of all rules or of one."""
    seconds = now.timestamp()
    since, step = window_from(seconds, days), bucket_s(days)
    day_ago = int(seconds) // SLOT_S * SLOT_S + SLOT_S - DAY_S
    seen = _Gathered()
    for slot, name, cell in window.cells(min(since, day_ago), rule):
        if slot >= since:
            seen.of_bucket[slot // step * step].append(cell)
            seen.of_rule[name].append(cell)
            seen.of_rule_day[name, slot // DAY_S].append(cell)
        if day_ago <= slot <= seconds + HOUR_S:
            seen.of_last_day[name].append(cell)
    # The step that is not over yet is the last one; one of the future (a clock that is ahead) is in the sums alone.
    begins = range(since, since + days * DAY_S, step)
    first_days = range(since // DAY_S, int(seconds) // DAY_S + 1)
    buckets = [parts.of(("bucket", b, step, rule), seen.of_bucket[b], _bucket(b, thresholds)) for b in begins]
    rules = [_rule_line(name, since, first_days, seen, thresholds, parts) for name in seen.of_rule]
    last_day = list(chain.from_iterable(seen.of_last_day.values()))
    of_rules = [
        parts.of(("last day", day_ago, name), cells, lambda times: times.percentile(95))
        for name, cells in seen.of_last_day.items()
    ]
    hour = [time.ms for time in window.last_hour(seconds, rule)]
    worst = max((ms for ms in hour if ms is not None), default=None)
    return Summary(
        window_from=datetime.fromtimestamp(since, UTC),
        bucket_s=step,
        status=Status.QUIET if worst is None else _STATUS[level_of(worst, thresholds)],
        last_hour=len(hour),
        last_hour_worst_ms=worst,
        last_day=sum(cell.rows for cell in last_day),
        last_day_median_ms=parts.of(("last day", day_ago, rule, "all"), last_day, lambda times: times.percentile(50)),
        last_day_worst_p95_ms=max((p95 for p95 in of_rules if p95 is not None), default=None),
        enforcements=sum(cell.rows for cells in seen.of_rule.values() for cell in cells),
        warnings=sum(line.warnings for line in rules),
        criticals=sum(line.criticals for line in rules),
        timeouts=sum(line.timeouts for line in rules),
        days=tuple(datetime.fromtimestamp(day * DAY_S, UTC) for day in first_days),
        buckets=tuple(buckets),
        rules=tuple(sorted(rules, key=lambda line: (-(line.max_time_ms or -1), line.rule_id))),
    )


def _bucket(begins: int, thresholds: Thresholds) -> Callable[[_Times], Bucket]:
    def compute(times: _Times) -> Bucket:
        return Bucket(
            datetime.fromtimestamp(begins, UTC),
            times.rows,
            times.percentile(50),
            times.percentile(95),
            times.worst,
            level_of(times.worst, thresholds),
        )

    return compute


def _rule_line(name: str, since: int, days: range, seen: _Gathered, thresholds: Thresholds, parts: Parts) -> RuleLine:
    def compute(times: _Times) -> RuleLine:
        ordered = times.succeeded
        daily = [parts.of(("day", name, day), seen.of_rule_day[name, day], lambda times: times.average) for day in days]
        warnings, criticals, timeouts = times.alerts(thresholds)
        return RuleLine(
            rule_id=name,
            max_time_ms=ordered[-1] if ordered else None,
            avg_time_ms=times.average,
            min_time_ms=ordered[0] if ordered else None,
            p95_time_ms=times.percentile(95),
            enforcement_count=len(ordered),
            warnings=warnings,
            criticals=criticals,
            timeouts=timeouts,
            daily_avg_ms=tuple(daily),
        )

    line: RuleLine = parts.of(("rule", name, since, days), seen.of_rule[name], compute)
    return line

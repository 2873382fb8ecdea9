"""What a report is asked for: checked, and as the conditions of its statement.

To put a statement together takes as long as to carry it out (3 ms for a trend), and a report of the last seven days has
another beginning each time. So the values have names, and the repositories keep a statement for each *shape*: which
filters there are, whatever their values. A caller of the builders gets one with his own values in it, to filter, to
join or to unite with another one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Literal, TypeVar

import sqlalchemy as sa

from risk_store.columns import instants_between, is_no_canonical_instant, loose_bounds
from risk_store.errors import InvalidValue
from risk_store.models.rollup import DAY_TIMES
from risk_store.statements import arguments
from risk_store.statements.conditions import LOG, OUTCOMES

__all__ = ["DAY", "HOUR", "Asked", "Filters", "Outcome", "Shape", "built", "floor", "kept"]

HOUR, DAY = timedelta(hours=1), timedelta(days=1)

Outcome = Literal["success", "all"]
Statement = TypeVar("Statement")
Conditions = list[sa.ColumnElement[bool]]

_INSTANT = LOG.timestamp.type
_TYPES = {
    "account_id": LOG.account_id.type,
    "rule_id": LOG.rule_id.type,
    **dict.fromkeys(("since", "until", "loose_since", "loose_until", "begin", "end"), _INSTANT),
    **dict.fromkeys(("first_day", "end_day"), DAY_TIMES.c.day.type),
}


@dataclass(frozen=True)
class Filters:
    """What a report is asked for. Refuses bad values with InvalidValue."""

    account_id: int | None = None
    rule_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    outcome: Outcome = "success"
    include_pruned: bool = False

    def __post_init__(self) -> None:
        for name in ("since", "until"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, arguments.instant(name, value))
        arguments.choice("outcome", self.outcome, OUTCOMES)
        if self.account_id is not None:
            arguments.account(self.account_id)
        if self.rule_id is not None:
            arguments.text("rule_id", self.rule_id)
        if self.include_pruned and self.account_id is not None:
            raise InvalidValue(
                "include_pruned", True, "False where an account is asked for: pruned days are not kept by account"
            )

    def by(self, step: timedelta) -> Asked:
        """These filters for counts by hours or by days, with their values (`step`: HOUR or DAY).

        >>> week = Filters(since=datetime(2025, 10, 14, 17, 20, tzinfo=UTC)).by(HOUR)
        >>> str(week.values["begin"]), week.shape.edges
        ('2025-10-14 18:00:00+00:00', frozenset({'since'}))
        """
        since, until = self.since, self.until
        loose_since, loose_until = loose_bounds(since, until)
        has_whole, begin, end = True, None, None
        try:
            begin = None if since is None else floor(since + step - timedelta(microseconds=1), step)
            end = None if until is None else floor(until, step)
            has_whole = begin is None or end is None or begin < end
        except OverflowError:
            has_whole = False
        values: dict[str, Any] = {
            "account_id": self.account_id,
            "rule_id": self.rule_id,
            "since": since,
            "until": until,
            "loose_since": loose_since,
            "loose_until": loose_until,
        }
        edges = []
        if has_whole:
            values |= {"begin": begin, "end": end}
            if step == DAY:
                values |= {"first_day": begin and begin.date(), "end_day": end and end.date()}
            if since != begin:
                edges.append("since")
            if until != end:
                edges.append("until")
        given = {name: value for name, value in values.items() if value is not None}
        shape = Shape(step, frozenset(given), self.outcome, self.include_pruned, has_whole, frozenset(edges))
        return Asked(shape, given)


@dataclass(frozen=True, slots=True)
class Shape:
    """Which filters a report has, whatever their values: reports of one shape are one statement."""

    step: timedelta
    names: frozenset[str]
    outcome: Outcome
    include_pruned: bool
    has_whole: bool
    """Whether whole hours or days of the roll-up are in the window."""
    edges: frozenset[str]
    """``since``, ``until``: where the window does not begin or end with a whole one."""

    @property
    def has_window(self) -> bool:
        """Whether only some times are asked for."""
        return "since" in self.names or "until" in self.names


@dataclass(frozen=True, slots=True)
class Asked:
    """Filters as the conditions of a statement. `values` stand in it: values, or parameters of their names."""

    shape: Shape
    values: Mapping[str, Any]

    def check_step(self, step: timedelta) -> None:
        """Raises InvalidValue for filters by another step than that of the counts to be read."""
        if self.shape.step != step:
            raise InvalidValue("step", self.shape.step, f"{step}: by it the counts are kept")

    def of_log(self) -> Conditions:
        """The conditions on a row of the log."""
        names = ("since", "until", "loose_since", "loose_until")
        return [
            *OUTCOMES[self.shape.outcome],
            *self._is(LOG.account_id, "account_id"),
            *self._is(LOG.rule_id, "rule_id"),
            *instants_between(LOG.timestamp, *map(self.values.get, names)),
        ]

    def of_rollup(self, table: sa.Table) -> Conditions:
        """The conditions on a row of the roll-up, but for its time."""
        conditions = self._is(table.c.rule_id, "rule_id")
        if self.shape.outcome == "success":
            conditions.append(table.c.succeeded == sa.true())
        if not self.shape.include_pruned:
            conditions.append(table.c.pruned == sa.false())
        return conditions

    def between(self, column: sa.ColumnElement[Any], first: str, end: str) -> Conditions:
        """The column is between two of the values, as far as they are given."""
        conditions = []
        if first in self.values:
            conditions.append(column >= self.values[first])
        if end in self.values:
            conditions.append(column < self.values[end])
        return conditions

    def edges(self) -> Conditions:
        """What of the window is not whole hours or days, at its ends: of canonical rows, whose text compares, all are
        read there, whether the roll-up holds them or not. (It holds no others.)"""
        canonical = sa.not_(is_no_canonical_instant(LOG.timestamp))
        ends = {"since": ("since", "begin"), "until": ("end", "until")}
        return [
            sa.and_(*self.between(LOG.timestamp, *ends[edge]), canonical)
            for edge in ("since", "until")
            if edge in self.shape.edges
        ]

    def of_edge(self) -> Conditions:
        """The conditions on a row there, but for its time."""
        return [*OUTCOMES[self.shape.outcome], *self._is(LOG.rule_id, "rule_id")]

    def _is(self, column: sa.ColumnElement[Any], name: str) -> Conditions:
        return [column == self.values[name]] if name in self.values else []


def kept(build: Callable[..., Statement], asked: Asked, *more: Any) -> tuple[Statement, Mapping[str, Any]]:
    """The statement that `build` makes of filters and whatever `more` it takes, with the values it is to be given.

    `build` is a function of a module and `more` can be hashed: the statement is kept for them.
    """
    return _kept(build, asked.shape, *more), asked.values


def built(build: Callable[..., Statement], asked: Asked, *more: Any) -> Statement:
    """The same with the values in it, for a caller who makes more of it."""
    return build(asked, *more) if asked.values else _kept(build, asked.shape, *more)


@lru_cache(maxsize=256)
def _kept(build: Callable[..., Statement], shape: Shape, *more: Any) -> Statement:
    return build(Asked(shape, {name: sa.bindparam(name, type_=_TYPES[name]) for name in shape.names}), *more)


def floor(at: datetime, step: timedelta) -> datetime:
    """The whole hour or day, UTC, that `at` is in."""
    return at - (at - datetime.min.replace(tzinfo=UTC)) % step

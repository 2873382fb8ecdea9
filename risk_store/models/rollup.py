"""The roll-up of the enforcement log: how often each time occurred, so that reports need not read the log (issue 6).

Derived from the log and never written by anything else than :mod:`risk_store.repositories.rollup`; whoever empties all
five tables loses no more than the days that were pruned. Plain tables without a class: nobody handles a row of them.

`succeeded` and `pruned` are part of each key. What `pruned` marks is counted of rows that are in the log no more.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from risk_store.columns import CalendarDate, CheckedText, Int64, UtcInstant
from risk_store.models.base import Base

__all__ = ["BUCKETS", "DAY_TIMES", "HOURS", "ROLLED_UP", "ROLLUP", "TIMES"]


def _table(name: str, *key: sa.Column[object], sums: tuple[str, ...], room: bool = False) -> sa.Table:
    """`room`: its rows are counted up again and again, on PostgreSQL within their page and with no index entry."""
    keys = [*key, sa.Column("pruned", sa.Boolean(), nullable=False)]
    counted: list[sa.Column[object]] = [sa.Column(column, Int64(), nullable=False) for column in sums]
    primary = sa.PrimaryKeyConstraint(*(column.name for column in keys))
    # The key is nearly the whole row: without a rowid SQLite keeps it once instead of twice.
    options: dict[str, Any] = {"postgresql_with": {"fillfactor": 50}} if room else {}
    return sa.Table(name, Base.metadata, *keys, *counted, primary, sqlite_with_rowid=False, **options)


def _rule() -> tuple[sa.Column[object], ...]:
    return (
        sa.Column("rule_id", CheckedText(), nullable=False),
        sa.Column("succeeded", sa.Boolean(), nullable=False),
    )


def _number(name: str) -> sa.Column[object]:
    return sa.Column(name, Int64(), nullable=False, autoincrement=False)


HOURS = _table(
    "enforcement_hours",
    sa.Column("hour", UtcInstant(), nullable=False),
    *_rule(),
    sums=("enforcements", "total_ms"),
)
"""Of each UTC hour and rule: how many enforcements, and their milliseconds together."""

DAY_TIMES = _table(
    "enforcement_day_times",
    sa.Column("day", CalendarDate(), nullable=False),
    *_rule(),
    _number("ms"),
    sums=("enforcements",),
)
"""Of each UTC day and rule: how many enforcements took exactly so many milliseconds."""

TIMES = _table("enforcement_times", *_rule(), _number("bucket"), _number("ms"), sums=("enforcements",), room=True)
"""The same of all days together; `bucket` is the one of :data:`BUCKETS` that the time is in."""

BUCKETS = _table("enforcement_time_buckets", *_rule(), _number("bucket"), sums=("enforcements", "total_ms"), room=True)
"""A coarse index on :data:`TIMES`: a rank is looked for among a hundred buckets, and then in one of them."""

ROLLED_UP = sa.Table(
    "enforcement_rolled_up",
    Base.metadata,
    sa.Column("first_id", Int64(), autoincrement=False, nullable=False),
    sa.Column("last_id", Int64(), nullable=False),
    sa.PrimaryKeyConstraint("first_id"),
)
"""Which ids of the log the roll-up holds: ranges, both ends in it, that do not overlap. Each of their ids is a row."""

ROLLUP = (HOURS, DAY_TIMES, TIMES, BUCKETS)

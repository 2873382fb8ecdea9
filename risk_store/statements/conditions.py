"""The conditions on a row of the enforcement log that the reports share (SPEC 6).

Spelled so that partial indexes serve them: ``success == sa.true()`` (``.is_(True)`` renders ``IS 1``, which matches no
index, and a bound boolean is read again from every row: 18 times slower, measured).
"""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa

from risk_store.columns import INT64_MAX, INT64_MIN, within
from risk_store.models import EnforcementLog
from risk_store.statements import arguments

__all__ = ["LOG", "OUTCOMES", "TIMED", "log_filters", "opaque"]

LOG = EnforcementLog.__table__.c
# A number of 64 bits: a text, a blob or an infinity, which SQLite may hold in its place, compares greater.
TIMED = LOG.execution_time_ms.between(sa.literal_column(str(INT64_MIN)), sa.literal_column(str(INT64_MAX)))

OUTCOMES = {"success": (TIMED, LOG.success == sa.true()), "all": (TIMED,)}


def opaque(condition: sa.ColumnElement[bool]) -> sa.ColumnElement[bool]:
    """The condition in a form that a planner does not look into: it offers no index, and few rows are expected.

    >>> print(opaque(sa.column("n") > sa.column("m")))
    CASE WHEN (n > m) THEN 1 ELSE 0 END = 1
    """
    yes: sa.ColumnElement[int] = sa.literal_column("1")
    return sa.case((condition, yes), else_=sa.literal_column("0")) == yes


def log_filters(
    account_id: int | None = None,
    rule_id: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> list[sa.ColumnElement[bool]]:
    """The conditions on a log row that were asked for.

    Times compare as instants, in whatever form a v1 daemon wrote them. What cannot be read is neither before nor after.
    """
    conditions: list[sa.ColumnElement[bool]] = []
    if account_id is not None:
        conditions.append(LOG.account_id == arguments.account(account_id))
    if rule_id is not None:
        conditions.append(LOG.rule_id == arguments.text("rule_id", rule_id))
    return conditions + within(
        LOG.timestamp,
        None if since is None else arguments.instant("since", since),
        None if until is None else arguments.instant("until", until),
    )

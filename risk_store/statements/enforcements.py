"""Statements on the enforcement log, which only grows (D5), and on the enforcements in flight.

The reports of :mod:`risk_store.statements.analytics` are here too: all expressions of the log are found in one place.
"""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa

from risk_store.models import EnforcementInFlight, EnforcementLog
from risk_store.statements import arguments
from risk_store.statements.analytics import alert_counts, daily_trend, slow_enforcements, time_by_rule
from risk_store.statements.conditions import log_filters

__all__ = [
    "ALL_IN_FLIGHT",
    "DELETE_IN_FLIGHT",
    "FIND_LOG",
    "GET_LOG",
    "INSERT_IN_FLIGHT",
    "INSERT_LOG",
    "IN_FLIGHT_OF_RULE",
    "LOCK_NAME",
    "OLDEST_LOG",
    "RECORDED",
    "alert_counts",
    "daily_trend",
    "log_filters",
    "log_page",
    "slow_enforcements",
    "time_by_rule",
]

LOG = EnforcementLog.__table__
IN_FLIGHT = EnforcementInFlight.__table__

INSERT_LOG = sa.insert(LOG)
"""Parameters: the columns but id, which the database gives."""

GET_LOG = sa.select(EnforcementLog).where(EnforcementLog.id == sa.bindparam("id"))

FIND_LOG = sa.select(LOG.c.id, LOG.c.execution_time_ms).where(
    LOG.c.account_id == sa.bindparam("account_id"), LOG.c.enforcement_id == sa.bindparam("enforcement_id")
)
"""The log row of an enforcement. One that was closed as interrupted has no time."""

OLDEST_LOG = sa.select(LOG.c.timestamp).where(LOG.c.timestamp.is_not(None)).order_by(LOG.c.timestamp).limit(1)
"""When the oldest enforcement of the log began; by the text of an old row that is in another form than ours."""

RECORDED = sa.select(LOG.c.enforcement_id).where(
    LOG.c.account_id == sa.bindparam("account_id"), LOG.c.enforcement_id.in_(sa.bindparam("ids", expanding=True))
)
"""Which of these enforcements of an account are in the log."""

INSERT_IN_FLIGHT = sa.insert(IN_FLIGHT)

# An intent whose COMMIT was answered too late may arrive after its outcome: it is over all the same.
_IS_LOGGED = sa.exists().where(
    LOG.c.account_id == IN_FLIGHT.c.account_id, LOG.c.enforcement_id == IN_FLIGHT.c.enforcement_id
)
_BEGUN_FIRST = (IN_FLIGHT.c.started_at, IN_FLIGHT.c.enforcement_id)

ALL_IN_FLIGHT = sa.select(EnforcementInFlight).where(sa.not_(_IS_LOGGED)).order_by(*_BEGUN_FIRST)
"""Enforcements that have begun and not ended, by when they began."""

IN_FLIGHT_OF_RULE = ALL_IN_FLIGHT.where(
    IN_FLIGHT.c.account_id == sa.bindparam("account_id"), IN_FLIGHT.c.rule_id == sa.bindparam("rule_id")
)

LOCK_NAME = sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtextextended(sa.bindparam("name"), 0)))
"""PostgreSQL: one transaction at a time decides about ``name``. (SQLite has one writer anyway.)"""

DELETE_IN_FLIGHT = sa.delete(IN_FLIGHT).where(
    IN_FLIGHT.c.account_id == sa.bindparam("account_id"), IN_FLIGHT.c.enforcement_id == sa.bindparam("enforcement_id")
)


def log_page(
    *,
    account_id: int | None = None,
    rule_id: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    after: int | None = None,
    limit: int = 100,
) -> sa.Select[EnforcementLog]:
    """Log rows, the last written first. For the next page, `after` is the id of the last row seen.

    `since` is inclusive and `until` exclusive; both are aware instants and compare with when an enforcement *began*.
    Raises InvalidValue for a bad argument.
    """
    page = sa.select(EnforcementLog).where(*log_filters(account_id, rule_id, since, until))
    if after is not None:
        page = page.where(EnforcementLog.id < arguments.whole("after", after, 1))
    return page.order_by(EnforcementLog.id.desc()).limit(arguments.whole("limit", limit, 1))

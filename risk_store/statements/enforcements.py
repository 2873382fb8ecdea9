"""Statements on the enforcement log, which only grows (D5), and on the enforcements in flight.

The reports of :mod:`risk_store.statements.analytics` are here too: all expressions of the log are found in one place.
"""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa

from risk_store.models import EnforcementInFlight, EnforcementLog
from risk_store.statements import arguments
from risk_store.statements.analytics import alert_counts, daily_trend, log_filters, slow_enforcements, time_by_rule

__all__ = [
    "DELETE_IN_FLIGHT",
    "FIND_LOG",
    "GET_LOG",
    "INSERT_IN_FLIGHT",
    "INSERT_LOG",
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

FIND_LOG = sa.select(LOG.c.id).where(
    LOG.c.account_id == sa.bindparam("account_id"), LOG.c.enforcement_id == sa.bindparam("enforcement_id")
)

INSERT_IN_FLIGHT = sa.insert(IN_FLIGHT)

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

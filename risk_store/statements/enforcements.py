"""Statements that write and page the log, and its analytics: all that speaks of `enforcement_log` in one place to find.

The inserts are built once (D11): building one per call costs three times the insert itself.
"""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa

from risk_store.models import EnforcementInFlight, EnforcementLog
from risk_store.statements.analytics import Outcome, alert_counts, daily_trend, slow_enforcements, time_by_rule
from risk_store.statements.filters import at_least, of_log

__all__ = [
    "DELETE_IN_FLIGHT",
    "FIND_LOG",
    "INSERT_IN_FLIGHT",
    "INSERT_LOG",
    "Outcome",
    "alert_counts",
    "daily_trend",
    "log_page",
    "slow_enforcements",
    "time_by_rule",
]

_LOG = EnforcementLog.__table__
_IN_FLIGHT = EnforcementInFlight.__table__

INSERT_LOG = sa.insert(_LOG)
INSERT_IN_FLIGHT = sa.insert(_IN_FLIGHT)
DELETE_IN_FLIGHT = sa.delete(_IN_FLIGHT).where(
    _IN_FLIGHT.c.account_id == sa.bindparam("of_account"),
    _IN_FLIGHT.c.enforcement_id == sa.bindparam("of_enforcement"),
)
FIND_LOG = sa.select(_LOG.c.id).where(
    _LOG.c.account_id == sa.bindparam("of_account"),
    _LOG.c.enforcement_id == sa.bindparam("of_enforcement"),
)


def log_page(
    account_id: int | None = None,
    rule_id: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    after: int | None = None,
    limit: int = 100,
) -> sa.Select[EnforcementLog]:
    """One page of the log, newest first by id; `after` is the id of the last row of the page before.

    >>> print(log_page(after=7).with_only_columns(EnforcementLog.id))
    SELECT enforcement_log.id
    FROM enforcement_log
    WHERE enforcement_log.id < :id_1 ORDER BY enforcement_log.id DESC
    LIMIT :param_1
    """
    statement = of_log(sa.select(EnforcementLog), account_id, rule_id, since, until)
    if after is not None:
        statement = statement.where(EnforcementLog.id < after)
    return statement.order_by(EnforcementLog.id.desc()).limit(at_least("limit", limit, 1))

"""Beginnings and ends of enforcements in one statement, for PostgreSQL: one round trip, and a transaction of its own.

A transaction of two statements takes four round trips. What either takes with the plain driver is printed by
`python -m benchmarks --only W1`.
"""

from __future__ import annotations

import sqlalchemy as sa

from risk_store.models import EnforcementInFlight, EnforcementLog, Lockout
from risk_store.statements.ids import each_row
from risk_store.statements.lockouts import SET_LOCKOUT_BESIDE, set_lockouts

__all__ = ["RECORD", "RECORD_AND_LOCK", "RECORD_ENDED", "RECORD_TOGETHER", "START_AND_LOCK"]

LOG, LOCKOUTS, IN_FLIGHT = EnforcementLog.__table__, Lockout.__table__, EnforcementInFlight.__table__

_LOGGED = sa.insert(LOG).returning(LOG.c.id)
_ROW = {c: sa.bindparam(f"log_{c.name}", type_=c.type) for c in LOG.columns if c.name != "id"}

RECORD = _LOGGED.values(_ROW)
"""Parameters: the columns of the log but id, each with ``log_`` before its name. Returns the id."""

# The log row is the statement itself and no part of it beside the lockout: a part whose rows are kept to be selected
# from takes the server some hundredths more.
RECORD_AND_LOCK = RECORD.add_cte(SET_LOCKOUT_BESIDE.cte("locked"))
"""The same, and the parameters of the lockout, with ``lockout_`` before them, and ``at``."""

START_AND_LOCK = (
    sa.insert(IN_FLIGHT)
    .values({c: sa.bindparam(f"begun_{c.name}", type_=c.type) for c in IN_FLIGHT.columns})
    .add_cte(SET_LOCKOUT_BESIDE.cte("locked"))
)
"""An enforcement begins, and its account is locked. Parameters: the columns of what is in flight, each with ``begun_``
before its name, and those of the lockout as above."""

_GONE = (
    sa.delete(IN_FLIGHT)
    .where(*(IN_FLIGHT.c[name] == _ROW[LOG.c[name]] for name in ("account_id", "enforcement_id")))
    .returning(IN_FLIGHT.c.account_id)
    .cte("gone")
)
_ENDED = _LOGGED.from_select([c.name for c in _ROW], sa.select(*_ROW.values()).select_from(_GONE)).cte("logged")
RECORD_ENDED = sa.select(_ENDED.c.id)
"""The in-flight row goes, the log row comes. Parameters: those of RECORD. Returns the id.

Nothing is written, and nothing returned, if the enforcement is not in flight: somebody has closed it.
"""


_LOG_COLUMNS = [c for c in LOG.columns if c.name != "id"]
# Rows are locked in the order of the accounts: two that lock the same ones in another order would wait for each other.
_LOCKED_TOGETHER = set_lockouts(each_row("lockouts", LOCKOUTS.columns, "account_id")).cte("locked")
RECORD_TOGETHER = (
    sa.insert(LOG)
    .from_select([c.name for c in _LOG_COLUMNS], each_row("logs", _LOG_COLUMNS, "n"))
    .returning(LOG.c.account_id, LOG.c.enforcement_id, LOG.c.id)
    .add_cte(_LOCKED_TOGETHER)
)
"""Several records, of any accounts, and at most one lockout of each account.

Parameters: ``logs`` and ``lockouts``, JSON arrays of objects with the columns' names; of a log row also ``n``, its
place in the order in which they get their ids. Returns the ids, each with what is unique of its row.

It writes rows of several accounts, so it is not for a distributed store.
"""

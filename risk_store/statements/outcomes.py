"""One finished enforcement in one statement, for PostgreSQL: one round trip, and a transaction of its own.

A transaction of two statements takes four round trips. What either takes with the plain driver is printed by
`python -m benchmarks --only W1`.
"""

from __future__ import annotations

import sqlalchemy as sa

from risk_store.models import EnforcementLog
from risk_store.statements.lockouts import SET_LOCKOUT_BESIDE

__all__ = ["RECORD", "RECORD_AND_LOCK"]

LOG = EnforcementLog.__table__

_LOGGED = sa.insert(LOG).returning(LOG.c.id)
_ROW = {c: sa.bindparam(f"log_{c.name}", type_=c.type) for c in LOG.columns if c.name != "id"}

RECORD = _LOGGED.values(_ROW)
"""Parameters: the columns of the log but id, each with ``log_`` before its name. Returns the id."""

_WRITTEN = RECORD.cte("logged")
RECORD_AND_LOCK = sa.select(_WRITTEN.c.id).add_cte(SET_LOCKOUT_BESIDE.cte("locked"))
"""The same, and the parameters of the lockout, with ``lockout_`` before them, and ``at``."""

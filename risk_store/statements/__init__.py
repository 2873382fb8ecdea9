"""Pure builders of SQL: no session, no I/O. The repositories execute them; a caller may filter, join or explain them.

Statements of the hot paths (inserts, upserts, look-ups) are objects of their modules, built once with bind parameters:
building one per call costs three times the insert itself (D11).

>>> from risk_store import statements
>>> statements.time_by_rule().subquery().c.keys()[:3]
['rule_id', 'avg_time_ms', 'min_time_ms']
"""

from risk_store.statements import analytics, enforcements, lockouts, orders, outcomes, positions, trades, watching
from risk_store.statements.analytics import alert_counts, daily_trend, slow_enforcements, time_by_rule
from risk_store.statements.enforcements import log_page
from risk_store.statements.orders import working_orders
from risk_store.statements.positions import open_positions

__all__ = [
    "alert_counts",
    "analytics",
    "daily_trend",
    "enforcements",
    "lockouts",
    "log_page",
    "open_positions",
    "orders",
    "outcomes",
    "positions",
    "slow_enforcements",
    "time_by_rule",
    "trades",
    "watching",
    "working_orders",
]

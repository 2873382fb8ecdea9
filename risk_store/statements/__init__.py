"""Pure builders of SQL expressions: no session, no I/O. A repository executes them; so can anyone.

>>> from risk_store import statements
>>> [column.name for column in statements.daily_trend(days=7).selected_columns]
['date', 'avg_time_ms', 'enforcement_count']
"""

from risk_store.statements.analytics import alert_counts, daily_trend, slow_enforcements, time_by_rule
from risk_store.statements.enforcements import log_page
from risk_store.statements.lockouts import active_lockouts
from risk_store.statements.orders import working_orders

__all__ = [
    "active_lockouts",
    "alert_counts",
    "daily_trend",
    "log_page",
    "slow_enforcements",
    "time_by_rule",
    "working_orders",
]

"""What is kept: one mapped dataclass a table."""

from risk_store.columns import CheckedType
from risk_store.models.base import Base
from risk_store.models.enforcement import EnforcementInFlight, EnforcementLog
from risk_store.models.lockout import Lockout
from risk_store.models.mirror import (
    ClosedPosition,
    Contract,
    DailyPnl,
    Position,
    ResetSchedule,
    SessionState,
    Trade,
)
from risk_store.models.order import Order, OrderSnapshot
from risk_store.models.rollup import HOURS, ROLLED_UP, ROLLUP

__all__ = [
    "HOURS",
    "ROLLED_UP",
    "ROLLUP",
    "Base",
    "ClosedPosition",
    "Contract",
    "DailyPnl",
    "EnforcementInFlight",
    "EnforcementLog",
    "Lockout",
    "Order",
    "OrderSnapshot",
    "Position",
    "ResetSchedule",
    "SessionState",
    "Trade",
]

# Every column has its own copy of its type; told its name, the type's errors can say which field they are about.
for _table in Base.metadata.tables.values():
    for _column in _table.columns:
        if isinstance(_column.type, CheckedType):
            _column.type.field = f"{_table.name}.{_column.name}"

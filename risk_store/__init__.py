"""The memory of a trading-risk daemon: orders, lockouts, and an audit log of every enforcement.

The public names are loaded on first use (PEP 562), so that `risk-store version` does not pay for SQLAlchemy and
`import risk_store` costs next to nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from risk_store import projectx, schema, statements
    from risk_store.alerts import Alert, AlertLevel, Thresholds
    from risk_store.codes import TERMINAL_STATES, WORKING_STATES, OrderSide, OrderState, OrderType, PositionType
    from risk_store.copying import copy_store
    from risk_store.distributing import distribute
    from risk_store.enforcement import Enforcement
    from risk_store.errors import (
        EnforcementInProgress,
        EnforcementNotRecorded,
        InvalidGatewayEvent,
        InvalidValue,
        LegacyContradiction,
        NestedTransaction,
        NotKnownYet,
        RiskStoreError,
        SchemaMismatch,
        StoreBusy,
        StoreClosed,
        StoreFull,
        StoreReadOnly,
        StoreUnavailable,
    )
    from risk_store.interrupted import Interrupted
    from risk_store.models import (
        Base,
        ClosedPosition,
        Contract,
        DailyPnl,
        EnforcementInFlight,
        EnforcementLog,
        Lockout,
        Order,
        OrderSnapshot,
        Position,
        ResetSchedule,
        SessionState,
        Trade,
    )
    from risk_store.recording import Limits
    from risk_store.repositories import (
        EnforcementLogRepository,
        LockoutRepository,
        OrderRepository,
        PositionRepository,
        Reconciled,
        TradeRepository,
        Transaction,
    )
    from risk_store.store import RiskStore
    from risk_store.trailing import Trailed, TrailResult

__version__ = "0.1.0"

__all__ = [
    "Alert",
    "AlertLevel",
    "Thresholds",
    "TERMINAL_STATES",
    "WORKING_STATES",
    "OrderSide",
    "OrderState",
    "OrderType",
    "PositionType",
    "copy_store",
    "distribute",
    "Enforcement",
    "Limits",
    "EnforcementInProgress",
    "EnforcementNotRecorded",
    "InvalidGatewayEvent",
    "InvalidValue",
    "LegacyContradiction",
    "NestedTransaction",
    "NotKnownYet",
    "RiskStoreError",
    "SchemaMismatch",
    "StoreBusy",
    "StoreClosed",
    "StoreFull",
    "StoreReadOnly",
    "StoreUnavailable",
    "Interrupted",
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
    "EnforcementLogRepository",
    "LockoutRepository",
    "OrderRepository",
    "PositionRepository",
    "Reconciled",
    "TradeRepository",
    "Transaction",
    "RiskStore",
    "Trailed",
    "TrailResult",
    "projectx",
    "schema",
    "statements",
]

_HOMES = {
    "alerts": ("Alert", "AlertLevel", "Thresholds"),
    "codes": ("TERMINAL_STATES", "WORKING_STATES", "OrderSide", "OrderState", "OrderType", "PositionType"),
    "copying": ("copy_store",),
    "distributing": ("distribute",),
    "enforcement": ("Enforcement",),
    "errors": (
        "EnforcementInProgress",
        "EnforcementNotRecorded",
        "InvalidGatewayEvent",
        "InvalidValue",
        "LegacyContradiction",
        "NestedTransaction",
        "NotKnownYet",
        "RiskStoreError",
        "SchemaMismatch",
        "StoreBusy",
        "StoreClosed",
        "StoreFull",
        "StoreReadOnly",
        "StoreUnavailable",
    ),
    "interrupted": ("Interrupted",),
    "recording": ("Limits",),
    "models": (
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
    ),
    "repositories": (
        "EnforcementLogRepository",
        "LockoutRepository",
        "OrderRepository",
        "PositionRepository",
        "Reconciled",
        "TradeRepository",
        "Transaction",
    ),
    "store": ("RiskStore",),
    "trailing": ("Trailed", "TrailResult"),
}
# Where each name lives; a test holds this equal to __all__.
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}
_MODULES = ("projectx", "schema", "statements")


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        value = getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    elif name in _MODULES:
        value = importlib.import_module(f"{__name__}.{name}")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

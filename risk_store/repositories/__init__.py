"""One class per aggregate: executes the statements, returns models or small result records.

A repository works in a plain SQLAlchemy Session, also in one of a caller's own: it never begins and never commits.
"""

from risk_store.repositories.enforcements import EnforcementLogRepository
from risk_store.repositories.lockouts import LockoutRepository
from risk_store.repositories.orders import OrderRepository
from risk_store.repositories.positions import PositionRepository
from risk_store.repositories.reconciling import Difference, Reconciled
from risk_store.repositories.trades import TradeRepository
from risk_store.repositories.transaction import Transaction

__all__ = [
    "Difference",
    "EnforcementLogRepository",
    "LockoutRepository",
    "OrderRepository",
    "PositionRepository",
    "Reconciled",
    "TradeRepository",
    "Transaction",
]

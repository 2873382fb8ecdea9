"""One class an aggregate: executes statements, returns models or small result records.

A repository takes a plain :class:`~sqlalchemy.orm.Session` and never commits, so it also serves an application that has
its own; within a store :class:`Transaction` bundles them.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from sqlalchemy.orm import Session

from risk_store.models.base import utc_now
from risk_store.repositories.enforcements import EnforcementLogRepository
from risk_store.repositories.lockouts import LockoutRepository
from risk_store.repositories.orders import OrderRepository

__all__ = ["EnforcementLogRepository", "LockoutRepository", "OrderRepository", "Transaction"]


class Transaction:
    """One transaction's session and its repositories: what `store.begin()` and `store.read()` give."""

    def __init__(self, session: Session, clock: Callable[[], datetime] = utc_now) -> None:
        self.session = session
        """The SQLAlchemy session, for models without a repository and for statements of your own."""
        self.orders = OrderRepository(session, clock)
        self.enforcements = EnforcementLogRepository(session, clock)
        self.lockouts = LockoutRepository(session, clock)

"""The repositories of one transaction."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from sqlalchemy.orm import Session

from risk_store.models.base import utc_now
from risk_store.repositories.enforcements import EnforcementLogRepository
from risk_store.repositories.lockouts import LockoutRepository
from risk_store.repositories.orders import OrderRepository
from risk_store.repositories.positions import PositionRepository
from risk_store.repositories.trades import TradeRepository

__all__ = ["Transaction"]


class Transaction:
    """What ``store.begin()`` and ``store.read()`` give: the repositories, in one session.

    `session` is SQLAlchemy's, for what has no repository.

    >>> tx = Transaction(Session())
    >>> type(tx.orders).__name__
    'OrderRepository'
    """

    def __init__(self, session: Session, clock: Callable[[], datetime] = utc_now) -> None:
        self.session = session
        self.orders = OrderRepository(session, clock)
        self.positions = PositionRepository(session, clock)
        self.trades = TradeRepository(session, clock)
        self.enforcements = EnforcementLogRepository(session, clock)
        self.lockouts = LockoutRepository(session, clock)

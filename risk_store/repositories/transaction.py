"""The repositories of one transaction."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Session

from risk_store.models.base import utc_now
from risk_store.repositories.enforcements import EnforcementLogRepository
from risk_store.repositories.lane import Lane
from risk_store.repositories.lockouts import LockoutRepository
from risk_store.repositories.orders import OrderRepository
from risk_store.repositories.positions import PositionRepository
from risk_store.repositories.rollup import RollUpRepository
from risk_store.repositories.trades import TradeRepository
from risk_store.repositories.watching import WatchRepository

__all__ = ["Transaction"]


class Transaction:
    """What ``store.begin()`` and ``store.read()`` give: the repositories, in one session.

    `session` is SQLAlchemy's, for what has no repository: made when it is first asked for.

    >>> tx = Transaction(Session())
    >>> type(tx.orders).__name__
    'OrderRepository'
    """

    def __init__(self, given: Session | sa.Connection, clock: Callable[[], datetime] = utc_now) -> None:
        self._lane = lane = Lane(given)
        self.orders = OrderRepository(lane, clock)
        self.positions = PositionRepository(lane, clock)
        self.trades = TradeRepository(lane, clock)
        self.enforcements = EnforcementLogRepository(lane, clock)
        self.lockouts = LockoutRepository(lane, clock)
        self.rollup = RollUpRepository(lane, clock)
        self.watch = WatchRepository(lane, clock)

    @property
    def session(self) -> Session:
        """A Session of this transaction, made when first asked for: what it holds at the end is written with it."""
        return self._lane.session

    def finish(self) -> None:
        """For whoever began the transaction: commits by the session, if there is one, with all that it has to write."""
        self._lane.finish()

    def end(self) -> None:
        """For whoever began the transaction: it is over, and none of its repositories can be used any more."""
        self._lane.end()

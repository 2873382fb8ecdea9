"""The repositories of one transaction."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from types import TracebackType
from typing import Any, Self

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

    def __init__(
        self,
        given: Session | sa.Connection,
        clock: Callable[[], datetime] = utc_now,
        cursor: Any = None,
        *,
        by_psycopg: bool = False,
    ) -> None:
        self._lane = Lane(given, cursor, by_psycopg=by_psycopg)
        self._clock = clock

    # Made when asked for: a transaction uses one or two of them, and they hold nothing of their own.

    @property
    def orders(self) -> OrderRepository:
        return OrderRepository(self._lane, self._clock)

    @property
    def positions(self) -> PositionRepository:
        return PositionRepository(self._lane, self._clock)

    @property
    def trades(self) -> TradeRepository:
        return TradeRepository(self._lane, self._clock)

    @property
    def enforcements(self) -> EnforcementLogRepository:
        return EnforcementLogRepository(self._lane, self._clock)

    @property
    def lockouts(self) -> LockoutRepository:
        return LockoutRepository(self._lane, self._clock)

    @property
    def rollup(self) -> RollUpRepository:
        return RollUpRepository(self._lane, self._clock)

    @property
    def watch(self) -> WatchRepository:
        return WatchRepository(self._lane, self._clock)

    @property
    def session(self) -> Session:
        """A Session of this transaction, made when first asked for: what it holds at the end is written with it."""
        return self._lane.session

    # For whoever began the transaction:

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Commits by the session, if there is one, with all that it has to write; unless an exception came. After that
        the transaction is over, and none of its repositories can be used any more."""
        try:
            if error is None:
                self._lane.finish()
        finally:
            self._lane.end()

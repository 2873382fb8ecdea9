"""Trades, and the profit and loss of the trading day that they add up to."""

from __future__ import annotations

from dataclasses import asdict
from datetime import date, datetime
from typing import Any

from risk_store.errors import InvalidValue, NotKnownYet, shown
from risk_store.events import TradeUpdate
from risk_store.models import DailyPnl, Trade
from risk_store.repositories.base import FRESH, Repository
from risk_store.repositories.unreadable import tell
from risk_store.statements import arguments
from risk_store.statements import trades as statements
from risk_store.trading_day import CHICAGO_17, DayEnd

__all__ = ["TradeRepository"]


class TradeRepository(Repository):
    """Trades in a session of the caller's, and each account's day. Never begins, never commits.

    Profit and loss is gross, as the gateway sends it; fees and commissions stand beside it. Money is in the account's
    currency.

    >>> import sqlalchemy as sa
    >>> from sqlalchemy.orm import Session
    >>> from risk_store.models import Base
    >>> engine = sa.create_engine("sqlite://")
    >>> Base.metadata.create_all(engine)
    >>> with Session(engine) as session:
    ...     trades = TradeRepository(session)
    ...     _ = trades.record(TradeUpdate(id=3004518356, account_id=26000001, contract_id="CON.F.US.MNQ.U26",
    ...                                   timestamp=datetime.fromisoformat("2026-08-19T22:00:00Z"),
    ...                                   pnl=-49.0, fees=0.36))
    ...     day = trades.day(26000001, date(2026, 8, 20))
    ...     day.realized_pnl, day.fees
    (-49.0, 0.36)
    >>> engine.dispose()
    """

    statements = statements

    def get(self, venue_trade_id: int) -> Trade | None:
        """The trade with the venue's id, as stored now."""
        found = {"venue_trade": venue_trade_id}
        return self._session.scalars(statements.GET_TRADE, found, execution_options=FRESH).one_or_none()

    def day(self, account_id: int, day: date | None = None) -> DailyPnl | None:
        """The figures of an account on a trading day (the present one by default); None where there are none."""
        key = {
            "account": arguments.account(account_id),
            "day": self.trading_day(account_id) if day is None else day,
        }
        return self._session.scalars(statements.GET_DAY, key, execution_options=FRESH).one_or_none()

    def trading_day(self, account_id: int, at: datetime | None = None) -> date:
        """The trading day of an account at `at` (now by default): by its reset schedule, else 17:00 America/Chicago.

        A schedule that cannot be read is told of once, and the default holds: a trade must not be lost because of it.
        """
        at = self._clock() if at is None else arguments.instant("at", at)
        schedule = self._session.execute(statements.GET_RESET, {"account": arguments.account(account_id)}).first()
        if schedule is not None:
            try:
                return DayEnd(*schedule).day_of(at)
            except InvalidValue as error:
                if error.field == "timestamp":
                    raise
                what = f"is not {error.expected}; this account's day ends at 17:00 America/Chicago until it is"
                tell(
                    self._session, f"reset_schedule.{error.field}", f"account_id {account_id}", shown(error.value), what
                )
        return CHICAGO_17.day_of(at)

    def record(self, update: TradeUpdate) -> bool:
        """Keeps one trade, and adds it to its account's trading day. Returns whether anything changed.

        A trade counts once, however often and on whichever surface it is told of; what one event left out another may
        fill. A void takes it out of the day again, once, and sticks: also when it comes first.

        Raises :class:`~risk_store.errors.NotKnownYet`, and writes nothing, where a trade that is not known
        lacks account, contract or time; :class:`~risk_store.errors.InvalidValue`.
        """
        if not isinstance(update, TradeUpdate):
            expected = "a TradeUpdate: make them of the gateway's JSON with risk_store.projectx.parse(payload)"
            raise InvalidValue("update", update, expected)
        missing = [name for name in statements.REQUIRED if getattr(update, name) is None]
        if update.account_id is not None and update.timestamp is not None and not missing:
            day = self.trading_day(update.account_id, update.timestamp)
            if self._insert(update, day):
                self._add_to_day(update.account_id, day, *_counted(asdict(update)))
                return True
        trade = self._for_update(update.id, update.account_id)
        if trade is None and not missing:
            # Another key was in its way, such as an id that was given twice: the database says which.
            self._session.execute(statements.INSERT_TRADE_OR_FAIL, self._row(update, day))
        if trade is None:
            raise NotKnownYet("trade", update.id, missing, asdict(update))
        return self._complete(trade, update)

    def _insert(self, update: TradeUpdate, day: date) -> bool:
        """Whether it was new."""
        insert = self._of_dialect(statements.INSERT_TRADE, Trade)
        return self._session.execute(insert, self._row(update, day)).first() is not None

    def _row(self, update: TradeUpdate, day: date) -> dict[str, Any]:
        row = asdict(update)
        row |= {"venue_trade_id": row.pop("id"), "voided": bool(update.voided)}
        return row | {"trading_day": day, "created_at": self._clock()}

    def _for_update(self, venue_trade_id: int, account_id: int | None) -> Trade | None:
        # A lock where several can write: of two that hear of the same void only one may count it.
        locking = statements.GET_TRADE_OF_ACCOUNT.with_for_update()
        found = {"venue_trade": venue_trade_id, "account": account_id}
        trade = None
        if account_id is not None:
            trade = self._session.scalars(locking, found, execution_options=FRESH).one_or_none()
        if trade is None:  # the event does not say whose it is, or another one's
            found["account"] = self._session.scalars(statements.ACCOUNT_OF_TRADE, found).one_or_none()
            trade = self._session.scalars(locking, found, execution_options=FRESH).one_or_none()
        return trade

    def _complete(self, trade: Trade, update: TradeUpdate) -> bool:
        before = {name: getattr(trade, name) for name in (*statements.FILLABLE, "voided")}
        after = {name: getattr(update, name) if value is None else value for name, value in before.items()}
        after["voided"] = before["voided"] or bool(update.voided)
        if after == before:
            return False
        new = {f"new_{name}": value for name, value in after.items()}
        self._session.execute(statements.COMPLETE_TRADE, new | {"trade": trade.id, "account": trade.account_id})
        day = trade.trading_day or self.trading_day(trade.account_id, trade.timestamp)
        was, now = _counted(before), _counted(after)
        self._add_to_day(trade.account_id, day, now[0] - was[0], now[1] - was[1])
        return True

    def _add_to_day(self, account_id: int, day: date, pnl: float, fees: float) -> None:
        if not pnl and not fees:
            return
        row = {
            "account_id": account_id,
            "date": day,
            "realized_pnl": round(pnl, 6),
            "fees": round(fees, 6),
            "last_updated": self._clock(),
        }
        self._session.execute(self._of_dialect(statements.ADD_TO_DAY, DailyPnl), row)


def _counted(trade: dict[str, Any]) -> tuple[float, float]:
    """What a trade adds to its day: profit and loss, and fees with commissions; nothing once it is voided."""
    if trade["voided"]:
        return 0.0, 0.0
    return trade["pnl"] or 0.0, (trade["fees"] or 0.0) + (trade["commissions"] or 0.0)

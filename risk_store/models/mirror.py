"""What else v1 keeps of the venue: positions, trades, contracts, and the day's figures and resets.

Contracts, sessions and reset schedules have no repository: they are read and written through `tx.session`.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from risk_store.models.base import (
    Base,
    Count,
    Day,
    Flag,
    FreeStr,
    Id,
    Identifier,
    Instant,
    Money,
    OrderSideCode,
    PositionTypeCode,
    Price,
    utc_now,
)

__all__ = ["ClosedPosition", "Contract", "DailyPnl", "Position", "ResetSchedule", "SessionState", "Trade"]


class Position(Base, kw_only=True):
    """An open position. Its size is a positive number of contracts; `type` says which way."""

    __tablename__ = "positions"

    id: Mapped[Id] = mapped_column(primary_key=True, autoincrement=False)
    account_id: Mapped[Id]
    contract_id: Mapped[Identifier]
    type: Mapped[PositionTypeCode]
    size: Mapped[Count]
    average_price: Mapped[Price]
    """Average entry, in price units; off the tick grid when a position was built in several fills."""
    created_at: Mapped[Instant] = mapped_column(default_factory=utc_now)
    updated_at: Mapped[Instant | None] = mapped_column(
        server_default=sa.func.current_timestamp(), onupdate=utc_now, default=None
    )
    seen_at: Mapped[Instant | None] = mapped_column(default=None)
    """When the venue last mentioned the position to us."""
    unconfirmed_since: Mapped[Instant | None] = mapped_column(default=None)
    """Since when the venue's own list of open positions lacks it. Absence is not a state: it may still be open."""


class ClosedPosition(Base, kw_only=True):
    """A position that the venue has closed: what tells late news of it from news. In a table of its own, since whatever
    reads `positions`, a v1 daemon too, takes each row for an open one. Goes when the contract has a later position."""

    __tablename__ = "closed_positions"

    id: Mapped[Id] = mapped_column(primary_key=True, autoincrement=False)
    account_id: Mapped[Id]
    contract_id: Mapped[Identifier]
    created_at: Mapped[Instant | None] = mapped_column(default=None)
    """When the position began, by the venue's clock, if the venue has said so."""
    closed_at: Mapped[Instant]
    """When its end was told to us; our clock."""


class Trade(Base, kw_only=True):
    """One fill, as the venue reports it (v1's `trade_history`)."""

    __tablename__ = "trade_history"
    __table_args__ = ({"sqlite_autoincrement": True},)

    id: Mapped[Id | None] = mapped_column(sa.Identity(), primary_key=True, nullable=False, default=None)
    account_id: Mapped[Id]
    timestamp: Mapped[Instant]
    contract_id: Mapped[Identifier]
    pnl: Mapped[Money | None] = mapped_column(default=None)
    """Gross profit and loss of a closing half turn; None for an opening one."""
    created_at: Mapped[Instant | None] = mapped_column(server_default=sa.func.current_timestamp(), default=None)
    venue_trade_id: Mapped[Id | None] = mapped_column(default=None)
    """The venue's id of the trade, unique: a trade counts once."""
    order_id: Mapped[Id | None] = mapped_column(default=None)
    side: Mapped[OrderSideCode | None] = mapped_column(default=None)
    size: Mapped[Count | None] = mapped_column(default=None)
    price: Mapped[Price | None] = mapped_column(default=None)
    fees: Mapped[Money | None] = mapped_column(default=None)
    commissions: Mapped[Money | None] = mapped_column(default=None)
    voided: Mapped[Flag] = mapped_column(server_default=sa.false(), default=False)
    trading_day: Mapped[Day | None] = mapped_column(default=None)
    """The trading day it was counted to. Kept, so that a void reverses that day whatever the reset schedule says by
    then."""


class DailyPnl(Base, kw_only=True):
    """The realized profit and loss of one account on one trading day, gross as the gateway sends it."""

    __tablename__ = "daily_pnl"

    account_id: Mapped[Id] = mapped_column(primary_key=True, autoincrement=False)
    date: Mapped[Day] = mapped_column(primary_key=True)
    """The trading day, which begins at the reset time (default 17:00 America/Chicago of the day before)."""
    realized_pnl: Mapped[Money] = mapped_column(server_default=sa.text("0.0"), default=0.0)
    last_updated: Mapped[Instant | None] = mapped_column(
        server_default=sa.func.current_timestamp(), onupdate=utc_now, default=None
    )
    fees: Mapped[Money] = mapped_column(server_default=sa.text("0.0"), default=0.0)
    """Fees and commissions of the day, beside the gross figure."""


class Contract(Base, kw_only=True):
    """What is known of a contract (v1's `contract_cache`)."""

    __tablename__ = "contract_cache"

    contract_id: Mapped[Identifier] = mapped_column(primary_key=True)
    tick_size: Mapped[Price]
    """Smallest price step, in price units."""
    tick_value: Mapped[Money]
    """What one tick of one contract is worth, in the account's currency."""
    symbol_id: Mapped[Identifier]
    name: Mapped[FreeStr | None] = mapped_column(default=None)
    cached_at: Mapped[Instant | None] = mapped_column(server_default=sa.func.current_timestamp(), default=None)


class SessionState(Base, kw_only=True):
    """When an account's trading session began."""

    __tablename__ = "session_state"

    account_id: Mapped[Id] = mapped_column(primary_key=True, autoincrement=False)
    session_start: Mapped[Instant]
    updated_at: Mapped[Instant | None] = mapped_column(
        server_default=sa.func.current_timestamp(), onupdate=utc_now, default=None
    )


class ResetSchedule(Base, kw_only=True):
    """When an account's day ends: a wall-clock time in a named zone."""

    __tablename__ = "reset_schedule"

    account_id: Mapped[Id] = mapped_column(primary_key=True, autoincrement=False)
    last_reset_date: Mapped[Day]
    next_reset_time: Mapped[Instant]
    reset_time_config: Mapped[Identifier]
    """Local time of the reset, ``HH:MM``."""
    timezone: Mapped[Identifier]
    """IANA name of the zone, such as ``America/Chicago``."""


# The indexes of v1, by v1's names.
sa.Index("idx_positions_account", Position.account_id)
sa.Index("idx_positions_contract", Position.contract_id)
sa.Index("ix_closed_positions_account_id_contract_id", ClosedPosition.account_id, ClosedPosition.contract_id)
sa.Index("idx_trade_history_account_time", Trade.account_id, Trade.timestamp.desc())
sa.Index("idx_trade_history_timestamp", Trade.timestamp)
sa.Index("uq_trade_history_venue_trade_id", Trade.venue_trade_id, unique=True)
sa.Index("idx_daily_pnl_date", DailyPnl.date)
sa.Index("idx_contract_cache_symbol", Contract.symbol_id)

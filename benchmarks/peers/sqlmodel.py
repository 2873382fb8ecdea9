"""SQLModel as its tutorial has it: table models, and SQLAlchemy's session under its own name."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlmodel import Field, Session, SQLModel

from benchmarks.peers import sqlalchemy_orm

__all__ = ["Peer"]

Instant: Any = sa.DateTime(timezone=True)
Long: Any = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


class Log(SQLModel, table=True):
    __tablename__ = "enforcement_log"
    id: int | None = Field(default=None, primary_key=True)
    account_id: int = Field(sa_type=Long)
    rule_id: str
    action: str
    reason: str
    success: bool
    error_message: str | None = None
    positions_closed: int = Field(sa_type=Long)
    orders_canceled: int = Field(sa_type=Long)
    timestamp: datetime | None = Field(sa_type=Instant)
    execution_time_ms: int | None = Field(sa_type=Long)
    details: str | None
    enforcement_id: str | None


class Lockout(SQLModel, table=True):
    __tablename__ = "lockouts"
    account_id: int = Field(primary_key=True, sa_type=Long)
    is_locked: bool
    reason: str | None
    locked_at: datetime | None = Field(sa_type=Instant)
    locked_until: datetime | None = Field(sa_type=Instant)
    rule_id: str | None
    created_at: datetime | None = Field(sa_type=Instant)
    updated_at: datetime | None = Field(sa_type=Instant)


class Order(SQLModel, table=True):
    __tablename__ = "orders"
    id: int = Field(primary_key=True, sa_type=Long)
    account_id: int = Field(sa_type=Long)
    contract_id: str
    type: int = Field(sa_type=Long)
    side: int = Field(sa_type=Long)
    size: int = Field(sa_type=Long)
    limit_price: float | None = None
    stop_price: float | None = None
    state: int = Field(sa_type=Long)
    created_at: datetime = Field(sa_type=Instant)
    updated_at: datetime | None = Field(default=None, sa_type=Instant)
    trailing_amount: float | None = None
    filled_size: int = Field(default=0, sa_type=Long)
    fill_price: float | None = None
    custom_tag: str | None = None
    parent_order_id: int | None = Field(default=None, sa_type=Long)
    linked_order_id: int | None = Field(default=None, sa_type=Long)
    venue_stop_price: float | None = None
    venue_updated_at: datetime | None = Field(default=None, sa_type=Instant)
    triggered_at: datetime | None = Field(default=None, sa_type=Instant)
    seen_at: datetime | None = Field(default=None, sa_type=Instant)
    unconfirmed_since: datetime | None = Field(default=None, sa_type=Instant)


class Peer(sqlalchemy_orm.Peer):
    session: Callable[..., Any] = Session
    log = Log
    lockout = Lockout
    order = Order

"""SQLAlchemy's ORM as its tutorial has it: a session for each transaction, objects added and merged."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any, Self

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from benchmarks.peers import lock_values, log_values, order_values
from benchmarks.places import Place
from benchmarks.values import Event
from risk_store.events import OrderUpdate

__all__ = ["Peer", "engine_on"]

Instant = sa.DateTime(timezone=True)


class Base(DeclarativeBase):
    type_annotation_map = {int: sa.BigInteger().with_variant(sa.Integer(), "sqlite"), datetime: Instant}  # noqa: RUF012


class Log(Base):
    __tablename__ = "enforcement_log"
    id: Mapped[int] = mapped_column(sa.Identity(), primary_key=True)
    account_id: Mapped[int]
    rule_id: Mapped[str]
    action: Mapped[str]
    reason: Mapped[str]
    success: Mapped[bool]
    error_message: Mapped[str | None]
    positions_closed: Mapped[int]
    orders_canceled: Mapped[int]
    timestamp: Mapped[datetime | None]
    execution_time_ms: Mapped[int | None]
    details: Mapped[str | None]
    enforcement_id: Mapped[str | None]


class Lockout(Base):
    __tablename__ = "lockouts"
    account_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    is_locked: Mapped[bool]
    reason: Mapped[str | None]
    locked_at: Mapped[datetime | None]
    locked_until: Mapped[datetime | None]
    rule_id: Mapped[str | None]
    created_at: Mapped[datetime | None]
    updated_at: Mapped[datetime | None]


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    account_id: Mapped[int]
    contract_id: Mapped[str]
    type: Mapped[int]
    side: Mapped[int]
    size: Mapped[int]
    limit_price: Mapped[float | None]
    stop_price: Mapped[float | None]
    state: Mapped[int]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime | None]
    trailing_amount: Mapped[float | None]
    filled_size: Mapped[int] = mapped_column(default=0)
    fill_price: Mapped[float | None]
    custom_tag: Mapped[str | None]
    parent_order_id: Mapped[int | None]
    linked_order_id: Mapped[int | None]
    venue_stop_price: Mapped[float | None]
    venue_updated_at: Mapped[datetime | None]
    triggered_at: Mapped[datetime | None]
    seen_at: Mapped[datetime | None]
    unconfirmed_since: Mapped[datetime | None]


def engine_on(place: Place) -> sa.Engine:
    """An engine on `place`, equally durable, with a connection for each thread."""
    if not place.is_sqlite:
        return sa.create_engine(place.url, pool_size=40)
    # Begun by hand, as SQLAlchemy's documentation says: a deferred transaction of several threads is refused at once.
    engine = sa.create_engine(place.url, pool_size=40, connect_args={"timeout": 60})

    @sa.event.listens_for(engine, "connect")
    def prepare(raw: Any, _record: object) -> None:
        raw.isolation_level = None
        raw.execute(f"PRAGMA synchronous = {place.synchronous}")

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


class Peer:
    session: Callable[..., Session] = Session
    log: type[Any] = Log
    lockout: type[Any] = Lockout
    order: type[Any] = Order

    def __init__(self, place: Place) -> None:
        self.place = place
        self.engine = engine_on(place)

    def record(self, event: Event) -> None:
        with self.session(self.engine) as session:
            session.add(self.log(**log_values(event)))
            session.merge(self.lockout(account_id=event.account_id, **lock_values(event)))
            session.commit()

    def add_many(self, events: Sequence[Event]) -> None:
        with self.session(self.engine) as session:
            session.add_all([self.log(**log_values(event)) for event in events])
            session.commit()

    def add_many_by_insert(self, events: Sequence[Event]) -> None:
        """The ORM's own bulk way."""
        with self.session(self.engine) as session:
            session.execute(sa.insert(self.log), list(map(log_values, events)))
            session.commit()

    def apply(self, update: OrderUpdate) -> None:
        self.apply_many([update])

    def apply_many(self, updates: Iterable[OrderUpdate]) -> None:
        with self.session(self.engine) as session:
            for update in updates:
                session.merge(self.order(id=update.id, **order_values(update)))
            session.commit()

    def trail(self, contract_id: str, price: float) -> None:
        """W4: load the orders, set their stops, flush. `price` is in price units."""
        order = self.order
        working = sa.select(order).where(order.contract_id == contract_id, order.type == 5, order.state.in_([2, 7]))
        with self.session(self.engine) as session:
            for found in session.scalars(working):
                new = price - (found.trailing_amount or 0)
                if found.side == 1 and found.stop_price < new:
                    found.stop_price = new
            session.commit()

    def working(self) -> Sequence[Any]:
        order = self.order
        with self.session(self.engine) as session:
            found = sa.select(order).where(order.state.in_([1, 2, 7, 8])).order_by(order.created_at, order.id)
            return session.scalars(found).all()

    def ask(self, question: str) -> object:
        with self.engine.connect() as connection:
            return connection.exec_driver_sql(question).scalar_one()

    def of_thread(self) -> Self:
        return self

    def leave(self) -> None:
        return None

    def close(self) -> None:
        self.engine.dispose()

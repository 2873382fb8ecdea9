"""The mirror of the broker's orders."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import IntEnum
from typing import Any, ClassVar, NamedTuple, Self, TypeGuard, TypeVar

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from risk_store.codes import TRAILING_STATES, WORKING_STATES, OrderSide, OrderState, OrderType
from risk_store.columns import INT64_MAX
from risk_store.errors import InvalidValue
from risk_store.models.base import (
    Base,
    Count,
    FreeStr,
    Id,
    Identifier,
    Instant,
    OrderSideCode,
    OrderStateCode,
    OrderTypeCode,
    Price,
    utc_now,
)
from risk_store.trailing import Trailed, check_market, finite_price, trail

__all__ = ["Order", "OrderSnapshot"]

E = TypeVar("E", bound=IntEnum)


class Order(Base, kw_only=True):
    """An order as the venue knows it. Keyword-only; construction validates, loading never does (D1, D12).

    Prices are in the contract's price units and may be negative (crude oil traded at −37.63 in 2020). Sizes are
    contracts. Instants are aware UTC.

    Raises :class:`~risk_store.errors.InvalidValue` (a :class:`ValueError`) naming the field and its value.

    >>> order = Order(id=123, account_id=456, contract_id="CON.F.US.MNQ.U25", type=OrderType.TRAILING_STOP,
    ...               side=OrderSide.SELL, size=1, stop_price=20990.00, trailing_amount=10.00,
    ...               state=OrderState.ACTIVE)
    >>> Order.from_dict(order.to_dict()) == order
    True
    >>> Order(id=1, account_id=2, contract_id="X", type=OrderType.LIMIT, side=OrderSide.BUY, size=1,
    ...       state=OrderState.ACTIVE)
    Traceback (most recent call last):
    risk_store.errors.InvalidValue: limit_price: None is not a price, which a LIMIT order must have
    """

    __tablename__ = "orders"
    # Room for new versions of rows beside the old: a price moves many stops at once, and no index has what changes.
    __table_args__ = ({"postgresql_with": {"fillfactor": 70}},)

    id: Mapped[Id] = mapped_column(primary_key=True, autoincrement=False)
    """The broker's order id."""
    account_id: Mapped[Id]
    contract_id: Mapped[Identifier]
    type: Mapped[OrderTypeCode]
    side: Mapped[OrderSideCode]
    size: Mapped[Count]
    """Contracts ordered, 1 or more."""
    limit_price: Mapped[Price | None] = mapped_column(default=None)
    stop_price: Mapped[Price | None] = mapped_column(default=None)
    """The stop we hold to be in force. What the venue last confirmed is `venue_stop_price`."""
    state: Mapped[OrderStateCode]
    created_at: Mapped[Instant] = mapped_column(default_factory=utc_now)
    updated_at: Mapped[Instant | None] = mapped_column(
        server_default=sa.func.current_timestamp(), onupdate=utc_now, default=None
    )
    """When this row last changed; ours, not the venue's. Left None, the database sets it."""
    trailing_amount: Mapped[Price | None] = mapped_column(default=None)
    """Trailing distance in price units, greater than 0; TRAILING_STOP only."""
    filled_size: Mapped[Count] = mapped_column(server_default=sa.text("0"), default=0)
    """Contracts filled so far."""
    fill_price: Mapped[Price | None] = mapped_column(default=None)
    custom_tag: Mapped[FreeStr | None] = mapped_column(default=None)
    parent_order_id: Mapped[Id | None] = mapped_column(default=None)
    linked_order_id: Mapped[Id | None] = mapped_column(default=None)
    venue_stop_price: Mapped[Price | None] = mapped_column(default=None)
    """The last stop the venue confirmed."""
    venue_updated_at: Mapped[Instant | None] = mapped_column(default=None)
    """The venue's own time of its newest update to this order."""
    triggered_at: Mapped[Instant | None] = mapped_column(default=None)
    """When a price first triggered the trailing stop; the stop is frozen from then on."""
    seen_at: Mapped[Instant | None] = mapped_column(default=None)
    """When the venue last mentioned the order to us."""
    unconfirmed_since: Mapped[Instant | None] = mapped_column(default=None)
    """Since when the venue's own list of open orders lacks it. Absence is not a state: it may still be working."""

    V1_COLUMNS: ClassVar[tuple[str, ...]] = (
        "id",
        "account_id",
        "contract_id",
        "type",
        "side",
        "size",
        "limit_price",
        "stop_price",
        "state",
        "created_at",
        "updated_at",
    )

    def __post_init__(self) -> None:
        for field in ("id", "account_id"):
            _check_id(field, getattr(self, field))
        for field in ("parent_order_id", "linked_order_id"):
            if getattr(self, field) is not None:
                _check_id(field, getattr(self, field))
        if not isinstance(self.contract_id, str) or not self.contract_id:
            raise InvalidValue("contract_id", self.contract_id, "a contract's name, such as 'CON.F.US.MNQ.U25'")
        self.type = _member("type", OrderType, self.type)
        self.side = _member("side", OrderSide, self.side)
        self.state = _member("state", OrderState, self.state)
        _check_count("size", self.size, 1, None)
        _check_count("filled_size", self.filled_size, 0, self.size)
        for field in ("limit_price", "stop_price", "trailing_amount", "fill_price", "venue_stop_price"):
            if (value := getattr(self, field)) is not None:
                setattr(self, field, finite_price(field, value))
        self._check_prices_of_type()

    def _check_prices_of_type(self) -> None:
        name = self.type.name
        if self.type in (OrderType.LIMIT, OrderType.STOP_LIMIT) and self.limit_price is None:
            raise InvalidValue("limit_price", None, f"a price, which a {name} order must have")
        if self.type in (OrderType.STOP, OrderType.STOP_LIMIT) and self.stop_price is None:
            raise InvalidValue("stop_price", None, f"a price, which a {name} order must have")
        if self.type is OrderType.TRAILING_STOP:
            # The specification's own texts (DB-SCHEMA-003), kept to the letter.
            if self.stop_price is None:
                raise InvalidValue("stop_price", None, "a price", "Trailing stop order must have stop_price")
            if self.trailing_amount is None:
                raise InvalidValue(
                    "trailing_amount", None, "a distance", "Trailing stop order must have trailing_amount"
                )
        if self.trailing_amount is not None and self.trailing_amount <= 0:
            raise InvalidValue("trailing_amount", self.trailing_amount, "a distance in price units greater than 0")

    def trail(self, price: float, tick_size: float | None = None, at: datetime | None = None) -> Trailed:
        """Moves the trailing stop of this one object behind `price`, in memory: what `tx.orders.trail` does in a store.

        `price`, stop and distance are in price units; `tick_size` puts a new stop on the tick. `at` is when the price
        was seen (now by default): the order is left alone if it was created later. Sets stop_price, or, when the price
        reached the stop, triggered_at; a stop that is triggered stays as it is, and so does one that is not ACTIVE
        (suspended and pending children do not trail). The arithmetic is :func:`risk_store.trailing.trail`.

        Raises :class:`~risk_store.errors.InvalidValue` for an order that is no trailing stop or lacks stop or distance,
        and for a price or a tick size that is none.

        >>> order = Order(id=123, account_id=456, contract_id="CON.F.US.MNQ.U25", type=OrderType.TRAILING_STOP,
        ...               side=OrderSide.SELL, size=1, stop_price=20990.00, trailing_amount=10.00,
        ...               state=OrderState.ACTIVE)
        >>> order.trail(21050.0, tick_size=0.25)
        Trailed(old=20990.0, new=21040.0, triggered=False)
        >>> order.trail(21030.0).triggered, order.stop_price
        (True, 21040.0)
        """
        if self.type != OrderType.TRAILING_STOP:
            raise InvalidValue("type", self.type, "TRAILING_STOP, the only type that trails")
        price, tick_size = check_market(price, tick_size)
        for field in ("stop_price", "trailing_amount"):
            if getattr(self, field) is not None:  # a loaded row may hold anything
                finite_price(field, getattr(self, field))
        self._check_prices_of_type()
        stop, distance = float(self.stop_price or 0), float(self.trailing_amount or 0)
        seen = utc_now() if at is None else at
        if not isinstance(seen, datetime) or seen.utcoffset() is None:
            raise InvalidValue("at", at, "an instant with a time zone, such as datetime.now(UTC)")
        is_later = at is not None and isinstance(self.created_at, datetime) and self.created_at > at
        if self.state not in TRAILING_STATES or self.triggered_at is not None or is_later:
            return Trailed(stop, stop, False)
        trailed = trail(self.side, stop, distance, price, tick_size)
        if trailed.triggered:
            self.triggered_at = seen.astimezone(UTC)
        else:
            self.stop_price = trailed.new
        return trailed

    @classmethod
    def from_db_row(cls, row: Any) -> Self:
        """An order from a Row, a mapping, or a tuple in column order of v1 (11 wide) or of today (22 wide).

        Does not validate: a v1 row of type 5 without trailing_amount loads. Raises :class:`ValueError` for another
        width.

        >>> Order.from_db_row((7, 1, "X", 5, 1, 1, None, 20990.0, 2, "2025-10-21 17:00:00", None)).type
        <OrderType.TRAILING_STOP: 5>
        """
        return cls._from_row(row, (cls.V1_COLUMNS, tuple(cls.__table__.columns.keys())))


class OrderSnapshot(NamedTuple):
    """An order as it was stored when it was read, for whoever only looks: the fields of :class:`Order`, and its values.

    A tuple: 10,000 of them are read in less than half the time that models take, and nobody can change what was read.

    >>> OrderSnapshot._fields == tuple(Order.__table__.columns.keys())
    True
    """

    id: int
    account_id: int
    contract_id: str
    type: OrderType
    side: OrderSide
    size: int
    limit_price: float | None
    stop_price: float | None
    state: OrderState
    created_at: datetime
    updated_at: datetime | None
    trailing_amount: float | None
    filled_size: int
    fill_price: float | None
    custom_tag: str | None
    parent_order_id: int | None
    linked_order_id: int | None
    venue_stop_price: float | None
    venue_updated_at: datetime | None
    triggered_at: datetime | None
    seen_at: datetime | None
    unconfirmed_since: datetime | None


# The indexes of v1, by v1's names.
sa.Index("idx_orders_account", Order.account_id)
sa.Index("idx_orders_contract", Order.contract_id)
sa.Index("idx_orders_state", Order.state)
# What a restart and the dashboard ask for: the working orders of one account, oldest first. Partial, so it stays as
# small as the open book however long the history grows.
_WORKING = Order.state.in_([sa.literal_column(str(int(state))) for state in WORKING_STATES])
sa.Index(
    "ix_orders_working",
    Order.account_id,
    Order.created_at,
    postgresql_where=_WORKING,
    sqlite_where=_WORKING,
)
# The candidates of one contract that a price may move (SPEC 2).
_TRAILING = sa.and_(
    Order.type == sa.literal_column(str(int(OrderType.TRAILING_STOP))),
    Order.state.in_([sa.literal_column(str(int(state))) for state in TRAILING_STATES]),
)
sa.Index("ix_orders_trailing", Order.contract_id, postgresql_where=_TRAILING, sqlite_where=_TRAILING)


def _check_id(field: str, value: object) -> None:
    if not _is_whole(value) or not 1 <= value <= INT64_MAX:
        raise InvalidValue(field, value, "an id from 1 to 2**63 - 1")


def _check_count(field: str, value: object, least: int, most: int | None) -> None:
    top = INT64_MAX if most is None else most
    if not _is_whole(value) or not least <= value <= top:
        raise InvalidValue(
            field, value, f"a whole number of contracts, {least} " + (f"to {most}" if most else "or more")
        )


def _is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _member(field: str, enum: type[E], value: object) -> E:
    try:
        if _is_whole(value):
            return enum(value)
    except ValueError:
        pass
    known = ", ".join(f"{member.name} {member.value}" for member in enum)
    raise InvalidValue(field, value, f"one of {known}")

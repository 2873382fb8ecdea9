"""What the venue says, typed: plain values in the stored codes of :mod:`risk_store.codes`.

`risk_store.projectx.parse` makes them from the gateway's JSON, the repositories apply them; nothing here knows either.
Everywhere None means "not carried": the venue's stream leaves out what is null, so a None never blanks what is known
(SPEC 7, DESIGN D12). Every instant is an aware UTC datetime, cut to whole microseconds. Prices are in price units of
the contract, sizes are whole contracts, money is in the account's currency.

The classes check nothing: their maker has. Which fields exist, and what they mean, is from the realtime page of the
gateway's documentation (Jakers471/simple.rm, `realtime_updates/realtime_data_overview.md`) and from recorded payloads
(GlitchTrader/glitch-topstep, `docs/PROJECTX-API-REFERENCE.md`).
"""

from dataclasses import dataclass
from datetime import datetime

from risk_store.codes import OrderSide, OrderState, OrderType, PositionType

__all__ = ["AccountUpdate", "OrderUpdate", "PositionUpdate", "TradeUpdate", "Update"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderUpdate:
    """What one event says about an order; its fields are named like the columns of `Order`.

    ``limit_price``, ``stop_price`` and ``fill_price`` (average) are in price units. ``trailing_amount`` is the distance
    of a trailing stop, in price units, positive. ``size`` and ``filled_size`` are contracts. ``created_at`` and
    ``venue_updated_at`` are the venue's clock, UTC; the second is the age of the event.

    Raises nothing. Source: GatewayUserOrder in Jakers471/simple.rm; parent and linked ids and the trailing distance
    in GlitchTrader/glitch-topstep.

    >>> update = OrderUpdate(id=3425270858, state=OrderState.FILLED, filled_size=1, fill_price=29423.0)
    >>> update.state, update.stop_price
    (<OrderState.FILLED: 3>, None)
    """

    id: int
    account_id: int | None = None
    contract_id: str | None = None
    type: OrderType | None = None
    side: OrderSide | None = None
    size: int | None = None
    limit_price: float | None = None
    stop_price: float | None = None
    state: OrderState | None = None
    filled_size: int | None = None
    fill_price: float | None = None
    custom_tag: str | None = None
    parent_order_id: int | None = None
    linked_order_id: int | None = None
    trailing_amount: float | None = None
    created_at: datetime | None = None
    venue_updated_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PositionUpdate:
    """What one event says about a position: one per account and contract, re-averaged as it grows.

    ``size`` is contracts, never negative: the direction is in ``type``, which is None once the position is closed.
    ``average_price`` is in price units and may lie between ticks. ``created_at`` is UTC.

    Raises nothing. Source: GatewayUserPosition in Jakers471/simple.rm; the close event in GlitchTrader/glitch-topstep.

    >>> PositionUpdate(id=825245547, size=0, average_price=29398.5).closed
    True
    """

    id: int
    account_id: int | None = None
    contract_id: str | None = None
    type: PositionType | None = None
    size: int | None = None
    average_price: float | None = None
    created_at: datetime | None = None

    @property
    def closed(self) -> bool:
        """Whether the event says that no contract is left; False if it does not speak of the size.

        Raises nothing. Source: the close event in GlitchTrader/glitch-topstep (type 0, size 0).

        >>> PositionUpdate(id=456, type=PositionType.LONG, size=2).closed
        False
        """
        return self.size == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TradeUpdate:
    """One half turn: an execution that opened, grew, shrank or closed a position.

    ``pnl`` is realized, gross, in the account's currency; None marks an opening half turn. ``fees`` and
    ``commissions`` stand beside it, in the same currency. ``price`` is in price units, ``size`` in contracts,
    ``timestamp`` is UTC. ``voided`` means that the venue took the trade back.

    Raises nothing. Source: GatewayUserTrade in Jakers471/simple.rm; ``commissions`` in GlitchTrader/glitch-topstep.

    >>> TradeUpdate(id=3004518356, price=29423.0, size=1, pnl=-49.0, fees=0.36, voided=False).pnl
    -49.0
    """

    id: int
    account_id: int | None = None
    contract_id: str | None = None
    timestamp: datetime | None = None
    pnl: float | None = None
    fees: float | None = None
    commissions: float | None = None
    side: OrderSide | None = None
    size: int | None = None
    price: float | None = None
    voided: bool | None = None
    order_id: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountUpdate:
    """What one event says about an account. ``balance`` is in the account's currency.

    Raises nothing. Source: GatewayUserAccount in Jakers471/simple.rm and GlitchTrader/glitch-topstep.

    >>> AccountUpdate(id=26000001, balance=149848.64, can_trade=True).can_trade
    True
    """

    id: int
    name: str | None = None
    balance: float | None = None
    can_trade: bool | None = None
    is_visible: bool | None = None
    simulated: bool | None = None


Update = OrderUpdate | PositionUpdate | TradeUpdate | AccountUpdate

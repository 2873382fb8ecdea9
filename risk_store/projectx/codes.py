"""The gateway's integers and what is stored for them (SPEC 7): the one table of them, both ways.

Source: `realtime_updates/realtime_data_overview.md` in Jakers471/simple.rm and the OpenAPI export in
jaypatrick/TopstepApi, which alone has the statuses 7 and 8; GlitchTrader/glitch-topstep saw 8 on the wire.
"""

from risk_store.codes import OrderSide, OrderState, OrderType, PositionType

__all__ = ["ORDER_SIDES", "ORDER_STATUSES", "ORDER_TYPES", "PLACEABLE_TYPES", "POSITION_TYPES", "WIRE_SIDES"]

ORDER_TYPES = {
    1: OrderType.LIMIT,
    2: OrderType.MARKET,
    3: OrderType.STOP_LIMIT,
    4: OrderType.STOP,
    5: OrderType.TRAILING_STOP,
    6: OrderType.LIMIT,  # JoinBid: a limit order at the best bid
    7: OrderType.LIMIT,  # JoinAsk
}
ORDER_SIDES = {0: OrderSide.BUY, 1: OrderSide.SELL}
ORDER_STATUSES = {
    1: OrderState.ACTIVE,
    2: OrderState.FILLED,
    3: OrderState.CANCELED,
    4: OrderState.EXPIRED,
    5: OrderState.REJECTED,
    6: OrderState.PENDING,
    7: OrderState.ACTIVE,  # PendingCancellation: it may still be filled
    8: OrderState.SUSPENDED,
}
POSITION_TYPES = {0: None, 1: PositionType.LONG, 2: PositionType.SHORT}

# From stored to wire. A stop limit is in the gateway's enum and not among what can be placed; JoinBid and JoinAsk are
# stored as limit orders, and what we place is one.
PLACEABLE_TYPES = {OrderType.MARKET: 2, OrderType.LIMIT: 1, OrderType.STOP: 4, OrderType.TRAILING_STOP: 5}
WIRE_SIDES = {stored: wire for wire, stored in ORDER_SIDES.items()}

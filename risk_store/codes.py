"""The integers the store keeps for an order's type, side and state, and for a position's type.

They are the codes of the v1 database (SPEC 1), not those of any broker: only :mod:`risk_store.projectx` knows wire
codes. A number is never reused or changed, since files written years ago hold it; `tests/test_codes.py` freezes each.
"""

from enum import IntEnum

__all__ = [
    "TERMINAL_STATES",
    "TRAILING_STATES",
    "WORKING_STATES",
    "OrderSide",
    "OrderState",
    "OrderType",
    "PositionType",
]


class OrderType(IntEnum):
    """What kind of order it is.

    >>> OrderType.TRAILING_STOP == 5
    True
    """

    MARKET = 1
    LIMIT = 2
    STOP = 3
    STOP_LIMIT = 4
    TRAILING_STOP = 5


class OrderSide(IntEnum):
    """Which way an order trades. A SELL stop protects a long position, a BUY stop a short one.

    >>> OrderSide(1)
    <OrderSide.SELL: 1>
    """

    BUY = 0
    SELL = 1


class OrderState(IntEnum):
    """Where an order is in its life.

    Every state is either working (the venue may still fill it) or terminal. New code expresses a partial fill as
    ACTIVE with ``0 < filled_size < size``; PARTIAL is read from old rows only.

    >>> OrderState.SUSPENDED.is_working, OrderState.FILLED.is_terminal
    (True, True)
    """

    PENDING = 1
    ACTIVE = 2
    FILLED = 3
    CANCELED = 4
    REJECTED = 5
    EXPIRED = 6
    PARTIAL = 7
    SUSPENDED = 8

    @property
    def is_working(self) -> bool:
        """Whether the venue may still fill the order."""
        return self in WORKING_STATES

    @property
    def is_terminal(self) -> bool:
        """Whether the order is done for good."""
        return self in TERMINAL_STATES


class PositionType(IntEnum):
    """Which way a position points. A closed position has no row.

    >>> PositionType.LONG.name
    'LONG'
    """

    LONG = 1
    SHORT = 2


TRAILING_STATES = (OrderState.ACTIVE, OrderState.PARTIAL)
"""In which a trailing stop follows the price, and which the gateway's list of open orders shows (only its status 1 in
321 snapshots of GlitchTrader/glitch-topstep): suspended and pending children do neither."""
WORKING_STATES = (OrderState.PENDING, OrderState.ACTIVE, OrderState.PARTIAL, OrderState.SUSPENDED)
TERMINAL_STATES = (OrderState.FILLED, OrderState.CANCELED, OrderState.REJECTED, OrderState.EXPIRED)

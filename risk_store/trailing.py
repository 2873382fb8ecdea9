"""Trailing-stop arithmetic (SPEC 2): pure, for one order in memory and for the store alike.

A SELL stop protects a long position and lies below the price, a BUY stop a short one and lies above. It ratchets: it
follows the price at its distance in the one direction and never moves in the other. Prices, stops and distances are in
the contract's price units and may be negative; distances are greater than 0.

With a tick size everything is counted in ticks: within a millionth of a tick of a tick counts as on it (float noise),
and a new stop lies on a tick, rounded away from the price. Without one a new stop has at most 9 decimals, all that the
gateway's wire has (`docs/orders.md`), rounded away from the price. Rounding so never brings a stop nearer than the
distance.
"""

from __future__ import annotations

import math
import sys
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from functools import lru_cache
from typing import Any, NamedTuple

from risk_store.codes import OrderSide
from risk_store.errors import InvalidValue

__all__ = [
    "Reach",
    "StopMove",
    "TrailResult",
    "Trailed",
    "check_market",
    "finite_price",
    "in_ticks",
    "stop_behind",
    "trail",
]

_ON_TICK = 1e-6
_DECIMALS = 9
_NO_FRACTION = 2.0**53  # from here on every float is a whole number, or infinite
_STEP = Decimal(1).scaleb(-_DECIMALS)
_NOISE = _STEP.scaleb(-6)
_FAR = 1e15  # prices beyond it are nobody's, and the sums below might not be kept by a float
_EXACT = Context(prec=60)  # an application's own context may be coarse


def finite_price(field: str, value: Any) -> float:
    """`value` as a float, if it is a finite number: a price, a stop or a distance, of either sign.

    >>> finite_price("price", Decimal("-37.63"))
    -37.63
    >>> finite_price("price", float("nan"))
    Traceback (most recent call last):
    risk_store.errors.InvalidValue: price: nan is not a finite number of price units
    """
    if not isinstance(value, (bool, str, bytes)) and hasattr(value, "__float__"):
        try:
            number = float(value)  # a Decimal or an integer becomes what will be stored
        except (OverflowError, ValueError, TypeError):
            number = math.nan
        if math.isfinite(number):
            return number
    raise InvalidValue(field, value, "a finite number of price units")


def check_market(price: Any, tick_size: Any) -> tuple[float, float | None]:
    """A market's price and the contract's tick size (None where it is not known) as floats.

    Raises :class:`~risk_store.errors.InvalidValue` for a price that is not finite and for a tick size that nothing can
    be counted in.

    >>> check_market(21050, 0)
    Traceback (most recent call last):
    risk_store.errors.InvalidValue: tick_size: 0 is not a price step of the contract, 0.000000001 or more
    """
    price = finite_price("price", price)
    if tick_size is None:
        return price, None
    size = finite_price("tick_size", tick_size)
    if size < 10**-_DECIMALS or math.isinf(price / size):
        raise InvalidValue("tick_size", tick_size, "a price step of the contract, 0.000000001 or more")
    return price, size


class Trailed(NamedTuple):
    """What one price did to one trailing stop.

    >>> Trailed(old=20990.0, new=21040.0, triggered=False).moved
    True
    """

    old: float
    """The stop before this price, in price units."""
    new: float
    """The stop after it; the same unless it moved."""
    triggered: bool
    """Whether the price reached the old stop. A stop that is triggered does not move."""

    @property
    def moved(self) -> bool:
        """Whether the stop moved."""
        return self.new != self.old


class StopMove(NamedTuple):
    """One stop that `tx.orders.trail` moved; stops in price units.

    >>> StopMove(123, 20990.0, 21040.0).new
    21040.0
    """

    order_id: int
    old: float
    new: float


class TrailResult(NamedTuple):
    """What one price did to the working trailing stops of a contract: lists of `StopMove` and of order ids, by id.

    >>> TrailResult([StopMove(123, 20990.0, 21040.0)], triggered=[], incomplete=[]).moves[0].order_id
    123
    """

    moves: list[StopMove]
    triggered: list[int]
    """Orders whose stop this price reached: each order once."""
    incomplete: list[int]
    """Orders that should trail and have no stop or no distance: nothing protects what they stand for."""


def trail(side: OrderSide, stop: float, distance: float, price: float, tick_size: float | None = None) -> Trailed:
    """Where the stop of a trailing order is after `price`, and whether that price triggered it.

    Triggered is tested first, against the stop as it was: a SELL stop at a price at or below it, a BUY stop at one at
    or above it. All values are finite floats in price units; `distance` and `tick_size` are greater than 0: the callers
    check that. Raises :class:`~risk_store.errors.InvalidValue` for a side that is none, as an old row may have.

    The specification's example (DB-SCHEMA-003), entered at 21000 with the stop 10 below:

    >>> trail(OrderSide.SELL, 20990.0, 10.0, 21050.0, 0.25)
    Trailed(old=20990.0, new=21040.0, triggered=False)
    >>> trail(OrderSide.SELL, 21090.0, 10.0, 21090.0).triggered
    True
    """
    selling = _is_sell(side)
    now, held = in_ticks(price, tick_size), in_ticks(stop, tick_size)
    if now <= held if selling else now >= held:
        return Trailed(stop, stop, True)
    behind = _ticks_behind(selling, distance, price, tick_size)
    if behind > held if selling else behind < held:
        new = _price_of(behind, tick_size)
        # Once more as prices: a tick of more than 9 decimals may be rounded to the stop it was, or short of it.
        return Trailed(stop, max(stop, new) if selling else min(stop, new), False)
    return Trailed(stop, stop, False)


def stop_behind(side: OrderSide, distance: float, price: float, tick_size: float | None = None) -> float:
    """The stop that lies `distance` behind `price`: below it for SELL, above it for BUY; on the tick, away from it.

    >>> stop_behind(OrderSide.SELL, 0.046875, 108.0703125, 0.015625)
    108.015625
    >>> stop_behind(OrderSide.BUY, 10.0, -37.63)
    -27.63
    """
    return _price_of(_ticks_behind(_is_sell(side), distance, price, tick_size), tick_size)


class Reach(NamedTuple):
    """Which stops a price surely neither moves nor triggers, told by sums and comparisons alone: a database's own
    arithmetic may do that, though not decide. So it need not show a thousand orders with which nothing is to be done.

    Of a distance less than `far`: a SELL stop that is below `below` and above ``above - distance``, a BUY stop that is
    above `above` and below ``below + distance``. All in price units. What is nearer than some two ticks is left
    to :func:`trail`, and so is all else that is no such number.

    >>> reach = Reach.of(21050.0, 0.25)
    >>> reach.above - 10.0 < 21045.0 < reach.below, reach.above - 10.0 < 21040.25
    (True, False)
    """

    below: float
    above: float
    far: float

    @classmethod
    def of(cls, price: float, tick_size: float | None) -> Reach:
        """Of a price as :func:`check_market` gives it."""
        # More than any rounding: to a tick, to 9 decimals, and a float's own, of a sum with a distance less than `far`.
        slack = 2 * max(tick_size or 0.0, 1e-6) + 1e-9 * abs(price)
        if abs(price) + slack < _FAR:
            return cls(price - slack, price + slack, 1e9 * slack)
        return cls(-math.inf, math.inf, 0.0)  # none


def _is_sell(side: OrderSide) -> bool:
    if side not in (OrderSide.BUY, OrderSide.SELL):
        raise InvalidValue("side", side, "BUY 0 or SELL 1")
    return side == OrderSide.SELL


@lru_cache(maxsize=1024)  # the orders of a contract share one price and few distances
def _ticks_behind(below: bool, distance: float, price: float, tick_size: float | None) -> float:
    """A whole number of ticks; without a tick a price of at most 9 decimals."""
    sign = -1 if below else 1
    if tick_size is not None:
        ticks = in_ticks(in_ticks(price, tick_size) + sign * in_ticks(distance, tick_size))
        if abs(ticks) >= _NO_FRACTION:
            return ticks
        return math.floor(ticks) if below else math.ceil(ticks)
    # In decimals, since a float's noise would be rounded a whole step away: 21050.1 − 10 is 21040.1.
    exact = (_EXACT.subtract if below else _EXACT.add)(Decimal(repr(price)), Decimal(repr(distance)))
    if exact.adjusted() >= sys.float_info.dig:  # so large that a float has no decimals
        return price + sign * distance
    exact = exact.quantize(_NOISE, context=_EXACT)  # a millionth of a step, as with ticks: 0.1 + 0.2 is 0.3
    return float(exact.quantize(_STEP, ROUND_FLOOR if below else ROUND_CEILING, _EXACT))


def _price_of(ticks: float, tick_size: float | None) -> float:
    price = ticks if tick_size is None else round(ticks * tick_size, _DECIMALS)
    return price + 0.0  # −0.0 + 0.0 is 0.0, as it is stored


def in_ticks(value: float, tick_size: float | None = 1.0) -> float:
    """`value` counted in ticks: whole where it is within a millionth of a tick of one; as it is where no tick is known.

    >>> in_ticks(21050.1, 0.1), in_ticks(21050.13, 0.1), in_ticks(21050.1, None)
    (210501, 210501.3, 21050.1)
    """
    if tick_size is None:
        return value
    ticks = value / tick_size
    if abs(ticks) >= _NO_FRACTION:
        return ticks
    nearest = round(ticks)
    return nearest if abs(ticks - nearest) <= _ON_TICK else ticks

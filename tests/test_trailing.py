"""The arithmetic of trailing stops (SPEC 2), against exact decimals and fractions, and `Order.trail`."""

from __future__ import annotations

import math
import random
from datetime import UTC, datetime, timedelta
from decimal import ROUND_UP, Decimal, localcontext
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from risk_store import InvalidValue, Order, OrderSide, OrderState, OrderType
from risk_store.trailing import Reach, Trailed, check_market, in_ticks, stop_behind, trail

BUY, SELL = OrderSide.BUY, OrderSide.SELL
NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)

# Tick sizes of real contracts (`docs/orders.md`), as exact numbers.
TICKS = [Fraction(text) for text in ("0.01", "0.1", "0.25", "1/64", "1/256", "0.0000005", "0.00005", "1/32", "1", "5")]
ticks = st.sampled_from(TICKS)
counts = st.integers(-2_000_000, 2_000_000)
distances = st.integers(1, 5_000)
sides = st.sampled_from(OrderSide)
decimals = st.decimals(-100_000, 100_000, places=9).map(float)


def a_stop(**changes: Any) -> Order:
    values = {
        "id": 123,
        "account_id": 456,
        "contract_id": "CON.F.US.MNQ.U25",
        "type": OrderType.TRAILING_STOP,
        "side": SELL,
        "size": 1,
        "stop_price": 20990.0,
        "trailing_amount": 10.0,
        "state": OrderState.ACTIVE,
        "created_at": NOON,
    }
    return Order(**(values | changes))


@pytest.mark.parametrize("tick_size", [None, 0.25, 0.01])
def test_the_specifications_example_holds_to_the_cent(tick_size: float | None) -> None:
    stop = 20990.0
    for price, expected in ((21000.0, 20990.0), (21050.0, 21040.0), (21100.0, 21090.0), (21095.0, 21090.0)):
        stop, triggered = trail(SELL, stop, 10.0, price, tick_size)[1:]
        assert (stop, triggered) == (expected, False)
    assert trail(SELL, stop, 10.0, 21090.0, tick_size) == Trailed(21090.0, 21090.0, True)


def test_the_same_example_on_the_short_side_mirrors_it() -> None:
    stop = 21010.0
    for price, expected in ((21000.0, 21010.0), (20950.0, 20960.0), (20900.0, 20910.0), (20905.0, 20910.0)):
        stop, triggered = trail(BUY, stop, 10.0, price, 0.25)[1:]
        assert (stop, triggered) == (expected, False)
    assert trail(BUY, stop, 10.0, 20910.0, 0.25).triggered


def test_the_samples_of_the_gateway_lie_where_the_arithmetic_puts_them() -> None:
    assert stop_behind(BUY, 10.0, 28391.25, 0.25) == 28401.25  # gw-046
    assert stop_behind(SELL, 0.046875, 108.0625, 0.015625) == 108.015625  # gw-059


def test_a_gap_through_the_stop_triggers_it_and_moves_nothing() -> None:
    assert trail(SELL, 21090.0, 10.0, 20000.0, 0.25) == Trailed(21090.0, 21090.0, True)
    assert trail(BUY, 20910.0, 10.0, 30000.0) == Trailed(20910.0, 20910.0, True)


def test_the_stop_is_tested_as_it_was_before_the_price_moves_it() -> None:
    assert trail(SELL, 100.0, 1.0, 100.0, 0.25).triggered
    assert trail(SELL, 99.75, 0.25, 100.25, 0.25) == Trailed(99.75, 100.0, False)


def test_stops_follow_across_zero_and_below_it() -> None:
    assert stop_behind(SELL, 10.0, 5.0, 0.01) == -5.0
    assert stop_behind(SELL, 0.5, -37.63, 0.01) == -38.13
    assert trail(SELL, -40.0, 0.5, -37.63, 0.01) == Trailed(-40.0, -38.13, False)
    assert trail(BUY, 1.0, 0.5, -37.63, 0.01) == Trailed(1.0, -37.13, False)
    assert math.copysign(1, stop_behind(SELL, 10.0, 10.0)) == math.copysign(1, stop_behind(BUY, 10.0, -10.0, 0.25)) == 1


@given(sides, ticks, counts, distances, counts)
def test_on_the_tick_a_stop_is_the_exact_one(
    side: OrderSide, tick: Fraction, stop: int, behind: int, price: int
) -> None:
    exact = price - behind if side is SELL else price + behind
    moves = exact > stop if side is SELL else exact < stop
    triggered = price <= stop if side is SELL else price >= stop
    held, far, seen, size = (float(value) for value in (stop * tick, behind * tick, price * tick, tick))
    expected = held if triggered or not moves else round(exact * size, 9) + 0.0
    assert trail(side, held, far, seen, size) == Trailed(held, expected, triggered)
    assert abs(Fraction(expected) - (exact if expected != held else stop) * tick) <= Fraction(1, 10**9)


@given(sides, ticks, decimals, st.floats(1e-6, 1000), decimals)
@example(SELL, Fraction(1), 0.0, 1e-6, 3124.999999)
def test_a_stop_never_moves_the_wrong_way_and_never_nearer_than_the_distance(
    side: OrderSide, tick: Fraction, stop: float, distance: float, price: float
) -> None:
    for tick_size in (None, float(tick)):
        old, new, triggered = trail(side, stop, distance, price, tick_size)
        assert old == stop
        assert new >= stop if side is SELL else new <= stop
        if triggered:
            assert new == stop
        elif new != stop:
            gap = price - new if side is SELL else new - price
            # A millionth of a tick is no difference: not of the price, not of the distance, not of where that leads to.
            nothing = 3e-6 * (tick_size or 0)
            assert gap >= distance - max(nothing, 1e-9)
            assert gap <= distance + (tick_size or 1e-9) + nothing + 1e-6


@given(sides, ticks, decimals, st.floats(1e-6, 1000), decimals)
def test_long_and_short_mirror_each_other(
    side: OrderSide, tick: Fraction, stop: float, distance: float, price: float
) -> None:
    other = BUY if side is SELL else SELL
    for tick_size in (None, float(tick)):
        here = trail(side, stop, distance, price, tick_size)
        there = trail(other, -stop, distance, -price, tick_size)
        assert (here.old, here.new, here.triggered) == (-there.old, -there.new, there.triggered)


@given(ticks, counts, st.floats(-9e-7, 9e-7))
def test_a_price_that_is_a_tick_is_not_moved_off_it_by_float_noise(tick: Fraction, count: int, noise: float) -> None:
    size = float(tick)
    assert in_ticks((count + noise) * size, size) == pytest.approx(count, abs=0 if abs(count) < 1e6 else 1e-6)
    assert stop_behind(SELL, 4 * size, float(count * tick), size) == round((count - 4) * size, 9) + 0.0
    assert trail(SELL, float(count * tick), size, float(count * tick) * (1 + 1e-16), size).triggered


@given(decimals, st.decimals("0.000000001", 1000, places=9).map(float))
@example(21050.1, 10.0)
@example(0.3, 0.1)
def test_without_a_tick_a_stop_is_the_exact_decimal(price: float, distance: float) -> None:
    exact = Decimal(repr(price)) - Decimal(repr(distance))
    assert stop_behind(SELL, distance, price) == float(exact)
    assert stop_behind(BUY, distance, -price) == -float(exact) + 0.0


@given(st.floats(-1e4, 1e4), st.floats(1e-3, 1e3))
def test_without_a_tick_a_stop_has_nine_decimals_rounded_away_from_the_price(price: float, distance: float) -> None:
    exact = Decimal(repr(price)) - Decimal(repr(distance))
    stop = stop_behind(SELL, distance, price)
    assert round(stop, 9) == stop
    assert Decimal("-1e-15") <= exact - Decimal(repr(stop)) <= Decimal("0.000000001")


def test_without_a_tick_the_noise_of_a_sum_is_not_rounded_a_whole_step_away() -> None:
    assert 0.1 + 0.2 > 0.3
    assert stop_behind(BUY, 0.1, 0.1 + 0.2) == 0.4
    assert stop_behind(SELL, 0.1 + 0.2, 1.0) == 0.7


@pytest.mark.parametrize("tick", [Fraction(text) for text in ("0.01", "0.1", "0.25", "1/64", "1/256", "0.0000005")])
@pytest.mark.parametrize("side", OrderSide)
def test_a_hundred_thousand_ticks_leave_no_drift(tick: Fraction, side: OrderSide) -> None:
    """A random walk that mostly goes the stop's way, counted in whole ticks beside it."""
    steps = random.Random(20261125)
    size, behind = float(tick), 40
    way = 1 if side is SELL else -1
    price, best = 1000, 1000
    stop = round((best - way * behind) * size, 9)
    for _ in range(100_000):
        price += way * steps.choice((-1, 0, 1, 1))
        price = max(price, best - behind + 1) if side is SELL else min(price, best + behind - 1)  # never triggered
        best = max(best, price) if side is SELL else min(best, price)
        _, stop, triggered = trail(side, stop, behind * size, price * size, size)
        assert not triggered
        assert stop == round((best - way * behind) * size, 9)
    assert abs(best - 1000) > 10_000


def test_a_tick_of_more_than_nine_decimals_never_loosens_a_stop() -> None:
    size = 1 / 4096
    stop = 100.0
    for count in range(409_700, 410_700):
        new = trail(SELL, stop, 10 * size, count * size, size).new
        assert new >= stop
        stop = new
    assert stop == pytest.approx(410_689 * size, abs=1e-9)


@settings(max_examples=1_000)
@given(
    sides,
    ticks,
    counts,
    st.integers(1, 50),
    st.sampled_from([0, 1]),
    st.floats(-3, 3) | st.floats(-2e-6, 2e-6) | st.floats(-1e-9, 1e-9),
    st.booleans(),
)
def test_a_stop_that_is_out_of_a_prices_reach_is_neither_moved_nor_triggered(
    side: OrderSide, tick: Fraction, count: int, behind: int, where: int, off: float, is_known: bool
) -> None:
    """Stops about the price, and about where they begin to move: by some ticks, and by less than is told from none."""
    size, price, distance = float(tick), float(count * tick), float(behind * tick)
    stop = stop_of(side, distance * where, price) + off * size
    if is_out_of(Reach.of(price, size if is_known else None), side, stop, distance):
        assert trail(side, stop, distance, price, size if is_known else None) == Trailed(stop, stop, False)


@settings(max_examples=500)
@given(
    sides,
    st.none() | st.floats(1e-9, 1e300),
    st.floats(allow_nan=False, allow_infinity=False),
    st.floats(0, exclude_min=True, allow_infinity=False),
    st.floats(0, 1),
)
def test_not_even_of_prices_that_are_nobodys(
    side: OrderSide, tick: float | None, price: float, distance: float, where: float
) -> None:
    try:
        check_market(price, tick)
    except InvalidValue:
        return
    stop = stop_of(side, distance * where, price)
    if is_out_of(Reach.of(price, tick), side, stop, distance):
        assert trail(side, stop, distance, price, tick) == Trailed(stop, stop, False)


@given(sides, ticks.map(float) | st.none(), decimals, st.floats(30, 1000))
def test_a_stop_well_behind_a_price_and_within_its_distance_is_out_of_reach(
    side: OrderSide, tick: float | None, price: float, distance: float
) -> None:
    """Else nothing would ever be left out."""
    assert is_out_of(Reach.of(price, tick), side, stop_of(side, distance / 2, price), distance)


@pytest.mark.parametrize("distance", [-10.0, 0.0, math.inf, -math.inf, math.nan, -1.7e308, 1.7e308])
@pytest.mark.parametrize("stop", [-1.7e308, -math.inf, math.nan, math.inf, 1.7e308, 0.0])
def test_what_cannot_trail_is_never_out_of_reach(stop: float, distance: float) -> None:
    for price, tick in ((21_000.0, 0.25), (-37.63, None), (1.7e308, None), (5.0, 1e300), (-1e15, 0.25)):
        reach = Reach.of(price, tick)
        assert not any(is_out_of(reach, side, stop, distance) for side in OrderSide)


def is_out_of(reach: Reach, side: OrderSide, stop: float, distance: float) -> bool:
    """As a database tells it."""
    if side is SELL:
        return distance < reach.far and reach.above - distance < stop < reach.below
    return distance < reach.far and reach.above < stop < reach.below + distance


def stop_of(side: OrderSide, distance: float, price: float) -> float:
    return price - distance if side is SELL else price + distance


def test_prices_beyond_all_precision_do_no_harm() -> None:
    assert trail(SELL, 1e300, 1.0, 1e308, 1e-9).triggered in (True, False)
    assert stop_behind(SELL, 1.0, 1e17) == 1e17
    assert trail(SELL, 0.0, 1e300, 1e300) == Trailed(0.0, 0.0, False)


# Order.trail


def test_an_order_in_memory_trails_by_the_same_arithmetic() -> None:
    order = a_stop()
    for price in (21050.0, 21100.0, 21095.25):
        order.trail(price, tick_size=0.25)
    assert (order.stop_price, order.triggered_at) == (21090.0, None)
    assert order.trail(21090.0, at=NOON + timedelta(seconds=1)) == Trailed(21090.0, 21090.0, True)
    assert order.triggered_at == NOON + timedelta(seconds=1)


def test_an_order_is_triggered_once_and_its_stop_is_frozen_then() -> None:
    order = a_stop()
    assert order.trail(20990.0).triggered
    first = order.triggered_at
    assert order.trail(20990.0) == order.trail(22000.0) == Trailed(20990.0, 20990.0, False)
    assert (order.stop_price, order.triggered_at) == (20990.0, first)


@pytest.mark.parametrize(
    "state", [state for state in OrderState if state not in (OrderState.ACTIVE, OrderState.PARTIAL)]
)
def test_only_an_active_order_trails(state: OrderState) -> None:
    order = a_stop(state=state)
    assert order.trail(21050.0) == order.trail(20000.0) == Trailed(20990.0, 20990.0, False)
    assert order.triggered_at is None


def test_an_order_made_after_a_delayed_tick_is_not_moved_by_it() -> None:
    order = a_stop()
    assert not order.trail(21050.0, at=NOON - timedelta(milliseconds=1)).moved
    assert order.trail(21050.0, at=NOON).moved


def test_an_order_that_cannot_trail_says_what_it_lacks() -> None:
    row = (7, 456, "X", 5, 1, 1, None, 20990.0, 2, "2025-10-21 17:00:00", None)
    with pytest.raises(InvalidValue, match=r"^Trailing stop order must have trailing_amount$"):
        Order.from_db_row(row).trail(21000.0)
    with pytest.raises(InvalidValue, match=r"^type: .*STOP.* is not TRAILING_STOP"):
        a_stop(type=OrderType.STOP).trail(21000.0)


@pytest.mark.parametrize(
    ("odd", "field"),
    [
        ({"side": 2}, "side"),  # v1's other vocabulary for SELL
        ({"stop_price": "about 20990"}, "stop_price"),
        ({"trailing_amount": "ten"}, "trailing_amount"),
        ({"trailing_amount": math.inf}, "trailing_amount"),
        ({"trailing_amount": 0.0}, "trailing_amount"),
    ],
)
def test_an_odd_row_is_refused_by_name_and_never_taken_for_the_other_side(odd: dict[str, Any], field: str) -> None:
    order = Order.from_dict(a_stop().to_dict() | odd)
    with pytest.raises(InvalidValue) as caught:
        order.trail(21050.0)
    assert caught.value.field == field


def test_an_applications_own_decimal_context_changes_nothing() -> None:
    stop_behind.__globals__["_ticks_behind"].cache_clear()
    with localcontext(prec=6, rounding=ROUND_UP):
        assert stop_behind(SELL, 10.0, 29423.27) == 29413.27


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"price": 1.0, "at": "noon"}, "at"),
        ({"price": math.nan}, "price"),
        ({"price": "21000"}, "price"),
        ({"price": 1.0, "tick_size": 0}, "tick_size"),
        ({"price": 1.0, "tick_size": -0.25}, "tick_size"),
        ({"price": 1.0, "tick_size": math.inf}, "tick_size"),
        ({"price": 1.0, "tick_size": 1e-10}, "tick_size"),
        ({"price": 1e308, "tick_size": 1e-9}, "tick_size"),
        ({"price": 1.0, "at": datetime(2026, 11, 25)}, "at"),  # noqa: DTZ001
    ],
)
def test_a_market_that_cannot_be_is_refused_by_name_and_changes_nothing(arguments: Any, field: str) -> None:
    order = a_stop()
    with pytest.raises(InvalidValue) as caught:
        order.trail(**arguments)
    assert caught.value.field == field
    assert (order.stop_price, order.triggered_at) == (20990.0, None)

"""What is written: the same Python values for every contender, made from a number before anything is timed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from risk_store import OrderSide, OrderState, OrderType
from risk_store.events import OrderUpdate

__all__ = ["MNQ", "SENT", "Event", "events", "order_events", "stop"]

BEGAN = datetime(2026, 8, 19, 19, 0, tzinfo=UTC)
LOCKED = datetime(2099, 1, 1, tzinfo=UTC)  # far off: a lockout that ends later than the one in place replaces it
REASONS = ("Daily loss limit hit", "Max contracts exceeded", "Trading outside of the session")
ACTIONS = ("CLOSE_ALL_AND_LOCKOUT", "CLOSE_ALL", "REDUCE")
DETAILS = tuple(f'{{"limit": -500.0, "pnl": -{500 + n}.25, "contracts": {n % 9}}}' for n in range(100))


@dataclass(frozen=True, slots=True)
class Event:
    """One finished enforcement, and the lockout of its account. `execution_time_ms` is in milliseconds."""

    account_id: int
    rule_id: str
    action: str
    reason: str
    success: bool
    positions_closed: int
    orders_canceled: int
    timestamp: datetime
    execution_time_ms: int
    details: str
    enforcement_id: str
    locked_until: datetime


def events(first: int, count: int, account_id: int | None = None) -> list[Event]:
    """Enforcements number `first` and following, of one account or of twenty. No two are alike, whatever the number."""
    return [
        Event(
            account_id=1001 + number % 20 if account_id is None else account_id,
            rule_id=f"RULE-{number % 12 + 1:03}",
            action=ACTIONS[number % len(ACTIONS)],
            reason=f"{REASONS[number % len(REASONS)]}: {number}",
            success=True,
            positions_closed=number % 4,
            orders_canceled=number % 3,
            timestamp=BEGAN + timedelta(seconds=number, microseconds=number % 999_999 + 1),
            execution_time_ms=20 + number * 7919 % 900,
            details=DETAILS[number % len(DETAILS)],
            enforcement_id=f"{number:032x}",
            locked_until=LOCKED + timedelta(seconds=number),
        )
        for number in range(first, first + count)
    ]


MNQ = "CON.F.US.MNQ.U26"
SENT = datetime(2026, 8, 19, 19, 0, tzinfo=UTC)
ORDER = OrderUpdate(
    id=0,
    account_id=26000001,
    contract_id=MNQ,
    type=OrderType.STOP,
    side=OrderSide.SELL,
    size=5,
    stop_price=21000.0,
    state=OrderState.ACTIVE,
    filled_size=0,
    custom_tag="glt-33fa8e1e-d19c-422d-ac43-efb12061d97c",
    created_at=SENT,
    venue_updated_at=SENT,
)


def order_events(count: int, number: int) -> Sequence[OrderUpdate]:
    """The order events of turn `number`: each of an order of its own, each newer than the last one of that order."""
    sent = SENT + timedelta(seconds=number, microseconds=1)
    return [
        replace(ORDER, id=n, account_id=1001 + n % 20, stop_price=21000.0 + number, venue_updated_at=sent)
        for n in range(1, count + 1)
    ]


def stop(number: int) -> OrderUpdate:
    """A working trailing stop at 21,000 with a distance of 10, in price units."""
    return replace(ORDER, id=number, type=OrderType.TRAILING_STOP, trailing_amount=10.0)

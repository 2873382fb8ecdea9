"""A trading day to look at: real gateway payloads and timed enforcements, written through the store's public API.

The payloads in `gateway_day.jsonl` were captured from the live gateway or are printed in its documentation; each line
names its source. The enforcements are made up; the milliseconds they take are real, spent waiting for a stand-in
broker. Their instants are spread over the last seven days by the store's injected clock, so that the trend has days.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from importlib import resources

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from sqlalchemy.engine import URL

from risk_store import projectx, schema
from risk_store.codes import OrderSide, OrderState, OrderType
from risk_store.demo.broker import StandInBroker
from risk_store.enforcement import NOT_ASKED, NotAsked
from risk_store.errors import RiskStoreError
from risk_store.models import Order
from risk_store.models.base import utc_now
from risk_store.replaying import ReplaySummary, apply
from risk_store.store import RiskStore

__all__ = ["DemoResult", "run"]

ACCOUNTS = (26000001, 26000002, 212)
DAYS = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoResult:
    """What the demo wrote."""

    database: str
    payloads: int
    orders: int
    positions: int
    trades: int
    skipped: int
    """Payloads with nothing to store: the answer to a request, the state of an account."""
    enforcements: int

    @property
    def summary(self) -> str:
        """Two sentences for a person."""
        return (
            f"{self.database}: {self.payloads} gateway payloads replayed ({self.orders} order, {self.positions} "
            f"position, {self.trades} trade events, {self.skipped} skipped), {self.enforcements} enforcements carried "
            "out.\n"
            f"Their milliseconds are real, spent at a stand-in broker; their dates are set over the last {DAYS} days."
        )

    @property
    def next_steps(self) -> str:
        """What to try now."""
        return (
            f"Go on:      risk-store slow {self.database} --threshold 500\n"
            f"In a clone: alembic -x url={self.database} current\n"
            f'In Python:  with RiskStore("{self.database}") as store, store.read() as tx: '
            "print(tx.enforcements.time_by_rule())"
        )


@dataclass(frozen=True, slots=True)
class _Breach:
    """One enforcement to carry out: how long ago, by which rule, and what the broker does."""

    ago: timedelta
    account_id: int
    rule_id: str
    action: str
    reason: str
    positions: int = 0
    orders: int = 0
    slow_ms: float = 0.0
    refusal: str | None = None
    lock_for: timedelta | NotAsked | None = NOT_ASKED


# rule, action, reason, positions to close, orders to cancel
_RULES = (
    ("RULE-001", "CLOSE_EXCESS", "Max contracts: 6 open, limit 5", 1, 0),
    ("RULE-003", "CLOSE_ALL_AND_LOCKOUT", "Daily loss limit hit: -$550", 2, 1),
    ("RULE-006", "CANCEL_ALL", "Trade frequency: 31 trades in an hour, limit 30", 0, 2),
    ("RULE-007", "CANCEL_ALL", "Cooldown after loss", 0, 1),
    ("RULE-008", "CLOSE_POSITION", "No stop loss within 30 s", 1, 0),
)
# The broker's bad moments: which breach, milliseconds added, what it refuses.
_BAD_MOMENTS: dict[int, tuple[float, str | None]] = {
    6: (620.0, None),
    13: (1180.0, None),
    19: (0.0, "Order not found"),
    22: (2150.0, None),
    27: (760.0, "Outside trading hours"),
}


def run(database: str | URL, console: Console, *, speed: float = 1.0) -> DemoResult:
    """Makes a new store and fills it. `speed` divides the broker's waits.

    Raises RiskStoreError, and touches nothing, unless `database` is empty: a demo must not mix with real rows.
    """
    found = schema.status(database)
    if found.state is not schema.SchemaState.EMPTY:
        raise RiskStoreError(
            f"{found.database} is there already ({found.state.value}); the demo writes only into a new store. "
            "Name another: risk-store demo sqlite:///demo.db"
        )
    payloads = [json.loads(line) for line in _day().splitlines()]
    breaches = list(_breaches())
    summary = ReplaySummary()
    clock = _Clock()
    broker = StandInBroker(speed=speed)
    with RiskStore(database, clock=clock) as store, _progress(console, len(payloads) + len(breaches)) as advance:
        store.upgrade()
        for sample in payloads:
            advance(f"{sample['event']} {sample['sample_id']}")
            if sample["event"].startswith("response."):
                continue  # the answer to a request, not an event
            updates = projectx.parse(sample["payload"])
            with store.begin() as tx:
                apply(tx, updates)
            for update in updates:
                summary.count(update)
        with store.begin() as tx:
            stop = tx.orders.save(_trailing_stop())
            tx.orders.trail(stop.contract_id, 21050.0, tick_size=0.25)
        for number, breach in enumerate(breaches):
            advance(f"{breach.rule_id} {breach.action}")
            clock.now = utc_now() - breach.ago
            _enforce(store, broker, number, breach)
    return DemoResult(
        database=found.database,
        payloads=len(payloads),
        orders=summary.orders,
        positions=summary.positions,
        trades=summary.trades,
        skipped=len(payloads) - summary.orders - summary.positions - summary.trades,
        enforcements=len(breaches),
    )


class _Clock:
    """The store's wall clock, set to where the story is."""

    def __init__(self) -> None:
        self.now: datetime | None = None

    def __call__(self) -> datetime:
        return self.now or utc_now()


def _day() -> str:
    return resources.files(__package__).joinpath("gateway_day.jsonl").read_text(encoding="utf-8")


def _breaches() -> Iterator[_Breach]:
    """Five a day for a week, oldest first; the last two lock their account until later than now."""
    total = DAYS * len(_RULES)
    for number in range(total):
        rule_id, action, reason, positions, orders = _RULES[(number * 3) % len(_RULES)]
        slow_ms, refusal = _BAD_MOMENTS.get(number, (0.0, None))
        breach = _Breach(
            ago=timedelta(minutes=12) + timedelta(hours=(total - 1 - number) * 4.7),
            account_id=ACCOUNTS[number % 2],
            rule_id=rule_id,
            action=action,
            reason=reason,
            positions=positions,
            orders=orders,
            slow_ms=slow_ms,
            refusal=refusal,
        )
        if rule_id == "RULE-003":
            breach = replace(breach, lock_for=timedelta(hours=3))
        yield breach
    yield _Breach(
        timedelta(minutes=9),
        ACCOUNTS[0],
        *("RULE-003", "CLOSE_ALL_AND_LOCKOUT", "Daily loss limit hit: -$612"),
        positions=2,
        orders=1,
        lock_for=timedelta(hours=6),
    )
    yield _Breach(
        timedelta(minutes=4),
        ACCOUNTS[2],
        *("RULE-010", "CLOSE_ALL_AND_LOCKOUT", "Auth loss guard: canTrade is false"),
        positions=1,
        lock_for=None,
    )


def _enforce(store: RiskStore, broker: StandInBroker, number: int, breach: _Breach) -> None:
    lock_for = breach.lock_for
    until = utc_now() - breach.ago + lock_for if isinstance(lock_for, timedelta) else lock_for
    broker.slow_ms, broker.refuse_next = breach.slow_ms, breach.refusal
    with store.enforce(
        breach.account_id, breach.rule_id, breach.action, breach.reason, {"breach": number}, lock_until=until
    ) as enforcement:
        closing = [broker.close_position(825245547 + number) for number in range(breach.positions)]
        canceling = [broker.cancel_order(3425270858 + number) for number in range(breach.orders)]
        enforcement.positions_closed = sum(answer.success for answer in closing)
        enforcement.orders_canceled = sum(answer.success for answer in canceling)
        for done, answers in (("closed", closing), ("canceled", canceling)):
            # HTTP 200 with success false is a failure all the same.
            if errors := [answer.error for answer in answers if not answer.success]:
                enforcement.fail(
                    f"{done} {len(answers) - len(errors)} of {len(answers)}: {', '.join(map(str, errors))}"
                )


def _trailing_stop() -> Order:
    """The example order of DB-SCHEMA-003: bought at 21000, the stop trails 10 points behind."""
    return Order(
        id=123,
        account_id=ACCOUNTS[0],
        contract_id="CON.F.US.MNQ.U25",
        type=OrderType.TRAILING_STOP,
        side=OrderSide.SELL,
        size=1,
        stop_price=20990.00,
        trailing_amount=10.00,
        state=OrderState.ACTIVE,
        created_at=datetime.now(UTC) - timedelta(hours=2),
    )


class _progress:  # noqa: N801 (used as a function)
    """A bar on a terminal, a plain line each tenth otherwise; gives the function that moves it on."""

    def __init__(self, console: Console, total: int) -> None:
        self._console = console
        self._total = total
        self._done = 0
        self._bar: Progress | None = None

    def __enter__(self) -> Callable[[str], None]:
        if self._console.is_terminal:
            columns = (
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
            )
            self._bar = Progress(*columns, console=self._console, transient=True)
            self._task = self._bar.add_task("demo", total=self._total)
            self._bar.start()
        return self._advance

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def _advance(self, what: str) -> None:
        self._done += 1
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done, description=f"{what:<42.42}")
        elif self._done * 10 // self._total > (self._done - 1) * 10 // self._total:
            self._console.print(f"demo: {self._done} of {self._total}", markup=False)

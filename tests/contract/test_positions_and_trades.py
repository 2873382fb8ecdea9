"""Positions, trades, and the figures of the trading day that they add up to, the same on each engine (SPEC 7)."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sqlalchemy.orm import Session

from risk_store import (
    InvalidValue,
    NotKnownYet,
    PositionRepository,
    ResetSchedule,
    RiskStore,
    TradeRepository,
    projectx,
)
from risk_store.codes import OrderSide, PositionType
from risk_store.events import OrderUpdate, PositionUpdate, TradeUpdate
from risk_store.models import DailyPnl, Position, Trade
from tests.support.samples import samples_of

if TYPE_CHECKING:
    from tests.contract.conftest import Clock

MNQ = "CON.F.US.MNQ.U26"
OPENED = datetime(2026, 8, 19, 14, 15, 48, 611387, tzinfo=UTC)
DAY = date(2026, 8, 19)


@pytest.fixture
def positions(session: Session, clock: Clock) -> PositionRepository:
    return PositionRepository(session, clock)


@pytest.fixture
def trades(session: Session, clock: Clock) -> TradeRepository:
    return TradeRepository(session, clock)


def a_position(id: int = 825_245_547, **changes: Any) -> PositionUpdate:
    values: dict[str, Any] = {
        "id": id,
        "account_id": 26000001,
        "contract_id": MNQ,
        "type": PositionType.LONG,
        "size": 2,
        "average_price": 29398.5,
        "created_at": OPENED,
    }
    return PositionUpdate(**(values | changes))


def a_trade(id: int = 3_004_518_356, **changes: Any) -> TradeUpdate:
    values: dict[str, Any] = {
        "id": id,
        "account_id": 26000001,
        "contract_id": MNQ,
        "timestamp": OPENED,
        "price": 29423.0,
        "pnl": -49.0,
        "fees": 0.36,
        "side": OrderSide.BUY,
        "size": 1,
        "voided": False,
        "order_id": 3_423_462_488,
    }
    return TradeUpdate(**(values | changes))


# Positions


@pytest.mark.parametrize(
    "sample",
    samples_of("GatewayUserPosition", "Position/searchOpen"),
    ids=lambda s: s["sample_id"],
)
def test_every_sample_of_a_position_is_mirrored_as_it_reads(
    positions: PositionRepository, sample: dict[str, Any]
) -> None:
    [update] = projectx.parse(sample["payload"])
    assert isinstance(update, PositionUpdate)
    assert positions.apply(update) is not update.closed
    kept = [{name: getattr(p, name) for name in asdict(update)} for p in positions.open()]
    assert kept == ([] if update.closed else [asdict(update)])


def test_a_position_grows_turns_and_closes(positions: PositionRepository, clock: Clock) -> None:
    assert positions.apply(a_position(size=1))
    clock.forward(minutes=1)
    assert positions.apply(a_position(size=2, average_price=28446.375))
    assert positions.apply(PositionUpdate(id=825_245_547, type=PositionType.SHORT))
    [position] = positions.open(26000001)
    assert (position.size, position.average_price, position.type) == (2, 28446.375, PositionType.SHORT)
    assert (position.seen_at, position.updated_at, position.created_at) == (clock.now, clock.now, OPENED)
    assert positions.apply(a_position(type=None, size=0))
    assert positions.open() == []
    assert positions.get(825_245_547) is None
    assert not positions.apply(a_position(type=None, size=0))


def test_the_same_position_event_twice_is_one_and_was_seen_again(positions: PositionRepository, clock: Clock) -> None:
    positions.apply(a_position())
    before = positions.open()[0].to_dict()
    clock.forward(minutes=1)
    assert not positions.apply(a_position())
    assert positions.open()[0].to_dict() == before | {"seen_at": clock.now.isoformat()}


def test_what_opened_a_position_that_is_closed_is_late_and_opens_nothing(positions: PositionRepository) -> None:
    opened, closed = a_position(), a_position(size=0, type=None)
    assert not positions.apply(closed)  # before it was known
    assert not positions.apply(opened)
    assert positions.open() == []
    later = a_position(created_at=OPENED + timedelta(hours=1))  # the venue gives the same id again
    assert positions.apply(later)
    assert positions.apply(replace(closed, created_at=later.created_at))
    for late in (later, opened, a_position(7)):
        assert not positions.apply(late)
    assert positions.open() == []


def test_an_event_of_an_earlier_position_of_the_contract_is_late_and_changes_nothing(
    positions: PositionRepository,
) -> None:
    positions.apply(a_position(2, created_at=OPENED + timedelta(minutes=5)))
    for late in (a_position(1), a_position(1, size=0, type=None)):
        assert not positions.apply(late)
    assert [position.id for position in positions.open()] == [2]


def test_a_new_position_of_a_contract_ends_the_one_whose_end_was_missed(positions: PositionRepository) -> None:
    positions.apply(a_position(1))
    positions.apply(a_position(3, contract_id="CON.F.US.EP.U26"))
    positions.apply(a_position(4, account_id=7))
    assert positions.apply(a_position(2, created_at=OPENED + timedelta(minutes=5)))
    assert sorted(position.id for position in positions.open()) == [2, 3, 4]
    assert positions.apply(a_position(5, size=0, type=None, created_at=OPENED + timedelta(minutes=9)))
    assert sorted(position.id for position in positions.open()) == [3, 4]


def test_a_close_without_a_time_ends_no_position_but_its_own(positions: PositionRepository) -> None:
    positions.apply(a_position(11))
    assert not positions.apply(a_position(10, size=0, type=None, created_at=None))
    assert [position.id for position in positions.open()] == [11]
    assert positions.apply(a_position(11, size=0, type=None, created_at=None))
    assert positions.open() == []


def test_a_position_whose_beginning_another_clock_told_is_updated_and_closed_all_the_same(
    positions: PositionRepository, session: Session, clock: Clock
) -> None:
    """A v1 daemon's clock, or ours where an event did not say, may be later than the venue's."""
    session.execute(
        sa.text(
            "INSERT INTO positions (id, account_id, contract_id, type, size, average_price, created_at) "
            f"VALUES (825245547, 26000001, '{MNQ}', 1, 1, 29398.5, '2026-08-19 14:15:49')"
        )
    )
    clock.now = OPENED + timedelta(days=1)
    positions.apply(a_position(8, account_id=7, created_at=None))
    assert positions.apply(a_position(size=3))
    assert positions.apply(a_position(8, account_id=7, size=3))
    assert [(position.size, position.created_at) for position in positions.open()] == [(3, OPENED)] * 2
    assert positions.apply(a_position(size=0, type=None))
    assert positions.apply(a_position(8, account_id=7, size=0, type=None))
    assert positions.open() == []


def test_open_positions_come_oldest_first_and_by_account_and_contract(positions: PositionRepository) -> None:
    for id_, minutes, contract in ((1, 5, "A"), (2, 0, "B"), (3, 9, "C")):
        positions.apply(a_position(id_, contract_id=contract, created_at=OPENED + timedelta(minutes=minutes)))
    assert [position.id for position in positions.open()] == [2, 1, 3]
    assert [position.id for position in positions.open(26000001, "C")] == [3]
    assert positions.open(1) == []
    with pytest.raises(InvalidValue, match="account_id"):
        positions.open(0)


@pytest.mark.parametrize("missing", ["account_id", "contract_id", "type", "size", "average_price"])
def test_an_unknown_position_that_lacks_what_a_row_needs_is_refused_and_nothing_is_written(
    positions: PositionRepository, missing: str
) -> None:
    with pytest.raises(NotKnownYet) as caught:
        positions.apply(a_position(**{missing: None}))
    assert (caught.value.field, caught.value.payload["id"]) == (missing, 825_245_547)
    assert positions.open() == []


def test_what_is_no_update_of_its_kind_is_refused(positions: PositionRepository, trades: TradeRepository) -> None:
    wrong: Any = OrderUpdate(id=1)
    for apply in (positions.apply, trades.record):
        with pytest.raises(InvalidValue, match=r"projectx\.parse"):
            apply(wrong)


# Trades


@pytest.mark.parametrize("sample", samples_of("GatewayUserTrade", "Trade/search"), ids=lambda s: s["sample_id"])
def test_every_sample_of_a_trade_is_kept_as_it_reads_and_counted_once(
    trades: TradeRepository, sample: dict[str, Any]
) -> None:
    [update] = projectx.parse(sample["payload"])
    assert isinstance(update, TradeUpdate)
    assert update.account_id is not None
    assert trades.record(update)
    assert not trades.record(update)
    trade = trades.get(update.id)
    assert trade is not None
    said = asdict(update) | {"id": trade.id}
    assert {name: getattr(trade, name) for name in said} == said
    day = trades.day(update.account_id, trade.trading_day)
    assert day is not None
    assert (day.realized_pnl, day.fees) == (update.pnl or 0.0, round((update.fees or 0) + (update.commissions or 0), 9))


def test_the_day_is_the_trading_day_and_never_the_utc_date(trades: TradeRepository, clock: Clock) -> None:
    late = datetime(2026, 8, 19, 22, 0, tzinfo=UTC)  # 17:00 in Chicago
    trades.record(a_trade(1, timestamp=late - timedelta(microseconds=1), pnl=100.0))
    trades.record(a_trade(2, timestamp=late, pnl=10.0))
    trades.record(a_trade(3, timestamp=late + timedelta(hours=5), pnl=1.0))
    assert [trades.day(26000001, DAY + timedelta(days=n)).realized_pnl for n in (0, 1)] == [100.0, 11.0]  # type: ignore[union-attr]
    assert trades.day(26000001, DAY + timedelta(days=2)) is None
    clock.now = late
    assert trades.day(26000001).realized_pnl == 11.0  # type: ignore[union-attr]
    assert trades.trading_day(26000001) == DAY + timedelta(days=1)


def test_an_accounts_own_reset_time_and_zone_decide(trades: TradeRepository, session: Session) -> None:
    schedule = {"last_reset_date": DAY, "next_reset_time": OPENED}
    session.add(ResetSchedule(account_id=26000001, reset_time_config="09:00", timezone="America/New_York", **schedule))
    trades.record(a_trade(1))  # 10:15 in New York
    assert trades.get(1).trading_day == DAY + timedelta(days=1)  # type: ignore[union-attr]
    trades.record(a_trade(2, account_id=7))
    assert trades.get(2).trading_day == DAY  # type: ignore[union-attr]


def test_a_void_reverses_the_day_it_counted_to_once_and_sticks(trades: TradeRepository, session: Session) -> None:
    trades.record(a_trade(1, pnl=100.0, fees=0.5))
    trades.record(a_trade(2, pnl=0.1, fees=0.1, commissions=0.2))
    # The schedule is changed between the trade and its void: it is the old day that is put right.
    schedule = {"last_reset_date": DAY, "next_reset_time": OPENED}
    session.add(ResetSchedule(account_id=26000001, reset_time_config="09:00", timezone="UTC", **schedule))
    void = a_trade(2, pnl=0.1, fees=0.1, commissions=0.2, voided=True)
    assert trades.record(void)
    for again in (void, replace(void, voided=False), TradeUpdate(id=2, voided=True), TradeUpdate(id=2)):
        assert not trades.record(again)
    day = trades.day(26000001, DAY)
    assert day is not None
    assert (day.realized_pnl, day.fees) == (100.0, 0.5)
    assert trades.get(2).voided  # type: ignore[union-attr]


def test_a_void_that_comes_first_keeps_the_trade_out_of_the_day(trades: TradeRepository) -> None:
    assert trades.record(a_trade(voided=True))
    assert not trades.record(a_trade(voided=False))
    assert trades.day(26000001, DAY) is None
    assert trades.get(3_004_518_356).pnl == -49.0  # type: ignore[union-attr]


def test_what_one_surface_leaves_out_the_other_fills_and_the_day_follows(trades: TradeRepository) -> None:
    """REST has no commissions; the stream's event of an opening half turn has no profit and loss."""
    trades.record(a_trade(pnl=None))
    assert trades.record(a_trade(commissions=0.25))
    assert not trades.record(a_trade(pnl=None))
    trade, day = trades.get(3_004_518_356), trades.day(26000001, DAY)
    assert trade is not None
    assert day is not None
    assert (trade.pnl, trade.fees, trade.commissions) == (-49.0, 0.36, 0.25)
    assert (day.realized_pnl, day.fees) == (-49.0, 0.61)


def test_a_days_figures_that_are_there_already_are_added_to(trades: TradeRepository, session: Session) -> None:
    session.add(DailyPnl(account_id=26000001, date=DAY, realized_pnl=-500.0))
    session.flush()
    trades.record(a_trade())
    day = trades.day(26000001, DAY)
    assert day is not None
    assert (day.realized_pnl, day.fees) == (-549.0, 0.36)


@pytest.mark.parametrize("missing", ["account_id", "contract_id", "timestamp"])
def test_an_unknown_trade_that_lacks_what_a_row_needs_is_refused_and_nothing_is_written(
    trades: TradeRepository, missing: str
) -> None:
    update = a_trade(**{missing: None})
    with pytest.raises(NotKnownYet, match="trade 3004518356 is not known yet") as caught:
        trades.record(update)
    assert (caught.value.field, caught.value.payload) == (missing, asdict(update))
    assert trades.get(update.id) is None


def test_a_schedule_that_cannot_be_read_is_told_of_once_and_no_trade_is_lost(
    trades: TradeRepository, session: Session, caplog: pytest.LogCaptureFixture
) -> None:
    schedule = {"last_reset_date": DAY, "next_reset_time": OPENED}
    session.add(ResetSchedule(account_id=26000001, reset_time_config="five", timezone="America/Chicago", **schedule))
    session.add(ResetSchedule(account_id=7, reset_time_config="17:00", timezone="Chikago", **schedule))
    with caplog.at_level(logging.WARNING):
        for id_ in (1, 2):
            trades.record(a_trade(id_))
            trades.record(a_trade(id_ + 10, account_id=7))
    assert trades.day(26000001, DAY).realized_pnl == -98.0  # type: ignore[union-attr]
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 2
    assert "reset_schedule.reset_time_config, account_id 26000001: 'five' is not a local time of day" in messages[0]
    assert "17:00 America/Chicago" in messages[1]


cents = st.decimals(-99_999_999, 99_999_999, places=2)
told = st.builds(
    lambda id, pnl, fees, commissions, voided: (id, pnl, fees, commissions, voided),
    st.integers(1, 4),
    st.none() | cents,
    st.none() | st.decimals(0, 99, places=4),
    st.none() | st.decimals(0, 9, places=4),
    st.booleans(),
)


@settings(max_examples=100)
@given(st.lists(told, max_size=12))
@example([(1, Decimal("4999990.90"), None, None, False), (2, Decimal("-0.02"), None, None, False)])
def test_the_day_is_the_exact_sum_of_its_trades_whatever_arrives_and_how_often(
    trades: TradeRepository, undone: Callable[[], Any], events: list[tuple[Any, ...]]
) -> None:
    known: dict[int, dict[str, Any]] = {}
    with undone():
        for id_, pnl, fees, commissions, voided in events:
            trade = known.setdefault(id_, {"pnl": None, "fees": None, "commissions": None, "voided": False})
            for name, value in (("pnl", pnl), ("fees", fees), ("commissions", commissions)):
                trade[name] = value if trade[name] is None else trade[name]
            trade["voided"] |= voided
            figures = {"pnl": pnl, "fees": fees, "commissions": commissions}
            money = {name: None if value is None else float(value) for name, value in figures.items()}
            trades.record(a_trade(id_, voided=voided, **money))
        valid = [trade for trade in known.values() if not trade["voided"]]
        pnl = sum((trade["pnl"] or Decimal(0) for trade in valid), Decimal(0))
        costs = sum(((trade["fees"] or 0) + (trade["commissions"] or 0) for trade in valid), Decimal(0))
        day = trades.day(26000001, DAY)
        assert (
            (Decimal(0), Decimal(0)) == (pnl, costs)
            if day is None
            else (day.realized_pnl, day.fees)
            == (
                float(pnl),
                float(costs),
            )
        )


def test_of_several_writers_each_account_has_one_position_of_a_contract(store: RiskStore) -> None:
    contracts = [f"C{number}" for number in range(30)]
    begin = threading.Barrier(4, timeout=20)

    def hear(id_: int) -> None:
        for number, contract in enumerate(contracts):
            begin.wait()
            at = OPENED + timedelta(seconds=id_)
            with store.begin() as tx:
                tx.positions.apply(a_position(id_ * 100 + number, contract_id=contract, size=id_, created_at=at))

    threads = [threading.Thread(target=hear, args=(id_,)) for id_ in (1, 2, 3, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with store.read() as tx:
        assert sorted((p.contract_id, p.size) for p in tx.positions.open()) == sorted((c, 4) for c in contracts)


@pytest.mark.parametrize("store_url", ["postgresql"], indirect=True)
def test_a_void_that_two_hear_of_at_once_is_counted_once(store: RiskStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is about to read the trade: the second one waits for what the first makes of it."""
    with store.begin() as tx:
        tx.trades.record(a_trade(1, pnl=10.0))
        tx.trades.record(a_trade(2, pnl=5.0))
    complete = TradeRepository._complete
    reading = threading.Barrier(2, timeout=1)

    def complete_together(self: TradeRepository, trade: Trade, update: TradeUpdate) -> bool:
        with contextlib.suppress(threading.BrokenBarrierError):
            reading.wait()  # with a lock only one gets here at a time
        return complete(self, trade, update)

    monkeypatch.setattr(TradeRepository, "_complete", complete_together)

    def hear() -> None:
        with store.begin() as tx:
            tx.trades.record(a_trade(1, pnl=10.0, voided=True))

    threads = [threading.Thread(target=hear) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with store.read() as tx:
        assert tx.trades.day(26000001, DAY).realized_pnl == 5.0  # type: ignore[union-attr]


def test_of_several_writers_that_hear_of_the_same_trades_each_counts_once(store: RiskStore) -> None:
    updates = [
        a_trade(id_, pnl=1.0, fees=0.1, voided=id_ % 5 == 0 and turn == 1) for turn in (0, 1) for id_ in range(1, 21)
    ]

    def hear() -> None:
        for update in updates:
            with store.begin() as tx:
                tx.trades.record(update)

    threads = [threading.Thread(target=hear) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with store.read() as tx:
        day = tx.trades.day(26000001, DAY)
        assert day is not None
        assert (day.realized_pnl, day.fees) == (16.0, 1.6)
        assert tx.session.scalar(sa.select(sa.func.count()).select_from(Trade)) == 20
        assert tx.session.scalar(sa.select(sa.func.count()).select_from(Position)) == 0

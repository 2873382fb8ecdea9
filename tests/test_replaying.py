"""A recorded day brought into a store: `replay`, and the `risk-store replay` and `orders` verbs."""

from __future__ import annotations

import json
import random
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from risk_store import ClosedPosition, DailyPnl, Order, OrderState, Position, RiskStore, Trade
from risk_store.replaying import BATCH, Refused, replay
from tests.support.command import run
from tests.support.samples import FILE

DAY = FILE
MNQ = "CON.F.US.MNQ.U26"


def an_order(number: int, second: int = 0, **changes: Any) -> str:
    payload = {
        **{"id": number, "accountId": 7, "contractId": MNQ, "status": 1, "type": 4, "side": 1, "size": 5},
        "creationTimestamp": "2026-08-19T19:00:00Z",
        "updateTimestamp": f"2026-08-19T19:{second // 60:02}:{second % 60:02}Z",
    }
    return json.dumps({"action": 1, "data": payload | changes})


def a_trade(number: int, **changes: Any) -> str:
    payload = {"id": number, "accountId": 7, "contractId": MNQ, "price": 1.5, "fees": 0.36, "profitAndLoss": 12.5}
    return json.dumps(payload | {"creationTimestamp": "2026-08-19T19:00:00Z", "side": 0, "size": 1} | changes)


def a_position(number: int, size: int, **changes: Any) -> str:
    payload = {"id": number, "accountId": 7, "contractId": MNQ, "type": 1 if size else 0, "size": size}
    return json.dumps(payload | {"creationTimestamp": "2026-08-19T19:00:00Z", "averagePrice": 1.5} | changes)


def kept(store: RiskStore) -> dict[str, list[dict[str, Any]]]:
    """Every row, without the times of our own clock."""
    ours = {"updated_at", "seen_at", "closed_at", "last_updated", "id"}
    with store.read() as tx:
        return {
            model.__tablename__: [
                {
                    name: value
                    for name, value in row.to_dict().items()
                    if name not in ours or (model is Order and name == "id")
                }
                for row in tx.session.scalars(sa.select(model).order_by(*sa.inspect(model).primary_key))
            ]
            for model in (Order, Position, ClosedPosition, Trade, DailyPnl)
        }


def test_the_recorded_samples_are_replayed_and_the_second_time_changes_nothing(store: RiskStore) -> None:
    lines = DAY.read_text(encoding="utf-8").splitlines()
    refused: list[Refused] = []
    summary = replay(store, lines, refused.append)
    assert summary.to_dict() == {
        **{"lines": 33, "orders": 21, "positions": 4, "trades": 5, "accounts": 1, "refused": 2},
    }
    assert [(line.line, line.reason.partition(":")[0]) for line in refused] == [(20, "success"), (22, "size")]
    once = kept(store)
    assert [len(rows) for rows in once.values()] == [19, 3, 1, 5, 3]
    assert replay(store, lines, lambda _: None) == summary
    assert kept(store) == once


def test_refused_lines_stop_no_other_and_each_keeps_its_reason_and_what_it_held(store: RiskStore) -> None:
    lines = [
        an_order(1),
        "{",
        "",
        '{"id": 2, "status": 1}',  # not known yet
        an_order(3, status=9),
        an_order(4) + ",",
        f"[{an_order(5)}, {an_order(6, type=0)}]",
        an_order(7),
        "null",
        '"text"',
        "[" * 100_000,
        "1" * 5_000,
        an_order(8, contractId="x" * 100_000),
        an_order(9, contractId="a\0b"),
        an_order(2**63),
        '{"id": NaN, "status": 1}',
        an_order(10),
        "[]",
    ]
    refused: list[Refused] = []
    summary = replay(store, lines, refused.append)
    assert (summary.lines, summary.orders, summary.refused) == (17, 3, 13)
    # What is not known yet may still become known: that is judged at the end.
    assert [line.line for line in refused] == [2, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 16, 4]
    assert [line.text for line in refused] == [lines[line.line - 1] for line in refused]
    with store.read() as tx:
        assert [order.id for order in tx.orders.working()] == [1, 7, 10]
    by_line = {line.line: line for line in refused}
    assert by_line[2].reason.startswith("not JSON: ")
    assert "order 2 is not known yet, and this event lacks account_id" in by_line[4].reason
    assert by_line[5].reason.startswith("status: 9 is not an order status: 1 Open")
    assert by_line[5].to_dict()["payload"] == json.loads(lines[4])
    assert by_line[2].to_dict() == {"line": 2, "reason": by_line[2].reason, "text": "{"}


def test_a_line_about_something_not_known_yet_waits_until_it_is(store: RiskStore) -> None:
    """Else the first run would leave a filled order working, and a second run would not."""
    lines = [
        '{"id": 1, "status": 2, "fillVolume": 5, "updateTimestamp": "2026-08-19T19:00:01Z"}',
        '{"id": 5, "voided": true, "fees": 0.36}',
        an_order(1),
        a_trade(5),
        '{"id": 9, "status": 2}',
    ]
    refused: list[Refused] = []
    summary = replay(store, lines, refused.append)
    assert (summary.orders, summary.trades, [line.line for line in refused]) == (2, 2, [5])
    once = kept(store)
    assert [(row["state"], row["filled_size"]) for row in once["orders"]] == [(OrderState.FILLED, 5)]
    assert [(row["realized_pnl"], row["fees"]) for row in once["daily_pnl"]] == [(0.0, 0.0)]
    assert replay(store, lines, lambda _: None) == summary
    assert kept(store) == once


def test_lines_that_wait_for_each_other_come_in_whatever_order_they_stand(store: RiskStore) -> None:
    lines = ['[{"id": 1, "status": 2}, ' + an_order(2) + "]", '[{"id": 2, "status": 2}, ' + an_order(3) + "]"]
    lines += ['{"id": 3, "status": 2}'] * 600 + [an_order(1)]
    summary = replay(store, lines, lambda _: None)
    assert (summary.refused, summary.orders, summary.lines) == (0, 605, 603)
    assert [row["state"] for row in kept(store)["orders"]] == [OrderState.FILLED] * 3


def test_of_a_line_with_several_events_all_are_taken_or_none(store: RiskStore) -> None:
    """The second event can only be judged by the store: the first one was written already."""
    lines = [f'[{a_trade(1)}, {a_position(5, 2)}, {{"id": 9, "status": 1}}]', a_trade(2)]
    refused: list[Refused] = []
    summary = replay(store, lines, refused.append)
    assert (summary.trades, summary.positions, summary.refused) == (1, 0, 1)
    rows = kept(store)
    assert [row["venue_trade_id"] for row in rows["trade_history"]] == [2]
    assert [row["realized_pnl"] for row in rows["daily_pnl"]] == [12.5]
    assert rows["positions"] == []


def test_a_line_may_be_wrapped_by_its_recorder_and_a_refused_line_can_be_replayed(store: RiskStore) -> None:
    wrapped = json.dumps({"event": "GatewayUserOrder", "at": "12:00", "payload": json.loads(an_order(1))})
    refused: list[Refused] = []
    replay(store, [wrapped, '{"id": 2, "status": 1}'], refused.append)
    again: list[Refused] = []
    replay(store, [an_order(2), *(json.dumps(line.to_dict()) for line in refused)], again.append)
    assert again == []
    with store.read() as tx:
        assert [order.id for order in tx.orders.working()] == [1, 2]


def test_more_lines_than_one_transaction_holds_arrive_in_their_order(store: RiskStore) -> None:
    lines = [an_order(number % 40 + 1, number, fillVolume=min(5, number // 400)) for number in range(3 * BATCH + 7)]
    lines[BATCH + 3] = "{"
    summary = replay(store, lines, lambda _: None)
    assert (summary.orders, summary.refused) == (3 * BATCH + 6, 1)
    with store.read() as tx:
        assert {order.filled_size for order in tx.orders.working()} == {3}


events = st.lists(
    st.one_of(
        st.builds(
            lambda number, second, status, stop, filled: an_order(
                number, second, status=status, stopPrice=stop, fillVolume=filled
            ),
            st.integers(1, 3),
            st.integers(0, 5),
            st.integers(0, 9),
            st.none() | st.sampled_from([100.0, 101.5]),
            st.none() | st.integers(0, 5),
        ),
        st.builds(
            lambda number, pnl, voided: a_trade(number, profitAndLoss=pnl, voided=voided),
            st.integers(1, 3),
            st.none() | st.sampled_from([0.1, -0.2]),
            st.booleans(),
        ),
        st.builds(a_position, st.integers(1, 3), st.integers(-1, 3)),
        st.sampled_from(["{", '{"id": 2, "fillVolume": 4}', '{"id": 1, "stopPrice": 99, "side": 1}']),
    ),
    max_size=12,
)


@settings(max_examples=25)
@given(lines=events)
def test_any_day_gives_the_same_store_when_it_is_replayed_again(store: RiskStore, lines: list[str]) -> None:
    with store.begin() as tx:
        for model in (Order, Position, ClosedPosition, Trade, DailyPnl):
            tx.session.execute(sa.delete(model))
    first = replay(store, lines, lambda _: None)
    once = kept(store)
    assert replay(store, lines, lambda _: None) == first
    assert kept(store) == once


# The verbs


@pytest.fixture
def risk_db(tmp_path: Path, sqlite_template: Path) -> Path:
    file = tmp_path / "risk.db"
    file.write_bytes(sqlite_template.read_bytes())
    return file


def test_a_day_is_replayed_by_the_command_and_refused_lines_are_in_their_file(tmp_path: Path, risk_db: Path) -> None:
    day = tmp_path / "day.jsonl"
    day.write_bytes(b"\xef\xbb\xbf" + DAY.read_bytes())
    for _ in range(2):
        result = run("replay", str(day), "--url", str(risk_db))
        assert result.returncode == 1
        assert result.stdout.splitlines() == [
            "33 lines: 21 order, 4 position, 5 trade and 1 account events; 2 refused",
            f"refused lines, with reasons: {day}.rejected.jsonl",
        ]
        rejected = [json.loads(line) for line in Path(f"{day}.rejected.jsonl").read_text().splitlines()]
        assert [line["line"] for line in rejected] == [20, 22]
        assert rejected[0]["payload"]["errorCode"] == 0
        assert "is the response to a request" in rejected[0]["reason"]
    told = json.loads(run("replay", str(day), "--url", str(risk_db), "--json").stdout)
    assert (told["schema"], told["orders"], told["rejected"]) == (1, 21, f"{day}.rejected.jsonl")


def test_a_day_without_a_refused_line_leaves_no_file_of_them(tmp_path: Path, risk_db: Path) -> None:
    day = tmp_path / "day.jsonl"
    day.write_text(an_order(1) + "\n{\n")
    assert run("replay", str(day), "--url", str(risk_db)).returncode == 1
    day.write_text(an_order(1) + "\n")
    result = run("replay", str(day), "--url", str(risk_db), "--json")
    assert (result.returncode, json.loads(result.stdout)["rejected"]) == (0, None)
    assert not Path(f"{day}.rejected.jsonl").exists()


@pytest.mark.parametrize("given", ["day.jsonl", "precious.txt", "folder", "missing/rejected.jsonl"])
def test_a_file_that_is_there_is_never_overwritten_nor_deleted_by_refused_lines(
    tmp_path: Path, risk_db: Path, given: str
) -> None:
    day, precious = tmp_path / "day.jsonl", tmp_path / "precious.txt"
    (tmp_path / "folder").mkdir()
    precious.write_text("precious")
    for lines in (an_order(1) + "\n", "{\n" + an_order(1) + "\n"):
        day.write_text(lines)
        result = run("replay", str(day), "--url", str(risk_db), "--rejected", str(tmp_path / given))
        assert (result.returncode, result.stderr.count("\n")) == (1, 1)
        assert given in result.stderr
        assert (day.read_text(), precious.read_text()) == (lines, "precious")
        assert run("orders", str(risk_db)).stdout.count("\n") == 1  # refused before anything was written


def test_refused_lines_may_be_thrown_away(tmp_path: Path, risk_db: Path) -> None:
    (tmp_path / "day.jsonl").write_text("{\n" + an_order(1))
    for _ in range(2):
        assert (
            run("replay", str(tmp_path / "day.jsonl"), "--url", str(risk_db), "--rejected", "/dev/null").returncode == 1
        )
    assert Path("/dev/null").is_char_device()
    assert run("orders", str(risk_db)).stdout.count("\n") == 2


def test_bytes_that_are_no_text_are_refused_and_kept(tmp_path: Path, risk_db: Path) -> None:
    day = tmp_path / "day.jsonl"
    day.write_bytes(
        b"\xff\xfe\n" + an_order(1).encode() + b"\n" + b'{"id": 1, "customTag": "\xff", "updateTimestamp": null}\n'
    )
    result = run("replay", str(day), "--url", str(risk_db), "--rejected", str(tmp_path / "bad.jsonl"))
    assert result.stdout.splitlines()[0].startswith("3 lines: 2 order")
    [line] = [json.loads(line) for line in (tmp_path / "bad.jsonl").read_text().splitlines()]
    assert line["text"].encode("utf-8", "surrogateescape") == b"\xff\xfe"
    with closing(sqlite3.connect(risk_db)) as plain:
        assert plain.execute("SELECT custom_tag FROM orders").fetchone() == ("\\udcff",)


def test_standard_input_is_replayed_where_refused_lines_are_given_a_file(tmp_path: Path, risk_db: Path) -> None:
    refused = run("replay", "-", "--url", str(risk_db), stdin=an_order(1))
    assert refused.returncode == 2
    assert "--rejected FILE" in refused.stderr
    bad = str(tmp_path / "bad.jsonl")
    assert run("replay", "-", "--url", str(risk_db), "--rejected", bad, stdin=an_order(1)).returncode == 0
    assert run("orders", str(risk_db)).stdout.count("\n") == 2


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("replay", "nowhere.jsonl", "--url", "risk.db"), 1, "nowhere.jsonl"),
        (("replay", "day.jsonl"), 2, "give its URL"),
        (("replay", "day.jsonl", "--url", "none.db"), 3, "risk-store upgrade"),
        (("replay",), 2, "FILE"),
    ],
)
def test_what_cannot_be_replayed_is_told_in_one_line(
    tmp_path: Path, risk_db: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], code: int, told: str
) -> None:
    (tmp_path / "day.jsonl").write_text(an_order(1))
    monkeypatch.chdir(tmp_path)
    result = run(*words)
    assert result.returncode == code
    assert told in result.stderr
    assert result.stderr.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["day.jsonl", "risk.db"]


def test_trailing_stops_are_listed_beside_what_the_venue_confirmed(risk_db: Path) -> None:
    with RiskStore(f"sqlite:///{risk_db}") as store:
        replay(
            store,
            [
                an_order(1, type=5, stopPrice=100.0, trailPrice=10.0),
                an_order(2, type=5),
                an_order(3),
                an_order(4, type=5, stopPrice=200.0, trailPrice=10.0, status=8),
                an_order(5, type=5, stopPrice=150.0, trailPrice=10.0),
            ],
            lambda _: None,
        )
        with store.begin() as tx:
            tx.orders.trail(MNQ, 130.25, tick_size=0.25)
    told = json.loads(run("orders", str(risk_db), "--trailing", "--json").stdout)["trailing_orders"]
    figures = [(o["id"], o["stop_price"], o["venue_stop_price"], o["ahead"], o["trailing_amount"]) for o in told]
    assert figures == [
        (1, 120.25, 100.0, 20.25, 10.0),
        (2, None, None, None, None),
        (4, 200.0, 200.0, 0.0, 10.0),
        (5, 150.0, 150.0, 0.0, 10.0),
    ]
    assert [order["triggered_at"] is not None for order in told] == [False, False, False, True]
    assert [order["state"] for order in told] == [OrderState.ACTIVE.name] * 2 + ["SUSPENDED", "ACTIVE"]
    assert len(json.loads(run("orders", str(risk_db), "--json").stdout)["working_orders"]) == 5
    assert run("orders", str(risk_db), "--trailing").stdout.splitlines()[1].split("\t")[:3] == ["7", "1", MNQ]
    assert run("orders", str(risk_db), "--trailing", "--account", "8").stdout.count("\n") == 1


def test_a_shuffled_day_ends_with_the_same_orders_and_figures(store: RiskStore) -> None:
    """Orders and trades are judged by what they say, not by when they come; positions carry no time to be judged by."""
    chance = random.Random(20261125)
    day = [
        an_order(number, second, fillVolume=second, stopPrice=100.0 + second)
        for number in (1, 2)
        for second in range(6)
    ]
    day += [a_trade(number, voided=number == 3) for number in range(1, 6)] + [a_trade(2, voided=True)]
    seen = []
    for _ in range(4):
        with store.begin() as tx:
            for model in (Order, Trade, DailyPnl):
                tx.session.execute(sa.delete(model))
        chance.shuffle(day)
        replay(store, day, lambda _: None)
        rows = kept(store)
        rows["trade_history"].sort(key=lambda row: row["venue_trade_id"])
        for row in rows["trade_history"]:
            del row["created_at"]
        seen.append(rows)
    assert all(rows == seen[0] for rows in seen)
    assert seen[0]["daily_pnl"][0]["realized_pnl"] == 37.5

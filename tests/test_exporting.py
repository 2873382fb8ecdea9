"""Rows out as CSV and JSON lines, and back in: nothing lost, nothing doubled."""

from __future__ import annotations

import csv
import io
import json
import shutil
import sqlite3
import threading
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from risk_store import (
    EnforcementInFlight,
    EnforcementLog,
    InvalidValue,
    Order,
    OrderSide,
    OrderState,
    OrderType,
    RiskStore,
    SchemaMismatch,
    schema,
)
from risk_store.exporting import TABLES, Export
from risk_store.importing import ImportSummary, import_lines
from risk_store.models import ROLLED_UP, ROLLUP, Base
from risk_store.replaying import Refused
from tests.support import v1, v1_files

NOW = datetime(2026, 11, 25, 10, 30, 0, 5, tzinfo=UTC)
LOG = EnforcementLog.__table__


@pytest.fixture
def other(store_url: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RiskStore]:
    """A second, empty store: on the other engine."""
    if store_url.startswith("sqlite"):
        url = request.getfixturevalue("postgres_store_url")
    else:
        url = f"sqlite:///{shutil.copy(request.getfixturevalue('sqlite_template'), tmp_path / 'other.db')}"
    with RiskStore(url) as opened:
        yield opened


def a_log(account_id: int = 1, **values: Any) -> EnforcementLog:
    given: dict[str, Any] = {"rule_id": "RULE-003", "action": "CLOSE", "reason": "r", "success": True, "timestamp": NOW}
    return EnforcementLog(account_id=account_id, **given | values)


def add(store: RiskStore, *logs: EnforcementLog) -> None:
    with store.begin() as tx:
        tx.enforcements.add_many(logs)


def exported(store: RiskStore, table: str = "enforcement_log", **filters: Any) -> list[dict[str, Any]]:
    with store.read() as tx:
        return [json.loads(line) for line in Export(tx, table, **filters).json_lines()]


def lines_of(store: RiskStore) -> list[str]:
    with store.read() as tx:
        return [*Export(tx).json_lines()]


def bring(store: RiskStore, lines: list[str]) -> tuple[ImportSummary, list[Refused]]:
    refused: list[Refused] = []
    return import_lines(store, lines, refused.append), refused


def said(rows: list[dict[str, Any]]) -> Counter[str]:
    """What rows say but for their ids, each as often as it is said."""
    return Counter(json.dumps({**row, "id": None}, sort_keys=True) for row in rows)


# Out


def test_every_table_but_the_roll_up_can_be_exported_when_it_is_empty_too(store: RiskStore) -> None:
    assert set(TABLES) == set(Base.metadata.tables) - {table.name for table in (*ROLLUP, ROLLED_UP)}
    with store.read() as tx:
        for table in TABLES:
            assert "".join(Export(tx, table).json_lines()) == ""
            [header] = Export(tx, table).csv_lines()
            assert header.strip().split(",") == TABLES[table].columns.keys()


def test_codes_are_names_in_csv_and_integers_in_json_lines(store: RiskStore) -> None:
    with store.begin() as tx:
        tx.orders.save(
            Order(
                id=3_425_270_858,
                account_id=1,
                contract_id="=CON",
                type=OrderType.LIMIT,
                side=OrderSide.SELL,
                size=1,
                limit_price=-37.63,
                state=OrderState.ACTIVE,
            )
        )
    [row] = exported(store, "orders")
    assert (row["table"], row["type"], row["side"], row["limit_price"]) == ("orders", int(OrderType.LIMIT), 1, -37.63)
    with store.read() as tx:
        header, line = csv.reader(io.StringIO("".join(Export(tx, "orders").csv_lines()), newline=""))
    values = dict(zip(header, line, strict=True))
    assert (values["type"], values["side"], values["limit_price"]) == ("LIMIT", "SELL", "-37.63")
    assert values["contract_id"] == "'=CON"


def test_conditions_narrow_what_is_exported_and_compare_instants(store: RiskStore) -> None:
    hour = timedelta(hours=1)
    add(store, a_log(1), a_log(2, rule_id="RULE-008"), a_log(2, timestamp=NOW - hour), a_log(3, timestamp=NOW + hour))
    assert [row["account_id"] for row in exported(store, account_id=2)] == [2, 2]
    assert [row["account_id"] for row in exported(store, rule_id="RULE-008")] == [2]
    assert [row["account_id"] for row in exported(store, since=NOW, until=NOW + hour)] == [1, 2]
    assert exported(store, account_id=2, rule_id="RULE-003", since=NOW) == []
    with store.begin() as tx:
        tx.lockouts.set(7, "r", "RULE-003", until=None)
    assert [row["account_id"] for row in exported(store, "lockouts", rule_id="RULE-003", account_id=7)] == [7]
    assert exported(store, "lockouts", until=NOW - 1000 * 24 * hour) == []


@pytest.mark.parametrize(
    ("table", "condition", "named"),
    [
        ("orders", {"rule_id": "RULE-003"}, "rule_id"),
        ("contract_cache", {"account_id": 1}, "account_id"),
        ("daily_pnl", {"since": NOW}, "since"),
        ("enforcement_log", {"account_id": 0}, "account_id"),
        ("enforcement_log", {"until": datetime(2026, 1, 1)}, "until"),  # noqa: DTZ001 (that is the point)
        ("enforcement_hours", {}, "table"),
    ],
)
def test_a_condition_that_a_table_has_not_is_refused_by_name(
    store: RiskStore, table: str, condition: dict[str, Any], named: str
) -> None:
    with store.read() as tx, pytest.raises(InvalidValue) as refused:
        Export(tx, table, **condition)
    assert refused.value.field == named


def test_an_export_is_of_one_moment_whatever_is_written_meanwhile(store: RiskStore) -> None:
    add(store, *(a_log(1, execution_time_ms=n) for n in range(2_500)))
    with store.read() as tx:
        export = Export(tx)
        assert export.count() == 2_500
        rows = export.rows()
        next(rows)
        writer = threading.Thread(target=add, args=(store, a_log(9)))  # this thread reads
        writer.start()
        writer.join()
        assert sum(1 for _ in rows) == 2_499
    assert len(exported(store, account_id=9)) == 1


def test_memory_does_not_grow_with_the_log(store: RiskStore) -> None:
    def peak() -> int:
        with store.read() as tx:
            tracemalloc.start()
            try:
                for _ in Export(tx).csv_lines():
                    pass
                return tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()

    add(store, *(a_log(1, reason="r" * 200, execution_time_ms=n) for n in range(3_000)))
    first = peak()
    add(store, *(a_log(1, reason="r" * 200, execution_time_ms=n) for n in range(9_000)))
    assert peak() < first * 1.5


def test_a_server_sends_the_rows_as_they_are_asked_for(postgres_store_url: str) -> None:
    with RiskStore(postgres_store_url) as store:
        add(store, *(a_log(1) for _ in range(1_500)))
        with store.read() as tx:
            rows = Export(tx).rows()
            next(rows)
            assert tx.session.scalar(sa.text("SELECT count(*) FROM pg_cursors")) == 1
            rows.close()
            assert tx.session.scalar(sa.text("SELECT count(*) FROM pg_cursors")) == 0


# There and back

TEXTS = st.text(max_size=12) | st.sampled_from(
    ["=1+1", 'a,b\r\n"c"', "\x1b[2J", "\u202e", "x" * 2000, "\ud800", "a\0b"]
)
NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=6)
LOGS = st.builds(
    EnforcementLog,
    account_id=st.sampled_from([1, 2, 2**63 - 1]),
    rule_id=NAMES,
    action=NAMES,
    reason=TEXTS.filter(bool),
    success=st.booleans(),
    error_message=st.none() | TEXTS,
    positions_closed=st.integers(0, 3),
    timestamp=st.datetimes(timezones=st.just(UTC)) | st.sampled_from([NOW, NOW + timedelta(microseconds=1)]),
    execution_time_ms=st.none() | st.integers(0, 2**63 - 1),
    details=st.none() | TEXTS,
    enforcement_id=st.none() | st.uuids().map(str),
)


@settings(max_examples=40)
@given(st.lists(LOGS, max_size=8), st.lists(st.integers(0, 7), max_size=4))
def test_what_is_exported_is_imported_whole_and_once(
    store: RiskStore, other: RiskStore, logs: list[EnforcementLog], again: list[int]
) -> None:
    for opened in (store, other):
        with opened.begin() as tx:
            tx.session.execute(sa.delete(LOG))
    twins = [EnforcementLog.from_dict(logs[n].to_dict() | {"enforcement_id": None}) for n in again if n < len(logs)]
    add(store, *logs, *twins)  # rows that are equal are two rows all the same
    lines = lines_of(store)
    summary, refused = bring(other, lines)
    assert (summary.written, summary.known, refused) == (len(lines), 0, [])
    assert said(exported(other)) == said(exported(store))
    assert bring(other, lines)[0] == ImportSummary(known=len(lines))
    assert bring(store, lines_of(other))[0] == ImportSummary(known=len(lines))
    assert said(exported(other)) == said(exported(store))


def test_of_equal_rows_without_an_id_as_many_are_there_afterwards_as_in_the_file(store: RiskStore) -> None:
    add(store, a_log(1))
    line = lines_of(store)[0]
    assert bring(store, [line] * 3)[0] == ImportSummary(written=2, known=1)
    assert bring(store, [line] * 3)[0] == ImportSummary(known=3)
    assert bring(store, [line])[0] == ImportSummary(known=1)
    assert len(exported(store)) == 3


def test_an_enforcement_is_known_by_its_id_in_one_file_and_in_the_store(store: RiskStore) -> None:
    add(store, a_log(1, enforcement_id="e1", reason="as it was"))
    line = lines_of(store)[0]
    other_account = line.replace('"account_id": 1', '"account_id": 2')
    told_otherwise = line.replace("as it was", "as somebody wrote it later")
    assert bring(store, [told_otherwise, other_account, other_account])[0] == ImportSummary(written=1, known=2)
    assert [(row["account_id"], row["reason"]) for row in exported(store)] == [(1, "as it was"), (2, "as it was")]


def test_rows_are_recognised_in_whatever_form_a_v1_daemon_wrote_the_time(sqlite_template: Path, tmp_path: Path) -> None:
    file = Path(shutil.copy(sqlite_template, tmp_path / "risk.db"))
    with closing(sqlite3.connect(file)) as daemon:
        for at in ("2025-10-21T17:00:00Z", "2025-10-21 17:00:00", "2025-10-21T12:00:00-05:00"):
            daemon.execute(
                "INSERT INTO enforcement_log (account_id, rule_id, action, reason, timestamp) "
                "VALUES (1, 'R', 'A', 'r', ?)",
                (at,),
            )
        daemon.commit()
    with RiskStore(f"sqlite:///{file}") as store:
        lines = lines_of(store)
        assert bring(store, lines)[0] == ImportSummary(known=3)
        assert bring(store, [lines[0]] * 4)[0] == ImportSummary(written=1, known=3)


def test_more_rows_than_fit_in_one_transaction(store: RiskStore, other: RiskStore) -> None:
    add(store, *(a_log(n % 7 + 1, execution_time_ms=n, timestamp=NOW + timedelta(hours=n)) for n in range(1_200)))
    add(store, *(a_log(n % 7 + 1, enforcement_id=f"e{n}") for n in range(1_200)))
    lines = lines_of(store)
    assert bring(other, lines)[0] == ImportSummary(written=2_400)
    assert bring(other, lines)[0] == ImportSummary(known=2_400)
    assert [row["execution_time_ms"] for row in exported(other)] == [
        row["execution_time_ms"] for row in exported(store)
    ]


# What a v1 file holds


def test_odd_rows_of_a_v1_file_are_written_or_refused_and_never_lost(tmp_path: Path, sqlite_template: Path) -> None:
    made = iter(range(10**6))

    @settings(max_examples=25, suppress_health_check=list(HealthCheck))
    @given(generated=v1_files.v1_files())
    def check(generated: v1_files.V1File) -> None:
        folder = tmp_path / str(next(made))
        folder.mkdir()
        file = generated.make(folder / "state.db")
        try:
            schema.upgrade(f"sqlite:///{file}", backup=False, accept_contradictions=True, canonicalise=True)
        except SchemaMismatch:
            return  # not a file of ours, by its own tests
        with (
            RiskStore(f"sqlite:///{file}") as old,
            RiskStore(f"sqlite:///{shutil.copy(sqlite_template, folder / 'new.db')}") as new,
        ):
            for table in TABLES:
                with old.read() as tx:
                    rows = sum(1 for _ in csv.reader(io.StringIO("".join(Export(tx, table).csv_lines()), newline="")))
                    assert rows == 1 + Export(tx, table).count()
                    for line in Export(tx, table).json_lines():
                        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
            lines = lines_of(old)
            summary, refused = bring(new, lines)
            assert summary.written + summary.refused == len(lines)
            assert all(line.reason and json.loads(line.text)["id"] for line in refused)
            again, _ = bring(new, lines)
            assert (again.written, again.known, again.refused) == (0, summary.written, summary.refused)
            # What is refused is so because nobody can read it, and is in the file it came from all the same.
            assert bring(old, lines)[0].written == 0

    check()


def test_each_value_that_the_store_cannot_keep_is_refused_with_its_name(store: RiskStore, tmp_path: Path) -> None:
    add(store, a_log(1))
    good = json.loads(lines_of(store)[0])
    for wrong, reason in [
        ({"timestamp": "so on"}, "timestamp"),
        ({"timestamp": None}, "timestamp"),
        ({"account_id": -5}, "account_id"),
        ({"account_id": "many"}, "account_id"),
        ({"rule_id": {"hex": "00ff"}}, "rule_id"),
        ({"rule_id": ""}, "rule_id"),
        ({"success": 2}, "success"),
        ({"execution_time_ms": 2.5}, "execution_time_ms"),
        ({"execution_time_ms": {"float": "inf"}}, "execution_time_ms"),
        ({"execution_time_ms": 2**63}, "execution_time_ms"),
        ({"positions_closed": None}, "positions_closed"),
        ({"reason": ["r"]}, "no value of a column"),
        ({"reason": {"r": "s"}}, "no value of a column"),
        ({"colour": "red"}, "colour"),
        ({"table": "orders"}, "orders is not imported"),
        ({"table": "tomorrow"}, "tomorrow is not imported"),
        ({"table": 5}, "5 is not imported"),
    ]:
        summary, refused = bring(store, [json.dumps(good | wrong)])
        assert (summary.written, summary.refused) == (0, 1), wrong
        assert reason in refused[0].reason
        assert json.loads(refused[0].text) == good | wrong
    for text in ('{"table": "enforcement_log"', '{"table": "enforcement_log"}', '{"table": []}', '{"table": ' * 9000):
        assert bring(store, [text])[0] == ImportSummary(refused=1)
    assert len(exported(store)) == 1


def test_refused_lines_can_be_corrected_and_imported(store: RiskStore) -> None:
    add(store, a_log(1))
    wrong = lines_of(store)[0].replace('"account_id": 1', '"account_id": -7')
    _, [refused] = bring(store, [wrong])
    as_kept = json.dumps(refused.to_dict())
    assert bring(store, [as_kept])[0] == ImportSummary(refused=1)
    assert bring(store, [as_kept.replace("-7", "7")])[0] == ImportSummary(written=1)
    cut_off = '12:00 CRITICAL {"event": "enforcement not recorded", "account_id": 1'
    _, [refused] = bring(store, [cut_off])
    whole = cut_off + (
        ', "rule_id": "R", "action": "A", "reason": "r", "success": true, "enforcement_id": "e9", '
        '"timestamp": "2026-11-25T10:30:00+00:00", "positions_closed": 0, "orders_canceled": 0}'
    )
    assert bring(store, [json.dumps(refused.to_dict() | {"text": whole})])[0] == ImportSummary(written=1)
    assert [row["account_id"] for row in exported(store)] == [1, 7, 1]


def test_lines_of_neither_kind_are_no_concern_of_an_import(store: RiskStore) -> None:
    lines = [
        "",
        "hello",
        "{}",
        "[]",
        '{"event": 5}',
        '{"line": 3, "reason": "x"}',
        '{"line": 3, "reason": ',
        "\udcff",
        "5",
    ]
    assert bring(store, lines)[0] == ImportSummary()


def test_an_import_that_is_broken_off_leaves_whole_transactions_and_can_be_run_again(
    store: RiskStore, other: RiskStore
) -> None:
    add(store, *(a_log(1, execution_time_ms=n) for n in range(1_500)))
    lines = lines_of(store)

    def until_ctrl_c() -> Iterator[str]:
        yield from lines[:1_400]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_lines(other, until_ctrl_c(), lambda _line: None)
    assert len(exported(other)) == 1_000
    assert bring(other, lines)[0] == ImportSummary(written=500, known=1_000)


def test_two_imports_of_one_file_at_once_write_each_row_once(store: RiskStore, other: RiskStore) -> None:
    add(store, *(a_log(1, execution_time_ms=n) for n in range(1_200)))
    lines = lines_of(store)
    summaries: list[ImportSummary] = []
    threads = [threading.Thread(target=lambda: summaries.append(bring(other, lines)[0])) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(summary.written for summary in summaries) == 1_200
    assert len(exported(other)) == 1_200


def test_in_flight_rows_and_v1_rows_can_be_exported(store: RiskStore, tmp_path: Path) -> None:
    with store.begin() as tx:
        tx.enforcements.start(
            EnforcementInFlight(
                account_id=7, enforcement_id="e", rule_id="R", action="A", reason="r", started_at=NOW, host="h", pid=1
            )
        )
    [row] = exported(store, "enforcement_in_flight", account_id=7, since=NOW)
    assert row["started_at"] == NOW.isoformat()
    file = v1.make_v1(tmp_path / "state.db")
    schema.upgrade(f"sqlite:///{file}", backup=False)
    with RiskStore(f"sqlite:///{file}") as old:
        for table in TABLES:
            assert len(exported(old, table)) == len(v1.ROWS.get(table, ()))

"""A store copied between engines: every row, every id to come, and the proof of it."""

import json
import random
import shutil
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from risk_store import EnforcementLog, InvalidValue, RiskStore, RiskStoreError, SchemaMismatch, Trade, copying
from risk_store.copying import copy_store
from risk_store.models import ROLLED_UP, ROLLUP, Base
from risk_store.schema import HEAD, status, upgrade
from tests.support import v1
from tests.support.forks import ROOT
from tests.support.pictures import rows_of


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Every table filled, by a v1 daemon and by this release."""
    file = tmp_path / "risk.db"
    shutil.copy(ROOT / "tests" / "frozen" / f"{HEAD}.db", file)
    upgrade(url_of(file), canonicalise=True, backup=False)
    return file


@pytest.fixture(params=["sqlite", "postgresql"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of nothing yet."""
    if request.param == "postgresql":
        return str(request.getfixturevalue("postgres_database"))
    return f"sqlite:///{tmp_path / 'target.db'}"


def url_of(file: Path) -> str:
    return f"sqlite:///{file}"


def content(url: str) -> dict[str, list[dict[str, Any]]]:
    """Every row of every table as Python values, but for what is derived from other rows."""
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        rows = {
            table.name: [
                dict(row._mapping)
                for row in connection.execute(
                    sa.select(table).where(table.c.pruned == sa.true() if table in ROLLUP else sa.true())
                )
            ]
            for table in Base.metadata.sorted_tables
            if table is not ROLLED_UP
        }
    engine.dispose()
    return {table: sorted(found, key=repr) for table, found in rows.items()}


def execute(file: Path, *statements: str) -> None:
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


def test_every_row_of_every_table_arrives_and_comes_back(source: Path, target: str, tmp_path: Path) -> None:
    before = content(url_of(source))
    assert all(before.values()), "every table has rows, or this test shows nothing"
    told = []
    report = copy_store(url_of(source), target, progress=lambda *news: told.append(news))
    assert content(target) == before
    assert {table.table: table.rows for table in report.tables} == {table: len(rows) for table, rows in before.items()}
    assert ("copying orders", len(before["orders"]), len(before["orders"])) in told
    sums = {table.table: table.sums for table in report.tables}
    assert sums["daily_pnl"]["realized_pnl"] == sum(row["realized_pnl"] for row in before["daily_pnl"])
    assert sums["orders"]["size"] == sum(row["size"] for row in before["orders"])
    assert (report.rejected, report.left_behind) == (None, ())
    copy_store(target, url_of(tmp_path / "back.db"))
    assert content(url_of(tmp_path / "back.db")) == before
    assert rows_of(tmp_path / "back.db").keys() == rows_of(source).keys()


def test_ids_go_on_behind_the_highest_one_the_source_ever_gave(source: Path, target: str, tmp_path: Path) -> None:
    execute(source, "DELETE FROM enforcement_log WHERE id = 901", "DELETE FROM trade_history")
    copy_store(url_of(source), target)

    def next_ids(url: str) -> tuple[int | None, int | None]:
        with RiskStore(url) as store, store.begin() as tx:
            log = tx.enforcements.add(EnforcementLog(account_id=1, rule_id="R", action="A", reason="r", success=True))
            trade = Trade(account_id=1, timestamp=datetime(2025, 10, 21, tzinfo=UTC), contract_id="X")
            tx.session.add(trade)
            tx.session.flush()
            return log.id, trade.id

    assert next_ids(target) == (902, 902)
    copy_store(target, url_of(tmp_path / "back.db"))
    assert next_ids(url_of(tmp_path / "back.db")) == (903, 903)


def test_a_new_store_without_a_row_is_copied_too(tmp_path: Path, target: str) -> None:
    upgrade(url_of(tmp_path / "empty.db"))
    assert copy_store(url_of(tmp_path / "empty.db"), target).rows == 0
    with RiskStore(target) as store, store.begin() as tx:
        log = tx.enforcements.add(EnforcementLog(account_id=1, rule_id="R", action="A", reason="r", success=True))
    assert log.id == 1


def test_a_target_that_holds_rows_is_refused_and_keeps_them(source: Path, target: str) -> None:
    upgrade(target)
    with RiskStore(target) as store, store.begin() as tx:
        tx.lockouts.set(5, "precious", "RULE-003")
    before = content(target)
    with pytest.raises(RiskStoreError, match=r"the target holds rows already, in lockouts\. Copy into an empty store"):
        copy_store(url_of(source), target)
    assert content(target) == before


def test_only_a_store_at_head_is_copied(tmp_path: Path, source: Path, target: str) -> None:
    v1.make_v1(tmp_path / "v1.db")
    with pytest.raises(SchemaMismatch, match="Run: risk-store upgrade"):
        copy_store(url_of(tmp_path / "v1.db"), target)
    with pytest.raises(SchemaMismatch, match="no store here yet"):
        copy_store(url_of(tmp_path / "missing.db"), target)
    with pytest.raises(SchemaMismatch, match="the database of a v1 daemon"):
        copy_store(url_of(source), url_of(tmp_path / "v1.db"))
    assert status(target).state == "empty"
    for same in (url_of(source), "sqlite:///" + str(source.parent / "." / "risk.db")):
        with pytest.raises(InvalidValue, match="another database than the source"):
            copy_store(url_of(source), same)
    with pytest.raises(InvalidValue, match="a database that lasts"):
        copy_store("sqlite://", target)


def test_a_row_that_the_target_cannot_hold_is_named_and_nothing_is_copied(source: Path, target: str) -> None:
    execute(source, "UPDATE orders SET size = 'many' WHERE id = 102")
    with pytest.raises(InvalidValue, match=r"orders\.size: 'many' is not .* \(in orders, id 102\).*--rejected FILE"):
        copy_store(url_of(source), target)
    assert not any(content(target).values())


def test_rows_that_the_target_cannot_hold_go_to_the_file_of_rejected_rows(
    source: Path, target: str, tmp_path: Path
) -> None:
    execute(
        source,
        "UPDATE orders SET size = 'many' WHERE id = 102",
        "UPDATE orders SET type = 99, stop_price = 'x' WHERE id = 103",
        "INSERT INTO daily_pnl (account_id, date, realized_pnl) VALUES (123, '2025-10-21T00:00:00', 5)",
        "UPDATE orders SET contract_id = 'a' || char(0) || 'b' WHERE id = 104",
        "UPDATE lockouts SET is_locked = 'perhaps' WHERE account_id = 123",
        "UPDATE enforcement_log SET timestamp = '' WHERE id = 1",
        "UPDATE enforcement_log SET reason = 'a' || char(0) || 'b' WHERE id = 2",
    )
    before = content_without_types(source)
    rejected = tmp_path / "rejected.jsonl"
    report = copy_store(url_of(source), target, rejected=rejected)
    lines = [json.loads(line) for line in rejected.read_text().splitlines()]
    assert {(line["table"], line["row"].get("id", line["row"]["account_id"])) for line in lines} == {
        ("orders", 102),
        ("orders", 103),
        ("orders", 104),
        ("lockouts", 123),
        ("enforcement_log", 1),
        ("daily_pnl", 123),
    }
    reasons = {line["row"].get("id"): line["reason"] for line in lines}
    assert "orders.stop_price: 'x' is not a finite number" in reasons[103]
    assert {table.table: (table.rows, table.rejected) for table in report.tables if table.rejected} == {
        "daily_pnl": (before["daily_pnl"] - 1, 1),
        "orders": (before["orders"] - 3, 3),
        "lockouts": (before["lockouts"] - 1, 1),
        "enforcement_log": (before["enforcement_log"] - 1, 1),
    }
    with RiskStore(target) as store, store.read() as tx:
        row = tx.enforcements.get(2)
        assert row is not None
        assert row.reason == r"a\x00b", "what no server stores is made visible, as for new rows"
    with pytest.raises(FileExistsError):
        copy_store(url_of(source), url_of(tmp_path / "third.db"), rejected=rejected)


def test_codes_that_this_release_does_not_know_are_copied_as_they_are(source: Path, target: str) -> None:
    execute(source, "UPDATE orders SET type = 77, state = 99 WHERE id = 102", "DELETE FROM trade_history")
    execute(source, "UPDATE sqlite_sequence SET seq = 0 WHERE name = 'trade_history'")
    copy_store(url_of(source), target)
    with RiskStore(target) as store, store.read() as tx:
        order = tx.orders.get(102)
        assert order is not None
        assert (order.type, order.state) == (77, 99)


def test_texts_that_no_server_stores_are_counted(source: Path, target: str) -> None:
    execute(
        source,
        "UPDATE enforcement_log SET reason = 'a' || char(0) || 'b' WHERE id = 2",
        "UPDATE enforcement_log SET details = CAST(x'ff' AS TEXT) WHERE id = 1",
    )
    escaped = {table.table: table.escaped for table in copy_store(url_of(source), target).tables}
    assert escaped["enforcement_log"] == 2
    assert sum(escaped.values()) == 2


def content_without_types(file: Path) -> dict[str, int]:
    return {table: len(rows) for table, rows in rows_of(file).items()}


def test_what_a_user_keeps_in_the_same_file_is_named_and_left_behind(source: Path, target: str) -> None:
    execute(source, "ALTER TABLE orders ADD COLUMN desk TEXT", "CREATE TABLE notes (words)")
    report = copy_store(url_of(source), target)
    assert report.left_behind == ("column orders.desk", "table notes")


def test_a_daemon_that_writes_meanwhile_is_not_half_copied(source: Path, target: str) -> None:
    """One snapshot: a trade and its day's figure are copied both or neither."""
    execute(source, "PRAGMA journal_mode = WAL")
    before = content(url_of(source))

    def write(*_: object) -> None:
        execute(
            source,
            "INSERT INTO session_state (account_id, session_start) VALUES (abs(random()), '2025-10-22 00:00:00')",
        )

    copy_store(url_of(source), target, progress=write)
    assert content(target) == before


@pytest.mark.parametrize("after", [1, 3, 6, 9])
def test_a_copy_that_breaks_off_leaves_the_target_empty_and_can_be_repeated(
    source: Path, target: str, tmp_path: Path, after: int
) -> None:
    calls = iter(range(after))
    execute(source, "UPDATE orders SET size = 'x' WHERE id = 103")

    def break_off(*_: object) -> None:
        if next(calls, None) is None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        copy_store(url_of(source), target, progress=break_off, rejected=tmp_path / "rejected.jsonl")
    assert not any(content(target).values())
    assert not (tmp_path / "rejected.jsonl").exists()
    assert copy_store(url_of(source), target, rejected=tmp_path / "rejected.jsonl").rows


def test_a_row_that_changes_on_its_way_is_found_out(source: Path, target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    encode = copying._Table._encode
    spoiled = random.Random(5)

    def spoil(self: Any, column: sa.Column[Any], value: Any) -> Any:
        encoded = encode(self, column, value)
        # What is sent is tallied before it is sent: this changes what arrives.
        return _Slippery(encoded) if column.name == "average_price" and spoiled.random() < 1 else encoded

    class _Slippery(float):
        def __repr__(self) -> str:
            return "0.5"

    monkeypatch.setattr(copying._Table, "_encode", spoil)
    with pytest.raises(
        RiskStoreError, match=r"positions: 3 rows were sent and 3 arrived, with sums .*Nothing was copied"
    ):
        copy_store(url_of(source), target)
    assert not any(content(target).values())


def test_a_table_of_many_batches_is_copied_in_order(
    tmp_path: Path, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = v1.make_v1(tmp_path / "v1.db", log_rows=2_500)
    upgrade(url_of(file), backup=False)
    monkeypatch.setattr(copying, "BATCH", 400)
    told = []
    copy_store(url_of(file), target, progress=lambda *news: told.append(news))
    total = 2_500 + len(v1.ROWS["enforcement_log"])
    done = [rows for what, rows, of in told if what == "copying enforcement_log" and of == total]
    assert done == [*range(400, total, 400), total]
    assert content(target)["enforcement_log"] == content(url_of(file))["enforcement_log"]


def test_another_writer_of_the_target_waits_until_the_copy_is_done(source: Path, postgres_database: str) -> None:
    upgrade(postgres_database)
    plain = sa.make_url(postgres_database).set(drivername="postgresql").render_as_string(hide_password=False)
    refused = []

    def write(*_: object) -> None:
        with psycopg.connect(plain, autocommit=True) as connection:
            connection.execute("SET lock_timeout = '10ms'")
            try:
                connection.execute("INSERT INTO lockouts (account_id) VALUES (987654)")
            except psycopg.errors.LockNotAvailable:
                refused.append(True)

    copy_store(url_of(source), postgres_database, progress=write)
    assert all(refused)
    assert refused

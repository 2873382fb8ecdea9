"""A v1 daemon's file adopted with nothing lost: what is converted, what stays, what is asked, and the way back."""

import hashlib
import io
import json
import logging
import os
import shutil
import sqlite3
import tracemalloc
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.util import CommandError
from hypothesis import HealthCheck, given, settings

from alembic import command
from risk_store import (
    EnforcementLog,
    InvalidValue,
    LegacyContradiction,
    RiskStore,
    RiskStoreError,
    SchemaMismatch,
    StoreBusy,
    StoreFull,
    StoreReadOnly,
    engines,
    projectx,
)
from risk_store.codes import OrderState, OrderType
from risk_store.schema import (
    HEAD,
    REVISIONS,
    FindingKind,
    LegacyChoices,
    SchemaState,
    Upgrade,
    UpgradeReport,
    alembic_config,
    copies,
    odd_values,
    status,
    tally,
    upgrade,
)
from tests.support import v1, v1_files
from tests.support.forks import Nursery, alembic
from tests.support.pictures import files_in, is_sound, rows_of, sorted_rows

CHICAGO = "America/Chicago"


@pytest.fixture
def v1_file(tmp_path: Path) -> Path:
    return v1.make_v1(tmp_path / "state.db")


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with Nursery() as warm:
        yield warm


def url_of(file: Path) -> str:
    return f"sqlite:///{file}"


def execute(file: Path, sql: str, *values: Any) -> list[tuple[Any, ...]]:
    """One statement of a v1 daemon's own, or a look at what is stored."""
    with closing(sqlite3.connect(file, isolation_level=None)) as daemon:
        return daemon.execute(sql, values).fetchall()


def add_order(file: Path, id: int, **values: Any) -> None:
    row = {"account_id": 1, "contract_id": "X", "type": 1, "side": 0, "size": 1, "state": 2}
    row |= {"id": id, "created_at": "2025-10-21 17:00:00", **values}
    execute(file, f"INSERT INTO orders ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})", *row.values())


def add_log(file: Path, **values: Any) -> None:
    row = {"account_id": 1, "rule_id": "R", "action": "A", "reason": "r", "execution_time_ms": 100, **values}
    execute(file, f"INSERT INTO enforcement_log ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})", *row.values())


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


# Files of all kinds


def adopt_and_compare(folder: Path, generated: v1_files.V1File, zone: str | None) -> None:
    file = generated.make(folder / "state.db")
    try:
        before, bytes_before = v1_files.cells_of(file), digest(file)
        choices = {"legacy_timezone": zone, "accept_contradictions": True}
        promised = upgrade(url_of(file), dry_run=True, **choices)  # type: ignore[arg-type]
        assert digest(file) == bytes_before, "a dry run touches nothing"
        report = upgrade(url_of(file), **choices)  # type: ignore[arg-type]

        after = v1_files.cells_of(file)
        assert v1_files.only(after, before) == v1_files.expected(before, zone or "UTC")
        assert report.backup is not None
        assert v1_files.cells_of(report.backup) == before, "the copy holds the original"
        assert report.found == promised.found, "a dry run says what will be done"
        assert report.rows_before == {table: len(rows) for table, rows in before.items() if table != "sqlite_sequence"}
        assert report.rows_before.items() <= report.rows_after.items()
        changed = sum(
            row[name] != after[table][place][name]
            for table, rows in before.items()
            for place, row in enumerate(rows)
            for name in row
        )
        assert changed == sum(finding.rows for finding in report.converted if finding.kind is FindingKind.INSTANT)
        assert is_sound(file)
        assert all(odd.becomes is None for odd in odd_values(url_of(file))), "what can be made canonical is"
        assert upgrade(url_of(file), canonicalise=True).steps == 0
        use(file, before)
    finally:
        shutil.rmtree(folder)


def use(file: Path, before: v1_files.Tables) -> None:
    """Real work goes on in it, and no odd row hides another."""
    with RiskStore(url_of(file)) as store:
        with store.read() as tx:
            states = [row["state"][1] for row in before["orders"]]
            assert len(tx.orders.working()) == sum(state in (1, 2, 7, 8) for state in states)
            assert len(tx.enforcements.list(limit=1000)) == len(before["enforcement_log"])
            tx.enforcements.time_by_rule("all")
            tx.enforcements.daily_trend(30_000)
            tx.enforcements.alert_counts()
            tx.enforcements.slow_enforcements(0, 1000)
            tx.lockouts.active()
        with store.enforce(77, "RULE-003", "CLOSE_ALL", "work goes on", lock_until=None):
            pass
        with store.read() as tx:
            assert tx.lockouts.is_locked(77)


def check_generated_files(tmp_path: Path, number: int) -> None:
    made = iter(range(10**6))

    @settings(max_examples=number, suppress_health_check=list(HealthCheck), print_blob=True)
    @given(generated=v1_files.v1_files())
    def check(generated: v1_files.V1File) -> None:
        place = next(made)
        folder = tmp_path / str(place)
        folder.mkdir()
        adopt_and_compare(folder, generated, CHICAGO if place % 3 == 2 else None)

    check()


def test_a_v1_file_of_any_content_is_adopted_with_nothing_lost(tmp_path: Path) -> None:
    check_generated_files(tmp_path, 30)


@pytest.mark.full
def test_five_hundred_v1_files_of_any_content_are_adopted_with_nothing_lost(tmp_path: Path) -> None:
    check_generated_files(tmp_path, 500)


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    peaks = []
    for rows in (12_000, 36_000):
        file = v1.make_v1(tmp_path / f"{rows}.db", log_rows=rows)
        execute(file, "UPDATE enforcement_log SET timestamp = replace(timestamp, ' ', 'T')")
        upgrade(url_of(v1.make_v1(tmp_path / f"warm{rows}.db")))
        tracemalloc.start()
        report = upgrade(url_of(file))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert sum(finding.rows for finding in report.converted) > 2 * rows - 100
    assert peaks[1] < 1.2 * peaks[0], peaks


# What the file does not say


def test_times_without_an_offset_are_those_of_the_zone_that_was_given(v1_file: Path) -> None:
    add_order(v1_file, 1, created_at="2025-10-21 12:00:00", updated_at="2025-01-21T12:00:00.5")
    add_order(v1_file, 2, created_at="2025-10-21 12:00:00Z", updated_at="2025-01-21 12:00:00+01:00")
    report = upgrade(url_of(v1_file), legacy_timezone=CHICAGO)
    assert execute(v1_file, "SELECT created_at, updated_at FROM orders WHERE id < 3") == [
        ("2025-10-21 17:00:00", "2025-01-21 18:00:00.500000"),
        ("2025-10-21 12:00:00", "2025-01-21 11:00:00"),
    ]
    assert f"taken: times without an offset as {CHICAGO}, order codes as stored" in report.text


def test_of_a_local_time_that_was_shown_twice_the_first_is_taken_and_the_report_says_so(v1_file: Path) -> None:
    add_order(v1_file, 1, created_at="2025-11-02 01:30:00")
    report = upgrade(url_of(v1_file), legacy_timezone=CHICAGO)
    assert execute(v1_file, "SELECT created_at FROM orders WHERE id = 1") == [("2025-11-02 06:30:00",)]
    [doubtful] = report.doubtful
    assert (doubtful.column, doubtful.kind, doubtful.rows) == ("orders.created_at", FindingKind.TWICE, 1)
    assert "orders.created_at: ambiguous local times in 1 row" in report.text


@pytest.mark.parametrize(("zone", "time"), [(CHICAGO, "2025-03-09 02:30:00"), ("Europe/London", "2025-03-30T01:30:00")])
def test_a_local_time_that_the_clocks_skipped_contradicts_the_zone(v1_file: Path, zone: str, time: str) -> None:
    add_order(v1_file, 1, created_at=time)
    before = files_in(v1_file.parent)
    for dry_run in (True, False):
        with pytest.raises(LegacyContradiction) as asked:
            upgrade(url_of(v1_file), legacy_timezone=zone, dry_run=dry_run)
        assert asked.value.examples[0].startswith("orders.created_at, id 1: ")
        assert [line.partition("  ")[0] for line in asked.value.commands] == [
            f"risk-store upgrade {url_of(v1_file)} --legacy-timezone {zone} --accept-contradictions",
            f"risk-store upgrade {url_of(v1_file)} --legacy-timezone UTC",
        ]
    assert files_in(v1_file.parent) == before
    upgrade(url_of(v1_file), legacy_timezone=zone, accept_contradictions=True)
    assert status(url_of(v1_file)).ok


# The gateway's codes, written straight through: SPEC 7's table, spelled out.
TYPES = {1: 2, 2: 1, 3: 4, 4: 3, 5: 5, 6: 2, 7: 2, 0: 0, 8: 8, 99: 99}
STATES = {1: 2, 2: 3, 3: 4, 4: 6, 5: 5, 6: 1, 7: 2, 8: 8, 0: 0, 9: 9, 99: 99}


def make_gateway_file(file: Path) -> Path:
    v1.make_v1(file, rows=False)
    for wire in TYPES:
        add_order(file, 100 + wire, type=wire, limit_price=20000.5 if wire == 1 else None, stop_price=1.5)
    for wire in STATES:
        add_order(file, 300 + wire, type=2, state=wire)
    return file


def test_the_gateways_codes_are_translated_once(tmp_path: Path) -> None:
    file = make_gateway_file(tmp_path / "state.db")
    report = upgrade(url_of(file), legacy_order_codes="gateway")

    def check() -> None:
        assert dict(execute(file, "SELECT id - 100, type FROM orders WHERE id < 300")) == TYPES
        assert dict(execute(file, "SELECT id - 300, state FROM orders WHERE id >= 300")) == STATES

    check()
    changed = {finding.column: finding.rows for finding in report.converted}
    assert changed == {"orders.type": 6 + len(STATES), "orders.state": 6 + len(TYPES)}
    unreadable = {finding.column: finding.rows for finding in report.unreadable}
    assert unreadable == {"orders.type": 3, "orders.state": 3}
    again = upgrade(url_of(file), legacy_order_codes="gateway", canonicalise=True)
    assert (again.steps, again.converted) == (0, ())
    assert "legacy_order_codes: not applied" in again.text
    check()
    command.downgrade(alembic_config(url_of(file)), "base")
    assert status(url_of(file)).state is SchemaState.LEGACY_V1
    upgrade(url_of(file), legacy_order_codes="gateway", legacy_timezone=CHICAGO)
    check()
    assert execute(file, "SELECT DISTINCT created_at FROM orders") == [("2025-10-21 17:00:00",)]


def test_the_table_of_the_gateways_codes_is_the_adapters() -> None:
    assert {wire: int(code) for wire, code in projectx.ORDER_TYPES.items()} == {
        w: c for w, c in TYPES.items() if 0 < w < 8
    }
    assert {wire: int(code) for wire, code in projectx.ORDER_STATUSES.items()} == {
        w: c for w, c in STATES.items() if 0 < w < 9
    }
    assert (OrderType(2).name, OrderState(2).name) == ("LIMIT", "ACTIVE")


@pytest.mark.parametrize(("given", "shown"), [(None, "stored, the default"), ("stored", "stored")])
def test_orders_whose_prices_contradict_stored_codes_stop_the_upgrade(
    tmp_path: Path, given: str | None, shown: str
) -> None:
    file = make_gateway_file(tmp_path / "state.db")
    add_order(file, 1, type=4, stop_price=5.0)
    before = files_in(tmp_path)
    for dry_run in (True, False):
        with pytest.raises(LegacyContradiction, match=rf"contradicts? legacy_order_codes={shown}\. Nothing") as asked:
            upgrade(url_of(file), legacy_order_codes=given, dry_run=dry_run)
        assert asked.value.examples[0] == "order 101: type 1 (MARKET) with limit_price 20000.5"
        stored, gateway = asked.value.commands
        assert stored.startswith(
            f"risk-store upgrade {url_of(file)} --legacy-order-codes stored --accept-contradictions"
        )
        assert gateway == f"risk-store upgrade {url_of(file)} --legacy-order-codes gateway   # no row contradicts it"
    with pytest.raises(CommandError, match="legacy-order-codes gateway"):
        command.upgrade(alembic_config(url_of(file)), "head")
    assert files_in(tmp_path) == before
    # Both answers are commands that work.
    shutil.copy(file, tmp_path / "other.db")
    upgrade(url_of(tmp_path / "other.db"), legacy_order_codes="gateway")
    upgrade(url_of(file), legacy_order_codes="stored", accept_contradictions=True)
    assert execute(file, "SELECT type FROM orders WHERE id = 101") == [(1,)]
    assert execute(tmp_path / "other.db", "SELECT type FROM orders WHERE id = 101") == [(2,)]


@pytest.mark.parametrize(
    ("type_", "limit_price", "chosen", "contradicts"),
    [
        (1, 1.5, "stored", True),
        (1, None, "stored", False),
        (2, None, "stored", True),
        (2, 1.5, "stored", False),
        (3, 1.5, "stored", True),
        (3, None, "stored", False),
        (4, None, "stored", False),
        (5, 1.5, "stored", False),
        (6, None, "stored", False),
        (2, 1.5, "gateway", True),
        (2, None, "gateway", False),
        (1, None, "gateway", True),
        (1, 1.5, "gateway", False),
        (4, 1.5, "gateway", True),
        (4, None, "gateway", False),
        (6, None, "gateway", False),
        (7, None, "gateway", False),
        (3, None, "gateway", False),
    ],
)
def test_what_contradicts_a_choice_of_codes(
    tmp_path: Path, type_: int, limit_price: float | None, chosen: str, contradicts: bool
) -> None:
    file = v1.make_v1(tmp_path / "state.db", rows=False)
    add_order(file, 1, type=type_, limit_price=limit_price)
    if contradicts:
        with pytest.raises(LegacyContradiction):
            upgrade(url_of(file), legacy_order_codes=chosen)
    else:
        upgrade(url_of(file), legacy_order_codes=chosen)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("legacy_timezone", "America/Chicag"),
        ("legacy_timezone", "../etc/passwd"),
        ("legacy_timezone", ""),
        ("legacy_order_codes", "wire"),
        ("legacy_order_codes", ""),
    ],
)
def test_a_choice_that_is_none_is_refused_by_name(v1_file: Path, option: str, value: str) -> None:
    before = files_in(v1_file.parent)
    choice: dict[str, Any] = {option: value}
    with pytest.raises(InvalidValue, match=f"^{option}: {value!r} is not "):
        upgrade(url_of(v1_file), **choice)
    assert files_in(v1_file.parent) == before


def test_alembics_own_command_takes_the_same_choices_and_says_what_it_did(nursery: Nursery, tmp_path: Path) -> None:
    file = make_gateway_file(tmp_path / "state.db")
    line = ["-x", f"url={url_of(file)}", "-x", f"legacy_timezone={CHICAGO}"]
    [asked, misspelt, doubtful] = nursery.run(
        alembic(*line, "upgrade", "head"),
        alembic(*line, "-x", "legacy_order_code=gateway", "upgrade", "head"),
        alembic(*line, "-x", "backup=maybe", "upgrade", "head"),
    )
    assert (asked.code, misspelt.code, doubtful.code) == (255, 255, 255)
    assert "contradict legacy_order_codes=stored" in asked.out + asked.err
    assert "-x legacy_order_code: unknown; there are accept_contradictions, backup, legacy_order_codes" in misspelt.out
    assert "-x backup=maybe: give yes or no" in doubtful.out
    assert list(files_in(tmp_path)) == ["state.db"]
    [end] = nursery.run(alembic(*line, "-x", "legacy_order_codes=gateway", "-x", "backup=no", "upgrade", "head"))
    assert end.passed, end
    assert f"legacy v1 -> {HEAD}   {len(REVISIONS)} steps" in end.out
    assert "orders.state: order codes in 16 rows" in end.out
    assert list(files_in(tmp_path)) == ["state.db"]
    assert execute(file, "SELECT DISTINCT created_at FROM orders") == [("2025-10-21 22:00:00",)]
    [again] = nursery.run(alembic(*line, "upgrade", "head"))
    assert f"at {HEAD} already, nothing to do" in again.out


def test_alembics_own_command_leaves_a_verified_copy(nursery: Nursery, v1_file: Path) -> None:
    before = rows_of(v1_file)
    [end] = nursery.run(alembic("-x", f"url={url_of(v1_file)}", "upgrade", "head"))
    assert end.passed, end
    copy = v1_file.with_name("state.db.v1.bak")
    assert f"copy of the file as it was (verified): {copy}" in end.out
    assert rows_of(copy) == before


@pytest.mark.parametrize("step", ["stamp", "downgrade"])
def test_a_file_that_was_never_converted_is_asked_about_whatever_alembic_did_to_it(tmp_path: Path, step: str) -> None:
    file = make_gateway_file(tmp_path / "state.db")
    getattr(command, step)(alembic_config(url_of(file)), "base")
    with pytest.raises(LegacyContradiction):
        upgrade(url_of(file))
    upgrade(url_of(file), legacy_order_codes="gateway")
    assert dict(execute(file, "SELECT id - 100, type FROM orders WHERE id < 300")) == TYPES


def test_a_store_that_a_release_has_written_to_is_not_asked_about_again(tmp_path: Path) -> None:
    """0003 was a head once: its rows are ours, also where the file carries no mark, as after `alembic --sql`."""
    file = Path(shutil.copy(Path(__file__).parent / "frozen" / "0003.db", tmp_path / "risk.db"))
    execute(file, "PRAGMA application_id = 0")
    before = execute(file, "SELECT id, type, state FROM orders")
    lockouts = execute(file, "SELECT locked_at, locked_until FROM lockouts")
    report = upgrade(url_of(file), legacy_order_codes="gateway", legacy_timezone=CHICAGO)
    assert (report.before.found, report.after) == ("0003", HEAD)
    assert execute(file, "SELECT id, type, state FROM orders") == before
    assert execute(file, "SELECT locked_at, locked_until FROM lockouts") == lockouts


def test_an_upgrade_by_steps_converts_once(tmp_path: Path) -> None:
    file = make_gateway_file(tmp_path / "state.db")
    url = url_of(file)
    execute(file, "UPDATE orders SET limit_price = NULL, type = 99 WHERE type = 1")
    for revision in REVISIONS:
        config = alembic_config(url)
        config.attributes["upgrade"] = Upgrade(
            url=sa.make_url(url), choices=LegacyChoices(timezone=CHICAGO, order_codes="gateway"), backup=False
        )
        command.upgrade(config, revision)
        assert dict(execute(file, "SELECT id - 300, state FROM orders WHERE id >= 300")) == STATES
        assert execute(file, "SELECT DISTINCT created_at FROM orders") == [("2025-10-21 22:00:00",)]


def test_both_questions_are_asked_at_once(tmp_path: Path) -> None:
    file = make_gateway_file(tmp_path / "state.db")
    add_order(file, 1, type=5, stop_price=1.0, created_at="2025-03-09 02:30:00")
    with pytest.raises(LegacyContradiction, match=r"orders contradict .*; 1 time contradicts legacy_timezone") as asked:
        upgrade(url_of(file), legacy_timezone=CHICAGO)
    assert len(asked.value.commands) == 4
    assert any("2025-03-09 02:30:00" in example for example in asked.value.examples)
    report = upgrade(url_of(file), legacy_timezone=CHICAGO, legacy_order_codes="gateway", accept_contradictions=True)
    assert "against the zone: its clocks skipped these local times" in report.text


# A v1 daemon beside new code


def test_rows_that_a_v1_daemon_writes_later_are_read_counted_and_made_canonical(v1_file: Path) -> None:
    upgrade(url_of(v1_file))
    for place, time in enumerate(["T12:00:00Z", "T07:00:00-05:00", " 12:00:00", " 12:00"]):
        add_log(v1_file, timestamp=f"2025-10-25{time}", rule_id="LATER", execution_time_ms=1000 + place)
        add_order(v1_file, 500 + place, account_id=9, created_at=f"2025-10-25{time}")
    add_log(
        v1_file, timestamp="2025-10-25T12:00:00Z", rule_id="LATER", details='{"positions_closed": 4, "error": "no"}'
    )
    noon = datetime(2025, 10, 25, 12, tzinfo=UTC)

    def what_is_read() -> list[Any]:
        with RiskStore(url_of(v1_file)) as store, store.read() as tx:
            [rule] = tx.enforcements.time_by_rule(since=noon, until=noon + timedelta(seconds=1))
            trend = tx.enforcements.statements.daily_trend(1, noon + timedelta(hours=12))
            return [
                [row.timestamp for row in tx.enforcements.list(rule_id="LATER", since=noon)],
                [order.created_at for order in tx.orders.working(9)],
                tuple(rule),
                [tuple(day) for day in tx.session.execute(trend)],
                len(tx.enforcements.list(rule_id="LATER", until=noon)),
            ]

    read = what_is_read()
    assert read[:2] == [[noon] * 5, [noon] * 4]
    assert (read[2][0], read[2][4], read[3][0][2], read[4]) == ("LATER", 5, 5, 0)
    counted = {(f.column, f.kind): f.rows for f in tally(odd_values(url_of(v1_file)))}
    assert counted == {
        ("enforcement_log.timestamp", FindingKind.INSTANT): 4,
        ("enforcement_log.details", FindingKind.OUTCOME): 1,
        ("orders.created_at", FindingKind.INSTANT): 3,
    }
    assert upgrade(url_of(v1_file)).steps == 0, "at a daemon's start nothing is walked over"
    assert tally(odd_values(url_of(v1_file)))
    before = rows_of(v1_file)
    report = upgrade(url_of(v1_file), canonicalise=True)
    assert {(f.column, f.kind): f.rows for f in report.converted} == counted
    assert report.backup == v1_file.with_name(f"state.db.{HEAD}.bak")
    assert rows_of(report.backup) == before
    assert tally(odd_values(url_of(v1_file))) == ()
    assert what_is_read() == read
    outcome = "SELECT positions_closed, error_message FROM enforcement_log WHERE details LIKE '%\"no\"%'"
    assert execute(v1_file, outcome) == [(4, "no")]
    assert upgrade(url_of(v1_file), canonicalise=True).backup is None


def test_a_zone_given_later_is_that_of_other_forms_only(v1_file: Path) -> None:
    upgrade(url_of(v1_file))
    add_order(v1_file, 500, created_at="2025-10-25T12:00:00", updated_at="2025-10-25 12:00:00")
    report = upgrade(url_of(v1_file), canonicalise=True, legacy_timezone=CHICAGO)
    stored = execute(v1_file, "SELECT created_at, updated_at FROM orders WHERE id = 500")
    assert stored == [("2025-10-25 17:00:00", "2025-10-25 12:00:00")]
    assert "canonical times have been UTC since adoption" in report.text


# Odd rows hide nobody


def test_what_cannot_be_read_is_told_once_and_listed_and_hides_no_neighbour(
    v1_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for id_, odd in enumerate([{"type": 99}, {"created_at": "soon"}, {"stop_price": "high"}, {}, {"type": 99}], 501):
        add_order(v1_file, id_, account_id=9, **odd)
    add_log(v1_file, rule_id="ODD", execution_time_ms="slow", timestamp="2025-10-25 12:00:00")
    add_log(v1_file, rule_id="ODD", execution_time_ms=9e999, timestamp="2025-10-25 12:00:00")
    add_log(v1_file, rule_id="ODD", execution_time_ms=2000, timestamp="some time")
    add_log(v1_file, rule_id="ODD", execution_time_ms=1000, timestamp="2025-10-25 12:00:00")
    upgrade(url_of(v1_file))
    with RiskStore(url_of(v1_file)) as store, caplog.at_level(logging.WARNING, "risk_store"):
        for _ in range(2):
            with store.read() as tx:
                assert [order.id for order in tx.orders.working(9)] == [501, 503, 504, 505, 502]
                assert len(tx.enforcements.list(rule_id="ODD")) == 4
                [rule] = tx.enforcements.time_by_rule(rule_id="ODD")
                assert (rule.min_time_ms, rule.max_time_ms, rule.enforcement_count) == (1000, 2000, 2)
                [rule] = tx.enforcements.time_by_rule(rule_id="ODD", since=datetime(2025, 10, 1, tzinfo=UTC))
                assert (rule.max_time_ms, rule.enforcement_count) == (1000, 1)
                [day] = tx.enforcements.daily_trend(30_000, rule_id="ODD")
                assert (str(day.date), day.avg_time_ms, day.enforcement_count) == ("2025-10-25", 1000, 1)
                assert [row.execution_time_ms for row in tx.enforcements.slow_enforcements(500, rule_id="ODD")] == [
                    2000,
                    1000,
                ]
                [alerts] = tx.enforcements.alert_counts(rule_id="ODD")
                assert (alerts.warnings, alerts.criticals, alerts.timeouts) == (2, 0, 0)
    told = [record.getMessage().partition(" cannot be read")[0] for record in caplog.records]
    assert sorted(told) == sorted(
        [
            "orders.type, id 501: 99",
            "orders.created_at, id 502: 'soon'",
            "orders.stop_price, id 503: 'high'",
            "orders.type, id 505: 99",
            "enforcement_log.execution_time_ms, id 13: 'slow'",
            "enforcement_log.execution_time_ms, id 14: inf",
            "enforcement_log.timestamp, id 15: 'some time'",
        ]
    )
    listed = {(odd.table, odd.key, odd.column) for odd in odd_values(url_of(v1_file))}
    assert listed == {
        ("orders", (501,), "type"),
        ("orders", (502,), "created_at"),
        ("orders", (503,), "stop_price"),
        ("orders", (505,), "type"),
        ("enforcement_log", (13,), "execution_time_ms"),
        ("enforcement_log", (14,), "execution_time_ms"),
        ("enforcement_log", (15,), "timestamp"),
    }


def test_text_that_is_no_utf_8_is_read_and_hides_no_neighbour(v1_file: Path) -> None:
    execute(
        v1_file,
        "UPDATE enforcement_log SET reason = CAST(x'4cff6f' AS TEXT), details = CAST(x'7bfe' AS TEXT) WHERE id = 2",
    )
    execute(v1_file, "UPDATE orders SET contract_id = CAST(x'58ff' AS TEXT) WHERE id = 102")
    upgrade(url_of(v1_file))
    with RiskStore(url_of(v1_file)) as store, store.read() as tx:
        assert len(tx.enforcements.list()) == len(v1.ROWS["enforcement_log"])
        row = tx.enforcements.get(2)
        assert row is not None
        assert row.reason.encode("utf-8", "surrogateescape") == b"L\xffo"
        contracts = [order.contract_id for order in tx.orders.working()]
        assert "X\udcff" in contracts
        assert contracts == [order.contract_id for order in tx.orders.snapshot()]
        assert tx.session.scalar(sa.text("SELECT contract_id FROM orders WHERE id = 102")) == "X\udcff", "as before"
    stored = execute(v1_file, "SELECT hex(reason), hex(details) FROM enforcement_log WHERE id = 2")
    assert stored == [("4CFF6F", "7BFE")]


@pytest.mark.parametrize("name", ["ROWID", "RowID", "_rowid_", "OID", "rowid"])
def test_a_column_that_has_the_name_of_sqlites_own_key_misleads_nobody(v1_file: Path, name: str) -> None:
    execute(v1_file, f"ALTER TABLE enforcement_log ADD COLUMN {name} TEXT DEFAULT 'x'")
    before = v1_files.cells_of(v1_file)
    add_log(v1_file, timestamp="2025-12-24T10:00:00")
    upgrade(url_of(v1_file))
    after = v1_files.cells_of(v1_file)["enforcement_log"]
    for row, old in zip(after, before["enforcement_log"], strict=False):
        assert {column: row[column] for column in old} == old
    stored = execute(v1_file, "SELECT timestamp FROM enforcement_log ORDER BY id DESC LIMIT 1")
    assert stored == [("2025-12-24 10:00:00",)]


def test_all_three_names_of_sqlites_own_key_leave_the_primary_key(v1_file: Path) -> None:
    for name in ("RowId", "_ROWID_", "oid"):
        execute(v1_file, f"ALTER TABLE enforcement_log ADD COLUMN {name} TEXT DEFAULT 'x'")
    add_log(v1_file, timestamp="2025-12-24T10:00:00")
    assert [(f.column, f.rows) for f in upgrade(url_of(v1_file)).converted if f.kind is FindingKind.INSTANT] == [
        ("enforcement_log.timestamp", 1)
    ]


@pytest.mark.parametrize(
    "odd",
    [
        "0000-00-00 00:00:00",
        "2025-02-30 10:00:00",
        "2025-10-21 25:61:61",
        "9999-99-99 99:99:99",
        "2025-00-10 10:00:00",
        "abcd-ef-gh ij:kl:mn",
        "2025-10-21 10:00:00\0x",
        "2025-10-32 10:00:00",
        "2025-13-01 10:00:00",
        5,
        b"\xff",
    ],
)
def test_a_time_that_nobody_can_read_is_in_no_report_by_time(v1_file: Path, odd: Any) -> None:
    upgrade(url_of(v1_file))
    add_log(v1_file, timestamp=odd, rule_id="ODD")
    early, late = datetime(1, 1, 5, tzinfo=UTC), datetime(9999, 12, 20, tzinfo=UTC)
    with RiskStore(url_of(v1_file)) as store, store.read() as tx:
        for bounds in ({"since": early}, {"until": late}, {"since": early, "until": late}):
            assert list(tx.enforcements.list(rule_id="ODD", **bounds)) == []  # type: ignore[arg-type]
            assert list(tx.enforcements.time_by_rule(rule_id="ODD", **bounds)) == []  # type: ignore[arg-type]
        assert list(tx.enforcements.daily_trend(700_000, rule_id="ODD")) == []
        assert len(tx.enforcements.list(rule_id="ODD")) == 1


def test_a_time_that_only_python_reads_is_told_of_where_a_report_cannot_find_it(
    v1_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    upgrade(url_of(v1_file))
    add_log(v1_file, timestamp="20251021T170000", rule_id="BASIC")
    with RiskStore(url_of(v1_file)) as store, store.read() as tx:
        tx.enforcements.time_by_rule(since=datetime(2025, 10, 1, tzinfo=UTC))
    assert [r.getMessage() for r in caplog.records if "is not found by its time" in r.getMessage()]
    upgrade(url_of(v1_file), canonicalise=True)
    with RiskStore(url_of(v1_file)) as store, store.read() as tx:
        rules = tx.enforcements.time_by_rule(since=datetime(2025, 10, 1, tzinfo=UTC))
    assert "BASIC" in [row.rule_id for row in rules]


def test_a_file_of_nothing_but_odd_rows_does_not_fill_the_disk_with_warnings(
    v1_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    upgrade(url_of(v1_file))
    for _ in range(150):
        add_log(v1_file, timestamp="", rule_id="ODD")
    with RiskStore(url_of(v1_file)) as store, store.read() as tx:
        for _ in range(2):
            tx.enforcements.time_by_rule()
            tx.enforcements.list(limit=1000)
    assert len([r for r in caplog.records if r.name == "risk_store.unreadable"]) == 101


# What is refused


@pytest.mark.parametrize(
    ("sql", "named"),
    [
        ("CREATE VIEW open_orders AS SELECT * FROM orders", "view open_orders"),
        ("CREATE TRIGGER touched AFTER INSERT ON orders BEGIN DELETE FROM positions; END", "trigger touched"),
        ("CREATE TABLE enforcement_in_flight (a)", "enforcement_in_flight"),
        ("ALTER TABLE orders ADD COLUMN filled_size TEXT", "RENAME COLUMN filled_size TO filled_size_v1"),
        ("ALTER TABLE enforcement_log ADD COLUMN positions_closed INTEGER", "BIGINT NOT NULL|INTEGER NOT NULL"),
        (
            "ALTER TABLE enforcement_log ADD COLUMN enforcement_id TEXT",
            "enforcement_log.enforcement_id is there already",
        ),
        ("CREATE INDEX ix_orders_working ON orders(state)", "DROP INDEX ix_orders_working"),
        ("CREATE INDEX IX_ORDERS_WORKING ON orders(state)", "DROP INDEX IX_ORDERS_WORKING"),
        ("ALTER TABLE orders ADD COLUMN Trailing_Amount REAL", "RENAME COLUMN Trailing_Amount TO Trailing_Amount_v1"),
        ("CREATE TABLE Enforcement_In_Flight (a)", "Enforcement_In_Flight, which v1 had not"),
        ('CREATE VIEW "my view" AS SELECT 1', 'DROP VIEW "my view"'),
    ],
)
def test_a_v1_file_with_something_in_the_way_is_refused_untouched(v1_file: Path, sql: str, named: str) -> None:
    execute(v1_file, sql)
    before = files_in(v1_file.parent)
    assert status(url_of(v1_file)).state is SchemaState.FOREIGN
    for dry_run in (True, False):
        with pytest.raises(SchemaMismatch, match=named):
            upgrade(url_of(v1_file), dry_run=dry_run)
    with pytest.raises(CommandError, match=named):
        command.upgrade(alembic_config(url_of(v1_file)), "head")
    assert files_in(v1_file.parent) == before


@pytest.mark.parametrize(
    ("revision", "table", "column", "kind"),
    [("0002", "enforcement_log", "enforcement_id", "TEXT"), ("0003", "trade_history", "trading_day", "INTEGER")],
)
def test_a_store_behind_with_something_in_the_way_is_refused_untouched(
    tmp_path: Path, revision: str, table: str, column: str, kind: str
) -> None:
    file = tmp_path / "risk.db"
    command.upgrade(alembic_config(url_of(file)), revision)
    execute(file, f"ALTER TABLE {table} ADD COLUMN {column} {kind}")
    before = files_in(tmp_path)
    with pytest.raises(SchemaMismatch, match=rf"{table}\.{column} is there already"):
        upgrade(url_of(file))
    assert files_in(tmp_path) == before
    execute(file, f"ALTER TABLE {table} DROP COLUMN {column}")
    execute(file, "DROP TABLE positions")
    assert (status(url_of(file)).state, status(url_of(file)).detail) == (SchemaState.DRIFTED, "missing positions")


def test_a_column_of_ones_own_that_is_of_the_same_kind_is_taken_over(v1_file: Path) -> None:
    execute(v1_file, "ALTER TABLE orders ADD COLUMN triggered_at DATETIME")
    execute(v1_file, "UPDATE orders SET triggered_at = '2025-10-21T17:00:00Z' WHERE id = 102")
    upgrade(url_of(v1_file))
    assert execute(v1_file, "SELECT triggered_at FROM orders WHERE id = 102") == [("2025-10-21 17:00:00",)]
    command.check(alembic_config(url_of(v1_file)))


def test_a_column_of_ones_own_in_a_store_behind_is_taken_over_with_what_it_holds(tmp_path: Path) -> None:
    file = tmp_path / "risk.db"
    command.upgrade(alembic_config(url_of(file)), "0003")
    execute(file, "ALTER TABLE trade_history ADD COLUMN trading_day DATE")
    trade = "INSERT INTO trade_history (account_id, timestamp, contract_id, trading_day) VALUES (1, ?, 'X', ?)"
    execute(file, trade, "2025-10-21 17:00:00", "2025-10-21")
    upgrade(url_of(file))
    assert execute(file, "SELECT trading_day FROM trade_history") == [("2025-10-21",)]
    command.check(alembic_config(url_of(file)))


def test_what_the_database_itself_refuses_is_told_in_words_and_leaves_the_file_as_it_was(v1_file: Path) -> None:
    execute(v1_file, "CREATE UNIQUE INDEX mine ON enforcement_log (timestamp)")
    for time in ("2025-12-24T10:00:00Z", "2025-12-24 10:00:00"):
        add_log(v1_file, timestamp=time)
    before = files_in(v1_file.parent)
    with pytest.raises(
        RiskStoreError, match=r"UNIQUE constraint failed: enforcement_log\.timestamp\. Nothing was changed"
    ):
        upgrade(url_of(v1_file))
    assert files_in(v1_file.parent) == before


def test_a_trigger_of_the_owners_that_keeps_a_history_is_no_loss(v1_file: Path) -> None:
    upgrade(url_of(v1_file))
    execute(v1_file, "CREATE TABLE audit (id)")
    execute(v1_file, "CREATE TRIGGER a AFTER UPDATE ON enforcement_log BEGIN INSERT INTO audit VALUES (new.id); END")
    add_log(v1_file, timestamp="2025-12-24T10:00:00Z")
    assert upgrade(url_of(v1_file), canonicalise=True).converted
    assert len(execute(v1_file, "SELECT * FROM audit")) == 1


def test_what_a_killed_copy_left_is_cleared_away_by_the_next_upgrade(v1_file: Path) -> None:
    for name in ("state.db.v1.bak.abcd1234.part", "state.db.v1.bak.abcd1234.part-journal"):
        (v1_file.parent / name).write_bytes(b"half")
    (v1_file.parent / "state.db.v1.bak").write_text("precious")
    upgrade(url_of(v1_file))
    assert set(files_in(v1_file.parent)) == {"state.db", "state.db.v1.bak", "state.db.v1.bak2"}


def test_a_reader_that_keeps_its_transaction_open_ends_the_upgrade_with_nothing_left_behind(
    v1_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files_in(v1_file.parent)
    monkeypatch.setattr(engines, "MIGRATION_LOCK_TIMEOUT_S", 0.2)
    with closing(sqlite3.connect(v1_file, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM orders").fetchone()
        with pytest.raises(StoreBusy, match="or keeps a read of it open"):
            upgrade(url_of(v1_file))
    assert files_in(v1_file.parent) == before


def test_a_read_only_file_is_refused_untouched(v1_file: Path) -> None:
    v1_file.chmod(0o444)  # which stops root from nothing, and still says what its owner wants
    before = files_in(v1_file.parent)
    for dry_run in (True, False):
        with pytest.raises(StoreReadOnly, match=r"state\.db is read-only\. Nothing was changed\."):
            upgrade(url_of(v1_file), dry_run=dry_run)
    with pytest.raises(CommandError, match="is read-only"):
        command.upgrade(alembic_config(url_of(v1_file)), "head")
    assert files_in(v1_file.parent) == before


def test_a_v1_database_on_postgresql_with_a_trigger_or_a_view_is_refused(postgres_database: str) -> None:
    command.upgrade(alembic_config(postgres_database), "0001")
    engine = sa.create_engine(postgres_database)
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE risk_store_version")
        connection.exec_driver_sql("CREATE TABLE others (id INTEGER); CREATE VIEW unrelated AS SELECT * FROM others")
    assert status(postgres_database).state is SchemaState.LEGACY_V1, "other applications' views are no obstacle"
    for make, drop, named in [
        ("CREATE VIEW mine AS SELECT id FROM orders", "DROP VIEW mine", "view mine"),
        (
            "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'; "
            "CREATE TRIGGER touched AFTER INSERT ON orders EXECUTE FUNCTION f()",
            "DROP TRIGGER touched ON orders",
            "trigger touched ON orders",
        ),
    ]:
        with engine.begin() as connection:
            connection.exec_driver_sql(make)
        with pytest.raises(SchemaMismatch, match=named):
            upgrade(postgres_database)
        with engine.begin() as connection:
            connection.exec_driver_sql(drop)
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO orders (id, account_id, contract_id, type, side, size, limit_price, state, created_at) "
            "VALUES (1, 1, 'X', 1, 0, 1, 5.5, 1, now()), (2, 1, 'X', 6, 0, 1, NULL, 99, now())"
        )
    with pytest.raises(LegacyContradiction):
        upgrade(postgres_database)
    report = upgrade(postgres_database, legacy_order_codes="gateway")
    assert {(f.column, f.kind.value): f.rows for f in report.found} == {
        ("orders.type", "order codes"): 2,
        ("orders.state", "order codes"): 1,
        ("orders.state", "unreadable"): 1,
    }
    with engine.begin() as connection:
        assert connection.exec_driver_sql("SELECT type, state FROM orders ORDER BY id").all() == [(2, 2), (2, 99)]
    engine.dispose()


def test_a_table_that_somebody_holds_on_postgresql_ends_the_upgrade_in_time_with_nothing_changed(
    postgres_database: str,
) -> None:
    command.upgrade(alembic_config(postgres_database), "0002")
    engine = sa.create_engine(postgres_database)
    with engine.connect() as holder:
        holder.exec_driver_sql("SELECT * FROM orders")
        with pytest.raises(RiskStoreError, match="lock timeout"):
            upgrade(postgres_database)
        assert status(postgres_database).found == "0002"
        holder.rollback()
    assert upgrade(postgres_database).after == HEAD
    engine.dispose()


# The copy, and the way back


def test_nothing_can_be_written_between_the_copy_and_the_upgrade(v1_file: Path) -> None:
    tried = []

    def write_too(what: str, _done: int, _total: int) -> None:
        with closing(sqlite3.connect(v1_file, timeout=0)) as daemon:
            try:
                daemon.execute("INSERT INTO session_state (account_id, session_start) VALUES (99, '2025-10-22')")
            except sqlite3.OperationalError as error:
                tried.append((what, error.sqlite_errorname))

    upgrade(url_of(v1_file), progress=write_too)
    assert ("copying state.db", "SQLITE_BUSY") in tried
    assert {name for _, name in tried} == {"SQLITE_BUSY"}
    assert {what for what, _ in tried} >= {"reading orders", "reading enforcement_log"}


def test_a_full_disk_leaves_the_file_as_it_was_and_says_what_to_do(v1_file: Path) -> None:
    before = files_in(v1_file.parent)
    pages = execute(v1_file, "PRAGMA page_count")[0][0]

    def cramp(raw: sqlite3.Connection, _record: object) -> None:
        raw.execute(f"PRAGMA max_page_count = {pages + 1}")

    sa.event.listen(sa.Engine, "connect", cramp)
    try:
        for backup in (True, False):
            with pytest.raises(StoreFull, match=r"state\.db: .* full\. The disk.*Free some"):
                upgrade(url_of(v1_file), backup=backup)
            assert files_in(v1_file.parent) == before, "and no copy is left to fill the disk"
        with pytest.raises(CommandError, match="full"):
            command.upgrade(alembic_config(url_of(v1_file)), "head")
    finally:
        sa.event.remove(sa.Engine, "connect", cramp)
    assert files_in(v1_file.parent) == before
    assert upgrade(url_of(v1_file)).after == HEAD


def test_a_disk_too_full_for_the_copy_leaves_the_file_as_it_was(v1_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = files_in(v1_file.parent)
    connected = copies._connected

    def cramped(file: Path, mode: str) -> Any:
        manager = connected(file, mode)

        class Cramped:
            def __enter__(self) -> sqlite3.Connection:
                connection = manager.__enter__()
                if ".part" in file.name:
                    connection.execute("PRAGMA max_page_count = 3")
                return connection

            def __exit__(self, *error: Any) -> None:
                manager.__exit__(*error)

        return Cramped()

    monkeypatch.setattr(copies, "_connected", cramped)
    with pytest.raises(StoreFull, match="full"):
        upgrade(url_of(v1_file))
    assert files_in(v1_file.parent) == before


def test_restoring_the_copy_gives_the_v1_file_back_row_for_row(v1_file: Path) -> None:
    before = sorted_rows(rows_of(v1_file))
    report = upgrade(url_of(v1_file))
    assert report.backup is not None
    with RiskStore(url_of(v1_file)) as store, store.begin() as tx:  # in WAL from here on
        tx.enforcements.add(EnforcementLog(account_id=1, rule_id="R", action="A", reason="r", success=True))
    upgraded = sorted_rows(rows_of(v1_file))
    kept = copies.restore(url_of(v1_file), report.backup)
    assert sorted_rows(rows_of(v1_file)) == before
    assert status(url_of(v1_file)).state is SchemaState.LEGACY_V1
    assert is_sound(v1_file)
    assert kept is not None
    assert sorted_rows(rows_of(kept)) == upgraded
    assert copies.restore(url_of(v1_file), kept, backup=False) is None
    assert sorted_rows(rows_of(v1_file)) == upgraded
    assert upgrade(url_of(v1_file)).steps == 0


def test_a_restored_file_is_seen_by_a_daemon_that_has_it_open(v1_file: Path) -> None:
    report = upgrade(url_of(v1_file))
    assert report.backup is not None
    with closing(sqlite3.connect(v1_file, isolation_level=None)) as daemon:
        count = "SELECT count(*) FROM sqlite_master WHERE name = 'enforcement_in_flight'"
        assert daemon.execute(count).fetchone() == (1,)
        copies.restore(url_of(v1_file), report.backup, backup=False)
        assert daemon.execute(count).fetchone() == (0,)


def test_restoring_refuses_what_is_no_copy_and_touches_nothing(v1_file: Path, tmp_path: Path) -> None:
    copy = upgrade(url_of(v1_file)).backup
    assert copy is not None
    (tmp_path / "text.bak").write_text("not a database, and longer than a header of one hundred bytes" * 3)
    execute(tmp_path / "other.bak", "CREATE TABLE others (id)")
    before = files_in(tmp_path)
    for wrong, error, text in [
        (tmp_path / "missing.bak", InvalidValue, "is not a file"),
        (tmp_path / "text.bak", SchemaMismatch, "not an SQLite database"),
        (tmp_path / "other.bak", SchemaMismatch, "none of ours"),
        (v1_file, InvalidValue, "another file than the one"),
    ]:
        with pytest.raises(error, match=text):
            copies.restore(url_of(v1_file), wrong)
    with pytest.raises(InvalidValue, match="its own backups"):
        copies.restore("postgresql+psycopg://db/risk", copy)
    with closing(sqlite3.connect(v1_file, isolation_level=None)) as writer, pytest.MonkeyPatch.context() as patch:
        patch.setattr(copies, "BUSY_TIMEOUT_S", 0.1)
        writer.execute("BEGIN IMMEDIATE")
        with pytest.raises(RiskStoreError, match="another program holds the file"):
            copies.restore(url_of(v1_file), copy, backup=False)
    assert files_in(tmp_path) == before


@pytest.mark.parametrize("damage", ["in the middle", "at the start", "no database at all", "cut off"])
def test_a_damaged_file_is_moved_aside_whole_and_the_copy_put_in_its_place(v1_file: Path, damage: str) -> None:
    before = sorted_rows(rows_of(v1_file))
    copy = upgrade(url_of(v1_file)).backup
    assert copy is not None
    content = v1_file.read_bytes()
    damaged = {
        "in the middle": content[:8192] + os.urandom(4096) + content[12288:],
        "at the start": bytes(4096) + content[4096:],
        "no database at all": b"what somebody wrote over it " * 500,
        "cut off": content[: len(content) // 2],
    }[damage]
    v1_file.write_bytes(damaged)
    kept = copies.restore(url_of(v1_file), copy)
    assert kept == v1_file.with_name("state.db.damaged")
    assert kept.read_bytes() == damaged
    assert sorted_rows(rows_of(v1_file)) == before
    assert is_sound(v1_file)
    assert set(files_in(v1_file.parent)) == {"state.db", "state.db.damaged", "state.db.v1.bak"}


def test_another_programs_database_is_not_overwritten(v1_file: Path, tmp_path: Path) -> None:
    copy = upgrade(url_of(v1_file)).backup
    assert copy is not None
    execute(tmp_path / "photos.db", "CREATE TABLE photos (id)")
    before = files_in(tmp_path)
    with pytest.raises(SchemaMismatch, match="none of ours"):
        copies.restore(url_of(tmp_path / "photos.db"), copy)
    assert files_in(tmp_path) == before


# The report


def test_the_report_says_what_was_done_in_words_and_in_json(v1_file: Path) -> None:
    add_order(v1_file, 500, type=99, created_at="2025-10-25T12:00:00Z")
    report = upgrade(url_of(v1_file))
    lines = report.text.splitlines()
    assert lines[0].startswith(f"legacy v1 -> {HEAD}   {len(REVISIONS)} steps   ")
    assert (
        f"  orders                     {len(v1.ROWS['orders']) + 1:>2}            {len(v1.ROWS['orders']) + 1:>2}"
        in report.text
    )
    assert "    id 500: '2025-10-25T12:00:00Z' -> '2025-10-25 12:00:00'" in lines
    assert "  orders.type: unreadable in 1 row" in lines
    assert f"  all of them: risk-store check {url_of(v1_file)} --list" in lines
    assert f"to go back: risk-store restore {url_of(v1_file)} {report.backup}" in lines
    assert "INSERT OR REPLACE into orders and positions resets" in report.text
    told = json.loads(json.dumps(report.to_dict()))
    assert told["rows"]["positions"] == {"before": 2, "after": 2}
    assert told["unreadable"] == [
        {"column": "orders.type", "kind": "unreadable", "rows": 1, "examples": ["id 500: 99"]}
    ]
    assert (told["backup"], told["after"], told["dry_run"]) == (str(report.backup), HEAD, False)
    assert isinstance(report, UpgradeReport)


def test_a_dry_run_on_nothing_promises_a_new_store_and_makes_no_file(tmp_path: Path) -> None:
    report = upgrade(url_of(tmp_path / "new.db"), dry_run=True)
    assert (report.before.state, report.steps, report.rows_before) == (SchemaState.EMPTY, len(REVISIONS), {})
    assert list(tmp_path.iterdir()) == []
    assert io.StringIO(report.text).readline().startswith(f"dry run, nothing was changed: empty -> {HEAD}")

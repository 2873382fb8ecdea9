"""A store over a Citus cluster: how it gets there, where its statements go, and what the loss of a worker does."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy import event

from alembic import command
from risk_store import (
    EnforcementLog,
    Lockout,
    OrderSide,
    OrderState,
    OrderType,
    PositionType,
    RiskStore,
    RiskStoreError,
)
from risk_store.cluster import ClusterStatus, cluster_status
from risk_store.copying import copy_store
from risk_store.distributing import distribute
from risk_store.events import OrderUpdate, PositionUpdate, TradeUpdate
from risk_store.models import Base, Order
from risk_store.repositories import lane
from risk_store.repositories.enforcements import INSERT
from risk_store.repositories.lockouts import SET
from risk_store.schema import HEAD, alembic_config, status, upgrade
from risk_store.sharding import Placement, placement_of
from risk_store.statements import analytics, rollup
from risk_store.statements.ids import DISTRIBUTED
from tests.support.citus import Node
from tests.support.command import run
from tests.support.forks import ROOT
from tests.support.plugin import CITUS_SHARDS
from tests.support.postgres import HOST
from tests.test_copying import content

NOW = datetime(2026, 11, 23, 15, 30, tzinfo=UTC)
SHARDED = [table.name for table in Base.metadata.sorted_tables if placement_of(table) is Placement.SHARDED]


def execute(url: str, *statements: str) -> list[Any]:
    plain = sa.make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(plain, autocommit=True) as connection:
        for statement in statements:
            cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []


def looked_at(url: str) -> ClusterStatus:
    found = cluster_status(url)
    assert found is not None
    return found


def a_log(account_id: int, ms: int = 100, **values: Any) -> EnforcementLog:
    return EnforcementLog(
        account_id=account_id,
        rule_id=f"R-{account_id % 3}",
        action="CLOSE_ALL",
        reason="loss",
        success=True,
        execution_time_ms=ms,
        timestamp=NOW,
        **values,
    )


def filled(url: str, accounts: int = 20) -> None:
    """Rows of many accounts in all tables but the roll-up's."""
    with RiskStore(url, clock=lambda: NOW) as store, store.begin() as tx:
        tx.enforcements.add_many(a_log(n % accounts + 1, n) for n in range(300))
        for n in range(1, accounts + 1):
            tx.orders.apply(an_event(n, account_id=n))
            tx.positions.apply(
                PositionUpdate(id=n, account_id=n, contract_id="X", type=PositionType.LONG, size=1, average_price=1.0)
            )
            tx.trades.record(TradeUpdate(id=n, account_id=n, contract_id="X", timestamp=NOW, pnl=-1.5))
            tx.lockouts.set(n, "loss", "R-1")


def an_event(id: int, **values: Any) -> OrderUpdate:
    asked: dict[str, Any] = {
        "contract_id": "CON.F.US.MNQ.U25",
        "type": OrderType.TRAILING_STOP,
        "side": OrderSide.SELL,
        "size": 1,
        "state": OrderState.ACTIVE,
        "stop_price": 20990.0,
        "trailing_amount": 10.0,
        "venue_updated_at": NOW,
    }
    return OrderUpdate(id=id, **asked | values)


# Getting there --------------------------------------------------------------------------------------------------------


@pytest.fixture
def upgraded(citus_database: str) -> str:
    """A store on the coordinator, with rows, that is not distributed."""
    upgrade(citus_database)
    filled(citus_database)
    return citus_database


def test_a_store_is_distributed_with_every_row_and_its_keys_widened(upgraded: str) -> None:
    before = content(upgraded)
    told: list[tuple[str, int, int]] = []
    report = distribute(upgraded, shards=CITUS_SHARDS, progress=lambda *news: told.append(news))
    assert content(upgraded) == before
    assert {table.table: table.rows for table in report.tables if table.rows} == {
        table: len(rows) for table, rows in before.items() if rows
    }
    found = looked_at(upgraded)
    assert (found.is_distributed, found.misplaced, found.obstacles) == (True, (), ())
    assert {table.table for table in found.tables if table.found is Placement.SHARDED} == set(SHARDED)
    assert {node.shards for node in found.nodes if not node.is_coordinator} == {CITUS_SHARDS * len(SHARDED) // 2}
    keys = execute(
        upgraded,
        "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE contype = 'p' AND conname IN "
        "('pk_orders', 'pk_enforcement_log') ORDER BY 1",
    )
    assert keys == [
        ("pk_enforcement_log", "PRIMARY KEY (id, account_id)"),
        ("pk_orders", "PRIMARY KEY (id, account_id)"),
    ]
    assert told[0] == ("distributing enforcement_log", 0, told[0][2])
    assert told[-1] == ("distributed", told[0][2], told[0][2])


def test_nothing_of_the_rows_is_left_on_the_coordinator(upgraded: str) -> None:
    distribute(upgraded, shards=CITUS_SHARDS)
    left = execute(upgraded, "SELECT sum(pg_relation_size(logicalrelid)) FROM pg_dist_partition")
    assert left == [(0,)]


def test_all_of_an_account_lies_on_one_worker(upgraded: str) -> None:
    distribute(upgraded, shards=CITUS_SHARDS)
    places = execute(upgraded, "SELECT DISTINCT colocation_id FROM citus_tables WHERE citus_table_type = 'distributed'")
    assert len(places) == 1


def test_a_second_run_says_that_it_is_done_and_a_dry_run_what_would_be(upgraded: str) -> None:
    dry = run("distribute", upgraded, "--dry-run")
    assert (dry.returncode, dry.stderr) == (0, "")
    assert "dry run, nothing was changed: would be distributed by account_id over 2 nodes, 32 shards a table" in (
        dry.stdout
    )
    assert re.search(r"enforcement_log +sharded +300 rows   pk_enforcement_log \(id, account_id\)", dry.stdout)
    assert not looked_at(upgraded).is_distributed
    first = run("distribute", upgraded, "--shards", "4")
    assert "distributed by account_id over 2 nodes, 4 shards a table" in first.stdout
    second = run("distribute", upgraded)
    assert second.stdout.rstrip().endswith("distributed over 2 nodes already, nothing to do")
    told = json.loads(run("distribute", upgraded, "--json").stdout)
    assert (told["was_done"], told["shards"], told["workers"]) == (True, 4, 2)


def test_what_was_interrupted_goes_on_where_it_was(upgraded: str) -> None:
    before = content(upgraded)

    def stop(what: str, _done: int, _of: int) -> None:
        if what == "distributing lockouts":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        distribute(upgraded, shards=CITUS_SHARDS, progress=stop)
    assert content(upgraded) == before
    assert {"orders", "lockouts"} <= {table.table for table in looked_at(upgraded).misplaced}
    report = distribute(upgraded, shards=CITUS_SHARDS)
    assert content(upgraded) == before
    assert {table.table for table in report.tables if table.was_done} >= {"enforcement_log", "daily_pnl"}
    assert looked_at(upgraded).misplaced == ()


KILLED = """
import os, signal, sys
from risk_store.distributing import _Table, distribute
whole = _Table._count
counted = []
def count(self):
    if self.name == "orders" and counted.append(1) is None and len(counted) == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(self)
_Table._count = count
distribute(sys.argv[1], shards=4)
"""


@pytest.mark.parametrize("at", [2, 3])  # before the orders are sent, and when they have been, before the commit
def test_killed_at_any_moment_a_table_is_as_it_was_or_done(upgraded: str, at: int) -> None:
    before = content(upgraded)
    killed = subprocess.run([sys.executable, "-c", KILLED, upgraded, str(at)], capture_output=True, check=False)
    assert killed.returncode == -9, killed.stderr
    assert content(upgraded) == before
    assert "orders" in {table.table for table in looked_at(upgraded).misplaced}
    distribute(upgraded, shards=CITUS_SHARDS)
    assert content(upgraded) == before
    assert looked_at(upgraded).misplaced == ()


def test_rows_that_do_not_all_arrive_leave_the_table_as_it_was(upgraded: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from risk_store.distributing import _Table

    whole, counted = _Table._count, []

    def short(self: Any) -> int:
        counted.append(self.name)
        return whole(self) - (counted.count("orders") == 3 and self.name == "orders")

    monkeypatch.setattr(_Table, "_count", short)
    with pytest.raises(RiskStoreError, match=r"orders: 20 rows were sent and 19 arrived\. The table is as it was"):
        distribute(upgraded, shards=CITUS_SHARDS)
    assert "orders" in {table.table for table in looked_at(upgraded).misplaced}


def test_only_a_store_at_head_on_the_coordinator_is_distributed(citus_database: str) -> None:
    with pytest.raises(RiskStoreError, match="no store here yet"):
        distribute(citus_database)


def test_a_worker_is_refused(citus_workers: Sequence[Node]) -> None:
    for worker in citus_workers:
        url = f"{worker.url}risk".replace("postgresql://", "postgresql+psycopg://")
        with pytest.raises(RiskStoreError, match=r"this is a worker\. Give the coordinator's URL"):
            distribute(url)


def test_a_database_without_the_extension_says_what_to_create(citus_database: str) -> None:
    execute(citus_database, "DROP DATABASE IF EXISTS plain", "CREATE DATABASE plain TEMPLATE template0")
    plain = sa.make_url(citus_database).set(database="plain").render_as_string(hide_password=False)
    upgrade(plain)
    with pytest.raises(RiskStoreError, match=r"CREATE EXTENSION citus; then .*citus_add_node"):
        distribute(plain)
    execute(citus_database, "DROP DATABASE plain WITH (FORCE)")


def test_what_is_in_the_way_is_said_before_anything_is_done(upgraded: str) -> None:
    execute(upgraded, "CREATE UNIQUE INDEX my_tags ON positions (contract_id, id)")
    with pytest.raises(RiskStoreError, match=r"in the way: a unique index my_tags .*Nothing was changed"):
        distribute(upgraded)
    assert not looked_at(upgraded).is_distributed


def test_two_at_once_do_not_work_at_the_same_time(upgraded: str) -> None:
    with psycopg.connect(upgraded.replace("+psycopg", "")) as other:
        other.execute(f"SELECT pg_advisory_lock({int.from_bytes(b'riskstor', 'big')})")
        with pytest.raises(RiskStoreError, match="another upgrade or distribute is running"):
            distribute(upgraded)


def test_check_tells_of_the_cluster(citus_store_url: str) -> None:
    filled(citus_store_url)
    found = run("check", citus_store_url)
    assert found.returncode == 0
    assert "distributed by account_id over 2 nodes, Citus 13" in found.stdout
    assert found.stdout.count(f"worker, {CITUS_SHARDS * len(SHARDED) // 2} shards") == 2
    assert re.search(
        r"enforcement_log: 300 rows, the fullest shard has [\d.]+ times the mean; account \d+ has 15", (found.stdout)
    )
    assert "warning" not in found.stdout
    told = json.loads(run("check", citus_store_url, "--json").stdout)["cluster"]
    assert [skew["rows"] for skew in told["skews"]] == [300, 20]


def test_settings_that_hurt_are_told(citus_store_url: str) -> None:
    database = sa.make_url(citus_store_url).database
    execute(citus_store_url, f"ALTER DATABASE {database} SET citus.enable_deadlock_prevention TO off")
    try:
        assert any("citus.enable_deadlock_prevention hurts" in line for line in looked_at(citus_store_url).lines())
    finally:
        execute(citus_store_url, f"ALTER DATABASE {database} RESET citus.enable_deadlock_prevention")


# Staying there --------------------------------------------------------------------------------------------------------


def test_a_copy_goes_straight_into_the_cluster_and_comes_back(citus_store_url: str, tmp_path: Path) -> None:
    source = f"sqlite:///{shutil.copy(ROOT / 'tests' / 'frozen' / f'{HEAD}.db', tmp_path / 'risk.db')}"
    upgrade(source, canonicalise=True, backup=False)
    copy_store(source, citus_store_url)
    assert content(citus_store_url) == content(source)
    assert looked_at(citus_store_url).misplaced == ()
    copy_store(citus_store_url, f"sqlite:///{tmp_path / 'back.db'}")
    assert content(f"sqlite:///{tmp_path / 'back.db'}") == content(source)
    with RiskStore(citus_store_url) as store, store.begin() as tx:
        last = max(row["id"] for row in content(source)["enforcement_log"])
        assert (tx.enforcements.add(a_log(1)).id or 0) > last, "ids go on behind those that came"


def test_one_postgresql_is_copied_into_the_cluster(citus_store_url: str, postgres_store_url: str) -> None:
    filled(postgres_store_url)
    copy_store(postgres_store_url, citus_store_url)
    assert content(citus_store_url) == content(postgres_store_url)


def test_later_revisions_run_on_a_distributed_store_and_a_new_table_is_distributed_by_the_next_run(
    citus_database: str,
) -> None:
    upgrade(citus_database)
    distribute(citus_database, shards=CITUS_SHARDS)
    config = alembic_config(citus_database)
    command.downgrade(config, "0003")
    with RiskStore(citus_database) as store, pytest.raises(RiskStoreError, match="behind"), store.read():
        pass
    assert upgrade(citus_database).after == HEAD
    assert [table.table for table in looked_at(citus_database).misplaced] == ["closed_positions"]
    distribute(citus_database)
    assert looked_at(citus_database).misplaced == ()
    assert status(citus_database).ok
    command.check(config)  # nothing differs from the models, but for the keys that are wider


def test_the_verbs_of_the_command_line_work_on_a_cluster(citus_store_url: str, tmp_path: Path) -> None:
    filled(citus_store_url)
    assert "300 rows of the log rolled up" in run("roll-up", citus_store_url).stdout
    for verb in ("report", "alerts", "orders", "lockouts", "interrupted", "check"):
        found = run(verb, citus_store_url)
        assert (found.returncode, found.stderr) == (0, ""), verb
        assert found.stdout.strip(), verb
    assert run("slow", citus_store_url, "--threshold", "290").stdout.count("CLOSE_ALL") == 9
    exported = run("export", citus_store_url, "--format", "jsonl", "--output", str(tmp_path / "log.jsonl"))
    assert (exported.returncode, exported.stderr) == (0, "")
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 300
    elsewhere = f"sqlite:///{tmp_path / 'risk.db'}"
    run("upgrade", elsewhere)
    told = []
    for url in (citus_store_url, elsewhere):
        day = shutil.copy(ROOT / "risk_store" / "demo" / "gateway_day.jsonl", tmp_path / f"day{len(told)}.jsonl")
        replayed = run("replay", url, str(day))
        told.append((replayed.returncode, replayed.stderr, replayed.stdout.splitlines()[0]))
    assert told[0] == told[1]
    pruned = run("prune", citus_store_url, "--before", "2026-11-24", "--yes")
    assert (pruned.returncode, pruned.stderr) == (0, "")
    with RiskStore(citus_store_url) as store, store.read() as tx:
        assert tx.enforcements.list() == []
        assert sum(row.enforcement_count for row in tx.enforcements.time_by_rule(include_pruned=True)) == 300


def test_the_dashboard_reads_a_cluster(citus_store_url: str) -> None:
    from risk_store.dashboard.reader import Reader
    from risk_store.dashboard.view import View

    filled(citus_store_url)
    reader = Reader(citus_store_url, clock=lambda: NOW)
    try:
        for view in (View(), View(account=7)):
            look = reader.look(view)
            assert look.trouble is None
    finally:
        reader.close()


def test_the_benchmarks_measure_a_cluster(citus_database: str) -> None:
    from benchmarks import __main__ as benchmarks
    from benchmarks.places import cluster
    from benchmarks.report import Book
    from benchmarks.sizes import TINY

    book = Book()
    with cluster(citus_database) as ground:
        benchmarks.run([ground], TINY, benchmarks.WORKS, book, {})
    assert book.refused == []
    assert {(figure.engine, figure.work.partition(",")[0]) for figure in book.figures} == {("Citus", "S1")}
    assert status(citus_database).state.value == "empty"


# Where statements go --------------------------------------------------------------------------------------------------


@pytest.fixture
def sent(
    citus_store_url: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[RiskStore, Callable[[], list[tuple[str, Any]]]]]:
    """A store, and what it has sent."""
    with RiskStore(citus_store_url, clock=lambda: NOW) as store:
        statements: list[tuple[str, Any]] = []

        def note(_c: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, many: bool) -> None:
            statements.extend((statement, each) for each in (parameters if many else [parameters]))

        def take() -> list[tuple[str, Any]]:
            taken, statements[:] = list(statements), []
            return taken

        send = lane._send

        def note_by_driver(connection: sa.Connection, cursor: Any, sql: str, values: Any = (), **more: Any) -> Any:
            statements.append((sql, values))
            return send(connection, cursor, sql, values, **more)

        monkeypatch.setattr(lane, "_send", note_by_driver)
        event.listen(store.engine, "before_cursor_execute", note)
        event.listen(store._readers, "before_cursor_execute", note)
        yield store, take


def shards_asked(url: str, sql: str, parameters: Any = None) -> list[int]:
    """The number of shards each part of a statement asks; none where it is the coordinator's own."""
    with psycopg.connect(url.replace("+psycopg", "")) as connection:
        plan = "\n".join(row[0] for row in connection.execute(f"EXPLAIN {sql}", parameters).fetchall())
        connection.rollback()
    return [int(count) for count in re.findall(r"Task Count: (\d+)", plan)]


HARMLESS = ("SELECT set_config", "SELECT pg_advisory", "SELECT count(*) FROM pg_catalog", "SAVEPOINT", "RELEASE")


def spread(url: str, statements: list[tuple[str, Any]]) -> dict[str, list[int]]:
    asked = {sql: shards_asked(url, sql, parameters) for sql, parameters in statements if not sql.startswith(HARMLESS)}
    return {sql: counts for sql, counts in asked.items() if set(counts) != {1}}


def test_an_enforcement_goes_to_one_shard(
    sent: tuple[RiskStore, Callable[[], list[tuple[str, Any]]]], citus_store_url: str
) -> None:
    store, take = sent
    with store.enforce(7, "R-1", "CLOSE_ALL", "loss", lock_until=NOW + timedelta(hours=1), exclusive=True) as running:
        running.positions_closed += 1
        running.lock_out(None, "for good")
    with store.read() as tx:
        assert tx.lockouts.is_locked(7)
        assert tx.enforcements.list(account_id=7)[0].success
    statements = take()
    assert len(statements) > 8
    assert spread(citus_store_url, statements) == {}


def test_a_record_and_its_lockout_go_to_one_shard_and_commit_in_one_phase(citus_store_url: str) -> None:
    prepared = "SELECT count(*) FROM pg_dist_transaction"
    with RiskStore(citus_store_url) as store:
        lock = Lockout(account_id=7, is_locked=True, reason="loss", rule_id="R-1")
        for account, lockout in ((7, lock), (8, None)):
            before = execute(citus_store_url, prepared)
            assert store.record(a_log(account), lockout).id
            assert execute(citus_store_url, prepared) == before, "a worker was asked to prepare and then to commit"
        with store.read() as tx:
            assert tx.lockouts.is_locked(7)
        dialect = store.engine.dialect
    for statement in (SET.on(dialect), INSERT.on(dialect)):
        values: dict[str, Any] = {name: None for name, *_ in statement.taken} | dict(statement.fixed)
        asked = values | {"account_id": 7, "at": NOW, "is_locked": True, "success": True}
        assert shards_asked(citus_store_url, statement.sql, asked) == [1]


def test_order_position_and_trade_events_of_an_account_go_to_one_shard(
    sent: tuple[RiskStore, Callable[[], list[tuple[str, Any]]]], citus_store_url: str
) -> None:
    store, take = sent
    new = PositionUpdate(id=5, account_id=7, contract_id="X", type=PositionType.LONG, size=1, average_price=1.0)
    trade = TradeUpdate(id=9, account_id=7, contract_id="X", timestamp=NOW, pnl=-1.5)
    with store.begin() as tx:
        tx.orders.apply(an_event(1, account_id=7))
        tx.orders.apply(OrderUpdate(id=1, account_id=7, state=OrderState.FILLED, filled_size=1))
        tx.orders.save(
            Order(
                id=2,
                account_id=7,
                contract_id="X",
                type=OrderType.LIMIT,
                side=OrderSide.BUY,
                size=1,
                limit_price=1.0,
                state=OrderState.ACTIVE,
            )
        )
        tx.orders.get(2, account_id=7)
        tx.orders.reconcile(7, [an_event(1, account_id=7)], NOW)
        tx.positions.apply(new)
        tx.positions.apply(PositionUpdate(id=5, account_id=7, contract_id="X", size=0))
        tx.positions.reconcile(7, [new], NOW)
        tx.trades.record(trade)
        tx.trades.record(TradeUpdate(id=9, account_id=7, contract_id="X", timestamp=NOW, voided=True))
        tx.trades.day(7, date(2026, 11, 23))
    statements = take()
    assert len(statements) > 25
    assert spread(citus_store_url, statements) == {}


def test_an_order_told_of_with_another_account_is_another_order_and_the_first_stays_as_it_was(
    citus_store_url: str,
) -> None:
    with RiskStore(citus_store_url) as store:
        with store.begin() as tx:
            tx.orders.apply(an_event(1, account_id=7))
        with store.begin() as tx:
            tx.orders.apply(an_event(1, account_id=8, stop_price=20995.0))
            of_another = Order(
                id=1,
                account_id=9,
                contract_id="X",
                type=OrderType.STOP,
                side=OrderSide.SELL,
                size=1,
                stop_price=1.0,
                state=OrderState.ACTIVE,
            )
            assert tx.orders.save(of_another).account_id == 9
        with store.read() as tx:
            stops = {order.account_id: order.stop_price for order in tx.orders.snapshot()}
            assert stops == {7: 20990.0, 8: 20995.0, 9: 1.0}


def test_the_reports_of_an_account_go_to_one_shard(
    sent: tuple[RiskStore, Callable[[], list[tuple[str, Any]]]], citus_store_url: str
) -> None:
    filled(citus_store_url)
    store, take = sent
    with store.read() as tx:
        window = {"since": NOW - timedelta(days=3), "until": NOW + timedelta(hours=3)}
        assert tx.enforcements.time_by_rule(account_id=7)
        assert tx.enforcements.time_by_rule(account_id=7, **window)
        assert tx.enforcements.slow_enforcements(threshold_ms=10, account_id=7)
        assert tx.enforcements.daily_trend(account_id=7)
        assert tx.enforcements.alert_counts(account_id=7)
        assert tx.orders.working(7)
        assert tx.orders.snapshot(7)
        assert tx.positions.open(7)
    assert spread(citus_store_url, take()) == {}


def rows_sent(url: str, sql: str, parameters: Any = None) -> int:
    """How many rows the shards hand to the coordinator."""
    with psycopg.connect(url.replace("+psycopg", "")) as connection:
        plan = connection.execute(f"EXPLAIN (ANALYZE, VERBOSE, TIMING OFF, FORMAT JSON) {sql}", parameters).fetchall()
        connection.rollback()
    found: list[int] = []

    def walk(node: Any) -> None:
        if isinstance(node, list):
            for each in node:
                walk(each)
        elif isinstance(node, dict):
            if "Custom Plan Provider" in node and "Citus Adaptive" in node["Custom Plan Provider"]:
                found.append(node.get("Actual Rows", 0))
            for value in node.values():
                walk(value)

    walk(plan[0][0])
    return sum(found)


def test_the_roll_up_is_counted_where_the_rows_are(citus_store_url: str) -> None:
    """3,000 rows of three rules and 40 times: what travels is how often each occurred."""
    with RiskStore(citus_store_url, clock=lambda: NOW) as store:
        with store.begin() as tx:
            tx.enforcements.add_many(a_log(n % 50 + 1, n % 40) for n in range(3000))
        engine = store.engine
        for form in rollup.ROLL_UP[DISTRIBUTED]:
            selected = form.select.compile(dialect=engine.dialect)
            with store.begin() as tx:
                tx.rollup._hold([(1, 3000)]) if not tx.session.scalars(rollup.ENDS).first() else None
            values = {**selected.params, "first": 1, "last": 3000}
            assert 0 < rows_sent(citus_store_url, str(selected), values) <= CITUS_SHARDS * 3 * 40 + 1


def test_where_the_ids_are_is_counted_there_too(citus_store_url: str) -> None:
    with RiskStore(citus_store_url, clock=lambda: NOW) as store:
        with store.begin() as tx:
            tx.enforcements.add_many(a_log(n % 50 + 1, n % 40) for n in range(3000))
        sql = rollup.PLAIN_RUNS[DISTRIBUTED].compile(dialect=store.engine.dialect)
        assert 0 < rows_sent(citus_store_url, str(sql), {**sql.params, "first": 1, "last": 3000}) < 100


def test_percentiles_come_from_histograms(citus_store_url: str) -> None:
    with RiskStore(citus_store_url, clock=lambda: NOW) as store:
        with store.begin() as tx:
            tx.enforcements.add_many(a_log(n % 50 + 1, n % 40) for n in range(3000))
        sql = analytics.time_by_rule().compile(dialect=store.engine.dialect)
        before = rows_sent(citus_store_url, str(sql), sql.params)
        with store.read() as tx:
            expected = [tuple(row) for row in tx.enforcements.time_by_rule()]
        assert store.roll_up() == 3000
        with store.read() as tx:
            assert [tuple(row) for row in tx.enforcements.time_by_rule()] == expected
        assert before <= 2 * (CITUS_SHARDS * 3 * 40)
        assert rows_sent(citus_store_url, str(sql), sql.params) < 3000


# Losing a worker ------------------------------------------------------------------------------------------------------


def test_killed_in_the_middle_of_enforcements_a_worker_takes_no_truth_with_it(
    citus_store_url: str, citus_workers: Sequence[Node]
) -> None:
    """Rows in flight tell of what was under way, accounts elsewhere go on, and nothing that was recorded is gone."""
    where = dict(
        execute(
            citus_store_url,
            "SELECT account, nodeport FROM generate_series(1, 40) account JOIN citus_shards s "
            "ON s.shardid = get_shard_id_for_distribution_column('enforcement_log', account)",
        )
    )
    victim = citus_workers[0]
    lost = [account for account, port in where.items() if port == victim.port]
    kept = [account for account, port in where.items() if port != victim.port]
    assert lost
    assert kept
    recorded: dict[int, list[int]] = {account: [] for account in where}
    under_way, go_on = threading.Barrier(3), threading.Event()

    def work(store: RiskStore, account: int) -> None:
        with store.enforce(account, "R-1", "CLOSE_ALL", "loss", lock_until=None) as running:
            under_way.wait(30)
            go_on.wait(30)
            running.positions_closed += 1
        recorded[account].append(running.log.id or 0)

    failed: list[BaseException] = []

    def tried(store: RiskStore, account: int) -> None:
        try:
            work(store, account)
        except Exception as error:
            failed.append(error)

    with RiskStore(citus_store_url) as store:
        for account in where:  # what was recorded before
            recorded[account].append(store.record(a_log(account)).id or 0)
        threads = [threading.Thread(target=tried, args=(store, account)) for account in (lost[0], kept[0])]
        for thread in threads:
            thread.start()
        under_way.wait(30)
        victim.kill()
        go_on.set()
        for thread in threads:
            thread.join(60)
        assert [type(error).__name__ for error in failed] == ["EnforcementNotRecorded"]
        for account in kept[1:5]:
            recorded[account].append(store.record(a_log(account)).id or 0)
        with store.begin() as tx:
            tx.orders.apply(an_event(1, account_id=kept[0]))
            assert tx.lockouts.is_locked(kept[0])
        told = run("check", citus_store_url)
        assert (told.returncode, told.stderr) == (0, "")
        assert f"warning: {HOST}:{victim.port} cannot be reached" in told.stdout
        victim.start()
        with store.read() as tx:
            [row] = tx.enforcements.in_flight()
            assert (row.account_id, row.rule_id) == (lost[0], "R-1")
            assert tx.lockouts.is_locked(lost[0]), "locked before the first position was closed"
            there = {(log.account_id, log.id) for log in tx.enforcements.list(limit=1000)}
        assert there == {(account, id_) for account, ids in recorded.items() for id_ in ids}

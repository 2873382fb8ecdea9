"""One reader for all pages: right, cheap, read-only, and honest when the store is in trouble."""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from risk_store import EnforcementLog, RiskStore, Thresholds, schema
from risk_store.dashboard.reader import Look, Reader
from risk_store.dashboard.snapshot import Snapshot, Status
from risk_store.dashboard.view import View
from risk_store.dashboard.window import LATE_UP_TO_S
from risk_store.errors import InvalidValue, StoreReadOnly, StoreUnavailable
from tests.dashboard.conftest import NOW, Clock, trailing_stop

Enforced = Callable[..., EnforcementLog]


def seen(look: Look) -> Snapshot:
    assert look.trouble is None, look.trouble
    assert look.snapshot is not None
    return look.snapshot


# What it says --------------------------------------------------------------------------------------------------------


def test_an_empty_store_is_quiet_and_not_ok(reader: Reader) -> None:
    summary = seen(reader.look(View())).summary
    assert (summary.status, summary.last_hour, summary.last_day, summary.rules) == (Status.QUIET, 0, 0, ())
    assert {bucket.enforcements for bucket in summary.buckets} == {0}


@pytest.mark.parametrize(
    ("ms", "status"),
    [(500, Status.OK), (501, Status.SLOW), (2001, Status.CRITICAL), (5001, Status.TIMEOUT), (None, Status.QUIET)],
)
def test_the_status_is_that_of_the_worst_enforcement_of_the_last_hour(
    reader: Reader, enforced: Enforced, ms: int | None, status: Status
) -> None:
    enforced(40)
    enforced(9000, ago=timedelta(minutes=61))
    enforced(ms, success=False)
    if ms is None:
        assert seen(reader.look(View())).summary.status is Status.OK  # the one of 40 ms
    else:
        summary = seen(reader.look(View())).summary
        assert (summary.status, summary.last_hour_worst_ms, summary.last_hour) == (status, ms, 2)


def test_an_hour_in_which_nothing_was_timed_is_quiet(reader: Reader, enforced: Enforced) -> None:
    enforced(None)
    summary = seen(reader.look(View())).summary
    assert (summary.status, summary.last_hour, summary.enforcements) == (Status.QUIET, 1, 1)


def test_averages_are_of_successes_and_alerts_of_all(reader: Reader, enforced: Enforced) -> None:
    enforced(100)
    enforced(300)
    enforced(6000, success=False)
    enforced(None)
    (line,) = seen(reader.look(View())).summary.rules
    assert (line.avg_time_ms, line.min_time_ms, line.max_time_ms, line.p95_time_ms) == (200, 100, 300, 300)
    assert (line.enforcement_count, line.warnings, line.criticals, line.timeouts) == (2, 0, 0, 1)


def test_the_thresholds_are_those_that_were_configured(store_url: str, enforced: Enforced, clock: Clock) -> None:
    enforced(150)
    reader = Reader(store_url, clock=clock, thresholds=Thresholds(slow_threshold_ms=100, critical_threshold_ms=140))
    summary = seen(reader.look(View())).summary
    assert (summary.status, summary.criticals) == (Status.CRITICAL, 1)
    reader.close()


def test_a_view_of_one_rule_or_account_shows_that_one(reader: Reader, enforced: Enforced, store: RiskStore) -> None:
    enforced(100, account_id=1, rule_id="RULE-001")
    enforced(700, account_id=2, rule_id="RULE-002")
    with store.begin() as tx:
        for account in (1, 2):
            tx.lockouts.set(account, "loss", "RULE-003")
    of_rule = seen(reader.look(View(rule="RULE-002")))
    of_account = seen(reader.look(View(account=1)))
    assert [line.rule_id for line in of_rule.summary.rules] == ["RULE-002"]
    assert [row.rule_id for row in of_rule.facts.latest] == [row.rule_id for row in of_rule.facts.slow] == ["RULE-002"]
    assert [line.rule_id for line in of_account.summary.rules] == ["RULE-001"]
    assert [row.account_id for row in of_account.facts.lockouts] == [1]
    assert of_account.facts.slow == []


def test_nothing_read_is_rolled_back_since_psycopg_would_forget_what_it_has_prepared(
    reader: Reader, enforced: Enforced
) -> None:
    enforced(100)
    ends: list[str] = []
    listeners = {name: lambda _connection, name=name: ends.append(name) for name in ("commit", "rollback")}
    for name, listener in listeners.items():
        sa.event.listen(sa.Engine, name, listener)
    try:
        seen(reader.look(View()))
        with reader.read() as tx:
            assert tx.lockouts.active() == []
    finally:
        for name, listener in listeners.items():
            sa.event.remove(sa.Engine, name, listener)
    assert set(ends) == {"commit"}


def test_the_slow_ones_come_newest_first_a_page_at_a_time(reader: Reader, enforced: Enforced) -> None:
    ids = [enforced(600 + n).id for n in range(45)]
    enforced(500)
    pages, before = [], None
    while True:
        facts = seen(reader.look(View(before=before))).facts
        pages.append([row.id for row in facts.slow])
        if not facts.has_older:
            break
        before = pages[-1][-1]
    assert [len(page) for page in pages] == [20, 20, 5]
    assert [id_ for page in pages for id_ in page] == ids[::-1]


def test_a_slow_list_below_the_index_is_the_same(reader: Reader, enforced: Enforced) -> None:
    ids = [enforced(ms).id for ms in (100, 300, 700, 50, 300)]
    assert [row.id for row in seen(reader.look(View(slow=99))).facts.slow] == [ids[i] for i in (4, 2, 1, 0)]


def test_enforcements_under_way_are_told_from_interrupted_ones(store: RiskStore, reader: Reader) -> None:
    with store.enforce(456, "RULE-003", "CLOSE_ALL", "loss"):
        facts = seen(reader.look(View())).facts
        assert [(row.rule_id, owner.value) for row, owner in facts.in_flight] == [("RULE-003", "alive")]
    assert seen(reader.look(View())).facts.in_flight == []


moments = st.integers(-1000, 8 * 86_400)
logs = st.tuples(
    st.sampled_from(["RULE-001", "RULE-002", "RULE-003"]),
    st.sampled_from([1, 2]),
    st.none() | st.integers(0, 10_000),
    st.booleans(),
    moments,
)


@settings(max_examples=15)
@given(batches=st.lists(st.lists(logs, max_size=30), min_size=1, max_size=4), account=st.sampled_from([None, 1]))
def test_after_any_writes_it_says_what_the_reports_say(
    store: RiskStore, reader: Reader, clock: Clock, batches: list[list[Any]], account: int | None
) -> None:
    view = View(account=account)
    for batch in batches:
        with store.begin() as tx:
            for rule, of, ms, success, ago in batch:
                tx.enforcements.add(_log(rule, of, ms, success, clock.now - timedelta(seconds=ago)))
        _compare(store, seen(reader.look(view)), account)
    clock.pass_by(hours=5)
    _compare(store, seen(reader.look(view)), account)


def _log(rule: str, account: int, ms: int | None, success: bool, at: datetime) -> EnforcementLog:
    return EnforcementLog(
        account_id=account, rule_id=rule, action="A", reason="r", success=success, execution_time_ms=ms, timestamp=at
    )


def _compare(store: RiskStore, snapshot: Snapshot, account: int | None) -> None:
    summary = snapshot.summary
    with store.read() as tx:
        filters: dict[str, Any] = {"account_id": account, "since": summary.window_from}
        times = {row.rule_id: row for row in tx.enforcements.time_by_rule(**filters)}
        alerts = {row.rule_id: row for row in tx.enforcements.alert_counts(**filters)}
        total = tx.watch.count()
    assert snapshot.facts.total == total
    for line in summary.rules:
        row, counts = times.pop(line.rule_id, None), alerts.pop(line.rule_id, None)
        if row is None:
            assert line.enforcement_count == 0
        else:
            assert line.avg_time_ms == pytest.approx(row.avg_time_ms, rel=1e-12)
            assert (line.min_time_ms, line.max_time_ms) == (row.min_time_ms, row.max_time_ms)
            assert (line.enforcement_count, line.p95_time_ms) == (row.enforcement_count, row.p95_time_ms)
        if counts is None:
            assert line.warnings == line.criticals == line.timeouts == 0
        else:
            assert (line.warnings, line.criticals, line.timeouts) == tuple(counts)[1:]
    assert not times
    assert not alerts
    in_buckets = sum(bucket.enforcements for bucket in summary.buckets)
    assert in_buckets <= summary.enforcements  # what a clock that is ahead wrote is in no bucket yet


# What it costs -------------------------------------------------------------------------------------------------------


def test_a_look_at_a_store_in_which_nothing_was_committed_asks_no_table(
    reader: Reader, enforced: Enforced, sent: list[str]
) -> None:
    """A server's own housekeeping commits now and then, in any of its databases."""
    enforced()
    for _ in range(10):
        first = reader.look(View())
        sent.clear()
        if (again := reader.look(View())) is first:
            break
    assert again is first
    assert not [statement for statement in sent if "enforcement" in statement or "orders" in statement], sent


def test_a_look_after_a_commit_reads_of_the_log_only_what_is_new(
    reader: Reader, enforced: Enforced, sent: list[str]
) -> None:
    for _ in range(5):
        enforced()
    reader.look(View())
    enforced(3000)
    sent.clear()
    assert seen(reader.look(View())).summary.criticals == 1
    words = [" ".join(each.split()) for each in sent]
    of_log = [each for each in words if "FROM enforcement_log" in each and "FROM enforcement_in_flight" not in each]
    for statement in of_log:
        assert "enforcement_log.id > " in statement or "LIMIT" in statement or "max(" in statement, statement
    assert [statement for statement in of_log if "enforcement_log.id > " in statement]


def test_time_that_passes_is_seen_without_a_commit(reader: Reader, enforced: Enforced, clock: Clock) -> None:
    enforced(ago=timedelta(minutes=58))
    assert seen(reader.look(View())).summary.status is Status.OK
    clock.pass_by(minutes=5)
    assert seen(reader.look(View())).summary.status is Status.QUIET


def test_an_account_is_kept_beside_the_others(reader: Reader, enforced: Enforced) -> None:
    enforced(100, account_id=1)
    for account in (None, 1, 2, 3, 4, 5, None, 1):
        lines = seen(reader.look(View(account=account))).summary.rules
        assert len(lines) == (1 if account in (None, 1) else 0)


@pytest.mark.parametrize("query", ["newest slow", "window", "new", "ends", "late"])
def test_each_statement_uses_the_index_meant_for_it(store: RiskStore, enforced: Enforced, query: str) -> None:
    with store.begin() as tx:
        tx.enforcements.add_many(
            _log(f"RULE-{n % 7:03}", n % 50 + 1, n % 997, True, NOW - timedelta(seconds=20 * n)) for n in range(60_000)
        )
    dialect = store.engine.dialect.name
    if dialect == "postgresql":
        with store.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("VACUUM ANALYZE enforcement_log")
    with store.read() as tx:
        watching = tx.watch.statements
        statement, parameters, index = {
            "newest slow": (watching.newest_slow(900, 20), {}, "ix_enforcement_log_slow"),
            "window": (watching.times_since(dialect, NOW - timedelta(hours=6)), {}, "idx_enforcement_timestamp"),
            "new": (watching.NEW_TIMES[dialect], {"after": 59_990}, "key"),
            "ends": (watching.ENDS, {}, "key"),
            "late": (watching.LATE_TIMES[dialect], {"ids": "[3, 4]"}, "key"),
        }[query]
        plan = _plan(tx.session.connection(), statement, parameters)
    if index == "key":
        expected = "enforcement_log" if query == "ends" else "INTEGER PRIMARY KEY"
        index = {"sqlite": expected, "postgresql": "pk_enforcement_log"}[dialect]
    assert index in plan, plan
    assert "SCAN enforcement_log" not in plan, plan
    assert "Seq Scan on enforcement_log" not in plan, plan


def _plan(connection: sa.Connection, statement: Any, parameters: dict[str, Any]) -> str:
    compiled = statement.compile(connection, compile_kwargs={"render_postcompile": True})
    values = compiled.construct_params(parameters)
    processors = compiled._bind_processors
    bound = {name: processors[name](value) if name in processors else value for name, value in values.items()}
    explain = "EXPLAIN QUERY PLAN " if connection.dialect.name == "sqlite" else "EXPLAIN "
    given = tuple(bound[name] for name in compiled.positiontup) if compiled.positional else bound
    return "\n".join(str(row) for row in connection.exec_driver_sql(explain + str(compiled), given))


# What is late, and what goes -----------------------------------------------------------------------------------------


def record_beside(store: RiskStore) -> None:
    """A record of another thread's, committed while this one's transaction is open."""
    other = threading.Thread(target=store.record, args=(_log("RULE-001", 1, 30, True, NOW),))
    other.start()
    other.join()


def test_a_row_that_commits_after_one_with_a_higher_id_is_not_missed(postgres_store_url: str, clock: Clock) -> None:
    store, reader = RiskStore(postgres_store_url), Reader(postgres_store_url, clock=clock)
    with store.begin() as tx:
        tx.enforcements.add(_log("RULE-001", 1, 10, True, NOW))
    assert seen(reader.look(View())).summary.enforcements == 1
    with store.begin() as late:
        late.enforcements.add(_log("RULE-001", 1, 20, True, NOW))
        record_beside(store)
        assert seen(reader.look(View())).summary.enforcements == 2
    assert seen(reader.look(View())).summary.enforcements == 3
    assert seen(reader.look(View())).facts.total == 3
    reader.close()
    store.close()


def test_a_row_that_commits_after_the_first_look_is_not_missed_though_its_id_is_lower(
    postgres_store_url: str, clock: Clock
) -> None:
    store, reader = RiskStore(postgres_store_url), Reader(postgres_store_url, clock=clock)
    store.record(_log("RULE-001", 1, 10, True, NOW))
    with store.begin() as late:
        late.enforcements.add(_log("RULE-001", 1, 20, True, NOW))
        record_beside(store)
        assert seen(reader.look(View())).facts.total == 2
    snapshot = seen(reader.look(View()))
    assert (snapshot.facts.total, snapshot.summary.enforcements) == (3, 3)
    reader.close()
    store.close()


def test_an_id_that_never_came_is_not_looked_for_for_ever(postgres_store_url: str, clock: Clock) -> None:
    store, reader = RiskStore(postgres_store_url), Reader(postgres_store_url, clock=clock)
    reader.look(View())
    with store.begin() as tx:
        tx.enforcements.add(_log("RULE-001", 1, 10, True, NOW))
    reader.look(View())
    with pytest.raises(RuntimeError), store.begin() as tx:
        tx.enforcements.add(_log("RULE-001", 1, 10, True, NOW))
        raise RuntimeError
    with store.begin() as tx:
        tx.enforcements.add(_log("RULE-001", 1, 10, True, NOW))
    assert seen(reader.look(View())).summary.enforcements == 2
    arrivals = reader._arrivals
    assert arrivals is not None
    assert len(arrivals.missing(NOW.timestamp())) == 1
    assert arrivals.missing(NOW.timestamp() + LATE_UP_TO_S + 1) == []
    reader.close()
    store.close()


def test_a_row_with_a_far_lower_id_of_its_own_is_there_within_a_minute(
    store: RiskStore, reader: Reader, enforced: Enforced, clock: Clock
) -> None:
    def insert(id_: int) -> None:
        with store.begin() as tx:
            table = EnforcementLog.__table__
            of_the_first = sa.select(sa.literal(id_), *(c for c in table.c if c.name not in ("id", "enforcement_id")))
            columns = ["id", *(c.name for c in table.c if c.name not in ("id", "enforcement_id"))]
            tx.session.execute(sa.insert(table).from_select(columns, of_the_first.where(table.c.id == first)))

    first = enforced().id
    reader.look(View())
    insert(1_000_000)
    assert seen(reader.look(View())).summary.enforcements == 2
    insert(500_000)
    clock.pass_by(minutes=1)
    snapshot = seen(reader.look(View()))
    assert (snapshot.summary.enforcements, snapshot.facts.total) == (3, 3)


def test_a_log_without_wide_gaps_is_counted_once(
    reader: Reader, enforced: Enforced, clock: Clock, sent: list[str]
) -> None:
    enforced()
    reader.look(View())
    sent.clear()
    clock.pass_by(minutes=2)
    enforced()
    assert seen(reader.look(View())).facts.total == 2
    assert not [statement for statement in sent if "count(" in statement and "enforcement_rolled_up" in statement]


def test_rows_that_were_pruned_are_gone_from_the_page(
    store: RiskStore, reader: Reader, enforced: Enforced, clock: Clock
) -> None:
    for days in (5, 3, 1):
        enforced(ago=timedelta(days=days))
    assert seen(reader.look(View())).facts.total == 3
    store.prune(clock.now - timedelta(days=2))
    snapshot = seen(reader.look(View()))
    assert (snapshot.facts.total, snapshot.summary.enforcements) == (1, 1)


def test_rows_that_were_pruned_from_the_middle_are_gone_too(
    store: RiskStore, reader: Reader, enforced: Enforced, clock: Clock
) -> None:
    for days in (1, 5, 1):  # the second one was imported
        enforced(ago=timedelta(days=days))
    assert seen(reader.look(View())).facts.total == 3
    store.prune(clock.now - timedelta(days=2))
    snapshot = seen(reader.look(View()))
    assert (snapshot.facts.total, snapshot.summary.enforcements) == (2, 2)


def test_a_row_dated_in_the_far_future_is_not_what_happens_now(reader: Reader, enforced: Enforced) -> None:
    enforced(100, ago=-timedelta(minutes=2))  # a clock that is a little ahead
    enforced(9000, ago=-timedelta(days=400))
    summary = seen(reader.look(View())).summary
    assert (summary.status, summary.last_hour, summary.last_day) == (Status.OK, 1, 1)


def test_a_clock_that_was_set_back_finds_the_hour_it_is_in_again(
    reader: Reader, enforced: Enforced, clock: Clock
) -> None:
    clock.pass_by(minutes=30)  # the window begins at the same step of three hours before and after
    enforced(3000)
    clock.pass_by(hours=2)
    enforced(100)
    assert seen(reader.look(View())).summary.status is Status.OK
    clock.pass_by(hours=-2)
    assert seen(reader.look(View())).summary.status is Status.CRITICAL


def test_the_rows_of_an_account_that_nobody_looks_at_any_more_are_let_go(
    reader: Reader, enforced: Enforced, clock: Clock
) -> None:
    enforced()
    reader.look(View(account=456))
    for _ in range(5):
        enforced()
        clock.pass_by(hours=30 * 24)
        reader.look(View())
    window, _ = reader._windows[456]
    assert window.last_hour(clock.now.timestamp()) == window._recent == []
    assert len(list(window.cells(0))) == 3


def test_instants_that_python_has_not_hide_no_other_row(postgres_store_url: str) -> None:
    with psycopg.connect(postgres_store_url.replace("+psycopg", ""), autocommit=True) as raw:
        for number, at in enumerate(("infinity", "-infinity", "290000-01-01", "4700-01-01 BC", "now")):
            raw.execute(
                "INSERT INTO enforcement_log (account_id, rule_id, action, reason, success, timestamp, "
                "execution_time_ms) VALUES (1, 'R', 'A', 'r', true, %s, 900)",
                (at,),
            )
            raw.execute(
                "INSERT INTO lockouts (account_id, is_locked, reason, locked_until) VALUES (%s, true, 'x', %s)",
                (number + 1, "infinity"),
            )
    reader = Reader(postgres_store_url)
    snapshot = seen(reader.look(View()))
    assert (snapshot.summary.last_hour, snapshot.facts.total, len(snapshot.facts.lockouts)) == (1, 5, 5)
    assert {"infinity", "-infinity"} <= {str(row.timestamp) for row in snapshot.facts.slow}
    reader.close()


def test_a_row_of_an_old_daemon_in_another_form_is_at_its_time(file: Path, clock: Clock) -> None:
    reader = Reader(f"sqlite:///{file}", clock=clock)
    with sqlite3.connect(file) as raw:
        for stamp in ("2026-11-24T11:30:00Z", "2026-11-24 12:30:00+01:00", "2026-11-24T11:30:00.123", "rubbish", None):
            raw.execute(
                "INSERT INTO enforcement_log (account_id, rule_id, action, reason, success, timestamp, "
                "execution_time_ms) VALUES (1, 'R', 'A', 'r', 1, ?, ?)",
                (stamp, 100 if stamp != "rubbish" else "x"),
            )
    raw.close()
    snapshot = seen(reader.look(View()))
    assert (snapshot.summary.last_hour, snapshot.summary.enforcements, snapshot.facts.total) == (3, 3, 5)
    reader.close()


# It cannot write -----------------------------------------------------------------------------------------------------


def test_its_connection_refuses_to_write(reader: Reader, store: RiskStore) -> None:
    with pytest.raises((StoreReadOnly, StoreUnavailable)), reader.read() as tx:
        tx.lockouts.set(1, "loss", "RULE-003")


def test_it_leaves_the_file_as_it_is(file: Path) -> None:
    before = file.read_bytes()
    reader = Reader(f"sqlite:///{file}")
    seen(reader.look(View()))
    reader.close()
    assert file.read_bytes() == before


def test_a_server_ends_what_takes_too_long(postgres_store_url: str) -> None:
    reader = Reader(postgres_store_url)
    with reader.read() as tx:
        assert tx.session.scalar(sa.text("SHOW statement_timeout")) == "2s"
        assert tx.session.scalar(sa.text("SHOW default_transaction_read_only")) == "on"
    reader.close()


# In trouble ----------------------------------------------------------------------------------------------------------


def test_a_file_that_is_not_there_is_told_and_not_made(tmp_path: Path) -> None:
    reader = Reader(f"sqlite:///{tmp_path}/none.db")
    trouble = reader.look(View()).trouble
    assert trouble is not None
    assert (trouble.kind, trouble.command) == ("missing", f"risk-store upgrade {tmp_path}/none.db")
    assert not (tmp_path / "none.db").exists()
    schema.upgrade(f"sqlite:///{tmp_path}/none.db")
    assert seen(reader.look(View())).facts.total == 0  # without a restart
    reader.close()


def test_a_database_without_tables_says_how_to_set_it_up(postgres_database: str) -> None:
    reader = Reader(postgres_database)
    trouble = reader.look(View()).trouble
    assert trouble is not None
    assert (trouble.kind, trouble.command) == ("empty", "risk-store upgrade URL")
    assert "not set up" in trouble.text
    reader.close()


@pytest.mark.parametrize(("version", "kind"), [("0004", "behind"), ("9999", "ahead")])
def test_a_schema_that_changes_under_it_is_told_at_the_next_look(
    store: RiskStore, reader: Reader, version: str, kind: str
) -> None:
    seen(reader.look(View()))
    with store.begin() as tx:
        tx.session.execute(sa.text("UPDATE risk_store_version SET version_num = :v"), {"v": version})
    look = reader.look(View())
    assert look.trouble is not None
    assert (look.trouble.kind, look.snapshot) == (kind, None)
    assert (look.trouble.command is not None) == (kind == "behind")
    with store.begin() as tx:
        tx.session.execute(sa.text("UPDATE risk_store_version SET version_num = :v"), {"v": schema.HEAD})
    seen(reader.look(View()))


def test_a_v1_file_and_a_foreign_one_are_named_for_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("no database at all, but long enough to be one" * 40)
    trouble = Reader(f"sqlite:///{tmp_path}/text.db").look(View()).trouble
    assert trouble is not None
    assert trouble.kind in ("foreign", "unreachable")
    frozen = Path(__file__).parents[1] / "frozen"
    v1 = next(each for each in sorted(frozen.iterdir()) if "v1" in each.name and each.suffix == ".db")
    shutil.copy(v1, tmp_path / "v1.db")
    reader = Reader(f"sqlite:///{tmp_path}/v1.db")
    trouble = reader.look(View()).trouble
    assert trouble is not None
    assert trouble.kind == "legacy_v1"
    assert trouble.command == f"risk-store upgrade {tmp_path}/v1.db"
    reader.close()


def test_a_locked_file_is_told_beside_what_was_read_before(file: Path, clock: Clock) -> None:
    reader = Reader(f"sqlite:///{file}", clock=clock)
    seen(reader.look(View()))
    with sqlite3.connect(file, isolation_level=None) as other:
        reader._drop()  # or WAL could not be left
        other.execute("PRAGMA journal_mode = DELETE")
        other.execute("BEGIN EXCLUSIVE")
        clock.pass_by(minutes=1)
        look = reader.look(View())
        assert look.trouble is not None
        assert look.trouble.kind in ("locked", "unreachable")
        assert look.snapshot is not None
        other.execute("ROLLBACK")
    other.close()
    clock.pass_by(minutes=1)
    assert seen(reader.look(View())).facts.journal_mode == "delete"
    reader.close()


def test_a_file_that_a_killed_writer_left_half_written_is_told_with_what_mends_it(tmp_path: Path) -> None:
    file = tmp_path / "my risk.db"
    schema.upgrade(f"sqlite:///{file}")
    killed = (
        "import os, sqlite3, sys\n"
        "raw = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "raw.execute('PRAGMA journal_mode = DELETE'); raw.execute('PRAGMA cache_size = 1')\n"
        "raw.execute('BEGIN IMMEDIATE')\n"
        "raw.executemany('INSERT INTO enforcement_log (account_id, rule_id, action, reason, success, timestamp) '\n"
        "                'VALUES (1, ?, 1, 1, 1, 1)', [('R' * 500,)] * 2000)\n"
        "os._exit(9)\n"
    )
    subprocess.run([sys.executable, "-c", killed, str(file)], check=False)
    reader = Reader(f"sqlite:///{file}")
    trouble = reader.look(View()).trouble
    assert trouble is not None
    assert (trouble.kind, trouble.command) == ("unreachable", f"risk-store check '{file}'")
    assert trouble.command is not None
    subprocess.run(
        [sys.executable, "-m", *shlex.split(trouble.command.replace("risk-store", "risk_store"))], check=True
    )
    assert seen(reader.look(View())).facts.total == 0
    reader.close()


def test_a_file_that_goes_is_told_and_one_that_comes_in_its_place_is_read(file: Path, store: RiskStore) -> None:
    reader = Reader(f"sqlite:///{file}")
    seen(reader.look(View()))
    moved = file.with_suffix(".moved")
    os.rename(file, moved)
    look = reader.look(View())
    assert look.trouble is not None
    assert (look.trouble.kind, look.snapshot) == ("missing", None)
    os.rename(moved, file)
    seen(reader.look(View()))
    reader.close()


def test_a_backup_that_was_put_in_the_files_place_is_read_and_keeps_its_rows(file: Path, tmp_path: Path) -> None:
    backup = tmp_path / "backup.db"
    with RiskStore(f"sqlite:///{file}") as store:
        store.record(_log("RULE-001", 1, 10, True, NOW))
        schema.backup(f"sqlite:///{file}", backup)
        reader = Reader(f"sqlite:///{file}", clock=Clock())
        store.record(_log("RULE-002", 1, 10, True, NOW))
        assert seen(reader.look(View())).facts.total == 2
    for beside in ("-wal", "-shm"):
        file.with_name(file.name + beside).unlink(missing_ok=True)
    os.replace(backup, file)
    snapshot = seen(reader.look(View()))
    assert [line.rule_id for line in snapshot.summary.rules] == ["RULE-001"]
    with RiskStore(f"sqlite:///{file}") as store:
        store.record(_log("RULE-003", 1, 10, True, NOW))
        assert seen(reader.look(View())).facts.total == 2
    reader.close()
    with sqlite3.connect(file) as raw:
        assert raw.execute("SELECT count(*) FROM enforcement_log").fetchone() == (2,)
    raw.close()


def test_a_server_that_is_lost_is_told_beside_what_was_read_before(postgres_store_url: str, clock: Clock) -> None:
    reader = Reader(postgres_store_url, clock=clock)
    seen(reader.look(View()))
    others = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    with psycopg.connect(postgres_store_url.replace("+psycopg", ""), autocommit=True) as admin:
        admin.execute(others)
    lost = reader.look(View())
    assert lost.trouble is None or (lost.trouble.kind == "unreachable" and lost.snapshot is not None)
    clock.pass_by(minutes=1)
    assert seen(reader.look(View())).facts.total == 0
    reader.close()


def test_a_server_that_accepts_and_says_nothing_is_out_of_reach_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("risk_store.dashboard.reader._ANSWER_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        reader = Reader(f"postgresql+psycopg://ann:s3cret@127.0.0.1:{silent.getsockname()[1]}/risk")
        trouble = reader.look(View()).trouble
        assert trouble is not None
        assert trouble.kind == "unreachable"
        assert "s3cret" not in repr(trouble)
        reader.close()


def test_no_secret_is_in_its_name_or_its_log(caplog: pytest.LogCaptureFixture) -> None:
    reader = Reader("postgresql+psycopg://ann:s3cret@127.0.0.1:1/risk?password=leak&application_name=x")
    look = reader.look(View())
    assert look.trouble is not None
    assert reader.name == "PostgreSQL 127.0.0.1/risk"
    assert "unreachable" in caplog.text
    for secret in ("s3cret", "leak"):
        assert secret not in caplog.text + repr(look) + reader.name
    reader.close()


def test_a_trouble_is_logged_once_and_not_at_each_look(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    reader = Reader(f"sqlite:///{tmp_path}/none.db")
    for _ in range(3):
        reader.look(View())
    assert len(caplog.records) == 1
    reader.close()


def test_a_closed_reader_says_so(reader: Reader) -> None:
    reader.close()
    trouble = reader.look(View()).trouble
    assert trouble is not None
    assert trouble.kind == "unreachable"


@pytest.mark.parametrize("url", ["sqlite://", "mysql://x/y", "no url"])
def test_what_cannot_be_watched_is_refused(url: str) -> None:
    with pytest.raises(InvalidValue, match="url"):
        Reader(url)


def test_urls_of_asyncio_drivers_are_read_by_their_synchronous_twins(store_url: str) -> None:
    async_url = store_url.replace("sqlite:", "sqlite+aiosqlite:").replace("+psycopg:", "+asyncpg:")
    reader = Reader(async_url)
    seen(reader.look(View()))
    reader.close()


def test_pages_of_many_threads_share_one_reader(reader: Reader, enforced: Enforced) -> None:
    found: list[int] = []

    def look() -> None:
        found.extend(seen(reader.look(View(days=days))).facts.total for days in (1, 7, 30) * 3)

    enforced()
    threads = [threading.Thread(target=look) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(found) == {1}
    assert len(found) == 72


def test_working_orders_and_lockouts_are_those_of_now(store: RiskStore, reader: Reader, clock: Clock) -> None:
    with store.begin() as tx:
        tx.orders.save(trailing_stop())
        tx.lockouts.set(456, "loss", "RULE-003", datetime.now(UTC) + timedelta(days=3650))
    facts = seen(reader.look(View())).facts
    assert [(order.id, order.trailing_amount) for order in facts.orders] == [(1, 12.5)]
    assert [row.account_id for row in facts.lockouts] == [456]

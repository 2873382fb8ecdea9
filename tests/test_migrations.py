"""The chain of revisions, on both engines: what each does, what it leaves alone, and that it ends at the models."""

import ast
import io
import re
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from alembic.config import Config
from alembic.script import Script, ScriptDirectory
from alembic.util import CommandError
from pytest_alembic.tests import (  # noqa: F401 (collected here, once on each engine)
    test_model_definitions_match_ddl,
    test_single_head_revision,
    test_up_down_consistency,
    test_upgrade,
)
from sqlalchemy import event
from sqlalchemy.orm import Session

from alembic import command
from risk_store.codes import OrderSide, OrderState, OrderType
from risk_store.engines import open_engine, parse_url
from risk_store.models import ROLLED_UP, ROLLUP, Base, EnforcementLog, Order
from risk_store.models.rollup import BUCKETS, TIMES
from risk_store.schema import HEAD, REVISIONS, VERSION_TABLE, SchemaState, alembic_config, status, upgrade
from risk_store.statements import time_by_rule
from risk_store.statements.rollup import bucket
from tests.frozen import make
from tests.support import v1
from tests.support.forks import ROOT, Nursery, Outcome
from tests.support.forks import alembic as alembic_line
from tests.support.pictures import Rows, files_in, restricted, rows_of, schema_at, schema_of, sorted_rows

FROZEN = ROOT / "tests" / "frozen"


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database (on SQLite: of no file), on each engine."""
    if request.param == "postgresql":
        return str(request.getfixturevalue("postgres_database"))
    return f"sqlite:///{tmp_path / 'empty.db'}"


@pytest.fixture
def alembic_engine(empty_url: str) -> Iterator[sa.Engine]:
    engine = open_engine(parse_url(empty_url), "migrate")
    yield engine
    engine.dispose()


@pytest.fixture(name="alembic_config")
def _alembic_config(alembic_engine: sa.Engine) -> Config:
    return alembic_config(alembic_engine)


@pytest.fixture
def v1_file(tmp_path: Path) -> Path:
    return v1.make_v1(tmp_path / "risk.db")


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with Nursery() as warm:
        yield warm


def url_of(file: Path) -> str:
    return f"sqlite:///{file}"


def scripts() -> dict[str, Script]:
    directory = ScriptDirectory.from_config(alembic_config("sqlite://"))
    return {script.revision: script for script in directory.walk_revisions()}


def script_of(url: str, revisions: str) -> str:
    """What `alembic upgrade … --sql` prints."""
    config = alembic_config(url)
    config.output_buffer = io.StringIO()
    command.upgrade(config, revisions, sql=True)
    return config.output_buffer.getvalue()


def run_script(url: str, script: str) -> None:
    """Run a script as `sqlite3 FILE < SCRIPT` or `psql -f SCRIPT` would."""
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
            connection.executescript(script)
    else:
        with plain_postgresql(url) as connection:
            connection.execute(script.encode())


def plain_postgresql(url: str) -> psycopg.Connection[Any]:
    plain = sa.make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    return psycopg.connect(plain, autocommit=True)


# The folder


def test_the_revisions_this_release_names_are_those_of_the_folder_in_their_order() -> None:
    by_id = scripts()
    assert set(REVISIONS) == set(by_id)
    assert [by_id[revision].down_revision for revision in REVISIONS] == [None, *REVISIONS[:-1]]
    assert REVISIONS[-1] == HEAD


@pytest.mark.parametrize("revision", REVISIONS)
def test_the_file_of_a_revision_is_named_after_it(revision: str) -> None:
    assert re.fullmatch(rf"{revision}_[a-z0-9]+(_[a-z0-9]+)*\.py", Path(scripts()[revision].path).name)


@pytest.mark.parametrize("revision", REVISIONS)
def test_a_revision_says_its_kind_what_it_means_for_a_v1_daemon_and_what_it_costs(revision: str) -> None:
    text = scripts()[revision].module.__doc__ or ""
    assert re.search(r"^Kind: (schema|data|schema and data|no-op)$", text, re.MULTILINE)
    assert re.search(r"^A v1 daemon may go on: (yes|no), \S", text, re.MULTILINE)
    assert re.search(r"^Cost: \S", text, re.MULTILINE)
    assert re.search(rf"^Revision: {revision}$", text, re.MULTILINE)


@pytest.mark.parametrize("revision", REVISIONS)
def test_a_revision_imports_nothing_of_risk_store_but_v1_which_never_changes(revision: str) -> None:
    imported = set()
    for node in ast.walk(ast.parse(Path(scripts()[revision].path).read_text())):
        if isinstance(node, ast.Import):
            imported |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module or "")
    assert {name for name in imported if name.startswith("risk_store")} <= {"risk_store.v1"}


def test_the_folder_named_alembic_never_shadows_the_library() -> None:
    assert (ROOT / "alembic" / "env.py").is_file()
    assert list((ROOT / "alembic").rglob("__init__.py")) == []


# From empty to the models


def test_a_fresh_database_has_exactly_what_the_models_have(
    empty_url: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    upgrade(empty_url)
    made = schema_at(empty_url)
    version = made.pop(VERSION_TABLE)
    assert set(version["columns"]) == {"version_num"}

    engine = sa.create_engine(empty_url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        for table in reversed(list(made)):
            connection.exec_driver_sql(f"DROP TABLE {table}")
        Base.metadata.create_all(connection)
        modelled = schema_of(connection)
    modelled.pop(VERSION_TABLE)
    assert made == modelled


@pytest.mark.parametrize("start", ["empty", *REVISIONS])
def test_alembic_check_is_clean_after_an_upgrade(alembic_engine: sa.Engine, start: str) -> None:
    config = alembic_config(alembic_engine)
    if start != "empty":
        command.upgrade(config, start)
    command.upgrade(config, "head")
    command.check(config)


def test_alembic_check_is_clean_after_the_adoption_of_a_v1_file(v1_file: Path) -> None:
    upgrade(url_of(v1_file))
    command.check(alembic_config(url_of(v1_file)))


def test_alembic_check_is_clean_after_the_adoption_of_v1_tables_on_postgresql(postgres_database: str) -> None:
    """Nobody has these but who went back below 0001; what 0001 makes there is taken for v1 again."""
    config = alembic_config(postgres_database)
    command.upgrade(config, "head")
    before = schema_at(postgres_database)
    command.downgrade(config, "base")
    assert status(postgres_database).state is SchemaState.LEGACY_V1
    command.upgrade(config, "head")
    command.check(config)
    assert schema_at(postgres_database) == before


def test_alembic_check_finds_a_column_and_an_index_that_are_missing(alembic_engine: sa.Engine) -> None:
    config = alembic_config(alembic_engine)
    command.upgrade(config, "head")
    with alembic_engine.begin() as connection:
        connection.exec_driver_sql("DROP INDEX idx_orders_state")
    with pytest.raises(CommandError, match="idx_orders_state"):
        command.check(config)
    with alembic_engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE daily_pnl DROP COLUMN fees")
    with pytest.raises(CommandError, match="fees"):
        command.check(config)


def test_alembic_check_has_nothing_to_say_of_what_is_not_ours(alembic_engine: sa.Engine) -> None:
    config = alembic_config(alembic_engine)
    command.upgrade(config, "head")
    with alembic_engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE notes (id INTEGER PRIMARY KEY, words TEXT)")
        connection.exec_driver_sql("CREATE INDEX notes_words ON notes (words)")
        connection.exec_driver_sql("ALTER TABLE orders ADD COLUMN desk TEXT")
        connection.exec_driver_sql("CREATE INDEX orders_desk ON orders (desk)")
    command.check(config)


# The no-op


def test_revision_0002_emits_nothing_but_its_version_row(alembic_engine: sa.Engine) -> None:
    config = alembic_config(alembic_engine)
    command.upgrade(config, "0001")
    with alembic_engine.connect() as connection:
        before = schema_of(connection)
    written = _writing_statements(alembic_engine, lambda: command.upgrade(config, "0002"))
    assert written == [f"UPDATE {VERSION_TABLE} SET version_num='0002' WHERE {VERSION_TABLE}.version_num = '0001'"]
    with alembic_engine.connect() as connection:
        assert schema_of(connection) == before
    written = _writing_statements(alembic_engine, lambda: command.downgrade(config, "0001"))
    assert written == [f"UPDATE {VERSION_TABLE} SET version_num='0001' WHERE {VERSION_TABLE}.version_num = '0002'"]


def _writing_statements(engine: sa.Engine, run: Callable[[], None]) -> list[str]:
    """Every statement that is not one of reading, of locking or of the transaction."""
    harmless = ("SELECT", "PRAGMA", "BEGIN", "SET LOCAL")
    seen: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if not statement.lstrip().startswith(harmless):
            seen.append(" ".join(statement.split()))

    event.listen(engine, "before_cursor_execute", note)
    try:
        run()
    finally:
        event.remove(engine, "before_cursor_execute", note)
    return seen


@pytest.mark.parametrize("url", ["sqlite:///never-opened.db", "postgresql+psycopg://nobody@never.invalid/opened"])
def test_revision_0002_prints_nothing_but_its_version_row(url: str, tmp_path: Path) -> None:
    lines = [line for line in script_of(url, "0001:0002").splitlines() if line and not line.startswith("--")]
    harmless = ("SELECT pg_advisory_xact_lock", "SET LOCAL", "BEGIN;", "COMMIT;")
    assert [line for line in lines if not line.startswith(harmless)] == [
        f"UPDATE {VERSION_TABLE} SET version_num='0002' WHERE {VERSION_TABLE}.version_num = '0001';"
    ]


# Offline


def test_the_printed_script_makes_the_same_schema_as_the_upgrade(empty_url: str) -> None:
    script = script_of(empty_url, "head")
    assert status(empty_url).state is SchemaState.EMPTY, "printing opens no database"
    run_script(empty_url, script)
    printed = schema_at(empty_url)
    assert status(empty_url).ok
    command.check(alembic_config(empty_url))

    engine = sa.create_engine(empty_url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        for table in reversed(list(printed)):
            connection.exec_driver_sql(f"DROP TABLE {table}")
    upgrade(empty_url)
    assert schema_at(empty_url) == printed


@pytest.mark.parametrize("start", REVISIONS[:-1])
def test_the_printed_script_of_later_revisions_goes_on_where_the_database_is(empty_url: str, start: str) -> None:
    command.upgrade(alembic_config(empty_url), start)
    run_script(empty_url, script_of(empty_url, f"{start}:head"))
    assert status(empty_url).ok
    command.check(alembic_config(empty_url))


@pytest.mark.parametrize("end", REVISIONS[:-1])
def test_the_printed_script_of_a_downgrade_goes_back(empty_url: str, end: str) -> None:
    config = alembic_config(empty_url)
    command.upgrade(config, end)
    before = schema_at(empty_url)
    command.upgrade(config, "head")
    config.output_buffer = io.StringIO()
    command.downgrade(config, f"{HEAD}:{end}", sql=True)
    run_script(empty_url, config.output_buffer.getvalue())
    assert schema_at(empty_url) == before


# Adoption of v1


def test_adopting_a_v1_file_keeps_every_row_and_column(v1_file: Path) -> None:
    before = rows_of(v1_file)
    upgrade(url_of(v1_file))
    after = rows_of(v1_file)
    assert restricted(after, before) == sorted_rows(before)
    rollup = {table.name for table in (*ROLLUP, ROLLED_UP)}
    assert set(after) - set(before) == {VERSION_TABLE, "enforcement_in_flight", "closed_positions"} | rollup
    added = {table: set(after[table][0]) - set(rows[0]) for table, rows in before.items() if rows}
    expected: dict[str, set[str]] = {}
    for table, column, *_ in _added(*REVISIONS):
        expected.setdefault(table, set()).add(column)
    assert {table: columns for table, columns in added.items() if columns} == expected


def test_adopting_a_v1_file_copies_outcomes_from_the_details_and_leaves_the_details(v1_file: Path) -> None:
    upgrade(url_of(v1_file))
    with closing(sqlite3.connect(v1_file)) as connection:
        rows = connection.execute(
            "SELECT id, error_message, positions_closed, orders_canceled, details FROM enforcement_log"
        ).fetchall()
    assert {row: tuple(outcome) for row, *outcome, _ in rows} == v1.OUTCOMES
    details = v1.COLUMNS["enforcement_log"].index("details")
    assert {row: text for row, *_, text in rows} == {row[0]: row[details] for row in v1.ROWS["enforcement_log"]}


def test_outcomes_are_copied_from_a_log_of_several_batches(tmp_path: Path) -> None:
    file = v1.make_v1(tmp_path / "risk.db", rows=False, log_rows=1100)
    upgrade(url_of(file))
    with closing(sqlite3.connect(file)) as connection:
        copied = "SELECT count(*) FROM enforcement_log WHERE error_message = 'slow gateway' AND positions_closed = 2"
        assert connection.execute(copied).fetchone() == (1100,)


def test_outcomes_are_copied_on_postgresql_too(postgres_database: str) -> None:
    command.upgrade(alembic_config(postgres_database), "0002")
    with plain_postgresql(postgres_database) as connection:
        _fill_postgresql(connection)
    upgrade(postgres_database)
    with plain_postgresql(postgres_database) as connection:
        rows = connection.execute(
            "SELECT id, error_message, positions_closed, orders_canceled FROM enforcement_log"
        ).fetchall()
    assert {row: tuple(outcome) for row, *outcome in rows} == v1.OUTCOMES


def _fill_postgresql(connection: psycopg.Connection[Any]) -> None:
    for table, rows in v1.ROWS.items():
        names = v1.COLUMNS[table]
        places = ", ".join(["%s"] * len(names))
        with connection.cursor() as cursor:
            cursor.executemany(f"INSERT INTO {table} ({', '.join(names)}) VALUES ({places})".encode(), rows)
    for table in ("trade_history", "enforcement_log"):  # SQLite goes on behind the highest id by itself
        connection.execute(f"ALTER TABLE {table} ALTER id RESTART WITH 1000".encode())


def test_a_v1_daemons_own_statements_give_the_same_on_an_upgraded_file(v1_file: Path, tmp_path: Path) -> None:
    upgraded = Path(shutil.copy(v1_file, tmp_path / "upgraded.db"))
    upgrade(url_of(upgraded))
    fresh = tmp_path / "fresh.db"
    upgrade(url_of(fresh))
    with closing(sqlite3.connect(fresh)) as connection:
        for table, rows in v1.ROWS.items():
            v1.insert(connection, table, v1.COLUMNS[table], rows)
        connection.commit()
    before = _replay_on_sqlite(v1_file)
    assert len(before) == sum(statement.reads for statement in v1.STATEMENTS)
    assert all(before), "every question has an answer, or it would show nothing"
    assert _replay_on_sqlite(upgraded) == before
    assert _replay_on_sqlite(fresh) == before
    assert {table: len(rows) for table, rows in restricted(rows_of(upgraded), rows_of(v1_file)).items()} == {
        table: len(rows) for table, rows in rows_of(v1_file).items()
    }


def _replay_on_sqlite(file: Path) -> list[list[tuple[Any, ...]]]:
    answers = []
    with closing(sqlite3.connect(file)) as connection:
        for statement in v1.STATEMENTS:
            rows = connection.execute(statement.sql, statement.values).fetchall()
            if statement.reads:
                answers.append(rows)
        connection.commit()
    return answers


def test_a_v1_daemons_own_statements_give_the_same_on_postgresql(v1_file: Path, postgres_store_url: str) -> None:
    answers = []
    with plain_postgresql(postgres_store_url) as connection:
        _fill_postgresql(connection)
        connection.execute("SET timezone = 'UTC'")
        for statement in v1.STATEMENTS:
            result = connection.execute(statement.for_psycopg.encode(), statement.values)
            if statement.reads:
                answers.append([tuple(map(_as_sqlite_has_it, row)) for row in result.fetchall()])
    assert answers == _replay_on_sqlite(v1_file)


def _as_sqlite_has_it(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC).replace(tzinfo=None).isoformat(" ")
    return value.isoformat() if isinstance(value, date) else value


def test_a_v1_file_without_execution_time_gets_the_column(tmp_path: Path) -> None:
    short = v1.TABLES.replace("details TEXT,\n    execution_time_ms INTEGER", "details TEXT")
    assert short != v1.TABLES
    file = v1.make_v1(tmp_path / "risk.db", tables=short)
    before = rows_of(file)
    assert "execution_time_ms" not in before["enforcement_log"][0]
    assert status(url_of(file)).state is SchemaState.LEGACY_V1
    upgrade(url_of(file))
    assert {row["execution_time_ms"] for row in rows_of(file)["enforcement_log"]} == {"NULL"}
    assert restricted(rows_of(file), before) == sorted_rows(before)
    command.check(alembic_config(url_of(file)))


@pytest.mark.parametrize("indexes", ["", v1.INDEXES.replace("CREATE INDEX idx_orders_state ON orders(state);", "")])
def test_a_v1_file_with_indexes_missing_gets_them(tmp_path: Path, v1_file: Path, indexes: str) -> None:
    file = v1.make_v1(tmp_path / "bare.db", indexes=indexes)
    upgrade(url_of(file))
    upgrade(url_of(v1_file))
    assert schema_at(url_of(file)) == schema_at(url_of(v1_file))
    command.check(alembic_config(url_of(file)))


def test_what_a_user_added_to_a_v1_file_stays(tmp_path: Path) -> None:
    additions = """
        ALTER TABLE orders ADD COLUMN desk TEXT DEFAULT 'north';
        CREATE INDEX orders_by_desk ON orders(desk);
        CREATE TABLE "my notes" (id INTEGER PRIMARY KEY, words TEXT, "from" BLOB);
        INSERT INTO "my notes" VALUES (7, 'keep me', x'00ff');
    """
    file = v1.make_v1(tmp_path / "risk.db", more=v1.SCHEMA_VERSION + additions)
    before = rows_of(file)
    upgrade(url_of(file))
    after = rows_of(file)
    assert restricted(after, before) == sorted_rows(before)
    assert after["my notes"] == before["my notes"]
    assert after["schema_version"] == before["schema_version"]
    assert {row["desk"] for row in after["orders"]} == {"'north'"}
    command.check(alembic_config(url_of(file)))
    with closing(sqlite3.connect(file)) as connection:
        assert "orders_by_desk" in {row[1] for row in connection.execute("PRAGMA index_list(orders)")}


@pytest.mark.parametrize(
    "pragma", ["encoding = 'UTF-16'", "auto_vacuum = 1", "journal_mode = WAL", "page_size = 65536"]
)
def test_a_v1_file_of_any_format_is_adopted(tmp_path: Path, v1_file: Path, pragma: str) -> None:
    file = tmp_path / "other.db"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute(f"PRAGMA {pragma}")
        connection.executescript(v1.TABLES + v1.INDEXES)
        for table, rows in v1.ROWS.items():
            v1.insert(connection, table, v1.COLUMNS[table], rows)
        connection.commit()
    before = rows_of(file)
    upgrade(url_of(file))
    assert restricted(rows_of(file), before) == sorted_rows(before)
    assert _replay_on_sqlite(file) == _replay_on_sqlite(v1_file)


# The roll-up

THEIR_BUCKETS = """
    INSERT INTO enforcement_buckets (rule_id, succeeded, bucket, pruned, enforcements, total_ms)
    SELECT rule_id, succeeded, bucket, pruned, sum(enforcements), sum(enforcements * ms) FROM enforcement_times
    GROUP BY rule_id, succeeded, bucket, pruned
"""


def test_the_buckets_of_a_roll_up_are_counted_anew_by_0006_and_as_they_were_by_its_downgrade(
    alembic_engine: sa.Engine,
) -> None:
    config = alembic_config(alembic_engine)
    command.upgrade(config, "0005")
    with alembic_engine.begin() as connection:
        connection.execute(sa.insert(TIMES), list(_times_at_0005()))
        connection.exec_driver_sql(THEIR_BUCKETS)
    before = _rolled_up(alembic_engine)
    command.upgrade(config, "0006")
    expected = sa.select(
        TIMES.c.rule_id,
        TIMES.c.succeeded,
        bucket(TIMES.c.ms),
        TIMES.c.pruned,
        sa.func.sum(TIMES.c.enforcements),
        sa.func.sum(TIMES.c.enforcements * TIMES.c.ms),
    ).group_by(*(sa.literal_column(str(n)) for n in range(1, 5)))
    with alembic_engine.connect() as connection:
        assert connection.scalar(sa.select(sa.func.count()).where(TIMES.c.bucket != bucket(TIMES.c.ms))) == 0
        assert set(connection.execute(sa.select(BUCKETS)).all()) == set(connection.execute(expected).all())
        asked = time_by_rule(outcome="all", include_pruned=True)
        for row in connection.execute(asked):
            assert row[2:] == _counted(connection, row.rule_id)
    command.downgrade(config, "0005")
    assert _rolled_up(alembic_engine) == before


@pytest.mark.postgres
def test_a_roll_up_that_is_under_way_is_waited_for_before_its_buckets_are_counted_anew(postgres_database: str) -> None:
    config = alembic_config(postgres_database)
    command.upgrade(config, "0005")
    engine = open_engine(parse_url(postgres_database), "migrate")
    failed: list[BaseException] = []

    def go_on() -> None:
        try:
            command.upgrade(config, "0006")
        except BaseException as error:
            failed.append(error)

    with engine.connect() as rolling, engine.connect() as watching:
        rolling.exec_driver_sql("LOCK TABLE enforcement_rolled_up IN EXCLUSIVE MODE")
        rolling.execute(sa.insert(TIMES), list(_times_at_0005()))
        rolling.exec_driver_sql(THEIR_BUCKETS)
        upgrading = threading.Thread(target=go_on)
        upgrading.start()
        while not watching.exec_driver_sql("SELECT count(*) FROM pg_locks WHERE NOT granted").scalar():
            watching.rollback()
            assert not failed
        rolling.commit()
        upgrading.join()
    assert failed == []
    with engine.connect() as connection:
        counted = sa.select(sa.func.sum(BUCKETS.c.enforcements), sa.func.sum(BUCKETS.c.total_ms))
        times = sa.select(sa.func.sum(TIMES.c.enforcements), sa.func.sum(TIMES.c.enforcements * TIMES.c.ms))
        assert connection.execute(counted).one() == connection.execute(times).one()
        assert connection.scalar(sa.select(sa.func.count()).where(TIMES.c.bucket != bucket(TIMES.c.ms))) == 0
    engine.dispose()


def _times_at_0005() -> Iterator[dict[str, Any]]:
    ms, wide = 1, ((2**10, 2**4), (2**14, 2**8), (2**18, 2**12), (2**31, 2**16))
    for k in range(140):
        step = next(step for below, step in wide if ms < below)
        for rule in ("RULE-001", "RULE-002"):
            counted = {"enforcements": k % 3 + 1, "succeeded": k % 7 != 3, "pruned": k % 5 == 2}
            yield {"rule_id": rule, "ms": ms, "bucket": ms - ms % step, **counted}
        ms += ms // 10 + 1


def _rolled_up(engine: sa.Engine) -> list[list[Any]]:
    tables = ("enforcement_hours", "enforcement_day_times", "enforcement_times", "enforcement_buckets")
    with engine.connect() as connection:
        return [sorted(connection.exec_driver_sql(f"SELECT * FROM {table}").all()) for table in tables]


def _counted(connection: sa.Connection, rule: str) -> tuple[int, ...]:
    """The least time of a rule, the most, how many there are, and percentiles, of all its times."""
    by_size = sa.select(TIMES.c.ms, TIMES.c.enforcements).where(TIMES.c.rule_id == rule).order_by(TIMES.c.ms)
    times = [ms for ms, n in connection.execute(by_size) for _ in range(n)]
    ranks = (-(-len(times) * p // 100) - 1 for p in (50, 95, 99))
    return (times[0], times[-1], len(times), *(times[rank] for rank in ranks))


# The frozen files


def test_every_released_schema_has_a_frozen_file() -> None:
    assert {path.stem for path in FROZEN.glob("*.db")} == {"v1", *REVISIONS}


@pytest.mark.parametrize("name", ["v1", *REVISIONS])
def test_what_was_released_is_still_what_is_made(name: str, tmp_path: Path) -> None:
    """A revision that is out there must not change: this fails when someone edits one."""
    frozen = Path(shutil.copy(FROZEN / f"{name}.db", tmp_path / "frozen.db"))
    made = tmp_path / "made.db"
    make.make(name, made)
    assert schema_at(url_of(made)) == schema_at(url_of(frozen))
    assert rows_of(made) == rows_of(frozen)


@pytest.mark.parametrize("name", ["v1", *REVISIONS])
def test_a_file_of_every_released_schema_is_upgraded_and_does_real_work(name: str, tmp_path: Path) -> None:
    file = Path(shutil.copy(FROZEN / f"{name}.db", tmp_path / "risk.db"))
    before = {table: rows for table, rows in rows_of(file).items() if table != VERSION_TABLE}
    upgrade(url_of(file))
    assert status(url_of(file)).ok
    if name in REVISIONS[2:-1]:
        # Written when the columns were there already: this upgrade is the first to see these rows.
        _make_canonical(before)
    if name == "0005":
        before["enforcement_time_buckets"] = before.pop("enforcement_buckets")  # of times that are in the same one now
    assert restricted(rows_of(file), before) == sorted_rows(before)
    assert all(_replay_on_sqlite(file))

    engine = open_engine(parse_url(url_of(file)), "store")
    with Session(engine) as session, session.begin():
        for mapper in Base.registry.mappers:
            in_table = session.scalar(sa.select(sa.func.count()).select_from(mapper.local_table))
            assert len(session.scalars(sa.select(mapper.class_)).all()) == in_table
        old = session.get_one(Order, 123)
        assert (old.type, old.side, old.state) == (OrderType.TRAILING_STOP, OrderSide.SELL, OrderState.ACTIVE)
        assert (old.stop_price, old.trailing_amount, old.filled_size) == (20990.0, None, 0)
        assert session.get_one(EnforcementLog, 1).positions_closed == (0 if name == HEAD else 3)
        old.trailing_amount = 10.0
        session.add(
            Order(
                id=77,
                account_id=456,
                contract_id=v1.MNQ,
                type=OrderType.TRAILING_STOP,
                side=OrderSide.BUY,
                size=2,
                stop_price=21010.25,
                trailing_amount=5.5,
                state=OrderState.ACTIVE,
            )
        )
        session.add(EnforcementLog(None, 456, "RULE-003", "CLOSE_ALL", "Real work", True, positions_closed=2))
    with Session(engine) as session:
        assert session.get_one(Order, 123).trailing_amount == 10.0
        assert session.get_one(Order, 77).stop_price == 21010.25
        newest = session.scalars(sa.select(EnforcementLog).order_by(EnforcementLog.id.desc())).first()
        assert newest is not None
        assert (newest.reason, newest.positions_closed) == ("Real work", 2)
    engine.dispose()


def _make_canonical(rows: Rows) -> None:
    """The values of the columns since 0003 as an upgrade leaves them: the outcomes that `details` tell, one instant."""
    columns = ("error_message", "positions_closed", "orders_canceled")
    with closing(sqlite3.connect(":memory:")) as connection:
        for row in rows["enforcement_log"]:
            if outcome := v1.OUTCOMES.get(int(row["id"])):
                quoted = connection.execute("SELECT quote(?), quote(?), quote(?)", outcome).fetchone()
                row.update(zip(columns, quoted, strict=True))
    [order] = [row for row in rows["orders"] if row["venue_updated_at"] == "'2025-10-21 16:00:04.5'"]
    order["venue_updated_at"] = "'2025-10-21 16:00:04.500000'"


# Going back


def test_a_downgrade_that_loses_nothing_gives_the_v1_file_back(v1_file: Path) -> None:
    schema, rows = schema_at(url_of(v1_file)), rows_of(v1_file)
    upgrade(url_of(v1_file))
    upgraded_schema, upgraded_rows = schema_at(url_of(v1_file)), rows_of(v1_file)
    config = alembic_config(url_of(v1_file))
    command.downgrade(config, "base")
    assert status(url_of(v1_file)).state is SchemaState.LEGACY_V1
    assert schema_at(url_of(v1_file)) == schema | {VERSION_TABLE: upgraded_schema[VERSION_TABLE]}
    assert rows_of(v1_file) == rows | {VERSION_TABLE: []}
    upgrade(url_of(v1_file))
    assert schema_at(url_of(v1_file)) == upgraded_schema
    assert rows_of(v1_file) == upgraded_rows


def test_a_downgrade_refuses_to_lose_what_is_known_of_pruned_days(alembic_engine: sa.Engine, empty_url: str) -> None:
    config = alembic_config(alembic_engine)
    command.upgrade(config, "head")
    values = "VALUES ('2025-10-21', 'R', {yes}, {pruned}, 5, 1)"
    columns = "(day, rule_id, succeeded, pruned, ms, enforcements)"
    insert = f"INSERT INTO enforcement_day_times {columns} {values}"
    _execute(alembic_engine, insert.format(yes="true", pruned="true"), insert.format(yes="true", pruned="false"))
    with pytest.raises(CommandError, match=r"pruned days \(enforcement_day_times, 1 rows\)"):
        command.downgrade(config, "0004")
    assert status(empty_url).ok
    _execute(alembic_engine, "DELETE FROM enforcement_day_times WHERE pruned")
    command.downgrade(config, "0004")  # what is left counts rows that are there


def test_a_downgrade_refuses_to_lose_values_and_names_them_all(alembic_engine: sa.Engine, empty_url: str) -> None:
    config = alembic_config(alembic_engine)
    command.upgrade(config, "0002")
    schema_before = schema_at(empty_url)
    command.upgrade(config, "head")
    schema = schema_at(empty_url)
    _execute(alembic_engine, *FIRST_ROWS, IN_FLIGHT, CLOSED)
    lost = list(_added(*REVISIONS))
    _execute(alembic_engine, *(f"UPDATE {table} SET {column} = {value}" for table, column, value, _ in lost))
    # Each revision speaks for what it added, the newest first: whoever has cleared that is told of the next.
    for revision in reversed(REVISIONS):
        lost = list(_added(revision))
        if not lost:
            continue
        tables = {"0003": ["enforcement_in_flight"], "0004": ["closed_positions"]}[revision]
        with pytest.raises(CommandError, match=f"a downgrade below {revision} would lose values") as refused:
            command.downgrade(config, "0002")
        named = re.findall(r"(\w+(?:\.\w+)?) \(1 rows\)", str(refused.value))
        assert sorted(named) == sorted([*tables, *(f"{table}.{column}" for table, column, *_ in lost)])
        assert "Nothing was changed" in str(refused.value)
        assert schema_at(empty_url) == schema, "what a newer revision added neither"
        assert status(empty_url).ok
        _execute(alembic_engine, *(f"DELETE FROM {table}" for table in tables))
        _execute(alembic_engine, *(f"UPDATE {table} SET {column} = {default}" for table, column, _, default in lost))

    command.downgrade(config, "0002")
    assert schema_at(empty_url) == schema_before


def test_a_downgrade_refuses_to_lose_a_single_value_of_any_column(tmp_path: Path) -> None:
    engine = open_engine(parse_url(url_of(tmp_path / "risk.db")), "migrate")
    config = alembic_config(engine)
    command.upgrade(config, "head")
    _execute(engine, *FIRST_ROWS)
    for table, column, value, default in _added(*REVISIONS):
        _execute(engine, f"UPDATE {table} SET {column} = {value}")
        with pytest.raises(CommandError, match=rf"would lose values: {table}\.{column} \(1 rows\)\. Nothing"):
            command.downgrade(config, "0002")
        _execute(engine, f"UPDATE {table} SET {column} = {default} WHERE {column} = {value}")
    assert status(engine).ok


def _execute(engine: sa.Engine, *statements: str) -> None:
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


FIRST_ORDER = """
    INSERT INTO orders (id, account_id, contract_id, type, side, size, state, created_at)
    VALUES (1, 1, 'X', 1, 0, 1, 2, '2025-10-21 17:00:00')
"""
FIRST_LOG = "INSERT INTO enforcement_log (account_id, rule_id, action, reason) VALUES (1, 'R', 'A', 'r')"
FIRST_TRADE = "INSERT INTO trade_history (account_id, timestamp, contract_id) VALUES (1, '2025-10-21 17:00:00', 'X')"
FIRST_DAY = "INSERT INTO daily_pnl (account_id, date) VALUES (1, '2025-10-21')"
FIRST_POSITION = """
    INSERT INTO positions (id, account_id, contract_id, type, size, average_price, created_at)
    VALUES (1, 1, 'X', 1, 1, 5.5, '2025-10-21 17:00:00')
"""
FIRST_ROWS = [FIRST_ORDER, FIRST_LOG, FIRST_TRADE, FIRST_DAY, FIRST_POSITION]
CLOSED = """
    INSERT INTO closed_positions (id, account_id, contract_id, closed_at) VALUES (1, 1, 'X', '2025-10-21 14:00:00')
"""
IN_FLIGHT = """
    INSERT INTO enforcement_in_flight (account_id, enforcement_id, rule_id, action, reason, started_at, host, pid)
    VALUES (1, 'e', 'R', 'A', 'r', '2025-10-21 17:00:00', 'h', 1)
"""


def _added(*revisions: str) -> Iterator[tuple[str, str, str, str]]:
    """Each column that revisions added to v1's tables: its table, its name, and SQL for a value that a downgrade would
    lose and for the default."""
    values = {bool: "true", str: "'lost'", datetime: "'2025-10-21 17:00:00'", date: "'2025-10-21'"}
    by_id = scripts()
    for revision in revisions:
        for table, columns in getattr(by_id[revision].module, "ADDED", {}).items():
            for column, added in columns.items():
                # Where all that a revision adds is nullable, it names no defaults.
                type_, default = added if isinstance(added, tuple) else (added, None)
                yield table, column, values.get(type_.python_type, "1"), "NULL" if default is None else str(default)


def test_a_downgrade_names_everything_that_differs_from_the_details(v1_file: Path) -> None:
    upgrade(url_of(v1_file))
    with closing(sqlite3.connect(v1_file)) as connection:
        connection.execute("UPDATE enforcement_log SET positions_closed = 4, error_message = 'x' WHERE id IN (1, 2)")
        connection.commit()
    with pytest.raises(CommandError) as refused:
        command.downgrade(alembic_config(url_of(v1_file)), "base")
    assert "enforcement_log.error_message (2 rows), enforcement_log.positions_closed (2 rows)." in str(refused.value)
    assert status(url_of(v1_file)).ok, "nothing was changed, the later steps neither"


# The command line


def files_made(nursery: Nursery, folder: Path, *arguments: str, **variables: str) -> set[str]:
    [end] = nursery.run(alembic_line(*arguments, folder=folder, **variables))
    assert end.passed, end
    return {path.name for path in folder.glob("*.db")}


def test_the_url_on_the_command_line_comes_before_the_environment_and_that_before_alembic_ini(
    nursery: Nursery, tmp_path: Path
) -> None:
    for number, (made, arguments, variables) in enumerate(
        [
            ("given.db", ["-x", "url=sqlite:///given.db"], {"RISK_STORE_URL": "sqlite:///environment.db"}),
            ("given.db", ["-x", "url=sqlite:///given.db"], {}),
            ("environment.db", [], {"RISK_STORE_URL": "sqlite:///environment.db"}),
            ("risk.db", [], {}),
        ]
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        assert files_made(nursery, folder, *arguments, "upgrade", "head", **variables) == {made}
        assert status(url_of(folder / made)).ok


def test_looking_at_a_file_that_is_not_there_makes_none(nursery: Nursery, tmp_path: Path) -> None:
    current, check, history = nursery.run(
        *(alembic_line(verb, folder=tmp_path) for verb in ("current", "check", "history"))
    )
    assert current.passed
    assert current.out == ""
    assert check.code == 255
    assert "not up to date" in check.out + check.err
    assert history.passed
    assert f"{REVISIONS[-2]} -> {HEAD} (head)" in history.out
    assert list(tmp_path.iterdir()) == []


def test_looking_at_a_file_from_several_sides_changes_neither_it_nor_its_folder(
    nursery: Nursery, tmp_path: Path, v1_file: Path
) -> None:
    looks = [alembic_line(verb, folder=tmp_path) for verb in ("current", "check", "current")]
    before = files_in(tmp_path)
    for _ in range(3):
        assert [look.code for look in nursery.run(*looks)] == [0, 255, 0]
        assert files_in(tmp_path) == before
    with closing(sqlite3.connect(v1_file)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
    before = files_in(tmp_path)
    # In WAL one after the other: of several at once the last to close may be one that cannot remove -wal and -shm.
    for look in looks:
        assert nursery.run(look)[0].code in (0, 255)
        assert files_in(tmp_path) == before


def test_the_command_line_of_the_project_works_as_the_readme_says(nursery: Nursery, tmp_path: Path) -> None:
    url = ["-x", f"url={url_of(tmp_path / 'risk.db')}"]
    lines: list[Outcome] = []
    for verb in (
        ["upgrade", "head"],
        ["current"],
        ["check"],
        ["downgrade", "base"],
        ["stamp", "0002"],
        ["upgrade", "+1"],
    ):
        [end] = nursery.run(alembic_line(*url, *verb))
        lines.append(end)
        assert end.passed, end
    assert lines[1].out.split() == [HEAD, "(head)"]
    assert "No new upgrade operations" in lines[2].out


def test_a_password_in_a_url_with_a_percent_sign_reaches_postgresql(nursery: Nursery, postgres_database: str) -> None:
    url = sa.make_url(postgres_database)
    assert url.password is not None
    escaped = "".join(f"%{ord(letter):02x}" for letter in url.password)
    text = postgres_database.replace(f":{url.password}@", f":{escaped}@")
    assert text != postgres_database
    ends = nursery.run(alembic_line("-x", f"url={text}", "upgrade", "head"))
    ends += nursery.run(alembic_line("current", RISK_STORE_URL=text))
    for end in ends:
        assert end.passed, end
        assert url.password not in end.out + end.err
    assert ends[1].out.split() == [HEAD, "(head)"]

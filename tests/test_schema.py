"""The verdict on a database, the copy that is made before an upgrade, and what may be printed of a URL."""

import json
import os
import re
import shutil
import sqlite3
import stat
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
import sqlalchemy as sa
from alembic.util import CommandError
from hypothesis import assume, example, given
from hypothesis import strategies as st
from sqlalchemy.engine import URL

from alembic import command
from risk_store.engines import display_url, parse_url
from risk_store.errors import InvalidValue, RiskStoreError, SchemaMismatch, StoreUnavailable
from risk_store.schema import (
    HEAD,
    REVISIONS,
    VERSION_TABLE,
    SchemaState,
    SchemaStatus,
    alembic_config,
    inspect_schema,
    status,
    upgrade,
)
from tests.support import v1
from tests.support.forks import ROOT
from tests.support.pictures import files_in, is_sound, rows_of, schema_at

FROZEN = ROOT / "tests" / "frozen"


def url_of(file: Path) -> str:
    return f"sqlite:///{file}"


# What may be found


@dataclass(frozen=True)
class Found:
    """A database in some state, and what must be said of it."""

    state: SchemaState
    says: tuple[str, ...]
    """Words of the message."""
    make: Callable[[Path], object] | None = None
    """Makes the file, on SQLite."""
    sql: str | None = None
    """Makes the tables, on PostgreSQL."""
    revision: str | None = None
    """The revision to start from, on PostgreSQL."""


def _frozen(name: str, sql: str = "") -> Callable[[Path], object]:
    def make(file: Path) -> None:
        shutil.copy(FROZEN / f"{name}.db", file)
        _run(file, sql)

    return make


def _run(file: Path, sql: str) -> None:
    with closing(sqlite3.connect(file)) as connection:
        connection.executescript(sql)


def _made(sql: str) -> Callable[[Path], object]:
    return lambda file: _run(file, sql)


def _killed_in_wal(sql: str) -> Callable[[Path], object]:
    """A file whose last rows are in the write-ahead log only, as a killed daemon leaves it."""

    def make(file: Path) -> None:
        live = file.with_name("live.db")
        shutil.copy(FROZEN / "v1.db", live)
        with closing(sqlite3.connect(live, isolation_level=None)) as connection:
            connection.executescript(f"PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0; {sql}")
            for end in ("", "-wal", "-shm"):
                shutil.copy(f"{live}{end}", f"{file}{end}")
        live.unlink()

    return make


NEW_ROW = "INSERT INTO session_state (account_id, session_start) VALUES (99, '2025-10-22 00:00:00');"
AHEAD = f"UPDATE {VERSION_TABLE} SET version_num = 'f00d5eed'"
TWO_HEADS = f"INSERT INTO {VERSION_TABLE} VALUES ('0002')"
OTHER_TABLES = "CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT); INSERT INTO users VALUES (1, 'ann')"
OWN_COLUMN = "ALTER TABLE orders ADD COLUMN desk TEXT"
OTHER_ORDERS = "CREATE TABLE orders (id INTEGER PRIMARY KEY, customer TEXT)"
OTHER_ALEMBIC = f"CREATE TABLE alembic_version (version_num TEXT); INSERT INTO alembic_version VALUES ('{HEAD}')"
IN_FLIGHT_ONLY = "CREATE TABLE enforcement_in_flight (account_id INTEGER)"
LOST_TABLE = "DROP TABLE session_state"
LOST_COLUMN = "DROP INDEX ix_orders_trailing; ALTER TABLE orders DROP COLUMN seen_at"

FINDINGS: dict[str, Found] = {
    "nothing at all": Found(SchemaState.EMPTY, ("there is no file",), make=lambda _: None),
    "a file of no bytes": Found(SchemaState.EMPTY, ("no tables",), make=Path.touch),
    "a database without tables": Found(
        SchemaState.EMPTY, ("no tables",), make=_made("PRAGMA user_version = 7"), sql="SELECT 1"
    ),
    "an empty database in WAL mode": Found(SchemaState.EMPTY, ("no tables",), make=_made("PRAGMA journal_mode = WAL")),
    "a version table and nothing else": Found(
        SchemaState.EMPTY,
        ("no tables",),
        make=_made(f"CREATE TABLE {VERSION_TABLE} (version_num VARCHAR(32) NOT NULL)"),
        sql=f"CREATE TABLE {VERSION_TABLE} (version_num VARCHAR(32) NOT NULL)",
    ),
    "other applications' tables on a server": Found(
        SchemaState.EMPTY, ("no tables",), sql=f"{OTHER_TABLES}; {OTHER_ALEMBIC}"
    ),
    "v1": Found(SchemaState.LEGACY_V1, ("v1 daemon", "no revision"), make=_frozen("v1")),
    "v1 in WAL mode": Found(
        SchemaState.LEGACY_V1, ("v1 daemon",), make=_frozen("v1", "PRAGMA journal_mode = WAL; " + NEW_ROW)
    ),
    "v1 left by a killed daemon": Found(SchemaState.LEGACY_V1, ("v1 daemon",), make=_killed_in_wal(NEW_ROW)),
    "v1 beside a user's tables": Found(SchemaState.LEGACY_V1, ("v1 daemon",), make=_frozen("v1", OTHER_TABLES)),
    "v1 after a downgrade to base": Found(
        SchemaState.LEGACY_V1,
        ("v1 daemon",),
        make=_frozen("0001", f"DELETE FROM {VERSION_TABLE}"),
        sql=f"DELETE FROM {VERSION_TABLE}",
        revision="0001",
    ),
    **{
        revision: Found(
            SchemaState.BEHIND,
            ("behind", f"revision {revision}"),
            make=_frozen(revision),
            sql="SELECT 1",
            revision=revision,
        )
        for revision in REVISIONS[:-1]
    },
    "0002 in WAL mode": Found(
        SchemaState.BEHIND, ("behind", "revision 0002"), make=_frozen("0002", "PRAGMA journal_mode = WAL; " + NEW_ROW)
    ),
    "0003 in WAL mode": Found(
        SchemaState.BEHIND, ("behind", "revision 0003"), make=_frozen("0003", "PRAGMA journal_mode = WAL; " + NEW_ROW)
    ),
    "0003 with more of a user's own": Found(
        SchemaState.BEHIND,
        ("behind", "revision 0003"),
        make=_frozen("0003", f"{OTHER_TABLES}; {OWN_COLUMN}"),
        sql=f"{OTHER_TABLES}; {OWN_COLUMN}",
        revision="0003",
    ),
    HEAD: Found(
        SchemaState.CURRENT, ("current", f"revision {HEAD}"), make=_frozen(HEAD), sql="SELECT 1", revision="head"
    ),
    "head in WAL mode": Found(
        SchemaState.CURRENT, ("current",), make=_frozen(HEAD, "PRAGMA journal_mode = WAL; " + NEW_ROW)
    ),
    "head with more of a user's own": Found(
        SchemaState.CURRENT,
        ("current",),
        make=_frozen(HEAD, f"{OTHER_TABLES}; {OWN_COLUMN}"),
        sql=f"{OTHER_TABLES}; {OWN_COLUMN}",
        revision="head",
    ),
    "an unknown revision": Found(
        SchemaState.AHEAD, ("newer", "f00d5eed"), make=_frozen(HEAD, AHEAD), sql=AHEAD, revision="head"
    ),
    "several revisions": Found(
        SchemaState.AHEAD, (f"0002, {HEAD}",), make=_frozen(HEAD, TWO_HEADS), sql=TWO_HEADS, revision="head"
    ),
    "another program's tables": Found(SchemaState.FOREIGN, ("users", "none of ours"), make=_made(OTHER_TABLES)),
    "another program's tables in WAL mode": Found(
        SchemaState.FOREIGN, ("users",), make=_made("PRAGMA journal_mode = WAL; " + OTHER_TABLES)
    ),
    "another program's alembic_version": Found(
        SchemaState.FOREIGN, ("alembic_version", "none of ours"), make=_made(OTHER_ALEMBIC)
    ),
    "our names for something else": Found(
        SchemaState.FOREIGN, ("orders", "is not v1"), make=_made(OTHER_ORDERS), sql=OTHER_ORDERS
    ),
    "v1 with a table missing": Found(
        SchemaState.FOREIGN, ("is not v1", "missing session_state"), make=_frozen("v1", LOST_TABLE)
    ),
    "v1 with a column missing": Found(
        SchemaState.FOREIGN,
        ("is not v1", "missing session_state.updated_at"),
        make=_frozen("v1", "ALTER TABLE session_state DROP COLUMN updated_at"),
    ),
    "v1 with a table that v1 had not": Found(
        SchemaState.FOREIGN,
        ("enforcement_in_flight", "v1 had not"),
        make=_frozen("v1", IN_FLIGHT_ONLY),
        sql=f"{IN_FLIGHT_ONLY}; DELETE FROM {VERSION_TABLE}",
        revision="0001",
    ),
    "v1 with a table that only a later revision had": Found(
        SchemaState.FOREIGN,
        ("enforcement_buckets", "v1 had not"),
        make=_frozen("v1", "CREATE TABLE enforcement_buckets (account_id INTEGER)"),
        sql=f"CREATE TABLE enforcement_buckets (account_id INTEGER); DELETE FROM {VERSION_TABLE}",
        revision="0001",
    ),
    "not a database": Found(
        SchemaState.FOREIGN, ("not an SQLite database",), make=lambda file: file.write_bytes(b"PK\3\4 a zip file" * 99)
    ),
    "a short text": Found(SchemaState.FOREIGN, ("not an SQLite database",), make=lambda file: file.write_text("hi")),
    "a table of ours missing": Found(
        SchemaState.DRIFTED,
        ("missing session_state", HEAD),
        make=_frozen(HEAD, LOST_TABLE),
        sql=LOST_TABLE,
        revision="head",
    ),
    "a column of ours missing": Found(
        SchemaState.DRIFTED,
        ("missing orders.seen_at",),
        make=_frozen(HEAD, LOST_COLUMN),
        sql=LOST_COLUMN,
        revision="head",
    ),
    # Of a store behind as well: no later revision makes what an earlier one has made already.
    "0003 with a table of v1 missing": Found(
        SchemaState.DRIFTED,
        ("revision 0003", "missing session_state"),
        make=_frozen("0003", LOST_TABLE),
        sql=LOST_TABLE,
        revision="0003",
    ),
    "0005 with a table missing that head has no more": Found(
        SchemaState.DRIFTED,
        ("revision 0005", "missing enforcement_buckets"),
        make=_frozen("0005", "DROP TABLE enforcement_buckets"),
        sql="DROP TABLE enforcement_buckets",
        revision="0005",
    ),
    "0003 with a column of 0003 missing": Found(
        SchemaState.DRIFTED,
        ("revision 0003", "missing orders.seen_at"),
        make=_frozen("0003", LOST_COLUMN),
        sql=LOST_COLUMN,
        revision="0003",
    ),
}
ON_SQLITE = [name for name, found in FINDINGS.items() if found.make]
ON_POSTGRESQL = [name for name, found in FINDINGS.items() if found.sql]


def check_verdict(verdict: SchemaStatus, found: Found, secret: str | None = None) -> None:
    message = verdict.message
    assert verdict.state is found.state, message
    assert verdict.expected == HEAD
    assert verdict.ok == (found.state is SchemaState.CURRENT)
    # What tables there should be follows from the revision found, not from the one that is expected.
    revision = verdict.found if found.state is SchemaState.DRIFTED else HEAD
    for words in (*found.says, revision, verdict.database):
        assert words in message
    refused = found.state in (SchemaState.AHEAD, SchemaState.FOREIGN, SchemaState.DRIFTED)
    assert verdict.upgradable != refused
    assert ("Nothing was changed" in message) == refused
    assert verdict.command == (
        f"risk-store upgrade {verdict.database}" if verdict.upgradable and not verdict.ok else None
    )
    assert (f"\nRun: {verdict.command}" in message) == (verdict.command is not None)
    as_json = json.loads(json.dumps(verdict.to_dict()))
    assert as_json["state"] == found.state.value
    assert (as_json["found"], as_json["expected"], as_json["ok"]) == (verdict.found, HEAD, verdict.ok)
    if secret:
        for text in (message, repr(verdict), str(verdict.to_dict()), str(SchemaMismatch(verdict))):
            assert secret not in text


@pytest.mark.parametrize("name", ON_SQLITE)
def test_the_verdict_on_a_file_is_right_and_changes_no_byte_and_no_folder(name: str, tmp_path: Path) -> None:
    found = FINDINGS[name]
    assert found.make is not None
    found.make(tmp_path / "risk.db")
    before = files_in(tmp_path)
    check_verdict(status(url_of(tmp_path / "risk.db")), found)
    after = files_in(tmp_path)
    # The shared memory of a write-ahead log is an index that SQLite makes anew; it holds nothing.
    assert {name: hash_ for name, hash_ in after.items() if not name.endswith("-shm")} == {
        name: hash_ for name, hash_ in before.items() if not name.endswith("-shm")
    }
    assert after.keys() == before.keys()


@pytest.mark.parametrize("name", ON_SQLITE)
def test_upgrade_brings_a_file_to_head_or_refuses_and_changes_nothing(name: str, tmp_path: Path) -> None:
    found = FINDINGS[name]
    assert found.make is not None
    file = tmp_path / "risk.db"
    found.make(file)
    before = files_in(tmp_path)
    if found.state in (SchemaState.AHEAD, SchemaState.FOREIGN, SchemaState.DRIFTED):
        with pytest.raises(SchemaMismatch) as refused:
            upgrade(url_of(file))
        check_verdict(refused.value.status, found)
        assert str(refused.value) == refused.value.status.message
        assert files_in(tmp_path) == before
        # The command line stops as well, on what it finds once it holds the lock.
        with pytest.raises((CommandError, sa.exc.DatabaseError)):
            command.upgrade(alembic_config(url_of(file)), "head")
        assert files_in(tmp_path)["risk.db"] == before["risk.db"]
        return
    report = upgrade(url_of(file))
    assert (report.before.state, report.after) == (found.state, HEAD)
    done = REVISIONS.index(report.before.found) + 1 if report.before.found else 0
    assert report.steps == len(REVISIONS) - done
    assert status(url_of(file)).ok
    again = upgrade(url_of(file))
    assert (again.before.state, again.steps, again.backup) == (SchemaState.CURRENT, 0, None)


@pytest.mark.parametrize("name", ON_POSTGRESQL)
def test_the_verdict_on_a_server_is_right_and_upgrade_follows_it(name: str, postgres_database: str) -> None:
    found = FINDINGS[name]
    if found.revision:
        command.upgrade(alembic_config(postgres_database), found.revision)
    with psycopg.connect(_libpq(postgres_database), autocommit=True) as connection:
        connection.execute((found.sql or "").encode())
    before = schema_at(postgres_database)
    secret = sa.make_url(postgres_database).password
    check_verdict(status(postgres_database), found, secret)
    if found.state in (SchemaState.AHEAD, SchemaState.FOREIGN, SchemaState.DRIFTED):
        with pytest.raises(SchemaMismatch) as refused:
            upgrade(postgres_database)
        check_verdict(refused.value.status, found, secret)
        with pytest.raises(CommandError):
            command.upgrade(alembic_config(postgres_database), "head")
        assert schema_at(postgres_database) == before
    else:
        report = upgrade(postgres_database)
        assert (report.before.state, report.after, report.backup) == (found.state, HEAD, None)
        assert status(postgres_database).ok
        after = schema_at(postgres_database)
        assert {table: after[table] for table in ("users", "alembic_version") if table in before} == {
            table: before[table] for table in ("users", "alembic_version") if table in before
        }


def _libpq(url: str) -> str:
    return sa.make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


def test_every_state_has_been_found_on_each_engine_where_it_can_be() -> None:
    assert {FINDINGS[name].state for name in ON_SQLITE} == set(SchemaState)
    assert {FINDINGS[name].state for name in ON_POSTGRESQL} == set(SchemaState)


def test_the_verdict_on_a_database_in_memory_is_that_of_its_engine() -> None:
    assert status("sqlite://").state is SchemaState.EMPTY
    engine = sa.create_engine("sqlite://", poolclass=sa.StaticPool)
    assert status(engine).state is SchemaState.EMPTY
    upgrade(engine)
    assert status(engine).ok
    with engine.connect() as connection:
        assert inspect_schema(connection, engine.url).ok
    engine.dispose()


def test_a_folder_is_not_a_database(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="is not a file"):
        status(url_of(tmp_path))
    with pytest.raises(StoreUnavailable, match="is not a file"):
        upgrade(url_of(tmp_path))


def test_a_server_that_is_not_there_is_named_without_its_password() -> None:
    url = "postgresql+psycopg://ann:s3cret-c4nary@127.0.0.1:1/risk?password=s3cret-c4nary&connect_timeout=2"
    with pytest.raises(StoreUnavailable) as refused:
        status(url)
    assert "ann:***@127.0.0.1:1/risk" in str(refused.value)
    assert "c4nary" not in str(refused.value)


@pytest.mark.parametrize(
    "name", ["a b.db", "50%.db", "what?.db", "#1.db", "über ✓.db", "it's.db", "a&b=c.db", "a:b@c.db"]
)
def test_a_file_of_any_name_is_made_judged_and_copied(tmp_path: Path, name: str) -> None:
    url = URL.create("sqlite", database=str(tmp_path / name))
    assert status(url).state is SchemaState.EMPTY
    v1.make_v1(tmp_path / name)
    assert status(url).state is SchemaState.LEGACY_V1
    report = upgrade(url)
    assert report.backup == tmp_path / f"{name}.v1.bak"
    assert status(url).ok
    assert set(files_in(tmp_path)) == {name, f"{name}.v1.bak"}


# The copy


@pytest.mark.parametrize("name", ["v1", *REVISIONS[:-1]])
def test_an_upgrade_leaves_a_verified_copy_of_the_file_as_it_was(tmp_path: Path, name: str) -> None:
    file = Path(shutil.copy(FROZEN / f"{name}.db", tmp_path / "risk.db"))
    file.chmod(0o640)
    rows, schema = rows_of(file), schema_at(url_of(file))
    report = upgrade(url_of(file))
    assert report.backup == tmp_path / f"risk.db.{name}.bak"
    assert set(files_in(tmp_path)) == {"risk.db", f"risk.db.{name}.bak"}
    assert rows_of(report.backup) == rows
    assert schema_at(url_of(report.backup)) == schema
    assert is_sound(report.backup)
    assert stat.S_IMODE(report.backup.stat().st_mode) == 0o640, "as private as the original"
    # The way back: put the copy in the place of the file.
    before = report.before
    shutil.copy(report.backup, file)
    assert status(url_of(file)) == before
    assert upgrade(url_of(file)).after == HEAD


def test_a_copy_never_takes_the_place_of_a_file(tmp_path: Path) -> None:
    file = v1.make_v1(tmp_path / "risk.db")
    (tmp_path / "risk.db.v1.bak").write_text("precious")
    (tmp_path / "risk.db.v1.bak2").symlink_to(tmp_path / "nowhere")
    assert upgrade(url_of(file)).backup == tmp_path / "risk.db.v1.bak3"
    assert (tmp_path / "risk.db.v1.bak").read_text() == "precious"
    assert not (tmp_path / "nowhere").exists()


def test_a_copy_takes_no_file_where_links_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(1, "Operation not permitted")  # what Linux says on FAT

    monkeypatch.setattr(os, "link", refuse)
    file = v1.make_v1(tmp_path / "risk.db")
    (tmp_path / "risk.db.v1.bak").write_text("precious")
    rows = rows_of(file)
    report = upgrade(url_of(file))
    assert report.backup == tmp_path / "risk.db.v1.bak2"
    assert rows_of(report.backup) == rows
    assert (tmp_path / "risk.db.v1.bak").read_text() == "precious"
    assert len(files_in(tmp_path)) == 3


@pytest.mark.parametrize("name", ["nothing at all", "a file of no bytes", "a database without tables", HEAD])
def test_where_there_is_nothing_to_lose_no_copy_is_made(tmp_path: Path, name: str) -> None:
    found = FINDINGS[name]
    assert found.make is not None
    found.make(tmp_path / "risk.db")
    assert upgrade(url_of(tmp_path / "risk.db")).backup is None
    assert set(files_in(tmp_path)) == {"risk.db"}


def test_a_copy_can_be_declined(tmp_path: Path) -> None:
    file = v1.make_v1(tmp_path / "risk.db")
    assert upgrade(url_of(file), backup=False).backup is None
    assert set(files_in(tmp_path)) == {"risk.db"}


def test_a_copy_has_the_rows_that_a_live_daemon_has_only_in_its_write_ahead_log(tmp_path: Path) -> None:
    file = v1.make_v1(tmp_path / "risk.db")
    with closing(sqlite3.connect(file, isolation_level=None)) as daemon:
        daemon.executescript("PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0;" + NEW_ROW)
        main_file = file.read_bytes()
        report = upgrade(url_of(file))
        daemon.execute("INSERT INTO session_state (account_id, session_start) VALUES (100, '2025-10-22 01:00:00')")
    assert report.backup is not None
    assert b"2025-10-22 00:00:00" not in main_file, "the row was in the log only, or this test shows nothing"
    with closing(sqlite3.connect(report.backup)) as copy:
        assert copy.execute("SELECT session_start FROM session_state WHERE account_id = 99").fetchone() == (
            "2025-10-22 00:00:00",
        )
        assert copy.execute("SELECT count(*) FROM session_state WHERE account_id = 100").fetchone() == (0,)
    assert set(files_in(tmp_path)) == {"risk.db", "risk.db.v1.bak"}
    with closing(sqlite3.connect(file)) as upgraded:
        assert upgraded.execute("SELECT count(*) FROM session_state WHERE account_id IN (99, 100)").fetchone() == (2,)


def test_a_damaged_file_is_named_and_left_as_it_is(tmp_path: Path) -> None:
    file = v1.make_v1(tmp_path / "risk.db", page_size=512)
    with closing(sqlite3.connect(file)) as connection:
        page = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'idx_orders_state'").fetchone()[0]
    content = bytearray(file.read_bytes())
    content[(page - 1) * 512 : page * 512] = b"\xff" * 512
    file.write_bytes(content)
    before = files_in(tmp_path)
    with pytest.raises(StoreUnavailable, match=r"(?s)risk\.db is damaged: .* Nothing was changed\."):
        upgrade(url_of(file))
    assert files_in(tmp_path) == before


# What may be printed of a URL

CANARY = "c4nary"
ODD = st.text(st.sampled_from(list(":/@?#&=;%+ []\\'\"$!*~^|<>,.-_aZ0é✓")), max_size=6)
SECRETS = st.builds(lambda before, after: before + CANARY + after, ODD, ODD)
SHOWN = ["host", "port", "dbname", "sslmode", "application_name", "connect_timeout"]
HIDING = st.sampled_from(["password", "PASSWORD", "passfile", "sslpassword", "sslkey", "token", "user", "key"])


@given(secret=SECRETS, driver=st.sampled_from(["postgresql", "postgresql+psycopg"]))
def test_the_password_of_a_url_is_never_shown(secret: str, driver: str) -> None:
    url = URL.create(driver, "ann", secret, "db.example", 5432, "risk", {"sslmode": "require"})
    text = f"{driver}://ann:{quote(secret, safe='')}@db.example:5432/risk?sslmode=require"
    for shown in (display_url(url), display_url(text), display_url(parse_url(text))):
        assert shown == f"{driver}://ann:***@db.example:5432/risk?sslmode=require"


@given(secret=SECRETS, name=HIDING)
def test_what_a_query_argument_may_hide_is_never_shown(secret: str, name: str) -> None:
    url = URL.create("postgresql+psycopg", "ann", None, "db", None, "risk", {name: secret, "sslmode": "require"})
    text = f"postgresql+psycopg://ann@db/risk?{name}={quote(secret, safe='')}&sslmode=require"
    for shown in (display_url(url), display_url(text), display_url(parse_url(text))):
        assert CANARY not in shown
        assert "sslmode=require" in shown
        assert "***" in shown


@given(secret=SECRETS, name=HIDING)
@example(secret="a;c4nary", name="password")
@example(secret="a&c4nary", name="password")
@example(secret="a@c4nary", name="password")
def test_a_query_argument_that_is_not_escaped_is_not_shown_either(secret: str, name: str) -> None:
    for query in (f"{name}={secret}", f"sslmode=require&{name}={secret}", f"sslmode=require;{name}={secret}"):
        for place in ("ann@db:5432/risk", "/risk", "db"):
            text = f"postgresql://{place}?{query}"
            assert CANARY not in display_url(text)
            if "@" not in secret:  # which to a parser ends a password that begins behind the first colon
                assert CANARY not in display_url(parse_url(text))


@given(secret=SECRETS, rest=st.sampled_from(["@db/risk", "@db:5432/risk?sslmode=require", "@/risk?host=db", "@", ""]))
@example(secret="p@c4nary?", rest="@db/risk")
@example(secret="p@s/c4nary@", rest="@db/risk")
@example(secret="c4nary", rest="")
@example(secret="c4nary?x", rest="@db/risk")
@example(secret="/c4nary@", rest="@db/risk")
def test_a_password_that_nobody_escaped_is_not_shown_either(secret: str, rest: str) -> None:
    """Whatever such a URL means to a parser: a person who typed it meant a password."""
    # (ann:5432/c4nary names a host, its port and a database, and ann:secret@c4nary a host.)
    assume(rest or not re.match(r"\d*[/?]|.*@", secret))
    for scheme in ("postgresql", "postgresql+psycopg", "postgres", "mysql"):
        text = f"{scheme}://ann:{secret}{rest}"
        assert CANARY not in display_url(text)
        assert CANARY not in _refusal(text)


def _refusal(text: str) -> str:
    """What `parse_url` says against a text; nothing if it takes it."""
    try:
        parse_url(text)
    except InvalidValue as refused:
        return f"{refused} {refused.value!r}"
    return ""


@given(text=st.text(max_size=40) | st.text(st.sampled_from(list(":/@?#&=;%+[]sqlite0.")), max_size=40))
def test_showing_a_url_never_fails(text: str) -> None:
    assert isinstance(display_url(text), str)
    try:
        parsed = parse_url(text)
    except InvalidValue:
        return
    assert isinstance(display_url(parsed), str)


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:///risk.db",
        "sqlite:////var/lib/risk/risk.db",
        "sqlite://",
        "postgresql+psycopg://db/risk",
        "postgresql+psycopg://ann@db:5432/risk?sslmode=require&application_name=desk",
        "postgresql+psycopg://ann@[::1]:5432/risk",
        "postgresql+psycopg:///risk?host=/var/run/postgresql&port=5433",
    ],
)
def test_a_url_without_secrets_is_shown_as_it_is(url: str) -> None:
    assert display_url(url) == url
    assert parse_url(display_url(parse_url(url))) == parse_url(url)


def test_a_failed_upgrade_says_nothing_of_the_password(postgres_database: str) -> None:
    url = sa.make_url(postgres_database)
    wrong = url.set(password="s3cret-c4nary", query={"password": "other-c4nary"})
    with pytest.raises(RiskStoreError) as refused:
        upgrade(wrong.render_as_string(hide_password=False))
    assert "c4nary" not in str(refused.value)
    assert url.password is not None
    assert url.password not in str(refused.value)

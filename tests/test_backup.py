"""Verified copies of a file while a daemon writes to it."""

import json
import re
import shlex
import shutil
import sqlite3
import stat
import threading
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from risk_store import EnforcementLog, InvalidValue, RiskStore, SchemaMismatch, StoreUnavailable, schema
from tests.support import v1
from tests.support.command import run


@pytest.fixture
def file(sqlite_template: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(sqlite_template, tmp_path / "risk.db"))


def record(store: RiskStore, account_id: int) -> None:
    store.record(EnforcementLog(account_id=account_id, rule_id="R", action="A", reason="r", success=True))


def accounts(file: Path) -> list[int]:
    with RiskStore(f"sqlite:///{file}") as store, store.read() as tx:
        return [log.account_id for log in tx.enforcements.list(limit=100_000)]


def test_a_backup_is_named_after_the_moment_and_restore_takes_it_back(file: Path) -> None:
    with RiskStore(f"sqlite:///{file}") as store:
        record(store, 1)
        made = run("backup", str(file)).stdout.splitlines()
        record(store, 2)
    copy = Path(made[0].removeprefix("copy (verified): "))
    assert re.fullmatch(r"risk\.db\.\d{4}-\d\d-\d\dT\d{6}Z\.bak", copy.name)
    assert copy.parent == file.parent
    command = shlex.split(made[1].removeprefix("to go back: "))
    assert run(*command[1:]).returncode == 0
    assert accounts(file) == [1]


def test_no_copy_replaces_a_file(file: Path, tmp_path: Path) -> None:
    moment = datetime(2026, 11, 25, 10, 30, tzinfo=UTC)
    names = [schema.backup(f"sqlite:///{file}", clock=lambda: moment).name for _ in range(2)]
    assert names == ["risk.db.2026-11-25T103000Z.bak", "risk.db.2026-11-25T103000Z.bak2"]
    mine = tmp_path / "other" / "monday.bak"
    mine.parent.mkdir()
    told = json.loads(run("backup", str(file), str(mine), "--json").stdout)
    assert (told["copy"], told["bytes"]) == (str(mine), mine.stat().st_size)
    held = mine.read_bytes()
    again = run("backup", str(file), str(mine))
    assert again.returncode == 2
    assert "is not a free name: no copy replaces a file" in again.stderr
    assert mine.read_bytes() == held
    assert run("backup", str(file), str(tmp_path / "nowhere" / "x.bak")).returncode == 1
    assert [path.name for path in mine.parent.iterdir()] == ["monday.bak"]


def test_a_copy_is_whole_and_as_private_as_the_file_while_others_write(file: Path) -> None:
    file.chmod(0o600)
    stop = threading.Event()
    written: list[int] = []
    with RiskStore(f"sqlite:///{file}") as store:

        def write() -> None:
            while not stop.is_set():
                record(store, len(written) + 1)
                written.append(len(written) + 1)

        writer = threading.Thread(target=write)
        writer.start()
        try:
            copies = []
            while len(copies) < 3:
                before = len(written)
                copies.append((before, schema.backup(f"sqlite:///{file}")))
        finally:
            stop.set()
            writer.join()
    for before, copy in copies:
        assert stat.S_IMODE(copy.stat().st_mode) == 0o600
        held = sorted(accounts(copy))
        assert held == list(range(1, len(held) + 1))
        assert len(held) >= before


def test_a_backup_that_is_broken_off_leaves_nothing(file: Path) -> None:
    def ctrl_c(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        schema.backup(f"sqlite:///{file}", progress=ctrl_c)
    assert not list(file.parent.glob("*.bak*"))


def make_damaged(file: Path) -> None:
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("UPDATE sqlite_master SET rootpage = 5 WHERE name = 'orders'")
        connection.commit()


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda file: file.unlink(), SchemaMismatch),
        (make_damaged, StoreUnavailable),
        (lambda file: file.write_bytes(b"no database" * 100), (StoreUnavailable, SchemaMismatch)),
    ],
)
def test_what_is_no_sound_store_is_not_copied(
    file: Path, make: Callable[[Path], object], error: type[Exception] | tuple[type[Exception], ...]
) -> None:
    make(file)
    with pytest.raises(error):
        schema.backup(f"sqlite:///{file}")
    assert not list(file.parent.glob("*.bak*"))


def test_a_v1_file_can_be_backed_up_before_anything_else(tmp_path: Path) -> None:
    file = v1.make_v1(tmp_path / "state.db")
    copy = schema.backup(f"sqlite:///{file}")
    assert schema.status(f"sqlite:///{copy}").state is schema.SchemaState.LEGACY_V1
    assert schema.status(f"sqlite:///{file}").state is schema.SchemaState.LEGACY_V1


def test_of_a_server_it_names_the_tool_without_the_password() -> None:
    url = "postgresql+psycopg://ann:s3cret@db:5433/risk?sslmode=require&password=s3cret"
    with pytest.raises(InvalidValue, match="pg_dump") as refused:
        schema.backup(url)
    command = shlex.split(str(refused.value).partition("tool: ")[2])
    assert command[:2] == ["pg_dump", "--format=custom"]
    assert command[3] == "--dbname=postgresql://ann@db:5433/risk?sslmode=require"
    result = run("backup", url)
    assert (result.returncode, result.stdout) == (2, "")
    assert "pg_dump --format=custom --file=risk." in result.stderr
    assert "s3cret" not in result.stderr
    with pytest.raises(InvalidValue, match="not the URL of an SQLite file"):
        schema.backup("sqlite://")


def test_the_command_that_it_names_copies_a_real_server(postgres_store_url: str, tmp_path: Path) -> None:
    """pg_dump is not among the test server's programs; libpq reads the URL that it would be given."""
    import psycopg

    told = run("backup", postgres_store_url).stderr
    command = shlex.split(told.partition("tool: ")[2])
    named = psycopg.conninfo.conninfo_to_dict(command[-1].removeprefix("--dbname="))
    given = psycopg.conninfo.conninfo_to_dict(postgres_store_url.replace("+psycopg", ""))
    assert named == {name: value for name, value in given.items() if name != "password"}

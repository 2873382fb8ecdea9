"""Which schema a database has, and how it gets to head.

The verdict is a value (D8): taken read-only, before anything is written. The migrations themselves live in the
top-level ``alembic/`` folder (inside an installed package: ``risk_store/_alembic``).
"""

from __future__ import annotations

import os
import shlex
import sqlite3
import stat
import tempfile
import threading
import time
from collections.abc import Iterator, Set
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from enum import StrEnum
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.engine import URL

from risk_store.engines import (
    BUSY_TIMEOUT_S,
    database_file,
    display_url,
    mode_to_look,
    open_engine,
    parse_url,
    translated,
)
from risk_store.errors import RiskStoreError, SchemaMismatch, StoreUnavailable
from risk_store.models import Base

if TYPE_CHECKING:
    from alembic.config import Config

__all__ = [
    "HEAD",
    "REVISIONS",
    "VERSION_TABLE",
    "SchemaState",
    "SchemaStatus",
    "UpgradeReport",
    "alembic_config",
    "inspect_schema",
    "status",
    "upgrade",
]

VERSION_TABLE = "risk_store_version"
"""Our own name, since databases get shared and two programs in one `alembic_version` give each other wrong advice."""

REVISIONS = ("0001", "0002", "0003")
"""All revisions this release knows, oldest first. Named here so that opening a store need not import Alembic; a test
holds it equal to the migration scripts."""
HEAD = REVISIONS[-1]

# The tables of v1, and the columns without which a database is not v1. (execution_time_ms came late to some v1 files:
# revision 0001 adds it where it is missing.)
V1_TABLES: dict[str, str] = {
    "lockouts": "account_id is_locked reason locked_at locked_until rule_id created_at updated_at",
    "daily_pnl": "account_id date realized_pnl last_updated",
    "contract_cache": "contract_id tick_size tick_value symbol_id name cached_at",
    "trade_history": "id account_id timestamp contract_id pnl created_at",
    "session_state": "account_id session_start updated_at",
    "positions": "id account_id contract_id type size average_price created_at updated_at",
    "orders": "id account_id contract_id type side size limit_price stop_price state created_at updated_at",
    "enforcement_log": "id timestamp account_id rule_id action reason success details",
    "reset_schedule": "account_id last_reset_date next_reset_time reset_time_config timezone",
}


class SchemaState(StrEnum):
    """What a database's schema is, as seen by this release."""

    EMPTY = "empty"
    LEGACY_V1 = "legacy_v1"
    BEHIND = "behind"
    CURRENT = "current"
    AHEAD = "ahead"
    FOREIGN = "foreign"
    DRIFTED = "drifted"


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemaStatus:
    """The verdict on one database.

    >>> status = SchemaStatus(state=SchemaState.BEHIND, database="sqlite:///risk.db", found="0001", detail="")
    >>> print(status.message)
    sqlite:///risk.db: the schema is behind: found revision 0001, this release works with 0003.
    Run: risk-store upgrade sqlite:///risk.db
    """

    state: SchemaState
    database: str
    """The URL, without secrets."""
    found: str | None
    """The revision found; None where there is none."""
    expected: str = HEAD
    detail: str = ""

    @property
    def ok(self) -> bool:
        """Whether the store can work with it as it is."""
        return self.state is SchemaState.CURRENT

    @property
    def upgradable(self) -> bool:
        """Whether `upgrade` brings it to head."""
        return self.state in (SchemaState.EMPTY, SchemaState.LEGACY_V1, SchemaState.BEHIND, SchemaState.CURRENT)

    @property
    def command(self) -> str | None:
        """The command that helps, if one does."""
        if not self.upgradable or self.ok:
            return None
        return f"risk-store upgrade {shlex.quote(self.database) if ' ' in self.database else self.database}"

    @property
    def message(self) -> str:
        """What was found, what is expected, and what to run."""
        found = f"found revision {self.found}" if self.found else "found no revision"
        expected = f"this release works with {self.expected}"
        text = {
            SchemaState.EMPTY: f"no store here yet: {self.detail or 'the database has no tables'}; {expected}.",
            SchemaState.LEGACY_V1: f"the database of a v1 daemon: {found}; {expected}.",
            SchemaState.BEHIND: f"the schema is behind: {found}, {expected}.",
            SchemaState.CURRENT: f"the schema is current: {found}.",
            SchemaState.AHEAD: f"written by a newer risk_store: {found}; {expected} and knows none later. "
            "Install the release that wrote it. Nothing was changed.",
            SchemaState.FOREIGN: f"not a database of risk_store: {self.detail}; {expected}. Nothing was changed.",
            SchemaState.DRIFTED: f"revision {self.found} is right, but the tables are not: {self.detail}. "
            "Restore a backup. Nothing was changed.",
        }[self.state]
        lines = [f"{self.database}: {text}"]
        if self.command:
            lines.append(f"Run: {self.command}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return asdict(self) | {"state": self.state.value, "ok": self.ok, "command": self.command}


def status(database: str | URL | sa.Engine, *, busy_timeout_s: float = BUSY_TIMEOUT_S) -> SchemaStatus:
    """The verdict on a database, taken read-only: no file is made, no journal mode set, no table touched.

    `database` is a URL, or the engine of an in-memory database. Raises StoreUnavailable when it cannot be opened.
    """
    if isinstance(database, sa.Engine):
        with database.connect() as connection:
            return inspect_schema(connection, database.url)
    url = parse_url(database)
    file = database_file(url)
    if url.get_backend_name() == "sqlite" and (file is None or not file.exists()):
        missing = f"there is no file {file}" if file else ""
        return SchemaStatus(state=SchemaState.EMPTY, database=display_url(url), found=None, detail=missing)
    if file is not None and not file.is_file():
        raise StoreUnavailable(f"{display_url(url)}: {file} is not a file")
    engine = open_engine(url, "look")
    try:
        with translated(url), engine.connect() as connection:
            connection.execution_options(busy_timeout_s=busy_timeout_s)
            return inspect_schema(connection, url)
    except StoreUnavailable as error:
        if getattr(getattr(error.__cause__, "orig", None), "sqlite_errorname", "") == "SQLITE_NOTADB":
            return _foreign(url, "the file is not an SQLite database")
        raise
    finally:
        engine.dispose()


def inspect_schema(connection: sa.Connection, url: URL) -> SchemaStatus:
    """The verdict as seen through an open connection, within its transaction."""
    inspector = sa.inspect(connection)
    tables = set(inspector.get_table_names())
    if VERSION_TABLE in tables:
        rows = connection.exec_driver_sql(f"SELECT version_num FROM {VERSION_TABLE}").scalars().all()  # noqa: S608 (constant)
        if rows:
            return _judge_revision(inspector, tables, url, [str(row) for row in rows])
    return _judge_tables(inspector, tables - {VERSION_TABLE}, url)


def _judge_revision(inspector: sa.Inspector, tables: Set[str], url: URL, found: list[str]) -> SchemaStatus:
    name = display_url(url)
    if len(found) > 1 or found[0] not in REVISIONS:
        return SchemaStatus(state=SchemaState.AHEAD, database=name, found=", ".join(sorted(found)))
    if found[0] != HEAD:
        return SchemaStatus(state=SchemaState.BEHIND, database=name, found=found[0])
    needed = {table.name: {column.name for column in table.columns} for table in Base.metadata.tables.values()}
    if missing := _missing(inspector, tables, needed):
        return SchemaStatus(
            state=SchemaState.DRIFTED, database=name, found=HEAD, detail=f"missing {', '.join(missing)}"
        )
    return SchemaStatus(state=SchemaState.CURRENT, database=name, found=HEAD)


def _judge_tables(inspector: sa.Inspector, tables: Set[str], url: URL) -> SchemaStatus:
    ours = tables & Base.metadata.tables.keys()
    if not ours:
        # On a server other applications' tables are no obstacle; an SQLite file belongs to one program.
        if tables and url.get_backend_name() == "sqlite":
            return _foreign(url, f"it has other tables ({_few(sorted(tables))}) and none of ours")
        return SchemaStatus(state=SchemaState.EMPTY, database=display_url(url), found=None)
    if missing := _missing(inspector, tables, {table: names.split() for table, names in V1_TABLES.items()}):
        return _foreign(
            url, f"it has {_few(sorted(ours))} but no {VERSION_TABLE}, and is not v1: missing {_few(missing)}"
        )
    if later := sorted(ours - V1_TABLES.keys()):
        return _foreign(url, f"it has {_few(later)}, which v1 had not, but no {VERSION_TABLE}")
    return SchemaStatus(state=SchemaState.LEGACY_V1, database=display_url(url), found=None)


def _missing(inspector: sa.Inspector, tables: Set[str], needed: dict[str, Any]) -> list[str]:
    missing = [table for table in needed if table not in tables]
    for table in needed.keys() & tables:
        columns = {column["name"] for column in inspector.get_columns(table)}
        missing += [f"{table}.{column}" for column in needed[table] if column not in columns]
    return sorted(missing)


def _foreign(url: URL, detail: str) -> SchemaStatus:
    return SchemaStatus(state=SchemaState.FOREIGN, database=display_url(url), found=None, detail=detail)


def _few(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class UpgradeReport:
    """What an upgrade did."""

    before: SchemaStatus
    after: str
    """The revision now."""
    steps: int
    """How many revisions were applied; 0 when it was at head already."""
    seconds: float
    backup: Path | None
    """The verified copy of the file as it was, beside it; None where there was nothing to copy (a new store), or where
    the server's own backups are the way back."""


# Alembic keeps state in module globals: two threads of one process must not run it at once.
_alembic = threading.Lock()


def upgrade(database: str | URL | sa.Engine, *, backup: bool = True) -> UpgradeReport:
    """Brings a database to head, creating it where there is none: the same as ``alembic upgrade head``.

    An SQLite file that holds anything is first copied beside itself and the copy verified. Safe to run twice and by
    several processes at once: one works, the others wait and find it done. Killed at any moment it leaves the old
    schema or the new one, and can be run again.

    Raises SchemaMismatch when the database is ahead, foreign or drifted; nothing is changed then.

    >>> report = upgrade("sqlite:///" + str(getfixture("tmp_path") / "risk.db"))
    >>> report.after, report.backup
    ('0003', None)
    """
    from alembic.util import CommandError

    from alembic import command

    url = database.url if isinstance(database, sa.Engine) else parse_url(database)
    before = status(database)
    if not before.upgradable:
        raise SchemaMismatch(before)
    started = time.monotonic()
    copy = None
    if not before.ok:
        file = database_file(url)
        if backup and file is not None and before.state is not SchemaState.EMPTY:
            copy = _verified_copy(file, before.found)
        with _alembic, translated(url):
            try:
                command.upgrade(alembic_config(database), "head")
            except CommandError as error:  # env.py refused: the verdict changed since it was taken above
                raise SchemaMismatch(status(database)) from error
    done = REVISIONS.index(before.found) + 1 if before.found in REVISIONS else 0
    return UpgradeReport(
        before=before, after=HEAD, steps=len(REVISIONS) - done, seconds=time.monotonic() - started, backup=copy
    )


def alembic_config(database: str | URL | sa.Engine) -> Config:
    """An Alembic configuration for `database`, from a checkout or from an installed package alike."""
    from alembic.config import Config

    inside = Path(__file__).parent / "_alembic"
    config = Config()
    config.set_main_option("script_location", str(inside if inside.is_dir() else inside.parents[1] / "alembic"))
    config.set_main_option("path_separator", "os")
    # The object, never its text: str(url) hides the password, and '%' means something else in an ini file.
    config.attributes["connection"] = database
    return config


@contextmanager
def _connected(file: Path, mode: str) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(f"{file.as_uri()}?mode={mode}", uri=True, isolation_level=None)) as connection:
        yield connection


def _verified_copy(file: Path, revision: str | None) -> Path | None:
    """A copy of a live SQLite file by SQLite's own backup, checked; never over a file that is there already.

    A plain file copy would leave out what is still in the write-ahead log. It is made under another name and gets its
    own when it is whole, so that a kill leaves nothing that looks like a copy. None when another process has upgraded
    the file since its `revision` was read: the copy of the original is that one's.
    """
    wanted = file.with_name(f"{file.name}.{revision or 'v1'}.bak")
    descriptor, name = tempfile.mkstemp(prefix=f"{wanted.name}.", suffix=".part", dir=file.parent)
    os.close(descriptor)
    draft = Path(name)
    try:
        draft.chmod(stat.S_IMODE(file.stat().st_mode))  # as private as the original
        with _connected(file, mode_to_look(file)) as source, _connected(draft, "rw") as target:
            _quick_check(source, file)
            source.execute("BEGIN")  # one snapshot for the counts and the copy, whatever a daemon writes meanwhile
            expected = _row_counts(source)
            source.backup(target)
            target.execute("PRAGMA journal_mode = DELETE")  # one file, nothing beside it
            _quick_check(target, draft)
            if _row_counts(target) != expected:
                raise RiskStoreError(f"the copy of {file} does not hold its rows. Nothing was changed.")
            if _revision(target) != revision:
                return None
        return _named(draft, wanted)
    finally:
        draft.unlink(missing_ok=True)


def _named(draft: Path, wanted: Path) -> Path:
    """Give a file its name, or the first free one after it."""
    for number in count(1):
        copy = wanted if number == 1 else wanted.with_name(f"{wanted.name}{number}")
        with suppress(FileExistsError):
            try:
                copy.hardlink_to(draft)  # takes a free name only, whoever else wants it at this moment
            except FileExistsError:
                raise
            except (OSError, NotImplementedError):  # a file system without links
                copy.touch(exist_ok=False)
                draft.replace(copy)
            return copy
    raise AssertionError("there is always a free name")


def _revision(connection: sqlite3.Connection) -> str | None:
    table = connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (VERSION_TABLE,)).fetchone()
    row = connection.execute(f"SELECT version_num FROM {VERSION_TABLE}").fetchone() if table else None  # noqa: S608 (constant)
    return str(row[0]) if row else None


def _row_counts(connection: sqlite3.Connection) -> dict[str, int]:
    tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name").fetchall()
    quoted = {name: '"' + name.replace('"', '""') + '"' for (name,) in tables}
    return {
        name: connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]  # noqa: S608 (quoted)
        for name, table in quoted.items()
    }


def _quick_check(connection: sqlite3.Connection, file: Path) -> None:
    result = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if result != "ok":
        raise StoreUnavailable(f"{file} is damaged: {result}. Restore a backup. Nothing was changed.")

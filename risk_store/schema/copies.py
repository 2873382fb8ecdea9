"""Verified copies of an SQLite file, and the way back to one.

By SQLite's own backup, never as a plain file: what is still in the write-ahead log would be left out, and a left-over
log would be applied to the file that was put in its place.
"""

from __future__ import annotations

import glob
import os
import shlex
import sqlite3
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import URL

from risk_store.engines import BUSY_TIMEOUT_S, database_file, display_url, mode_to_look, parse_url, translated
from risk_store.errors import (
    InvalidValue,
    RiskStoreError,
    SchemaMismatch,
    StoreBusy,
    StoreReadOnly,
    StoreUnavailable,
)
from risk_store.models import Base
from risk_store.schema.verdict import SchemaState, status

__all__ = [
    "Progress",
    "backup",
    "check_sound",
    "check_writable",
    "remove_drafts",
    "restore",
    "row_counts",
    "verified_copy",
]

Progress = Callable[[str, int, int], None]
"""Told of what is being done: what, how much of it is done, and how much there is (pages, rows)."""

_PAGES_AT_ONCE = 4096  # between two words of progress


def check_writable(file: Path) -> None:
    """Raises StoreReadOnly unless this process may write `file`, and somebody may: root is stopped by no mode."""
    if not os.access(file, os.W_OK) or not file.stat().st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH):
        raise StoreReadOnly(f"{file} is read-only. Nothing was changed. To upgrade it: chmod u+w {file}")
    if not os.access(file.parent, os.W_OK):
        raise StoreReadOnly(f"{file.parent} is read-only, and SQLite needs a journal beside {file.name}")


def verified_copy(file: Path, name: str, progress: Progress | None = None) -> Path:
    """A copy of a live SQLite file beside it, checked; named ``<file>.<name>.bak``, or the first free name after it.

    Its own `quick_check` and the same rows in every table; the caller has checked the file. It is made under another
    name and gets its own when it is whole, so that a kill leaves nothing that looks like a copy.
    """
    return _verified(file, file.with_name(f"{file.name}.{name}.bak"), progress, any_free_name=True)


def backup(
    database: str | URL,
    copy: str | Path | None = None,
    *,
    progress: Progress | None = None,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Path:
    """A verified copy of an SQLite file, at `copy`, while others write to it; its path is returned.

    Without a name it stands beside the file, named after the moment: ``risk.db.2026-11-25T103000Z.bak``. It never
    replaces a file. :func:`restore` takes it back. Raises InvalidValue for a name that is taken and for a server, whose
    own tool it names; SchemaMismatch for what is no store; StoreBusy, StoreFull, StoreReadOnly, StoreUnavailable.

    >>> from risk_store.schema import upgrade
    >>> file = getfixture("tmp_path") / "risk.db"
    >>> _ = upgrade(f"sqlite:///{file}")
    >>> backup(f"sqlite:///{file}", clock=lambda: datetime(2026, 11, 25, 10, 30, tzinfo=UTC)).name
    'risk.db.2026-11-25T103000Z.bak'
    """
    url = parse_url(database)
    file = database_file(url)
    moment = f"{clock().astimezone(UTC):%Y-%m-%dT%H%M%SZ}"
    if file is None:
        shown = display_url(url)
        what = f"url: {shown} is not the URL of an SQLite file"
        if url.get_backend_name() == "postgresql":
            what += f". A server has its own tool: {_pg_dump(url, moment)}"
        raise InvalidValue("url", shown, "the URL of an SQLite file", what)
    found = status(url)
    if found.state in (SchemaState.EMPTY, SchemaState.FOREIGN):
        raise SchemaMismatch(found)
    wanted = file.with_name(f"{file.name}.{moment}.bak") if copy is None else Path(copy).absolute()
    if copy is not None and wanted.exists():
        raise _taken(copy)
    with translated(url):
        with _connected(file, mode_to_look(file)) as source:
            _check_sound(source, file)
        return _verified(file, wanted, progress, any_free_name=copy is None)


def _taken(copy: str | Path) -> InvalidValue:
    return InvalidValue("copy", str(copy), "a free name: no copy replaces a file")


def _pg_dump(url: URL, moment: str) -> str:
    """The command that copies a database of a server: without a password, which libpq asks for or finds itself."""
    place = {name: value for name, value in url.query.items() if name in ("host", "port", "sslmode")}
    bare = URL.create("postgresql", url.username, None, url.host, url.port, url.database, place).render_as_string()
    return shlex.join(["pg_dump", "--format=custom", f"--file={url.database}.{moment}.dump", f"--dbname={bare}"])


def _verified(file: Path, wanted: Path, progress: Progress | None, *, any_free_name: bool) -> Path:
    descriptor, draft_name = tempfile.mkstemp(prefix=f"{wanted.name}.", suffix=".part", dir=wanted.parent)
    os.close(descriptor)
    draft = Path(draft_name)
    try:
        draft.chmod(stat.S_IMODE(file.stat().st_mode))  # as private as the original
        with _connected(file, mode_to_look(file)) as source, _connected(draft, "rw") as target:
            source.execute("BEGIN")
            rows = _row_counts(source)  # takes the snapshot that the copy is of, whatever a daemon writes meanwhile
            _backup(source, target, f"copying {file.name}", progress)
            target.execute("PRAGMA journal_mode = DELETE")  # one file, nothing beside it
            _check_sound(target, draft)
            if _row_counts(target) != rows:
                raise RiskStoreError(f"the copy of {file} does not hold its rows. Nothing was changed.")
        return _named(draft, wanted, any_free_name)
    finally:
        draft.unlink(missing_ok=True)


def restore(
    database: str | URL, copy: str | Path, *, backup: bool = True, progress: Progress | None = None
) -> Path | None:
    """Puts the content of `copy`, a verified copy that an upgrade left, back into the SQLite file of `database`.

    What the file holds now is copied beside it first, and that copy's path returned, unless `backup` is False. It is
    one transaction: killed at any moment the file has its old content or all of the copy's, and so see it programs that
    have it open. A damaged file is moved aside instead (``<file>.damaged``). Raises InvalidValue, SchemaMismatch for a
    copy or a file that is another program's, StoreBusy, StoreFull, StoreReadOnly, StoreUnavailable.

    >>> from risk_store.schema import upgrade
    >>> file = getfixture("tmp_path") / "risk.db"
    >>> _ = upgrade(f"sqlite:///{file}")
    >>> copy = verified_copy(file, "mine")
    >>> restore(f"sqlite:///{file}", copy).name
    'risk.db.0006.bak'
    """
    url = parse_url(database)
    file = database_file(url)
    if file is None:
        raise InvalidValue("url", display_url(url), "the URL of an SQLite file: a server has its own backups")
    source_file = Path(copy).absolute()
    if not source_file.is_file():
        raise InvalidValue("copy", str(copy), "a file: give the copy that an upgrade left beside the database")
    if source_file == file or (file.exists() and source_file.exists() and source_file.samefile(file)):
        raise InvalidValue("copy", str(copy), "another file than the one that is to be restored")
    source_url = URL.create("sqlite", database=str(source_file))
    found = status(source_url)
    if not found.upgradable or found.state is SchemaState.EMPTY:
        raise SchemaMismatch(found)
    with translated(url):
        if file.exists():
            check_writable(file)
            if not _is_sound(file):
                return _put_in_the_place_of(file, source_file, progress)
            present = status(url)
            if present.state is SchemaState.FOREIGN:
                raise SchemaMismatch(present)  # another program's: not ours to replace
        kept = verified_copy(file, present.found or "v1", progress) if backup and file.exists() else None
        with _connected(source_file, mode_to_look(source_file)) as source, _connected(file, "rwc") as target:
            _check_sound(source, source_file)
            source.execute("BEGIN")
            _backup(source, target, f"restoring {file.name}", progress)
            _check_sound(target, file)
    return kept


def _is_sound(file: Path) -> bool:
    try:
        with _connected(file, mode_to_look(file)) as connection:
            _check_sound(connection, file)
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except (StoreUnavailable, sqlite3.DatabaseError) as error:
        if getattr(error, "sqlite_errorname", "").startswith(("SQLITE_BUSY", "SQLITE_CANTOPEN", "SQLITE_IOERR")):
            raise
        return False
    return True


def _put_in_the_place_of(file: Path, source: Path, progress: Progress | None) -> Path:
    """Puts a copy of `source` in the place of a damaged file, which is moved aside whole; where to is returned.

    Nothing can be written into what SQLite cannot read, and nothing of it is thrown away.
    """
    draft = verified_copy(source, "restored", progress)
    try:
        aside = _free_name(file.with_name(f"{file.name}.damaged"))
        for end in ("", "-wal", "-shm", "-journal"):  # its logs belong to it, and to no other file
            if (part := Path(f"{file}{end}")).exists():
                part.rename(f"{aside}{end}")
        draft.rename(file)
    finally:
        draft.unlink(missing_ok=True)
    return aside


def _free_name(wanted: Path) -> Path:
    names = (wanted if number == 1 else wanted.with_name(f"{wanted.name}{number}") for number in count(1))
    return next(name for name in names if not name.exists())


def remove_drafts(file: Path) -> None:
    """Removes what copies of `file` left that were killed while they were made."""
    for draft in file.parent.glob(f"{glob.escape(file.name)}.*.bak.*.part*"):
        draft.unlink(missing_ok=True)


def row_counts(connection: sa.Connection) -> dict[str, int]:
    """Rows in every table of the file; on a server, in ours."""
    quote = connection.dialect.identifier_preparer.quote_identifier
    tables = sorted(sa.inspect(connection).get_table_names())
    if connection.dialect.name != "sqlite":
        tables = [table for table in tables if table in Base.metadata.tables]
    return {
        table: int(connection.exec_driver_sql(f"SELECT count(*) FROM {quote(table)}").scalar_one())  # noqa: S608 (quoted)
        for table in tables
    }


def check_sound(connection: sa.Connection, file: Path) -> None:
    """Raises StoreUnavailable if SQLite finds the file damaged, as this connection's transaction sees it."""
    result = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar_one()
    if result != "ok":
        raise _damaged(file, result)


@contextmanager
def _connected(file: Path, mode: str) -> Iterator[sqlite3.Connection]:
    connect = sqlite3.connect(f"{file.as_uri()}?mode={mode}", uri=True, isolation_level=None, timeout=BUSY_TIMEOUT_S)
    with closing(connect) as connection:
        yield connection


def _backup(source: sqlite3.Connection, target: sqlite3.Connection, what: str, progress: Progress | None) -> None:
    def tell(code: int, remaining: int, total: int) -> None:
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            # After the busy timeout; the driver itself would try again for ever.
            raise StoreBusy(
                f"{what}: another program holds the file. Stop it, and run this again. Nothing was changed."
            )
        if progress is not None:
            progress(what, total - remaining, total)

    source.backup(target, pages=_PAGES_AT_ONCE, progress=tell)


def _row_counts(connection: sqlite3.Connection) -> dict[str, int]:
    tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name").fetchall()
    quoted = {name: '"' + name.replace('"', '""') + '"' for (name,) in tables}
    return {
        name: connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]  # noqa: S608 (quoted)
        for name, table in quoted.items()
    }


def _check_sound(connection: sqlite3.Connection, file: Path) -> None:
    result = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if result != "ok":
        raise _damaged(file, result)


def _damaged(file: Path, result: object) -> StoreUnavailable:
    return StoreUnavailable(f"{file} is damaged: {result}. Restore a backup. Nothing was changed.")


def _named(draft: Path, wanted: Path, any_free_name: bool) -> Path:
    """Give a file its name; if that is taken, the first free one after it, or InvalidValue."""
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
        if not any_free_name:
            raise _taken(wanted)
    raise AssertionError("there is always a free name")

"""How each database is opened: the settings of every connection, who begins a transaction, what an error means.

Every setting has its reason beside it. `docs/architecture.md` quotes the measurements they rest on.
"""

from __future__ import annotations

import logging
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import unquote, urlsplit

import sqlalchemy as sa
from sqlalchemy import event, exc
from sqlalchemy.engine import URL, make_url
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool, StaticPool

from risk_store.deadlines import NoAnswerInTime, ask_for_signs_of_life, watch_connections
from risk_store.errors import (
    InvalidValue,
    RiskStoreError,
    StoreBusy,
    StoreFull,
    StoreReadOnly,
    StoreUnavailable,
)
from risk_store.long_statements import send_long_statements_native

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

__all__ = [
    "HAS_BEGUN",
    "Purpose",
    "database_file",
    "display_url",
    "end_reading",
    "is_no_utf_8",
    "mode_to_look",
    "open_async_engine",
    "open_engine",
    "parse_url",
    "read_by_driver",
    "set_busy_timeout",
    "set_wal",
    "sync_url",
    "translated",
    "url_of",
]

logger = logging.getLogger("risk_store.engines")

Purpose = Literal["store", "read", "watch", "look", "migrate"]
"""What an engine is opened for: the store's own work; reading only; reading again and again beside a daemon that must
not feel it; one look at a database in whatever state it is; changing the schema (the only one that may make a file)."""

READING = ("read", "watch", "look")
"""The purposes that never write."""

HAS_BEGUN = "risk_store_has_begun"
"""In the ``info`` of a connection to SQLite: the driver has begun the transaction that SQLAlchemy is about to begin."""
BUSY_TIMEOUT_S = 30.0  # SQLite's wait for a writer in another process: 0 of 800 transactions "locked" (testing.md 6)
CONNECT_TIMEOUT_S = 10  # libpq waits for a silent host for ever
# A host that is gone without a word: TCP finds out after a quarter of an hour, or never at an end that only listens;
# what a client had locked when its host went is locked until the server knows, after two hours. So each end asks after
# so many seconds of silence, and gives the other one up when it has said nothing for as many more. (`tcp_user_timeout`,
# after which what was sent must have arrived, is for our end alone: a client may be slow to read.)
SILENCE_S = 30
_QUESTIONS = 3
WATCH_BUSY_TIMEOUT_S = 0.25  # who watches tells that the file is locked, rather than to wait
WATCH_STATEMENT_TIMEOUT_MS = 2_000
MIGRATION_LOCK_TIMEOUT_S = 120.0  # how long one migration waits for another one to end
# PostgreSQL: any constant of 64 bits that no other program uses for its own advisory lock: "riskstor" in ASCII.
MIGRATION_LOCK = int.from_bytes(b"riskstor", "big")

# What a URL's query may show, and of what it may show the name: nothing else, since drivers take passwords there too.
_SHOWN_QUERY = {"host", "port", "dbname", "mode", "sslmode", "application_name", "connect_timeout", "options"}
_NAMED_QUERY = {"user", "password", "passfile", "sslkey", "sslpassword"}


def parse_url(url: str | URL) -> URL:
    """A database URL, checked. Raises InvalidValue without repeating any secret in it.

    A bare ``postgresql://`` means psycopg 3, SQLAlchemy 2.1's default and the driver risk_store is tested with.

    >>> parse_url("sqlite:///risk.db").database
    'risk.db'
    """
    expected = "a database URL such as sqlite:///risk.db or postgresql+psycopg://user@host/database"
    try:
        parsed = make_url(url)
    except (exc.ArgumentError, ValueError):
        raise InvalidValue("url", display_url(str(url)), expected) from None
    if parsed.get_backend_name() not in ("sqlite", "postgresql"):
        raise InvalidValue("url", display_url(url), expected)
    if parsed.get_backend_name() == "sqlite" and (parsed.host or parsed.username):
        raise InvalidValue("url", display_url(url), "a path: sqlite:///relative.db or sqlite:////absolute.db")
    return parsed


def display_url(url: str | URL) -> str:
    """`url` fit to be printed: no password, and of the query only what cannot hold one. Never raises.

    SQLAlchemy's own masking leaves a password given as a query argument in clear, and a text may hold a password that
    nobody escaped. Where it is not clear which part is one, more is hidden.

    >>> display_url("postgresql+psycopg://ann:s3cret@db/risk?password=s3cret&sslmode=require")
    'postgresql+psycopg://ann:***@db/risk?password=***&sslmode=require'
    """
    text = url.render_as_string(hide_password=True) if isinstance(url, URL) else url
    scheme, separator, rest = text.partition("://")
    if not separator:
        return "***" if re.search("[:@?]", text.removeprefix("sqlite:")) else text
    place, _, query = rest.partition("?")
    if not re.fullmatch(r"[\w+]+", scheme):
        return "***"
    if "@" in query:
        return f"{scheme}://***"  # a password with a ?, or an argument with an @
    return f"{scheme}://{_shown_place(place)}" + (f"?{_shown_query(query)}" if query else "")


def _shown_place(place: str) -> str:
    if place.startswith("/"):
        return place  # a path, with no user before it
    user, at, host = place.rpartition("@")  # the last one: a password may hold others
    name, colon, _ = user.partition(":")
    if not re.fullmatch(r"(\[[^\]]*\]|[^:/]*)(:\d*)?(/.*)?", host, re.DOTALL):
        host = f"{host.partition(':')[0]}:***"  # no port: a password whose @host was forgotten
    return f"{name}{':***' if colon else ''}{at}{host}"


def _shown_query(query: str) -> str:
    shown = []
    for part in query.split("&"):
        name, _, value = part.partition("=")
        if name.lower() in _SHOWN_QUERY and ";" not in unquote(value):
            shown.append(part)
        else:
            shown.append(f"{name}=***" if name.lower() in _NAMED_QUERY else "***")
    return "&".join(shown)


def database_file(url: URL) -> Path | None:
    """The file of an SQLite URL; None for an in-memory database and for servers."""
    if url.get_backend_name() != "sqlite" or not url.database or url.database == ":memory:":
        return None
    if url.database.startswith("file:"):
        raise InvalidValue("url", display_url(url), "a plain path: risk_store sets SQLite's open mode itself")
    return Path(url.database).absolute()


def url_of(database: str | URL | sa.Engine) -> URL:
    """The URL of `database`, checked; of an engine of :func:`open_engine`, the one it was made from."""
    if not isinstance(database, sa.Engine):
        return parse_url(database)
    url = database.url
    if url.get_backend_name() == "sqlite" and (url.database or "").startswith("file:") and "uri" in url.query:
        return URL.create("sqlite", database=unquote(urlsplit(str(url.database)).path))
    return url


def sync_url(url: URL) -> URL:
    """`url` with the synchronous driver for the same database; psycopg 3 is both.

    >>> sync_url(parse_url("sqlite+aiosqlite:///risk.db")).drivername
    'sqlite'
    """
    return url.set(drivername="sqlite" if url.get_backend_name() == "sqlite" else "postgresql+psycopg")


def open_engine(url: URL, purpose: Purpose, *, pool_size: int = 5) -> sa.Engine:
    """An engine on `url`. Nothing is opened yet, and only ``migrate`` will ever create a file.

    Raises InvalidValue for an asyncio driver, StoreUnavailable for one that is not installed.
    """
    if url.get_driver_name() in ("aiosqlite", "asyncpg"):
        expected = f"the URL of a synchronous driver, such as {display_url(sync_url(url))}; AsyncRiskStore takes it"
        raise InvalidValue("url", display_url(url), expected)
    with _driver_is_there(url):
        engine = sa.create_engine(_url_to_open(url, purpose), **_settings(url, purpose, pool_size))
    _prepare(engine, url, purpose)
    return engine


def open_async_engine(url: URL, purpose: Purpose, *, pool_size: int = 5) -> AsyncEngine:
    """The same for asyncio."""
    with _driver_is_there(url):
        from sqlalchemy.ext.asyncio import create_async_engine

        engine = create_async_engine(_url_to_open(url, purpose), **_settings(url, purpose, pool_size))
    _prepare(engine.sync_engine, url, purpose)
    return engine


@contextmanager
def _driver_is_there(url: URL) -> Iterator[None]:
    try:
        yield
    except (ModuleNotFoundError, ImportError) as error:
        extra = "asyncio" if url.get_driver_name() == "aiosqlite" or "greenlet" in str(error) else "postgresql"
        raise StoreUnavailable(
            f"{display_url(url)}: the driver {error.name} is not installed. Use "
            f"{'sqlite+aiosqlite' if extra == 'asyncio' else 'postgresql+psycopg'}://… after: "
            f"pip install 'risk-store[{extra}]'"
        ) from error


def _url_to_open(url: URL, purpose: Purpose) -> URL:
    if url.get_backend_name() == "postgresql":
        return _url_of_server(url, purpose)
    file = database_file(url)
    if file is None:
        return url
    # mode=rw: opening never creates a file (a mistyped path must not become an empty database).
    mode = {"store": "rw", "read": "ro", "watch": "ro", "look": mode_to_look(file), "migrate": "rwc"}[purpose]
    return url.set(database=file.as_uri()).update_query_dict({"mode": mode, "uri": "true"})


def _url_of_server(url: URL, purpose: Purpose) -> URL:
    if url.get_driver_name() == "asyncpg":
        return url  # it takes its settings from connect_args
    given = url.query.get("options", "")
    theirs = given if isinstance(given, str) else " ".join(given)
    # The last one counts: a user may want other signs of life, and nothing else of what we rest on.
    options = f"{_options(_signs_of_life('tcp_keepalives'))} {theirs} {_options(_server_settings(purpose))}"
    ours = {"connect_timeout": str(CONNECT_TIMEOUT_S), "tcp_user_timeout": str(2 * SILENCE_S * 1000)}
    return url.update_query_dict({**ours, **_signs_of_life("keepalives"), **url.query, "options": options})


def _options(settings: dict[str, str]) -> str:
    return " ".join(f"-c {name}={value}" for name, value in settings.items())


def _signs_of_life(keepalives: str) -> dict[str, str]:
    """What asks for them, by libpq's names or by the server's."""
    values = {
        f"{keepalives}_idle": SILENCE_S,
        f"{keepalives}_interval": SILENCE_S // _QUESTIONS,
        f"{keepalives}_count": _QUESTIONS,
    }
    return {name: str(value) for name, value in values.items()}


def _server_settings(purpose: Purpose) -> dict[str, str]:
    # The session's zone only shapes how instants travel; UTC keeps the years 1 and 9999 within Python's range. Floats
    # travel as text with psycopg: whole, whatever the database's owner has set. And text as what Python can hold.
    settings = {"timezone": "UTC", "extra_float_digits": "1", "client_encoding": "UTF8"}
    if purpose in READING:
        settings["default_transaction_read_only"] = "on"
        # A prepared report would be planned for whatever account and window it is asked for, which takes ten times as
        # long as a plan for a rare one. What has no parameters is planned once all the same.
        settings["plan_cache_mode"] = "force_custom_plan"
    if purpose == "watch":
        settings["statement_timeout"] = str(WATCH_STATEMENT_TIMEOUT_MS)
    return settings


def _settings(url: URL, purpose: Purpose, pool_size: int) -> dict[str, Any]:
    """The keywords of `create_engine`."""
    settings: dict[str, Any] = {"hide_parameters": True}
    if url.get_backend_name() == "sqlite":
        settings["connect_args"] = {
            "timeout": _patience(purpose),
            "check_same_thread": False,  # a pooled connection is used by one thread at a time, not always the same
        }
        if database_file(url) is None:
            return settings | {"poolclass": StaticPool}  # an in-memory database lives as long as its one connection
    elif url.get_driver_name() == "asyncpg":
        server_settings = _signs_of_life("tcp_keepalives") | _server_settings(purpose)
        settings["connect_args"] = {"server_settings": server_settings, "timeout": CONNECT_TIMEOUT_S}
    if purpose == "migrate":
        return settings | {"poolclass": NullPool}
    settings |= {"pool_size": pool_size, "max_overflow": 10}
    if url.get_backend_name() == "postgresql":
        if purpose == "store":
            # No bound for writers: an enforcement must not wait 30 s for a connection that other threads hold.
            settings["max_overflow"] = -1
        if purpose in ("read", "watch"):
            # One snapshot for all statements of a read transaction, as SQLite gives it.
            settings["isolation_level"] = "REPEATABLE READ"
    return settings


def end_reading(session: Session) -> None:
    """Ends a transaction that has read by a COMMIT, on a server.

    At each ROLLBACK psycopg forgets the statements that it has prepared, and the server would read and plan a report
    by rule anew each time, which is a fifth of what it takes. Nothing is flushed, and nothing was written: who reads
    has read-only transactions, unless he asked for another one. (A SET of his own lasts, as after any COMMIT.)
    """
    if not session.in_transaction() or not session.is_active:
        return
    connection = session.connection()
    transaction = connection.get_transaction()
    if transaction is not None and not connection.invalidated and connection.dialect.name == "postgresql":
        transaction.commit()


def _patience(purpose: Purpose) -> float:
    return {"migrate": MIGRATION_LOCK_TIMEOUT_S, "watch": WATCH_BUSY_TIMEOUT_S}.get(purpose, BUSY_TIMEOUT_S)


def _prepare(engine: sa.Engine, url: URL, purpose: Purpose) -> None:
    if url.get_backend_name() == "sqlite":
        _prepare_sqlite(engine, purpose)
    else:
        watch_connections(engine)  # survives a server's restart, and one that never answers
        if engine.dialect.driver == "asyncpg":  # which has no setting for it
            event.listen(engine, "connect", lambda raw, _record: ask_for_signs_of_life(raw, SILENCE_S, _QUESTIONS))
        if engine.dialect.driver == "psycopg" and not engine.dialect.is_async:
            send_long_statements_native(engine)
        if purpose == "watch":
            event.listen(engine, "connect", _load_any_instant)


def _load_any_instant(raw: Any, _record: object) -> None:
    """Instants that Python has not (infinity, the year 290000) come as the server spells them, and hide no other row.

    For who watches only: psycopg's own loader, which fails at them, is faster.
    """
    from psycopg import DataError
    from psycopg.types.datetime import TimestamptzLoader

    class Loader(TimestamptzLoader):
        def load(self, data: Any) -> Any:
            try:
                return super().load(data)
            except DataError:
                return bytes(data).decode()

    raw.adapters.register_loader("timestamptz", Loader)


def _prepare_sqlite(engine: sa.Engine, purpose: Purpose) -> None:
    @event.listens_for(engine, "connect")
    def prepare(raw: Any, _record: object) -> None:
        # The driver's own BEGIN comes late (after a SELECT: lost updates) and never before DDL (half migrations that
        # block every retry). From here on only `begin` below starts a transaction.
        raw.isolation_level = None
        # v1 files hold text that is no UTF-8: it comes as it is, its bytes as lone surrogates, and hides no other row.
        getattr(raw, "driver_connection", raw).text_factory = _decoded
        # The adopted file's triggers and views run in this process: not with functions that could do harm.
        pragmas = ["trusted_schema = OFF"]
        if purpose in READING:
            pragmas.append("query_only = ON")  # a second lock behind mode=ro
        elif purpose == "migrate":
            # Off before BEGIN (inside a transaction the pragma has no effect): rebuilding a parent table with foreign
            # keys on silently deletes its children.
            pragmas += ["foreign_keys = OFF", "synchronous = FULL"]
            # One transaction over a whole file: with the default of 2 MB pages go to and fro between memory and disk.
            pragmas.append("cache_size = -65536")
        else:
            # FULL: a commit that returned survives a power cut. NORMAL lost acknowledged commits (reliability.md 3.2).
            pragmas += ["foreign_keys = ON", "synchronous = FULL"]
        cursor = raw.cursor()
        for pragma in pragmas:
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        if connection.info.pop(HAS_BEGUN, False):
            return
        options = connection.get_execution_options()
        set_busy_timeout(connection, options.get("busy_timeout_s", _patience(purpose)))
        # IMMEDIATE takes the write lock before anything is read: a deferred transaction that read first cannot wait
        # for the lock and fails at once, whatever the timeout. Readers stay deferred and block nobody.
        kind = "DEFERRED" if purpose in READING else options.get("sqlite_begin", "IMMEDIATE")
        _execute(connection, f"BEGIN {kind}")


def _decoded(stored: bytes) -> str:
    return stored.decode("utf-8", "surrogateescape")


@contextmanager
def read_by_driver(connection: sa.Connection) -> Iterator[None]:
    """In this block SQLite's driver reads text itself, without a call for each, and fails at what is no UTF-8
    (:func:`is_no_utf_8`). Elsewhere nothing changes, nor where somebody else says how text is read."""
    raw: Any = connection.connection.dbapi_connection
    driver = getattr(raw, "driver_connection", raw)
    if getattr(driver, "text_factory", None) is not _decoded:
        yield
        return
    driver.text_factory = str
    try:
        yield
    finally:
        driver.text_factory = _decoded


def is_no_utf_8(error: exc.OperationalError) -> bool:
    """Whether SQLite's driver met text that it could not read: an error of its own and none of SQLite's."""
    return isinstance(error.orig, sqlite3.OperationalError) and not hasattr(error.orig, "sqlite_errorcode")


def mode_to_look(file: Path) -> str:
    """SQLite's open mode for one look at `file` that changes neither its bytes nor what lies beside it.

    Read-only where a write-ahead log holds anything: closing would move it into the file. Else with the right to write,
    used by SQLite alone: a read-only connection cannot roll back what a killed writer left ("attempt to write a
    readonly database"), and on a file in WAL mode it makes `-wal` and `-shm` and cannot remove them.
    """
    try:
        return "ro" if Path(f"{file.resolve()}-wal").stat().st_size else "rw"  # SQLite follows links, and so must this
    except FileNotFoundError:
        return "rw"


def set_busy_timeout(connection: sa.Connection, seconds: float) -> None:
    """How long SQLite waits from now on for a writer in another process."""
    milliseconds = int(seconds * 1000)
    if connection.info.get("busy_timeout_ms") != milliseconds:
        _execute(connection, f"PRAGMA busy_timeout = {milliseconds}")
        connection.info["busy_timeout_ms"] = milliseconds


def _execute(connection: sa.Connection, statement: str) -> None:
    """By the driver itself: SQLAlchemy's own way costs 50 µs more, in each transaction of each enforcement."""
    raw: Any = connection.connection.dbapi_connection
    cursor = raw.cursor()
    try:
        cursor.execute(statement)
    finally:
        cursor.close()


def set_wal(engine: sa.Engine, timeout_s: float) -> bool:
    """Switches an SQLite file to WAL, in which readers and the writer do not wait for each other; whether it could.

    The file keeps the mode, so once is enough. It cannot be switched while another program holds a lock: the store then
    works in the mode it finds, and the next write tries again.
    """
    connection = engine.raw_connection()
    try:
        connection.info["busy_timeout_ms"] = int(timeout_s * 1000)
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout = {int(timeout_s * 1000)}")
        try:
            return bool(cursor.execute("PRAGMA journal_mode = WAL").fetchone()[0] == "wal")
        except sqlite3.OperationalError as error:
            logger.warning("%s stays out of WAL for now: %s", display_url(engine.url), error)
            return False
    finally:
        connection.close()


# Classified by the engines' own codes, never by message.
_SQLITE_ERRORS: dict[str, type[RiskStoreError]] = {
    "SQLITE_BUSY": StoreBusy,
    "SQLITE_LOCKED": StoreBusy,
    "SQLITE_FULL": StoreFull,
    "SQLITE_READONLY": StoreReadOnly,
    "SQLITE_CANTOPEN": StoreUnavailable,
    "SQLITE_NOTADB": StoreUnavailable,
    "SQLITE_IOERR": StoreUnavailable,
    "SQLITE_CORRUPT": StoreUnavailable,
}
_POSTGRESQL_ERRORS: dict[str, type[RiskStoreError]] = {
    "55P03": StoreBusy,  # lock_not_available
    "40P01": StoreBusy,  # deadlock_detected
    "40001": StoreBusy,  # serialization_failure
    "57014": StoreBusy,  # query_canceled: a statement timeout
    "53100": StoreFull,  # disk_full
    "25006": StoreReadOnly,  # read_only_sql_transaction
    "57P01": StoreUnavailable,  # admin_shutdown
    "57P03": StoreUnavailable,  # cannot_connect_now
}


class translated:  # noqa: N801 (a block, as contextlib's own are)
    """Turns the driver errors a user can act on into the store's own, which name the database; others pass as they are.

    `driver` is the module whose own errors may come, where it is used without SQLAlchemy in between. The cause is kept.
    The driver's text is not repeated whole: PostgreSQL's DETAIL lines hold values. (Each record passes here, and a
    generator's block would take it 2 µs.)
    """

    __slots__ = ("_driver", "_url")

    def __init__(self, url: URL, driver: Any = sqlite3) -> None:
        self._url, self._driver = url, driver

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if error is not None:
            self.tell(error)

    def tell(self, error: BaseException) -> None:
        """Raises the store's own error instead of `error`, if there is one."""
        if not isinstance(error, (exc.DBAPIError, self._driver.Error, NoAnswerInTime)):
            return
        orig = error.orig if isinstance(error, exc.DBAPIError) else error
        kind = _classify(error, orig, self._driver)
        if kind is not None:
            first_line = str(orig).strip().partition("\n")[0]
            meaning = (kind.__doc__ or "").strip()
            raise kind(f"{display_url(self._url)}: {_scrubbed(first_line, self._url)}. {meaning}") from error


def _classify(error: Exception, orig: BaseException | None, driver: Any) -> type[RiskStoreError] | None:
    name = getattr(orig, "sqlite_errorname", None)
    if name is not None:
        # Extended codes (SQLITE_READONLY_DIRECTORY, SQLITE_IOERR_WRITE) begin with their primary one.
        return _SQLITE_ERRORS.get("_".join(name.split("_")[:2]))
    state = getattr(orig, "sqlstate", None)
    if state is not None:
        return _POSTGRESQL_ERRORS.get(state) or (StoreUnavailable if state.startswith(("08", "28", "3D")) else None)
    # No SQLSTATE: the server never answered.
    none_came = (exc.OperationalError, driver.OperationalError, NoAnswerInTime)
    return StoreUnavailable if isinstance(error, none_came) else None


def _scrubbed(text: str, url: URL) -> str:
    secrets = [url.password, *(v for k, v in url.query.items() if k.lower() not in _SHOWN_QUERY)]
    for secret in secrets:
        if isinstance(secret, str) and secret:
            text = text.replace(secret, "***")
    return text

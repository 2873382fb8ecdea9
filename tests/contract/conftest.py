"""What the contract suite runs on: a plain SQLAlchemy session on each engine, and a clock that stands still."""

import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.orm import Session

import risk_store
from risk_store.engines import open_engine, parse_url
from risk_store.repositories import lane
from tests.conftest import ENGINES, url_on
from tests.support import distribution_lint
from tests.support.doors import DOORS, Clocks, Door
from tests.support.plugin import _database, _url, with_citus
from tests.support.postgres import Server

_LIBRARY = str(Path(risk_store.__file__).parent)
_TESTS = str(Path(__file__).parents[1])

NOW = datetime(2025, 10, 21, 17, 0, tzinfo=UTC)


class Clock:
    """The current instant, which moves only when told to."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now

    def forward(self, minutes: float) -> None:
        self.now += timedelta(minutes=minutes)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="session")
def shared_postgres(postgres_server: Server, postgres_template: str) -> Iterator[str]:
    """One database for all tests of this folder that undo what they did: copying one takes longer than most of them."""
    with _database(postgres_server, postgres_template) as name:
        yield _url(postgres_server, name)


@pytest.fixture(params=with_citus(*ENGINES))
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database at head, of this test's own, on each engine and distributed over a cluster."""
    return url_on(request.param, request, tmp_path)


@pytest.fixture(params=with_citus("sqlite", "postgresql"))
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[sa.Engine]:
    """A database at head, on each engine. What is committed to it may be seen by other tests."""
    if request.param == "postgresql":
        url = request.getfixturevalue("shared_postgres")
    else:
        url = url_on(request.param, request, tmp_path)
    opened = open_engine(parse_url(url), "store")
    yield opened
    opened.dispose()


@pytest.fixture
def session(engine: sa.Engine) -> Iterator[Session]:
    """A session of the caller's own: the repositories must not need a RiskStore. All it did is undone in the end."""
    with engine.connect() as connection, connection.begin() as transaction:
        with Session(connection, join_transaction_mode="create_savepoint") as opened:
            yield opened
        transaction.rollback()


@pytest.fixture
def sent(session: Session) -> Iterator[list[tuple[str, Any]]]:
    """Each statement that reaches the database, with its parameters."""
    statements: list[tuple[str, Any]] = []
    connection = session.connection()

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, _many: bool) -> None:
        statements.append((statement, parameters))

    event.listen(connection, "before_cursor_execute", note)
    yield statements
    event.remove(connection, "before_cursor_execute", note)


@pytest.fixture
def plan_of(session: Session, sent: list[tuple[str, Any]]) -> Callable[[sa.Select[Any]], str]:
    """How the engine carries out a statement, with its parameters bound as they are in use."""

    def explain(statement: sa.Select[Any]) -> str:
        connection = session.connection()
        session.execute(statement).all()
        sql, parameters = sent[-1]
        if connection.dialect.name == "sqlite":
            return str(connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", parameters).all())
        connection.exec_driver_sql("SET LOCAL enable_seqscan = off")  # on a table of a few rows it always wins
        return str(connection.exec_driver_sql(f"EXPLAIN {sql}", parameters).all())

    return explain


@pytest.fixture
def undone(session: Session) -> Callable[[], Any]:
    """A block after which the database is as before: one for each example that hypothesis makes."""

    @contextmanager
    def block() -> Iterator[None]:
        savepoint = session.begin_nested()
        try:
            yield
        finally:
            savepoint.rollback()
            session.expunge_all()

    return block


@pytest.fixture(autouse=True)
def sent_to_a_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever the store sends to a server in a test of this folder, a distributed one would take as well."""
    sent: set[str] = set()
    send = lane._send

    def look_by_driver(connection: sa.Connection, cursor: Any, sql: str, *values: Any, **more: Any) -> Any:
        if connection.dialect.name == "postgresql":
            sent.add(sql)
        return send(connection, cursor, sql, *values, **more)

    monkeypatch.setattr(lane, "_send", look_by_driver)

    def look(connection: Any, _cursor: Any, statement: str, _parameters: Any, _context: Any, _many: bool) -> None:
        if connection.dialect.name == "postgresql" and statement not in sent and _is_the_stores():
            sent.add(statement)

    event.listen(sa.Engine, "before_cursor_execute", look)
    yield
    event.remove(sa.Engine, "before_cursor_execute", look)
    assert [wrong for statement in sent for wrong in distribution_lint.of_sent(statement)] == []


def _is_the_stores() -> bool:
    """Whether the library sends it, and not the test: whose frame is the first behind SQLAlchemy's."""
    frame: Any = sys._getframe(1)
    while frame is not None and not (name := frame.f_code.co_filename).startswith(_LIBRARY):
        if name.startswith(_TESTS) and not name.endswith("conftest.py"):
            return False
        frame = frame.f_back
    return frame is not None


# One store behind each of its doors


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


ON_CITUS = "citus by "  # before the driver's name


def _doors(driver: str) -> tuple[str, ...]:
    return with_citus(driver, of=ON_CITUS + driver) if driver.startswith("postgresql") else (driver,)


@pytest.fixture(params=[door for driver in DOORS for door in _doors(driver)])
def driver(request: pytest.FixtureRequest) -> str:
    return str(request.param).removeprefix(ON_CITUS)


@pytest.fixture
def url(driver: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if str(request.node.callspec.params["driver"]).startswith(ON_CITUS):
        return str(request.getfixturevalue("citus_store_url"))
    return url_on(driver, request, tmp_path)


@pytest.fixture
async def door(url: str, driver: str, clocks: Clocks) -> AsyncIterator[Door]:
    opened = Door(
        url,
        driver,
        clock=lambda: clocks.now,
        monotonic=lambda: clocks.seconds,
    )
    yield opened
    await opened.close()

"""Databases on a real PostgreSQL for the tests, and the rule that none of those tests may be skipped."""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any, LiteralString
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import make_url

from tests.support.postgres import NoPostgres, Server, server

USED = pytest.StashKey[set[str]]()


def _execute(running: Server, statement: LiteralString, *names: str) -> None:
    with psycopg.connect(running.url, autocommit=True) as connection:
        connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))


@contextmanager
def _database(running: Server, template: str) -> Iterator[str]:
    name = f"t_{uuid4().hex}"
    _execute(running, "CREATE DATABASE {} TEMPLATE {}", name, template)
    try:
        yield name
    finally:
        _execute(running, "DROP DATABASE {} WITH (FORCE)", name)  # a test may have left connections behind


def _url(running: Server, name: str) -> str:
    url = make_url(running.url).set(drivername="postgresql+psycopg", database=name)
    return url.render_as_string(hide_password=False)


@pytest.fixture(scope="session")
def postgres_server(pytestconfig: pytest.Config) -> Iterator[Server]:
    """The server of this test run (of this worker, under xdist)."""
    with server() as running:
        try:
            with psycopg.connect(running.url, autocommit=True, connect_timeout=10) as connection:
                version = connection.info.parameter_status("server_version") or "of unknown version"
        except psycopg.OperationalError as error:
            raise NoPostgres(f"{running.found} can't be used: {error}") from None  # its frames would show the password
        pytestconfig.stash[USED].add(f"{running.found} (server {version.split()[0]})")
        yield running


@pytest.fixture
def postgres_database(postgres_server: Server) -> Iterator[str]:
    """The URL of an empty database of this test's own."""
    with _database(postgres_server, "template0") as name:  # template1 may have been added to
        yield _url(postgres_server, name)


@pytest.fixture(scope="session")
def postgres_template(postgres_server: Server) -> Iterator[str]:
    """The name of a database migrated to head, to be copied: migrating once is cheaper than once per test."""
    from risk_store.schema import upgrade

    with _database(postgres_server, "template0") as name:
        upgrade(_url(postgres_server, name))
        yield name


@pytest.fixture
def postgres_store_url(postgres_server: Server, postgres_template: str) -> Iterator[str]:
    """The URL of a migrated database of this test's own."""
    with _database(postgres_server, postgres_template) as name:
        yield _url(postgres_server, name)


def pytest_configure(config: pytest.Config) -> None:
    config.stash[USED] = set()


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        # A fixture over engines asks for its database only when it runs, so its parameter tells.
        parameters = getattr(getattr(item, "callspec", None), "params", {})
        asked = any(isinstance(value, str) and value.startswith("postgresql") for value in parameters.values())
        if asked or "postgres_server" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.postgres)


@pytest.hookimpl(wrapper=True, tryfirst=True)  # outermost: pytest's own hook has set `wasxfail` by then
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and item.get_closest_marker("postgres"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid}: a PostgreSQL test may not be skipped ({reason})"
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    used = session.config.stash[USED]
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["postgres"] = sorted(used)


@pytest.hookimpl(optionalhook=True)  # xdist may be absent
def pytest_testnodedown(node: Any) -> None:
    node.config.stash[USED].update(getattr(node, "workeroutput", {}).get("postgres", []))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    used = terminalreporter.config.stash[USED]
    for line in sorted(used):
        terminalreporter.write_line(f"postgres tests ran on: {line}")

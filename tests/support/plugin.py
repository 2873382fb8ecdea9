"""Databases on a real PostgreSQL for the tests, and the rule that none of those tests may be skipped.

And on a Citus cluster, where there is one: its tests are not there otherwise, and the run says so in its last lines.
"""

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, LiteralString
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import make_url

from tests.support import citus
from tests.support.postgres import NoPostgres, Server, server

USED = pytest.StashKey[set[str]]()
CITUS_USED = pytest.StashKey[set[str]]()
CITUS_SHARDS = 4  # few are quick to be made and emptied; two on each worker


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


@cache
def way_to_citus() -> citus.Way:
    """How this run gets at a cluster, looked for once."""
    return citus.find()


def with_citus(*parameters: str, of: str = "citus") -> tuple[str, ...]:
    """Parameters of a fixture over engines, and `of` the cluster, where there is one."""
    return (*parameters, of) if way_to_citus().kind != "none" else parameters


@pytest.fixture(scope="session")
def citus_cluster(pytestconfig: pytest.Config) -> Iterator[citus.Cluster]:
    """The cluster of this test run (of this worker, under xdist)."""
    way = way_to_citus()
    if way.kind == "none":
        raise NoPostgres(f"no Citus: {way.told}")
    with citus.cluster(way) as running:
        with psycopg.connect(running.url) as connection:
            row = connection.execute("SELECT citus_version()").fetchone()
        pytestconfig.stash[CITUS_USED].add(f"{running.found} ({' '.join(row[0].split()[:2]) if row else 'unknown'})")
        yield running


@pytest.fixture(scope="session")
def citus_workers(citus_cluster: citus.Cluster) -> Sequence[citus.Node]:
    """Its workers, which were started here. Tests of them are not there otherwise."""
    return citus_cluster.workers


@pytest.fixture(scope="session")
def _citus_state() -> dict[str, bool]:
    return {"is distributed": False}


@pytest.fixture
def citus_database(citus_cluster: citus.Cluster, _citus_state: dict[str, bool]) -> str:
    """The URL of the coordinator's database, in which no table is."""
    citus.emptied(citus_cluster.url)
    _citus_state["is distributed"] = False
    return _of_psycopg(citus_cluster.url)


@pytest.fixture
def citus_store_url(citus_cluster: citus.Cluster, _citus_state: dict[str, bool]) -> str:
    """The URL of a distributed store without rows."""
    from risk_store.distributing import distribute
    from risk_store.models import Base
    from risk_store.schema import upgrade

    url = _of_psycopg(citus_cluster.url)
    if not _citus_state["is distributed"]:
        citus.emptied(citus_cluster.url)
        upgrade(url)
        distribute(url, shards=CITUS_SHARDS)
        citus.explainable(citus_cluster.url)
        _citus_state["is distributed"] = True
    else:
        citus.cleaned(citus_cluster.url, [table.name for table in Base.metadata.sorted_tables])
    return url


def _of_psycopg(url: str) -> str:
    return make_url(url).set(drivername="postgresql+psycopg").render_as_string(hide_password=False)


def pytest_configure(config: pytest.Config) -> None:
    config.stash[USED] = set()
    config.stash[CITUS_USED] = set()


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if way_to_citus().kind != "binaries":
        # Only workers that were started here can be killed, or asked by a URL of their own.
        items[:] = [item for item in items if not set(getattr(item, "fixturenames", ())) & {"citus_workers"}]
    for item in items:
        # A fixture over engines asks for its database only when it runs, so its parameter tells.
        parameters = getattr(getattr(item, "callspec", None), "params", {})
        asked = any(isinstance(value, str) and value.startswith("postgresql") for value in parameters.values())
        if asked or "postgres_server" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.postgres)
        asked = any(isinstance(value, str) and value.startswith("citus") for value in parameters.values())
        if asked or "citus_cluster" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.citus)


@pytest.hookimpl(wrapper=True, tryfirst=True)  # outermost: pytest's own hook has set `wasxfail` by then
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    marked = next((name for name in ("postgres", "citus") if item.get_closest_marker(name)), None)
    if report.skipped and not hasattr(report, "wasxfail") and marked:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        name = {"postgres": "PostgreSQL", "citus": "Citus"}[marked]
        report.longrepr = f"{item.nodeid}: a {name} test may not be skipped ({reason})"
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["postgres"] = sorted(session.config.stash[USED])
        session.config.workeroutput["citus"] = sorted(session.config.stash[CITUS_USED])


@pytest.hookimpl(optionalhook=True)  # xdist may be absent
def pytest_testnodedown(node: Any) -> None:
    told = getattr(node, "workeroutput", {})
    node.config.stash[USED].update(told.get("postgres", []))
    node.config.stash[CITUS_USED].update(told.get("citus", []))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    used = terminalreporter.config.stash[USED]
    for line in sorted(used):
        terminalreporter.write_line(f"postgres tests ran on: {line}")
    for line in sorted(terminalreporter.config.stash[CITUS_USED]):
        note = "" if way_to_citus().kind == "binaries" else "; no worker of it could be killed"
        terminalreporter.write_line(f"citus tests ran on: {line}{note}")
    if way_to_citus().kind == "none":
        terminalreporter.write_line(f"citus tests did not run: {way_to_citus().told}")

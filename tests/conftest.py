"""The databases that tests run on. Each engine's fixtures give the same thing, so one test body serves both."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from risk_store import RiskStore, schema
from tests.support.plugin import with_citus

ENGINES = ("sqlite", "postgresql")
# Where there is no cluster its own tests are not there, and the run says so (tests/support/plugin.py).
collect_ignore = [] if with_citus() else ["test_citus.py"]


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file at head, to be copied: migrating once is cheaper than once per test."""
    file = tmp_path_factory.mktemp("template") / "risk.db"
    schema.upgrade(f"sqlite:///{file}")
    return file


@pytest.fixture(params=ENGINES)
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database at head, of this test's own, on each engine."""
    return url_on(request.param, request, tmp_path)


def url_on(engine: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A new one on SQLite, by one of the drivers of PostgreSQL, or the one that is distributed over a cluster."""
    if engine == "citus":
        return str(request.getfixturevalue("citus_store_url"))
    if engine.startswith("postgresql"):
        return str(request.getfixturevalue("postgres_store_url"))
    shutil.copy(request.getfixturevalue("sqlite_template"), tmp_path / "risk.db")
    return f"sqlite:///{tmp_path / 'risk.db'}"


@pytest.fixture
def store(store_url: str) -> Iterator[RiskStore]:
    """An open store on each engine. Afterwards no connection may be checked out."""
    with RiskStore(store_url) as opened:
        yield opened
        assert opened.engine.pool.checkedout() == 0, "a connection was not given back"  # type: ignore[attr-defined]

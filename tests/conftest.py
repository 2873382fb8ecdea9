"""The databases that tests run on, and the patience they have with them.

Each engine's fixtures give the same thing, so one test body serves both.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from risk_store import Limits, RiskStore, schema
from tests.support.plugin import with_citus

ENGINES = ("sqlite", "postgresql")
# Where there is no cluster its own tests are not there, and the run says so (tests/support/plugin.py).
collect_ignore = [] if with_citus() else ["test_citus.py"]

# No example has to be quick either; and a test over examples empties the tables of its store itself.
settings.register_profile(
    "patient", deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
settings.load_profile("patient")


@pytest.fixture(scope="session", autouse=True)
def patience() -> Iterator[None]:
    """A store waits for its database as long as it must, unless a test sets limits: machines are busy at times."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Limits.__init__, "__defaults__", (60.0, 60.0))
        yield


@pytest.fixture
def nothing_else_ends_a_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """What else would end a wait for a database does so in an hour: what ends is ended by the limits of the store."""
    monkeypatch.setattr("risk_store.engines.BUSY_TIMEOUT_S", 3600.0)
    monkeypatch.setattr("risk_store.engines.CONNECT_TIMEOUT_S", 3600)


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

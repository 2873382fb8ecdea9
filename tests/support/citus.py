"""A Citus cluster for the tests, a coordinator and two workers, where there is one to be had.

A coordinator named in the environment is used first, then server binaries that have Citus, then containers when Docker
answers. Finding none is allowed: the tests of the cluster are then not there, and the run says so in its last lines.

    RISK_STORE_TEST_CITUS_URL     use this coordinator's database; the tests remove whatever is in its schema "public"
    RISK_STORE_TEST_CITUS         auto (default), url, binaries, container or none: force one, no falling back
    RISK_STORE_TEST_CITUS_BINDIR  the folder of `initdb` and `postgres` of a PostgreSQL that has Citus
    RISK_STORE_TEST_CITUS_IMAGE   the image for the containers
"""

import gc
import os
import secrets
import signal
import subprocess
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from tests.support.postgres import (
    HOST,
    SETTINGS,
    Account,
    NoPostgres,
    binary_folders,
    temporary_folder,
    unprivileged_user,
)

PREFIX = "RISK_STORE_TEST_CITUS"
DEFAULT_IMAGE = "citusdata/citus:13.2"
DATABASE = "risk"
WORKERS = 2

CITUS_SETTINGS = SETTINGS | {
    "shared_preload_libraries": "citus",
    "max_prepared_transactions": "200",
    "max_connections": "200",
    "max_worker_processes": "32",
    "citus.node_conninfo": "sslmode=disable",
    "synchronous_commit": "on",  # a commit is with the system when it returns: it outlives a server that is killed
}


@dataclass(frozen=True)
class Way:
    """How the tests get at a cluster: `kind` is url, binaries or container; or none, and `told` says why."""

    kind: str
    told: str
    folder: Path | None = None


def find() -> Way:
    """Looks for a way, and starts nothing."""
    mode = os.environ.get(PREFIX) or "auto"
    if mode not in ("auto", "url", "binaries", "container", "none"):
        raise NoPostgres(f"{PREFIX} is {mode!r}; it can be auto, url, binaries, container or none")
    if mode == "none":
        return Way("none", f"{PREFIX} is none")
    if mode in ("auto", "url") and os.environ.get(f"{PREFIX}_URL"):
        return Way("url", f"the coordinator of {PREFIX}_URL")
    if mode in ("auto", "binaries") and (folder := _folder_with_citus()):
        return Way("binaries", f"Citus from {folder}", folder)
    if mode in ("auto", "container") and (problem := _docker_problem()) is None:
        return Way("container", f"containers {_image()}")
    reasons = {
        "auto": f"{PREFIX}_URL is not set, no PostgreSQL here has Citus, and Docker does not answer",
        "url": f"{PREFIX}_URL is not set",
        "binaries": f"no PostgreSQL here has Citus; name its folder in {PREFIX}_BINDIR",
    }
    if mode != "auto":
        raise NoPostgres(reasons.get(mode) or f"Docker does not answer ({problem})")
    return Way("none", reasons["auto"])


@dataclass
class Node:
    """A server of a cluster that was started here."""

    account: Account
    folder: Path
    password: str
    stack: ExitStack
    """The cluster's, with which it ends."""
    port: int = 0
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"postgresql://postgres:{self.password}@{HOST}:{self.port}/"

    settings: Mapping[str, str] = field(default_factory=lambda: CITUS_SETTINGS)

    def start(self) -> None:
        """Also again, where it was before."""
        (self.account.base / "data" / "postmaster.pid").unlink(missing_ok=True)  # of one that was killed
        self.port, self.process = self.account.start(self.folder, self.stack, self.settings, self.port)

    def kill(self) -> None:
        """As a machine that is gone: all of its processes at once, with nothing said to anybody."""
        assert self.process is not None
        children = subprocess.run(
            ["pgrep", "-P", str(self.process.pid)], capture_output=True, text=True, check=False
        ).stdout.split()
        for pid in (self.process.pid, *map(int, children)):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


@dataclass
class Cluster:
    """A running cluster: the coordinator's database, without a driver, and how it was found."""

    url: str = field(repr=False)
    found: str
    workers: Sequence[Node] = ()
    """Those that were started here, and so can be killed."""


@contextmanager
def cluster(way: Way, settings: Mapping[str, str] = CITUS_SETTINGS) -> Iterator[Cluster]:
    """Starts it if it is not there, binaries with `settings`; afterwards it is stopped."""
    with ExitStack() as stack:
        if way.kind == "url":
            yield Cluster(os.environ[f"{PREFIX}_URL"], way.told)
        elif way.kind == "binaries":
            assert way.folder is not None
            yield _from_binaries(stack, way.folder, way.told, settings)
        else:
            yield _from_containers(stack, way.told)


def _folder_with_citus() -> Path | None:
    chosen = os.environ.get(f"{PREFIX}_BINDIR")
    folders = [Path(chosen).absolute()] if chosen else [folder for _, folder in binary_folders() if folder]
    for folder in folders:
        libraries = (folder.parent / "lib", folder.parent / "lib" / "postgresql")
        if (folder / "initdb").is_file() and any((library / "citus.so").is_file() for library in libraries):
            return folder
    return None


def _from_binaries(stack: ExitStack, folder: Path, told: str, settings: Mapping[str, str]) -> Cluster:
    user = unprivileged_user()
    temporary = tempfile.TemporaryDirectory(
        prefix="risk-store-citus-", dir=temporary_folder(user), ignore_cleanup_errors=True
    )
    base = Path(stack.enter_context(temporary))
    Account(base, user).own(base)
    password = secrets.token_hex(16)
    nodes = []
    for number in range(WORKERS + 1):
        account = Account(base / str(number), user)
        account.base.mkdir(mode=0o700)
        account.own(account.base)
        account.initialise(folder, password)
        nodes.append(Node(account, folder, password, stack, settings=settings))
        nodes[-1].start()
    for node in nodes:
        _prepare(node.url, password)
    coordinator, *workers = nodes
    with psycopg.connect(coordinator.url + DATABASE, autocommit=True) as connection:
        connection.execute("SELECT citus_set_coordinator_host(%s, %s)", (HOST, coordinator.port))
        for worker in workers:
            connection.execute("SELECT citus_add_node(%s, %s)", (HOST, worker.port))
    return Cluster(coordinator.url + DATABASE, told, workers)


def _prepare(url: str, password: str) -> None:
    """The database on one node, and how its server gets into the others."""
    with psycopg.connect(f"{url}postgres", autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(DATABASE)))
    with psycopg.connect(url + DATABASE, autocommit=True) as connection:
        connection.execute("CREATE EXTENSION citus")
        connection.execute("INSERT INTO pg_dist_authinfo VALUES (0, 'postgres', %s)", (f"password={password}",))


def _image() -> str:
    return os.environ.get(f"{PREFIX}_IMAGE") or DEFAULT_IMAGE


def _docker_problem() -> str | None:
    """Why Docker cannot be used; None where it answers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            from testcontainers.core.docker_client import DockerClient

            with closing(DockerClient(timeout=3).client) as client:
                client.ping()
        except Exception as error:  # docker, requests and the imports raise what they like
            problem: str | None = f"{type(error).__name__}: {error}"
        else:
            problem = None
        gc.collect()  # docker leaves sockets open when it fails: a ResourceWarning here, not an error in a later test
    return problem


def _from_containers(stack: ExitStack, told: str) -> Cluster:
    from testcontainers.core.container import DockerContainer
    from testcontainers.core.network import Network

    network = stack.enter_context(Network())
    started: list[Any] = []
    for alias in ("coordinator", *(f"worker-{number + 1}" for number in range(WORKERS))):
        container = (
            DockerContainer(_image())
            .with_env("POSTGRES_HOST_AUTH_METHOD", "trust")
            .with_env("POSTGRES_DB", DATABASE)
            .with_network(network)
            .with_network_aliases(alias)
            .with_exposed_ports(5432)
        )
        started.append((alias, stack.enter_context(container)))
    (coordinator, first), *workers = started
    url = f"postgresql://postgres@{first.get_container_host_ip()}:{first.get_exposed_port(5432)}/{DATABASE}"
    with _answering(url) as connection:
        connection.execute("SELECT citus_set_coordinator_host(%s, 5432)", (coordinator,))
        for alias, _ in workers:
            connection.execute("SELECT citus_add_node(%s, 5432)", (alias,))
    return Cluster(url, told)


def _answering(url: str) -> psycopg.Connection[Any]:
    """A connection, once the server takes one: a container's restarts when its database is made."""
    import time

    deadline = time.monotonic() + 60
    while True:
        try:
            connection = psycopg.connect(url, autocommit=True, connect_timeout=5)
            connection.execute("SELECT citus_version()")
        except psycopg.Error:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
        else:
            return connection


# One database for all tests of a run: what a test finds there is made ready, and what it leaves is removed.


def emptied(url: str) -> None:
    """No table is left."""
    with psycopg.connect(url, autocommit=True) as connection:
        _cut_off_others(connection)
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        for (table,) in tables:  # one by one: Citus 13 stumbles over a whole schema with sharded tables in it
            connection.execute(sql.SQL("DROP TABLE {} CASCADE").format(sql.Identifier(table)))


def cleaned(url: str, tables: Sequence[str]) -> None:
    """The tables are there as `risk-store distribute` makes them, without rows, and ids begin at 1."""
    with psycopg.connect(url, autocommit=True) as connection:
        _cut_off_others(connection)
        for table in tables:
            connection.execute(sql.SQL("DELETE FROM {}").format(sql.Identifier(table)))
        for table in ("enforcement_log", "trade_history"):
            connection.execute("SELECT setval(pg_get_serial_sequence(%s, 'id'), 1, false)", (table,))


def explainable(url: str) -> None:
    """Settings that a test makes for its transaction hold on the workers too, where the plans are made."""
    with psycopg.connect(url, autocommit=True) as connection:
        name = sql.Identifier(connection.info.dbname)
        connection.execute(sql.SQL("ALTER DATABASE {} SET citus.propagate_set_commands TO local").format(name))


def _cut_off_others(connection: psycopg.Connection[Any]) -> None:
    """A test may have left connections behind, with locks."""
    connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
        "AND pid <> pg_backend_pid() AND backend_type = 'client backend' AND application_name NOT LIKE 'citus%'"
    )

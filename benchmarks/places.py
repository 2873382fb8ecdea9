"""Where contenders work: each in a database of its own, all made by `store.upgrade()`, all equally durable."""

from __future__ import annotations

import itertools
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

import psycopg
from psycopg import sql

from risk_store import RiskStore, schema
from risk_store.distributing import distribute
from risk_store.engines import parse_url
from risk_store.models import Base

__all__ = ["Ground", "Place", "cluster", "connect", "postgresql", "settle", "sqlite"]


@dataclass(frozen=True, slots=True)
class Place:
    """One contender's database. `durability` is what `question` must answer on each of its connections that writes."""

    url: str = field(repr=False)  # it may hold a password
    synchronous: str
    question: str
    durability: str

    @property
    def is_sqlite(self) -> bool:
        return self.url.startswith("sqlite")

    @property
    def file(self) -> str:
        """The file of an SQLite database."""
        return str(parse_url(self.url).database)

    @property
    def conninfo(self) -> str:
        """What psycopg connects with."""
        return parse_url(self.url).set(drivername="postgresql").render_as_string(hide_password=False)

    @property
    def server(self) -> dict[str, Any]:
        """The same in parts, for peers that take no URL."""
        url = parse_url(self.url)
        parts = {"host": url.host, "port": url.port, "user": url.username, "password": url.password}
        return {name: value for name, value in parts.items() if value is not None}

    @property
    def database(self) -> str:
        return str(parse_url(self.url).database)


class Ground(Protocol):
    """An engine with its durability, on which places can be had."""

    @property
    def label(self) -> str: ...

    @property
    def is_sqlite(self) -> bool: ...

    def place(self) -> Place:
        """A new database at head, with no rows."""
        ...


@dataclass(frozen=True, slots=True)
class _Sqlite:
    folder: Path
    synchronous: str
    template: Path
    numbers: Iterator[int] = field(default_factory=itertools.count)
    is_sqlite = True

    @property
    def label(self) -> str:
        return f"SQLite, {self.synchronous}"

    def place(self) -> Place:
        file = shutil.copy(self.template, self.folder / f"{self.synchronous}-{next(self.numbers)}.db")
        with closing(sqlite3.connect(file)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
        level = {"NORMAL": "1", "FULL": "2"}[self.synchronous]
        return Place(f"sqlite:///{file}", self.synchronous, "PRAGMA synchronous", level)


@contextmanager
def sqlite(folder: Path, synchronous: str) -> Iterator[Ground]:
    """Files in `folder`, with `synchronous` FULL or NORMAL for everybody."""
    template = folder / f"template-{synchronous}.db"
    with RiskStore(f"sqlite:///{template}") as store:
        store.upgrade()
    yield _Sqlite(folder, synchronous, template)
    for file in folder.glob(f"{synchronous}-*"):
        file.unlink()


@dataclass(frozen=True, slots=True)
class _Postgresql:
    url: str = field(repr=False)
    administrator: psycopg.Connection[Any]
    template: str
    made: list[str] = field(default_factory=list)
    label = "PostgreSQL"
    is_sqlite = False

    def place(self) -> Place:
        name = f"{self.template}_{len(self.made)}"
        self.execute("CREATE DATABASE {} TEMPLATE {}", name, self.template)
        self.made.append(name)
        setting = self.administrator.execute("SHOW synchronous_commit").fetchone()
        url = parse_url(self.url).set(database=name).render_as_string(hide_password=False)
        return Place(url, "", "SHOW synchronous_commit", str(setting and setting[0]))

    def execute(self, statement: Any, *names: str) -> None:
        self.administrator.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))


@contextmanager
def postgresql(url: str) -> Iterator[Ground]:
    """Databases of our own beside the one that `url` names, which is not touched; they are dropped afterwards."""
    given = parse_url(url).set(drivername="postgresql+psycopg")
    administrator = given.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(administrator, autocommit=True) as connection:
        template = f"risk_store_bench_{uuid4().hex[:12]}"
        ground = _Postgresql(given.render_as_string(hide_password=False), connection, template)
        ground.execute("CREATE DATABASE {} TEMPLATE {}", template, "template0")
        try:
            with RiskStore(given.set(database=template)) as store:
                store.upgrade()
            yield ground
        finally:
            for name in (*ground.made, template):
                with suppress(psycopg.Error):
                    ground.execute("DROP DATABASE IF EXISTS {} WITH (FORCE)", name)


@dataclass(frozen=True, slots=True)
class _Cluster:
    url: str = field(repr=False)
    label = "Citus"
    is_sqlite = False

    def place(self) -> Place:
        return Place(self.url, "", "SHOW synchronous_commit", "on")


@contextmanager
def cluster(url: str) -> Iterator[Ground]:
    """A distributed store in the coordinator's database that `url` names, which must have none; dropped afterwards."""
    given = parse_url(url).set(drivername="postgresql+psycopg")
    shown = given.render_as_string(hide_password=False)
    found = schema.status(given)
    if found.state is not schema.SchemaState.EMPTY:
        raise SystemExit(
            f"{found.message}\nThe benchmarks take only a database of a coordinator that has no store yet."
        )
    try:
        schema.upgrade(given)
        distribute(given)
        yield _Cluster(shown)
    finally:
        plain = given.set(drivername="postgresql").render_as_string(hide_password=False)
        with psycopg.connect(plain, autocommit=True) as connection:
            for table in (*Base.metadata.tables, schema.VERSION_TABLE):
                connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(sql.Identifier(table)))


def connect(place: Place) -> Any:
    """A connection of the plain driver's own, which begins no transaction by itself and is as durable as all others."""
    if not place.is_sqlite:
        return psycopg.connect(place.conninfo, autocommit=True)
    connection = sqlite3.connect(place.file, isolation_level=None, timeout=60, check_same_thread=False)
    connection.execute(f"PRAGMA synchronous = {place.synchronous}")
    return connection


def settle(place: Place) -> None:
    """Brings an SQLite file's write-ahead log into the file: everybody's turn begins at its beginning.

    SQLite does that in some commit or other, about every thousand pages; in short turns it would hit one and spare
    another. The log is used again as it lies there: while a file grows, each commit waits twice as long for the disk.
    """
    if place.is_sqlite:
        with closing(connect(place)) as connection:
            connection.execute("PRAGMA wal_checkpoint(RESTART)")

"""A store on a Citus coordinator sharded by account over its workers: one table after the other, each proved.

Each table is one transaction: its keys are widened by the account, its rows go to the shards, and are counted before
and after. Killed at any moment a table is as it was or done, and the next run goes on behind the last one that is done.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import URL

from risk_store import schema
from risk_store.cluster import ClusterStatus, citus_of, look_at
from risk_store.engines import MIGRATION_LOCK, display_url, open_engine, parse_url, translated
from risk_store.errors import InvalidValue, RiskStoreError, SchemaMismatch, StoreBusy
from risk_store.models import Base, EnforcementLog
from risk_store.sharding import SHARD_COLUMN, Placement, placement_of, widened_keys

__all__ = ["DEFAULT_SHARDS", "DistributedTable", "DistributeReport", "distribute"]

DEFAULT_SHARDS = 32
MOST_SHARDS = 1024
LOCK_TIMEOUT = "30s"
"""How long a table is waited for that programs have in use. They wait behind it, so not for ever."""

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class DistributedTable:
    """One table: what it is on the cluster, and its rows, the same before and after."""

    table: str
    placement: Placement
    rows: int
    widened: tuple[str, ...]
    """The keys that got the account added, each as ``name (columns)``."""
    was_done: bool
    """Whether an earlier run had done it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DistributeReport:
    """What was done, or with `dry_run` would be."""

    database: str
    shards: int
    workers: int
    tables: tuple[DistributedTable, ...]
    dry_run: bool
    seconds: float

    @property
    def was_done(self) -> bool:
        """Whether there was nothing to do."""
        return all(table.was_done for table in self.tables)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return asdict(self) | {"was_done": self.was_done}

    @property
    def text(self) -> str:
        """The report as lines for a person."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        nodes = f"{self.workers} node" + ("" if self.workers == 1 else "s")
        if self.was_done:
            yield f"{self.database}: distributed over {nodes} already, nothing to do"
            return
        would = "dry run, nothing was changed: would be distributed" if self.dry_run else "distributed"
        took = "" if self.dry_run else f"   {self.seconds:.1f} s"
        yield f"{self.database}: {would} by {SHARD_COLUMN} over {nodes}, {self.shards} shards a table{took}"
        width = max(len(table.table) for table in self.tables)
        for table in self.tables:
            keys = f"   {', '.join(table.widened)}" if table.widened else ""
            done = "   (done before)" if table.was_done else ""
            yield f"  {table.table:<{width}}  {table.placement:<9}  {table.rows:>12,} rows{keys}{done}"
        if not self.dry_run:
            yield "programs that were running: restart them, so that they learn of it"


def distribute(
    url: str | URL, *, shards: int = DEFAULT_SHARDS, dry_run: bool = False, progress: Progress | None = None
) -> DistributeReport:
    """Shards the store at `url`, a Citus coordinator's database at head, by account over the cluster's nodes.

    Keys without the account are widened to (key, account_id); the tables of accounts are co-located, so that all of an
    account lies on one node; contracts are on every node; the version and the roll-up stay on the coordinator. Each
    table is locked while its rows move: stop the programs, or let them wait. Safe to run again: what is done is left
    alone, a table that a later revision added is distributed too. `shards` is how many each table has, if none is
    sharded yet; it bounds how many nodes they can be spread over. `progress` is told (what, rows done, of how many).

    Raises InvalidValue for an SQLite URL and for a number of shards that is none; SchemaMismatch unless the store is at
    head; RiskStoreError where Citus, or a node that takes shards, is missing, on a worker, and where something is in
    the way, each with what helps; StoreBusy, StoreUnavailable.

    >>> distribute("sqlite:///risk.db")
    Traceback (most recent call last):
    risk_store.errors.InvalidValue: url: 'sqlite:///risk.db' is not a database on a PostgreSQL with Citus: an SQLite
    file is one file. Copy it there first: risk-store copy sqlite:///risk.db postgresql+psycopg://…
    """
    started = time.monotonic()
    parsed = parse_url(url)
    name = display_url(parsed)
    if parsed.get_backend_name() != "postgresql":
        raise InvalidValue(
            "url",
            name,
            "a database on a PostgreSQL with Citus: an SQLite file is one file. Copy it there first: "
            f"risk-store copy {name} postgresql+psycopg://…",
        )
    if isinstance(shards, bool) or not isinstance(shards, int) or not 1 <= shards <= MOST_SHARDS:
        raise InvalidValue("shards", shards, f"a number of shards from 1 to {MOST_SHARDS}")
    with _connected(parsed) as connection:
        status = _checked(connection, parsed)
        tables = [_Table(connection, table, shards) for table in _in_order()]
        total = sum(table.rows for table in tables)
        if not dry_run:
            _carry_out(tables, total, progress)
        count = _shards_of(connection) or shards
    return DistributeReport(
        database=name,
        shards=count,
        workers=sum(node.takes_shards for node in status.nodes),
        tables=tuple(table.report() for table in tables),
        dry_run=dry_run,
        seconds=time.monotonic() - started,
    )


@contextmanager
def _connected(url: URL) -> Iterator[sa.Connection]:
    """A connection that holds the lock of migrations to its end: no upgrade and no other run comes between."""
    engine = open_engine(url, "migrate")
    try:
        with translated(url), engine.connect() as connection:
            if not connection.execute(sa.select(sa.func.pg_try_advisory_lock(MIGRATION_LOCK))).scalar_one():
                raise StoreBusy(f"{display_url(url)}: another upgrade or distribute is running. Try again.")
            connection.commit()
            yield connection
            connection.rollback()
    finally:
        engine.dispose()


def _checked(connection: sa.Connection, url: URL) -> ClusterStatus:
    """The cluster as it is found. Raises what :func:`distribute` raises unless the store can be distributed over it."""
    name = display_url(url)
    citus = citus_of(connection)
    if citus.version is None:
        if not citus.can_be_installed:
            raise RiskStoreError(
                f"{name}: this server has no Citus. Install it (https://docs.citusdata.com/en/stable/installation/, or "
                "a managed PostgreSQL that has it), add citus to shared_preload_libraries on every node, and connect "
                "to the coordinator. Nothing was changed."
            )
        raise RiskStoreError(
            f"{name}: Citus is installed, but not in this database. As a superuser, on every node: CREATE EXTENSION "
            "citus; then on the coordinator SELECT citus_set_coordinator_host('HOST', PORT) and, for each worker, "
            "SELECT citus_add_node('HOST', PORT). Nothing was changed."
        )
    if connection.exec_driver_sql("SELECT groupid FROM pg_catalog.pg_dist_local_group").scalar_one() != 0:
        raise RiskStoreError(f"{name}: this is a worker. Give the coordinator's URL. Nothing was changed.")
    found = schema.inspect_schema(connection, url)
    if not found.ok:
        raise SchemaMismatch(found)
    status = look_at(connection)
    if not any(node.takes_shards for node in status.nodes):
        raise RiskStoreError(
            f"{name}: the cluster has no node that takes shards. Add a worker: SELECT citus_add_node('HOST', PORT). "
            "Nothing was changed."
        )
    wrong = [f"{node.place} cannot be reached" for node in status.nodes if not node.is_reachable]
    wrong += status.obstacles
    wrong += [
        f"{table.table} is {table.found} and belongs {table.belongs}"
        for table in status.misplaced
        if table.found is not Placement.LOCAL
    ]
    if wrong:
        raise RiskStoreError(f"{name}: in the way: {'; '.join(wrong)}. Nothing was changed.")
    connection.rollback()
    return status


def _in_order() -> Sequence[sa.Table]:
    """The log first, by which the others are placed; what stays on the coordinator has nothing to be done."""
    tables = [table for table in Base.metadata.sorted_tables if placement_of(table) is not Placement.LOCAL]
    return sorted(tables, key=lambda table: (table is not EnforcementLog.__table__, placement_of(table), table.name))


def _carry_out(tables: Sequence[_Table], total: int, progress: Progress | None) -> None:
    done = 0
    for table in tables:
        if progress is not None:
            progress(f"distributing {table.name}", done, total)
        table.distribute()
        done += table.rows
    if progress is not None:
        progress("distributed", total, total)


class _Table:
    """One table on its way to the nodes."""

    def __init__(self, connection: sa.Connection, table: sa.Table, shards: int) -> None:
        self._connection = connection
        self._table = table
        self._shards = shards
        self._placement = placement_of(table)
        self.name = table.name
        self.was_done = bool(connection.execute(_IS_DISTRIBUTED, {"table": table.name}).scalar_one())
        self.rows = self._count()
        self._widened = [] if self.was_done else list(widened_keys(table))
        connection.rollback()

    def report(self) -> DistributedTable:
        return DistributedTable(
            table=self.name,
            placement=self._placement,
            rows=self.rows,
            widened=tuple(f"{name} ({', '.join(columns)})" for name, columns in self._widened),
            was_done=self.was_done,
        )

    def distribute(self) -> None:
        """In one transaction, and then what is left of the rows on the coordinator is removed."""
        if not self.was_done:
            with self._connection.begin():
                self._send()
        with self._connection.begin():
            # The rows stay on the coordinator as well, where nobody sees them.
            if self._connection.execute(_LOCAL_BYTES, {"table": self.name}).scalar_one():
                self._connection.execute(_TRUNCATE_LOCAL, {"table": self.name})
        if not self.was_done:
            with self._connection.begin():
                self._connection.exec_driver_sql(f"ANALYZE {self.name}")

    def _send(self) -> None:
        run = self._connection.exec_driver_sql
        # Indexes are made and rows are sent one shard after the other, which lets both be in one transaction.
        run("SET LOCAL citus.multi_shard_modify_mode TO 'sequential'")
        run(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
        run(f"LOCK TABLE {self.name} IN ACCESS EXCLUSIVE MODE")
        run("SET LOCAL lock_timeout = 0")
        self.rows = self._count()
        for key, columns in self._widened:
            self._widen(key, ", ".join(columns))
        if self._placement is Placement.REFERENCE:
            self._connection.execute(_TO_ALL_NODES, {"table": self.name})
        elif self._table is EnforcementLog.__table__:
            asked = {"table": self.name, "column": SHARD_COLUMN, "shards": self._shards}
            self._connection.execute(_TO_SHARDS, asked)
        else:
            asked = {"table": self.name, "column": SHARD_COLUMN, "beside": EnforcementLog.__tablename__}
            self._connection.execute(_TO_SHARDS_BESIDE, asked)
        if (arrived := self._count()) != self.rows:
            raise RiskStoreError(
                f"{self.name}: {self.rows:,} rows were sent and {arrived:,} arrived. The table is as it was."
            )

    def _widen(self, key: str, columns: str) -> None:
        run = self._connection.exec_driver_sql
        if key == self._table.primary_key.name:
            run(f"ALTER TABLE {self.name} DROP CONSTRAINT {key}, ADD CONSTRAINT {key} PRIMARY KEY ({columns})")
        else:
            run(f"DROP INDEX {key}")
            run(f"CREATE UNIQUE INDEX {key} ON {self.name} ({columns})")

    def _count(self) -> int:
        return int(self._connection.execute(sa.select(sa.func.count()).select_from(self._table)).scalar_one())


_IS_DISTRIBUTED = sa.text(
    "SELECT count(*) FROM pg_catalog.pg_dist_partition WHERE logicalrelid = CAST(:table AS regclass)"
)
_TO_SHARDS = sa.text(
    "SELECT create_distributed_table(:table, :column, colocate_with => 'none', shard_count => :shards)"
)
_TO_SHARDS_BESIDE = sa.text("SELECT create_distributed_table(:table, :column, colocate_with => :beside)")
_TO_ALL_NODES = sa.text("SELECT create_reference_table(:table)")
_LOCAL_BYTES = sa.text("SELECT pg_relation_size(CAST(:table AS regclass))")
_TRUNCATE_LOCAL = sa.text("SELECT truncate_local_data_after_distributing_table(CAST(:table AS regclass))")
_SHARDS = sa.text("SELECT count(*) FROM pg_catalog.pg_dist_shard WHERE logicalrelid = CAST(:table AS regclass)")


def _shards_of(connection: sa.Connection) -> int:
    """How many shards each table has; 0 while none is sharded."""
    return int(connection.execute(_SHARDS, {"table": EnforcementLog.__tablename__}).scalar_one())

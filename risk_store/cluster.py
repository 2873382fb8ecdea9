"""How a store lies on a PostgreSQL server or a Citus cluster, and what is in the way of distributing it: a look.

`risk-store check` prints it, and `risk-store distribute` asks it before it does anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import URL

from risk_store.engines import open_engine, parse_url, translated
from risk_store.models import Base, EnforcementLog, Order
from risk_store.sharding import SHARD_COLUMN, Placement, placement_of, widened_keys

__all__ = ["ClusterStatus", "Node", "Skew", "TablePlace", "citus_of", "cluster_status", "look_at", "obstacles"]

LEAST_VERSION = 15  # of PostgreSQL: Citus 13 takes 15 to 17, Citus 14 takes 16 to 18


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A server of the cluster.

    >>> Node(name="db-1", port=5432, is_coordinator=False, takes_shards=True, is_reachable=True, shards=16).place
    'db-1:5432'
    """

    name: str
    port: int
    is_coordinator: bool
    takes_shards: bool
    is_reachable: bool
    shards: int
    """Shards of the store's tables that lie there."""

    @property
    def place(self) -> str:
        """Where it listens, as the other nodes know it."""
        return f"{self.name}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TablePlace:
    """Where a table lies, and where it belongs."""

    table: str
    belongs: Placement
    found: Placement
    shards: int

    @property
    def is_right(self) -> bool:
        """Whether it lies where it belongs."""
        return self.belongs is self.found


@dataclass(frozen=True, slots=True, kw_only=True)
class Skew:
    """How evenly the rows of a table lie: by shards, and by accounts."""

    table: str
    rows: int
    fullest_shard: int
    """Rows in the shard that has the most."""
    shards: int
    largest_account: int
    """The account with the most rows, all of which lie in one shard."""
    largest_account_rows: int

    @property
    def ratio(self) -> float:
        """The fullest shard's rows as a multiple of the mean; 1 is even.

        >>> Skew(table="orders", rows=100, fullest_shard=50, shards=4, largest_account=7,
        ...      largest_account_rows=40).ratio
        2.0
        """
        return self.fullest_shard * self.shards / self.rows if self.rows else 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterStatus:
    """What was found. `obstacles` are in the way of distributing, `warnings` hurt a distributed store."""

    citus: str | None
    """The version of Citus in this database; None where it is not."""
    can_be_installed: bool
    """Whether the server has Citus for databases that ask for it (CREATE EXTENSION)."""
    nodes: tuple[Node, ...]
    tables: tuple[TablePlace, ...]
    skews: tuple[Skew, ...]
    obstacles: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def is_distributed(self) -> bool:
        """Whether any table of the store's is sharded."""
        return any(table.found is Placement.SHARDED for table in self.tables)

    @property
    def is_whole(self) -> bool:
        """Whether every node answers: else no statement over all accounts can be carried out."""
        return all(node.is_reachable for node in self.nodes)

    @property
    def misplaced(self) -> tuple[TablePlace, ...]:
        """Tables that do not lie where they belong on a cluster."""
        return tuple(table for table in self.tables if not table.is_right)

    def lines(self) -> Iterator[str]:
        """The same for a person."""
        if self.is_distributed:
            yield from self._cluster_lines()
        else:
            yield from self._readiness_lines()
        for warning in self.warnings:
            yield f"warning: {warning}"

    def _readiness_lines(self) -> Iterator[str]:
        if self.obstacles:
            yield "not ready to be distributed (Citus):"
            yield from (f"  {obstacle}" for obstacle in self.obstacles)
        elif self.citus is None:
            yield "ready to be distributed, on a server with Citus (docs/scaling.md)"
        else:
            yield f"ready to be distributed over {_counted(self._takers(), 'node')}: risk-store distribute URL"

    def _cluster_lines(self) -> Iterator[str]:
        yield f"distributed by {SHARD_COLUMN} over {_counted(self._takers(), 'node')}, Citus {self.citus}:"
        for node in self.nodes:
            kind = "coordinator" if node.is_coordinator else "worker"
            yield f"  {node.place} {kind}, {_counted(node.shards, 'shard')}" + (
                "" if node.is_reachable else ", cannot be reached"
            )
        for table in self.misplaced:
            yield f"  {table.table} is {table.found} and belongs {table.belongs}: run risk-store distribute again"
        for skew in self.skews:
            yield (
                f"  {skew.table}: {skew.rows:,} rows, the fullest shard has {skew.ratio:.1f} times the mean; account "
                f"{skew.largest_account} has {skew.largest_account_rows:,}"
            )
        yield from (f"  in the way: {obstacle}" for obstacle in self.obstacles)

    def _takers(self) -> int:
        return sum(node.takes_shards for node in self.nodes)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return asdict(self) | {"is_distributed": self.is_distributed, "misplaced": [t.table for t in self.misplaced]}


def cluster_status(url: str | URL) -> ClusterStatus | None:
    """What there is to say of the store at `url`; None of an SQLite file, which is on no server.

    Raises StoreUnavailable.

    >>> cluster_status("sqlite:///risk.db") is None
    True
    """
    parsed = parse_url(url)
    if parsed.get_backend_name() != "postgresql":
        return None
    engine = open_engine(parsed, "look")
    try:
        with translated(parsed), engine.connect() as connection:
            return look_at(connection)
    finally:
        engine.dispose()


def look_at(connection: sa.Connection) -> ClusterStatus:
    """The same by an open connection, within its transaction."""
    citus = citus_of(connection)
    version = citus.version
    nodes = tuple(_nodes(connection)) if version else ()
    tables = tuple(_tables(connection, version is not None))
    sharded = [table for table in tables if table.found is Placement.SHARDED]
    return ClusterStatus(
        citus=version,
        can_be_installed=citus.can_be_installed,
        nodes=nodes,
        tables=tables,
        skews=tuple(_skews(connection)) if sharded and all(node.is_reachable for node in nodes) else (),
        obstacles=tuple(obstacles(connection)),
        warnings=tuple(_warnings(connection, nodes)) if version else (),
    )


class Citus(NamedTuple):
    """What a server has of it."""

    version: str | None
    """In this database; None where it is not."""
    can_be_installed: bool


def citus_of(connection: sa.Connection) -> Citus:
    """What the server that is connected to has of Citus."""
    row = connection.execute(_EXTENSION, {"name": "citus"}).one_or_none()
    return Citus(None if row is None else row.installed_version, row is not None)


# Where it lies --------------------------------------------------------------------------------------------------------

_EXTENSION = sa.text("SELECT installed_version FROM pg_catalog.pg_available_extensions WHERE name = :name")

_NODES = sa.text("""
    SELECT node.nodename AS name, node.nodeport AS port, node.groupid = 0 AS is_coordinator,
        node.shouldhaveshards AS takes_shards, node.isactive AS is_active, count(placement.shardid) AS shards
    FROM pg_catalog.pg_dist_node node
    LEFT JOIN (
        pg_catalog.pg_dist_placement placement
        JOIN pg_catalog.pg_dist_shard shard ON shard.shardid = placement.shardid
        JOIN pg_catalog.pg_dist_partition part ON part.logicalrelid = shard.logicalrelid AND part.partmethod = 'h'
        JOIN pg_catalog.pg_class class ON class.oid = shard.logicalrelid AND class.relname = ANY(:ours)
            AND class.relnamespace = current_schema()::regnamespace
    ) ON placement.groupid = node.groupid
    WHERE node.noderole = 'primary' AND node.isactive
    GROUP BY node.nodeid, node.nodename, node.nodeport, node.groupid, node.shouldhaveshards, node.isactive
    ORDER BY node.groupid
""")

_IS_REACHABLE = sa.text("SELECT pg_catalog.citus_check_connection_to_node(:name, :port)")

_PLACES = sa.text("""
    SELECT class.relname AS name, part.partmethod AS method, part.colocationid AS colocation,
        (SELECT count(*) FROM pg_catalog.pg_dist_shard shard WHERE shard.logicalrelid = part.logicalrelid) AS shards
    FROM pg_catalog.pg_dist_partition part JOIN pg_catalog.pg_class class ON class.oid = part.logicalrelid
    WHERE class.relnamespace = current_schema()::regnamespace
""")


def _ours() -> list[str]:
    return [table.name for table in Base.metadata.sorted_tables]


def _nodes(connection: sa.Connection) -> Iterator[Node]:
    for row in connection.execute(_NODES, {"ours": _ours()}).all():
        answers = connection.execute(_IS_REACHABLE, {"name": row.name, "port": row.port}).scalar_one()
        yield Node(
            name=row.name,
            port=row.port,
            is_coordinator=row.is_coordinator,
            takes_shards=row.takes_shards,
            is_reachable=bool(answers),
            shards=row.shards,
        )


def _tables(connection: sa.Connection, has_citus: bool) -> Iterator[TablePlace]:
    found = {row.name: row for row in connection.execute(_PLACES)} if has_citus else {}
    for table in Base.metadata.sorted_tables:
        row = found.get(table.name)
        place, shards = Placement.LOCAL, 0
        if row is not None:
            place, shards = Placement.SHARDED if row.method == "h" else Placement.REFERENCE, row.shards
        yield TablePlace(table=table.name, belongs=placement_of(table), found=place, shards=shards)


_ROWS_BY_SHARD = sa.text(
    "SELECT result::bigint AS rows FROM run_command_on_shards(:table, 'SELECT count(*) FROM %s') WHERE success"
)


def _skews(connection: sa.Connection) -> Iterator[Skew]:
    for table in (EnforcementLog.__table__, Order.__table__):
        rows = connection.execute(_ROWS_BY_SHARD, {"table": table.name}).scalars().all()
        count = sa.func.count().label("n")
        account = table.c[SHARD_COLUMN]
        most = connection.execute(sa.select(account, count).group_by(account).order_by(count.desc()).limit(1)).first()
        if most is not None:
            yield Skew(
                table=table.name,
                rows=sum(rows),
                fullest_shard=max(rows, default=0),
                shards=len(rows),
                largest_account=most[0],
                largest_account_rows=most[1],
            )


# What is in the way ---------------------------------------------------------------------------------------------------

_TRIGGERS = sa.text("""
    SELECT class.relname AS table, trigger.tgname AS name
    FROM pg_catalog.pg_trigger trigger JOIN pg_catalog.pg_class class ON class.oid = trigger.tgrelid
    WHERE NOT trigger.tgisinternal AND class.relname = ANY(:sharded)
        AND class.relnamespace = current_schema()::regnamespace
    ORDER BY 1, 2
""")

_FOREIGN_KEYS = sa.text("""
    SELECT here.relname AS table, made.conname AS name, there.relname AS refers
    FROM pg_catalog.pg_constraint made
    JOIN pg_catalog.pg_class here ON here.oid = made.conrelid
    JOIN pg_catalog.pg_class there ON there.oid = made.confrelid
    WHERE made.contype = 'f' AND (here.relname = ANY(:sharded) OR there.relname = ANY(:sharded))
        AND made.connamespace = current_schema()::regnamespace
    ORDER BY 1, 2
""")

_UNIQUE_KEYS = sa.text("""
    SELECT class.relname AS table, made.relname AS name
    FROM pg_catalog.pg_index index
    JOIN pg_catalog.pg_class made ON made.oid = index.indexrelid
    JOIN pg_catalog.pg_class class ON class.oid = index.indrelid
    WHERE index.indisunique AND class.relname = ANY(:sharded)
        AND class.relnamespace = current_schema()::regnamespace
        AND NOT EXISTS (
            SELECT FROM pg_catalog.pg_attribute a
            WHERE a.attrelid = index.indrelid AND a.attnum = ANY(index.indkey) AND a.attname = :column
        )
    ORDER BY 1, 2
""")

_COLUMNS = sa.text("""
    SELECT class.relname AS table, pg_catalog.format_type(a.atttypid, a.atttypmod) AS type
    FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class class ON class.oid = a.attrelid
    WHERE class.relname = ANY(:sharded) AND class.relnamespace = current_schema()::regnamespace
        AND a.attname = :column AND (a.atttypid <> 'bigint'::regtype OR NOT a.attnotnull)
    ORDER BY 1
""")


def obstacles(connection: sa.Connection) -> Iterator[str]:
    """What keeps the store's tables from being sharded, each with what helps. The store's own keys do not."""
    version = int(connection.exec_driver_sql("SHOW server_version_num").scalar_one()) // 10_000
    if version < LEAST_VERSION:
        yield f"PostgreSQL {version}: Citus 13 needs {LEAST_VERSION} or later"
    sharded = [t for t in Base.metadata.sorted_tables if placement_of(t) is Placement.SHARDED]
    asked = {"sharded": [table.name for table in sharded], "column": SHARD_COLUMN}
    for row in connection.execute(_TRIGGERS, asked):
        yield f"a trigger {row.name} on {row.table}: Citus takes none. Drop it: DROP TRIGGER {row.name} ON {row.table}"
    for row in connection.execute(_FOREIGN_KEYS, asked):
        yield (
            f"a foreign key {row.name} from {row.table} to {row.refers}, which would leave its shard. Drop it: "
            f"ALTER TABLE {row.table} DROP CONSTRAINT {row.name}"
        )
    widened = {name for table in sharded for name, _ in widened_keys(table)}
    for row in connection.execute(_UNIQUE_KEYS, asked):
        if row.name not in widened:
            yield (
                f"a unique index {row.name} on {row.table} without {SHARD_COLUMN}, which no shard can keep. Drop it or "
                f"add {SHARD_COLUMN} to it"
            )
    for row in connection.execute(_COLUMNS, asked):
        yield f"{row.table}.{SHARD_COLUMN} is {row.type} or may be NULL, and must be bigint NOT NULL in all tables"


# What hurts -----------------------------------------------------------------------------------------------------------

# setting → the values that hurt, and why
_HURTS: dict[str, tuple[Sequence[str], str]] = {
    "max_prepared_transactions": (("0",), "a transaction over two workers cannot be committed: set it to 200 or more"),
    "citus.enable_deadlock_prevention": (("off",), "trailing stops of one contract would deadlock each other"),
    "citus.all_modifications_commutative": (("on",), "statements over all shards would not wait for each other"),
    "citus.enable_fast_path_router_planner": (("off",), "every statement of one account is planned at length"),
    "citus.local_table_join_policy": (("never",), "reports cannot join the roll-up with the log"),
    "citus.log_remote_commands": (("on",), "every statement is written to the server's log once more"),
}
_SETTING = sa.text("SELECT pg_catalog.current_setting(:name, true)")
_SETTING_OF_WORKERS = sa.text(
    "SELECT nodename, nodeport, result FROM pg_catalog.run_command_on_workers(:command) WHERE success"
)


def _warnings(connection: sa.Connection, nodes: Sequence[Node]) -> Iterator[str]:
    for name, (bad, why) in _HURTS.items():
        if connection.execute(_SETTING, {"name": name}).scalar_one() in bad:
            yield f"{name} hurts on the coordinator: {why}"
    if all(node.is_reachable for node in nodes):
        name = "max_prepared_transactions"
        for row in connection.execute(_SETTING_OF_WORKERS, {"command": f"SHOW {name}"}):
            if row.result in _HURTS[name][0]:
                yield f"{name} hurts on {row.nodename}:{row.nodeport}: {_HURTS[name][1]}"
    for node in nodes:
        if not node.is_reachable:
            yield (
                f"{node.place} cannot be reached: the accounts whose shards lie there can be neither read nor written, "
                "and rows of all accounts were not looked at"
            )
    if nodes and not any(node.is_coordinator for node in nodes):
        yield "the coordinator is not in the cluster's metadata: SELECT citus_set_coordinator_host('HOST', PORT)"


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}" + ("" if number == 1 else "s")

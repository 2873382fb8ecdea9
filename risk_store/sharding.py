"""How the store lies on a distributed PostgreSQL (Citus): which table is sharded, and which key is wider there.

An account is the shard: every hot write and read names one, and all rows of one account lie on one worker. The columns
are the same as everywhere. Keys that do not name the account are widened by it, since a unique key can be kept only
within a shard. `risk-store distribute` makes it so (:mod:`risk_store.distributing`); the lint of the tests holds the
models, the revisions and the statements to it.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum

import sqlalchemy as sa

from risk_store.models import ROLLED_UP, ROLLUP, Contract

__all__ = ["SHARD_COLUMN", "Placement", "is_distributed", "placement_of", "widened_keys"]

SHARD_COLUMN = "account_id"


class Placement(StrEnum):
    """Where a table of the store's lies on a cluster."""

    SHARDED = "sharded"
    """By account, over the workers, beside the rows of the same account in the other tables."""
    REFERENCE = "reference"
    """Whole, on every node: what is small and joined with rows of any account."""
    LOCAL = "local"
    """On the coordinator alone: one node's snapshot is what makes reports exact."""


def placement_of(table: sa.Table) -> Placement:
    """Where `table` belongs.

    >>> from risk_store.models import EnforcementLog
    >>> placement_of(EnforcementLog.__table__).value, placement_of(ROLLED_UP).value
    ('sharded', 'local')
    """
    if table in (*ROLLUP, ROLLED_UP):
        return Placement.LOCAL
    return Placement.REFERENCE if table is Contract.__table__ else Placement.SHARDED


def widened_keys(table: sa.Table) -> Iterator[tuple[str, list[str]]]:
    """The unique keys of a sharded `table` that do not name the account, each with the columns it has on a cluster.

    >>> from risk_store.models import Trade
    >>> list(widened_keys(Trade.__table__))
    [('pk_trade_history', ['id', 'account_id']), ('uq_trade_history_venue_trade_id', ['venue_trade_id', 'account_id'])]
    """
    if placement_of(table) is not Placement.SHARDED:
        return
    keys: list[sa.PrimaryKeyConstraint | sa.Index] = [table.primary_key]
    keys += sorted((index for index in table.indexes if index.unique), key=lambda index: str(index.name))
    for key in keys:
        names = [column.name for column in key.columns]
        if SHARD_COLUMN not in names:
            yield str(key.name), [*names, SHARD_COLUMN]


_ASKED = "risk_store_is_distributed"
_HAS_CITUS = "SELECT count(*) FROM pg_catalog.pg_extension WHERE extname = 'citus'"
_IS_SHARDED = (
    "SELECT count(*) FROM pg_catalog.pg_dist_partition WHERE partmethod = 'h' "
    "AND logicalrelid = pg_catalog.to_regclass('enforcement_log')"
)


def is_distributed(connection: sa.Connection) -> bool:
    """Whether the store's tables are sharded in this database. Asked once of each of the driver's connections."""
    if connection.dialect.name != "postgresql":
        return False
    known = connection.info.get(_ASKED)
    if known is None:
        asked = (_HAS_CITUS, _IS_SHARDED)
        known = connection.info[_ASKED] = all(connection.exec_driver_sql(each).scalar_one() for each in asked)
    return bool(known)

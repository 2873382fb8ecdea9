"""The roll-up of the enforcement log, so that reports need not read the log: how often each time occurred.

And on PostgreSQL, room in the pages of orders: a price moves many stops at once, and each new version of a row that
finds no room beside the old one costs an entry in every index.

Kind: schema
A v1 daemon may go on: yes, no column of v1 is touched. What it writes to the log is rolled up like any other row.
Cost: five empty tables are made. They are filled later, in short transactions of their own (`store.roll_up()`). Room is
left in pages written from now on; VACUUM FULL makes it in the others.

Revision: 0005
Revises: 0004
"""

from typing import Any

import sqlalchemy as sa
from alembic.util import CommandError

from alembic import context, op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
INSTANT = sa.DateTime(timezone=True)

RULE: list[tuple[str, Any]] = [("rule_id", sa.Text()), ("succeeded", sa.Boolean())]
# table → (the key but for its last column, sums)
TABLES: dict[str, tuple[list[tuple[str, Any]], list[str]]] = {
    "enforcement_hours": ([("hour", INSTANT), *RULE], ["enforcements", "total_ms"]),
    "enforcement_day_times": ([("day", sa.Date()), *RULE, ("ms", ID)], ["enforcements"]),
    "enforcement_times": ([*RULE, ("bucket", ID), ("ms", ID)], ["enforcements"]),
    "enforcement_buckets": ([*RULE, ("bucket", ID)], ["enforcements", "total_ms"]),
}


def upgrade() -> None:
    for name, (counted, sums) in TABLES.items():
        key = [*counted, ("pruned", sa.Boolean())]
        op.create_table(
            name,
            *(sa.Column(column, type_, nullable=False, autoincrement=False) for column, type_ in key),
            *(sa.Column(column, ID, nullable=False) for column in sums),
            sa.PrimaryKeyConstraint(*(column for column, _ in key), name=f"pk_{name}"),
            sqlite_with_rowid=False,
        )
    op.create_table(
        "enforcement_rolled_up",
        sa.Column("first_id", ID, nullable=False, autoincrement=False),
        sa.Column("last_id", ID, nullable=False),
        sa.PrimaryKeyConstraint("first_id", name="pk_enforcement_rolled_up"),
    )
    if context.get_context().dialect.name == "postgresql":
        op.execute("ALTER TABLE orders SET (fillfactor = 70)")


def downgrade() -> None:
    if not context.is_offline_mode():
        _refuse_to_lose_values()
    for name in (*TABLES, "enforcement_rolled_up"):
        op.drop_table(name)
    if context.get_context().dialect.name == "postgresql":
        op.execute("ALTER TABLE orders RESET (fillfactor)")


def _refuse_to_lose_values() -> None:
    # What counts rows of the log can be counted again; what counts rows that were pruned cannot.
    pruned = sa.select(sa.func.count()).select_from(sa.table("enforcement_day_times"))
    if count := op.get_bind().scalar(pruned.where(sa.column("pruned", sa.Boolean()) == sa.true())):
        raise CommandError(
            "a downgrade below 0005 would lose values: what is known of pruned days (enforcement_day_times, "
            f"{count} rows). Nothing was changed. To go back, restore the copy that the upgrade left beside the file."
        )

"""What mirroring positions and trades needs: when the venue last spoke of a position and which were closed, and the
day a trade counts to.

Kind: schema
A v1 daemon may go on: yes, every addition is nullable. Its INSERT OR REPLACE into positions resets the added columns of
that position.
Cost: three columns are added in place, without rewriting rows; one empty table is made.

Revision: 0004
Revises: 0003
"""

from typing import Any

import sqlalchemy as sa
from alembic.util import CommandError

from alembic import context, op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
INSTANT = sa.DateTime(timezone=True)

# table → column → type; all nullable
ADDED: dict[str, dict[str, sa.types.TypeEngine[Any]]] = {
    "positions": {"seen_at": INSTANT, "unconfirmed_since": INSTANT},
    "trade_history": {"trading_day": sa.Date()},
}


def upgrade() -> None:
    for table, columns in ADDED.items():
        # A user may have added a column of this name himself. The verdict has refused one of another kind.
        present = () if context.is_offline_mode() else {c["name"] for c in sa.inspect(op.get_bind()).get_columns(table)}
        for name, type_ in columns.items():
            if name not in present:
                op.add_column(table, sa.Column(name, type_, nullable=True))
    op.create_table(
        "closed_positions",
        sa.Column("id", ID, nullable=False, autoincrement=False),
        sa.Column("account_id", ID, nullable=False),
        sa.Column("contract_id", sa.Text(), nullable=False),
        sa.Column("created_at", INSTANT),
        sa.Column("closed_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_closed_positions"),
    )
    op.create_index("ix_closed_positions_account_id_contract_id", "closed_positions", ["account_id", "contract_id"])


def downgrade() -> None:
    if not context.is_offline_mode():
        _refuse_to_lose_values()
    op.drop_table("closed_positions")
    for table, columns in ADDED.items():
        for name in columns:
            op.drop_column(table, name)


def _refuse_to_lose_values() -> None:
    lost = []
    if count := op.get_bind().scalar(sa.select(sa.func.count()).select_from(sa.table("closed_positions"))):
        lost.append(f"closed_positions ({count} rows)")
    for table, columns in ADDED.items():
        for name in columns:
            filled = sa.select(sa.func.count()).select_from(sa.table(table)).where(sa.column(name).is_not(None))
            if count := op.get_bind().scalar(filled):
                lost.append(f"{table}.{name} ({count} rows)")
    if lost:
        raise CommandError(
            f"a downgrade below 0004 would lose values: {', '.join(lost)}. Nothing was changed. "
            "To go back, restore the copy that the upgrade left beside the file."
        )

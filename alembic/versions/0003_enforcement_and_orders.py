"""What DB-SCHEMA-003 needs and v1 lacks: trailing stops, enforcement outcomes, enforcements in flight, venue trades.

Kind: schema and data
A v1 daemon may go on: yes, every addition is nullable or has a server default. Its INSERT OR REPLACE into orders
resets the added columns of that order.
Cost: columns are added in place without rewriting rows; five indexes are built; every log row with details is read once
and, where they are JSON that names counts or an error, updated. (That part is in risk_store/schema/adoption.py, which
runs in the same transaction, since it is repeated for rows that a v1 daemon writes later.)

Revision: 0003
Revises: 0002
"""

from typing import Any

import sqlalchemy as sa
from alembic.util import CommandError

from alembic import context, op
from risk_store.v1 import outcome_of

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
INSTANT = sa.DateTime(timezone=True)
REAL: sa.types.TypeEngine[float] = sa.Double().with_variant(sa.REAL(), "sqlite")
BATCH = 1000

# table → column → (type, server default; None is a nullable column)
ADDED: dict[str, dict[str, tuple[Any, Any]]] = {
    "orders": {
        "trailing_amount": (REAL, None),
        "filled_size": (ID, sa.text("0")),
        "fill_price": (REAL, None),
        "custom_tag": (sa.Text(), None),
        "parent_order_id": (ID, None),
        "linked_order_id": (ID, None),
        "venue_stop_price": (REAL, None),
        "venue_updated_at": (INSTANT, None),
        "triggered_at": (INSTANT, None),
        "seen_at": (INSTANT, None),
        "unconfirmed_since": (INSTANT, None),
    },
    "enforcement_log": {
        "error_message": (sa.Text(), None),
        "positions_closed": (ID, sa.text("0")),
        "orders_canceled": (ID, sa.text("0")),
        "enforcement_id": (sa.Text(), None),
    },
    "trade_history": {
        "venue_trade_id": (ID, None),
        "order_id": (ID, None),
        "side": (sa.Integer(), None),
        "size": (ID, None),
        "price": (REAL, None),
        "fees": (REAL, None),
        "commissions": (REAL, None),
        "voided": (sa.Boolean(), sa.false()),
    },
    "daily_pnl": {
        "fees": (REAL, sa.text("0.0")),
    },
}

# name → (table, columns, unique, predicate). Partial indexes stay as small as the rows they serve.
INDEXES: dict[str, tuple[str, list[Any], bool, str | None]] = {
    "ix_orders_working": ("orders", ["account_id", "created_at"], False, "state IN (1, 2, 7, 8)"),
    "ix_orders_trailing": ("orders", ["contract_id"], False, "type = 5 AND state IN (2, 7)"),
    "uq_enforcement_log_account_id_enforcement_id": (
        "enforcement_log",
        ["account_id", "enforcement_id"],
        True,
        None,
    ),
    "ix_enforcement_log_slow": (
        "enforcement_log",
        [sa.column("execution_time_ms").desc(), sa.column("id").desc()],
        False,
        "execution_time_ms > 500",
    ),
    "uq_trade_history_venue_trade_id": ("trade_history", ["venue_trade_id"], True, None),
}

LOG = sa.table(
    "enforcement_log",
    sa.column("id", ID),
    sa.column("details", sa.Text()),
    sa.column("error_message", sa.Text()),
    sa.column("positions_closed", ID),
    sa.column("orders_canceled", ID),
)


def upgrade() -> None:
    for table, columns in ADDED.items():
        # A user of v1 may have added a column of DB-SCHEMA-003 himself. The verdict has refused one of another kind.
        present = () if context.is_offline_mode() else {c["name"] for c in sa.inspect(op.get_bind()).get_columns(table)}
        for name, (type_, default) in columns.items():
            if name in present:
                continue
            op.add_column(table, sa.Column(name, type_, nullable=default is None, server_default=default))
    for name, (table, indexed, unique, predicate) in INDEXES.items():
        where = sa.text(predicate) if predicate else None
        op.create_index(name, table, indexed, unique=unique, sqlite_where=where, postgresql_where=where)
    op.create_table(
        "enforcement_in_flight",
        sa.Column("account_id", ID, nullable=False, autoincrement=False),
        sa.Column("enforcement_id", sa.Text(), nullable=False),
        sa.Column("rule_id", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("details", sa.Text()),
        sa.Column("started_at", INSTANT, nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("boot_id", sa.Text()),
        sa.Column("pid", ID, nullable=False),
        sa.Column("process_started", sa.Text()),
        sa.PrimaryKeyConstraint("account_id", "enforcement_id", name="pk_enforcement_in_flight"),
    )


def downgrade() -> None:
    if not context.is_offline_mode():
        _refuse_to_lose_values()
    op.drop_table("enforcement_in_flight")
    for name, (table, _columns, _unique, _predicate) in reversed(INDEXES.items()):
        op.drop_index(name, table)
    for table, columns in ADDED.items():
        for name in columns:
            op.drop_column(table, name)


def _refuse_to_lose_values() -> None:
    connection = op.get_bind()
    lost = []
    if count := connection.scalar(sa.select(sa.func.count()).select_from(sa.table("enforcement_in_flight"))):
        lost.append(f"enforcement_in_flight ({count} rows)")
    for table, columns in ADDED.items():
        for name, (type_, default) in columns.items():
            if table == "enforcement_log" and name in LOG.c and name != "id":
                continue  # below: what was copied from details is not lost
            column = sa.column(name, type_)
            filled = column.is_not(None) if default is None else column != default
            if count := connection.scalar(sa.select(sa.func.count()).select_from(sa.table(table)).where(filled)):
                lost.append(f"{table}.{name} ({count} rows)")
    lost += _outcomes_not_in_details()
    if lost:
        raise CommandError(
            f"a downgrade below 0003 would lose values: {', '.join(lost)}. Nothing was changed. "
            "To go back, restore the copy that the upgrade left beside the file."
        )


def _outcomes_not_in_details() -> list[str]:
    defaults: dict[str, Any] = {"error_message": None, "positions_closed": 0, "orders_canceled": 0}
    counts = dict.fromkeys(defaults, 0)
    filled = LOG.c.error_message.is_not(None) | (LOG.c.positions_closed != 0) | (LOG.c.orders_canceled != 0)
    rows = op.get_bind().execute(sa.select(LOG).where(filled).execution_options(yield_per=BATCH))
    for row in rows:
        told = defaults | outcome_of(row.details)
        for name in counts:
            counts[name] += row._mapping[name] != told[name]
    return [f"enforcement_log.{name} ({count} rows)" for name, count in counts.items() if count]

"""The v1 schema: created on an empty database, adopted where a v1 daemon made it.

Kind: schema
A v1 daemon may go on: yes, this is its schema.
Cost: nothing on a v1 database but the version row and, where they are missing, indexes and execution_time_ms.

Revision: 0001
Revises:
"""

import sqlalchemy as sa

from alembic import context, op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# As v1 declared them on SQLite; 64 bits, time zones and eight-byte floats elsewhere.
ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
CODE = sa.Integer()
INSTANT = sa.DateTime(timezone=True)
REAL: sa.types.TypeEngine[float] = sa.Double().with_variant(sa.REAL(), "sqlite")
NOW = sa.func.current_timestamp()  # not now(): SQLite accepts that in DDL and fails at the first INSERT


def _v1() -> sa.MetaData:
    v1 = sa.MetaData(naming_convention={"pk": "pk_%(table_name)s"})

    def own_id(table: str) -> sa.Column[int]:
        return sa.Column(f"{table}_id" if table else "id", ID, primary_key=True, autoincrement=False)

    sa.Table(
        "lockouts",
        v1,
        own_id("account"),
        sa.Column("is_locked", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("reason", sa.Text()),
        sa.Column("locked_at", INSTANT),
        sa.Column("locked_until", INSTANT),
        sa.Column("rule_id", sa.Text()),
        sa.Column("created_at", INSTANT, server_default=NOW),
        sa.Column("updated_at", INSTANT, server_default=NOW),
        sa.Index("idx_lockouts_until", "locked_until"),
    )
    sa.Table(
        "daily_pnl",
        v1,
        own_id("account"),
        sa.Column("date", sa.Date(), primary_key=True),
        sa.Column("realized_pnl", REAL, nullable=False, server_default=sa.text("0.0")),
        sa.Column("last_updated", INSTANT, server_default=NOW),
        sa.Index("idx_daily_pnl_date", "date"),
    )
    sa.Table(
        "contract_cache",
        v1,
        sa.Column("contract_id", sa.Text(), primary_key=True),
        sa.Column("tick_size", REAL, nullable=False),
        sa.Column("tick_value", REAL, nullable=False),
        sa.Column("symbol_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text()),
        sa.Column("cached_at", INSTANT, server_default=NOW),
        sa.Index("idx_contract_cache_symbol", "symbol_id"),
    )
    trades = sa.Table(
        "trade_history",
        v1,
        sa.Column("id", ID, sa.Identity(), primary_key=True),
        sa.Column("account_id", ID, nullable=False),
        sa.Column("timestamp", INSTANT, nullable=False),
        sa.Column("contract_id", sa.Text(), nullable=False),
        sa.Column("pnl", REAL),
        sa.Column("created_at", INSTANT, server_default=NOW),
        sqlite_autoincrement=True,
    )
    sa.Index("idx_trade_history_account_time", trades.c.account_id, trades.c.timestamp.desc())
    sa.Index("idx_trade_history_timestamp", trades.c.timestamp)
    sa.Table(
        "session_state",
        v1,
        own_id("account"),
        sa.Column("session_start", INSTANT, nullable=False),
        sa.Column("updated_at", INSTANT, server_default=NOW),
    )
    sa.Table(
        "positions",
        v1,
        own_id(""),
        sa.Column("account_id", ID, nullable=False),
        sa.Column("contract_id", sa.Text(), nullable=False),
        sa.Column("type", CODE, nullable=False),
        sa.Column("size", ID, nullable=False),
        sa.Column("average_price", REAL, nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("updated_at", INSTANT, server_default=NOW),
        sa.Index("idx_positions_account", "account_id"),
        sa.Index("idx_positions_contract", "contract_id"),
    )
    sa.Table(
        "orders",
        v1,
        own_id(""),
        sa.Column("account_id", ID, nullable=False),
        sa.Column("contract_id", sa.Text(), nullable=False),
        sa.Column("type", CODE, nullable=False),
        sa.Column("side", CODE, nullable=False),
        sa.Column("size", ID, nullable=False),
        sa.Column("limit_price", REAL),
        sa.Column("stop_price", REAL),
        sa.Column("state", CODE, nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("updated_at", INSTANT, server_default=NOW),
        sa.Index("idx_orders_account", "account_id"),
        sa.Index("idx_orders_contract", "contract_id"),
        sa.Index("idx_orders_state", "state"),
    )
    log = sa.Table(
        "enforcement_log",
        v1,
        sa.Column("id", ID, sa.Identity(), primary_key=True),
        sa.Column("timestamp", INSTANT, server_default=NOW),
        sa.Column("account_id", ID, nullable=False),
        sa.Column("rule_id", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("success", sa.Boolean(), nullable=False, server_default=sa.true()),
        sa.Column("details", sa.Text()),
        sa.Column("execution_time_ms", ID),
        sqlite_autoincrement=True,
    )
    sa.Index("idx_enforcement_account", log.c.account_id)
    sa.Index("idx_enforcement_timestamp", log.c.timestamp.desc())
    sa.Index("idx_enforcement_rule", log.c.rule_id)
    sa.Table(
        "reset_schedule",
        v1,
        own_id("account"),
        sa.Column("last_reset_date", sa.Date(), nullable=False),
        sa.Column("next_reset_time", INSTANT, nullable=False),
        sa.Column("reset_time_config", sa.Text(), nullable=False),
        sa.Column("timezone", sa.Text(), nullable=False),
    )
    return v1


def upgrade() -> None:
    v1 = _v1()
    present = set() if context.is_offline_mode() else set(sa.inspect(op.get_bind()).get_table_names())
    if not present & v1.tables.keys():
        v1.create_all(op.get_bind(), checkfirst=False)
    elif missing := sorted(v1.tables.keys() - present):
        raise RuntimeError(f"neither an empty database nor v1: it lacks {', '.join(missing)}. Nothing was changed.")
    else:
        _adopt(v1)


def _adopt(v1: sa.MetaData) -> None:
    inspector = sa.inspect(op.get_bind())
    if "execution_time_ms" not in {column["name"] for column in inspector.get_columns("enforcement_log")}:
        op.add_column("enforcement_log", sa.Column("execution_time_ms", ID))
    for table in v1.sorted_tables:
        present = {index["name"] for index in inspector.get_indexes(table.name)}
        for index in table.indexes:
            if index.name not in present:
                index.create(op.get_bind())


def downgrade() -> None:
    """Removes only the version row (Alembic's own doing): the tables and their rows are v1's."""

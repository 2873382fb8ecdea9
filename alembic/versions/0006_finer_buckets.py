"""The buckets of the roll-up are finer above half a second: percentiles are looked for among less than half the times.

And on PostgreSQL, room in the pages of what is counted up again and again: without it a roll-up of a million rows left
130,000 dead rows among 22,000 times, in three times the pages.

Kind: schema and data
A v1 daemon may go on: yes, no table of v1 is touched. A program of revision 0005 needs this release: it does not find
enforcement_buckets any more, and fails to roll up, to prune and to report by rule. (By its old name it would go on
counting in the old buckets, and no one would know.)
Cost: the times of the roll-up, some ten thousand rows whatever the log's length, are written once: 0.3 s for 22,000.

Revision: 0006
Revises: 0005
"""

from collections.abc import Mapping, Sequence

import sqlalchemy as sa

from alembic import context, op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

Steps = Sequence[tuple[int, int]]  # below how many ms → how wide a bucket is
COARSE: Steps = [(2**10, 2**4), (2**14, 2**8), (2**18, 2**12)]
FINE: Steps = [(512, 16), (1024, 32), (2048, 64), (4096, 128), (8192, 256), (2**14, 512), (2**18, 2**12)]
WIDEST = 2**16

ROOM = {"fillfactor": 50}


def upgrade() -> None:
    if context.get_context().dialect.name == "postgresql":
        _wait_for_a_roll_up()
        op.execute("ALTER TABLE enforcement_times SET (fillfactor = 50)")  # before its rows are written anew
    _count_anew(FINE, "enforcement_buckets", "enforcement_time_buckets", ROOM)


def downgrade() -> None:
    if context.get_context().dialect.name == "postgresql":
        _wait_for_a_roll_up()
        op.execute("ALTER TABLE enforcement_times RESET (fillfactor)")
    _count_anew(COARSE, "enforcement_time_buckets", "enforcement_buckets", {})


def _wait_for_a_roll_up() -> None:
    # By the lock that it takes itself. What one has counted and not committed would not be counted anew here.
    op.execute("LOCK TABLE enforcement_rolled_up IN EXCLUSIVE MODE")


def _count_anew(steps: Steps, old: str, new: str, options: Mapping[str, int]) -> None:
    cases = " ".join(f"WHEN ms < {below} THEN ms / {step} * {step}" for below, step in steps)
    bucket = f"CASE {cases} ELSE ms / {WIDEST} * {WIDEST} END"
    op.execute(f"UPDATE enforcement_times SET bucket = {bucket}")  # noqa: S608 (constants)
    op.create_table(
        new,
        sa.Column("rule_id", sa.Text(), nullable=False),
        sa.Column("succeeded", sa.Boolean(), nullable=False),
        sa.Column("bucket", ID, nullable=False, autoincrement=False),
        sa.Column("pruned", sa.Boolean(), nullable=False),
        sa.Column("enforcements", ID, nullable=False),
        sa.Column("total_ms", ID, nullable=False),
        sa.PrimaryKeyConstraint("rule_id", "succeeded", "bucket", "pruned", name=f"pk_{new}"),
        sqlite_with_rowid=False,
        postgresql_with=options,
    )
    # The times hold all that the buckets do, pruned days too.
    op.execute(
        f"INSERT INTO {new} (rule_id, succeeded, bucket, pruned, enforcements, total_ms) "  # noqa: S608 (constants)
        "SELECT rule_id, succeeded, bucket, pruned, sum(enforcements), sum(enforcements * ms) "
        "FROM enforcement_times GROUP BY rule_id, succeeded, bucket, pruned"
    )
    op.drop_table(old)

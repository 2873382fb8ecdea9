"""DB-SCHEMA-003: OrderType.TRAILING_STOP = 5 and EnforcementLog.execution_time_ms. No DDL.

Kind: no-op
A v1 daemon may go on: yes, nothing in the database changes.
Cost: one version row.

What changed in code: the order type gained the member TRAILING_STOP = 5, and the log's dataclass gained the field
execution_time_ms. Why no DDL: types are stored as integers without a CHECK, so a new member is only a new value; and
the column execution_time_ms has been in v1's enforcement_log from the start. What a check may compare with: the
columns of revision 0001 are exactly those of 0002 (tests/test_migrations.py shows that this revision emits nothing but
its version row, on every engine).

Revision: 0002
Revises: 0001
"""

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    pass


def downgrade() -> None:
    pass

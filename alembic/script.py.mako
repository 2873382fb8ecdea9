"""${message}

Kind: schema | data | no-op
A v1 daemon may go on: yes | no, because …
Cost: …

Rules of this folder (docs/schema.md has the reasons):
- The revision stands alone: declare the columns it needs, import no models (of risk_store only v1, which is frozen).
  It must run unchanged in years.
- Every addition is nullable or has a server default, so that v1's own INSERTs still work (D7).
- It works on SQLite and PostgreSQL, online and with --sql (no inspection then), from an empty database and from v1.
- Name every constraint and index. No batch rebuild where ALTER TABLE does it.
- Data is streamed in batches by key. What cannot be read stays as it is.
- A downgrade that would lose a value refuses and names it.
- Add the revision to REVISIONS in risk_store/schema/verdict.py, with the columns and tables it adds beside it, and
  freeze a file of it in tests/frozen/.

Revision: ${up_revision}
Revises: ${down_revision | comma,n}
Created: ${create_date}
"""

import sqlalchemy as sa

from alembic import op
${imports if imports else ""}
revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = ${repr(branch_labels)}
depends_on = ${repr(depends_on)}


def upgrade() -> None:
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    ${downgrades if downgrades else "pass"}

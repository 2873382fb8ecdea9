"""Which schema a database has, and how it gets to head.

The verdict is a value (D8): taken read-only, before anything is written. The revisions themselves live in the top-level
``alembic/`` folder (inside an installed package: ``risk_store/_alembic``).
"""

from risk_store.schema.adoption import Adoption, Finding, FindingKind, LegacyChoices, OddValue, tally
from risk_store.schema.copies import backup, restore, verified_copy
from risk_store.schema.upgrading import (
    Upgrade,
    UpgradeOptions,
    UpgradeReport,
    alembic_config,
    odd_values,
    upgrade,
)
from risk_store.schema.verdict import (
    HEAD,
    REVISIONS,
    VERSION_TABLE,
    SchemaState,
    SchemaStatus,
    inspect_schema,
    status,
)

__all__ = [
    "HEAD",
    "REVISIONS",
    "VERSION_TABLE",
    "Adoption",
    "Finding",
    "FindingKind",
    "LegacyChoices",
    "OddValue",
    "SchemaState",
    "SchemaStatus",
    "Upgrade",
    "UpgradeOptions",
    "UpgradeReport",
    "alembic_config",
    "backup",
    "inspect_schema",
    "odd_values",
    "restore",
    "status",
    "tally",
    "upgrade",
    "verified_copy",
]

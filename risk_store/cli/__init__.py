"""The `risk-store` command.

`command` is what verbs are added to, `options` the grammar that they share, `exit_codes` what they end with. A verb is
a function in a module of its kind, imported below: `databases` (the schema and copies), `distribute` (over a cluster),
`reports` (what only looks), `records` (rows in and out), `dashboard`, `about`. What they print is made by `tables` and
`render`; `failures` says what went wrong.

SQLAlchemy is imported inside the verbs: it is most of the time that `--help` and `version` would take.
"""

# In the order of --help.
from risk_store.cli import databases, distribute, reports, records, dashboard, about  # noqa: F401, I001
from risk_store.cli.command import app, main
from risk_store.cli.exit_codes import CHECK_CODES

__all__ = ["CHECK_CODES", "app", "main"]

"""How a migration runs: atomically, once, and only on a database that is ours (D9).

The whole upgrade is one transaction that holds the write lock from before the revision is read until after the last
step. Killed at any moment it leaves the old schema or the new one, and a second process waits instead of crashing.
`reference` figures in `docs/architecture.md`: Alembic's defaults left 42 of 60 killed SQLite files half migrated.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from logging.config import fileConfig
from typing import Any

import sqlalchemy as sa
from alembic.util import CommandError
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError

from alembic import context
from risk_store.engines import (
    MIGRATION_LOCK,
    MIGRATION_LOCK_TIMEOUT_S,
    database_file,
    display_url,
    open_engine,
    parse_url,
    translated,
    url_of,
)
from risk_store.errors import RiskStoreError, SchemaMismatch
from risk_store.models import Base
from risk_store.schema import VERSION_TABLE, LegacyChoices, Upgrade, inspect_schema
from risk_store.sharding import widened_keys

# Behind a long transaction DDL would queue, and everything else behind it: better to fail than to stall trading.
DDL_LOCK_TIMEOUT = "5s"
STATEMENT_TIMEOUT = "30min"


def main() -> None:
    config = context.config
    # Set by risk_store.schema and by pytest-alembic; the command line has none.
    given: str | URL | sa.Engine | None = config.attributes.get("connection")
    arguments = _x_arguments()
    if given is None:
        if config.config_file_name is not None:
            fileConfig(config.config_file_name, disable_existing_loggers=False)
        given = arguments.get("url") or os.environ.get("RISK_STORE_URL") or config.get_main_option("sqlalchemy.url")
    if not given:
        raise CommandError("no database URL: give -x url=…, set RISK_STORE_URL, or sqlalchemy.url in alembic.ini")
    if context.is_offline_mode():
        _print_sql(url_of(given))
    else:
        try:
            with translated(url_of(given)):
                _run(given, arguments)
        except RiskStoreError as error:
            raise CommandError(str(error)) from error  # which `alembic` prints without a traceback
        except DBAPIError as error:
            reason = str(error.orig).strip().partition("\n")[0]  # what else there is holds values, and the statement
            raise CommandError(f"{display_url(url_of(given))}: {reason}. Nothing was changed.") from error


# -x name=value: what each does is told in docs/adopting-v1.md.
X_ARGUMENTS = {"url", "backup", "legacy_timezone", "legacy_order_codes", "accept_contradictions"}


def _x_arguments() -> dict[str, str]:
    arguments = context.get_x_argument(as_dictionary=True)
    if unknown := arguments.keys() - X_ARGUMENTS:
        # A misspelt zone must not become UTC.
        raise CommandError(f"-x {', '.join(sorted(unknown))}: unknown; there are {', '.join(sorted(X_ARGUMENTS))}")
    for name in ("backup", "accept_contradictions"):
        if arguments.get(name, "yes") not in ("yes", "no"):
            raise CommandError(f"-x {name}={arguments[name]}: give yes or no")
    return {name: str(value) for name, value in arguments.items()}


def _print_sql(url: URL) -> None:
    """`--sql`: no database is opened, so what a revision prints is the form for an empty one."""
    context.configure(url=url, literal_binds=True, dialect_opts={"paramstyle": "named"}, **_options())
    with context.begin_transaction():
        for statement in _lock_statements(url.get_backend_name()):
            context.execute(statement)
        context.run_migrations()


def _run(given: str | URL | sa.Engine, arguments: Mapping[str, str]) -> None:
    writing = _is_writing()
    work: Upgrade | None = None
    try:
        with _engine(given, writing) as engine, engine.connect() as connection, connection.begin():
            # On SQLite the engine has just begun with BEGIN IMMEDIATE (or, reading only, DEFERRED).
            # dont_mutate: `check` and `current` must not even make the version table.
            context.configure(connection=connection, dont_mutate=not writing, **_options())
            if writing:
                for statement in _lock_statements(connection.dialect.name):
                    connection.exec_driver_sql(statement)
                verdict = inspect_schema(connection, url_of(given))
                if not verdict.upgradable:
                    raise SchemaMismatch(verdict)
            if writing and _is_upgrade():
                work = context.config.attributes.get("upgrade") or _upgrade(url_of(given), arguments)
                work.prepare(connection)
            with context.begin_transaction():  # joins the transaction above
                context.run_migrations()
            if work is not None:
                work.complete(connection)
    except BaseException:  # the COMMIT's too
        if work is not None:
            work.abandon()
        raise
    if work is not None and work.report is not None and context.config.cmd_opts is not None:
        for line in work.report.text.splitlines():  # called as `alembic upgrade`
            context.config.print_stdout("%s", line)


def _upgrade(url: URL, arguments: Mapping[str, str]) -> Upgrade:
    """What `alembic upgrade` was asked for. At head already it looks no further, since it is run at every start."""
    return Upgrade(
        url=url,
        choices=LegacyChoices(
            timezone=arguments.get("legacy_timezone"),
            order_codes=arguments.get("legacy_order_codes"),
            accept_contradictions=arguments.get("accept_contradictions") == "yes",
        ),
        backup=arguments.get("backup", "yes") == "yes",
    )


def _is_writing() -> bool:
    """Whether the command moves the revision (upgrade, downgrade, stamp) or only looks (current, check)."""
    try:
        context.get_revision_argument()
    except KeyError:
        return False
    return True


def _is_upgrade() -> bool:
    """Whether the revisions go up, and not down or are only stamped: rows are converted by an upgrade alone."""
    return getattr(context.get_context().opts["fn"], "__name__", "") == "upgrade"


@contextmanager
def _engine(given: str | URL | sa.Engine, writing: bool) -> Iterator[sa.Engine]:
    if isinstance(given, sa.Engine):
        yield given  # its owner closes it
        return
    url = parse_url(given)
    file = database_file(url)
    if file is not None and not writing and not file.exists():
        url = parse_url("sqlite://")  # looking at no file is looking at an empty database, and makes no file
    engine = open_engine(url, "migrate" if writing else "look")
    try:
        yield engine
    finally:
        engine.dispose()


def _lock_statements(dialect: str) -> list[str]:
    """What makes a second migration wait. SQLite needs none: BEGIN IMMEDIATE is the lock."""
    if dialect != "postgresql":
        return []
    return [
        f"SET LOCAL lock_timeout = '{int(MIGRATION_LOCK_TIMEOUT_S)}s'",
        # Transaction level: gone with the transaction, also when this process is killed or a pooler is in between.
        f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})",
        f"SET LOCAL lock_timeout = '{DDL_LOCK_TIMEOUT}'",
        f"SET LOCAL statement_timeout = '{STATEMENT_TIMEOUT}'",
        # For a distributed one, which else refuses several changes of its shards in one transaction; no other knows it.
        "SET LOCAL citus.multi_shard_modify_mode TO 'sequential'",
    ]


def _options() -> dict[str, Any]:
    return {
        "target_metadata": Base.metadata,
        "version_table": VERSION_TABLE,
        "transactional_ddl": True,  # true on SQLite only because the engine begins before the first statement
        "include_object": _is_ours,
        "compare_type": True,
    }


def _is_ours(found: object, _name: str | None, _type: str, reflected: bool, compare_to: object) -> bool:
    """`check` speaks of what the models name: a user's own tables, columns and indexes are none of its business."""
    if isinstance(found, sa.Column) and found.primary_key and isinstance(compare_to, sa.Column) and compare_to.nullable:
        return False  # v1 declared its keys without NOT NULL; only SQLite reports a key like that
    if isinstance(found, sa.Index) and isinstance(compare_to, sa.Index) and not reflected:
        # Distributed, a unique index has the account added (risk_store.sharding): that is the same one.
        widened = dict(widened_keys(found.table)) if found.table is not None else {}
        if widened.get(str(found.name)) == [column.name for column in compare_to.columns]:
            return False
    return not (reflected and compare_to is None)


main()

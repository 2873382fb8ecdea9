"""Which schema a database has, as a value (D8): taken read-only, before anything is written."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence, Set
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import URL

from risk_store import v1
from risk_store.engines import BUSY_TIMEOUT_S, database_file, display_url, open_engine, parse_url, translated, url_of
from risk_store.errors import StoreUnavailable
from risk_store.models import Base
from risk_store.models.rollup import BUCKETS, DAY_TIMES, HOURS, ROLLED_UP, TIMES

__all__ = [
    "HEAD",
    "REVISIONS",
    "TABLES_OF_OLD",
    "VERSION_TABLE",
    "SchemaState",
    "SchemaStatus",
    "in_the_way",
    "inspect_schema",
    "shell_word",
    "status",
]

VERSION_TABLE = "risk_store_version"
"""Our own name, since databases get shared and two programs in one `alembic_version` give each other wrong advice."""

REVISIONS = ("0001", "0002", "0003", "0004", "0005", "0006")
"""All revisions this release knows, oldest first. Named here so that opening a store need not import Alembic; a test
holds it equal to the migration scripts."""
HEAD = REVISIONS[-1]


class SchemaState(StrEnum):
    """What a database's schema is, as seen by this release."""

    EMPTY = "empty"
    LEGACY_V1 = "legacy_v1"
    BEHIND = "behind"
    CURRENT = "current"
    AHEAD = "ahead"
    FOREIGN = "foreign"
    DRIFTED = "drifted"


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemaStatus:
    """The verdict on one database.

    >>> status = SchemaStatus(state=SchemaState.BEHIND, database="sqlite:///risk.db", found="0001", detail="")
    >>> print(status.message)
    sqlite:///risk.db: the schema is behind: found revision 0001, this release works with 0006.
    Run: risk-store upgrade sqlite:///risk.db
    """

    state: SchemaState
    database: str
    """The URL, without secrets."""
    found: str | None
    """The revision found; None where there is none."""
    expected: str = HEAD
    detail: str = ""

    @property
    def ok(self) -> bool:
        """Whether the store can work with it as it is."""
        return self.state is SchemaState.CURRENT

    @property
    def upgradable(self) -> bool:
        """Whether `upgrade` brings it to head."""
        return self.state in (SchemaState.EMPTY, SchemaState.LEGACY_V1, SchemaState.BEHIND, SchemaState.CURRENT)

    @property
    def is_of_v1(self) -> bool:
        """Whether only v1 daemons can have written rows: no release of ours works with such a schema."""
        behind = self.state is SchemaState.BEHIND and self.found is not None and self.found < _FIRST_OF_OURS
        return behind or self.state is SchemaState.LEGACY_V1

    @property
    def command(self) -> str | None:
        """The command that helps, if one does."""
        if not self.upgradable or self.ok:
            return None
        return f"risk-store upgrade {shell_word(self.database)}"

    @property
    def message(self) -> str:
        """What was found, what is expected, and what to run."""
        found = f"found revision {self.found}" if self.found else "found no revision"
        expected = f"this release works with {self.expected}"
        text = {
            SchemaState.EMPTY: f"no store here yet: {self.detail or 'the database has no tables'}; {expected}.",
            SchemaState.LEGACY_V1: f"the database of a v1 daemon: {found}; {expected}.",
            SchemaState.BEHIND: f"the schema is behind: {found}, {expected}.",
            SchemaState.CURRENT: f"the schema is current: {found}.",
            SchemaState.AHEAD: f"written by a newer risk_store: {found}; {expected} and knows none later. "
            "Install the release that wrote it. Nothing was changed.",
            SchemaState.FOREIGN: f"not a database of risk_store: {self.detail}; {expected}. Nothing was changed.",
            SchemaState.DRIFTED: f"revision {self.found} is right, but the tables are not: {self.detail}. "
            + ("Restore a backup. " if self.detail.startswith("missing") else "")
            + "Nothing was changed.",
        }[self.state]
        lines = [f"{self.database}: {text}"]
        if self.command:
            lines.append(f"Run: {self.command}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return asdict(self) | {"state": self.state.value, "ok": self.ok, "command": self.command}


def status(database: str | URL | sa.Engine, *, busy_timeout_s: float = BUSY_TIMEOUT_S) -> SchemaStatus:
    """The verdict on a database, taken read-only: no file is made, no journal mode set, no table touched.

    `database` is a URL, or the engine of an in-memory database. Raises StoreUnavailable when it cannot be opened.
    """
    if isinstance(database, sa.Engine):
        with database.connect() as connection:
            return inspect_schema(connection, url_of(database))
    url = parse_url(database)
    file = database_file(url)
    if url.get_backend_name() == "sqlite" and (file is None or not file.exists()):
        missing = f"there is no file {file}" if file else ""
        return SchemaStatus(state=SchemaState.EMPTY, database=display_url(url), found=None, detail=missing)
    if file is not None and not file.is_file():
        raise StoreUnavailable(f"{display_url(url)}: {file} is not a file")
    engine = open_engine(url, "look")
    try:
        with translated(url), engine.connect() as connection:
            connection.execution_options(busy_timeout_s=busy_timeout_s)
            return inspect_schema(connection, url)
    except StoreUnavailable as error:
        if getattr(getattr(error.__cause__, "orig", None), "sqlite_errorname", "") == "SQLITE_NOTADB":
            return _foreign(url, "the file is not an SQLite database")
        raise
    finally:
        engine.dispose()


def inspect_schema(connection: sa.Connection, url: URL) -> SchemaStatus:
    """The verdict as seen through an open connection, within its transaction."""
    inspector = sa.inspect(connection)
    tables = set(inspector.get_table_names())
    if VERSION_TABLE in tables:
        rows = connection.exec_driver_sql(f"SELECT version_num FROM {VERSION_TABLE}").scalars().all()  # noqa: S608 (constant)
        if rows:
            return _judge_revision(inspector, tables, url, [str(row) for row in rows])
    return _judge_tables(inspector, tables - {VERSION_TABLE}, url)


def _judge_revision(inspector: sa.Inspector, tables: Set[str], url: URL, found: list[str]) -> SchemaStatus:
    name = display_url(url)
    if len(found) > 1 or found[0] not in REVISIONS:
        return SchemaStatus(state=SchemaState.AHEAD, database=name, found=", ".join(sorted(found)))
    state = SchemaState.CURRENT if found[0] == HEAD else SchemaState.BEHIND
    missing = _missing(inspector, tables, _columns_at(found[0]))
    if missing:
        detail = f"missing {', '.join(missing)}"
        return SchemaStatus(state=SchemaState.DRIFTED, database=name, found=found[0], detail=detail)
    return SchemaStatus(state=state, database=name, found=found[0])


def _judge_tables(inspector: sa.Inspector, tables: Set[str], url: URL) -> SchemaStatus:
    ours = tables & _ever_ours()
    if not ours:
        # On a server other applications' tables are no obstacle; an SQLite file belongs to one program.
        if tables and url.get_backend_name() == "sqlite":
            return _foreign(url, f"it has other tables ({_few(sorted(tables))}) and none of ours")
        return SchemaStatus(state=SchemaState.EMPTY, database=display_url(url), found=None)
    if missing := _missing(inspector, tables, v1.COLUMNS):
        wrong = f"it has {_few(sorted(ours))} but no {VERSION_TABLE}, and is not v1: missing {_few(missing)}"
    elif later := sorted({t for t in tables if t.lower() in _ever_ours()} - v1.COLUMNS.keys()):
        wrong = f"it has {_few(later)}, which v1 had not, but no {VERSION_TABLE}"
    elif strange := _triggers_and_views(inspector):
        # They would run inside our statements, and v1 had none: whoever wrote them meant something by them.
        names = _few([f"{kind} {name}" for kind, name, _ in strange])
        drops = "; ".join(f"DROP {kind.upper()} {quoted}" for kind, _, quoted in strange[:5])
        wrong = f"it is v1, but has a {names}, which v1 had not. Keep their SQL and drop them: {drops}"
    elif wrong := in_the_way(inspector, tables, None):
        wrong = f"it is v1, but {wrong}"
    if wrong:
        return _foreign(url, wrong)
    return SchemaStatus(state=SchemaState.LEGACY_V1, database=display_url(url), found=None)


def _ever_ours() -> set[str]:
    return Base.metadata.tables.keys() | TABLES_OF_OLD


_FIRST_OF_OURS = "0003"  # the first revision that added anything to v1, and that a release works with
# What later ones have added: table → columns; a whole table is in one of its own.
_ADDED_LATER = {"0004": {"positions": {"seen_at", "unconfirmed_since"}, "trade_history": {"trading_day"}}}
_TABLES_LATER = {
    "0004": {"closed_positions"},
    "0005": {HOURS.name, DAY_TIMES.name, TIMES.name, ROLLED_UP.name, "enforcement_buckets"},
    "0006": {BUCKETS.name},
}
# What later ones have taken away: table → columns.
_TAKEN_AWAY = {
    "0006": {"enforcement_buckets": ("rule_id", "succeeded", "bucket", "pruned", "enforcements", "total_ms")},
}
TABLES_OF_OLD = {table for tables in _TAKEN_AWAY.values() for table in tables}
"""Ours at some revision, and no more at head."""


def _columns_at(revision: str | None) -> Mapping[str, Sequence[str]]:
    """The tables and columns of ours that a database at a revision has (None: never under Alembic)."""
    if revision is None or revision < _FIRST_OF_OURS:
        return v1.COLUMNS
    later = [_ADDED_LATER.get(other, {}) for other in REVISIONS if other > revision]
    to_come = _tables_after(revision)
    old = {
        table: columns
        for other, tables in _TAKEN_AWAY.items()
        for table, columns in tables.items()
        if other > revision and table not in to_come
    }
    return old | {
        table.name: [
            str(column.name)
            for column in table.columns
            if not any(column.name in new.get(table.name, ()) for new in later)
        ]
        for table in Base.metadata.tables.values()
        if table.name not in to_come
    }


def _tables_after(revision: str) -> set[str]:
    return {name for other, names in _TABLES_LATER.items() if other > revision for name in names}


def _missing(inspector: sa.Inspector, tables: Set[str], needed: Mapping[str, Sequence[str]]) -> list[str]:
    missing = [table for table in needed if table not in tables]
    for table in needed.keys() & tables:
        columns = {column["name"] for column in inspector.get_columns(table)}
        missing += [f"{table}.{column}" for column in needed[table] if column not in columns]
    return sorted(missing)


_TRIGGERS_AND_VIEWS = {
    "sqlite": "SELECT type, name, '' FROM sqlite_master WHERE type IN ('trigger', 'view') ORDER BY 1, 2",
    # Of the triggers and views in a server's schema only those on our tables are our business.
    "postgresql": """
        SELECT 'trigger', tgname, relname FROM pg_trigger JOIN pg_class ON pg_class.oid = tgrelid
        WHERE NOT tgisinternal AND relname IN ({tables}) AND relnamespace = current_schema()::regnamespace
        UNION
        SELECT 'view', view.relname, '' FROM pg_depend
        JOIN pg_rewrite ON pg_rewrite.oid = objid AND classid = 'pg_rewrite'::regclass
        JOIN pg_class view ON view.oid = ev_class
        JOIN pg_class used ON used.oid = refobjid AND refclassid = 'pg_class'::regclass
        WHERE used.relname IN ({tables}) AND used.relnamespace = current_schema()::regnamespace AND view.oid <> used.oid
        ORDER BY 1, 2""",
}


def _triggers_and_views(inspector: sa.Inspector) -> list[tuple[str, str, str]]:
    """Each one's kind, its name, and its name as SQL has to spell it."""
    tables = ", ".join(f"'{table}'" for table in v1.COLUMNS)
    with inspector._operation_context() as connection:
        rows = connection.exec_driver_sql(_TRIGGERS_AND_VIEWS[connection.dialect.name].format(tables=tables)).all()
    quote = inspector.dialect.identifier_preparer.quote
    return [
        (kind, name + (f" ON {on}" if on else ""), quote(name) + (f" ON {on}" if on else "")) for kind, name, on in rows
    ]


def in_the_way(inspector: sa.Inspector, tables: Set[str], found: str | None) -> str:
    """What a user has added by himself to a database at revision `found` (None: to v1) that a later revision is going
    to add in another form.

    A column of the same kind is taken as it is. Empty where nothing is in the way.
    """
    if found is not None and (taken := sorted(_tables_after(max(found, _FIRST_OF_OURS)) & tables)):
        name = taken[0]
        return f"there is a table {name} already, and risk_store makes one of that name. Rename it"
    dialect = inspector.dialect
    there = {table: {*columns, "execution_time_ms"} for table, columns in _columns_at(found).items()}
    for table in Base.metadata.sorted_tables:
        if table.name not in v1.COLUMNS:
            continue
        added = {column.name: column for column in table.columns if column.name not in there[table.name]}
        for present in inspector.get_columns(table.name):
            ours = added.get(present["name"].lower())
            if ours is None:
                continue
            kind = getattr(ours.type, "impl", ours.type)  # of what kind a column type of ours is
            declared = f"{ours.type.compile(dialect)}{'' if ours.nullable else ' NOT NULL'}"
            same = (
                present["name"] == ours.name
                and present["type"]._type_affinity is kind._type_affinity
                and bool(present["nullable"]) is bool(ours.nullable)
            )
            if ours.name in _KEYS or not same:
                name = present["name"]
                return (
                    f"{table.name}.{name} is there already, and risk_store's own is another ({ours.name} {declared}). "
                    f"Rename it: ALTER TABLE {table.name} RENAME COLUMN {name} TO {name}_v1"
                )
    return _index_in_the_way(inspector, tables, found)


def _index_in_the_way(inspector: sa.Inspector, tables: Set[str], found: str | None) -> str:
    ours = {str(index.name): table.name for table in Base.metadata.sorted_tables for index in table.indexes}
    for table in sorted(tables):
        for index in inspector.get_indexes(table):
            name = str(index["name"])
            # v1 named its own idx_…: on its own table that one is taken for v1's. All others came with 0003.
            made = name.startswith("idx_") or (found is not None and found >= _FIRST_OF_OURS)
            if name.lower() in ours and not (made and ours.get(name) == table):
                return f"{table} has an index {name}, and risk_store has one of that name. Drop it: DROP INDEX {name}"
    return ""


# A column that means one row's identity can't be taken over from somebody who may have meant another.
_KEYS = {"enforcement_id", "venue_trade_id"}


def shell_word(text: str) -> str:
    """`text` as one word of a command line that is to be pasted; the *** of a hidden password needs no quotes.

    >>> print(shell_word("sqlite:///risk.db"), shell_word("my risk.db"))
    sqlite:///risk.db 'my risk.db'
    """
    return text if re.fullmatch(r"[\w@%+=:,./*-]+", text, re.ASCII) else shlex.quote(text)


def _foreign(url: URL, detail: str) -> SchemaStatus:
    return SchemaStatus(state=SchemaState.FOREIGN, database=display_url(url), found=None, detail=detail)


def _few(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")

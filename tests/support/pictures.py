"""What a database looks like, as plain values to compare: its schema, its rows, the files of a folder."""

import hashlib
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import sqlalchemy as sa

Schema = dict[str, dict[str, Any]]
Rows = dict[str, list[dict[str, str]]]


def files_in(folder: Path) -> dict[str, str]:
    """Every file of a folder with the hash of its bytes."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path.is_file()}


def schema_of(connection: sa.Connection) -> Schema:
    """All tables with everything that DDL can say of them: nothing is left out because it is not ours."""
    return _sqlite_schema(connection) if connection.dialect.name == "sqlite" else _postgresql_schema(connection)


def schema_at(url: str) -> Schema:
    """The schema of a database nobody else is using."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        return schema_of(connection)


def _sqlite_schema(connection: sa.Connection) -> Schema:
    inspector = sa.inspect(connection)
    tables = connection.exec_driver_sql(
        "SELECT name, sql FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite!_%' ESCAPE '!'"
    ).all()
    return {
        table: {
            "columns": {
                name: (kind, notnull, default, key)
                for _, name, kind, notnull, default, key in connection.exec_driver_sql(f"PRAGMA table_info('{table}')")
            },
            "indexes": _sqlite_indexes(connection, table),
            "primary key": inspector.get_pk_constraint(table),
            "checks": inspector.get_check_constraints(table),
            "foreign keys": inspector.get_foreign_keys(table),
            "autoincrement": "AUTOINCREMENT" in sql.upper(),
        }
        for table, sql in tables
    }


def _sqlite_indexes(connection: sa.Connection, table: str) -> dict[str, Any]:
    found = {}
    for _, name, unique, origin, partial in connection.exec_driver_sql(f"PRAGMA index_list('{table}')").all():
        columns = [
            (column, bool(descending))
            for _, _, column, descending, _, key in connection.exec_driver_sql(f"PRAGMA index_xinfo('{name}')")
            if key
        ]
        predicate = None
        if partial:
            sql = connection.exec_driver_sql("SELECT sql FROM sqlite_master WHERE name = ?", (name,)).scalar_one()
            predicate = " ".join(re.split(r"\bWHERE\b", sql)[1].split())
        # SQLite names the indexes behind constraints itself.
        found[name if origin == "c" else f"({origin})"] = (columns, bool(unique), predicate)
    return found


def _postgresql_schema(connection: sa.Connection) -> Schema:
    def grouped(sql: str) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        for table, name, *rest in connection.exec_driver_sql(sql):
            found.setdefault(table, {})[name] = rest
        return found

    tables = connection.exec_driver_sql("SELECT tablename FROM pg_tables WHERE schemaname = current_schema()").scalars()
    columns = grouped(
        "SELECT table_name, column_name, data_type, is_nullable, column_default, is_identity, identity_generation "
        "FROM information_schema.columns WHERE table_schema = current_schema()"
    )
    indexes = grouped("SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = current_schema()")
    # PostgreSQL 18 lists NOT NULL among the constraints; the columns tell it already.
    constraints = grouped(
        "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint "
        "WHERE connamespace = current_schema()::regnamespace AND contype <> 'n'"
    )
    found = connection.exec_driver_sql(
        "SELECT relname, reloptions::text FROM pg_class "
        "WHERE relnamespace = current_schema()::regnamespace AND relkind = 'r'"
    )
    settings = {table: options for table, options in found}  # noqa: C416 (dict() has no such type)
    return {
        table: {
            "columns": columns[table],
            "indexes": indexes.get(table, {}),
            "constraints": constraints.get(table, {}),
            "settings": settings[table],
        }
        for table in tables
    }


def rows_of(file: Path) -> Rows:
    """Every row of every table of an SQLite file, each value as the literal SQLite writes for it (so 1 is not 1.0)."""
    with closing(sqlite3.connect(file)) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {table: _rows(connection, table) for table in tables}


def _rows(connection: sqlite3.Connection, table: str) -> list[dict[str, str]]:
    columns = [row[1] for row in connection.execute(f'PRAGMA table_info("{table}")')]
    quoted = ", ".join(f'quote("{column}")' for column in columns)
    order = ", ".join(str(place + 1) for place in range(len(columns)))
    return [
        dict(zip(columns, row, strict=True))
        for row in connection.execute(f'SELECT {quoted} FROM "{table}" ORDER BY {order}')
    ]


def restricted(rows: Rows, to: Rows) -> Rows:
    """`rows` with only the tables and columns that `to` has."""
    return {
        table: sorted(
            ({column: row[column] for column in (to[table][0] if to[table] else {})} for row in rows.get(table, [])),
            key=lambda row: list(row.values()),
        )
        for table in to
    }


def sorted_rows(rows: Rows) -> Rows:
    """The same rows in the order of `restricted`."""
    return restricted(rows, rows)


def is_sound(file: Path) -> bool:
    """Whether SQLite's own full check finds nothing wrong with a file."""
    with closing(sqlite3.connect(file)) as connection:
        return connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]

"""Files as v1 daemons of all kinds may have left them: generated, odd rows and all, and what must become of them.

The expectation is computed here, from the values alone; nothing of risk_store takes part in it.
"""

import sqlite3
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from hypothesis import strategies as st

from tests.support import v1

Cell = tuple[str, Any]
Tables = dict[str, list[dict[str, Cell]]]

INSTANTS: dict[str, tuple[str, ...]] = {
    "lockouts": ("locked_at", "locked_until", "created_at", "updated_at"),
    "daily_pnl": ("last_updated",),
    "contract_cache": ("cached_at",),
    "trade_history": ("timestamp", "created_at"),
    "session_state": ("session_start", "updated_at"),
    "positions": ("created_at", "updated_at"),
    "orders": ("created_at", "updated_at"),
    "enforcement_log": ("timestamp",),
    "reset_schedule": ("next_reset_time",),
}

moments = st.datetimes(datetime(1971, 1, 2), datetime(2099, 12, 30)).map(  # noqa: DTZ001 (naive, as v1 wrote them)
    lambda moment: moment if moment.microsecond % 3 else moment.replace(microsecond=0)
)
offsets = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))

# Every form of reliability.md 3.5, and what it calls unreadable.
timestamps = st.one_of(
    moments.map(lambda m: m.isoformat(" ", "seconds")),
    moments.map(lambda m: m.isoformat(" ")),
    moments.map(lambda m: m.isoformat("T")),
    moments.map(lambda m: m.isoformat("T", "minutes")),
    moments.map(lambda m: m.isoformat(" ", "milliseconds")),
    moments.map(lambda m: m.isoformat("T", "microseconds") + "Z"),
    moments.map(lambda m: m.isoformat(" ", "seconds") + ".000000"),
    st.builds(lambda m, zone: m.replace(tzinfo=zone).isoformat("T"), moments, offsets),
    st.builds(lambda m, zone: m.replace(tzinfo=zone).isoformat(" ", "seconds"), moments, offsets),
    moments.map(lambda m: m.date().isoformat()),
    moments.map(lambda m: m.strftime("%Y%m%dT%H%M%S")),
    st.none(),
    st.sampled_from(
        ["", "0000-00-00 00:00:00", "yesterday", "2025-02-30 10:00:00", "2025-10-21 17:00:00\0x", "1761066000"]
    ),
    st.integers(0, 2**40),
    st.floats(allow_nan=False),
    st.binary(max_size=8),
)


class Raw(bytes):
    """Bytes to be stored as text, UTF-8 or not."""


texts = st.one_of(
    st.text(max_size=12),
    st.integers(-5, 5),
    st.sampled_from(["", "RULE-003", "CON.F.US.MNQ.U25", "a\0b", "x" * 5000]),
    st.binary(max_size=8),
    st.binary(max_size=8).map(Raw),
)
counts = st.integers(-5, 2**63 - 1)
details = st.one_of(
    st.none(),
    st.builds(
        '{{"positions_closed": {}, "orders_cancelled": {}, "error": {}}}'.format,
        st.integers(-1, 9),
        st.sampled_from(["0", "4", "true", "9223372036854775808", '"x"']),
        st.sampled_from(["null", '"gateway: no"', '"half\\u0000done"', '""', "[]"]),
    ),
    st.sampled_from(
        [
            "{}", "[1]", "null", "not JSON", '{"error": ', '{"p\\u006fsitions_closed": 2}', '{"error": "a"}\0',
            "[" * 5000,
            '{"error": "' + "long " * 20000 + '"}', '{"error": 5, "orders_canceled": 3}', '{"a": NaN, "error": "e"}',
        ]
    ),
    texts,
)  # fmt: skip
codes = st.one_of(st.integers(-1, 12), st.sampled_from(["x", "", "2", 2.5, b"\0"]))
prices = st.one_of(st.none(), st.floats(allow_nan=False), st.sampled_from(["abc", "", b"\xff", 21000]))
numbers = st.one_of(counts, st.sampled_from(["many", 2.5, b""]))
flags = st.one_of(st.booleans(), st.sampled_from([2, "yes", ""]))
dates = st.one_of(moments.map(lambda m: m.date().isoformat()), timestamps.filter(lambda value: value is not None))


def _present(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """For a column that is NOT NULL."""
    return values.filter(lambda value: value is not None)


def _rows(table: str) -> st.SearchStrategy[list[dict[str, Any]]]:
    columns = {
        name: _kind(table, name)
        for name in v1.COLUMNS[table]
        if name not in ("id", "account_id") or table in ("orders", "enforcement_log", "positions", "trade_history")
    }
    columns.pop("id", None)
    return st.lists(st.fixed_dictionaries(columns), max_size=3)


def _kind(table: str, name: str) -> st.SearchStrategy[Any]:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(v1.TABLES)
        info = {row[1]: row for row in connection.execute(f"PRAGMA table_info({table})")}
    _, _, declared, required, _, key = info[name]
    if name == "details":
        values = details
    elif name in ("type", "side", "state"):
        values = codes
    elif name in INSTANTS[table]:
        values = timestamps
    else:
        values = {
            "INTEGER": numbers, "REAL": prices, "TEXT": texts, "BOOLEAN": flags, "DATE": dates, "DATETIME": timestamps
        }[declared]  # fmt: skip
    return _present(values) if required or key else values


@dataclass(frozen=True)
class V1File:
    """One file: how it is made."""

    rows: dict[str, list[dict[str, Any]]]
    schema_version: str
    without_time: bool
    left_out: frozenset[str]
    """Indexes that are missing."""
    additions: tuple[str, ...] = field(default=())

    def make(self, path: Path) -> Path:
        tables = v1.TABLES
        if self.without_time:
            tables = tables.replace("details TEXT,\n    execution_time_ms INTEGER", "details TEXT")
        indexes = "".join(line + "\n" for line in v1.INDEXES.splitlines() if not self.left_out & set(line.split()))
        with closing(sqlite3.connect(path)) as connection:
            connection.executescript(
                f"PRAGMA synchronous = OFF; BEGIN; {tables} {indexes} {self.schema_version} COMMIT;"
            )
            for statement in self.additions:
                connection.execute(statement)
            for table, rows in self.rows.items():
                for number, row in enumerate(rows, 1):
                    self._insert(connection, table, number, row)
            connection.commit()
        return path

    def _insert(self, connection: sqlite3.Connection, table: str, number: int, row: dict[str, Any]) -> None:
        present = [info[1] for info in connection.execute(f"PRAGMA table_info({table})")]
        values = {name: value for name, value in row.items() if name in present}
        key = "id" if "id" in v1.COLUMNS[table] else "account_id"
        if table != "contract_cache":
            values.setdefault(key, number)
        marks = ["CAST(? AS TEXT)" if isinstance(value, Raw) else "?" for value in values.values()]
        connection.execute(
            f"INSERT OR IGNORE INTO {table} ({', '.join(values)}) VALUES ({', '.join(marks)})",
            [bytes(value) if isinstance(value, Raw) else value for value in values.values()],
        )


ADDITIONS = (
    "ALTER TABLE orders ADD COLUMN desk TEXT DEFAULT 'north'",
    "ALTER TABLE enforcement_log ADD COLUMN rowid TEXT DEFAULT 'a name that SQLite uses too'",
    'CREATE TABLE "my notes" (words TEXT, "from" BLOB)',
    "INSERT INTO \"my notes\" VALUES ('2025-10-21T17:00:00Z', x'00ff')",
    "ALTER TABLE orders ADD COLUMN trailing_amount REAL",  # somebody followed DB-SCHEMA-003 by hand
    "ALTER TABLE enforcement_log ADD COLUMN error_message TEXT DEFAULT 'mine'",
    "CREATE INDEX mine ON orders (updated_at)",
)
INDEX_NAMES = [line.split()[2] for line in v1.INDEXES.strip().splitlines()]


@st.composite
def v1_files(draw: st.DrawFn) -> V1File:
    additions = [statement for statement in ADDITIONS if draw(st.booleans())]
    if ADDITIONS[2] not in additions:
        additions = [statement for statement in additions if statement != ADDITIONS[3]]
    return V1File(
        rows={table: draw(_rows(table)) for table in v1.COLUMNS},
        schema_version=draw(st.sampled_from(["", v1.SCHEMA_VERSION, v1.SCHEMA_VERSION.partition("INSERT")[0]])),
        without_time=draw(st.booleans()),
        left_out=frozenset(draw(st.sets(st.sampled_from(INDEX_NAMES), max_size=4))),
        additions=tuple(additions),
    )


def cells_of(path: Path) -> Tables:
    """Every value of every table as SQLite stores it: its type, and its bytes (a number as it is)."""
    with closing(sqlite3.connect(path)) as connection:
        connection.text_factory = bytes
        names = [
            name.decode()
            for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
        ]
        return {name: _cells(connection, name) for name in names}


def _cells(connection: sqlite3.Connection, table: str) -> list[dict[str, Cell]]:
    columns = [row[1].decode() for row in connection.execute(f'PRAGMA table_info("{table}")')]
    chosen = ", ".join(f'typeof("{name}"), "{name}"' for name in columns)
    sql = connection.execute("SELECT sql FROM sqlite_master WHERE name = ?", (table,)).fetchone()[0]
    has_none = b"WITHOUT ROWID" in sql
    alias = "1" if has_none else next(name for name in ("rowid", "_rowid_") if name not in columns)
    return [
        {name: (row[2 * place].decode(), row[2 * place + 1]) for place, name in enumerate(columns)}
        for row in connection.execute(f'SELECT {chosen} FROM "{table}" ORDER BY {alias}')
    ]


def canonical(cell: Cell, zone: tzinfo) -> Cell:
    """What a stored instant becomes: the declared conversion, and nothing else."""
    kind, stored = cell
    if kind != "text":
        return cell
    try:
        moment = datetime.fromisoformat(stored.decode())
        moment = (moment.replace(tzinfo=zone) if moment.tzinfo is None else moment).astimezone(UTC)
    except (ValueError, OverflowError):
        return cell
    fraction = f".{moment.microsecond:06}" if moment.microsecond else ""
    return "text", f"{moment:%Y-%m-%d %H:%M:%S}{fraction}".encode()


def expected(before: Tables, zone: str) -> Tables:
    """The original's tables, rows and columns after adoption."""
    where: tzinfo = ZoneInfo(zone)
    return {
        table: [
            {name: canonical(cell, where) if name in INSTANTS.get(table, ()) else cell for name, cell in row.items()}
            for row in rows
        ]
        for table, rows in before.items()
    }


def only(after: Tables, like: Tables) -> Tables:
    """`after` with the tables and columns of `like`."""
    return {
        table: [{name: row[name] for name in rows[place]} for place, row in enumerate(after[table])]
        if rows
        else after[table]
        for table, rows in like.items()
    }

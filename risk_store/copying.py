"""A store copied from one database to another, SQLite and PostgreSQL alike, and the proof that it arrived.

One read transaction on the source, one write transaction on the target: killed at any moment the target is as empty as
before. The proof is taken before the commit: every row is read back, and rows, sums and a checksum are compared.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import date, datetime
from hashlib import blake2b
from pathlib import Path
from typing import IO, Any

import sqlalchemy as sa
from sqlalchemy.engine import URL

from risk_store import schema
from risk_store.columns import (
    CalendarDate,
    CheckedFloat,
    CheckedType,
    FreeText,
    Int64,
    IntCode,
    UtcInstant,
)
from risk_store.engines import database_file, display_url, open_engine, parse_url, translated
from risk_store.errors import InvalidValue, RiskStoreError, SchemaMismatch
from risk_store.models import ROLLED_UP, ROLLUP, Base
from risk_store.repositories.bulk import copy_into

__all__ = ["CopiedTable", "CopyReport", "copy_store"]

BATCH = 2_000  # rows read and written at once
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class CopiedTable:
    """What arrived of one table: the same on both sides."""

    table: str
    rows: int
    rejected: int
    """Rows that the target cannot hold; they are in the file of rejected rows."""
    escaped: int
    """Texts with a NUL or bytes that are no UTF-8, which no server stores: these are made visible, as in new rows."""
    sums: dict[str, float]
    """The total of each numeric column that is no id and no code."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyReport:
    """What was copied."""

    source: str
    target: str
    tables: tuple[CopiedTable, ...]
    left_behind: tuple[str, ...]
    """Tables and columns of the source that are not the store's, and so were not copied."""
    rejected: Path | None
    """The file of rejected rows, if there are any."""
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        tables = [asdict(table) for table in self.tables]
        return asdict(self) | {"tables": tables, "rejected": str(self.rejected) if self.rejected else None}

    @property
    def rows(self) -> int:
        """All rows that arrived."""
        return sum(table.rows for table in self.tables)


def copy_store(
    source: str | URL, target: str | URL, *, rejected: str | Path | None = None, progress: Progress | None = None
) -> CopyReport:
    """Copies every row of every table of the store to `target`, which is made if it is not there, and proves it.

    The ids that the databases give go on behind the highest one given by the source. A row that the target cannot hold
    (an old row with a text where a number belongs) raises InvalidValue, which names it, and nothing is copied; with
    `rejected`, a file's path, such rows are written there as JSON lines and the others are copied. `progress` is told
    (what, rows done, of how many).

    Raises SchemaMismatch unless the source is at head and the target is at head or not there; RiskStoreError for a
    target that holds rows; InvalidValue; StoreBusy, StoreFull, StoreReadOnly, StoreUnavailable.

    >>> folder = getfixture("tmp_path")
    >>> _ = schema.upgrade(f"sqlite:///{folder}/risk.db")
    >>> copy_store(f"sqlite:///{folder}/risk.db", f"sqlite:///{folder}/other.db").rows
    0
    """
    started = time.monotonic()
    from_url, to_url = parse_url(source), parse_url(target)
    _check_both(from_url, to_url)
    with ExitStack() as stack:
        reading = stack.enter_context(_connection(from_url, "read"))
        writing = stack.enter_context(_connection(to_url, "store"))
        refused = stack.enter_context(_Rejected(Path(rejected) if rejected else None))
        _check_empty(writing, to_url)
        tables = [table for table in Base.metadata.sorted_tables if table is not ROLLED_UP]
        copied = [_Table(table, reading, writing, refused, progress).copy() for table in tables]
        left_behind = _left_behind(reading)
    return CopyReport(
        source=display_url(from_url),
        target=display_url(to_url),
        tables=tuple(copied),
        left_behind=tuple(left_behind),
        rejected=refused.file if refused.rows else None,
        seconds=time.monotonic() - started,
    )


def _check_both(source: URL, target: URL) -> None:
    for url, name in ((source, "source"), (target, "target")):
        if url.get_backend_name() == "sqlite" and database_file(url) is None:
            raise InvalidValue(name, display_url(url), "a database that lasts: a file or a server")
    if _same(source, target):
        raise InvalidValue("target", display_url(target), "another database than the source")
    found = schema.status(source)
    if not found.ok:
        raise SchemaMismatch(found)
    found = schema.status(target)
    if found.state is schema.SchemaState.EMPTY:
        schema.upgrade(target)
    elif not found.ok:
        raise SchemaMismatch(found)


def _same(source: URL, target: URL) -> bool:
    files = [database_file(url) for url in (source, target)]
    if files[0] and files[1]:
        return files[0] == files[1] or (files[0].exists() and files[1].exists() and files[0].samefile(files[1]))
    return (source.host, source.port, source.database, source.query) == (
        target.host,
        target.port,
        target.database,
        target.query,
    )


@contextmanager
def _connection(url: URL, purpose: Any) -> Iterator[sa.Connection]:
    """One transaction: on the source a snapshot, on the target all or nothing."""
    engine = open_engine(url, purpose)
    try:
        with translated(url), engine.connect() as connection, connection.begin():
            yield connection
    finally:
        engine.dispose()


def _check_empty(target: sa.Connection, url: URL) -> None:
    if target.dialect.name == "postgresql":
        names = ", ".join(table.name for table in Base.metadata.sorted_tables)
        target.exec_driver_sql(f"LOCK TABLE {names} IN EXCLUSIVE MODE")  # nobody writes between the check and the copy
    filled = [
        t.name for t in Base.metadata.sorted_tables if target.execute(sa.select(1).select_from(t).limit(1)).first()
    ]
    if filled:
        raise RiskStoreError(
            f"{display_url(url)}: the target holds rows already, in {', '.join(filled)}. Copy into an empty store: two "
            "stores cannot be merged. Nothing was changed."
        )


def _left_behind(source: sa.Connection) -> list[str]:
    """What a user keeps in the same file, and the store knows nothing of."""
    inspector = sa.inspect(source)
    left = []
    for name in sorted(inspector.get_table_names()):
        ours = Base.metadata.tables.get(name)
        if ours is not None:
            columns = [column["name"] for column in inspector.get_columns(name)]
            left += [f"column {name}.{column}" for column in columns if column not in ours.columns]
        elif source.dialect.name == "sqlite" and name != schema.VERSION_TABLE:
            left.append(f"table {name}")  # on a server others' tables are nobody's business here
    return sorted(left)


class _Rejected:
    """The rows that the target cannot hold: in a file if one was given, else the first one is an error."""

    def __init__(self, file: Path | None) -> None:
        self.file = file
        self.rows = 0
        self._open: IO[str] | None = None

    def __enter__(self) -> _Rejected:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if self._open is not None:
            self._open.close()
            if kind is not None and self.file is not None:
                self.file.unlink()  # nothing was copied: every row is still where it was

    def take(self, table: str, row: dict[str, Any], error: InvalidValue) -> None:
        if self.file is None:
            raise InvalidValue(
                error.field,
                error.value,
                error.expected,
                f"{error} (in {table}, {_key_of(table, row)}): the target cannot hold this row. Nothing was copied. To "
                "copy the others, say where such rows are to be written: --rejected FILE",
            ) from error
        if self._open is None:
            self._open = self.file.open("x", encoding="utf-8")  # never over a file that is there
        line = {"table": table, "row": row, "reason": str(error)}
        self._open.write(
            json.dumps(line, default=lambda value: str(value) if isinstance(value, date) else repr(value)) + "\n"
        )
        self.rows += 1


def _key_of(table: str, row: dict[str, Any]) -> str:
    return ", ".join(f"{column.name} {row[column.name]!r}" for column in Base.metadata.tables[table].primary_key)


class _Table:
    """One table on its way."""

    def __init__(
        self,
        table: sa.Table,
        source: sa.Connection,
        target: sa.Connection,
        rejected: _Rejected,
        progress: Progress | None,
    ) -> None:
        self._table = table
        self._source = source
        self._target = target
        self._rejected = rejected
        self._progress = progress
        self._escaped = 0

    def copy(self) -> CopiedTable:
        count = sa.select(sa.func.count()).select_from(self._table).where(*self._wanted())
        total = self._source.execute(count).scalar_one()
        sent, done, rejected = _Tally(self._table), 0, 0
        for rows in self._rows(self._source, typed=True):
            kept = [encoded for row in rows if (encoded := self._encoded(row)) is not None]
            if kept:
                self._send(kept)
            sent.add(kept)
            done, rejected = done + len(rows), rejected + len(rows) - len(kept)
            if self._progress is not None:
                self._progress(f"copying {self._table.name}", done, total)
        self._set_sequence()
        arrived = _Tally(self._table)
        for rows in self._rows(self._target, typed=False):
            arrived.add([dict(row._mapping) for row in rows])
        if done != total or arrived != sent:
            raise RiskStoreError(
                f"{self._table.name}: {sent.rows} rows were sent and {arrived.rows} arrived, with sums {sent.sums} and "
                f"{arrived.sums}. Nothing was copied."
            )
        return CopiedTable(
            table=self._table.name, rows=arrived.rows, rejected=rejected, escaped=self._escaped, sums=arrived.sums
        )

    def _send(self, rows: Sequence[dict[str, Any]]) -> None:
        """As the target will hold them: no type of SQLAlchemy's between, so that what is compared is what is there."""
        if self._target.dialect.driver == "psycopg":
            # On a cluster each INSERT would be a round trip to a worker.
            with copy_into(self._target, self._table, self._names) as copy:
                for row in rows:
                    copy.write_row([row[name] for name in self._names])
        else:
            bare = sa.table(self._table.name, *map(sa.column, self._names))
            self._target.execute(sa.insert(bare), rows)

    def _rows(self, connection: sa.Connection, *, typed: bool) -> Iterator[Sequence[sa.Row[Any]]]:
        """Batches in the order of the primary key, the same on every engine."""
        columns = self._table.columns if typed else sa.table(self._table.name, *map(sa.column, self._names)).c
        # Flags and dates as they are stored: what they are is judged below.
        raw = (sa.Boolean, CalendarDate)
        chosen = [sa.type_coerce(c, sa.types.NullType()) if isinstance(c.type, raw) else c for c in columns]
        keys: list[sa.ColumnElement[Any]] = [
            column for column in columns if column.name in self._table.primary_key.columns
        ]
        if connection.dialect.name == "postgresql":
            keys = [
                sa.collate(k, "C") if isinstance(getattr(self._type(k.name), "impl", None), sa.Text) else k
                for k in keys
            ]
        select = sa.select(*(c.label(name) for c, name in zip(chosen, self._names, strict=True)))
        select = select.where(*self._wanted()).order_by(*keys)
        yield from connection.execute(select, execution_options={"yield_per": BATCH}).partitions()

    def _wanted(self) -> list[sa.ColumnElement[bool]]:
        # The target rolls up for itself the rows that arrive; what is known of pruned days is nowhere else.
        return [sa.column("pruned", sa.Boolean()) == sa.true()] if self._table in ROLLUP else []

    @property
    def _names(self) -> list[str]:
        return self._table.columns.keys()

    def _type(self, name: str) -> Any:
        return self._table.columns[name].type

    def _encoded(self, row: sa.Row[Any]) -> dict[str, Any] | None:
        """The row as the target is to hold it; None if it cannot, and is among the rejected."""
        values = dict(row._mapping)
        try:
            return {name: self._encode(self._table.columns[name], value) for name, value in values.items()}
        except InvalidValue as error:
            self._rejected.take(self._table.name, values, error)
            return None

    def _encode(self, column: sa.Column[Any], value: Any) -> Any:
        if value is None:
            if not column.nullable:
                raise InvalidValue(f"{self._table.name}.{column.name}", None, "a value, which every row must have")
            return None
        if isinstance(column.type, IntCode) and type(value) is int and abs(value) < 2**31:
            return value  # a code that this release does not know is kept, as everywhere
        if isinstance(column.type, CalendarDate):
            value = self._date(column, value)
        if isinstance(column.type, CheckedType):
            encoded = column.type.process_bind_param(value, self._target.dialect)
            self._escaped += isinstance(column.type, FreeText) and encoded != value
            return encoded
        if value not in (0, 1):
            raise InvalidValue(f"{self._table.name}.{column.name}", value, "true or false")
        return bool(value)

    def _date(self, column: sa.Column[Any], value: Any) -> date:
        """A date in its one form: two spellings of one day would be one key on a server, and two rows."""
        try:
            day = date.fromisoformat(value) if isinstance(value, str) else value
        except ValueError:
            day = None
        if not isinstance(day, date) or (isinstance(value, str) and day.isoformat() != value):
            raise InvalidValue(f"{self._table.name}.{column.name}", value, "a date in the form YYYY-MM-DD")
        return day

    def _set_sequence(self) -> None:
        """The next id is one that the source never gave, also where its last rows are deleted."""
        name = self._table.name
        if self._table.autoincrement_column is None:
            return
        if self._source.dialect.name == "sqlite":
            given = self._source.execute(
                sa.text("SELECT seq FROM sqlite_sequence WHERE name = :t"), {"t": name}
            ).scalar()
        else:
            sequence = self._source.execute(sa.select(sa.func.pg_get_serial_sequence(name, "id"))).scalar_one()
            last = self._source.exec_driver_sql(f"SELECT last_value, is_called FROM {sequence}").one()  # noqa: S608
            given = last.last_value if last.is_called else None
        if given is None or given < 1:  # no row was ever given an id
            return
        if self._target.dialect.name == "sqlite":
            for statement in (
                "DELETE FROM sqlite_sequence WHERE name = :t",
                "INSERT INTO sqlite_sequence (name, seq) VALUES (:t, :given)",
            ):
                self._target.execute(sa.text(statement), {"t": name, "given": given})
        else:
            set_to = sa.func.setval(sa.func.pg_get_serial_sequence(name, "id"), given)
            self._target.execute(sa.select(set_to))


class _Tally:
    """Rows, sums, and a checksum of a table's rows in the order of their keys."""

    def __init__(self, table: sa.Table) -> None:
        self.rows = 0
        self.sums: dict[str, float] = {
            column.name: 0
            for column in table.columns
            if isinstance(column.type, (Int64, CheckedFloat)) and not column.name.endswith("id")
        }
        self._digest = blake2b(digest_size=16)

    def add(self, rows: Sequence[dict[str, Any]]) -> None:
        for row in rows:
            self.rows += 1
            self._digest.update(repr([_plain(value) for value in row.values()]).encode("utf-8", "surrogateescape"))
            for name in self.sums:
                self.sums[name] += row[name] or 0

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, _Tally)
            and (self.rows, self.sums) == (other.rows, other.sums)
            and self._digest.digest() == other._digest.digest()
        )

    __hash__ = None  # type: ignore[assignment]


def _plain(value: Any) -> Any:
    """A value in the one spelling that both engines' drivers share."""
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, datetime):
        return UtcInstant.text(value)
    return value.isoformat() if isinstance(value, date) else value

"""Rows of the enforcement log brought into a store: what an export wrote, and what a daemon's log spilled.

Done twice it changes nothing. An enforcement is known by its enforcement_id. A row without one (a v1 daemon's) is known
by all that it says but its id: the second of two equal rows is another one, and is written if the store has only one.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, timedelta
from hashlib import blake2b
from typing import Any

from risk_store.columns import CheckedType, storable_text
from risk_store.errors import InvalidValue
from risk_store.exporting import TABLES, Export, stored_value
from risk_store.models import EnforcementLog
from risk_store.replaying import Refused
from risk_store.repositories import Transaction
from risk_store.spilled import Spilled, read_line
from risk_store.store import RiskStore

__all__ = ["ImportSummary", "import_lines"]

BATCH = 1_000  # rows in one transaction

LOG = EnforcementLog.__table__
_SAID = [name for name in LOG.columns.keys() if name != "id"]  # noqa: SIM118 (columns are not their names)
_CHECKED = {name: column.type for name, column in LOG.columns.items() if isinstance(column.type, CheckedType)}
_NEEDED = {"account_id", "rule_id", "action", "reason", "success", "timestamp"}
_DEFAULTS = dict.fromkeys(_SAID) | {"positions_closed": 0, "orders_canceled": 0}
_IS_EXPORTED = re.compile(r'\s*\{\s*"table"\s*:')
_IS_REFUSED = re.compile(r'\s*\{\s*"line"\s*:\s*\d+\s*,\s*"reason"\s*:')


@dataclass(slots=True, kw_only=True)
class ImportSummary:
    """What an import did: rows written, rows that the store had already, lines refused.

    >>> ImportSummary(written=2).to_dict()
    {'written': 2, 'known': 0, 'refused': 0}
    """

    written: int = 0
    known: int = 0
    refused: int = 0

    def to_dict(self) -> dict[str, int]:
        """JSON-ready values."""
        return asdict(self)


def import_lines(store: RiskStore, lines: Iterable[str], refuse: Callable[[Refused], None]) -> ImportSummary:
    """Writes what `lines` hold of the enforcement log and `store` has not: 1,000 rows a transaction.

    Two kinds of lines are taken, in one file too: those that ``Export.json_lines`` wrote of enforcement_log, and, of a
    daemon's log, the JSON at CRITICAL of enforcements that could not be recorded, with their lockouts. Other lines are
    no concern of this one. `refuse` is called with each that is one and cannot be used. Raises what the store raises.

    >>> line = '{"table": "enforcement_log", "account_id": 1, "rule_id": "RULE-003", "action": "CLOSE", "reason": "r", '
    >>> line += '"success": true, "timestamp": "2025-10-21T17:00:00+00:00"}'
    >>> with RiskStore("sqlite:///" + str(getfixture("tmp_path") / "risk.db")) as store:
    ...     _ = store.upgrade()
    ...     [import_lines(store, [line], print).written for _ in range(2)]
    [1, 0]
    """
    return _Import(store, refuse).read(lines)


class _Row:
    """A row of the log that an export wrote: its values by column, as the store would read them. ValueError if not."""

    def __init__(self, line: int, text: str) -> None:
        self.line = line
        self.text = text
        given = json.loads(text)
        table = given.pop("table")
        if table != LOG.name:
            why = "its rows are the venue's or the daemon's to tell; risk-store copy moves a whole store"
            raise ValueError(f"{table} is not imported: {why if table in TABLES else 'no table of this release'}")
        if missing := _NEEDED - given.keys():
            raise ValueError(f"a row of {table} without {', '.join(sorted(missing))}")
        if unknown := given.keys() - LOG.columns.keys():
            raise ValueError(f"{table} has no column {', '.join(sorted(unknown))} in this release")
        values = _DEFAULTS | {name: stored_value(value) for name, value in given.items()}
        self.values = {
            name: _CHECKED[name].read(value) if value is not None and name in _CHECKED else value
            for name, value in values.items()
        }

    @property
    def enforcement_id(self) -> Any:
        return self.values["enforcement_id"]

    @property
    def timestamp(self) -> Any:
        return self.values["timestamp"]

    def log(self) -> EnforcementLog:
        """The row as it may enter the log. Raises InvalidValue for what a v1 file held and nobody can read."""
        if not isinstance(self.values["success"], bool):
            raise InvalidValue("success", self.values["success"], "true or false")
        if self.timestamp is None:
            raise InvalidValue("timestamp", None, "an instant; without one it would be dated by its import")
        log = EnforcementLog.from_dict({**self.values, "id": None})
        log.check_writable()
        for name, type_ in _CHECKED.items():
            if (value := self.values.get(name)) is not None:
                type_.write(value)
        return log


class _Import:
    def __init__(self, store: RiskStore, refuse: Callable[[Refused], None]) -> None:
        self._store = store
        self._refuse_line = refuse
        self._summary = ImportSummary()

    def read(self, lines: Iterable[str]) -> ImportSummary:
        with closing(_Seen()) as seen:
            rows: list[_Row] = []
            for number, line in enumerate(lines, 1):
                text = _unwrapped(line)
                if not _IS_EXPORTED.match(text):
                    self._take_spilled(number, text)
                    continue
                try:
                    rows.append(_Row(number, text))
                except (ValueError, TypeError, RecursionError) as error:
                    self._refuse(number, error, text)
                if len(rows) == BATCH:
                    self._write(rows, seen)
                    rows = []
            if rows:
                self._write(rows, seen)
        return self._summary

    def _take_spilled(self, number: int, text: str) -> None:
        found = read_line(number, text)
        if isinstance(found, InvalidValue):
            self._refuse(number, f"not {found.expected}", text)
        elif isinstance(found, Spilled):
            with self._store.begin() as tx:
                new = found.write(tx, datetime.now(UTC))
            self._summary.written += new
            self._summary.known += not new and found.log is not None

    def _write(self, rows: Sequence[_Row], seen: _Seen) -> None:
        """One transaction."""
        refused: list[tuple[_Row, InvalidValue]] = []
        logs: list[EnforcementLog] = []
        with self._store.begin() as tx:
            tx.enforcements.lock_import()
            known = {*_recorded(tx, rows), *_equal(tx, rows, seen)}
            for row in rows:
                if row.line in known:
                    continue
                try:
                    logs.append(row.log())
                except InvalidValue as error:
                    refused.append((row, error))
            tx.enforcements.add_many(logs)
        self._summary.written += len(logs)
        self._summary.known += len(known)
        for row, objection in refused:
            self._refuse(row.line, objection, row.text)

    def _refuse(self, number: int, reason: object, text: str) -> None:
        self._summary.refused += 1
        self._refuse_line(Refused(number, " ".join(str(reason).split()), text.strip()))


def _unwrapped(line: str) -> str:
    """What a line of refused ones holds, so that those can be corrected and imported; any other line as it is."""
    if not _IS_REFUSED.match(line):
        return line
    try:
        refused = json.loads(line)
    except (ValueError, RecursionError):
        return line
    return json.dumps(refused["payload"]) if "payload" in refused else str(refused.get("text", line))


def _recorded(tx: Transaction, rows: Sequence[_Row]) -> Iterator[int]:
    """The lines whose enforcement is in the log, or in a line before."""
    by_account: dict[Any, list[_Row]] = defaultdict(list)
    for row in rows:
        if isinstance(row.enforcement_id, str) and isinstance(row.values["account_id"], int):
            by_account[row.values["account_id"]].append(row)
    for account_id, of_account in by_account.items():
        found = tx.enforcements.recorded(account_id, {row.enforcement_id for row in of_account})
        for row in of_account:
            if row.enforcement_id in found:
                yield row.line
            found.add(row.enforcement_id)


def _equal(tx: Transaction, rows: Sequence[_Row], seen: _Seen) -> Iterator[int]:
    """The lines without an enforcement_id of which the log has as many equal ones as the file has so far."""
    by_day: dict[date, list[_Row]] = defaultdict(list)
    for row in rows:
        if row.enforcement_id is None and isinstance(row.timestamp, datetime):
            by_day[row.timestamp.date()].append(row)
    for of_day in by_day.values():
        keys = [_key(row.values) for row in of_day]
        there = _count_equal(tx, {*keys}, [row.timestamp for row in of_day])
        for row, key in zip(of_day, keys, strict=True):
            if seen.times(key) <= there[key]:
                yield row.line
            else:
                there[key] += 1  # it is written now, or refused and never counted on


def _count_equal(tx: Transaction, keys: set[bytes], times: Sequence[datetime]) -> Counter[bytes]:
    """How often the log has each of these rows, all of one day."""
    end = max(times)
    until = end + timedelta(microseconds=1) if end < datetime.max.replace(tzinfo=UTC) else None
    log = Export(tx, LOG.name, since=min(times), until=until)
    rows = (dict(zip(log.columns, row, strict=True)) for row in log.rows())
    found = (_key(values) for values in rows if values["enforcement_id"] is None)
    return Counter(key for key in found if key in keys)


def _key(values: Mapping[str, Any]) -> bytes:
    """What a row says but for its id, as the store would keep it: text that it would escape, escaped."""
    said = [storable_text(value) if isinstance(value := values[name], str) else value for name in _SAID]
    return blake2b(repr(said).encode(), digest_size=16).digest()


class _Seen:
    """How often each row has come: on disk, since there may be millions of them."""

    def __init__(self) -> None:
        self._db = sqlite3.connect("", isolation_level=None)
        self._db.execute("PRAGMA journal_mode = OFF")
        self._db.execute("CREATE TABLE seen (row BLOB PRIMARY KEY, times INTEGER NOT NULL) WITHOUT ROWID")
        self._db.execute("BEGIN")

    def times(self, key: bytes) -> int:
        """One time more; how often that makes."""
        add = "INSERT INTO seen VALUES (?, 1) ON CONFLICT DO UPDATE SET times = times + 1 RETURNING times"
        [(times,)] = self._db.execute(add, (key,)).fetchall()
        return int(times)

    def close(self) -> None:
        self._db.close()

"""Rows of the store for other programs: CSV for spreadsheets, JSON lines that lose nothing.

From one read transaction, however many rows there are and whoever writes meanwhile, and never more than a batch of them
in memory. :mod:`risk_store.importing` reads the JSON lines back.
"""

from __future__ import annotations

import json
import math
from collections.abc import Generator
from contextlib import closing
from datetime import date, datetime
from typing import Any

import sqlalchemy as sa

from risk_store.columns import within
from risk_store.csv_text import csv_text
from risk_store.errors import InvalidValue
from risk_store.models import ROLLED_UP, ROLLUP, Base
from risk_store.repositories import Transaction
from risk_store.statements import arguments

__all__ = ["BATCH", "TABLES", "Export", "stored_value"]

BATCH = 1_000  # rows in memory at once

TABLES = {table.name: table for table in Base.metadata.sorted_tables if table not in (*ROLLUP, ROLLED_UP)}
"""What can be exported: all but the roll-up, which is made of the log."""

# By which instant the rows of a table are chosen.
_TIMES = {
    "closed_positions": "closed_at",
    "enforcement_in_flight": "started_at",
    "enforcement_log": "timestamp",
    "lockouts": "locked_at",
    "orders": "created_at",
    "positions": "created_at",
    "trade_history": "timestamp",
}


class Export:
    """The rows of one table, by its key, in the transaction of `tx`: what is asked for, and in which form.

    `since` is inclusive, `until` exclusive, both aware. Raises InvalidValue for a bad argument, and for a condition on
    what the table does not have.

    >>> from risk_store import EnforcementLog, RiskStore
    >>> store = RiskStore("sqlite:///" + str(getfixture("tmp_path") / "risk.db"))
    >>> _ = store.upgrade()
    >>> with store.begin() as tx:
    ...     _ = tx.enforcements.add(EnforcementLog(account_id=1, rule_id="RULE-003", action="CLOSE", reason="=1+1"))
    >>> with store.read() as tx:
    ...     [line] = Export(tx, "enforcement_log", rule_id="RULE-003").json_lines()
    >>> json.loads(line)["reason"]
    '=1+1'
    >>> store.close()
    """

    def __init__(
        self,
        tx: Transaction,
        table: str = "enforcement_log",
        *,
        account_id: int | None = None,
        rule_id: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> None:
        self.table = TABLES[arguments.choice("table", table, TABLES)]
        self._tx = tx
        self._where: list[sa.ColumnElement[bool]] = []
        if account_id is not None:
            self._where.append(self._column("account_id", account_id) == arguments.account(account_id))
        if rule_id is not None:
            self._where.append(self._column("rule_id", rule_id) == arguments.text("rule_id", rule_id))
        for name, bound in (("since", since), ("until", until)):
            if bound is not None:
                column = self._column(name, bound, of=_TIMES.get(table))
                self._where += within(column, **{name: arguments.instant(name, bound)})

    def _column(self, asked: str, value: object, of: str | None = None) -> sa.ColumnElement[Any]:
        """The column that a condition is on."""
        found: sa.ColumnElement[Any] | None = self.table.columns.get(of or asked)
        if found is None:
            raise InvalidValue(asked, value, f"for {self.table.name}, which has only {', '.join(self.columns)}")
        return found

    @property
    def columns(self) -> list[str]:
        """Their names, in the table's order."""
        return self.table.columns.keys()

    def count(self) -> int:
        """How many rows there are."""
        statement = sa.select(sa.func.count()).select_from(self.table).where(*self._where)
        return int(self._tx.session.execute(statement).scalar_one())

    def rows(self) -> Generator[list[Any]]:
        """The rows: what the models' fields would hold, and what cannot be read as it is stored."""
        # Flags as they are stored: SQLAlchemy's own type fails on what is none.
        flags = [isinstance(column.type, sa.Boolean) for column in self.table.columns]
        chosen = [
            sa.type_coerce(column, sa.types.NullType()).label(column.name) if is_flag else column
            for column, is_flag in zip(self.table.columns, flags, strict=True)
        ]
        statement = sa.select(*chosen).where(*self._where).order_by(*self.table.primary_key.columns)
        connection = self._tx.session.connection()
        with connection.execute(statement, execution_options={"yield_per": BATCH}) as found:
            for row in found:
                yield [
                    bool(value) if is_flag and value in (0, 1) else value
                    for value, is_flag in zip(row, flags, strict=True)
                ]

    def csv_lines(self) -> Generator[str]:
        """CSV with a header, for people: codes by their names, and no text that a spreadsheet takes for a formula."""
        with closing(self.rows()) as rows:  # now, and not when nobody knows of it any more: it holds a cursor
            yield from csv_text(self.columns, rows)

    def json_lines(self) -> Generator[str]:
        r"""One JSON object a row, whose first key is `table`: codes are integers, instants ISO 8601 with offset.

        What JSON has no form for is an object: ``{"hex": "00ff"}`` for a blob, ``{"float": "inf"}``.
        """
        columns = self.columns
        with closing(self.rows()) as rows:
            for row in rows:
                values = {"table": self.table.name, **dict(zip(columns, row, strict=True))}
                try:
                    line = json.dumps(values, default=_json, allow_nan=False)
                except ValueError:
                    line = json.dumps({name: _json_float(value) for name, value in values.items()}, default=_json)
                yield line + "\n"


def _json(value: Any) -> Any:
    if isinstance(value, date):  # a datetime is one too
        return value.isoformat()
    if isinstance(value, bytes):
        return {"hex": value.hex()}
    raise TypeError(f"no column holds a {type(value).__name__}")


def _json_float(value: Any) -> Any:
    return {"float": repr(value)} if isinstance(value, float) and not math.isfinite(value) else value


def stored_value(value: Any) -> Any:
    """What a value of a JSON line stands for: the inverse of how :meth:`Export.json_lines` writes it.

    Raises ValueError for an object that is none of its own.

    >>> stored_value({"hex": "00ff"}), stored_value({"float": "inf"}), stored_value(1.0)
    (b'\\x00\\xff', inf, 1.0)
    """
    if isinstance(value, dict):
        [(kind, text)] = value.items() if len(value) == 1 else [("", value)]
        if kind not in ("hex", "float") or not isinstance(text, str):
            raise ValueError(f"{value!r} is no value of a column")
        return bytes.fromhex(text) if kind == "hex" else float(text)
    if isinstance(value, list):
        raise ValueError(f"{value!r} is no value of a column")
    return value

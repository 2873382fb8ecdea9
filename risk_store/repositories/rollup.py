"""The roll-up of the log, kept up and pruned: one short transaction after another, each right by itself."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa

from risk_store.columns import INT64_MAX, INT64_MIN
from risk_store.models import HOURS, ROLLED_UP, EnforcementLog
from risk_store.repositories.base import Repository
from risk_store.statements import rollup as statements
from risk_store.statements.ids import DISTRIBUTED

__all__ = ["Prunable", "RollUpRepository"]


class Prunable(NamedTuple):
    """What pruning would remove from the log, and what it would leave although it is as old."""

    before: datetime
    """The end of the last whole UTC day that goes."""
    rows: int
    first: datetime | None
    last: datetime | None
    in_another_form: int
    """Rows of a v1 daemon's, which stay until `risk-store upgrade` makes them canonical."""


class RollUpRepository(Repository):
    """What the reports read instead of the log. Never begins, never commits: see ``store.roll_up`` and ``store.prune``.

    On PostgreSQL the transaction must be REPEATABLE READ and :meth:`lock` its first statement: what is counted and what
    is then said to be counted have to be the same rows.
    """

    statements = statements

    def lock(self) -> None:
        """One at a time: until this transaction ends, no other one rolls up or prunes. Reports go on."""
        if self._dialect(EnforcementLog) == "postgresql":
            # Takes no snapshot, so the one of the next statement sees what the last holder did.
            self._connection.exec_driver_sql(f"LOCK TABLE {ROLLED_UP.name} IN EXCLUSIVE MODE")

    def advance(self, limit: int) -> int:
        """Rolls up the next rows of the log that are not yet, `limit` at most, and returns how many.

        First what is new at the log's end, then what came late between rows that were there.
        """
        least, most = self._connection.execute(statements.ENDS).one()
        if rows := self._roll_up(INT64_MIN if most is None else most + 1, INT64_MAX - 1, limit):
            return rows
        if least is None:
            return 0
        late = [(INT64_MIN, least - 1)]
        late += [tuple(gap) for gap in self._connection.execute(statements.GAPS_WITH_ROWS[self._form])]
        return next((rows for first, last in late if (rows := self._roll_up(first, last, limit))), 0)

    def analyze(self, *, grown: bool) -> int:
        """Tells PostgreSQL how few ranges there are: by its guess of 2,000 it would read the whole log for them.

        If the roll-up has `grown` by much, also in which hours: until autovacuum comes, a trend of some days would read
        all of them (3 ms more over ninety days). That takes the server 60 ms.
        """
        if self._dialect(EnforcementLog) == "postgresql":
            for table in (ROLLED_UP, HOURS) if grown else (ROLLED_UP,):
                self._connection.exec_driver_sql(f"ANALYZE {table.name}")
        return 0

    def prunable(self, before: datetime) -> Prunable:
        """What ``store.prune(before)`` would remove now. Raises InvalidValue."""
        end = statements.end_of_days(before)
        found = self._connection.execute(statements.PRUNABLE[self._form], {"before": end}).one()
        return Prunable(end, *found)

    def prune(self, before: datetime, limit: int) -> int:
        """Deletes the oldest rows that the roll-up holds and that began `before`, `limit` at most; how many.

        They go on being counted, as pruned.
        """
        form = self._form
        batch = self._connection.execute(statements.OLDEST[form], {"before": before, "limit": limit}).all()
        if not batch:
            return 0
        rows = {"before": before, "up_to": batch[-1].timestamp, "up_to_id": batch[-1].id}
        for statement in statements.COUNT_AS_PRUNED[form]:
            self._connection.execute(statement, rows)
        for statement in statements.FORGET_EMPTY_SINCE:
            self._connection.execute(statement, {"since": batch[0].timestamp})
        for statement in statements.FORGET_EMPTY:
            self._connection.execute(statement)
        runs = _joined(self._connection.execute(statements.OLD_RUNS[form], rows))
        deleted = self._connection.execute(statements.DELETE_OLD[form], rows).rowcount
        for first, last in runs:
            self._let_go(first, last)
        return deleted

    def _roll_up(self, first: int, last: int, limit: int) -> int:
        """The first `limit` rows of these ids with a plain one among them: how many of them were plain."""
        while (end := self._end_of_chunk(first, last, limit)) is not None:
            chunk = {"first": first, "last": end}
            runs = _joined(self._connection.execute(statements.PLAIN_RUNS[self._form], chunk))
            if runs:
                self._hold(runs)
                for statement in statements.ROLL_UP[self._form]:
                    self._connection.execute(statement, chunk)
                return sum(run_last - run_first + 1 for run_first, run_last in runs)
            first = end + 1  # behind rows in other forms, which stay in the log alone
        return 0

    def _end_of_chunk(self, first: int, last: int, limit: int) -> int | None:
        ahead = {"first": first, "last": last, "limit": limit}
        return self._connection.execute(statements.END_OF_CHUNK, ahead).scalar()

    def _hold(self, runs: Iterable[tuple[int, int]]) -> None:
        for run_first, run_last in runs:
            first, last = run_first, run_last
            for held in self._touching(first, last):
                self._connection.execute(statements.LET_GO, {"first": held.first_id})
                first, last = min(first, held.first_id), max(last, held.last_id)
            self._connection.execute(statements.HOLD, {"first_id": first, "last_id": last})

    def _let_go(self, first: int, last: int) -> None:
        for held in self._touching(first, last):
            if held.last_id < first or held.first_id > last:
                continue  # beside it
            self._connection.execute(statements.LET_GO, {"first": held.first_id})
            for left in ((held.first_id, first - 1), (last + 1, held.last_id)):
                if left[0] <= left[1]:
                    self._connection.execute(statements.HOLD, {"first_id": left[0], "last_id": left[1]})

    def _touching(self, first: int, last: int) -> Iterable[sa.Row[Any]]:
        return self._connection.execute(statements.TOUCHING, {"first": first, "last": last}).all()

    @property
    def _connection(self) -> sa.Connection:
        return self._lane.connection(EnforcementLog)

    @property
    def _form(self) -> str:
        return DISTRIBUTED if self._is_distributed(EnforcementLog) else self._dialect(EnforcementLog)


def _joined(pieces: Iterable[sa.Row[Any]]) -> list[tuple[int, int]]:
    """Ranges of ids, first and last, in order: those that follow on each other as one."""
    runs: list[tuple[int, int]] = []
    for first, last in map(tuple[Any, ...], pieces):
        if runs and runs[-1][1] == first - 1:
            runs[-1] = (runs[-1][0], last)
        else:
            runs.append((first, last))
    return runs

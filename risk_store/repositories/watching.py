"""What is new in a store, for somebody who watches it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa

from risk_store.columns import UtcInstant
from risk_store.models import EnforcementLog
from risk_store.models.enforcement import SLOW_INDEX_ABOVE_MS
from risk_store.repositories.base import Repository
from risk_store.statements import watching as statements
from risk_store.statements.ids import as_parameter

__all__ = ["Time", "WatchRepository"]

_AT_A_TIME = 5_000  # rows that a server sends at once; each such batch is a statement of its own


class Time(NamedTuple):
    """One log row, as far as its time is concerned."""

    id: int
    second: int | None
    """The second it began in, since 1970 UTC; None where no instant can be read."""
    account_id: int
    rule_id: str
    succeeded: bool
    ms: float | None
    """Milliseconds; None where it was not timed, or cannot be read."""


class WatchRepository(Repository):
    """Reads for a dashboard. All of them are cheap however long the log is, but for :meth:`since`.

    Bad arguments raise :class:`~risk_store.errors.InvalidValue`.
    """

    statements = statements

    def stamp(self) -> str | None:
        """A text that is another one once anything was committed; None where nothing tells (on several servers).

        To be compared with one of the same connection only.
        """
        dialect = self._dialect(EnforcementLog)
        if dialect == "postgresql" and self._connection.exec_driver_sql(statements.IS_DISTRIBUTED).scalar_one():
            return None
        return str(self._connection.exec_driver_sql(statements.STAMP[dialect]).scalar_one())

    def ends(self) -> tuple[int | None, int | None]:
        """The lowest id of the log and the highest."""
        first, last = self._connection.execute(statements.ENDS).one()
        return first, last

    def pruned(self) -> int:
        """How many timed rows have been pruned, ever."""
        return int(self._connection.execute(statements.PRUNED).scalar_one())

    def count(self) -> int:
        """How many rows the log has."""
        return int(self._connection.execute(statements.COUNT_OF_LOG).scalar_one())

    def since(self, since: datetime, account_id: int | None = None) -> Iterator[Time]:
        """The times of the log rows that began at `since` or later, and perhaps of some before."""
        return self._times(statements.times_since(self._dialect(EnforcementLog), since, account_id))

    def new(self, after: int) -> Iterator[Time]:
        """Those with an id over `after`."""
        return self._times(statements.NEW_TIMES[self._dialect(EnforcementLog)], after=after)

    def late(self, ids: Sequence[int]) -> Iterator[Time]:
        """Those of `ids` that are there now."""
        return self._times(statements.LATE_TIMES[self._dialect(EnforcementLog)], ids=as_parameter(ids))

    def newest_slow(
        self,
        threshold_ms: int = SLOW_INDEX_ABOVE_MS,
        limit: int = 20,
        before: int | None = None,
        *,
        account_id: int | None = None,
        rule_id: str | None = None,
    ) -> Sequence[EnforcementLog]:
        """Log rows of any outcome that took more than `threshold_ms`, the last written first; `before` is an id."""
        page = statements.newest_slow(threshold_ms, limit, before, account_id=account_id, rule_id=rule_id)
        return self._telling(lambda: self._session.scalars(page).all())

    def _times(self, rows: sa.Select[Any], **parameters: object) -> Iterator[Time]:
        second_of = _Seconds()
        options = {"yield_per": _AT_A_TIME}
        with self._connection.execute(rows, parameters, execution_options=options) as found:
            for id_, began, account, rule, success, ms in found:
                second = began if isinstance(began, int) else second_of(began)
                yield Time(id_, second, account, str(rule), success == 1, None if ms is None else float(ms))

    @property
    def _connection(self) -> sa.Connection:
        return self._lane.connection(EnforcementLog)


class _Seconds:
    """Seconds since 1970 from an instant as SQLite stores it.

    Most rows share their minute with others, and of canonical text what differs is two digits.
    """

    def __init__(self) -> None:
        self._minutes: dict[str, int | None] = {}

    def __call__(self, stored: object) -> int | None:
        if not isinstance(stored, str) or not (len(stored) == 19 or (len(stored) == 26 and stored[20:].isdecimal())):
            return _second(stored)
        minute, second = stored[:16], stored[17:19]
        if minute not in self._minutes:
            self._minutes[minute] = _second(minute + ":00")
        begins = self._minutes[minute]
        return begins + int(second) if begins is not None and second.isdecimal() else _second(stored)


def _second(stored: object) -> int | None:
    instant = UtcInstant().read(stored)
    return int(instant.timestamp() // 1) if isinstance(instant, datetime) else None

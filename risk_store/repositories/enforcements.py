"""The audit log of enforcements, and those in flight."""

from __future__ import annotations

import builtins
from collections.abc import Iterable
from datetime import date, datetime
from itertools import islice
from typing import Any

import sqlalchemy as sa

from risk_store.alerts import Thresholds
from risk_store.models import EnforcementInFlight, EnforcementLog
from risk_store.repositories.base import Repository, row_values
from risk_store.statements import enforcements as statements

__all__ = ["EnforcementLogRepository"]

_CHUNK = 1000
_NO_ID = frozenset({"id"})


class EnforcementLogRepository(Repository):
    """The log in a session; insert-only. ``EnforcementLogRepository.statements`` has its expressions.

    >>> [column.name for column in EnforcementLogRepository.statements.time_by_rule().selected_columns][:2]
    ['rule_id', 'avg_time_ms']
    """

    statements = statements

    # Writing

    def add(self, log: EnforcementLog) -> EnforcementLog:
        """Inserts a row and sets its id. Raises InvalidValue for a row without account, rule, action or reason."""
        result = self._session.execute(statements.INSERT_LOG, self._values(log))
        log.id = int(result.inserted_primary_key[0])  # type: ignore[attr-defined]  # a CursorResult, as of any INSERT
        return log

    def add_many(self, logs: Iterable[EnforcementLog]) -> int:
        """Inserts rows from any iterable, a thousand at a time, and returns how many. Their ids are not read back."""
        count = 0
        remaining = iter(logs)
        while chunk := [self._values(log) for log in islice(remaining, _CHUNK)]:
            self._session.execute(statements.INSERT_LOG, chunk)
            count += len(chunk)
        return count

    def _values(self, log: EnforcementLog) -> dict[str, Any]:
        log.check_writable()
        if log.timestamp is None:
            log.timestamp = self._clock()
        return row_values(log, leave_out=_NO_ID if log.id is None else frozenset())

    def start(self, in_flight: EnforcementInFlight) -> None:
        """Notes an enforcement that begins."""
        self._session.execute(statements.INSERT_IN_FLIGHT, row_values(in_flight))

    def finish(self, log: EnforcementLog) -> bool:
        """Takes the enforcement out of flight and inserts its row; False when it was not in flight."""
        key = {"of_account": log.account_id, "of_enforcement": log.enforcement_id}
        removed = self._session.execute(statements.DELETE_IN_FLIGHT, key)
        self.add(log)
        return bool(removed.rowcount)  # type: ignore[attr-defined]  # a CursorResult, as of any DELETE

    # Reading

    def get(self, log_id: int) -> EnforcementLog | None:
        """The row with this id, or None."""
        return self._session.get(EnforcementLog, log_id)

    def find(self, account_id: int, enforcement_id: str) -> int | None:
        """The id of the row an enforcement wrote, or None."""
        key = {"of_account": account_id, "of_enforcement": enforcement_id}
        return self._session.scalar(statements.FIND_LOG, key)

    def list(
        self,
        account_id: int | None = None,
        rule_id: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        after: int | None = None,
        limit: int = 100,
    ) -> builtins.list[EnforcementLog]:
        """A page of the log, newest first. `since` is inclusive, `until` exclusive; `after` is the last id seen."""
        return [*self._session.scalars(statements.log_page(account_id, rule_id, since, until, after, limit))]

    # Analytics: each only executes the expression of the same name, which says what the columns are.

    def time_by_rule(
        self, outcome: statements.Outcome = "success", **filters: Any
    ) -> builtins.list[sa.Row[str, float, int, int, int, int, int, int]]:
        """Execution time by rule, slowest average first: :func:`risk_store.statements.time_by_rule`."""
        return [*self._session.execute(statements.time_by_rule(outcome, **filters))]

    def slow_enforcements(
        self, threshold_ms: int = 1000, limit: int = 10, after: tuple[int, int] | None = None, **filters: Any
    ) -> builtins.list[sa.Row[datetime | None, int, str, str, int | None, int, int, int | None]]:
        """The slowest enforcements: :func:`risk_store.statements.slow_enforcements`."""
        return [*self._session.execute(statements.slow_enforcements(threshold_ms, limit, after, **filters))]

    def daily_trend(self, days: int = 7, **filters: Any) -> builtins.list[sa.Row[date, float, int]]:
        """Average time a day since the clock's now minus `days`: :func:`risk_store.statements.daily_trend`."""
        return [*self._session.execute(statements.daily_trend(days, self._clock(), **filters))]

    def alert_counts(
        self, thresholds: Thresholds | None = None, **filters: Any
    ) -> builtins.list[sa.Row[str, int, int, int]]:
        """Enforcements over each threshold by rule: :func:`risk_store.statements.alert_counts`."""
        return [*self._session.execute(statements.alert_counts(thresholds, **filters))]

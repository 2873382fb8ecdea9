"""The log of enforcements, and the enforcements in flight."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, datetime
from operator import itemgetter
from types import NoneType
from typing import Any, Literal, TypeVarTuple

import sqlalchemy as sa

from risk_store.alerts import Thresholds
from risk_store.errors import InvalidValue
from risk_store.models import EnforcementInFlight, EnforcementLog
from risk_store.repositories.base import FRESH, Repository
from risk_store.repositories.bulk import Bulk
from risk_store.repositories.plain_rows import LOG_COLUMNS
from risk_store.repositories.prepared import Prepared
from risk_store.repositories.unreadable import tell_of_reports
from risk_store.statements import analytics, arguments
from risk_store.statements import enforcements as statements
from risk_store.statements.filters import DAY, HOUR, Filters, kept

__all__ = [
    "INSERT",
    "IN_FLIGHT_COLUMNS",
    "START",
    "TAKE_BACK",
    "EnforcementLogRepository",
    "in_flight_values",
    "log_values",
]

IN_FLIGHT_COLUMNS = EnforcementInFlight.__table__.columns.keys()
Ts = TypeVarTuple("Ts")

LATE = ":late"  # behind the id of an enforcement that had been closed as interrupted when it ended

INSERT = Prepared(
    {
        "sqlite": statements.INSERT_LOG,  # whose driver tells the id: rows to return would cost 15 µs
        "postgresql": statements.INSERT_LOG.returning(EnforcementLog.__table__.c.id),
    },
    LOG_COLUMNS,
)
_MANY = Bulk(EnforcementLog.__table__, LOG_COLUMNS)
START = Prepared(statements.INSERT_IN_FLIGHT, IN_FLIGHT_COLUMNS)
TAKE_BACK = Prepared(statements.DELETE_IN_FLIGHT)


class EnforcementLogRepository(Repository):
    """The audit log in a session of the caller's. Never begins, never commits; rows are only ever added (D5).

    Bad arguments and rows that may not enter the log raise :class:`~risk_store.errors.InvalidValue`. Times are
    milliseconds, instants aware; `since` is inclusive, `until` exclusive.

    >>> from sqlalchemy.orm import Session
    >>> from risk_store.models import Base
    >>> engine = sa.create_engine("sqlite://")
    >>> Base.metadata.create_all(engine)
    >>> with Session(engine) as session:
    ...     enforcements = EnforcementLogRepository(session)
    ...     for ms in (145, 155):
    ...         _ = enforcements.add(EnforcementLog(account_id=123, rule_id="RULE-003", action="CLOSE_ALL",
    ...                                             reason="Test", success=True, execution_time_ms=ms))
    ...     [(row.rule_id, row.avg_time_ms, row.p95_time_ms) for row in enforcements.time_by_rule()]
    [('RULE-003', 150.0, 155)]
    >>> engine.dispose()
    """

    statements = statements

    def add(self, log: EnforcementLog) -> EnforcementLog:
        """Inserts the row and sets its id, which the database gives whatever `id` was before.

        A timestamp of None becomes now. An enforcement_id that the account has already is refused by the database
        (:class:`sqlalchemy.exc.IntegrityError`).
        """
        log.id = self._lane.write(INSERT, EnforcementLog, self._values(log)).id
        return log

    def add_many(self, logs: Iterable[EnforcementLog], progress: Callable[[int], None] = lambda _count: None) -> int:
        """Inserts the rows, however many there are, and returns their number. Their ids are not set.

        By COPY with psycopg, ten thousand at a time, by executemany elsewhere, a thousand at a time; no more are held.
        `progress` is told how many are written. A row that may not enter the log raises as in :meth:`add`, when some
        before it are written: roll back.
        """
        return _MANY.write(lambda: self._lane.connection(EnforcementLog), logs, self._columns, progress)

    def get(self, id: int) -> EnforcementLog | None:
        """The log row with this id."""
        return self._session.scalars(statements.GET_LOG, {"id": id}).one_or_none()

    def list(
        self,
        account_id: int | None = None,
        rule_id: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        after: int | None = None,
        limit: int = 100,
    ) -> Sequence[EnforcementLog]:
        """At most `limit` rows, the last written first. For the next page, `after` is the id of the last row seen."""
        page = statements.log_page(
            account_id=account_id, rule_id=rule_id, since=since, until=until, after=after, limit=limit
        )
        return self._telling(lambda: self._session.scalars(page).all())

    def oldest(self) -> datetime | None:
        """When the oldest enforcement of the log began; None where there is none."""
        return self._session.scalar(statements.OLDEST_LOG)

    # Reports: see risk_store.statements.analytics for their columns

    def time_by_rule(
        self,
        outcome: Literal["success", "all"] = "success",
        *,
        account_id: int | None = None,
        rule_id: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        include_pruned: bool = False,
    ) -> Sequence[sa.Row[str, float, int, int, int, int, int, int]]:
        """Average, extremes, count and percentiles of each rule, slowest average first."""
        filters = Filters(account_id, rule_id, since, until, outcome, include_pruned)
        return self._report(*kept(analytics.time_by_rule_of, filters.by(DAY)))

    def slow_enforcements(
        self,
        threshold_ms: int = 1000,
        limit: int = 10,
        after: tuple[float, int] | None = None,
        *,
        account_id: int | None = None,
        rule_id: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> Sequence[sa.Row[datetime, int, str, str, int, int, int, int]]:
        """Enforcements that took more than `threshold_ms`, slowest first; `after` is (execution_time_ms, id)."""
        return self._report(
            statements.slow_enforcements(
                threshold_ms=threshold_ms,
                limit=limit,
                after=after,
                account_id=account_id,
                rule_id=rule_id,
                since=since,
                until=until,
            )
        )

    def daily_trend(
        self,
        days: int = 7,
        *,
        account_id: int | None = None,
        rule_id: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        include_pruned: bool = False,
    ) -> Sequence[sa.Row[date, float, int]]:
        """Average and count of each UTC day since now − `days`, newest first."""
        filters = analytics.filters_of_trend(
            days, self._clock(), account_id, rule_id, since, until, include_pruned=include_pruned
        )
        return self._report(*kept(analytics.daily_trend_of, filters.by(HOUR)))

    def alert_counts(
        self,
        thresholds: Thresholds | None = None,
        *,
        account_id: int | None = None,
        rule_id: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        include_pruned: bool = False,
    ) -> Sequence[sa.Row[str, int, int, int]]:
        """Warnings, criticals and timeouts of each rule, each enforcement counted once."""
        filters = Filters(account_id, rule_id, since, until, "all", include_pruned)
        return self._report(*kept(analytics.alert_counts_of, filters.by(DAY), thresholds or Thresholds()))

    # Enforcements in flight

    def start(self, in_flight: EnforcementInFlight) -> None:
        """Writes the intent: this enforcement has begun."""
        self._lane.write(START, EnforcementInFlight, in_flight_values(in_flight))

    def start_again(self, in_flight: EnforcementInFlight) -> None:
        """The same where an earlier attempt may have written it: the reply to its COMMIT may have been lost."""
        self.take_back(in_flight.account_id, in_flight.enforcement_id)
        self.start(in_flight)

    def finish(self, log: EnforcementLog) -> bool:
        """The in-flight row goes, the log row comes. Returns whether the in-flight row was there.

        Someone may have closed it as interrupted meanwhile, and that is in the log by its id: the row is then written
        all the same, by another id and marked as late.
        """
        if log.enforcement_id is None:
            raise InvalidValue("enforcement_id", None, "the id of an enforcement that was started")
        deleted = self.take_back(log.account_id, log.enforcement_id)
        found = None if deleted else self._find(log.account_id, log.enforcement_id)
        if found is not None and found.execution_time_ms is not None:
            # Our own: an earlier attempt was given up, and its COMMIT carried out while this one waited for its row.
            log.id = found.id
            return False
        if found is not None:
            log.details = _with_facts(log.details, late=True, closed_as_interrupted_in_log_id=found.id)
            log.enforcement_id += LATE
        self.add(log)
        return deleted

    def in_flight(self, account_id: int | None = None, rule_id: str | None = None) -> Sequence[EnforcementInFlight]:
        """Enforcements that have begun and not ended, by when they began; of one rule on one account, or all."""
        if account_id is None or rule_id is None:
            return self._session.scalars(statements.ALL_IN_FLIGHT, execution_options=FRESH).all()
        key = {"account_id": account_id, "rule_id": rule_id}
        return self._session.scalars(statements.IN_FLIGHT_OF_RULE, key, execution_options=FRESH).all()

    def close(self, row: EnforcementInFlight, note: str) -> EnforcementLog:
        """Moves an enforcement that nobody will finish into the log, as failed, with what is known of it.

        Its time is None: nobody knows how long it took, nor what it did. Raises InvalidValue if it is not in flight.
        """
        arguments.text("note", note)
        if not self.take_back(row.account_id, row.enforcement_id):
            raise InvalidValue(
                "enforcement_id", row.enforcement_id, "an enforcement in flight; it has ended or was closed"
            )
        facts: dict[str, Any] = {"interrupted_process": {"host": row.host, "pid": row.pid, "boot_id": row.boot_id}}
        began = row.started_at if isinstance(row.started_at, datetime) else None
        if began is None:
            facts["started_at"] = str(row.started_at)  # as it is stored: nobody can read it
        log = EnforcementLog(
            account_id=row.account_id,
            rule_id=row.rule_id,
            action=row.action,
            reason=row.reason,
            success=False,
            error_message=f"interrupted: {note}",
            timestamp=began,
            details=_with_facts(row.details, **facts),
            enforcement_id=row.enforcement_id,
        )
        return self.add(log)

    def lock_rule(self, account_id: int, rule_id: str) -> None:
        """Until this transaction ends, no other one decides whether this rule is being enforced on this account."""
        self._lock(f"risk_store {account_id} {rule_id}")

    def lock_import(self) -> None:
        """Until this transaction ends, no other one decides which rows of an import are in the log already."""
        self._lock("risk_store import")

    def _lock(self, name: str) -> None:
        if self._dialect(EnforcementLog) == "postgresql":
            self._session.execute(statements.LOCK_NAME, {"name": name})

    def find(self, account_id: int, enforcement_id: str) -> int | None:
        """The id of this enforcement's log row, if it was written or closed as interrupted."""
        row = self._find(account_id, enforcement_id)
        return None if row is None else row.id

    def recorded(self, account_id: int, enforcement_ids: Iterable[str]) -> set[str]:
        """Those of these enforcements of an account that are in the log."""
        asked = {"account_id": account_id, "ids": [*enforcement_ids]}
        return {name for name in self._session.scalars(statements.RECORDED, asked) if name is not None}

    def find_recorded(self, log: EnforcementLog) -> int | None:
        """The id of `log` if it is in the log already: the reply to its COMMIT may have been lost."""
        if log.enforcement_id is None:
            return None
        row = self._find(log.account_id, log.enforcement_id)
        if row is not None and (row.execution_time_ms is None) is (log.execution_time_ms is None):
            return int(row.id)
        if log.enforcement_id.endswith(LATE):
            # Not there: then by its own id again, which `finish` marks anew if it has to.
            log.enforcement_id = log.enforcement_id.removesuffix(LATE)
            return None
        late = self._find(log.account_id, log.enforcement_id + LATE)
        return None if late is None else late.id

    def _find(self, account_id: int, enforcement_id: str) -> sa.Row[int, int | None] | None:
        key = {"account_id": account_id, "enforcement_id": enforcement_id}
        return self._session.execute(statements.FIND_LOG, key).one_or_none()

    def take_back(self, account_id: int, enforcement_id: str) -> bool:
        """Takes an enforcement out of flight, of which nothing is to be told. Returns whether it was there."""
        key = {"account_id": account_id, "enforcement_id": enforcement_id}
        return self._lane.write(TAKE_BACK, EnforcementInFlight, key).rowcount == 1

    def _report(self, statement: sa.Select[*Ts], values: Mapping[str, Any] | None = None) -> Sequence[sa.Row[*Ts]]:
        tell_of_reports(self._session)
        return self._telling(lambda: self._session.execute(statement, values).all(), EnforcementLog.__table__)

    def _values(self, log: EnforcementLog) -> dict[str, Any]:
        return log_values(log, self._clock)

    def _columns(self, logs: Sequence[EnforcementLog]) -> Sequence[Sequence[Any]]:
        """What :func:`log_values` makes of each, by column. Raises InvalidValue if one may not be written."""
        columns = dict(zip(LOG_COLUMNS, zip(*map(_held, logs), strict=True), strict=True))
        if not EnforcementLog.are_plain(columns):
            for values in zip(*columns.values(), strict=True):
                EnforcementLog.check_values(dict(zip(LOG_COLUMNS, values, strict=True)))
        if NoneType in {*map(type, columns["timestamp"])}:
            columns["timestamp"] = tuple([self._values(log)["timestamp"] for log in logs])
        return list(columns.values())


def log_values(log: EnforcementLog, clock: Callable[[], datetime]) -> dict[str, Any]:
    """The row as it is to be written: a timestamp of None becomes now. Raises InvalidValue if it may not be."""
    values = dict(zip(LOG_COLUMNS, _held(log), strict=True))
    log.check_values(values)
    if values["timestamp"] is None:
        values["timestamp"] = log.timestamp = clock()
    return values


def in_flight_values(in_flight: EnforcementInFlight) -> dict[str, Any]:
    """The row as it is to be written."""
    return {name: getattr(in_flight, name) for name in IN_FLIGHT_COLUMNS}


_HELD = itemgetter(*LOG_COLUMNS)


def _held(log: EnforcementLog) -> tuple[Any, ...]:
    """The values of LOG_COLUMNS."""
    try:
        values: tuple[Any, ...] = _HELD(vars(log))  # a tenth of what the attributes cost
    except KeyError:  # one is not loaded
        values = tuple([getattr(log, name) for name in LOG_COLUMNS])
    return values


def _with_facts(details: str | None, **facts: Any) -> str:
    """`details` with more facts in them; what was no JSON object is kept beside them."""
    try:
        known = json.loads(details) if details else {}
    except (ValueError, RecursionError):
        known = None
    if not isinstance(known, dict):
        known = {"details": details}
    return json.dumps(known | facts)

"""The audit log of enforcements, and the enforcements that have begun and not ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import itemgetter
from types import NoneType
from typing import TYPE_CHECKING, Any, ClassVar, Self

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.orm import Mapped, mapped_column

from risk_store.columns import INT64_MAX, is_plain_text, storable_text
from risk_store.errors import InvalidValue
from risk_store.models.base import Base, Count, Flag, FreeStr, Id, Identifier, Instant, quick_init, utc_now
from risk_store.owner import RUNNING, Owner, OwnerState, this_process

__all__ = ["EnforcementInFlight", "EnforcementLog", "is_plain_row"]


class EnforcementLog(Base, kw_only=False):
    """One enforcement that has ended: what was done to which account, why, and how long it took.

    Fields and defaults are in the order of DB-SCHEMA-003, so v1 code constructs it as before, by position too. The
    defaults exist for that; a row is only *written* with a positive account_id and a rule_id, an action and a reason.
    The table is insert-only (D5).

    >>> log = EnforcementLog(account_id=123, rule_id="RULE-003", action="CLOSE_ALL", reason="Test", success=True,
    ...                      execution_time_ms=145)
    >>> log.to_dict()["execution_time_ms"]
    145
    """

    __tablename__ = "enforcement_log"
    __table_args__ = ({"sqlite_autoincrement": True},)
    written_whole = True

    id: Mapped[Id | None] = mapped_column(sa.Identity(), primary_key=True, nullable=False, default=None)
    account_id: Mapped[Id] = mapped_column(default=0)
    rule_id: Mapped[Identifier] = mapped_column(default="")
    action: Mapped[Identifier] = mapped_column(default="")
    reason: Mapped[FreeStr] = mapped_column(default="")
    success: Mapped[Flag] = mapped_column(server_default=sa.true(), default=False)
    error_message: Mapped[FreeStr | None] = mapped_column(default=None)
    """What did not work, when success is False."""
    positions_closed: Mapped[Count] = mapped_column(server_default=sa.text("0"), default=0)
    orders_canceled: Mapped[Count] = mapped_column(server_default=sa.text("0"), default=0)
    timestamp: Mapped[Instant | None] = mapped_column(
        server_default=sa.func.current_timestamp(), default_factory=utc_now
    )
    """When the enforcement began. v1's column allows NULL; rows written here always have it."""
    execution_time_ms: Mapped[Count | None] = mapped_column(default=None)
    """Whole milliseconds from the beginning to the writing of this row, rounded up; None where it was not measured."""
    details: Mapped[FreeStr | None] = mapped_column(default=None)
    """More facts, JSON by convention."""
    enforcement_id: Mapped[Identifier | None] = mapped_column(default=None)
    """Names the enforcement once and for all, unique per account: a retry finds the row instead of doubling it."""

    if not TYPE_CHECKING:
        __init__ = quick_init

    V1_COLUMNS: ClassVar[tuple[str, ...]] = (
        "id",
        "timestamp",
        "account_id",
        "rule_id",
        "action",
        "reason",
        "success",
        "details",
        "execution_time_ms",
    )
    SPECIFICATION_COLUMNS: ClassVar[tuple[str, ...]] = (
        "id",
        "account_id",
        "rule_id",
        "action",
        "reason",
        "success",
        "error_message",
        "positions_closed",
        "orders_canceled",
        "timestamp",
        "execution_time_ms",
    )

    @classmethod
    def from_db_row(cls, row: Any) -> Self:
        """A log row from a Row, a mapping, or a tuple.

        9 wide is v1's column order; 10 or 11 wide is the specification's, without and with the time. Another width
        raises :class:`ValueError`. A missing time reads as None.

        >>> EnforcementLog.from_db_row((1, 123, "RULE-003", "CLOSE_ALL", "loss", 1, None, 2, 1,
        ...                             "2025-10-21 17:00:00")).execution_time_ms is None
        True
        """
        return cls._from_row(row, (cls.V1_COLUMNS, cls.SPECIFICATION_COLUMNS[:-1], cls.SPECIFICATION_COLUMNS))

    def check_writable(self) -> None:
        """Raises :class:`~risk_store.errors.InvalidValue` unless this row may enter the log."""
        self.check_values({name: getattr(self, name) for name in _CHECKED})

    @staticmethod
    def check_values(values: Mapping[str, Any]) -> None:
        """The same of the values of a row."""
        if is_plain_row(*_CHECKED_OF(values)) and is_plain_text(values["rule_id"] + values["action"]):
            return
        EnforcementLog.check_asked(*[values[name] for name in ("account_id", "rule_id", "action", "reason")])
        if not isinstance(values["success"], bool):
            raise InvalidValue("success", values["success"], "True or False")
        for field in ("positions_closed", "orders_canceled"):
            if _whole(field, values[field]) < 0:
                raise InvalidValue(field, values[field], "a count of 0 or more")
        milliseconds = values["execution_time_ms"]
        if milliseconds is not None and _whole("execution_time_ms", milliseconds) < 0:
            raise InvalidValue("execution_time_ms", milliseconds, "whole milliseconds, 0 or more")

    @staticmethod
    def check_asked(account_id: int, rule_id: str, action: str, reason: str) -> None:
        """The same of what is known before an enforcement begins."""
        if not 1 <= _whole("account_id", account_id) <= INT64_MAX:
            raise InvalidValue("account_id", account_id, "an account id from 1 to 2**63 - 1")
        for field, value in (("rule_id", rule_id), ("action", action), ("reason", reason)):
            if not isinstance(value, str) or not value:
                raise InvalidValue(field, value, "text that is not empty; every log row names it")
            if field != "reason" and storable_text(value) != value:
                raise InvalidValue(field, value, "text without NUL characters and lone surrogates")

    @staticmethod
    def are_plain(columns: Mapping[str, Sequence[Any]]) -> bool:
        """Whether :meth:`check_values` would pass the values of all rows: a quick look that may say no in doubt."""
        kinds = {name: {*map(type, columns[name])} for name in _CHECKED}
        texts, identifiers = (*_IDENTIFIERS, "reason"), [*columns["rule_id"], *columns["action"]]
        times = [time for time in columns["execution_time_ms"] if time is not None]
        return (
            kinds["success"] <= {bool}
            and all(kinds[name] <= {str} and all(columns[name]) for name in texts)
            and is_plain_text("".join(identifiers))
            and all(kinds[name] <= {int} for name in ("account_id", "positions_closed", "orders_canceled"))
            and kinds["execution_time_ms"] <= {int, NoneType}
            and min(columns["account_id"]) >= 1
            and max(columns["account_id"]) <= INT64_MAX
            and min(*columns["positions_closed"], *columns["orders_canceled"], *times) >= 0
        )


_IDENTIFIERS = ("rule_id", "action")
_CHECKED = (
    *("account_id", "rule_id", "action", "reason", "success"),
    *("positions_closed", "orders_canceled", "execution_time_ms"),
)
_CHECKED_OF = itemgetter(*_CHECKED)


def is_plain_row(
    account: Any, rule: Any, action: Any, reason: Any, success: Any, positions: Any, orders: Any, time: Any
) -> bool:
    """Whether the checked values of a log row are as they nearly always are, and need not be looked at one by one.

    What is in its texts is for the caller to look at: all of them in one go.
    """
    return (
        type(account) is type(positions) is type(orders) is int
        and type(rule) is type(action) is type(reason) is str
        and (success is True or success is False)
        and (time is None or (type(time) is int and 0 <= time <= INT64_MAX))
        and 0 < account <= INT64_MAX
        and 0 <= positions <= INT64_MAX
        and 0 <= orders <= INT64_MAX
        and rule != "" != action
        and reason != ""
    )


def _whole(field: str, value: object) -> int:
    if type(value) is not int and (not isinstance(value, int) or isinstance(value, bool)):
        raise InvalidValue(field, value, "a whole number")
    return value


@event.listens_for(EnforcementLog, "before_insert")
def _check_before_insert(_mapper: Any, _connection: Any, log: EnforcementLog) -> None:
    log.check_writable()  # the same rule for a caller's own `session.add(log)`


class EnforcementInFlight(Base, kw_only=True):
    """An enforcement that has begun and not ended: the intent, written before the first position is closed (D5).

    Finishing deletes this row and inserts the log row in one transaction. A process that dies in between leaves the
    row, which tells what was being done to which account, and by whom.
    """

    __tablename__ = "enforcement_in_flight"

    account_id: Mapped[Id] = mapped_column(primary_key=True, autoincrement=False)
    enforcement_id: Mapped[Identifier] = mapped_column(primary_key=True)
    rule_id: Mapped[Identifier]
    action: Mapped[Identifier]
    reason: Mapped[FreeStr]
    details: Mapped[FreeStr | None] = mapped_column(default=None)
    started_at: Mapped[Instant] = mapped_column(default_factory=utc_now)
    host: Mapped[FreeStr]
    """The owner's host name. With boot_id, pid and process_started it names one process for ever."""
    boot_id: Mapped[FreeStr | None] = mapped_column(default=None)
    """Which boot of that host, where the system tells (Linux: /proc/sys/kernel/random/boot_id)."""
    pid: Mapped[Count]
    process_started: Mapped[FreeStr | None] = mapped_column(default=None)
    """The owner's start time in the system's own unit (Linux: clock ticks since boot), since pids are used again."""

    if not TYPE_CHECKING:
        __init__ = quick_init

    @property
    def owner(self) -> Owner:
        """The process that carries it out."""
        return Owner(self.host, self.boot_id, self.pid, self.process_started)

    def owner_state(self) -> OwnerState:
        """Whether somebody still carries it out; not this process, if it is one of its own that has ended."""
        if self.owner == this_process():
            return OwnerState.ALIVE if self.enforcement_id in RUNNING else OwnerState.GONE
        return self.owner.state()


# The indexes of v1, by v1's names.
sa.Index("idx_enforcement_account", EnforcementLog.account_id)
sa.Index("idx_enforcement_timestamp", EnforcementLog.timestamp.desc())
sa.Index("idx_enforcement_rule", EnforcementLog.rule_id)
sa.Index(
    "uq_enforcement_log_account_id_enforcement_id",
    EnforcementLog.account_id,
    EnforcementLog.enforcement_id,
    unique=True,
)
# The slow list, slowest first with the newest first among equals, without a scan. Partial: most enforcements are fast
# and cost nothing here. The bound is the default WARNING threshold; statements with a lower one scan.
SLOW_INDEX_ABOVE_MS = 500
_SLOW = EnforcementLog.execution_time_ms > sa.literal_column(str(SLOW_INDEX_ABOVE_MS))
sa.Index(
    "ix_enforcement_log_slow",
    EnforcementLog.execution_time_ms.desc(),
    EnforcementLog.id.desc(),
    postgresql_where=_SLOW,
    sqlite_where=_SLOW,
)

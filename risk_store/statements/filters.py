"""Which rows of the log a statement speaks of."""

from __future__ import annotations

from datetime import datetime
from typing import TypeVarTuple

import sqlalchemy as sa

from risk_store.errors import InvalidValue
from risk_store.models import EnforcementLog

__all__ = ["at_least", "of_log"]

Ts = TypeVarTuple("Ts")


def of_log(
    statement: sa.Select[*Ts],
    account_id: int | None,
    rule_id: str | None,
    since: datetime | None,
    until: datetime | None,
) -> sa.Select[*Ts]:
    """`statement` narrowed to an account, a rule, and instants from `since` (inclusive) to `until` (exclusive)."""
    if account_id is not None:
        statement = statement.where(EnforcementLog.account_id == account_id)
    if rule_id is not None:
        statement = statement.where(EnforcementLog.rule_id == rule_id)
    if since is not None:
        statement = statement.where(EnforcementLog.timestamp >= aware("since", since))
    if until is not None:
        statement = statement.where(EnforcementLog.timestamp < aware("until", until))
    return statement


def aware(field: str, value: datetime) -> datetime:
    if not isinstance(value, datetime) or value.utcoffset() is None:
        raise InvalidValue(field, value, "an instant with a time zone, such as datetime.now(UTC)")
    return value


def at_least(field: str, value: int, least: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise InvalidValue(field, value, f"a whole number, {least} or more")
    return value

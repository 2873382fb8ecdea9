"""Rows of an enforcement as they nearly always are: looked at in one go, and sent as they stand.

What a row may hold is said by the models and by the types of the columns, value by value. But the thread of a record
comes from waiting for a disk or a network, with cold caches, and each further function then takes it four times what it
takes in a loop. So a row is looked at here first. One that is unusual in any way goes the long way, which also says
what is wrong with it; `tests/test_plain_rows.py` holds the two to each other.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from operator import itemgetter
from typing import Any

from risk_store.columns import INT64_MAX
from risk_store.models import EnforcementLog, Lockout
from risk_store.models.enforcement import is_plain_row

__all__ = [
    "LOCKOUT_COLUMNS",
    "LOG_COLUMNS",
    "lockout_as_json",
    "log_as_json",
    "plain_lockout",
    "plain_log",
]

LOG_COLUMNS = [column.name for column in EnforcementLog.__table__.columns if column.name != "id"]
LOCKOUT_COLUMNS = Lockout.__table__.columns.keys()

_of_log = itemgetter(*LOG_COLUMNS)
_of_lockout = itemgetter("account_id", "reason", "rule_id")
_quoted = json.JSONEncoder().encode


def plain_log(log: EnforcementLog, *, for_sqlite: bool) -> tuple[Any, ...] | None:
    """The values of LOG_COLUMNS as the driver takes them, if each may be written as it is; in doubt None.

    >>> log = EnforcementLog(account_id=123, rule_id="RULE-003", action="CLOSE_ALL", reason="loss", success=True,
    ...                      enforcement_id="ab12", timestamp=datetime(2025, 10, 21, 17, tzinfo=UTC))
    >>> plain_log(log, for_sqlite=True)[4:9]
    (1, None, 0, 0, '2025-10-21 17:00:00')
    >>> log.reason = "loss of 550 €"
    >>> plain_log(log, for_sqlite=True) is None
    True
    """
    try:
        values: tuple[Any, ...] = _of_log(vars(log))
    except KeyError:  # one is not loaded
        return None
    account, rule, action, reason, success, error, positions, orders, began, ms, details, name = values
    if (
        is_plain_row(account, rule, action, reason, success, positions, orders, ms)
        and type(began) is datetime
        and began.tzinfo is UTC
        and type(name) is str
        and (error is None or type(error) is str)
        and (details is None or type(details) is str)
        and (texts := f"{rule}{action}{reason}{name}{error}{details}").isascii()  # is_plain_text, without a call
        and "\0" not in texts
    ):
        if not for_sqlite:
            return values
        truth, at = int(success), began.isoformat(" ")[:-6]
        return account, rule, action, reason, truth, error, positions, orders, at, ms, details, name
    return None


def plain_lockout(lockout: Lockout, at: datetime, *, for_sqlite: bool) -> tuple[Any, ...] | None:
    """The same of LOCKOUT_COLUMNS and ``at``, which is when the lockout begins.

    >>> lockout = Lockout(account_id=123, reason="loss", rule_id="RULE-003")
    >>> plain_lockout(lockout, datetime(2025, 10, 21, 17, tzinfo=UTC), for_sqlite=True)[:5]
    (123, 1, 'loss', '2025-10-21 17:00:00', None)
    """
    held = vars(lockout)
    try:
        account, reason, rule = _of_lockout(held)
    except KeyError:
        return None
    # What was not given is not there, and the attribute takes as long as all the rest.
    until = held["locked_until"] if "locked_until" in held else lockout.locked_until  # noqa: SIM401
    if (
        type(account) is int
        and 0 < account <= INT64_MAX
        and type(reason) is type(rule) is str
        and reason != "" != rule
        and (until is None or (type(until) is datetime and until.tzinfo is UTC))
        and type(at) is datetime  # the clock may be anybody's
        and at.tzinfo is UTC
        and (texts := reason + rule).isascii()
        and "\0" not in texts
    ):
        if not for_sqlite:
            return account, True, reason, at, until, rule, at, at, at
        now, end = at.isoformat(" ")[:-6], until and until.isoformat(" ")[:-6]
        return account, 1, reason, now, end, rule, now, now, now
    return None


def log_as_json(values: Sequence[Any], n: int) -> str:
    """What :func:`plain_log` made for a server, as one of the rows of ``rows_as_parameter``: by one expression.

    >>> log = EnforcementLog(account_id=123, rule_id="RULE-003", action="CLOSE_ALL", reason="loss", success=True,
    ...                      enforcement_id="ab12", timestamp=datetime(2025, 10, 21, 17, tzinfo=UTC))
    >>> log_as_json(plain_log(log, for_sqlite=False), n=0)[:71]
    '{"account_id":123,"rule_id":"RULE-003","action":"CLOSE_ALL","reason":"l'
    """
    account, rule, action, reason, success, error, positions, orders, began, ms, details, name = values
    wrong, more = "null" if error is None else _quoted(error), "null" if details is None else _quoted(details)
    return (
        f'{{"account_id":{account},"rule_id":{_quoted(rule)},"action":{_quoted(action)},"reason":{_quoted(reason)},'
        f'"success":{"true" if success else "false"},"error_message":{wrong},'
        f'"positions_closed":{positions},"orders_canceled":{orders},"timestamp":"{began.isoformat(" ")}",'
        f'"execution_time_ms":{"null" if ms is None else ms},"details":{more},'
        f'"enforcement_id":{_quoted(name)},"n":{n}}}'
    )


def lockout_as_json(values: Sequence[Any]) -> str:
    """The same of :func:`plain_lockout`.

    >>> lockout = Lockout(account_id=123, reason="loss", rule_id="RULE-003")
    >>> lockout_as_json(plain_lockout(lockout, datetime(2025, 10, 21, 17, tzinfo=UTC), for_sqlite=False))[:72]
    '{"account_id":123,"is_locked":true,"reason":"loss","rule_id":"RULE-003",'
    """
    account, _is_locked, reason, at, until, rule, *_at = values
    now, end = at.isoformat(" "), "null" if until is None else f'"{until.isoformat(" ")}"'
    return (
        f'{{"account_id":{account},"is_locked":true,"reason":{_quoted(reason)},"rule_id":{_quoted(rule)},'
        f'"locked_at":"{now}","locked_until":{end},"created_at":"{now}","updated_at":"{now}"}}'
    )

"""Records that could not be written, read back from the program's own log.

An enforcement whose outcome could not be written is on the log at CRITICAL as one JSON line
(:mod:`risk_store.enforcement`). Such lines may stand anywhere in a log file, behind whatever its format puts first.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from risk_store.errors import InvalidValue, shown
from risk_store.models import Base, EnforcementLog, Lockout
from risk_store.repositories import Transaction

__all__ = ["Spilled", "read_back", "read_line"]

NOT_RECORDED = "enforcement not recorded"
# These too name lockouts that were asked for; what they tell of the enforcement itself is told again at its end.
_OTHERS = ("enforcement begun without an in-flight row", "lockout not written yet")


@dataclass(frozen=True, slots=True)
class Spilled:
    """One such line: the log row, if it is one of an outcome, and the lockouts that were not known to be written."""

    line: int
    account_id: int
    enforcement_id: str
    log: EnforcementLog | None
    lockouts: tuple[Lockout, ...]

    def write(self, tx: Transaction, now: datetime) -> bool:
        """Writes what is not in the store yet; whether the log row was missing. A second time it does nothing.

        Lockouts that would be over are not set, and none is shortened. Raises InvalidValue for a row that may not enter
        the log.
        """
        if self._is_known(tx):
            return False  # its lockouts were written with it; since then somebody may have released the account
        for lockout in self.lockouts:
            if lockout.locked_until is None or lockout.locked_until > now:
                tx.lockouts.set(lockout.account_id, lockout.reason or "", lockout.rule_id or "", lockout.locked_until)
        if self.log is None:
            return False
        tx.enforcements.finish(self.log)
        return True

    def _is_known(self, tx: Transaction) -> bool:
        if self.log is not None:
            return tx.enforcements.find_recorded(self.log) is not None
        return tx.enforcements.find(self.account_id, self.enforcement_id) is not None


def read_back(lines: Iterable[str]) -> Iterator[Spilled | InvalidValue]:
    """The records among the lines of a log. A line that begins like one and cannot be read is given as the error.

    >>> facts = {"event": "enforcement not recorded", "account_id": 1, "rule_id": "R", "action": "A", "reason": "r",
    ...          "success": True, "enforcement_id": "01890a5d"}
    >>> [spilled.log.account_id for spilled in read_back(["another line", "12:00 CRITICAL " + json.dumps(facts)])]
    [1]
    """
    for number, line in enumerate(lines, 1):
        if (found := read_line(number, line)) is not None:
            yield found


def read_line(number: int, line: str) -> Spilled | InvalidValue | None:
    """The record in one line, the error if it begins like one and cannot be read; None for any other line."""
    start = line.find('{"event": "')
    if start < 0:
        return None
    try:
        return _spilled(number, json.loads(line[start:]))
    except (ValueError, TypeError, RecursionError) as error:
        reason = f"one JSON object of a record ({' '.join(str(error).split())})"
        return InvalidValue(f"line {number}", line.strip(), reason)


def _spilled(number: int, facts: Mapping[str, Any]) -> Spilled | None:
    event = facts["event"]
    lockouts = tuple(_loaded(Lockout, lockout) for lockout in facts.get("lockouts", ()))
    if event not in (*_OTHERS, NOT_RECORDED):
        return None
    key = (facts["account_id"], facts["enforcement_id"])
    if event in _OTHERS:
        return Spilled(number, *key, None, lockouts)
    log: EnforcementLog = _loaded(EnforcementLog, facts)
    log.id = None
    if not log.enforcement_id:
        raise ValueError(f"enforcement_id is {shown(log.enforcement_id)}: it could not be told from a second copy")
    log.positions_closed = log.positions_closed or 0
    log.orders_canceled = log.orders_canceled or 0
    log.check_writable()
    return Spilled(number, *key, log, lockouts)


def _loaded(model: type[Base], facts: Mapping[str, Any]) -> Any:
    names = model.__table__.columns.keys()
    return model.from_dict(dict.fromkeys(names) | {name: value for name, value in facts.items() if name in names})

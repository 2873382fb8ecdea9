"""Enforcements whose process died in the middle: what was being done to which account (SPEC 4)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from risk_store.errors import InvalidValue
from risk_store.models import EnforcementInFlight
from risk_store.owner import OwnerState

__all__ = ["Interrupted"]


@dataclass(frozen=True, slots=True)
class Interrupted:
    """An enforcement that has begun and not ended, and whose process does not run, as far as this host can tell.

    >>> row = EnforcementInFlight(account_id=1, enforcement_id="e", rule_id="R", action="A", reason="r", host="h",
    ...                           pid=1)
    >>> [found.owner.value for found in Interrupted.among([row])]
    ['unknown']
    """

    row: EnforcementInFlight
    """What was being done to which account, since when, by which process."""
    owner: OwnerState
    """``gone``, or ``unknown``: a process of another host."""

    @classmethod
    def among(cls, in_flight: Iterable[EnforcementInFlight]) -> list[Self]:
        """Those of `in_flight` whose process is not known to be alive."""
        states = ((row, row.owner_state()) for row in in_flight)
        return [cls(row, state) for row, state in states if state is not OwnerState.ALIVE]

    @staticmethod
    def check(row: Interrupted | EnforcementInFlight, other_host: bool) -> EnforcementInFlight:
        """The in-flight row, if it may be closed. Judged now: it may have been listed a while ago."""
        in_flight = row.row if isinstance(row, Interrupted) else row
        state = in_flight.owner_state()
        if state is OwnerState.ALIVE:
            raise InvalidValue("row", in_flight.enforcement_id, f"interrupted: its process {in_flight.pid} is running")
        if state is OwnerState.UNKNOWN and not other_host:
            where = f"process {in_flight.pid} of {in_flight.host}"
            raise InvalidValue(
                "row",
                in_flight.enforcement_id,
                f"known here to be interrupted: it is of {where}. "
                "Make sure that it does not run, and say so: other_host=True",
            )
        return in_flight

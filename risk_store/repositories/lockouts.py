"""Which accounts may not trade."""

from __future__ import annotations

import json
from datetime import datetime

from risk_store.columns import INT64_MAX
from risk_store.errors import InvalidValue
from risk_store.models import EnforcementLog, Lockout
from risk_store.repositories.base import Repository, row_values
from risk_store.repositories.enforcements import EnforcementLogRepository
from risk_store.statements import lockouts as statements

__all__ = ["LockoutRepository"]

RELEASE_ACTION = "RELEASE_LOCKOUT"
BY_HAND = "MANUAL"  # the rule of a release where the lockout names none


class LockoutRepository(Repository):
    """Lockouts in a session. ``LockoutRepository.statements`` has its expressions."""

    statements = statements

    def get(self, account_id: int) -> Lockout | None:
        """The account's lockout, whether it holds or is over, or None."""
        return self._session.get(Lockout, account_id, populate_existing=True)

    def set(self, account_id: int, reason: str, rule_id: str, until: datetime | None = None) -> None:
        """Locks an account until an instant, or until released (None).

        Never shortens a running lockout: None beats any instant, later beats earlier, and the one that is kept keeps
        its reason. Raises InvalidValue.
        """
        if not isinstance(account_id, int) or isinstance(account_id, bool) or not 1 <= account_id <= INT64_MAX:
            raise InvalidValue("account_id", account_id, "an account id from 1 to 2**63 - 1")
        _check_text("reason", reason)
        _check_text("rule_id", rule_id)
        if until is not None and (not isinstance(until, datetime) or until.utcoffset() is None):
            raise InvalidValue("until", until, "an instant with a time zone, or None for until released")
        now = self._clock()
        lockout = Lockout(
            account_id=account_id,
            is_locked=True,
            reason=reason,
            locked_at=now,
            locked_until=until,
            rule_id=rule_id,
            created_at=now,
            updated_at=now,
        )
        self._session.execute(statements.SET.of(self._session), {**row_values(lockout), "now": now})

    def release(self, account_id: int, reason: str, by: str) -> bool:
        """Ends an account's lockout, and writes who did it and why to the log: the only way to shorten one.

        False, and nothing written, when the account is not locked.
        """
        _check_text("reason", reason)
        _check_text("by", by)
        now = self._clock()
        lockout = self.get(account_id)
        released = self._session.execute(statements.RELEASE, {"of_account": account_id, "now": now})
        if lockout is None or not released.rowcount:  # type: ignore[attr-defined]  # a CursorResult, as of any UPDATE
            return False
        facts = {"released_by": by, "lockout": lockout.to_dict()}
        log = EnforcementLog(
            account_id=account_id,
            rule_id=lockout.rule_id or BY_HAND,
            action=RELEASE_ACTION,
            reason=reason,
            success=True,
            timestamp=now,
            details=json.dumps(facts, default=str),
        )
        EnforcementLogRepository(self._session, self._clock).add(log)
        self._session.refresh(lockout)
        return True

    def is_locked(self, account_id: int, at: datetime | None = None) -> bool:
        """Whether the account may not trade at `at` (default: now).

        True while `at` is before the end, and when the end cannot be read. A database that cannot answer raises; it is
        never taken for "free".
        """
        lockout = self.get(account_id)
        if lockout is None or not lockout.is_locked:
            return False
        # An end that cannot be read comes back as it is stored.
        return not isinstance(lockout.locked_until, datetime) or (at or self._clock()) < lockout.locked_until

    def active(self, at: datetime | None = None) -> list[Lockout]:
        """The lockouts that hold at `at` (default: now), by account."""
        statement = statements.active_lockouts(at or self._clock()).execution_options(populate_existing=True)
        return list(self._session.scalars(statement))

    def expire(self, at: datetime | None = None) -> list[int]:
        """Ends the lockouts whose time is over at `at` (default: now); returns their accounts.

        Checked again in the UPDATE itself: one that was extended meanwhile stays.
        """
        return sorted(self._session.scalars(statements.EXPIRE, {"now": at or self._clock()}))


def _check_text(field: str, value: object) -> None:
    if not isinstance(value, str) or not value:
        raise InvalidValue(field, value, "text that is not empty")

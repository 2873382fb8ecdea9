"""Which accounts may not trade."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime

from risk_store.columns import storable_text
from risk_store.models import EnforcementLog, Lockout
from risk_store.repositories.base import FRESH, Repository
from risk_store.repositories.enforcements import EnforcementLogRepository
from risk_store.repositories.prepared import Prepared
from risk_store.statements import arguments
from risk_store.statements import lockouts as statements

__all__ = ["LockoutRepository", "SET", "lockout_values"]


class LockoutRepository(Repository):
    """Lockouts in a session of the caller's. Never begins, never commits.

    In doubt an account is locked: an end that cannot be read never comes, and a database error is raised, never
    answered with "free". Bad arguments raise :class:`~risk_store.errors.InvalidValue`. `at` defaults to now.

    >>> import sqlalchemy as sa
    >>> from sqlalchemy.orm import Session
    >>> from risk_store.models import Base
    >>> engine = sa.create_engine("sqlite://")
    >>> Base.metadata.create_all(engine)
    >>> with Session(engine) as session:
    ...     lockouts = LockoutRepository(session)
    ...     _ = lockouts.set(123, "Daily loss limit hit: -$550", "RULE-003")
    ...     locked = lockouts.is_locked(123)
    ...     _ = lockouts.release(123, "Reviewed", by="ann")
    ...     locked, lockouts.is_locked(123)
    (True, False)
    >>> engine.dispose()
    """

    statements = statements

    def get(self, account_id: int) -> Lockout | None:
        """The account's lockout as stored now, running or over."""
        key = {"account": arguments.account(account_id)}
        return self._session.scalars(statements.GET_LOCKOUT, key, execution_options=FRESH).one_or_none()

    def set(self, account_id: int, reason: str, rule_id: str, until: datetime | None = None) -> bool:
        """Locks the account until `until`, or until released. Never shortens a lockout that is running.

        Returns whether this lockout is now the one in place; if not, the running one lasts at least as long and keeps
        its reason.
        """
        values = lockout_values(account_id, reason, rule_id, until, self._clock())
        return self._lane.write(SET, Lockout, values).rowcount > 0

    def release(self, account_id: int, reason: str, by: str) -> bool:
        """Ends the account's running lockout now and writes that to the log: who, why, and what was released.

        Returns False, and writes nothing, if the account is not locked.
        """
        arguments.text("reason", reason)
        arguments.text("by", by)
        now = self._clock()
        key = {"account": arguments.account(account_id), "at": now, "now": now}
        released = self._session.execute(statements.RELEASE, key).one_or_none()
        if released is None:
            return False
        EnforcementLogRepository(self._session, self._clock).add(
            EnforcementLog(
                account_id=account_id,
                rule_id=storable_text(str(released.rule_id or "MANUAL")),  # whatever v1 wrote must not keep it locked
                action="RELEASE_LOCKOUT",
                reason=reason,
                success=True,
                timestamp=now,
                details=json.dumps({"released_by": by, "released": dict(released._mapping)}, default=_json),
            )
        )
        return True

    def is_locked(self, account_id: int, at: datetime | None = None) -> bool:
        """Whether the account may not trade: it is locked while `at` is before the lockout's end."""
        key = {"account": arguments.account(account_id), "at": self._instant(at)}
        return self._run(_IS_LOCKED, Lockout, key).first() is not None

    def active(self, at: datetime | None = None) -> Sequence[Lockout]:
        """The lockouts that are running, by account."""
        at = self._instant(at)
        return self._telling(
            lambda: self._session.scalars(statements.ACTIVE, {"at": at}, execution_options=FRESH).all()
        )

    def expire(self, at: datetime | None = None) -> list[int]:
        """Unlocks the accounts whose lockout has ended by `at`, and returns them in order."""
        ended = self._session.scalars(statements.EXPIRE, {"at": self._instant(at), "now": self._clock()})
        return sorted(ended)

    def _instant(self, at: datetime | None) -> datetime:
        return self._clock() if at is None else arguments.instant("at", at)


SET, _IS_LOCKED = Prepared(statements.SET_LOCKOUT), Prepared(statements.IS_LOCKED)


def lockout_values(
    account_id: int, reason: str, rule_id: str, until: datetime | None, now: datetime
) -> dict[str, object]:
    """The parameters of the statement that locks an account. Raises InvalidValue for what is no lockout."""
    return {
        "account_id": arguments.account(account_id),
        "is_locked": True,
        "reason": arguments.text("reason", reason),
        "locked_at": now,
        "locked_until": None if until is None else arguments.instant("until", until),
        "rule_id": arguments.text("rule_id", rule_id),
        "created_at": now,
        "updated_at": now,
        "at": now,
    }


def _json(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)

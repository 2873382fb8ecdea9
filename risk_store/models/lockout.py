"""Which accounts may not trade."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from risk_store.models.base import Base, Flag, FreeStr, Id, Identifier, Instant, quick_init, utc_now

__all__ = ["Lockout"]


class Lockout(Base, kw_only=True):
    """The lockout of one account: at most one row an account, kept after it ends.

    An account is locked while ``is_locked`` and the instant is before ``locked_until``; NULL there means until
    released. Write through :class:`~risk_store.repositories.LockoutRepository`, which never shortens a running one.

    >>> Lockout(account_id=456, is_locked=True, reason="Daily loss limit hit").locked_until is None
    True
    """

    __tablename__ = "lockouts"

    account_id: Mapped[Id] = mapped_column(primary_key=True, autoincrement=False)
    is_locked: Mapped[Flag] = mapped_column(server_default=sa.false(), default=False)
    reason: Mapped[FreeStr | None] = mapped_column(default=None)
    locked_at: Mapped[Instant | None] = mapped_column(default=None)
    locked_until: Mapped[Instant | None] = mapped_column(default=None)
    rule_id: Mapped[Identifier | None] = mapped_column(default=None)
    created_at: Mapped[Instant | None] = mapped_column(server_default=sa.func.current_timestamp(), default=None)
    updated_at: Mapped[Instant | None] = mapped_column(
        server_default=sa.func.current_timestamp(), onupdate=utc_now, default=None
    )

    if not TYPE_CHECKING:
        __init__ = quick_init


sa.Index("idx_lockouts_until", Lockout.locked_until)

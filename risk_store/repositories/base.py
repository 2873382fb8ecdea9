"""What every repository has: a session that somebody else begins, commits and closes, and a clock."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from risk_store.models.base import Base, utc_now

__all__ = ["Repository", "row_values"]


class Repository:
    """Executes statements in a plain :class:`~sqlalchemy.orm.Session`, a store's or a caller's own."""

    def __init__(self, session: Session, clock: Callable[[], datetime] = utc_now) -> None:
        self._session = session
        self._clock = clock


def row_values(instance: Base, leave_out: frozenset[str] = frozenset()) -> dict[str, Any]:
    """The fields of a model as the parameters of an INSERT."""
    names = [column.name for column in type(instance).__table__.columns]
    return {name: getattr(instance, name) for name in names if name not in leave_out}

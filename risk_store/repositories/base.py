"""What the repositories share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from risk_store.errors import InvalidValue
from risk_store.models import Base
from risk_store.models.base import utc_now

__all__ = ["FRESH", "Repository"]

# Core statements write past the session's objects: what is read afterwards must not come from its memory.
FRESH = {"populate_existing": True}


class Repository:
    """Base: a session, and a clock for the instants that are written."""

    def __init__(self, session: Session, clock: Callable[[], datetime] = utc_now) -> None:
        self._session = session
        self._clock = clock

    def _of_dialect(self, statements: Mapping[str, Any], model: type[Base]) -> Any:
        """The one of `statements` that is written for the database in which `model` lives."""
        dialect = self._session.get_bind(model).dialect.name
        if dialect not in statements:
            raise InvalidValue("dialect", dialect, "one of " + ", ".join(statements))
        return statements[dialect]

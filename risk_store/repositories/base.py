"""What the repositories share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.orm import Session

from risk_store.errors import InvalidValue
from risk_store.models import Base
from risk_store.models.base import utc_now
from risk_store.repositories.unreadable import telling

__all__ = ["FRESH", "Repository"]

S = TypeVar("S", bound=Sequence[Any])

# Core statements write past the session's objects: what is read afterwards must not come from its memory.
FRESH = {"populate_existing": True}


class Repository:
    """Base: a session, and a clock for the instants that are written."""

    def __init__(self, session: Session, clock: Callable[[], datetime] = utc_now) -> None:
        self._session = session
        self._clock = clock

    def _telling(self, load: Callable[[], S], table: sa.Table | None = None) -> S:
        """What `load` returns. Of values in it that nobody can read the program's log is told, once each."""
        return telling(self._session, load, table)

    def _of_dialect(self, statements: Mapping[str, Any], model: type[Base]) -> Any:
        """The one of `statements` that is written for the database in which `model` lives."""
        dialect = self._session.get_bind(model).dialect.name
        if dialect not in statements:
            raise InvalidValue("dialect", dialect, "one of " + ", ".join(statements))
        return statements[dialect]

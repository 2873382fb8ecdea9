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
from risk_store.repositories.lane import Lane
from risk_store.repositories.prepared import Prepared
from risk_store.repositories.unreadable import telling
from risk_store.statements.ids import DISTRIBUTED

__all__ = ["FRESH", "Repository"]

S = TypeVar("S", bound=Sequence[Any])

# Core statements write past the session's objects: what is read afterwards must not come from its memory.
FRESH = {"populate_existing": True}


class Repository:
    """Base: a session (of the caller's own, or of a store's transaction), and a clock for the instants written."""

    def __init__(self, session: Session | Lane, clock: Callable[[], datetime] = utc_now) -> None:
        self._lane = session if isinstance(session, Lane) else Lane(session)
        self._clock = clock

    @property
    def _session(self) -> Session:
        return self._lane.session

    def _run(
        self, prepared: Prepared, model: type[Base], parameters: Mapping[str, Any] | Sequence[Mapping[str, Any]]
    ) -> sa.CursorResult[Any]:
        """Carries out a hot statement in the database in which `model` lives."""
        return prepared.execute(self._lane.connection(model), parameters)

    def _telling(self, load: Callable[[], S], table: sa.Table | None = None) -> S:
        """What `load` returns. Of values in it that nobody can read the program's log is told, once each."""
        return telling(self._session, load, table)

    def _dialect(self, model: type[Base]) -> str:
        return self._lane.dialect(model).name

    def _is_distributed(self, model: type[Base]) -> bool:
        return self._lane.is_distributed(model)

    def _of_dialect(self, statements: Mapping[str, Any], model: type[Base]) -> Any:
        """The one of `statements` that is written for the database in which `model` lives."""
        dialect = self._dialect(model)
        if DISTRIBUTED in statements and self._is_distributed(model):
            return statements[DISTRIBUTED]
        if dialect not in statements:
            raise InvalidValue("dialect", dialect, "one of " + ", ".join(statements))
        return statements[dialect]

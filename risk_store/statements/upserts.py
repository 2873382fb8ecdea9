"""INSERT … ON CONFLICT for the engine a session is on.

SQLAlchemy has the construct once per dialect. A statement is built for each when its module is loaded, and
:meth:`PerDialect.of` picks the one to send.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

__all__ = ["PerDialect"]

S = TypeVar("S", bound=sa.Executable)


class PerDialect(Generic[S]):
    """One statement in the spelling of each dialect, built once."""

    def __init__(self, table: sa.Table, build: Callable[[Any], S]) -> None:
        self._statements: dict[str, S] = {
            "sqlite": build(sqlite.insert(table)),
            "postgresql": build(postgresql.insert(table)),
        }

    def of(self, session: Session) -> S:
        """The statement for the session's engine."""
        return self._statements[session.get_bind().dialect.name]

"""Hot statements, compiled once by public API to be sent as the driver's own SQL with converted values.

SQLAlchemy's way from a statement and its parameters to the driver costs 70–100 µs, beside some 20 for the row itself
(SQLite without the commit). Each event of an order and each enforcement would pay that. The column types still check
each value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from risk_store.errors import InvalidValue
from risk_store.repositories.encoding import Taken, encoder, row_encoder

__all__ = ["Compiled", "Prepared"]


class Prepared:
    """A statement, or one for each dialect, compiled when it is first needed on a driver.

    >>> engine = sa.create_engine("sqlite://")
    >>> with engine.connect() as connection:
    ...     Prepared(sa.select(sa.bindparam("a", type_=sa.Integer()) + 1)).execute(connection, {"a": 1}).scalar_one()
    2
    >>> engine.dispose()
    """

    def __init__(self, statement: Any | Mapping[str, Any], columns: Sequence[str] | None = None) -> None:
        self._statement = statement
        self._columns = columns  # of a plain insert, which else names every column of the table
        self._compiled: dict[tuple[str, str], Compiled] = {}
        self._last: tuple[sa.Dialect, Compiled] | None = None

    def execute(
        self, connection: sa.Connection, parameters: Mapping[str, Any] | Sequence[Mapping[str, Any]]
    ) -> sa.CursorResult[Any]:
        """Carries it out, once or, with a list, for each: what it returns comes as the driver gives it.

        Raises InvalidValue for a value that its column cannot keep, and for a dialect it is not written for.
        """
        dialect = connection.dialect
        if connection.get_execution_options().get("schema_translate_map"):
            return connection.execute(self._of(dialect), parameters)  # a caller's own, which plain SQL would not follow
        compiled = self.on(dialect)
        if isinstance(parameters, Mapping):
            return connection.exec_driver_sql(compiled.sql, compiled.values(parameters))
        return connection.exec_driver_sql(compiled.sql, list(map(compiled.values, parameters)))

    def on(self, dialect: sa.Dialect) -> Compiled:
        """The statement as the driver takes it."""
        last = self._last
        if last is not None and last[0] is dialect:
            return last[1]
        compiled = self._compiled.get((dialect.name, dialect.driver))
        if compiled is None:
            compiled = self._compiled[dialect.name, dialect.driver] = self._compile(dialect)
        self._last = (dialect, compiled)
        return compiled

    def _of(self, dialect: sa.Dialect) -> Any:
        statement = self._statement
        if not isinstance(statement, Mapping):
            return statement
        if dialect.name not in statement:
            raise InvalidValue("dialect", dialect.name, "one of " + ", ".join(statement))
        return statement[dialect.name]

    def _compile(self, dialect: sa.Dialect) -> Compiled:
        compiled = self._of(dialect).compile(dialect=dialect, column_keys=self._columns)
        parameters, fixed = {}, {}
        for bind, name in compiled.bind_names.items():
            if bind.required:
                parameters[name] = Taken.of(name, bind.key, bind.type, dialect)
            else:  # a value that is part of the statement
                value, encode = bind.effective_value, encoder(bind.type, dialect)
                fixed[name] = value if value is None or encode is None else encode(value)
                parameters[name] = Taken(name, name, None, None)
        names = compiled.positiontup  # where the driver takes values by position, some of them more than once
        taken, by_position = [parameters[name] for name in names or parameters], names is not None
        values = row_encoder(taken, fixed, by_position=by_position)
        return Compiled(compiled.string, taken, fixed, by_position, values)


class Compiled(NamedTuple):
    """A statement in the driver's own SQL, and what makes its values those that the driver takes."""

    sql: str
    taken: Sequence[Taken]
    """Its parameters, in the driver's order."""
    fixed: Mapping[str, Any]
    """The values that are part of the statement, by key."""
    by_position: bool
    values: Callable[[Mapping[str, Any]], Any]
    """What the driver takes, of the parameters by key. Raises InvalidValue for a value that its column cannot keep."""

    def by_name(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """The same by the names of the parameters, whichever way the driver takes them."""
        values = self.values(parameters)
        return dict(zip((each.name for each in self.taken), values, strict=True)) if self.by_position else values

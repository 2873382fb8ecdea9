"""What every model shares: the declarative base, the naming convention and the column aliases."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime
from functools import cache
from inspect import Parameter, Signature
from typing import Annotated, Any, ClassVar, Self

import sqlalchemy as sa
from sqlalchemy.orm import ClassManager, DeclarativeBase, InstanceState, MappedAsDataclass, class_mapper, mapped_column

from risk_store.codes import OrderSide, OrderState, OrderType, PositionType
from risk_store.columns import (
    CalendarDate,
    CheckedFloat,
    CheckedText,
    CheckedType,
    FreeText,
    Int64,
    IntCode,
    UtcInstant,
)

__all__ = [
    "Base",
    "Count",
    "Day",
    "Flag",
    "FreeStr",
    "Id",
    "Identifier",
    "Instant",
    "Money",
    "OrderSideCode",
    "OrderStateCode",
    "OrderTypeCode",
    "PositionTypeCode",
    "Price",
    "quick_init",
    "utc_now",
]

# Named constraints: SQLite's batch mode, Citus and schema diffs all need names. v1's own indexes keep v1's names.
NAMING_CONVENTION = {
    "pk": "pk_%(table_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
}


def utc_now() -> datetime:
    """The current instant, aware, in UTC."""
    return datetime.now(UTC)


Id = Annotated[int, mapped_column(Int64())]
"""A 64-bit id of the broker's or of ours."""
Count = Annotated[int, mapped_column(Int64())]
"""A whole number: contracts, positions, orders, milliseconds."""
Price = Annotated[float, mapped_column(CheckedFloat())]
"""A price or a distance, in the contract's price units."""
Money = Annotated[float, mapped_column(CheckedFloat())]
"""An amount in the account's currency."""
Flag = Annotated[bool, mapped_column(sa.Boolean())]
Identifier = Annotated[str, mapped_column(CheckedText())]
"""Text that must arrive unchanged: contract_id, rule_id, action."""
FreeStr = Annotated[str, mapped_column(FreeText())]
"""What a broker or a person wrote; escaped visibly where an engine could not store it."""
Instant = Annotated[datetime, mapped_column(UtcInstant())]
"""Aware UTC. An old row's value that cannot be read comes back as it is stored."""
Day = Annotated[date, mapped_column(CalendarDate())]
OrderTypeCode = Annotated[OrderType, mapped_column(IntCode(OrderType))]
OrderSideCode = Annotated[OrderSide, mapped_column(IntCode(OrderSide))]
OrderStateCode = Annotated[OrderState, mapped_column(IntCode(OrderState))]
PositionTypeCode = Annotated[PositionType, mapped_column(IntCode(PositionType))]


def _is_optional(field: dataclasses.Field[Any]) -> bool:
    return field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING


def _signature(model: Any) -> Signature:
    return Signature(
        [
            Parameter(
                field.name,
                Parameter.KEYWORD_ONLY if field.kw_only else Parameter.POSITIONAL_OR_KEYWORD,
                default=... if _is_optional(field) else Parameter.empty,
                annotation=field.type,
            )
            for field in dataclasses.fields(model)
        ]
    )


_NOT_GIVEN = object()
_QUICK: set[Any] = set()  # quick_init, and what it has written out in its place


@cache
def _written_out(model: Any) -> Callable[..., None]:
    """The ``__init__`` of `model`, with the parameters of the dataclass's own one, and written out as that one is."""
    manager = class_mapper(model).class_manager
    names: dict[str, Any] = {"not_given": _NOT_GIVEN}
    parameters, lines = ["self"], ["values = self.__dict__"]
    blank = manager.new_instance()  # which has no value, and tells the default of each
    for field in sorted(dataclasses.fields(model), key=lambda field: bool(field.kw_only)):
        if field.kw_only and "*" not in parameters:
            parameters.append("*")
        name, default, put = field.name, "not_given", f"values[{field.name!r}] = {field.name}"
        if field.default_factory is not dataclasses.MISSING:
            names[f"make_{name}"] = field.default_factory
            put = f"values[{name!r}] = make_{name}() if {name} is not_given else {name}"
        elif model.written_whole and _is_optional(field):
            default = f"default_{name}"
            names[default] = getattr(blank, name)
        elif _is_optional(field):
            put = f"if {name} is not not_given: {put}"
        parameters.append(f"{name}={default}" if _is_optional(field) else name)
        lines.append(put)
    if hasattr(model, "__post_init__"):
        lines.append("self.__post_init__()")
    code = f"def __init__({', '.join(parameters)}):\n    " + "\n    ".join(lines)
    exec(code, names)  # of our own fields alone
    init: Callable[..., None] = names["__init__"]
    init.__qualname__ = f"{model.__name__}.__init__"  # what a TypeError names
    _QUICK.add(init)
    return init


class _StateWhenAsked:
    """What SQLAlchemy knows of a new object of `model`, made when SQLAlchemy first looks for it.

    `store.record` writes its objects without the ORM, and most of them are never anything else's: making what nobody
    asks for, and taking it apart again, was a fifth of what such a record takes more than the plain driver. (SQLAlchemy
    looks for it under ``STATE_ATTR`` whenever it is given an object, and knows no other way.)
    """

    def __init__(self, model: Any) -> None:
        self._model = model

    def __get__(self, instance: Any, owner: Any) -> Any:
        # SQLAlchemy's frame around an `__init__` of somebody's own looks whether there is one, and makes it.
        if instance is None or hasattr(owner.__init__, "_sa_original_init"):
            raise AttributeError(ClassManager.STATE_ATTR)
        manager = class_mapper(self._model).class_manager
        # From now on it is the object's own: the same for all threads that ask at once.
        return vars(instance).setdefault(manager.STATE_ATTR, InstanceState(instance, manager))


def quick_init(self: Any, *args: Any, **given: Any) -> None:
    """What a dataclass's own ``__init__`` does, for models made with every enforcement: in a quarter of its time.

    That one sets field by field through SQLAlchemy's attributes, half a microsecond each, also what is left at its
    default, so that a listener hears of each change; and SQLAlchemy's frame around it tells listeners of ``init``. Of a
    new object nothing has changed: it is written as it stands, and nobody is told. (Rows that are loaded are no matter
    of an ``__init__``.)
    """
    # The class that has it; a caller's own below it may have another one. (By another thread it may be written by now.)
    model: Any = next(each for each in type(self).__mro__ if vars(each).get("__init__") in _QUICK)
    init = model.__init__ = _written_out(model)  # from the next object on without this detour
    init(self, *args, **given)


_QUICK.add(quick_init)


class Base(MappedAsDataclass, DeclarativeBase, kw_only=True):
    """Base of all models: each is a dataclass and a table at once (D1).

    ``__post_init__`` runs when code makes an object and never when a row is loaded: new objects are strict, and old
    rows always load.
    """

    metadata = sa.MetaData(naming_convention=NAMING_CONVENTION)
    __table__: ClassVar[sa.Table]
    written_whole: ClassVar[bool] = False
    """Whether a new object holds its defaults as if they had been given; else what was not given is no value of it,
    which `Session.merge` leaves alone in the row."""
    __signature__: ClassVar[Signature]

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if getattr(cls.__init__, "_sa_original_init", None) is quick_init:
            cls.__init__ = quick_init  # type: ignore[method-assign]  # without SQLAlchemy's frame
        is_quick = cls.__init__ is quick_init or any(ClassManager.STATE_ATTR in vars(each) for each in cls.__mro__)
        if is_quick and "__mapper__" in vars(cls):
            setattr(cls, ClassManager.STATE_ATTR, _StateWhenAsked(cls))
        cls.__signature__ = _signature(cls)  # for help() and editors, whichever way it is made

    def __getstate__(self) -> dict[str, Any]:
        """As SQLAlchemy's objects are pickled: with what it knows of them, which makes them usable wherever they are
        read."""
        sa.inspect(self)
        return vars(self)

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON-ready values: codes as integers, instants as ISO 8601 with offset, dates as ISO 8601."""
        return {name: _to_json(getattr(self, name)) for name in _columns(type(self))}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`to_dict`. Does not validate: it takes whatever a store may hold.

        Raises :class:`ValueError` for a key that is no field.
        """
        return cls._loaded(values)

    @classmethod
    def _loaded(cls, values: Mapping[str, Any]) -> Self:
        """An object with these stored values, as if a row had been loaded: no defaults made up, no validation."""
        columns = _columns(cls)
        if unknown := values.keys() - columns.keys():
            raise ValueError(f"{cls.__name__} has no field {', '.join(sorted(unknown))}; it has {', '.join(columns)}")
        # class_mapper makes the mappers ready, which only constructing or querying would do: this may come first.
        instance = class_mapper(cls).class_manager.new_instance()
        for name, column in columns.items():
            if name in values:
                setattr(instance, name, _read(column, values[name]))
        return instance

    @classmethod
    def _from_row(cls, row: Any, layouts: Sequence[Sequence[str]]) -> Self:
        """An object from a Row, a mapping, or a plain sequence whose width is that of one of `layouts`."""
        columns = _columns(cls)
        mapping = getattr(row, "_mapping", row)  # of a SQLAlchemy Row
        if hasattr(mapping, "keys"):  # sqlite3.Row has keys() and is no Mapping
            values = {str(key): mapping[key] for key in mapping.keys() if str(key) in columns}  # noqa: SIM118 (same)
            if not values:
                raise ValueError(f"this row has no column of {cls.__tablename__}: {list(mapping.keys())}")
            return cls._loaded(values)
        for layout in layouts:
            if len(row) == len(layout):
                return cls._loaded(dict(zip(layout, row, strict=True)))
        widths = " or ".join(str(len(layout)) for layout in layouts)
        raise ValueError(f"a row of {cls.__tablename__} has {widths} values, this one has {len(row)}")


def _columns(model: type[Base]) -> dict[str, sa.Column[Any]]:
    return dict(model.__table__.columns.items())


def _read(column: sa.Column[Any], stored: Any) -> Any:
    if stored is None:
        return None
    if isinstance(column.type, CheckedType):
        return column.type.read(stored)
    return bool(stored) if isinstance(column.type, sa.Boolean) else stored


def _to_json(value: Any) -> Any:
    if isinstance(value, (datetime, date)):
        return value.isoformat()
    if isinstance(value, int) and not isinstance(value, bool):
        return int(value)  # a member of an IntEnum becomes its plain integer
    return value

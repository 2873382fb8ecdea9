"""What makes of Python values those that a driver takes, for statements sent as the driver's own SQL."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple, Self

import sqlalchemy as sa

from risk_store.columns import CheckedType, Usual

__all__ = ["Taken", "encode_column", "encoder", "row_encoder"]

Encode = Callable[[Any], Any]


class Taken(NamedTuple):
    """A parameter as a statement takes it."""

    name: str
    """In the SQL."""
    key: str
    """In what the statement is given."""
    encode: Encode | None
    """What makes of a value that is not None the one that the driver takes."""
    usual: Usual | None
    """The same of usual values, without a call."""

    @classmethod
    def of(cls, name: str, key: str, type_: Any, dialect: sa.Dialect) -> Self:
        """A parameter of this type."""
        usual = None
        if isinstance(type_, sa.Boolean):
            usual = _TRUTH_AS_NUMBER if dialect.name == "sqlite" else _TRUTH
        if isinstance(type_, CheckedType):
            usual = type_.usual(dialect)
        return cls(name, key, encoder(type_, dialect), usual)


_TRUTH = Usual("{v} is True or {v} is False")  # which each driver takes
# SQLite's looks for an adapter of it first, every time: as long as it takes to bind four numbers.
_TRUTH_AS_NUMBER = Usual("{v} is True or {v} is False", "+{v}")


def encoder(type_: Any, dialect: sa.Dialect) -> Encode | None:
    """What makes of a value that is not None the one that the driver takes."""
    if isinstance(type_, CheckedType):  # whose own processor would ask once more whether it is None
        return type_.encoder(dialect)
    processor: Encode | None = type_.dialect_impl(dialect).bind_processor(dialect)
    return processor


def encode_column(type_: Any, values: Sequence[Any], dialect: sa.Dialect) -> Iterable[Any]:
    """What :func:`encoder` makes of each value of a column; of None, None."""
    if isinstance(type_, CheckedType):
        return type_.encode_column(values, dialect)
    encode = encoder(type_, dialect)
    if encode is None:
        return values
    if {*map(type, values)} <= {bool}:
        return map(int, values) if dialect.name == "sqlite" else values
    return [None if value is None else encode(value) for value in values]


def row_encoder(
    taken: Sequence[Taken], fixed: Mapping[str, Any], *, by_position: bool
) -> Callable[[Mapping[str, Any]], Any]:
    """One function for all parameters of a statement: what the driver takes, from what is given by key.

    An order event has 25 values, and a call for each would cost more than all else that is done with them. So the
    function is written out, as a dataclass's `__init__` is, and makes of usual values in place what the driver takes.

    >>> taken = [Taken("a", "x", str.upper, None), Taken("b", "y", str.upper, Usual("type({v}) is int", "-{v}"))]
    >>> encode = row_encoder(taken, {}, by_position=True)
    >>> encode({"x": "one", "y": 2}), encode({"x": None, "y": "two"})
    (('ONE', -2), (None, 'TWO'))
    """
    names: dict[str, Any] = {"datetime": datetime, "UTC": UTC, "inf": math.inf}
    lines, values = ["def encode(given):"], {}
    before: dict[Usual, list[int]] = {}
    for n, each in enumerate(taken):
        if each.key in values:
            continue  # taken more than once
        value = values[each.key] = f"value_{n}"
        if each.key in fixed:
            names[value] = fixed[each.key]
            continue
        usual, branches, keep = each.usual, [], ""
        lines.append(f"    {value} = given[{each.key!r}]")
        if usual is not None and "(" in usual.sent:
            # A row has the same instant in several columns, and the next one has it again: "now".
            lines.append(f"    given_{n} = {value}")
            branches += [f"{value} is given_{m}: {value} = value_{m}" for m in before.get(usual, [])]
            before.setdefault(usual, []).append(n)
            names[f"last_{n}"] = [(None, None)]  # given and sent, as one thing, since threads share it
            branches.append(f"{value} is (last := last_{n}[0])[0]: {value} = last[1]")
            keep = f"; last_{n}[0] = given_{n}, {value}"
        if usual is not None:
            names[f"kind_{n}"] = usual.kind
            condition, sent = (form.format(v=value, kind=f"kind_{n}") for form in usual[:2])
            branches.append(f"{condition}: {value} = {sent}{keep}" if sent != value else f"{condition}: pass")
        if each.encode is not None:
            names[f"encode_{n}"] = each.encode
            branches.append(f"{value} is not None: {value} = encode_{n}({value})")
        lines += [f"    {'elif' if after else 'if'} {branch}" for after, branch in enumerate(branches)]
    if by_position:
        lines.append(f"    return ({''.join(f'{values[each.key]}, ' for each in taken)})")
    else:
        lines.append(f"    return {{{', '.join(f'{each.name!r}: {values[each.key]}' for each in taken)}}}")
    exec("\n".join(lines), names)  # of our own columns alone
    encode: Callable[[Mapping[str, Any]], Any] = names["encode"]
    return encode

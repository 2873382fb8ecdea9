"""Column types and portable SQL functions: what may be stored, the same verdict on every engine.

Each type is strict in one direction only. **Writing** refuses what some engine could not keep (a naive instant, NaN, an
integer beyond 64 bits, NUL in an identifier) with one :class:`~risk_store.errors.InvalidValue` that names the column.
**Reading** never raises: a value this release cannot read comes back as it is stored, so that one odd row of an old
file never hides the others (D2, D3).

Why not SQLAlchemy's own types, all measured (`docs/architecture.md`): an IntEnum annotation stores the member's *name*;
`DateTime(timezone=True)` drops the offset on SQLite without converting; NaN becomes NULL on SQLite and stays NaN on
PostgreSQL; `2**63` raises an unwrapped OverflowError on one engine and DataError on the other.
"""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Callable, Iterable, Sequence, Set
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta, tzinfo
from decimal import Decimal
from enum import IntEnum
from types import NoneType
from typing import Any, ClassVar, NamedTuple, TypeVar

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator, TypeEngine, UserDefinedType

from risk_store.errors import InvalidValue

__all__ = [
    "BoundedText",
    "CalendarDate",
    "CheckedFloat",
    "CheckedText",
    "CheckedType",
    "FreeText",
    "Int64",
    "IntCode",
    "Unreadable",
    "Usual",
    "UtcInstant",
    "instant_key",
    "instant_of",
    "instants_between",
    "is_no_canonical_instant",
    "is_plain_text",
    "loose_bounds",
    "rounded_money",
    "storable_text",
    "utc_date",
    "utc_hour",
    "within",
]

T = TypeVar("T")

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1


class Unreadable:
    """How many values have been read that could not be understood, in this process.

    Reading tells nobody else: a count that has changed is cheap to see, and says that it is worth looking which rows
    they were in.
    """

    met: ClassVar[int] = 0

    @classmethod
    def keep(cls, stored: Any) -> Any:
        """What could not be understood, as it is stored."""
        cls.met += 1
        return stored


class Usual(NamedTuple):
    """Python expressions of a value ``{v}``, to be written out where a call for each value would cost too much."""

    condition: str
    """True of usual values. It may say no in doubt. It knows `datetime`, `UTC`, `inf`, and `kind` as ``{kind}``."""
    sent: str = "{v}"
    """What the driver takes for such a value."""
    kind: type | None = None


class CheckedType(TypeDecorator[T]):
    """Base of the store's column types: `write` checks a Python value, `read` understands a stored one.

    ``field`` is the column's full name (``orders.limit_price``), set when the models are loaded, for error texts.
    """

    field: str = "value"

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # SQLAlchemy looks for it in each class itself, never in a base, and without it caches no statement that uses
        # the type.
        cls.cache_ok = True

    def refuse(self, value: object, expected: str) -> InvalidValue:
        return InvalidValue(self.field, value, expected)

    def write(self, value: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} says what it takes; got {value!r}")

    def read(self, stored: Any) -> Any:
        """The Python value of what is stored; what cannot be read is counted, and returned as it is."""
        return stored

    as_stored: ClassVar[type | None] = None
    """The type of stored values that :meth:`read` returns as they are, if there is one."""
    as_is: ClassVar[str | None] = None
    """The condition of :class:`Usual`, where :meth:`write` returns usual values as they are."""
    by_value: ClassVar[type | None] = None
    """The type of stored values of which :meth:`read` makes the same where they are equal, if there is one."""

    def read_column(
        self,
        stored: Sequence[Any],
        known: dict[Any, Any] | None = None,  # noqa: ARG002 (instants look there)
    ) -> Iterable[Any]:
        """What :meth:`read` makes of each value of a column, in one go: the usual values cost next to nothing.

        In `known` are instants that other columns of the same rows had, and this one's come to it.
        """
        kinds = {*map(type, stored)} - {NoneType}
        if kinds <= {self.as_stored}:
            return stored
        if kinds == {self.by_value}:
            values: dict[Any, Any] = {value: self.read(value) for value in set(stored) if value is not None}
            return map(values.get, stored)
        return [None if value is None else self.read(value) for value in stored]

    def encode_column(self, values: Sequence[Any], dialect: sa.Dialect) -> Iterable[Any]:
        """What :meth:`encoder` makes of each value of a column, in one go: the usual values cost next to nothing."""
        if self.is_plain({*map(type, values)} - {NoneType}, values):
            return self.plain_column(values, dialect)
        encode = self.encoder(dialect)
        return [None if value is None else encode(value) for value in values]

    def is_plain(self, kinds: Set[type], values: Sequence[Any]) -> bool:  # noqa: ARG002 (each type's own)
        """Whether :meth:`write` would return each of `values`, which are of these types or None, as it is."""
        return False

    def plain_column(self, values: Sequence[Any], dialect: sa.Dialect) -> Iterable[Any]:  # noqa: ARG002 (others ask)
        """Values that are plain as the driver takes them."""
        return values

    def is_readable(self, value: Any) -> bool:
        """Whether `value`, as :meth:`read` returned it, is one of this type and not what could not be read."""
        raise NotImplementedError(f"{type(self).__name__} says what it reads; got {value!r}")

    def is_odd(self, column: sa.ColumnElement[Any]) -> sa.ColumnElement[bool]:
        """A condition for SQLite: what `column` holds is not as this release would write it. NULL is never odd."""
        raise NotImplementedError(f"{type(self).__name__} says what it writes; got {column!r}")

    def encoder(self, dialect: sa.Dialect) -> Callable[[Any], Any]:  # noqa: ARG002 (others ask for it)
        """What makes of a Python value the one that the driver takes: `write`, and what its form needs there."""
        return self.write

    def usual(self, dialect: sa.Dialect) -> Usual | None:  # noqa: ARG002 (others ask for it)
        """What :meth:`encoder` makes of usual values."""
        return None if self.as_is is None else Usual(self.as_is)

    def process_bind_param(self, value: Any, dialect: sa.Dialect) -> Any:
        return None if value is None else self.encoder(dialect)(value)

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> Any:  # noqa: ARG002 (SQLAlchemy's signature)
        return None if value is None else self.read(value)

    # TypeDecorator makes three calls of each of those two, to leave room for a processor of the implementation's, and
    # none of ours has one on any driver. An order event has 25 values.

    def bind_processor(self, dialect: sa.Dialect) -> Callable[[Any], Any]:
        encode = self.encoder(dialect)
        return lambda value: None if value is None else encode(value)

    def result_processor(self, dialect: sa.Dialect, coltype: object) -> Callable[[Any], Any]:  # noqa: ARG002 (as above)
        read = self.read
        return lambda stored: None if stored is None else read(stored)


class Int64(CheckedType[int]):
    """A 64-bit integer: broker ids passed 2**31 long ago (`reference/gateway.md` 3), counts use the same type.

    INTEGER on SQLite, where every integer has 64 bits and only that spelling gives AUTOINCREMENT; BIGINT elsewhere.

    >>> Int64().write(3_425_270_858)
    3425270858
    >>> Int64().write(2**63)
    Traceback (most recent call last):
    risk_store.errors.InvalidValue: value: 9223372036854775808 is not a whole number of at most 64 bits
    """

    impl = sa.BigInteger
    as_stored = int
    as_is = f"type({{v}}) is int and {INT64_MIN} <= {{v}} <= {INT64_MAX}"

    def load_dialect_impl(self, dialect: sa.Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(sa.Integer() if dialect.name == "sqlite" else sa.BigInteger())

    def write(self, value: Any) -> int:
        if type(value) is int and INT64_MIN <= value <= INT64_MAX:  # nearly always, and there are 25 values to an event
            return value
        expected = "a whole number of at most 64 bits"
        if isinstance(value, bool):
            raise self.refuse(value, expected)
        try:
            number = operator.index(value)  # takes numpy's integers too, never a float or a string
        except TypeError:
            raise self.refuse(value, expected) from None
        if not INT64_MIN <= number <= INT64_MAX:
            raise self.refuse(value, expected)
        return number

    def is_plain(self, kinds: Set[type], values: Sequence[Any]) -> bool:
        if not kinds <= {int}:
            return False
        numbers = [value for value in values if value is not None] if None in values else values
        return not numbers or (min(numbers) >= INT64_MIN and max(numbers) <= INT64_MAX)

    def read(self, stored: Any) -> Any:
        return stored if type(stored) is int else Unreadable.keep(stored)

    def is_readable(self, value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool)

    def is_odd(self, column: sa.ColumnElement[Any]) -> sa.ColumnElement[bool]:
        return sa.func.typeof(column).not_in(_literals("integer", "null"))


class IntCode(CheckedType[IntEnum]):
    """An IntEnum stored as its integer (D2).

    Writing takes members and their integers. Reading gives the member, or, for a code this release does not know, what
    is stored: such a row is still returned, and `risk-store check` counts it.

    >>> from risk_store.codes import OrderType
    >>> IntCode(OrderType).read(5), IntCode(OrderType).read(99)
    (<OrderType.TRAILING_STOP: 5>, 99)
    """

    impl = sa.Integer
    by_value = int

    def __init__(self, enum: type[IntEnum]) -> None:
        super().__init__()
        self.enum = enum
        self._members: dict[Any, IntEnum] = {member.value: member for member in enum}

    def write(self, value: Any) -> int:
        if type(value) is self.enum:
            return int(value)
        if isinstance(value, int) and not isinstance(value, bool) and value in self._members:
            return int(value)
        known = ", ".join(f"{member.name} {member.value}" for member in self.enum)
        raise self.refuse(value, f"one of {known}")

    def usual(self, dialect: sa.Dialect) -> Usual:  # noqa: ARG002 (others ask for it)
        return Usual("type({v}) is {kind}", "{v}._value_", self.enum)

    def read(self, stored: Any) -> Any:
        try:
            member = self._members.get(stored)
        except TypeError:  # unhashable: a list, from somebody's JSON
            member = None
        return Unreadable.keep(stored) if member is None else member

    def is_readable(self, value: Any) -> bool:
        return isinstance(value, self.enum)

    def is_odd(self, column: sa.ColumnElement[Any]) -> sa.ColumnElement[bool]:
        return sa.type_coerce(column, sa.Integer()).not_in(_literals(*(member.value for member in self.enum)))


class CheckedFloat(CheckedType[float]):
    """A finite float64, kept bit for bit: prices and amounts (D4).

    −0.0 is stored as 0.0, since SQLite does not keep the sign and PostgreSQL does. Decimals are taken and rounded to
    the nearest float64, which holds every price seen on the wire (at most 9 decimals).

    >>> CheckedFloat().write(float("nan"))
    Traceback (most recent call last):
    risk_store.errors.InvalidValue: value: nan is not a finite number
    """

    impl = sa.Double
    as_stored = float
    as_is = "type({v}) is float and -inf < {v} < inf and {v}"  # not −0.0, which is no other zero

    def load_dialect_impl(self, dialect: sa.Dialect) -> TypeEngine[Any]:
        # v1 declared REAL, which on SQLite has 8 bytes; on PostgreSQL REAL would have 4.
        return dialect.type_descriptor(sa.REAL() if dialect.name == "sqlite" else sa.Double())

    def write(self, value: Any) -> float:
        if type(value) is float and math.isfinite(value):
            return value + 0.0  # −0.0 + 0.0 is 0.0
        expected = "a finite number"
        if isinstance(value, (bool, str, bytes)) or not hasattr(value, "__float__"):
            raise self.refuse(value, expected)
        try:
            number = float(value)
        except (OverflowError, ValueError, TypeError):
            raise self.refuse(value, expected) from None
        if not math.isfinite(number):
            raise self.refuse(value, expected)
        return number + 0.0

    def read(self, stored: Any) -> Any:
        if type(stored) is float:
            return stored
        try:
            return float(stored) if isinstance(stored, (int, Decimal)) else Unreadable.keep(stored)
        except (OverflowError, ValueError):  # an integer beyond float64, a signaling NaN
            return Unreadable.keep(stored)

    def is_readable(self, value: Any) -> bool:
        return isinstance(value, float) and math.isfinite(value)

    def is_odd(self, column: sa.ColumnElement[Any]) -> sa.ColumnElement[bool]:
        # Text and blobs compare greater than every number.
        number: sa.ColumnElement[Any] = sa.type_coerce(column, sa.Double())
        lowest, highest = _literals(-sys.float_info.max, sys.float_info.max)
        return sa.not_(number.between(lowest, highest))


class BoundedText(CheckedType[str]):
    """Base of the two kinds of text: it says what PostgreSQL could not store."""

    impl = sa.Text
    as_stored = str
    as_is = r"type({v}) is str and {v}.isascii() and '\0' not in {v}"

    def is_plain(self, kinds: Set[type], values: Sequence[Any]) -> bool:
        return kinds <= {str} and is_plain_text("".join(filter(None, values)))

    def read(self, stored: Any) -> Any:
        return stored if type(stored) is str else Unreadable.keep(stored)

    def is_readable(self, value: Any) -> bool:
        return isinstance(value, str)

    def is_odd(self, column: sa.ColumnElement[Any]) -> sa.ColumnElement[bool]:
        return sa.func.typeof(column).not_in(_literals("text", "null"))

    def check(self, value: Any) -> str:
        if not isinstance(value, str):
            raise self.refuse(value, "text")
        return value


class CheckedText(BoundedText):
    r"""An identifier (contract_id, rule_id, action): NUL and lone surrogates are refused.

    >>> CheckedText().write("a\0b")
    Traceback (most recent call last):
    risk_store.errors.InvalidValue: value: 'a\x00b' is not text without NUL characters and lone surrogates
    """

    def write(self, value: Any) -> str:
        if type(value) is str and value.isascii() and "\0" not in value:  # is_plain_text, without a call
            return value
        text = self.check(value)
        if storable_text(text) != text:
            raise self.refuse(value, "text without NUL characters and lone surrogates")
        return text


class FreeText(BoundedText):
    r"""What a broker or a person wrote (reason, error_message, details): escaped visibly, never refused.

    An audit row must not fail because of a character in a broker's message.

    >>> print(FreeText().write("bad\0byte \udc80"))
    bad\x00byte \udc80
    """

    def write(self, value: Any) -> str:
        if type(value) is str and value.isascii() and "\0" not in value:  # is_plain_text, without a call
            return value
        return storable_text(self.check(value))


def is_plain_text(text: str) -> bool:
    """Whether it is text as it nearly always is, which every engine stores as it is."""
    return text.isascii() and "\0" not in text


def storable_text(text: str) -> str:
    r"""`text` with NUL as ``\x00`` and each lone surrogate as ``\udXXX``: what PostgreSQL cannot store, made visible.

    >>> print(storable_text("a\0b"))
    a\x00b
    """
    if "\0" in text:
        text = text.replace("\0", "\\x00")
    if not text.isascii():
        text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return text


class _DeclaredAs(UserDefinedType[Any]):
    """A column declared as `name` whose values pass untouched: text in, text out.

    SQLAlchemy's own DATETIME for SQLite parses while fetching, and one value it cannot parse fails the whole result.
    """

    cache_ok = True

    def __init__(self, name: str) -> None:
        self.name = name

    def get_col_spec(self, **_: Any) -> str:
        return self.name

    def literal_processor(self, dialect: sa.Dialect) -> Callable[[Any], str]:  # noqa: ARG002 (SQLAlchemy's signature)
        return lambda value: "'" + str(value).replace("'", "''") + "'"


class UtcInstant(CheckedType[datetime]):
    """An instant: aware in, aware UTC out (D3).

    On SQLite it is text ``YYYY-MM-DD HH:MM:SS[.ffffff]`` in UTC, the fraction only when it is not zero: what
    CURRENT_TIMESTAMP writes, so the order of the text is the order of time. On PostgreSQL ``timestamptz``.
    Reading also takes the other forms v1 daemons left (`T`, `Z`, offsets); a naive text is UTC.

    >>> from datetime import timedelta, timezone
    >>> chicago = timezone(timedelta(hours=-5))
    >>> UtcInstant.text(datetime(2025, 10, 21, 12, 0, tzinfo=chicago))
    '2025-10-21 17:00:00'
    >>> UtcInstant().write(datetime(2025, 10, 21))
    Traceback (most recent call last):
    risk_store.errors.InvalidValue: value: datetime.datetime(2025, 10, 21, 0, 0) is not an instant with a time zone...
    """

    impl = sa.DateTime
    by_value = str

    def load_dialect_impl(self, dialect: sa.Dialect) -> TypeEngine[Any]:
        if dialect.name == "sqlite":
            return dialect.type_descriptor(_DeclaredAs("DATETIME"))
        return dialect.type_descriptor(sa.DateTime(timezone=True))

    def encoder(self, dialect: sa.Dialect) -> Callable[[Any], Any]:
        write = self.write
        return write if dialect.name != "sqlite" else lambda value: self.text(write(value))

    def usual(self, dialect: sa.Dialect) -> Usual:
        sent = "{v}.isoformat(' ')[:-6]" if dialect.name == "sqlite" else "{v}"  # as `text` does
        return Usual("type({v}) is datetime and {v}.tzinfo is UTC", sent)

    def write(self, value: Any) -> datetime:
        if type(value) is datetime and value.tzinfo is UTC:
            return value
        expected = "an instant with a time zone, such as datetime.now(UTC)"
        if not isinstance(value, datetime) or value.utcoffset() is None:
            raise self.refuse(value, expected)
        try:
            return value.astimezone(UTC)
        except OverflowError:
            raise self.refuse(value, "an instant within the years 1 to 9999 UTC") from None

    def is_plain(self, kinds: Set[type], values: Sequence[Any]) -> bool:
        return kinds <= {datetime} and all(value is None or value.tzinfo is UTC for value in values)

    def plain_column(self, values: Sequence[Any], dialect: sa.Dialect) -> Iterable[Any]:
        return values if dialect.name != "sqlite" else [None if value is None else self.text(value) for value in values]

    def read(self, stored: Any) -> Any:
        if type(stored) is str and len(stored) in _CANONICAL_LENGTHS:  # a third of what it costs to parse every form
            try:
                instant = datetime.fromisoformat(stored + "+00:00")
                if instant.tzinfo is UTC:
                    return instant
            except ValueError:
                pass
        parsed = self.parse(stored)
        return Unreadable.keep(stored) if parsed is None else parsed

    def read_column(self, stored: Sequence[Any], known: dict[Any, Any] | None = None) -> Iterable[Any]:
        kinds = {*map(type, stored)} - {NoneType}
        if kinds == {datetime} and all(value is None or value.tzinfo for value in stored):
            with suppress(OverflowError):
                return [None if value is None else value.astimezone(UTC) for value in stored]
        if kinds == {str} and {*map(len, texts := {*stored} - {None})} <= _CANONICAL_LENGTHS:
            instants = {} if known is None else known
            with suppress(ValueError):
                new = {text: datetime.fromisoformat(text + "+00:00") for text in texts - instants.keys()}
                if all(instant.tzinfo is UTC for instant in new.values()):
                    instants |= new
                    return map(instants.get, stored)
        return super().read_column(stored)

    def is_readable(self, value: Any) -> bool:
        return isinstance(value, datetime)

    def is_odd(self, column: sa.ColumnElement[Any]) -> sa.ColumnElement[bool]:
        return is_no_canonical_instant(column)

    @staticmethod
    def parse(stored: Any, zone: tzinfo = UTC) -> datetime | None:
        """The instant in UTC that a stored value means, or None. A naive one is taken to be local time in `zone`."""
        try:
            instant = datetime.fromisoformat(stored) if isinstance(stored, str) else stored
            if not isinstance(instant, datetime):
                return None
            return (instant.replace(tzinfo=zone) if instant.tzinfo is None else instant).astimezone(UTC)
        except (ValueError, OverflowError):
            return None

    @staticmethod
    def text(instant: datetime) -> str:
        """The canonical text of an aware instant, as SQLite keeps it."""
        utc = instant if instant.tzinfo is UTC else instant.astimezone(UTC)
        return utc.isoformat(" ")[:-6]  # without +00:00


class CalendarDate(CheckedType[date]):
    """A calendar date (a trading day): ``YYYY-MM-DD`` on SQLite, DATE on PostgreSQL.

    >>> CalendarDate().read("2025-10-21")
    datetime.date(2025, 10, 21)
    """

    impl = sa.Date

    def load_dialect_impl(self, dialect: sa.Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(_DeclaredAs("DATE") if dialect.name == "sqlite" else sa.Date())

    def encoder(self, dialect: sa.Dialect) -> Callable[[Any], Any]:
        write = self.write
        return write if dialect.name != "sqlite" else lambda value: write(value).isoformat()

    def write(self, value: Any) -> date:
        if not isinstance(value, date) or isinstance(value, datetime):
            raise self.refuse(value, "a calendar date (datetime.date)")
        return value

    def read(self, stored: Any) -> Any:
        if isinstance(stored, str):
            try:
                return datetime.fromisoformat(stored).date()
            except ValueError:
                return Unreadable.keep(stored)
        return stored if isinstance(stored, date) else Unreadable.keep(stored)

    def is_readable(self, value: Any) -> bool:
        return isinstance(value, date)

    def is_odd(self, column: sa.ColumnElement[Any]) -> sa.ColumnElement[bool]:
        day = sa.type_coerce(column, sa.Text())
        exists = sa.func.date(day, sa.literal_column("'+0 days'")) == day
        return sa.not_(sa.and_(day.op("GLOB")(sa.literal_column(f"'{DAY}'")), sa.func.coalesce(exists, sa.false())))


class utc_date(FunctionElement[date]):  # noqa: N801 (it reads as a SQL function)
    """The UTC calendar date of an instant column: ``date(…)`` on SQLite, ``(… AT TIME ZONE 'UTC')::date`` elsewhere.

    >>> print(utc_date(sa.column("timestamp", UtcInstant())).compile(dialect=sa.dialects.postgresql.dialect()))
    CAST(timestamp AT TIME ZONE 'UTC' AS DATE)
    """

    type = CalendarDate()
    inherit_cache = True
    name = "utc_date"


@compiles(utc_date)
def _utc_date(element: utc_date, compiler: Any, **kw: Any) -> str:
    return f"CAST({compiler.process(element.clauses, **kw)} AT TIME ZONE 'UTC' AS DATE)"


@compiles(utc_date, "sqlite")
def _utc_date_sqlite(element: utc_date, compiler: Any, **kw: Any) -> str:
    column = compiler.process(element.clauses, **kw)
    # It rounds to milliseconds: of the last half of one before the year 10000 it knows no date.
    return f"coalesce(date({column}), CASE WHEN {column} GLOB '9999-12-31 23:59:59.*' THEN '9999-12-31' END)"


class utc_hour(FunctionElement[datetime]):  # noqa: N801 (it reads as a SQL function)
    """The beginning of an instant's UTC hour. On SQLite for canonical text only, of which it is the beginning.

    >>> print(utc_hour(sa.column("timestamp", UtcInstant())).compile(dialect=sa.dialects.sqlite.dialect()))
    (substr(timestamp, 1, 13) || ':00:00')
    """

    type = UtcInstant()
    inherit_cache = True
    name = "utc_hour"


@compiles(utc_hour)
def _utc_hour(element: utc_hour, compiler: Any, **kw: Any) -> str:
    return f"date_trunc('hour', {compiler.process(element.clauses, **kw)}, 'UTC')"


@compiles(utc_hour, "sqlite")
def _utc_hour_sqlite(element: utc_hour, compiler: Any, **kw: Any) -> str:
    return f"(substr({compiler.process(element.clauses, **kw)}, 1, 13) || ':00:00')"


class rounded_money(FunctionElement[float]):  # noqa: N801 (it reads as a SQL function)
    """A sum of amounts rounded to a millionth: what was added and taken away again leaves nothing behind.

    Not to the 9 decimals of prices: SQLite's round() goes by 16 digits, and 4,999,990.88 has 7 before them.

    >>> print(rounded_money(sa.column("fees")).compile(dialect=sa.dialects.sqlite.dialect()))
    round(fees, 6)
    """

    type = CheckedFloat()
    inherit_cache = True
    name = "rounded_money"


@compiles(rounded_money)
def _rounded_money(element: rounded_money, compiler: Any, **kw: Any) -> str:
    # PostgreSQL rounds a double precision to whole numbers only.
    exact = f"CAST({compiler.process(element.clauses, **kw)} AS NUMERIC)"
    return f"CAST(round({exact}, 6) AS DOUBLE PRECISION)"


@compiles(rounded_money, "sqlite")
def _rounded_money_sqlite(element: rounded_money, compiler: Any, **kw: Any) -> str:
    return f"round({compiler.process(element.clauses, **kw)}, 6)"


# Shapes of text, for SQLite's GLOB.
DAY = "[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]"
CANONICAL = DAY + " [0-9][0-9]:[0-9][0-9]:[0-9][0-9]"


_CANONICAL_LENGTHS = {19, 26}


class instant_key(FunctionElement[datetime]):  # noqa: N801 (it reads as a SQL function)
    """An instant column as something that compares in order of time, whatever form a v1 daemon left in it.

    On SQLite every readable form becomes canonical text: exactly where it has a space and no zone, to the millisecond
    otherwise. What Python cannot read compares later than every instant, so a lockout with an unreadable end never
    counts as over; so do a few forms that only Python reads, such as an offset without a colon. On PostgreSQL every
    value is an instant and the column is used as it is.
    """

    type = UtcInstant()
    inherit_cache = True
    name = "instant_key"

    # What cannot be read sorts behind every canonical text, and behind it only.
    UNREADABLE: ClassVar[str] = "unreadable"


@compiles(instant_key)
def _instant_key(element: instant_key, compiler: Any, **kw: Any) -> str:
    return str(compiler.process(element.clauses, **kw))


@compiles(instant_key, "sqlite")
def _instant_key_sqlite(element: instant_key, compiler: Any, **kw: Any) -> str:
    column = compiler.process(element.clauses, **kw)
    return f"CASE WHEN {_is_plainly_canonical(column)} THEN {column} ELSE {_key_of_another_form(column)} END"


def _key_of_another_form(column: str) -> str:
    """Of what :func:`_is_plainly_canonical` says nothing of."""
    day, second = f"substr({column}, 1, 10)", f"substr({column}, 1, 19)"
    # SQLite's date functions read more than instants ('now', '12:00', Julian days) and take 30 February and 24:00 for
    # days that they are not; '+0 days' makes them count the days, so that only what exists comes back unchanged. They
    # and GLOB see no further than a NUL.
    return f"""CASE WHEN {column} IS NULL THEN NULL
    WHEN typeof({column}) <> 'text' OR substr({column}, 1, 4) = '0000' OR instr({column}, char(0))
        THEN '{instant_key.UNREADABLE}'
    WHEN {column} GLOB '{CANONICAL}.[0-9]*' AND substr({column}, 21) NOT GLOB '*[^0-9]*'
        AND datetime({second}, '+0 days') = {second} THEN replace(substr({column} || '00000', 1, 26), '.000000', '')
    WHEN ({column} GLOB '{DAY}?[0-9][0-9]:[0-9][0-9]*' OR {column} GLOB '{DAY}')
        AND substr({column}, 12) NOT GLOB '*[^0-9:.Z+-]*' AND substr({column}, 12, 2) < '24'
        AND date({day}, '+0 days') = {day}
        THEN coalesce(replace(strftime('%Y-%m-%d %H:%M:%f000', {column}), '.000000', ''), '{instant_key.UNREADABLE}')
    ELSE '{instant_key.UNREADABLE}' END"""


def _is_plainly_canonical(column: str) -> str:
    """True of the canonical text of nearly all instants; false says nothing (of the last half millisecond of a second:
    SQLite rounds).

    It asks the calendar, since that takes less than a GLOB of as many digits. That whole text is compared leaves no
    other form and no other type; the length is in bytes, since GLOB and length() see no further than a NUL.
    """
    return f"""substr({column}, 1, 19) = datetime({column}, '+0 days')
        AND (length(CAST({column} AS BLOB)) = 19 OR length(CAST({column} AS BLOB)) = 26
            AND {column} GLOB '{"?" * 19}.{"[0-9]" * 6}' AND substr({column}, 21) <> '000000')
        AND {column} NOT GLOB '0000*'"""


class is_no_canonical_instant(FunctionElement[bool]):  # noqa: N801 (it reads as a SQL function)
    """Whether an instant column holds anything but NULL and the canonical text: never on PostgreSQL."""

    type = sa.Boolean()
    inherit_cache = True
    name = "is_no_canonical_instant"


@compiles(is_no_canonical_instant)
def _is_no_canonical_instant_on_a_server(*_: Any, **__: Any) -> str:
    return "false"


@compiles(is_no_canonical_instant, "sqlite")
def _is_no_canonical_instant(element: is_no_canonical_instant, compiler: Any, **kw: Any) -> str:
    column = compiler.process(element.clauses, **kw)
    second = f"substr({column}, 1, 19)"
    # CASE, since SQLite evaluates both sides of an AND whose value is asked for.
    return f"""(CASE WHEN {_is_plainly_canonical(column)} THEN 0
        ELSE {column} IS NOT NULL AND NOT (typeof({column}) = 'text' AND length(CAST({column} AS BLOB)) = 26
        AND {column} GLOB '{CANONICAL}.{"[0-9]" * 6}' AND substr({column}, 21) <> '000000'
        AND {column} NOT GLOB '0000*' AND coalesce(datetime({second}, '+0 days') = {second}, 0)) END)"""


class instant_of(FunctionElement[datetime]):  # noqa: N801 (it reads as a SQL function)
    """An instant column to compare with instants, for rows by the million: NULL where it cannot be read.

    On SQLite canonical text is taken as it is, and only the rest is taken apart, as :class:`instant_key` does. On
    PostgreSQL it is the column.
    """

    type = UtcInstant()
    inherit_cache = True
    name = "instant_of"


@compiles(instant_of)
def _instant_of(element: instant_of, compiler: Any, **kw: Any) -> str:
    return str(compiler.process(element.clauses, **kw))


@compiles(instant_of, "sqlite")
def _instant_of_sqlite(element: instant_of, compiler: Any, **kw: Any) -> str:
    column = compiler.process(element.clauses, **kw)
    return f"""CASE WHEN {_is_plainly_canonical(column)} THEN {column}
    ELSE nullif({_key_of_another_form(column)}, '{instant_key.UNREADABLE}') END"""


def within(
    column: sa.ColumnElement[Any], since: datetime | None = None, until: datetime | None = None
) -> list[sa.ColumnElement[bool]]:
    """Conditions: the instant in `column` is at or after `since` and before `until`. What cannot be read is nowhere.

    Whatever form a v1 daemon left in it: an offset moves the text of an instant by less than a day, so the index on the
    column serves bounds that are two days wider, and within them the instants are compared.

    >>> [str(condition) for condition in within(sa.column("timestamp", UtcInstant()))]
    []
    """
    return instants_between(column, since, until, *loose_bounds(since, until))


def instants_between(
    column: sa.ColumnElement[Any], since: Any, until: Any, loose_since: Any, loose_until: Any
) -> list[sa.ColumnElement[bool]]:
    """The same with bounds that are there already, or parameters in their place; each may be None."""
    conditions: list[sa.ColumnElement[bool]] = []
    if loose_since is not None:
        conditions.append(column >= loose_since)
    if since is not None:
        conditions.append(instant_of(column) >= since)
    if loose_until is not None:
        conditions.append(column < loose_until)
    if until is not None:
        conditions.append(instant_of(column) < until)
    return conditions


def loose_bounds(since: datetime | None, until: datetime | None) -> tuple[datetime | None, datetime | None]:
    """Bounds for the text of the instants from `since` to `until`; None at the ends of the calendar."""
    loose_since = loose_until = None
    with suppress(OverflowError):
        loose_since = None if since is None else since - _TEXT_MAY_BE_OFF
    with suppress(OverflowError):
        loose_until = None if until is None else until + _TEXT_MAY_BE_OFF
    return loose_since, loose_until


_TEXT_MAY_BE_OFF = timedelta(days=2)


def _literals(*values: object) -> list[sa.ColumnElement[Any]]:
    """Values written into the SQL: what they are never changes, and the planner sees them."""
    return [sa.literal_column(f"'{value}'" if isinstance(value, str) else repr(value)) for value in values]

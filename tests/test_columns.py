"""What may be stored and what comes back: one verdict on every engine, and a reading side that never raises.

Each example of a round trip is written to a real table on SQLite and on PostgreSQL, and the two verdicts are compared.
"""

# ruff: noqa: DTZ001, DTZ901 (naive datetimes are what hypothesis takes as bounds, and what the columns refuse)

import math
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import Enum, StrEnum
from fractions import Fraction
from typing import Any
from uuid import uuid4
from zoneinfo import ZoneInfo

import psycopg
import pytest
import sqlalchemy as sa
from hypothesis import example, given, settings
from hypothesis import strategies as st
from psycopg import sql

from risk_store.codes import OrderSide, OrderState, OrderType
from risk_store.columns import (
    CalendarDate,
    CheckedFloat,
    CheckedText,
    CheckedType,
    FreeText,
    Int64,
    IntCode,
    UtcInstant,
    instant_key,
    utc_date,
)
from risk_store.engines import open_engine
from risk_store.errors import InvalidValue, shown
from risk_store.models import Base
from risk_store.repositories.encoding import Taken, encoder, row_encoder
from tests.support.postgres import Server

# Nothing here depends on how fast the machine is.
often = settings(max_examples=80)

SAMPLE = sa.Table(
    "sample",
    sa.MetaData(),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("code", IntCode(OrderType)),
    sa.Column("whole", Int64()),
    sa.Column("whole_too", Int64()),
    sa.Column("price", CheckedFloat()),
    sa.Column("name", CheckedText()),
    sa.Column("note", FreeText()),
    sa.Column("instant", UtcInstant()),
    sa.Column("day", CalendarDate()),
)
CHECKED = [column.name for column in SAMPLE.columns if isinstance(column.type, CheckedType)]
for _name in CHECKED:
    SAMPLE.c[_name].type.field = f"sample.{_name}"  # as risk_store.models does for its own columns


@pytest.fixture(scope="module")
def sqlite() -> Iterator[sa.Connection]:
    engine = open_engine(sa.make_url("sqlite://"), "store")
    SAMPLE.metadata.create_all(engine)
    with engine.connect() as connection:
        yield connection
    engine.dispose()


@pytest.fixture(scope="module")
def postgresql(postgres_server: Server) -> Iterator[sa.Connection]:
    name = f"t_{uuid4().hex}"
    with psycopg.connect(postgres_server.url, autocommit=True) as administrator:
        administrator.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(name)))
        try:
            url = sa.make_url(postgres_server.url).set(drivername="postgresql+psycopg", database=name)
            engine = open_engine(url, "store")
            SAMPLE.metadata.create_all(engine)
            with engine.connect() as connection:
                yield connection
            engine.dispose()
        finally:
            administrator.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture(scope="module")
def engines(sqlite: sa.Connection, postgresql: sa.Connection) -> dict[str, sa.Connection]:
    return {"sqlite": sqlite, "postgresql": postgresql}


@dataclass(frozen=True)
class Kept:
    value: Any
    identity: tuple[type, object]
    """What two values must share to count as the same: the type, and for a float its bits."""


@dataclass(frozen=True)
class Refused:
    text: str
    field: str
    with_the_value: bool


Verdict = Kept | Refused


def kept(value: Any) -> Kept:
    same: object = value
    if isinstance(value, float):
        same = struct.pack(">d", value)
    elif isinstance(value, datetime):
        same = (value, value.tzinfo is UTC)
    return Kept(value, (type(value), same))


def verdict_of(connection: sa.Connection, column: str, value: object) -> Verdict:
    """Writes `value` and reads it back. Any error but InvalidValue is a failure of the test."""
    try:
        connection.execute(sa.insert(SAMPLE), {"number": 1, column: value})
        return kept(connection.scalar(sa.select(SAMPLE.c[column])))
    except InvalidValue as error:
        return Refused(str(error), error.field, error.value is value)
    finally:
        connection.rollback()


def verdict(engines: dict[str, sa.Connection], column: str, value: object) -> Verdict:
    verdicts = {name: verdict_of(connection, column, value) for name, connection in engines.items()}
    assert verdicts["sqlite"] == verdicts["postgresql"]
    return verdicts["sqlite"]


def assert_refused(engines: dict[str, sa.Connection], column: str, value: object, expected: str) -> None:
    answer = verdict(engines, column, value)
    assert isinstance(answer, Refused), answer
    assert answer.field == f"sample.{column}"
    assert answer.with_the_value
    assert answer.text.startswith(f"sample.{column}: ")
    assert answer.text.endswith(f" is not {expected}")


# Values made to be mistaken for others, as numpy's are.


@dataclass(frozen=True)
class Indexed:
    """Like numpy.int64: not an int, but usable as one."""

    number: int

    def __index__(self) -> int:
        return self.number


@dataclass(frozen=True)
class Floating:
    """Like numpy.float32: not a float, but convertible to one."""

    number: float

    def __float__(self) -> float:
        return self.number


@dataclass(frozen=True)
class IndexedAndFloating(Indexed):
    """numpy's integers have both."""

    def __float__(self) -> float:
        return float(self.number)


class Unconvertible:
    """Like a numpy array of two: it has __float__, which raises."""

    def __float__(self) -> float:
        raise TypeError("only length-1 arrays can be converted")


class Contract(StrEnum):
    MNQ = "CON.F.US.MNQ.U25"


class OldStyleContract(str, Enum):  # noqa: UP042 (what v1 code may still use)
    MNQ = "CON.F.US.MNQ.U25"


EDGES = [sign * (2**power) + step for power in (0, 31, 32, 53, 63, 64) for sign in (-1, 1) for step in (-1, 0, 1)]
ints = st.sampled_from(EDGES) | st.integers() | st.integers(-(2**63), 2**63 - 1) | st.integers(-(10**400), 10**400)
floats = st.floats() | st.integers(0, 2**64 - 1).map(lambda bits: struct.unpack(">d", struct.pack(">Q", bits))[0])
any_text = st.text(st.characters(exclude_categories=()) | st.sampled_from("\0\ud800\udbff\udc80\udfff\\x0u'\"%;\n"))
other_objects = st.sampled_from([b"1", bytearray(b"1"), 1j, (), [1], {"a": 1}, object(), Unconvertible(), Floating])

NOT_WHOLE = "a whole number of at most 64 bits"
NOT_CODE = "one of MARKET 1, LIMIT 2, STOP 3, STOP_LIMIT 4, TRAILING_STOP 5"
NOT_FINITE = "a finite number"
NOT_CLEAN = "text without NUL characters and lone surrogates"
NOT_INSTANT = "an instant with a time zone, such as datetime.now(UTC)"
NOT_WITHIN = "an instant within the years 1 to 9999 UTC"
NOT_DATE = "a calendar date (datetime.date)"


# Round trips


@pytest.mark.parametrize("column", CHECKED)
def test_none_is_null_for_every_type(engines: dict[str, sa.Connection], column: str) -> None:
    assert verdict(engines, column, None) == kept(None)


@often
@given(value=st.sampled_from([*OrderType, *OrderSide, *OrderState]) | ints | st.booleans() | floats | any_text)
def test_a_code_is_kept_if_it_is_a_member_or_its_integer(engines: dict[str, sa.Connection], value: Any) -> None:
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 5:
        answer = verdict(engines, "code", value)
        assert answer == kept(OrderType(value))
    else:
        assert_refused(engines, "code", value, NOT_CODE)


@pytest.mark.parametrize("value", [99, 0, True, 2.0, "2", "LIMIT", Indexed(2), b"2"], ids=repr)
def test_a_code_that_is_no_member_is_refused_alike(engines: dict[str, sa.Connection], value: Any) -> None:
    assert_refused(engines, "code", value, NOT_CODE)


@often
@given(value=ints | ints.map(Indexed) | ints.map(IndexedAndFloating))
@example(2**31)
@example(2**53 + 1)
@example(2**63 - 1)
@example(2**63)
@example(-(2**63))
@example(-(2**63) - 1)
@example(10**5000)
def test_an_integer_is_kept_exactly_or_refused_beyond_64_bits(engines: dict[str, sa.Connection], value: Any) -> None:
    number = value if isinstance(value, int) else value.number
    if -(2**63) <= number <= 2**63 - 1:
        assert verdict(engines, "whole", value) == kept(number)
    else:
        assert_refused(engines, "whole", value, NOT_WHOLE)


@often
@given(value=st.booleans() | floats | st.decimals() | any_text | other_objects)
@example(1.0)
@example("12abc")
@example("12")
@example(Decimal(12))
def test_what_is_no_integer_is_refused_alike(engines: dict[str, sa.Connection], value: Any) -> None:
    assert_refused(engines, "whole", value, NOT_WHOLE)


@settings(often, max_examples=150)
@given(value=floats)
@example(0.1 + 0.2)
@example(5e-324)
@example(1.7976931348623157e308)
@example(57.638000000000005)
@example(-37.63)
def test_every_finite_float_keeps_its_bits_and_no_other_is_kept(
    engines: dict[str, sa.Connection], value: float
) -> None:
    if not math.isfinite(value):
        assert_refused(engines, "price", value, NOT_FINITE)
    else:
        expected = 0.0 if value == 0 else value
        assert verdict(engines, "price", value) == kept(expected)


@often
@given(value=ints | st.decimals() | st.fractions() | ints.map(IndexedAndFloating) | floats.map(Floating))
@example(2**53 + 1)
@example(10**309)
@example(10**5000)
@example(Decimal("NaN"))
@example(Decimal("sNaN"))
@example(Decimal("-Infinity"))
@example(Decimal("1e400"))
@example(Decimal("-0.0"))
@example(Decimal("0.1"))
@example(Fraction(1, 3))
def test_any_other_number_becomes_the_nearest_float_or_is_refused(
    engines: dict[str, sa.Connection], value: Any
) -> None:
    try:
        expected = float(value)
    except (OverflowError, ValueError):
        expected = float("nan")
    if math.isfinite(expected):
        assert verdict(engines, "price", value) == kept(0.0 if expected == 0 else expected)
    else:
        assert_refused(engines, "price", value, NOT_FINITE)


def test_the_sign_of_zero_is_dropped_on_both_engines(engines: dict[str, sa.Connection]) -> None:
    assert verdict(engines, "price", -0.0) == kept(0.0)
    assert kept(0.0) != kept(-0.0)


@often
@given(value=st.booleans() | any_text | other_objects | st.binary())
@example("1.5")
@example(True)
@example(Unconvertible())
@example(Indexed(1))
def test_what_is_no_number_is_refused_alike(engines: dict[str, sa.Connection], value: Any) -> None:
    assert_refused(engines, "price", value, NOT_FINITE)


@settings(often, max_examples=120)
@given(value=any_text)
@example("")
@example("a\0b")
@example("\udc80")
@example("\ud83d\ude00")
@example("😀 ünï '\"; DROP TABLE sample; --")
def test_an_identifier_is_kept_unchanged_or_refused(engines: dict[str, sa.Connection], value: str) -> None:
    if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
        assert_refused(engines, "name", value, NOT_CLEAN)
    else:
        assert verdict(engines, "name", value) == kept(value)


@settings(often, max_examples=120)
@given(value=any_text)
@example("")
@example("a\0b")
@example("\udc80")
@example("\ud83d\ude00")
@example("\0" * 3 + "\ud800")
def test_free_text_is_never_refused_and_its_escapes_are_visible(engines: dict[str, sa.Connection], value: str) -> None:
    def visible(character: str) -> str:
        if character == "\0":
            return "\\x00"
        return f"\\u{ord(character):04x}" if "\ud800" <= character <= "\udfff" else character

    assert verdict(engines, "note", value) == kept("".join(map(visible, value)))


@pytest.mark.parametrize("column", ["name", "note"])
@pytest.mark.parametrize("value", [b"bytes", bytearray(b"a"), 5, 5.5, True, ["a"], object], ids=repr)
def test_what_is_no_text_is_refused_alike(engines: dict[str, sa.Connection], column: str, value: object) -> None:
    assert_refused(engines, column, value, "text")


@pytest.mark.parametrize("value", [Contract.MNQ, OldStyleContract.MNQ], ids=["StrEnum", "str and Enum"])
@pytest.mark.parametrize("column", ["name", "note"])
def test_a_text_enum_is_kept_as_its_text(engines: dict[str, sa.Connection], column: str, value: str) -> None:
    assert verdict(engines, column, value) == kept("CON.F.US.MNQ.U25")


@pytest.mark.parametrize("column", ["name", "note"])
def test_ten_megabytes_of_text_are_kept(engines: dict[str, sa.Connection], column: str) -> None:
    text = ("0123456789abcdé" * 700_000)[:10_000_000]
    answer = verdict(engines, column, text)
    assert isinstance(answer, Kept)
    assert answer.value == text


def test_a_refusal_of_ten_megabytes_is_a_short_text(engines: dict[str, sa.Connection]) -> None:
    answer = verdict(engines, "name", "\0" * 2_500_000)
    assert isinstance(answer, Refused)
    assert len(answer.text) < 400
    assert "(10000002 characters)" in answer.text


offsets = st.integers(-(24 * 3600) + 1, 24 * 3600 - 1).map(lambda seconds: timezone(timedelta(seconds=seconds)))
zones = st.timezones() | offsets | st.just(UTC)
folds = st.builds(datetime.replace, st.datetimes(timezones=zones), fold=st.sampled_from([0, 1]))
extremes = st.builds(
    datetime.replace,
    st.sampled_from([datetime.min, datetime.max]) | st.datetimes(max_value=datetime(1, 1, 3)),
    tzinfo=offsets,
)


def utc(value: datetime) -> datetime | None:
    """`value` in UTC by another way than astimezone: local time less the offset. None when that is no datetime."""
    offset = value.utcoffset()
    assert offset is not None
    try:
        return (value.replace(tzinfo=None) - offset).replace(tzinfo=UTC, fold=0)
    except OverflowError:
        return None


@settings(often, max_examples=120)
@given(value=folds | extremes)
@example(datetime(2025, 11, 2, 1, 30, tzinfo=ZoneInfo("America/Chicago"), fold=0))
@example(datetime(2025, 11, 2, 1, 30, tzinfo=ZoneInfo("America/Chicago"), fold=1))
@example(datetime(2025, 3, 9, 2, 30, tzinfo=ZoneInfo("America/Chicago")))
@example(datetime.min.replace(tzinfo=UTC))
@example(datetime.max.replace(tzinfo=UTC))
@example(datetime.min.replace(tzinfo=timezone(timedelta(hours=14))))
@example(datetime.min.replace(tzinfo=timezone(timedelta(hours=-14))))
@example(datetime.max.replace(tzinfo=timezone(timedelta(hours=-14))))
@example(datetime.max.replace(tzinfo=timezone(timedelta(hours=14))))
def test_an_aware_instant_comes_back_as_the_same_instant_in_utc(
    engines: dict[str, sa.Connection], value: datetime
) -> None:
    if (expected := utc(value)) is None:
        assert_refused(engines, "instant", value, NOT_WITHIN)
    else:
        assert verdict(engines, "instant", value) == kept(expected)


def test_the_two_readings_of_a_repeated_hour_are_an_hour_apart(engines: dict[str, sa.Connection]) -> None:
    twice = datetime(2025, 11, 2, 1, 30, tzinfo=ZoneInfo("America/Chicago"))
    assert verdict(engines, "instant", twice) == kept(datetime(2025, 11, 2, 6, 30, tzinfo=UTC))
    assert verdict(engines, "instant", twice.replace(fold=1)) == kept(datetime(2025, 11, 2, 7, 30, tzinfo=UTC))


class NoOffset(tzinfo):
    """A zone that does not know its offset: aware to the eye, naive by Python's definition."""

    def utcoffset(self, _moment: datetime | None, /) -> None:
        return None


@often
@given(value=st.datetimes() | st.dates() | st.times() | any_text | ints | floats | st.booleans())
@example(datetime(2025, 10, 21, tzinfo=NoOffset()))
@example("2025-10-21 17:00:00")
@example(1761066000)
@example(time(17, 0, tzinfo=UTC))
def test_what_is_no_aware_instant_is_refused_alike(engines: dict[str, sa.Connection], value: Any) -> None:
    assert_refused(engines, "instant", value, NOT_INSTANT)


odd = ints | floats | any_text | st.booleans() | st.datetimes() | st.just(None) | ints.map(Indexed)


@often
@given(
    values=st.lists(ints | st.none())
    | st.lists(any_text | st.none())
    | st.lists(st.text("ab") | st.none())
    | st.lists(st.datetimes(timezones=st.just(UTC) | zones) | st.none())
    | st.lists(odd),
    type_=st.sampled_from([Int64(), CheckedText(), FreeText(), UtcInstant(), CheckedFloat(), CalendarDate()]),
    name=st.sampled_from(["sqlite", "postgresql"]),
)
@example([2**63 - 1, None, -(2**63)], Int64(), "sqlite")
@example([2**63], Int64(), "postgresql")
@example([True], Int64(), "sqlite")
@example(["a", "b\0"], CheckedText(), "sqlite")
@example(["a", None, "\udc80"], FreeText(), "postgresql")
def test_a_column_is_written_as_each_of_its_values_would_be(
    engines: dict[str, sa.Connection], values: list[Any], type_: CheckedType[Any], name: str
) -> None:
    dialect = engines[name].dialect

    def written(encode: Any) -> Any:
        try:
            return [(type(value), value) for value in encode()]
        except InvalidValue as refused:
            return str(refused)

    one = type_.encoder(dialect)
    by_value = written(lambda: [None if value is None else one(value) for value in values])
    assert written(lambda: type_.encode_column(values, dialect)) == by_value


codes = st.sampled_from([OrderType.STOP, OrderSide.SELL, OrderState.FILLED, 4, True])


@often
@given(
    values=st.lists(odd | st.datetimes(timezones=st.just(UTC) | zones) | codes, min_size=1, max_size=12),
    again=st.lists(st.integers(0, 11), max_size=12),
    type_=st.sampled_from([*(column.type for column in SAMPLE.columns), IntCode(OrderSide), sa.Boolean()]),
    name=st.sampled_from(["sqlite", "postgresql"]),
    by_position=st.booleans(),
)
@example([datetime(2025, 10, 21, tzinfo=UTC), None], [0, 1, 0], UtcInstant(), "sqlite", True)
@example([OrderSide.SELL, OrderType.STOP], [0], IntCode(OrderSide), "sqlite", False)
def test_a_row_is_written_as_each_of_its_values_would_be(
    engines: dict[str, sa.Connection], values: list[Any], again: list[int], type_: Any, name: str, by_position: bool
) -> None:
    dialect = engines[name].dialect
    values = [*values, *(values[n] for n in again if n < len(values))]  # the same object in several columns
    taken = [Taken.of(f"p{n}", f"k{n}", type_, dialect) for n in range(len(values))]
    encode = row_encoder(taken, {}, by_position=by_position)

    def written(encode: Any) -> Any:
        try:
            return [(type(value), value) for value in encode()]
        except (InvalidValue, TypeError, ValueError) as refused:  # those are what SQLAlchemy's Boolean raises
            return str(refused)

    def row(values: list[Any]) -> list[Any]:
        encoded = encode({f"k{n}": value for n, value in enumerate(values)})
        return list(encoded if by_position else encoded.values())

    one = encoder(type_, dialect)
    for row_values in (values, values, values[::-1]):  # one row after another
        by_value = written(lambda: [value if one is None or value is None else one(value) for value in row_values])  # noqa: B023
        assert written(lambda: row(row_values)) == by_value  # noqa: B023


@often
@given(value=st.dates())
@example(date.min)
@example(date.max)
@example(date(2024, 2, 29))
def test_a_date_comes_back_as_itself(engines: dict[str, sa.Connection], value: date) -> None:
    assert verdict(engines, "day", value) == kept(value)


@often
@given(value=st.datetimes() | st.datetimes(timezones=zones) | any_text | ints | floats | st.booleans())
@example("2025-10-21")
def test_what_is_no_calendar_date_is_refused_alike(engines: dict[str, sa.Connection], value: Any) -> None:
    assert_refused(engines, "day", value, NOT_DATE)


@given(value=st.datetimes(timezones=zones, min_value=datetime(2, 1, 1), max_value=datetime(9998, 12, 31)))
@settings(often, max_examples=50)
def test_postgresql_gives_utc_whatever_the_zone_of_its_session(postgresql: sa.Connection, value: datetime) -> None:
    with postgresql.begin() as transaction:
        postgresql.exec_driver_sql("SET LOCAL timezone = 'Asia/Kathmandu'")
        postgresql.execute(sa.insert(SAMPLE), {"number": 1, "instant": value})
        back = postgresql.execute(sa.select(SAMPLE.c.instant, utc_date(SAMPLE.c.instant))).one()
        transaction.rollback()
    expected = utc(value)
    assert expected is not None
    assert (back[0], back[0].tzinfo, back[1]) == (expected, UTC, expected.date())


# What the errors and the statements say


def test_every_checked_column_of_the_models_knows_its_full_name() -> None:
    columns = [column for table in Base.metadata.tables.values() for column in table.columns]
    unnamed = [column for column in columns if not isinstance(column.type, (CheckedType, sa.Boolean))]
    assert unnamed == []
    for column in columns:
        if isinstance(column.type, CheckedType):
            assert column.type.field == f"{column.table.name}.{column.name}"


@pytest.mark.parametrize("engine", ["sqlite", "postgresql"])
def test_a_refusal_names_its_own_column_also_when_a_like_statement_is_cached(
    engines: dict[str, sa.Connection], engine: str
) -> None:
    connection = engines[engine]
    for column in ("whole", "whole_too", "whole"):
        statement = sa.select(SAMPLE.c.number).where(SAMPLE.c[column] == 5)
        connection.execute(statement)
        with pytest.raises(InvalidValue, match=rf"^sample\.{column}: 9223372036854775808 is not"):
            connection.execute(sa.select(SAMPLE.c.number).where(SAMPLE.c[column] == 2**63))
    connection.rollback()


@pytest.mark.parametrize("column", CHECKED)
def test_statements_that_use_the_types_are_cached(sqlite: sa.Connection, column: str) -> None:
    values = {
        "code": OrderType.STOP,
        "whole": 1,
        "whole_too": 1,
        "price": 1.5,
        "name": "a",
        "note": "a",
        "instant": datetime(2025, 10, 21, tzinfo=UTC),
        "day": date(2025, 10, 21),
    }
    statement = sa.select(SAMPLE.c[column]).where(SAMPLE.c[column] == values[column])
    assert statement._generate_cache_key() is not None  # without cache_ok it is None, and each execution compiles anew
    sqlite.execute(statement)
    sqlite.rollback()


def test_the_sql_functions_are_cached() -> None:
    for function in (instant_key(SAMPLE.c.instant), utc_date(SAMPLE.c.instant)):
        assert sa.select(function).where(function == sa.bindparam("at"))._generate_cache_key() is not None


@pytest.mark.parametrize("engine", ["sqlite", "postgresql"])
def test_values_written_into_the_statement_mean_the_same_as_bound_ones(
    engines: dict[str, sa.Connection], engine: str
) -> None:
    connection = engines[engine]
    row = {
        "number": 1,
        "code": OrderType.STOP,
        "whole": 2**53 + 1,
        "price": -37.63,
        "name": "it's 100%",
        "note": "a\\'b",
        "instant": datetime(2025, 10, 21, 17, 0, 0, 5, tzinfo=UTC),
        "day": date(2025, 10, 21),
    }
    try:
        connection.execute(sa.insert(SAMPLE), row)
        for name, value in row.items():
            statement = sa.select(SAMPLE.c.number).where(SAMPLE.c[name] == value)
            literal = statement.compile(connection, compile_kwargs={"literal_binds": True})
            assert connection.execute(sa.text(str(literal).replace(":", r"\:").replace("%%", "%"))).all() == [(1,)], (
                name
            )
    finally:
        connection.rollback()


# Reading what others left in an SQLite file

storable = st.none() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.text() | st.binary()
dated = st.datetimes().map(str) | st.datetimes(timezones=offsets).map(datetime.isoformat) | st.dates().map(str)


def read_back(connection: sa.Connection, column: str, stored: object) -> tuple[Any, Any]:
    """What our type reads and what the file holds, after another program's INSERT."""
    try:
        connection.exec_driver_sql(f"INSERT INTO sample (number, {column}) VALUES (1, ?)", (stored,))
        raw = connection.exec_driver_sql(f"SELECT {column} FROM sample").scalar_one()
        return connection.scalar(sa.select(SAMPLE.c[column])), raw
    finally:
        connection.rollback()


@often
@given(stored=storable | dated | st.integers(-1, 9))
def test_reading_never_raises_whatever_the_file_holds(sqlite: sa.Connection, stored: object) -> None:
    for column in CHECKED:
        value, raw = read_back(sqlite, column, stored)
        if isinstance(value, OrderType):
            assert raw == value.value
        elif isinstance(value, datetime):
            assert column == "instant"
            assert isinstance(raw, str)
            assert value.tzinfo is not None
        elif isinstance(value, date):
            assert column == "day"
            assert raw.startswith(str(value)) or datetime.fromisoformat(raw).date() == value
        else:
            assert (type(value), value) == (type(raw), raw)


@pytest.mark.parametrize("stored", [99, 0, -1, "x", "", b"\xff", 2.5, 2**62], ids=repr)
def test_a_code_that_this_release_does_not_know_reads_as_stored(sqlite: sa.Connection, stored: object) -> None:
    value, _ = read_back(sqlite, "code", stored)
    assert (type(value), value) == (type(stored), stored)


@pytest.mark.parametrize("stored", [5, "5", 5.0, " 5 "], ids=repr)
def test_a_code_that_sqlite_made_an_integer_reads_as_its_member(sqlite: sa.Connection, stored: object) -> None:
    assert read_back(sqlite, "code", stored)[0] is OrderType.TRAILING_STOP


@pytest.mark.parametrize("engine", ["sqlite", "postgresql"])
def test_an_unknown_code_does_not_hide_the_rows_beside_it(engines: dict[str, sa.Connection], engine: str) -> None:
    connection = engines[engine]
    connection.exec_driver_sql("INSERT INTO sample (number, code) VALUES (1, 1), (2, 99), (3, NULL), (4, 5)")
    codes = connection.scalars(sa.select(SAMPLE.c.code).order_by(SAMPLE.c.number)).all()
    connection.rollback()
    assert codes == [OrderType.MARKET, 99, None, OrderType.TRAILING_STOP]


FIVE = datetime(2025, 10, 21, 17, tzinfo=UTC)
# Every form of reliability.md 3.5, and what Python makes of it. None: nothing, it comes back as stored.
FORMS: list[tuple[object, datetime | None]] = [
    ("2025-10-21 17:00:00", FIVE),
    ("2025-10-21 17:00:00.000000", FIVE),
    ("2025-10-21 17:00:00.000", FIVE),
    ("2025-10-21T17:00:00", FIVE),
    ("2025-10-21 17:00", FIVE),
    ("2025-10-21T17:00", FIVE),
    ("2025-10-21T17:00:00Z", FIVE),
    ("2025-10-21 17:00:00Z", FIVE),
    ("2025-10-21T17:00:00+00:00", FIVE),
    ("2025-10-21 17:00:00+00:00", FIVE),
    ("2025-10-21T12:00:00-05:00", FIVE),
    ("2025-10-21 12:00:00-05:00", FIVE),
    ("2025-10-21 12:00-05:00", FIVE),
    ("2025-10-22T02:30:00+09:30", FIVE),
    ("2025-10-21 17:00:00.123", FIVE.replace(microsecond=123000)),
    ("2025-10-21T17:00:00.123", FIVE.replace(microsecond=123000)),
    ("2025-10-21 12:00:00.123-05:00", FIVE.replace(microsecond=123000)),
    ("2025-10-21 17:00:00.123456", FIVE.replace(microsecond=123456)),
    ("2025-10-21 17:00:00.1234567", FIVE.replace(microsecond=123456)),
    ("2025-10-21", datetime(2025, 10, 21, tzinfo=UTC)),
    (1761066000, None),
    (0, None),
    (2460970, None),
    (1761066000.5, None),
    (2460970.5, None),
    ("1761066000", None),
    ("", None),
    ("garbage", None),
    ("now", None),
    ("12:00", None),
    ("0000-00-00 00:00:00", None),
    ("0000-01-01 00:00:00", None),
    ("2025-02-30 12:00:00", None),
    ("2025-02-30T12:00:00Z", None),
    ("2025-13-01 12:00:00", None),
    ("2025-10-21 24:00:01", None),
    ("2025-10-21T24:30:00", None),
    ("2025-10-21 17:00:60", None),
    ("2025-10-21 17:00:00.", None),
    ("2025-10-21 17:00:00.5x", None),
    ("2025-10-21  17:00:00", None),
    ("2025-10-21T17:00:00z", None),
    (b"2025-10-21 17:00:00", None),
    (b"\xff\x00", None),
]
READABLE = [(stored, instant) for stored, instant in FORMS if instant is not None]
UNREADABLE = [stored for stored, instant in FORMS if instant is None]


def key_of(connection: sa.Connection, stored: object) -> object:
    try:
        connection.exec_driver_sql("INSERT INTO sample (number, instant) VALUES (1, ?)", (stored,))
        return connection.scalar(sa.select(sa.type_coerce(instant_key(SAMPLE.c.instant), sa.Text)))
    finally:
        connection.rollback()


@pytest.mark.parametrize(("stored", "instant"), READABLE, ids=repr)
def test_every_form_v1_daemons_left_reads_as_its_instant(
    sqlite: sa.Connection, stored: object, instant: datetime
) -> None:
    assert kept(read_back(sqlite, "instant", stored)[0]) == kept(instant)


@given(st.from_regex(r"[0-9]{4}-?[0-9W][0-9]-?[0-9]{0,2}.?[0-9:.,+Z -]{0,16}", fullmatch=True))
@example("2025-10-21 17:00:00.")
@example("2025-10-21 17:00:00.123456")
@example("2025-10-21T17:00:00+05")
def test_the_short_way_to_read_an_instant_reads_what_the_long_one_reads(stored: str) -> None:
    parsed = UtcInstant.parse(stored)
    assert UtcInstant().read(stored) == (stored if parsed is None else parsed)


@pytest.mark.parametrize("stored", UNREADABLE, ids=repr)
def test_an_instant_that_cannot_be_read_comes_back_as_stored(sqlite: sa.Connection, stored: object) -> None:
    value, raw = read_back(sqlite, "instant", stored)
    assert (type(value), value) == (type(raw), raw)


@pytest.mark.parametrize(("stored", "instant"), READABLE, ids=repr)
def test_the_key_of_a_readable_form_is_canonical_text(sqlite: sa.Connection, stored: object, instant: datetime) -> None:
    assert key_of(sqlite, stored) == UtcInstant.text(instant)


@pytest.mark.parametrize("stored", UNREADABLE, ids=repr)
def test_what_cannot_be_read_is_later_than_every_instant(sqlite: sa.Connection, stored: object) -> None:
    key = key_of(sqlite, stored)
    assert key == instant_key.UNREADABLE
    assert key > UtcInstant.text(datetime.max.replace(tzinfo=UTC))


@pytest.mark.parametrize("stored", ["2025-10-21\0", "2025-10-21 17:00:00\0", "2025-10-21 17:00:00.5\0x"], ids=repr)
def test_an_instant_with_a_nul_is_later_than_every_instant_too(sqlite: sa.Connection, stored: str) -> None:
    """SQLite's own functions see no further than the NUL (and some versions of Python read one at the end)."""
    assert key_of(sqlite, stored) == instant_key.UNREADABLE


def test_null_has_no_key_and_meets_no_comparison(engines: dict[str, sa.Connection]) -> None:
    for connection in engines.values():
        connection.execute(sa.insert(SAMPLE), {"number": 1})
        key = instant_key(SAMPLE.c.instant)
        assert connection.scalar(sa.select(key)) is None
        assert connection.execute(sa.select(1).select_from(SAMPLE).where((key <= FIVE) | (key > FIVE))).all() == []
        connection.rollback()


def test_rows_in_all_forms_sort_and_compare_by_time(sqlite: sa.Connection) -> None:
    numbered = list(enumerate([*FORMS, (None, None)]))
    key = instant_key(SAMPLE.c.instant)
    try:
        for number, (stored, _) in numbered:
            sqlite.exec_driver_sql("INSERT INTO sample (number, instant) VALUES (?, ?)", (number, stored))
        for bound in {instant for _, instant in READABLE} | {FIVE - timedelta(microseconds=1), FIVE.replace(hour=18)}:
            due = set(sqlite.scalars(sa.select(SAMPLE.c.number).where(key <= bound)))
            assert due == {number for number, (_, instant) in numbered if instant is not None and instant <= bound}
            later = set(sqlite.scalars(sa.select(SAMPLE.c.number).where(key > bound)))
            assert later == {number for number, (stored, _) in numbered if stored is not None} - due
        order = sqlite.scalars(sa.select(SAMPLE.c.number).where(key.is_not(None)).order_by(key, SAMPLE.c.number)).all()
        far = datetime.max.replace(tzinfo=UTC)
        assert list(order) == [number for number, (_, instant) in sorted(numbered[:-1], key=lambda n: n[1][1] or far)]
    finally:
        sqlite.rollback()


@often
@given(
    data=st.data(), first=st.datetimes(datetime(1971, 1, 1), datetime(2199, 1, 1)), milliseconds=st.integers(0, 9999)
)
def test_two_instants_in_any_two_forms_compare_by_time(
    sqlite: sa.Connection, data: st.DataObject, first: datetime, milliseconds: int
) -> None:
    def written(instant: datetime) -> str:
        minutes = data.draw(st.integers(-14 * 60, 14 * 60))
        zoned = instant.replace(tzinfo=UTC).astimezone(timezone(timedelta(minutes=minutes)))
        forms = [str(instant), instant.isoformat(), instant.isoformat() + "Z", zoned.isoformat(), str(zoned)]
        return data.draw(st.sampled_from([*forms, instant.isoformat(timespec="milliseconds")]))

    first = first.replace(microsecond=first.microsecond // 1000 * 1000)
    second = first + timedelta(milliseconds=milliseconds)
    keys = [key_of(sqlite, written(first)), key_of(sqlite, written(second))]
    assert keys == [UtcInstant.text(first.replace(tzinfo=UTC)), UtcInstant.text(second.replace(tzinfo=UTC))]
    assert (keys[0] < keys[1]) == (first < second)


words = (
    "2025 0000 9999 - 10 02 30 31 00 24 60 99 : . T Z z + 5 now x 05:00 -05:00 2025-10-21 2025-02-29 17:00:00 24:00:00"
)
pieces = st.sampled_from([*words.split(), ".123", ".0", " ", "\n", "\0"])


@settings(often, max_examples=200)
@given(stored=st.lists(pieces, min_size=1, max_size=8).map("".join) | dated)
def test_sql_never_takes_for_an_instant_what_python_cannot_read(sqlite: sa.Connection, stored: str) -> None:
    """A lockout whose end nobody can read must not be over in SQL's eyes only."""
    value, key = read_back(sqlite, "instant", stored)[0], key_of(sqlite, stored)
    if not isinstance(value, datetime):
        assert key == instant_key.UNREADABLE
    elif key != instant_key.UNREADABLE and value.tzinfo is UTC:
        assert isinstance(key, str)
        assert abs(datetime.fromisoformat(key).replace(tzinfo=UTC) - value) <= timedelta(milliseconds=1)


# Text order is time order


@settings(often, max_examples=200)
@given(first=st.datetimes(), step=st.timedeltas() | st.integers(0, 2_000_000).map(lambda n: timedelta(microseconds=n)))
@example(datetime(2025, 10, 21, 17), timedelta(microseconds=1))
@example(datetime(1, 1, 1), timedelta(days=365000))
def test_the_order_of_canonical_texts_is_the_order_of_time(first: datetime, step: timedelta) -> None:
    try:
        second = first + step
    except OverflowError:
        second = datetime.max
    texts = [UtcInstant.text(moment.replace(tzinfo=UTC)) for moment in (first, second)]
    assert (texts[0] < texts[1]) == (first < second)
    assert (texts[0] == texts[1]) == (first == second)


@often
@given(value=folds)
def test_the_file_holds_canonical_text_with_a_fraction_only_when_there_is_one(
    sqlite: sa.Connection, value: datetime
) -> None:
    if (expected := utc(value)) is None:
        return
    sqlite.execute(sa.insert(SAMPLE), {"number": 1, "instant": value})
    raw, kind = sqlite.exec_driver_sql("SELECT instant, typeof(instant) FROM sample").one()
    sqlite.rollback()
    assert kind == "text"
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d{6})?", raw)
    assert ("." in raw) == (expected.microsecond != 0)
    assert raw == str(expected.replace(tzinfo=None))


def test_the_clock_of_sqlite_writes_the_same_canonical_text(sqlite: sa.Connection) -> None:
    sqlite.exec_driver_sql("INSERT INTO sample (number, instant) VALUES (1, CURRENT_TIMESTAMP)")
    raw = sqlite.exec_driver_sql("SELECT instant FROM sample").scalar_one()
    value = sqlite.scalar(sa.select(SAMPLE.c.instant))
    sqlite.rollback()
    assert isinstance(value, datetime)
    assert UtcInstant.text(value) == raw


# Portable functions


@often
@given(value=folds | extremes)
@example(datetime(2025, 10, 21, 23, 59, 59, 999999, tzinfo=UTC))
@example(datetime(2025, 10, 21, 20, 0, tzinfo=timezone(timedelta(hours=-5))))
@example(datetime.max.replace(tzinfo=UTC))
@example(datetime.min.replace(tzinfo=UTC))
def test_the_utc_date_of_an_instant_is_the_same_on_both_engines(
    engines: dict[str, sa.Connection], value: datetime
) -> None:
    expected = utc(value)
    if expected is None:
        return
    for name, connection in engines.items():
        connection.execute(sa.insert(SAMPLE), {"number": 1, "instant": value})
        day = connection.scalar(sa.select(utc_date(SAMPLE.c.instant)))
        grouped = connection.execute(
            sa.select(utc_date(SAMPLE.c.instant), sa.func.count()).group_by(sa.text("1"))
        ).all()
        same = connection.scalar(sa.select(sa.func.count()).where(utc_date(SAMPLE.c.instant) == expected.date()))
        connection.rollback()
        assert (day, grouped, same) == (expected.date(), [(expected.date(), 1)], 1), name


@pytest.mark.parametrize(("stored", "instant"), READABLE, ids=repr)
def test_the_utc_date_is_right_for_every_readable_form(
    sqlite: sa.Connection, stored: object, instant: datetime
) -> None:
    sqlite.exec_driver_sql("INSERT INTO sample (number, instant) VALUES (1, ?)", (stored,))
    day = sqlite.scalar(sa.select(utc_date(SAMPLE.c.instant)))
    sqlite.rollback()
    assert day == instant.date()


@often
@given(value=folds | extremes, bound=folds | extremes)
def test_keys_compare_with_bound_instants_by_time_on_both_engines(
    engines: dict[str, sa.Connection], value: datetime, bound: datetime
) -> None:
    first, second = utc(value), utc(bound)
    if first is None or second is None:
        return
    key = instant_key(SAMPLE.c.instant)
    for name, connection in engines.items():
        connection.execute(sa.insert(SAMPLE), {"number": 1, "instant": value})
        answer = connection.execute(sa.select(key < bound, key == bound, key > bound)).one()
        connection.rollback()
        assert tuple(map(bool, answer)) == (first < second, first == second, first > second), name


# Values that never were in a column: what from_dict and from_db_row may be given


@often
@given(stored=ints | floats | st.decimals() | any_text | other_objects | st.datetimes() | st.booleans() | st.binary())
@example([5])
@example(10**400)
@example(Decimal("sNaN"))
@example(datetime.min.replace(tzinfo=timezone(timedelta(hours=14))))
def test_reading_takes_any_object_without_raising(stored: Any) -> None:
    for name in CHECKED:
        SAMPLE.c[name].type.read(stored)


@pytest.mark.parametrize(
    ("column_type", "stored"),
    [
        (IntCode(OrderType), [5]),
        (CheckedFloat(), 10**400),
        (CheckedFloat(), "1.5"),
        (UtcInstant(), "soon"),
        (CalendarDate(), "someday"),
        (Int64(), "5"),
    ],
    ids=lambda value: shown(value)[:20],
)
def test_what_cannot_be_read_is_given_back_as_it_is(column_type: CheckedType[Any], stored: Any) -> None:
    assert column_type.read(stored) is stored

"""Rows that a v1 daemon wrote, made canonical: the instants, the codes of orders, the outcomes inside `details`.

One walk over the tables serves three ends: to say what would be done (a dry run, `risk-store check`), to find rows that
contradict what was said of the file, and to do it. Nothing is invented: what cannot be read stays as it is, and is
listed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, tzinfo
from enum import IntEnum, StrEnum
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import REGCLASS

from risk_store import v1
from risk_store.codes import OrderType
from risk_store.columns import CheckedType, IntCode, UtcInstant
from risk_store.errors import InvalidValue, LegacyContradiction, RiskStoreError, shown
from risk_store.models import ROLLED_UP, ROLLUP, Base, EnforcementLog, Order
from risk_store.schema.copies import Progress
from risk_store.schema.verdict import VERSION_TABLE, SchemaState, SchemaStatus

__all__ = ["Adoption", "Finding", "FindingKind", "LegacyChoices", "OddValue", "tally"]

_WINDOW = 2_000  # rows read at once; what is kept of them is only what changes
_EXAMPLES = 3
_APPLICATION_ID = int.from_bytes(b"risk", "big")  # in SQLite's header, where a v1 file has 0
_MARK = "rows adopted"


@dataclass(frozen=True, slots=True, kw_only=True)
class LegacyChoices:
    """What a v1 file does not say of itself.

    Raises :class:`~risk_store.errors.InvalidValue` for a zone or a kind of codes that does not exist.

    >>> LegacyChoices(timezone="America/Chicago").zone
    zoneinfo.ZoneInfo(key='America/Chicago')
    """

    timezone: str | None = None
    """IANA name of the zone in which the daemon wrote times without an offset; None is UTC, by default."""
    order_codes: str | None = None
    """Whose integers `orders.type` and `orders.state` hold: "stored" (None, by default) or "gateway"."""
    accept_contradictions: bool = False
    """Go on although rows contradict the choice; they are converted by it all the same."""
    zone: tzinfo = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.order_codes not in (None, "stored", "gateway"):
            raise InvalidValue("legacy_order_codes", self.order_codes, "stored or gateway")
        object.__setattr__(self, "zone", _zone(self.timezone))


def _zone(name: str | None) -> tzinfo:
    if name in (None, "UTC"):
        return UTC
    try:
        return ZoneInfo(str(name))
    except (KeyError, ValueError, OSError):  # not found, an absolute path, a folder
        expected = "the IANA name of a time zone, such as America/Chicago or UTC"
        raise InvalidValue("legacy_timezone", name, expected) from None


class FindingKind(StrEnum):
    """What was found in a column."""

    INSTANT = "instants"
    """In another form than the canonical UTC text; made canonical."""
    TWICE = "ambiguous local times"
    """Local times that the clock showed twice, at the end of daylight saving time; the first is taken."""
    NEVER = "impossible local times"
    """Local times that the clock skipped: they contradict the zone."""
    ORDER_CODE = "order codes"
    """Codes of the gateway, translated into those of the store."""
    OUTCOME = "outcomes"
    """Counts or an error that only `details` says; copied to their own columns."""
    UNREADABLE = "unreadable"
    """What this release cannot read; kept as it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What was found in one column, in how many rows."""

    column: str
    """``table.column``."""
    kind: FindingKind
    rows: int
    examples: tuple[str, ...]
    """The first few: which row, what it holds, and what it becomes."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return asdict(self) | {"kind": self.kind.value, "examples": list(self.examples)}


class OddValue(NamedTuple):
    """One value that is not as this release would write it."""

    table: str
    column: str
    kind: FindingKind
    key: tuple[Any, ...]
    """The row's primary key."""
    stored: Any
    becomes: Any = None
    """What it is converted to; None where it stays. (For an outcome: the columns it goes to.)"""

    @property
    def row(self) -> str:
        """The row's primary key in words, such as ``id 17``."""
        names = Base.metadata.tables[self.table].primary_key.columns.keys()
        return ", ".join(f"{name} {value}" for name, value in zip(names, self.key, strict=True))

    def __str__(self) -> str:
        text = f"{self.row}: {shown(self.stored)}"
        return f"{text} -> {shown(self.becomes)}" if self.becomes is not None else text


def tally(odd: Iterable[OddValue]) -> tuple[Finding, ...]:
    """Odd values counted by column and kind, with a few examples each."""
    rows: dict[tuple[str, str, FindingKind], int] = {}
    examples: dict[tuple[str, str, FindingKind], list[str]] = {}
    for value in odd:
        key = value[:3]
        rows[key] = number = rows.get(key, 0) + 1
        if number <= _EXAMPLES:
            examples.setdefault(key, []).append(str(value))
    return tuple(
        Finding(column=f"{table}.{column}", kind=kind, rows=number, examples=tuple(examples[table, column, kind]))
        for (table, column, kind), number in rows.items()
    )


@dataclass(kw_only=True)
class Adoption:
    """The conversion of a v1 daemon's rows, within the caller's transaction.

    `connection` is to a database whose verdict, before anything was done to it, was `before`.
    """

    connection: sa.Connection
    before: SchemaStatus
    choices: LegacyChoices
    command: Callable[[str], str] = field(default=lambda options: f"risk-store upgrade … {options}")
    """The command line that upgrades this database, with the options given: for the error that asks."""
    progress: Progress | None = None

    def __post_init__(self) -> None:
        self._is_sqlite = self.connection.dialect.name == "sqlite"
        self._is_v1 = self.before.is_of_v1 and not self._is_marked()

    # Converted once: times and codes look the same before and after, so it has to be written down.

    def _is_marked(self) -> bool:
        if not sa.inspect(self.connection).has_table(VERSION_TABLE):
            return False
        if self._is_sqlite:
            mark = self.connection.exec_driver_sql("PRAGMA application_id").scalar_one()
            return bool(mark != 0)  # another program's own: then the version table has to do
        comment = sa.select(sa.func.obj_description(sa.cast(VERSION_TABLE, REGCLASS), "pg_class"))
        return bool(self.connection.scalar(comment) == _MARK)

    def mark(self) -> None:
        """Notes in the database that its rows are converted: a downgrade to v1 and an upgrade convert none twice."""
        if self._is_marked():
            return
        if not self._is_sqlite:
            self.connection.exec_driver_sql(f"COMMENT ON TABLE {VERSION_TABLE} IS '{_MARK}'")
        elif self.connection.exec_driver_sql("PRAGMA application_id").scalar_one() == 0:
            self.connection.exec_driver_sql(f"PRAGMA application_id = {_APPLICATION_ID}")

    @property
    def notes(self) -> list[str]:
        """What was taken for granted, what was said and does not apply, and what a v1 daemon beside us must know."""
        if self.before.state is SchemaState.EMPTY:
            return []
        zone, codes = self.choices.timezone, self.choices.order_codes
        if self._is_v1:
            return [
                f"taken: times without an offset as {zone or 'UTC'}, order codes as {codes or 'stored'}"
                + ("" if zone and codes else " (else: --legacy-timezone, --legacy-order-codes)"),
                "a v1 daemon may go on writing to it; its INSERT OR REPLACE into orders and positions resets what v1"
                " has no column for (trailing_amount, filled_size and the like) in that row",
            ]
        notes = []
        if codes == "gateway":
            notes.append("legacy_order_codes: not applied, the orders hold stored codes since they were converted")
        if zone is not None:
            notes.append("legacy_timezone: canonical times have been UTC since adoption; applied to other forms only")
        return notes

    def refuse_contradictions(self) -> None:
        """Raises LegacyContradiction if rows contradict the choices, unless that was accepted. Writes nothing."""
        if not self._is_v1 or self.choices.accept_contradictions:
            return
        chosen, zone = self.choices.order_codes or "stored", self.choices.timezone
        rows, code_examples = self._contradicting(chosen)
        times, time_examples = self._impossible_times()
        if not rows and not times:
            return
        what = []
        if rows:
            default = "" if self.choices.order_codes else ", the default"
            what.append(f"{_contradict(rows, 'order')} legacy_order_codes={chosen}{default}")
        if times:
            what.append(f"{_contradict(times, 'time')} legacy_timezone={zone}: its clocks skipped them")
        codes = {chosen: rows}
        if rows:
            other = "gateway" if chosen == "stored" else "stored"
            codes[other], _ = self._contradicting(other)
        zones = {zone: times} | ({"UTC": 0} if times else {})
        ways = [self._way_out(code, n + m, name, bool(rows)) for code, n in codes.items() for name, m in zones.items()]
        raise LegacyContradiction("; ".join(what), [*code_examples, *time_examples], ways)

    def _impossible_times(self) -> tuple[int, list[str]]:
        if not self._is_sqlite or self.choices.zone is UTC:
            return 0, []
        found = [finding for finding in self.walk(write=False) if finding.kind is FindingKind.NEVER]
        examples = [f"{finding.column}, {example}" for finding in found for example in finding.examples]
        return sum(finding.rows for finding in found), examples[:_EXAMPLES]

    def _way_out(self, codes: str, contradicting: int, zone: str | None, about_codes: bool) -> str:
        """One command that goes on, and behind it, as a shell's comment, what it means."""
        codes_said = about_codes or self.choices.order_codes is not None
        words = [f"--legacy-timezone {zone}"] if zone else []
        words += [f"--legacy-order-codes {codes}"] if codes_said else []
        words += ["--accept-contradictions"] if contradicting else []
        means = f"{_contradict(contradicting, 'row')} it" if contradicting else "no row contradicts it"
        return f"{self.command(' '.join(words))}   # {means}"

    def walk(self, *, write: bool) -> tuple[Finding, ...]:
        """Goes over all rows and says what is odd; with `write`, makes canonical what can be."""
        return tally(self.odd_values(write=write))

    def odd_values(self, *, write: bool = False) -> Iterator[OddValue]:
        """Every value that is not as this release would write it, table by table in the order of their keys."""
        present = set(sa.inspect(self.connection).get_table_names())
        for table in Base.metadata.sorted_tables:
            # Nobody but this release writes the roll-up, and only of rows that are as it writes them.
            if table.name in present and table not in (*ROLLUP, ROLLED_UP):
                yield from _Walk(self, table, write=write).run()
        if self._is_v1 and self.choices.order_codes == "gateway":
            yield from self._translated_codes(write=write)

    def zone_of(self, stored: object) -> tzinfo:
        """In which zone a time without an offset was written. Once adopted, canonical text is UTC."""
        is_canonical = not self._is_v1 and isinstance(stored, str) and stored[10:11] == " " and len(stored) in (19, 26)
        return UTC if is_canonical else self.choices.zone

    @property
    def every_instant(self) -> bool:
        """Whether canonical text has to be converted too."""
        return self._is_v1 and self.choices.zone is not UTC

    def known_codes(self, column: sa.Column[Any]) -> Mapping[int, IntEnum] | None:
        """What the integers of a column of orders mean, where they are the gateway's."""
        if not self._is_v1 or self.choices.order_codes != "gateway" or column.table is not Order.__table__:
            return None
        from risk_store import projectx  # pays for pydantic: only here

        codes: dict[str, Mapping[int, IntEnum]] = {"type": projectx.ORDER_TYPES, "state": projectx.ORDER_STATUSES}
        return codes.get(column.name)

    # The codes of orders

    def _contradicting(self, choice: str) -> tuple[int, list[str]]:
        """Orders whose prices say that their type, read by `choice`, is another: how many, and a few of them."""
        market, limit, stop = {
            "stored": (OrderType.MARKET, OrderType.LIMIT, OrderType.STOP),
            "gateway": (2, 1, 4),  # JoinBid and JoinAsk are limit orders that have no price of their own
        }[choice]
        orders = sa.table("orders", sa.column("id"), sa.column("type", sa.Integer()), sa.column("limit_price"))
        type_, price = orders.c.type, orders.c.limit_price
        wrong = sa.or_(
            sa.and_(type_.in_([int(market), int(stop)]), price.is_not(None)),
            sa.and_(type_ == int(limit), price.is_(None)),
        )
        rows: int = self.connection.execute(sa.select(sa.func.count()).select_from(orders).where(wrong)).scalar_one()
        first = sa.select(orders).where(wrong).order_by(orders.c.id).limit(_EXAMPLES)
        names = {int(market): "MARKET", int(limit): "LIMIT", int(stop): "STOP"}
        return rows, [
            f"order {row.id}: type {row.type} ({names[row.type]}) "
            + ("without a limit price" if row.limit_price is None else f"with limit_price {row.limit_price!r}")
            for row in self.connection.execute(first)
        ]

    def _translated_codes(self, *, write: bool) -> Iterator[OddValue]:
        orders = sa.table("orders", *(sa.column(name, sa.Integer()) for name in ("id", "type", "state")))
        new: dict[str, sa.ColumnElement[Any]] = {}
        for name in ("type", "state"):
            old = orders.c[name]
            codes = {wire: int(code) for wire, code in (self.known_codes(Order.__table__.c[name]) or {}).items()}
            new[name] = sa.case(codes, value=old, else_=old)
            changing = sa.select(orders.c.id, old, new[name]).where(new[name] != old).order_by(orders.c.id)
            for id_, stored, becomes in self.connection.execute(changing.execution_options(yield_per=_WINDOW)):
                yield OddValue("orders", name, FindingKind.ORDER_CODE, (id_,), stored, becomes)
        if write:
            changes = sa.or_(*(new[name] != orders.c[name] for name in new))
            self.connection.execute(sa.update(orders).where(changes).values(**new))


class _Walk:
    """One table's rows, window by window of their key, and what is odd in them."""

    def __init__(self, adoption: Adoption, table: sa.Table, *, write: bool) -> None:
        self._adoption = adoption
        self._write_too = write
        self._connection = adoption.connection
        present = {column["name"] for column in sa.inspect(adoption.connection).get_columns(table.name)}
        self._columns = [column for column in table.columns if column.name in present]
        self._raw = sa.table(table.name, *(sa.column(name) for name in present))
        self._row_key = [column.name for column in table.primary_key.columns]
        self._key: sa.ColumnElement[Any] = self._raw.c[self._row_key[0]]
        if adoption._is_sqlite:
            # SQLite's own name for a row's key, unless a user has a column of that name, in whatever case.
            taken = {name.lower() for name in present}
            free = [name for name in ("rowid", "_rowid_", "oid") if name not in taken]
            if free:
                self._key = sa.literal_column(free[0], sa.Integer())
            elif len(self._row_key) > 1 or table.primary_key.columns[self._row_key[0]].type._type_affinity is sa.Text:
                raise RiskStoreError(f"{table.name} has columns rowid, _rowid_ and oid of yours; rename one of them")
        self._present = present
        # Before revision 0003 there is nowhere to write an outcome, but it can be said what will be.
        self._has_outcomes = table is EnforcementLog.__table__ and ("positions_closed" in present or not write)

    def run(self) -> Iterator[OddValue]:
        odd = self._odd_conditions()
        if self._has_outcomes:
            others = [odd["details"]] if "details" in odd else []
            odd["details"] = sa.or_(*others, self._outcome_is_in_details())
        if not odd:
            return
        # The key, the primary key, and each column's value where it is odd.
        chosen = [sa.case((condition, self._raw.c[name])) for name, condition in odd.items()]
        columns = [self._key.label("key"), *(self._raw.c[name] for name in self._row_key), *chosen]
        select = sa.select(*columns).where(sa.or_(*odd.values())).order_by(self._key)
        first = 1 + len(self._row_key)
        judges = [(place, name, self._judge_of(name)) for place, name in enumerate(odd, first)]
        for window in self._windows():
            changes: dict[tuple[str, ...], list[dict[str, Any]]] = {}
            for row in self._connection.execute(select.where(*window)):
                for place, name, judge in judges:
                    if (stored := row[place]) is None:
                        continue
                    kind, becomes = judge(stored)
                    if kind is not None:
                        yield OddValue(self._raw.name, name, kind, row[1:first], stored, becomes)
                    if becomes is not None:
                        new = becomes if kind is FindingKind.OUTCOME else {name: becomes}
                        changes.setdefault(tuple(new), []).append({"of_row": row[0], **new})
                    if kind is not FindingKind.UNREADABLE and (doubt := self._doubt(name, stored)) is not None:
                        yield OddValue(self._raw.name, name, doubt, row[1:first], stored, becomes)
            if self._write_too:
                self._write(changes)

    def _windows(self) -> Iterator[list[sa.ColumnElement[bool]]]:
        counted = self._connection.scalar(sa.select(sa.func.count()).select_from(self._raw)) or 0
        done, after = 0, None
        while True:
            later: list[sa.ColumnElement[bool]] = [] if after is None else [self._key > after]
            page = sa.select(self._key.label("key")).select_from(self._raw).where(*later).order_by(self._key)
            keys = page.limit(_WINDOW).subquery()
            last, rows = self._connection.execute(sa.select(sa.func.max(keys.c.key), sa.func.count())).one()
            if not rows:
                return
            yield [*later, self._key <= last]
            done, after = done + rows, last
            if self._adoption.progress is not None:
                self._adoption.progress(f"reading {self._raw.name}", min(done, counted), counted)

    def _write(self, changes: Mapping[tuple[str, ...], list[dict[str, Any]]]) -> None:
        for names, rows in changes.items():
            update = sa.update(self._raw).where(self._key == sa.bindparam("of_row"))
            update = update.values({name: sa.bindparam(name) for name in names})
            # Compiled once and handed to the driver: SQLAlchemy's own way to it costs more than the update itself.
            compiled = update.compile(dialect=self._connection.dialect)
            order: list[str] = getattr(compiled, "positiontup", None) or []
            values: Any = [tuple(row[name] for name in order) for row in rows] if order else rows
            done = self._connection.exec_driver_sql(str(compiled), values).rowcount
            if done not in (len(rows), -1):  # -1: the driver does not tell
                raise RiskStoreError(f"{self._raw.name}: {len(rows)} rows were to be changed, and {done} were")

    def _odd_conditions(self) -> dict[str, sa.ColumnElement[bool]]:
        odd: dict[str, sa.ColumnElement[bool]] = {}
        for column in self._columns:
            raw = self._raw.c[column.name]
            if isinstance(column.type, UtcInstant) and self._adoption.every_instant:
                odd[column.name] = raw.is_not(None)
            elif (codes := self._adoption.known_codes(column)) is not None:
                odd[column.name] = sa.type_coerce(raw, sa.Integer()).not_in(list(codes))
            elif isinstance(column.type, IntCode):
                odd[column.name] = column.type.is_odd(raw)
            elif not self._adoption._is_sqlite:
                continue  # a server has refused everything else
            elif isinstance(column.type, CheckedType):
                odd[column.name] = column.type.is_odd(raw)
            elif isinstance(column.type, sa.Boolean):
                odd[column.name] = sa.type_coerce(raw, sa.Integer()).not_in([0, 1])
        return odd

    def _outcome_is_in_details(self) -> sa.ColumnElement[bool]:
        log = self._raw.c
        details = sa.type_coerce(log.details, sa.Text())
        find = sa.func.instr if self._adoption._is_sqlite else sa.func.strpos
        empty: list[sa.ColumnElement[bool]]
        empty = [log[name].is_(None) for name in ("enforcement_id", "error_message") if name in self._present]
        counts = [log[name] for name in ("positions_closed", "orders_canceled") if name in self._present]
        empty += [sa.type_coerce(count, sa.Integer()) == 0 for count in counts]
        return sa.and_(
            *empty,
            # What cannot name an outcome need not be parsed. (A backslash may spell a key's letters.)
            sa.or_(*(find(details, text) > 0 for text in ('"positions_closed"', '"orders_cancel', '"error"', "\\u"))),
        )

    def _judge_of(self, name: str) -> Callable[[Any], _Judgement]:
        """What says of a column's odd value what it is, and what it becomes."""
        column = Base.metadata.tables[self._raw.name].columns[name]
        if isinstance(column.type, UtcInstant):
            return self._judge_instant
        if name == "details" and self._has_outcomes:
            return _judge_details
        return _judge_other

    def _judge_instant(self, stored: Any) -> _Judgement:
        instant = UtcInstant.parse(stored, self._adoption.zone_of(stored))
        if instant is None:
            return FindingKind.UNREADABLE, None
        text = UtcInstant.text(instant)
        return (None, None) if text == stored else (FindingKind.INSTANT, text)

    def _doubt(self, name: str, stored: Any) -> FindingKind | None:
        """Whether a time without an offset was shown by its zone's clocks twice, or never."""
        zone = self._adoption.choices.zone
        if zone is UTC or not isinstance(Base.metadata.tables[self._raw.name].columns[name].type, UtcInstant):
            return None
        local = datetime.fromisoformat(stored)
        if local.tzinfo is not None or self._adoption.zone_of(stored) is UTC:
            return None
        first, second = (local.replace(tzinfo=zone, fold=fold).utcoffset() for fold in (0, 1))
        if first == second or first is None or second is None:
            return None
        return FindingKind.TWICE if first > second else FindingKind.NEVER


_Judgement = tuple[FindingKind | None, Any]


def _judge_details(stored: Any) -> _Judgement:
    if not isinstance(stored, str):
        return FindingKind.UNREADABLE, None
    outcome = v1.outcome_of(stored)
    return (FindingKind.OUTCOME, outcome) if outcome else (None, None)


def _judge_other(_stored: Any) -> _Judgement:
    return FindingKind.UNREADABLE, None


def _contradict(number: int, thing: str) -> str:
    return f"1 {thing} contradicts" if number == 1 else f"{number:,} {thing}s contradict"

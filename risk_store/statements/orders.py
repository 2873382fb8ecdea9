"""Statements on the mirror of the broker's orders."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql import visitors

from risk_store.codes import TERMINAL_STATES, TRAILING_STATES, WORKING_STATES, OrderSide, OrderType
from risk_store.columns import instant_of
from risk_store.models import Order
from risk_store.statements import arguments
from risk_store.statements.confirmation import confirm, mark_unconfirmed
from risk_store.statements.ids import DISTRIBUTED, EACH_ID, among, by_dialect, each_row, key_of, within_account
from risk_store.trailing import Reach

__all__ = [
    "APPLY_IN_PLACE",
    "APPLY_NEW",
    "APPLY_TOGETHER",
    "APPLY_TO_KNOWN",
    "CONFIRM_ORDERS",
    "GET_ORDER",
    "GET_ORDER_OF_ACCOUNT",
    "INDEXED_OF_ORDERS",
    "KNOWN_ORDERS",
    "KNOWN_ORDERS_OF_ACCOUNT",
    "LISTED_ORDERS",
    "CONTRACTS_OF_ORDERS",
    "LOCK_ORDERS",
    "MARK_UNCONFIRMED_ORDERS",
    "DECISIVE",
    "MOVE_ALIKE",
    "MOVE_STOPS",
    "REQUIRED",
    "SAID_OF_INDEXED",
    "SAVE_ORDER",
    "TAKE_TURNS",
    "TRAILING_ALIKE",
    "TRAILING_FIGURES",
    "TRAILING_ORDERS",
    "TRIGGER_ALIKE",
    "TRIGGER_STOPS",
    "snapshot_of",
    "working_orders",
]

ORDERS = Order.__table__
Column = sa.ColumnElement[Any]


def _as_stored(columns: Iterable[Column]) -> list[Column]:
    """Columns as the driver gives them: a thousand conversions, value by value, would cost more than the rest."""
    return [sa.type_coerce(column, sa.types.NullType()) for column in columns]


# NULL says something in these columns ("never", "not yet"): it is not a gap that a copy of the order could fill.
# venue_updated_at in particular is the age that every later event is judged by, and only an event may set it (SPEC 7).
_OF_THE_VENUE = {"venue_updated_at", "triggered_at", "seen_at", "unconfirmed_since"}
FILLABLE = [c.name for c in ORDERS.columns if c.nullable and c.name not in {*_OF_THE_VENUE, "updated_at"}]

GET_ORDER = sa.select(Order).where(Order.id == sa.bindparam("id"))

GET_ORDER_OF_ACCOUNT = GET_ORDER.where(Order.account_id == sa.bindparam("account"))
"""The same within an account, which on a distributed PostgreSQL asks one shard instead of all."""


def _save_order(insert: Any) -> Any:
    """Insert; on an id that exists, fill what the row lacks, and touch nothing where it lacks nothing."""
    statement = insert(ORDERS)
    row, new = ORDERS.c, statement.excluded
    grown = sa.and_(new.filled_size > row.filled_size, new.filled_size <= row.size)
    return statement.on_conflict_do_update(
        **key_of(ORDERS, insert),
        set_={
            **{name: sa.func.coalesce(row[name], new[name]) for name in FILLABLE},
            "filled_size": sa.case((grown, new.filled_size), else_=row.filled_size),
            "updated_at": sa.bindparam("now", type_=row.updated_at.type),
        },
        where=sa.or_(grown, *(sa.and_(row[name].is_(None), new[name].is_not(None)) for name in FILLABLE)),
    )


SAVE_ORDER = {"sqlite": _save_order(sqlite.insert), "postgresql": _save_order(postgresql.insert)}
"""By dialect. Parameters: every column, and ``now`` for the row's updated_at if it exists and something is filled."""


# What an event says of an order (SPEC 7) -----------------------------------------------------------------------------

REQUIRED = ("account_id", "contract_id", "type", "side", "size", "state")
"""What an update must carry to make a row."""

# An event sets these where it is not older than the row, and fills them where it is and they are empty. Not account_id:
# an order never moves to another account, and on a distributed PostgreSQL its rows live where their account does.
_SAID = [
    "contract_id",
    "type",
    "side",
    "size",
    "limit_price",
    "fill_price",
    "custom_tag",
    "parent_order_id",
    "linked_order_id",
    "trailing_amount",
    "venue_stop_price",
    "created_at",
]


def _literal(code: int) -> Column:
    return sa.literal_column(str(int(code)))


def _is_terminal(state: Column) -> Column:
    return state.in_([_literal(code) for code in TERMINAL_STATES])


def _applied(new: Mapping[str, Column]) -> tuple[dict[str, Column], Column]:
    """The values of a known row after an update with the values `new`, and whether any of them is another than before.

    NULL in `new` is "not carried"; a fill that is not carried counts as 0, so that what decides is the event's alone,
    and the same events give the same row when they come again. Every value on the right is the row's as it was.
    """
    row = ORDERS.c
    filled = sa.func.coalesce(new["filled_size"], sa.literal_column("0"))
    age, known_age = new["venue_updated_at"], row.venue_updated_at
    # Only an update sets venue_updated_at, so a row without it was written by us, and nothing is older than that. An
    # update without an age cannot claim to be newer than one that has it.
    newer = sa.func.coalesce(age > known_age, known_age.is_(None))
    current = sa.func.coalesce(age >= known_age, known_age.is_(None))

    def said(name: str) -> Column:
        return sa.case((current, sa.func.coalesce(new[name], row[name])), else_=sa.func.coalesce(row[name], new[name]))

    state = sa.case(
        (new["state"].is_(None), row.state),
        (sa.and_(_is_terminal(new["state"]), sa.not_(_is_terminal(row.state))), new["state"]),
        (sa.and_(_is_terminal(row.state), sa.not_(_is_terminal(new["state"]))), row.state),
        (filled > row.filled_size, new["state"]),
        (filled < row.filled_size, row.state),
        (current, new["state"]),
        else_=row.state,
    )
    values = {
        **{name: said(name) for name in _SAID},
        "stop_price": _stop(new, current),
        "state": state,
        "filled_size": sa.case((filled > row.filled_size, filled), else_=row.filled_size),
        "venue_updated_at": sa.case((newer, sa.func.coalesce(age, known_age)), else_=known_age),
        # What is in the list of the venue's open orders again, or done, is no open question any more.
        "unconfirmed_since": sa.case((sa.or_(newer, _is_terminal(state)), sa.null()), else_=row.unconfirmed_since),
    }
    # Most events are newer, and then the rest is not looked at.
    changed = sa.or_(newer, *(value.is_distinct_from(row[name]) for name, value in values.items()))
    return values | {"updated_at": new["updated_at"], "seen_at": new["updated_at"]}, changed


def _stop(new: Mapping[str, Column], current: Column) -> Column:
    """The stop in force: what the update says, but no looser than ours where a trailing stop keeps its distance."""
    row, stop = ORDERS.c, new["stop_price"]
    trails = sa.func.coalesce(new["type"], row.type) == _literal(OrderType.TRAILING_STOP)
    side = sa.func.coalesce(new["side"], row.side)
    distance = new["trailing_amount"]
    keeps_distance = sa.func.coalesce(distance == row.trailing_amount, distance.is_(None))
    looser = sa.or_(
        sa.and_(side == _literal(OrderSide.SELL), stop < row.stop_price),
        sa.and_(side == _literal(OrderSide.BUY), stop > row.stop_price),
    )
    return sa.case(
        (sa.not_(current), sa.func.coalesce(row.stop_price, stop)),
        (sa.and_(trails, keeps_distance, looser), row.stop_price),
        else_=sa.func.coalesce(stop, row.stop_price),
    )


def _indexed() -> dict[str, Column]:
    """The columns an event may set that an index has or, if it is partial, asks for."""
    names = set()
    for index in ORDERS.indexes:
        for part in (*index.columns, index.dialect_options["sqlite"]["where"]):
            if part is not None:
                names |= {element.name for element in visitors.iterate(part) if isinstance(element, sa.Column)}
    return {name: ORDERS.c[name] for name in ORDERS.columns.keys() if name in {*_SAID, "state"} & names}  # noqa: SIM118


_INDEXED = _indexed()


def _carried(name: str) -> sa.BindParameter[Any]:
    """A parameter that is NULL where the update does not carry the column."""
    return sa.bindparam(f"said_{name}", type_=ORDERS.c[name].type)


def _or_apply(insert: Any, key: Mapping[str, Any], created_at: Column | None, *, in_place: bool = False) -> Any:
    """Insert, or apply to the row that is there: one statement, so that no other writer comes between.

    `key` is how a row is told that is there. `created_at` is as carried: where a new row must have a value that the
    update does not carry, what is inserted is not what it says. `in_place` leaves alone a row of which the update says
    something new in an indexed column.
    """
    new = {name: insert.excluded[name] for name in ORDERS.columns.keys()}  # noqa: SIM118 (a column collection)
    if created_at is not None:
        new["created_at"] = created_at
    values, changed = _applied(new)
    if in_place:
        # What a row holds afterwards it held before, or the update says it: where the two agree nothing changes.
        same = [sa.func.coalesce(new[name], row).is_not_distinct_from(row) for name, row in _INDEXED.items()]
        values, changed = (
            {name: value for name, value in values.items() if name not in _INDEXED},
            sa.and_(*same, changed),
        )
    return insert.on_conflict_do_update(**key, set_=values, where=changed)


_KEY = {"sqlite": key_of(ORDERS, sqlite.insert), "postgresql": key_of(ORDERS, postgresql.insert)}
APPLY_NEW = {
    "sqlite": _or_apply(sqlite.insert(ORDERS), _KEY["sqlite"], _carried("created_at")),
    "postgresql": _or_apply(postgresql.insert(ORDERS), _KEY["postgresql"], _carried("created_at")),
}
"""By dialect, for an update that carries all of REQUIRED. Touches no row that would be the same afterwards.

Parameters: every column, as of a new row; ``said_created_at`` as carried."""


def _apply_together(created_at: Column | None) -> Any:
    rows = each_row("orders", ORDERS.columns, "id")  # two that write the same ones wait for each other in one order
    insert = postgresql.insert(ORDERS).from_select(ORDERS.columns.keys(), rows)
    return _or_apply(insert, _KEY["postgresql"], created_at)


APPLY_TOGETHER = {True: _apply_together(None), False: _apply_together(sa.null())}
"""On PostgreSQL the same for many orders, each of them once; by whether the updates carry created_at. The server gets
ready for an event's hundred expressions once, and not with each of them, which takes it longer than the event itself.

Parameters: ``orders``, JSON of rows of every column."""

APPLY_IN_PLACE = _or_apply(sqlite.insert(ORDERS), _KEY["sqlite"], _carried("created_at"), in_place=True)
"""The same on SQLite, but it touches no row either of which the update says something new in an indexed column.

SQLite writes the entries of each index that has an assigned column, also where the value stays. Here that is four
indexes, more than half of what the other statement costs (12.7 µs a row, this one 5.2, the plain driver's upsert 8.1),
and more pages to write at each commit. Most events change none of these columns."""

SAID_OF_INDEXED = [f"said_{name}" if name == "created_at" else name for name in _INDEXED]
"""The parameters that say something in those columns."""

INDEXED_OF_ORDERS = by_dialect(
    lambda dialect: sa.select(ORDERS.c.id, *_INDEXED.values()).where(among(ORDERS.c.id, dialect))
)
"""By dialect: of ``ids`` what is stored in those columns, in the order of SAID_OF_INDEXED."""


def _apply_to_known() -> sa.Update:
    decided = ("stop_price", "state", "filled_size", "venue_updated_at", "updated_at")
    values, changed = _applied({name: _carried(name) for name in (*_SAID, *decided)})
    this = (ORDERS.c.id == sa.bindparam("order"), ORDERS.c.account_id == sa.bindparam("account"))
    return sa.update(ORDERS).where(*this, changed).values(values)


APPLY_TO_KNOWN = _apply_to_known()
"""For an update that carries less. Parameters: ``order``, its id, and ``account``, whose it is; ``said_…`` of each
column, and of updated_at, now."""

_OF_ACCOUNT = ORDERS.c.account_id == sa.bindparam("account")

KNOWN_ORDERS = by_dialect(
    lambda dialect: sa.select(ORDERS.c.id, ORDERS.c.account_id).where(among(ORDERS.c.id, dialect))
)
"""By dialect: which of ``ids`` are known, and whose they are."""

KNOWN_ORDERS_OF_ACCOUNT = by_dialect(lambda dialect: KNOWN_ORDERS[dialect].where(_OF_ACCOUNT))
"""By dialect: the same of an ``account``'s."""

CONTRACTS_OF_ORDERS = by_dialect(
    lambda dialect: sa.select(ORDERS.c.contract_id).distinct().where(among(ORDERS.c.id, dialect))
)
"""By dialect: the contracts of ``ids``."""

LOCK_ORDERS = within_account(
    by_dialect(
        lambda dialect: (
            sa.select(ORDERS.c.id)
            .where(among(ORDERS.c.id, dialect))
            .order_by(ORDERS.c.id)
            .with_for_update(key_share=True)
        )
    ),
    ORDERS,
)
"""By dialect: takes the locks on ``ids`` in one order. Two that write many orders would else wait for each other. On a
distributed store those of one ``account``, which is all that can be locked at once there."""


_KEYS = EACH_ID["postgresql"].order_by(sa.literal_column("id")).subquery("keys")
TAKE_TURNS = sa.select(sa.func.pg_advisory_xact_lock(_KEYS.c.id))
"""PostgreSQL: until the transaction ends, nobody else moves the stops or writes many orders of the contracts that
``ids`` stand for. Two that want the same ones take them in one order."""


# Trailing stops -------------------------------------------------------------------------------------------------------

_TRAILS = sa.and_(
    ORDERS.c.type == _literal(OrderType.TRAILING_STOP),
    ORDERS.c.state.in_([_literal(code) for code in TRAILING_STATES]),
    ORDERS.c.triggered_at.is_(None),
)
_AT = sa.bindparam("at", type_=ORDERS.c.created_at.type)
# One whose time cannot be read is not known to be later.
_MADE_BY_THEN = sa.or_(_AT.is_(None), sa.func.coalesce(instant_of(ORDERS.c.created_at) <= _AT, sa.true()))


DECISIVE = ("side", "stop_price", "trailing_amount")
_FIGURES = _as_stored(ORDERS.c[name] for name in DECISIVE)


def _out_of_reach() -> Column:
    """With which a price has nothing to do (:class:`~risk_store.trailing.Reach`). To group a thousand orders by their
    figures costs a server more than half as much as to read them."""
    stop, distance = ORDERS.c.stop_price, ORDERS.c.trailing_amount
    below, above, far = (sa.bindparam(name, type_=sa.Float()) for name in Reach._fields)
    selling = sa.and_(ORDERS.c.side == _literal(OrderSide.SELL), stop < below, stop > above - distance)
    buying = sa.and_(ORDERS.c.side == _literal(OrderSide.BUY), stop > above, stop < below + distance)
    return sa.and_(distance < far, sa.or_(selling, buying))


_TRAILING = sa.select(*_FIGURES).where(ORDERS.c.contract_id == sa.bindparam("contract"), _TRAILS, _MADE_BY_THEN)
_SHOWN = {
    "sqlite": _TRAILING,  # which takes longer to tell who is out of reach than to group them
    "postgresql": _TRAILING.where(_out_of_reach().is_not(sa.true())),
}
TRAILING_FIGURES = {
    "sqlite": _SHOWN["sqlite"].distinct(),
    # The sum of a few ids may need more than 64 bits.
    "postgresql": _SHOWN["postgresql"]
    .add_columns(sa.func.count(), sa.cast(sa.func.sum(ORDERS.c.id), sa.Numeric()))
    .group_by(*_FIGURES),
}
"""By dialect: what decides about the orders of a contract that a price may move or trigger: side, stop and distance,
each once; from a server also how many have them, and the sum of their ids. A price that does nothing needs no more, and
to look for it so costs less than half (0.13 ms for 1,000 orders, not 0.33). Parameters: ``contract``; ``at``, after
which an order may not be made, or NULL; for a server those of :class:`~risk_store.trailing.Reach`."""


def _json_of(ids: Column) -> Column:
    """On PostgreSQL: one text instead of a thousand rows."""
    return sa.cast(sa.func.json_agg(ids), sa.Text())


TRAILING_ORDERS = {
    "sqlite": _SHOWN["sqlite"].add_columns(sa.func.json_group_array(ORDERS.c.id)).group_by(*_FIGURES),
    "postgresql": _SHOWN["postgresql"].add_columns(_json_of(ORDERS.c.id)).group_by(*_FIGURES),
}
"""By dialect: the same with the ids of the orders that have them in common, as JSON."""


_ALIKE = sa.and_(
    ORDERS.c.contract_id == sa.bindparam("contract"),
    _TRAILS,
    _MADE_BY_THEN,
    # As they are stored, and NULL where it is.
    *(
        figure.is_not_distinct_from(sa.bindparam(f"known_{name}", type_=sa.types.NullType()))
        for name, figure in zip(DECISIVE, _FIGURES, strict=True)
    ),
)
TRAILING_ALIKE = {"sqlite": sa.select(sa.func.json_group_array(ORDERS.c.id)).where(_ALIKE)}
"""On SQLite: the ids of the orders that have the same figures, as JSON. Parameters: those of TRAILING_FIGURES, and
those of DECISIVE as they are stored, with ``known_`` before each name: by the column's own an UPDATE might set it."""

_CHANGED = sa.update(ORDERS).values(updated_at=sa.bindparam("now", type_=ORDERS.c.updated_at.type))


def _alike(**values: sa.ColumnElement[Any]) -> dict[str, sa.Update | sa.Select[str | None]]:
    """Orders that are alike, written by their figures; a server returns their ids.

    Nobody else moves them in between: on SQLite the transaction is the only writer, and a server has TAKE_TURNS.
    """
    update = _CHANGED.where(_ALIKE).values(**values)
    returning = update.returning(ORDERS.c.id)
    written = returning.cte("written")
    return {"sqlite": update, "postgresql": sa.select(_json_of(written.c.id)), DISTRIBUTED: returning}


def _still_trailing(dialect: str) -> sa.Update:
    """Some orders, as far as they still trail, and by the distance that was decided on: judged by the UPDATE itself."""
    distance = ORDERS.c.trailing_amount
    update = _CHANGED.where(
        among(ORDERS.c.id, dialect), _TRAILS, distance == sa.bindparam("distance", type_=distance.type)
    )
    # On SQLite nobody comes between reading and writing, and to return the ids would cost as much again as the UPDATE.
    return update if dialect == "sqlite" else update.returning(ORDERS.c.id)


_NEW = sa.bindparam("new", type_=ORDERS.c.stop_price.type)
_TIGHTER = sa.or_(
    sa.and_(ORDERS.c.side == _literal(OrderSide.SELL), ORDERS.c.stop_price < _NEW),
    sa.and_(ORDERS.c.side == _literal(OrderSide.BUY), ORDERS.c.stop_price > _NEW),
)
MOVE_STOPS = by_dialect(lambda dialect: _still_trailing(dialect).where(_TIGHTER).values(stop_price=_NEW))
"""By dialect: moves the stops of orders with one distance to one place, where that is tighter; a server returns the ids
of those it moved. Parameters: ``ids``, ``distance``, ``new``, ``now``."""

MOVE_ALIKE = _alike(stop_price=_NEW)
"""By dialect, and for a distributed store: the same for all that are alike, a third to a half cheaper. Parameters:
those of TRAILING_ALIKE, ``new``, ``now``."""

_TRIGGERED_AT = sa.bindparam("triggered", type_=ORDERS.c.triggered_at.type)
TRIGGER_STOPS = by_dialect(lambda dialect: _still_trailing(dialect).values(triggered_at=_TRIGGERED_AT))
"""By dialect: the same for orders that a price has triggered: it has triggered one that was tightened meanwhile, too.
Parameters: ``ids``, ``distance``, ``triggered``, ``now``."""

TRIGGER_ALIKE = _alike(triggered_at=_TRIGGERED_AT)
"""By dialect, and for a distributed store: the same for all that are alike. Parameters: those of TRAILING_ALIKE,
``triggered``, ``now``."""


# What the gateway's own list says -------------------------------------------------------------------------------------

_WORKING = sa.and_(
    Order.account_id == sa.bindparam("account"), Order.state.in_([_literal(code) for code in WORKING_STATES])
)
LISTED_ORDERS = within_account(
    by_dialect(lambda dialect: sa.select(Order).where(sa.or_(_WORKING, among(ORDERS.c.id, dialect)))), ORDERS
)
"""By dialect: the working orders of an account, and those of ``ids`` whatever their state."""

CONFIRM_ORDERS = confirm(ORDERS)
MARK_UNCONFIRMED_ORDERS = mark_unconfirmed(ORDERS, ORDERS.c.state.in_([_literal(code) for code in TRAILING_STATES]))
"""Only what the list of open orders shows when it is there."""


def working_orders(account_id: int | None = None, contract_id: str | None = None) -> sa.Select[Order]:
    """Orders the venue may still fill, oldest first, whatever form their times have; without a readable time, last.

    Raises InvalidValue for a bad argument.

    >>> from sqlalchemy.dialects import postgresql
    >>> print(working_orders().with_only_columns(Order.id).compile(dialect=postgresql.dialect()))
    SELECT orders.id
    FROM orders
    WHERE orders.state IN (1, 2, 7, 8) ORDER BY orders.created_at NULLS LAST, orders.id
    """
    # Literals, as in ix_orders_working: a bound list would not let the planner use that partial index.
    statement = sa.select(Order).where(Order.state.in_([sa.literal_column(str(int(s))) for s in WORKING_STATES]))
    if account_id is not None:
        statement = statement.where(Order.account_id == arguments.account(account_id))
    if contract_id is not None:
        statement = statement.where(Order.contract_id == arguments.text("contract_id", contract_id))
    return statement.order_by(sa.nulls_last(instant_of(Order.created_at)), Order.id)


def snapshot_of(orders: sa.Select[Order]) -> sa.Select[*tuple[Any, ...]]:
    """The columns of these orders as the driver gives them, for :meth:`~risk_store.columns.CheckedType.read_column`."""
    return orders.with_only_columns(*_as_stored(ORDERS.columns))

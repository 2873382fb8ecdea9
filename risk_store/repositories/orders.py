"""The mirror of the broker's orders."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from datetime import UTC, datetime
from functools import cache, partial
from hashlib import blake2b
from itertools import chain, groupby, takewhile
from operator import attrgetter
from typing import Any

import sqlalchemy as sa

from risk_store.codes import TERMINAL_STATES, TRAILING_STATES
from risk_store.columns import CheckedType
from risk_store.engines import is_no_utf_8, read_by_driver
from risk_store.errors import InvalidValue, NotKnownYet
from risk_store.events import OrderUpdate
from risk_store.models import Order, OrderSnapshot
from risk_store.repositories.base import FRESH, Repository
from risk_store.repositories.prepared import Prepared
from risk_store.repositories.reconciling import Reconciled, compare, of_account
from risk_store.repositories.trailing_stops import TrailingStops
from risk_store.statements import arguments
from risk_store.statements import orders as statements
from risk_store.statements.ids import DISTRIBUTED, as_parameter, rows_as_parameter
from risk_store.trailing import Reach, TrailResult, check_market

__all__ = ["OrderRepository"]

COLUMNS = Order.__table__.columns.keys()
_NEW_ROW = dict.fromkeys(COLUMNS)
# What is compared with the gateway's list: what it says of the order itself, and no times.
_COMPARED = (
    "account_id",
    "contract_id",
    "type",
    "side",
    "size",
    "limit_price",
    "stop_price",
    "state",
    "filled_size",
    "fill_price",
    "custom_tag",
    "parent_order_id",
    "linked_order_id",
    "trailing_amount",
)


class OrderRepository(Repository):
    """Orders in a session of the caller's. Never begins, never commits.

    >>> import sqlalchemy as sa
    >>> from sqlalchemy.orm import Session
    >>> from risk_store.codes import TRAILING_STATES, OrderSide, OrderState, OrderType
    >>> from risk_store.models import Base
    >>> engine = sa.create_engine("sqlite://")
    >>> Base.metadata.create_all(engine)
    >>> with Session(engine) as session:
    ...     orders = OrderRepository(session)
    ...     saved = orders.save(Order(id=123, account_id=456, contract_id="CON.F.US.MNQ.U25", type=OrderType.LIMIT,
    ...                               side=OrderSide.BUY, size=1, limit_price=21000.0, state=OrderState.ACTIVE))
    ...     [order.limit_price for order in orders.working(account_id=456)]
    [21000.0]
    >>> engine.dispose()
    """

    statements = statements

    def get(self, id: int, account_id: int | None = None) -> Order | None:
        """The order with the broker's `id`, as stored now; with `account_id` if it is that account's.

        On a distributed PostgreSQL the account says which shard has it; without, all are asked.
        """
        if account_id is None:
            return self._session.scalars(statements.GET_ORDER, {"id": id}, execution_options=FRESH).one_or_none()
        key = {"id": id, "account": arguments.account(account_id)}
        return self._session.scalars(statements.GET_ORDER_OF_ACCOUNT, key, execution_options=FRESH).one_or_none()

    def save(self, order: Order) -> Order:
        """Inserts the order. On an id that exists, fills only what the row lacks. Returns the order as now stored.

        The stream may be faster than the reply to the placement, and what it said is newer. So on an existing row
        columns that are NULL take the order's values, filled_size may grow up to the stored size, and nothing else
        changes; updated_at is set only if something did. NULL in venue_updated_at, triggered_at, seen_at and
        unconfirmed_since is no gap: those only come with an insert.

        Rules across fields are those of :class:`~risk_store.models.Order`'s construction and not checked again. Raises
        :class:`~risk_store.errors.InvalidValue` for a value that its column cannot keep.
        """
        now = self._clock()
        values = {name: getattr(order, name) for name in COLUMNS}
        # An order made from a v1 row has no filled_size; one that was never stored has no updated_at.
        values["filled_size"] = values["filled_size"] or 0
        values["updated_at"] = values["updated_at"] or now
        self._session.execute(self._of_dialect(statements.SAVE_ORDER, Order), {**values, "now": now})
        # Else the account that it is known with is another one.
        stored = self.get(order.id, order.account_id) or self.get(order.id)
        assert stored is not None
        return stored

    def apply(self, update: OrderUpdate) -> bool:
        """Mirrors what the gateway says of one order (SPEC 7). Returns whether anything changed.

        The venue's clock judges (``update.venue_updated_at`` against the row's): a newer or equally old update sets
        the columns it carries and blanks none, an older one, or one without an age, only fills those that are empty.
        Whatever its age, a terminal state wins over a working one and never the other way round, and filled_size never
        falls. The same update twice is one. The stop of a trailing order is not loosened by an update that lags behind
        ours: `stop_price` stays, `venue_stop_price` is what the venue said.

        An order that is not known yet is inserted. Raises :class:`~risk_store.errors.NotKnownYet`, and writes nothing,
        where the update then lacks what a row must have; :class:`~risk_store.errors.InvalidValue` for what is no
        OrderUpdate and for a value that its column cannot keep.
        """
        return self._apply([_order_update(update)]) > 0

    def apply_many(self, updates: Iterable[OrderUpdate]) -> None:
        """Mirrors many updates, those of one order in their order: as :meth:`apply` would, at a fraction of its cost.

        Raises what :meth:`apply` raises. What stood before the refused update is then written already: roll back.
        """
        checked = [_order_update(update) for update in updates]
        self._take_turns(checked)
        self._apply_many(checked)

    def _apply_many(self, updates: Iterable[OrderUpdate]) -> None:
        # By id: of two that write many orders in another order each would wait for the other.
        for _, run in groupby(sorted(updates, key=attrgetter("id")), key=_is_complete):
            self._apply(list(run))

    def _apply(self, run: Sequence[OrderUpdate]) -> int:
        """Applies updates that are all complete, or all not. The rows changed, where the driver counts them."""
        now = self._clock()
        if not _is_complete(run[0]):
            known = self._accounts_of(run)
            return self._write(_APPLY_TO_KNOWN, [_as_said(update, known[update.id], now) for update in run])
        rows = [_as_new_row(update, now) for update in run]
        if self._dialect(Order) != "sqlite":
            return self._write_together(rows)
        # One that ends an order says a new state, so it need not be tried whether it does.
        if len(rows) == 1 and run[0].state in TERMINAL_STATES:
            return self._write(_APPLY_NEW, rows)
        if len(rows) == 1:
            return self._write(_APPLY_IN_PLACE, rows) or self._write(_APPLY_NEW, rows)
        in_place, others = self._split(rows)
        return self._write(_APPLY_IN_PLACE, in_place) + self._write(_APPLY_NEW, others)

    def _split(self, rows: Sequence[Mapping[str, Any]]) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]:
        """The parameters for APPLY_IN_PLACE, and those for APPLY_NEW: of an order with an update that needs it, all.

        What is stored cannot change in between: SQLite has one writer, and that is this transaction.
        """
        found = self._run(_INDEXED, Order, {"ids": as_parameter({row["id"] for row in rows})})
        stored: dict[int, list[Any]] = {row[0]: list(row[1:]) for row in found}
        instant: Any = Order.__table__.c.created_at.type
        text = instant.bind_processor(self._lane.dialect(Order))
        text_of_utc = cache(text)  # many have the same
        elsewhere = set()
        for row in rows:
            *said, created_at = [row[name] for name in statements.SAID_OF_INDEXED]
            kept = stored.get(row["id"], [None])
            in_utc = type(created_at) is datetime and created_at.tzinfo is UTC
            at = text_of_utc(created_at) if in_utc else text(created_at)
            if said != kept[:-1] or at not in (None, kept[-1]):
                elsewhere.add(row["id"])
        return [row for row in rows if row["id"] not in elsewhere], [row for row in rows if row["id"] in elsewhere]

    def _write_together(self, rows: Sequence[Mapping[str, Any]]) -> int:
        """On a server, rows by id: of each order the first one in one statement, then of each the second one, as far as
        there are many. What is left goes one by one, without waiting for each, and so does all of it to a distributed
        server, which would take a statement for all shards apart by itself."""
        if len(rows) < _TOGETHER or self._is_distributed(Order):
            return self._write(_APPLY_NEW, rows)
        encode = _APPLY_NEW.on(self._lane.dialect(Order)).by_name
        encoded = [(row, encode(row)) for row in rows]  # what may not be written is refused before anything is
        for _, values in encoded:
            del values["said_created_at"]  # which is no column: the run says whether it is carried
        changed = 0
        for carried, run in groupby(encoded, key=_carries_created_at):  # one after another, as others lock them
            rounds = _rounds(run)
            together = list(takewhile(lambda updates: len(updates) >= _TOGETHER, rounds))  # they get no longer
            for updates in together:
                for start in range(0, len(updates), _AT_MOST_TOGETHER):
                    some = [values for _, values in updates[start : start + _AT_MOST_TOGETHER]]
                    given = {"orders": rows_as_parameter(some)}
                    changed += self._run(_APPLY_TOGETHER[carried], Order, given).rowcount
            changed += self._write(_APPLY_NEW, [row for row, _ in chain.from_iterable(rounds[len(together) :])])
        return changed

    def _write(self, prepared: Prepared, rows: Sequence[Mapping[str, Any]]) -> int:
        """The rows changed, where the driver counts them."""
        if len(rows) == 1:
            return self._lane.write(prepared, Order, rows[0]).rowcount
        return self._run(prepared, Order, rows).rowcount if rows else 0

    def _accounts_of(self, updates: Sequence[OrderUpdate]) -> dict[int, int]:
        """Whose the orders are, by id. Raises NotKnownYet for the first update of an order that is not known."""
        unknown = {update.id for update in updates}
        accounts = {update.account_id for update in updates}
        known: dict[int, int] = {}
        if len(accounts) == 1 and None not in accounts:  # most often, and of many shards it asks one
            asked = {"ids": as_parameter(unknown), "account": accounts.pop()}
            known = _by_id(self._run(_KNOWN_OF_ACCOUNT, Order, asked))
        if unknown := unknown - known.keys():
            known |= _by_id(self._run(_KNOWN, Order, {"ids": as_parameter(unknown)}))
        for update in updates:
            if update.id not in known:
                raise _not_known_yet(update)
        return known

    def trail(
        self, contract_id: str, price: float, tick_size: float | None = None, at: datetime | None = None
    ) -> TrailResult:
        """Moves the working trailing stops of a contract behind `price`, and tells which of them it triggered.

        Of type TRAILING_STOP, ACTIVE or PARTIAL and not triggered yet, in all accounts; suspended and pending children
        do not trail. `price`, stops and distances are in price units; `tick_size` puts new stops on the tick. `at` is
        when the price was seen (now by default): orders created later are left alone. An order that is triggered gets
        triggered_at, and its stop stays as it is from then on; :meth:`working` shows it until the venue says that it is
        done. See :mod:`risk_store.trailing` for the arithmetic, which is the same for `Order.trail`.

        Raises :class:`~risk_store.errors.InvalidValue`.
        """
        arguments.text("contract_id", contract_id)
        price, tick_size = check_market(price, tick_size)
        seen = None if at is None else arguments.instant("at", at)
        asked = {"contract": contract_id, "at": seen, **Reach.of(price, tick_size)._asdict()}
        return TrailingStops(self._lane, self._clock).follow(asked, price, tick_size, self._take_turns_of)

    def _lock(self, account_id: int, ids: Collection[int]) -> None:
        """On a server: the locks of an account's orders in the order of their ids, as :meth:`apply_many` takes them."""
        if self._dialect(Order) != "postgresql" or not ids:
            return
        if self._is_distributed(Order):
            self._run(_LOCK_OF_ACCOUNT, Order, {"ids": as_parameter(ids), "account": account_id}).close()
        else:
            self._run(_LOCK, Order, {"ids": as_parameter(ids)}).close()

    def _take_turns(self, updates: Iterable[OrderUpdate], known: Iterable[Order] = ()) -> None:
        """On a server, for who writes many orders: nobody else does, of the same contracts, nor moves their stops."""
        if self._dialect(Order) != "postgresql":
            return
        named = [(update.id, update.contract_id) for update in updates]
        # What is no text is refused by its column, which tells it better.
        contracts = {contract for _, contract in named if isinstance(contract, str)}
        contracts |= {order.contract_id for order in known}
        if unnamed := [id_ for id_, contract in named if contract is None]:
            contracts |= {row[0] for row in self._run(_CONTRACTS, Order, {"ids": as_parameter(unnamed)})}
        self._take_turns_of(contracts)

    def _take_turns_of(self, contracts: Iterable[str]) -> None:
        """On a server: who moves the stops of a contract, and who writes many of its orders, wait for each other before
        either has one of them, and so not for each other's rows, which an UPDATE locks in any order. To lock a thousand
        rows first costs as much as to write them; and on a distributed server nobody can, of several accounts."""
        if keys := {_key_of(contract) for contract in contracts}:
            self._run(_TAKE_TURNS, Order, {"ids": as_parameter(keys)}).close()

    def reconcile(self, account_id: int, rows: Iterable[OrderUpdate], asked_at: datetime) -> Reconciled:
        """Compares an account's working orders with the gateway's own list of open ones, and tells what differs.

        `rows` are the updates that :func:`risk_store.projectx.parse` makes of the answer to /api/Order/searchOpen;
        `asked_at` is when it was asked for. What is listed is applied as by :meth:`apply`. Orders of which an event
        told something new since `asked_at`, or that were made since, are left alone. An ACTIVE order that is not
        listed gets unconfirmed_since, and nothing else: the list may lag, and it hides suspended and pending orders,
        which stay as they are. A later event, or a list that has it, confirms it again.

        Raises, before anything is written, :class:`~risk_store.errors.InvalidValue` for a row that is no OrderUpdate or
        of another account, and :class:`~risk_store.errors.NotKnownYet`.
        """
        account_id = arguments.account(account_id)
        asked_at = arguments.instant("asked_at", asked_at)
        listed = of_account(account_id, rows, OrderUpdate)
        asked = {"account": account_id, "ids": as_parameter(update.id for update in listed)}
        listing = self._of_dialect(statements.LISTED_ORDERS, Order)
        here = {order.id: order for order in self._session.scalars(listing, asked, execution_options=FRESH)}
        result, theirs = compare(here, listed, asked_at, _COMPARED, lambda order: order.state in TRAILING_STATES)
        for update in theirs:
            if update.id not in here and not _is_complete(update):
                raise _not_known_yet(update)
        self._take_turns(theirs, here.values())
        self._lock(account_id, here.keys())
        self._apply_many(theirs)
        marks: dict[str, Any] = {"now": self._clock(), "asked": asked_at}
        marks |= {"account": account_id} if self._is_distributed(Order) else {}
        confirm = self._of_dialect(statements.CONFIRM_ORDERS, Order)
        self._session.execute(confirm, marks | {"ids": as_parameter(update.id for update in theirs)})
        mark = self._of_dialect(statements.MARK_UNCONFIRMED_ORDERS, Order)
        self._session.execute(mark, marks | {"ids": as_parameter(result.unknown_there)})
        return result

    def working(self, account_id: int | None = None, contract_id: str | None = None) -> list[Order]:
        """The orders that the venue may still fill, oldest first, whatever odd rows lie beside them.

        Codes and instants that cannot be read come as they are stored, and a warning names the row, once each. Raises
        InvalidValue for a bad argument.
        """
        working = statements.working_orders(account_id, contract_id)
        return self._telling(lambda: list(self._session.scalars(working, execution_options=FRESH)))

    def snapshot(self, account_id: int | None = None, contract_id: str | None = None) -> list[OrderSnapshot]:
        """What :meth:`working` gives, row for row and value for value, as tuples to look at: thousands, at a start.

        A column is read at a time. Raises InvalidValue for a bad argument.
        """
        working = statements.snapshot_of(statements.working_orders(account_id, contract_id))

        def load() -> list[OrderSnapshot]:
            try:
                with read_by_driver(self._lane.connection(Order)):
                    return read_all()
            except sa.exc.OperationalError as error:
                if not is_no_utf_8(error):
                    raise
            return read_all()

        def read_all() -> list[OrderSnapshot]:
            found: list[OrderSnapshot] = []
            for rows in self._lane.parts(working, Order, _AT_A_TIME):
                known: dict[Any, Any] = {}  # an order that has not changed since has one instant in several columns
                columns = [read(values, known) for read, values in zip(_READERS, zip(*rows, strict=True), strict=False)]
                found += map(_snapshot, zip(*columns, strict=True))
            return found

        return self._telling(load, Order.__table__)


_APPLY_NEW, _APPLY_TO_KNOWN = Prepared(statements.APPLY_NEW), Prepared(statements.APPLY_TO_KNOWN)
_APPLY_TOGETHER = {carried: Prepared(statement) for carried, statement in statements.APPLY_TOGETHER.items()}
_APPLY_IN_PLACE, _INDEXED = Prepared(statements.APPLY_IN_PLACE), Prepared(statements.INDEXED_OF_ORDERS)
_LOCK, _LOCK_OF_ACCOUNT = Prepared(statements.LOCK_ORDERS), Prepared(statements.LOCK_ORDERS[DISTRIBUTED])
_CONTRACTS = Prepared(statements.CONTRACTS_OF_ORDERS)
_TAKE_TURNS = Prepared(statements.TAKE_TURNS)
_KNOWN, _KNOWN_OF_ACCOUNT = Prepared(statements.KNOWN_ORDERS), Prepared(statements.KNOWN_ORDERS_OF_ACCOUNT)
_READERS = [column.type.read_column for column in Order.__table__.columns if isinstance(column.type, CheckedType)]
_snapshot = partial(tuple.__new__, OrderSnapshot)  # what _make does, and looks at the length of each one
# Updates of so many orders are worth a statement: with fewer, to wait for it takes longer than it saves, on a network
# of 2 ms. And so many one may have, so that it takes no time which a server's own limits end.
_TOGETHER, _AT_MOST_TOGETHER = 50, 1_000
_AT_A_TIME = 500  # orders that are read, by columns, while they are in the processor's cache


def _key_of(contract_id: str) -> int:
    """Of its advisory lock."""
    name = f"orders of {contract_id}".encode(errors="backslashreplace")
    return int.from_bytes(blake2b(name, digest_size=8).digest(), signed=True)


def _not_known_yet(update: OrderUpdate) -> NotKnownYet:
    missing = [name for name in statements.REQUIRED if getattr(update, name) is None]
    return NotKnownYet("order", update.id, missing, asdict(update))


def _order_update(update: OrderUpdate) -> OrderUpdate:
    if not isinstance(update, OrderUpdate):
        expected = "an OrderUpdate: make them of the gateway's JSON with risk_store.projectx.parse(payload)"
        raise InvalidValue("update", update, expected)
    return update


def _is_complete(update: OrderUpdate) -> bool:
    return None not in _required_of(update)


def _as_new_row(update: OrderUpdate, now: datetime) -> dict[str, Any]:
    """The parameters of APPLY_NEW."""
    row = _NEW_ROW | dict(zip(_CARRIED, _carried_by(update), strict=True))
    row["said_created_at"] = update.created_at
    row["created_at"] = update.created_at or update.venue_updated_at or now
    row["filled_size"] = update.filled_size or 0
    row["venue_stop_price"] = update.stop_price
    row["updated_at"] = row["seen_at"] = now
    return row


_Encoded = tuple[Mapping[str, Any], dict[str, Any]]
"""The parameters of APPLY_NEW, and the same as a driver takes them."""


def _carries_created_at(encoded: _Encoded) -> bool:
    return encoded[0]["said_created_at"] is not None


def _rounds(run: Iterable[_Encoded]) -> list[list[_Encoded]]:
    """The first one of each order, the second one of each, and so on, each in the order they came."""
    rounds: list[list[_Encoded]] = []
    seen: Counter[int] = Counter()
    for encoded in run:
        id_ = encoded[1]["id"]
        if seen[id_] == len(rounds):
            rounds.append([])
        rounds[seen[id_]].append(encoded)
        seen[id_] += 1
    return rounds


def _by_id(known: sa.CursorResult[Any]) -> dict[int, int]:
    return {id_: account_id for id_, account_id in map(tuple[Any, ...], known)}  # noqa: C416 (dict() has no such type)


def _as_said(update: OrderUpdate, account_id: int, now: datetime) -> dict[str, Any]:
    """The parameters of APPLY_TO_KNOWN."""
    said = {f"said_{name}": getattr(update, name) for name in _CARRIED}
    whose = {"order": update.id, "account": account_id}
    return said | whose | {"said_venue_stop_price": update.stop_price, "said_updated_at": now}


_CARRIED = tuple(field.name for field in fields(OrderUpdate))
_carried_by, _required_of = attrgetter(*_CARRIED), attrgetter(*statements.REQUIRED)

"""A recorded day of the gateway, JSON lines, brought into a store.

What cannot be used is refused line by line, with its reason, and never stops the rest. Replayed twice the store is the
same: each order, position and trade takes what it was told already as one (SPEC 7).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby, islice
from operator import attrgetter
from typing import Any, NamedTuple, TypeVar

from sqlalchemy.exc import DataError

from risk_store.errors import InvalidValue, NotKnownYet, StoreBusy
from risk_store.events import AccountUpdate, OrderUpdate, PositionUpdate, TradeUpdate, Update
from risk_store.projectx import parse
from risk_store.repositories import Transaction
from risk_store.store import RiskStore

__all__ = ["Refused", "ReplaySummary", "apply", "replay"]

T = TypeVar("T")

BATCH = 500  # lines in one transaction
_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Refused:
    """A line that could not be used: its number from 1, why, and what it held, whole."""

    line: int
    reason: str
    text: str

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: the payload as it was, or the text where that was no JSON. Can be replayed when it is corrected.

        >>> Refused(3, "status: 0 is not an order status", '{"id": 1, "status": 0}').to_dict()["payload"]
        {'id': 1, 'status': 0}
        """
        try:
            payload = {"payload": _payload(self.text)}
        except (ValueError, RecursionError):
            payload = {"text": self.text}
        return {"line": self.line, "reason": self.reason} | payload


@dataclass(slots=True, kw_only=True)
class ReplaySummary:
    """What a replay read: lines that were not empty, and the events in those that were not refused.

    >>> ReplaySummary(lines=2, orders=1, refused=1).to_dict()["orders"]
    1
    """

    lines: int = 0
    orders: int = 0
    positions: int = 0
    trades: int = 0
    accounts: int = 0
    """Accounts have no table: what was said of them is read and not kept."""
    refused: int = 0
    """Lines that could not be used."""

    def count(self, update: Update) -> None:
        """One event more."""
        name = _COUNTED[type(update)]
        setattr(self, name, getattr(self, name) + 1)

    def to_dict(self) -> dict[str, int]:
        """JSON-ready values."""
        return asdict(self)


_COUNTED: dict[type, str] = {
    OrderUpdate: "orders",
    PositionUpdate: "positions",
    TradeUpdate: "trades",
    AccountUpdate: "accounts",
}


class _Line(NamedTuple):
    number: int
    text: str
    updates: list[Update]


def replay(store: RiskStore, lines: Iterable[str], refuse: Callable[[Refused], None]) -> ReplaySummary:
    """Brings the events of `lines` into `store`, in their order, 500 lines a transaction. Returns what was read.

    A line is a payload as :func:`risk_store.projectx.parse` takes it, or an object that has it as ``payload``, as
    recordings often do. Empty lines are none. A line about something that is not known yet is tried again after the
    last one. `refuse` is called with each line that cannot be used, when that is final: what is no JSON, no event, or
    lacks what its order needs. All of such a line is left out, and nothing else.

    Raises what the store raises when it cannot be written; the lines of the transactions before are in it then.

    >>> from risk_store import RiskStore
    >>> refused = []
    >>> with RiskStore("sqlite:///" + str(getfixture("tmp_path") / "risk.db")) as store:
    ...     _ = store.upgrade()
    ...     summary = replay(store, ['{"id": 456, "accountId": 123, "contractId": "CON.F.US.EP.U25", "type": 1, '
    ...                              '"size": 2, "averagePrice": 2100.25}', "{"], refused.append)
    >>> summary.positions, [(line.line, line.reason) for line in refused]
    (1, [(2, 'not JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)')])
    """
    summary = ReplaySummary()
    filled = ((number, text) for number, line in enumerate(lines, 1) if (text := line.strip()))
    early: list[tuple[int, str]] = []
    while batch := list(islice(filled, BATCH)):
        summary.lines += len(batch)
        _replay_batch(store, batch, summary, refuse, early)
    while early:
        again, early = early, []
        for start in range(0, len(again), BATCH):
            _replay_batch(store, again[start : start + BATCH], summary, refuse, early)
        if len(early) == len(again):
            _replay_batch(store, early, summary, refuse, None)
            break
    return summary


def _replay_batch(
    store: RiskStore,
    batch: Sequence[tuple[int, str]],
    summary: ReplaySummary,
    refuse: Callable[[Refused], None],
    early: list[tuple[int, str]] | None,
) -> None:
    """One transaction. Lines about something that is not known go to `early`, if that is given, and are not refused."""
    refused: list[Refused] = []
    readable = list(_readable(batch, refused))
    try:
        _write(store, lambda tx: apply(tx, [update for line in readable for update in line.updates]))
        written = readable
    except (InvalidValue, DataError):
        # Once more, to find out which.
        written, refused_here, early_here = _write(store, lambda tx: _one_by_one(tx, readable, early is not None))
        refused += refused_here
        if early is not None:
            early += early_here
    for line in written:
        for update in line.updates:
            summary.count(update)
    summary.refused += len(refused)
    for refusal in sorted(refused, key=attrgetter("line")):
        refuse(refusal)


def _write(store: RiskStore, work: Callable[[Transaction], T]) -> T:
    """One transaction; a few times, where another writer is in its way."""
    for left in reversed(range(_ATTEMPTS)):
        try:
            with store.begin() as tx:
                return work(tx)
        except StoreBusy:
            if not left:
                raise
    raise AssertionError("the last attempt returns or raises")


def apply(tx: Transaction, updates: Iterable[Update]) -> None:
    """Mirrors updates of every kind, in their order. Raises what the repositories raise."""
    for kind, run in groupby(updates, key=type):
        if kind is OrderUpdate:
            tx.orders.apply_many(run)  # type: ignore[arg-type]
        elif kind is PositionUpdate:
            for position in run:
                tx.positions.apply(position)  # type: ignore[arg-type]
        elif kind is TradeUpdate:
            for trade in run:
                tx.trades.record(trade)  # type: ignore[arg-type]


def _readable(batch: Sequence[tuple[int, str]], refused: list[Refused]) -> Iterator[_Line]:
    for number, text in batch:
        try:
            yield _Line(number, text, parse(_payload(text)))
        except InvalidValue as error:
            refused.append(Refused(number, str(error), text))
        except (ValueError, RecursionError) as error:
            refused.append(Refused(number, f"not JSON: {error}", text))


def _one_by_one(
    tx: Transaction, lines: Sequence[_Line], may_wait: bool
) -> tuple[list[_Line], list[Refused], list[tuple[int, str]]]:
    """Each line on its own, all of it or nothing, in one transaction: those written, refused, to be tried again.

    New lists, since the transaction may be tried again.
    """
    written: list[_Line] = []
    refused: list[Refused] = []
    early: list[tuple[int, str]] = []
    for line in lines:
        try:
            with tx.session.begin_nested():
                apply(tx, line.updates)
        except InvalidValue as error:
            if isinstance(error, NotKnownYet) and may_wait:
                early.append((line.number, line.text))
            else:
                refused.append(Refused(line.number, str(error), line.text))
        except DataError as error:
            refused.append(Refused(line.number, str(error.orig).partition("\n")[0], line.text))
        else:
            written.append(line)
    return written, refused, early


def _payload(text: str) -> Any:
    """The payload of a line: what a recorder put around it, and around a refused line, is taken off."""
    read = json.loads(text)
    is_wrapped = isinstance(read, dict) and "payload" in read and not read.keys() & {"id", "orderId", "data"}
    return read["payload"] if is_wrapped else read

"""The mirror of the broker's positions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from datetime import datetime
from hashlib import blake2b
from typing import Any

from risk_store.errors import InvalidValue, NotKnownYet
from risk_store.events import PositionUpdate
from risk_store.models import ClosedPosition, Position
from risk_store.repositories.base import FRESH, Repository
from risk_store.repositories.reconciling import Reconciled, compare, of_account
from risk_store.statements import arguments
from risk_store.statements import positions as statements
from risk_store.statements.ids import as_parameter

__all__ = ["PositionRepository"]

COLUMNS = Position.__table__.columns.keys()
_SAID = ("contract_id", "type", "size", "average_price", "created_at")
_COMPARED = ("account_id", "contract_id", "type", "size", "average_price")


class PositionRepository(Repository):
    """Open positions in a session of the caller's: one for each account and contract. Never begins, never commits.

    >>> import sqlalchemy as sa
    >>> from sqlalchemy.orm import Session
    >>> from risk_store.codes import PositionType
    >>> from risk_store.models import Base
    >>> engine = sa.create_engine("sqlite://")
    >>> Base.metadata.create_all(engine)
    >>> with Session(engine) as session:
    ...     positions = PositionRepository(session)
    ...     _ = positions.apply(PositionUpdate(id=456, account_id=123, contract_id="CON.F.US.EP.U25", size=2,
    ...                                        type=PositionType.LONG, average_price=2100.25))
    ...     [(position.size, position.average_price) for position in positions.open(123)]
    [(2, 2100.25)]
    >>> engine.dispose()
    """

    statements = statements

    def get(self, id: int) -> Position | None:
        """The open position with the venue's `id`, as stored now."""
        return self._session.get(Position, id, populate_existing=True)

    def open(self, account_id: int | None = None, contract_id: str | None = None) -> list[Position]:
        """The open positions, oldest first. Raises InvalidValue for a bad argument."""
        found = statements.open_positions(account_id, contract_id)
        return self._telling(lambda: list(self._session.scalars(found, execution_options=FRESH)))

    def apply(self, update: PositionUpdate) -> bool:
        """Mirrors what the gateway says of one position. Returns whether anything changed.

        Sets what the update carries and blanks nothing; one with size 0 closes the position: its row goes, and only
        that it was closed is kept (`ClosedPosition`). The gateway gives no position event a time of its own, only the
        position's beginning, so the last update of a position that comes holds. One is late, and changes nothing, that
        is of a position that was closed already, or that began before another one that the venue told of in the same
        account and contract. There is one at a time: a position that opens ends any other, and one that closes ends
        those that began before it.

        Raises :class:`~risk_store.errors.NotKnownYet`, and writes nothing, where a position that is not known lacks
        what a row must have; :class:`~risk_store.errors.InvalidValue`.
        """
        if not isinstance(update, PositionUpdate):
            expected = "a PositionUpdate: make them of the gateway's JSON with risk_store.projectx.parse(payload)"
            raise InvalidValue("update", update, expected)
        self._lock(update)
        asked = {"id": update.id, "account": update.account_id, "contract": update.contract_id}
        whose = update.account_id
        same = self._of_account(statements.SAME_POSITION, whose)
        rows = self._session.scalars(same, asked, execution_options=FRESH).all()
        known = next((position for position in rows if position.id == update.id), None)
        others = [position for position in rows if position is not known]
        like = self._of_account(statements.CLOSED_LIKE, whose)
        closed = self._session.scalars(like, asked, execution_options=FRESH).all()
        if _is_late(update, others, closed):
            return False
        if update.closed:
            ended = [*([known] if known else ()), *(other for other in others if _is_before(other, update))]
            self._note_closed(update, known)
            changed = bool(ended)
        else:
            ended = others
            changed = self._save(update, known) or bool(others)
            # What was closed before is over: the position that is there now tells late news of it from news.
            over = {"closed": update.id, "account": update.account_id, "contract": update.contract_id}
            self._session.execute(self._of_account(statements.FORGET_CLOSED, whose), over)
        for position in ended:
            key = {"position": position.id, "account": position.account_id}
            self._session.execute(statements.DELETE_POSITION, key)
            self._session.expunge(position)
        return changed

    def _of_account(self, forms: Mapping[str, Any], account_id: int | None) -> Any:
        """A statement that looks at the account's rows alone, where that is another one and the account is told."""
        return forms[self._dialect(Position)] if account_id is None else self._of_dialect(forms, Position)

    def _lock(self, update: PositionUpdate) -> None:
        """On a server: one writer at a time of this account's positions of the contract, which may not be there yet."""
        if self._dialect(Position) == "postgresql":
            whose = (update.account_id, update.contract_id)
            of = f"position {update.id}" if None in whose else f"positions {whose}"
            key = int.from_bytes(blake2b(of.encode(), digest_size=8).digest(), signed=True)
            self._session.execute(statements.LOCK_POSITION, {"key": key})

    def _save(self, update: PositionUpdate, known: Position | None) -> bool:
        now = self._clock()
        said = {name: value for name in _SAID if (value := getattr(update, name)) is not None}
        if known is None:
            if not _is_complete(update):
                raise _not_known_yet(update)
            row = {"id": update.id, "account_id": update.account_id, "created_at": now, "updated_at": now} | said
            changed = True
        else:
            row = {name: getattr(known, name) for name in COLUMNS} | said
            changed = known.unconfirmed_since is not None or any(getattr(known, n) != v for n, v in said.items())
            row |= {"updated_at": now} if changed else {}
        marks = {"seen_at": now, "unconfirmed_since": None}  # the same news again is news: it has no time to be old by
        self._session.execute(self._of_dialect(statements.SAVE_POSITION, Position), row | marks)
        return changed

    def _note_closed(self, update: PositionUpdate, known: Position | None) -> None:
        """Also of a position that is not known: what opened it may come late."""
        row = {
            "id": update.id,
            "account_id": known.account_id if known else update.account_id,
            "contract_id": known.contract_id if known else update.contract_id,
            "created_at": update.created_at,
            "closed_at": self._clock(),
        }
        if None not in (row["account_id"], row["contract_id"]):
            self._session.execute(self._of_dialect(statements.NOTE_CLOSED, ClosedPosition), row)

    def reconcile(self, account_id: int, rows: Iterable[PositionUpdate], asked_at: datetime) -> Reconciled:
        """Compares an account's positions with the gateway's own list of open ones, and tells what differs.

        `rows` are the updates that :func:`risk_store.projectx.parse` makes of the answer to /api/Position/searchOpen;
        `asked_at` is when it was asked for. What is listed is applied as by :meth:`apply`. Positions of which an event
        came since `asked_at` (one that closed them, too), or that began since, are left alone. One that is not listed
        gets unconfirmed_since, and nothing else: nothing is assumed closed. A later event, or a list that has it,
        confirms it again.

        Raises, before anything is written, :class:`~risk_store.errors.InvalidValue` for a row that is no
        PositionUpdate or of another account, and :class:`~risk_store.errors.NotKnownYet`.
        """
        account_id = arguments.account(account_id)
        asked_at = arguments.instant("asked_at", asked_at)
        listed = of_account(account_id, rows, PositionUpdate)
        asked = {"account": account_id, "ids": as_parameter(update.id for update in listed), "asked": asked_at}
        gone = set(self._session.scalars(statements.CLOSED_SINCE, asked))
        listed = [update for update in listed if update.id not in gone]
        listing = self._of_dialect(statements.LISTED_POSITIONS, Position)
        here = {row.id: row for row in self._session.scalars(listing, asked, execution_options=FRESH)}
        contracts = {update.contract_id for update in listed}
        result, theirs = compare(here, listed, asked_at, _COMPARED, lambda row: row.contract_id not in contracts)
        for update in theirs:
            if update.id not in here and not _is_complete(update):
                raise _not_known_yet(update)
        for update in sorted(theirs, key=lambda update: (update.contract_id or "", update.id)):  # as locks are taken
            # The list is later than what closed it: by now it is open.
            forget = {"closed": update.id, "account": account_id, "contract": None}
            self._session.execute(self._of_account(statements.FORGET_CLOSED, account_id), forget)
            self.apply(update)
        marks: dict[str, Any] = {"now": self._clock(), "asked": asked_at}
        marks |= {"account": account_id} if self._is_distributed(Position) else {}
        confirm = self._of_dialect(statements.CONFIRM_POSITIONS, Position)
        self._session.execute(confirm, marks | {"ids": as_parameter(update.id for update in theirs)})
        mark = self._of_dialect(statements.MARK_UNCONFIRMED_POSITIONS, Position)
        self._session.execute(mark, marks | {"ids": as_parameter(result.unknown_there)})
        return result


def _is_complete(update: PositionUpdate) -> bool:
    return all(getattr(update, name) is not None for name in statements.REQUIRED)


def _not_known_yet(update: PositionUpdate) -> NotKnownYet:
    missing = [name for name in statements.REQUIRED if getattr(update, name) is None]
    return NotKnownYet("position", update.id, missing, asdict(update))


def _is_late(update: PositionUpdate, others: Iterable[Position], closed: Iterable[ClosedPosition]) -> bool:
    if update.created_at is None:
        return False
    if any(_is_before(update, other) for other in others):
        return True
    # A position that was closed does not open again: a later one of the same id has another beginning.
    return any(
        update.created_at <= gone.created_at if gone.id == update.id else _is_before(update, gone)
        for gone in closed
        if isinstance(gone.created_at, datetime)
    )


_Any = PositionUpdate | Position | ClosedPosition


def _is_before(one: _Any, other: _Any) -> bool:
    """Whether the one is known to have begun before the other, another position of the same contract.

    By the venue's clock, and by their ids where that says the same. A v1 daemon's clock says nothing beside it.
    """
    began = [getattr(each, "seen_at", True) and each.created_at for each in (one, other)]
    return all(isinstance(at, datetime) for at in began) and (began[0], one.id) < (began[1], other.id)

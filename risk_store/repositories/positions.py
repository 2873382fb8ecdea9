"""The mirror of the broker's positions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from datetime import datetime
from typing import Any

from risk_store.errors import InvalidGatewayEvent, InvalidValue
from risk_store.events import PositionUpdate
from risk_store.models import Position
from risk_store.repositories.base import FRESH, Repository
from risk_store.repositories.reconciling import Reconciled, compare, of_account
from risk_store.statements import arguments
from risk_store.statements import positions as statements

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

        Sets what the update carries and blanks nothing; one with size 0 closes the position: its row goes. The gateway
        gives no position event a time, only the position's beginning: an update of one that began before the position
        that is kept of the same account and contract is late and changes nothing; otherwise the last one that comes
        holds. A position of the same account and contract with another id ends with it, since there is one at a time.

        Raises :class:`~risk_store.errors.InvalidGatewayEvent`, and writes nothing, where a position that is not known
        lacks what a row must have; :class:`~risk_store.errors.InvalidValue`.
        """
        if not isinstance(update, PositionUpdate):
            expected = "a PositionUpdate: make them of the gateway's JSON with risk_store.projectx.parse(payload)"
            raise InvalidValue("update", update, expected)
        asked = {"id": update.id, "account": update.account_id, "contract": update.contract_id}
        kept = self._session.scalars(statements.SAME_POSITION, asked, execution_options=FRESH).all()
        if any(_began_before(update, position) for position in kept):
            return False
        ended = [position.id for position in kept if update.closed or position.id != update.id]
        known = next((position for position in kept if position.id == update.id), None)
        changed = bool(ended) if update.closed else self._save(update, known)
        if ended:
            self._session.execute(statements.DELETE_POSITIONS, {"ids": ended})
            for position in kept:
                if position.id in ended:
                    self._session.expunge(position)
        return changed

    def _save(self, update: PositionUpdate, known: Position | None) -> bool:
        now = self._clock()
        said = {name: value for name in _SAID if (value := getattr(update, name)) is not None}
        if known is None:
            missing = [name for name in statements.REQUIRED if getattr(update, name) is None]
            if missing:
                expected = f"a value: position {update.id} is not known yet, and this event lacks {', '.join(missing)}"
                raise InvalidGatewayEvent(missing[0], None, expected, asdict(update))
            row = {"id": update.id, "account_id": update.account_id, "created_at": now} | said
        elif known.unconfirmed_since is None and all(getattr(known, name) == value for name, value in said.items()):
            return False
        else:
            row = {name: getattr(known, name) for name in COLUMNS} | said
        marks = {"updated_at": now, "seen_at": now, "unconfirmed_since": None}
        self._session.execute(self._of_dialect(statements.SAVE_POSITION, Position), row | marks)
        return True

    def reconcile(self, account_id: int, rows: Iterable[PositionUpdate], asked_at: datetime) -> Reconciled:
        """Compares an account's positions with the gateway's own list of open ones, and tells what differs.

        `rows` are the updates that :func:`risk_store.projectx.parse` makes of the answer to /api/Position/searchOpen;
        `asked_at` is when it was asked for. What is listed is applied as by :meth:`apply`. Positions of which an event
        came since `asked_at`, or that began since, are left alone. One that is not listed gets unconfirmed_since, and
        nothing else: nothing is assumed closed. A later event, or a list that has it, confirms it again.

        Raises :class:`~risk_store.errors.InvalidValue` for a row that is no PositionUpdate or of another account,
        before anything is written, and what :meth:`apply` raises.
        """
        account_id = arguments.account(account_id)
        asked_at = arguments.instant("asked_at", asked_at)
        listed = of_account(account_id, rows, PositionUpdate)
        asked = {"account": account_id, "ids": [update.id for update in listed]}
        found = self._session.scalars(statements.LISTED_POSITIONS, asked, execution_options=FRESH)
        here = {position.id: position for position in found}
        result, theirs = compare(here, listed, asked_at, _COMPARED)
        for update in theirs:
            self.apply(update)
        marks: dict[str, Any] = {"now": self._clock(), "asked": asked_at}
        self._session.execute(statements.CONFIRM_POSITIONS, marks | {"ids": [update.id for update in theirs]})
        self._session.execute(statements.MARK_UNCONFIRMED_POSITIONS, marks | {"ids": result.unknown_there})
        return result


def _began_before(update: PositionUpdate, position: Position) -> bool:
    began = position.created_at
    return update.created_at is not None and isinstance(began, datetime) and update.created_at < began

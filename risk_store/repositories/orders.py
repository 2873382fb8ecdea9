"""The mirror of the broker's orders."""

from __future__ import annotations

from risk_store.models import Order
from risk_store.repositories.base import FRESH, Repository
from risk_store.statements import orders as statements

__all__ = ["OrderRepository"]

COLUMNS = Order.__table__.columns.keys()


class OrderRepository(Repository):
    """Orders in a session of the caller's. Never begins, never commits.

    >>> import sqlalchemy as sa
    >>> from sqlalchemy.orm import Session
    >>> from risk_store.codes import OrderSide, OrderState, OrderType
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

    def get(self, id: int) -> Order | None:
        """The order with the broker's `id`, as stored now."""
        return self._session.scalars(statements.GET_ORDER, {"id": id}, execution_options=FRESH).one_or_none()

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
        return self._session.scalars(statements.GET_ORDER, {"id": order.id}, execution_options=FRESH).one()

    def working(self, account_id: int | None = None, contract_id: str | None = None) -> list[Order]:
        """The orders that the venue may still fill, oldest first, whatever odd rows lie beside them.

        Codes and instants that cannot be read come as they are stored, and a warning names the row, once each. Raises
        InvalidValue for a bad argument.
        """
        working = statements.working_orders(account_id, contract_id)
        return self._telling(lambda: list(self._session.scalars(working, execution_options=FRESH)))

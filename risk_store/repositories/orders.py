"""The mirror of the broker's orders."""

from __future__ import annotations

from risk_store.models import Order
from risk_store.repositories.base import Repository, row_values
from risk_store.statements import orders as statements

__all__ = ["OrderRepository"]


class OrderRepository(Repository):
    """Orders in a session. ``OrderRepository.statements`` has its expressions.

    >>> print(OrderRepository.statements.working_orders(contract_id="CON.F.US.MNQ.U25").whereclause)
    orders.state IN (1, 2, 7, 8) AND orders.contract_id = :contract_id_1
    """

    statements = statements

    def get(self, order_id: int) -> Order | None:
        """The order with the broker's id, or None."""
        return self._session.get(Order, order_id, populate_existing=True)

    def save(self, order: Order) -> Order:
        """Keeps an order this program placed, and returns it as it is stored now.

        A new id is inserted. On an id that is there, only columns that are NULL are filled: the event stream may have
        been faster than the reply to the placement, and what it said of state, size and fills stays.

        Raises InvalidValue for a value no column can keep.
        """
        values = row_values(order)
        values["updated_at"] = order.updated_at or self._clock()
        self._session.execute(statements.SAVE.of(self._session), values)
        stored = self.get(order.id)
        assert stored is not None  # the statement above just wrote it, in this transaction
        return stored

    def working(self, account_id: int | None = None, contract_id: str | None = None) -> list[Order]:
        """Every working order, oldest first, whatever odd rows lie beside it.

        A code this release does not know, or an instant that cannot be read, comes back as it is stored.
        """
        statement = statements.working_orders(account_id, contract_id).execution_options(populate_existing=True)
        return list(self._session.scalars(statement))

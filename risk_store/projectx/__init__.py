"""The ProjectX / TopstepX gateway's JSON: the only package that knows its keys and codes.

:func:`parse` (`incoming.py`) turns events of the user hub, and rows of the search endpoints, into the plain values of
:mod:`risk_store.events`. :func:`to_place_request` and :func:`to_modify_request` (`outgoing.py`) make an order's JSON.
`codes.py` has the table of codes.
"""

from risk_store.projectx.codes import ORDER_STATUSES, ORDER_TYPES
from risk_store.projectx.incoming import parse
from risk_store.projectx.outgoing import to_modify_request, to_place_request

__all__ = ["ORDER_STATUSES", "ORDER_TYPES", "parse", "to_modify_request", "to_place_request"]

"""Stores that have little time for a while: where a test is about a limit, and so that no other step need be quick."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from risk_store import Limits

__all__ = ["SHORT", "in_a_hurry"]

SHORT = Limits(intent_s=0.3, record_s=0.6)


@contextmanager
def in_a_hurry(store: Any, limits: Limits = SHORT) -> Iterator[None]:
    """Within the block the store has these limits; but a server was told the earlier ones when it was connected to."""
    context = store._context  # that of its enforcements as well
    before = context.limits
    object.__setattr__(context, "limits", limits)
    try:
        yield
    finally:
        object.__setattr__(context, "limits", before)

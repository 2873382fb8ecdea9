"""The errors the store raises. Each class's docstring is its default message; the cause is kept in ``__cause__``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import DontWrapMixin

if TYPE_CHECKING:
    from risk_store.models import EnforcementLog
    from risk_store.schema import SchemaStatus

__all__ = [
    "EnforcementInProgress",
    "EnforcementNotRecorded",
    "InvalidGatewayEvent",
    "InvalidValue",
    "LegacyContradiction",
    "NestedTransaction",
    "NotKnownYet",
    "RiskStoreError",
    "SchemaMismatch",
    "StoreBusy",
    "StoreClosed",
    "StoreFull",
    "StoreReadOnly",
    "StoreUnavailable",
]

# A value in an error text is cut here: a 10 MB reason must not become a 10 MB log line.
_SHOWN = 200


def shown(value: object) -> str:
    """``repr(value)``, cut to a length fit for an error text."""
    try:
        text = repr(value)
    except Exception:  # nested too deeply, an integer of too many digits, a broken __repr__: an error text never fails
        return f"a value of type {type(value).__name__} that cannot be shown"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}… ({len(text)} characters)"


class RiskStoreError(Exception):
    """The store could not do what was asked."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (self.__doc__ or "").strip())


# DontWrapMixin: raised by a column type while a statement is bound, it arrives as itself on every engine instead of
# inside a StatementError (D4).
class InvalidValue(RiskStoreError, ValueError, DontWrapMixin):
    """A value the store cannot keep.

    Attributes: ``field`` (its name), ``value`` (as given), ``expected`` (what would be right).

    >>> raise InvalidValue("size", 0, "a whole number of contracts, 1 or more")
    Traceback (most recent call last):
    risk_store.errors.InvalidValue: size: 0 is not a whole number of contracts, 1 or more
    """

    def __init__(self, field: str, value: object, expected: str, message: str | None = None) -> None:
        super().__init__(message or f"{field}: {shown(value)} is not {expected}")
        self.field = field
        self.value = value
        self.expected = expected


class InvalidGatewayEvent(InvalidValue):
    """A gateway payload that cannot be understood. ``payload`` keeps it whole."""

    def __init__(self, field: str, value: object, expected: str, payload: Any) -> None:
        super().__init__(field, value, expected)
        self.payload = payload


class NotKnownYet(InvalidGatewayEvent):
    """An event of an order, a position or a trade that is not known, and that lacks what a row must have.

    Nothing was written. Once the venue has told of it whole, the same event can be applied.
    """

    def __init__(self, kind: str, id: int, missing: Sequence[str], payload: Any) -> None:
        expected = f"a value: {kind} {id} is not known yet, and this event lacks {', '.join(missing)}"
        super().__init__(missing[0], None, expected, payload)


class SchemaMismatch(RiskStoreError):
    """The database does not have the schema this release works with. ``status`` is the verdict."""

    def __init__(self, status: SchemaStatus) -> None:
        super().__init__(status.message)
        self.status = status


class LegacyContradiction(RiskStoreError):
    """Rows of a v1 database contradict what was said of it. Nothing was changed.

    ``examples`` are the first few of the rows, ``commands`` the commands that go on, each with what it means.
    """

    def __init__(self, what: str, examples: Sequence[str], commands: Sequence[str]) -> None:
        lines = [f"{what}. Nothing was changed. The first:", *(f"  {example}" for example in examples)]
        super().__init__("\n".join([*lines, "Say which it is:", *(f"  {command}" for command in commands)]))
        self.examples = tuple(examples)
        self.commands = tuple(commands)


class StoreUnavailable(RiskStoreError):
    """The database cannot be reached or opened."""


class StoreBusy(RiskStoreError):
    """Another program writes to the database, or keeps a read of it open, or two waited for each other. Try again."""


class StoreFull(RiskStoreError):
    """The disk, or the space the database may use, is full. Nothing was written; reads go on. Free some, try again."""


class StoreReadOnly(RiskStoreError):
    """The database, its file or its folder cannot be written by this process."""


class StoreClosed(RiskStoreError):
    """The store was closed. Make a new RiskStore to go on."""


class NestedTransaction(RiskStoreError):
    """This thread is inside store.begin() already: finish that transaction first, or use its `tx`."""


class EnforcementInProgress(RiskStoreError):
    """This rule is being enforced on this account already, and only one enforcement at a time was asked for."""


class EnforcementNotRecorded(RiskStoreError):
    """An enforcement was carried out, but its row could not be written.

    ``log`` is the row; the same facts went to the log at CRITICAL as one line of JSON. The in-flight row, if it could
    be written, is still there and names the enforcement.
    """

    def __init__(self, log: EnforcementLog, message: str) -> None:
        super().__init__(message)
        self.log = log

"""What a statement may be asked: checks of arguments, each refusing with the argument's name and value."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime

from risk_store.columns import INT64_MAX
from risk_store.errors import InvalidValue

__all__ = ["account", "choice", "instant", "text", "whole"]


def account(value: int) -> int:
    """`value`, if it may be an account's id."""
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= INT64_MAX:
        raise InvalidValue("account_id", value, "an account id from 1 to 2**63 - 1")
    return value


def choice(field: str, value: str, known: Collection[str]) -> str:
    """`value`, if it is one of those known."""
    if not isinstance(value, str) or value not in known:
        raise InvalidValue(field, value, "one of " + ", ".join(map(repr, known)))
    return value


def instant(field: str, value: datetime) -> datetime:
    """`value` in UTC, if it is an aware instant.

    >>> instant("since", datetime(2025, 10, 21))
    Traceback (most recent call last):
    risk_store.errors.InvalidValue: since: datetime.datetime(2025, 10, 21, 0, 0) is not an instant with a time zone...
    """
    if type(value) is datetime and value.tzinfo is UTC:
        return value
    expected = "an instant with a time zone, such as datetime.now(UTC)"
    if not isinstance(value, datetime) or value.utcoffset() is None:
        raise InvalidValue(field, value, expected)
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise InvalidValue(field, value, "an instant within the years 1 to 9999 UTC") from None


def text(field: str, value: str) -> str:
    """`value`, if it is text that says something."""
    if not isinstance(value, str) or not value:
        raise InvalidValue(field, value, "text that is not empty")
    return value


def whole(field: str, value: int, least: int) -> int:
    """`value`, if it is a whole number from `least` to 2**63 - 1."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= INT64_MAX:
        raise InvalidValue(field, value, f"a whole number from {least} to 2**63 - 1")
    return value

"""What a page is asked for: the whole state of a page is in its address."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any
from urllib.parse import urlencode

from risk_store.columns import INT64_MAX
from risk_store.errors import InvalidValue

__all__ = ["View"]

_DEFAULT_SLOW_MS = 500
_DEFAULT_REFRESH_S = 2


@dataclass(frozen=True, slots=True)
class View:
    """The parameters of a page's address, checked.

    Raises InvalidValue for one that is unknown, given twice, or outside its limits.

    >>> View.of([("days", "1"), ("rule", "RULE-008")]).href(days=30)
    '/?days=30&rule=RULE-008'
    >>> View.of([("days", "0")])
    Traceback (most recent call last):
    risk_store.errors.InvalidValue: days: '0' is not a whole number from 1 to 90
    """

    days: int = 7
    """How many days back, 1 to 90."""
    rule: str | None = None
    account: int | None = None
    slow: int = _DEFAULT_SLOW_MS
    """Milliseconds; what took longer is in the list of slow ones. 0 to 60,000."""
    before: int | None = None
    """An id of the log: the list of slow ones begins behind it."""
    refresh: int = _DEFAULT_REFRESH_S
    """Seconds from one look to the next, up to 60; 0: none."""
    theme: str | None = None
    """``dark`` or ``light``; None is what the reader's system says."""

    @classmethod
    def of(cls, pairs: Sequence[tuple[str, str]]) -> View:
        """The view that name-value pairs of an address ask for. Empty values count as not given."""
        given = dict(pairs)
        for name, value in given.items():
            if name not in _READ:
                raise InvalidValue("parameter", name, "one of " + ", ".join(_READ))
            if [each for each, _ in pairs].count(name) > 1:
                raise InvalidValue(name, [each for other, each in pairs if other == name], "given once")
            if not value.isprintable():
                raise InvalidValue(name, value, "text that can be printed")
        return cls(**{name: _READ[name](name, value) for name, value in given.items() if value})

    def href(self, path: str = "/", **changes: Any) -> str:
        """The address of `path` with this view, or with some of it changed; what is as by default is left out."""
        changed = replace(self, **changes)
        said = {
            field.name: getattr(changed, field.name)
            for field in fields(changed)
            if getattr(changed, field.name) != field.default
        }
        return f"{path}?{urlencode(said)}" if said else path

    def link(self, **changes: Any) -> str | None:
        """The address of the page with some of it changed; None where it would be refused (what an odd row holds).

        >>> View().link(account=456), View().link(account="v1's account")
        ('/?account=456', None)
        """
        try:
            View.of([(name, str(value)) for name, value in changes.items() if value is not None])
        except InvalidValue:
            return None
        return self.href(**changes)

    @property
    def what(self) -> View:
        """The view without what is only about how it is shown."""
        return replace(self, refresh=_DEFAULT_REFRESH_S, theme=None)


def _whole(least: int, most: int) -> Any:
    def read(name: str, value: str) -> int:
        # int() would take "1_0", " 1" and digits of other scripts.
        if not (value.isascii() and value.isdecimal() and len(value) <= 19 and least <= int(value) <= most):
            raise InvalidValue(name, value, f"a whole number from {least} to {most}")
        return int(value)

    return read


def _rule(name: str, value: str) -> str:
    if len(value) > 200:
        raise InvalidValue(name, value, "the name of a rule, such as RULE-003")
    return value


def _theme(name: str, value: str) -> str:
    if value not in ("dark", "light"):
        raise InvalidValue(name, value, "dark or light")
    return value


_READ = {
    "days": _whole(1, 90),
    "rule": _rule,
    "account": _whole(1, INT64_MAX),
    "slow": _whole(0, 60_000),
    "before": _whole(1, INT64_MAX),
    "refresh": _whole(0, 60),
    "theme": _theme,
}

"""How the page says things: milliseconds, counts, spans, prices, and text that came from elsewhere."""

from __future__ import annotations

from datetime import datetime
from math import isfinite
from typing import Any

from risk_store.texts import visible

__all__ = ["count", "day_and_time", "is_number", "milliseconds", "price", "share", "span", "text", "time_of_day"]

NOTHING = "–"
_LONGEST = 300  # characters of a reason on the page; the CSV has it whole


def is_number(value: Any) -> bool:
    """Whether it is a finite number."""
    return isinstance(value, (int, float)) and isfinite(value)


def milliseconds(ms: Any) -> str:
    """
    What is no number of milliseconds, in a row of an old daemon, is shown as it is.

    >>> [milliseconds(ms) for ms in (None, 0, 53.4, 999.6, 8690, 72_000, 7_500_000)]
    ['–', '0 ms', '53 ms', '1.00 s', '8.69 s', '1m 12s', '2h 5m']
    """
    if ms is None:
        return NOTHING
    if not is_number(ms):
        return text(ms, 24)
    if round(ms) < 1000:
        return f"{ms:.0f} ms"
    seconds = ms / 1000
    if seconds < 60:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}m {rest}s" if minutes < 60 else f"{minutes // 60:,}h {minutes % 60}m"


def count(number: Any) -> str:
    """
    >>> count(12294)
    '12,294'
    """
    if number is None:
        return NOTHING
    return f"{number:,}" if is_number(number) else text(number, 24)


def share(part: int, whole: int) -> str:
    """
    >>> share(1378, 87_326), share(0, 0)
    ('1.58 %', '–')
    """
    return f"{100 * part / whole:.2f} %" if whole else NOTHING


def span(seconds: float) -> str:
    """A length of time in one unit, since nobody needs two.

    >>> [span(seconds) for seconds in (20, 500, 19_000, 260_000)]
    ['<1m', '8m', '5h', '3d']
    """
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f}{unit}"
    return "<1m"


def price(value: Any) -> str:
    """In price units, with as many decimals as it has, but two.

    >>> price(21480.25), price(6025.0), price(0.0000125), price(None)
    ('21,480.25', '6,025.00', '0.0000125', '–')
    """
    if not is_number(value):
        return NOTHING if value is None else text(value, 24)
    shown = f"{value:,.9f}".rstrip("0")
    whole, _, decimals = shown.partition(".")
    return f"{whole}.{decimals:0<2}"


def text(value: Any, most: int = _LONGEST) -> str:
    r"""Whatever a broker or an old daemon wrote, on one line, with what cannot be seen as an escape, and not endless.

    >>> print(text("a\u202eb"), text("x" * 10_000, 3))
    a\u202eb xxx…
    """
    # Cut first: a reason may be of 10 MB.
    whole = str(value)
    return visible(whole[:most]) + ("…" if len(whole) > most else "")


def time_of_day(at: Any) -> str:
    """
    >>> from datetime import UTC
    >>> time_of_day(datetime(2026, 11, 24, 11, 37, 16, tzinfo=UTC))
    '11:37:16'
    """
    return f"{at:%H:%M:%S}" if isinstance(at, datetime) else text(at)


def day_and_time(at: Any) -> str:
    """
    >>> from datetime import UTC
    >>> day_and_time(datetime(2026, 11, 4, 11, 37, 16, tzinfo=UTC))
    'Wed 4 Nov 11:37:16'
    """
    return f"{at:%a} {at.day} {at:%b %H:%M:%S}" if isinstance(at, datetime) else text(at)

"""Text from a broker or an old file, fit to be shown: on a terminal, on a page."""

from __future__ import annotations

import unicodedata

__all__ = ["visible"]

# Control characters, and format characters such as right-to-left overrides.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def visible(text: str) -> str:
    r"""`text` on one line, with what cannot be seen or would act on the terminal as an escape.

    >>> print(visible("a\tb\u202ec"))
    a\tb\u202ec
    """
    if text.isprintable():
        return text
    return "".join(
        character.encode("unicode_escape").decode() if unicodedata.category(character) in _HIDDEN else character
        for character in text
    )

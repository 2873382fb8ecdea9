"""What goes wrong and can be expected to: one line on stderr that says what to do, and an exit code.

Never a secret: not from a URL's user-info, nor from its query, nor from a word that was no URL at all.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Sequence
from urllib.parse import quote, quote_plus

from risk_store.cli import render
from risk_store.cli.exit_codes import FAILURE, NOT_CURRENT, QUESTION, USAGE

__all__ = ["MissingExtra", "UsageError", "may_be_url", "tell"]


class UsageError(Exception):
    """The command was called in a way that cannot be right."""


class MissingExtra(Exception):
    """What a verb needs comes with an extra that is not installed."""

    def __init__(self, error: ModuleNotFoundError, extra: str) -> None:
        super().__init__(f"{error.name} is not installed; it comes with: pip install 'risk-store[{extra}]'")


def may_be_url(word: str) -> bool:
    """Whether a word is a database URL, or looks like one gone wrong, which may hold a password; else it is a path.

    >>> may_be_url("postgresql:/ann:s3cret@db"), may_be_url("risk.db?password=s3cret"), may_be_url("what?/risk.db")
    (True, True, False)
    """
    return "://" in word or re.search(r"@|\?\w+=", word) is not None


def tell(error: BaseException, words: Sequence[str]) -> int:
    """Tells what went wrong with the command line `words`, and returns the exit code.

    An error that nobody expected is raised again: its traceback is for a bug report.
    """
    code, text = _judge(error, words)
    lines = [part.strip() for part in text.splitlines() if part.strip()]
    # Every line but the first is a detail of the driver's, or the command that helps; one line is what a log wants. A
    # question needs its lines: each answer is a command to paste.
    told = lines if code == QUESTION else [" ".join(lines)]
    for number, line in enumerate(told):
        lead = "  " if number else "risk-store: "
        render.write(f"{lead}{render.visible(_without_secrets(line, words))}\n", sys.stderr)
    return code


def _judge(error: BaseException, words: Sequence[str]) -> tuple[int, str]:
    if hasattr(error, "format_message"):  # Typer's own, whose class is not public and moved between its releases
        return USAGE, _usage(error.format_message(), words)

    from sqlalchemy.exc import SQLAlchemyError

    from risk_store.errors import InvalidValue, LegacyContradiction, RiskStoreError, SchemaMismatch

    expected: dict[type[BaseException], tuple[int, str]] = {
        UsageError: (USAGE, str(error)),
        MissingExtra: (FAILURE, str(error)),
        SchemaMismatch: (NOT_CURRENT, str(error)),
        LegacyContradiction: (QUESTION, str(error)),
        InvalidValue: (USAGE, str(error)),
        RiskStoreError: (FAILURE, str(error)),
        # The driver's first line only: PostgreSQL's DETAIL holds values, SQLAlchemy's own text the statement.
        SQLAlchemyError: (FAILURE, str(getattr(error, "orig", None) or error).strip().partition("\n")[0]),
        ImportError: (
            FAILURE,
            f"{error}; for PostgreSQL: pip install 'risk-store[postgresql]', postgresql+psycopg://…",
        ),
        OSError: (FAILURE, str(error).partition("] ")[2] or str(error)),  # without "[Errno 28] "
    }
    for kind, verdict in expected.items():
        if isinstance(error, kind):
            return verdict
    raise error


def _usage(message: str, words: Sequence[str]) -> str:
    # Typer repeats what it was given: a URL with a password, or the half of one that held a space.
    if "unexpected extra argument" in message:
        message = "more arguments than this verb takes; put a URL that holds a space, & or ; in quotes"
    for word in words:
        for part in (word, word.partition("=")[2]):
            if re.search("[:@?=]", part):
                message = message.replace(part, "…").replace(repr(part)[1:-1], "…")
    return f"{message} (see risk-store --help)"


def _without_secrets(text: str, words: Iterable[str]) -> str:
    """`text` without the secrets of the URLs among `words`, as written or in a driver's own spelling."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    from risk_store.engines import display_url

    for word in (*words, os.environ.get("RISK_STORE_URL", "")):
        if not may_be_url(word):
            continue
        shown = display_url(word)
        text = text.replace(word, shown)
        try:
            url = make_url(word)
        except (ArgumentError, ValueError):
            continue
        values = [v for value in url.query.values() for v in ([value] if isinstance(value, str) else value)]
        for secret in filter(None, [url.password, *values]):
            for spelling in (secret, quote(secret, safe=""), quote_plus(secret)):
                if spelling not in shown:
                    text = text.replace(spelling, "***")
    return text

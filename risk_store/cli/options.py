"""The grammar that all verbs share: which database, which rows, in which form."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from risk_store.cli import failures

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

    from risk_store.repositories import Transaction

__all__ = [
    "Account",
    "AnyDays",
    "Database",
    "DatabaseFirst",
    "Days",
    "FailOn",
    "Json",
    "Limit",
    "Rule",
    "database_and",
    "database_of",
    "instant",
    "reading",
]

_DATABASE = "sqlite:///risk.db, postgresql+psycopg://user@host/database, or the path of an SQLite file."
Database = Annotated[
    str | None,
    typer.Argument(
        metavar="URL",
        envvar="RISK_STORE_URL",
        help=_DATABASE,
        show_default=False,
    ),
]
DatabaseFirst = Annotated[
    str | None,
    typer.Argument(
        metavar="URL",  # without envvar: Typer would not tell it from a word
        help=f"{_DATABASE}  [env var: RISK_STORE_URL]",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Account = Annotated[int | None, typer.Option("--account", metavar="ID", help="Only this account.", show_default=False)]
Rule = Annotated[
    str | None, typer.Option("--rule", metavar="RULE", help="Only this rule, such as RULE-003.", show_default=False)
]
_MOST_DAYS, _MOST_ROWS = 3650, 100_000
Days = Annotated[int, typer.Option("--days", metavar="N", help="How many days back.", min=1, max=_MOST_DAYS)]
AnyDays = Annotated[
    int | None,
    typer.Option("--days", metavar="N", help="Only so many days back.", min=1, max=_MOST_DAYS, show_default=False),
]
Limit = Annotated[int, typer.Option("--limit", metavar="N", help="How many rows at most.", min=1, max=_MOST_ROWS)]
FailOn = Annotated[
    Literal["warning", "critical", "timeout"] | None,
    typer.Option("--fail-on", help="Exit with 5 if an enforcement was at this level or worse.", show_default=False),
]


@contextmanager
def reading(url: str | None) -> Iterator[Transaction]:
    """A read-only transaction of the store that a verb was given."""
    from risk_store.store import RiskStore

    with RiskStore(database_of(url)) as store, store.read() as tx:
        yield tx


def database_of(given: str | None) -> URL:
    """The database a verb was given: a URL, or the path of an SQLite file."""
    if not given:
        raise failures.UsageError("no database: give its URL as the argument, or set RISK_STORE_URL")
    from sqlalchemy.engine import URL

    from risk_store.engines import parse_url

    return parse_url(given) if failures.may_be_url(given) else URL.create("sqlite", database=given)


def database_and(url: str | None, file: str | None, what: str) -> tuple[URL, str]:
    """The database and the file of a verb that takes both: one word is the file, and the URL is RISK_STORE_URL."""
    if file is None:
        url, file = os.environ.get("RISK_STORE_URL"), url
    if file is None:
        raise failures.UsageError(f"no {what}: give the database's URL, or set RISK_STORE_URL, and {what}")
    return database_of(url), file


def instant(option: str, text: str | None) -> datetime | None:
    """The instant that an option names: a UTC day is its beginning, a time without an offset is UTC.

    >>> instant("--since", "2025-01-01"), instant("--until", "2025-01-01T12:00+01:00")
    (datetime.datetime(2025, 1, 1, 0, 0, tzinfo=datetime.timezone.utc), datetime.datetime(2025, 1, 1, 11, 0, ...))
    """
    if text is None:
        return None
    try:
        given = datetime.fromisoformat(text)
        return (given.replace(tzinfo=UTC) if given.tzinfo is None else given).astimezone(UTC)
    except (ValueError, OverflowError):
        expected = "a day (2025-01-31, in UTC) or an instant (2025-01-31T17:00:00-06:00)"
        raise failures.UsageError(f"{option}: {text!r} is not {expected}") from None

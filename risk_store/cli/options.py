"""The grammar that all verbs share: which database, which rows, in which form."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from risk_store.cli import failures

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

    from risk_store.repositories import Transaction

__all__ = ["Account", "Database", "FailOn", "Json", "Rule", "database_of", "reading"]

Database = Annotated[
    str | None,
    typer.Argument(
        metavar="URL",
        envvar="RISK_STORE_URL",
        help="sqlite:///risk.db, postgresql+psycopg://user@host/database, or the path of an SQLite file.",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Account = Annotated[int | None, typer.Option("--account", help="Only this account id.", show_default=False)]
Rule = Annotated[str | None, typer.Option("--rule", help="Only this rule, such as RULE-003.", show_default=False)]
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

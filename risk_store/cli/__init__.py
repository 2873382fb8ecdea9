"""The `risk-store` command.

SQLAlchemy is imported inside the verbs: it is most of the time that `--help` and `version` would take.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from risk_store import __version__
from risk_store.cli import render, tables

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

    from risk_store.repositories import Transaction

__all__ = ["app", "main"]

OK, FAILURE, USAGE, NOT_CURRENT = 0, 1, 2, 3
CHECK_CODES = {"current": 0, "empty": 10, "legacy_v1": 11, "behind": 12, "ahead": 13, "foreign": 14, "drifted": 15}

_EXIT_CODES = (
    "Exit codes: 0 ok, 1 failure, 2 usage, 3 the schema is not current, 130 interrupted; check has one for each "
    "state: " + ", ".join(f"{state} {code}" for state, code in CHECK_CODES.items()) + "."
)

app = typer.Typer(
    name="risk-store",
    help="The memory of a trading-risk daemon: orders, lockouts, and a timed audit log of every enforcement.",
    epilog=_EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # a framed traceback shows locals, and with them secrets
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Database = Annotated[
    str | None,
    typer.Argument(
        metavar="[URL]",
        envvar="RISK_STORE_URL",
        help="sqlite:///risk.db, postgresql+psycopg://user@host/database, or the path of an SQLite file.",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Account = Annotated[int | None, typer.Option("--account", help="Only this account id.", show_default=False)]
Rule = Annotated[str | None, typer.Option("--rule", help="Only this rule, such as RULE-003.", show_default=False)]


def main() -> None:
    """Entry point of the `risk-store` script."""
    app(prog_name="risk-store")


@app.command(epilog="Example: risk-store upgrade sqlite:///risk.db")
def upgrade(
    url: Database = None,
    backup: Annotated[bool, typer.Option(help="Copy an older SQLite file beside itself first, verified.")] = True,
) -> None:
    """Bring a database to this release's schema, creating it where there is none."""
    with _database(url) as database:
        from risk_store import schema

        report = schema.upgrade(database, backup=backup)
        before = report.before.found or report.before.state.value.replace("_", " ")
        if not report.steps:
            typer.echo(f"{report.before.database}: at {report.after} already, nothing to do")
            return
        steps = "1 step" if report.steps == 1 else f"{report.steps} steps"
        typer.echo(f"{before} -> {report.after}   {steps}   {report.seconds:.1f} s")
        if report.backup is not None:
            typer.echo(f"copy of the file as it was (verified): {render.visible(str(report.backup))}")


@app.command(epilog="Example: risk-store check sqlite:///risk.db --json")
def check(url: Database = None, json: Json = False) -> None:
    """Say which schema a database has, and what to run; the exit code tells the state."""
    with _database(url) as database:
        from risk_store import schema

        status = schema.status(database)
        unknown = _unknown_codes(database) if status.ok else {}
        if json:
            render.print_json(status.to_dict() | {"message": status.message, "unknown_codes": unknown})
        else:
            typer.echo(render.visible(status.message) if "\n" not in status.message else status.message)
            for column, rows in unknown.items():
                typer.echo(f"{column}: {rows:,} rows with a code this release does not know; they are kept")
        raise typer.Exit(CHECK_CODES[status.state.value])


@app.command(epilog="Example: risk-store report sqlite:///risk.db --days 30 --account 26000001")
def report(
    url: Database = None,
    days: Annotated[int, typer.Option(help="How many days back.", min=1, max=3650)] = 7,
    account: Account = None,
    rule: Rule = None,
    outcome: Annotated[str, typer.Option(help="success, or all: failures and timeouts count too.")] = "success",
    json: Json = False,
) -> None:
    """Show execution time by rule, the slow enforcements, and the daily trend."""
    with _reading(url) as tx:
        filters = {"account_id": account, "rule_id": rule, "since": tables.since(days)}
        shown = [
            tables.time_by_rule(tx, f"Execution time by rule, {days} days, slowest first", outcome, filters),
            tables.slow(tx, 1000, 10, filters),
            tables.daily_trend(tx, days, account, rule),
        ]
    render.print_tables(shown, as_json=json)


@app.command(epilog="Example: risk-store slow sqlite:///risk.db --threshold 500 --limit 20")
def slow(
    url: Database = None,
    threshold: Annotated[int, typer.Option(help="Milliseconds; slower ones are shown.", min=0)] = 1000,
    limit: Annotated[int, typer.Option(help="How many.", min=1, max=100_000)] = 10,
    account: Account = None,
    rule: Rule = None,
    json: Json = False,
) -> None:
    """List the slowest enforcements, whatever their outcome."""
    with _reading(url) as tx:
        shown = tables.slow(tx, threshold, limit, {"account_id": account, "rule_id": rule})
    render.print_tables([shown], as_json=json)


@app.command(epilog="Example: risk-store orders sqlite:///risk.db --contract CON.F.US.MNQ.U25")
def orders(
    url: Database = None,
    account: Account = None,
    contract: Annotated[str | None, typer.Option(help="Only this contract.", show_default=False)] = None,
    json: Json = False,
) -> None:
    """List the working orders, oldest first."""
    with _reading(url) as tx:
        shown = tables.orders(tx, account, contract)
    render.print_tables([shown], as_json=json)


@app.command(epilog="Example: risk-store lockouts sqlite:///risk.db")
def lockouts(url: Database = None, json: Json = False) -> None:
    """List the accounts that may not trade now."""
    with _reading(url) as tx:
        shown = tables.lockouts(tx)
    render.print_tables([shown], as_json=json)


@app.command(epilog="Example: risk-store demo sqlite:///demo.db")
def demo(url: Database = "sqlite:///risk.db") -> None:
    """Make a new store, replay a trading day into it, and show the report."""
    from rich.console import Console

    errors = Console(stderr=True, highlight=False)
    with _database(url) as database:
        from risk_store.demo import run

        result = run(database, errors)
    typer.echo(result.summary)
    typer.echo("")
    with _reading(url) as tx:
        shown = tables.everything(tx, days=7)
    render.print_tables(shown, as_json=False)
    typer.echo(f"\nGo on:  risk-store report {result.database}")
    typer.echo(f"        risk-store check {result.database}")


@app.command()
def version(json: Json = False) -> None:
    """Print the version of risk_store."""
    if json:
        render.print_json({"version": __version__})
    else:
        typer.echo(f"risk-store {__version__}")


@contextmanager
def _reading(url: str | None) -> Iterator[Transaction]:
    with _database(url) as database:
        from risk_store.store import RiskStore

        with RiskStore(database) as store, store.read() as tx:
            yield tx


@contextmanager
def _database(given: str | None) -> Iterator[URL]:
    """The database a verb was given; what can be expected to go wrong ends in one line and an exit code."""
    from sqlalchemy.exc import SQLAlchemyError

    from risk_store.engines import display_url
    from risk_store.errors import InvalidValue, RiskStoreError, SchemaMismatch

    if not given:
        _fail("no database: give its URL as the argument, or set RISK_STORE_URL", USAGE)
    try:
        yield _as_url(given)
    except BrokenPipeError:
        raise  # `| head` has seen enough: no error of ours
    except SchemaMismatch as error:
        _fail(str(error), NOT_CURRENT)
    except InvalidValue as error:
        _fail(str(error), USAGE)
    except RiskStoreError as error:
        _fail(str(error), FAILURE)
    except SQLAlchemyError as error:
        cause = getattr(error, "orig", None) or error
        _fail(f"{display_url(given)}: {str(cause).strip().partition(chr(10))[0]}", FAILURE)
    except ImportError as error:  # a driver that is not installed
        _fail(f"{display_url(given)}: {error}; install it: pip install 'risk-store[postgresql]'", FAILURE)
    except OSError as error:
        _fail(f"{error.strerror or error}: {error.filename or display_url(given)}", FAILURE)


def _as_url(given: str) -> URL:
    from sqlalchemy.engine import URL

    from risk_store.engines import parse_url

    if "://" not in given and "@" not in given:
        return URL.create("sqlite", database=given)
    return parse_url(given)


def _unknown_codes(database: URL) -> dict[str, int]:
    from risk_store.statements.checks import unknown_codes
    from risk_store.store import RiskStore

    with RiskStore(database) as store, store.read() as tx:
        return {column: rows for column, rows in tx.session.execute(unknown_codes())}  # noqa: C416 (typed rows)


def _fail(message: str, code: int) -> NoReturn:
    sys.stderr.write("\n".join(f"risk-store: {render.visible(line)}" for line in message.split("\n")) + "\n")
    raise typer.Exit(code)

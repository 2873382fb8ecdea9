"""The `risk-store` command.

SQLAlchemy is imported inside the verbs: it is most of the time that `--help` and `version` would take.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import typer

from risk_store import __version__
from risk_store.cli import failures, files, progress, render, tables

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

    from risk_store.interrupted import Interrupted
    from risk_store.repositories import Transaction

__all__ = ["app", "main"]

CHECK_CODES = {"current": 0, "empty": 10, "legacy_v1": 11, "behind": 12, "ahead": 13, "foreign": 14, "drifted": 15}

_EXIT_CODES = (
    "Exit codes: 0 ok, 1 failure, 2 usage, 3 the schema is not current, 4 upgrade has a question, 5 "
    "--fail-on found alerts, 130 interrupted; "
    "check has one for each state: " + ", ".join(f"{state} {code}" for state, code in CHECK_CODES.items()) + "."
)

app = typer.Typer(
    name="risk-store",
    help="The memory of a trading-risk daemon: orders, lockouts, and a timed audit log of every enforcement.",
    epilog=_EXIT_CODES,
    add_completion=False,
    pretty_exceptions_enable=False,  # a framed traceback shows locals, and with them secrets
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

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
FailOn = Annotated[
    Literal["warning", "critical", "timeout"] | None,
    typer.Option("--fail-on", help="Exit with 5 if an enforcement was at this level or worse.", show_default=False),
]
Rule = Annotated[str | None, typer.Option("--rule", help="Only this rule, such as RULE-003.", show_default=False)]


def main() -> NoReturn:
    """Entry point of the `risk-store` script: runs one verb and exits with its code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # no broker's text is a reason to fail, whatever the locale
    words = sys.argv[1:]
    try:
        code = app(words or ["--help"], prog_name="risk-store", standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        code = failures.INTERRUPTED
    except Exception as error:
        code = failures.tell(error, words)
    sys.exit(code)


@app.command(epilog="Example: risk-store upgrade state.db --legacy-timezone America/Chicago --dry-run")
def upgrade(
    url: Database = None,
    backup: Annotated[bool, typer.Option(help="Copy an older SQLite file beside itself first, verified.")] = True,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and change nothing.")] = False,
    legacy_timezone: Annotated[
        str | None,
        typer.Option(
            metavar="ZONE", help="Where the v1 daemon took its local times from (default: UTC).", show_default=False
        ),
    ] = None,
    legacy_order_codes: Annotated[
        Literal["stored", "gateway"] | None,
        typer.Option(help="Whose codes the v1 orders hold (default: stored).", show_default=False),
    ] = None,
    accept_contradictions: Annotated[
        bool, typer.Option("--accept-contradictions", help="Go on although rows contradict these two.")
    ] = False,
    json: Json = False,
) -> None:
    """Bring a database to this release's schema.

    And a v1 daemon's rows to canonical form. Creates it where there is none. Safe to run twice, and by two at once.
    """
    from risk_store import schema

    with progress.shown() as tell:
        report = schema.upgrade(
            _database(url),
            backup=backup,
            legacy_timezone=legacy_timezone,
            legacy_order_codes=legacy_order_codes,
            accept_contradictions=accept_contradictions,
            canonicalise=True,
            dry_run=dry_run,
            progress=tell,
        )
    if json:
        render.print_json(report.to_dict())
        return
    for line in report.text.splitlines():
        render.say(line)


@app.command(epilog="Example: risk-store restore state.db state.db.v1.bak")
def restore(
    url: Database,
    copy: Annotated[str, typer.Argument(metavar="COPY", help="The copy that an upgrade left beside the file.")],
    backup: Annotated[bool, typer.Option(help="Copy what the file holds now beside it first, verified.")] = True,
) -> None:
    """Put a verified copy back in the place of an SQLite file.

    In one transaction; programs that have the file open see it whole.
    """
    from risk_store import schema

    database = _database(url)
    with progress.shown() as tell:
        kept = schema.restore(database, copy, backup=backup, progress=tell)
    render.say(schema.status(database).message.splitlines()[0])
    if kept is not None:
        render.say(f"copy of what it held until now (verified): {kept}")


@app.command(epilog="Example: risk-store copy sqlite:///risk.db postgresql+psycopg://ann@db/risk")
def copy(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="The store to copy: a URL, or an SQLite file's path.")
    ],
    target: Annotated[str, typer.Argument(metavar="TARGET", help="An empty database; made if it is not there.")],
    rejected: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Write rows that the target cannot hold there.", show_default=False),
    ] = None,
    json: Json = False,
) -> None:
    """Copy a store to another database, with proof.

    Rows, sums and a checksum are compared before anything is committed.
    """
    from risk_store.copying import copy_store

    with progress.shown() as tell:
        report = copy_store(_database(source), _database(target), rejected=rejected, progress=tell)
    if json:
        render.print_json(report.to_dict())
        return
    render.print_tables([tables.copied(report)], as_json=False)
    for left in report.left_behind:
        render.say(f"not copied, since it is not risk_store's: {left}")
    if report.rejected is not None:
        count = sum(table.rejected for table in report.tables)
        render.say(f"rows that the target cannot hold: {count:,}, in {report.rejected}")


@app.command(epilog="Example: risk-store check sqlite:///risk.db --json")
def check(
    url: Database = None,
    listing: Annotated[bool, typer.Option("--list", help="List every odd value, one a line.")] = False,
    json: Json = False,
) -> None:
    """Say which schema a database has, and what is odd.

    In its rows, and among the enforcements that began; and what to run, if something helps. The exit code tells the
    state of the schema. Writes nothing.
    """
    from risk_store import schema
    from risk_store.schema.verdict import shell_word

    database = _database(url)
    status = schema.status(database)
    with progress.shown() as tell:
        odd = schema.odd_values(database, tell) if status.upgradable else iter(())
        if listing:
            render.print_lines(tables.ODD_COLUMNS, map(tables.odd_row, odd), as_json=json)
            raise typer.Exit(CHECK_CODES[status.state.value])
        found = schema.tally(odd)
    gone = _interrupted(database) if status.ok else []
    if json:
        unreadable = {f.column: f.rows for f in found if f.kind is schema.FindingKind.UNREADABLE}
        more = {
            "message": status.message,
            "unknown_codes": {column: rows for column, rows in unreadable.items() if tables.is_code(column)},
            "odd": [finding.to_dict() for finding in found],
            "interrupted": len(gone),
        }
        render.print_json(status.to_dict() | more)
    else:
        odd_lines = tables.odd_lines(found, status.database) if status.ok else ()
        for line in [*status.message.splitlines(), *odd_lines]:
            render.say(line)
        if gone:
            counted = "1 enforcement" if len(gone) == 1 else f"{len(gone):,} enforcements"
            render.say(f"{counted} whose process is gone: risk-store interrupted {shell_word(status.database)}")
    raise typer.Exit(CHECK_CODES[status.state.value])


@app.command("roll-up", epilog="Example: risk-store roll-up sqlite:///risk.db")
def roll_up(url: Database = None, json: Json = False) -> None:
    """Roll up what is new in the log, for reports that need not read it.

    In short transactions, beside a running daemon. Reports are right without it, only slower: run it by a timer.
    """
    from risk_store import RiskStore

    with RiskStore(_database(url)) as store, progress.shown() as tell:
        rows = store.roll_up(lambda done: tell("rolling up", done, done) if tell else None)
    if json:
        render.print_json({"rows": rows})
    else:
        render.say(f"{rows:,} rows of the log rolled up" if rows else "nothing new in the log")


@app.command(epilog="Example: risk-store report sqlite:///risk.db --days 30 --account 26000001")
def report(
    url: Database = None,
    days: Annotated[int, typer.Option(help="How many days back.", min=1, max=3650)] = 7,
    account: Account = None,
    rule: Rule = None,
    outcome: Annotated[
        Literal["success", "all"], typer.Option(help="all: the times of failures and timeouts count too.")
    ] = "success",
    fail_on: FailOn = None,
    json: Json = False,
) -> None:
    """Show times by rule, slow ones, daily trend.

    The columns >500, >2000 and >5000 count every outcome, each enforcement once, at its worst.
    """
    with _reading(url) as tx:
        filters = {"account_id": account, "rule_id": rule, "since": tables.since(days)}
        shown = [
            tables.time_by_rule(tx, days, outcome, filters),
            tables.slow(tx, 1000, 10, filters),
            tables.daily_trend(tx, days, account, rule),
        ]
        alerts = tables.alert_counts(tx, days, filters)
    render.print_tables(shown, as_json=json)
    _fail_on(fail_on, alerts)


@app.command(epilog="Example: risk-store alerts sqlite:///risk.db --days 1 --fail-on critical")
def alerts(
    url: Database = None,
    days: Annotated[int, typer.Option(help="How many days back.", min=1, max=3650)] = 7,
    limit: Annotated[int, typer.Option(help="How many of the enforcements to list.", min=1, max=100_000)] = 20,
    account: Account = None,
    rule: Rule = None,
    fail_on: FailOn = None,
    json: Json = False,
) -> None:
    """Show the enforcements that were over a threshold.

    How many of each rule, and the slowest. The thresholds are those of RISK_STORE_CONFIG or the environment.
    """
    from risk_store.settings import configured_thresholds

    with _reading(url) as tx:
        filters = {"account_id": account, "rule_id": rule, "since": tables.since(days)}
        counts = tables.alert_counts(tx, days, filters)
        shown = [counts, tables.slow(tx, configured_thresholds().slow_threshold_ms, limit, filters)]
    render.print_tables(shown, as_json=json)
    _fail_on(fail_on, counts)


def _fail_on(level: str | None, counts: render.Table) -> None:
    """Ends with its own exit code if an alert of this level or a worse one was raised."""
    if level is None:
        return
    worse = ["warnings", "criticals", "timeouts"]
    names = worse[["warning", "critical", "timeout"].index(level) :]
    found = sum(row[name] for row in counts.rows for name in names)
    if found:
        enforcements = "1 enforcement" if found == 1 else f"{found:,} enforcements"
        render.write(f"risk-store: {enforcements} at {level} or worse\n", sys.stderr)
        raise typer.Exit(failures.ALERTS)


@app.command(epilog='Example: risk-store interrupted sqlite:///risk.db --close "looked up at the broker: flat"')
def interrupted(
    url: Database = None,
    close: Annotated[
        str | None,
        typer.Option(metavar="NOTE", help="Move them to the log as failed, with this note.", show_default=False),
    ] = None,
    enforcement: Annotated[
        str | None, typer.Option(metavar="ID", help="Close only this enforcement.", show_default=False)
    ] = None,
    other_hosts: Annotated[
        bool, typer.Option("--other-hosts", help="Close those of other hosts too: you know that they are gone.")
    ] = False,
    json: Json = False,
) -> None:
    """List the enforcements whose process died in the middle.

    What they did at the broker has to be looked up there. Those of other hosts, which may still run, are listed as
    unknown.
    """
    from risk_store.store import RiskStore

    with RiskStore(_database(url)) as store:
        found = store.interrupted()
        if close is None:
            render.print_tables([tables.interrupted(found)], as_json=json)
            return
        chosen = [item for item in found if enforcement in (None, item.row.enforcement_id)]
        if enforcement is not None and not chosen:
            raise failures.UsageError(f"--enforcement {enforcement}: no interrupted enforcement has this id")
        left = 0
        for item in chosen:
            if item.owner.value == "unknown" and not other_hosts:
                left += 1
                continue
            log = store.close_interrupted(item, close, other_host=other_hosts)
            render.say(f"account {log.account_id}, {log.rule_id}, {log.action}: in the log as failed, id {log.id}")
        if left:
            render.say(f"left alone, of other hosts: {left}. Close them only if they are gone: --other-hosts")


@app.command("import", epilog="Example: risk-store import sqlite:///risk.db daemon.log")
def import_(
    url: Database,
    file: Annotated[str, typer.Argument(metavar="FILE", help="A log file of the daemon's; - is standard input.")],
) -> None:
    """Write the records that could not be written, from a log file.

    Takes the JSON lines at CRITICAL, whatever stands before them, and ignores the others. What is in the store already
    is left alone, so it can be run again.
    """
    from datetime import UTC, datetime

    from risk_store.errors import InvalidValue
    from risk_store.spilled import read_back
    from risk_store.store import RiskStore

    written = known = 0
    refused: list[InvalidValue] = []
    with RiskStore(_database(url)) as store, files.lines_of(file) as lines:
        for spilled in read_back(lines):
            if isinstance(spilled, InvalidValue):
                refused.append(spilled)
                continue
            with store.begin() as tx:
                new = spilled.write(tx, datetime.now(UTC))
            written += new
            known += not new and spilled.log is not None
    records = "1 record" if written == 1 else f"{written:,} records"
    render.say(f"{records} written, {known:,} in the store already")
    for error in refused:
        render.write(f"risk-store: {render.visible(str(error))}\n", sys.stderr)
    if refused:
        raise typer.Exit(failures.FAILURE)


@app.command(epilog="Example: risk-store replay day.jsonl --url sqlite:///risk.db")
def replay(
    file: Annotated[
        str,
        typer.Argument(metavar="FILE", help="Gateway payloads as JSON, one a line; - is standard input."),
    ],
    url: Annotated[
        str | None,
        typer.Option(
            "--url",
            metavar="URL",
            envvar="RISK_STORE_URL",
            help="The store: a URL, or an SQLite file's path.",
            show_default=False,
        ),
    ] = None,
    rejected: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Where refused lines go (default: FILE.rejected.jsonl).", show_default=False),
    ] = None,
    json: Json = False,
) -> None:
    """Bring a recorded day of the gateway into a store.

    Orders, positions, trades. Lines that cannot be used are written, with the reason, to FILE.rejected.jsonl, which
    each run makes anew; corrected in a copy, they can be replayed. Running it twice changes nothing.
    """
    from risk_store.replaying import replay as replay_lines
    from risk_store.store import RiskStore

    if rejected is None and file == "-":
        raise failures.UsageError("--rejected FILE: standard input has no name that refused lines could be kept by")
    kept = files.Rejected(file, rejected)
    with RiskStore(_database(url)) as store, progress.shown() as tell, files.lines_of(file, tell) as lines, kept:
        summary = replay_lines(store, lines, lambda refused: kept.write(refused.to_dict()))
    if json:
        render.print_json(summary.to_dict() | {"rejected": str(kept.path) if summary.refused else None})
    else:
        render.say(
            f"{summary.lines:,} lines: {summary.orders:,} order, {summary.positions:,} position, "
            f"{summary.trades:,} trade and {summary.accounts:,} account events; {summary.refused:,} refused"
        )
        if summary.refused:
            render.say(f"refused lines, with reasons: {kept.path}")
    if summary.refused:
        raise typer.Exit(failures.FAILURE)


@app.command(epilog="Example: risk-store slow sqlite:///risk.db --threshold 500 --limit 20")
def slow(
    url: Database = None,
    threshold: Annotated[int, typer.Option(help="Milliseconds; slower ones are shown.", min=0)] = 1000,
    limit: Annotated[int, typer.Option(help="How many.", min=1, max=100_000)] = 10,
    account: Account = None,
    rule: Rule = None,
    json: Json = False,
) -> None:
    """List the slowest enforcements.

    Whatever their outcome: failures and timeouts too.
    """
    with _reading(url) as tx:
        shown = tables.slow(tx, threshold, limit, {"account_id": account, "rule_id": rule})
    render.print_tables([shown], as_json=json)


@app.command(epilog="Example: risk-store orders sqlite:///risk.db --trailing --contract CON.F.US.MNQ.U25")
def orders(
    url: Database = None,
    account: Account = None,
    contract: Annotated[str | None, typer.Option(help="Only this contract.", show_default=False)] = None,
    trailing: Annotated[
        bool, typer.Option("--trailing", help="Only trailing stops: ours, the venue's, the distance.")
    ] = False,
    json: Json = False,
) -> None:
    """List the working orders, oldest first."""
    with _reading(url) as tx:
        shown = (tables.trailing_orders if trailing else tables.orders)(tx, account, contract)
    render.print_tables([shown], as_json=json)


@app.command(epilog="Example: risk-store lockouts sqlite:///risk.db")
def lockouts(url: Database = None, json: Json = False) -> None:
    """List the accounts that may not trade now."""
    with _reading(url) as tx:
        shown = tables.lockouts(tx)
    render.print_tables([shown], as_json=json)


@app.command(epilog="Example: risk-store demo sqlite:///demo.db")
def demo(url: Database = "sqlite:///risk.db") -> None:
    """Make a new store and show what it tells.

    Replays real gateway payloads into it, carries out enforcements against a stand-in broker that takes real
    milliseconds, and prints the report. Never writes into a store that is there already.
    """
    from rich.console import Console

    from risk_store.demo import run

    result = run(_database(url), Console(stderr=True, highlight=False))
    for line in result.summary.splitlines():
        render.say(line)
    render.say()
    with _reading(url) as tx:
        shown = tables.everything(tx, days=7)
    render.print_tables(shown, as_json=False)
    render.say()
    for line in result.next_steps.splitlines():
        render.say(line)


@app.command()
def version(json: Json = False) -> None:
    """Print the version of risk_store."""
    if json:
        render.print_json({"version": __version__})
    else:
        render.say(f"risk-store {__version__}")


def _interrupted(database: URL) -> list[Interrupted]:
    from risk_store.store import RiskStore

    with RiskStore(database) as store:
        return store.interrupted()


@contextmanager
def _reading(url: str | None) -> Iterator[Transaction]:
    from risk_store.store import RiskStore

    with RiskStore(_database(url)) as store, store.read() as tx:
        yield tx


def _database(given: str | None) -> URL:
    """The database a verb was given: a URL, or the path of an SQLite file."""
    if not given:
        raise failures.UsageError("no database: give its URL as the argument, or set RISK_STORE_URL")
    from sqlalchemy.engine import URL

    from risk_store.engines import parse_url

    return parse_url(given) if failures.may_be_url(given) else URL.create("sqlite", database=given)

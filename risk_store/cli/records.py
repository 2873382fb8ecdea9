"""Verbs that bring rows in and take them out: import, replay, export, prune, roll-up."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing, nullcontext
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Literal, get_args

import typer

from risk_store.cli import failures, files, progress, render, tables
from risk_store.cli.command import app
from risk_store.cli.exit_codes import FAILURE
from risk_store.cli.options import (
    Account,
    AnyDays,
    Database,
    DatabaseFirst,
    Json,
    Rule,
    database_and,
    database_of,
    instant,
    reading,
)

if TYPE_CHECKING:
    from risk_store.replaying import Refused
    from risk_store.store import RiskStore

RejectedFile = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="Where refused lines go (default: FILE.rejected.jsonl).", show_default=False),
]
Table = Literal[
    "enforcement_log",
    "enforcement_in_flight",
    "lockouts",
    "orders",
    "positions",
    "closed_positions",
    "trade_history",
    "daily_pnl",
    "contract_cache",
    "session_state",
    "reset_schedule",
]
_TOLD = 10  # refused lines that are told of where a file has them all


@app.command(
    "export", epilog="Example: risk-store export sqlite:///risk.db --days 30 --format jsonl --output log.jsonl"
)
def export(
    url: Database = None,
    table: Annotated[
        Table,
        typer.Option("--table", metavar="TABLE", help=f"Which table: {', '.join(get_args(Table))}."),
    ] = "enforcement_log",
    form: Annotated[
        Literal["csv", "jsonl"],
        typer.Option("--format", help="csv for spreadsheets; jsonl loses nothing and can be imported."),
    ] = "csv",
    output: Annotated[
        str | None,
        typer.Option("--output", metavar="FILE", help="Where to (default: standard output).", show_default=False),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace FILE if it is there.")] = False,
    account: Account = None,
    rule: Rule = None,
    days: AnyDays = None,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="From this UTC day or instant on.", show_default=False)
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="TIME", help="Before this UTC day or instant.", show_default=False)
    ] = None,
) -> None:
    """Write the log, or another table, as CSV or JSON lines.

    However many rows there are, from one moment, while a daemon writes. A FILE has its name only when it is whole. CSV
    is guarded: text that a spreadsheet would take for a formula gets an apostrophe.
    """
    from risk_store.exporting import Export

    if days is not None and since is not None:
        raise failures.UsageError("--days and --since: give one of the two")
    begin = tables.since(days) if since is None else instant("--since", since)
    to_file = output not in (None, "-")
    unseen = to_file or not sys.stdout.isatty()  # a bar would stand between the rows
    with reading(url) as tx, progress.shown() if unseen else nullcontext() as tell, ExitStack() as stack:
        found = Export(tx, table, account_id=account, rule_id=rule, since=begin, until=instant("--until", until))
        lines = stack.enter_context(closing(found.csv_lines() if form == "csv" else found.json_lines()))
        if tell is not None:
            lines = _counted(lines, f"exporting {table}", found.count(), tell)
        if not to_file:
            _print(lines)
            return
        written = -(form == "csv")  # without the header
        with files.Output(str(output), force=force) as file:
            for line in lines:
                file.write(line)
                written += 1
    render.say(f"{_rows(written)} of {table} in {output}")


@app.command("import", epilog="Example: risk-store import sqlite:///risk.db daemon.log")
def import_(
    url: DatabaseFirst = None,
    file: Annotated[
        str | None,
        typer.Argument(
            metavar="FILE",
            help="What export --format jsonl wrote, or a daemon's log; - is standard input.",
            show_default=False,
        ),
    ] = None,
    rejected: RejectedFile = None,
    json: Json = False,
) -> None:
    """Bring log rows in, from an export or a daemon's log.

    Of a log file it takes the JSON at CRITICAL, whatever stands before it, and ignores other lines. What is in the
    store already is left alone, so it can be run again. Refused lines are written, with the reason, to
    FILE.rejected.jsonl, which each run makes anew; corrected in a copy, they can be imported.
    """
    from risk_store.importing import import_lines
    from risk_store.store import RiskStore

    database, source = database_and(url, file, "FILE")
    kept = None if rejected is None and source == "-" else files.Rejected(source, rejected)
    told: list[Refused] = []

    def refuse(refused: Refused) -> None:
        if kept is not None:
            kept.write(refused.to_dict())
        if kept is None or len(told) < _TOLD:
            told.append(refused)

    with (
        RiskStore(database) as store,
        progress.shown() as tell,
        files.lines_of(source, tell) as lines,
        kept or nullcontext(),
    ):
        summary = import_lines(store, lines, refuse)
    where = str(kept.path) if kept is not None and summary.refused else None
    if json:
        render.print_json(summary.to_dict() | {"rejected": where})
    else:
        records = "1 record" if summary.written == 1 else f"{summary.written:,} records"
        render.say(f"{records} written, {summary.known:,} in the store already")
    for line in told:
        render.write(f"risk-store: {render.visible(f'line {line.line}: {line.reason}')}\n", sys.stderr)
    if where is not None:
        render.write(f"risk-store: {summary.refused:,} refused, with reasons: {render.visible(where)}\n", sys.stderr)
    if summary.refused:
        raise typer.Exit(FAILURE)


@app.command(epilog="Example: risk-store replay sqlite:///risk.db day.jsonl")
def replay(
    url: DatabaseFirst = None,
    file: Annotated[
        str | None,
        typer.Argument(
            metavar="FILE", help="Gateway payloads as JSON, one a line; - is standard input.", show_default=False
        ),
    ] = None,
    url_option: Annotated[str | None, typer.Option("--url", hidden=True)] = None,  # as it was: FILE --url URL
    rejected: RejectedFile = None,
    json: Json = False,
) -> None:
    """Bring a recorded day of the gateway into a store.

    Orders, positions, trades. Lines that cannot be used are written, with the reason, to FILE.rejected.jsonl, which
    each run makes anew; corrected in a copy, they can be replayed. Running it twice changes nothing.
    """
    from risk_store.replaying import replay as replay_lines
    from risk_store.store import RiskStore

    if url_option is not None and file is None:
        url, file = url_option, url
    elif url_option is not None:
        raise failures.UsageError("URL and --url: give one of the two")
    database, source = database_and(url, file, "FILE")
    if rejected is None and source == "-":
        raise failures.UsageError("--rejected FILE: standard input has no name that refused lines could be kept by")
    kept = files.Rejected(source, rejected)
    with RiskStore(database) as store, progress.shown() as tell, files.lines_of(source, tell) as lines, kept:
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
        raise typer.Exit(FAILURE)


@app.command("roll-up", epilog="Example: risk-store roll-up sqlite:///risk.db")
def roll_up(url: Database = None, json: Json = False) -> None:
    """Roll up what is new in the log, for faster reports.

    In short transactions, beside a running daemon. Reports are right without it, only slower: run it by a timer.
    """
    from risk_store import RiskStore

    with RiskStore(database_of(url)) as store, progress.shown() as tell:
        rows = store.roll_up(lambda done: tell("rolling up", done, done) if tell else None)
    if json:
        render.print_json({"rows": rows})
    else:
        render.say(f"{rows:,} rows of the log rolled up" if rows else "nothing new in the log")


@app.command(epilog="Example: risk-store prune sqlite:///risk.db --older-than 365d --dry-run")
def prune(
    url: Database = None,
    older_than: Annotated[
        str | None,
        typer.Option(metavar="AGE", help="Days or weeks: 365d, 52w.", show_default=False),
    ] = None,
    before: Annotated[
        str | None, typer.Option(metavar="DAY", help="Before this UTC day: 2025-01-01.", show_default=False)
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, and remove nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Remove without asking.")] = False,
    json: Json = False,
) -> None:
    """Remove old days from the log, for good.

    Whole UTC days, a thousand rows at a time, beside a running daemon. Orders, lockouts, positions and enforcements in
    flight are never touched. Reports can go on counting what is gone. Copy the store first: risk-store backup.
    """
    from risk_store.engines import display_url
    from risk_store.store import RiskStore

    end = _end_of(older_than, before)
    if not (yes or dry_run or sys.stdin.isatty()):
        raise failures.UsageError("prune removes rows for good, and there is no terminal to ask on: give --yes")
    database = database_of(url)
    with RiskStore(database) as store:
        with store.read() as tx:
            found = tx.rollup.prunable(end)
        what = f"{_rows(found.rows)} of the log before {found.before:%Y-%m-%d} UTC"
        span = f", the oldest of {render.plain(found.first)}, the newest of {render.plain(found.last)}"
        if found.rows and not (yes or dry_run):
            question = f"{display_url(database)}: remove {what}{span}?"
            if not typer.confirm(render.visible(question), err=True):
                render.say("nothing was removed")
                raise typer.Exit(FAILURE)
        removed = _prune(store, end, found.rows) if found.rows and not dry_run else 0
        with store.read() as tx:
            oldest = tx.enforcements.oldest()
    if json:
        days = {"before": found.before, "first": found.first, "last": found.last, "oldest": oldest}
        counts = {"rows": found.rows, "removed": removed, "in_another_form": found.in_another_form}
        render.print_json({"dry_run": dry_run} | counts | days)
        return
    if dry_run and found.rows:
        render.say(f"dry run, nothing was removed: {what}{span}")
    elif found.rows:
        render.say(f"removed: {_rows(removed)} of the log before {found.before:%Y-%m-%d} UTC")
    else:
        render.say(f"nothing to remove: {what}")
    render.say("the log is empty" if oldest is None else f"oldest row: {render.plain(oldest)}")
    if found.in_another_form:
        render.say(
            f"{_rows(found.in_another_form)} of those days, in another form than ours, stay until risk-store upgrade "
            "makes them canonical"
        )


def _prune(store: RiskStore, end: datetime, rows: int) -> int:
    try:
        with progress.shown() as tell:
            # As store.prune would, which says nothing of it.
            store.roll_up(lambda done: tell("rolling up", done, done) if tell else None)
            return store.prune(end, lambda done: tell("removing", done, max(done, rows)) if tell else None)
    except KeyboardInterrupt:
        with store.read() as tx:
            left = tx.rollup.prunable(end).rows
        render.write(f"risk-store: broken off; {_rows(left)} of them are left\n", sys.stderr)
        raise


def _end_of(older_than: str | None, before: str | None) -> datetime:
    """The instant before which rows go."""
    if (older_than is None) is (before is None):
        raise failures.UsageError("say which rows go: --older-than 365d, or --before 2025-01-01")
    if older_than is None:
        end = instant("--before", before)
        assert end is not None
        return end
    age = re.fullmatch(r"(\d{1,6})([dw])", older_than)
    if age is None:
        raise failures.UsageError(f"--older-than: {older_than!r} is not a number of days or weeks, such as 365d or 52w")
    try:
        return datetime.now(UTC) - timedelta(days=int(age[1]) * (7 if age[2] == "w" else 1))
    except OverflowError:
        raise failures.UsageError(f"--older-than: {older_than!r} is longer ago than the year 1") from None


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count:,} rows"


def _counted(lines: Generator[str], what: str, total: int, tell: Callable[[str, int, int], None]) -> Generator[str]:
    for done, line in enumerate(lines):
        if done % 1000 == 0:
            tell(what, min(done, total), total)
        yield line


def _print(lines: Iterator[str]) -> None:
    """To standard output, as long as somebody reads it."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", newline="")
    while part := "".join(islice(lines, 1000)):
        if not render.write(part):
            return

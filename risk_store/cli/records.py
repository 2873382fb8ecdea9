"""Verbs that bring rows in, and take them out."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from risk_store.cli import failures, files, progress, render
from risk_store.cli.command import app
from risk_store.cli.exit_codes import FAILURE
from risk_store.cli.options import Database, Json, database_of


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
    with RiskStore(database_of(url)) as store, files.lines_of(file) as lines:
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
        raise typer.Exit(FAILURE)


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
    with RiskStore(database_of(url)) as store, progress.shown() as tell, files.lines_of(file, tell) as lines, kept:
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
    """Roll up what is new in the log, for reports that need not read it.

    In short transactions, beside a running daemon. Reports are right without it, only slower: run it by a timer.
    """
    from risk_store import RiskStore

    with RiskStore(database_of(url)) as store, progress.shown() as tell:
        rows = store.roll_up(lambda done: tell("rolling up", done, done) if tell else None)
    if json:
        render.print_json({"rows": rows})
    else:
        render.say(f"{rows:,} rows of the log rolled up" if rows else "nothing new in the log")

"""The verb that spreads a store over a Citus cluster."""

from __future__ import annotations

from typing import Annotated

import typer

from risk_store.cli import progress, render
from risk_store.cli.command import app
from risk_store.cli.options import Database, Json, database_of


@app.command(epilog="Example: risk-store distribute postgresql+psycopg://ann@coordinator/risk --dry-run")
def distribute(
    url: Database = None,
    shards: Annotated[
        int,
        typer.Option(help="Shards of each table, if none has any yet: as many nodes it can be spread over."),
    ] = 32,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and change nothing.")] = False,
    json: Json = False,
) -> None:
    """Shard a store by account over the workers of a Citus cluster.

    Give the coordinator's URL. One table after the other, its rows counted before and after. Safe to run again: goes on
    where it was interrupted.
    """
    from risk_store.distributing import distribute as carry_out

    with progress.shown() as tell:
        report = carry_out(database_of(url), shards=shards, dry_run=dry_run, progress=tell)
    if json:
        render.print_json(report.to_dict())
        return
    for line in report.text.splitlines():
        render.say(line)

"""Verbs on a database as a whole: its schema, its copies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from risk_store.cli import progress, render, tables
from risk_store.cli.command import app
from risk_store.cli.exit_codes import CHECK_CODES
from risk_store.cli.options import Database, DatabaseFirst, Json, database_and, database_of

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

    from risk_store.interrupted import Interrupted


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
            database_of(url),
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


@app.command(epilog="Example: risk-store check sqlite:///risk.db --json")
def check(
    url: Database = None,
    listing: Annotated[bool, typer.Option("--list", help="List every odd value, one a line.")] = False,
    json: Json = False,
) -> None:
    """Say which schema a database has, and what is odd.

    In its rows, and among the enforcements that began; and what to run, if something helps. On a server also how it
    lies on a cluster (Citus), or whether it is ready to. The exit code tells the state of the schema. Writes nothing.
    """
    from risk_store import schema
    from risk_store.cluster import cluster_status
    from risk_store.schema.verdict import shell_word

    database = database_of(url)
    status = schema.status(database)
    cluster = cluster_status(database) if status.ok else None
    is_whole = cluster is None or cluster.is_whole  # else nobody can walk over the rows, but for those who insist
    with progress.shown() as tell:
        odd = schema.odd_values(database, tell) if status.upgradable and (is_whole or listing) else iter(())
        if listing:
            render.print_lines(tables.ODD_COLUMNS, map(tables.odd_row, odd), as_json=json)
            raise typer.Exit(CHECK_CODES[status.state.value])
        found = schema.tally(odd)
    gone = _interrupted(database) if status.ok and is_whole else []
    if json:
        unreadable = {f.column: f.rows for f in found if f.kind is schema.FindingKind.UNREADABLE}
        more = {
            "message": status.message,
            "unknown_codes": {column: rows for column, rows in unreadable.items() if tables.is_code(column)},
            "odd": [finding.to_dict() for finding in found],
            "interrupted": len(gone),
            "cluster": cluster and cluster.to_dict(),
        }
        render.print_json(status.to_dict() | more)
    else:
        odd_lines = tables.odd_lines(found, status.database) if status.ok else ()
        for line in [*status.message.splitlines(), *odd_lines]:
            render.say(line)
        if gone:
            counted = "1 enforcement" if len(gone) == 1 else f"{len(gone):,} enforcements"
            render.say(f"{counted} whose process is gone: risk-store interrupted {shell_word(status.database)}")
        for line in cluster.lines() if cluster else ():
            render.say(line)
    raise typer.Exit(CHECK_CODES[status.state.value])


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
        report = copy_store(database_of(source), database_of(target), rejected=rejected, progress=tell)
    if json:
        render.print_json(report.to_dict())
        return
    render.print_tables([tables.copied(report)], as_json=False)
    for left in report.left_behind:
        render.say(f"not copied, since it is not risk_store's: {left}")
    if report.rejected is not None:
        count = sum(table.rejected for table in report.tables)
        render.say(f"rows that the target cannot hold: {count:,}, in {report.rejected}")


@app.command(epilog="Example: risk-store backup sqlite:///risk.db monday.bak")
def backup(
    url: Database = None,
    file: Annotated[
        str | None,
        typer.Argument(
            metavar="FILE", help="The copy (default: beside it, named after the moment).", show_default=False
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Make a verified copy of an SQLite file.

    Beside a running daemon. It never replaces a file; `restore` takes it back. Of a server it makes none, and names the
    pg_dump command that does.
    """
    from risk_store import schema
    from risk_store.engines import display_url
    from risk_store.schema.verdict import shell_word

    database = database_of(url)
    with progress.shown() as tell:
        copy = schema.backup(database, file, progress=tell)
    if json:
        render.print_json({"copy": str(copy), "bytes": copy.stat().st_size})
        return
    render.say(f"copy (verified): {copy}")
    render.say(f"to go back: risk-store restore {shell_word(display_url(database))} {shell_word(str(copy))}")


@app.command(epilog="Example: risk-store restore state.db state.db.v1.bak")
def restore(
    url: DatabaseFirst = None,
    copy: Annotated[
        str | None, typer.Argument(metavar="COPY", help="What backup or an upgrade made.", show_default=False)
    ] = None,
    backup: Annotated[bool, typer.Option(help="Copy what the file holds now beside it first, verified.")] = True,
    json: Json = False,
) -> None:
    """Put a verified copy back in the place of an SQLite file.

    In one transaction; programs that have the file open see it whole.
    """
    from risk_store import schema

    database, source = database_and(url, copy, "COPY")
    with progress.shown() as tell:
        kept = schema.restore(database, source, backup=backup, progress=tell)
    status = schema.status(database)
    if json:
        render.print_json(status.to_dict() | {"backup": None if kept is None else str(kept)})
        return
    render.say(status.message.splitlines()[0])
    if kept is not None:
        render.say(f"copy of what it held until now (verified): {kept}")


def _interrupted(database: URL) -> list[Interrupted]:
    from risk_store.store import RiskStore

    with RiskStore(database) as store:
        return store.interrupted()

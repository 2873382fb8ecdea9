"""Verbs for whoever meets risk_store: what it shows, which release it is."""

from __future__ import annotations

from risk_store import __version__
from risk_store.cli import render, tables
from risk_store.cli.command import app
from risk_store.cli.options import Database, Json, database_of, reading


@app.command(epilog="Example: risk-store demo sqlite:///demo.db")
def demo(url: Database = "sqlite:///risk.db") -> None:
    """Make a new store and show what it tells.

    Replays real gateway payloads into it, carries out enforcements against a stand-in broker that takes real
    milliseconds, and prints the report. Never writes into a store that is there already.
    """
    from rich.console import Console

    from risk_store.demo import run

    result = run(database_of(url), Console(stderr=True, highlight=False))
    for line in result.summary.splitlines():
        render.say(line)
    render.say()
    with reading(url) as tx:
        shown = tables.everything(tx, days=7)
    render.print_tables(shown, as_json=False)
    render.say()
    for line in result.next_steps.splitlines():
        render.say(line)


@app.command(epilog="Example: risk-store version --json")
def version(json: Json = False) -> None:
    """Print the version of risk_store."""
    if json:
        render.print_json({"version": __version__})
    else:
        render.say(f"risk-store {__version__}")

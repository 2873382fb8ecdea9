"""The verb that serves the dashboard."""

from __future__ import annotations

import sys
import threading
import webbrowser
from typing import Annotated

import typer

from risk_store.cli import failures, render
from risk_store.cli.command import app
from risk_store.cli.options import Database, database_of

_LOCAL = ("127.0.0.1", "localhost", "::1", "[::1]")


@app.command(epilog="Example: risk-store dashboard sqlite:///risk.db --port 8377 --open")
def dashboard(
    url: Database = None,
    host: Annotated[str, typer.Option(help="The address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port; 0 takes any that is free.", min=0, max=65535)] = 8377,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="A name that browsers may ask by, beside this machine's own; more than once.",
            show_default=False,
        ),
    ] = None,
    open_: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    metrics: Annotated[bool, typer.Option("--metrics", help="Serve /metrics for Prometheus.")] = False,
) -> None:
    """Serve a page that shows a store, live and read-only.

    It listens on this machine only. There is no login: to look from elsewhere, use an SSH tunnel or a proxy that has
    one. Stop it with Ctrl-C.
    """
    if host not in _LOCAL and not allowed_host:
        raise failures.UsageError(
            f"--host {host}: others could reach it, and there is no login. Put an SSH tunnel or a proxy with a login "
            "before it, or name what browsers may ask by: --allowed-host NAME"
        )
    try:
        from risk_store.dashboard.app import application
        from risk_store.dashboard.reader import Reader
        from risk_store.dashboard.server import bind, serve
        from risk_store.dashboard.view import View
    except ModuleNotFoundError as error:
        raise failures.MissingExtra(error, "dashboard") from error
    reader = Reader(database_of(url))
    # Of a long log the first look takes as long as reading its last days: it begins before anybody asks.
    first_look = threading.Thread(target=reader.look, args=(View(),), daemon=True)
    try:
        served = application(reader, allowed_hosts=allowed_host or (), metrics=metrics)
    except ModuleNotFoundError as error:
        raise failures.MissingExtra(error, "metrics") from error
    bound = bind(host, port)
    shown = f"[{host}]" if ":" in host and not host.startswith("[") else host
    address = f"http://{shown}:{bound.getsockname()[1]}/"

    def started() -> None:
        first_look.start()
        render.say(f"risk-store dashboard  {address}   {reader.name}, read-only   Ctrl-C stops")
        if host not in _LOCAL:
            render.write("risk-store: no login: whoever reaches this address can read the store\n", sys.stderr)
        if open_:
            webbrowser.open(address)

    try:
        serve(served, bound, started)
    finally:
        reader.close()

"""Verbs that look: reports, lists, alerts."""

from __future__ import annotations

import sys
from typing import Annotated, Literal

import typer

from risk_store.cli import failures, render, tables
from risk_store.cli.command import app
from risk_store.cli.exit_codes import ALERTS
from risk_store.cli.options import Account, AnyDays, Database, Days, FailOn, Json, Limit, Rule, database_of, reading


@app.command(epilog="Example: risk-store report sqlite:///risk.db --days 30 --account 26000001")
def report(
    url: Database = None,
    days: Days = 7,
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
    with reading(url) as tx:
        filters = {"account_id": account, "rule_id": rule, "since": tables.since(days)}
        shown = [
            tables.time_by_rule(tx, days, outcome, filters),
            tables.slow(tx, 1000, 10, filters),
            tables.daily_trend(tx, days, account, rule),
        ]
        alerts = tables.alert_counts(tx, days, filters)
    render.print_tables(shown, as_json=json)
    _fail_on(fail_on, alerts)


@app.command(epilog="Example: risk-store slow sqlite:///risk.db --threshold 500 --limit 20")
def slow(
    url: Database = None,
    threshold: Annotated[int, typer.Option(metavar="MS", help="Milliseconds; slower ones are shown.", min=0)] = 1000,
    days: AnyDays = None,
    limit: Limit = 10,
    account: Account = None,
    rule: Rule = None,
    json: Json = False,
) -> None:
    """List the slowest enforcements.

    Whatever their outcome: failures and timeouts too.
    """
    with reading(url) as tx:
        filters = {"account_id": account, "rule_id": rule, "since": tables.since(days)}
        shown = tables.slow(tx, threshold, limit, filters)
    render.print_tables([shown], as_json=json)


@app.command(epilog="Example: risk-store alerts sqlite:///risk.db --days 1 --fail-on critical")
def alerts(
    url: Database = None,
    days: Days = 7,
    limit: Limit = 20,
    account: Account = None,
    rule: Rule = None,
    fail_on: FailOn = None,
    json: Json = False,
) -> None:
    """Show the enforcements that were over a threshold.

    How many of each rule, and the slowest. The thresholds are those of RISK_STORE_CONFIG or the environment.
    """
    from risk_store.settings import configured_thresholds

    with reading(url) as tx:
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
        raise typer.Exit(ALERTS)


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
    with reading(url) as tx:
        shown = (tables.trailing_orders if trailing else tables.orders)(tx, account, contract)
    render.print_tables([shown], as_json=json)


@app.command(epilog="Example: risk-store lockouts sqlite:///risk.db")
def lockouts(url: Database = None, account: Account = None, rule: Rule = None, json: Json = False) -> None:
    """List the accounts that may not trade now."""
    with reading(url) as tx:
        shown = tables.lockouts(tx, account, rule)
    render.print_tables([shown], as_json=json)


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
    account: Account = None,
    rule: Rule = None,
    json: Json = False,
) -> None:
    """List the enforcements whose process died in the middle.

    What they did at the broker has to be looked up there. Those of other hosts, which may still run, are listed as
    unknown.
    """
    from risk_store.store import RiskStore

    with RiskStore(database_of(url)) as store:
        found = [
            item
            for item in store.interrupted()
            if account in (None, item.row.account_id) and rule in (None, item.row.rule_id)
        ]
        if close is None:
            render.print_tables([tables.interrupted(found)], as_json=json)
            return
        chosen = [item for item in found if enforcement in (None, item.row.enforcement_id)]
        if enforcement is not None and not chosen:
            raise failures.UsageError(f"--enforcement {enforcement}: no interrupted enforcement has this id")
        closed = [
            store.close_interrupted(item, close, other_host=other_hosts)
            for item in chosen
            if item.owner.value != "unknown" or other_hosts
        ]
    left = len(chosen) - len(closed)
    if json:
        render.print_json({"closed": [log.to_dict() for log in closed], "left": left})
        return
    for log in closed:
        render.say(f"account {log.account_id}, {log.rule_id}, {log.action}: in the log as failed, id {log.id}")
    if left:
        render.say(f"left alone, of other hosts: {left}. Close them only if they are gone: --other-hosts")

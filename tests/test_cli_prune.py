"""`risk-store prune` as a shell sees it: what it says before and after, what it asks, what it leaves alone."""

import json
import shutil
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from risk_store import (
    EnforcementInFlight,
    EnforcementLog,
    Order,
    OrderSide,
    OrderState,
    OrderType,
    Position,
    PositionType,
    RiskStore,
)
from risk_store.exporting import TABLES, Export
from tests.support.command import broken_off, on_a_terminal, run

NOW = datetime.now(UTC)
LONG_AGO = NOW - timedelta(days=900)
UNTIL = (NOW - timedelta(days=365)).date()


@pytest.fixture
def filled(store_url: str) -> str:
    """A log of three years, and open work that is as old."""
    with RiskStore(store_url, clock=lambda: LONG_AGO) as store, store.begin() as tx:
        for days in (900, 500, 364, 1):
            tx.enforcements.add(
                EnforcementLog(
                    account_id=1, rule_id="R", action="A", reason="r", success=True, execution_time_ms=5,
                    timestamp=NOW - timedelta(days=days),
                )
            )  # fmt: skip
        tx.enforcements.start(
            EnforcementInFlight(
                account_id=1,
                enforcement_id="e",
                rule_id="R",
                action="A",
                reason="r",
                started_at=LONG_AGO,
                host="h",
                pid=1,
            )
        )
        tx.lockouts.set(1, "until somebody looks", "R", until=None)
        tx.orders.save(
            Order(
                id=1, account_id=1, contract_id="C", type=OrderType.MARKET, side=OrderSide.BUY, size=1,
                state=OrderState.ACTIVE, created_at=LONG_AGO,
            )
        )  # fmt: skip
        tx.session.add(
            Position(
                id=1, account_id=1, contract_id="C", type=PositionType.LONG, size=1, average_price=5.0,
                created_at=LONG_AGO,
            )
        )  # fmt: skip
    return store_url


def counts(url: str) -> dict[str, int]:
    with RiskStore(url) as store, store.read() as tx:
        return {name: Export(tx, name).count() for name in TABLES}


def test_old_days_go_and_open_work_stays(filled: str) -> None:
    before = counts(filled)
    assert (before["orders"], before["lockouts"], before["positions"], before["enforcement_in_flight"]) == (1, 1, 1, 1)
    result = run("prune", filled, "--older-than", "365d", "--yes")
    assert result.returncode == 0, result.stderr
    oldest = f"{NOW - timedelta(days=364):%Y-%m-%d %H:%M:%S}Z"
    assert result.stdout == f"removed: 2 rows of the log before {UNTIL} UTC\noldest row: {oldest}\n"
    assert counts(filled) == before | {"enforcement_log": 2}
    again = run("prune", filled, "--older-than", "365d", "--yes")
    assert again.stdout == f"nothing to remove: 0 rows of the log before {UNTIL} UTC\noldest row: {oldest}\n"
    assert run("prune", filled, "--before", "9999-12-31", "--yes").stdout.endswith("\nthe log is empty\n")
    assert counts(filled) == before | {"enforcement_log": 0}
    assert run("prune", filled, "--before", "9999-12-31", "--yes").returncode == 0


def test_a_dry_run_says_what_would_go_and_removes_nothing(filled: str) -> None:
    before = counts(filled)
    result = run("prune", filled, "--older-than", "51w", "--dry-run")
    assert result.stdout.startswith("dry run, nothing was removed: 3 rows of the log before ")
    assert f"the oldest of {LONG_AGO:%Y-%m-%d %H:%M:%S}Z" in result.stdout
    told = json.loads(run("prune", filled, "--older-than", "365d", "--dry-run", "--json").stdout)
    assert (told["schema"], told["dry_run"], told["rows"], told["removed"]) == (1, True, 2, 0)
    assert told["before"] == f"{UNTIL}T00:00:00+00:00"
    assert counts(filled) == before
    told = json.loads(run("prune", filled, "--older-than", "365d", "--yes", "--json").stdout)
    assert (told["dry_run"], told["rows"], told["removed"]) == (False, 2, 2)
    assert told["oldest"].startswith(str((NOW - timedelta(days=364)).date()))


def test_without_a_terminal_it_wants_to_be_told_so(filled: str) -> None:
    result = run("prune", filled, "--older-than", "365d", stdin="y\n")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.endswith("there is no terminal to ask on: give --yes\n")
    assert counts(filled)["enforcement_log"] == 4


def test_on_a_terminal_it_asks(filled: str) -> None:
    asked = on_a_terminal("prune", filled, "--older-than", "365d", answer="n\n", code=1)
    assert f": remove 2 rows of the log before {UNTIL} UTC, the oldest of" in asked.replace("\n", "")
    assert asked.endswith("nothing was removed\n")
    assert on_a_terminal("prune", filled, "--older-than", "365d", answer="\x03", code=130)
    assert counts(filled)["enforcement_log"] == 4
    assert "removed: 2 rows" in on_a_terminal("prune", filled, "--older-than", "365d", answer="y\n")
    assert counts(filled)["enforcement_log"] == 2
    assert "remove 0" not in on_a_terminal("prune", filled, "--older-than", "365d"), "there is nothing to ask"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "--older-than 365d, or --before 2025-01-01"),
        (["--older-than", "1d", "--before", "2025-01-01"], "--older-than 365d, or --before 2025-01-01"),
        (["--older-than", "1y"], "--older-than: '1y' is not a number of days or weeks"),
        (["--older-than", "-1d"], "--older-than: '-1d' is not a number of days or weeks"),
        (["--older-than", "365"], "--older-than: '365' is not a number of days or weeks"),
        (["--older-than", "999999w"], "--older-than: '999999w' is longer ago than the year 1"),
        (["--before", "last year"], "--before: 'last year' is not a day"),
    ],
)
def test_what_does_not_say_which_rows_is_a_usage_error(sqlite_template: Path, arguments: list[str], named: str) -> None:
    result = run("prune", str(sqlite_template), *arguments, "--yes")
    assert (result.returncode, result.stdout) == (2, "")
    assert named in result.stderr


def test_rows_of_a_v1_daemon_in_another_form_are_told_of_and_stay(sqlite_template: Path, tmp_path: Path) -> None:
    file = Path(shutil.copy(sqlite_template, tmp_path / "risk.db"))
    with closing(sqlite3.connect(file)) as daemon:
        for at in ("2025-01-01T17:00:00Z", "2025-01-01 17:00:00"):
            daemon.execute(
                "INSERT INTO enforcement_log (account_id, rule_id, action, reason, timestamp) "
                "VALUES (1, 'R', 'A', 'r', ?)",
                (at,),
            )
        daemon.commit()
    result = run("prune", str(file), "--before", "2025-02-01", "--yes")
    assert result.stdout.splitlines() == [
        "removed: 1 row of the log before 2025-02-01 UTC",
        "oldest row: 2025-01-01 17:00:00Z",
        "1 row of those days, in another form than ours, stay until risk-store upgrade makes them canonical",
    ]
    run("upgrade", str(file))
    assert run("prune", str(file), "--before", "2025-02-01", "--yes").stdout.splitlines()[1] == "the log is empty"


def test_ctrl_c_in_the_middle_leaves_whole_batches_and_reports_that_add_up(
    sqlite_template: Path, tmp_path: Path
) -> None:
    file = Path(shutil.copy(sqlite_template, tmp_path / "risk.db"))
    rows = 40_000
    with RiskStore(f"sqlite:///{file}") as store:
        with store.begin() as tx:
            tx.session.connection().exec_driver_sql(
                f"WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows}) "
                "INSERT INTO enforcement_log (account_id, rule_id, action, reason, execution_time_ms, timestamp) "
                "SELECT 1, 'R', 'A', 'r', 5, datetime('2025-01-01', i || ' minutes') FROM n"
            )
        with closing(sqlite3.connect(file)) as watching:

            def left() -> int:
                return int(watching.execute("SELECT count(*) FROM enforcement_log").fetchone()[0])

            result = broken_off("prune", str(file), "--before", "2026-01-01", "--yes", when=lambda: left() < rows)
            remaining = left()
        assert result.returncode == 130
        assert "Traceback" not in result.stderr
        assert f"risk-store: broken off; {remaining:,} rows of them are left" in result.stderr
        assert 0 < remaining < rows
        assert remaining % 1_000 == 0
        with store.read() as tx:
            [present] = tx.enforcements.time_by_rule()
            [ever] = tx.enforcements.time_by_rule(include_pruned=True)
        assert (present.enforcement_count, ever.enforcement_count) == (remaining, rows)
    assert run("prune", str(file), "--before", "2026-01-01", "--yes").stdout.endswith("the log is empty\n")

"""`risk-store export` and `import` as a shell sees them."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from risk_store import EnforcementLog, RiskStore
from tests.support.command import broken_off, on_a_terminal, run

NOW = datetime.now(UTC)


def a_log(account_id: int, ago: timedelta = timedelta(0), rule: str = "RULE-003") -> EnforcementLog:
    return EnforcementLog(
        account_id=account_id,
        rule_id=rule,
        action="CLOSE",
        reason="=HYPERLINK(1)\n\u202e[bold]",
        success=True,
        timestamp=NOW - ago,
        execution_time_ms=5,
    )


@pytest.fixture
def filled(store_url: str) -> str:
    with RiskStore(store_url) as store, store.begin() as tx:
        tx.enforcements.add_many([a_log(1), a_log(2, timedelta(days=40)), a_log(2, rule="RULE-008")])
        tx.lockouts.set(7, "loss", "RULE-003", until=None)
    return store_url


@pytest.fixture
def long_log(sqlite_template: Path, tmp_path: Path) -> Path:
    file = Path(shutil.copy(sqlite_template, tmp_path / "long.db"))
    with RiskStore(f"sqlite:///{file}") as store, store.begin() as tx:
        tx.session.connection().exec_driver_sql(
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200000) "
            "INSERT INTO enforcement_log (account_id, rule_id, action, reason, timestamp) "
            "SELECT 1, 'R', 'A', 'r', datetime('2025-01-01', i || ' minutes') FROM n"
        )
    return file


def accounts(*arguments: str) -> list[int]:
    result = run("export", *arguments, "--format", "jsonl")
    assert result.returncode == 0, result.stderr
    return [json.loads(line)["account_id"] for line in result.stdout.splitlines()]


def test_csv_has_a_header_and_no_formula_and_json_lines_have_what_is_there(filled: str) -> None:
    header, *rows = csv.reader(io.StringIO(run("export", filled).stdout, newline=""))
    assert header[:3] == ["id", "account_id", "rule_id"]
    assert [row[header.index("reason")] for row in rows] == ["'=HYPERLINK(1)\n\u202e[bold]"] * 3
    first = json.loads(run("export", filled, "--format", "jsonl").stdout.splitlines()[0])
    assert (first["table"], first["reason"]) == ("enforcement_log", "=HYPERLINK(1)\n\u202e[bold]")


def test_filters_and_tables(filled: str) -> None:
    assert accounts(filled) == [1, 2, 2]
    assert accounts(filled, "--account", "2") == [2, 2]
    assert accounts(filled, "--account", "2", "--days", "30") == [2]
    assert accounts(filled, "--rule", "RULE-008") == [2]
    day = (NOW - timedelta(days=30)).date().isoformat()
    assert accounts(filled, "--until", day) == [2]
    assert accounts(filled, "--since", day) == [1, 2]
    assert accounts(filled, "--since", (NOW + timedelta(minutes=1)).isoformat()) == []
    assert accounts(filled, "--table", "lockouts", "--rule", "RULE-003") == [7]
    assert len(run("export", filled, "--table", "orders").stdout.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--since", "yesterday"], "--since: 'yesterday' is not a day"),
        (["--until", "2025-13-01"], "--until: '2025-13-01' is not a day"),
        (["--since", "2025-01-01", "--days", "3"], "--days and --since"),
        (["--table", "orders", "--rule", "R"], "rule_id: 'R' is not for orders"),
        (["--account", "0"], "account_id: 0 is not an account id"),
        (["--days", "0"], "--days"),
        (["--format", "xml"], "'csv', 'jsonl'"),
    ],
)
def test_a_filter_that_cannot_be_right_is_a_usage_error(
    sqlite_template: Path, tmp_path: Path, arguments: list[str], named: str
) -> None:
    result = run("export", str(sqlite_template), "--output", str(tmp_path / "log.csv"), *arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert named in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_there_is_replaced_only_by_force(filled: str, tmp_path: Path) -> None:
    file = tmp_path / "out" / "log.csv"
    assert run("export", filled, "--output", str(file)).returncode == 1, "no such folder"
    file.parent.mkdir()
    assert run("export", filled, "--output", str(file)).stdout == f"3 rows of enforcement_log in {file}\n"
    whole = file.read_bytes()
    assert whole.count(b"\r\n") == 4
    again = run("export", filled, "--output", str(file), "--format", "jsonl")
    assert again.returncode == 1
    assert "is there already: give another name, or --force to replace it" in again.stderr
    assert file.read_bytes() == whole
    link = tmp_path / "latest.csv"
    link.symlink_to(file)
    assert run("export", filled, "--output", str(link), "--force", "--account", "1").returncode == 0
    assert link.is_symlink()
    assert file.read_bytes().count(b"\r\n") == 2
    assert run("export", filled, "--output", os.devnull, "--force").returncode == 1
    assert [path.name for path in file.parent.iterdir()] == ["log.csv"]


def test_an_export_that_fails_leaves_no_file(filled: str, tmp_path: Path) -> None:
    file = tmp_path / "log.csv"
    command = f'ulimit -f 0; exec "{sys.executable}" -m risk_store export "$0" --output "{file}"'
    result = subprocess.run(["bash", "-c", command, filled], capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode != 0
    assert not file.exists()


def test_ctrl_c_in_the_middle_of_an_export_leaves_no_half_file(long_log: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    result = broken_off(
        "export", str(long_log), "--output", f"{folder}/log.csv",
        when=lambda: any(file.stat().st_size > 100_000 for file in folder.iterdir()),
    )  # fmt: skip
    assert (result.returncode, result.stdout, result.stderr) == (130, "", "")
    assert list(folder.iterdir()) == []


def test_a_reader_that_has_seen_enough_ends_the_export_at_once(long_log: Path) -> None:
    line = f'set -o pipefail; "{sys.executable}" -m risk_store export "{long_log}" | head -2 | tail -1'
    result = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=120, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("1,1,R,A,r,")


def test_a_long_export_shows_how_far_it_is_on_a_terminal(long_log: Path, tmp_path: Path) -> None:
    shown = on_a_terminal("export", str(long_log), "--output", str(tmp_path / "log.csv"))
    assert "exporting enforcement_log" in shown
    assert "200,000 rows of enforcement_log in" in shown
    few = on_a_terminal("export", str(long_log), "--account", "9")
    assert few.splitlines()[0].startswith("id,account_id"), "and nothing stands between the rows"


# And back


def test_what_was_exported_is_imported_once_and_counted(filled: str, sqlite_template: Path, tmp_path: Path) -> None:
    file = tmp_path / "log.jsonl"
    run("export", filled, "--format", "jsonl", "--output", str(file))
    other = shutil.copy(sqlite_template, tmp_path / "other.db")
    assert run("import", filled, str(file)).stdout == "0 records written, 3 in the store already\n"
    assert run("import", str(other), str(file)).stdout == "3 records written, 0 in the store already\n"
    told = json.loads(run("import", str(other), str(file), "--json").stdout)
    assert told == {"schema": 1, "written": 0, "known": 3, "refused": 0, "rejected": None}
    assert accounts(str(other)) == [1, 2, 2]
    assert not (tmp_path / "log.jsonl.rejected.jsonl").exists()


def test_lines_that_cannot_be_used_are_kept_with_their_reasons(filled: str, tmp_path: Path) -> None:
    file = tmp_path / "log.jsonl"
    good = run("export", filled, "--format", "jsonl", "--account", "1").stdout
    bad, new = (good.replace('"account_id": 1', f'"account_id": {id_}') for id_ in (-3, 3))
    file.write_text(bad * 12 + new)
    result = run("import", filled, str(file))
    assert (result.returncode, result.stdout) == (1, "1 record written, 0 in the store already\n")
    told = result.stderr.splitlines()
    assert len(told) == 11, "ten, and where all of them are"
    assert told[0].startswith("risk-store: line 1: account_id: -3 is not an account id")
    assert told[-1] == f"risk-store: 12 refused, with reasons: {file}.rejected.jsonl"
    kept = Path(f"{file}.rejected.jsonl")
    corrected = tmp_path / "corrected.jsonl"
    corrected.write_text(kept.read_text().replace('"account_id": -3', '"account_id": 5'))
    assert run("import", filled, str(corrected)).stdout == "12 records written, 0 in the store already\n"
    named = run("import", filled, str(file), "--rejected", str(tmp_path / "mine.jsonl"), "--json")
    assert json.loads(named.stdout)["rejected"] == f"{tmp_path}/mine.jsonl"
    assert run("import", filled, str(file), "--rejected", str(corrected)).returncode == 1, "it could be anything"
    file.write_text(good)
    assert run("import", filled, str(file)).returncode == 0
    assert not kept.exists(), "what an earlier run left there"


def test_refused_lines_of_standard_input_are_all_told_of(filled: str) -> None:
    bad = '{"table": "enforcement_log"}\n' * 15
    result = run("import", filled, "-", stdin=bad)
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 15

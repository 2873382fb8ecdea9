"""The `risk-store` command as a shell sees it."""

import json
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import asdict, replace
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
    RiskStore,
    __version__,
)
from risk_store.cli import CHECK_CODES, render
from risk_store.owner import this_process
from risk_store.schema import HEAD, REVISIONS
from tests.support import v1
from tests.support.command import on_a_terminal, run

HOSTILE = "[/oops] [bold]<script>\n\x1b[2J\u202etxt\tend"
SECRET = "c4nary-s3cret"


@pytest.fixture
def filled(store_url: str) -> str:
    """A store with a slow enforcement, a working trailing stop, a lockout, and hostile text in each."""
    with RiskStore(store_url) as store, store.begin() as tx:
        for took in (100, 2500):
            tx.enforcements.add(
                EnforcementLog(
                    account_id=1,
                    rule_id="RULE-003",
                    action=f"CLOSE {took}",
                    reason=HOSTILE,
                    success=True,
                    execution_time_ms=took,
                )
            )
        tx.orders.save(
            Order(
                id=3_425_270_858,
                account_id=1,
                contract_id="CON.[red]",
                type=OrderType.TRAILING_STOP,
                side=OrderSide.SELL,
                size=1,
                stop_price=20990.25,
                trailing_amount=10.0,
                state=OrderState.ACTIVE,
            )
        )
        tx.lockouts.set(1, HOSTILE, "RULE-003", until=datetime.now(UTC) + timedelta(hours=5))
        tx.lockouts.set(2, "until somebody looks", "RULE-010")
    return store_url


def test_report_prints_three_tables_of_tab_separated_rows_when_piped(filled: str) -> None:
    result = run("report", filled)
    assert result.returncode == 0, result.stderr
    by_rule, slow, trend = result.stdout.split("\n\n")
    header, row = by_rule.splitlines()
    values = dict(zip(header.split("\t"), row.split("\t"), strict=True))
    assert values["rule_id"] == "RULE-003"
    assert (values["enforcement_count"], values["avg_time_ms"], values["criticals"]) == ("2", "1300", "1")
    assert [line.split("\t")[3:5] for line in slow.splitlines()[1:]] == [["CLOSE 2500", "2500"]]
    assert trend.splitlines()[0] == "date\tavg_time_ms\tenforcement_count"


def test_roll_up_says_how_many_rows_it_took_and_changes_no_report(filled: str) -> None:
    before = run("report", filled).stdout
    assert run("roll-up", filled).stdout == "2 rows of the log rolled up\n"
    assert run("roll-up", filled).stdout == "nothing new in the log\n"
    assert json.loads(run("roll-up", filled, "--json").stdout)["rows"] == 0
    assert run("report", filled).stdout == before


@pytest.mark.parametrize("verb", ["report", "slow", "orders", "lockouts"])
def test_each_reading_verb_prints_one_json_object_with_its_version(filled: str, verb: str) -> None:
    result = run(verb, filled, "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["schema"] == 1


def test_the_other_reading_verbs_print_one_tab_separated_table_when_piped(filled: str) -> None:
    slow, orders, lockouts = (run(verb, filled).stdout.splitlines() for verb in ("slow", "orders", "lockouts"))
    assert [len(lines) for lines in (slow, orders, lockouts)] == [2, 2, 3]
    assert dict(zip(slow[0].split("\t"), slow[1].split("\t"), strict=True))["alert"] == "CRITICAL"
    order = dict(zip(orders[0].split("\t"), orders[1].split("\t"), strict=True))
    assert (order["id"], order["side"], order["stop_price"]) == ("3425270858", "SELL", "20990.25")
    assert lockouts[2].split("\t")[:3] == ["2", "RULE-010", "until somebody looks"]


def test_filters_narrow_what_is_shown(filled: str) -> None:
    def rows(*arguments: str) -> int:
        told = json.loads(run(*arguments, "--json").stdout)
        return sum(len(table) for name, table in told.items() if name != "schema")

    assert rows("slow", filled, "--threshold", "99", "--account", "1", "--rule", "RULE-003") == 2
    assert rows("slow", filled, "--threshold", "99", "--limit", "1") == 1
    assert rows("slow", filled, "--threshold", "2500") == 0
    assert rows("slow", filled, "--account", "2") == 0
    assert rows("slow", filled, "--threshold", "99", "--days", "1") == 2
    assert rows("report", filled, "--rule", "RULE-010", "--days", "1") == 0
    assert rows("lockouts", filled, "--account", "1") == rows("lockouts", filled, "--rule", "RULE-010") == 1
    assert rows("lockouts", filled, "--account", "1", "--rule", "RULE-010") == 0
    assert rows("orders", filled, "--contract", "CON.[red]", "--account", "1") == 1
    assert rows("orders", filled, "--contract", "CON") == 0


def test_a_rule_that_only_failed_is_in_the_report_with_its_alerts(filled: str) -> None:
    with RiskStore(filled) as store, store.begin() as tx:
        tx.enforcements.add(
            EnforcementLog(account_id=1, rule_id="RULE-009", action="CLOSE", reason="r", execution_time_ms=6000)
        )
    rows = json.loads(run("report", filled, "--json").stdout)["time_by_rule"]
    assert [(row["rule_id"], row["enforcement_count"], row["max_time_ms"], row["timeouts"]) for row in rows] == [
        ("RULE-003", 2, 2500, 0),
        ("RULE-009", 0, None, 1),
    ]
    rows = json.loads(run("report", filled, "--json", "--outcome", "all").stdout)["time_by_rule"]
    assert [(row["rule_id"], row["max_time_ms"]) for row in rows] == [("RULE-009", 6000), ("RULE-003", 2500)]


def test_a_price_loses_no_digit_when_piped() -> None:
    for price in (28446.375, 20990.123456789, 0.000000125, -37.63, 1e15):
        assert float(render.plain(price)) == price


def test_on_a_terminal_figures_have_separators_and_alerts_have_words(filled: str) -> None:
    printed = on_a_terminal("report", filled)
    assert "Execution time by rule, 7 days, successes, slowest first" in printed
    assert "2,500" in printed
    assert "CRITICAL" in printed
    assert "\t" not in printed
    assert "20,990.25" in on_a_terminal("orders", filled)
    printed = on_a_terminal("lockouts", filled)
    assert "until released" in printed
    assert "[/oops] [bold]<script>\\n\\x1b[2J\\u202etxt" in printed


def test_no_color_means_no_colour_and_force_color_makes_no_table_of_a_pipe(filled: str) -> None:
    assert "\x1b[31m" in on_a_terminal("slow", filled)
    assert "\x1b[31m" not in on_a_terminal("slow", filled, NO_COLOR="1")
    assert run("slow", filled, FORCE_COLOR="1").stdout.startswith("timestamp\t")


def test_orders_show_the_trailing_distance_and_the_stop(filled: str) -> None:
    [order] = json.loads(run("orders", filled, "--json").stdout)["working_orders"]
    assert (order["id"], order["type"], order["side"]) == (3_425_270_858, "TRAILING_STOP", "SELL")
    assert (order["stop_price"], order["trailing_amount"]) == (20990.25, 10.0)


def test_lockouts_tell_those_with_an_end_from_those_until_released(filled: str) -> None:
    rows = json.loads(run("lockouts", filled, "--json").stdout)["lockouts"]
    assert [(row["account_id"], row["locked_until"] is None) for row in rows] == [(1, False), (2, True)]


def test_text_of_a_broker_is_one_line_and_never_markup_or_a_control_code(filled: str) -> None:
    result = run("lockouts", filled)
    assert len(result.stdout.splitlines()) == 3
    assert "[/oops] [bold]<script>\\n\\x1b[2J\\u202etxt\\tend" in result.stdout
    assert result.stdout.isascii()


def test_on_a_terminal_no_figure_is_cut_and_markup_is_text(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    columns = [render.Column("a", "Stop", right=True), render.Column("b", "Reason", fold=True)]
    rows = [{"a": "30196.750000001", "b": HOSTILE * 5}]
    table = render.Table("t", "[bold]Title[/oops]", columns, rows, "none")
    render.print_tables([table], as_json=False, console=Console(width=20, force_terminal=True, color_system=None))
    printed = capsys.readouterr().out
    assert "30196.750000001" in printed
    assert "[/oops]" in printed
    assert "\x1b" not in printed.replace("\x1b[0m", "")


def test_the_url_may_come_from_the_environment_or_be_a_path(tmp_path: Path) -> None:
    file = tmp_path / "with space %20?.db"
    assert run("upgrade", str(file)).returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    assert run("check", RISK_STORE_URL=f"sqlite:///{tmp_path}/none.db").returncode == CHECK_CODES["empty"]
    assert run("check", str(file), RISK_STORE_URL="sqlite:///other.db").returncode == 0


def test_no_database_named_is_a_usage_error_that_says_how() -> None:
    result = run("report")
    assert result.returncode == 2
    assert "RISK_STORE_URL" in result.stderr


@pytest.mark.parametrize("verb", ["check", "report", "slow", "orders", "lockouts"])
def test_reading_verbs_make_no_file_and_name_the_command_that_does(tmp_path: Path, verb: str) -> None:
    result = run(verb, f"sqlite:///{tmp_path}/none.db")
    assert result.returncode == (10 if verb == "check" else 3)
    assert "risk-store upgrade sqlite:///" in result.stdout + result.stderr
    assert list(tmp_path.iterdir()) == []


def make(state: str, file: Path) -> None:
    if state == "empty":
        return
    if state == "foreign":
        statements = ["CREATE TABLE other (id INTEGER)"]
    elif state == "legacy_v1":
        from tests.support.v1 import make_v1

        make_v1(file)
        return
    else:
        assert run("upgrade", str(file)).returncode == 0
        statements = {
            "current": [
                "INSERT INTO orders (id, account_id, contract_id, type, side, size, state, created_at) "
                "VALUES (1, 1, 'X', 99, 0, 1, 2, '2025-10-21 17:00:00')"
            ],
            "behind": ["UPDATE risk_store_version SET version_num = '0002'"],
            "ahead": ["UPDATE risk_store_version SET version_num = '9999'"],
            "drifted": ["DROP TABLE lockouts"],
        }[state]
    with sqlite3.connect(file) as connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()


@pytest.mark.parametrize("state", CHECK_CODES)
def test_check_has_an_exit_code_for_each_state(tmp_path: Path, state: str) -> None:
    file = tmp_path / "some.db"
    make(state, file)
    result = run("check", str(file), "--json")
    assert result.returncode == CHECK_CODES[state]
    told = json.loads(result.stdout)
    assert (told["state"], told["expected"]) == (state, HEAD)
    assert (told["command"] is not None) == (state in ("empty", "legacy_v1", "behind"))
    if state == "current":
        assert told["unknown_codes"] == {"orders.type": 1}


def test_check_says_in_words_what_check_json_says(tmp_path: Path) -> None:
    make("behind", tmp_path / "some.db")
    result = run("check", f"sqlite:///{tmp_path}/some.db")
    assert result.stdout.splitlines() == [
        f"sqlite:///{tmp_path}/some.db: the schema is behind: found revision 0002, this release works with {HEAD}.",
        f"Run: risk-store upgrade sqlite:///{tmp_path}/some.db",
    ]


def test_upgrade_of_a_v1_file_says_where_the_copy_is_and_twice_does_nothing(tmp_path: Path) -> None:
    file = tmp_path / "state.db"
    make("legacy_v1", file)
    first = run("upgrade", str(file))
    assert first.returncode == 0, first.stderr
    assert f"legacy v1 -> {HEAD}   {len(REVISIONS)} steps" in first.stdout
    assert str(tmp_path / "state.db.v1.bak") in first.stdout
    second = run("upgrade", str(file))
    assert (second.returncode, "nothing to do" in second.stdout) == (0, True)


def test_a_dry_run_says_what_an_upgrade_would_do_and_touches_nothing(tmp_path: Path) -> None:
    file = v1.make_v1(tmp_path / "state.db")
    before = file.read_bytes()
    result = run("upgrade", str(file), "--dry-run")
    assert result.returncode == 0
    assert result.stdout.startswith(f"dry run, nothing was changed: legacy v1 -> {HEAD}   {len(REVISIONS)} steps\n")
    assert "would be made canonical:\n  enforcement_log.details: outcomes in 4 rows\n" in result.stdout
    promised = json.loads(run("upgrade", str(file), "--dry-run", "--json").stdout)
    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["state.db"]
    done = json.loads(run("upgrade", str(file), "--json").stdout)
    assert {name: promised[name] for name in ("converted", "unreadable", "notes")} == {
        name: done[name] for name in ("converted", "unreadable", "notes")
    }
    assert done["rows"]["orders"] == {"before": 10, "after": 10}
    assert (promised["dry_run"], done["dry_run"]) == (True, False)


def test_an_upgrade_with_a_question_prints_each_answer_as_a_line_to_paste(tmp_path: Path) -> None:
    file = v1.make_v1(tmp_path / "my state.db")
    with closing(sqlite3.connect(file)) as daemon:
        daemon.execute("UPDATE orders SET type = 1, limit_price = 5.5 WHERE id = 102")
        daemon.commit()
    result = run("upgrade", str(file))
    assert result.returncode == 4
    lines = result.stderr.splitlines()
    assert lines[0].startswith("risk-store: 1 order contradicts ")
    answers = [line.strip().rpartition("   (")[0] for line in lines if line.strip().startswith("risk-store upgrade ")]
    assert len(answers) == 2
    for answer in answers:
        copy = tmp_path / "copy.db"
        shutil.copy(file, copy)
        words = [word.replace("my state.db", "copy.db") for word in shlex.split(answer)]
        assert run(*words[1:]).returncode == 0
        copy.unlink()


def test_a_choice_that_is_none_is_a_usage_error_that_names_it(tmp_path: Path) -> None:
    file = v1.make_v1(tmp_path / "state.db")
    result = run("upgrade", str(file), "--legacy-timezone", "Chicago")
    assert result.returncode == 2
    assert "legacy_timezone: 'Chicago' is not the IANA name of a time zone, such as America/Chicago" in result.stderr
    assert run("upgrade", str(file), "--legacy-order-codes", "wire").returncode == 2


def test_check_counts_what_is_odd_and_lists_it_on_demand(tmp_path: Path) -> None:
    file = v1.make_v1(tmp_path / "state.db")
    run("upgrade", str(file), "--no-backup")
    with closing(sqlite3.connect(file)) as daemon:
        daemon.execute("UPDATE orders SET created_at = '2025-10-21T14:00:00Z' WHERE id < 103")
        daemon.execute("UPDATE orders SET type = 99, updated_at = 'so\ton' WHERE id = 103")
        daemon.commit()
    lines = run("check", str(file)).stdout.splitlines()
    assert lines[1].startswith("orders.created_at: 2 rows with an instant in another form than ours, read all the same")
    assert lines[2].startswith(
        "orders.type: 1 row with a value that this release cannot read, kept as it is (id 103: 99)"
    )
    assert lines[-2:] == [
        f"To make them canonical: risk-store upgrade sqlite:///{file}",
        f"To list them: risk-store check sqlite:///{file} --list",
    ]
    told = json.loads(run("check", str(file), "--json").stdout)
    assert told["unknown_codes"] == {"orders.type": 1}
    assert {(odd["column"], odd["kind"], odd["rows"]) for odd in told["odd"]} == {
        ("orders.created_at", "instants", 2),
        ("orders.type", "unreadable", 1),
        ("orders.updated_at", "unreadable", 1),
    }
    rows = [line.split("\t") for line in run("check", str(file), "--list").stdout.splitlines()]
    assert rows[0] == ["table", "row", "column", "kind", "stored", "becomes"]
    assert ["orders", "id 101", "created_at", "instants", "2025-10-21T14:00:00Z", "2025-10-21 14:00:00"] in rows
    assert ["orders", "id 103", "updated_at", "unreadable", "so\\ton", ""] in rows
    as_json = [json.loads(line) for line in run("check", str(file), "--list", "--json").stdout.splitlines()]
    assert len(as_json) == len(rows) - 1
    assert run("upgrade", str(file)).stdout.startswith(f"{HEAD} -> {HEAD}   0 steps")
    again = run("upgrade", str(file)).stdout.splitlines()
    assert again[0].endswith(f"at {HEAD} already, nothing to do")
    assert "  orders.type: unreadable in 1 row" in again


def test_restore_puts_the_copy_back_and_keeps_what_was_there(tmp_path: Path) -> None:
    file = v1.make_v1(tmp_path / "state.db")
    upgraded = run("upgrade", str(file)).stdout.splitlines()
    command = next(line.partition(": ")[2] for line in upgraded if line.startswith("to go back: "))
    result = run(*shlex.split(command)[1:])
    assert result.returncode == 0, result.stderr
    assert "the database of a v1 daemon" in result.stdout
    assert f"copy of what it held until now (verified): {file}.{HEAD}.bak" in result.stdout
    assert run("check", str(file)).returncode == CHECK_CODES["legacy_v1"]
    assert run("restore", str(file), f"{file}.missing").returncode == 2


def test_blobs_and_infinities_hide_nothing_in_any_verb(tmp_path: Path) -> None:
    file = v1.make_v1(tmp_path / "my state.db")
    with closing(sqlite3.connect(file)) as daemon:
        daemon.execute("UPDATE orders SET contract_id = x'58', stop_price = 9e999 WHERE id = 103")
        daemon.execute("UPDATE enforcement_log SET rule_id = x'ff', execution_time_ms = 3000 WHERE id = 1")
        daemon.execute("UPDATE lockouts SET reason = x'00ff', locked_until = NULL")
        daemon.commit()
    run("upgrade", str(file), "--no-backup")
    for verb in (["orders"], ["report", "--days", "3000"], ["slow"], ["lockouts"], ["check", "--list"], ["check"]):
        assert run(verb[0], str(file), *verb[1:]).returncode == 0
        told = run(verb[0], str(file), *verb[1:], "--json")
        assert told.returncode == 0, told.stderr
        for line in told.stdout.splitlines():
            json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert "x'58'" in run("orders", str(file)).stdout
    helps = [line.partition(": ")[2] for line in run("check", str(file)).stdout.splitlines() if line.startswith("To ")]
    assert all(run(*shlex.split(line)[1:]).returncode == 0 for line in helps)
    assert helps


def test_copy_says_what_arrived_and_refuses_a_target_that_is_not_empty(filled: str, tmp_path: Path) -> None:
    target = f"sqlite:///{tmp_path / 'target.db'}"
    result = run("copy", filled, target)
    assert result.returncode == 0, result.stderr
    rows = dict(line.split("\t")[:2] for line in result.stdout.splitlines()[1:])
    assert (rows["orders"], rows["lockouts"], rows["enforcement_log"]) == ("1", "2", "2")
    assert "execution_time_ms 2,600" in result.stdout
    again = run("copy", filled, target)
    assert again.returncode == 1
    assert "the target holds rows already, in enforcement_log, lockouts, orders" in again.stderr
    told = json.loads(run("copy", target, f"sqlite:///{tmp_path / 'third.db'}", "--json").stdout)
    assert {table["table"]: table["rows"] for table in told["tables"]}["lockouts"] == 2


def test_a_long_upgrade_shows_how_far_it_has_come_on_a_terminal(tmp_path: Path) -> None:
    file = v1.make_v1(tmp_path / "state.db", log_rows=40_000)
    shown = on_a_terminal("upgrade", str(file))
    assert "reading enforcement_log" in shown
    assert f"legacy v1 -> {HEAD}" in shown
    assert "reading enforcement_log" not in run("check", str(file)).stderr, "and says nothing into a pipe"


def test_upgrade_of_a_foreign_database_is_refused(tmp_path: Path) -> None:
    make("foreign", tmp_path / "some.db")
    before = (tmp_path / "some.db").read_bytes()
    result = run("upgrade", str(tmp_path / "some.db"))
    assert result.returncode == 3
    assert "not a database of risk_store" in result.stderr
    assert (tmp_path / "some.db").read_bytes() == before


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql+psycopg://ann:{SECRET}@127.0.0.1:1/risk",
        f"postgresql+psycopg://ann@127.0.0.1:1/risk?password={SECRET}",
        f"postgresql+psycopg://ann:{SECRET}@127.0.0.1:1/risk?sslpassword={SECRET}&connect_timeout=2",
        f"mysql://ann:{SECRET}@127.0.0.1/risk",
        f"postgresql:ann:{SECRET}@127.0.0.1/risk",
        f"postgresql+psycopg://ann:{SECRET}@127.0.0.1:port/risk",
        f"nonsense+driver://ann:{SECRET}@127.0.0.1/risk?password={SECRET}",
        f"ann:{SECRET}@127.0.0.1/risk",
        f"risk.db?password={SECRET}",
    ],
)
def test_a_password_is_never_printed(url: str) -> None:
    result = run("check", url)
    assert result.returncode in (1, 2)
    assert result.stderr.startswith("risk-store: ")
    assert "Traceback" not in result.stderr
    assert SECRET not in result.stdout + result.stderr


def test_a_password_is_not_printed_where_sqlite_gets_a_user(tmp_path: Path) -> None:
    url = f"sqlite://ann:{SECRET}@host/{tmp_path}/risk.db?password={SECRET}"
    for verb in ("check", "upgrade", "report"):
        result = run(verb, url)
        assert result.returncode != 0
        assert SECRET not in result.stdout + result.stderr
        assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["report", "sqlite:///risk.db", f"postgresql://ann:{SECRET}@h/d"],
        ["report", "postgresql://ann:two", "words", f"{SECRET}@h/d"],
        ["report", "postgresql://ann:two", SECRET],
        ["report", "--account", f"postgresql://ann:{SECRET}@h/d"],
        ["report", f"--account=postgresql://ann:{SECRET}@h/d"],
        ["report", f"--days=postgresql://ann:{SECRET}@h/d"],
        ["report", f"--outcome=ann:{SECRET}@h/d"],
        ["report", f"--postgresql://ann:{SECRET}@h/d"],
        [f"postgresql://ann:{SECRET}@h/d"],
    ],
)
def test_a_usage_error_is_one_line_and_never_repeats_a_password(arguments: list[str]) -> None:
    result = run(*arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("risk-store: ")
    assert result.stderr.count("\n") == 1
    assert SECRET not in result.stderr


def test_a_driver_error_is_scrubbed_of_a_password_in_any_spelling() -> None:
    from risk_store.cli.failures import _without_secrets

    url = "postgresql://ann:p%40ss+w@h/risk?sslpassword=a%26b&sslmode=require"
    told = _without_secrets(f"p@ss+w p%40ss%2Bw a&b a%26b require {url}", ["report", url])
    assert told == "*** *** *** *** require postgresql://ann:***@h/risk?sslpassword=***&sslmode=require"


def test_an_expected_error_is_one_line_that_says_what_to_run(tmp_path: Path) -> None:
    result = run("report", f"sqlite:///{tmp_path}/none.db")
    assert result.stderr.count("\n") == 1
    assert result.stderr.endswith(f"Run: risk-store upgrade sqlite:///{tmp_path}/none.db\n")


def test_a_full_disk_is_one_line_too(filled: str) -> None:
    command = f'"{sys.executable}" -m risk_store report "{filled}" > /dev/full'
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120, check=False)
    assert (result.returncode, result.stderr) == (1, "risk-store: No space left on device\n")


def test_an_interrupted_demo_ends_with_130_and_no_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "risk_store", "demo", f"sqlite:///{tmp_path}/demo.db"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("demo: ")
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors


@pytest.mark.parametrize("verb", ["upgrade", "report"])
def test_a_wrong_password_of_a_real_server_is_not_printed(verb: str, postgres_database: str) -> None:
    from sqlalchemy import make_url

    url = make_url(postgres_database).set(password=SECRET).render_as_string(hide_password=False)
    result = run(verb, url)
    assert result.returncode == 1
    assert "password authentication failed" in result.stderr
    assert SECRET not in result.stdout + result.stderr


def test_a_reader_that_has_seen_enough_ends_the_command_quietly(filled: str) -> None:
    command = f'"{sys.executable}" -m risk_store report "{filled}"'
    for reader, first in (("head -1", "rule_id\t"), ("true", "")):
        line = f"set -o pipefail; {command} | {reader}"
        result = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=120, check=False)
        assert (result.returncode, result.stderr) == (0, "")
        assert result.stdout.startswith(first)


def test_version_and_help_do_not_pay_for_sqlalchemy() -> None:
    for arguments in (["version"], ["--help"], ["report", "--help"]):
        code = f"import sys; sys.argv = ['risk-store', *{arguments!r}]\n"
        code += "from risk_store.cli import main\ntry:\n    main()\nexcept SystemExit: pass\n"
        code += "assert 'sqlalchemy' not in sys.modules"
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
        assert result.returncode == 0, result.stderr
    assert run("version").stdout == f"risk-store {__version__}\n"


def test_the_package_runs_as_a_module_with_the_same_exit_codes(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "risk_store", "check", f"{tmp_path}/none.db", "--json"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (result.returncode, json.loads(result.stdout)["state"]) == (CHECK_CODES["empty"], "empty")


def test_a_bad_option_is_a_usage_error() -> None:
    assert run("report", "sqlite:///x.db", "--days", "0").returncode == 2
    assert run("nonsense").returncode == 2
    assert run("report", "sqlite:///x.db", "--outcome", "some").returncode == 2


def test_no_verb_shows_the_help_with_the_exit_codes() -> None:
    result = run()
    assert result.returncode == 0
    assert "130 interrupted" in " ".join(result.stdout.split())


# Alerts and interrupted enforcements


@pytest.fixture
def alarming(filled: str) -> str:
    """A store with one enforcement over 2000 ms (filled has it), and two interrupted ones: one of another host."""
    here = this_process()
    with RiskStore(filled) as store, store.begin() as tx:
        for name, owner in {
            "dead": replace(here, process_started="1"),
            "far": replace(here, host="other-desk"),
        }.items():
            tx.enforcements.start(
                EnforcementInFlight(
                    account_id=77, enforcement_id=name, rule_id="RULE-003", action="CLOSE_ALL", reason=HOSTILE,
                    started_at=datetime(2026, 11, 23, 15, 30, tzinfo=UTC), **asdict(owner),
                )
            )  # fmt: skip
    return filled


def test_alerts_show_counts_by_rule_and_the_slowest(alarming: str) -> None:
    counts, slowest = run("alerts", alarming).stdout.split("\n\n")
    assert counts.splitlines() == ["rule_id\twarnings\tcriticals\ttimeouts", "RULE-003\t0\t1\t0"]
    assert len(slowest.splitlines()) == 2
    assert "CRITICAL" in slowest
    told = json.loads(run("alerts", alarming, "--json").stdout)
    assert told["alert_counts"] == [{"rule_id": "RULE-003", "warnings": 0, "criticals": 1, "timeouts": 0}]


@pytest.mark.parametrize("verb", ["alerts", "report"])
def test_fail_on_has_an_exit_code_for_monitors(alarming: str, verb: str) -> None:
    for level, code in [("warning", 5), ("critical", 5), ("timeout", 0)]:
        result = run(verb, alarming, "--fail-on", level)
        assert result.returncode == code
        assert (f"risk-store: 1 enforcement at {level} or worse" in result.stderr) is bool(code)
    assert run(verb, alarming).returncode == 0
    assert run(verb, alarming, "--fail-on", "warning", "--account", "5").returncode == 0
    assert run(verb, alarming, "--fail-on", "slow").returncode == 2


def test_the_thresholds_of_the_environment_are_those_of_the_command_line(alarming: str) -> None:
    variable = "RISK_STORE_MONITORING__ENFORCEMENT__SLOW_THRESHOLD_MS"
    counts = run("alerts", alarming, **{variable: "50"}).stdout
    assert "RULE-003\t1\t1\t0" in counts
    refused = run("alerts", alarming, **{variable: "quick"})
    assert refused.returncode == 2
    assert f"{variable}: 'quick' is not a whole number of milliseconds" in refused.stderr


def test_interrupted_lists_what_the_dead_were_doing_and_closes_it_on_purpose(alarming: str) -> None:
    rows = [line.split("\t") for line in run("interrupted", alarming).stdout.splitlines()]
    assert rows[0][:3] == ["account_id", "rule_id", "action"]
    assert [(row[5], row[8]) for row in rows[1:]] == [("gone", "dead"), ("unknown", "far")]
    checked = run("check", alarming)
    assert checked.returncode == 0
    assert "2 enforcements whose process is gone: risk-store interrupted" in checked.stdout
    assert json.loads(run("check", alarming, "--json").stdout)["interrupted"] == 2
    for words, rows_found in ((["--account", "77"], 2), (["--account", "5"], 0), (["--rule", "RULE-009"], 0)):
        assert len(json.loads(run("interrupted", alarming, "--json", *words).stdout)["interrupted"]) == rows_found
    assert run("interrupted", alarming, "--close", "x", "--rule", "RULE-009").stdout == ""
    closed = run("interrupted", alarming, "--close", "looked up: flat")
    assert closed.returncode == 0
    assert "account 77, RULE-003, CLOSE_ALL: in the log as failed, id " in closed.stdout
    assert "left alone, of other hosts: 1. Close them only if they are gone: --other-hosts" in closed.stdout
    assert run("interrupted", alarming, "--close", "x", "--enforcement", "none").returncode == 2
    told = json.loads(run("interrupted", alarming, "--close", "x", "--json").stdout)
    assert (told["closed"], told["left"]) == ([], 1)
    told = json.loads(run("interrupted", alarming, "--close", "that desk is gone", "--other-hosts", "--json").stdout)
    assert ([log["enforcement_id"] for log in told["closed"]], told["left"]) == (["far"], 0)
    assert len(run("interrupted", alarming).stdout.splitlines()) == 1
    with RiskStore(alarming) as store, store.read() as tx:
        notes = [log.error_message for log in tx.enforcements.list(account_id=77)]
    assert notes == ["interrupted: that desk is gone", "interrupted: looked up: flat"]

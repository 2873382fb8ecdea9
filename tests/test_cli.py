"""The `risk-store` command as a shell sees it."""

import json
import os
import sqlite3
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from risk_store import EnforcementLog, Order, OrderSide, OrderState, OrderType, RiskStore, __version__
from risk_store.cli import CHECK_CODES, render

HOSTILE = "[/oops] [bold]<script>\n\x1b[2J\u202etxt\tend"
SECRET = "c4nary-s3cret"


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("RISK_STORE", "PG"))}
    return subprocess.run(
        [sys.executable, "-m", "risk_store", *arguments],
        env=clean | {"PYTHONUTF8": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


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


@pytest.mark.parametrize("verb", ["report", "slow", "orders", "lockouts"])
def test_each_reading_verb_prints_one_json_object_with_its_version(filled: str, verb: str) -> None:
    result = run(verb, filled, "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["schema"] == 1


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
    assert (told["state"], told["expected"]) == (state, "0003")
    assert (told["command"] is not None) == (state in ("empty", "legacy_v1", "behind"))
    if state == "current":
        assert told["unknown_codes"] == {"orders.type": 1}


def test_check_says_in_words_what_check_json_says(tmp_path: Path) -> None:
    make("behind", tmp_path / "some.db")
    result = run("check", f"sqlite:///{tmp_path}/some.db")
    assert result.stdout.splitlines() == [
        f"sqlite:///{tmp_path}/some.db: the schema is behind: found revision 0002, this release works with 0003.",
        f"Run: risk-store upgrade sqlite:///{tmp_path}/some.db",
    ]


def test_upgrade_of_a_v1_file_says_where_the_copy_is_and_twice_does_nothing(tmp_path: Path) -> None:
    file = tmp_path / "state.db"
    make("legacy_v1", file)
    first = run("upgrade", str(file))
    assert first.returncode == 0, first.stderr
    assert "legacy v1 -> 0003   3 steps" in first.stdout
    assert str(tmp_path / "state.db.v1.bak") in first.stdout
    second = run("upgrade", str(file))
    assert (second.returncode, "nothing to do" in second.stdout) == (0, True)


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
    ],
)
def test_a_password_is_never_printed(url: str) -> None:
    result = run("check", url)
    assert result.returncode in (1, 2)
    assert result.stderr.startswith("risk-store: ")
    assert "Traceback" not in result.stderr
    assert SECRET not in result.stdout + result.stderr


@pytest.mark.parametrize("verb", ["upgrade", "report"])
def test_a_wrong_password_of_a_real_server_is_not_printed(verb: str, postgres_database: str) -> None:
    from sqlalchemy import make_url

    url = make_url(postgres_database).set(password=SECRET).render_as_string(hide_password=False)
    result = run(verb, url)
    assert result.returncode == 1
    assert "password authentication failed" in result.stderr
    assert SECRET not in result.stdout + result.stderr


def test_a_reader_that_has_seen_enough_ends_the_command_quietly(filled: str) -> None:
    command = f'"{sys.executable}" -m risk_store report "{filled}" | head -1'
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120, check=False)
    assert result.stdout.startswith("rule_id\t")
    assert result.stderr == ""


def test_version_and_help_do_not_pay_for_sqlalchemy() -> None:
    for arguments in (["version"], ["--help"], ["report", "--help"]):
        code = f"import sys; sys.argv = ['risk-store', *{arguments!r}]\n"
        code += "from risk_store.cli import main\ntry:\n    main()\nexcept SystemExit: pass\n"
        code += "assert 'sqlalchemy' not in sys.modules"
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
        assert result.returncode == 0, result.stderr
    assert run("version").stdout == f"risk-store {__version__}\n"


@pytest.mark.parametrize("verb", ["upgrade", "check", "report", "slow", "orders", "lockouts", "demo"])
def test_the_help_of_each_verb_has_an_example(verb: str) -> None:
    assert f"Example: risk-store {verb} " in " ".join(run(verb, "--help").stdout.split())


def test_a_bad_option_is_a_usage_error() -> None:
    assert run("report", "sqlite:///x.db", "--days", "0").returncode == 2
    assert run("nonsense").returncode == 2

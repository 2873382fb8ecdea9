"""One grammar for all verbs: where the database stands, what options are called, what help shows, what Tab offers."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main

from risk_store.cli import app, exit_codes
from tests.support.command import run

COMMAND: Any = typer.main.get_command(app)
VERBS: dict[str, Any] = dict(COMMAND.commands)
WITHOUT_DATABASE = {"version", "copy"}  # copy has two
CHANGING = {"demo", "dashboard", "distribute"}  # what they do is their own


def options_of(verb: str) -> dict[str, Any]:
    return {name: parameter for parameter in VERBS[verb].params for name in parameter.opts}


def test_all_verbs_are_there() -> None:
    assert set(VERBS) >= {
        *("upgrade", "check", "copy", "backup", "restore", "report", "slow", "alerts", "orders", "lockouts"),
        *("interrupted", "export", "import", "replay", "roll-up", "prune", "demo", "version"),
    }


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_of_each_verb_ends_with_an_example_that_it_takes(verb: str) -> None:
    last = " ".join(run(verb, "--help").stdout.split()).partition("Example: ")[2]
    words = shlex.split(last)
    assert words[:2] == ["risk-store", verb]
    context = VERBS[verb].make_context(verb, words[2:])  # raises for an option, a value or a word that it does not take
    assert context.params


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("columns", ["80", "120"])
def test_help_fits_the_terminal_and_says_what_every_option_is_for(verb: str, columns: str) -> None:
    printed = run(verb, "--help", COLUMNS=columns).stdout
    assert max(map(len, printed.splitlines())) <= int(columns)
    for parameter in VERBS[verb].params:
        assert parameter.hidden or parameter.help, parameter.name


def test_the_list_of_verbs_cuts_no_line_at_80_columns() -> None:
    assert "..." not in run("--help", COLUMNS="80").stdout.partition("Commands:")[2]


@pytest.mark.parametrize("verb", sorted(VERBS.keys() - WITHOUT_DATABASE))
def test_each_verb_takes_the_database_first_or_from_the_environment(verb: str) -> None:
    first = VERBS[verb].params[0]
    assert (first.metavar, first.required) == ("URL", False)
    assert "[env var: RISK_STORE_URL]" in " ".join(run(verb, "--help").stdout.split())


@pytest.mark.parametrize("verb", ["import", "replay", "restore"])
def test_with_the_database_in_the_environment_one_word_is_the_file(
    verb: str, sqlite_template: Path, tmp_path: Path
) -> None:
    missing = str(tmp_path / "missing")
    url = str(sqlite_template)
    for result in (run(verb, url, missing), run(verb, missing, RISK_STORE_URL=url)):
        assert result.returncode in (1, 2)
        assert "missing" in result.stderr
    assert run(verb, missing).stderr == "risk-store: no database: give its URL as the argument, or set RISK_STORE_URL\n"
    for environment in ({}, {"RISK_STORE_URL": str(sqlite_template)}):
        nothing = run(verb, **environment)
        assert nothing.returncode == 2
        assert re.match(r"risk-store: no (FILE|COPY): ", nothing.stderr)


def test_replay_goes_on_taking_the_database_as_an_option(sqlite_template: Path, tmp_path: Path) -> None:
    (tmp_path / "day.jsonl").write_text("")
    assert run("replay", str(tmp_path / "day.jsonl"), "--url", str(sqlite_template)).stdout.startswith("0 lines")
    assert run("replay", "a.db", "day.jsonl", "--url", "b.db").returncode == 2


def test_an_option_means_the_same_wherever_it_is() -> None:
    found: dict[str, set[tuple[Any, ...]]] = {}
    for verb in VERBS:
        for name in ("--account", "--rule", "--days", "--limit"):
            if (option := options_of(verb).get(name)) is not None:
                found.setdefault(name, set()).add((option.metavar, option.min, option.max))
    assert {name: len(kinds) for name, kinds in found.items()} == dict.fromkeys(found, 1)
    assert set(found) == {"--account", "--rule", "--days", "--limit"}


@pytest.mark.parametrize("verb", sorted(VERBS.keys() - CHANGING - {"export"}))
def test_each_verb_but_demo_can_print_json(verb: str) -> None:
    """export writes JSON lines."""
    assert "--json" in options_of(verb)


@pytest.mark.parametrize("verb", ["report", "slow", "alerts", "orders", "lockouts", "interrupted", "check", "version"])
def test_json_is_one_object_with_its_version(verb: str, sqlite_template: Path) -> None:
    words = [] if verb == "version" else [str(sqlite_template)]
    result = run(verb, *words, "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["schema"] == 1


def test_a_mistyped_verb_or_option_gets_a_suggestion() -> None:
    assert "Did you mean 'lockouts'?" in run("lokouts").stderr
    assert "--days" in run("report", "--day", "5").stderr


def test_every_exit_code_is_in_the_help() -> None:
    printed = " ".join(run("--help").stdout.split())
    for code, meaning in exit_codes.EXIT_CODES.items():
        assert f"{code} {meaning}" in printed
    for state, code in exit_codes.CHECK_CODES.items():
        assert f"{state} {code}" in printed
    assert len({*exit_codes.EXIT_CODES, *exit_codes.CHECK_CODES.values()}) == len(exit_codes.EXIT_CODES) + 6


# Completion


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_show_completion_prints_a_script_for_the_shell_that_is_named(shell: str) -> None:
    result = run("--show-completion", shell)
    assert (result.returncode, result.stderr) == (0, "")
    assert "_RISK_STORE_COMPLETE=complete_" + shell in result.stdout


def test_completion_of_a_shell_that_is_not_known_is_a_usage_error() -> None:
    result = run("--show-completion", "tcsh")
    assert result.returncode == 2
    assert "'bash', 'zsh', 'fish'" in result.stderr


def offered(words: str, shell: str = "bash") -> list[str]:
    """What Tab offers behind these words, as the script of the shell asks for it."""
    split = words.split(" ")
    asked = {"_RISK_STORE_COMPLETE": f"complete_{shell}", "COMP_WORDS": words, "COMP_CWORD": str(len(split) - 1)}
    asked |= {"_TYPER_COMPLETE_ARGS": words, "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    result = subprocess.run(
        [sys.executable, "-m", "risk_store"], env=os.environ | asked, capture_output=True, text=True, check=True
    )
    return result.stdout.splitlines()


def test_tab_offers_verbs_options_and_their_values() -> None:
    assert set(offered("risk-store ")) == {name for name, verb in VERBS.items() if not verb.hidden}
    assert offered("risk-store rep") == ["report", "replay"]
    assert offered("risk-store report sqlite:///risk.db --fail") == ["--fail-on"]
    assert offered("risk-store report --fail-on c") == ["critical"]
    assert offered("risk-store export --table or") == ["orders"]
    assert [line.split("\t")[0] for line in offered("risk-store rep", "fish")] == ["report", "replay"]
    assert re.findall(r'"(\w+)":"', "".join(offered("risk-store rep", "zsh"))) == ["report", "replay"]


def test_the_script_completes_in_a_real_bash(tmp_path: Path) -> None:
    command = tmp_path / "risk-store"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m risk_store "$@"\n')
    command.chmod(0o755)
    script = 'eval "$(risk-store --show-completion bash)"; complete -p risk-store >/dev/null || exit 1; '
    script += 'COMP_WORDS=(risk-store lock); COMP_CWORD=1; _risk_store_completion risk-store; echo "${COMPREPLY[@]}"'
    path = f"{tmp_path}:{os.environ['PATH']}"
    result = subprocess.run(
        ["bash", "-c", script], env=os.environ | {"PATH": path}, capture_output=True, text=True, check=False
    )
    assert (result.stdout, result.stderr) == ("lockouts\n", "")


def test_install_completion_writes_where_the_shell_looks(tmp_path: Path) -> None:
    for shell, file in (
        ("bash", ".bash_completions/risk-store.sh"),
        ("zsh", ".zfunc/_risk-store"),
        ("fish", ".config/fish/completions/risk-store.fish"),
    ):
        result = run("--install-completion", shell, HOME=str(tmp_path))
        assert result.returncode == 0, result.stderr
        assert "_RISK_STORE_COMPLETE" in (tmp_path / file).read_text()

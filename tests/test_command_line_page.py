"""docs/command-line.md shows what is there: verbs, exit codes, and commands that run."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import typer.main

from risk_store.cli import app, exit_codes
from tests.test_readme import ROOT, blocks

PAGE = ROOT / "docs" / "command-line.md"
COMMAND: Any = typer.main.get_command(app)


def rows(heading: str) -> list[list[str]]:
    """The rows of the table under a header line."""
    lines = PAGE.read_text(encoding="utf-8").partition(heading + "\n")[2].splitlines()[1:]
    table = lines[: next(n for n, line in enumerate(lines) if not line.startswith("|"))]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


def test_the_table_of_verbs_is_that_of_the_help() -> None:
    assert [row[0].strip("`") for row in rows("| verb | what it does | changes |")] == list(COMMAND.commands)


def test_the_exit_codes_are_those_of_the_command() -> None:
    assert {int(code): meaning for code, meaning in rows("| code | meaning |")} == exit_codes.EXIT_CODES
    assert {state: int(code) for state, code in rows("| state | code |")} == exit_codes.CHECK_CODES


def test_the_commands_run(tmp_path: Path) -> None:
    command = tmp_path / "bin" / "risk-store"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m risk_store "$@"\n')
    command.chmod(0o755)
    script = "set -euo pipefail\n" + "\n".join(blocks(PAGE, "sh run"))
    environment = os.environ | {"PATH": f"{command.parent}:{os.environ['PATH']}"}
    result = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 0, result.stderr
    printed = result.stdout
    written = re.search(r"(\d+) records written, 0 in the store already", printed)
    assert written is not None
    assert f"0 records written, {written[1]} in the store already" in printed
    assert "copy (verified): " in printed
    assert "nothing to remove" in printed


def test_every_command_that_the_docs_show_is_one_that_the_verb_takes() -> None:
    shown = 0
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for block in blocks(page, "sh") + blocks(page, "sh run"):
            for line in re.findall(r"^risk-store ([a-z][a-z-]*) ?([^#|>\n]*)", block, re.MULTILINE):
                verb, words = line
                context = COMMAND.commands[verb].make_context(verb, shlex.split(words))
                assert context.params
                shown += 1
    assert shown > 30

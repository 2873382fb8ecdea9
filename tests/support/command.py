"""The `risk-store` command, called as a shell calls it."""

import io
import os
import subprocess
import sys

import pytest

from risk_store.cli import main


def run(*arguments: str, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """One call of the command, through its entry point; in this process, since a new one imports for a second."""
    given = io.TextIOWrapper(io.BytesIO(stdin.encode()), encoding="utf-8")
    printed, told = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("RISK_STORE", "PG"))]:
            patch.delenv(name)
        for name, value in environment.items():
            patch.setenv(name, value)
        patch.setattr(sys, "argv", ["risk-store", *arguments])
        patch.setattr(sys, "stdin", given)
        patch.setattr(sys, "stdout", printed)
        patch.setattr(sys, "stderr", told)
        with pytest.raises(SystemExit) as ended:
            main()
    for stream in (printed, told):
        stream.seek(0)
    return subprocess.CompletedProcess(arguments, int(ended.value.code or 0), printed.read(), told.read())

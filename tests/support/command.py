"""The `risk-store` command, called as a shell calls it: with pipes, on a terminal, and broken off by Ctrl-C."""

import io
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable

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


def on_a_terminal(*arguments: str, answer: str = "", code: int = 0, **environment: str) -> str:
    """What the command prints on a real (pseudo) terminal, where `answer` is typed when it asks."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update({"TERM": "xterm-256color", "COLUMNS": "140"} | environment)
        os.execv(sys.executable, [sys.executable, "-m", "risk_store", *arguments])
    printed, asked = b"", False
    try:
        while True:
            # A Ctrl-C between the prompt and the read behind it is seen by Python only after that: it is pressed again.
            while asked and answer == "\x03" and not select.select([terminal], [], [], 5)[0]:
                os.write(terminal, answer.encode())
            if not (part := os.read(terminal, 65536)):
                break
            printed += part
            if b"[y/N]" in printed and not asked:
                asked = True
                os.write(terminal, answer.encode())
    except OSError:  # Linux tells the end of a terminal so
        pass
    finally:
        os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == code, printed.decode()
    return printed.decode().replace("\r\n", "\n")


def broken_off(*arguments: str, when: Callable[[], bool]) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, which gets Ctrl-C as soon as `when` says so."""

    def attend_to_ctrl_c() -> None:  # a shell in the background ignores it, and children inherit that
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    command = [sys.executable, "-m", "risk_store", *arguments]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=attend_to_ctrl_c,  # noqa: PLW1509
    ) as process:
        while not when():
            assert process.poll() is None, "it ended before it could be broken off"
            time.sleep(0.001)
        process.send_signal(signal.SIGINT)
        printed, told = process.communicate(timeout=120)
    return subprocess.CompletedProcess(command, process.returncode, printed, told)

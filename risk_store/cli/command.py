"""The command itself: what all verbs are added to, and what runs one of them."""

from __future__ import annotations

import io
import sys
from typing import NoReturn

import typer

from risk_store.cli import completion, failures
from risk_store.cli.exit_codes import CHECK_CODES, EXIT_CODES, INTERRUPTED

__all__ = ["app", "main"]

_EXIT_CODES = (
    f"Exit codes: {', '.join(f'{code} {meaning}' for code, meaning in EXIT_CODES.items())}; check has one for each "
    f"state: {', '.join(f'{state} {code}' for state, code in CHECK_CODES.items())}."
)

app = typer.Typer(
    name="risk-store",
    help="The memory of a trading-risk daemon: orders, lockouts, and a timed audit log of every enforcement.",
    epilog=_EXIT_CODES,
    add_completion=False,
    pretty_exceptions_enable=False,  # a framed traceback shows locals, and with them secrets
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.callback()(completion.options)


def main() -> NoReturn:
    """Entry point of the `risk-store` script: runs one verb and exits with its code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # no broker's text is a reason to fail, whatever the locale
    words = sys.argv[1:]
    try:
        code = app(words or ["--help"], prog_name="risk-store", standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except Exception as error:
        code = failures.tell(error, words)
    sys.exit(code)

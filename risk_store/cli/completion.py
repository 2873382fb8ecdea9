"""Completion in the shell: `--install-completion bash`, `--show-completion zsh`.

Typer's scripts and its answers to them, but for a shell that is named. Typer's own options ask which shell the command
was started from, which is wrong in a container's build, in a script, or where another shell is meant.
"""

from __future__ import annotations

from typing import Annotated, Literal

import typer
from typer.completion import get_completion_inspect_parameters, install_callback, show_callback

__all__ = ["options"]

get_completion_inspect_parameters()  # makes Typer's answers to its scripts known; its own options are not used

Shell = Literal["bash", "zsh", "fish"]


def options(
    _install: Annotated[
        Shell | None,
        typer.Option(
            "--install-completion",
            callback=install_callback,
            expose_value=False,
            is_eager=True,
            show_default=False,
            help="Complete verbs and options on Tab, from the next shell on.",
        ),
    ] = None,
    _show: Annotated[
        Shell | None,
        typer.Option(
            "--show-completion",
            callback=show_callback,
            expose_value=False,
            is_eager=True,
            show_default=False,
            help="Print the script that does so.",
        ),
    ] = None,
) -> None:
    """The options of `risk-store` itself, before any verb."""

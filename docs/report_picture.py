"""Draws docs/report.svg, the picture of the README: runs the demo in a temporary folder and records what it prints.

python docs/report_picture.py
"""

import io
import re
import tempfile
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console

from risk_store import RiskStore, demo
from risk_store.cli import render, tables

PICTURE = Path(__file__).with_name("report.svg")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/risk.db"
        demo.run(url, Console(stderr=True))
        with RiskStore(url) as store, store.read() as tx:
            shown = tables.everything(tx, days=7)
    console = Console(record=True, width=132, force_terminal=True, file=io.StringIO(), color_system="truecolor")
    render.print_tables(shown, as_json=False, console=console)
    # Rich's own form asks a web server for its font; a picture in a README must not.
    local = re.sub(r"@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    console.save_svg(str(PICTURE), title="risk-store demo", code_format=local)


if __name__ == "__main__":
    main()

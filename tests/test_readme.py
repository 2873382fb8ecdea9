"""What the README and the docs show works as it is shown."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def test_the_python_of_the_readme_runs_and_prints_what_it_says(tmp_path: Path) -> None:
    code = "\n".join(blocks(ROOT / "README.md", "python"))
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0, result.stderr
    assert re.fullmatch(r"RULE-003 \d+\.\d \d+\n123 20990.0 21040.0\n", result.stdout)


def test_the_readme_has_the_two_commands_that_ci_runs() -> None:
    first, second = blocks(ROOT / "README.md", "sh readme")
    assert "risk-store demo" in first
    assert "pytest" in second


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_local_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_module_that_the_architecture_names_exists() -> None:
    table = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    for name in re.findall(r"`([\w/.]+)`", " ".join(rows)):
        assert (ROOT / "risk_store" / name).exists() or (ROOT / name).exists(), name


def test_the_alembic_folder_never_becomes_a_package_that_shadows_the_library() -> None:
    assert not (ROOT / "alembic" / "__init__.py").exists()

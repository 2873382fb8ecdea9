"""What was found: figures, targets and refusals, as Markdown for people and JSON for programs."""

from __future__ import annotations

import json
import os
import platform
import sqlite3
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from benchmarks.contest import Outcome, Result

__all__ = ["BEGIN", "END", "Book", "Figure", "Target", "machine", "markdown", "put_into", "write"]

BEGIN, END = "<!-- printed by python -m benchmarks -->", "<!-- end of what is printed -->"

LIBRARIES = ("SQLAlchemy", "psycopg", "sqlmodel", "peewee", "Django", "pony", "psycopg2-binary")


@dataclass(frozen=True, slots=True)
class Figure:
    """One contender's median over the rounds, and the median of its rounds' ratios to the floor."""

    work: str
    engine: str
    contender: str
    value: float
    unit: str
    ratio: float | None
    rounds: Sequence[float]

    @property
    def shown(self) -> str:
        return f"{_number(self.value)} {self.unit}"


@dataclass(frozen=True, slots=True)
class Target:
    """Something that was promised, and what it came to."""

    work: str
    engine: str
    what: str
    sign: Literal["≤", "≥"]
    limit: float
    unit: str
    measured: float

    @property
    def met(self) -> bool:
        return self.measured <= self.limit if self.sign == "≤" else self.measured >= self.limit


@dataclass(slots=True)
class Book:
    """Everything that one run found. `tell` is called with each line worth showing while it runs."""

    tell: Callable[[str], None] = lambda _line: None
    figures: list[Figure] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    refused: list[dict[str, str]] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    """Lines of Markdown that follow the table of figures."""

    def add(
        self,
        work: str,
        engine: str,
        outcome: Outcome,
        unit: str,
        scale: Callable[[float], float],
        measure: str = "seconds",
    ) -> None:
        """The figures of a contest. `scale` makes of a measure what is shown, in `unit`."""
        for result in outcome.results:
            rounds = [scale(value) for value in result.measures[measure]]
            ratio = result.ratio_to(outcome.floor, measure)
            figure = Figure(work, engine, result.name, statistics.median(rounds), unit, ratio, rounds)
            self.figures.append(figure)
            self.tell(_figure_line(figure))

    def measured(self, work: str, engine: str, contender: str, values: Sequence[float], unit: str) -> None:
        """A figure that is compared with nothing: the median of `values`."""
        figure = Figure(work, engine, contender, statistics.median(values), unit, None, values)
        self.figures.append(figure)
        self.tell(_figure_line(figure))

    def refuse(self, work: str, engine: str, outcome: Outcome) -> None:
        """Who did not do the same work."""
        for name, why in outcome.refused.items():
            self.refused.append({"work": work, "engine": engine, "contender": name, "why": why})
            self.tell(f"REFUSED {work}, {engine}, {name}: {why}")

    def at_most(self, work: str, engine: str, what: str, limit: float, measured: float, unit: str = "x") -> None:
        self._add_target(Target(work, engine, what, "≤", limit, unit, measured))

    def at_least(self, work: str, engine: str, what: str, limit: float, measured: float, unit: str = "x") -> None:
        self._add_target(Target(work, engine, what, "≥", limit, unit, measured))

    def floor_ratio(
        self, work: str, engine: str, outcome: Outcome, name: str, limit: float, measure: str = "seconds"
    ) -> None:
        """A target on how many times the floor's time `name` takes, if it was not refused."""
        if (ours := outcome.get(name)) is not None:
            what = f"{name}: of {outcome.floor.name}"
            self.at_most(work, engine, what, limit, ours.ratio_to(outcome.floor, measure))

    def best_peer(
        self, work: str, engine: str, outcome: Outcome, name: str, peers: Sequence[str], limit: float
    ) -> None:
        """A target on how many times faster than the fastest of `peers` our `name` is."""
        ours = outcome.get(name)
        found = [result for peer in peers if (result := outcome.get(peer)) is not None]
        if ours is None or not found:
            return
        best = min(found, key=Result.median)
        self.at_least(work, engine, f"{name}: faster than the best peer, {best.name}", limit, best.ratio_to(ours))

    def _add_target(self, target: Target) -> None:
        self.targets.append(target)
        self.tell(_target_line(target))


def machine() -> dict[str, Any]:
    """What the figures were measured on and with."""
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "Python": platform.python_version(),
        "SQLite": sqlite3.sqlite_version,
        **versions,
    }


def markdown(book: Book, facts: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """What was promised, what everybody took, and who is not there and why."""
    targets = ["| work | engine | what is promised | target | measured | |", "|---|---|---|---|---|---|"]
    targets += [*map(_target_line, book.targets), ""]
    lines = [*(targets if book.targets else ()), *_table(book.figures), ""]
    lines += [*book.notes, ""] if book.notes else []
    lines += [f"Refused: {who['contender']} ({who['work']}, {who['engine']}): {who['why']}" for who in book.refused]
    lines += [f"{name}: {why}" for name, why in book.missing.items()]
    lines.append("Measured with: " + ", ".join(f"{name} {value}" for name, value in facts.items()) + ".")
    lines.append("Settings: " + ", ".join(f"{name} {value}" for name, value in settings.items()) + ".")
    return "\n".join(lines) + "\n"


def _table(figures: Sequence[Figure]) -> list[str]:
    """The engines beside each other: in each cell the median, and in parentheses how many times the floor's that is."""
    engines = list(dict.fromkeys(figure.engine for figure in figures))
    rows: dict[str, dict[str, dict[str, Figure]]] = {}
    for figure in figures:
        rows.setdefault(figure.work, {}).setdefault(figure.contender, {})[figure.engine] = figure
    lines = ["| work | contender | " + " | ".join(engines) + " |", "|---|---|" + "---|" * len(engines)]
    for work, contenders in rows.items():
        floors_first = sorted(contenders.items(), key=lambda item: not item[0].startswith("plain"))
        for number, (contender, found) in enumerate(floors_first):
            cells = [_cell(found[engine]) if engine in found else "" for engine in engines]
            lines.append("| " + " | ".join(["" if number else work, contender, *cells]) + " |")
    return lines


def _cell(figure: Figure) -> str:
    return figure.shown if figure.ratio is None else f"{figure.shown} ({figure.ratio:.2f})"


def check_page(page: Path) -> tuple[str, str]:
    """What is before and behind the two marks of a page. Exits if they are not there, or no such page: before minutes
    are spent on what could not be put into it."""
    text = page.read_text(encoding="utf-8") if page.is_file() else ""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise SystemExit(f"--into {page}: not a page with {BEGIN} … {END}")
    return before + begin, end + after


def put_into(page: Path, text: str) -> None:
    """Puts `text` into a page, in place of what is there between the two marks."""
    before, after = check_page(page)
    page.write_text(f"{before}\n{text}{after}", encoding="utf-8")


def write(folder: Path, book: Book, facts: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """results.md and results.json in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.md").write_text(markdown(book, facts, settings), encoding="utf-8")
    content = {
        "machine": facts,
        "settings": settings,
        "targets": [asdict(target) | {"met": target.met} for target in book.targets],
        "figures": [asdict(figure) for figure in book.figures],
        "refused": book.refused,
        "missing": book.missing,
        "argv": sys.argv[1:],
    }
    (folder / "results.json").write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")


def _figure_line(figure: Figure) -> str:
    ratio = "" if figure.ratio is None else f"{figure.ratio:.2f}"
    cells = (figure.work, figure.engine, figure.contender, figure.shown, ratio)
    return "| " + " | ".join(cells) + " |"


def _target_line(target: Target) -> str:
    unit = "" if target.unit == "x" else f" {target.unit}"
    cells = (
        *(target.work, target.engine, target.what, f"{target.sign} {target.limit:g}{unit}"),
        *(f"{_number(target.measured)}{unit}", "met" if target.met else "**not met**"),
    )
    return "| " + " | ".join(cells) + " |"


def _number(value: float) -> str:
    """Three digits that say something."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"

"""Contenders that do the same work, taking turns in one run.

Each figure is the median over rounds, each ratio the median of the rounds' own ratios to the first contender: on a
noisy machine both sides of a ratio move together.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

__all__ = ["Result", "contest"]

Turn = Callable[[int], None]
"""One turn of a contender; it is given the number of the round, so that no two turns do identical work."""


@dataclass(frozen=True, slots=True)
class Result:
    """How one contender did. `seconds` is a turn's, `ratio` to the first contender's turn in the same round."""

    name: str
    seconds: float
    ratio: float


def contest(contenders: Mapping[str, Turn], rounds: int) -> list[Result]:
    """Runs all contenders `rounds` times and one round more before that warms caches; who begins changes each round."""
    names = list(contenders)
    times: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds + 1):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            started = time.perf_counter()
            contenders[name](number)
            if number:
                times[name].append(time.perf_counter() - started)
    first = times[names[0]]
    return [
        Result(
            name=name,
            seconds=statistics.median(took),
            ratio=statistics.median(ours / floor for ours, floor in zip(took, first, strict=True)),
        )
        for name, took in times.items()
    ]

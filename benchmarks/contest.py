"""Contenders that do the same work, taking turns in one run.

Each figure is the median over rounds, each ratio the median of the rounds' own ratios: on a noisy machine both sides of
a ratio move together. Who did not do the same work, or failed, gets no figure.
"""

from __future__ import annotations

import gc
import os
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

__all__ = ["Contender", "Outcome", "Result", "contest"]

SEED = 20260819

Turn = Callable[[int], Mapping[str, float] | None]
"""One turn of a contender; it is given the number of the round, so that no two turns do identical work. It may return
measures of its own; how long it took, in seconds, is always measured."""


def _no_check() -> str | None:
    return None


def _nothing(_number: int) -> None:
    return None


@dataclass(frozen=True, slots=True)
class Contender:
    """Who takes part. `before` gets a turn ready, untimed; `check` says afterwards what was not the same work."""

    name: str
    turn: Turn
    check: Callable[[], str | None] = _no_check
    before: Callable[[int], object] = _nothing


@dataclass(frozen=True, slots=True)
class Result:
    """How one contender did: its measures, round by round, and those of the round before that warmed caches."""

    name: str
    measures: Mapping[str, Sequence[float]]
    first: Mapping[str, float]

    def median(self, measure: str = "seconds") -> float:
        return statistics.median(self.measures[measure])

    def ratio_to(self, other: Result, measure: str = "seconds", of: str | None = None) -> float:
        """The median of the rounds' own ratios: of this one's `measure` to the other one's, or to its measure `of`."""
        pairs = zip(self.measures[measure], other.measures[of or measure], strict=True)
        return statistics.median(ours / theirs for ours, theirs in pairs)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The results in the contenders' order, the floor first; and who was refused, and why."""

    results: Sequence[Result]
    refused: Mapping[str, str]

    @property
    def floor(self) -> Result:
        return self.results[0]

    def get(self, name: str) -> Result | None:
        """The result of that contender, if it was not refused."""
        return next((result for result in self.results if result.name == name), None)


@dataclass(slots=True)
class _Running:
    contender: Contender
    rounds: list[dict[str, float]] = field(default_factory=list)


def contest(contenders: Sequence[Contender], rounds: int) -> Outcome:
    """Runs all contenders `rounds` times, in another random order each round, and once before that to warm caches.

    The first one is the floor: an error of its own, or a check of its own that fails, ends the run.
    """
    floor, refused = contenders[0], dict[str, str]()
    running = {contender.name: _Running(contender) for contender in contenders}
    if len(running) != len(contenders):
        raise ValueError("two contenders of one name")
    order = random.Random(SEED)
    if hasattr(os, "sync"):  # not on Windows
        os.sync()  # what was written before waits for the disk in nobody's commit
    gc.collect()
    gc.freeze()  # the values made before are looked at by no collection that falls into somebody's turn
    try:
        for number in range(rounds + 1):
            for name in order.sample(list(running), len(running)):
                try:
                    running[name].rounds.append(_take_turn(running[name].contender, number))
                except Exception as error:
                    if name == floor.name:
                        raise
                    refused[name] = f"{type(error).__name__}: {error}"
                    del running[name]
    finally:
        gc.unfreeze()
    for name in list(running):
        why = running[name].contender.check()
        if why is not None and name == floor.name:
            raise AssertionError(f"the floor, {name}: {why}")
        if why is not None:
            refused[name] = why
            del running[name]
    return Outcome([_result(found) for found in running.values()], refused)


def _take_turn(contender: Contender, number: int) -> dict[str, float]:
    contender.before(number)
    gc.collect()  # what others left behind is nobody's turn
    started = time.perf_counter()
    told = contender.turn(number)
    return {"seconds": time.perf_counter() - started, **(told or {})}


def _result(found: _Running) -> Result:
    first, *rounds = found.rounds
    return Result(found.contender.name, {name: [measures[name] for measures in rounds] for name in first}, first)

"""D1: the dashboard over a long log: what its pages take, and whether the daemon feels that it is looked at.

The writer records without a pause, which no daemon does, so that each look of the dashboard falls into some commit. The
dashboard is `risk-store dashboard` in a process of its own, asked by a third one as a browser asks it.
"""

from __future__ import annotations

import math
import multiprocessing
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.synchronize import Event as Flag

from benchmarks.contest import Contender, contest
from benchmarks.log import END, fill
from benchmarks.ours import Ours
from benchmarks.places import Ground, Place, settle
from benchmarks.report import Book, Figure
from benchmarks.sizes import Size
from benchmarks.values import events
from benchmarks.way import Way
from risk_store import EnforcementLog, RiskStore
from risk_store.dashboard.page import render
from risk_store.dashboard.reader import Reader
from risk_store.dashboard.view import View

__all__ = ["run"]

ALONE, WATCHED = "store.record, nobody looks", "store.record beside a dashboard, asked each 0.5 s"
POLL_S = 0.5


def run(ground: Ground, size: Size, book: Book, _peers: Mapping[str, Callable[[Place], Way]]) -> None:
    """The pages of a log of `size.log_rows[0]` rows, and then the writer beside them."""
    place = ground.place()
    rows = size.log_rows[0]
    fill(place, rows)
    _pages(ground, place, rows, size.report_rounds, book)
    with _dashboard(place.url) as asking:
        ours = Ours(place)
        try:
            writers = [_Writer(ours, size.watched_events, asking, watched) for watched in (False, True)]
            outcome = contest(
                [
                    Contender(name, writer.turn, before=lambda _number: settle(place))
                    for name, writer in zip((ALONE, WATCHED), writers, strict=True)
                ],
                size.rounds,
            )
        finally:
            ours.close()
    work = f"D1 writer's p99, {rows:,} rows"
    book.refuse(work, ground.label, outcome)
    book.add(work, ground.label, outcome, "ms", lambda seconds: seconds * 1e3, "p99")
    if (watched := outcome.get(WATCHED)) is not None:
        measured = watched.ratio_to(outcome.floor, "p99")
        book.at_most(work, ground.label, f"{WATCHED}: p99, of {ALONE}", 1.5, measured)


def _pages(ground: Ground, place: Place, rows: int, rounds: int, book: Book) -> None:
    """What a page takes from the look to its HTML: the first of a process, one after news, and without any."""
    took: dict[str, list[float]] = {"the first page, 7 days": [], "a page after a record": [], "nothing new": []}

    def page(name: str, reader: Reader, drawn: bool) -> None:
        started = time.perf_counter()
        look = reader.look(View())
        if drawn:
            render(look, View(), reader.name, None)
        took[name].append(time.perf_counter() - started)
        assert look.trouble is None, look.trouble

    first, news, nothing = took
    with RiskStore(place.url, clock=lambda: END) as store:
        for _ in range(rounds + 1):
            reader = Reader(place.url, clock=lambda: END)
            page(first, reader, drawn=True)
            store.record(
                EnforcementLog(
                    account_id=1001,
                    rule_id="RULE-001",
                    action="CLOSE_ALL",
                    reason="news",
                    success=True,
                    timestamp=END,
                    execution_time_ms=5,
                )
            )
            page(news, reader, drawn=True)
            page(nothing, reader, drawn=False)  # a page that nothing changed is not drawn again
            reader.close()
    for name, (_warming, *seconds) in took.items():
        work = f"D1 page, {rows:,} rows"
        milliseconds = [each * 1e3 for each in seconds]
        figure = Figure(work, ground.label, name, statistics.median(milliseconds), "ms", None, milliseconds)
        book.figures.append(figure)
        book.tell(f"{work} | {ground.label} | {name} | {figure.shown}")


class _Writer:
    """Records one enforcement after another, and is looked at meanwhile or not."""

    def __init__(self, ours: Ours, count: int, asking: Flag, watched: bool) -> None:
        self._ours, self._count, self._asking, self._watched = ours, count, asking, watched

    def turn(self, number: int) -> Mapping[str, float]:
        if self._watched:
            self._asking.set()
        took = []
        try:
            for event in events((2 * number + self._watched) * self._count, self._count):
                started = time.perf_counter()
                self._ours.record(event)
                took.append(time.perf_counter() - started)
        finally:
            self._asking.clear()
        return {"p99": sorted(took)[math.ceil(len(took) * 0.99) - 1]}


@contextmanager
def _dashboard(url: str) -> Iterator[Flag]:
    """The dashboard of that database, and a flag: while it is set, somebody asks for its page again and again."""
    command = [sys.executable, "-m", "risk_store", "dashboard", url, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            address = next(word for word in server.stdout.readline().split() if word.startswith("http"))
            spawned = multiprocessing.get_context("spawn")
            asking = spawned.Event()
            asker = spawned.Process(target=_ask, args=(address, asking), daemon=True)
            asker.start()
            try:
                yield asking
            finally:
                asker.terminate()
                asker.join()
        finally:
            server.terminate()


def _ask(address: str, asking: Flag) -> None:
    tag = ""
    while True:
        asking.wait()
        request = urllib.request.Request(address, headers={"If-None-Match": tag})
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                answer.read()
                tag = answer.headers["etag"]
        except urllib.error.HTTPError as error:
            if error.code != 304:
                raise
        time.sleep(POLL_S)

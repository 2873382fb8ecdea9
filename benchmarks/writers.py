"""W1 with many threads: each writes one enforcement and its lockout after another, for a fixed time.

A turn's length is fixed instead of its work, since contenders differ by more than ten times. So what is in the tables
afterwards is compared with what each thread was told is there.

It ends when the last thread is done with the record that it was at. The plain driver's threads poll the file: some
write nearly all, and those that came away with nothing take their turns one each tenth of a second, long after the
others. So there are two rates: until all are done, of which the targets are (reference/performance.md), and while all
write.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import chain, count

from benchmarks.ceilings import OneCommit, OneStatement
from benchmarks.contest import Contender, contest
from benchmarks.enforcements import RECORD, entered
from benchmarks.ours import Ours
from benchmarks.peers import NAMES, some
from benchmarks.places import Ground, Place, settle
from benchmarks.plain import Plain
from benchmarks.report import Book
from benchmarks.rows import LOCKOUTS, LOG, as_logged, difference, read
from benchmarks.sizes import Size
from benchmarks.values import Event, events
from benchmarks.way import Way, durability

__all__ = ["run"]

FLOOR = "plain driver, a connection for each thread"
IN_ONE_COMMIT = "plain driver, one commit for many"
IN_ONE_STATEMENT = "plain driver, one statement"
A_THREADS = 10_000_000  # event numbers between one thread and the next
READY_MADE = 20_000  # events for a second of all threads, at first; who is faster makes more of them as it goes


def run(ground: Ground, size: Size, book: Book, peers: Mapping[str, Callable[[Place], Way]]) -> None:
    work = f"W1, {size.threads} threads"
    orm = NAMES["sqlalchemy_orm"]
    taking_part = some(peers, size)
    ceiling, at_most = (IN_ONE_COMMIT, OneCommit) if ground.is_sqlite else (IN_ONE_STATEMENT, OneStatement)
    names = [FLOOR, ceiling, RECORD, *taking_part]
    with entered(ground, [Plain, at_most, Ours, *taking_part.values()]) as ways:
        runs = [_Run(way, size) for way in ways]
        outcome = contest(
            [Contender(name, run.turn, run.check, run.before) for name, run in zip(names, runs, strict=True)],
            size.thread_rounds,
        )
    book.refuse(work, ground.label, outcome)
    book.add(work, ground.label, outcome, "events/s", lambda rate: rate, "rate")
    book.add(f"{work}, while all write", ground.label, outcome, "events/s", lambda rate: rate, "rate while all write")
    book.add(f"{work}, p99", ground.label, outcome, "ms", lambda seconds: seconds * 1e3, "p99")
    ours, naive = outcome.get(RECORD), outcome.get(orm)
    if ours is None:
        return
    faster = ours.ratio_to(outcome.floor, "rate")
    book.at_least(work, ground.label, f"{RECORD}: events/s, of {FLOOR}", 6 if ground.is_sqlite else 2, faster)
    if naive is not None and ground.is_sqlite:
        faster = ours.ratio_to(naive, "rate")
        book.at_least(work, ground.label, f"{RECORD}: events/s, of {orm}", 15, faster)
    if ground.is_sqlite:
        book.at_most(work, ground.label, f"{RECORD}: p99, of {FLOOR}", 0.05, ours.ratio_to(outcome.floor, "p99"))


class _Run:
    """One contender's threads, and what they were told is written."""

    def __init__(self, way: Way, size: Size) -> None:
        self._way = way
        self._size = size
        self._written: list[list[Event]] = [[] for _ in range(size.threads)]
        self._ready_made: list[list[Event]] = []
        self._each = int(READY_MADE * size.seconds / size.threads)

    def before(self, _number: int) -> None:
        settle(self._way.place)
        self._ready_made = [self._next(number, self._each) for number in range(self._size.threads)]

    def _next(self, number: int, many: int) -> list[Event]:
        """The events of that thread after those that it has written."""
        return events(number * A_THREADS + len(self._written[number]), many, account_id=1001 + number)

    def turn(self, _number: int) -> Mapping[str, float]:
        size = self._size
        took: list[list[float]] = [[] for _ in range(size.threads)]
        in_time = [0] * size.threads
        failed: list[BaseException] = []
        ready = threading.Barrier(size.threads + 1)

        def work(number: int) -> None:
            written, own, ready_made = self._written[number], took[number], self._ready_made[number]
            more = (event for _ in count() for event in self._next(number, 1))
            try:
                way = self._way.of_thread()
                ready.wait()
                end = time.perf_counter() + size.seconds
                for event in chain(ready_made, more):
                    started = time.perf_counter()
                    way.record(event)
                    now = time.perf_counter()
                    own.append(now - started)
                    written.append(event)
                    if now >= end:
                        break
                    in_time[number] += 1
                way.leave()
            except BaseException as error:
                failed.append(error)
                ready.abort()

        threads = [threading.Thread(target=work, args=(number,)) for number in range(size.threads)]
        for thread in threads:
            thread.start()
        with suppress(threading.BrokenBarrierError):  # what broke it is raised below
            ready.wait()
        started = time.perf_counter()
        for thread in threads:
            thread.join()
        elapsed = time.perf_counter() - started
        if failed:
            raise next((error for error in failed if not isinstance(error, threading.BrokenBarrierError)), failed[0])
        self._each = max(map(len, took)) * 3 // 2 + 1
        times = sorted(seconds for own in took for seconds in own)
        return {
            "rate": len(times) / elapsed,
            "rate while all write": sum(in_time) / size.seconds,
            "p99": times[int(len(times) * 0.99)],
        }

    def check(self) -> str | None:
        """Durability, and each event that a thread was told is written, and no other."""
        place = self._way.place
        written = sorted((event for own in self._written for event in own), key=lambda event: event.enforcement_id)
        found = sorted(read(place, LOG), key=lambda row: str(row[LOG[1].index("enforcement_id")]))
        last = [own[-1] for own in self._written if own]
        locked = [
            (event.account_id, True, event.reason, event.locked_until, event.rule_id, False, False) for event in last
        ]
        return (
            durability(self._way)
            or difference(found, map(as_logged, written))
            or difference(read(place, LOCKOUTS), locked)
        )

"""S1: what one engine carries, in rates: the figures of docs/scaling.md. Only the store takes part.

A thousand accounts. On a cluster all servers share this machine's cores, so its rates say what a statement costs on its
way over two servers and not how far it scales: that is told by the processor time that each kind of server spends.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg

from benchmarks.ours import Ours, as_log
from benchmarks.places import Ground, Place, connect
from benchmarks.report import Book
from benchmarks.sizes import Size
from benchmarks.values import MNQ, events, order_events, stop
from benchmarks.way import Way

__all__ = ["arithmetic", "run"]

ACCOUNTS = 1_000
COORDINATOR, WORKERS = "coordinator", "workers"
TICK_S = 0.01  # of the processor times that Linux tells

Processes = Mapping[str, list[int]]
"""The first process of each server, by its kind."""


def run(ground: Ground, size: Size, book: Book, _peers: Mapping[str, Callable[[Place], Way]]) -> None:
    place = ground.place()
    ours = Ours(place)
    try:
        _run(_Measured(ground.label, book, _processes(place)), ours, size)
    finally:
        ours.close()


def _run(measured: _Measured, ours: Ours, size: Size) -> None:
    numbers = itertools.count()
    orders = itertools.count(1)

    def record() -> None:
        number = next(numbers)
        ours.record(events(number, 1, account_id=1 + number % ACCOUNTS)[0])

    def enforce() -> None:
        number = next(numbers)
        ours.enforce(events(number, 1, account_id=1 + number % ACCOUNTS)[0])

    def apply() -> None:
        number = next(orders)
        [update] = order_events(1, number)
        ours.apply(replace(update, id=1 + number % (10 * ACCOUNTS), account_id=1 + number % ACCOUNTS))

    for name, call in (("store.record(log, lockout)", record), ("store.enforce", enforce), ("tx.orders.apply", apply)):
        for threads in (1, size.threads):
            shown = "1 thread" if threads == 1 else f"{threads} threads"
            measured.rate(f"S1, {name}, {shown}", call, threads, size.seconds * 2, size.thread_rounds)
    if (found := _count(ours.place)) != next(numbers):
        measured.book.refused.append(
            {"work": "S1", "engine": measured.label, "contender": "the store", "why": f"{found} rows are in the log"}
        )

    ours.apply_many(replace(stop(n), id=10_000_000 + n, account_id=1 + n % ACCOUNTS) for n in range(size.stops))
    ticks = itertools.count(1)
    measured.once(
        f"S1, tx.orders.trail, {size.stops:,} stops of as many accounts, all move",
        lambda: ours.trail(MNQ, 22_000.0 + 100.0 * next(ticks)),
        "ms",
        lambda seconds: seconds * 1e3,
        size.thread_rounds,
    )
    rows = [as_log(event) for event in _many(size.bulk)]
    measured.once("S1, enforcements.add_many", lambda: ours.add_logs(rows), "rows/s", lambda s: size.bulk / s, 1)
    waiting = _count(ours.place)
    measured.once("S1, store.roll_up", ours.store.roll_up, "rows/s", lambda s: waiting / s, 1)
    for name, asked in (("all accounts", None), ("one account", 7)):

        def report(account_id: int | None = asked) -> None:
            with ours.store.read() as tx:
                tx.enforcements.time_by_rule(account_id=account_id)

        measured.once(f"S1, time_by_rule, {name}", report, "ms", lambda s: s * 1e3, size.rounds)
    measured.figure("S1, a log row with its indexes", "on the disk", [_bytes(ours.place) / waiting], "bytes")


# What an account does: `docs/scaling.md` says where that is from.
ORDER_EVENTS_PER_S = 0.03
ENFORCEMENTS_PER_YEAR = 1_000
AT_ONCE = 1_000  # one account in so many is enforced in the busiest second


def arithmetic(book: Book, threads: int) -> list[str]:
    """From one account to a million: what the figures of one run come to, as the lines of a table."""
    apply, enforce = (f"S1, {name}, {threads} threads" for name in ("tx.orders.apply", "store.enforce"))
    row = "S1, a log row with its indexes"
    kinds = {"PostgreSQL": ("server",), "Citus": (COORDINATOR, WORKERS)}
    spent = {
        (engine, kind): (found[apply], found[enforce])
        for engine, servers in kinds.items()
        for kind in servers
        for found in [{f.work: f.value for f in book.figures if f.engine == engine and f.contender.endswith(kind)}]
        if apply in found and enforce in found
    }
    bytes_a_row = next((f.value for f in book.figures if f.work == row and f.engine == "PostgreSQL"), None)
    if not spent or bytes_a_row is None:
        return []
    heads = [f"cores of the {kind}, {engine}" for engine, kind in spent]
    lines = [
        "| accounts | log rows a year | GB a year | order events/s | enforcements in the busiest second | "
        + " | ".join(heads)
        + " |",
        "|---|---|---|---|---|" + "---|" * len(heads),
    ]
    for accounts in (1, 100, 10_000, 100_000, 1_000_000):
        rows, events_s = accounts * ENFORCEMENTS_PER_YEAR, accounts * ORDER_EVENTS_PER_S
        enforced = max(1, accounts // AT_ONCE)
        cores = [(events_s * apply_us + enforced * enforce_us) / 1e6 for apply_us, enforce_us in spent.values()]
        cells = [f"{accounts:,}", f"{rows:,}", f"{rows * bytes_a_row / 1e9:,.3g}", f"{events_s:,g}", f"{enforced:,}"]
        lines.append("| " + " | ".join([*cells, *(f"{number:.2g}" for number in cores)]) + " |")
    return lines


class _Measured:
    """Where figures go."""

    def __init__(self, label: str, book: Book, processes: Processes) -> None:
        self.label = label
        self.book = book
        self._processes = processes

    def rate(self, work: str, call: Callable[[], object], threads: int, seconds: float, rounds: int) -> None:
        """How often `call` is carried out in a second, and what each kind of server spends on one."""
        _threaded(call, threads, seconds / 4)  # statements are prepared and connections made
        rates, spent = [], dict.fromkeys(self._processes, 0.0)
        calls = 0
        for _ in range(rounds):
            before = self._spent()
            done, took = _threaded(call, threads, seconds)
            spent = {kind: spent[kind] + after - before[kind] for kind, after in self._spent().items()}
            rates.append(done / took)
            calls += done
        self.figure(work, "calls", rates, "per s")
        if threads > 1:
            for kind, used in spent.items():
                self.figure(work, f"processor time of the {kind}", [used / calls * 1e6], "µs a call")

    def once(
        self, work: str, call: Callable[[], object], unit: str, scale: Callable[[float], float], rounds: int
    ) -> None:
        """How long `call` takes."""
        values = []
        for _ in range(rounds):
            started = time.perf_counter()
            call()
            values.append(scale(time.perf_counter() - started))
        self.figure(work, "the store", values, unit)

    def figure(self, work: str, contender: str, values: list[float], unit: str) -> None:
        self.book.measured(work, self.label, contender, values, unit)

    def _spent(self) -> dict[str, float]:
        return {kind: sum(map(_seconds_of, first)) for kind, first in self._processes.items()}


def _threaded(call: Callable[[], object], threads: int, seconds: float) -> tuple[int, float]:
    """How many calls as many threads carry out in a time, and how long it was."""
    done, failed = [0] * threads, list[BaseException]()
    started = time.perf_counter()

    def work(number: int) -> None:
        try:
            while time.perf_counter() - started < seconds:
                call()
                done[number] += 1
        except BaseException as error:
            failed.append(error)

    running = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    if failed:
        raise failed[0]
    return sum(done), time.perf_counter() - started


def _many(count: int) -> Iterator[Any]:
    for number in range(50_000_000, 50_000_000 + count):
        yield events(number, 1, account_id=1 + number % ACCOUNTS)[0]


def _count(place: Place) -> int:
    with closing(connect(place)) as connection:
        return int(connection.execute("SELECT count(*) FROM enforcement_log").fetchone()[0])


def _bytes(place: Place) -> float:
    """What the log takes, indexes and all."""
    with closing(connect(place)) as connection:
        if place.is_sqlite:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            asked = "SELECT sum(pgsize) FROM dbstat WHERE name IN (SELECT name FROM sqlite_master WHERE tbl_name = ?)"
            try:
                return float(connection.execute(asked, ("enforcement_log",)).fetchone()[0])
            except Exception:  # an SQLite without dbstat
                return float(Path(place.file).stat().st_size)
        size = "citus_total_relation_size" if _is_cluster(connection) else "pg_total_relation_size"
        return float(connection.execute(f"SELECT {size}('enforcement_log')").fetchone()[0])


def _is_cluster(connection: Any) -> bool:
    asked = "SELECT count(*) FROM pg_extension WHERE extname = 'citus'"
    return bool(connection.execute(asked).fetchone()[0])


# What servers on this machine spend -----------------------------------------------------------------------------------


def _processes(place: Place) -> Processes:
    """The servers on this machine; none where they are elsewhere, or do not tell."""
    if place.is_sqlite:
        return {}
    first = "SELECT split_part(pg_read_file('postmaster.pid'), chr(10), 1)::int"
    with closing(connect(place)) as connection, suppress(psycopg.Error, OSError):
        own = [connection.execute(first).fetchone()[0]]
        found = {"server": own}
        if _is_cluster(connection):
            asked = "SELECT result::int FROM run_command_on_workers(%s) WHERE success"
            found = {COORDINATOR: own, WORKERS: [row[0] for row in connection.execute(asked, (first,)).fetchall()]}
        if all(Path(f"/proc/{pid}/comm").read_text() == "postgres\n" for pids in found.values() for pid in pids):
            return found
    return {}


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat behind the name: state, parent, …"""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _seconds_of(first: int) -> float:
    """Processor time of a server: of its first process, of its children, and of those that have ended."""
    ticks = sum(map(int, _stat(first)[11:15]))
    for pid in Path(f"/proc/{first}/task/{first}/children").read_text().split():
        try:
            ticks += sum(map(int, _stat(int(pid))[11:13]))
        except OSError:
            continue
    return ticks * TICK_S

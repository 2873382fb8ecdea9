"""Records from several threads at once: the store, which shares commits, beside the plain driver, a connection each.

    python -m benchmarks.writers [--seconds 2]

On an SQLite file with synchronous=FULL. Each contender writes a log row and a lockout in one transaction, durable
before the next; they take turns in one run, and afterwards the rows are counted.
"""

from __future__ import annotations

import argparse
import sqlite3
import statistics
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.orm import Session

from benchmarks.__main__ import LOCK, LOG, EnforcementLog, Lockout, RiskStore

ROUNDS = 3
Record = Callable[[int], None]


def of_plain_driver(file: Path) -> Record:
    """A connection of this thread's own, waiting as long as it takes."""
    plain = sqlite3.connect(file, isolation_level=None, timeout=60, check_same_thread=False)
    plain.execute("PRAGMA synchronous = FULL")
    log, lock = LOG.format(", ".join("?" * 10)), LOCK.format(", ".join("?" * 5))

    def record(account: int) -> None:
        now = str(datetime.now(UTC).replace(tzinfo=None))
        plain.execute("BEGIN IMMEDIATE")
        plain.execute(lock, (account, True, "loss", now, "RULE-003"))
        plain.execute(log, (now, account, "RULE-003", "CLOSE_ALL", "loss", True, 145, uuid.uuid4().hex, 2, 1))
        plain.execute("COMMIT")

    return record


def of_store(store: RiskStore) -> Record:
    def record(account: int) -> None:
        store.record(a_log(account), Lockout(account_id=account, is_locked=True, reason="loss", rule_id="RULE-003"))

    return record


def of_orm(engine: sa.Engine) -> Record:
    """What an ORM invites to: a session, an add and a merge."""

    def record(account: int) -> None:
        lockout = Lockout(account_id=account, is_locked=True, reason="loss", rule_id="RULE-003")
        with Session(engine) as session, session.begin():
            session.add(a_log(account))
            session.merge(lockout)

    return record


def a_log(account: int) -> EnforcementLog:
    return EnforcementLog(
        account_id=account,
        rule_id="RULE-003",
        action="CLOSE_ALL",
        reason="loss",
        success=True,
        positions_closed=2,
        orders_canceled=1,
        execution_time_ms=145,
        enforcement_id=uuid.uuid4().hex,
    )


def measure(make: Callable[[], Record], threads: int, seconds: float) -> tuple[float, float, int]:
    """Records a second, the 99th percentile of one in ms, and how many there were."""
    took: list[list[float]] = [[] for _ in range(threads)]
    begin = threading.Barrier(threads + 1)

    def work(number: int) -> None:
        record = make()
        begin.wait()
        end = time.perf_counter() + seconds
        while (started := time.perf_counter()) < end:
            record(number * 1000 + len(took[number]) % 1000 + 1)
            took[number].append(time.perf_counter() - started)

    running = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for thread in running:
        thread.start()
    begin.wait()
    started = time.perf_counter()
    for thread in running:
        thread.join()
    elapsed = time.perf_counter() - started
    all_of_them = sorted(seconds for of_thread in took for seconds in of_thread)
    return len(all_of_them) / elapsed, all_of_them[int(len(all_of_them) * 0.99)] * 1000, len(all_of_them)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.writers", description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=2.0, help="how long each contender's turn is")
    arguments = parser.parse_args()
    print("| threads | contender | records/s | p99, ms | records/s against the plain driver |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "risk.db"
        with RiskStore(f"sqlite:///{file}", pool_size=40) as store, closing(sqlite3.connect(file)) as counter:
            store.upgrade()
            store.record(a_log(1))
            makers: dict[str, Callable[[], Record]] = {
                "plain driver, a connection each": lambda: of_plain_driver(file),
                "store.record": lambda: of_store(store),
                "ORM: add, merge, commit": lambda: of_orm(store.engine),
            }
            for threads in (1, 32):
                found: dict[str, list[tuple[float, float]]] = {name: [] for name in makers}
                for _ in range(ROUNDS):
                    for name, make in makers.items():
                        before = counter.execute("SELECT count(*) FROM enforcement_log").fetchone()[0]
                        rate, p99, count = measure(make, threads, arguments.seconds)
                        if counter.execute("SELECT count(*) FROM enforcement_log").fetchone()[0] - before != count:
                            sys.exit(f"{name}: not every record is in the log")
                        found[name].append((rate, p99))
                floor = [rate for rate, _ in found["plain driver, a connection each"]]
                for name, results in found.items():
                    rate, p99 = (statistics.median(values) for values in zip(*results, strict=True))
                    ratio = statistics.median(ours / plain for (ours, _), plain in zip(results, floor, strict=True))
                    print(f"| {threads} | {name} | {rate:,.0f} | {p99:,.1f} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()

"""What the store's calls cost, side by side with the same work in the plain driver.

    python -m benchmarks                      # SQLite, under a minute
    python -m benchmarks --postgresql URL     # an empty PostgreSQL database as well

The contenders take turns in one run; each figure is the median over rounds, each ratio the median of the rounds' own
ratios, so a noisy machine moves both sides. Afterwards the rows are counted: a contender that did not do the same work
is an error, not a result.
"""

from __future__ import annotations

import argparse
import sqlite3
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import psycopg

from risk_store import Enforcement, EnforcementLog, Lockout, RiskStore
from risk_store.engines import parse_url

ROUNDS, EVENTS = 7, 100

LOG = "INSERT INTO enforcement_log (timestamp, account_id, rule_id, action, reason, success, execution_time_ms, \
enforcement_id, positions_closed, orders_canceled) VALUES ({})"
LOCK = "INSERT INTO lockouts (account_id, is_locked, reason, locked_at, rule_id) VALUES ({}) \
ON CONFLICT (account_id) DO UPDATE SET reason = excluded.reason, locked_at = excluded.locked_at"
BEGUN = (
    "INSERT INTO enforcement_in_flight (account_id, enforcement_id, rule_id, action, reason, started_at, host, pid) \
VALUES ({})"
)
ENDED = "DELETE FROM enforcement_in_flight WHERE account_id = {0} AND enforcement_id = {0}"

Work = Callable[[int], None]


class Floor:
    """The same rows by hand: explicit transactions on one kept connection of the plain driver."""

    def __init__(self, execute: Callable[[str, tuple[object, ...]], object], mark: str, begin: str) -> None:
        self._execute = execute
        self._begin = begin
        self._log = LOG.format(", ".join([mark] * 10))
        self._lock = LOCK.format(", ".join([mark] * 5))
        self._begun = BEGUN.format(", ".join([mark] * 8))
        self._ended = ENDED.format(mark)

    def _write_outcome(self, account: int, key: str) -> None:
        now = str(datetime.now(UTC).replace(tzinfo=None))
        self._execute(self._log, (now, account, "RULE-003", "CLOSE_ALL", "loss", True, 145, key, 2, 1))

    def record(self, account: int) -> None:
        """One log row and a lockout in one transaction."""
        now = str(datetime.now(UTC).replace(tzinfo=None))
        self._execute(self._begin, ())
        self._execute(self._lock, (account, True, "loss", now, "RULE-003"))
        self._write_outcome(account, uuid.uuid4().hex)
        self._execute("COMMIT", ())

    def enforce(self, account: int) -> None:
        """The two transactions around an enforcement's block."""
        self.end(account, self.begin(account))

    def begin(self, account: int) -> str:
        """The first one: the intent."""
        key, now = uuid.uuid4().hex, str(datetime.now(UTC).replace(tzinfo=None))
        self._execute(self._begin, ())
        self._execute(self._begun, (account, key, "RULE-003", "CLOSE_ALL", "loss", now, "host", 1))
        self._execute("COMMIT", ())
        return key

    def end(self, account: int, key: str) -> None:
        """The second one: the outcome."""
        self._execute(self._begin, ())
        self._execute(self._ended, (account, key))
        self._write_outcome(account, key)
        self._execute("COMMIT", ())


class Store:
    """The same through the public API."""

    def __init__(self, store: RiskStore) -> None:
        self._store = store

    def _log(self, account: int) -> EnforcementLog:
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

    def record(self, account: int) -> None:
        self._store.record(
            self._log(account), Lockout(account_id=account, is_locked=True, reason="loss", rule_id="RULE-003")
        )

    def begin_add(self, account: int) -> None:
        with self._store.begin() as tx:
            tx.lockouts.set(account, "loss", "RULE-003")
            tx.enforcements.add(self._log(account))

    def enforce(self, account: int) -> None:
        with self.begin(account):
            pass

    def begin(self, account: int) -> Enforcement:
        return self._store.enforce(account, "RULE-003", "CLOSE_ALL", "loss")


def microseconds(work: Work, first_account: int) -> float:
    """Time of one event, in µs, over a round."""
    started = time.perf_counter()
    for number in range(EVENTS):
        work(first_account + number)
    return (time.perf_counter() - started) / EVENTS * 1e6


def compare(name: str, floor: Floor, store: Store, count_rows: Callable[[], int]) -> list[str]:
    rows = []
    pairs: list[tuple[str, Work, Work]] = [
        ("store.record(log, lockout)", floor.record, store.record),
        ("store.begin(): lockouts.set, enforcements.add", floor.record, store.begin_add),
        ("store.enforce(...) around an empty block", floor.enforce, store.enforce),
    ]
    for label, by_hand, through_store in pairs:
        plain: list[float] = []
        ours: list[float] = []
        before, account = count_rows(), 0
        for round_ in range(ROUNDS + 1):
            account += 2 * EVENTS
            took = {"plain": 0.0, "ours": 0.0}
            for which in ("plain", "ours") if round_ % 2 else ("ours", "plain"):
                work = by_hand if which == "plain" else through_store
                took[which] = microseconds(work, account + (EVENTS if which == "ours" else 0))
            if round_:  # the first round warms caches
                plain.append(took["plain"])
                ours.append(took["ours"])
        if count_rows() - before != 2 * EVENTS * (ROUNDS + 1):
            sys.exit(f"{name}, {label}: the contenders did not write the same number of rows")
        ratio = statistics.median(b / a for a, b in zip(plain, ours, strict=True))
        cells = (name, label, f"{statistics.median(plain):.0f}", f"{statistics.median(ours):.0f}", f"{ratio:.2f}")
        rows.append("| " + " | ".join(cells) + " |")
    return rows


def split(name: str, floor: Floor, store: Store) -> list[str]:
    """Where the time of `store.enforce` around an empty block goes: its two commits, and what is above them."""
    times: dict[str, list[float]] = {
        part: [] for part in ("in-flight commit", "final commit", "ours, before", "ours, after")
    }
    for number in range(ROUNDS * EVENTS):
        account = 1_000_000 + number
        stamps = [time.perf_counter()]
        key = floor.begin(account)
        stamps.append(time.perf_counter())
        floor.end(account, key)
        stamps.append(time.perf_counter())
        with store.begin(account):
            stamps.append(time.perf_counter())
        stamps.append(time.perf_counter())
        for part, (start, end) in zip(times, pairwise(stamps), strict=True):
            times[part].append((end - start) * 1e6)
    first, second, before, after = (statistics.median(found) for found in times.values())
    cells = (name, f"{first:.0f}", f"{second:.0f}", f"{before + after:.0f}", f"{before + after - first - second:.0f}")
    return ["| " + " | ".join(cells) + f" | {(before + after) / (first + second):.2f} |"]


def sqlite(folder: Path) -> tuple[list[str], list[str]]:
    url = f"sqlite:///{folder / 'risk.db'}"
    with RiskStore(url) as store, closing(sqlite3.connect(folder / "risk.db", isolation_level=None)) as plain:
        store.upgrade()
        plain.execute("PRAGMA journal_mode = WAL")
        plain.execute("PRAGMA synchronous = FULL")
        floor = Floor(plain.execute, "?", "BEGIN IMMEDIATE")
        count = "SELECT count(*) FROM enforcement_log"
        rows = compare("SQLite, FULL", floor, Store(store), lambda: int(plain.execute(count).fetchone()[0]))
        return rows, split("SQLite, FULL", floor, Store(store))


def postgresql(url: str) -> tuple[list[str], list[str]]:
    given = parse_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    with RiskStore(url) as store, psycopg.connect(given, autocommit=True) as plain:
        store.upgrade()

        def execute(statement: str, values: tuple[object, ...]) -> psycopg.Cursor[tuple[object, ...]]:
            return plain.execute(statement.encode(), values or None)

        def count() -> int:
            row = plain.execute("SELECT count(*) FROM enforcement_log").fetchone()
            assert row is not None
            return int(row[0])

        floor = Floor(execute, "%s", "BEGIN")
        return compare("PostgreSQL", floor, Store(store), count), split("PostgreSQL", floor, Store(store))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.partition("\n")[0])
    parser.add_argument("--postgresql", metavar="URL", help="an empty PostgreSQL database to use as well")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows, parts = sqlite(Path(folder))
    if arguments.postgresql:
        more_rows, more_parts = postgresql(arguments.postgresql)
        rows, parts = rows + more_rows, parts + more_parts
    print("| engine | work | plain driver, µs | risk_store, µs | ratio |\n|---|---|---|---|---|")
    print("\n".join(rows))
    print("\nThe same two transactions in the plain driver, and store.enforce around an empty block, in µs:\n")
    print("| engine | in-flight commit | final commit | store.enforce | above the two commits: Python | ratio |")
    print("|---|---|---|---|---|---|")
    print("\n".join(parts))


if __name__ == "__main__":
    main()

"""What the adoption of a v1 file costs, beside a copy of the same file by SQLite's own backup.

    python -m benchmarks.adoption                    # 1,000,000 log rows: some minutes
    python -m benchmarks.adoption --rows 100000      # quicker

Each adoption is a process of its own on a fresh copy of the same file, so that its memory can be told; copies and
adoptions take turns. Afterwards the rows are counted on both sides.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import shutil
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from tests.support import v1

ROUNDS = 3
KINDS = {
    "canonical times, no details": (" ", "", None),
    "each row in another form, with an outcome in its details": ("T", "Z", '{"positions_closed": 2, "error": "slow"}'),
}


def make(file: Path, rows: int, kind: str) -> None:
    between, end, details = KINDS[kind]
    v1.make_v1(file, rows=False)

    def logs() -> Iterator[tuple[object, ...]]:
        for n in range(rows):
            clock = f"{n // 3600 % 24:02}:{n // 60 % 60:02}:{n % 60:02}.{n % 999_999 + 1:06}{end}"
            time_ = f"2025-{n // 2_419_200 % 12 + 1:02}-{n // 86_400 % 28 + 1:02}{between}{clock}"
            yield (
                time_,
                1000 + n % 50,
                f"RULE-{n % 12:03}",
                "CLOSE_ALL",
                "Daily loss limit hit: -$550",
                details,
                n % 6000,
            )

    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        connection.executemany(
            "INSERT INTO enforcement_log (timestamp, account_id, rule_id, action, reason, details, execution_time_ms) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            logs(),
        )
        connection.commit()


def backup(source: Path, target: Path) -> float:
    started = time.perf_counter()
    with closing(sqlite3.connect(source)) as reading, closing(sqlite3.connect(target)) as writing:
        reading.backup(writing)
    return time.perf_counter() - started


def adopt(url: str, told: multiprocessing.Queue[tuple[float, int]]) -> None:
    from risk_store.schema import upgrade

    upgrade("sqlite://" + url.removeprefix("sqlite://") + ".warm")  # imports, and whatever is only done once
    started = time.perf_counter()
    upgrade(url)
    told.put((time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024))


def in_a_process(file: Path) -> tuple[float, int]:
    context = multiprocessing.get_context("spawn")
    told: multiprocessing.Queue[tuple[float, int]] = context.Queue()
    process = context.Process(target=adopt, args=(f"sqlite:///{file}", told))
    process.start()
    result = told.get()
    process.join()
    return result


def count(file: Path) -> int:
    with closing(sqlite3.connect(file)) as connection:
        return int(connection.execute("SELECT count(*) FROM enforcement_log").fetchone()[0])


def compare(folder: Path, rows: int, kind: str) -> str:
    original = folder / "original.db"
    original.unlink(missing_ok=True)
    make(original, rows, kind)
    copies, adoptions, memory = [], [], 0
    for number in range(ROUNDS):
        place = folder / str(number)
        place.mkdir()
        file = Path(shutil.copy(original, place / "state.db"))
        copies.append(backup(file, place / "copy.db"))
        seconds, megabytes = in_a_process(file)
        adoptions.append(seconds)
        memory = max(memory, megabytes)
        if {count(place / "copy.db"), count(file), count(place / "state.db.v1.bak")} != {rows}:
            sys.exit(f"{kind}: rows are missing")
        shutil.rmtree(place)
    ratio = statistics.median(b / a for a, b in zip(copies, adoptions, strict=True))
    size = original.stat().st_size / 1e6
    cells = (
        f"{rows:,}", kind, f"{size:.0f}", f"{statistics.median(copies):.2f}", f"{statistics.median(adoptions):.1f}",
        f"{ratio:.0f}", f"{memory}",
    )  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.adoption", description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows in the log (default: 1,000,000)")
    rows = parser.parse_args().rows
    print("| log rows | what is in them | file, MB | backup, s | adoption, s | ratio | peak memory, MB |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for number in sorted({rows // 10, rows}):
            for kind in KINDS:
                print(compare(Path(folder), number, kind), flush=True)


if __name__ == "__main__":
    main()

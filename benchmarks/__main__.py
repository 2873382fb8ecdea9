"""What the store's calls cost, beside the same work by hand in the plain driver, and beside other libraries.

    python -m benchmarks                                  # the quick form, without S1: under 3 minutes on 2 cores
    python -m benchmarks --full                           # a million rows and more, and S1: about half an hour
    python -m benchmarks --only W1,R2 --no-postgresql
    python -m benchmarks --only S1 --citus                # rates on each engine, and over a cluster

It prints Markdown and writes it, with everything that was measured as JSON beside it. PostgreSQL is the server that the
tests would use, made durable, unless a URL is given: databases of our own are made there and dropped. So it is with a
cluster, but that its URL names a database of the coordinator's that has no store yet: one is made in it, and dropped.
The exit code is 1 if a contender was refused since it did other work; a target that is not met is said and changes
nothing.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg

from benchmarks import bulk, enforcements, orders, reports, scaling, watching, writers
from benchmarks.peers import peers
from benchmarks.places import Ground, Place, cluster, postgresql, sqlite
from benchmarks.report import Book, check_page, machine, markdown, put_into, write
from benchmarks.sizes import FULL, QUICK, TINY, Size
from benchmarks.way import Way
from risk_store.engines import parse_url

Work = Callable[[Ground, Size, Book, Mapping[str, Callable[[Place], Way]]], None]

WORKS: dict[str, tuple[Work, ...]] = {
    "W1": (enforcements.run, writers.run),
    "W2": (bulk.run,),
    "W3": (orders.single_and_batch,),
    "W4": (orders.trail,),
    "R1": (reports.run,),
    "R5": (orders.read_at_start,),
    "D1": (watching.run,),
    "S1": (scaling.run,),
}
NOT_QUICK = {"S1"}  # which asks for no target
SAME = {"R2": "R1", "R3": "R1", "R4": "R1"}  # which are measured on one log
# What durability changes. The others are measured once on SQLite, as durable as the store always is.
IN_NORMAL = (enforcements.run, orders.single_and_batch)
ON_CLUSTER = (scaling.run,)  # the others make a database for each contender
DURABLE = {
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "autovacuum": "on",
    "max_connections": "300",
}


def run(
    grounds: Sequence[Ground],
    size: Size,
    only: Collection[str],
    book: Book,
    found: Mapping[str, Callable[[Place], Way]],
) -> None:
    """The works on each ground, of us and of the peers that were found, into `book`."""
    for ground in grounds:
        for name, works in WORKS.items():
            for work in works:
                allowed = {"SQLite, NORMAL": IN_NORMAL, "Citus": ON_CLUSTER}.get(ground.label)
                if name in only and (allowed is None or work in allowed):
                    started = time.perf_counter()
                    work(ground, size, book, found)
                    took = time.perf_counter() - started
                    book.tell(f"-- {name} ({work.__module__}) on {ground.label}: {took:.0f} s")


@contextmanager
def server(url: str | None) -> Iterator[str]:
    """The server to measure on: the one given, or the tests' own, with commits that survive a power cut."""
    if url is not None:
        yield url
        return
    from tests.support import postgres

    with postgres.server({**postgres.SETTINGS, **DURABLE}) as running:
        yield parse_url(running.url).set(drivername="postgresql+psycopg").render_as_string(hide_password=False)


@contextmanager
def coordinator(url: str) -> Iterator[str]:
    """The cluster to measure on: the one given, or one started from binaries as the tests would, and as durable."""
    if url:
        yield url
        return
    from tests.support import citus

    way = citus.find()
    if way.kind == "none":
        raise SystemExit(f"no cluster: {way.told}; or give --citus URL")
    with citus.cluster(way, {**citus.CITUS_SETTINGS, **DURABLE}) as running:
        yield running.url


def settings_of(url: str) -> dict[str, str]:
    """What the server's figures depend on."""
    plain = parse_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(plain, autocommit=True) as connection:
        names = ("server_version", "fsync", "synchronous_commit", "full_page_writes", "shared_buffers")
        found = {name: connection.execute(f"SHOW {name}".encode()).fetchone() for name in names}
    return {f"PostgreSQL {name}": str(row[0]) for name, row in found.items() if row}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--full", dest="size", action="store_const", const=FULL, default=QUICK, help="the long form")
    parser.add_argument("--tiny", dest="size", action="store_const", const=TINY, help=argparse.SUPPRESS)
    parser.add_argument("--postgresql", metavar="URL", help="a server on which databases may be made")
    parser.add_argument("--no-postgresql", action="store_true", help="only SQLite")
    parser.add_argument(
        "--citus", metavar="URL", nargs="?", const="", help="also on a cluster: a coordinator's database"
    )
    parser.add_argument("--only", metavar="W1,R2", help="some of W1 W2 W3 W4 R1 R2 R3 R4 R5 D1 S1")
    parser.add_argument("--out", metavar="FOLDER", type=Path, default=Path("."), help="where results.md and .json go")
    parser.add_argument("--into", metavar="PAGE", type=Path, help="a page whose tables to replace: docs/performance.md")
    given = parser.parse_args(arguments)
    usual = WORKS.keys() - (NOT_QUICK if given.size is QUICK else set())
    only = {SAME.get(name, name) for name in (given.only or ",".join(usual)).upper().split(",")}
    if given.into:
        check_page(given.into)
    if unknown := only - WORKS.keys():
        parser.error(f"--only {', '.join(sorted(unknown))}: there are W1 W2 W3 W4 R1 R2 R3 R4 R5 D1 S1")

    book = Book(tell=lambda line: print(line, file=sys.stderr, flush=True))
    settings: dict[str, Any] = {"SQLite": "WAL, synchronous as the table says"}
    started = time.perf_counter()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="risk-store-benchmarks-")))
        grounds = [stack.enter_context(sqlite(folder, "FULL")), stack.enter_context(sqlite(folder, "NORMAL"))]
        if not given.no_postgresql:
            url = stack.enter_context(server(given.postgresql))
            grounds.append(stack.enter_context(postgresql(url)))
            settings |= settings_of(url)
        if given.citus is not None:
            grounds.append(stack.enter_context(cluster(stack.enter_context(coordinator(given.citus)))))
        run(grounds, given.size, only, book, peers(book.missing))
    book.notes = scaling.arithmetic(book, given.size.threads)
    settings["seconds in all"] = round(time.perf_counter() - started)
    facts = machine()
    write(given.out, book, facts, settings)
    text = markdown(book, facts, settings)
    print(text, end="")
    if given.into:
        put_into(given.into, text)
    return 1 if book.refused else 0


if __name__ == "__main__":
    sys.exit(main())

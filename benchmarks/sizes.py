"""How much is done: the quick form for every day, the full one for the record, the tiniest for the tests."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["FULL", "QUICK", "TINY", "Size"]


@dataclass(frozen=True, slots=True)
class Size:
    """Counts are of events or rows in one turn of one contender; there are `rounds` turns after one that warms up."""

    rounds: int
    event_rounds: int
    """W1 and W3: of the plain driver and the store alone."""
    peer_rounds: int
    """The same beside the peers; and W2, if `bulk_rounds` are not fewer."""
    events: int
    peer_events: int
    """W1: enforcements, one transaction each; and beside the peers."""
    server_events: int
    """The same for W1 and W3 on a server, where no number of them makes turns alike."""
    threads: int
    seconds: float
    thread_rounds: int
    """W1 with threads: how long a turn is, and how many there are. The length decides how much of the plain driver's
    time is that of its last threads, which find the file when nobody else wants it any more: so it is always the 0.6 s
    of reference/performance.md, where the target comes from."""
    all_peers: bool
    """Whether every peer takes part where nothing is promised of it: they take longer than all else together."""
    bulk: int
    bulk_rounds: int
    peer_bulk: int
    """W2: rows in which the peers are compared, since some of them take ten times as long."""
    orders: int
    """W3: order events, one transaction each."""
    batch: int
    stops: int
    others: int
    """W4: orders beside the working stops, which no price may touch."""
    prices: int
    log_rows: tuple[int, int]
    """R1 to R4: the sizes of the log between which growth is told."""
    report_rounds: int
    working: int
    read_rounds: int
    """R5: working orders at start, among `stops` that are done; and the rounds of the plain driver and the store."""
    watched_events: int
    """D1: enforcements in one turn, beside a dashboard or alone; its log has the smaller of `log_rows`."""


# SQLite brings its write-ahead log into the file about every thousand pages, in some commit or other: every 105 of W1's
# or every 335 of W3's. Turns are as long as a few of those and a bit, so that each pays for as many.
TINY = Size(
    rounds=2, event_rounds=2, peer_rounds=2, events=20, peer_events=20, server_events=20,
    threads=4, seconds=0.05, thread_rounds=1,
    all_peers=True, bulk=50, bulk_rounds=1, peer_bulk=20, orders=20, batch=20, stops=20, others=20, prices=2,
    log_rows=(2_000, 5_000), report_rounds=1, working=20, read_rounds=2, watched_events=20,
)  # fmt: skip
QUICK = Size(
    rounds=5, event_rounds=21, peer_rounds=2, events=220, peer_events=110, server_events=100,
    threads=32, seconds=0.6, thread_rounds=4,
    all_peers=False, bulk=10_000, bulk_rounds=5, peer_bulk=500, orders=350, batch=500, stops=1_000, others=9_000,
    prices=5, log_rows=(20_000, 80_000), report_rounds=3, working=10_000, read_rounds=7, watched_events=300,
)  # fmt: skip
FULL = Size(
    rounds=15, event_rounds=31, peer_rounds=9, events=430, peer_events=430, server_events=300,
    threads=32, seconds=0.6, thread_rounds=5,
    all_peers=True, bulk=1_000_000, bulk_rounds=3, peer_bulk=60_000, orders=700, batch=500, stops=1_000, others=9_000,
    prices=5, log_rows=(1_000_000, 10_000_000), report_rounds=3, working=10_000, read_rounds=31, watched_events=3_000,
)  # fmt: skip

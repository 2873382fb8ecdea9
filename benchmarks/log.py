"""A log of many rows over ninety days, made in the database itself: the same for every run.

Twelve rules, twenty accounts, one failure in fifty, times that are lognormal. The times are drawn from a shuffled table
of quantiles whose length is a prime, so that they go with no rule, account or day.
"""

from __future__ import annotations

import random
from contextlib import closing
from datetime import UTC, datetime, timedelta
from statistics import NormalDist

from benchmarks.places import Place, connect

__all__ = ["DAYS", "END", "fill"]

SEED = 20260819
DAYS = 90
END = datetime(2026, 8, 19, 14, 30, tzinfo=UTC)
"""When the log is looked at. In the middle of a day: a report's first day is not whole."""
BEGAN = END - timedelta(days=DAYS)
QUANTILES = 100_003
MEDIAN_MS, SIGMA = 150.0, 0.8  # of the first rule; each further one is 15 % slower

COLUMNS = (
    "account_id, rule_id, action, reason, success, positions_closed, orders_canceled, timestamp, execution_time_ms, "
    "details, enforcement_id"
)
SQLITE = f"""
WITH RECURSIVE numbers (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n + 1 < {{rows}})
INSERT INTO enforcement_log ({COLUMNS})
SELECT 1001 + n / 12 % 20, printf('RULE-%03d', n % 12 + 1), 'CLOSE_ALL', 'Daily loss limit hit: ' || n, n % 50 <> 7,
       n % 4, n % 3, strftime('%Y-%m-%d %H:%M:%S', {{began}} + n * {{span}} / {{rows}}, 'unixepoch'),
       CAST(ms * (100 + n % 12 * 15) / 100 AS INTEGER), NULL, printf('%032x', n)
FROM numbers JOIN temp.quantiles ON k = n % {QUANTILES}
"""
POSTGRESQL = f"""
INSERT INTO enforcement_log ({COLUMNS})
SELECT 1001 + n / 12 % 20, 'RULE-' || lpad((n % 12 + 1)::text, 3, '0'), 'CLOSE_ALL', 'Daily loss limit hit: ' || n,
       n % 50 <> 7, n % 4, n % 3, to_timestamp({{began}} + n * {{span}} / {{rows}}),
       ms * (100 + n % 12 * 15) / 100, NULL, lpad(to_hex(n), 32, '0')
FROM generate_series(0::bigint, {{rows}} - 1) AS n JOIN quantiles ON k = n % {QUANTILES} ORDER BY n
"""


def fill(place: Place, rows: int) -> None:
    """Adds `rows` log rows to an empty log, and lets the engine take stock of them."""
    numbers = {"rows": rows, "began": int(BEGAN.timestamp()), "span": int((END - BEGAN).total_seconds())}
    normal = NormalDist()
    times = [
        max(1, round(MEDIAN_MS * 2.718281828459045 ** (SIGMA * normal.inv_cdf((k + 0.5) / QUANTILES))))
        for k in range(QUANTILES)
    ]
    random.Random(SEED).shuffle(times)
    with closing(connect(place)) as connection:
        connection.execute("CREATE TEMP TABLE quantiles (k INTEGER PRIMARY KEY, ms INTEGER NOT NULL)")
        if place.is_sqlite:
            connection.execute("PRAGMA synchronous = OFF")  # nothing is timed here
            connection.execute("PRAGMA cache_size = -262144")
            connection.execute("BEGIN")
            connection.executemany("INSERT INTO quantiles VALUES (?, ?)", enumerate(times))
            connection.execute(SQLITE.format(**numbers))
            connection.execute("COMMIT")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        else:
            with connection.cursor() as cursor, cursor.copy("COPY quantiles FROM STDIN") as copy:
                for row in enumerate(times):
                    copy.write_row(row)
            connection.execute(POSTGRESQL.format(**numbers))
            connection.execute("VACUUM ANALYZE enforcement_log")

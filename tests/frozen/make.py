"""Make the frozen files of this folder: a real database of every released schema, for the tests to upgrade.

Run `python -m tests.frozen.make` from the project's root. It makes the files that are missing and touches no other: a
file stands for databases that are out there, so it is made once, with the revision, and never again. (Only while a
revision is not released yet may its file be deleted and made anew, when the revision changes.)

- v1.db: as a v1 daemon left it;
- 0001.db: that one, adopted;
- 0002.db: made new by revisions 0001 and 0002, then filled by a v1 daemon;
- 0003.db: made new by all three, filled by a v1 daemon and by the release of that revision;
- 0004.db: made new by all four, filled by a v1 daemon and by the release of that revision;
- 0005.db: made new by all five, filled by a v1 daemon and by the release of that revision;
- 0006.db: made new by all six, filled by a v1 daemon and by this release.
"""

import sqlite3
from contextlib import closing
from pathlib import Path

from alembic import command
from risk_store.schema import alembic_config
from tests.support import v1

FOLDER = Path(__file__).parent
PAGE_SIZE = 512  # small pages make small files, and there is a b-tree for each table and index

# By revision, what it can hold and earlier ones cannot. Ids from 900 on: the v1 rows are below.
SINCE_0003 = """
INSERT INTO orders (id, account_id, contract_id, type, side, size, stop_price, state, created_at, updated_at,
                    trailing_amount, filled_size, fill_price, custom_tag, parent_order_id, linked_order_id,
                    venue_stop_price, venue_updated_at, triggered_at, seen_at, unconfirmed_since)
VALUES (901, 900, 'CON.F.US.MNQ.U25', 5, 1, 2, 21040.0, 2, '2025-10-21 16:00:00', '2025-10-21 16:00:05',
        10.0, 1, 21051.25, 'breakout ✓', 902, 903,
        21039.75, '2025-10-21 16:00:04.5', '2025-10-21 16:00:05', '2025-10-21 16:00:05', '2025-10-21 16:01:00');
INSERT INTO enforcement_log (id, timestamp, account_id, rule_id, action, reason, success, details, execution_time_ms,
                             error_message, positions_closed, orders_canceled, enforcement_id)
VALUES (901, '2025-10-21 16:00:00', 900, 'RULE-003', 'CLOSE_ALL', 'Loss', 0, NULL, 5120,
        'closed 3 of 4: gateway said no', 3, 2, '01890a5d-ac96-774b-bcce-b302099a8057');
INSERT INTO enforcement_in_flight (account_id, enforcement_id, rule_id, action, reason, details, started_at, host,
                                   boot_id, pid, process_started)
VALUES (900, '01890a5d-ac96-774b-bcce-b302099a8058', 'RULE-001', 'CLOSE_POSITION', 'Too many', '{"limit": 5}',
        '2025-10-21 16:02:00', 'desk-1', 'f3c1', 4711, '123456');
INSERT INTO trade_history (id, account_id, timestamp, contract_id, pnl, created_at, venue_trade_id, order_id, side,
                           size, price, fees, commissions, voided)
VALUES (901, 900, '2025-10-21 16:00:01', 'CON.F.US.MNQ.U25', 25.5, '2025-10-21 16:00:01', 77001, 901, 1,
        1, 21051.25, 0.37, 0.5, 1);
INSERT INTO daily_pnl (account_id, date, realized_pnl, last_updated, fees)
VALUES (900, '2025-10-21', 25.5, '2025-10-21 16:00:01', 0.87);
"""
SINCE_0004 = """
INSERT INTO positions (id, account_id, contract_id, type, size, average_price, created_at, updated_at, seen_at,
                       unconfirmed_since)
VALUES (901, 900, 'CON.F.US.MNQ.U25', 1, 3, 21050.125, '2025-10-21 16:00:01', '2025-10-21 16:00:05.250000',
        '2025-10-21 16:00:05.250000', '2025-10-21 16:01:00');
INSERT INTO closed_positions (id, account_id, contract_id, created_at, closed_at)
VALUES (902, 900, 'CON.F.US.EP.U25', '2025-10-21 15:00:00', '2025-10-21 15:30:00.500000');
UPDATE trade_history SET trading_day = '2025-10-21' WHERE id = 901;
"""
# A log row that is rolled up, and a day that was pruned.
SINCE_0005 = """
INSERT INTO enforcement_rolled_up (first_id, last_id) VALUES (901, 901);
INSERT INTO enforcement_hours (hour, rule_id, succeeded, pruned, enforcements, total_ms)
VALUES ('2025-10-21 16:00:00', 'RULE-003', 0, 0, 1, 5120), ('2024-10-21 16:00:00', 'RULE-003', 1, 1, 2, 300);
INSERT INTO enforcement_day_times (day, rule_id, succeeded, ms, pruned, enforcements)
VALUES ('2025-10-21', 'RULE-003', 0, 5120, 0, 1), ('2024-10-21', 'RULE-003', 1, 150, 1, 2);
INSERT INTO enforcement_times (rule_id, succeeded, bucket, ms, pruned, enforcements)
VALUES ('RULE-003', 0, 5120, 5120, 0, 1), ('RULE-003', 1, 144, 150, 1, 2);
"""
SINCE_0005_BUCKETS = """
INSERT INTO {table} (rule_id, succeeded, bucket, pruned, enforcements, total_ms)
VALUES ('RULE-003', 0, 5120, 0, 1, 5120), ('RULE-003', 1, 144, 1, 2, 300);
"""
SINCE = {"0003": SINCE_0003, "0004": SINCE_0004, "0005": SINCE_0005}


def make(name: str, file: Path) -> None:
    """Make the file of one schema."""
    if name in ("v1", "0001"):
        v1.make_v1(file, page_size=PAGE_SIZE)
    else:
        with closing(sqlite3.connect(file)) as empty:
            empty.executescript(f"PRAGMA page_size = {PAGE_SIZE}; VACUUM;")
    if name == "v1":
        return
    command.upgrade(alembic_config(f"sqlite:///{file}"), name)
    with closing(sqlite3.connect(file)) as filled:
        if name != "0001":
            for table, rows in v1.ROWS.items():
                v1.insert(filled, table, v1.COLUMNS[table], rows)
        for revision, sql in SINCE.items():
            if revision <= name:
                filled.executescript(sql)
        if name >= "0005":
            table = "enforcement_buckets" if name == "0005" else "enforcement_time_buckets"
            filled.executescript(SINCE_0005_BUCKETS.format(table=table))
        filled.commit()
        filled.execute("VACUUM")


def main() -> None:
    for name in ("v1", "0001", "0002", "0003", "0004", "0005", "0006"):
        file = FOLDER / f"{name}.db"
        if not file.exists():
            make(name, file)
            print(f"made {file}")


if __name__ == "__main__":
    main()

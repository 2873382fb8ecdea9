"""The databases that v1 daemons made: their exact schema, rows as such a daemon wrote them, and its own statements.

The schema is that of SPEC 8, spelled as v1 spelled it; nothing here uses risk_store, since v1 knew nothing of it.
"""

import json
import re
import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TABLES = """
CREATE TABLE lockouts (
    account_id INTEGER PRIMARY KEY,
    is_locked BOOLEAN NOT NULL DEFAULT 0,
    reason TEXT,
    locked_at DATETIME,
    locked_until DATETIME,
    rule_id TEXT,
    created_at DATETIME DEFAULT CURRENT_TIMESTAMP,
    updated_at DATETIME DEFAULT CURRENT_TIMESTAMP
);
CREATE TABLE daily_pnl (
    account_id INTEGER NOT NULL,
    date DATE NOT NULL,
    realized_pnl REAL NOT NULL DEFAULT 0.0,
    last_updated DATETIME DEFAULT CURRENT_TIMESTAMP,
    PRIMARY KEY (account_id, date)
);
CREATE TABLE contract_cache (
    contract_id TEXT PRIMARY KEY,
    tick_size REAL NOT NULL,
    tick_value REAL NOT NULL,
    symbol_id TEXT NOT NULL,
    name TEXT,
    cached_at DATETIME DEFAULT CURRENT_TIMESTAMP
);
CREATE TABLE trade_history (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    account_id INTEGER NOT NULL,
    timestamp DATETIME NOT NULL,
    contract_id TEXT NOT NULL,
    pnl REAL,
    created_at DATETIME DEFAULT CURRENT_TIMESTAMP
);
CREATE TABLE session_state (
    account_id INTEGER PRIMARY KEY,
    session_start DATETIME NOT NULL,
    updated_at DATETIME DEFAULT CURRENT_TIMESTAMP
);
CREATE TABLE positions (
    id INTEGER PRIMARY KEY,
    account_id INTEGER NOT NULL,
    contract_id TEXT NOT NULL,
    type INTEGER NOT NULL,  -- 1=Long, 2=Short
    size INTEGER NOT NULL,
    average_price REAL NOT NULL,
    created_at DATETIME NOT NULL,
    updated_at DATETIME DEFAULT CURRENT_TIMESTAMP
);
CREATE TABLE orders (
    id INTEGER PRIMARY KEY,
    account_id INTEGER NOT NULL,
    contract_id TEXT NOT NULL,
    type INTEGER NOT NULL,
    side INTEGER NOT NULL,  -- 0=Buy, 1=Sell
    size INTEGER NOT NULL,
    limit_price REAL,
    stop_price REAL,
    state INTEGER NOT NULL,
    created_at DATETIME NOT NULL,
    updated_at DATETIME DEFAULT CURRENT_TIMESTAMP
);
CREATE TABLE enforcement_log (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    timestamp DATETIME DEFAULT CURRENT_TIMESTAMP,
    account_id INTEGER NOT NULL,
    rule_id TEXT NOT NULL,
    action TEXT NOT NULL,
    reason TEXT NOT NULL,
    success BOOLEAN NOT NULL DEFAULT 1,
    details TEXT,
    execution_time_ms INTEGER
);
CREATE TABLE reset_schedule (
    account_id INTEGER PRIMARY KEY,
    last_reset_date DATE NOT NULL,
    next_reset_time DATETIME NOT NULL,
    reset_time_config TEXT NOT NULL,
    timezone TEXT NOT NULL
);
"""

INDEXES = """
CREATE INDEX idx_lockouts_until ON lockouts(locked_until);
CREATE INDEX idx_daily_pnl_date ON daily_pnl(date);
CREATE INDEX idx_contract_cache_symbol ON contract_cache(symbol_id);
CREATE INDEX idx_trade_history_account_time ON trade_history(account_id, timestamp DESC);
CREATE INDEX idx_trade_history_timestamp ON trade_history(timestamp);
CREATE INDEX idx_positions_account ON positions(account_id);
CREATE INDEX idx_positions_contract ON positions(contract_id);
CREATE INDEX idx_orders_account ON orders(account_id);
CREATE INDEX idx_orders_contract ON orders(contract_id);
CREATE INDEX idx_orders_state ON orders(state);
CREATE INDEX idx_enforcement_account ON enforcement_log(account_id);
CREATE INDEX idx_enforcement_timestamp ON enforcement_log(timestamp DESC);
CREATE INDEX idx_enforcement_rule ON enforcement_log(rule_id);
"""

# In some files only. It is left as it is.
SCHEMA_VERSION = """
CREATE TABLE schema_version (
    version INTEGER PRIMARY KEY,
    applied_at DATETIME DEFAULT CURRENT_TIMESTAMP
);
INSERT INTO schema_version (version, applied_at) VALUES (1, '2025-01-15 12:00:00');
"""


def _columns() -> dict[str, dict[str, int]]:
    """Each table's columns and their place in the primary key, 0 for none."""
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(TABLES)
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {
            table: dict(connection.execute(f"SELECT name, pk FROM pragma_table_info('{table}')"))
            for table in tables
            if not table.startswith("sqlite_")
        }


COLUMNS: dict[str, list[str]] = {table: list(columns) for table, columns in _columns().items()}
KEYS: dict[str, str] = {
    table: ", ".join(sorted((name for name, place in columns.items() if place), key=columns.__getitem__))
    for table, columns in _columns().items()
}

MNQ, ES, CL = "CON.F.US.MNQ.U25", "CON.F.US.EP.U25", "CON.F.US.CLE.X25"
BIG = 3_425_270_858  # broker ids passed 2**31 long ago
T = "2025-10-21 "

# Rows in the order of COLUMNS, as a v1 daemon wrote them.
ROWS: dict[str, list[tuple[Any, ...]]] = {
    "lockouts": [
        (123, True, "Daily loss limit hit: -$550", T + "14:30:05", T + "22:00:00", "RULE-003",
         T + "14:30:05", T + "14:30:05"),
        (456, True, "Manual lockout", T + "15:00:00", None, None, "2025-10-01 08:00:00", T + "15:00:00"),
        (789, False, None, None, None, None, "2025-10-01 08:00:00", "2025-10-02 08:00:00"),
    ],
    "daily_pnl": [
        (123, "2025-10-20", 125.5, "2025-10-20 21:59:59"),
        (123, "2025-10-21", -550.0, T + "14:30:00"),
        (456, "2025-10-21", 0.0, T + "15:00:00"),
    ],
    "contract_cache": [
        (MNQ, 0.25, 0.5, "F.US.MNQ", "MNQU5", "2025-10-20 12:00:00"),
        (ES, 0.25, 12.5, "F.US.EP", None, "2025-10-20 12:00:00"),
        (CL, 0.01, 10.0, "F.US.CLE", "Crude Öl ✓", "2025-10-20 12:00:00"),
    ],
    "trade_history": [
        (1, 123, T + "14:05:00", MNQ, None, T + "14:05:00"),
        (2, 123, T + "14:06:00.123456", MNQ, -50.5, T + "14:06:00"),
        (5, 456, T + "14:07:00", ES, 1012.5, T + "14:07:00"),
    ],
    "session_state": [
        (123, "2025-10-20 22:00:00", "2025-10-20 22:00:00"),
        (456, "2025-10-20 22:00:00", T + "01:00:00"),
    ],
    "positions": [
        (11, 123, MNQ, 1, 3, 21000.25, T + "14:00:00", T + "14:00:00"),
        (12, 456, CL, 2, 1, -37.63, "2020-04-20 18:30:00", "2020-04-20 18:30:00"),
    ],
    "orders": [
        (101, 123, MNQ, 1, 0, 1, None, None, 3, T + "14:00:00", T + "14:00:01"),  # market, filled
        (102, 123, MNQ, 2, 0, 2, 20995.5, None, 2, T + "14:00:02", T + "14:00:02"),  # limit, active
        (103, 123, MNQ, 3, 1, 2, None, 20950.0, 1, T + "14:00:03", T + "14:00:03"),  # stop, pending
        (104, 123, MNQ, 4, 1, 2, 20940.0, 20945.0, 4, T + "14:00:04", T + "14:05:00"),  # stop limit, canceled
        (123, 456, MNQ, 5, 1, 1, None, 20990.0, 2, T + "14:00:05", T + "14:00:05"),  # the specification's own row
        (105, 456, ES, 2, 1, 4, 5890.25, None, 7, T + "14:00:06", T + "14:00:09"),  # partly filled: old rows only
        (106, 456, ES, 2, 0, 1, 5800.0, None, 5, T + "14:00:07", T + "14:00:07"),  # rejected
        (107, 456, ES, 3, 0, 1, None, 5900.0, 6, T + "14:00:08", None),  # expired, and no updated_at
        (108, 456, CL, 2, 0, 1, -37.63, None, 8, "2020-04-20 18:00:00", "2020-04-20 18:00:00"),  # suspended, below 0
        (BIG, BIG + 1, ES, 1, 1, 1, None, None, 2, T + "14:00:09.250000", T + "14:00:09"),
    ],
    "enforcement_log": [
        (1, T + "14:30:05", 123, "RULE-003", "CLOSE_ALL_AND_LOCKOUT", "Daily loss limit hit: -$550", True,
         json.dumps({"positions_closed": 3, "orders_cancelled": 2, "pnl": -550.0}), 145),
        (2, T + "14:31:00", 123, "RULE-001", "CLOSE_POSITION", "Max contracts", False,
         json.dumps({"positions_closed": 0, "error": "gateway: Order rejected (Öl)"}), 2210),
        (3, T + "14:32:00", 456, "RULE-002", "REJECT_ORDER", "Symbol blocked", True, '{"orders_canceled": 1}', None),
        (4, T + "14:33:00", 456, "RULE-002", "REJECT_ORDER", "Broken details", True, '{"positions_closed": 7', 12),
        (5, T + "14:34:00", 456, "RULE-004", "ALERT", "Plain words", True, "closed 2 positions by hand", 0),
        (6, T + "14:35:00", 456, "RULE-004", "ALERT", "No details", True, None, None),
        (7, None, 456, "RULE-004", "ALERT", "No time", True, "[]", None),
        (8, T + "14:36:00", 789, "RULE-005", "CLOSE_ALL", "Odd values in details", False,
         '{"positions_closed": "3", "orders_cancelled": -1, "error": null}', 5001),
        (9, T + "14:37:00.500000", 789, "RULE-005", "CLOSE_ALL", "Both spellings, and NUL", False,
         '{"orders_canceled": 4, "orders_cancelled": 9, "error": "half\\u0000done \\ud800"}', 501),
        (12, T + "14:38:00", 789, "RULE-006", "CLOSE_ALL", "Numbers too large", True,
         '{"positions_closed": 9223372036854775808, "orders_cancelled": true}', 3),
    ],
    "reset_schedule": [
        (123, "2025-10-20", T + "22:00:00", "17:00", "America/Chicago"),
    ],
}  # fmt: skip

# What those log rows say of the outcome: id → error_message, positions_closed, orders_canceled.
OUTCOMES: dict[int, tuple[str | None, int, int]] = {
    1: (None, 3, 2),
    2: ("gateway: Order rejected (Öl)", 0, 0),
    3: (None, 0, 1),
    4: (None, 0, 0),
    5: (None, 0, 0),
    6: (None, 0, 0),
    7: (None, 0, 0),
    8: (None, 0, 0),
    9: ("half\\x00done \\ud800", 0, 4),
    12: (None, 0, 0),
}


def make_v1(
    path: Path,
    *,
    tables: str = TABLES,
    indexes: str = INDEXES,
    more: str = SCHEMA_VERSION,
    rows: bool = True,
    page_size: int = 4096,
    log_rows: int = 0,
) -> Path:
    """A file as a v1 daemon left it. `more` is SQL run at the end; `log_rows` more rows make the log longer."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA page_size = {page_size}")
        connection.executescript(f"BEGIN; {tables} {indexes} {more} COMMIT;")
        for table, filled in ROWS.items() if rows else ():
            present = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
            insert(connection, table, [name for name in COLUMNS[table] if name in present], filled)
        if log_rows:
            _make_the_log_longer(connection, log_rows)
        connection.commit()
    return path


def _make_the_log_longer(connection: sqlite3.Connection, by: int) -> None:
    row = (321, "RULE-009", "CLOSE_ALL", "Again", True, '{"positions_closed": 2, "error": "slow gateway"}', 700)
    times = (f"2025-09-01 {n // 3600 % 24:02}:{n // 60 % 60:02}:{n % 60:02}" for n in range(by))
    insert(connection, "enforcement_log", COLUMNS["enforcement_log"], ((None, time, *row) for time in times))


def insert(connection: sqlite3.Connection, table: str, columns: Sequence[str], rows: Iterable[tuple[Any, ...]]) -> None:
    """Insert the named columns of rows that have all of v1's."""
    taken = [COLUMNS[table].index(name) for name in columns]
    connection.executemany(
        f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})",
        [tuple(row[place] for place in taken) for row in rows],
    )


@dataclass(frozen=True)
class Statement:
    """One statement of the v1 daemon, with ``:name`` parameters; `on_postgresql` where PostgreSQL spells it so."""

    sql: str
    values: dict[str, Any] = field(default_factory=dict)
    on_postgresql: str = ""

    @property
    def reads(self) -> bool:
        return self.sql.lstrip().startswith("SELECT")

    @property
    def for_psycopg(self) -> str:
        return re.sub(r":(\w+)", r"%(\1)s", (self.on_postgresql or self.sql).replace("%", "%%"))


def _insert(table: str, **values: Any) -> Statement:
    names = ", ".join(values)
    return Statement(f"INSERT INTO {table} ({names}) VALUES ({', '.join(':' + name for name in values)})", values)


def _replace(table: str, key: str, **values: Any) -> Statement:
    plain = _insert(table, **values)
    changes = ", ".join(f"{name} = excluded.{name}" for name in values if name not in key.split(", "))
    return Statement(
        plain.sql.replace("INSERT INTO", "INSERT OR REPLACE INTO"),
        values,
        f"{plain.sql} ON CONFLICT ({key}) DO UPDATE SET {changes}",
    )


def _row(table: str, *values: Any) -> Statement:
    return _insert(table, **dict(zip(COLUMNS[table], values, strict=True)))


def _read_all(table: str, where: str) -> Statement:
    return Statement(f"SELECT {', '.join(COLUMNS[table])} FROM {table} WHERE {where} ORDER BY {KEYS[table]}")


N = "2025-10-22 "
LOCKED = """
    SELECT account_id, reason, locked_until FROM lockouts
    WHERE is_locked = 1 AND (locked_until IS NULL OR locked_until > :now) ORDER BY account_id
"""
TIMES = """
    SELECT rule_id, count(*), min(execution_time_ms), max(execution_time_ms) FROM enforcement_log
    WHERE success = 1 AND execution_time_ms IS NOT NULL GROUP BY rule_id ORDER BY rule_id
"""
UNLOCK = "UPDATE lockouts SET is_locked = 0, reason = NULL WHERE account_id = :account"

# What the daemon ran, in an order that makes sense on a database with ROWS. Columns are named, as v1 named them.
STATEMENTS: list[Statement] = [
    # Every column of every table.
    _row("lockouts", 31, True, "r", N + "01:00:00", N + "02:00:00", "RULE-001", N + "01:00:00", N + "01:00:00"),
    _row("daily_pnl", 31, "2025-10-22", -1.25, N + "01:00:00"),
    _row("contract_cache", "CON.F.US.GCE.Z25", 0.1, 10.0, "F.US.GCE", "Gold", N + "01:00:00"),
    _row("trade_history", 31, 31, N + "01:00:00", MNQ, 2.5, N + "01:00:00"),
    _row("session_state", 31, N + "00:00:00", N + "01:00:00"),
    _row("positions", 31, 31, MNQ, 2, 1, 21000.5, N + "01:00:00", N + "01:00:00"),
    _row("orders", 31, 31, MNQ, 5, 1, 1, None, 20990.0, 2, N + "01:00:00", N + "01:00:00"),
    _row("enforcement_log", 31, N + "01:00:00", 31, "RULE-001", "CLOSE_ALL", "r", False, '{"error": "late"}', 7),
    _row("reset_schedule", 31, "2025-10-21", N + "22:00:00", "17:00", "America/Chicago"),
    # As the daemon writes from day to day: defaults left to the database.
    _insert("lockouts", account_id=32),
    _insert("daily_pnl", account_id=32, date="2025-10-22"),
    _insert("contract_cache", contract_id="CON.F.US.YM.Z25", tick_size=1.0, tick_value=5.0, symbol_id="F.US.YM"),
    _insert("session_state", account_id=32, session_start=N + "00:00:00"),
    _insert(
        "positions",
        id=32,
        account_id=32,
        contract_id=ES,
        type=1,
        size=2,
        average_price=5890.25,
        created_at=N + "01:00:00",
    ),
    _insert("orders", id=32, account_id=32, contract_id=ES, type=1, side=0, size=1, state=1, created_at=N + "01:00:00"),
    _insert(
        "orders",
        id=33,
        account_id=32,
        contract_id=ES,
        type=2,
        side=0,
        size=1,
        limit_price=5880.5,
        state=2,
        created_at=N + "01:00:01",
    ),
    # Upserts.
    _replace(
        "lockouts",
        "account_id",
        account_id=789,
        is_locked=True,
        reason="Again",
        locked_at=N + "03:00:00",
        locked_until=N + "04:00:00",
        rule_id="RULE-003",
        updated_at=N + "03:00:00",
    ),
    _replace(
        "daily_pnl",
        "account_id, date",
        account_id=123,
        date="2025-10-21",
        realized_pnl=-600.25,
        last_updated=N + "03:00:00",
    ),
    _replace(
        "contract_cache",
        "contract_id",
        contract_id=ES,
        tick_size=0.25,
        tick_value=12.5,
        symbol_id="F.US.EP",
        name="ESU5",
        cached_at=N + "03:00:00",
    ),
    _replace("session_state", "account_id", account_id=123, session_start=N + "00:00:00", updated_at=N + "03:00:00"),
    _replace(
        "positions",
        "id",
        id=11,
        account_id=123,
        contract_id=MNQ,
        type=1,
        size=5,
        average_price=21001.125,
        created_at=T + "14:00:00",
        updated_at=N + "03:00:00",
    ),
    _replace(
        "orders",
        "id",
        id=102,
        account_id=123,
        contract_id=MNQ,
        type=2,
        side=0,
        size=2,
        limit_price=20995.5,
        stop_price=None,
        state=3,
        created_at=T + "14:00:02",
        updated_at=N + "03:00:00",
    ),
    _replace(
        "reset_schedule",
        "account_id",
        account_id=123,
        last_reset_date="2025-10-22",
        next_reset_time="2025-10-23 22:00:00",
        reset_time_config="17:00",
        timezone="America/Chicago",
    ),
    # Reading back every column of every table (of account 32 only what does not tell the time of the test).
    *(_read_all(table, "account_id <> 32") for table in COLUMNS if table not in ("contract_cache", "lockouts")),
    _read_all("contract_cache", "symbol_id <> 'F.US.YM'"),
    _read_all("lockouts", "account_id NOT IN (32, 789)"),
    Statement("SELECT is_locked, reason, locked_until, rule_id, updated_at FROM lockouts WHERE account_id = 789"),
    Statement("SELECT is_locked, reason FROM lockouts WHERE account_id = 32 AND created_at > :t", {"t": N}),
    Statement("SELECT realized_pnl FROM daily_pnl WHERE account_id = 32 AND last_updated > :t", {"t": N}),
    Statement("SELECT type, limit_price FROM orders WHERE account_id = 32 AND updated_at > :t ORDER BY id", {"t": N}),
    Statement("SELECT size FROM positions WHERE account_id = 32 AND updated_at > :t", {"t": N}),
    Statement("SELECT tick_size FROM contract_cache WHERE symbol_id = 'F.US.YM' AND cached_at > :t", {"t": N}),
    # The daemon's own questions.
    Statement(LOCKED, {"now": N + "03:30:00"}, LOCKED.replace("is_locked = 1", "is_locked = true")),
    Statement(
        "SELECT id, type, side, size, limit_price, stop_price FROM orders "
        "WHERE account_id = :account AND state IN (1, 2, 7) ORDER BY created_at",
        {"account": 456},
    ),
    Statement(
        "SELECT id, size, average_price FROM positions WHERE account_id = :account AND contract_id = :contract",
        {"account": 123, "contract": MNQ},
    ),
    Statement(
        "SELECT count(*), sum(pnl) FROM trade_history WHERE account_id = :account AND timestamp >= :since",
        {"account": 123, "since": "2025-10-21 00:00:00"},
    ),
    Statement(TIMES, {}, TIMES.replace("success = 1", "success = true")),
    # Housekeeping.
    Statement(UNLOCK, {"account": 123}, UNLOCK.replace("is_locked = 0", "is_locked = false")),
    Statement(
        "UPDATE orders SET state = :state, updated_at = :now WHERE id = :id",
        {"state": 4, "now": N + "03:00:00", "id": 103},
    ),
    Statement("DELETE FROM positions WHERE id = :id", {"id": 12}),
    Statement("SELECT count(*) FROM lockouts WHERE reason IS NULL"),
    Statement("SELECT id, updated_at FROM orders WHERE state = 4 ORDER BY id"),
    Statement("SELECT count(*) FROM positions"),
    # Ids left to the database, which no two engines need to number alike.
    _insert("trade_history", account_id=32, timestamp=N + "01:00:00", contract_id=ES, pnl=None),
    _insert("enforcement_log", account_id=32, rule_id="RULE-001", action="CLOSE_ALL", reason="defaults"),
    _insert(
        "enforcement_log",
        account_id=32,
        rule_id="RULE-002",
        action="CLOSE_ALL",
        reason="half",
        success=False,
        details="{}",
        execution_time_ms=15,
    ),
    Statement("SELECT pnl FROM trade_history WHERE account_id = 32 AND created_at > :t", {"t": N}),
    Statement(
        "SELECT rule_id, success, details, execution_time_ms FROM enforcement_log "
        "WHERE account_id = 32 AND timestamp > :t ORDER BY rule_id",
        {"t": N},
    ),
]

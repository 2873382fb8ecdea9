"""What a v1 daemon's database is: its tables, and what it keeps inside `details`.

Frozen: v1 is past, so nothing here ever changes. That is why a revision may import this module, and no other of
risk_store's.
"""

from __future__ import annotations

import json
from typing import Any

__all__ = ["COLUMNS", "outcome_of"]

COLUMNS: dict[str, tuple[str, ...]] = {
    table: tuple(columns.split())
    for table, columns in {
        "lockouts": "account_id is_locked reason locked_at locked_until rule_id created_at updated_at",
        "daily_pnl": "account_id date realized_pnl last_updated",
        "contract_cache": "contract_id tick_size tick_value symbol_id name cached_at",
        "trade_history": "id account_id timestamp contract_id pnl created_at",
        "session_state": "account_id session_start updated_at",
        "positions": "id account_id contract_id type size average_price created_at updated_at",
        "orders": "id account_id contract_id type side size limit_price stop_price state created_at updated_at",
        "enforcement_log": "id timestamp account_id rule_id action reason success details",
        "reset_schedule": "account_id last_reset_date next_reset_time reset_time_config timezone",
    }.items()
}
"""The tables of v1, and the columns without which a database is not v1. (enforcement_log.execution_time_ms came late to
some v1 files: revision 0001 adds it where it is missing.)"""


def outcome_of(details: Any) -> dict[str, Any]:
    """What a v1 log row's `details` say of the outcome, by the columns that 0003 has for it.

    Keys: ``error_message``, ``positions_closed``, ``orders_canceled``; only those that say something. Empty for what is
    not a JSON object.

    >>> outcome_of('{"positions_closed": 3, "orders_cancelled": 2, "error": null}')
    {'positions_closed': 3, 'orders_canceled': 2}
    """
    try:
        facts = json.loads(details) if isinstance(details, str) else None
    except (ValueError, RecursionError):
        return {}
    if not isinstance(facts, dict):
        return {}
    found = {
        "positions_closed": facts.get("positions_closed"),
        # v1 used both spellings; the specification's is the one with a single l.
        "orders_canceled": next((facts[n] for n in ("orders_canceled", "orders_cancelled") if facts.get(n)), None),
    }
    outcome: dict[str, Any] = {
        name: value
        for name, value in found.items()
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**63
    }
    if isinstance(error := facts.get("error"), str) and error:
        # JSON can spell what PostgreSQL cannot store: the same visible escapes as for new rows.
        outcome["error_message"] = error.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode()
    return outcome

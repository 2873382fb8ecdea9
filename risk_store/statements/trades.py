"""Statements on trades, and on the figures of the day that they add up to."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from risk_store.columns import rounded_money
from risk_store.models import DailyPnl, ResetSchedule, Trade

__all__ = [
    "ACCOUNT_OF_TRADE",
    "ADD_TO_DAY",
    "COMPLETE_TRADE",
    "GET_DAY",
    "GET_RESET",
    "GET_TRADE",
    "GET_TRADE_OF_ACCOUNT",
    "INSERT_TRADE",
    "INSERT_TRADE_OR_FAIL",
    "REQUIRED",
]

TRADES = Trade.__table__
DAYS = DailyPnl.__table__

REQUIRED = ("account_id", "contract_id", "timestamp")
"""What an update must carry to make a row."""

# What one event of a trade may leave out and another tell: REST does not send the commissions that the stream does.
FILLABLE = ("order_id", "side", "size", "price", "pnl", "fees", "commissions")


def _insert_trade(insert: Any) -> Any:
    # On PostgreSQL without naming the key, which on a distributed one is wider.
    key = [TRADES.c.venue_trade_id] if insert is sqlite.insert else None
    return insert(TRADES).on_conflict_do_nothing(index_elements=key).returning(TRADES.c.id)


INSERT_TRADE = {"sqlite": _insert_trade(sqlite.insert), "postgresql": _insert_trade(postgresql.insert)}
"""By dialect. Parameters: every column but the id. Returns a row if the trade was not known yet, else none."""

INSERT_TRADE_OR_FAIL = sa.insert(TRADES)

GET_TRADE = sa.select(Trade).where(Trade.venue_trade_id == sa.bindparam("venue_trade"))

GET_TRADE_OF_ACCOUNT = GET_TRADE.where(Trade.account_id == sa.bindparam("account"))
"""The same within an account: on a distributed PostgreSQL a row can be locked only so."""

ACCOUNT_OF_TRADE = sa.select(Trade.account_id).where(Trade.venue_trade_id == sa.bindparam("venue_trade"))

COMPLETE_TRADE = (
    sa.update(TRADES)
    .where(TRADES.c.id == sa.bindparam("trade"), TRADES.c.account_id == sa.bindparam("account"))
    .values(
        {name: sa.bindparam(f"new_{name}", type_=TRADES.c[name].type) for name in FILLABLE}
        | {"voided": sa.bindparam("new_voided", type_=sa.Boolean())}
    )
)
"""Parameters: ``trade``, the row's own id, and ``account``, whose it is; ``new_…`` of each column."""


def _add_to_day(insert: Any) -> Any:
    statement = insert(DAYS)
    new = statement.excluded
    return statement.on_conflict_do_update(
        index_elements=[DAYS.c.account_id, DAYS.c.date],
        set_={
            "realized_pnl": rounded_money(DAYS.c.realized_pnl + new.realized_pnl),
            "fees": rounded_money(DAYS.c.fees + new.fees),
            "last_updated": new.last_updated,
        },
    )


ADD_TO_DAY = {"sqlite": _add_to_day(sqlite.insert), "postgresql": _add_to_day(postgresql.insert)}
"""By dialect. Parameters: every column; the amounts are added to the day's. By the UPDATE itself, so that of two
writers none is lost."""

GET_DAY = sa.select(DailyPnl).where(
    DailyPnl.account_id == sa.bindparam("account"), DailyPnl.date == sa.bindparam("day", type_=DailyPnl.date.type)
)

GET_RESET = sa.select(ResetSchedule.reset_time_config, ResetSchedule.timezone).where(
    ResetSchedule.account_id == sa.bindparam("account")
)

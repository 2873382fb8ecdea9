"""Statements that are too long for psycopg to keep: nothing but their time shows that they go another way."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import event

from risk_store.engines import open_engine, parse_url
from risk_store.long_statements import KEPT_BY_PSYCOPG

LONG = "-- " + "x" * KEPT_BY_PSYCOPG + "\n"
PERCENT = "SELECT %(a)s::int + %(b)s::int + %(a)s::int AS sum, 7 %% %(b)s::int AS rest, '100 %%' AS text"


@pytest.fixture
def connection(postgres_store_url: str) -> Any:
    engine = open_engine(parse_url(postgres_store_url), "store")
    with engine.connect() as opened:
        yield opened
    engine.dispose()


@pytest.mark.parametrize("times", [1, 8])  # from the sixth time on psycopg prepares it
def test_a_long_statement_gives_what_a_short_one_does(connection: sa.Connection, times: int) -> None:
    for _ in range(times):
        results = [
            connection.exec_driver_sql(before + PERCENT, {"a": 1, "b": 4, "not asked for": 0}) for before in ("", LONG)
        ]
        short, long = [(result.keys(), result.rowcount, result.all()) for result in results]
        assert long == short
        assert [tuple(row) for row in long[2]] == [(6, 3, "100 %")]


def test_a_long_statement_is_seen_by_events_and_its_error_is_that_of_sqlalchemy(connection: sa.Connection) -> None:
    seen: list[str] = []
    for name in ("before_cursor_execute", "after_cursor_execute"):
        event.listen(connection, name, lambda *given: seen.append(given[2]))
    failing = LONG + "SELECT 1 / %(zero)s::int"
    with pytest.raises(sa.exc.DataError, match="division by zero"):
        connection.exec_driver_sql(failing, {"zero": 0})
    connection.rollback()
    working = LONG + "SELECT %(one)s::int"
    assert connection.exec_driver_sql(working, {"one": 1}).scalar_one() == 1
    assert seen == [failing, working, working]


def test_a_long_statement_writes_and_counts_its_rows(connection: sa.Connection) -> None:
    delete = LONG + "DELETE FROM lockouts WHERE account_id = %(account)s"
    connection.exec_driver_sql("INSERT INTO lockouts (account_id, is_locked) VALUES (1, true), (2, true)")
    assert connection.exec_driver_sql(delete, {"account": 1}).rowcount == 1

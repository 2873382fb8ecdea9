"""Models, revisions and statements keep the rules of a distributed PostgreSQL, shown without one."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from alembic import command
from risk_store import schema, statements
from risk_store.models import Base
from risk_store.sharding import Placement, placement_of
from tests.support import distribution_lint as lint

NOW = datetime(2025, 10, 21, 17, 20, 30, tzinfo=UTC)

# What the doors build for one question, as they build it.
REPORTS: dict[str, Any] = {
    f"{report.__name__} {asked}": report(**asked)
    for report in (statements.time_by_rule, statements.daily_trend, statements.alert_counts)
    for asked in (
        {},
        {"account_id": 7},
        {"rule_id": "R"},
        {"since": NOW - timedelta(days=3)},
        {"since": NOW - timedelta(days=3), "until": NOW},
        {"include_pruned": True},
    )
} | {
    "time_by_rule, all outcomes": statements.time_by_rule("all"),
    "slow enforcements": statements.slow_enforcements(),
    "the next page of them": statements.slow_enforcements(after=(700, 3), account_id=7),
    "a page of the log": statements.log_page(account_id=7, after=9),
    "working orders": statements.working_orders(),
    "working orders of an account": statements.working_orders(7, "X"),
    "a snapshot": statements.orders.snapshot_of(statements.working_orders(7)),
    "open positions": statements.open_positions(7, "X"),
}


def test_every_table_has_its_place_and_keeps_the_rules() -> None:
    sharded = {t.name for t in Base.metadata.sorted_tables if placement_of(t) is Placement.SHARDED}
    assert len(sharded) == 10
    assert lint.of_models(Base.metadata, sharded) == []


def test_the_revisions_keep_the_rules() -> None:
    script = io.StringIO()
    config = schema.alembic_config("postgresql+psycopg://nobody@nowhere/risk")
    config.output_buffer = script
    command.upgrade(config, "head", sql=True)
    assert "CREATE TABLE orders" in script.getvalue()
    assert lint.of_revisions(script.getvalue()) == []


STATEMENTS = dict(lint.statements_of_modules()) | REPORTS


def test_the_statements_of_all_modules_are_looked_at() -> None:
    modules = {where.split(".")[2] for where in STATEMENTS if where.startswith("risk_store.")}
    assert {"enforcements", "lockouts", "orders", "outcomes", "positions", "rollup", "trades"} <= modules
    assert len(STATEMENTS) > 80


@pytest.mark.parametrize("where", STATEMENTS)
def test_a_statement_keeps_the_rules(where: str) -> None:
    assert lint.of_statement(lint.compiled(STATEMENTS[where])) == []


# Each rule catches what it is there for


def a_table(*parts: Any, account: Any = sa.BigInteger, metadata: sa.MetaData | None = None) -> sa.MetaData:
    metadata = metadata or sa.MetaData(naming_convention={"pk": "pk_%(table_name)s"})
    sa.Table("planted", metadata, sa.Column("account_id", account, nullable=False), sa.Column("id", sa.BigInteger))
    for part in parts:
        (metadata.tables["planted"].append_constraint if isinstance(part, sa.Constraint) else part)(
            part if isinstance(part, sa.Constraint) else metadata.tables["planted"]
        )
    return metadata


PLANTED_MODELS: dict[str, tuple[str, sa.MetaData]] = {
    "a key of the id alone": (lint.NO_KEY, a_table(sa.UniqueConstraint("id", name="uq_planted_id"))),
    "a unique index on the id alone": (lint.NO_KEY, a_table(lambda t: sa.Index("ix", t.c.id, unique=True))),
    "an account in 32 bits": (lint.OTHER_TYPE, a_table(account=sa.Integer)),
    "an account as text": (lint.OTHER_TYPE, a_table(account=sa.Text)),
    "a CHECK without a name": (lint.NO_NAME, a_table(sa.CheckConstraint("id > 0"))),
    "a foreign key by the id": (
        lint.REFERENCES,
        a_table(sa.ForeignKeyConstraint(["id"], ["other.id"], name="fk_planted")),
    ),
    "an identity in 32 bits": (
        lint.IDENTITY,
        a_table(lambda t: t.append_column(sa.Column("n", sa.Integer, sa.Identity()))),
    ),
}


@pytest.mark.parametrize("planted", PLANTED_MODELS)
def test_a_model_that_breaks_a_rule_is_found(planted: str) -> None:
    rule, metadata = PLANTED_MODELS[planted]
    if "other" in str(rule) or rule == lint.REFERENCES:
        sa.Table("other", metadata, sa.Column("id", sa.BigInteger))
    assert [found.partition(":")[0] for found in lint.of_models(metadata, {"planted"})] == [rule]


def test_a_table_without_the_account_is_found() -> None:
    metadata = sa.MetaData()
    sa.Table("planted", metadata, sa.Column("id", sa.BigInteger))
    assert lint.of_models(metadata) == [f"{lint.NO_COLUMN}: planted"]


PLANTED_DDL = {
    "CREATE TRIGGER t BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION f()": lint.TRIGGER,
    "CREATE UNIQUE INDEX ix ON orders (custom_tag)": lint.NO_KEY,
    "ALTER TABLE orders ADD CONSTRAINT uq UNIQUE (custom_tag)": lint.NO_KEY,
    "CREATE TABLE fresh (id BIGINT, account_id BIGINT, CONSTRAINT pk_fresh PRIMARY KEY (id))": lint.NO_KEY,
    "CREATE TABLE fresh (account_id BIGINT, PRIMARY KEY (account_id))": lint.NO_NAME,
    "ALTER TABLE orders ADD CHECK (size > 0)": lint.NO_NAME,
    "ALTER TABLE orders ADD CONSTRAINT fk FOREIGN KEY (parent_order_id) REFERENCES orders (id)": lint.REFERENCES,
    "ALTER TABLE orders ADD COLUMN n BIGINT GENERATED BY DEFAULT AS IDENTITY": lint.IDENTITY,
    "CREATE TABLE fresh (account_id INTEGER, CONSTRAINT pk_fresh PRIMARY KEY (account_id))": lint.OTHER_TYPE,
}


@pytest.mark.parametrize("sql", PLANTED_DDL)
def test_a_revision_that_breaks_a_rule_is_found(sql: str) -> None:
    assert [found.split(" (")[0].split(":")[0] for found in lint.of_revisions(sql)] == [PLANTED_DDL[sql]]


def test_a_foreign_key_within_the_account_is_fine() -> None:
    sql = "ALTER TABLE orders ADD CONSTRAINT fk FOREIGN KEY (account_id, n) REFERENCES lockouts (account_id, n)"
    assert lint.of_revisions(sql) == []


PLANTED_STATEMENTS = {
    "UPDATE orders SET account_id = %(a)s WHERE id = 1": lint.MOVES,
    "INSERT INTO lockouts (account_id) VALUES (1) ON CONFLICT (account_id) DO UPDATE SET account_id = 2": lint.MOVES,
    "INSERT INTO lockouts (account_id) VALUES (1) ON CONFLICT (account_id) DO UPDATE SET updated_at = now()": (
        lint.NOT_IMMUTABLE
    ),
    "INSERT INTO lockouts (account_id) VALUES (1) ON CONFLICT (account_id) DO UPDATE SET updated_at = "
    "CURRENT_TIMESTAMP": lint.NOT_IMMUTABLE,
    "UPDATE orders SET size = random()": lint.IS_VOLATILE,
    "SELECT id FROM orders WHERE id = 1 FOR UPDATE": lint.LOCKS,
    "SELECT id FROM orders WHERE account_id IN (1, 2) FOR NO KEY UPDATE": lint.LOCKS,
    "SELECT id FROM orders WHERE account_id = 1 OR id = 2 FOR UPDATE": lint.LOCKS,
    "SELECT 1 FROM orders JOIN positions ON orders.contract_id = positions.contract_id": lint.JOINS,
    "SELECT 1 FROM orders, positions WHERE orders.account_id > positions.account_id": lint.JOINS,
    "SELECT 1 FROM orders o WHERE EXISTS (SELECT 1 FROM enforcement_log l WHERE l.rule_id = o.custom_tag)": lint.JOINS,
    "DELETE FROM orders USING positions WHERE orders.contract_id = positions.contract_id": lint.JOINS,
    "SELECT 1 FROM enforcement_log l WHERE EXISTS (SELECT 1 FROM enforcement_rolled_up r WHERE r.first_id = l.id)": (
        lint.LOCAL_JOINS
    ),
    "SELECT 1 FROM enforcement_log l JOIN enforcement_rolled_up r ON r.first_id = l.id": lint.LOCAL_JOINS,
    "INSERT INTO orders (id, account_id) VALUES (1, 2) ON CONFLICT (id) DO NOTHING": lint.TARGET,
    "INSERT INTO orders (id, account_id) VALUES (1, 2) ON CONFLICT ON CONSTRAINT uq_other DO NOTHING": lint.TARGET,
    "INSERT INTO orders (id) VALUES (1)": lint.NO_COLUMN,
    "SELECT rule_id, count(*) FROM enforcement_log GROUP BY ROLLUP (rule_id)": lint.GROUPS,
    "WITH RECURSIVE r AS (SELECT id FROM orders UNION SELECT id FROM r) SELECT * FROM r": lint.RECURSION,
    "MERGE INTO orders USING (SELECT 1 AS id) s ON s.id = orders.id WHEN MATCHED THEN DELETE": lint.MERGES,
    "SELECT 1; SELECT 2": lint.SEVERAL,
}


@pytest.mark.parametrize("sql", PLANTED_STATEMENTS)
def test_a_statement_that_breaks_a_rule_is_found(sql: str) -> None:
    assert [found.split(" (")[0].split(":")[0] for found in lint.of_statement(sql)] == [PLANTED_STATEMENTS[sql]]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT id FROM orders WHERE orders.account_id = %(a)s::BIGINT AND id = 3 FOR UPDATE",
        "SELECT 1 FROM orders o JOIN positions p ON o.account_id = p.account_id AND o.contract_id = p.contract_id",
        "SELECT 1 FROM orders o JOIN positions p ON o.account_id = 1 AND p.account_id = 1",
        "SELECT 1 FROM enforcement_log l, (SELECT first_id, last_id FROM enforcement_rolled_up) r "
        "WHERE l.id BETWEEN r.first_id AND r.last_id",
        "INSERT INTO orders (id, account_id) VALUES (1, 2) ON CONFLICT ON CONSTRAINT pk_orders DO UPDATE SET size = 1",
        "INSERT INTO enforcement_rolled_up (first_id, last_id) VALUES (1, 2) ON CONFLICT (first_id) DO NOTHING",
        "UPDATE orders SET updated_at = now() WHERE id = 1",
    ],
)
def test_what_a_cluster_takes_is_not_found(sql: str) -> None:
    assert lint.of_statement(sql) == []

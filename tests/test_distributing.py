"""What `risk-store distribute` says where there is no cluster, and what `risk-store check` says of any server."""

from __future__ import annotations

import json
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

from risk_store import InvalidValue, RiskStoreError
from risk_store.cluster import ClusterStatus, Node, Skew, TablePlace, cluster_status, look_at
from risk_store.distributing import distribute
from risk_store.models import Base
from risk_store.sharding import Placement, is_distributed, placement_of
from tests.support.command import run
from tests.support.postgres import Server


def execute(url: str, *statements: str) -> None:
    plain = sa.make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(plain, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)


def test_an_sqlite_file_is_refused_with_the_way_to_go(tmp_path: Path) -> None:
    with pytest.raises(InvalidValue, match=r"url: .* is not a database on a PostgreSQL with Citus.*risk-store copy"):
        distribute(f"sqlite:///{tmp_path / 'risk.db'}")
    assert list(tmp_path.iterdir()) == []


def test_a_server_without_citus_says_what_to_install(postgres_store_url: str) -> None:
    with pytest.raises(RiskStoreError, match=r"this server has no Citus\. Install it .*Nothing was changed") as caught:
        distribute(postgres_store_url)
    assert sa.make_url(postgres_store_url).password not in str(caught.value)


def test_the_command_says_the_same_and_fails(postgres_store_url: str, tmp_path: Path) -> None:
    result = run("distribute", postgres_store_url)
    assert (result.returncode, result.stdout) == (1, "")
    assert "this server has no Citus" in result.stderr
    result = run("distribute", f"sqlite:///{tmp_path / 'risk.db'}")
    assert result.returncode != 0
    assert "risk-store copy" in result.stderr


@pytest.mark.parametrize("shards", [0, -1, 1025, True, 2.5])
def test_a_number_of_shards_that_is_none_is_refused(shards: int) -> None:
    with pytest.raises(InvalidValue, match=r"shards: .* is not a number of shards from 1 to 1024"):
        distribute("postgresql+psycopg://nobody@never.invalid/risk", shards=shards)


def test_check_says_of_a_plain_server_that_the_store_could_be_distributed(postgres_store_url: str) -> None:
    result = run("check", postgres_store_url)
    assert result.returncode == 0
    assert "ready to be distributed, on a server with Citus" in result.stdout
    told = json.loads(run("check", postgres_store_url, "--json").stdout)["cluster"]
    assert (told["citus"], told["is_distributed"], told["obstacles"]) == (None, False, [])


def test_check_says_nothing_of_clusters_for_a_file(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'risk.db'}"
    run("upgrade", url)
    assert "distributed" not in run("check", url).stdout
    assert json.loads(run("check", url, "--json").stdout)["cluster"] is None
    assert cluster_status(url) is None


# What is in the way, with what was done and what is said of it.
OBSTACLES = {
    "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'; "
    "CREATE TRIGGER mine BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION f()": (
        "a trigger mine on orders: Citus takes none. Drop it: DROP TRIGGER mine ON orders"
    ),
    "CREATE UNIQUE INDEX my_tags ON orders (custom_tag)": (
        "a unique index my_tags on orders without account_id, which no shard can keep. Drop it or add account_id to it"
    ),
    "CREATE TABLE notes (order_id bigint CONSTRAINT of_order REFERENCES orders (id))": (
        "a foreign key of_order from notes to orders, which would leave its shard. Drop it: "
        "ALTER TABLE notes DROP CONSTRAINT of_order"
    ),
    "ALTER TABLE lockouts ALTER COLUMN account_id TYPE integer": (
        "lockouts.account_id is integer or may be NULL, and must be bigint NOT NULL in all tables"
    ),
}


@pytest.mark.parametrize("statements", OBSTACLES)
def test_what_is_in_the_way_is_named_with_what_helps(postgres_store_url: str, statements: str) -> None:
    execute(postgres_store_url, statements)
    status = cluster_status(postgres_store_url)
    assert status is not None
    assert status.obstacles == (OBSTACLES[statements],)
    assert list(status.lines()) == ["not ready to be distributed (Citus):", f"  {OBSTACLES[statements]}"]


def test_an_own_index_that_names_the_account_is_in_nobodys_way(postgres_store_url: str) -> None:
    execute(postgres_store_url, "CREATE UNIQUE INDEX my_tags ON orders (custom_tag, account_id)")
    status = cluster_status(postgres_store_url)
    assert status is not None
    assert status.obstacles == ()


def test_another_schema_of_the_same_names_is_none_of_its_business(
    postgres_server: Server, postgres_store_url: str
) -> None:
    execute(
        postgres_store_url,
        "CREATE SCHEMA theirs",
        "CREATE TABLE theirs.orders (id bigint PRIMARY KEY, account_id integer)",
    )
    status = cluster_status(postgres_store_url)
    assert status is not None
    assert status.obstacles == ()


def test_no_plain_server_and_no_file_is_taken_for_distributed(postgres_store_url: str) -> None:
    for url in (postgres_store_url, "sqlite://"):
        engine = sa.create_engine(url)
        with engine.connect() as connection:
            assert not is_distributed(connection)
        engine.dispose()


# A cluster as it may be, and what is said of it


def a_cluster(**other: object) -> ClusterStatus:
    nodes = [
        Node(name="db", port=n, is_coordinator=n == 0, takes_shards=n > 0, is_reachable=n < 2, shards=16 * n)
        for n in range(3)
    ]
    tables = [
        TablePlace(table=table.name, belongs=placement_of(table), found=placement_of(table), shards=4)
        for table in Base.metadata.sorted_tables
    ]
    values = {
        "citus": "13.2-1",
        "can_be_installed": True,
        "nodes": tuple(nodes),
        "tables": tuple(tables),
        "skews": (),
        "obstacles": (),
        "warnings": (),
    }
    return ClusterStatus(**values | other)  # type: ignore[arg-type]


def test_a_cluster_is_told_node_by_node_with_those_that_do_not_answer() -> None:
    assert list(a_cluster().lines()) == [
        "distributed by account_id over 2 nodes, Citus 13.2-1:",
        "  db:0 coordinator, 0 shards",
        "  db:1 worker, 16 shards",
        "  db:2 worker, 32 shards, cannot be reached",
    ]


def test_a_table_that_is_not_where_it_belongs_is_told() -> None:
    tables = [
        TablePlace(
            table=table.name,
            belongs=placement_of(table),
            found=Placement.LOCAL if table.name == "orders" else placement_of(table),
            shards=4,
        )
        for table in Base.metadata.sorted_tables
    ]
    assert (
        "  orders is local and belongs sharded: run risk-store distribute again"
        in a_cluster(tables=tuple(tables)).lines()
    )


def test_the_fullest_shard_and_the_largest_account_are_told() -> None:
    skew = Skew(table="orders", rows=1000, fullest_shard=500, shards=4, largest_account=7, largest_account_rows=480)
    assert (
        "  orders: 1,000 rows, the fullest shard has 2.0 times the mean; account 7 has 480"
        in a_cluster(skews=(skew,)).lines()
    )


def test_no_rows_are_even() -> None:
    skew = Skew(table="orders", rows=0, fullest_shard=0, shards=4, largest_account=7, largest_account_rows=0)
    assert skew.ratio == 1.0


def test_looking_writes_nothing(postgres_server: Server, postgres_store_url: str) -> None:
    engine = sa.create_engine(
        sa.make_url(postgres_store_url).update_query_dict({"options": "-c default_transaction_read_only=on"})
    )
    with engine.connect() as connection:
        assert look_at(connection).tables
    engine.dispose()

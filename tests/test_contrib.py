"""What is in contrib/, on a real PostgreSQL: each query of the Grafana dashboard, and what each role may do."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg import errors, sql
from psycopg.rows import dict_row
from sqlalchemy import make_url

from risk_store import (
    EnforcementLog,
    Lockout,
    Order,
    OrderSide,
    OrderState,
    OrderType,
    RiskStore,
)
from risk_store.codes import WORKING_STATES, PositionType
from risk_store.events import OrderUpdate, PositionUpdate, TradeUpdate
from risk_store.models import Base, Contract, EnforcementInFlight, ResetSchedule, SessionState
from risk_store.repositories import Transaction
from risk_store.schema.verdict import VERSION_TABLE
from tests.support.command import run
from tests.support.grafana import View, expand
from tests.support.plugin import _database, _execute
from tests.support.postgres import Server, binary_folders

CONTRIB = Path(__file__).parents[1] / "contrib"
ROLES = CONTRIB / "postgresql" / "roles.sql"
DASHBOARD = json.loads((CONTRIB / "grafana" / "risk-store-postgres.json").read_text(encoding="utf-8"))
VARIABLES = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
PANELS = {
    panel["title"].partition(",")[0].partition(" (")[0].replace(" ${slow} ms", ""): panel
    for panel in DASHBOARD["panels"]
}
QUERIES = {title: target["rawSql"] for title, panel in PANELS.items() for target in panel["targets"]}
VARIABLE_QUERIES = {name: variable["query"] for name, variable in VARIABLES.items() if variable["type"] == "query"}

MINUTE = timedelta(minutes=1)
UNTIL = datetime.now(UTC).replace(microsecond=0) - 90 * MINUTE
SINCE = UNTIL - timedelta(hours=24)
VIEW = View(SINCE, UNTIL)
HOSTILE = "x' OR '1'='1"
ACCOUNT = 2**53 + 1  # a number that a browser cannot hold
REASONS = (
    "Daily loss limit hit: -$550",
    "'; DROP TABLE enforcement_log; --",
    "<script>",
    "[/red]",
    "\u202eevil",
    "$__time(x)",
)


# The roles, and how one logs in as one of them


def psql(url: str, *options: str) -> str:
    """Runs roles.sql as an administrator does."""
    names = (folder / f"psql{'.exe' if os.name == 'nt' else ''}" for _, folder in binary_folders() if folder)
    program = next((str(name) for name in names if name.is_file()), None) or shutil.which("psql")
    assert program, "no psql beside the server's binaries, nor on PATH"
    target = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    done = subprocess.run(
        [program, "-X", "-q", "-d", target, *options, "-f", str(ROLES)],
        env={name: value for name, value in os.environ.items() if not name.startswith("PG")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@dataclass(frozen=True)
class Roles:
    """The roles of this test run, whose names are its own: roles are shared by all databases of a server."""

    names: dict[str, str]
    password: str

    @property
    def options(self) -> list[str]:
        return [part for role, name in self.names.items() for part in ("-v", f"{role}={name}")]

    def url(self, url: str, role: str) -> str:
        as_role = make_url(url).set(username=self.names[role], password=self.password)
        return as_role.render_as_string(hide_password=False)

    @contextmanager
    def connect(self, url: str, role: str) -> Iterator[psycopg.Connection[Any]]:
        target = make_url(self.url(url, role)).set(drivername="postgresql").render_as_string(hide_password=False)
        with psycopg.connect(target, autocommit=True, row_factory=dict_row) as connection:
            yield connection


@pytest.fixture(scope="session")
def roles(postgres_server: Server) -> Iterator[Roles]:
    suffix = uuid4().hex[:12]
    found = Roles({role: f"{role}_{suffix}" for role in ("owner", "writer", "reader")}, uuid4().hex)
    with psycopg.connect(postgres_server.url, autocommit=True) as connection:
        for name in found.names.values():
            statement = sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}")
            connection.execute(statement.format(sql.Identifier(name), sql.Literal(found.password)))
    yield found
    for name in found.names.values():
        _execute(postgres_server, "DROP ROLE {}", name)


@pytest.fixture
def database(roles: Roles, postgres_store_url: str) -> str:
    """A store at head that a superuser made, with the roles."""
    assert psql(postgres_store_url, *roles.options) == ""
    return postgres_store_url


@pytest.fixture(scope="session")
def filled(roles: Roles, postgres_server: Server, postgres_template: str) -> Iterator[str]:
    """The same with a day of enforcements, orders, lockouts; nobody writes to it afterwards."""
    with _database(postgres_server, postgres_template) as name:
        url = make_url(postgres_server.url).set(drivername="postgresql+psycopg", database=name)
        text = url.render_as_string(hide_password=False)
        psql(text, *roles.options)
        with RiskStore(roles.url(text, "writer")) as store:
            fill(store)
        with psycopg.connect(text.replace("+psycopg", ""), autocommit=True) as connection:
            connection.execute("VACUUM ANALYZE")  # or plans would change once autovacuum comes by
        yield text


def enforcement(
    at: datetime, ms: int | None, *, success: bool = True, rule: str = "RULE-003", **more: Any
) -> EnforcementLog:
    given = {"account_id": 1, "action": "CLOSE_ALL", "reason": "loss"} | more
    return EnforcementLog(timestamp=at, execution_time_ms=ms, success=success, rule_id=rule, **given)


def fill(store: RiskStore) -> None:
    chance = random.Random(7)
    rows = []
    for _ in range(900):
        ms = chance.choice(
            [None, 0, 500, 501, 2000, 2001, 5000, 5001, chance.randint(3, 90), int(chance.lognormvariate(5, 1.4))]
        )
        rows.append(
            enforcement(
                SINCE + timedelta(milliseconds=chance.randrange(24 * 3600 * 1000)),
                ms,
                success=chance.random() < 0.8,
                rule=chance.choice(["RULE-003", "RULE-006", "RULE-007", HOSTILE]),
                account_id=chance.choice([1, 2, ACCOUNT]),
                reason=chance.choice(REASONS),
                positions_closed=chance.randrange(4),
            )
        )
    rows += [
        enforcement(SINCE, 700),
        enforcement(UNTIL, 800),
        enforcement(SINCE + MINUTE, 6000, rule="ONLY-FAILS", success=False),
    ]
    rows += [enforcement(at, 9999, rule="OUTSIDE") for at in (SINCE - MINUTE, UNTIL + MINUTE)]
    now = datetime.now(UTC)
    common = {"contract_id": "MNQ", "size": 2, "state": OrderState.ACTIVE}
    with store.begin() as tx:
        tx.enforcements.add_many(rows)
        tx.lockouts.set(1, REASONS[1], "RULE-003", now + timedelta(hours=5))
        tx.lockouts.set(2, "until released", "RULE-006", None)
        tx.lockouts.set(3, "over", "RULE-006", now + MINUTE)
        tx.lockouts.release(3, "fine again", "desk")
        in_flight = {"rule_id": "RULE-003", "action": "CLOSE_ALL", "reason": REASONS[2], "pid": 4711}
        tx.enforcements.start(
            EnforcementInFlight(account_id=1, enforcement_id="a", host="h", started_at=now - 3 * MINUTE, **in_flight)
        )
        for number, side in enumerate((OrderSide.SELL, OrderSide.BUY), start=10):
            tx.orders.save(
                Order(
                    id=number,
                    account_id=1,
                    type=OrderType.TRAILING_STOP,
                    side=side,
                    stop_price=100.0,
                    trailing_amount=10.0,
                    **common,
                )
            )
        tx.orders.apply(OrderUpdate(id=10, stop_price=98.5, state=OrderState.ACTIVE, venue_updated_at=now))
        tx.orders.save(
            Order(id=ACCOUNT, account_id=ACCOUNT, type=OrderType.LIMIT, side=OrderSide.BUY, limit_price=90.0, **common)
        )
        for number, state in enumerate(OrderState, start=20):
            values = common | {"state": state}
            tx.orders.save(Order(id=number, account_id=2, type=OrderType.MARKET, side=OrderSide.BUY, **values))


Ask = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def ask(filled: str, roles: Roles) -> Ask:
    """The rows of a panel (or of any query) as Grafana gets them, which logs in as the reader."""

    def rows(query: str, view: View = VIEW) -> list[dict[str, Any]]:
        statement = expand(QUERIES.get(query, query), view, DASHBOARD["templating"]["list"])
        with roles.connect(filled, "reader") as connection:
            return connection.execute(statement.encode()).fetchall()

    return rows


@pytest.fixture
def store(filled: str, roles: Roles) -> Iterator[RiskStore]:
    with RiskStore(roles.url(filled, "reader")) as opened:
        yield opened


# Grafana counts both ends of a window in, the store's `until` is not: a microsecond later it is the same.
WINDOW: dict[str, Any] = {"since": SINCE, "until": UNTIL + timedelta(microseconds=1)}


# The dashboard as a file


def test_the_dashboard_asks_for_its_data_source_when_it_is_imported_and_uses_no_other() -> None:
    (asked,) = DASHBOARD["__inputs"]
    assert (asked["name"], asked["type"], asked["pluginId"]) == (
        "DS_RISK_STORE",
        "datasource",
        "grafana-postgresql-datasource",
    )
    expected = {"type": asked["pluginId"], "uid": "${DS_RISK_STORE}"}
    users = [*DASHBOARD["panels"], *(target for panel in DASHBOARD["panels"] for target in panel["targets"])]
    users += [VARIABLES[name] for name in VARIABLE_QUERIES]
    assert [user["datasource"] for user in users] == [expected] * len(users)
    assert {panel["type"] for panel in DASHBOARD["panels"]} == {
        need["id"] for need in DASHBOARD["__requires"] if need["type"] == "panel"
    }


def test_each_panel_has_a_title_a_unit_words_for_it_and_a_place_of_its_own() -> None:
    places: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        assert panel["title"]
        assert panel["description"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & places, panel["title"]
        places |= cells
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"]) == len(PANELS)


def test_no_query_of_the_log_is_without_bounds_in_time() -> None:
    for name, query in (QUERIES | VARIABLE_QUERIES).items():
        if "enforcement_log" in query:
            assert "$__timeFilter(timestamp)" in query or "now() - interval '1 hour'" in query, name
    assert sum("enforcement_log" in query for query in QUERIES.values()) == 7


def test_values_that_are_chosen_go_into_a_query_quoted_only() -> None:
    for query in QUERIES.values():
        for used in re.findall(r"\$\{?(rule|account|slow)\b[^}]*\}?", query):
            assert f"${{{used}:sqlstring}}" in query
        assert not re.search(r"\$\{?(rule|account|slow)(?!:sqlstring\})", query)


def test_the_trend_draws_the_three_thresholds() -> None:
    defaults = PANELS["Trend of the execution time"]["fieldConfig"]["defaults"]
    assert [step["value"] for step in defaults["thresholds"]["steps"]] == [None, 500, 2000, 5000]
    assert defaults["custom"]["thresholdsStyle"]["mode"] == "dashed"
    assert defaults["unit"] == "ms"


def test_an_override_names_a_column_that_its_query_returns(ask: Ask) -> None:
    for title, panel in PANELS.items():
        columns = set(ask(title)[0])
        for override in panel["fieldConfig"]["overrides"]:
            assert override["matcher"]["options"] in columns, title


def test_a_macro_or_a_variable_that_grafana_would_not_replace_is_an_error() -> None:
    for query in ("SELECT ${nobody:sqlstring}", "SELECT $rule", "SELECT $__nothing(x)", "SELECT ${rule:raw}"):
        with pytest.raises((ValueError, KeyError)):
            expand(query, VIEW, DASHBOARD["templating"]["list"])


# What the queries return


SELECTIONS: dict[str, tuple[dict[str, list[str]], dict[str, Any]]] = {
    "everything": ({}, {}),
    "one rule": ({"rule": ["RULE-006"]}, {"rule_id": "RULE-006"}),
    "a rule with quotes in its name": ({"rule": [HOSTILE]}, {"rule_id": HOSTILE}),
    "an account that a browser cannot hold as a number": ({"account": [str(ACCOUNT)]}, {"account_id": ACCOUNT}),
    "a rule and an account": ({"rule": ["RULE-003"], "account": ["1"]}, {"rule_id": "RULE-003", "account_id": 1}),
}
each_selection = pytest.mark.parametrize(("chosen", "filters"), SELECTIONS.values(), ids=SELECTIONS.keys())


@each_selection
def test_time_by_rule_says_what_the_store_says(
    ask: Ask, store: RiskStore, chosen: dict[str, list[str]], filters: dict[str, Any]
) -> None:
    rows = ask("Time by rule", replace(VIEW, chosen=chosen))
    with store.read() as tx:
        of_successes = tx.enforcements.time_by_rule(**WINDOW, **filters)
        of_all = tx.enforcements.alert_counts(**WINDOW, **filters)
    successes = [row for row in rows if row["enforcement_count"]]
    assert [row["rule"] for row in successes] == [row.rule_id for row in of_successes]
    for row, expected in zip(successes, of_successes, strict=True):
        assert row["avg_time_ms"] == pytest.approx(expected.avg_time_ms, rel=1e-12)
        for column in ("min_time_ms", "max_time_ms", "enforcement_count", "p50_time_ms", "p95_time_ms", "p99_time_ms"):
            assert row[column] == getattr(expected, column), (row["rule"], column)
    counted = {row["rule"]: (row["warnings"], row["criticals"], row["timeouts"]) for row in rows}
    assert counted == {row.rule_id: (row.warnings, row.criticals, row.timeouts) for row in of_all}
    assert rows[-1]["rule"] == "ONLY-FAILS" or chosen  # shown, though nothing of it is in the averages


@each_selection
def test_the_counts_by_threshold_are_those_of_the_store_and_know_no_outcome(
    ask: Ask, store: RiskStore, chosen: dict[str, list[str]], filters: dict[str, Any]
) -> None:
    (row,) = ask("Enforcements in the window", replace(VIEW, chosen=chosen))
    with store.read() as tx:
        alerts = tx.enforcements.alert_counts(**WINDOW, **filters)
        logs = tx.enforcements.list(limit=10_000, **WINDOW, **filters)
    expected = (sum(a.warnings for a in alerts), sum(a.criticals for a in alerts), sum(a.timeouts for a in alerts))
    assert tuple(row.values()) == (len(logs), *expected)
    assert row["Timeout, over 5000 ms"] > 0


@each_selection
def test_the_slow_list_is_the_store_s_and_shows_failures(
    ask: Ask, store: RiskStore, chosen: dict[str, list[str]], filters: dict[str, Any]
) -> None:
    for threshold in ("500", "5000"):
        rows = ask("Slow enforcements over", replace(VIEW, chosen={**chosen, "slow": threshold}))
        with store.read() as tx:
            slow = tx.enforcements.slow_enforcements(int(threshold), limit=100, **WINDOW, **filters)
        columns = ("rule", "action", "execution_time_ms", "positions_closed", "orders_canceled")
        got = [(row["began"], int(row["account"]), *(row[column] for column in columns)) for row in rows]
        assert got == [tuple(row)[:7] for row in slow]
        assert {row["outcome"] for row in rows} == {"success", "failed"}


def test_hostile_text_comes_out_of_the_log_as_it_went_in(ask: Ask) -> None:
    assert {row["reason"] for row in ask("Slow enforcements over", replace(VIEW, chosen={"slow": "500"}))} >= set(
        REASONS
    )


def interpolated(times: list[int], fraction: float) -> float:
    """Percentile between the two nearest ranks, by its definition."""
    place = fraction * (len(times) - 1)
    below = sorted(times)[int(place)]
    above = sorted(times)[min(int(place) + 1, len(times) - 1)]
    return below + (above - below) * (place - int(place))


@each_selection
def test_the_trend_has_median_and_p95_of_successes_and_the_worst_of_all(
    ask: Ask, store: RiskStore, chosen: dict[str, list[str]], filters: dict[str, Any]
) -> None:
    with store.read() as tx:
        logs = [
            log for log in tx.enforcements.list(limit=10_000, **WINDOW, **filters) if log.execution_time_ms is not None
        ]
    buckets: dict[float, list[EnforcementLog]] = {}
    for log in logs:
        assert isinstance(log.timestamp, datetime)
        buckets.setdefault(log.timestamp.timestamp() // 3600 * 3600, []).append(log)
    rows = ask("Trend of the execution time", replace(VIEW, chosen=chosen))
    assert [float(row["time"]) for row in rows] == sorted(buckets)
    for row in rows:
        every = buckets[float(row["time"])]
        good = [log.execution_time_ms or 0 for log in every if log.success]
        assert row["worst, any outcome"] == max(log.execution_time_ms or 0 for log in every)
        for name, fraction in (("median", 0.5), ("p95", 0.95)):
            assert row[name] == (pytest.approx(interpolated(good, fraction)) if good else None)


def test_the_bars_count_every_enforcement_and_those_that_failed(ask: Ask, store: RiskStore) -> None:
    with store.read() as tx:
        logs = tx.enforcements.list(limit=10_000, **WINDOW)
    rows = ask("Enforcements", replace(VIEW, interval="30m"))
    assert sum(row["enforcements"] for row in rows) == len(logs)
    assert sum(row["failed"] for row in rows) == sum(not log.success for log in logs)
    assert all(float(row["time"]) % 1800 == 0 for row in rows)


def test_an_alert_rule_can_take_the_query_for_it_as_it_is(ask: Ask, store: RiskStore) -> None:
    query = QUERIES["Over a threshold"]
    assert "${" not in query, "an alert rule knows no variables of a dashboard"
    assert PANELS["Over a threshold"]["targets"][0]["format"] == "time_series"
    rows = ask("Over a threshold")
    assert [row["time"] for row in rows] == sorted(row["time"] for row in rows)
    with store.read() as tx:
        for alerts in tx.enforcements.alert_counts(**WINDOW):
            of_rule = [row for row in rows if row["rule_id"] == alerts.rule_id]
            got = tuple(sum(row[level] for row in of_rule) for level in ("warning", "critical", "timeout"))
            assert got == (alerts.warnings, alerts.criticals, alerts.timeouts)


STATUSES = {
    "nothing at all": ([], "QUIET"),
    "nothing that was timed": ([(5, None)], "QUIET"),
    "what was before the last hour": ([(70, 9000)], "QUIET"),
    "exactly 500 ms": ([(1, 500)], "OK"),
    "501 ms": ([(1, 20), (2, 501)], "SLOW"),
    "exactly 2000 ms": ([(1, 2000)], "SLOW"),
    "2001 ms": ([(50, 2001), (1, 3)], "CRITICAL"),
    "exactly 5000 ms": ([(1, 5000)], "CRITICAL"),
    "5001 ms": ([(1, 5001), (1, 2001)], "TIMEOUT"),
}


@pytest.mark.parametrize(("rows", "status"), STATUSES.values(), ids=STATUSES.keys())
def test_the_status_is_of_the_worst_in_the_last_hour(
    database: str, roles: Roles, rows: list[tuple[int, int | None]], status: str
) -> None:
    with RiskStore(roles.url(database, "writer")) as store, store.begin() as tx:
        for minutes, ms in rows:
            tx.enforcements.add(enforcement(datetime.now(UTC) - minutes * MINUTE, ms, success=ms is None or ms < 5000))
    with roles.connect(database, "reader") as connection:
        statement = expand(QUERIES["Last hour"], VIEW, DASHBOARD["templating"]["list"])
        assert connection.execute(statement.encode()).fetchall() == [{"status": status}]
    mapped = PANELS["Last hour"]["fieldConfig"]["defaults"]["mappings"][0]["options"]
    assert mapped[status]["text"] == status


def test_locked_accounts_are_those_that_the_store_calls_locked(ask: Ask, store: RiskStore) -> None:
    rows = ask("Locked accounts")
    with store.read() as tx:
        active = {lockout.account_id: lockout for lockout in tx.lockouts.active()}
    assert [int(row["account"]) for row in rows] == [2, 1]
    for row in rows:
        lockout = active[int(row["account"])]
        assert (row["rule"], row["reason"], row["locked_until"]) == (
            lockout.rule_id,
            lockout.reason,
            lockout.locked_until,
        )
    assert len(active) == 2
    assert rows[0]["ends_in"] is None
    assert 4 * 3600 < rows[1]["ends_in"] <= 5 * 3600


def test_what_is_in_flight_is_shown_with_how_long_it_has_been(ask: Ask) -> None:
    (row,) = ask("Enforcements in flight")
    assert row["since"] >= 180
    assert (row["account"], row["rule"], row["host"], row["pid"]) == ("1", "RULE-003", "h", "4711")
    assert ask("Enforcements in flight", replace(VIEW, chosen={"rule": ["RULE-006"]})) == []


def test_working_orders_show_stop_distance_and_the_best_price_that_was_followed(ask: Ask, store: RiskStore) -> None:
    rows = ask("Working orders")
    with store.read() as tx:
        assert {row["order"] for row in rows} == {str(order.id) for order in tx.orders.working()}
    selling, buying = rows[:2]
    assert [row["type"] for row in rows[:2]] == ["TRAILING_STOP"] * 2
    assert (selling["side"], selling["stop_price"], selling["trailing_amount"], selling["best_price"]) == (
        "SELL",
        100.0,
        10.0,
        110.0,
    )
    assert (buying["side"], buying["best_price"]) == ("BUY", 90.0)
    assert (selling["stop_gap"], buying["stop_gap"]) == (1.5, None)
    assert {row["best_price"] for row in rows[2:]} == {None}
    assert {row["state"] for row in rows} == {state.name for state in WORKING_STATES}


def test_codes_of_orders_are_named_as_the_enums_name_them(database: str, roles: Roles, ask: Ask) -> None:
    del ask
    with RiskStore(roles.url(database, "writer")) as store, store.begin() as tx:
        number = 1
        for kind in OrderType:
            for side in OrderSide:
                prices = {"limit_price": 1.0, "stop_price": 2.0, "trailing_amount": 3.0}
                tx.orders.save(
                    Order(
                        id=number,
                        account_id=1,
                        contract_id="X",
                        type=kind,
                        side=side,
                        size=1,
                        state=OrderState.ACTIVE,
                        **prices,
                    )
                )
                number += 1
    with roles.connect(database, "reader") as connection:
        statement = expand(QUERIES["Working orders"], VIEW, DASHBOARD["templating"]["list"])
        shown = {(row["type"], row["side"]) for row in connection.execute(statement.encode())}
    assert shown == {(kind.name, side.name) for kind in OrderType for side in OrderSide}


def test_the_lists_to_choose_from_hold_what_acted_in_the_window(ask: Ask) -> None:
    assert [row["rule_id"] for row in ask(VARIABLE_QUERIES["rule"])] == sorted(
        ["ONLY-FAILS", "RULE-003", "RULE-006", "RULE-007", HOSTILE]
    )
    assert {row["account_id"] for row in ask(VARIABLE_QUERIES["account"])} == {"1", "2", str(ACCOUNT)}


INJECTIONS = (
    "'; DROP TABLE enforcement_log; --",
    "') OR true --",
    "\\'; SELECT 1 --",
    "1) OR (1=1",
    "$$",
    "%s",
    "''",
    "\u2019",
)


@pytest.mark.parametrize("value", INJECTIONS)
def test_a_hostile_choice_chooses_nothing(ask: Ask, value: str) -> None:
    for title, query in QUERIES.items():
        view = replace(VIEW, chosen={"rule": [value]})
        if "${rule" in query and title not in ("Last hour", "Enforcements in the window"):
            assert ask(title, view) == [], title
        for name in ("account", "slow"):
            if f"${{{name}" in query:
                with pytest.raises(errors.DataError):  # a number is expected
                    ask(title, replace(VIEW, chosen={name: [value]}))
    (row,) = ask("Enforcements in the window", replace(VIEW, chosen={"rule": [value]}))
    assert row["Enforcements"] == 0
    assert ask("Last hour", replace(VIEW, chosen={"rule": [value]})) == [{"status": "QUIET"}]


@settings(max_examples=60)
@given(name=st.text(alphabet="'\"\\\\%);-$ ab\u2019\n", min_size=1))
def test_a_rule_of_any_name_is_chosen_alone_or_not_at_all(filled: str, roles: Roles, name: str) -> None:
    view = replace(VIEW, chosen={"rule": [name]})
    statement = expand(QUERIES["Time by rule"], view, DASHBOARD["templating"]["list"])
    with roles.connect(filled, "writer") as connection, connection.transaction(force_rollback=True):
        connection.execute(
            "INSERT INTO enforcement_log (timestamp, account_id, rule_id, action, reason, success, execution_time_ms)"
            " VALUES (%s, 1, %s, 'A', 'r', true, 4711)",
            (UNTIL, name),
        )
        rows = [row["rule"] for row in connection.execute(statement.encode())]
    assert rows == ([] if '"' in name else [name])  # docs/monitoring.md says why


@each_selection
def test_no_query_of_the_log_or_the_orders_has_to_read_the_whole_table(
    filled: str, roles: Roles, chosen: dict[str, list[str]], filters: dict[str, Any]
) -> None:
    with roles.connect(filled, "reader") as connection:
        connection.execute("SET enable_seqscan = off")  # else so small a table is always read whole
        for title, query in (QUERIES | VARIABLE_QUERIES).items():
            # An hour of the day that the log holds: of all of it the whole index is as good.
            view = replace(VIEW, since=UNTIL - timedelta(hours=1), chosen=chosen)
            statement = expand(query, view, DASHBOARD["templating"]["list"])
            plan = "\n".join(row["QUERY PLAN"] for row in connection.execute(f"EXPLAIN {statement}".encode()))
            for table in ("enforcement_log", "orders"):
                assert f"Seq Scan on {table}" not in plan, title
            if "FROM enforcement_log" in query or "FROM orders" in query:
                assert re.search(r"Index Cond: |ix_orders_working|ix_enforcement_log_slow", plan), plan


def test_each_query_runs_on_an_empty_store(database: str, roles: Roles) -> None:
    with roles.connect(database, "reader") as connection:
        for title, query in (QUERIES | VARIABLE_QUERIES).items():
            rows = connection.execute(expand(query, VIEW, DASHBOARD["templating"]["list"]).encode()).fetchall()
            assert len(rows) == (1 if title in ("Last hour", "Enforcements in the window") else 0), title


# The roles


def daily_work(store: RiskStore) -> None:
    """All that a daemon does with a store, and a timer beside it."""
    now = datetime.now(UTC)
    assert store.status().ok
    enforces(store, now)
    with store.begin() as tx:
        locks_out(tx, now)
        mirrors_orders(tx, now)
        mirrors_positions_and_trades(tx, now)
    keeps_what_has_no_repository(store, now)
    in_flight = {"account_id": 7, "enforcement_id": "x", "rule_id": "R", "action": "A", "reason": "r"}
    with store.begin() as tx:
        tx.enforcements.start(EnforcementInFlight(host="gone", pid=1, **in_flight))
    (row,) = store.interrupted()
    store.close_interrupted(row, "looked up at the broker", other_host=True)
    assert store.roll_up() >= 1200
    store.record(enforcement(now, 145))
    assert store.roll_up() >= 1
    reports(store)


def enforces(store: RiskStore, now: datetime) -> None:
    with store.enforce(1, "RULE-003", "CLOSE_ALL", "loss", lock_until=now + MINUTE, exclusive=True) as running:
        running.positions_closed += 1
        running.lock_out(None)
    store.record(enforcement(now, 145))
    lockout = Lockout(account_id=9, is_locked=True, reason="loss", rule_id="R", locked_at=now)
    store.record(enforcement(now, 700, account_id=9), lockout)
    with store.begin() as tx:
        tx.enforcements.add(enforcement(now, 20))
        assert tx.enforcements.add_many(enforcement(now, ms) for ms in range(1200)) == 1200  # by COPY


def locks_out(tx: Transaction, now: datetime) -> None:
    tx.lockouts.set(2, "loss", "RULE-003", now + MINUTE)
    tx.lockouts.set(2, "more loss", "RULE-003", None)
    assert tx.lockouts.is_locked(2)
    assert tx.lockouts.release(2, "fine", "desk")
    tx.lockouts.set(4, "short", "RULE-003", now + MINUTE)
    assert 4 in tx.lockouts.expire(now + 2 * MINUTE)


def mirrors_orders(tx: Transaction, now: datetime) -> None:
    common: dict[str, Any] = {"account_id": 1, "contract_id": "X", "type": OrderType.TRAILING_STOP}
    common |= {"side": OrderSide.SELL, "size": 1, "state": OrderState.ACTIVE}
    for number in (1, 2):
        order = Order(id=number, stop_price=90.0, trailing_amount=10.0, created_at=now - MINUTE, **common)
        tx.orders.save(order)
    tx.orders.apply(OrderUpdate(id=1, state=OrderState.ACTIVE, stop_price=91.0, venue_updated_at=now))
    updates = [OrderUpdate(id=number, venue_updated_at=now, **common) for number in range(3, 9)]
    tx.orders.apply_many(updates)
    assert len(tx.orders.trail("X", 110.0).moves) == 2
    assert len(tx.orders.trail("X", 50.0).triggered) == 2
    tx.orders.reconcile(1, updates[:2], now + MINUTE)
    assert tx.orders.working(1)
    assert tx.orders.snapshot()


def mirrors_positions_and_trades(tx: Transaction, now: datetime) -> None:
    common: dict[str, Any] = {"account_id": 1, "contract_id": "X"}
    position = PositionUpdate(id=1, size=1, created_at=now, type=PositionType.LONG, average_price=1.5, **common)
    tx.positions.apply(position)
    tx.positions.apply(replace(position, size=2))
    tx.positions.reconcile(1, [], now + MINUTE)
    tx.positions.apply(replace(position, size=0))
    tx.positions.apply(replace(position, id=2, created_at=now + MINUTE))
    tx.positions.apply(replace(position, id=2, size=0))
    trade = TradeUpdate(id=1, timestamp=now, pnl=1.0, fees=0.1, size=1, price=1.0, order_id=1, **common)
    trade = replace(trade, side=OrderSide.BUY)
    tx.trades.record(trade)
    tx.trades.record(replace(trade, id=2))
    tx.trades.record(replace(trade, voided=True))


def keeps_what_has_no_repository(store: RiskStore, now: datetime) -> None:
    with store.begin() as tx:
        tx.session.add(Contract(contract_id="X", tick_size=0.25, tick_value=0.5, symbol_id="S"))
        tx.session.add(SessionState(account_id=1, session_start=now))
        schedule = {"reset_time_config": "17:00", "timezone": "America/Chicago", "next_reset_time": now}
        tx.session.add(ResetSchedule(account_id=1, last_reset_date=now.date(), **schedule))
    with store.begin() as tx:
        tx.session.get_one(Contract, "X").tick_size = 0.5
        tx.session.get_one(SessionState, 1).session_start = now + MINUTE
        tx.session.get_one(ResetSchedule, 1).timezone = "UTC"


def reports(store: RiskStore) -> None:
    with store.read() as tx:
        assert tx.enforcements.time_by_rule()
        assert tx.enforcements.time_by_rule("all", since=datetime.now(UTC) - timedelta(days=3))
        assert tx.enforcements.daily_trend()
        assert tx.enforcements.alert_counts(include_pruned=True)
        assert tx.enforcements.slow_enforcements(500)
        assert tx.enforcements.list(limit=5)
        tx.enforcements.in_flight()
        tx.lockouts.active()
        tx.orders.working()
        tx.positions.open()
        tx.trades.day(1)
    assert store.status().ok
    assert store.interrupted() == []


def test_the_writer_does_the_daily_work_of_the_store(database: str, roles: Roles) -> None:
    with RiskStore(roles.url(database, "writer")) as store:
        daily_work(store)
    with roles.connect(database, "reader") as connection:
        (row,) = connection.execute("SELECT reltuples FROM pg_class WHERE relname = 'enforcement_rolled_up'")
        before_maintain = connection.info.server_version < 170000
        assert row["reltuples"] >= 1 or before_maintain, "the roll-up's ANALYZE was refused"


@pytest.mark.full
def test_nothing_that_the_writer_may_do_is_more_than_its_daily_work_needs(
    roles: Roles, postgres_server: Server, postgres_template: str
) -> None:
    """Each privilege taken away alone: something of the daily work fails."""
    unneeded = []
    for table, privileges in writer_privileges().items():
        for privilege in privileges:
            with _database(postgres_server, postgres_template) as name:
                url = make_url(postgres_server.url).set(drivername="postgresql+psycopg", database=name)
                text = url.render_as_string(hide_password=False)
                psql(text, *roles.options)
                with psycopg.connect(url.set(drivername="postgresql").render_as_string(hide_password=False)) as admin:
                    admin.execute(f"REVOKE {privilege} ON {table} FROM {roles.names['writer']}".encode())
                failure = ""
                try:
                    with RiskStore(roles.url(text, "writer")) as store:
                        daily_work(store)
                except Exception as error:
                    failure = "".join(traceback.format_exception(error))
                if "permission denied" not in failure:
                    unneeded.append((table, privilege, failure))
    assert unneeded == []


def writer_privileges() -> dict[str, list[str]]:
    rows = re.findall(r"^    \('(\w+)', +'([A-Z, ]+)'\)", ROLES.read_text(encoding="utf-8"), re.MULTILINE)
    return {table: privileges.split(", ") for table, privileges in rows}


def test_the_script_knows_every_table_of_the_store() -> None:
    assert writer_privileges().keys() == {*Base.metadata.tables, VERSION_TABLE}


FORBIDDEN_TO_THE_WRITER = (
    "UPDATE enforcement_log SET execution_time_ms = 1",
    "UPDATE enforcement_log SET reason = reason WHERE false",
    "DELETE FROM enforcement_log",
    "TRUNCATE enforcement_log",
    "SELECT * FROM enforcement_log FOR UPDATE",
    "LOCK TABLE enforcement_log IN ACCESS EXCLUSIVE MODE",
    "ALTER TABLE enforcement_log ADD COLUMN x integer",
    "DROP TABLE enforcement_log",
    "CREATE RULE r AS ON INSERT TO enforcement_log DO INSTEAD NOTHING",
    "CREATE TRIGGER t BEFORE INSERT ON enforcement_log EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    "INSERT INTO enforcement_log (id, account_id, rule_id, action, reason)"
    " SELECT id, 1, 'R', 'A', 'r' FROM enforcement_log ON CONFLICT (id) DO UPDATE SET reason = 'changed'",
    "MERGE INTO enforcement_log l USING (SELECT 1 AS id) n ON l.id = n.id WHEN MATCHED THEN DELETE",
    "DELETE FROM enforcement_hours",
    "DELETE FROM orders",
    "UPDATE risk_store_version SET version_num = '0001'",
    "TRUNCATE orders",
    "CREATE TABLE mine (x integer)",
    "CREATE TEMPORARY TABLE mine (x integer)",
    "CREATE SCHEMA mine",
    "SET ROLE {owner}",
    "ALTER ROLE {reader} SUPERUSER",
)


@pytest.mark.parametrize("statement", FORBIDDEN_TO_THE_WRITER)
def test_the_writer_cannot_change_the_log_nor_what_is_not_its_work(filled: str, roles: Roles, statement: str) -> None:
    with (
        roles.connect(filled, "writer") as connection,
        connection.transaction(force_rollback=True),
        pytest.raises(errors.InsufficientPrivilege),
    ):
        connection.execute(statement.format(**roles.names).encode())


def test_pruning_is_the_owner_s(database: str, roles: Roles) -> None:
    old = datetime.now(UTC) - timedelta(days=400)
    with RiskStore(roles.url(database, "writer")) as store:
        with store.begin() as tx:
            tx.enforcements.add_many([enforcement(old, 20), enforcement(datetime.now(UTC), 30)])
        with pytest.raises(Exception, match="permission denied"):
            store.prune(datetime.now(UTC) - timedelta(days=365))
    with RiskStore(roles.url(database, "owner")) as store:
        assert store.prune(datetime.now(UTC) - timedelta(days=365)) == 1


WRITES = ("INSERT INTO {} DEFAULT VALUES", "DELETE FROM {}", "TRUNCATE {}", "SELECT * FROM {} FOR UPDATE", "ANALYZE {}")
FORBIDDEN_TO_THE_READER = (
    "CREATE TABLE mine (x integer)",
    "CREATE TEMPORARY TABLE mine (x integer)",
    "CREATE SCHEMA mine",
    "SET ROLE {writer}",
    "COPY enforcement_log (account_id) FROM PROGRAM 'echo 1'",
)


def test_the_reader_cannot_write_even_when_it_turns_its_own_lock_off(filled: str, roles: Roles) -> None:
    tables = [*Base.metadata.tables, VERSION_TABLE]
    statements = [write.format(table) for table in tables for write in WRITES if not write.startswith("ANALYZE")]
    statements += [f"UPDATE {table} SET {next(iter(columns))} = NULL" for table, columns in columns_of_tables().items()]
    with roles.connect(filled, "reader") as connection:
        for statement in [*statements, *(text.format(**roles.names) for text in FORBIDDEN_TO_THE_READER)]:
            if not statement.startswith("SET ROLE"):
                with pytest.raises((errors.ReadOnlySqlTransaction, errors.InsufficientPrivilege)):
                    connection.execute(statement.encode())
        connection.execute("SET default_transaction_read_only = off")
        for statement in [*statements, *(text.format(**roles.names) for text in FORBIDDEN_TO_THE_READER)]:
            with pytest.raises(errors.InsufficientPrivilege):
                connection.execute(statement.encode())


def columns_of_tables() -> dict[str, list[str]]:
    return {name: list(table.columns.keys()) for name, table in Base.metadata.tables.items()}


def test_the_reader_is_read_only_by_default_and_its_statements_end(database: str, roles: Roles) -> None:
    with roles.connect(database, "reader") as connection:
        settings = {
            name: connection.execute(f"SHOW {name}".encode()).fetchone()[name]  # type: ignore[index]
            for name in ("default_transaction_read_only", "statement_timeout", "idle_in_transaction_session_timeout")
        }
        assert list(settings.values()) == ["on", "10s", "1min"]
        with pytest.raises(errors.ReadOnlySqlTransaction):
            connection.execute("CREATE TABLE mine (x integer)")
    psql(database, *roles.options, "-v", "timeout=50ms")
    with roles.connect(database, "reader") as connection, pytest.raises(errors.QueryCanceled):
        connection.execute("SELECT pg_sleep(60)")


def test_reports_and_the_command_line_work_as_the_reader(database: str, roles: Roles) -> None:
    with RiskStore(roles.url(database, "writer")) as store:
        daily_work(store)
    url = roles.url(database, "reader")
    with RiskStore(url) as store:
        reports(store)
        with pytest.raises(Exception, match=r"read-only|permission denied"), store.begin() as tx:
            tx.enforcements.add(enforcement(datetime.now(UTC), 1))
    for verb in ("check", "report", "slow", "alerts", "orders", "lockouts", "interrupted"):
        done = run(verb, url)
        assert done.returncode == 0, done.stderr
        assert roles.password not in done.stdout + done.stderr


def test_each_verb_of_the_command_line_works_as_the_role_it_is_for(
    database: str, postgres_database: str, roles: Roles, sqlite_template: Path, tmp_path: Path
) -> None:
    day = Path(__file__).parents[1] / "risk_store" / "demo" / "gateway_day.jsonl"
    writer = roles.url(database, "writer")
    replayed = run("replay", str(day), "--url", writer, "--rejected", str(tmp_path / "rejected"))
    assert "9 order, 4 position, 5 trade" in replayed.stdout + replayed.stderr
    assert run("roll-up", writer).returncode == 0
    assert run("import", writer, "-", stdin="").returncode == 0
    assert run("roll-up", roles.url(database, "reader")).returncode == 1
    assert run("upgrade", roles.url(database, "owner")).returncode == 0
    psql(postgres_database, *roles.options)
    copied = run("copy", f"sqlite:///{sqlite_template}", roles.url(postgres_database, "owner"))
    assert copied.returncode == 0, copied.stderr
    psql(postgres_database, *roles.options)
    assert run("check", roles.url(postgres_database, "reader")).returncode == 0


def privileges_of(url: str) -> dict[str, list[Any]]:
    """Everything about roles and privileges that a database knows, in an order of its own."""
    queries = {
        "tables": "SELECT relname, relowner::regrole::text, a::text FROM pg_class LEFT JOIN unnest(relacl) a ON true"
        " WHERE relnamespace = 'public'::regnamespace",
        "columns": "SELECT attrelid::regclass::text, attname, attacl::text FROM pg_attribute WHERE attacl IS NOT NULL"
        " AND attrelid >= 16384",
        "schemas": "SELECT nspname, a::text FROM pg_namespace LEFT JOIN unnest(nspacl) a ON true"
        " WHERE nspname !~ '^pg_(toast_)?temp'",
        "database": "SELECT a::text FROM pg_database, unnest(datacl) a WHERE datname = current_database()",
        "defaults": "SELECT defaclrole::regrole::text, defaclnamespace::regnamespace::text,"
        " defaclobjtype::text, a::text FROM pg_default_acl, unnest(defaclacl) a",
        "settings": "SELECT setrole::regrole::text, s FROM pg_db_role_setting"
        " JOIN pg_database d ON d.oid = setdatabase, unnest(setconfig) s WHERE datname = current_database()",
        "roles": "SELECT rolname::text, rolsuper, rolcreaterole, rolcreatedb, rolcanlogin, rolinherit FROM pg_roles"
        " WHERE rolname !~ '^pg_'",
        "members": "SELECT roleid::regrole::text, member::regrole::text FROM pg_auth_members",
    }
    target = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(target) as connection:
        return {name: sorted(map(repr, connection.execute(query.encode()))) for name, query in queries.items()}


def test_the_script_run_twice_changes_nothing(database: str, roles: Roles) -> None:
    once = privileges_of(database)
    assert psql(database, *roles.options) == ""
    assert privileges_of(database) == once
    assert any("reader" in entry for entry in once["tables"])


def test_the_script_takes_back_what_was_granted_by_hand(database: str, roles: Roles) -> None:
    before = privileges_of(database)
    target = make_url(database).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(target) as admin:
        for statement in (
            "GRANT DELETE, TRUNCATE ON enforcement_log TO {writer}",
            "GRANT UPDATE (reason) ON enforcement_log TO {writer}",
            "GRANT INSERT ON orders TO {reader}",
            "GRANT SELECT ON orders TO PUBLIC",
            "ALTER TABLE orders OWNER TO CURRENT_USER",
            "GRANT CREATE ON SCHEMA public TO {reader}",
        ):
            admin.execute(statement.format(**roles.names).encode())
    assert privileges_of(database) != before
    psql(database, *roles.options)
    assert privileges_of(database) == before


def test_the_owner_upgrades_a_new_database_and_the_log_is_never_open_to_the_writer(
    postgres_database: str, roles: Roles
) -> None:
    psql(postgres_database, *roles.options)
    with RiskStore(roles.url(postgres_database, "owner")) as store:
        store.upgrade()
    with RiskStore(roles.url(postgres_database, "writer")) as store:
        store.record(enforcement(datetime.now(UTC), 145))
        with roles.connect(postgres_database, "writer") as connection, pytest.raises(errors.InsufficientPrivilege):
            connection.execute("DELETE FROM enforcement_log")
        psql(postgres_database, *roles.options)
        daily_work(store)


def test_a_table_of_a_later_revision_can_be_read_and_added_to_but_not_changed(database: str, roles: Roles) -> None:
    with roles.connect(database, "owner") as connection:
        connection.execute("CREATE TABLE later (x integer)")
    with roles.connect(database, "writer") as connection:
        connection.execute("INSERT INTO later VALUES (1)")
        with pytest.raises(errors.InsufficientPrivilege):
            connection.execute("DELETE FROM later")
    with roles.connect(database, "reader") as connection:
        assert connection.execute("SELECT x FROM later").fetchall() == [{"x": 1}]
        connection.execute("SET default_transaction_read_only = off")
        with pytest.raises(errors.InsufficientPrivilege):
            connection.execute("INSERT INTO later VALUES (2)")


def test_a_schema_of_its_own_in_a_database_that_others_use_leaves_them_alone(
    postgres_database: str, roles: Roles
) -> None:
    before = privileges_of(postgres_database)
    psql(postgres_database, *roles.options, "-v", "schema=Risk Store", "-v", "shared=yes")
    after = privileges_of(postgres_database)
    assert [entry for entry in after["schemas"] if "public" in entry] == [e for e in before["schemas"] if "public" in e]
    assert any(
        entry.startswith("('=Tc") for entry in after["database"]
    )  # PUBLIC may connect, and make temporary tables
    with RiskStore(roles.url(postgres_database, "owner")) as store:
        store.upgrade()
    psql(postgres_database, *roles.options, "-v", "schema=Risk Store", "-v", "shared=yes")
    with RiskStore(roles.url(postgres_database, "writer")) as store:
        daily_work(store)
    with roles.connect(postgres_database, "reader") as connection:
        (row,) = connection.execute(
            "SELECT relnamespace::regnamespace::text AS it FROM pg_class WHERE relname = 'orders'"
        )
        assert row["it"] == '"Risk Store"'


def test_the_script_works_as_it_is_with_names_of_its_own(postgres_server: Server, postgres_store_url: str) -> None:
    names = [f"risk_store_{role}" for role in ("owner", "writer", "reader")]
    with psycopg.connect(postgres_server.url, autocommit=True) as admin:
        there = {row[0] for row in admin.execute("SELECT rolname FROM pg_roles")}
    target = make_url(postgres_store_url).set(drivername="postgresql").render_as_string(hide_password=False)
    try:
        assert psql(postgres_store_url) == ""
        with psycopg.connect(target) as admin:
            owners = {row[0] for row in admin.execute("SELECT tableowner FROM pg_tables WHERE schemaname = 'public'")}
            assert owners == {"risk_store_owner"}
    finally:
        with psycopg.connect(target, autocommit=True) as admin:
            for name in [name for name in names if name not in there]:
                admin.execute(sql.SQL("DROP OWNED BY {0}").format(sql.Identifier(name)))
                admin.execute(sql.SQL("DROP ROLE {0}").format(sql.Identifier(name)))

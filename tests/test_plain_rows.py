"""Rows that are sent as they stand: the short look and the long way, value by value, come to the same."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import example, given
from hypothesis import strategies as st
from sqlalchemy.orm import Session

from risk_store import EnforcementLog, InvalidValue, Lockout, RiskStore
from risk_store.repositories import outcomes
from risk_store.repositories.outcomes import Forms, Outcome
from risk_store.repositories.plain_rows import plain_lockout, plain_log

NOW = datetime(2026, 8, 19, 14, 30, tzinfo=UTC)
DIALECTS = [sa.create_engine(url).dialect for url in ("sqlite://", "postgresql+psycopg://")]
SERVER = DIALECTS[1]


def some(values: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[dict[str, Any]]:
    """A few of them: with all drawn at once hardly a row would be plain."""
    names = st.lists(st.sampled_from(list(values)), max_size=3, unique=True)
    return names.flatmap(lambda chosen: st.fixed_dictionaries({name: values[name] for name in chosen}))


class Text(str):
    """As somebody's own enumeration of rules is."""

    __slots__ = ()


class Number(int):
    """No driver knows it."""


ODD_TEXTS = st.sampled_from(["", "a\0b", "\ud800", "550 €", Text("R"), None, 7, b"R"])
TEXTS = st.one_of(st.text(st.characters(max_codepoint=127), max_size=5), st.text(max_size=5), ODD_TEXTS)
ODD_NUMBERS = st.sampled_from([-1, 0, 2**63 - 1, 2**63, True, Number(3), 2.0, Decimal(2), "2", None])
NUMBERS = st.one_of(st.integers(1, 1000), ODD_NUMBERS)
ZONES = st.sampled_from([UTC, timezone(timedelta(0), "Z"), timezone(timedelta(hours=-5)), None])
INSTANTS = st.one_of(st.datetimes(timezones=ZONES), st.sampled_from([NOW, None, "2026-08-19", NOW.date(), 1]))
OF_LOG: dict[str, st.SearchStrategy[Any]] = {
    "account_id": NUMBERS,
    "rule_id": TEXTS,
    "action": TEXTS,
    "reason": TEXTS,
    "success": st.sampled_from([True, False, None, 1, 0, "yes"]),
    "error_message": TEXTS,
    "positions_closed": NUMBERS,
    "orders_canceled": NUMBERS,
    "timestamp": INSTANTS,
    "execution_time_ms": NUMBERS,
    "details": TEXTS,
    "enforcement_id": TEXTS,
}
OF_LOCKOUT = {"account_id": NUMBERS, "reason": TEXTS, "rule_id": TEXTS, "locked_until": INSTANTS}
PLAIN: dict[str, Any] = {
    "account_id": 123,
    "rule_id": "RULE-003",
    "action": "CLOSE_ALL",
    "reason": "Daily loss limit hit",
    "success": False,
    "error_message": "rejected",
    "positions_closed": 0,
    "orders_canceled": 2,
    "timestamp": NOW + timedelta(microseconds=1),
    "execution_time_ms": 145,
    "details": '{"pnl": -550.0}',
    "enforcement_id": "ab12",
}
NO_DETAILS: dict[str, Any] = {"error_message": None, "execution_time_ms": None, "details": None}
LOCKED: dict[str, Any] = {
    "account_id": 123,
    "reason": "loss",
    "rule_id": "RULE-003",
    "locked_until": NOW + timedelta(days=1),
}


def sent(dialect: sa.Dialect, log: EnforcementLog, lockouts: Sequence[Lockout], at: Any = NOW) -> list[Any]:
    """What the driver is given: by itself, and on a server along with others. With types: True is not 1 to a driver."""
    outcome = Outcome(Forms(dialect), log, lockouts, lambda: at)
    given = [*outcome.encoded()]
    if dialect.name != "sqlite":
        given += [("apart", part) for part in outcome.parts()]
        given += [("together", _told_of(row)) for row in outcome.as_json(3) if row is not None]
    return [(sql, _typed(values)) for sql, values in given]


def _told_of(row: str) -> dict[str, Any]:
    """A NULL is one that is not there, to the server."""
    return {name: value for name, value in sorted(json.loads(row).items()) if value is not None}


def _typed(values: Any) -> Any:
    if isinstance(values, dict):
        return {name: (type(value), value) for name, value in values.items()}
    return [(type(value), value) for value in values or ()]


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
@given(some(OF_LOG), some(OF_LOCKOUT), st.one_of(st.just(NOW), INSTANTS))
@example(NO_DETAILS, {"locked_until": None}, NOW)
@example({}, {}, NOW.astimezone(timezone(timedelta(hours=9))))
@example({}, {}, NOW.replace(tzinfo=None))
def test_what_is_sent_as_it_stands_is_what_the_checks_and_the_columns_make_of_it(
    dialect: sa.Dialect, row: dict[str, Any], locked: dict[str, Any], at: Any
) -> None:
    log, lockout = EnforcementLog(**PLAIN | row), Lockout(is_locked=True, **LOCKED | locked)
    for lockouts in ([], [lockout]):
        on_file = dialect.name == "sqlite"
        locks = [plain_lockout(each, at, for_sqlite=on_file) for each in lockouts]
        if plain_log(log, for_sqlite=on_file) is not None and all(locks):
            quick = sent(dialect, log, lockouts, at)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(outcomes, "plain_log", lambda *_, **__: None)
                assert quick == sent(dialect, log, lockouts, at)


@pytest.mark.parametrize("row", [PLAIN, PLAIN | NO_DETAILS, PLAIN | {"success": True}])
def test_rows_as_they_nearly_always_are_are_sent_as_they_stand(row: dict[str, Any]) -> None:
    assert plain_log(EnforcementLog(**row), for_sqlite=False) == tuple(row.values())
    on_file = row | {"success": int(row["success"]), "timestamp": "2026-08-19 14:30:00.000001"}
    assert plain_log(EnforcementLog(**row), for_sqlite=True) == tuple(on_file.values())


def test_values_stand_in_the_order_of_the_statement_that_a_server_gets() -> None:
    log, lockout = EnforcementLog(**PLAIN), Lockout(is_locked=True, **LOCKED)
    for lockouts, in_flight in (([], False), ([lockout], False), ([], True)):
        [(_, values)] = Outcome(Forms(SERVER), log, lockouts, lambda: NOW, in_flight=in_flight).encoded()
        assert type(values) is tuple, "which was put in order by name, and that takes time"


@pytest.mark.parametrize("locked", [LOCKED, {name: LOCKED[name] for name in ("account_id", "reason", "rule_id")}])
def test_lockouts_as_they_nearly_always_are_are_sent_as_they_stand(locked: dict[str, Any]) -> None:
    lockout, until = Lockout(is_locked=True, **locked), locked.get("locked_until")
    values = plain_lockout(lockout, NOW, for_sqlite=False)
    assert values == (123, True, "loss", NOW, until, "RULE-003", NOW, NOW, NOW)
    now, end = "2026-08-19 14:30:00", until and "2026-08-20 14:30:00"
    assert plain_lockout(lockout, NOW, for_sqlite=True) == (123, 1, "loss", now, end, "RULE-003", now, now, now)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[
            (name, value)
            for name in ("account_id", "positions_closed", "execution_time_ms")
            for value in (-1, 2**63, True)
        ],
        *[(name, value) for name in ("rule_id", "action", "reason") for value in ("", None, "a\0b", Text("R"))],
        *[(name, value) for name in ("reason", "error_message", "details") for value in ("550 €", 7)],
        *[
            ("timestamp", value)
            for value in (None, NOW.replace(tzinfo=None), NOW.astimezone(timezone(timedelta(0), "Z")))
        ],
        *[("enforcement_id", value) for value in (None, "\ud800")],
        *[("success", value) for value in (None, 1)],
    ],
)
def test_what_is_unusual_in_any_way_goes_the_long_way(field: str, value: object) -> None:
    assert plain_log(EnforcementLog(**PLAIN | {field: value}), for_sqlite=True) is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("account_id", 0),
        ("reason", ""),
        ("rule_id", None),
        ("reason", "550 €"),
        ("locked_until", NOW.replace(tzinfo=None)),
    ],
)
def test_an_unusual_lockout_does_too(field: str, value: object) -> None:
    assert plain_lockout(Lockout(is_locked=True, **LOCKED | {field: value}), NOW, for_sqlite=True) is None


def test_what_a_session_has_not_loaded_goes_the_long_way(sqlite_template: Path, tmp_path: Path) -> None:
    shutil.copy(sqlite_template, tmp_path / "risk.db")
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'risk.db'}")
    with Session(engine) as session:
        log, lockout = EnforcementLog(**PLAIN), Lockout(is_locked=True, **LOCKED)
        session.add_all([log, lockout])
        session.commit()
        assert plain_log(log, for_sqlite=True) is None
        assert plain_lockout(lockout, NOW, for_sqlite=True) is None
        assert Outcome(Forms(engine.dialect), log, [lockout], lambda: NOW).encoded()
    engine.dispose()


@pytest.mark.parametrize("zone", [timezone(timedelta(hours=9)), timezone(timedelta(hours=-5))])
def test_a_running_lockout_is_not_shortened_whatever_the_clocks_zone(
    sqlite_template: Path, tmp_path: Path, zone: timezone
) -> None:
    shutil.copy(sqlite_template, tmp_path / "risk.db")
    with RiskStore(f"sqlite:///{tmp_path / 'risk.db'}", clock=lambda: NOW.astimezone(zone)) as store:
        for hours in (3, 1):
            lockout = Lockout(account_id=123, reason="loss", rule_id="R", locked_until=NOW + timedelta(hours=hours))
            store.record(EnforcementLog(**PLAIN | {"enforcement_id": f"{hours}"}), lockout)
        with store.read() as tx:
            [locked] = tx.lockouts.active()
            assert (locked.locked_at, locked.locked_until) == (NOW, NOW + timedelta(hours=3))


def test_a_clock_without_a_zone_is_refused(sqlite_template: Path, tmp_path: Path) -> None:
    shutil.copy(sqlite_template, tmp_path / "risk.db")
    with RiskStore(f"sqlite:///{tmp_path / 'risk.db'}", clock=lambda: NOW.replace(tzinfo=None)) as store:
        with pytest.raises(InvalidValue, match="lockouts"):
            store.record(EnforcementLog(**PLAIN), Lockout(account_id=123, reason="loss", rule_id="R"))
        with store.read() as tx:
            assert tx.enforcements.list() == []

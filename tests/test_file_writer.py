"""Write transactions on an SQLite file, which the driver begins and SQLAlchemy may join: nothing shows which it was."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from risk_store import EnforcementLog, RiskStore
from risk_store.repositories import Transaction


@pytest.fixture
def store(sqlite_template: Path, tmp_path: Path) -> Iterator[RiskStore]:
    shutil.copy(sqlite_template, tmp_path / "risk.db")
    with RiskStore(f"sqlite:///{tmp_path / 'risk.db'}") as opened:
        yield opened


def a_log(account_id: int) -> EnforcementLog:
    return EnforcementLog(account_id=account_id, rule_id="R", action="A", reason="x", success=True)


def accounts(store: RiskStore) -> list[int]:
    with store.read() as tx:
        return sorted(log.account_id for log in tx.enforcements.list())


def trigger(store: RiskStore, body: str, when: str = "NEW.account_id = 2") -> None:
    """Somebody's own, as an old file may have it."""
    with store.begin() as tx:
        tx.session.execute(
            sa.text(f"CREATE TRIGGER own BEFORE INSERT ON enforcement_log WHEN {when} BEGIN {body}; END")
        )


def test_an_error_that_ends_the_transaction_is_told_and_nothing_of_it_is_kept(store: RiskStore) -> None:
    trigger(store, "SELECT RAISE(ROLLBACK, 'no')")
    with pytest.raises(sa.exc.IntegrityError, match="no"), store.begin() as tx:
        tx.enforcements.add(a_log(1))
        tx.enforcements.add(a_log(2))
    assert accounts(store) == []


def test_errors_in_the_block_are_those_of_sqlalchemy_and_it_may_go_on(store: RiskStore) -> None:
    trigger(store, "SELECT abs(-9223372036854775806 - NEW.account_id)")
    with store.begin() as tx:
        tx.enforcements.add(a_log(1))
        with pytest.raises(sa.exc.OperationalError, match="integer overflow"):
            tx.enforcements.add(a_log(2))
        tx.enforcements.add(a_log(3))
    assert accounts(store) == [1, 3]


def test_an_error_does_not_show_the_values(store: RiskStore) -> None:
    trigger(store, "SELECT RAISE(ABORT, 'no')", when="NEW.reason = 'secret'")
    log = a_log(1)
    log.reason = "secret"
    with pytest.raises(sa.exc.IntegrityError) as caught, store.begin() as tx:
        tx.enforcements.add(log)
    assert "secret" not in str(caught.value)
    assert "INSERT INTO enforcement_log" in str(caught.value)


@pytest.mark.parametrize(
    "give_up",
    [
        pytest.param(lambda tx: tx.session.invalidate(), id="invalidate"),
        pytest.param(lambda tx: tx.session.rollback(), id="rollback"),
        pytest.param(lambda tx: tx.session.close(), id="close"),
    ],
)
def test_what_a_session_gave_up_is_not_committed_and_the_file_is_free(
    store: RiskStore, give_up: Callable[[Transaction], None]
) -> None:
    with store.begin() as tx:
        tx.enforcements.add(a_log(1))
        give_up(tx)
    with store.begin() as tx:
        tx.enforcements.add(a_log(2))
    assert accounts(store) == [2]


def test_a_connection_that_was_invalidated_lets_the_file_go(store: RiskStore) -> None:
    with pytest.raises(sa.exc.PendingRollbackError), store.begin() as tx:
        tx.enforcements.add(a_log(1))
        tx.session.connection().invalidate()
    with store.begin() as tx:
        tx.enforcements.add(a_log(2))
    assert accounts(store) == [2]


def test_statements_before_and_after_a_session_is_asked_for_are_one_transaction(store: RiskStore) -> None:
    with pytest.raises(RuntimeError), store.begin() as tx:
        tx.enforcements.add(a_log(1))
        tx.session.add(a_log(2))
        tx.enforcements.add(a_log(3))
        raise RuntimeError
    assert accounts(store) == []
    with store.begin() as tx:
        tx.enforcements.add(a_log(4))
        tx.session.add(a_log(5))
        tx.enforcements.add(a_log(6))
    assert accounts(store) == [4, 5, 6]


def test_hot_statements_follow_a_map_of_schemas_as_all_others_do(store: RiskStore) -> None:
    store.engine.update_execution_options(schema_translate_map={None: "temp"})
    with pytest.raises(sa.exc.OperationalError, match=r"temp\.lockouts"), store.begin() as tx:
        tx.lockouts.set(1, "loss", "R")


@pytest.mark.parametrize("let_go", [sa.Connection.close, sa.Connection.invalidate])
@pytest.mark.parametrize("follow", ["begin", "record", "enforce", "exclusive"])
def test_a_connection_that_a_caller_kept_and_lets_go_of_later_costs_the_next_transaction_nothing(
    store: RiskStore, let_go: Callable[[sa.Connection], None], follow: str, caplog: pytest.LogCaptureFixture
) -> None:
    with store.begin() as tx:
        kept = tx.session.connection()
        tx.enforcements.add(a_log(1))
    let_go(kept)
    if follow == "begin":
        with store.begin() as tx:
            tx.session.add(a_log(2))
    elif follow == "record":
        store.record(a_log(2))
    else:
        with store.enforce(2, "R", "A", "x", exclusive=follow == "exclusive"):
            pass
    assert accounts(store) == [1, 2]
    assert not caplog.records

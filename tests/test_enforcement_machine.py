"""Enforcements, lockouts and crashes in any order, beside a simple model of what must be true afterwards."""

import dataclasses
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from risk_store import EnforcementInProgress, Limits, RiskStore, enforcement
from risk_store.models import Base
from risk_store.owner import this_process

START = datetime(2026, 11, 23, 15, 30, tzinfo=UTC)
DEAD = dataclasses.replace(this_process(), process_started="1")

accounts = st.integers(1, 3)
rules = st.sampled_from(["RULE-001", "RULE-002"])
ends = st.one_of(st.none(), st.integers(-30, 300))  # minutes from now; None is until released


class Machine(RuleBasedStateMachine):
    """The store, and the model: what is locked until when, what is in the log, what was left behind by the dead."""

    url: str

    @initialize()
    def begin(self) -> None:
        self.now = START
        self.seconds = 0.0
        # Half a second, the default for an intent, is over now and then on a machine that others use.
        limits = Limits(intent_s=30.0, record_s=30.0)
        self.store = RiskStore(self.url, clock=lambda: self.now, monotonic=lambda: self.seconds, limits=limits)
        with self.store.begin() as tx:
            for table in Base.metadata.sorted_tables:
                tx.session.execute(sa.delete(table))
        self.locked: dict[int, datetime | None] = {}
        self.log: list[tuple[Any, ...]] = []
        self.dead: list[tuple[int, str]] = []

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()

    # The model

    def is_locked(self, account: int) -> bool:
        return account in self.locked and (self.locked[account] is None or self.now < self.locked[account])  # type: ignore[operator]

    def lock(self, account: int, until: datetime | None) -> None:
        """The longer of two holds."""
        if self.is_locked(account):
            running = self.locked[account]
            if running is None or (until is not None and until <= running):
                return
        self.locked[account] = until

    def instant(self, minutes: int | None) -> datetime | None:
        return None if minutes is None else self.now + timedelta(minutes=minutes)

    # What happens

    @rule(minutes=st.integers(0, 200))
    def time_passes(self, minutes: int) -> None:
        self.now += timedelta(minutes=minutes)

    @rule(
        account=accounts, rule_id=rules, lock=st.booleans(), minutes=ends, closed=st.integers(0, 3), fails=st.booleans()
    )
    def enforce(self, account: int, rule_id: str, lock: bool, minutes: int | None, closed: int, fails: bool) -> None:
        until = self.instant(minutes)
        asked: dict[str, Any] = {"lock_until": until} if lock else {}
        with self.store.enforce(account, rule_id, "CLOSE", "loss", **asked) as running:
            self.seconds += 0.25
            running.positions_closed = closed
            if fails:
                running.fail("rejected")
        if lock:
            self.lock(account, until)
        self.log.append((account, rule_id, "CLOSE", not fails, closed, 250))

    @rule(account=accounts, rule_id=rules)
    def enforce_within_an_enforcement(self, account: int, rule_id: str) -> None:
        with self.store.enforce(account, rule_id, "OUTER", "loss"):
            with pytest.raises(EnforcementInProgress):
                self.store.enforce(account, rule_id, "INNER", "loss", exclusive=True).__enter__()
            with self.store.enforce(account, rule_id, "INNER", "loss"):
                pass
        self.log += [(account, rule_id, "INNER", True, 0, 0), (account, rule_id, "OUTER", True, 0, 0)]

    @rule(account=accounts, minutes=ends)
    def lock_out_in_an_enforcement(self, account: int, minutes: int | None) -> None:
        until = self.instant(minutes)
        with self.store.enforce(account, "RULE-001", "LOCK", "loss") as running:
            running.lock_out(until, "found worse")
            self.lock(account, until)
            with self.store.read() as tx:
                assert tx.lockouts.is_locked(account) is self.is_locked(account)
        self.log.append((account, "RULE-001", "LOCK", True, 0, 0))

    @rule(account=accounts, minutes=ends)
    def lock_out(self, account: int, minutes: int | None) -> None:
        until = self.instant(minutes)
        with self.store.begin() as tx:
            tx.lockouts.set(account, "by hand", "RULE-009", until)
        self.lock(account, until)

    @rule(account=accounts)
    def release(self, account: int) -> None:
        with self.store.begin() as tx:
            assert tx.lockouts.release(account, "reviewed", by="ann") is self.is_locked(account)
        if self.is_locked(account):
            del self.locked[account]
            self.log.append((account, None, "RELEASE_LOCKOUT", True, 0, None))

    @rule()
    def expire(self) -> None:
        with self.store.begin() as tx:
            ended = tx.lockouts.expire()
        over = {account for account in self.locked if not self.is_locked(account)}
        assert set(ended) == over
        for account in over:
            del self.locked[account]

    @rule(account=accounts, rule_id=rules, lock=st.booleans(), minutes=ends, exclusive=st.booleans())
    def crash_in_the_block(self, account: int, rule_id: str, lock: bool, minutes: int | None, exclusive: bool) -> None:
        until = self.instant(minutes)
        asked: dict[str, Any] = {"lock_until": until} if lock else {}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(enforcement, "this_process", lambda: DEAD)
            running = self.store.enforce(account, rule_id, "CLOSE", "loss", exclusive=exclusive, **asked)
            running.__enter__()
        running._call.cancel()  # of this process nothing is left
        running._leave()
        if lock:
            self.lock(account, until)
        self.dead.append((account, running.enforcement_id))

    @precondition(lambda self: self.dead)
    @rule(data=st.data())
    def recover(self, data: st.DataObject) -> None:
        account, enforcement_id = data.draw(st.sampled_from(self.dead))
        [found] = [item for item in self.store.interrupted() if item.row.enforcement_id == enforcement_id]
        log = self.store.close_interrupted(found, "looked up")
        assert (log.account_id, log.success) == (account, False)
        self.dead.remove((account, enforcement_id))
        self.log.append((account, found.row.rule_id, "CLOSE", False, 0, None))

    # What must be true

    @invariant()
    def the_store_is_as_the_model_says(self) -> None:
        if not hasattr(self, "store"):
            return
        with self.store.read() as tx:
            for account in (1, 2, 3):
                assert tx.lockouts.is_locked(account) is self.is_locked(account), account
            running = {account for account in self.locked if self.is_locked(account)}
            assert {lockout.account_id for lockout in tx.lockouts.active()} == running
            logs = list(tx.enforcements.list(limit=10_000))[::-1]
            in_flight = {(row.account_id, row.enforcement_id) for row in tx.enforcements.in_flight()}
        assert [
            (
                log.account_id,
                None if log.action == "RELEASE_LOCKOUT" else log.rule_id,
                log.action,
                log.success,
                log.positions_closed,
                log.execution_time_ms,
            )
            for log in logs
        ] == self.log
        assert in_flight == set(self.dead)
        assert {(item.row.account_id, item.row.enforcement_id) for item in self.store.interrupted()} == in_flight


def _run(url: str, examples: int) -> None:
    machine = type("Machine", (Machine,), {"url": url})
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        machine,
        settings=settings(max_examples=examples, stateful_step_count=25, suppress_health_check=list(HealthCheck)),
    )


def test_any_sequence_on_sqlite_ends_as_the_model_says(sqlite_template: Path, tmp_path: Path) -> None:
    _run(f"sqlite:///{shutil.copy(sqlite_template, tmp_path / 'risk.db')}", 40)


def test_any_sequence_on_postgresql_ends_as_the_model_says(postgres_store_url: str) -> None:
    _run(postgres_store_url, 15)


@pytest.mark.full
def test_many_sequences_on_sqlite_end_as_the_model_says(sqlite_template: Path, tmp_path: Path) -> None:
    _run(f"sqlite:///{shutil.copy(sqlite_template, tmp_path / 'risk.db')}", 400)


@pytest.mark.full
def test_many_sequences_on_postgresql_end_as_the_model_says(postgres_store_url: str) -> None:
    _run(postgres_store_url, 200)

"""Records that could not be written, read back from the program's own log."""

import json
import logging
import shutil
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from risk_store import EnforcementLog, EnforcementNotRecorded, InvalidValue, Limits, RiskStore
from risk_store.spilled import Spilled, read_back
from tests.support.command import run


@pytest.fixture
def file(sqlite_template: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(sqlite_template, tmp_path / "risk.db"))


def spill(file: Path, log_file: Path, **asked: object) -> str:
    """Carries out an enforcement while somebody holds the database, with the log in a file; its enforcement_id."""
    handler = logging.FileHandler(log_file)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s [%(name)s] %(message)s"))
    logger = logging.getLogger("risk_store")
    logger.addHandler(handler)
    try:
        with RiskStore(f"sqlite:///{file}", limits=Limits(0.05, 0.1)) as store:
            with store.read() as tx:
                tx.enforcements.list()
            with closing(sqlite3.connect(file, isolation_level=None)) as holder:
                holder.execute("BEGIN IMMEDIATE")
                with (
                    pytest.raises(EnforcementNotRecorded),
                    store.enforce(7, "RULE-003", "CLOSE_ALL", 'loss, "quoted"\nand more', **asked) as enforcement,  # type: ignore[arg-type]
                ):
                    enforcement.positions_closed = 3
                    enforcement.detail(observed=-550.25)
        return enforcement.enforcement_id
    finally:
        logger.removeHandler(handler)
        handler.close()


def test_an_enforcement_that_could_not_be_recorded_is_imported_whole_and_once(file: Path, tmp_path: Path) -> None:
    until = datetime.now(UTC) + timedelta(hours=5)
    enforcement_id = spill(file, tmp_path / "daemon.log", lock_until=until)
    (tmp_path / "daemon.log").write_text("nothing of ours\n" + (tmp_path / "daemon.log").read_text() + '{"event": 5}\n')
    first = run("import", str(file), str(tmp_path / "daemon.log"))
    assert (first.returncode, first.stdout) == (0, "1 record written, 0 in the store already\n")
    second = run("import", str(file), str(tmp_path / "daemon.log"))
    assert second.stdout == "0 records written, 1 in the store already\n"
    with RiskStore(f"sqlite:///{file}") as store, store.read() as tx:
        [log] = tx.enforcements.list()
        assert (log.enforcement_id, log.positions_closed, log.success) == (enforcement_id, 3, True)
        assert (log.reason, json.loads(log.details or "")) == ('loss, "quoted"\nand more', {"observed": -550.25})
        lockout = tx.lockouts.get(7)
        assert lockout is not None
        assert lockout.locked_until == until
        assert list(tx.enforcements.in_flight()) == []


def test_an_import_sets_no_lockout_that_is_over_and_shortens_none(file: Path, tmp_path: Path) -> None:
    spill(file, tmp_path / "daemon.log", lock_until=datetime.now(UTC) + timedelta(milliseconds=1))
    run("import", str(file), str(tmp_path / "daemon.log"))
    with RiskStore(f"sqlite:///{file}") as store:
        with store.begin() as tx:
            assert not tx.lockouts.is_locked(7)
            tx.lockouts.set(7, "until released", "RULE-001")
        spill(file, tmp_path / "again.log", lock_until=datetime.now(UTC) + timedelta(hours=5))
        run("import", str(file), str(tmp_path / "again.log"))
        with store.read() as tx:
            lockout = tx.lockouts.get(7)
            assert lockout is not None
            assert lockout.reason == "until released"


def test_an_account_that_was_released_meanwhile_is_not_locked_again(file: Path, tmp_path: Path) -> None:
    """The intent could not be written, the outcome could, and it had the lockout with it."""
    log_file = tmp_path / "daemon.log"
    handler = logging.FileHandler(log_file)
    logger = logging.getLogger("risk_store")
    logger.addHandler(handler)
    with RiskStore(f"sqlite:///{file}", limits=Limits(intent_s=0.05)) as store:
        with store.read() as tx:
            tx.enforcements.list()
        with closing(sqlite3.connect(file, isolation_level=None)) as holder:
            holder.execute("BEGIN IMMEDIATE")
            with store.enforce(7, "RULE-003", "CLOSE_ALL", "loss", lock_until=None):
                holder.rollback()
        with store.begin() as tx:
            assert tx.lockouts.release(7, "reviewed", by="ann")
        logger.removeHandler(handler)
        handler.close()
        assert "enforcement begun without an in-flight row" in log_file.read_text()
        assert run("import", str(file), str(log_file)).stdout == "0 records written, 0 in the store already\n"
        with store.read() as tx:
            assert not tx.lockouts.is_locked(7)


def test_a_line_that_is_cut_off_is_named_and_the_others_are_written(file: Path, tmp_path: Path) -> None:
    spill(file, tmp_path / "one.log")
    text = (tmp_path / "one.log").read_text()
    record = text.splitlines()[-1]
    facts = json.loads(record[record.index("{") :])
    bad = json.dumps(facts | {"enforcement_id": None}), json.dumps(facts | {"account_id": -5, "enforcement_id": "x"})
    (tmp_path / "daemon.log").write_text("\n".join([record[:-40], *bad, record]))
    result = run("import", str(file), str(tmp_path / "daemon.log"))
    assert (result.returncode, result.stdout) == (1, "1 record written, 0 in the store already\n")
    *told, last = result.stderr.splitlines()
    assert [line.partition(": ")[2].partition(":")[0] for line in told] == ["line 1", "line 2", "line 3"]
    assert last == f"risk-store: 3 refused, with reasons: {tmp_path}/daemon.log.rejected.jsonl"
    assert "enforcement_id is None" in told[1]
    assert "account_id" in told[2]


def test_one_that_was_closed_as_interrupted_meanwhile_comes_as_late(file: Path, tmp_path: Path) -> None:
    with RiskStore(f"sqlite:///{file}") as store:
        enforcement = store.enforce(7, "RULE-003", "CLOSE_ALL", "loss")
        enforcement.__enter__()
        enforcement._call.cancel()
        with store.begin() as tx:
            tx.enforcements.close(tx.enforcements.in_flight()[0], "thought dead")
        row = EnforcementLog(
            account_id=7, rule_id="RULE-003", action="CLOSE_ALL", reason="loss", success=True, execution_time_ms=9,
            enforcement_id=enforcement.enforcement_id,
        )  # fmt: skip
        line = json.dumps({"event": "enforcement not recorded", **row.to_dict()})
        for new in (True, False):
            [spilled] = read_back([line])
            assert isinstance(spilled, Spilled)
            with store.begin() as tx:
                assert spilled.write(tx, datetime.now(UTC)) is new
        with store.read() as tx:
            assert [log.enforcement_id for log in tx.enforcements.list()] == [
                f"{enforcement.enforcement_id}:late",
                enforcement.enforcement_id,
            ]


@given(st.lists(st.text() | st.builds('{{"event": "{}'.format, st.text(max_size=40)), max_size=5))
def test_whatever_a_log_holds_reading_it_back_never_fails(lines: list[str]) -> None:
    for found in read_back(lines):
        assert isinstance(found, (Spilled, InvalidValue))


def test_standard_input_is_a_file_too(file: Path, tmp_path: Path) -> None:
    spill(file, tmp_path / "daemon.log")
    lines = (tmp_path / "daemon.log").read_text()
    assert run("import", str(file), "-", stdin=lines).stdout == "1 record written, 0 in the store already\n"
    assert run("import", str(file), str(tmp_path / "missing.log")).returncode == 1

"""Transactions of the store, the same on each engine."""

import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.orm import Session

from risk_store import (
    EnforcementLog,
    EnforcementLogRepository,
    InvalidValue,
    NestedTransaction,
    Order,
    OrderRepository,
    OrderSide,
    OrderState,
    OrderType,
    Position,
    PositionType,
    RiskStore,
    SchemaMismatch,
    StoreClosed,
    deadlines,
)
from risk_store.engines import open_engine
from risk_store.repositories import Transaction
from risk_store.schema import HEAD


def limit_order(order_id: int, account_id: int = 456) -> Order:
    return Order(
        id=order_id,
        account_id=account_id,
        contract_id="CON.F.US.MNQ.U25",
        type=OrderType.LIMIT,
        side=OrderSide.BUY,
        size=2,
        limit_price=21000.25,
        state=OrderState.ACTIVE,
    )


def log_row(account_id: int = 456) -> EnforcementLog:
    return EnforcementLog(account_id=account_id, rule_id="RULE-003", action="CLOSE_ALL", reason="loss", success=True)


def test_orders_log_rows_and_lockouts_of_one_transaction_are_read_back(store: RiskStore) -> None:
    with store.begin() as tx:
        tx.orders.save(limit_order(1))
        written = tx.enforcements.add(log_row())
        tx.lockouts.set(456, "Daily loss limit hit", "RULE-003")
    with store.read() as tx:
        assert [order.id for order in tx.orders.working(456)] == [1]
        assert written.id is not None
        assert tx.enforcements.get(written.id) == written
        assert tx.lockouts.is_locked(456)
        assert not tx.lockouts.is_locked(457)


def test_an_exception_in_the_block_leaves_nothing_of_it(store: RiskStore) -> None:
    with pytest.raises(RuntimeError, match="in the middle"), store.begin() as tx:
        tx.orders.save(limit_order(1))
        tx.lockouts.set(456, "Daily loss limit hit", "RULE-003")
        raise RuntimeError("in the middle")
    with store.read() as tx:
        assert tx.orders.working() == []
        assert not tx.lockouts.is_locked(456)


def test_objects_can_be_used_after_their_transaction(store: RiskStore) -> None:
    with store.begin() as tx:
        tx.orders.save(limit_order(1))
    with store.read() as tx:
        order = tx.orders.get(1)
    assert order is not None
    assert (order.type, order.limit_price) == (OrderType.LIMIT, 21000.25)


def test_writing_in_a_read_transaction_is_refused_and_writes_nothing(store: RiskStore) -> None:
    with pytest.raises(Exception, match=r"(?i)read-?only"), store.read() as tx:
        tx.orders.save(limit_order(1))
    with store.read() as tx:
        assert tx.orders.get(1) is None


def test_a_transaction_within_a_transaction_is_refused_at_once(store: RiskStore) -> None:
    with store.begin():
        with pytest.raises(NestedTransaction), store.begin():
            pass
        with pytest.raises(NestedTransaction):
            store.enforce(456, "RULE-003", "CLOSE_ALL", "loss")
    with store.begin() as tx:  # and the store goes on
        tx.orders.save(limit_order(1))


def test_reading_while_this_thread_writes_sees_the_committed_state(store: RiskStore) -> None:
    with store.begin() as tx:
        tx.orders.save(limit_order(1))
        tx.session.flush()
        with store.read() as other:
            assert other.orders.get(1) is None


def test_models_without_a_repository_serve_through_the_session(store: RiskStore) -> None:
    opened = datetime(2026, 8, 19, 14, 15, 48, 611387, tzinfo=UTC)
    position = Position(
        id=825245547,
        account_id=456,
        contract_id="CON.F.US.MNQ.U26",
        type=PositionType.SHORT,
        size=2,
        average_price=28446.375,
        created_at=opened,
    )
    with store.begin() as tx:
        tx.session.add(position)
    with store.read() as tx:
        found = tx.session.get(Position, 825245547)
        assert found is not None
        assert (found.type, found.average_price, found.created_at) == (PositionType.SHORT, 28446.375, opened)


def test_repositories_work_in_a_session_of_the_callers_own(store: RiskStore) -> None:
    with Session(store.engine) as session:
        OrderRepository(session).save(limit_order(1))
        EnforcementLogRepository(session).add(log_row())
        session.rollback()
        OrderRepository(session).save(limit_order(2))
        session.commit()
    with Session(store.engine) as session:
        assert [order.id for order in OrderRepository(session).working()] == [2]
        assert session.scalar(sa.select(sa.func.count()).select_from(EnforcementLog)) == 0


def test_analytics_are_expressions_that_a_caller_can_go_on_with(store: RiskStore) -> None:
    with store.begin() as tx:
        for milliseconds in (100, 300):
            row = log_row()
            row.execution_time_ms = milliseconds
            tx.enforcements.add(row)
    by_rule = EnforcementLogRepository.statements.time_by_rule().subquery()
    with store.read() as tx:
        query = sa.select(by_rule.c.rule_id, by_rule.c.avg_time_ms).where(by_rule.c.enforcement_count >= 2)
        assert tx.session.execute(query).all() == [("RULE-003", 200.0)]


def test_a_refused_value_arrives_as_itself_and_names_its_column(store: RiskStore) -> None:
    order = limit_order(1)
    order.limit_price = float("nan")  # set after construction: the column refuses it
    with pytest.raises(InvalidValue, match=r"orders\.limit_price: nan is not a finite number"), store.begin() as tx:
        tx.session.add(order)


def test_threads_that_share_a_store_all_get_their_turn(store: RiskStore) -> None:
    errors: list[BaseException] = []

    def work(account_id: int) -> None:
        try:
            for _ in range(10):
                with store.begin() as tx:
                    tx.enforcements.add(log_row(account_id))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(account,)) for account in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    with store.read() as tx:
        assert len(tx.enforcements.list(limit=1000)) == 80


def test_a_closed_store_says_what_to_do(store: RiskStore) -> None:
    store.close()
    with pytest.raises(StoreClosed, match="Make a new RiskStore"), store.begin():
        pass
    with pytest.raises(StoreClosed), store.read():
        pass


def test_a_store_on_a_database_behind_refuses_until_it_is_upgraded(store_url: str) -> None:
    with RiskStore(store_url) as store:
        with store.engine.begin() as connection:
            connection.exec_driver_sql("UPDATE risk_store_version SET version_num = '0002'")
        with pytest.raises(SchemaMismatch, match="found revision 0002") as caught, store.begin():
            pass
        assert caught.value.status.command is not None
        with store.engine.begin() as connection:
            connection.exec_driver_sql(f"UPDATE risk_store_version SET version_num = '{HEAD}'")
        with store.begin() as tx:  # the verdict was not kept
            tx.orders.save(limit_order(1))


def test_a_store_that_was_closed_leaves_one_file(tmp_path: Path) -> None:
    with RiskStore(f"sqlite:///{tmp_path}/risk.db") as store:
        store.upgrade()
        with store.begin() as tx:
            tx.orders.save(limit_order(1))
        with store.read() as tx:
            assert tx.orders.get(1) is not None
    assert [file.name for file in tmp_path.iterdir()] == ["risk.db"]


def test_a_store_keeps_its_file_when_the_process_changes_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with RiskStore("sqlite:///risk.db") as store:
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        store.upgrade()
        with store.begin() as tx:
            tx.orders.save(limit_order(1))
    assert (tmp_path / "risk.db").is_file()
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_read_transaction_sees_one_moment(store: RiskStore) -> None:
    with store.begin() as tx:  # the first write sets WAL, in which a reader and the writer do not wait for each other
        tx.orders.save(limit_order(1))
    with store.read() as tx:
        assert len(tx.orders.working()) == 1
        with store.begin() as other:
            other.orders.save(limit_order(2))
        assert len(tx.orders.working()) == 1


def test_a_verdict_inside_an_in_memory_transaction_is_refused_and_loses_nothing() -> None:
    with RiskStore("sqlite://") as store:
        store.upgrade()
        with store.begin() as tx:
            tx.orders.save(limit_order(1))
            with pytest.raises(NestedTransaction):
                store.status()
        with store.read() as tx:
            assert len(tx.orders.working()) == 1


def test_the_session_of_a_transaction_is_its_own_and_what_it_is_told_holds(store: RiskStore) -> None:
    with pytest.raises(RuntimeError), store.begin() as tx:
        tx.session.add(limit_order(1))
        tx.orders.save(limit_order(2))
        raise RuntimeError
    with store.begin() as tx:
        tx.orders.save(limit_order(3))
        tx.session.rollback()
    with store.begin() as tx:
        tx.orders.save(limit_order(4))
        tx.session.close()
    with pytest.raises(InvalidRequestError), store.begin() as tx:
        tx.lockouts.set(5, "loss", "R")
        tx.session.rollback()
        tx.lockouts.set(6, "loss", "R")
    with pytest.raises(RuntimeError), store.begin() as tx:
        tx.session.add(limit_order(7))
        tx.session.commit()
        raise RuntimeError
    with store.begin() as tx:
        tx.session.add(limit_order(8))
        assert tx.orders.get(8) is not None  # what is pending is written before a statement of the repositories
        with pytest.raises(ValueError, match="back"), tx.session.begin_nested():
            tx.session.add(limit_order(9))
            raise ValueError("back")
        tx.session.add(limit_order(10))
    with store.read() as tx:
        assert [order.id for order in tx.orders.working()] == [7, 8, 10]
        assert list(tx.lockouts.active()) == []


def test_what_a_listener_adds_at_the_end_is_written_too(store: RiskStore) -> None:
    added = [limit_order(2)]
    with store.begin() as tx:
        sa.event.listen(
            tx.session, "after_flush_postexec", lambda session, _context: added and session.add(added.pop())
        )
        tx.session.add(limit_order(1))
    with store.read() as tx:
        assert sorted(order.id for order in tx.orders.working()) == [1, 2]


def test_a_pending_object_that_must_not_be_written_yet_is_not(store: RiskStore) -> None:
    with store.begin() as tx:
        with tx.session.no_autoflush:
            half = limit_order(1)
            half.size = None  # type: ignore[assignment]
            tx.session.add(half)
            assert not tx.lockouts.is_locked(1)
        half.size = 1
    with store.read() as tx:
        assert [order.size for order in tx.orders.working()] == [1]


def test_a_transaction_that_is_over_is_over(store: RiskStore) -> None:
    with store.begin() as tx:
        pass
    with pytest.raises(StoreClosed, match="this transaction is over"):
        tx.lockouts.is_locked(1)
    with store.begin() as later:
        assert later.lockouts.set(1, "loss", "R")


def test_rows_may_be_made_by_reading_in_the_same_transaction(store: RiskStore) -> None:
    def rows(tx: Transaction) -> Iterator[EnforcementLog]:
        for number in range(1, 12_201):
            if number % 500 == 1:
                assert not tx.lockouts.is_locked(number)
            yield EnforcementLog(account_id=number, rule_id="R", action="A", reason="x", success=True)

    with store.begin() as tx:
        told: list[bool] = []
        count = tx.enforcements.add_many(rows(tx), lambda _count: told.append(tx.lockouts.is_locked(1)))
    assert (count, set(told), len(told) > 1) == (12_200, {False}, True)


@pytest.mark.parametrize("engine", ["postgresql"], indirect=True)
def test_a_connection_is_tested_when_it_was_idle_or_has_something_to_say(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def use() -> int:
        with engine.connect() as connection:
            return int(connection.scalar(sa.text("SELECT pg_backend_pid()")))

    tests: list[object] = []
    ping = engine.dialect.do_ping
    monkeypatch.setattr(engine.dialect, "do_ping", lambda raw: (tests.append(raw), ping(raw))[1])
    first = use()
    assert (use(), len(tests)) == (first, 0)
    monkeypatch.setattr(deadlines, "_BELIEVED_S", 0.0)
    assert (use(), len(tests)) == (first, 0)
    assert (use(), len(tests)) == (first, 1)
    monkeypatch.undo()
    use()
    other = open_engine(engine.url, "store")
    with other.connect() as connection:
        connection.execute(sa.text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": first})
    other.dispose()
    assert use() != first

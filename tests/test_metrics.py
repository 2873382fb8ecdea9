"""What Prometheus is told: names, labels, and the thresholds as edges of the buckets."""

import time
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from risk_store import EnforcementNotRecorded, Limits, Order, OrderSide, OrderState, OrderType, RiskStore, Thresholds
from risk_store.metrics import Metrics
from risk_store.schema import HEAD

LABELS = {"rule": "RULE-003", "action": "CLOSE_ALL"}


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def test_enforcements_are_counted_by_outcome_and_timed_between_the_thresholds(store_url: str) -> None:
    metrics = Metrics(registry=CollectorRegistry())
    seconds = 0.0
    with RiskStore(store_url, monotonic=lambda: seconds, metrics=metrics) as store:
        for took, fails in [(0.1, False), (0.5, True), (0.6, False), (2.5, False), (6.0, False)]:
            with store.enforce(1, "RULE-003", "CLOSE_ALL", "loss") as enforcement:
                seconds += took
                if fails:
                    enforcement.fail("rejected")
    for outcome, count in [("success", 3), ("failure", 1), ("timeout", 1)]:
        assert value(metrics, "risk_store_enforcements_total", outcome=outcome, **LABELS) == count
    bucket = "risk_store_enforcement_duration_seconds_bucket"
    edges = {"0.25": 1, "0.5": 2, "1.0": 3, "2.0": 3, "5.0": 4, "10.0": 5, "+Inf": 5}
    for edge, count in edges.items():
        assert value(metrics, bucket, le=edge, **LABELS) == count
    for level, count in [("WARNING", 1), ("CRITICAL", 1), ("TIMEOUT", 1)]:
        assert value(metrics, "risk_store_alerts_total", rule="RULE-003", level=level, running="false") == count


def test_thresholds_of_ones_own_are_edges_too() -> None:
    metrics = Metrics(Thresholds(30, 700, 9000), registry=CollectorRegistry())
    text = generate_latest(metrics.registry)
    assert b"enforcement" in text
    metrics.observe(_log(29))
    for edge in ("0.03", "0.7", "9.0"):
        assert value(metrics, "risk_store_enforcement_duration_seconds_bucket", le=edge, **LABELS) == 1


def _log(took_ms: int) -> object:
    from risk_store import EnforcementLog

    return EnforcementLog(rule_id="RULE-003", action="CLOSE_ALL", success=True, execution_time_ms=took_ms)


def test_the_thresholds_of_the_environment_are_the_edges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RISK_STORE_MONITORING__ENFORCEMENT__SLOW_THRESHOLD_MS", "70")
    metrics = Metrics(registry=CollectorRegistry())
    metrics.observe(_log(69))
    assert value(metrics, "risk_store_enforcement_duration_seconds_bucket", le="0.07", **LABELS) == 1


def test_writes_that_fail_are_counted(tmp_path: Path) -> None:
    metrics = Metrics(registry=CollectorRegistry())
    limits = Limits(0.05, 0.1)
    with (
        RiskStore(f"sqlite:///{tmp_path}/missing.db", limits=limits, metrics=metrics) as store,
        pytest.raises(EnforcementNotRecorded),
        store.enforce(1, "RULE-003", "CLOSE_ALL", "loss") as enforcement,
    ):
        enforcement.lock_out()
    for operation in ("intent", "lockout", "outcome"):
        assert value(metrics, "risk_store_write_errors_total", operation=operation) == 1
    assert value(metrics, "risk_store_enforcements_total", outcome="success", **LABELS) == 1, "it was carried out"


def test_a_block_that_hangs_is_counted_while_it_hangs(store_url: str) -> None:
    metrics = Metrics(registry=CollectorRegistry())
    alert = {"rule": "RULE-003", "level": "TIMEOUT", "running": "true"}
    with (
        RiskStore(store_url, thresholds=Thresholds(10, 20, 30), metrics=metrics) as store,
        store.enforce(1, "RULE-003", "CLOSE_ALL", "loss"),
    ):
        deadline = time.monotonic() + 30
        while value(metrics, "risk_store_alerts_total", **alert) is None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert value(metrics, "risk_store_alerts_total", **alert) == 1


def test_gauges_are_read_from_the_store_when_they_are_asked_for(store_url: str) -> None:
    metrics = Metrics(registry=CollectorRegistry())
    with RiskStore(store_url) as store:
        metrics.watch(store)
        with store.begin() as tx:
            tx.lockouts.set(1, "loss", "RULE-003")
            tx.lockouts.set(2, "loss", "RULE-003")
            tx.orders.save(
                Order(
                    id=1, account_id=1, contract_id="X", type=OrderType.STOP, side=OrderSide.SELL, size=1,
                    stop_price=1.0, state=OrderState.ACTIVE,
                )
            )  # fmt: skip
        assert value(metrics, "risk_store_lockouts_active", rule="RULE-003") == 2
        assert value(metrics, "risk_store_working_orders", type="STOP") == 1
        assert value(metrics, "risk_store_schema_info", revision=HEAD, head=HEAD) == 1
        assert b"loss" not in generate_latest(metrics.registry), "no text of anybody's"
    assert value(metrics, "risk_store_working_orders", type="STOP") is None, "a closed store ends no scrape"

"""Thresholds from the environment and from YAML: what holds, and what is refused by name."""

import sys
from pathlib import Path
from typing import Any

import pytest

from risk_store import InvalidValue, RiskStore, Thresholds
from risk_store.settings import configured_thresholds, load_thresholds

VARIABLE = "RISK_STORE_MONITORING__ENFORCEMENT__"


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in list(os.environ):
        if name.startswith("RISK_STORE_MONITORING") or name == "RISK_STORE_CONFIG":
            monkeypatch.delenv(name)


def write(folder: Path, text: str) -> Path:
    file = folder / "risk.yaml"
    file.write_text(text)
    return file


def test_the_specifications_own_file_gives_the_defaults(tmp_path: Path) -> None:
    text = """
monitoring:
  enforcement: {slow_threshold_ms: 500, critical_threshold_ms: 2000, timeout_ms: 5000}
"""
    assert load_thresholds(write(tmp_path, text)) == Thresholds()


@pytest.mark.parametrize("text", ["", "monitoring:", "monitoring: {}", "monitoring: {enforcement: }", "other: {a: 1}"])
def test_a_file_that_says_nothing_changes_nothing(tmp_path: Path, text: str) -> None:
    assert load_thresholds(write(tmp_path, text)) == Thresholds()


def test_the_environment_comes_before_the_file_setting_by_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path, "monitoring: {enforcement: {slow_threshold_ms: 100, timeout_ms: 9000}}")
    monkeypatch.setenv("RISK_STORE_CONFIG", str(file))
    assert configured_thresholds() == Thresholds(100, 2000, 9000)
    monkeypatch.setenv(f"{VARIABLE}SLOW_THRESHOLD_MS", "250")
    assert configured_thresholds() == Thresholds(250, 2000, 9000)
    with RiskStore("sqlite://") as store:
        assert store._context.thresholds == Thresholds(250, 2000, 9000)
    with RiskStore("sqlite://", thresholds=Thresholds()) as store:
        assert store._context.thresholds == Thresholds(), "objects come before everything"


def test_a_whole_group_may_stand_in_one_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RISK_STORE_MONITORING", '{"enforcement": {"timeout_ms": 9000}}')
    assert configured_thresholds().timeout_ms == 9000
    monkeypatch.setenv("RISK_STORE_MONITORING", "no JSON")
    with pytest.raises(InvalidValue, match="RISK_STORE_MONITORING"):
        configured_thresholds()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("monitoring: {enforcement: {slow_threshold_ms: 3000}}", r"critical_threshold_ms: 2000 is not more than slow"),
        ("monitoring: {enforcement: {slow_threshold_ms: fast}}", r"slow_threshold_ms: 'fast' is not a whole number"),
        ("monitoring: {enforcement: {slow_threshold_ms: true}}", r"slow_threshold_ms: True is not a whole number"),
        ("monitoring: {enforcement: {timeout_ms: .nan}}", r"timeout_ms: nan is not"),
        ("monitoring: {enforcement: {timeout_ms: -5}}", r"timeout_ms: -5 is not"),
        ("monitoring: {enforcement: {slow_ms: 5}}", r"monitoring\.enforcement\.slow_ms: 5 is not one of the settings"),
        ("monitoring: {enforcment: {}}", r"monitoring\.enforcment: {} is not one of the settings"),
        ("monitoring: 5", r"monitoring: 5 is not a group of settings"),
        ("monitoring: {enforcement: [1]}", r"monitoring\.enforcement: \[1\] is not a group"),
        ("[1, 2]", r"the file: \[1, 2\] is not a group of settings"),
        ("monitoring: {enforcement: {timeout_ms: 1, timeout_ms: 2}}", r"timeout_ms: given twice"),
        ("a: &a 1\nmonitoring: *a", r"aliases are not taken"),
        ("monitoring: !!python/object/apply:os.system ['true']", r"could not determine a constructor"),
        ("monitoring: {", r"file: .*risk\.yaml' is not YAML of settings"),
        ("#" * 70_000, r"is not a YAML file of at most 65536 bytes"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_right_is_refused_by_name(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(InvalidValue, match=named):
        load_thresholds(write(tmp_path, text))


@pytest.mark.parametrize(
    ("variable", "value", "named"),
    [
        ("SLOW_THRESHOLD_MS", "fast", f"{VARIABLE}SLOW_THRESHOLD_MS: 'fast' is not a whole number of milliseconds"),
        ("SLOW_THRESHOLD_MS", "6000", "critical_threshold_ms: 2000 is not more than slow_threshold_ms"),
        ("SLOW_MS", "5", f"{VARIABLE}SLOW_MS: '5' is not one of the settings"),
    ],
)
def test_a_variable_that_cannot_be_right_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, named: str
) -> None:
    monkeypatch.setenv(f"{VARIABLE}{variable}", value)
    with pytest.raises(InvalidValue, match=named):
        RiskStore("sqlite://")


def test_a_missing_file_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RISK_STORE_CONFIG", str(tmp_path / "missing.yaml"))
    with pytest.raises(InvalidValue, match=r"missing\.yaml' is not a YAML file that can be read"):
        configured_thresholds()


def test_where_nothing_is_configured_nothing_is_paid_for() -> None:
    import subprocess

    code = "import sys\nfrom risk_store import RiskStore\nRiskStore('sqlite://')\nassert 'pydantic' not in sys.modules"
    result: Any = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr

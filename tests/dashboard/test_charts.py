"""Charts are drawn from numbers alone, and look as they did: golden files beside this one.

After a wanted change: RISK_STORE_TEST_WRITE_GOLDEN=1 pytest tests/dashboard/test_charts.py, and look at them.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from risk_store.dashboard.charts import ChartBucket, Limit, Tick, sparkline, trend

GOLDEN = Path(__file__).parent / "golden"
LIMITS = [Limit("warning", 500), Limit("critical", 2000), Limit("timeout", 5000)]
TICKS = [Tick(0.25, "Mon", "16"), Tick(0.75, "12:00")]
TITLE = "Execution time"

TRENDS = {
    "a_lively_day": [
        ChartBucket(50 + 10 * n, 300 + 40 * n, 2000 + 500 * n, 10 * n, "critical" if n < 7 else "timeout")
        for n in range(1, 9)
    ],
    "with_gaps": [
        ChartBucket(53, 400, 430, 12),
        ChartBucket(60, 420, 700, 14, "warning"),
        ChartBucket(),
        ChartBucket(48, 51, 60, 3),
        ChartBucket(None, None, 7200, 1, "timeout"),
        ChartBucket(49, 330, 350, 9),
    ],
    "with_nothing_in_it": [ChartBucket() for _ in range(8)],
    "under_10_ms_and_over_10_s": [ChartBucket(0, 2, 3, 5), ChartBucket(9, 12_000, 75_000, 2, "timeout")],
}
SPARKS = {
    "rising": [1.0, 2.0, 4.0, 8.0],
    "flat": [3.0, 3.0, 3.0],
    "with_gaps": [5.0, None, 2.0, 9.0, None],
    "of_nothing": [None, None],
}


def as_golden(name: str, drawn: str) -> str:
    """The golden file of this name; written first if that was asked for."""
    file = GOLDEN / f"{name}.svg"
    if os.environ.get("RISK_STORE_TEST_WRITE_GOLDEN"):
        file.write_text(drawn + "\n", encoding="utf-8")
    return file.read_text(encoding="utf-8").removesuffix("\n")


@pytest.mark.parametrize("name", TRENDS)
def test_a_trend_is_drawn_as_its_golden_file(name: str) -> None:
    drawn = trend(TRENDS[name], LIMITS, TICKS, 2000, TITLE)
    assert drawn == as_golden(f"trend_{name}", drawn)


@pytest.mark.parametrize("name", SPARKS)
def test_a_sparkline_is_drawn_as_its_golden_file(name: str) -> None:
    drawn = sparkline(SPARKS[name], "Daily average")
    assert drawn == as_golden(f"sparkline_{name}", drawn)


times = st.none() | st.floats(0, 1e12)


@given(st.lists(st.builds(ChartBucket, times, times, times, st.integers(0, 10**9), st.just("timeout")), max_size=60))
def test_whatever_the_times_a_trend_is_well_formed_and_stays_within_its_height(buckets: list[ChartBucket]) -> None:
    drawn = trend(buckets, LIMITS, TICKS, 2000, TITLE)
    root = ElementTree.fromstring(f"<all>{drawn}</all>")
    for element in root.iter():
        for name in ("y", "y1", "y2", "cy"):
            assert 0 <= float(element.get(name, "0")) <= 272, (element.tag, element.attrib)
    assert not re.search(r"nan|inf|e[+-]\d", re.sub('aria-label="[^"]*"', "", drawn)), drawn


@given(st.lists(st.none() | st.floats(0, 1e12), max_size=60))
def test_whatever_the_values_a_sparkline_is_well_formed(values: list[float | None]) -> None:
    root = ElementTree.fromstring(sparkline(values, 'a "title" & <more>'))
    assert root.get("aria-label") == 'a "title" & <more>'
    for path in root:
        assert all(0 <= float(number) <= 106 for number in re.findall(r"[\d.]+", path.get("d", "")))


def test_no_chart_has_what_a_strict_policy_refuses() -> None:
    drawn = trend(TRENDS["with_gaps"], LIMITS, TICKS, 2000, TITLE) + sparkline([1.0, 2.0], "x")
    assert not re.search(r"style=|<style|<script|\bon\w+=|href|url\(", drawn)


def test_each_threshold_has_its_name_beside_its_line_however_close_they_are() -> None:
    close = [Limit("warning", 500), Limit("critical", 505), Limit("timeout", 510)]
    drawn = trend(TRENDS["a_lively_day"], close, [], 2000, TITLE)
    labels = {name: float(y) for name, y in re.findall(r'<text class="(\w+)" x="6" y="([\d.]+)"', drawn)}
    assert labels["warning"] - labels["critical"] >= 11
    assert labels["critical"] - labels["timeout"] >= 11


def test_a_dot_is_drawn_for_the_worst_of_a_bucket_only_over_the_limit() -> None:
    drawn = trend([ChartBucket(1, 2, 2000, 1), ChartBucket(1, 2, 2001, 1, "critical")], LIMITS, [], 2000, TITLE)
    assert re.findall(r'<circle class="(\w*)" cx="([\d.]+%)"', drawn) == [("critical", "75.00%")]

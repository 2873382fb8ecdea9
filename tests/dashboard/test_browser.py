"""The page in headless Chromium, as people see it. Run with `pytest -m browser` (the extra [browser], and Chromium)."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from risk_store import EnforcementLog, RiskStore
from risk_store.dashboard.app import application
from risk_store.dashboard.reader import Reader
from risk_store.dashboard.server import bind
from tests.dashboard.conftest import trailing_stop

pytestmark = pytest.mark.browser
HOSTILE = "<script>window.hacked=1</script><img src=x onerror='window.hacked=1'>" + "y" * 2000


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    found = os.environ.get("RISK_STORE_TEST_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    assert found, "no Chromium here: apt-get install chromium, or RISK_STORE_TEST_CHROMIUM=PATH"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def store(file: Path) -> Iterator[RiskStore]:
    now = datetime.now(UTC)
    with RiskStore(f"sqlite:///{file}") as opened:
        with opened.begin() as tx:
            tx.enforcements.add_many(
                EnforcementLog(
                    account_id=26000001 + n % 3,
                    rule_id=f"RULE-{n % 12 + 1:03} SomeQuiteLongRuleName",
                    action="CLOSE_ALL_AND_LOCKOUT",
                    reason=HOSTILE if n % 50 == 0 else "Daily loss limit hit",
                    success=True,
                    execution_time_ms=(n * 37) % 900 + (6000 if n % 400 == 0 else 0),
                    timestamp=now - timedelta(minutes=5 * n),
                )
                for n in range(2000)
            )
            tx.lockouts.set(26000001, HOSTILE, "RULE-003", now + timedelta(hours=5))
            tx.orders.save(trailing_stop(26000001))
        yield opened


@pytest.fixture
def address(store: RiskStore, file: Path) -> Iterator[str]:
    """The dashboard of that store, served."""
    reader = Reader(f"sqlite:///{file}")
    bound = bind("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(application(reader), log_level="warning", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
    thread.start()
    yield f"http://127.0.0.1:{bound.getsockname()[1]}"
    server.should_exit = True
    thread.join()
    bound.close()
    reader.close()


class Watched:
    """A page, with what it said on the console and asked for."""

    def __init__(self, browser: Any, width: int = 1280, height: int = 900, **options: Any) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": height}, **options)
        self.page = self.context.new_page()
        self.console: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.console.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.console.append(f"error: {error}"))
        self.page.on("request", lambda request: self.asked.append(request.url))


@pytest.fixture
def watch(chromium: Any) -> Iterator[Any]:
    opened: list[Watched] = []

    def open_(**options: Any) -> Watched:
        opened.append(Watched(chromium, **options))
        return opened[-1]

    yield open_
    for each in opened:
        each.context.close()


def test_it_runs_clean_under_its_policy_and_asks_nobody_else(watch: Any, address: str) -> None:
    seen = watch()
    seen.page.goto(address)
    seen.page.locator(".chart .plot").hover()
    seen.page.locator("summary").first.click()
    seen.page.locator("a.soft", has_text="1d").click()
    seen.page.wait_for_url("**days=1")
    assert seen.console == []
    assert all(url.startswith(address) for url in seen.asked), seen.asked
    assert seen.page.evaluate("window.hacked") is None
    assert seen.page.locator("img").count() == 0


def test_a_new_enforcement_appears_by_itself(watch: Any, address: str, store: RiskStore) -> None:
    seen = watch()
    seen.page.goto(f"{address}/?refresh=1")
    assert seen.page.locator("#pill").inner_text() == "live"
    log = EnforcementLog(
        account_id=1, rule_id="RULE-999", action="A", reason="seen live", success=True, execution_time_ms=5
    )
    store.record(log)
    seen.page.locator(".latest", has_text="seen live").wait_for(timeout=20_000)
    assert seen.console == []


def test_nothing_is_swapped_while_nothing_changed(watch: Any, address: str) -> None:
    seen = watch()
    answers: list[int] = []
    seen.page.on("response", lambda response: answers.append(response.status))
    seen.page.goto(f"{address}/?refresh=1")
    seen.page.wait_for_function("() => true")
    deadline = time.monotonic() + 30
    while answers.count(304) < 2 and time.monotonic() < deadline:
        seen.page.wait_for_timeout(200)
    assert answers.count(304) >= 2, answers


def test_pause_stops_asking_and_is_kept_in_the_address(watch: Any, address: str) -> None:
    seen = watch()
    seen.page.goto(f"{address}/?refresh=1")
    seen.page.locator("#pause").click()
    seen.page.locator("#pill", has_text="paused").wait_for()
    assert "refresh=0" in seen.page.url
    seen.page.wait_for_timeout(300)
    before = len(seen.asked)
    seen.page.wait_for_timeout(2500)
    assert len(seen.asked) == before
    seen.page.reload()
    assert seen.page.locator("#pill").inner_text() == "paused"
    seen.page.locator("#pause").click()
    seen.page.locator("#pill", has_text="live").wait_for()


def ground(page: Any) -> str:
    return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))


DARK, LIGHT = "rgb(12, 17, 24)", "rgb(244, 246, 249)"


@pytest.mark.parametrize(("system", "first", "then"), [("dark", DARK, LIGHT), ("light", LIGHT, DARK)])
def test_the_theme_is_the_systems_until_the_button_is_used_and_is_then_kept(
    watch: Any, address: str, system: str, first: str, then: str
) -> None:
    seen = watch(color_scheme=system)
    seen.page.goto(address)
    assert ground(seen.page) == first
    seen.page.locator("#theme").click()
    seen.page.wait_for_url("**theme=*")
    assert ground(seen.page) == then
    seen.page.reload()
    assert ground(seen.page) == then
    seen.page.goto(f"{address}/?days=30")  # an address without a theme: as it was chosen last
    assert ground(seen.page) == then
    assert seen.console == []


@pytest.mark.parametrize("width", [400, 700, 1000, 1280])
def test_the_page_does_not_overflow(watch: Any, address: str, width: int) -> None:
    seen = watch(width=width)
    for query in ("", "?days=30&rule=RULE-001+SomeQuiteLongRuleName&account=26000001"):
        seen.page.goto(f"{address}/{query}")
        assert seen.page.evaluate("document.documentElement.scrollWidth") <= width
    assert seen.console == []


def test_at_400_pixels_the_alerts_of_a_rule_are_under_its_name(watch: Any, address: str) -> None:
    seen = watch(width=400)
    seen.page.goto(address)
    badge = seen.page.locator(".rules .under .badge").first.bounding_box()
    assert badge is not None
    assert badge["x"] + badge["width"] <= 400


def test_the_crosshair_follows_the_pointer_and_the_arrow_keys(watch: Any, address: str) -> None:
    seen = watch()
    seen.page.goto(f"{address}/?refresh=0")
    seen.page.locator(".chart .plot").hover(position={"x": 300, "y": 100})
    tip = seen.page.locator(".tip")
    assert "enforcements" in tip.inner_text()
    by_pointer = tip.inner_text()
    seen.page.locator(".chart").focus()
    seen.page.keyboard.press("ArrowLeft")
    assert tip.inner_text() != by_pointer
    seen.page.locator("h2").first.click()
    assert not tip.is_visible()
    assert seen.console == []


def test_following_links_changes_the_address_and_back_goes_back(watch: Any, address: str) -> None:
    seen = watch()
    seen.page.goto(address)
    seen.page.locator(".rules a.rule").first.click()
    seen.page.locator(".filters").wait_for()
    assert "rule=" in seen.page.url
    seen.page.go_back()
    seen.page.locator(".filters").wait_for(state="detached")
    older = seen.page.locator(".slow a", has_text="older")
    older.click()
    seen.page.wait_for_url("**before=*")
    seen.page.locator(".slow a", has_text="newest").click()
    seen.page.wait_for_function("() => !location.search.includes('before')")
    assert seen.console == []


def test_an_open_table_stays_open_over_a_refresh(watch: Any, address: str, store: RiskStore) -> None:
    seen = watch()
    seen.page.goto(f"{address}/?refresh=1")
    seen.page.locator("#trend-table summary").click()
    store.record(
        EnforcementLog(account_id=1, rule_id="R", action="A", reason="next", success=True, execution_time_ms=5)
    )
    seen.page.locator(".latest", has_text="next").wait_for(timeout=20_000)
    assert seen.page.locator("#trend-table").get_attribute("open") is not None


def test_a_server_that_is_gone_is_told_and_what_was_seen_stays(watch: Any, address: str) -> None:
    seen = watch()
    seen.page.goto(f"{address}/?refresh=1")
    seen.page.route("**/*", lambda route: route.abort())
    seen.page.locator("#pill.lost", has_text="no answer for").wait_for(timeout=20_000)
    assert seen.page.locator(".rules tr").count() > 5
    seen.page.unroute("**/*")
    seen.page.locator("#pill.live").wait_for(timeout=20_000)


def test_an_answer_that_is_no_page_is_told_and_the_page_does_not_claim_to_be_live(watch: Any, address: str) -> None:
    seen = watch()
    seen.page.goto(f"{address}/?refresh=1")
    seen.page.route("**/*", lambda route: route.fulfill(status=500, content_type="text/html", body="<p>broken"))
    seen.page.locator("#pill.lost", has_text="error 500").wait_for(timeout=20_000)
    assert seen.page.locator(".rules tr").count() > 5
    seen.page.unroute("**/*")
    seen.page.locator("#pill.live").wait_for(timeout=20_000)
    seen.page.route("**/*days=1*", lambda route: route.fulfill(status=400, content_type="text/html", body="refused"))
    seen.page.locator("a.soft", has_text="1d").click()
    seen.page.get_by_text("refused").wait_for()  # not the old page at the new address


def test_what_is_looked_at_is_held_and_told_and_goes_on_afterwards(watch: Any, address: str, store: RiskStore) -> None:
    seen = watch()
    seen.page.goto(f"{address}/?refresh=1")
    seen.page.locator(".chart .plot").click(position={"x": 300, "y": 100})
    seen.page.locator("#pill", has_text="held").wait_for(timeout=20_000)
    store.record(
        EnforcementLog(account_id=1, rule_id="R", action="A", reason="next", success=True, execution_time_ms=5)
    )
    seen.page.mouse.move(5, 5)  # the chart has the focus still
    seen.page.locator(".latest", has_text="next").wait_for(timeout=20_000)
    seen.page.locator("#pill.live").wait_for()
    assert seen.page.evaluate("document.activeElement.id") == "chart"


def test_a_store_in_trouble_is_not_called_live_and_is_said_once(watch: Any, address: str, file: Path) -> None:
    file.rename(file.with_suffix(".gone"))
    seen = watch()
    seen.page.goto(f"{address}/?refresh=1")
    assert seen.page.locator("#pill").inner_text() == "trouble"
    with seen.page.expect_response("**/*"):
        pass
    seen.page.locator("#pill", has_text="trouble").wait_for()
    with seen.page.expect_response("**/*"):
        pass
    seen.page.evaluate("document.querySelector('.banner').dataset.first = 'yes'")
    with seen.page.expect_response("**/*"):
        pass
    with seen.page.expect_response("**/*"):
        pass
    assert seen.page.locator(".banner").get_attribute("data-first") == "yes"  # or it would be read out each second
    assert seen.page.locator("#pill").inner_text() == "trouble"


@pytest.mark.parametrize("width", [400, 700, 1000, 1280])
def test_names_without_a_space_do_not_widen_the_page(watch: Any, address: str, store: RiskStore, width: int) -> None:
    with store.begin() as tx:
        tx.lockouts.set(2**63 - 1, HOSTILE, "R" * 300)
        tx.orders.save(trailing_stop(2**63 - 1, "CON.F.US." + "M" * 200 + ".Z26"))
    rule = "R" * 300
    store.record(
        EnforcementLog(
            account_id=2**63 - 1, rule_id=rule, action=rule, reason=rule, success=True, execution_time_ms=9000
        )
    )
    seen = watch(width=width)
    seen.page.goto(address)
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= width
    badge = seen.page.locator(".rules tr", has_text="RRRR").first.locator("b").bounding_box()
    assert badge is not None
    assert badge["x"] + badge["width"] <= width


def test_without_scripts_the_page_is_whole(watch: Any, address: str) -> None:
    seen = watch(java_script_enabled=False)
    seen.page.goto(address)
    assert seen.page.locator(".rules tr").count() == 26  # two tables of twelve rules and their headings
    seen.page.locator("a.soft", has_text="30d").click()
    assert seen.page.url.endswith("days=30")

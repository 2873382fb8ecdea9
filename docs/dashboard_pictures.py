"""Makes the pictures of the dashboard in the README: `python docs/dashboard_pictures.py [--chromium PATH]`.

A store of a lively week is filled through the public API, with a fixed seed, and served as `risk-store dashboard` does;
headless Chromium (Debian's package `chromium`) looks at it. Needs the extras `[dashboard,browser]`.
"""

from __future__ import annotations

import argparse
import math
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from risk_store import EnforcementLog, Order, OrderSide, OrderState, OrderType, RiskStore

HERE = Path(__file__).parent
RULES = {
    "RULE-001 MaxContracts": (40, "CLOSE_EXCESS", "6 contracts, limit 5"),
    "RULE-002 MaxContractsPerInstrument": (45, "CLOSE_EXCESS", "MNQ: 4 contracts, limit 3"),
    "RULE-003 DailyRealizedLoss": (140, "CLOSE_ALL_AND_LOCKOUT", "Daily loss -1,512.50 < -1,500.00"),
    "RULE-004 DailyUnrealizedLoss": (110, "CLOSE_POSITION", "Unrealized loss -812.00 < -750.00"),
    "RULE-005 MaxUnrealizedProfit": (90, "CLOSE_POSITION", "Unrealized profit 1,020.00 > 1,000.00"),
    "RULE-006 TradeFrequencyLimit": (35, "CANCEL_ALL", "31 trades in an hour, limit 30"),
    "RULE-007 CooldownAfterLoss": (60, "CANCEL_ALL", "Cooldown 15 min after -310.00"),
    "RULE-008 NoStopLossGrace": (180, "CLOSE_POSITION", "No stop within 30 s"),
    "RULE-009 SessionBlockOutside": (70, "CLOSE_ALL_AND_LOCKOUT", "Outside 08:30 to 15:10"),
    "RULE-010 AuthLossGuard": (260, "CLOSE_ALL_AND_LOCKOUT", "canTrade=false <script>window.hacked=1</script>"),
    "RULE-011 SymbolBlocks": (45, "CLOSE_POSITION", "CL is blocked"),
    "RULE-012 TradeManagement": (150, "MOVE_STOP", "Breakeven after 10 points"),
}
ACCOUNTS = range(26000001, 26000007)


def lively(now: datetime, rows: int, days: int, seed: int = 7) -> Iterator[EnforcementLog]:
    """Enforcements of the last `days`, the oldest first: quiet nights, busy openings, one bad afternoon."""
    chance = random.Random(seed)
    step = timedelta(days=days) / rows
    names = list(RULES)
    for number in range(rows):
        at = now - timedelta(days=days) + step * number + step * chance.random()
        rule = chance.choices(names, [14, 10, 5, 7, 3, 16, 6, 5, 4, 1, 5, 8])[0]
        typical, action, reason = RULES[rule]
        load = 1 + 0.5 * (math.cos((at.hour + at.minute / 60 - 14) / 24 * math.tau) > 0.8)
        load *= 3 if timedelta(days=1.9) < now - at < timedelta(days=2.2) else 1
        took = min(9_500.0, chance.lognormvariate(math.log(typical * load), 0.75))
        if chance.random() < 0.0009:
            took = chance.uniform(1_800, 8_900)
        yield EnforcementLog(
            account_id=chance.choice(ACCOUNTS),
            rule_id=rule,
            action=action,
            reason=reason,
            success=took < 5_000 and chance.random() > 0.002,
            error_message=None if took < 5_000 else "timed out after 5000 ms",
            timestamp=at,
            execution_time_ms=math.ceil(took),
            positions_closed=1,
        )


def fill(url: str, rows: int = 100_000, days: int = 8) -> None:
    """A new store with that, working orders and lockouts."""
    now = datetime.now(UTC)
    with RiskStore(url) as store:
        store.upgrade()
        with store.begin() as tx:
            tx.enforcements.add_many(lively(now, rows, days))
            for number, (account, side, size, symbol, kind, stop, limit, trail) in enumerate(
                (
                    (26000003, OrderSide.BUY, 3, "MES", OrderType.TRAILING_STOP, 6025.0, None, 5.0),
                    (26000001, OrderSide.SELL, 2, "MNQ", OrderType.TRAILING_STOP, 21480.25, None, 12.5),
                    (26000001, OrderSide.SELL, 1, "EP", OrderType.STOP, 6011.5, None, None),
                    (26000006, OrderSide.SELL, 1, "ENQ", OrderType.LIMIT, None, 21550.0, None),
                )
            ):
                tx.orders.save(
                    Order(
                        id=number + 1,
                        account_id=account,
                        contract_id=f"CON.F.US.{symbol}.Z26",
                        type=kind,
                        side=side,
                        size=size,
                        stop_price=stop,
                        limit_price=limit,
                        trailing_amount=trail,
                        state=OrderState.ACTIVE,
                        created_at=now - timedelta(minutes=4 * number),
                        updated_at=now - timedelta(minutes=3 * number),
                    )
                )
            locked = ("RULE-007 CooldownAfterLoss", 26000005, timedelta(minutes=8, seconds=30))
            for rule, account, left in (
                locked,
                ("RULE-003 DailyRealizedLoss", 26000002, timedelta(hours=5, minutes=10)),
                ("RULE-010 AuthLossGuard", 26000004, None),
            ):
                tx.lockouts.set(account, RULES[rule][2], rule, None if left is None else now + left)


def pictures(address: str, chromium: str, out: Path) -> Iterator[Path]:
    """Wide and narrow, dark and light, with the crosshair on the bad afternoon."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for theme, width, height in (("dark", 1280, 1150), ("light", 1280, 1150), ("dark", 400, 1500)):
            page = browser.new_page(viewport={"width": width, "height": height})
            page.goto(f"{address}?refresh=60&theme={theme}")
            if width > 400:
                box = page.locator(".chart .plot").bounding_box()
                assert box is not None
                page.mouse.move(box["x"] + box["width"] * 0.708, box["y"] + 120)
            to = out / f"dashboard-{theme}-{width}.png"
            page.screenshot(path=to)
            yield to
        browser.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chromium", default=shutil.which("chromium") or shutil.which("google-chrome"))
    parser.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args()
    if options.chromium is None:
        sys.exit("no chromium here: apt-get install chromium, or --chromium PATH")
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/risk.db"
        fill(url)
        command = [sys.executable, "-m", "risk_store", "dashboard", url, "--port", "0"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            try:
                assert server.stdout is not None
                address = next(word for word in server.stdout.readline().split() if word.startswith("http"))
                for picture in pictures(address, options.chromium, options.out):
                    print(picture)
            finally:
                server.terminate()


if __name__ == "__main__":
    main()

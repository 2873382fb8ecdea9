"""The dashboard answers safely: whom, how, and with what in its pages, whatever a broker wrote."""

from __future__ import annotations

import csv
import io
import json
import mimetypes
import re
import sqlite3
from collections.abc import Callable
from datetime import timedelta
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from risk_store import EnforcementLog, Order, OrderSide, OrderState, OrderType, RiskStore
from risk_store.dashboard import tables, words
from risk_store.dashboard.reader import Reader
from risk_store.dashboard.view import View
from risk_store.errors import InvalidValue
from risk_store.schema import HEAD
from tests.dashboard.conftest import Clock, client_of, trailing_stop

Enforced = Callable[..., EnforcementLog]

ADDRESSES = ("/", "/api/snapshot", "/healthz", "/dashboard.css", "/dashboard.js", *(f"/{n}.csv" for n in tables.NAMES))
HOSTILE = (
    "<script>window.hacked=1</script>",
    '"><img src=x onerror=alert(1)>',
    "[/markup] [bold]",
    "{{ 7 * 7 }} {% raw %}",
    "abc\u202etxt.exe",
    "x" * 10_000,
    "line\nbreak\ttab\r",
    "javascript:alert(1)",
)


class Tags(HTMLParser):
    """The tags of a page and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


# Headers, hosts, methods ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", [*ADDRESSES, "/nothing", "/?days=x"])
def test_every_answer_has_the_headers_that_keep_it_safe(plain_client: TestClient, address: str) -> None:
    headers = plain_client.get(address).headers
    assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'; style-src 'self'")
    assert "unsafe" not in headers["content-security-policy"]
    assert (headers["x-content-type-options"], headers["referrer-policy"]) == ("nosniff", "no-referrer")
    assert headers["cache-control"] == "no-store"
    assert not {"server", "set-cookie", "access-control-allow-origin", "x-powered-by"} & set(headers)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.1:8377", "localhost", "LOCALHOST:1", "[::1]", "[::1]:8377", "Risk.Example:99"]
)
@pytest.mark.parametrize("address", ["/", "/api/snapshot", "/dashboard.js", "/metrics"])
def test_it_answers_by_its_own_names_and_those_that_are_allowed(
    plain_client: TestClient, host: str, address: str
) -> None:
    assert plain_client.get(address, headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "x@127.0.0.1", "localhost.", "", "[::1].x", "::1", "0.0.0.0"]
)
@pytest.mark.parametrize("address", ["/", "/api/snapshot", "/metrics", "/nothing"])
def test_it_answers_by_no_other_name(plain_client: TestClient, host: str, address: str) -> None:
    answer = plain_client.get(address, headers={"host": host})
    assert answer.status_code == 400
    assert "--allowed-host" in answer.text
    assert not host or host not in answer.text


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "WHATEVER"])
@pytest.mark.parametrize("address", ["/", "/api/snapshot", "/rules.csv", "/nothing"])
def test_it_only_reads(plain_client: TestClient, method: str, address: str) -> None:
    answer = plain_client.request(method, address)
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize("address", ADDRESSES)
def test_head_has_the_headers_of_get_and_no_body(plain_client: TestClient, address: str) -> None:
    get, head = plain_client.get(address), plain_client.head(address)
    assert head.status_code == get.status_code == 200
    assert head.headers["content-type"] == get.headers["content-type"]
    assert head.content == b""


def test_its_files_have_their_types_even_where_the_system_says_otherwise(
    plain_client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    for ending in (".js", ".css", ".html", ".csv"):
        mimetypes.add_type("text/plain", ending)
    try:
        kinds = {address: plain_client.get(address).headers["content-type"] for address in ADDRESSES}
    finally:
        mimetypes.init()
    assert kinds["/dashboard.js"] == "text/javascript; charset=utf-8"
    assert kinds["/dashboard.css"] == "text/css; charset=utf-8"
    assert kinds["/"] == "text/html; charset=utf-8"
    assert kinds["/slow.csv"] == "text/csv; charset=utf-8"


def test_there_is_no_metrics_page_unless_it_was_asked_for(client: TestClient) -> None:
    assert client.get("/metrics").status_code == 404
    assert client.get("/rules.csv/", follow_redirects=False).status_code == 404  # not sent to a proxy's inner address
    assert client.get("/docs").status_code == client.get("/static/dashboard.js").status_code == 404


# Parameters ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("days=0", "days: &#39;0&#39;"),
        ("days=91", "1 to 90"),
        ("days=7&days=1", "given once"),
        ("days=%D9%A7", "days"),
        ("days=1e1", "days"),
        ("slow=60001", "0 to 60000"),
        ("slow=-1", "slow"),
        ("refresh=61", "refresh"),
        ("account=x", "account"),
        ("account=9999999999999999999999", "account"),
        ("before=0", "before"),
        ("theme=<script>", "theme: &#39;&lt;script&gt;&#39;"),
        ("rule=%00", "rule"),
        ("rule=" + "x" * 201, "the name of a rule"),
        ("day=7", "parameter: &#39;day&#39; is not one of days, rule"),
    ],
)
@pytest.mark.parametrize("path", ["/", "/api/snapshot", "/slow.csv"])
def test_a_bad_parameter_is_named_on_a_page_of_its_own(
    plain_client: TestClient, path: str, query: str, named: str
) -> None:
    answer = plain_client.get(f"{path}?{query}")
    assert answer.status_code == 400
    assert named in answer.text
    assert "Traceback" not in answer.text


def test_parameters_left_empty_count_as_not_given(plain_client: TestClient) -> None:
    assert plain_client.get("/?days=&rule=&account=").status_code == 200


views = st.builds(
    View,
    days=st.integers(1, 90),
    rule=st.none() | st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S"]), min_size=1, max_size=40),
    account=st.none() | st.integers(1, 2**63 - 1),
    slow=st.integers(0, 60_000),
    before=st.none() | st.integers(1, 2**63 - 1),
    refresh=st.integers(0, 60),
    theme=st.sampled_from([None, "dark", "light"]),
)


@settings(max_examples=40)
@given(views)
def test_the_address_of_a_view_is_that_view_again(plain_client: TestClient, view: View) -> None:
    answer = plain_client.get(view.href())
    assert answer.status_code == 200
    pairs = answer.request.url.params.multi_items()
    assert View.of(pairs) == view


@given(st.lists(st.tuples(st.text(max_size=8), st.text(max_size=30)), max_size=3))
def test_any_parameters_make_a_view_or_a_named_refusal(pairs: list[tuple[str, str]]) -> None:
    fields = []
    try:
        View.of(pairs)
    except InvalidValue as error:
        fields.append(error.field)
    assert {*fields} <= {name for name, _ in pairs} | {"parameter"}


# What is on the page -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", HOSTILE)
def test_what_a_broker_wrote_is_text_on_the_page_wherever_it_stands(
    store: RiskStore, client: TestClient, enforced: Enforced, text: str
) -> None:
    clean = text.replace("\x00", "")
    enforced(900, reason=clean, action=clean, rule_id=clean, error_message=clean, success=False)
    with store.begin() as tx:
        tx.lockouts.set(456, clean, clean)
        tx.orders.save(
            Order(
                id=1,
                account_id=456,
                contract_id=clean,
                type=OrderType.LIMIT,
                side=OrderSide.BUY,
                size=1,
                limit_price=1.0,
                custom_tag=clean,
                state=OrderState.ACTIVE,
            )
        )
    for address in ("/", "/?theme=dark"):
        page = client.get(address)
        assert page.status_code == 200
        found = Tags(page.text)
        names = [tag for tag, _ in found.tags]
        assert names.count("script") == 1
        assert "img" not in names
        assert not [name for _, attributes in found.tags for name in attributes if name.startswith("on")]
        assert not [a for tag, a in found.tags if tag == "a" and not (a["href"] or "").startswith("/")]
        assert "\u202e" not in page.text
        assert words.text(clean) in found.text
        assert len(page.content) < 120_000  # 10 kB of reason are not shown ten times
    answer = client.get("/api/snapshot").json()["snapshot"]
    assert answer["latest"][0]["reason"] == clean


@pytest.mark.parametrize("formula", ["=cmd|' /C calc'!A0", "+1", "-1+1", "@SUM(A1)", "\t=1", "\r=1", "=1\n,2"])
def test_no_cell_of_a_csv_is_a_formula(client: TestClient, enforced: Enforced, formula: str) -> None:
    enforced(900, reason=formula)
    answer = client.get("/slow.csv")
    assert answer.headers["content-disposition"] == 'attachment; filename="risk-store-slow.csv"'
    (row,) = csv.DictReader(io.StringIO(answer.text, newline=""))
    assert row["reason"] == "'" + formula
    assert row["execution_time_ms"] == "900"


def test_the_csv_of_slow_ones_has_all_of_them(
    client: TestClient, store: RiskStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "_AT_A_TIME", 10)
    with store.begin() as tx:
        tx.enforcements.add_many(
            EnforcementLog(
                account_id=456,
                rule_id="R",
                action="A",
                reason="r",
                success=True,
                execution_time_ms=501 + n,
                timestamp=clock.now,
            )
            for n in range(35)
        )
    rows = list(csv.DictReader(io.StringIO(client.get("/slow.csv").text)))
    assert [int(row["execution_time_ms"]) for row in rows] == list(range(535, 500, -1))


def test_head_of_a_csv_reads_none_of_its_rows(
    client: TestClient, reader: Reader, enforced: Enforced, monkeypatch: pytest.MonkeyPatch
) -> None:
    enforced(900)
    opened: list[str] = []  # transactions of a CSV's own: a look may be taken anew whenever anybody has committed
    read = reader.read
    monkeypatch.setattr(reader, "read", lambda: opened.append("a page of rows") or read())
    head = client.head("/slow.csv")
    assert head.headers["content-type"] == "text/csv; charset=utf-8"
    assert opened == []
    client.get("/slow.csv")
    assert opened == ["a page of rows"]


USUAL: dict[str, dict[str, object]] = {
    "enforcement_log": {
        "account_id": 1,
        "rule_id": "R",
        "action": "A",
        "reason": "r",
        "success": 1,
        "timestamp": "2026-11-24 11:30:00",
        "execution_time_ms": 900,
    },
    "orders": {
        "id": 1,
        "account_id": 456,
        "contract_id": "C",
        "type": 5,
        "side": 1,
        "size": 2,
        "stop_price": 21480.25,
        "state": 1,
        "created_at": "2026-11-24 11:30:00",
        "trailing_amount": 12.5,
    },
    "lockouts": {"account_id": 456, "is_locked": 1, "reason": "r", "locked_until": None, "rule_id": "R"},
}
ODD: dict[str, object] = {
    "text": "text",
    "negative": -5,
    "fraction": 1.5,
    "large": 2**62,
    "infinite": float("inf"),
    "blob": b"\xff",
    "not Unicode": b"R\xff",
    "two lines": "a\nb",
    "long": "x" * 300,
    "empty": "",
}


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("table", USUAL)
def test_whatever_an_old_daemon_stored_is_shown_and_leads_nowhere_wrong(file: Path, table: str, odd: str) -> None:
    reader = Reader(f"sqlite:///{file}", clock=Clock())
    client = client_of(reader, metrics=True)
    for name in USUAL[table].keys() - {"id" if table == "orders" else "account_id" if table == "lockouts" else ""}:
        values = USUAL[table] | {name: ODD[odd]}
        marks = ", ".join("CAST(? AS TEXT)" if (each, odd) == (name, "not Unicode") else "?" for each in values)
        with sqlite3.connect(file) as raw:
            raw.execute(f"DELETE FROM {table}")
            raw.execute(f"INSERT INTO {table} ({', '.join(values)}) VALUES ({marks})", tuple(values.values()))
        raw.close()
        for address in ("/", "/metrics", *(f"/{name}.csv" for name in tables.NAMES)):
            assert client.get(address).status_code == 200, (name, address)
        json.loads(client.get("/api/snapshot").text, parse_constant=pytest.fail)
        for tag, attributes in Tags(client.get("/").text).tags:
            if tag == "a":
                assert client.get(attributes["href"] or "").status_code == 200, (name, attributes)
    reader.close()


def test_each_table_of_the_page_has_its_csv(store: RiskStore, client: TestClient, enforced: Enforced) -> None:
    enforced(900)
    with store.enforce(456, "RULE-003", "CLOSE_ALL", "loss", lock_until=None):
        page = client.get("/?account=456").text
    links = set(re.findall(r'href="(/\w+\.csv[^"]*)"', page))
    assert {link.partition("?")[0] for link in links} == {f"/{name}.csv" for name in tables.NAMES}
    for link in links:
        answer = client.get(link.replace("&amp;", "&"))
        assert answer.status_code == 200
        assert answer.text.count("\r\n") >= 1


def test_the_page_asks_nobody_else_for_anything() -> None:
    package = resources.files("risk_store.dashboard")
    for folder in ("templates", "static"):
        for each in package.joinpath(folder).iterdir():
            text = each.read_text(encoding="utf-8")
            assert not re.search(r"(https?:)?//[a-z0-9]", text.replace("// ", "")), each.name
            assert not re.search(r"style=|<style|\bon\w+=\"|@import|url\(|eval\(|innerHTML|\|\s*safe", text), each.name


def test_each_empty_part_says_so_in_words(client: TestClient) -> None:
    page = client.get("/").text
    for said in (
        "QUIET",
        "nothing in the last hour",
        "No enforcement in the last 7 days. The first action appears here by itself.",
        "No rule has acted yet.",
        "No account is locked.",
        "No working orders.",
        "Nothing enforced yet.",
        "Nothing over 500 ms.",
        "no data",
    ):
        assert said in page, said


def test_under_filters_an_empty_part_claims_nothing_of_the_rest(
    client: TestClient, enforced: Enforced, store: RiskStore
) -> None:
    enforced(900)
    with store.begin() as tx:
        tx.lockouts.set(456, "loss", "RULE-003")
        tx.orders.save(trailing_stop())
    for query in ("account=9", "rule=RULE-009&account=9"):
        page = client.get(f"/?{query}").text
        assert page.count("None with these filters.") == 5
        for claim in ("No account is locked", "No working orders", "Nothing enforced", "No rule has acted"):
            assert claim not in page, claim
    assert "0 active" in client.get("/?rule=RULE-009").text
    assert "1 active" in client.get("/?rule=RULE-003").text


def test_the_page_says_what_it_is_of(client: TestClient, reader: Reader) -> None:
    page = client.get("/").text
    assert reader.name in page
    assert "read-only" in page
    assert f"schema {HEAD} (head)" in page
    assert "as of 2026-11-24 11:37 UTC" in page


def test_a_filter_is_on_the_page_and_can_be_taken_off(client: TestClient, enforced: Enforced) -> None:
    enforced(rule_id="RULE-008", account_id=456)
    page = Tags(client.get("/?rule=RULE-008&account=456&days=1").text)
    links = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    assert "/?days=1&rule=RULE-008" in links
    assert "/?days=1&account=456" in links


def test_each_chart_has_a_table_and_its_thresholds_have_words(client: TestClient, enforced: Enforced) -> None:
    for ms in (100, 700, 3000):
        enforced(ms)
    page = Tags(client.get("/").text)
    drawings = [attributes for tag, attributes in page.tags if tag == "svg" and attributes.get("role") == "img"]
    assert all(attributes.get("aria-label") for attributes in drawings)
    assert len([tag for tag, _ in page.tags if tag == "details"]) == 2
    for said in ("warning", "critical", "timeout", "W 1", "C 1", "3.00 s"):
        assert said in page.text, said


def test_texts_and_bars_stand_out_from_their_ground_in_both_themes() -> None:
    """WCAG 2.2: 4.5 to 1 for text (AA), 3 to 1 for what is drawn."""
    style = resources.files("risk_store.dashboard").joinpath("static", "dashboard.css").read_text(encoding="utf-8")
    themes = [dict(re.findall(r"--([a-z-]+): (#[0-9a-f]+);", block)) for block in re.findall(r"{([^{}]*)}", style)[:3]]
    assert themes[1] == themes[2]
    for theme in themes[:2]:
        for ground in (theme["card"], theme["ground"]):
            for text in ("ink", "dim", "ok", "warning", "critical", "timeout", "data"):
                assert contrast(theme[text], ground) >= 4.5, (text, ground)
        assert contrast(theme["on-data"], theme["data"]) >= 4.5
        assert contrast(theme["on-tip"], theme["tip"]) >= 4.5
        assert contrast(theme["bars"], theme["card"]) >= 3


def contrast(color: str, ground: str) -> float:
    behind = _channels(ground)[:3]
    *front, alpha = _channels(color)
    mixed = [alpha * of + (1 - alpha) * over for of, over in zip(front, behind, strict=True)]
    lights = sorted(
        sum(
            weight * (each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4)
            for weight, each in zip((0.2126, 0.7152, 0.0722), channels, strict=True)
        )
        for channels in (mixed, behind)
    )
    return (lights[1] + 0.05) / (lights[0] + 0.05)


def _channels(color: str) -> list[float]:
    digits = color[1:] if len(color) > 4 else "".join(digit * 2 for digit in color[1:])
    return [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)] + [int(digits[6:8] or "ff", 16) / 255]


def test_prices_and_trailing_stops_are_told(store: RiskStore, client: TestClient) -> None:
    with store.begin() as tx:
        tx.orders.save(trailing_stop())
    text = " ".join(Tags(client.get("/").text).text.split())
    assert "SELL 2 MNQ.Z26" in text
    assert "trailing stop · 12.50 behind 21,492.75" in text
    assert "21,480.25" in text


def test_a_list_that_is_too_long_for_the_page_says_where_the_rest_is(store: RiskStore, client: TestClient) -> None:
    with store.begin() as tx:
        for account in range(1, 31):
            tx.lockouts.set(account, "loss", "RULE-003")
    text = " ".join(Tags(client.get("/").text).text.split())
    assert "30 active" in text
    assert "and 18 more, all of them in the CSV" in text
    assert client.get("/lockouts.csv").text.count("\r\n") == 31


def test_of_very_many_rules_the_slowest_are_on_the_page_and_all_in_the_csv(
    store: RiskStore, client: TestClient, clock: Clock
) -> None:
    with store.begin() as tx:
        tx.enforcements.add_many(
            EnforcementLog(
                account_id=456,
                rule_id=f"RULE-{n:04}",
                action="A",
                reason="r",
                success=True,
                execution_time_ms=n,
                timestamp=clock.now,
            )
            for n in range(1200)
        )
    answer = client.get("/")
    assert len(answer.content) < 400_000
    assert "RULE-1199" in answer.text
    assert "and 1,100 more, all of them in the" in answer.text
    assert client.get("/rules.csv").text.count("\r\n") == 1201


# Live ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["/", "/api/snapshot"])
def test_a_page_in_which_nothing_changed_is_not_sent_again(
    client: TestClient, enforced: Enforced, address: str, clock: Clock
) -> None:
    first = client.get(address)
    again = client.get(address, headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    enforced()
    changed = client.get(address, headers={"if-none-match": first.headers["etag"]})
    assert changed.status_code == 200
    assert changed.headers["etag"] != first.headers["etag"]


def test_the_snapshot_is_json_of_a_known_form(client: TestClient, enforced: Enforced) -> None:
    enforced(900)
    answer = client.get("/api/snapshot")
    assert answer.headers["content-type"] == "application/json"
    values = json.loads(answer.text, parse_constant=pytest.fail)
    assert (values["schema"], values["trouble"], values["snapshot"]["total"]) == (1, None, 1)
    assert values["snapshot"]["rules"][0]["warnings"] == 1
    assert values["snapshot"]["status"] == "SLOW"


def test_health_is_ok_only_while_the_store_can_be_read(file: Path) -> None:
    reader = Reader(f"sqlite:///{file}")
    client = client_of(reader)
    assert (client.get("/healthz").status_code, client.get("/healthz").json()) == (200, {"status": "ok"})
    file.rename(file.with_suffix(".gone"))
    assert (client.get("/healthz").status_code, client.get("/healthz").json()) == (503, {"status": "missing"})
    reader.close()


def test_metrics_are_of_the_database_and_name_no_account(reader: Reader, store: RiskStore, enforced: Enforced) -> None:
    enforced(3000, rule_id="RULE-003", account_id=77001, reason="secret reason")
    with store.begin() as tx:
        tx.lockouts.set(77001, "loss", "RULE-003")
    client = client_of(reader, metrics=True)
    text = client.get("/metrics").text
    for line in (
        "risk_store_up 1.0",
        "risk_store_log_rows 1.0",
        'risk_store_lockouts_active{rule="RULE-003"} 1.0',
        'risk_store_alerts_7_days{level="CRITICAL",rule="RULE-003"} 1.0',
    ):
        assert line in text, text
    assert "77001" not in text
    assert "secret" not in text
    reader.close()
    assert "risk_store_up 0.0" in client.get("/metrics").text


# In trouble ----------------------------------------------------------------------------------------------------------


def test_a_store_that_is_not_there_is_a_page_with_its_command(tmp_path: Path) -> None:
    reader = Reader(f"sqlite:///{tmp_path}/none.db")
    client = client_of(reader)
    page = client.get("/")
    assert page.status_code == 503
    assert f"There is no database {tmp_path}/none.db." in page.text
    assert f"<code>risk-store upgrade {tmp_path}/none.db</code>" in page.text
    assert client.get("/api/snapshot").json()["trouble"]["kind"] == "missing"
    assert client.get("/rules.csv").status_code == 503
    reader.close()


def test_what_was_read_before_stays_on_the_page_of_a_lost_server_and_no_secret_does(
    postgres_store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = Reader(postgres_store_url)
    client = client_of(reader)
    assert client.get("/").status_code == 200

    def lost(*_: object) -> None:
        raise OSError("s3cret detail of the driver")

    monkeypatch.setattr(reader, "_connected", lost)
    page = client.get("/")
    assert page.status_code == 200
    assert "cannot be reached" in page.text
    assert "Below is what was read at" in page.text
    assert "s3cret" not in page.text
    reader.close()


def test_a_file_that_is_not_in_wal_slows_the_page_down_and_says_why(file: Path) -> None:
    with sqlite3.connect(file) as raw:
        raw.execute("PRAGMA journal_mode = DELETE")
    raw.close()
    reader = Reader(f"sqlite:///{file}")
    page = client_of(reader).get("/").text
    assert "journal mode delete, not WAL" in page
    assert 'data-refresh="30"' in page
    assert 'data-refresh="0"' in client_of(reader).get("/?refresh=0").text
    reader.close()


def test_an_error_nobody_expected_is_a_page_without_a_traceback(
    reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_view: View) -> None:
        raise ZeroDivisionError("s3cret")

    monkeypatch.setattr(reader, "look", broken)
    answer = client_of(reader).get("/")
    assert answer.status_code == 500
    assert "This did not work" in answer.text
    assert "s3cret" not in answer.text


def test_ages_and_ends_are_told_from_the_moment_of_the_look(
    store: RiskStore, client: TestClient, clock: Clock, enforced: Enforced
) -> None:
    with store.begin() as tx:
        tx.lockouts.set(1, "loss", "RULE-003")
    enforced(100, ago=timedelta(minutes=3))
    text = " ".join(Tags(client.get("/").text).text.split())
    assert "until reset" in text
    assert "11:34:16" in text

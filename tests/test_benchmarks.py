"""The benchmarks do what they say: the works compare equal, and who does other work gets no figure. No times here."""

import dataclasses
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from benchmarks import __main__ as command
from benchmarks import bulk, enforcements, orders, scaling, writers
from benchmarks.contest import Contender, contest
from benchmarks.log import fill
from benchmarks.peers import INSTALL, NAMES, peers
from benchmarks.peers.sqlalchemy_orm import Peer
from benchmarks.places import Ground, Place, connect, postgresql, sqlite
from benchmarks.plain import Plain
from benchmarks.report import BEGIN, END, Book, Target, markdown, put_into
from benchmarks.reports import percentiles_off
from benchmarks.sizes import TINY
from benchmarks.values import Event
from risk_store.events import OrderUpdate

ORM = NAMES["sqlalchemy_orm"]


@pytest.fixture(params=["sqlite", "postgresql"])
def ground(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ground]:
    if request.param == "postgresql":
        with postgresql(request.getfixturevalue("postgres_server").url) as made:
            yield made
    else:
        with sqlite(tmp_path, "FULL") as made:
            yield made


@pytest.mark.parametrize("name", command.WORKS)
def test_all_contenders_of_a_work_do_the_same_on_each_engine(ground: Ground, name: str) -> None:
    book = Book()
    command.run([ground], TINY, {name}, book, {ORM: Peer})
    assert book.refused == []
    assert book.figures
    assert {figure.engine for figure in book.figures} == {ground.label}


def test_what_accounts_come_to_is_the_processor_time_times_what_they_do() -> None:
    book = Book()
    for engine, kinds in (("PostgreSQL", ("server",)), ("Citus", ("coordinator", "workers"))):
        for name, spent in (("tx.orders.apply", 200.0), ("store.enforce", 1000.0)):
            for kind in kinds:
                work = f"S1, {name}, 32 threads"
                book.measured(work, engine, f"processor time of the {kind}", [spent], "µs a call")
        book.measured("S1, a log row with its indexes", engine, "on the disk", [500.0], "bytes")
    *_, million = scaling.arithmetic(book, 32)
    # 30,000 events at 200 µs and 1,000 enforcements at 1,000 µs in a second are 7 cores.
    assert million == "| 1,000,000 | 1,000,000,000 | 500 | 30,000 | 1,000 | 7 | 7 | 7 |"
    assert scaling.arithmetic(Book(), 32) == []


def test_with_less_durability_everybody_has_less(tmp_path: Path) -> None:
    book = Book()
    with sqlite(tmp_path, "NORMAL") as ground:
        command.run([ground], TINY, command.WORKS, book, {ORM: Peer})
    assert book.refused == []
    assert {figure.work.partition(",")[0] for figure in book.figures} == {"W1", "W3"}


class Hurried(Plain):
    """Does a little less than it is asked for."""

    def record(self, event: Event) -> None:
        super().record(dataclasses.replace(event, details="{}"))

    def add_many(self, events: Sequence[Event]) -> None:
        super().add_many(events[:-1])

    def apply_many(self, updates: Any) -> None:
        super().apply_many([dataclasses.replace(update, custom_tag=None) for update in updates])

    def apply(self, update: OrderUpdate) -> None:
        if update.id != 7:
            super().apply(update)

    def working(self) -> list[Any]:
        return super().working()[:-1]


class Unlocked(Plain):
    def record(self, event: Event) -> None:
        super().record(dataclasses.replace(event, locked_until=event.timestamp))


class Careless(Plain):
    """Is not as durable as the others; on the tests' server those wait for no disk either."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.execute("PRAGMA synchronous = OFF" if place.is_sqlite else "SET synchronous_commit = local")


class Broken(Plain):
    def record(self, event: Event) -> None:
        raise RuntimeError(f"it broke at {event.account_id}")


@pytest.mark.parametrize(
    ("planted", "why"),
    [
        (Hurried, "row 1 is "),
        (Unlocked, "row 1 is "),
        (Careless, "synchronous"),
        (Broken, "RuntimeError: it broke at 1001"),
    ],
)
def test_an_enforcement_that_was_not_written_as_by_the_others_has_no_figure(
    ground: Ground, planted: Callable[[Place], Plain], why: str
) -> None:
    book = Book()
    enforcements.run(ground, TINY, book, {"planted": planted})
    [found] = book.refused
    assert found["contender"] == "planted"
    assert why in found["why"]
    assert "planted" not in {figure.contender for figure in book.figures}
    assert {figure.contender for figure in book.figures} >= {enforcements.FLOOR, enforcements.RECORD}


@pytest.mark.parametrize(
    "work", [bulk.run, writers.run, orders.single_and_batch, orders.read_at_start], ids=lambda work: work.__name__
)
def test_other_work_is_refused_in_every_contest(ground: Ground, work: Callable[..., None]) -> None:
    book = Book()
    work(ground, TINY, book, {"planted": Hurried, ORM: Peer})
    assert {found["contender"] for found in book.refused} == {"planted"}
    assert "planted" not in {figure.contender for figure in book.figures}


def test_a_writer_that_says_it_has_written_and_has_not_is_refused(ground: Ground) -> None:
    class Forgetful(Plain):
        def record(self, event: Event) -> None:
            if event.account_id != 1002:
                super().record(event)

    book = Book()
    writers.run(ground, TINY, book, {ORM: Forgetful})
    assert [found["contender"] for found in book.refused] == [ORM]


def test_the_command_prints_and_writes_what_it_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--tiny", "--no-postgresql", "--only", "W4", "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert printed == (tmp_path / "out" / "results.md").read_text(encoding="utf-8")
    assert "| work | contender | SQLite, FULL |" in printed
    assert "| W4, 20 stops, all move | plain driver, one UPDATE with the arithmetic | " in printed
    found = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert found["refused"] == []
    assert found["machine"]["SQLite"]
    assert all(len(figure["rounds"]) == TINY.rounds for figure in found["figures"])


def test_the_tables_of_a_page_are_replaced_and_nothing_else(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"above\n{BEGIN}\nold\n{END}\nbelow\n", encoding="utf-8")
    put_into(page, "new\n")
    assert page.read_text(encoding="utf-8") == f"above\n{BEGIN}\nnew\n{END}\nbelow\n"
    page.write_text("no marks", encoding="utf-8")
    with pytest.raises(SystemExit, match="not a page with"):
        put_into(page, "new\n")
    assert page.read_text(encoding="utf-8") == "no marks"
    assert BEGIN in (Path(__file__).parents[1] / "docs" / "performance.md").read_text(encoding="utf-8")


def test_the_command_fails_when_somebody_was_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "peers", lambda _missing: {"planted": Hurried})
    assert command.main(["--tiny", "--no-postgresql", "--only", "w1", "--out", str(tmp_path)]) == 1
    assert "Refused: planted (W1, beside other libraries, SQLite, FULL): row 1 is " in capsys.readouterr().out


def test_a_work_that_there_is_not_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(["--only", "W9"])
    assert "W9" in capsys.readouterr().err


def test_peers_that_are_not_installed_are_told_with_what_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("sqlmodel", "peewee", "django", "pony"):
        monkeypatch.setitem(sys.modules, name, None)
        monkeypatch.delitem(sys.modules, f"benchmarks.peers.{name}", raising=False)
    book = Book()
    assert set(peers(book.missing)) == {ORM}
    assert set(book.missing) == set(NAMES.values()) - {ORM}
    assert INSTALL in markdown(book, {}, {})


def test_a_floor_that_fails_ends_the_run() -> None:
    def fails(_number: int) -> None:
        raise RuntimeError("the floor broke")

    with pytest.raises(RuntimeError, match="the floor broke"):
        contest([Contender("floor", fails), Contender("other", lambda _number: None)], 1)
    with pytest.raises(AssertionError, match="the floor, floor: not durable"):
        contest([Contender("floor", lambda _number: None, lambda: "not durable")], 1)


def test_each_figure_is_the_median_of_its_rounds_and_each_ratio_that_of_the_rounds_own_ratios() -> None:
    def measuring(*measures: float) -> Callable[[int], dict[str, float]]:
        return lambda number: {"ms": measures[number]}

    outcome = contest([Contender("floor", measuring(9, 1, 10, 3)), Contender("ours", measuring(9, 3, 20, 3))], 3)
    floor, ours = outcome.results
    assert (floor.median("ms"), ours.median("ms"), ours.ratio_to(floor, "ms")) == (3, 3, 2)
    assert ours.first["ms"] == 9


@pytest.mark.parametrize(("sign", "limit", "met"), [("≤", 1.0, True), ("≤", 0.9, False), ("≥", 1.1, False)])
def test_a_target_is_met_or_not(sign: Any, limit: float, met: bool) -> None:
    assert Target("W1", "SQLite", "it", sign, limit, "x", 1.0).met is met


def test_a_percentile_that_is_off_or_a_rule_that_lacks_is_seen() -> None:
    @dataclasses.dataclass
    class Row:
        rule_id: str
        p50_time_ms: int
        p95_time_ms: int
        p99_time_ms: int

    exact = {"RULE-001": [100, 200, 300]}
    assert percentiles_off([Row("RULE-001", 100, 202, 297)], exact) == 1.0
    assert percentiles_off([], exact) == float("inf")


def test_the_log_of_the_reports_is_the_same_every_time_and_as_the_store_writes_it(ground: Ground) -> None:
    found = []
    for place in (ground.place(), ground.place()):
        fill(place, 1200)
        with closing(connect(place)) as connection:
            found.append(connection.execute("SELECT * FROM enforcement_log ORDER BY id").fetchall())
            [count] = connection.execute(
                "SELECT count(DISTINCT rule_id) * count(DISTINCT account_id) FROM enforcement_log"
            ).fetchone()
        assert count == 12 * 20
    assert found[0] == found[1]
    assert len(found[0]) == 1200

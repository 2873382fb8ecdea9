"""What happens to an upgrade that is killed, and to several at once: one of them works, none of them loses anything."""

import hashlib
import random
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import count
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import make_url

from risk_store.schema import SchemaState, status, upgrade
from tests.support import v1
from tests.support.forks import Job, Kill, Nursery, alembic
from tests.support.forks import upgrade as upgrading
from tests.support.pictures import Rows, is_sound, restricted, rows_of, schema_at, sorted_rows

AT_ONCE = 6
ADVISORY_LOCK = int.from_bytes(b"riskstor", "big")


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with Nursery() as warm:
        yield warm


@pytest.fixture
def v1_file(tmp_path: Path) -> Path:
    # Small pages make many of them, so that a cramped cache has to write some of them early.
    return v1.make_v1(tmp_path / "original.db", page_size=512)


def url_of(file: Path) -> str:
    return f"sqlite:///{file}"


class Loop:
    """Kills an upgrade of a fresh copy at each step, and after each kill looks at what is left and tries again."""

    def __init__(self, nursery: Nursery, folder: Path, original: Path | None) -> None:
        self.nursery = nursery
        self.folder = folder
        self.original = original
        self.old: Rows = sorted_rows(rows_of(original)) if original else {}
        self.seen: set[SchemaState] = set()
        self.rolled_back = 0
        self.kills = 0

    def run(self, make_job: Callable[[str, Kill], Job], kills: Iterator[Kill], times: int = 0) -> None:
        """Until an upgrade gets through unharmed, or (with `times`) so many times."""
        while True:
            batch = [(self.fresh(), next(kills)) for _ in range(AT_ONCE)]
            ends = self.nursery.run(*(make_job(url_of(file), kill) for file, kill in batch))
            for (file, kill), end in zip(batch, ends, strict=True):
                assert end.killed or end.passed, (kill, end)
                self.look(file, killed=end.killed)
            again = self.nursery.run(*(upgrading(url_of(file)) for file, _ in batch))
            for (file, kill), end in zip(batch, again, strict=True):
                assert end.passed, (kill, end)
                self.look_at_the_new(file)
            for file, _ in batch:
                shutil.rmtree(file.parent)
            if self.kills >= times and (times or not all(end.killed for end in ends)):
                return

    def fresh(self) -> Path:
        self.kills += 1
        folder = self.folder / str(self.kills)
        folder.mkdir()
        if self.original:
            shutil.copy(self.original, folder / "risk.db")
        return folder / "risk.db"

    def look(self, file: Path, *, killed: bool) -> None:
        journal = file.with_name("risk.db-journal")
        self.rolled_back += journal.exists() and journal.read_bytes()[:1] != b"\0"
        state = status(url_of(file)).state  # first, since it must cope with what the killed one left
        if killed:
            self.seen.add(state)
        if state is SchemaState.CURRENT:
            self.look_at_the_new(file)
        else:
            assert state is (SchemaState.LEGACY_V1 if self.original else SchemaState.EMPTY)
            assert not file.exists() or sorted_rows(rows_of(file)) == self.old
            assert not file.exists() or is_sound(file)
        self.look_at_copies(file)

    def look_at_the_new(self, file: Path) -> None:
        assert status(url_of(file)).ok
        assert is_sound(file)
        assert restricted(rows_of(file), self.old) == self.old
        self.look_at_copies(file)

    def look_at_copies(self, file: Path) -> None:
        """Whatever is called a copy is a whole one."""
        for copy in file.parent.glob("*.bak*"):
            if ".part" in copy.name:
                continue  # the draft of a copy that was killed
            assert sorted_rows(rows_of(copy)) == self.old, copy
            assert is_sound(copy)


def each_call(step: int = 1, *, writing_only: bool = True, cramped: bool = True) -> Iterator[Kill]:
    return (Kill(at=n, writing_only=writing_only, cramped=cramped) for n in count(1, step))


def by_command(url: str, kill: Kill) -> Job:
    return alembic("-x", f"url={url}", "upgrade", "head", kill=kill)


def test_an_upgrade_of_a_v1_file_killed_at_any_write_leaves_the_old_schema_or_the_new(
    nursery: Nursery, tmp_path: Path, v1_file: Path
) -> None:
    loop = Loop(nursery, tmp_path, v1_file)
    loop.run(upgrading, each_call())
    # The loop is not blind: it met both ends, and files that another process had to repair first.
    assert loop.seen == {SchemaState.LEGACY_V1, SchemaState.CURRENT}
    assert loop.rolled_back > 10


def test_alembic_upgrade_head_on_a_v1_file_killed_at_any_fifth_write_leaves_the_old_schema_or_the_new(
    nursery: Nursery, tmp_path: Path, v1_file: Path
) -> None:
    loop = Loop(nursery, tmp_path, v1_file)
    loop.run(by_command, each_call(5))
    assert loop.rolled_back


def test_making_a_new_store_killed_at_any_seventh_write_leaves_none_or_a_whole_one(
    nursery: Nursery, tmp_path: Path
) -> None:
    Loop(nursery, tmp_path, None).run(upgrading, each_call(7))


@pytest.mark.full
@pytest.mark.parametrize("cramped", [True, False], ids=["cramped", "roomy"])
@pytest.mark.parametrize("job", [upgrading, by_command], ids=["risk_store", "alembic"])
@pytest.mark.parametrize("start", ["v1", "v1 in WAL", "nothing"])
def test_an_upgrade_killed_at_any_call_of_the_driver_leaves_the_old_schema_or_the_new(
    nursery: Nursery, tmp_path: Path, v1_file: Path, start: str, job: Callable[[str, Kill], Job], cramped: bool
) -> None:
    if start == "v1 in WAL":
        _make_wal(v1_file)
    loop = Loop(nursery, tmp_path, v1_file if start != "nothing" else None)
    loop.run(job, each_call(writing_only=False, cramped=cramped))


@pytest.mark.full
def test_a_thousand_upgrades_killed_at_any_time_leave_the_old_schema_or_the_new(
    nursery: Nursery, tmp_path: Path
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # shown when the test fails
    chance = random.Random(seed)
    original = v1.make_v1(tmp_path / "original.db", log_rows=1000)
    loop = Loop(nursery, tmp_path, original)
    began = time.monotonic()
    assert all(end.passed for end in nursery.run(*(upgrading(url_of(loop.fresh())) for _ in range(AT_ONCE))))
    longest = time.monotonic() - began
    loop.run(
        upgrading,
        (Kill(after_s=chance.uniform(0, longest), cramped=chance.random() < 0.5) for _ in count()),
        times=1000,
    )
    assert loop.seen == {SchemaState.LEGACY_V1, SchemaState.CURRENT}


class BigLoop(Loop):
    """The same with a file of 200,000 log rows, each tenth of which has to be converted: compared by checksums."""

    ROWS = 200_000

    def __init__(self, nursery: Nursery, folder: Path) -> None:
        original = v1.make_v1(folder / "original.db", rows=False)
        _fill(original, self.ROWS)
        super().__init__(nursery, folder, None)
        self.original = original
        self.bytes = hashlib.sha256(original.read_bytes()).hexdigest()
        untouched = folder / "untouched.db"
        shutil.copy(original, untouched)
        upgrade(url_of(untouched), backup=False)
        self.new = _log_checksum(untouched)

    def look(self, file: Path, *, killed: bool) -> None:
        state = status(url_of(file)).state  # rolls back what a killed writer left
        if killed:
            self.seen.add(state)
        if state is SchemaState.CURRENT:
            self.look_at_the_new(file)
        else:
            assert state is SchemaState.LEGACY_V1
            assert hashlib.sha256(file.read_bytes()).hexdigest() == self.bytes
        self.look_at_copies(file)

    def look_at_the_new(self, file: Path) -> None:
        assert status(url_of(file)).ok
        assert _log_checksum(file) == self.new

    def look_at_copies(self, file: Path) -> None:
        for copy in file.parent.glob("*.bak*"):
            if ".part" not in copy.name:
                with closing(sqlite3.connect(copy)) as connection:
                    assert connection.execute("SELECT count(*) FROM enforcement_log").fetchone() == (self.ROWS,)


def _fill(file: Path, rows: int) -> None:
    with closing(sqlite3.connect(file)) as connection:
        times = (
            f"2025-09-{n // 86400 % 28 + 1:02} {n // 3600 % 24:02}:{n // 60 % 60:02}:{n % 60:02}" for n in range(rows)
        )
        odd = ("T".join(time.split()) + "-05:00" if n % 10 == 0 else time for n, time in enumerate(times))
        connection.executemany(
            "INSERT INTO enforcement_log (timestamp, account_id, rule_id, action, reason, details, execution_time_ms) "
            "VALUES (?, 7, 'RULE-003', 'CLOSE_ALL', 'Loss', ?, ?)",
            ((time, '{"positions_closed": 2}' if n % 10 == 1 else None, n % 6000) for n, time in enumerate(odd)),
        )
        connection.commit()


def _log_checksum(file: Path) -> str:
    digest = hashlib.sha256()
    with closing(sqlite3.connect(file)) as connection:
        for row in connection.execute("SELECT * FROM enforcement_log ORDER BY id"):
            digest.update(repr(row).encode())
    return digest.hexdigest()


def _kill_adoptions(nursery: Nursery, folder: Path, kills: int) -> BigLoop:
    """Half of the kills at the driver's calls, one after the other, half at random moments."""
    loop = BigLoop(nursery, folder)
    step = max(1, 420 * 2 // kills)  # it makes about 420 calls
    loop.run(upgrading, each_call(step, writing_only=False, cramped=False))
    assert loop.kills > 300 // step, "it met the calls that it makes"
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # shown when the test fails
    chance = random.Random(seed)
    began = time.monotonic()
    assert all(end.passed for end in nursery.run(*(upgrading(url_of(loop.fresh())) for _ in range(AT_ONCE))))
    longest = time.monotonic() - began
    loop.run(upgrading, (Kill(after_s=chance.uniform(0, longest)) for _ in count()), times=kills)
    return loop


def test_adopting_a_file_of_200_000_rows_killed_at_any_moment_leaves_the_old_file_or_the_new(
    nursery: Nursery, tmp_path: Path
) -> None:
    assert SchemaState.LEGACY_V1 in _kill_adoptions(nursery, tmp_path, 50).seen


@pytest.mark.full
def test_a_thousand_kills_while_adopting_a_file_of_200_000_rows_leave_the_old_file_or_the_new(
    nursery: Nursery, tmp_path: Path
) -> None:
    loop = _kill_adoptions(nursery, tmp_path, 1000)
    assert loop.seen == {SchemaState.LEGACY_V1, SchemaState.CURRENT}


def _make_wal(file: Path) -> None:
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("PRAGMA journal_mode = WAL").fetchone() == ("wal",)


@pytest.mark.parametrize("processes", [2, 6])
@pytest.mark.parametrize("start", ["no file", "v1", "v1 in WAL"])
def test_processes_that_upgrade_one_file_at_once_all_succeed(
    nursery: Nursery, tmp_path: Path, v1_file: Path, start: str, processes: int
) -> None:
    file = tmp_path / "risk.db"
    old: Rows = {}
    if start != "no file":
        if start == "v1 in WAL":
            _make_wal(v1_file)
        shutil.copy(v1_file, file)
        old = sorted_rows(rows_of(v1_file))
    # By both doors, since a daemon and a person may come at the same time.
    jobs = [by_command(url_of(file), Kill()) if n % 3 == 2 else upgrading(url_of(file)) for n in range(processes)]
    for end in nursery.run(*jobs):
        assert end.passed, end
    assert status(url_of(file)).ok
    assert restricted(rows_of(file), old) == old
    copies = list(tmp_path.glob("risk.db*.bak*"))
    assert bool(copies) == bool(old)
    for copy in copies:
        assert sorted_rows(rows_of(copy)) == old, "a copy is one of the file as it was before"
    upgrade(f"sqlite:///{tmp_path / 'alone.db'}")
    assert set(schema_at(url_of(file))) >= set(schema_at(f"sqlite:///{tmp_path / 'alone.db'}"))


def test_an_upgrade_goes_on_when_the_one_it_waits_for_is_killed(
    nursery: Nursery, tmp_path: Path, v1_file: Path
) -> None:
    for n in range(12, 42, 10):
        file = Path(shutil.copy(v1_file, tmp_path / f"{n}.db"))
        kill = Kill(at=n, writing_only=True, cramped=True)
        killed, waiting = nursery.run(upgrading(url_of(file), kill), upgrading(url_of(file)))
        assert waiting.passed, waiting
        assert killed.killed or killed.passed, killed  # it passed if it came second
        assert status(url_of(file)).ok
        assert is_sound(file)


def test_threads_of_one_process_that_upgrade_at_once_all_succeed(tmp_path: Path, v1_file: Path) -> None:
    files = [Path(shutil.copy(v1_file, tmp_path / "one.db")), tmp_path / "two.db"]
    _upgrade_in_threads([url_of(file) for file in files for _ in range(2)])
    for file in files:
        assert status(url_of(file)).ok


def _upgrade_in_threads(urls: list[str]) -> None:
    problems: list[BaseException] = []
    together = threading.Barrier(len(urls), timeout=30)

    def work(url: str) -> None:
        try:
            together.wait()
            upgrade(url)
        except BaseException as problem:
            problems.append(problem)

    threads = [threading.Thread(target=work, args=(url,)) for url in urls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert problems == []


@pytest.mark.parametrize("processes", [2, 6])
def test_processes_that_upgrade_one_postgresql_database_at_once_all_succeed(
    nursery: Nursery, postgres_database: str, processes: int
) -> None:
    door = [upgrading(postgres_database), by_command(postgres_database, Kill())]
    for end in nursery.run(*(door[n % 2] for n in range(processes))):
        assert end.passed, end
    assert status(postgres_database).ok
    assert_no_advisory_lock(postgres_database)


def test_threads_of_one_process_that_upgrade_one_postgresql_database_at_once_all_succeed(
    postgres_database: str,
) -> None:
    _upgrade_in_threads([postgres_database] * 3)
    assert status(postgres_database).ok


def test_a_killed_upgrade_of_postgresql_leaves_no_lock_and_no_table_and_the_next_one_succeeds(
    nursery: Nursery, postgres_database: str
) -> None:
    killed = _kill_upgrades(nursery, postgres_database, 12)
    assert killed >= 5
    assert status(postgres_database).ok
    assert_no_advisory_lock(postgres_database)


@pytest.mark.full
def test_an_upgrade_of_postgresql_killed_at_any_statement_leaves_no_lock_and_no_table(
    nursery: Nursery, postgres_database: str
) -> None:
    assert _kill_upgrades(nursery, postgres_database, 1) > 50
    assert status(postgres_database).ok


def _kill_upgrades(nursery: Nursery, url: str, step: int) -> int:
    """Kill one upgrade after the other, each further on, until one gets through; says how many were killed."""
    for killed in count():
        [end] = nursery.run(upgrading(url, Kill(at=1 + killed * step)))
        if end.passed:
            return killed
        assert end.killed, end
        assert status(url).state is SchemaState.EMPTY
    raise AssertionError("unreachable")


def test_an_upgrade_of_postgresql_goes_on_when_the_one_it_waits_for_is_killed(
    nursery: Nursery, postgres_database: str
) -> None:
    killed, waiting = nursery.run(upgrading(postgres_database, Kill(at=30)), upgrading(postgres_database))
    assert waiting.passed, waiting
    assert killed.killed or killed.passed, killed  # it passed if it came second
    assert status(postgres_database).ok
    assert_no_advisory_lock(postgres_database)


def assert_no_advisory_lock(url: str) -> None:
    plain = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(plain) as connection:
        # A server takes a moment to notice a dead client: this waits for it, and no longer than ten seconds.
        connection.execute("SET LOCAL lock_timeout = '10s'")
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (ADVISORY_LOCK,))
        others = """
            SELECT count(*) FROM pg_locks JOIN pg_database ON pg_database.oid = database
            WHERE locktype = 'advisory' AND pid <> pg_backend_pid() AND datname = current_database()
        """
        assert connection.execute(others).fetchone() == (0,)

"""Children of one warm process, each of which can be killed at a chosen moment.

Importing SQLAlchemy and Alembic takes a second, forking a process that has imported them takes milliseconds: that is
how a test can afford to kill an upgrade at every single step. The warm process is not pytest's own, which may have
threads (xdist's) that a fork does not survive.
"""

import functools
import gc
import json
import os
import select
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, Self

ROOT = Path(__file__).parents[2]
DEADLINE_S = 60.0  # no child may take longer, whatever it waits for


@dataclass(frozen=True, kw_only=True)
class Kill:
    """When a child is to be killed with SIGKILL."""

    at: int = 0
    """Before its n-th call of the database driver (SQLite: also of the file functions of `os`)."""
    writing_only: bool = False
    """Count only the calls that may change something; between two of them there is nothing to see."""
    after_s: float = DEADLINE_S
    """Or when this time is over."""
    cramped: bool = False
    """SQLite: a page cache so small that changes reach the file early, as they do in a migration of a large file."""


@dataclass(frozen=True)
class Job:
    """What a child is to do: `schema.upgrade`, or a command line of Alembic."""

    call: str
    arguments: dict[str, Any]
    kill: Kill = field(default_factory=Kill)


def upgrade(url: str, kill: Kill | None = None, *, backup: bool = True) -> Job:
    """`risk_store.schema.upgrade`."""
    return Job("upgrade", {"url": url, "backup": backup}, kill or Kill())


def enforce(url: str, account: int, marker: Path, kill: Kill | None = None) -> Job:
    """One enforcement with a lockout, whose block makes the file `marker` and closes three positions."""
    return Job("enforce", {"url": url, "account": account, "marker": str(marker)}, kill or Kill())


def alembic(*arguments: str, folder: Path = ROOT, kill: Kill | None = None, **variables: str) -> Job:
    """`alembic …`, started in `folder`, with variables of the environment by keyword (and no RISK_STORE_URL else)."""
    call = {"arguments": arguments, "folder": str(folder), "variables": variables}
    return Job("alembic", call, kill or Kill())


@dataclass(frozen=True)
class Outcome:
    """How a child ended."""

    code: int
    """Its exit code; minus the signal that killed it."""
    out: str
    err: str

    @property
    def killed(self) -> bool:
        return self.code == -signal.SIGKILL

    @property
    def passed(self) -> bool:
        return self.code == 0


class Nursery:
    """The warm process, and the way to have it fork."""

    def __enter__(self) -> Self:
        self._warm = subprocess.Popen(
            [sys.executable, "-m", "tests.support.forks"],
            cwd=ROOT,
            env={name: value for name, value in os.environ.items() if name != "RISK_STORE_URL"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._warm.communicate(timeout=DEADLINE_S)  # closes its input, at which it ends

    def run(self, *jobs: Job) -> list[Outcome]:
        """Start all jobs at the same moment, one child each, and wait for their ends."""
        assert self._warm.stdin is not None
        assert self._warm.stdout is not None
        self._warm.stdin.write(json.dumps([asdict(job) for job in jobs]) + "\n")
        self._warm.stdin.flush()
        return [Outcome(**outcome) for outcome in json.loads(self._warm.stdout.readline())]


# What follows runs in the warm process.


@dataclass(frozen=True)
class _Child:
    pid: int
    alive: int  # a pipe that closes when the child ends
    out: IO[bytes]
    err: IO[bytes]


def _serve() -> None:
    _warm_up()
    for line in sys.stdin:
        jobs = json.loads(line)
        ready, gate = os.pipe()
        children = [_fork(job, ready, gate) for job in jobs]
        os.close(ready)
        os.close(gate)  # at which they all begin
        began = time.monotonic()
        for child, job in sorted(zip(children, jobs, strict=True), key=lambda pair: pair[1]["kill"]["after_s"]):
            left = began + job["kill"]["after_s"] - time.monotonic()
            if not select.select([child.alive], [], [], max(0, left))[0]:
                os.kill(child.pid, signal.SIGKILL)
        print(json.dumps([_outcome(child) for child in children]), flush=True)


def _warm_up() -> None:
    import alembic.config  # noqa: F401
    import sqlalchemy

    import risk_store.store  # noqa: F401
    from risk_store.engines import open_engine, parse_url
    from risk_store.schema import upgrade

    upgrade(engine := open_engine(parse_url("sqlite://"), "migrate"))
    engine.dispose()
    sqlalchemy.create_engine("postgresql+psycopg://")
    gc.disable()  # a child that collects garbage copies the memory it shares with its parent
    gc.freeze()


def _fork(job: dict[str, Any], ready: int, gate: int) -> _Child:
    alive, lives = os.pipe()
    out, err = (tempfile.TemporaryFile() for _ in range(2))  # noqa: SIM115 (closed in _outcome)
    pid = os.fork()
    if pid:
        os.close(lives)
        return _Child(pid, alive, out, err)
    code = 1
    try:
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
        os.close(gate)
        os.read(ready, 1)
        code = _do(job)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _outcome(child: _Child) -> dict[str, Any]:
    _, status = os.waitpid(child.pid, 0)
    os.close(child.alive)
    texts = []
    for file in (child.out, child.err):
        file.seek(0)
        texts.append(file.read().decode(errors="replace"))
        file.close()
    return {"code": os.waitstatus_to_exitcode(status), "out": texts[0], "err": texts[1]}


def _do(job: dict[str, Any]) -> int:
    if job["kill"]["at"] or job["kill"]["cramped"]:
        _count_calls(Kill(**job["kill"]))
    return {"upgrade": _upgrade, "alembic": _alembic, "enforce": _enforce}[job["call"]](**job["arguments"])


def _upgrade(url: str, backup: bool) -> int:
    from risk_store.schema import upgrade

    print(upgrade(url, backup=backup).after)
    return 0


def _enforce(url: str, account: int, marker: str) -> int:
    from risk_store import Limits, RiskStore

    # A slow machine is not what is tried here: with half a second the block would run without an intent now and then.
    with (
        RiskStore(url, limits=Limits(intent_s=30.0, record_s=30.0)) as store,
        store.enforce(account, "RULE-003", "CLOSE_ALL", "loss", lock_until=None) as enforcement,
    ):
        Path(marker).touch()
        os.rename(marker, marker)  # a call that is counted, so that some are killed in the block
        enforcement.positions_closed = 3
    return 0


def _alembic(arguments: list[str], folder: str, variables: dict[str, str]) -> int:
    from alembic.config import main

    os.chdir(folder)
    os.environ.update(variables)
    main(["-c", str(ROOT / "alembic.ini"), *arguments], prog="alembic")
    return 0


def _count_calls(kill: Kill) -> None:
    """From here on, the `kill.at`-th call of the driver is the last thing this process does."""
    made = 0

    def call() -> None:
        nonlocal made
        made += 1
        if made == kill.at:
            os.kill(os.getpid(), signal.SIGKILL)

    def statement(sql: str) -> None:
        if not kill.writing_only or sql.split(maxsplit=1)[0].upper() not in ("SELECT", "PRAGMA", "SET", "SHOW"):
            call()

    _count_calls_of_sqlite(call, statement, kill.cramped)
    _count_calls_of_postgresql(call, statement)
    for name in ("link", "rename", "replace", "unlink"):
        setattr(os, name, _counted(getattr(os, name), call))


def _counted(function: Callable[..., Any], call: Callable[[], None]) -> Callable[..., Any]:
    @functools.wraps(function)
    def counted(*arguments: Any, **keywords: Any) -> Any:
        call()
        return function(*arguments, **keywords)

    return counted


def _count_calls_of_sqlite(call: Callable[[], None], statement: Callable[[str], None], cramped: bool) -> None:
    """By the driver's own way to extend it, so that the backup's plain connections count too."""

    class Cursor(sqlite3.Cursor):
        def execute(self, sql: str, *arguments: Any) -> Any:
            statement(sql)
            if cramped and sql.startswith("PRAGMA cache_size"):
                return self
            return super().execute(sql, *arguments)

        def executemany(self, sql: str, *arguments: Any) -> Any:
            statement(sql)
            return super().executemany(sql, *arguments)

    class Connection(sqlite3.Connection):
        def __init__(self, *arguments: Any, **keywords: Any) -> None:
            super().__init__(*arguments, **keywords)
            if cramped:
                super().execute("PRAGMA cache_size = 1")

        def cursor(self, factory: Any = Cursor) -> Any:
            return super().cursor(factory)

        def execute(self, sql: str, *arguments: Any) -> Any:
            return self.cursor().execute(sql, *arguments)  # the driver's own would not use our cursor

        commit = _counted(sqlite3.Connection.commit, call)
        backup = _counted(sqlite3.Connection.backup, call)
        close = _counted(sqlite3.Connection.close, call)

    connect = functools.partial(sqlite3.connect, factory=Connection)
    sqlite3.connect = sqlite3.dbapi2.connect = connect  # type: ignore[assignment]


def _count_calls_of_postgresql(call: Callable[[], None], statement: Callable[[str], None]) -> None:
    import psycopg

    execute = psycopg.Cursor.execute

    @functools.wraps(execute)
    def counted(cursor: Any, query: Any, *arguments: Any, **keywords: Any) -> Any:
        text = query.decode() if isinstance(query, bytes) else query
        statement(text if isinstance(text, str) else text.as_string(cursor))
        return execute(cursor, query, *arguments, **keywords)

    psycopg.Cursor.execute = counted  # type: ignore[method-assign]
    psycopg.Connection.commit = _counted(psycopg.Connection.commit, call)  # type: ignore[method-assign]


if __name__ == "__main__":
    _serve()

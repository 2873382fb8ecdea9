"""One upgrade, from the verdict to the report: copy, revisions, rows made canonical, all of it checked.

:func:`upgrade` asks for it, Alembic's ``env.py`` carries it out in one transaction, by whichever command it was called.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import sqlalchemy as sa
from sqlalchemy.engine import URL

from risk_store.engines import database_file, open_engine, translated, url_of
from risk_store.errors import RiskStoreError, SchemaMismatch
from risk_store.schema.adoption import Adoption, Finding, FindingKind, LegacyChoices, OddValue
from risk_store.schema.copies import Progress, check_sound, check_writable, remove_drafts, row_counts, verified_copy
from risk_store.schema.verdict import (
    HEAD,
    REVISIONS,
    TABLES_OF_OLD,
    VERSION_TABLE,
    SchemaState,
    SchemaStatus,
    in_the_way,
    inspect_schema,
    shell_word,
    status,
)

if TYPE_CHECKING:
    from alembic.config import Config

__all__ = ["Upgrade", "UpgradeOptions", "UpgradeReport", "alembic_config", "odd_values", "upgrade"]


@dataclass(frozen=True, slots=True, kw_only=True)
class UpgradeReport:
    """What an upgrade did, or in a dry run would do."""

    before: SchemaStatus
    after: str
    """The revision afterwards."""
    steps: int
    """How many revisions were applied; 0 when it was there already."""
    seconds: float
    backup: Path | None
    """The verified copy of the file as it was, beside it; None where there was nothing to copy (a new store, nothing to
    change), where no copy was wanted, or where the server's own backups are the way back."""
    rows_before: dict[str, int] = field(default_factory=dict)
    """Rows in every table as it was, a user's own tables too; empty for a new store."""
    rows_after: dict[str, int] = field(default_factory=dict)
    found: tuple[Finding, ...] = ()
    """What was odd in the rows: what was converted, and what could not be read and is kept as it is."""
    notes: tuple[str, ...] = ()
    dry_run: bool = False

    @property
    def converted(self) -> tuple[Finding, ...]:
        """What was made canonical."""
        kinds = (FindingKind.INSTANT, FindingKind.ORDER_CODE, FindingKind.OUTCOME)
        return tuple(finding for finding in self.found if finding.kind in kinds)

    @property
    def unreadable(self) -> tuple[Finding, ...]:
        """What could not be read: it is kept as it is, and ``risk-store check --list`` lists it."""
        return tuple(finding for finding in self.found if finding.kind is FindingKind.UNREADABLE)

    @property
    def doubtful(self) -> tuple[Finding, ...]:
        """Local times that their zone's clocks showed twice, or never."""
        return tuple(finding for finding in self.found if finding.kind in (FindingKind.TWICE, FindingKind.NEVER))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {
            "before": self.before.to_dict(),
            "after": self.after,
            "steps": self.steps,
            "dry_run": self.dry_run,
            "seconds": round(self.seconds, 3),
            "backup": str(self.backup) if self.backup else None,
            "rows": {
                table: {"before": rows, "after": self.rows_after.get(table)} for table, rows in self.rows_before.items()
            },
            **{
                name: [finding.to_dict() for finding in getattr(self, name)]
                for name in ("converted", "unreadable", "doubtful")
            },
            "notes": list(self.notes),
        }

    @property
    def text(self) -> str:
        """The report as lines for a person."""
        return "\n".join(self._lines())

    def _after(self, table: str) -> str:
        return f"{self.rows_after.get(table, 0):,}" if table not in TABLES_OF_OLD or self.dry_run else "replaced"

    def _lines(self) -> list[str]:
        database = self.before.database
        if not self.steps and not self.converted:
            return [f"{database}: at {self.after} already, nothing to do", *self._unreadable_lines(), *self.notes]
        was = self.before.found or self.before.state.value.replace("_", " ")
        steps = "1 step" if self.steps == 1 else f"{self.steps} steps"
        lines = [f"{was} -> {self.after}   {steps}" + ("" if self.dry_run else f"   {self.seconds:.1f} s")]
        if self.dry_run:
            lines[0] = f"dry run, nothing was changed: {lines[0]}"
        if self.rows_before:
            width = max(map(len, self.rows_before))
            lines.append("rows before and after:")
            lines += [
                f"  {table:<{width}}  {rows:>12,}  {self._after(table):>12}"
                for table, rows in self.rows_before.items()
                if table != VERSION_TABLE
            ]
        lines += _told("would be made canonical" if self.dry_run else "made canonical", self.converted)
        lines += self._unreadable_lines()
        for kind, what in (
            (FindingKind.TWICE, "in doubt: the clocks showed these local times twice, the first was taken"),
            (FindingKind.NEVER, "against the zone: its clocks skipped these local times"),
        ):
            lines += _told(what, tuple(finding for finding in self.doubtful if finding.kind is kind))
        lines += self.notes
        if self.backup is not None:
            lines.append(f"copy of the file as it was (verified): {self.backup}")
            lines.append(f"to go back: risk-store restore {shell_word(database)} {shell_word(str(self.backup))}")
        return lines

    def _unreadable_lines(self) -> list[str]:
        lines = _told("kept as they are, since nobody can read them", self.unreadable)
        if self.unreadable and not self.dry_run:
            lines.append(f"  all of them: risk-store check {shell_word(self.before.database)} --list")
        return lines


def _told(what: str, findings: tuple[Finding, ...]) -> list[str]:
    if not findings:
        return []
    lines = [f"{what}:"]
    for finding in findings:
        rows = "1 row" if finding.rows == 1 else f"{finding.rows:,} rows"
        lines.append(f"  {finding.column}: {finding.kind.value} in {rows}")
        lines += [f"    {example}" for example in finding.examples[:1]]
    return lines


class UpgradeOptions(TypedDict, total=False):
    """The keywords of :func:`upgrade`."""

    backup: bool
    legacy_timezone: str | None
    legacy_order_codes: str | None
    accept_contradictions: bool
    canonicalise: bool
    dry_run: bool
    progress: Progress | None


# Alembic keeps state in module globals: two threads of one process must not run it at once.
_alembic = threading.Lock()


def upgrade(
    database: str | URL | sa.Engine,
    *,
    backup: bool = True,
    legacy_timezone: str | None = None,
    legacy_order_codes: str | None = None,
    accept_contradictions: bool = False,
    canonicalise: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> UpgradeReport:
    """Brings a database to head, creating it where there is none: the same as ``alembic upgrade head``.

    An SQLite file that holds anything is first copied beside itself and the copy verified, unless `backup` is False.
    Rows of a v1 daemon are made canonical. Safe to run twice and by several processes at once: one works, the others
    wait and find it done. Killed at any moment it leaves the old schema or the new one, and can be run again.

    What a v1 file does not say of itself: `legacy_timezone`, the IANA name of the zone of times without an offset
    (default UTC), and `legacy_order_codes`, ``"stored"`` (default) or ``"gateway"``. Rows that contradict it raise
    LegacyContradiction, before anything is written, unless `accept_contradictions`.

    At head already it looks no further, unless `canonicalise` is set: then rows that a v1 daemon wrote since in another
    form are made canonical, which takes a walk over all rows. `dry_run` says what would be done and touches nothing.
    `progress` is told (what, done, of how much).

    Raises SchemaMismatch when the database is ahead, foreign or drifted; InvalidValue, LegacyContradiction, StoreBusy,
    StoreFull, StoreReadOnly, StoreUnavailable. Nothing is changed then.

    >>> report = upgrade("sqlite:///" + str(getfixture("tmp_path") / "risk.db"))
    >>> report.after, report.backup
    ('0006', None)
    """
    url = url_of(database)
    work = Upgrade(
        url=url,
        choices=LegacyChoices(
            timezone=legacy_timezone,
            order_codes=legacy_order_codes,
            accept_contradictions=accept_contradictions,
        ),
        backup=backup,
        canonicalise=canonicalise,
        progress=progress,
    )
    before = status(database)
    if not before.upgradable:
        raise SchemaMismatch(before)
    if before.ok and not canonicalise:
        return work.nothing_to_do(before)
    if dry_run or before.ok:
        # Looking takes no lock: whoever enforces meanwhile does not wait, and most often there is nothing to do.
        seen = _look(database, work, before)
        if dry_run:
            return seen
        if not seen.converted:
            return replace(seen, dry_run=False)
    _run_alembic(database, url, work)
    if work.report is None:  # another process has done it meanwhile
        return work.nothing_to_do(status(database))
    return work.report


def _look(database: str | URL | sa.Engine, work: Upgrade, before: SchemaStatus) -> UpgradeReport:
    if before.state is SchemaState.EMPTY:
        return work.would_do(before, None)
    with _looking(database) as connection:
        return work.would_do(before, connection)


def odd_values(database: str | URL | sa.Engine, progress: Progress | None = None) -> Iterator[OddValue]:
    """Every value in a store, or in a v1 database, that is not as this release would write it.

    What a v1 daemon wrote in another form (`risk-store upgrade` makes it canonical), and what nobody can read. A walk
    over all rows, which takes no lock.

    >>> url = "sqlite:///" + str(getfixture("tmp_path") / "risk.db")
    >>> _ = upgrade(url)
    >>> list(odd_values(url))
    []
    """
    before = status(database)
    if before.state is SchemaState.EMPTY:
        return
    with _looking(database) as connection:
        adoption = Adoption(connection=connection, before=before, choices=LegacyChoices(), progress=progress)
        yield from adoption.odd_values()


@contextmanager
def _looking(database: str | URL | sa.Engine) -> Iterator[sa.Connection]:
    url = url_of(database)
    engine = database if isinstance(database, sa.Engine) else open_engine(url, "look")
    try:
        with translated(url), engine.connect() as connection:
            yield connection
    finally:
        if engine is not database:
            engine.dispose()


def _run_alembic(database: str | URL | sa.Engine, url: URL, work: Upgrade) -> None:
    from alembic.util import CommandError

    from alembic import command

    config = alembic_config(database)
    config.attributes["upgrade"] = work
    with _alembic, translated(url):
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            if isinstance(error.__cause__, RiskStoreError):
                raise error.__cause__ from error
            raise RiskStoreError(str(error)) from error


def alembic_config(database: str | URL | sa.Engine) -> Config:
    """An Alembic configuration for `database`, from a checkout or from an installed package alike."""
    from alembic.config import Config

    package = Path(__file__).parents[1]
    inside = package / "_alembic"
    config = Config()
    config.set_main_option("script_location", str(inside if inside.is_dir() else package.parent / "alembic"))
    config.set_main_option("path_separator", "os")
    # The object, never its text: str(url) hides the password, and '%' means something else in an ini file.
    config.attributes["connection"] = database
    return config


@dataclass(kw_only=True)
class Upgrade:
    """One upgrade as it runs: ``env.py`` calls :meth:`prepare`, runs the revisions, and calls :meth:`complete`."""

    url: URL
    choices: LegacyChoices = field(default_factory=LegacyChoices)
    backup: bool = True
    canonicalise: bool = False
    progress: Progress | None = None
    report: UpgradeReport | None = None
    """What was done, once :meth:`complete` has ended."""
    _backup: Path | None = field(default=None, init=False)

    def prepare(self, connection: sa.Connection) -> None:
        """Everything that can refuse, and the copy: while the lock is held and before anything is written.

        Raises SchemaMismatch, LegacyContradiction, StoreReadOnly, StoreFull, StoreUnavailable.
        """
        self._started = time.monotonic()
        self._before = inspect_schema(connection, self.url)
        self._adoption = self._adopts(self._before, connection)
        self._rows: dict[str, int] = {}
        # At head there is work only if some row is odd, and can be made canonical.
        if self._before.ok and not (self.canonicalise and any(odd.becomes for odd in self._adoption.odd_values())):
            return
        self._refuse(self._before, connection, self._adoption)
        if self._before.state is SchemaState.EMPTY:
            return
        if self.backup and (file := database_file(self.url)) is not None:
            remove_drafts(file)  # of copies that were killed: under this lock nobody else is making one
            self._backup = verified_copy(file, self._before.found or "v1", self.progress)
        self._rows = row_counts(connection)

    def complete(self, connection: sa.Connection) -> None:
        """Makes the rows canonical and checks the whole, before it is committed.

        Raises RiskStoreError if a row was lost or the file is damaged, at which the transaction is rolled back.
        """
        after = inspect_schema(connection, self.url)
        found: tuple[Finding, ...] = ()
        rows: dict[str, int] = {}
        if self._rows:
            found = self._adoption.walk(write=True)
            rows = row_counts(connection)
        if after.found is not None:
            self._adoption.mark()
        if self._rows and (file := database_file(self.url)) is not None:
            # Nobody else could write meanwhile. (On a server others go on until a revision locks their table.)
            # More rows are no loss: a trigger of the owner's may keep a history.
            kept = self._rows.keys() - TABLES_OF_OLD  # what a revision has taken away it has counted anew elsewhere
            if lost := sorted(table for table in kept if rows.get(table, 0) < self._rows[table]):
                raise RiskStoreError(f"{file}: rows of {', '.join(lost)} were lost. Nothing was changed.")
            check_sound(connection, file)
        self.report = UpgradeReport(
            before=self._before,
            after=after.found or "",
            steps=_index(after.found) - _index(self._before.found),
            seconds=time.monotonic() - self._started,
            backup=self._backup,
            rows_before=self._rows,
            rows_after=rows,
            found=found,
            notes=tuple(self._adoption.notes),
        )

    def would_do(self, before: SchemaStatus, connection: sa.Connection | None) -> UpgradeReport:
        """The report of a dry run, on a connection that only reads (None for a database that is not there)."""
        started = time.monotonic()
        rows: dict[str, int] = {}
        found: tuple[Finding, ...] = ()
        notes: list[str] = []
        if connection is not None:
            adoption = self._adopts(before, connection)
            self._refuse(before, connection, adoption)
            rows = row_counts(connection)
            found, notes = adoption.walk(write=False), adoption.notes
        return UpgradeReport(
            before=before,
            after=HEAD,
            steps=len(REVISIONS) - _index(before.found),
            seconds=time.monotonic() - started,
            backup=None,
            rows_before=rows,
            rows_after=rows,
            found=found,
            notes=tuple(notes),
            dry_run=True,
        )

    def abandon(self) -> None:
        """After a failure: the file is as it was, so its copy is only in the way, the more so on a full disk."""
        if self._backup is not None:
            self._backup.unlink(missing_ok=True)

    def _refuse(self, before: SchemaStatus, connection: sa.Connection, adoption: Adoption) -> None:
        if not before.upgradable:
            raise SchemaMismatch(before)
        if before.state is SchemaState.BEHIND:
            inspector = sa.inspect(connection)
            if wrong := in_the_way(inspector, set(inspector.get_table_names()), before.found):
                raise SchemaMismatch(replace(before, state=SchemaState.DRIFTED, detail=wrong))
        if (file := database_file(self.url)) is not None and file.exists():
            if not before.ok:
                check_writable(file)
            check_sound(connection, file)
        adoption.refuse_contradictions()

    def nothing_to_do(self, before: SchemaStatus) -> UpgradeReport:
        """The report on a database that is at head."""
        return UpgradeReport(before=before, after=HEAD, steps=0, seconds=0.0, backup=None)

    def _adopts(self, before: SchemaStatus, connection: sa.Connection) -> Adoption:
        return Adoption(
            connection=connection,
            before=before,
            choices=self.choices,
            command=lambda options: f"risk-store upgrade {shell_word(before.database)} {options}",
            progress=self.progress,
        )


def _index(revision: str | None) -> int:
    return REVISIONS.index(revision) + 1 if revision in REVISIONS else 0

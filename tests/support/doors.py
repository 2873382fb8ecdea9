"""The store's doors behind one face, so that one test body serves threads and asyncio on each driver (D13)."""

import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, TypeVar

import pytest
import sqlalchemy as sa

from risk_store import EnforcementLog, Lockout, RiskStore
from risk_store.aio import AsyncRiskStore
from risk_store.enforcement import EnforcementCore
from risk_store.repositories import Transaction

BEGAN = datetime(2026, 11, 23, 15, 30, tzinfo=UTC)

T = TypeVar("T")

ASYNC_DOORS = ("sqlite+aiosqlite", "postgresql+psycopg async", "postgresql+asyncpg")
DOORS = ("sqlite", "postgresql", *ASYNC_DOORS)


class Door:
    """A store of either kind."""

    def __init__(self, url: str, driver: str, **options: Any) -> None:
        self.is_async = driver not in ("sqlite", "postgresql")
        if self.is_async:
            name = driver.removesuffix(" async")
            self.store: Any = AsyncRiskStore(sa.make_url(url).set(drivername=name), **options)
        else:
            self.store = RiskStore(url, **options)

    async def write(self, work: Callable[[Transaction], T]) -> T:
        if self.is_async:
            async with self.store.begin() as tx:
                return await tx.run(work)  # type: ignore[no-any-return]
        with self.store.begin() as tx:
            return work(tx)

    async def look(self, work: Callable[[Transaction], T]) -> T:
        if self.is_async:
            async with self.store.read() as tx:
                return await tx.run(work)  # type: ignore[no-any-return]
        with self.store.read() as tx:
            return work(tx)

    async def logs(self) -> list[EnforcementLog]:
        """The log, oldest first."""
        return await self.look(lambda tx: list(tx.enforcements.list(limit=1000))[::-1])

    async def is_locked(self, account_id: int, at: datetime | None = None) -> bool:
        return await self.look(lambda tx: tx.lockouts.is_locked(account_id, at))

    @asynccontextmanager
    async def enforce(self, account_id: int = 123, **options: Any) -> AsyncIterator[EnforcementCore]:
        asked = {"rule_id": "RULE-003", "action": "CLOSE_ALL", "reason": "loss", **options}
        if self.is_async:
            async with self.store.enforce(account_id, **asked) as enforcement:
                yield enforcement
        else:
            with self.store.enforce(account_id, **asked) as enforcement:
                yield enforcement

    async def lock_out(self, enforcement: Any, *arguments: Any) -> None:
        done = enforcement.lock_out(*arguments)
        if self.is_async:
            await done

    async def record(self, log: EnforcementLog, lockout: Lockout | None = None) -> EnforcementLog:
        return await self._maybe(self.store.record(log, lockout))  # type: ignore[no-any-return]

    async def interrupted(self) -> list[Any]:
        return await self._maybe(self.store.interrupted())  # type: ignore[no-any-return]

    async def close_interrupted(self, row: Any, note: str, **options: Any) -> EnforcementLog:
        return await self._maybe(self.store.close_interrupted(row, note, **options))  # type: ignore[no-any-return]

    async def close(self) -> None:
        await self._maybe(self.store.close())

    async def _maybe(self, result: Any) -> Any:
        return await result if self.is_async else result


class Clocks:
    """Two clocks that stand still until told otherwise."""

    def __init__(self) -> None:
        self.now = BEGAN
        self.seconds = 1000.0

    def spend(self, milliseconds: float) -> None:
        self.seconds += milliseconds / 1000


def critical_lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    found = [record for record in caplog.records if record.name == "risk_store.enforcement"]
    return [json.loads(record.getMessage()) for record in found if record.levelno == logging.CRITICAL]

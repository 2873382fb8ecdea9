"""The store of asyncio, by its public API only: one task that records one event after the other."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy import event as sa_event

from benchmarks.ours import Ours, as_lockout, as_log, set_normal
from benchmarks.places import Place
from benchmarks.values import Event
from risk_store.aio import AsyncRiskStore

__all__ = ["OursInTasks"]


class OursInTasks(Ours):
    """By one of the drivers for asyncio."""

    def __init__(self, place: Place, driver: str) -> None:
        super().__init__(place)
        self._runner = asyncio.Runner()
        self._awaited = AsyncRiskStore(sa.make_url(place.url).set(drivername=driver))
        if place.synchronous == "NORMAL":
            sa_event.listen(self._awaited.engine.sync_engine, "connect", set_normal)

    def record_all(self, events: Sequence[Event]) -> None:
        async def work() -> None:
            for event in events:
                await self._awaited.record(as_log(event), as_lockout(event))

        self._runner.run(work())

    def ask(self, question: str) -> object:
        async def work() -> object:
            async with self._awaited.begin() as tx:
                return await tx.run(lambda plain: plain.session.execute(sa.text(question)).scalar_one())

        return self._runner.run(work())

    def close(self) -> None:
        self._runner.run(self._awaited.close())
        self._runner.close()
        super().close()

"""Trailing stops of a contract behind a price: what is to be written is read and decided, then written if it holds."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from itertools import repeat
from typing import Any, NamedTuple

from risk_store.codes import OrderSide
from risk_store.errors import StoreBusy
from risk_store.models import Order
from risk_store.repositories.base import Repository
from risk_store.repositories.prepared import Prepared
from risk_store.statements import orders as statements
from risk_store.statements.ids import DISTRIBUTED, as_parameter
from risk_store.trailing import StopMove, Trailed, TrailResult, trail

__all__ = ["TrailingStops"]

_FIGURES, _TRAILING = Prepared(statements.TRAILING_FIGURES), Prepared(statements.TRAILING_ORDERS)
_MOVE, _TRIGGER = Prepared(statements.MOVE_STOPS), Prepared(statements.TRIGGER_STOPS)
_ALIKE = Prepared(statements.TRAILING_ALIKE)
_ALIKE_OF = {  # by whether the store is distributed
    False: (Prepared(statements.TRIGGER_ALIKE), Prepared(statements.MOVE_ALIKE)),
    True: (Prepared(statements.TRIGGER_ALIKE[DISTRIBUTED]), Prepared(statements.MOVE_ALIKE[DISTRIBUTED])),
}
_stop_move = partial(tuple.__new__, StopMove)  # what _make does, and looks at the length of each one
_ATTEMPTS = 100


class TrailingStops(Repository):
    """Of one transaction: what `tx.orders.trail` does."""

    def follow(
        self,
        asked: Mapping[str, Any],
        price: float,
        tick_size: float | None,
        take_turns_of: Callable[[Iterable[str]], None],
    ) -> TrailResult:
        """Moves and triggers the stops that `asked`, the parameters of TRAILING_FIGURES, leads to.

        `take_turns_of` some contracts is what a server's writers of many orders do first.
        """
        moves: list[StopMove] = []
        triggered: list[int] = []
        has_turn = self._dialect(Order) != "postgresql"
        for _ in range(_ATTEMPTS):  # once, unless somebody changes one of the orders between reading and writing
            decisions, incomplete = self._decide(asked, price, tick_size)
            if decisions and not has_turn:
                take_turns_of({asked["contract"]})
                has_turn = True
                if any(isinstance(decision, _OfOneDistance) for decision in decisions):
                    continue  # another price may have moved them since; those that are alike are told by their stop
            settled = True
            for decision in decisions:
                ids = self._write_stops(decision, asked)
                if decision.new is None:
                    triggered += ids
                else:
                    moves += map(_stop_move, zip(ids, decision.stops(ids), repeat(decision.new)))
                settled &= decision.is_all(ids)
            if settled:
                return TrailResult(sorted(moves), sorted(triggered), sorted(incomplete))
        raise StoreBusy

    def _decide(
        self, asked: Mapping[str, Any], price: float, tick_size: float | None
    ) -> tuple[Sequence[_Alike | _OfOneDistance], list[int]]:
        """What is to be written, and the ids of incomplete orders."""
        decided: dict[tuple[Any, ...], Trailed | None] = {}
        concerned: list[tuple[Trailed | None, _Alike]] = []
        for side, stop, distance, *which in self._lane.read(_FIGURES, Order, asked):
            trailed = trail(side, stop, distance, price, tick_size) if _can_trail(side, stop, distance) else None
            decided[side, stop, distance] = trailed
            if trailed is None or _is_new(trailed):
                concerned.append((trailed, _Alike((side, stop, distance), _place_of(trailed), tuple(which))))
        if not concerned:
            return [], []  # most prices, and they need not know of which orders
        [(trailed, alike), *others] = concerned
        is_alone = self._dialect(Order) != "sqlite" or self._lane.is_only_writer
        if not others and trailed is not None and is_alone:
            return [alike], []
        decisions: dict[tuple[float, float | None], _OfOneDistance] = {}
        incomplete: list[int] = []
        for side, stop, distance, ids in self._lane.read(_TRAILING, Order, asked):
            if not _can_trail(side, stop, distance):
                incomplete += _ids_in(ids)
                continue
            trailed = decided.get((side, stop, distance)) or trail(side, stop, distance, price, tick_size)
            if _is_new(trailed):
                new = _place_of(trailed)
                decision = decisions.setdefault((distance, new), _OfOneDistance(distance, new, {}))
                decision.old.update(dict.fromkeys(_ids_in(ids), stop))
        return list(decisions.values()), incomplete

    def _write_stops(self, decision: _Alike | _OfOneDistance, asked: Mapping[str, Any]) -> Collection[int]:
        """The ids of the orders for which what was decided still held when it was written."""
        new, now = decision.new, self._clock()
        what = {"now": now, **({"triggered": asked["at"] or now} if new is None else {"new": new})}
        ids: Collection[int]
        is_distributed = self._is_distributed(Order)
        if isinstance(decision, _Alike):
            triggers, moves = _ALIKE_OF[is_distributed]
            prepared = triggers if new is None else moves
            known = zip(statements.DECISIVE, decision.figures, strict=True)
            key = {**asked, **{f"known_{name}": figure for name, figure in known}}
        else:
            prepared = _TRIGGER if new is None else _MOVE
            key = {"ids": as_parameter(decision.old), "distance": decision.distance}
        if self._dialect(Order) != "sqlite":
            written = self._run(prepared, Order, {**key, **what}).scalars().all()
            if isinstance(decision, _Alike) and not is_distributed:
                return _ids_in(written[0])
            return written
        ids = decision.old if isinstance(decision, _OfOneDistance) else self._ids_of(key)
        if self._lane.write(prepared, Order, {**key, **what}).rowcount != len(ids):
            raise StoreBusy  # SQLite has one writer, and that is this transaction: somebody's trigger is in the way
        return ids

    def _ids_of(self, alike: Mapping[str, Any]) -> list[int]:
        """On SQLite, where an UPDATE that returns them would cost twice as much."""
        [(ids,)] = self._lane.read(_ALIKE, Order, alike)
        return _ids_in(ids)


class _Alike(NamedTuple):
    """What a price does to all orders of a contract that have their figures in common.

    The stops of one distance lie behind the same price: so all that a price moves are often alike.
    """

    figures: tuple[Any, Any, Any]
    """Side, stop and distance, as stored."""
    new: float | None
    """Where their stops go; None if they are triggered."""
    which: tuple[int, ...]
    """On a server, where others may change them: how many they were, and the sum of their ids."""

    def stops(self, _ids: Collection[int]) -> Iterable[float]:
        """As they were."""
        return repeat(self.figures[1])

    def is_all(self, ids: Collection[int]) -> bool:
        """Whether those are the orders that were meant: else some have left, and are to be decided on anew."""
        return not self.which or self.which == (len(ids), sum(ids))


class _OfOneDistance(NamedTuple):
    """What a price does to orders of one distance that are told by their ids."""

    distance: float
    new: float | None
    """Where their stops go; None if they are triggered."""
    old: dict[int, float]
    """Their stops as they were, by order id."""

    def stops(self, ids: Collection[int]) -> Iterable[float]:
        """As they were."""
        return map(self.old.__getitem__, ids)

    def is_all(self, ids: Collection[int]) -> bool:
        """Whether those are the orders that were meant."""
        return len(ids) == len(self.old)


def _ids_in(text: str | None) -> list[int]:
    """Of a JSON array; PostgreSQL makes NULL of none."""
    return [] if text is None else json.loads(text)


def _place_of(trailed: Trailed | None) -> float | None:
    return None if trailed is None or trailed.triggered else trailed.new


def _is_new(trailed: Trailed) -> bool:
    return trailed.triggered or trailed.moved


def _can_trail(side: Any, stop: Any, distance: Any) -> bool:
    """Whether the figures of a row, as stored, are those of a trailing stop: an old row may hold anything."""
    return (
        type(stop) is float
        and type(distance) is float
        and math.isfinite(stop)
        and 0 < distance < math.inf
        and side in (OrderSide.BUY, OrderSide.SELL)
    )

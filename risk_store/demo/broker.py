"""A small stand-in for a broker: its calls really take milliseconds, and now and then it is slow or refuses."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field

__all__ = ["Answer", "StandInBroker"]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a gateway answers: HTTP 200, with ``success`` saying whether it did what was asked."""

    success: bool
    error: str | None = None


@dataclass(kw_only=True)
class StandInBroker:
    """Answers after a real wait, lognormal around 35 ms as a gateway's round trips are.

    `speed` divides every wait; the sequence of waits is the same for the same `seed`.

    >>> StandInBroker(speed=1000.0).close_position(825245547)
    Answer(success=True, error=None)
    """

    speed: float = 1.0
    seed: int = 20261123
    slow_ms: float = 0.0
    """Added to the next call, once."""
    refuse_next: str | None = None
    """The error of the next call, once."""
    _random: random.Random = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def close_position(self, position_id: int) -> Answer:
        """Closes a position; takes milliseconds."""
        return self._answer(position_id)

    def cancel_order(self, order_id: int) -> Answer:
        """Cancels an order; takes milliseconds."""
        return self._answer(order_id)

    def _answer(self, _id: int) -> Answer:
        milliseconds = min(self._random.lognormvariate(3.55, 0.5), 250.0) + self.slow_ms
        time.sleep(milliseconds / 1000 / self.speed)
        error, self.slow_ms, self.refuse_next = self.refuse_next, 0.0, None
        return Answer(success=error is None, error=error)

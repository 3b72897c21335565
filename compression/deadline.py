"""How much time is left: handed into every loop that an odd input could make long."""

from __future__ import annotations

import time
from collections.abc import Callable

from ..protocol.errors import GatewayError


class OutOfTime(GatewayError):
    """A tier took longer than it may; the request goes on as it was."""

    code = "out_of_time"


class Deadline:
    """`check()` raises OutOfTime once `seconds` have passed since it was made; `clock` is monotonic seconds."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seconds = seconds
        self._ends = clock() + seconds

    def check(self) -> None:
        if self._clock() > self._ends:
            raise OutOfTime(f"it would have taken longer than {self._seconds * 1000:g} ms")

    @property
    def left(self) -> float:
        """Seconds left, never below zero."""
        return max(0.0, self._ends - self._clock())

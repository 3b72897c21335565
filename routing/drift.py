"""Has what models are worth to a tenant changed? An alarm for each model, on how far what is said of its answers moved
from the usual.

Expectations may be off by a constant, as of a calibration that another pair's answers were fitted on: the running mean
of the errors is what is usual, and only what moves away from it rings. It rings for a day, then begins anew.
"""

from __future__ import annotations

from collections.abc import Callable

from .bandit import DriftAlarm

USUAL = 60  # outcomes of a model before anything is unusual
_REMEMBERED = 1_000  # outcomes that the running mean goes back: a change rings long before it is the usual
RINGS_S = 86_400.0
# A shift of less is not minded; with these a model whose answers are good seven times of ten rings once in some tens of
# thousands of outcomes without a reason, and a fall by a third within a hundred.
SLACK, LIMIT = 0.1, 15.0


class Drift:
    def __init__(self, alarm: Callable[[], DriftAlarm] = lambda: DriftAlarm(SLACK, LIMIT)) -> None:
        self._made = alarm
        self._alarms: dict[str, DriftAlarm] = {}
        self._usual: dict[str, tuple[int, float]] = {}
        self._until = 0.0

    def seen(self, model: str, expected: float, reward: float, now: float) -> bool:
        """Whether it begins to ring with this outcome. `expected`, `reward`: 0 to 1; `now` in seconds."""
        if self.rings(now):
            return False
        count, mean = self._usual.get(model, (0, 0.0))
        error = reward - expected
        self._usual[model] = (min(count + 1, _REMEMBERED), mean + (error - mean) / min(count + 1, _REMEMBERED))
        if count < USUAL or not self._alarms.setdefault(model, self._made()).seen(mean, error):
            return False
        self._until = now + RINGS_S
        self._alarms.clear()
        self._usual.clear()
        return True

    def rings(self, now: float) -> bool:
        return now < self._until

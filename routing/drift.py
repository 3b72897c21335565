"""Has what models are worth to a tenant changed? An alarm on how far what is said of answers moved from the usual.

Expectations may be off by a constant, as of a calibration that another pair's answers were fitted on: the first
outcomes of each model say by how much, and only what moves away from there rings. It rings for a day, then begins anew.
"""

from __future__ import annotations

from .bandit import DriftAlarm

USUAL = 30  # outcomes of a model that say what is usual
RINGS_S = 86_400.0


class Drift:
    def __init__(self, alarm: DriftAlarm | None = None) -> None:
        self._alarm = alarm or DriftAlarm()
        self._usual: dict[str, tuple[int, float]] = {}
        self._until = 0.0

    def seen(self, model: str, expected: float, reward: float, now: float) -> bool:
        """Whether it begins to ring with this outcome. `expected`, `reward`: 0 to 1; `now` in seconds."""
        if self.rings(now):
            return False
        count, mean = self._usual.get(model, (0, 0.0))
        error = reward - expected
        if count < USUAL:
            self._usual[model] = (count + 1, mean + (error - mean) / (count + 1))
            return False
        if not self._alarm.seen(expected + mean, reward):
            return False
        self._until = now + RINGS_S
        self._alarm.reset()
        self._usual.clear()
        return True

    def rings(self, now: float) -> bool:
        return now < self._until

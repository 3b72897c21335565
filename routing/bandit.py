"""Learning from feedback which model a tenant's prompts need: a discounted contextual bandit with a leash.

One linear model of the reward per arm, on the same context that the heads read; old feedback fades (discounted LinUCB,
Russac and others, arXiv:1909.09146). It corrects what the calibration says and never replaces it: without feedback the
correction is nothing. It explores at most a set share of requests (1 % if nothing is said), only between arms that the
policy allows, and not at all while frozen. Random numbers are handed in; knows no prompts, no clock and no money.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from math import sqrt
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Vector = NDArray[np.floating[Any]]

MOST_EXPLORED = 0.01
_DISCOUNT = 0.999
_RIDGE = 10.0
_WINDOW = 1_000


class Pick(NamedTuple):
    """`chance`: how likely this arm was to be picked, for whoever weighs the feedback later."""

    arm: str
    explored: bool
    chance: float


class Bandit:
    """One tenant's route. `dimensions`: of the context. Not safe between threads."""

    def __init__(self, dimensions: int, most_explored: float = MOST_EXPLORED, discount: float = _DISCOUNT) -> None:
        if not 0 <= most_explored <= 1 or not 0 < discount <= 1:
            raise ValueError("an explored share is between 0 and 1, and so is a discount above 0")
        self.frozen = False
        self.most_explored = most_explored
        self._dimensions, self._discount = dimensions, discount
        # What was seen by arm, without the ridge, so that forgetting weakens the evidence and never the ridge.
        self._seen: dict[str, Vector] = {}
        self._moments: dict[str, Vector] = {}
        self._inverses: dict[str, Vector] = {}
        self._weights: dict[str, Vector] = {}
        self._recent: deque[bool] = deque(maxlen=_WINDOW)

    def pick(self, best: str, others: Sequence[str], context: Vector, random: float) -> Pick:
        """`best`, as a rule; sometimes the other arm of which least is known here. `random`: uniform in 0 to 1."""
        if self.frozen or not others or self.most_explored == 0:
            return Pick(best, False, 1.0)
        # The cap holds over every window too, not only on average.
        exhausted = sum(self._recent) >= self.most_explored * _WINDOW
        explore = random < self.most_explored and not exhausted
        self._recent.append(explore)
        if not explore:
            return Pick(best, False, 1.0 - (0.0 if exhausted else self.most_explored))
        least = others[0] if len(others) == 1 else max(others, key=lambda arm: self.doubt(arm, context))
        return Pick(least, True, self.most_explored)

    def correction(self, arm: str, context: Vector) -> float:
        """What feedback adds to the expected quality of this arm here, -1 to 1; 0 where nothing was learnt."""
        if arm not in self._seen:
            return 0.0
        if arm not in self._weights:
            self._weights[arm] = _solved(self._seen[arm], self._moments[arm])
        return float(np.clip(np.einsum("d,d->", context, self._weights[arm]), -1.0, 1.0))

    def doubt(self, arm: str, context: Vector) -> float:
        """How little is known of the arm here: the width of its confidence, in units of the reward's spread."""
        return float(sqrt(max(0.0, float(context @ self._inverse(arm) @ context))))

    def _inverse(self, arm: str) -> Vector:
        """Worked out once after each lesson: feedback is rare beside requests."""
        if arm not in self._inverses:
            ridge = _RIDGE * np.eye(self._dimensions)
            self._inverses[arm] = np.linalg.inv(self._seen[arm] + ridge if arm in self._seen else ridge)
        return self._inverses[arm]

    def learn(self, arm: str, context: Vector, reward: float, expected: float, weight: float = 1.0) -> None:
        """`reward`: 0 to 1, how good the answer was; `expected`: what the heads had said. Nothing while frozen."""
        if self.frozen:
            return
        if not 0 <= reward <= 1 or not 0 < weight <= 100 or not np.isfinite(context).all():
            raise ValueError("a reward is between 0 and 1, a weight positive, and a context finite")
        seen = self._seen.setdefault(arm, np.zeros((self._dimensions, self._dimensions)))
        moments = self._moments.setdefault(arm, np.zeros(self._dimensions))
        seen *= self._discount
        seen += weight * np.outer(context, context)
        moments *= self._discount
        moments += weight * (reward - expected) * context
        self._forget(arm)

    def _forget(self, arm: str) -> None:
        self._inverses.pop(arm, None)
        self._weights.pop(arm, None)

    def saved(self) -> dict[str, Any]:
        return {arm: {"seen": self._seen[arm].tolist(), "moments": self._moments[arm].tolist()} for arm in self._seen}

    def restore(self, saved: Mapping[str, Mapping[str, Any]]) -> None:
        """Raises ValueError for what another bandit's dimensions were."""
        for arm, held in saved.items():
            seen, moments = np.array(held["seen"], dtype=float), np.array(held["moments"], dtype=float)
            if seen.shape != (self._dimensions, self._dimensions) or moments.shape != (self._dimensions,):
                raise ValueError("feedback that was kept of another context")
            self._seen[arm], self._moments[arm] = seen, moments
            self._forget(arm)


def _solved(seen: Vector, moments: Vector) -> Vector:
    """(seen + ridge)^-1 moments by conjugate gradients, on this thread only: it is asked for while a request waits, and
    to wake LAPACK's threads on a busy machine takes longer. Ends when the rest is a millionth, as it soon is."""
    found = np.zeros_like(moments)
    rest = moments.copy()
    way, size = rest, float(np.einsum("d,d->", rest, rest))
    enough = size * 1e-12
    for _ in range(2 * len(moments)):
        if size <= enough:
            break
        turned = np.einsum("de,e->d", seen, way) + _RIDGE * way
        step = size / float(np.einsum("d,d->", way, turned))
        found = found + step * way
        rest = rest - step * turned
        before, size = size, float(np.einsum("d,d->", rest, rest))
        way = rest + (size / before) * way
    return found


class DriftAlarm:
    """Page and Hinkley's test on how far expectation and feedback are apart: rings when the mean moved for good.

    `slack`: a shift that is not minded; `limit`: how much evidence of more than that is needed.
    """

    def __init__(self, slack: float = 0.05, limit: float = 12.0) -> None:
        self._slack, self._limit = slack, limit
        self._up = self._down = 0.0

    def seen(self, expected: float, reward: float) -> bool:
        """Whether it rings, which it does until `reset`."""
        error = reward - expected
        self._up = max(0.0, self._up + error - self._slack)
        self._down = max(0.0, self._down - error - self._slack)
        return self.rings

    @property
    def rings(self) -> bool:
        return max(self._up, self._down) > self._limit

    def reset(self) -> None:
        self._up = self._down = 0.0

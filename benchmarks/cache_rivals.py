"""What other semantic caches decide, on the same vectors: their shipped rules, and vCache's from its paper.

GPTCache serves at an L2 similarity of 0.8, which is a cosine of 0.60; RedisVL at a distance of 0.1; 0.95 is Portkey's.
LiteLLM's look-up is filtered by a digest of the whole request, so only the same text is ever found. vCache (Schroeder
et al., arXiv:2502.03771) learns from its own answers how far each entry reaches; its rule is written anew here, with
the spread of the estimate by the delta method throughout.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

FIXED = {"GPTCache default (0.60)": 0.60, "RedisVL default (0.90)": 0.90, "Portkey default (0.95)": 0.95}
VCACHE = (0.01, 0.02, 0.05)
_SEEDS = [(0.0, False), (1.0, True)]
_EXPLORE = 6  # observations of an entry, the seeds included, before it may be served
_GRID = 50
_RIDGE = 1e-3


@dataclass(frozen=True)
class Served:
    """What a rule did with one question: hit or not, and wrong or not."""

    hit: bool
    wrong: bool


Serves = Callable[[int, int, float], bool]


@dataclass
class Stored:
    """The questions of one cache and their vectors."""

    width: int
    vectors: NDArray[np.float32] = field(init=False)
    numbers: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.vectors = np.empty((1024, self.width), np.float32)

    def add(self, number: int, vector: NDArray[np.float32]) -> None:
        if len(self.numbers) == len(self.vectors):
            self.vectors = np.concatenate((self.vectors, np.empty_like(self.vectors)))
        self.vectors[len(self.numbers)] = vector
        self.numbers.append(number)

    def nearest(self, vector: NDArray[np.float32]) -> tuple[int, float] | None:
        if not self.numbers:
            return None
        similar = self.vectors[: len(self.numbers)] @ vector
        best = int(similar.argmax())
        return self.numbers[best], float(similar[best])


def at_cosine(
    vectors: NDArray[np.float32], meanings: Sequence[int], order: Sequence[int], threshold: float
) -> list[Served]:
    """Serve the nearest at a cosine of at least `threshold`."""
    stored, done = Stored(vectors.shape[1]), []
    for asked in order:
        nearest = stored.nearest(vectors[asked])
        hit = nearest is not None and nearest[1] >= threshold
        done.append(Served(hit, hit and meanings[nearest[0]] != meanings[asked]))  # type: ignore[index]
        if not hit:
            stored.add(asked, vectors[asked])
    return done


def same_text(questions: Sequence[str], meanings: Sequence[int], order: Sequence[int]) -> list[Served]:
    seen: dict[str, int] = {}
    done = []
    for asked in order:
        first = seen.setdefault(questions[asked], asked)
        done.append(Served(first != asked, first != asked and meanings[first] != meanings[asked]))
    return done


def vcache(
    vectors: NDArray[np.float32], meanings: Sequence[int], order: Sequence[int], delta: float, seed: int
) -> list[Served]:
    """Each entry learns from what was asked near it and answered anew; wrong neighbours become entries."""
    rng = random.Random(seed)
    stored, done = Stored(vectors.shape[1]), []
    seen: dict[int, list[tuple[float, bool]]] = {}
    for asked in order:
        nearest = stored.nearest(vectors[asked])
        right = nearest is not None and meanings[nearest[0]] == meanings[asked]
        hit = nearest is not None and rng.random() > explore(seen[nearest[0]], nearest[1], delta)
        done.append(Served(hit, hit and not right))
        if hit:
            continue
        if nearest is not None:
            seen[nearest[0]].append((nearest[1], right))
        if not right:
            stored.add(asked, vectors[asked])
            seen[asked] = list(_SEEDS)
    return done


def explore(observed: Sequence[tuple[float, bool]], similarity: float, delta: float) -> float:
    """The chance at which the question is answered anew, for errors of at most `delta`."""
    if len(observed) < _EXPLORE:
        return 1.0
    slope, middle, spread = fitted(observed)
    least = 1.0
    for step in range(1, _GRID + 1):
        doubt = step / (_GRID + 1)
        beyond = middle + _normal_quantile(1 - doubt) * spread
        right = (1 - doubt) * _sigmoid(slope * (similarity - beyond))
        least = min(least, max(0.0, 1 - delta / max(1 - right, 1e-12)))
    return least


def fitted(observed: Sequence[tuple[float, bool]]) -> tuple[float, float, float]:
    """Slope, middle and the middle's standard error of a logistic curve through the observations."""
    x = np.array([[1.0, similarity] for similarity, _ in observed])
    y = np.array([float(right) for _, right in observed])
    weights = np.zeros(2)
    hessian = np.eye(2)
    for _ in range(30):
        p = 1 / (1 + np.exp(-np.clip(x @ weights, -30, 30)))
        hessian = (x * (p * (1 - p))[:, None]).T @ x + _RIDGE * np.eye(2)
        step = np.linalg.solve(hessian, x.T @ (y - p) - _RIDGE * weights)
        weights += step
        if abs(step).max() < 1e-6:
            break
    slope = max(weights[1], 1e-3)
    middle = -weights[0] / slope
    gradient = np.array([-1 / slope, -middle / slope])
    return float(slope), float(middle), math.sqrt(max(0.0, gradient @ np.linalg.solve(hessian, gradient)))


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-max(-30.0, min(30.0, x))))


def _normal_quantile(p: float) -> float:
    from statistics import NormalDist

    return NormalDist().inv_cdf(p)

"""How long one model's answers are on one tenant's route: the prior's linear calibration, updated by every answer.

Bayesian linear regression of log-tokens on the prior's basis. It starts at the population's mean, moves as far as the
answers outweigh the population's spread (shrinkage), and forgets: evidence older than some hundred answers fades, and
what fades is replaced by the population again. Pure arithmetic; no clock, no numpy, and a few kilobytes each.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from typing import Any

from .length_prior import LEVELS, Population

KEPT = 256  # answers of a calibration's own that shape its tail
MEMORY = 1_000.0  # answers after which evidence has faded to a third
STALE = 24  # the tail is read anew when one in so many answers is new


class Calibration:
    """One (model, tenant, route). Not for two threads at a time."""

    __slots__ = ("_information", "_mean", "_population", "_prior_information", "_prior_pull", "_pull", "_recent",
                 "_sorted", "_sorted_at", "_spread", "_tails", "seen")  # fmt: skip

    def __init__(self, population: Population) -> None:
        self._population = population
        self._prior_information = inverse(population.covariance)
        self._prior_pull = _times(self._prior_information, population.mean)
        self._information = [[0.0] * len(population.mean) for _ in population.mean]
        self._pull = [0.0] * len(population.mean)
        self._mean: list[float] | None = list(population.mean)
        self._spread: list[list[float]] | None = None
        self._recent = array("f")  # rows of a basis and the logarithm of its answer's length, the oldest first
        self._sorted: list[float] | None = None
        self._sorted_at = 0
        self._tails: tuple[float, ...] | None = None
        self.seen = 0

    def middle(self, basis: Sequence[float]) -> float:
        """The median's logarithm."""
        mean = self._line()
        return mean[0] + sum(map(float.__mul__, mean[1:], basis))

    def quantiles(self, basis: Sequence[float]) -> tuple[float, ...]:
        """Tokens at LEVELS, never descending."""
        if self._tails is None:
            self._tails = tuple([self._tail(at) for at in range(len(LEVELS))])
        middle = self.middle(basis)
        wide = math.hypot(self._population.noise, self._unsure(basis))
        out: list[float] = []
        least = 0.0
        for tail in self._tails:
            least = max(math.exp(min(middle + wide * tail, 14.0)), least)
            out.append(least)
        return tuple(out)

    def _line(self) -> list[float]:
        if self._mean is None:
            pull = [own + prior for own, prior in zip(self._pull, self._prior_pull, strict=True)]
            self._mean = solve(self._together(), pull)
        return self._mean

    def _together(self) -> list[list[float]]:
        return [
            [own + prior for own, prior in zip(*rows, strict=True)]
            for rows in zip(self._information, self._prior_information, strict=True)
        ]

    def _unsure(self, basis: Sequence[float]) -> float:
        """The standard deviation of the middle itself: large for a model that has answered little."""
        if self._spread is None:
            self._spread = inverse(self._together())
        x = (1.0, *basis)
        return math.sqrt(max(0.0, sum(a * b for a, b in zip(x, _times(self._spread, x), strict=True))))

    def learn(self, basis: Sequence[float], tokens: int) -> None:
        """An answer that ended by itself. One that was cut says only how long it was at least: leave it out."""
        x = (1.0, *basis)
        log = math.log(max(1, tokens))
        fade, weight = 1 - 1 / MEMORY, 1 / self._population.noise**2
        # One answer in a hundred is of another kind altogether; it may not turn the line.
        off = abs(log - self.middle(basis)) / self._population.noise
        weight *= min(1.0, 2.5 / off) if off > 0 else 1.0
        for i, a in enumerate(x):
            self._pull[i] = fade * self._pull[i] + weight * a * log
            for j, b in enumerate(x):
                self._information[i][j] = fade * self._information[i][j] + weight * a * b
        self._recent.extend((*basis, log))
        if len(self._recent) > KEPT * len(x):
            del self._recent[: len(x)]
        self._mean = self._spread = self._tails = None
        self.seen += 1
        # Sorting them anew costs as much as a hundred answers taught: so not for each.
        if self.seen - self._sorted_at > self.seen // STALE:
            self._sorted = None

    @property
    def _count(self) -> int:
        return len(self._recent) // len(self._population.mean)

    def _residuals(self) -> list[float]:
        """Of the kept answers against the line as it is now; what early answers missed by is no tail."""
        if self._sorted is None:
            noise, recent, width = self._population.noise, self._recent, len(self._population.mean)
            rows = [recent[at : at + width] for at in range(0, len(recent), width)]
            self._sorted = sorted((row[-1] - self.middle(row[:-1])) / noise for row in rows)
            self._sorted_at = self.seen
        return self._sorted

    def to_json(self, most: int = KEPT) -> dict[str, Any]:
        """What was learnt, with the `most` last answers' lengths; for `from_json` under the same population."""
        width = len(self._population.mean)
        return {
            "seen": self.seen,
            "information": self._information,
            "pull": self._pull,
            "recent": [round(value, 3) for value in self._recent[-most * width :]],
        }

    @classmethod
    def from_json(cls, population: Population, raw: dict[str, Any]) -> Calibration:
        """Raises KeyError, TypeError or ValueError for what is none of ours, or of another population's width."""
        made, width = cls(population), len(population.mean)
        information = [[_finite(value) for value in row] for row in raw["information"]]
        pull, recent = [_finite(value) for value in raw["pull"]], [_finite(value) for value in raw["recent"]]
        if len(pull) != width or len(information) != width or any(len(row) != width for row in information):
            raise ValueError("it was learnt with another prior")
        if len(recent) % width or len(recent) > KEPT * width:
            raise ValueError("its answers are not whole rows")
        made._information, made._pull, made._recent = information, pull, array("f", recent)
        made._mean = None
        made.seen = max(len(recent) // width, int(raw["seen"]))
        if not _sound(made._together()):
            raise ValueError("its evidence is no covariance")
        return made

    def _tail(self, at: int) -> float:
        """A standardised quantile: the population's, moved to the model's own as its answers come in.

        A quantile of n values says nothing beyond 1 - 1/n, so that far out only a longer one than the population's is
        believed.
        """
        prior, level, count = self._population.tail[at], LEVELS[at], self._count
        if not count:
            return prior
        kept = self._residuals()
        own = kept[min(len(kept) - 1, math.ceil(level * (len(kept) + 1)) - 1)]
        if count * (1 - level) < 2:
            own = max(own, prior)
        # The middle settles with few answers, the tail with many.
        share = count / (count + (self._population.tail_weight if level > 0.5 else 10.0))
        return (1 - share) * prior + share * own


def inverse(matrix: Sequence[Sequence[float]]) -> list[list[float]]:
    size = len(matrix)
    columns = [solve(matrix, [float(i == j) for i in range(size)]) for j in range(size)]
    return [[columns[j][i] for j in range(size)] for i in range(size)]


def solve(matrix: Sequence[Sequence[float]], right: Sequence[float]) -> list[float]:
    """Gauss with pivots; the matrices are a handful of numbers wide and positive definite."""
    size = len(right)
    rows = [[*row, value] for row, value in zip(matrix, right, strict=True)]
    for at in range(size):
        best = max(range(at, size), key=lambda row: abs(rows[row][at]))
        rows[at], rows[best] = rows[best], rows[at]
        for row in range(at + 1, size):
            factor = rows[row][at] / rows[at][at]
            rows[row] = [a - factor * b for a, b in zip(rows[row], rows[at], strict=True)]
    out = [0.0] * size
    for at in reversed(range(size)):
        out[at] = (rows[at][size] - sum(rows[at][j] * out[j] for j in range(at + 1, size))) / rows[at][at]
    return out


def _finite(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError("it holds what is no number")
    return number


def _sound(matrix: Sequence[Sequence[float]]) -> bool:
    """Whether it can be solved, and gives variances: positive definite (by elimination, no pivot at or below zero)."""
    rows = [list(row) for row in matrix]
    for at, row in enumerate(rows):
        if not row[at] > 0:
            return False
        for below in rows[at + 1 :]:
            factor = below[at] / row[at]
            below[:] = [a - factor * b for a, b in zip(below, row, strict=True)]
    return True


def _times(matrix: Sequence[Sequence[float]], vector: Sequence[float]) -> list[float]:
    return [sum(a * b for a, b in zip(row, vector, strict=True)) for row in matrix]

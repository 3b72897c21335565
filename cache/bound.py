"""What may be served: the lowest score at which the share of wrong answers is still bounded from above.

The share is of all look-ups, not of the hits: `wrong(t)` is the probability that a look-up is served at a score of at
least `t` and the answer is wrong. It is made of two things that are known in different ways. How often a look-up's best
score falls into each part of the grid is counted for every look-up; how often such a candidate is wrong is known only
from those that were judged. So `wrong(t)` is a sum over the grid of (share of look-ups) x (share of wrong), which is a
directly standardised rate, and its upper bound is the gamma bound of Fay and Feuer (Statistics in Medicine 16, 1997):
exact for Poisson counts where all weights are equal (there it is the limit of Clopper and Pearson's for rare errors,
and never below it) and conservative where they differ, as they do with sampled audits.

Scores are tested in a fixed sequence from strict to lax, each at the full confidence, and the first that fails ends it
(Learn then Test, Angelopoulos et al., arXiv:2110.01052): with probability `confidence` over the evidence, the score
that is chosen keeps its promise. Pure; knows nothing of where evidence comes from.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, inf, isfinite, lgamma, log

_EPSILON = 1e-12
_MOST_TERMS = 10_000


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of one owner's look-ups. Counts may be fractions: older evidence weighs less.

    `grid`: scores, ascending; part i holds best scores from grid[i] up to, not including, grid[i + 1].
    `lookups`: how many there were in all, those without a candidate included; `found` of them in each part.
    `judged`: candidates of each part whose answer was compared; `wrong` of them were wrong.
    """

    grid: tuple[float, ...]
    lookups: float
    found: tuple[float, ...]
    judged: tuple[float, ...]
    wrong: tuple[float, ...]

    def __post_init__(self) -> None:
        sizes = {len(self.grid), len(self.found), len(self.judged), len(self.wrong)}
        if len(sizes) != 1 or list(self.grid) != sorted(set(self.grid)):
            raise ValueError("evidence needs an ascending grid, and one count for each of its parts")
        counts = (self.lookups, *self.found, *self.judged, *self.wrong)
        if not all(isfinite(count) and count >= 0 for count in counts):
            raise ValueError("counts of evidence are not negative")


@dataclass(frozen=True, slots=True)
class Rate:
    """A weighted sum of counts: `mean` estimates the share, `variance` is its estimate's, `heaviest` the largest weight
    of one wrong answer."""

    mean: float = 0.0
    variance: float = 0.0
    heaviest: float = 0.0

    def with_part(self, share: float, judged: float, wrong: float) -> Rate:
        """With one more part of the grid. Where nothing was judged, nothing is known, and the weight is infinite."""
        if share == 0:
            return self
        weight = share / judged if judged > 0 else inf
        wrong = min(wrong, judged)
        if wrong == 0 or weight == inf:
            return Rate(self.mean, self.variance, max(self.heaviest, weight))
        return Rate(self.mean + weight * wrong, self.variance + weight * weight * wrong, max(self.heaviest, weight))

    def stays_below(self, limit: float, confidence: float) -> bool:
        """Whether the upper bound of the share is at most `limit`."""
        if limit >= 1 or self.heaviest == 0:
            return True
        if self.heaviest == inf:
            return False
        shape, scale = self._gamma()
        return gamma_cdf(shape, limit / scale) >= confidence

    def upper(self, confidence: float) -> float:
        """The upper bound itself, to a millionth; at most 1."""
        low, high = 0.0, 1.0
        while high - low > 1e-6:
            middle = (low + high) / 2
            if self.stays_below(middle, confidence):
                high = middle
            else:
                low = middle
        return high

    def _gamma(self) -> tuple[float, float]:
        """Shape and scale of the bound's distribution: the counts' moments after one more wrong answer of the
        largest weight."""
        mean = self.mean + self.heaviest
        variance = self.variance + self.heaviest * self.heaviest
        return mean * mean / variance, variance / mean


def rates(evidence: Evidence) -> list[tuple[float, Rate]]:
    """For each score of the grid, from strict to lax, the rate at which serving from it on would be wrong."""
    if evidence.lookups <= 0:
        return []
    found: list[tuple[float, Rate]] = []
    rate = Rate()
    for part in range(len(evidence.grid) - 1, -1, -1):
        share = min(1.0, evidence.found[part] / evidence.lookups)
        rate = rate.with_part(share, evidence.judged[part], evidence.wrong[part])
        found.append((evidence.grid[part], rate))
    return found


def lowest(evidence: Evidence, max_wrong: float, confidence: float = 0.95) -> float | None:
    """The lowest score that may be served so that, with `confidence`, at most `max_wrong` of all look-ups are answered
    wrongly; None: nothing may be."""
    allowed: float | None = None
    for score, rate in rates(evidence):
        if not rate.stays_below(max_wrong, confidence):
            break
        allowed = score
    return allowed


def gamma_cdf(shape: float, x: float) -> float:
    """The regularised lower incomplete gamma function P(shape, x), by its series or its continued fraction
    (Abramowitz and Stegun 6.5.29 and 6.5.31); to about ten digits."""
    if x <= 0:
        return 0.0
    front = shape * log(x) - x - lgamma(shape)
    if x < shape + 1:
        return min(1.0, exp(front) * _series(shape, x))
    return max(0.0, 1.0 - exp(front) * _fraction(shape, x))


def _series(shape: float, x: float) -> float:
    term = total = 1.0 / shape
    for k in range(1, _MOST_TERMS):
        term *= x / (shape + k)
        total += term
        if term < total * _EPSILON:
            break
    return total


def _fraction(shape: float, x: float) -> float:
    """Lentz's method, as modified by Thompson and Barnett."""
    b = x + 1 - shape
    c, d = inf, 1 / b
    total = d
    for k in range(1, _MOST_TERMS):
        a = -k * (k - shape)
        b += 2
        d = 1 / _nonzero(a * d + b)
        c = _nonzero(b + a / c)
        total *= c * d
        if abs(c * d - 1) < _EPSILON:
            break
    return total


def _nonzero(value: float) -> float:
    return value if abs(value) > 1e-300 else 1e-300

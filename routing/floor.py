"""Where a tenant's promise holds: from which score on the small model may answer, so that quality stays over a floor.

The promise: with `confidence` over the audits, what is answered is good at least `floor` times as often as if the large
model had answered everything. An audit is a request both models answered; it loses if the large model's answer was good
and the small one's was not, and wins the other way round. Serving the small model from score t on costs

    lost(t) - won(t)   and may cost   (1 - floor) x good,

with `lost` and `won` the shares of all requests that are at most t and lost or won, `good` the large model's quality.
What is lost is bounded from above, the others from below, each by Clopper and Pearson (Biometrika 26, 1934); together
they miss with the error that the confidence leaves, most of it spent where a bound costs most. Scores are tested in a
fixed sequence from safe to risky, and the first that fails ends it (Learn then Test, Angelopoulos et al.,
arXiv:2110.01052), so testing many costs no confidence. Pure; knows no prompts and no models.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import exp, isfinite, lgamma, log, log1p
from typing import NamedTuple

CONFIDENCE = 0.95
# With fewer audits no bound can say anything worth having, and none is worked out.
LEAST_AUDITS = 60
_PARTS = 20
# How the error is divided among the three bounds; the union bound makes it whole.
_FOR_LOST, _FOR_WON, _FOR_GOOD = 0.65, 0.30, 0.05


class Audit(NamedTuple):
    """`score`: the gain that was expected of the large model; higher is riskier for the small one."""

    score: float
    small_good: bool
    large_good: bool


class Allowed(NamedTuple):
    """`highest`: the highest score that the small model may answer; None: none. `reason`: for the receipt."""

    highest: float | None
    reason: str


def allowed(audits: Sequence[Audit], floor: float, confidence: float = CONFIDENCE) -> Allowed:
    """The riskiest score at which the promise still holds on these audits, which are a fair sample of the traffic.

    The grid is cut from the scores alone, never from what they turned out to be. Raises ValueError for a floor or a
    confidence outside of 0 to 1, or a score that is no number.
    """
    if not 0 <= floor <= 1 or not 0 < confidence < 1:
        raise ValueError("a floor is between 0 and 1, and so is a confidence")
    if not all(isfinite(audit.score) for audit in audits):
        raise ValueError("an audit's score is a number")
    if len(audits) < LEAST_AUDITS:
        return Allowed(None, f"{len(audits)} of {LEAST_AUDITS} audits")
    missed, of = 1 - confidence, len(audits)
    good = sum(audit.large_good for audit in audits)
    promised = (1 - floor) * lower(good, of, missed * _FOR_GOOD)
    highest: float | None = None
    for score in _grid(audits):
        served = [audit for audit in audits if audit.score <= score]
        lost = sum(audit.large_good and not audit.small_good for audit in served)
        won = sum(audit.small_good and not audit.large_good for audit in served)
        if upper(lost, of, missed * _FOR_LOST) - lower(won, of, missed * _FOR_WON) > promised:
            break
        highest = score
    if highest is None:
        return Allowed(None, f"{len(audits)} audits do not bear a floor of {floor:g}")
    return Allowed(highest, f"{len(audits)} audits bear a floor of {floor:g}")


def _grid(audits: Sequence[Audit]) -> list[float]:
    scores = sorted(audit.score for audit in audits)
    return sorted({scores[(len(scores) * part) // _PARTS - 1] for part in range(1, _PARTS + 1)})


def upper(hits: int, of: int, missed: float) -> float:
    """Clopper and Pearson's upper bound of a share, that is exceeded with probability `missed` at most."""
    return 1.0 if hits >= of else _where(lambda share: binomial(hits, of, share) <= missed)


def lower(hits: int, of: int, missed: float) -> float:
    """The lower bound."""
    return 1 - upper(of - hits, of, missed)


def binomial(hits: int, of: int, share: float) -> float:
    """P(X <= hits) of `of` trials at `share`, summed from its largest term down."""
    if share <= 0 or hits >= of:
        return 1.0
    if share >= 1:
        return 0.0
    front = lgamma(of + 1)
    a, b = log(share), log1p(-share)
    total = 0.0
    for k in range(hits, -1, -1):
        term = exp(front - lgamma(k + 1) - lgamma(of - k + 1) + k * a + (of - k) * b)
        total += term
        if k < of * share and term < 1e-17 * total:
            break
    return min(1.0, total)


def _where(true_from: Callable[[float], bool]) -> float:
    """The least share at which it is true, from above, to a hundred-millionth."""
    low, high = 0.0, 1.0
    while high - low > 1e-8:
        middle = (low + high) / 2
        low, high = (low, middle) if true_from(middle) else (middle, high)
    return high

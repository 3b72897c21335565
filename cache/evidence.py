"""What is known of each owner's look-ups: counts of their best scores, and audits of some of them, that grow old.

It begins with the prior that ships with the verifier: look-ups of a simulated stream of public questions, each judged
(calibration.json says which). An owner's own evidence is added to it, and the prior gives way: its weight falls as
audits come in, and where they contradict it, it is dropped, and nothing is served until the owner's own audits bear it.
Knows neither questions nor answers. The clock is handed in.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from typing import Any

from .bound import Evidence, gamma_cdf, lowest

HALF_LIFE_S = 7 * 86_400.0

# The prior's judgements count less than one each: a bound that is to hold for a stream of about the prior's length, and
# not only on average, has the chance of that stream beside the chance of the evidence; and errors come in groups.
PRIOR_WEIGHT = 0.4
# After so many audits of an owner's, the prior has half of that weight left.
_AUDITS_THAT_HALVE = 200.0
# The owner's own spread of scores outweighs the prior's after so many look-ups.
_PRIOR_LOOKUPS = 500.0
# How unlikely under the prior an owner's audits must be for the prior to be dropped; looked at after every audit.
_CONTRADICTION = 0.001

_MOST_OWNERS = 10_000
_ROWS = ("found", "weights", "squares", "wrong")
# The bound is worked out anew after an audit, after this share of additional look-ups, and after an hour.
_STALE, _STALE_S = 1.1, 3_600.0


def combine(prior: Evidence, own: Evidence) -> Evidence:
    """One owner's evidence with the prior's, which gives way to it. Both on the same grid."""
    weight = PRIOR_WEIGHT * _AUDITS_THAT_HALVE / (_AUDITS_THAT_HALVE + sum(own.judged))
    if contradicts(prior, own):
        weight = 0.0
    lookups = min(1.0, _PRIOR_LOOKUPS / prior.lookups)
    return Evidence(
        prior.grid,
        lookups * prior.lookups + own.lookups,
        _plus(prior.found, own.found, lookups),
        _plus(prior.judged, own.judged, weight),
        _plus(prior.wrong, own.wrong, weight),
    )


def contradicts(prior: Evidence, own: Evidence) -> bool:
    """Whether the owner's audits, from some score on, found more wrong answers than the prior lets one expect."""
    expected = seen = 0.0
    for part in range(len(prior.grid) - 1, -1, -1):
        usual = (prior.wrong[part] + 0.5) / (prior.judged[part] + 1)
        expected += own.judged[part] * usual
        seen += own.wrong[part]
        if seen > expected and gamma_cdf(seen, expected) < _CONTRADICTION:  # P(Poisson(expected) >= seen)
            return True
    return False


def _plus(prior: Sequence[float], own: Sequence[float], weight: float) -> tuple[float, ...]:
    return tuple(weight * a + b for a, b in zip(prior, own, strict=True))


class Counts:
    """One owner's own evidence. Everything loses weight by `HALF_LIFE_S`."""

    __slots__ = ("allowed", "at", "found", "lookups", "squares", "weights", "wrong")

    def __init__(self, parts: int, at: float) -> None:
        self.at = at
        # What was worked out, by promise: the score, and the look-ups and the time that it was worked out at.
        self.allowed: dict[tuple[float, float], tuple[float | None, float, float]] = {}
        self.lookups = 0.0
        self.found = [0.0] * parts
        # Of audits, each weighted by 1 / its chance of being made: sums of weights, of their squares, of wrong ones.
        self.weights = [0.0] * parts
        self.squares = [0.0] * parts
        self.wrong = [0.0] * parts

    def age(self, now: float) -> None:
        if now <= self.at:
            return
        factor = 0.5 ** ((now - self.at) / HALF_LIFE_S)
        self.at = now
        self.lookups *= factor
        for row in (self.found, self.weights, self.squares, self.wrong):
            row[:] = [value * factor for value in row]

    def evidence(self, grid: tuple[float, ...]) -> Evidence:
        """Audits at different chances count as the number of equal ones that would know as much (Kish)."""
        sizes = [w * w / s if s > 0 else 0.0 for w, s in zip(self.weights, self.squares, strict=True)]
        wrong = [n * v / w if w > 0 else 0.0 for n, v, w in zip(sizes, self.wrong, self.weights, strict=True)]
        return Evidence(grid, self.lookups, tuple(self.found), tuple(sizes), tuple(wrong))

    def saved(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__ if name != "allowed"}


class Ledger:
    """Evidence by owner; the one that was used longest ago is forgotten when there are too many.

    `clock`: seconds since the epoch. One event loop's, not safe between threads.
    """

    def __init__(self, prior: Evidence, clock: Callable[[], float], most_owners: int = _MOST_OWNERS) -> None:
        self._prior, self._clock, self._most = prior, clock, most_owners
        self._owners: OrderedDict[str, Counts] = OrderedDict()
        self._fresh: dict[str, dict[str, float]] = {}

    def looked_up(self, owner: str, score: float | None) -> None:
        """Count a look-up and its best score; None where there was no candidate that no veto struck out."""
        counts = self._counts(owner)
        counts.lookups += 1
        part = self._part(score)
        if part is not None:
            counts.found[part] += 1
        self._count(owner, lookups=1, **({} if part is None else {f"found:{part}": 1}))

    def judged(self, owner: str, score: float, wrong: bool, chance: float = 1.0) -> None:
        """Count an audit of a candidate of this score. `chance`: how likely it was that just this look-up would be
        audited, above 0; 1 for a report of a wrong answer, which nobody sampled."""
        if not 0 < chance <= 1:
            raise ValueError("an audit's chance is above 0 and at most 1")
        part = self._part(score)
        if part is None:
            return
        counts = self._counts(owner)
        weight = 1 / chance
        counts.weights[part] += weight
        counts.squares[part] += weight * weight
        counts.wrong[part] += weight * wrong
        counts.allowed.clear()
        judged = {f"weights:{part}": weight, f"squares:{part}": weight * weight, f"wrong:{part}": weight * wrong}
        self._count(owner, **judged)

    def evidence(self, owner: str) -> Evidence:
        """The owner's evidence together with the prior."""
        return combine(self._prior, self._counts(owner).evidence(self._prior.grid))

    def lowest(self, owner: str, max_wrong: float, confidence: float = 0.95) -> float | None:
        """The lowest score that may be served to the owner; None: nothing may (see bound.py)."""
        counts = self._counts(owner)
        promise = (max_wrong, confidence)
        known = counts.allowed.get(promise)
        if known and counts.lookups <= known[1] * _STALE + 20 and counts.at <= known[2] + _STALE_S:
            return known[0]
        allowed = lowest(self.evidence(owner), max_wrong, confidence)
        counts.allowed[promise] = (allowed, counts.lookups, counts.at)
        return allowed

    def taken(self) -> dict[str, dict[str, float]]:
        """What was counted since it was last asked for, by owner, as figures that `absorb` takes; counts add up."""
        taken, self._fresh = self._fresh, {}
        return taken

    def absorb(self, owner: str, figures: Mapping[str, float], at: float) -> None:
        """Add what was counted elsewhere, or before, at about `at`. Figures that make no sense are left out."""
        counts = self._counts(owner)
        factor = 0.5 ** (max(0.0, self._clock() - at) / HALF_LIFE_S)
        for name, value in figures.items():
            kind, _, part = name.partition(":")
            if not isfinite(value) or value < 0:
                continue
            if kind == "lookups":
                counts.lookups += factor * value
            elif kind in _ROWS and part.isdigit() and int(part) < len(self._prior.grid):
                getattr(counts, kind)[int(part)] += factor * value
        counts.allowed.clear()

    def _count(self, owner: str, **figures: float) -> None:
        fresh = self._fresh.setdefault(owner, {})
        for name, value in figures.items():
            fresh[name] = fresh.get(name, 0.0) + value

    def saved(self) -> dict[str, dict[str, Any]]:
        """Every owner's own counts as plain values, for `restore`."""
        return {owner: counts.saved() for owner, counts in self._owners.items()}

    def restore(self, saved: Mapping[str, Mapping[str, Any]]) -> None:
        """Take over what another ledger on the same grid saved. Raises ValueError for what is no such thing."""
        parts = len(self._prior.grid)
        for owner, values in saved.items():
            counts = Counts(parts, float(values["at"]))
            counts.lookups = float(values["lookups"])
            for name in ("found", "weights", "squares", "wrong"):
                row = [float(value) for value in values[name]]
                if len(row) != parts:
                    raise ValueError("evidence that was kept on another grid")
                setattr(counts, name, row)
            counts.evidence(self._prior.grid)  # refuses what is no count
            self._owners[owner] = counts

    def _counts(self, owner: str) -> Counts:
        now = self._clock()
        counts = self._owners.get(owner)
        if counts is None:
            counts = self._owners[owner] = Counts(len(self._prior.grid), now)
            if len(self._owners) > self._most:
                self._owners.popitem(last=False)
        else:
            self._owners.move_to_end(owner)
            counts.age(now)
        return counts

    def _part(self, score: float | None) -> int | None:
        if score is None or score < self._prior.grid[0]:
            return None
        return bisect_right(self._prior.grid, score) - 1

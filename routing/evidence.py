"""Audits of one tenant's route: how often each model's answer was good, by score, week by week.

Scores are kept on a grid, rounded up, so that a decision and the audits that bear it mean the same by a score. Weeks
that are long gone no longer count. What is learnt is handed out as figures that add up, to be kept elsewhere; what was
kept comes back the same way. Where a promise holds on them is floor.py's. Knows no requests, no store and no clock.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from math import ceil, isfinite

from .floor import Allowed, Audit, allowed

WEEK_S = 7 * 86_400.0
WEEKS = 8  # of audits that count
MOST = 5_000  # audits that a bound is worked out from: more would tighten it by next to nothing
_STEPS = 100  # of the grid, for a score of 1


def rounded(score: float) -> float:
    """Up to the grid's next line: never less risky than it is. Raises ValueError for what is no number."""
    if not isfinite(score):
        raise ValueError("a score is a number")
    return max(-_STEPS, min(_STEPS, ceil(score * _STEPS - 1e-9))) / _STEPS


class Audits:
    """By week, counts of (grid line, small good, large good)."""

    def __init__(self) -> None:
        self._weeks: dict[int, Counter[tuple[int, bool, bool]]] = {}
        self._fresh: dict[int, Counter[str]] = {}
        self._borne: dict[float, Allowed] = {}

    def add(self, audit: Audit, week: int) -> None:
        line = round(rounded(audit.score) * _STEPS)
        self._weeks.setdefault(week, Counter())[line, audit.small_good, audit.large_good] += 1
        self._fresh.setdefault(week, Counter())[f"{line}:{audit.small_good:d}{audit.large_good:d}"] += 1
        for old in [known for known in self._weeks if known <= week - WEEKS]:
            del self._weeks[old]

    def __len__(self) -> int:
        return sum(sum(counts.values()) for counts in self._weeks.values())

    def rows(self) -> list[Audit]:
        """Every audit that counts, by score; of very many, evenly spaced ones."""
        total: Counter[tuple[int, bool, bool]] = Counter()
        for counts in self._weeks.values():
            total.update(counts)
        rows = [Audit(line / _STEPS, small, large) for line, small, large in sorted(total.elements())]
        if len(rows) <= MOST:
            return rows
        return [rows[(2 * at + 1) * len(rows) // (2 * MOST)] for at in range(MOST)]

    def bear(self, floor: float, found: Allowed) -> None:
        """Remember where the promise holds, as floor.allowed worked it out from `rows`."""
        self._borne[floor] = found

    def work_out(self, floor: float) -> Allowed:
        """Both in one, where nobody minds the tens of milliseconds."""
        found = allowed(self.rows(), floor)
        self.bear(floor, found)
        return found

    def borne(self, floor: float) -> Allowed | None:
        """What was worked out last; None if nothing was yet."""
        return self._borne.get(floor)

    def taken(self) -> dict[int, dict[str, float]]:
        """What was added since it was last asked for, by week, as figures that `absorb` takes."""
        fresh, self._fresh = self._fresh, {}
        return {week: {name: float(count) for name, count in counts.items()} for week, counts in fresh.items()}

    def absorb(self, week: int, figures: Mapping[str, float]) -> None:
        """Add what was counted before, or elsewhere. Figures that make no sense are left out."""
        for name, value in figures.items():
            line, _, good = name.partition(":")
            if good not in ("00", "01", "10", "11") or not isfinite(value) or not 0 < value < 1e9:
                continue
            if not line.lstrip("-").isascii() or not line.lstrip("-").isdigit() or abs(int(line)) > _STEPS:
                continue
            key = (int(line), good[0] == "1", good[1] == "1")
            self._weeks.setdefault(week, Counter())[key] += round(value)

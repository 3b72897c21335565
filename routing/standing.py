"""Everything that is remembered of one tenant's route under one calibration: its share, its audits, what it learnt.

In this process, but for the audits, which are kept where they outlive it. An alarm that rings makes the audits before
it worthless: they are counted in an era that it ends. Knows no requests; the store is a port.
"""

from __future__ import annotations

from typing import Protocol

from .bandit import Bandit
from .drift import Drift
from .evidence import WEEK_S, WEEKS, Audits
from .floor import Audit
from .share import LiveShare
from .standings import Key

_ERA = "era"


class Tallies(Protocol):
    """Rows of counters that outlive this process."""

    async def tally(self, owner: str, name: str, figures: dict[str, float]) -> None:
        """Add figures to a row. Lost silently where it cannot be kept."""
        ...

    async def tallies(self, owner: str, name: str) -> dict[str, float]:
        """A row as it stands; empty if there is none, or it cannot be read."""
        ...


class Standing:
    """`spread`: the calibration's own scores, a first idea of the tenant's. Not safe between threads."""

    def __init__(self, key: Key, spread: tuple[float, ...], size: int) -> None:
        self.key = key
        self.share = LiveShare(list(spread))
        self.drift = Drift()
        self.audits = Audits()
        self.bandit = Bandit(size)
        self.era = 0
        self.read = False  # whether what was kept of it is here
        self.alarmed = False  # whether its alarm has rung and its audits are to be forgotten

    async def recollect(self, tallies: Tallies, now: float) -> None:
        """What was learnt before this process began."""
        owner = self.key.tenant
        self.era = round((await tallies.tallies(owner, self._row())).get(_ERA, 0.0))
        week = int(now // WEEK_S)
        for past in range(WEEKS):
            self.audits.absorb(week - past, await tallies.tallies(owner, self._row(week - past)))

    async def remember(self, tallies: Tallies) -> None:
        for week, figures in self.audits.taken().items():
            await tallies.tally(self.key.tenant, self._row(week), figures)

    async def forget_audits(self, tallies: Tallies) -> None:
        """What was proven before the alarm is not proven any more."""
        self.era += 1
        self.audits = Audits()
        self.alarmed = False
        await tallies.tally(self.key.tenant, self._row(), {_ERA: 1.0})

    def audited(self, audit: Audit, now: float) -> None:
        self.audits.add(audit, int(now // WEEK_S))

    def _row(self, week: int | None = None) -> str:
        base = f"route-{self.key.digest}"
        return base if week is None else f"{base}-{self.era}-{week}"

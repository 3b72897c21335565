"""A circuit breaker: a pure state machine over the outcomes of one target. The clock is an argument.

    closed ──5 failures in a row, or half of the last 20──▶ open(30 s, doubling to 5 min)
    open ──time is up──▶ half-open: one probe ──success──▶ closed
                                             └─failure──▶ open, for twice as long

Failures are timeouts, cut streams, connection faults and 5xx. A client's own mistakes (4xx) never count; a 429 is the
upstream's pace, not its death, and does not open the circuit either.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Literal

from ..protocol.errors import TrimtabError, UpstreamAnswered, UpstreamError, UpstreamRefusedKey

State = Literal["closed", "open", "half-open"]


@dataclass(slots=True)
class Breaker:
    """Times are seconds of the caller's monotonic clock."""

    consecutive: int = 5
    window: int = 20
    share: float = 0.5
    first_pause: float = 30.0
    longest_pause: float = 300.0

    _recent: deque[bool] = field(default_factory=deque)
    _failures: int = 0
    _pause: float = 0.0
    _until: float = 0.0
    _probing: bool = False
    _open: bool = False

    def state(self, now: float) -> State:
        if not self._open:
            return "closed"
        return "half-open" if now >= self._until else "open"

    def allow(self, now: float) -> bool:
        """Whether a call may go out now. In half-open the one call allowed is the probe."""
        if not self._open:
            return True
        if now < self._until or self._probing:
            return False
        self._probing = True
        return True

    def retry_after(self, now: float) -> float:
        """Seconds until a probe will be let through."""
        return max(0.0, self._until - now) if self._open else 0.0

    def success(self) -> None:
        self._failures = 0
        self._remember(True)
        if self._probing:  # a call from before it opened may still end well: that closes nothing
            self._open = self._probing = False
            self._pause = 0.0
            self._recent.clear()

    def began(self) -> None:
        """A stream has begun: enough to close the circuit again, too little to count as good before it has ended."""
        if self._probing:
            self.success()

    def failure(self, now: float) -> None:
        self._failures += 1
        self._remember(False)
        if self._open:
            if self._probing:
                self._trip(now)
            return
        bad = self._recent.count(False)
        if self._failures >= self.consecutive or (
            len(self._recent) >= self.window and bad >= self.share * len(self._recent)
        ):
            self._trip(now)

    def abandon(self) -> None:
        """A call that was allowed ended without telling anything (its client left)."""
        self._probing = False

    def _trip(self, now: float) -> None:
        self._pause = min(self.longest_pause, self._pause * 2 or self.first_pause)
        self._until = now + self._pause
        self._open = True
        self._probing = False

    def _remember(self, good: bool) -> None:
        self._recent.append(good)
        if len(self._recent) > self.window:
            self._recent.popleft()


def counts_against(error: TrimtabError) -> bool:
    """Whether an error says that the target is unwell."""
    if isinstance(error, UpstreamAnswered):
        return error.upstream_status >= 500
    return isinstance(error, UpstreamError) and not isinstance(error, UpstreamRefusedKey)

"""Was this answer this request's to get? Judged from the marks in its bytes and from what the clients themselves sent.

Knows nothing of how the cache decides: two visits may share an answer if they are the same request of the same owner
under the same policy, and that is read off the bodies as they were sent. Pure but for the list that it keeps.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from cache_house import TOKENS, Got, mark

_DELIVERY = frozenset({"stream", "stream_options", "cache"})
LINGER = 0.25  # seconds for an answer that has ended upstream to have ended here


@dataclass
class Visit:
    """One request of one client. `owner` is the tenant, or what it shares with others by its operator's word; `epochs`
    are the policies that may have been in force, by number: two where a reload fell into it. Times are monotonic."""

    serial: int
    tenant: int
    kind: str
    body: dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict)
    always: bool = True  # the tenant's policy keeps what is sampled, too
    spoil: dict[str, Any] = field(default_factory=dict)
    public: frozenset[str] = frozenset()
    leave_s: float | None = None
    epochs: tuple[int, int] = (0, 0)
    began: float = 0.0

    @property
    def mark(self) -> str:
        return mark(self.tenant, self.serial)

    @property
    def wish(self) -> dict[str, Any]:
        found: dict[str, Any] = self.body.get("cache") or {}
        return found

    @property
    def identity(self) -> str:
        """Equal for the same request of the same owner, however it is delivered."""
        space = self.wish.get("namespace", "")
        owner = f"public {space}" if space in self.public else f"tenant {self.tenant}"
        asked = {name: value for name, value in self.body.items() if name not in _DELIVERY}
        return json.dumps([owner, space, self.kind, asked, self.headers], sort_keys=True)

    @property
    def plain(self) -> bool:
        """Whether its answer holds each token once: log probabilities repeat them, several choices all of them."""
        return self.kind != "embeddings" and not self.body.get("logprobs") and self.body.get("n") in (None, 1)

    @property
    def spoilt(self) -> bool:
        """Whether the fault of its script shows in its answer: some strike streams alone, some no embedding."""
        faults = self.spoil.get("faults", {})
        if "status" in faults or "cut_after" in faults:
            return True
        if "error_after" in faults or "broken_json" in faults.get("garble", ()):
            return bool(self.body.get("stream")) and self.kind != "embeddings"
        return bool(self.spoil) and self.kind != "embeddings"

    @property
    def shares(self) -> bool:
        """Whether anything but an answer of its own may be given to it, or its own to another."""
        return self.always or self.kind == "embeddings" or self.body.get("temperature") == 0


@dataclass
class Judge:
    """`odd` says what was wrong with whom; `shared` counts answers that were rightly made for another visit."""

    visits: dict[str, Visit] = field(default_factory=dict)
    ended: dict[str, float] = field(default_factory=dict)
    judged: int = 0
    shared: int = 0
    odd: list[str] = field(default_factory=list)

    def expect(self, visit: Visit) -> None:
        self.visits[visit.mark] = visit

    def see(self, visit: Visit, got: Got) -> None:
        """Judge what a client has of its answer, all or part of it."""
        marks = got.marks
        self.judged += bool(marks)
        why = self._why(visit, got, marks)
        if why is not None:
            self.odd.append(f"{visit.mark} ({visit.kind}, {got.cache}): {why}")
        elif marks and visit.mark not in marks:
            self.shared += 1

    def _why(self, visit: Visit, got: Got, marks: set[str]) -> str | None:
        if len(marks) > 1:
            return f"pieces of {len(marks)} answers"
        if not marks:
            return "no mark in a whole answer" if got.whole and got.status == 200 and not visit.spoilt else None
        origin = self.visits.get(next(iter(marks)))
        if origin is None:
            return "an answer to nobody"
        if visit.plain and got.tokens != list(range(len(got.tokens))):
            return "tokens left out, doubled or out of order"
        if origin is visit:
            return None
        return self._shared(visit, origin, got)

    def _shared(self, visit: Visit, origin: Visit, got: Got) -> str | None:
        if origin.identity != visit.identity:
            return f"the answer of another request, {origin.mark}"
        if min(origin.epochs[1], visit.epochs[1]) < max(origin.epochs[0], visit.epochs[0]):
            return f"the answer of {origin.mark}, given under another policy"
        if not (visit.shares and origin.shares):
            return f"{origin.mark} is not to be shared"
        if origin.wish.get("no-store") or visit.wish.get("no-cache"):
            return f"{origin.mark} was kept, or looked up, against a wish"
        together = visit.began <= self.ended.get(origin.mark, visit.began) + LINGER
        ended_well = got.whole and got.status == 200 and b'"error"' not in got.body
        if origin.spoilt and ended_well and not together:
            return f"the spoilt answer of {origin.mark} was kept"
        if ended_well and visit.plain and not origin.spoilt and len(got.tokens) != TOKENS:
            return f"a part of the answer of {origin.mark}"
        return None

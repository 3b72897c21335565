"""Who is computed next, and how much of it: pure decisions about counts. Knows no pages, tensors or text.

Answers being made go first, each a row and its guesses; prompts share what is left of the step's budget, so that a long
prompt slows nobody down by more than its share. Who waits is taken in by tenant, then, when more wait than run, the
shortest expected first; who has waited too long goes before all others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

_USUAL = 256  # tokens an answer is expected to have where nobody knows
PATIENCE = 20.0  # times the mean time of an answer that anyone waits while others are preferred


@dataclass(frozen=True, slots=True)
class Limits:
    """`running` answers at a time; `tokens` a step; beside running answers, prompts get `beside` of them."""

    running: int = 16
    tokens: int = 256
    beside: int = 64


class Waiting(Protocol):
    """What is known of one that waits."""

    arrived: float
    waited: bool

    @property
    def tenant(self) -> str: ...

    @property
    def expected(self) -> int | None: ...


def guess_room(limits: Limits, answers: int, prompts: int) -> int:
    """How many guessed tokens a step has room for beside `answers` running answers and `prompts` rows left to read."""
    return max(0, limits.tokens - answers - min(prompts, limits.beside))


def reads(limits: Limits, answering: int, prompts: Sequence[int]) -> list[int]:
    """How many of the rows left to read of each prompt are read this step; `answering` rows are taken by answers."""
    room = max(0, limits.tokens - answering)
    # However long the drafts are, prompts get on.
    return split(max(min(room, limits.beside), len(prompts)) if answering else room, prompts)


def split(room: int, wanted: Sequence[int]) -> list[int]:
    """Equal shares of `room`; what one does not need goes to the others, odd ones to the first."""
    out = [0] * len(wanted)
    left = [i for i, want in enumerate(wanted) if want > 0]
    while left and room > 0:
        each = max(1, room // len(left))
        for i in left:
            give = min(each, wanted[i] - out[i], room)
            out[i] += give
            room -= give
        left = [i for i in left if out[i] < wanted[i]]
    return out


def next_in(waiting: Sequence[Waiting], running: Counter[str], now: float, mean: float) -> int:
    """Which of `waiting` (not empty) is taken in. `running` are the answers of each tenant, `mean` the time of one."""
    for i, one in enumerate(waiting):
        if one.waited:
            return i
    oldest = min(range(len(waiting)), key=lambda i: waiting[i].arrived)
    if now - waiting[oldest].arrived > PATIENCE * mean:
        return oldest
    fewest = min(running[one.tenant] for one in waiting)
    fair = [i for i, one in enumerate(waiting) if running[one.tenant] == fewest]
    crowded = len(waiting) > running.total()
    return min(fair, key=lambda i: (_length(waiting[i]) if crowded else 0, waiting[i].arrived))


def _length(one: Waiting) -> int:
    return _USUAL if one.expected is None else one.expected

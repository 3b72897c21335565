"""How much a reasoning model may think: planned only where the tenant allows, reserved apart from the visible answer.

Pure decisions. A client that set an effort or a budget keeps it. A budget is never below the least that a provider
takes, and thinking never eats what the answer was to have.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

from . import length_cues
from .length_cues import Cues

Effort = Literal["low", "medium", "high"]

# The share of a provider's usual thinking that an effort stands for.
SHARES: dict[Effort, float] = {"low": 0.2, "medium": 0.5, "high": 0.8}
MARGIN = 1.25

# How much each cue speaks for thinking, by hand.
_WEIGHTS = {
    "code": 0.3, "extract": 0.25, "steps": 0.2, "cause": 0.2, "plan": 0.2, "explain": 0.1, "ask_why": 0.1,
    "digits": 0.3, "talk": -0.3, "ask_fact": -0.2, "superlative": -0.15, "translate": -0.25, "rewrite": -0.2,
    "summary": -0.15, "brief": -0.1,
}  # fmt: skip
_BASE = 0.25
_LONG = 150  # words from which a prompt is a task


@dataclass(frozen=True, slots=True)
class Thinking:
    """What a target knows. `minimum`, `maximum`: tokens of a thinking budget (Anthropic takes 1,024 at least).

    `by`: how it is told, a named effort or a budget in tokens.
    """

    by: Literal["effort", "budget"]
    minimum: int = 1_024
    maximum: int = 32_000

    def __post_init__(self) -> None:
        if not 0 <= self.minimum <= self.maximum:
            raise ValueError("the minimum of a thinking budget must lie between 0 and its maximum")


class Reasoning(NamedTuple):
    """`effort` or `budget` to ask for, None to leave as it is; `reserve`: tokens set aside beside the answer's own."""

    effort: Effort | None
    budget: int | None
    reserve: int
    ours: bool


def hardness(cues: Cues) -> float:
    """How much a prompt asks to be thought about, 0 to 1: a rule of its words, for when nothing better is known."""
    named = dict(zip(length_cues.NAMES, cues.values, strict=True))
    score = _BASE + sum(weight * named[name] for name, weight in _WEIGHTS.items())
    score += 0.15 if named["log_words"] > math.log1p(_LONG) else 0.0
    return min(1.0, max(0.0, score))


def plan(
    thinking: Thinking | None, hard: float, allowed: bool, asked: Effort | int | None = None, room: int | None = None
) -> Reasoning:
    """`hard`: doubt that a small model would do, 0 to 1; `room`: tokens that the window leaves for thinking
    once the answer has its own. Where less than the provider's minimum is left, nothing is asked for.
    """
    if thinking is None:
        return Reasoning(None, None, 0, ours=False)
    if asked is not None:
        return Reasoning(None, None, _asked(thinking, asked), ours=False)
    wanted = thinking.minimum + math.ceil((thinking.maximum - thinking.minimum) * min(max(hard, 0.0), 1.0) ** 2)
    budget = wanted if room is None else min(wanted, room)
    if not allowed or budget < thinking.minimum:
        return Reasoning(None, None, thinking.maximum if room is None else max(0, min(thinking.maximum, room)), False)
    if thinking.by == "effort":
        effort: Effort = "low" if hard < 0.35 else "medium" if hard < 0.75 else "high"
        return Reasoning(effort, None, _asked(thinking, effort), ours=True)
    return Reasoning(None, budget, budget, ours=True)


def whole(answer: int, reasoning: Reasoning) -> int:
    """The limit that holds both, for providers whose `max_tokens` counts thinking: the answer keeps its part."""
    return answer + reasoning.reserve


def _asked(thinking: Thinking, asked: Effort | int) -> int:
    if isinstance(asked, int):
        return max(asked, thinking.minimum)
    return min(thinking.maximum, max(thinking.minimum, math.ceil(thinking.maximum * SHARES[asked] * MARGIN)))

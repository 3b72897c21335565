"""Hints that ask a model for a shorter answer: opt-in, appended behind everything that is cached, with a holdout.

Two styles from the literature: a token budget (TALE, arXiv 2412.18547) and drafts of a few words a step
(chain-of-draft, arXiv 2502.18600). Part of the requests gets no hint, chosen by a hash, so that what a hint does to
length and quality can be measured. Pure decisions and texts.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

from .length import Forecast

Style = Literal["token_budget", "chain_of_draft"]
HOLDOUT = 0.1
LEAST_WORTH = 150.0  # tokens of a median answer below which there is nothing to shorten
_DRAFT = (
    "Think step by step, but keep each step to a draft of five words at most. "
    "Then give the full answer that was asked for."
)


class Shape(NamedTuple):
    """`hint`: text for the end of the last user turn, None for none. `arm`: for the measurement."""

    hint: str | None
    arm: Literal["hint", "holdout", "off"]


@dataclass(frozen=True, slots=True)
class ShapePolicy:
    """`tighten`: the share of the median answer that a token budget names."""

    style: Style | None = None
    holdout: float = HOLDOUT
    tighten: float = 0.7

    def __post_init__(self) -> None:
        if not 0 < self.holdout <= 1 or not 0 < self.tighten <= 1:
            raise ValueError("holdout and tighten must be above 0 and at most 1; a hint unmeasured is not on offer")


def plan(policy: ShapePolicy, forecast: Forecast, unit: str, counts: bool, structured: bool) -> Shape:
    """`unit`: what is assigned as a whole (a conversation's id), so that its turns do not change arms.

    Left alone: prompts that ask for a length themselves (`counts`), tools, JSON and code (`structured`), and answers
    that are short anyway.
    """
    if policy.style is None or counts or structured or forecast.p50 < LEAST_WORTH:
        return Shape(None, "off")
    if held_out(unit, policy):
        return Shape(None, "holdout")
    if policy.style == "chain_of_draft":
        return Shape(_DRAFT, "hint")
    budget = max(50, 10 * math.ceil(forecast.p50 * policy.tighten / 10))
    return Shape(f"Answer in about {budget} tokens, leaving out nothing that was asked for.", "hint")


def held_out(unit: str, policy: ShapePolicy) -> bool:
    """The same unit falls on the same side as long as the style stays; another style is another draw."""
    digest = hashlib.blake2b(f"{policy.style}\0{unit}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") < policy.holdout * 2**64


def appended(turn: str, shape: Shape) -> str:
    """The last user turn with its hint; every byte before it stays, so that cached prefixes hold."""
    return turn if shape.hint is None else f"{turn}\n\n{shape.hint}"

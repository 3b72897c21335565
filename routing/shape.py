"""Hints that ask a model for a shorter answer: opt-in, appended behind everything that is cached, with a holdout.

Two styles from the literature: a token budget (TALE, arXiv 2412.18547) and drafts of a few words a step
(chain-of-draft, arXiv 2502.18600). Part of the requests gets no hint, chosen by a hash, so that what a hint does to
length and quality can be measured. Pure decisions and texts.
"""

from __future__ import annotations

import hashlib
import math
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

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


class ShapePolicy(BaseModel):
    """`style` of the hint, None for none. `holdout`: the share of conversations that get none, to measure by; a hint
    that is not measured is not on offer. `tighten`: the share of the median answer that a token budget names.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    style: Style | None = None
    holdout: Annotated[float, Field(strict=True, gt=0, le=1)] = HOLDOUT
    tighten: Annotated[float, Field(strict=True, gt=0, le=1)] = 0.7


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

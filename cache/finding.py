"""What the cache found for one request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .entry import Entry
from .key import Place

Outcome = Literal["hit", "semantic-hit", "near", "miss", "bypass", "off"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What the semantic tier found for the question at `at`. `vector` is the question's (float16), to be kept with its
    answer; `entry` and `score` are the best candidate's, served or not; `draft` is the text that a `near` leaves to
    whoever speculates."""

    outcome: Outcome
    reason: str
    at: Place
    vector: bytes | None = None
    entry: Entry | None = None
    score: float | None = None
    draft: str | None = None

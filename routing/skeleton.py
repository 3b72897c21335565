"""Skeleton-of-thought (arXiv 2307.15337): which prompts may be answered as a list of points written side by side.

`suits` must be right when it says yes: a wrong no costs nothing but time. Tools, JSON, code and maths never suit.
`points` reads a skeleton that a model wrote; whatever is no clean list gives None, and plain decoding follows. This
file knows no engine: it decides, and it reads.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from . import length_cues
from .length_cues import Cues

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SHIPPED = Path(__file__).resolve().parent / "skeleton_router.json"
LEAST_FORESEEN = 100.0  # tokens of the middle answer below which side by side saves nothing
LEAST_ASKED = 300.0  # the same where the prompt itself names a length
FEWEST, MOST = 3, 12  # points
LONGEST_POINT = 120  # characters
_POINT = re.compile(r"(\d{1,2})[.)][ \t]+(\S.*)")
_MATHS_WORDS = (
    "solve calculate compute equation integral derivative proof prove theorem probability sum percent algebra "
    "arithmetic estimate km miles"
)
_MATHS = frozenset(_MATHS_WORDS.split())
_ESTIMATE = re.compile(r"\bhow (?:many|much|far|long|old|tall|big)\b")
_ROLE = re.compile(r"\b(?:pretend|act as|you are an?|you were an?|you're an?|role-?play|imagine you)\b|^as an? ")


class Suit(NamedTuple):
    """`score`: the trained probability; `why`: what spoke against it, empty where it suits."""

    suits: bool
    score: float
    why: str


class SkeletonRouter:
    """Logistic on embedding and cues; weights and the bar that training set for its precision."""

    def __init__(self, weights: list[float], cue_weights: list[float], bias: float, bar: float) -> None:
        if len(cue_weights) != len(length_cues.NAMES):
            raise ValueError("the router's file was made for other cues")
        self._weights, self._cue_weights, self._bias, self._bar = weights, cue_weights, bias, bar
        self._array: NDArray[np.float64] | None = None

    @classmethod
    def shipped(cls) -> SkeletonRouter:
        return cls.load(SHIPPED)

    @classmethod
    def load(cls, path: Path) -> SkeletonRouter:
        """Raises OSError, KeyError or ValueError."""
        raw = json.loads(path.read_text())
        return cls(raw["vector"], raw["cues"], float(raw["bias"]), float(raw["bar"]))

    def score(self, cues: Cues, vector: NDArray[np.float32]) -> float:
        """The probability that the prompt suits, as far as the training labels go."""
        if self._array is None:
            import numpy as np

            self._array = np.asarray(self._weights)
        told = sum(a * b for a, b in zip(self._cue_weights, cues.values, strict=True))
        return 1 / (1 + math.exp(-max(-30.0, min(30.0, self._bias + told + float(self._array @ vector)))))

    def suits(
        self, prompt: str, vector: NDArray[np.float32] | None, p50: float | None = None, structured: bool = False
    ) -> Suit:
        """`structured`: the request has tools or asks for JSON, or has turns that the points would not see.

        `p50`: the forecast of the answer's tokens, None to leave length aside.
        """
        cues = length_cues.read(prompt)
        why = against(prompt, cues, structured)
        if not why and vector is None:
            why = "no embedding"
        if not why and p50 is not None and p50 < LEAST_FORESEEN:
            why = "a short answer"
        if why or vector is None:
            return Suit(False, 0.0, why)
        score = self.score(cues, vector)
        return Suit(score >= self._bar, score, "" if score >= self._bar else "not clearly a list of points")


def against(prompt: str, cues: Cues, structured: bool = False) -> str:
    """What rules a prompt out whatever a router thinks; empty where nothing does."""
    named = dict(zip(length_cues.NAMES, cues.values, strict=True))
    lower = prompt[: length_cues.READ].lower()
    words = set(lower.split())
    if structured:
        return "tools, JSON or earlier turns"
    if named["json"] or "{" in prompt:
        return "JSON or a format"
    if named["code"] or named["fences"]:
        return "code"
    if words & _MATHS or "=" in prompt or "$" in prompt or named["digits"] >= 0.3:
        return "maths"
    text = named["verse"] or named["story"] or named["letter"]
    redone = named["rewrite"] and (named["log_given"] or named["quoted"])
    if named["translate"] or named["summary"] or redone or (text and named["told_write"]):
        return "one text, not points"
    if _ESTIMATE.search(lower):
        return "maths"
    if _ROLE.search(lower):
        return "a role to play"
    if cues.asked is not None and cues.asked < LEAST_ASKED:
        return "a short answer was asked for"
    return ""


def points(skeleton: str) -> tuple[str, ...] | None:
    """The points of a skeleton, or None: fewer than three or more than twelve, not numbered 1, 2, 3, a point that is
    long, repeated, or anything but points after the first of them."""
    found: list[str] = []
    for line in skeleton.strip().splitlines():
        if not line.strip():
            continue
        match = _POINT.fullmatch(line.strip())
        if match is None:
            if found:
                return None  # what follows the list, or cuts it, is not ours to drop
            continue
        point = match[2].strip()
        if int(match[1]) != len(found) + 1 or len(point) > LONGEST_POINT:
            return None
        found.append(point)
    whole = FEWEST <= len(found) <= MOST and len({point.lower() for point in found}) == len(found)
    return tuple(found) if whole else None

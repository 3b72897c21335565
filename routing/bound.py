"""A calibration put to work for one pair of models: which head speaks for which, and whether it was fitted on them.

A head that bears a model's name, ours or its provider's, is that model's. One of the name `small` or `large` is that
side's. The calibration that ships knows another pair: its two heads stand in for the small and the large model, which
orders prompts and proves nothing, so `fitted` is False.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .calibration_file import read
from .cascade import Deferral
from .heads import SHIPPED, Calibration, Guess, from_json

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Bound:
    """`small`, `large`: the names of the heads, None where there is none. `digest`: of the file."""

    calibration: Calibration
    small: str | None
    large: str | None
    fitted: bool
    digest: str

    @property
    def deferral(self) -> Deferral | None:
        """What an answer of the small model says about itself, if the calibration was fitted on such answers."""
        held = self.calibration.extra.get("cascade")
        if not isinstance(held, dict):
            return None
        return Deferral(*(tuple(map(float, held[name])) for name in ("mean", "spread", "weights")))

    def looking(self) -> Bound:
        """The same where answers are seen before it is decided: scores are others, and so is what they prove."""
        return replace(self, digest=digest_of(self.digest, "cascade"))

    def guess(self, vector: NDArray[Any], features: tuple[float, ...], pair: tuple[str, str]) -> Guess:
        """What is thought of a prompt, by the pair's own names. Raises ValueError for a vector that it cannot read."""
        found = self.calibration.guess(vector, features)
        heads = zip(pair, (self.small, self.large), strict=True)
        return found._replace(good={model: found.good[head] for model, head in heads if head is not None})


def load(path: Path | None) -> tuple[Calibration, str]:
    """The calibration of a file, or the one that ships, and its digest. Takes some milliseconds, and numpy.

    Raises ValueError, in words.
    """
    held, digest = read(path or SHIPPED)
    return from_json(held), digest


def bind(calibration: Calibration, digest: str, own: bool, small: tuple[str, ...], large: tuple[str, ...]) -> Bound:
    """`own`: the operator named the file. `small`, `large`: every name that model goes by."""
    heads = calibration.heads
    found = [
        next((name for name in (*names, side) if name in heads), None)
        for names, side in ((small, "small"), (large, "large"))
    ]
    fitted = None not in found
    if found == [None, None] and len(heads) == 2:
        found = list(heads)  # written in this order: small, large
        fitted = own
    return Bound(calibration, found[0], found[1], fitted, digest)


def digest_of(*parts: str | bytes) -> str:
    joined = json.dumps([part if isinstance(part, str) else part.hex() for part in parts])
    return hashlib.sha256(joined.encode()).hexdigest()[:16]

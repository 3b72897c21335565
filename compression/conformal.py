"""How much must be kept so that a question's evidence is in it as often as a tenant asks: split conformal prediction.

Over the questions of a calibration set, whose evidence is known, we look how far below the best unit the evidence
scored. The quantile of that gap at the recall asked for is how far below the best unit a request keeps
(Vovk et al., 2005; the finite-sample correction is theirs). It knows scores and sizes, not what is scored.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..protocol.errors import GatewayError

_SHIPPED = Path(__file__).with_name("calibration.json")


class BadCalibration(GatewayError):
    """A calibration file does not say what it must."""

    code = "bad_calibration"


@dataclass(frozen=True, slots=True)
class Calibration:
    """`gaps[i]` is the gap that `levels[i]` of the questions' evidence stays within, both rising.

    `least` is the best unit's score below which a context hardly ever holds evidence.
    """

    levels: tuple[float, ...]
    gaps: tuple[float, ...]
    least: float

    @classmethod
    def read(cls, data: Mapping[str, Any]) -> Calibration:
        """Raises BadCalibration."""
        try:
            made = cls(tuple(map(float, data["levels"])), tuple(map(float, data["gaps"])), float(data["least"]))
        except (KeyError, TypeError, ValueError) as error:
            raise BadCalibration(f"calibration: {error!r}") from error
        rising = all(list(row) == sorted(row) and all(map(math.isfinite, row)) for row in (made.levels, made.gaps))
        if not rising or not made.levels or len(made.levels) != len(made.gaps):
            raise BadCalibration("calibration: levels and gaps must be of one length and rise")
        return made

    def gap(self, recall: float) -> float:
        """How far below the best unit evidence stays in `recall` of all questions; infinite beyond what was measured."""
        at = bisect_left(self.levels, recall - 1e-9)
        return self.gaps[at] if at < len(self.levels) else math.inf


@cache
def shipped() -> Calibration:
    """The calibration that comes with the package."""
    return Calibration.read(json.loads(_SHIPPED.read_text()))


def keep(
    scores: NDArray[np.float64], sizes: Sequence[int] | NDArray[Any], recall: float, calibration: Calibration
) -> NDArray[np.bool_]:
    """The smallest set of units that holds the evidence in `recall` of all questions: one flag a unit."""
    if len(scores) == 0:
        return np.zeros(0, dtype=np.bool_)
    return np.asarray(scores.max() - scores <= calibration.gap(recall), dtype=np.bool_)


def relevant(scores: NDArray[np.float64], calibration: Calibration) -> bool:
    """Whether anything here looks like evidence at all; if not, the caller keeps everything."""
    return len(scores) > 0 and bool(scores.max() >= calibration.least)


def levels_of(gaps: Sequence[float], at: Sequence[float]) -> list[float]:
    """The conformal quantiles of measured gaps: the k-th smallest of n, k = ceil((n + 1) x level)."""
    ordered = sorted(gaps)
    return [ordered[min(math.ceil((len(ordered) + 1) * level), len(ordered)) - 1] for level in at]

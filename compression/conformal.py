"""How much must be kept so that a question's evidence is in it as often as a tenant asks: adaptive prediction sets.

Scores become a share of belief for each unit. Units are taken from the best down until their shares come to what,
over the questions of a calibration set whose evidence is known, held it in the share of questions asked for (Romano,
Sesia and Candes, 2020; the finite-sample correction is that of split conformal prediction). A question that one unit
clearly answers keeps that unit; one that nothing stands out for keeps much. It knows scores and sizes, not what is
scored.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..protocol.errors import GatewayError

Floats = NDArray[np.float64]

_USUAL = 100  # units of a context that was calibrated on
_SHIPPED = Path(__file__).with_name("calibration.json")


class BadCalibration(GatewayError):
    """A calibration file does not say what it must."""

    code = "bad_calibration"


@dataclass(frozen=True, slots=True)
class Calibration:
    """What was fitted by benchmarks/context_calibrate.py.

    `weights` are those of `evidence.py`. `doubts[i]` is how far into the belief one must go for `levels[i]` of the
    questions, both rising (see `doubt`). `heat` spreads belief: with more of it the sets of easy and hard questions
    differ less. `least` is the best unit's score below which a context hardly ever holds evidence.
    """

    levels: tuple[float, ...]
    doubts: tuple[float, ...]
    least: float
    heat: float = 2.75
    weights: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def read(cls, data: Mapping[str, Any]) -> Calibration:
        """Raises BadCalibration."""
        try:
            made = cls(
                tuple(map(float, data["levels"])),
                tuple(map(float, data["doubts"])),
                float(data["least"]),
                float(data["heat"]),
                {str(name): float(weight) for name, weight in data["weights"].items()},
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise BadCalibration(f"calibration: {error!r}") from error
        numbers = (*made.levels, *made.doubts, *made.weights.values(), made.heat, made.least)
        rising = all(list(row) == sorted(row) for row in (made.levels, made.doubts))
        if not rising or not made.levels or len(made.levels) != len(made.doubts) or made.heat <= 0:
            raise BadCalibration("calibration: levels and doubts must be of one length and rise")
        if not all(map(math.isfinite, numbers)):
            raise BadCalibration("calibration: every number must be finite")
        return made

    def limit(self, recall: float) -> float:
        """The doubt within which evidence is in `recall` of all questions; infinite beyond what was measured."""
        at = bisect_left(self.levels, recall - 1e-9)
        return self.doubts[at] if at < len(self.levels) else math.inf


@cache
def shipped() -> Calibration:
    """The calibration that comes with the package."""
    return Calibration.read(json.loads(_SHIPPED.read_text(encoding="utf-8")))


def keep(
    scores: Floats, sizes: Sequence[int] | NDArray[Any], recall: float, calibration: Calibration
) -> NDArray[np.bool_]:
    """The units that hold the evidence in `recall` of all questions, the best first: one flag a unit, one at least."""
    if len(scores) == 0:
        return np.zeros(0, dtype=np.bool_)
    return np.asarray(doubt(scores, calibration.heat) <= calibration.limit(recall), dtype=np.bool_)


def doubt(scores: Floats, heat: float) -> Floats:
    """How sure one must want to be for each unit to be kept: -log of the share of belief in it and in those below it.

    0 for the best unit, the same for equal scores, rising from better to worse; the scores' level does not matter.
    """
    behind, place = np.unique(np.round(scores.max() - scores, 6), return_inverse=True)
    belief = np.bincount(place) * np.exp(-behind / heat)
    # Heat lifts the many unlikely units more than the few likely ones; this undoes what their mere number adds.
    belief[1:] *= (_USUAL / len(scores)) ** (1 - 1 / heat)
    left = np.cumsum(belief[::-1])[::-1] / belief.sum()
    return np.asarray(-np.log(np.clip(left, 1e-12, 1.0)) + 0.0, dtype=np.float64)[place]


def relevant(scores: Floats, calibration: Calibration) -> bool:
    """Whether anything here looks like evidence at all; if not, the caller keeps everything."""
    return len(scores) > 0 and bool(scores.max() >= calibration.least)


def within(scores: Floats, sizes: Sequence[int] | NDArray[Any], budget: float) -> NDArray[np.bool_]:
    """The best units that fit into `budget` together, taken from the best down, those that do not fit left out."""
    kept = np.zeros(len(scores), dtype=np.bool_)
    left = budget
    for at in np.lexsort((np.arange(len(scores)), -_worth(scores, sizes))):
        if sizes[at] <= left:
            kept[at] = True
            left -= sizes[at]
    return kept


def _worth(scores: Floats, sizes: Sequence[int] | NDArray[Any]) -> Floats:
    """Scores, less for the long: of two that are as likely, the shorter leaves room for a third."""
    return scores - 0.3 * np.log(np.maximum(np.asarray(sizes, dtype=np.float64), 1.0))


def quantiles(doubts: Sequence[float], weights: Sequence[float], levels: Sequence[float]) -> list[float]:
    """Conformal quantiles of measured doubts: at each level the least that holds (n + 1) / n of it by weight."""
    order = np.argsort(doubts, kind="stable")
    ordered, share = np.asarray(doubts)[order], np.cumsum(np.asarray(weights)[order]) / np.sum(weights)
    n = len(ordered)
    places = np.searchsorted(share, np.asarray(levels) * (n + 1) / n - 1e-12)
    return [float(ordered[min(int(place), n - 1)]) for place in places]

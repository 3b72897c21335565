"""How much each unit bears on a question: what was measured, weighed by a linear model that ships in calibration.json.

It knows what units and vectors are, not where either came from, and not how much may be kept: `conformal.py` decides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from .columns import Floats
from .conformal import shipped
from .measurements import Measurer, Vectors
from .units import Unit


def embedded_text(unit: Unit) -> str:
    """What a unit's vector must be of: a sentence alone often does not name what it is about, its heading does."""
    return f"{unit.heading}. {unit.text}" if unit.heading else unit.text


def scores(query: str, units: Sequence[Unit], query_vector: Vectors, vectors: Vectors) -> Floats:
    """One score a unit, higher is likelier evidence. Whoever asks twice about the same units makes a `Reader`."""
    return Reader(units).scores(query, query_vector, vectors)


class Reader(Measurer):
    """Units read once, to be scored for any number of questions."""

    def scores(
        self, query: str, query_vector: Vectors, vectors: Vectors, weights: Mapping[str, float] | None = None
    ) -> Floats:
        """`vectors` are the unit-length vectors of `embedded_text(unit)`, one row a unit; `query_vector` the query's.

        Differences are log-odds between units of this context; the best one's score is the log-odds that there is any
        evidence here at all.
        """
        if not self.units:
            return np.zeros(0)
        return combined(self.measure(query, query_vector, vectors), shipped().weights if weights is None else weights)


def combined(measured: Mapping[str, Floats], weights: Mapping[str, float]) -> Floats:
    """Scores from what was measured."""
    units = raw(measured, weights)
    whole = context(units, measured)
    level = sum(weights.get(name, 0.0) * value for name, value in whole.items())
    return np.asarray(units - units.max() + level, dtype=np.float64)


def raw(measured: Mapping[str, Floats], weights: Mapping[str, float]) -> Floats:
    """The units against one another."""
    table = np.stack(list(measured.values()), 1)
    return np.asarray(table @ np.array([weights.get(name, 0.0) for name in measured]), dtype=np.float64)


def context(raw: Floats, measured: Mapping[str, Floats]) -> dict[str, float]:
    """What the units' raw scores and measurements say about all of them together."""
    top = float(raw.max())
    return {
        "context": 1.0,
        "context:top": top,
        "context:alone": -float(np.log(np.exp(raw - top).sum())),
        "context:cosine": float(measured["cosine"].max()),
        "context:share": float(measured["any_share"].max()),
        "context:units": float(np.log(len(raw) / 80)),
        "context:foreign": float(measured["foreign"][0]),
        "context:accented": float(measured["accented"][0]),
    }

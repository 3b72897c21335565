"""What is known about an answer's length before a model has answered anything: the prior over models.

A prior turns a prompt into a few numbers, its basis, and says how models' log-lengths usually depend on them: the mean
and the covariance of a linear calibration over a population of models, and the noise that is left. `HandPrior` needs no
vectors: its one number is the rule's guess. `length_kernel.py` has the fitted one. Neither knows tenants or queues.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from . import length_cues
from .length_cues import Cues

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SHIPPED = Path(__file__).resolve().parent / "length_calibration.json"
LEVELS = (0.5, 0.9, 0.99, 0.999)


@dataclass(frozen=True, slots=True)
class Population:
    """A linear calibration of log-tokens on (1, basis) over many models.

    `mean`, `covariance` of its coefficients; `noise`: the standard deviation left within a model; `tail`: the quantiles
    of the standardised residual at LEVELS; `tail_weight`: how many answers of a model these quantiles are worth.
    """

    mean: tuple[float, ...]
    covariance: tuple[tuple[float, ...], ...]
    noise: float
    tail: tuple[float, ...]
    tail_weight: float = 60.0

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Population:
        """Raises KeyError or ValueError where the file is none of ours."""
        mean = tuple(float(x) for x in raw["mean"])
        rows = tuple(tuple(float(x) for x in row) for row in raw["covariance"])
        tail = tuple(float(x) for x in raw["tail"])
        if len(tail) != len(LEVELS) or list(tail) != sorted(tail):
            raise ValueError(f"tail: {len(LEVELS)} ascending quantiles are needed")
        if len(rows) != len(mean) or any(len(row) != len(mean) for row in rows):
            raise ValueError("covariance: as many rows and columns as the mean has numbers are needed")
        if float(raw["noise"]) <= 0:
            raise ValueError("noise: must be above 0")
        return cls(mean, rows, float(raw["noise"]), tail, float(raw.get("tail_weight", 60.0)))

    def to_json(self) -> dict[str, Any]:
        return {
            "mean": self.mean,
            "covariance": self.covariance,
            "noise": self.noise,
            "tail": self.tail,
            "tail_weight": self.tail_weight,
        }


class Prior(Protocol):
    """`vector`: the prompt's unit embedding, where there is one."""

    @property
    def population(self) -> Population: ...

    def basis(self, cues: Cues, vector: NDArray[np.float32] | None) -> tuple[float, ...]:
        """As many numbers as the population's mean has, less one."""
        ...


class HandPrior:
    """The rule's guess, in logs, is the whole basis. Works without an embedding and without numpy."""

    def __init__(self, population: Population | None = None) -> None:
        self.population = population or shipped()
        if len(self.population.mean) != 2:
            raise ValueError("the hand-made prior has one number in its basis")

    def basis(self, cues: Cues, vector: NDArray[np.float32] | None = None) -> tuple[float, ...]:
        return (length_cues.log_guess(cues),)


def shipped() -> Population:
    """The population that ships; the file says what it was fitted on."""
    return Population.from_json(json.loads(SHIPPED.read_text())["population"])

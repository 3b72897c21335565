"""How likely each model answers a prompt well: two small heads over one space.

The space turns a prompt's vector and its features into a context: how much the prompt belongs to each of some topics
(prototypes), how near it is to each of some places (landmarks), and its standardised features. A head is a logistic on
that context; each model has its own, so a new model needs nobody else's retraining. Plain arrays; fitted in fitting.py.
Knows no policy, no price, and nothing of where the vector comes from.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .domain import Domain, cosines, distance
from .features import NAMES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.floating[Any]]

SHIPPED = Path(__file__).parent / "calibration.json"
FORMAT = 1
# Softmax over cosines, and width of the landmarks' bells; chosen by cross-validation on MMLU (benchmarks/route.py).
_TOPIC_HEAT, _BELL = 0.1, 0.2
_WEIGHTS = (4.0, 4.0, 0.15)
_FARTHEST = 4.0


@dataclass(frozen=True)
class Space:
    """`topics` and `landmarks`: unit vectors, one a row. `mean`, `spread`: of the features."""

    topics: Array
    landmarks: Array
    mean: Array
    spread: Array

    def context(self, vectors: Array, features: Array) -> Array:
        """(n, size) for vectors (n, dimensions) and features (n, len(NAMES))."""
        topics: NDArray[Any] = cosines(vectors, self.topics) / _TOPIC_HEAT
        topics = np.exp(topics - topics.max(axis=1, keepdims=True))
        topics /= topics.sum(axis=1, keepdims=True)
        bells = np.exp((cosines(vectors, self.landmarks) - 1) / _BELL)
        form = np.clip(self._standard(features), -_FARTHEST, _FARTHEST)
        held = [part * weight for part, weight in zip((topics, bells, form), _WEIGHTS, strict=True)]
        return np.concatenate([*held, np.ones((len(vectors), 1), dtype=np.float32)], axis=1)

    def _standard(self, features: Array) -> Array:
        return (features - self.mean) / self.spread

    @property
    def size(self) -> int:
        return len(self.topics) + len(self.landmarks) + len(self.mean) + 1


class Guess(NamedTuple):
    """`good`: the probability of a good answer by model; `distance`: above 1, the prompt is out of domain."""

    good: dict[str, float]
    distance: float
    context: Array


@dataclass(frozen=True)
class Calibration:
    """`heads`: weights by model. `about`: what it was fitted on, in words. `embedder`: whose vectors it reads.
    `spread`: quantiles of the gain (`gain_of`) over the prompts it was fitted on, a first idea for share.py."""

    name: str
    embedder: str
    about: str
    space: Space
    domains: tuple[Domain, ...]
    heads: dict[str, Array]
    spread: tuple[float, ...] = ()
    extra: dict[str, Any] = field(default_factory=dict)

    def guess(self, vector: Array, features: tuple[float, ...]) -> Guess:
        """For one prompt; raises ValueError for a vector of another size or that is not finite."""
        if vector.shape != (self.space.topics.shape[1],) or not np.isfinite(vector).all():
            raise ValueError("a vector that this calibration does not read")
        one, form = vector[None].astype(np.float32), np.array([features], dtype=np.float32)
        context = self.space.context(one, form)
        good = {model: float(logistic(context @ head)[0]) for model, head in self.heads.items()}
        return Guess(good, float(distance(self.domains, one, form)[0]), context[0])


def logistic(logits: NDArray[Any]) -> NDArray[Any]:
    found: NDArray[Any] = 1 / (1 + np.exp(-np.clip(logits, -30, 30)))
    return found


def gain_of(good: dict[str, float], small: str, large: str) -> float:
    """What the large model is expected to add, -1 to 1: the score that share.py and floor.py go by."""
    return good[large] - good[small]


def neighbours(vectors: Array, good: Array, vector: Array, prior: float, most: int = 30, doubt: float = 5.0) -> float:
    """P(good) of a new model from few labels: its mean over the nearest labelled prompts, shrunk to `prior`, which is
    what a known model's head says; `doubt` in labels. Needs no training."""
    if not len(vectors):
        return prior
    near = np.argsort(-(vectors @ vector))[:most]
    weights = np.exp((vectors[near] @ vector - 1) / _BELL)
    return float((weights @ good[near] + doubt * prior) / (weights.sum() + doubt))


@cache
def shipped() -> Calibration:
    """Raises ValueError for a file that is not of this version."""
    return from_json(json.loads(SHIPPED.read_bytes()))


def to_json(calibration: Calibration) -> dict[str, Any]:
    space = calibration.space
    return {
        "format": FORMAT,
        "name": calibration.name,
        "about": calibration.about,
        "embedder": calibration.embedder,
        "features": list(NAMES),
        "feature_mean": _rounded(space.mean),
        "feature_spread": _rounded(space.spread),
        "topics": _packed(space.topics),
        "landmarks": _packed(space.landmarks),
        "domains": [_domain_json(domain) for domain in calibration.domains],
        "heads": {model: _rounded(head) for model, head in calibration.heads.items()},
        "spread": _rounded(np.array(calibration.spread)),
        **calibration.extra,
    }


def from_json(held: dict[str, Any]) -> Calibration:
    """Raises ValueError for what is no calibration, or one of other features."""
    if not isinstance(held, dict) or held.get("format") != FORMAT or held.get("features") != list(NAMES):
        raise ValueError("a calibration of another format, or for other features")
    space = Space(
        _unpacked(held["topics"]),
        _unpacked(held["landmarks"]),
        np.array(held["feature_mean"], dtype=np.float32),
        np.array(held["feature_spread"], dtype=np.float32),
    )
    heads = {model: np.array(head, dtype=np.float32) for model, head in held["heads"].items()}
    if not heads or any(head.shape != (space.size,) for head in heads.values()):
        raise ValueError("a calibration whose heads do not fit its space")
    known = {"cascade", "seen"} & held.keys()
    extra = {name: held[name] for name in known}
    domains = tuple(_domain(each) for each in held["domains"])
    if not domains:
        raise ValueError("a calibration that does not say what it was fitted on")
    spread = tuple(map(float, held["spread"]))
    return Calibration(held["name"], held["embedder"], held["about"], space, domains, heads, spread, extra)


def _domain_json(domain: Domain) -> dict[str, Any]:
    return {
        "far": [round(edge, 4) for edge in domain.far],
        "mean": _rounded(domain.mean),
        "spread": _rounded(domain.spread),
        "whiten": _packed(domain.whiten),
        "places": _packed(domain.places),
    }


def _domain(held: dict[str, Any]) -> Domain:
    mean, spread = (np.array(held[name], dtype=np.float32) for name in ("mean", "spread"))
    far = (float(held["far"][0]), float(held["far"][1]))
    return Domain(_unpacked(held["places"]), mean, spread, _unpacked(held["whiten"]), far)


def _rounded(values: Any) -> list[float]:
    return [round(float(value), 5) for value in values]


def _packed(rows: Array) -> dict[str, Any]:
    """Eight bits a number with one scale a row: what a person cannot review anyway, kept small."""
    scale = np.maximum(np.abs(rows).max(axis=1), 1e-9) / 127
    whole = np.round(rows / scale[:, None]).astype(np.int8)
    return {"shape": list(rows.shape), "scale": [float(f"{each:.6g}") for each in scale],
            "int8": base64.b64encode(whole.tobytes()).decode()}  # fmt: skip


def _unpacked(held: dict[str, Any]) -> Array:
    whole = np.frombuffer(base64.b64decode(held["int8"]), dtype=np.int8).reshape(held["shape"])
    found: Array = whole.astype(np.float32) * np.array(held["scale"], dtype=np.float32)[:, None]
    return found

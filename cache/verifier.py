"""How likely two wordings ask the same question: the probability that decides, with the bound, what is served.

A network reads both wordings at once; its logit, the cosine and what the two have in common word by word (features.py)
go through small boosted trees and a calibration, all fitted on public question pairs (benchmarks/cache_fit.py), of
which only coefficients ship. Knows no vetoes, no evidence and no promise; the network is handed in.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from .bound import Evidence
from .features import features
from .wording import LONGEST, Wording

SHIPPED = Path(__file__).parent / "calibration.json"
_FORMAT = 1
SAME_WORDS = 1.0
_FAR = 1e-4


class Pair(NamedTuple):
    """What is asked, a question that was answered, and the cosine of their vectors."""

    asked: str
    stored: str
    cosine: float


class Verifier(Protocol):
    """Probabilities, 0 to 1, that the pairs' questions want the same answer, in the order of the pairs.

    Raises TrimtabError where it cannot say.
    """

    @property
    def name(self) -> str: ...

    async def scores(self, pairs: Sequence[Pair]) -> list[float]: ...


class Scorer(Protocol):
    """The network: for each pair of texts a logit, above 0 if they more likely ask the same; None where they are too
    long for it. Raises TrimtabError."""

    async def logits(self, pairs: Sequence[tuple[str, str]]) -> list[float | None]: ...


class Split(NamedTuple):
    """One decision: at or below `threshold` of the input `feature` go `low`, above it `high`: a number of a node in
    the same tree, or a value if it is a float."""

    feature: int
    threshold: float
    low: int | float
    high: int | float


Tree = tuple[Split, ...]


@dataclass(frozen=True)
class Calibration:
    """`floor`: a cosine below which nothing is compared. `trees` sum up to a logit beside `offset`; `logits` and
    `probabilities` are points of a line through which that becomes a probability. `prior`: see evidence.py.
    `thresholds` were picked on the calibration's own pairs, for the benchmark alone."""

    name: str
    floor: float
    offset: float
    trees: tuple[Tree, ...]
    logits: tuple[float, ...]
    probabilities: tuple[float, ...]
    prior: Evidence
    thresholds: dict[str, dict[str, float]]
    about: str = ""

    def probability(self, logit: float, pair: Pair) -> float:
        return between(self.logits, self.probabilities, self.summed([logit, *features(*pair)]))

    def summed(self, values: Sequence[float]) -> float:
        return self.offset + sum(leaf(tree, values) for tree in self.trees)


def leaf(tree: Tree, values: Sequence[float]) -> float:
    """The value of the leaf that `values` fall into."""
    at: int | float = 0
    while isinstance(at, int):
        split = tree[at]
        at = split.low if values[split.feature] <= split.threshold else split.high
    return at


def between(xs: Sequence[float], ys: Sequence[float], x: float) -> float:
    """The line through the points at `x`; flat beyond its ends."""
    at = bisect_right(xs, x)
    if at == 0:
        return ys[0]
    if at == len(xs):
        return ys[-1]
    share = (x - xs[at - 1]) / (xs[at] - xs[at - 1])
    return ys[at - 1] + share * (ys[at] - ys[at - 1])


class CalibratedVerifier:
    """The verifier that ships."""

    def __init__(self, scorer: Scorer, calibration: Calibration | None = None) -> None:
        self._scorer = scorer
        self._calibration = calibration or shipped()

    @property
    def name(self) -> str:
        return self._calibration.name

    async def scores(self, pairs: Sequence[Pair]) -> list[float]:
        """1 for the same words, but for case, punctuation and politeness; next to 0 for what is too long to be compared
        or too far apart. Neither costs a run of the network. Raises what the network raises.
        """
        floor = self._calibration.floor
        found = [SAME_WORDS if same_words(pair.asked, pair.stored) else far(pair.cosine) for pair in pairs]
        near = [at for at, pair in enumerate(pairs) if found[at] < SAME_WORDS and pair.cosine >= floor]
        if near:
            logits = await self._scorer.logits([(pairs[at].asked, pairs[at].stored) for at in near])
            for at, logit in zip(near, logits, strict=True):
                if logit is not None:
                    found[at] = self._calibration.probability(logit, pairs[at])
        return found


def far(cosine: float) -> float:
    """The score of what was not compared: below all others, in the order of the cosines."""
    return max(0.0, cosine) * _FAR


def same_words(asked: str, stored: str) -> bool:
    """Whether both are the same words in the same order, contractions spelt out and what is only polite left out."""
    if max(len(asked), len(stored)) > LONGEST:
        return asked == stored
    words = Wording(asked).plain
    return bool(words) and words == Wording(stored).plain


@cache
def shipped() -> Calibration:
    """Raises ValueError for a file that is not of this version."""
    return from_json(json.loads(SHIPPED.read_bytes()))


def from_json(held: dict[str, Any]) -> Calibration:
    """Raises ValueError, also for trees that do not end."""
    if held.get("format") != _FORMAT:
        raise ValueError(f"a calibration of format {held.get('format')}, and this is {_FORMAT}")
    prior = held["prior"]
    found, judged, wrong = (tuple(prior[name]) for name in ("found", "judged", "wrong"))
    return Calibration(
        held["name"],
        held["floor"],
        held["offset"],
        tuple(_tree(splits) for splits in held["trees"]),
        tuple(held["logits"]),
        tuple(held["probabilities"]),
        Evidence(tuple(prior["grid"]), prior["lookups"], found, judged, wrong),
        held.get("thresholds", {}),
        held.get("about", ""),
    )


def _tree(splits: Sequence[Sequence[Any]]) -> Tree:
    tree = tuple(Split(*split) for split in splits)
    for at, split in enumerate(tree):
        if not all(isinstance(way, float) or at < way < len(tree) for way in (split.low, split.high)):
            raise ValueError("a tree whose nodes do not go on to later ones")
    return tree


def to_json(calibration: Calibration) -> dict[str, Any]:
    prior = calibration.prior
    return {
        "format": _FORMAT,
        "name": calibration.name,
        "about": calibration.about,
        "floor": calibration.floor,
        "offset": calibration.offset,
        "thresholds": calibration.thresholds,
        "prior": {name: getattr(prior, name) for name in ("grid", "lookups", "found", "judged", "wrong")},
        "logits": calibration.logits,
        "probabilities": calibration.probabilities,
        "trees": calibration.trees,
    }

"""Fits what the semantic cache ships with: the network that compares questions, and what its scores mean.

    python benchmarks/cache_fit.py --train FILE [--vectors FOLDER] [--network] [--epochs N]

FILE holds question pairs (benchmarks/cache.py says how). Whole groups of it go by a hash to fitting (80 %), which the
network is trained on, to calibration (10 %), which everything else is fitted on, and to a part that is left alone, for
`benchmarks/cache.py --held-out`. Writes backends/pair_scorer.npz (with --network; an hour on two cores) and
cache/calibration.json: coefficients and counts, never a text. The network that ships is the mean of three checkpoints
of such a run, after three and four epochs of five, and after the first of these was trained half an epoch on at falling
rates.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from cache_sets import CALIBRATE, FIT, Pairs, read, vectors
from cache_stream import Near, Neighbour, near_pairs
from numpy.typing import NDArray
from rich.progress import track
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.isotonic import IsotonicRegression

from cache import Judged, pair_thresholds, streamed
from trimtab.backends.pair_scorer import TRAINED, compare
from trimtab.cache.bound import Evidence
from trimtab.cache.features import features
from trimtab.cache.verifier import SAME_WORDS, SHIPPED, Calibration, Pair, Split, Tree, far, same_words, to_json
from trimtab.cache.vetoes import veto

Floats = NDArray[np.float64]

NAME = "minilm-pairs-1"
FLOOR = 0.70
FOLDS = 5
TREES = {"n_estimators": 150, "max_depth": 3, "learning_rate": 0.04, "subsample": 0.7, "min_samples_leaf": 40}
# Pairs that nobody labelled are told apart by what labels connect, and some of those are the same all the same.
UNLABELLED = 0.5
POINTS = 16
PARTS = 36  # of the grid, each about this share of the look-ups:
PART = 0.01
TOO_LONG = -12.0


@dataclass
class Measured:
    """Pairs of question numbers, the inputs of the trees for each, and whether they mean the same. `folds` of both."""

    keys: list[tuple[int, int]]
    inputs: Floats
    right: NDArray[np.bool_]
    folds: NDArray[np.int64]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, required=True, metavar="FILE")
    parser.add_argument("--vectors", type=Path, metavar="FOLDER", help="keep the questions' vectors there")
    parser.add_argument("--network", action="store_true", help="train the network too")
    parser.add_argument("--epochs", type=float, default=5)
    options = parser.parse_args()
    data = read([options.train])
    if options.network:
        from cache_fit_network import train

        train(data.part(0, FIT), data.part(FIT, CALIBRATE), options.epochs, TRAINED)
    calibration = calibrated(data.part(FIT, CALIBRATE), options.vectors)
    SHIPPED.write_text(json.dumps(shortened(to_json(calibration))) + "\n")
    for path in (SHIPPED, TRAINED):
        print(f"{path.name}: {path.stat().st_size / 1024:.0f} KiB")
    return 0


def calibrated(data: Pairs, kept: Path | None) -> Calibration:
    """The trees fitted on all of `data`; the line, the thresholds and the prior on scores of trees that have not seen
    the pair."""
    found = vectors(data.questions, kept)
    labelled = measure(data, found, [(a, b) for a, b, _ in data.pairs], [same for *_, same in data.pairs], "pairs")
    listed = near_pairs(found, FLOOR)
    keys = sorted({(min(a, b), max(a, b)) for a, row in enumerate(listed) for b, _ in row})
    near = measure(data, found, keys, [data.meanings[a] == data.meanings[b] for a, b in keys], "neighbours")
    unseen_pairs, unseen_near = crossed(labelled, near)
    logits, probabilities = line(unseen_pairs, labelled.right)
    sure_pairs = certain(data, labelled, np.interp(unseen_pairs, logits, probabilities))
    sure_near = certain(data, near, np.interp(unseen_near, logits, probabilities))
    graph = graphed(data, near, sure_near)
    scores = np.sort([max((n.score for n in row if not n.struck), default=0.0) for row in graph])[::-1]
    grid = sorted({round(float(scores[int(len(scores) * PART * k)]), 4) for k in range(1, PARTS)} - {0.0})
    offset, trees = plain(fitted([labelled, near]))
    none = Evidence((0.5,), 0.0, (0.0,), (0.0,), (0.0,))
    made = Calibration(NAME, FLOOR, offset, trees, tuple(logits), tuple(probabilities), none, {})
    cosines = labelled.inputs[:, 1]
    struck = np.array([veto(data.questions[a], data.questions[b]) is not None for a, b in labelled.keys])
    kinds = {"trimtab": np.where(struck, 0.0, sure_pairs), "trimtab without vetoes": sure_pairs, "cosine": cosines}
    return replace(
        made,
        thresholds=pair_thresholds({name: Judged(each, labelled.right) for name, each in kinds.items()}),
        prior=streamed(data, graph, grid),
        about=f"fitted on {len(data.pairs)} pairs of {len(data.questions)} public questions; the prior is what streams"
        f" of them saw that filled an empty cache, up to about {len(set(data.meanings))} questions, all of it judged",
    )


def measure(
    data: Pairs, found: NDArray[np.float32], keys: Sequence[tuple[int, int]], right: Sequence[bool], label: str
) -> Measured:
    rows = []
    for a, b in track(keys, label):
        first, second = data.questions[a], data.questions[b]
        logit = compare(first, second)
        cosine = float(found[a] @ found[b])
        rows.append([TOO_LONG if logit is None else logit, *features(*Pair(first, second, cosine))])
    folds = np.array([[data.groups[a] % FOLDS, data.groups[b] % FOLDS] for a, b in keys])
    return Measured(list(keys), np.array(rows), np.array(right), folds)


def fitted(parts: Sequence[Measured], without: int | None = None) -> Any:
    """Boosted trees on what both questions of are not in the fold `without`."""
    rows, right, weights = [], [], []
    for number, part in enumerate(parts):
        kept = np.all(part.folds != without, axis=1) if without is not None else np.ones(len(part.keys), bool)
        rows.append(part.inputs[kept])
        right.append(part.right[kept])
        weights.append(np.full(int(kept.sum()), UNLABELLED if number else 1.0))
    model = GradientBoostingClassifier(random_state=0, **TREES)
    return model.fit(np.concatenate(rows), np.concatenate(right), np.concatenate(weights))


def crossed(labelled: Measured, near: Measured) -> tuple[Floats, Floats]:
    """Sums of trees that were fitted on the other folds."""
    out = [np.zeros(len(each.keys)) for each in (labelled, near)]
    for fold in range(FOLDS):
        model = fitted([labelled, near], fold)
        for each, sums in zip((labelled, near), out, strict=True):
            rows = each.folds[:, 0] == fold
            if rows.any():
                sums[rows] = model.decision_function(each.inputs[rows])
    return out[0], out[1]


def line(sums: Floats, right: NDArray[np.bool_]) -> tuple[list[float], list[float]]:
    """A rising line from sums to probabilities through the means of equal parts of the pairs."""
    order = np.argsort(sums, kind="stable")
    parts = np.array_split(order, POINTS)
    xs = np.array([sums[part].mean() for part in parts])
    ys = IsotonicRegression().fit_transform(xs, [right[part].mean() for part in parts])
    ys = np.clip(ys, 0.001, 0.995)
    # Ends, beyond which it is flat, and a slope everywhere: two pairs that differ have different scores.
    xs = np.concatenate(([xs[0] - 3], xs, [xs[-1] + 3]))
    ys = np.concatenate(([max(2e-4, ys[0] / 4)], ys, [1 - (1 - ys[-1]) / 4])) + np.linspace(0, 1e-4, len(xs))
    return [round(float(x), 5) for x in xs], [round(float(y), 6) for y in np.minimum(ys, 0.9999)]


def certain(data: Pairs, measured: Measured, sure: Floats) -> Floats:
    """The scores as the verifier gives them, with what needs no network, or is too long or too far apart for it."""
    compared = (measured.inputs[:, 0] > TOO_LONG) & (measured.inputs[:, 1] >= FLOOR)
    same = [same_words(data.questions[a], data.questions[b]) for a, b in measured.keys]
    distant = [far(cosine) for cosine in measured.inputs[:, 1]]
    return np.where(same, SAME_WORDS, np.where(compared, sure, distant))


def graphed(data: Pairs, near: Measured, sure: Floats) -> Near:
    graph: Near = [[] for _ in data.questions]
    for (a, b), inputs, score in zip(near.keys, near.inputs, sure, strict=True):
        struck = veto(data.questions[a], data.questions[b])
        graph[a].append(Neighbour(b, inputs[1], float(score), struck))
        graph[b].append(Neighbour(a, inputs[1], float(score), struck))
    for row in graph:
        row.sort(key=lambda each: -each.cosine)
    return graph


def plain(model: Any) -> tuple[float, tuple[Tree, ...]]:
    """The boosted trees as plain numbers; what they begin with, and each tree."""
    offset = float(np.log(model.init_.class_prior_[1] / model.init_.class_prior_[0]))
    return offset, tuple(_tree(each[0].tree_, model.learning_rate) for each in model.estimators_)


def _tree(tree: Any, rate: float) -> Tree:
    """Leaves go into the splits above them."""
    inner = [node for node in range(tree.node_count) if tree.children_left[node] >= 0]
    place = {node: at for at, node in enumerate(inner)}

    def way(node: int) -> int | float:
        return place[node] if node in place else float(round(rate * tree.value[node][0][0], 6))

    return tuple(
        Split(
            int(tree.feature[node]),
            float(tree.threshold[node]),
            way(tree.children_left[node]),
            way(tree.children_right[node]),
        )
        for node in inner
    )


def shortened(held: dict[str, Any]) -> dict[str, Any]:
    """Thresholds in seven digits: half the file."""
    held["trees"] = [
        [[feature, float(f"{edge:.7g}"), low, high] for feature, edge, low, high in tree] for tree in held["trees"]
    ]
    return held


if __name__ == "__main__":
    sys.exit(main())

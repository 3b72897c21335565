"""The skeleton-of-thought router: fitted on labelled prompts, its precision and F1 on others.

python benchmarks/length_skeleton.py --train FILE [FILE ...] --out routing/skeleton_router.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from length_sets import Floats, embed, read, share
from numpy.typing import NDArray

from trimtab.routing import length_cues
from trimtab.routing.skeleton import SkeletonRouter, against

RIDGE = 6.0
FEWEST = 60  # left-out prompts that must stand behind the bar
STEPS = 25


def fit(rows: Sequence[tuple[str, bool]], vectors: NDArray[np.float32]) -> dict[str, Any]:
    """Weights, and the bar at which predictions for left-out prompts are right most often."""
    cues = [length_cues.read(prompt) for prompt, _ in rows]
    design = np.column_stack([vectors, [one.values for one in cues], np.ones(len(rows))])
    label = np.array([float(suits) for _, suits in rows])
    part = np.array([share(prompt, 5) for prompt, _ in rows])
    scores = np.zeros(len(rows))
    for fold in range(5):
        scores[part == fold] = _sigmoid(design[part == fold] @ _logistic(design[part != fold], label[part != fold]))
    free = np.array([not against(prompt, one) for (prompt, _), one in zip(rows, cues, strict=True)])
    weights, size = _logistic(design, label), vectors.shape[1]
    return {
        "vector": [round(float(x), 4) for x in weights[:size]],
        "cues": [round(float(x), 4) for x in weights[size:-1]],
        "bias": round(float(weights[-1]), 4),
        "bar": round(_bar(scores[free], label[free]), 3),
    }


def _bar(scores: Floats, label: Floats) -> float:
    """Where the share of right ones is highest; the labels are too noisy to be asked for a share of their own."""
    order = np.argsort(-scores)
    precision = np.cumsum(label[order]) / np.arange(1, len(order) + 1)
    best = FEWEST - 1 + int(np.argmax(precision[FEWEST - 1 :]))
    print(f"precision on prompts left out {precision[best]:.3f}, of {best + 1}")
    return float(scores[order][best])


def _logistic(design: Floats, label: Floats) -> Floats:
    """Newton's steps with a ridge; the last column is the bias."""
    weights = np.zeros(design.shape[1])
    penalty = np.full(design.shape[1], RIDGE)
    penalty[-1] = 1e-3
    for _ in range(STEPS):
        chance = _sigmoid(design @ weights)
        curve = design.T @ (design * (chance * (1 - chance))[:, None]) + np.diag(penalty)
        weights = weights - np.linalg.solve(curve, design.T @ (chance - label) + penalty * weights)
    return weights


def _sigmoid(x: Floats) -> Floats:
    out: Floats = 1 / (1 + np.exp(-np.clip(x, -30, 30)))
    return out


def measured(
    router: SkeletonRouter, rows: Sequence[tuple[str, bool]], vectors: NDArray[np.float32]
) -> tuple[float, float, int]:
    """Precision, F1, and how many were said to suit."""
    told = [router.suits(prompt, vector).suits for (prompt, _), vector in zip(rows, vectors, strict=True)]
    label = [suits for _, suits in rows]
    both = sum(a and b for a, b in zip(told, label, strict=True))
    return float(both) / max(1, sum(told)), 2.0 * both / max(1, sum(told) + sum(label)), sum(told)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, nargs="+", required=True, metavar="FILE")
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    rows = read(asked.train).skeleton
    made = fit(rows, embed([prompt for prompt, _ in rows]))
    named = {"fitted_on": f"{len(rows)} labelled prompts (Skeleton-of-Thought's router labels, MIT)"}
    asked.out.write_text(json.dumps({**named, **made}) + "\n")


if __name__ == "__main__":
    main()

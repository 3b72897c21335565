"""Fit what evidence pruning ships: how far below the best unit a question's evidence may score.

    python benchmarks/context_calibrate.py --train FILE [FILE ...] --out compression/calibration.json

Prints nothing but progress; the same files give the same bytes.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from context_sets import Context, contexts
from context_vectors import Vectors
from numpy.typing import NDArray

from trimtab.compression import conformal, evidence

LEVELS = [round(0.5 + 0.01 * step, 3) for step in range(40)] + [round(0.9 + 0.001 * step, 3) for step in range(100)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, nargs="+", required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    sets = [contexts(path) for path in options.train]
    vectors = Vectors()
    texts = {evidence.embedded_text(unit) for made in sets for context in made for unit in context.units}
    vectors.learn(texts | {context.question for made in sets for context in made}, "embedding")
    lines = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in fit(sets, vectors).items()]
    options.out.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    return 0


def scored(context: Context, vectors: Vectors) -> NDArray[np.float64]:
    query, rows = vectors.query(context.question), vectors.units(context.units)
    return evidence.scores(context.question, context.units, query, rows)


def gap(context: Context, scores: NDArray[np.float64]) -> float:
    """How far below the best unit the evidence stays, at its easiest."""
    return float(scores.max() - max(min(scores[unit] for unit in one) for one in context.evidence))


def fit(sets: Sequence[Sequence[Context]], vectors: Vectors) -> dict[str, Any]:
    found = [(context, scored(context, vectors)) for made in sets for context in made]
    gaps = conformal.levels_of([gap(context, scores) for context, scores in found], LEVELS)
    best = np.quantile([scores.max() for _, scores in found], 0.002)
    return {"levels": LEVELS, "gaps": [round(value, 4) for value in gaps], "least": round(float(best), 4)}


if __name__ == "__main__":
    sys.exit(main())

"""Fit what evidence pruning ships: the weights of what is measured, and how much of the belief a recall needs.

    python benchmarks/context_calibrate.py --train FILE [FILE ...] --out compression/calibration.json

The same files give the same numbers.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from context_fit import fit, measure
from context_sets import contexts
from context_vectors import Vectors
from rich.progress import track


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, nargs="+", required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    sets = [contexts(path) for path in options.train]
    vectors = Vectors()
    vectors.learn_all(sets, "embedding")
    measured = [[measure(one, vectors) for one in track(made, "measuring")] for made in sets]
    lines = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in fit(measured).items()]
    options.out.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

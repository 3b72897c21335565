"""Fit a routing calibration to labelled prompts and write it as JSON: how routing/calibration.json was made.

    python benchmarks/route_fit.py --train MMLU GSM8K --json routing/calibration.json

Ship only what was fitted on rows whose licence allows it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from report import arguments
from route_sets import Labelled, load

from trimtab.backends.embed import BUNDLED
from trimtab.routing import fitting
from trimtab.routing.cascade import Answered, Deferral, checks
from trimtab.routing.heads import Calibration, to_json
from trimtab.routing.seen import Seen


def fitted(sets: Sequence[Labelled], about: str = "") -> Calibration:
    """One calibration over all sets. A set without topics is one topic, unless it is the only one."""
    topics = None
    if len(sets) > 1 or sets[0].topics:
        topics = [name for one in sets for name in (one.topics or [one.name] * len(one.prompts))]
    return fitting.fit(
        np.concatenate([one.vectors for one in sets]),
        np.concatenate([one.form for one in sets]),
        {name: np.concatenate([one.labels[name] for one in sets]) for name in sets[0].labels},
        name="mixtral-8x7b and gpt-4-1106",
        embedder=BUNDLED,
        about=about,
        topics=topics,
        kinds=[one.name for one in sets for _ in one.prompts],
    )


def checked(one: Labelled) -> fitting.Array:
    """The checks' figures of the small model's answers."""
    pairs = zip(one.prompts, one.answers or [], strict=True)
    return np.array([checks(Answered(prompt, answer)) for prompt, answer in pairs], dtype=np.float32)


def deferral(one: Labelled) -> Deferral:
    guesses = fitting.cross_guesses(one.vectors, one.form, one.labels, one.topics)
    return fitting.fit_deferral(checked(one), guesses, one.small)


def main(argv: list[str] | None = None) -> int:
    parser = arguments(__doc__)
    parser.add_argument("--vectors", type=Path, metavar="FOLDER", help="keep the prompts' vectors there between runs")
    options = parser.parse_args(argv)
    if not options.train or options.json is None:
        parser.error("--train FILE and --json OUT are needed")
    sets = [load(path, options.vectors) for path in options.train]
    rows = ", ".join(f"{len(one.prompts)} of {one.name}" for one in sets)
    made = fitted(sets, f"Fitted on labelled prompts: {rows}. Small: Mixtral 8x7B Instruct; large: GPT-4-1106.")
    held = to_json(made)
    held["seen"] = Seen.made(prompt for one in sets for prompt in one.prompts).to_json()
    for one in sets:
        if one.answers:
            found = deferral(one)
            held["cascade"] = {
                "about": f"Checks on the small model's answers to {len(one.prompts)} prompts of {one.name}.",
                **{name: [round(each, 5) for each in getattr(found, name)] for name in ("mean", "spread", "weights")},
            }
    options.json.write_text(json.dumps(held, indent=None, separators=(",", ":")).replace('],"', '],\n"') + "\n")
    print(f"{options.json}: {options.json.stat().st_size} bytes; {made.about}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

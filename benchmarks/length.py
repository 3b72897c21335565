"""How well the length of answers is foreseen, and what ordering by it is worth.

    python benchmarks/length.py --data FILE [FILE ...] [--train FILE ...] [--json OUT] [--quick]

FILEs may be of three kinds, told apart by their fields: prompts with models' answer lengths, a trace of arrivals,
prompts labelled for skeletons. Rows are never scored by what was fitted on them: with --train on that, else in fifths
of the prompts and thirds of the models. docs/benchmarks.md says what each row means.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

import length_queue
import numpy as np
from length_models import ANSWERS, Score, Split, scores, splits
from length_queue import Work
from length_sets import Files, Lengths, embed, read
from length_skeleton import fit, measured
from report import Report, Row, arguments, at_least, at_most

from trimtab.routing import length_cues
from trimtab.routing.cap import Then, propose, then
from trimtab.routing.length import Key, LengthPlanner
from trimtab.routing.length_calibration import Calibration
from trimtab.routing.length_prior import LEVELS, HandPrior, Prior
from trimtab.routing.skeleton import SkeletonRouter

TAU_BAR = 0.46
CEILING_BAR = 0.70
ERROR_BAR = 0.30
DRAWS = (2, 1)  # draws of the answers that are shown; when quick


def length_rows(made: Sequence[Split], draws: int, seed: int, prior: Prior | None = None) -> list[Row]:
    """`prior`: another than the splits' own, under its own name."""
    rows: list[Row] = []
    system = "trimtab" if prior is None else "as it ships"
    for answers in ANSWERS:
        found = [one for split in made for draw in range(draws) for one in scores(split, answers, seed + draw, prior)]
        tau, n = float(np.nanmean([one.tau for one in found])), len(found)
        rows.append(Row(f"cold_tau_{answers}", tau, n=n, system=system))
        if answers == 50:
            rows += _after_fifty(found, tau, system)
    return rows


def _after_fifty(found: list[Score], tau: float, system: str) -> list[Row]:
    ceiling, n = float(np.nanmean([one.ceiling for one in found])), len(found)
    spared = 1 - float(np.mean([one.error for one in found]) / np.mean([one.error_median for one in found]))
    rows = [
        at_least("tau", tau, TAU_BAR, n=n, system=system),
        at_least("tau_of_ceiling", tau / ceiling, CEILING_BAR, n=n, system=system),
        Row("tau_ceiling", ceiling, n=n, system="the other models' median"),
        Row("mae", float(np.mean([one.error for one in found])), "tokens", n=n, system=system),
        at_least("mae_vs_median", spared, ERROR_BAR, n=n, system=system),
    ]
    for at, level in enumerate(LEVELS[:3]):
        name = f"p{level * 100:g}"
        rows.append(
            Row(f"pinball_{name}", float(np.mean([one.pinball[at] for one in found])), "tokens", n=n, system=system)
        )
        rows.append(Row(f"coverage_{name}", float(np.mean([one.covered[at] for one in found])), n=n, system=system))
    return rows


def cap_rows(made: Sequence[Split]) -> list[Row]:
    """Every answer played against the cap proposed for it, by a target that can continue."""
    hit = cut = n = 0
    for split in made:
        basis = [split.prior.basis(cue, vec) for cue, vec in zip(split.new.cues, split.new.vectors, strict=True)]
        for model in range(len(split.new.models)):
            planner = LengthPlanner(split.prior)
            key = Key(split.new.models[model])
            for cue, vec, tokens in zip(
                split.known.cues, split.known.vectors, split.known.tokens[:, model], strict=True
            ):
                if np.isfinite(tokens) and planner.forecast(key, "", vec).seen < 50:
                    planner.learn(key, split.prior.basis(cue, vec), int(tokens))
            for at in range(len(basis)):
                true = split.new.tokens[at, model]
                if not np.isfinite(true):
                    continue
                cap = propose(planner.forecast(key, split.new.prompts[at], split.new.vectors[at]), None, None, True)
                over = cap.tokens is not None and bool(true > cap.tokens)
                hit, n = hit + over, n + 1
                cut += over and then(cap, "length") is not Then.CONTINUE
    return [
        at_most("truncations", int(cut), 0, n=n),
        Row("continued", float(hit) / max(1, n), n=n),
    ]


def queue_rows(work: Work, name: str) -> list[Row]:
    plain, ours, bare = length_queue.in_order(work), length_queue.bounded(work), length_queue.by_size(work)
    oracle = length_queue.by_size(Work(work.arrives, work.size, work.size))
    n, label = len(work.size), f"queue{name}"
    return [
        at_least(f"{label}_gain", plain.mean / ours.mean, 1.30, n=n),
        at_most(f"{label}_p99", ours.p99 / plain.p99, 1.10, n=n),
        at_most(f"{label}_longest_wait", ours.longest / plain.longest, 1.10, n=n),
        Row(f"{label}_fairness", ours.fairness, n=n),
        Row(f"{label}_fairness", plain.fairness, n=n, system="first come"),
        *[
            Row(f"{label}_{metric}", value, n=n, system=system)
            for system, one in (("shortest predicted first", bare), ("shortest first", oracle))
            for metric, value in (
                ("gain", plain.mean / one.mean),
                ("p99", one.p99 / plain.p99),
                ("longest_wait", one.longest / plain.longest),
            )
        ],
    ]


def foreseen(split: Split, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """True and predicted lengths of one unseen model's answers to new prompts, after 50 answers."""
    model, prior = len(split.new.models) // 2, split.prior
    calibration = Calibration(prior.population)
    rows = np.random.default_rng(seed).permutation(np.flatnonzero(np.isfinite(split.known.tokens[:, model])))[:50]
    for at in rows:
        basis = prior.basis(split.known.cues[at], split.known.vectors[at])
        calibration.learn(basis, int(split.known.tokens[at, model]))
    there = np.flatnonzero(np.isfinite(split.new.tokens[:, model]))
    told = [calibration.quantiles(prior.basis(split.new.cues[at], split.new.vectors[at]))[0] for at in there]
    return split.new.tokens[there, model], np.array(told)


def skeleton_rows(data: Files, train: Files | None) -> list[Row]:
    vectors = embed([prompt for prompt, _ in data.skeleton])
    router = SkeletonRouter.shipped()
    if train is not None and train.skeleton:
        made = fit(train.skeleton, embed([prompt for prompt, _ in train.skeleton]))
        router = SkeletonRouter(made["vector"], made["cues"], made["bias"], made["bar"])
    precision, f1, told = measured(router, data.skeleton, vectors)
    return [
        at_least("skeleton_precision", precision, 0.95, n=told),
        Row("skeleton_f1", f1, n=len(data.skeleton)),
    ]


def cost_rows(prior: Prior, data: Lengths) -> list[Row]:
    """The whole forecast beyond the embedding, a prompt at a time."""
    planner, taken = LengthPlanner(prior), []
    for prompt, vector in list(zip(data.prompts, data.vectors, strict=True))[:300]:
        begun = time.perf_counter()
        told = planner.forecast(Key("m", "t", "r"), prompt, vector)
        taken.append((time.perf_counter() - begun) * 1e3)
        planner.learn(Key("m", "t", "r"), told.basis, 100 + len(prompt) % 300)
    p50, p99 = np.percentile(taken, [50, 99])
    return [at_most("added_p50_ms", float(p50), 1.0, unit="ms", n=300), Row("added_p99_ms", float(p99), "ms", 300)]


def main() -> int:
    options = arguments(__doc__, data="prompts with answer lengths, a trace, skeleton labels").parse_args()
    if not options.data:
        print("--data FILE is needed", file=sys.stderr)
        return 2
    data, train = read(options.data), read(options.train) if options.train else None
    rows: list[Row] = []
    notes = ["fitted on other prompts and other models than those scored, in memory; what ships is not fitted on these"]
    trace = data.trace or (train.trace if train is not None else [])
    if data.lengths is not None:
        lengths = [data.lengths, *([train.lengths] if train is not None and train.lengths is not None else [])]
        for one in lengths:
            one.vectors = embed(one.prompts)
        made = list(splits(data.lengths, train.lengths if train is not None else None))
        made = made[:3] if options.quick else made
        draws = DRAWS[options.quick]
        rows += length_rows(made, draws, options.seed)
        rows += length_rows(made, 1, options.seed, HandPrior())
        rows += cap_rows(made[:3]) + cost_rows(made[0].prior, data.lengths)
        if trace:
            rows += queue_rows(
                length_queue.with_answers(trace, *foreseen(made[0], options.seed), options.seed), "_answers"
            )
    if trace:
        rows += queue_rows(length_queue.from_trace(trace, options.seed), "")
    if data.skeleton:
        rows += skeleton_rows(data, train)
    notes.append(
        f"{len(length_cues.NAMES)} cues; models that mostly give answers of one length have no order, and are left out"
    )
    Report("length", rows, seed=options.seed, notes=notes).publish(options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())

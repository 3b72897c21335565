"""Routing on labelled prompts: who should answer, how far the promises hold, and what a cascade adds.

    python benchmarks/route.py --data MMLU GSM8K --train MMLU GSM8K [--vectors FOLDER] [--json OUT] [--quick]

JSON lines with `prompt`, `weak_ok`, `strong_ok`, perhaps `subject` and `weak_answer`. Nothing is reported on a prompt
that was fitted on: with --train, prompts of --data are left out of it; without, the data is cut in five by prompt, and
each part is scored by what the other four say. Files are matched in order; every other pairing must fall back.
RouteLLM's figures are its paper's best for each set (arXiv:2406.18665), over all of the set's rows.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from report import Report, Row, arguments, at_least, at_most
from route_fit import checked, deferral, fitted
from route_scores import share_of_broken
from route_sets import LARGE, SMALL, Array, Labelled, load, parted, without
from route_stage import p99

from trimtab.routing.cascade import Deferral
from trimtab.routing.choose import Aim, Candidate, Known, Needs, choose
from trimtab.routing.domain import distance
from trimtab.routing.features import features
from trimtab.routing.floor import Audit, allowed
from trimtab.routing.heads import Calibration, logistic
from trimtab.routing.share import LiveShare
from trimtab.routing.worth import intervals, worth

BARS = {"mmlu": 0.68, "gsm8k": 0.63}
CASCADE_BAR = 0.80
PUBLISHED = {"mmlu": 0.603, "gsm8k": 0.622}
PARTS = 5
SHARES = (0.1, 0.3, 0.5, 0.7)
FLOORS = (0.9, 0.95, 0.98)
AUDITS = 1_000
# The small model's price in parts of the large one's: RouterBench's means for this pair, 0.25 to 5.03.
SMALL_COST = 0.05


@dataclass(frozen=True)
class Scored:
    """Rows to report on, with what was said of each by something that was not fitted on it."""

    rows: Labelled
    gain: Array
    far: Array
    neighbours: Array
    deferred: Array | None


def gains(calibration: Calibration, rows: Labelled) -> tuple[Array, Array, Array]:
    """P(good) of the small and of the large model, and the distance."""
    context = calibration.space.context(rows.vectors, rows.form)
    small, large = (logistic(context @ calibration.heads[name]) for name in (SMALL, LARGE))
    return small, large, distance(calibration.domains, rows.vectors, rows.form)


def neighbour_gain(train: Labelled, rows: Labelled, most: int = 100) -> Array:
    near = np.argsort(-(rows.vectors @ train.vectors.T), axis=1)[:, : min(most, len(train.prompts))]
    found: Array = (train.large - train.small)[near].mean(axis=1)
    return found


def scored(rows: Labelled, train: Labelled) -> Scored:
    small, large, distance = gains(fitted([train]), rows)
    late = None
    if rows.answers and train.answers:
        late = deferral_scores(deferral(train), rows, small, large)
    return Scored(rows, large - small, distance > 1, neighbour_gain(train, rows), late)


def deferral_scores(held: Deferral, rows: Labelled, small: Array, large: Array) -> Array:
    figures = checked(rows)
    said = [held.good(figures[at], float(small[at]), float(large[at])) for at in range(len(figures))]
    return large - np.array(said)


def crossed(data: Labelled) -> Scored:
    """Each of five parts scored by the other four."""
    part = parted(data, PARTS)
    found = [scored(data.only(part == at), data.only(part != at)) for at in range(PARTS)]
    order = np.argsort(np.concatenate([np.flatnonzero(part == at) for at in range(PARTS)]), kind="stable")
    late = [one.deferred for one in found if one.deferred is not None]

    def joined(arrays: list[Array]) -> Array:
        whole: Array = np.concatenate(arrays)[order]
        return whole

    return Scored(
        data,
        joined([one.gain for one in found]),
        joined([one.far for one in found]),
        joined([one.neighbours for one in found]),
        joined(late) if late else None,
    )


def ranking(one: Scored, draws: int, seed: int) -> list[Row]:
    rows, name = one.rows, one.rows.name
    random = np.random.default_rng(seed)
    systems = {
        "trimtab": one.gain,
        "kNN-100 on the gain": one.neighbours,
        "prompt length": rows.form[:, 0],
        "random": random.random(len(rows.prompts)),
    }
    if one.deferred is not None:
        systems["trimtab cascade"] = one.deferred
    found = []
    for system, score in systems.items():
        figures = worth(score, rows.small, rows.large)
        spreads = intervals(score, rows.small, rows.large, draws, seed)
        bar = {"trimtab": BARS.get(rows.kind), "trimtab cascade": CASCADE_BAR}.get(system)
        for metric, value, spread in zip(("APGR", "CPT50", "CPT80"), figures, spreads, strict=True):
            more = {"n": len(rows.prompts), "interval": spread, "system": system}
            if metric == "APGR" and bar:
                found.append(at_least(f"{name} APGR", value, bar, **more))
            else:
                found.append(Row(f"{name} {metric}", value, "" if metric == "APGR" else "% of calls", **more))
    if rows.kind in PUBLISHED:
        found.append(Row(f"{name} APGR", PUBLISHED[rows.kind], system="RouteLLM, published"))
    if one.deferred is not None:
        found += costs(one)
    return found


def costs(one: Scored) -> list[Row]:
    """What 80 % of the gap costs, both calls charged, in per cent of the large model for everything."""
    rows, found = one.rows, []
    assert one.deferred is not None
    for system, score, always in (("trimtab", one.gain, False), ("trimtab cascade", one.deferred, True)):
        calls = worth(score, rows.small, rows.large).cpt80
        small = 100 * SMALL_COST if always else (100 - calls) * SMALL_COST
        found.append(Row(f"{rows.name} cost at 80 % of the gap", calls + small, "% of large", system=system))
    return found


def share_errors(one: Scored, seed: int) -> list[Row]:
    """The share that came about against the one asked for: rows in random order, and sorted, so that it drifts."""
    random = np.random.default_rng(seed)
    count = len(one.gain)
    orders = {"shuffled": random.permutation(count), "drifting": np.argsort(one.rows.vectors[:, 0])}
    found = []
    for label, order in orders.items():
        errors = []
        for share in SHARES:
            live = LiveShare()
            large = sum(live.is_large(float(one.gain[at]), share) for at in order)
            errors.append(100 * abs(large / count - share))
        found.append(at_most(f"{one.rows.name} share error, {label}", max(errors), 2.0, unit="points", n=count))
    return found


def broken_floors(one: Scored, draws: int, seed: int) -> list[Row]:
    """Audits drawn from the rows, the promise judged on all of them: the truth that the draws are from."""
    rows, found = one.rows, []
    for floor in FLOORS:
        served: list[float] = []

        def trial(random: np.random.Generator, floor: float = floor, served: list[float] = served) -> bool:
            drawn = random.integers(len(one.gain), size=AUDITS)
            audits = [Audit(float(one.gain[at]), bool(rows.small[at]), bool(rows.large[at])) for at in drawn]
            highest = allowed(audits, floor).highest
            small = one.gain <= highest if highest is not None else np.zeros(len(one.gain), dtype=bool)
            served.append(100 * float(small.mean()))
            return bool(np.where(small, rows.small, rows.large).mean() < floor * rows.large.mean())

        broken = share_of_broken(trial, draws, seed)
        found.append(at_most(f"{rows.name} floor {floor:g} broken", broken, 5.0, unit="% of draws", n=draws))
        found.append(Row(f"{rows.name} floor {floor:g}, small model's share", float(np.mean(served)), "%", n=draws))
    return found


def fallbacks(data: list[Labelled], train: list[Labelled], calibrations: list[Calibration]) -> list[Row]:
    found = []
    for asked in data:
        for known, calibration in zip(train, calibrations, strict=True):
            far = 100 * float((gains(calibration, asked)[2] > 1).mean())
            if known.kind != asked.kind:
                metric = f"fitted on {known.name}, asked {asked.name}: falls back"
                found.append(at_least(metric, far, 95.0, unit="%", n=len(asked.prompts)))
    return found


def latency(calibration: Calibration, rows: Labelled, count: int) -> Row:
    """In the thread's own time: what else runs on the machine is not the decision's."""
    small, large = Candidate(SMALL), Candidate(LARGE)
    taken = []
    for at in np.linspace(0, len(rows.prompts) - 1, count).astype(int):
        began = time.thread_time()
        guess = calibration.guess(rows.vectors[at], features(rows.prompts[at]))
        choose(small, large, Needs(), Aim("value", microusd_per_good=100), Known(guess.good, guess.distance))
        taken.append((time.thread_time() - began) * 1_000)
    return at_most("decision p99, without the embedding", float(np.quantile(taken, 0.99)), 2.0, unit="ms", n=count)


def stages(rows: Labelled, count: int) -> Row:
    prompts = list(dict.fromkeys(rows.prompts))[:count]
    return at_most("plan and route p99, beyond the embedding", p99(prompts), 2.0, unit="ms", n=len(prompts))


def main(argv: list[str] | None = None) -> int:
    parser = arguments(__doc__, "labelled prompts to report on")
    parser.add_argument("--vectors", type=Path, metavar="FOLDER", help="keep the prompts' vectors there between runs")
    options = parser.parse_args(argv)
    if not options.data:
        parser.error("--data FILE is needed")
    limit, draws = (700, 50) if options.quick else (None, 200)
    data = [load(path, options.vectors, limit) for path in options.data]
    shown = {prompt for one in data for prompt in one.prompts}
    train = [without(load(path, options.vectors, limit), shown) for path in options.train]
    report = Report("route", [], options.seed)
    for at, one in enumerate(data):
        matched = train[at] if at < len(train) else None
        if matched is not None and matched.kind != one.kind:
            continue
        held = scored(one, matched) if matched is not None else crossed(one)
        report.rows += ranking(held, draws, options.seed)
        report.rows += share_errors(held, options.seed) + broken_floors(held, draws, options.seed)
        in_domain = Row(f"{one.name} in domain: falls back", 100 * float(held.far.mean()), "%", n=len(held.far))
        report.rows.append(in_domain)
    known = train or data
    calibrations = [fitted([one]) for one in known]
    report.rows += fallbacks(data, known, calibrations)
    report.rows.append(latency(calibrations[0], data[0], 200 if options.quick else 2_000))
    report.rows.append(stages(data[0], 400 if options.quick else 1_500))
    report.notes.append(
        f"Bars for APGR and promises are the project's. A cascade's CPT counts large calls; its cost row charges both, "
        f"the small call at {SMALL_COST:g} of the large one. Floors: {AUDITS} audits a draw, 95 % confidence."
    )
    report.publish(options.json)
    return 0 if all(row.holds is not False for row in report.rows) else 1


if __name__ == "__main__":
    sys.exit(main())

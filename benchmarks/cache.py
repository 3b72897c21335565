"""How often the semantic cache answers, and how often it is wrong: on labelled pairs, on a stream, on traps.

    python benchmarks/cache.py --data FILE [--train FILE] [--vectors FOLDER] [--json OUT] [--quick] [--parts PART ...]

FILE holds question pairs, a JSON object a line with `a`, `b` and `same`. What ships was fitted on public pairs
(benchmarks/cache_fit.py), so give --data a file that holds none of them, or --held-out, which measures only the part
of the fitting file that nothing was fitted on. With --train the thresholds, and the evidence of the bound, are taken
from that file's calibration part and not from what ships. The other parts ask whose answers clients get, whether what
comes back is what came, what a hit costs and how long a look-up takes; each is a script beside this one, cache_PART.py,
with a description of its own. docs/benchmarks.md explains the rows.
"""

from __future__ import annotations

import importlib
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from cache_rivals import FIXED, VCACHE, Served, at_cosine, same_text, vcache
from cache_sets import CALIBRATE, FIT, Pairs, read, vectors
from cache_stream import Look, Near, compared, evidence, hits_and_wrong, neighbours, replay
from cache_traps import Trap, rewrites, traps
from numpy.typing import NDArray
from report import Report, Row, arguments, at_least, at_most

from trimtab.backends.pair_scorer import PairScorer
from trimtab.cache.bound import Evidence, lowest
from trimtab.cache.evidence import combine
from trimtab.cache.verifier import CalibratedVerifier, Calibration, Pair, shipped
from trimtab.cache.vetoes import veto

Floats = NDArray[np.float64]

SHARES = {"05": 0.005, "1": 0.01, "2": 0.02}
BARS, STREAM_BARS = {"1": 0.14, "2": 0.22}, {"2": 0.14}
PROMISES = (0.005, 0.01, 0.02)
STREAM, QUICK_STREAM, QUICK_PAIRS = 9_000, 1_500, 1_500
RESAMPLES = 100
TRAPS_OF, QUICK_TRAPS_OF = 400, 60
BARE = "trimtab without vetoes"
DECISIONS = "decisions"
PARTS = (DECISIONS, "isolation", "replay", "cost", "lookup")


@dataclass(frozen=True)
class Judged:
    """Pairs with a score each; `right` says whether they are labelled the same."""

    scores: Floats
    right: NDArray[np.bool_]

    def hits(self, threshold: float) -> tuple[float, float]:
        """Shares of all pairs that are served, and served wrongly."""
        served = self.scores >= threshold
        return float(served.mean()), float((served & ~self.right).mean())

    def threshold(self, share: float) -> float:
        """The lowest score at which at most this share of the pairs is served wrongly."""
        order = np.argsort(-self.scores, kind="stable")
        wrong = np.cumsum(~self.right[order]) / len(order)
        scores = self.scores[order]
        # Equal scores are served together.
        ends = np.append(scores[1:] != scores[:-1], True) & (wrong <= share)
        return float(scores[ends].min()) if ends.any() else float("inf")

    def ap(self) -> float:
        order = np.argsort(-self.scores, kind="stable")
        right = self.right[order]
        return float((np.cumsum(right) / np.arange(1, len(right) + 1))[right].mean())

    def auc(self) -> float:
        """By ranks; ties count half."""
        values, place, counts = np.unique(self.scores, return_inverse=True, return_counts=True)
        ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
        positive = int(self.right.sum())
        negative = len(values[place]) - positive
        return float((ranks[self.right].sum() - positive * (positive + 1) / 2) / max(1, positive * negative))


@dataclass(frozen=True)
class Thresholds:
    """Fixed before the data is seen. `pairs`: by system and share. `prior`: the evidence that the bound begins with."""

    pairs: dict[str, dict[str, float]]
    prior: Evidence

    def promised(self, promise: float) -> float:
        """The score that an owner of whom nothing is known is served from; infinite where it is none."""
        none = (0.0,) * len(self.prior.grid)
        allowed = lowest(combine(self.prior, Evidence(self.prior.grid, 0.0, none, none, none)), promise)
        return float("inf") if allowed is None else allowed


def main() -> int:
    parser = arguments(__doc__, "question pairs: a JSON object a line with a, b and same")
    parser.add_argument("--vectors", type=Path, metavar="FOLDER", help="keep the questions' vectors there")
    parser.add_argument("--held-out", action="store_true", help="only the part of the file that fitting left alone")
    parser.add_argument("--parts", nargs="+", choices=PARTS, help="all of them; with --quick the decisions alone")
    parser.add_argument("--bench", type=Path, metavar="DIR", help="for the part cost: see cache_cost.py")
    parser.add_argument("--secs", type=float, default=3.0, help="for the part cost: seconds a slice")
    parser.add_argument("--runs", type=int, default=5, help="for the part cost: slices of each case")
    parser.add_argument("--million", action="store_true", help="for the part lookup: a million entries, too")
    options = parser.parse_args()
    options.notes = []
    rows: list[Row] = []
    for part in options.parts or ((DECISIONS,) if options.quick else PARTS):
        rows += decisions(options) if part == DECISIONS else importlib.import_module(f"cache_{part}").rows(options)
    if not rows:
        return 0
    shown = [
        row for row in rows if row.system not in FIXED or not row.metric.startswith("trap_") or row.metric == "trap_all"
    ]
    rest = [row for row in rows if row not in shown]
    Report("cache", shown, seed=options.seed, notes=options.notes, details=rest).publish(options.json)
    return 0


def decisions(options: Any) -> list[Row]:
    """What is served and what of it is wrong; nothing without pairs."""
    data = read(options.data)
    if not data.pairs:
        print("cache: no decisions to measure; give --data FILE with question pairs", file=sys.stderr)
        return []
    if options.held_out:
        data = data.part(CALIBRATE, 1.01)
    if options.quick and len(data.pairs) > QUICK_PAIRS:
        data = shortened(data, QUICK_PAIRS / len(data.pairs), options.seed)
    verifier = CalibratedVerifier(PairScorer())
    thresholds = trained(options.train, options.vectors, verifier) if options.train else of(shipped())
    options.notes += [
        f"{len(data.pairs)} pairs, {len(data.questions)} questions, ceiling of any cache {data.ceiling:.1%}",
        "thresholds: " + ("fitted on --train" if options.train else "as shipped"),
    ]
    return run(data, vectors(data.questions, options.vectors), verifier, thresholds, options.quick, options.seed)


def run(
    data: Pairs,
    found: NDArray[np.float32],
    verifier: CalibratedVerifier,
    thresholds: Thresholds,
    quick: bool,
    seed: int,
) -> list[Row]:
    judged = judge(data, found, verifier)
    rows = pair_rows(judged, thresholds.pairs)
    order = data.stream(QUICK_STREAM if quick else STREAM, seed)
    near = neighbours(data, found, shipped().floor, verifier, "stream")
    rows += stream_rows(data, near, order, thresholds)
    rows += rival_rows(data, found, order, seed)
    rows += guarantee_rows(data, near, thresholds, 20 if quick else RESAMPLES, seed)
    asked = random.Random(seed).sample(data.questions, min(len(data.questions), QUICK_TRAPS_OF if quick else TRAPS_OF))
    return rows + trap_rows(asked, verifier, thresholds, seed)


def shortened(data: Pairs, share: float, seed: int) -> Pairs:
    groups = sorted(set(data.groups))
    return data.of_groups(set(random.Random(seed).sample(groups, max(1, int(len(groups) * share)))))


def of(calibration: Calibration) -> Thresholds:
    return Thresholds(calibration.thresholds, calibration.prior)


def trained(paths: Sequence[Path], kept: Path | None, verifier: CalibratedVerifier) -> Thresholds:
    """Thresholds, and the bound's evidence, of the calibration part of the file."""
    data = read(paths).part(FIT, CALIBRATE)
    found = vectors(data.questions, kept)
    return Thresholds(pair_thresholds(judge(data, found, verifier)), prior(data, found, verifier, shipped().prior.grid))


def judge(data: Pairs, found: NDArray[np.float32], verifier: CalibratedVerifier) -> dict[str, Judged]:
    """Every labelled pair, by cosine alone, by the verifier alone, and with vetoes."""
    cosines = np.array([float(found[a] @ found[b]) for a, b, _ in data.pairs])
    text = data.questions
    pairs = [Pair(text[a], text[b], cosine) for (a, b, _), cosine in zip(data.pairs, cosines, strict=True)]
    scores = np.array(compared(pairs, verifier, "pairs"))
    struck = np.array([veto(pair.asked, pair.stored) is not None for pair in pairs])
    right = np.array([same for _, _, same in data.pairs])
    return {
        "trimtab": Judged(np.where(struck, 0.0, scores), right),
        BARE: Judged(scores, right),
        "cosine": Judged(cosines, right),
    }


def pair_thresholds(judged: dict[str, Judged]) -> dict[str, dict[str, float]]:
    return {system: {name: one.threshold(share) for name, share in SHARES.items()} for system, one in judged.items()}


def pair_rows(judged: dict[str, Judged], thresholds: dict[str, dict[str, float]]) -> list[Row]:
    rows = []
    for system, one in judged.items():
        n = len(one.scores)
        rows += [Row("ap", one.ap(), n=n, system=system), Row("auc", one.auc(), n=n, system=system)]
        for name, share in SHARES.items():
            bar = BARS.get(name) if system == "trimtab" else None
            best, _ = one.hits(one.threshold(share))
            metric = f"hit_at_wrong_{name}"
            rows.append(at_least(metric, best, bar, n=n) if bar else Row(metric, best, n=n, system=system))
            hit, wrong = one.hits(thresholds[system][name])
            rows.append(Row(f"{metric}_fixed", hit, n=n, system=system))
            rows.append(Row(f"wrong_at_wrong_{name}_fixed", wrong, n=n, system=system))
    for system, threshold in FIXED.items():
        hit, wrong = judged["cosine"].hits(threshold)
        rows += [Row("pair_hit", hit, n=n, system=system), Row("pair_wrong", wrong, n=n, system=system)]
    return rows


def prior(data: Pairs, found: NDArray[np.float32], verifier: CalibratedVerifier, grid: Sequence[float]) -> Evidence:
    near = neighbours(data, found, shipped().floor, verifier, "evidence")
    return streamed(data, near, grid)


def streamed(data: Pairs, near: Near, grid: Sequence[float], orders: int = 4) -> Evidence:
    """Look-ups of the whole set as streams that fill an empty cache, on the average over several orders.

    What is at once served is not stored, so what counts as served matters a little: from the middle of the grid on.
    """
    every = [
        evidence(replay(near, data.meanings, data.stream(len(data.questions), seed), grid[len(grid) // 2]), grid)
        for seed in range(orders)
    ]
    mean = lambda name: tuple(np.mean([getattr(one, name) for one in every], axis=0))  # noqa: E731
    return Evidence(tuple(grid), every[0].lookups, mean("found"), mean("judged"), mean("wrong"))


def stream_rows(data: Pairs, near: Near, order: Sequence[int], thresholds: Thresholds) -> list[Row]:
    """What the promise of 2 % serves, and what could be served with hindsight."""
    rows = [Row("stream_ceiling", 1 - len({data.meanings[at] for at in order}) / len(order), n=len(order))]
    for name, share in SHARES.items():
        best = hindsight(data, near, order, share, True)
        metric = f"stream_hit_at_wrong_{name}"
        bar = STREAM_BARS.get(name)
        rows.append(at_least(metric, best, bar, n=len(order)) if bar else Row(metric, best, n=len(order)))
        rows.append(Row(metric, hindsight(data, near, order, share, False), n=len(order), system=BARE))
    for promise in PROMISES:
        threshold = thresholds.promised(promise)
        looks = replay(near, data.meanings, order, threshold)
        hit, wrong = hits_and_wrong(looks, threshold)
        if promise == PROMISES[-1]:
            rows += [
                Row("stream_hit", hit, n=len(order)),
                at_most("stream_wrong", wrong, promise, n=len(order)),
            ]
            rows += quarters(looks, threshold)
        else:
            name = f"{promise * 1000:g}".zfill(2)
            rows += [Row(f"stream_hit_promise_{name}", hit, n=len(order))]
            rows += [at_most(f"stream_wrong_promise_{name}", wrong, promise, n=len(order))]
    return rows


def hindsight(data: Pairs, near: Near, order: Sequence[int], share: float, with_vetoes: bool) -> float:
    """The most hits at any score at which no more than `share` of the look-ups are served wrongly."""
    best = 0.0
    scores = [each.score for row in near for each in row if each.score > 0.3]
    for threshold in np.quantile(scores, np.linspace(0, 0.99, 60)):
        looks = replay(near, data.meanings, order, float(threshold), vetoes=with_vetoes)
        hit, wrong = hits_and_wrong(looks, float(threshold))
        if wrong <= share:
            best = max(best, hit)
    return best


def quarters(looks: Sequence[Look], threshold: float) -> list[Row]:
    rows = []
    for number, part in enumerate(np.array_split(np.arange(len(looks)), 4), start=1):
        hit, wrong = hits_and_wrong([looks[at] for at in part], threshold)
        rows += [Row(f"stream_hit_q{number}", hit, n=len(part)), Row(f"stream_wrong_q{number}", wrong, n=len(part))]
    return rows


def rival_rows(data: Pairs, found: NDArray[np.float32], order: Sequence[int], seed: int) -> list[Row]:
    runs = {name: at_cosine(found, data.meanings, order, threshold) for name, threshold in FIXED.items()}
    runs |= {f"vCache ({delta:g})": vcache(found, data.meanings, order, delta, seed) for delta in VCACHE}
    runs["LiteLLM (whole request)"] = same_text(data.questions, data.meanings, order)
    rows = []
    for name, done in runs.items():
        hit, wrong = shares(done)
        _, late = shares(done[-len(done) // 4 :])
        for metric, value in (("stream_hit", hit), ("stream_wrong", wrong), ("stream_wrong_q4", late)):
            rows.append(Row(metric, value, n=len(done), system=name))
    return rows


def shares(done: Sequence[Served]) -> tuple[float, float]:
    return sum(each.hit for each in done) / len(done), sum(each.wrong for each in done) / len(done)


def guarantee_rows(data: Pairs, near: Near, thresholds: Thresholds, resamples: int, seed: int) -> list[Row]:
    """How often a stream's wrong answers exceed the promise: with the prior that ships, on random halves of the data;
    and with one half of the data as evidence for the other, as an owner's own audits would be."""
    groups = sorted(set(data.groups))
    grid = thresholds.prior.grid
    broken = {("bound_broken", promise): 0 for promise in PROMISES}
    broken |= {("bound_broken_halves", promise): 0 for promise in PROMISES}
    for number in range(resamples):
        rng = random.Random(seed * 1000 + number)
        left = set(rng.sample(groups, len(groups) // 2))
        mine, theirs = (
            [at for at in rng.sample(range(len(data.groups)), len(data.groups)) if (data.groups[at] in left) is side]
            for side in (True, False)
        )
        own = evidence(replay(near, data.meanings, theirs, grid[len(grid) // 2]), grid)
        halved = Thresholds({}, own)
        for promise in PROMISES:
            for name, chosen in (("bound_broken", thresholds), ("bound_broken_halves", halved)):
                threshold = chosen.promised(promise)
                _, wrong = hits_and_wrong(replay(near, data.meanings, mine, threshold), threshold)
                broken[name, promise] += wrong > promise
    rows = []
    for name in ("bound_broken", "bound_broken_halves"):
        every = [broken[name, promise] / resamples for promise in PROMISES]
        rows.append(at_most(name, max(every), 0.05, n=resamples))
        rows += [Row(f"{name}_{promise * 1000:g}".replace(".", ""), value, n=resamples)
                 for promise, value in zip(PROMISES, every, strict=True)]  # fmt: skip
    return rows


def trap_rows(questions: Sequence[str], verifier: CalibratedVerifier, thresholds: Thresholds, seed: int) -> list[Row]:
    """Shares of small edits that are served at the laxest promise: those that change the question, and that do not."""
    made, kept = traps(questions, seed), rewrites(questions, seed)
    rows = []
    served = serve([*made, *kept], verifier, thresholds.promised(PROMISES[-1]))
    for system, each in served.items():
        wrong, right = each[: len(made)], each[len(made) :]
        for kind in sorted({trap[0] for trap in made}):
            of_kind = [hit for trap, hit in zip(made, wrong, strict=True) if trap[0] == kind]
            bar = 0.0 if kind in ("number", "negation") and system == "trimtab" else None
            value = float(np.mean(of_kind))
            held = Row(f"trap_{kind}", value, n=len(of_kind), system=system)
            rows.append(held if bar is None else replace(held, bar=bar, holds=value <= bar))
        if system == "trimtab":
            rows.append(at_most("trap_all", float(np.mean(wrong)), 0.03, n=len(wrong)))
            rows.append(at_least("harmless_kept", float(np.mean(right)), 0.95, n=len(right)))
        else:
            rows.append(Row("trap_all", float(np.mean(wrong)), n=len(wrong), system=system))
            rows.append(Row("harmless_kept", float(np.mean(right)), n=len(right), system=system))
    return rows


def serve(edits: Sequence[Trap], verifier: CalibratedVerifier, threshold: float) -> dict[str, list[bool]]:
    """Which edits are served, with vetoes, without, and by cosine."""
    texts = sorted({text for _, a, b in edits for text in (a, b)})
    found = vectors(texts)
    at = {text: number for number, text in enumerate(texts)}
    pairs = [Pair(a, b, float(found[at[a]] @ found[at[b]])) for _, a, b in edits]
    scores = compared(pairs, verifier, "traps")
    bare = [score >= threshold for score in scores]
    guarded = [hit and veto(pair.asked, pair.stored) is None for hit, pair in zip(bare, pairs, strict=True)]
    rules = {name: [pair.cosine >= cosine for pair in pairs] for name, cosine in FIXED.items()}
    return {"trimtab": guarded, BARE: bare, **rules}


if __name__ == "__main__":
    sys.exit(main())

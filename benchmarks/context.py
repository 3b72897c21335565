"""How much of a context can go while the answer stays: twenty documents, of which one holds it.

    python benchmarks/context.py --data FILE [FILE ...] [--train FILE ...] [--json OUT] [--quick] [--peers DIR]

Without --train the calibration that ships is measured, so give it files that it was not fitted on. With --train
everything is fitted anew: each fifth of the data (by article or passage) is scored by what was fitted on the other
four fifths of --train, and once more by what was fitted on the other files alone. docs/benchmarks.md explains the rows.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from context_fit import Measured, calibration, measure, scores
from context_rivals import Kept, bm25_scores, hybrid_scores, run_peers
from context_sets import Context, contexts, name
from context_vectors import Vectors
from numpy.typing import NDArray
from report import Report, Row, arguments, at_most
from rich.progress import track

from trimtab.compression import conformal, evidence
from trimtab.compression.conformal import Calibration

Floats = NDArray[np.float64]

SHARES = (0.05, 0.10, 0.20, 0.30)
RECALLS = (0.95, 0.99)
BARS = {"survive_5": 0.92, "survive_10": 0.985}  # NQ, twenty documents
PEERS_MOST = 300
PEERS_PYTHON = "headroom/bin/python"
COLD = 12
PARTS = 5  # of the data, each scored by what was fitted on the others


@dataclass
class Data:
    """One file's contexts, measured, and how they are scored. `other`: by what was fitted on the other files."""

    name: str
    measured: list[Measured]
    scored: list[Floats]
    calibrations: list[Calibration]
    other: tuple[list[Floats], Calibration] | None = None

    @property
    def contexts(self) -> list[Context]:
        return [one.context for one in self.measured]


def main() -> int:
    parser = arguments(__doc__, "contexts are made of these")
    parser.add_argument(
        "--peers", type=Path, metavar="DIR", help="holds headroom/bin/python, with headroom-ai and kompact"
    )
    options = parser.parse_args()
    if not options.data:
        print("context: nothing to measure; give --data FILE")
        return 0
    peers = options.peers / PEERS_PYTHON if options.peers is not None else None
    if peers is not None and not peers.is_file():
        parser.error(f"--peers: there is no {peers}; install headroom-ai and kompact in an environment there")
    most = 40 if options.quick else None
    vectors = Vectors()
    data = prepare(options.data, options.train, vectors, most)
    rows: list[Row] = []
    for one in data:
        found = rows_of(one, options.seed) + times(one, vectors, options.seed)
        if peers is not None:
            found += peer_rows(one, peers, most or PEERS_MOST)
        rows += named(found, one.name, one is data[0])
    fitted = "cross-validated on --train" if options.train else "by the calibration that ships"
    notes = [
        f"plain names: {data[0].name}; scored {fitted}; tokens as gpt-4o counts them where its vocabulary is there"
    ]
    shown = [row for row in rows if for_people(row)]
    Report("context", shown, options.seed, notes, [row for row in rows if row not in shown]).publish(options.json)
    return 0


def prepare(paths: Sequence[Path], train: Sequence[Path], vectors: Vectors, most: int | None) -> list[Data]:
    """Every file measured once, whether it is tested on, trained on, or both."""
    files = list(dict.fromkeys([*paths, *train]))
    sets = {path: contexts(path, most if path in paths and not train else None) for path in files}
    vectors.learn_all(list(sets.values()), "embedding")
    known = {
        path: [measure(one, vectors) for one in track(made, f"measuring {name(path)}")] for path, made in sets.items()
    }
    if not train:
        shipped = conformal.shipped()
        return [
            Data(name(path), known[path], score(known[path], shipped), [shipped] * len(known[path])) for path in paths
        ]
    parts = [
        calibration([[one for one in known[path] if one.context.fold % PARTS != part] for path in train])
        for part in track(range(PARTS), "fitting")
    ]
    made = []
    for path in paths:
        own = [parts[one.context.fold % PARTS] for one in known[path]]
        scored = [scores(one.rows, one.names, used.weights) for one, used in zip(known[path], own, strict=True)]
        apart = [known[other] for other in train if name(other) != name(path)]
        away = calibration(apart) if apart else None
        made.append(Data(name(path), known[path], scored, own, (score(known[path], away), away) if away else None))
    return made


def score(measured: Sequence[Measured], used: Calibration) -> list[Floats]:
    return [scores(one.rows, one.names, used.weights) for one in measured]


def rows_of(data: Data, seed: int) -> list[Row]:
    """What stays at fixed shares for each way of scoring, and what recall targets cost."""
    chance = random.Random(seed)
    ways: dict[str, list[Floats]] = {
        "trimtab": data.scored,
        "hybrid": [hybrid_scores(one) for one in data.measured],
        "bm25": [bm25_scores(one) for one in data.measured],
        "random": [np.array([chance.random() for _ in one.context.units]) for one in data.measured],
    }
    rows = []
    for system, scored in ways.items():
        for share in SHARES:
            kept = [
                conformal.within(score, context.sizes, share * sum(context.sizes))
                for score, context in zip(scored, data.contexts, strict=True)
            ]
            rows += share_rows(data.contexts, kept, share, system)
    return rows + recall_rows(data) + unanswerable_rows(data)


def share_rows(made: Sequence[Context], kept: Sequence[NDArray[np.bool_]], share: float, system: str) -> list[Row]:
    percent, n = round(100 * share), len(made)
    pairs = list(zip(made, kept, strict=True))
    found = {
        f"survive_{percent}": mean([context.survives(flags.tolist()) for context, flags in pairs]),
        f"kept_{percent}": mean([tokens_kept(context, flags) for context, flags in pairs]),
    }
    if percent == 10:
        found["gold_10"] = mean([bool(flags[context.sentence]) for context, flags in pairs])
    return [Row(metric, value, "share", n, system=system) for metric, value in found.items()]


def recall_rows(data: Data) -> list[Row]:
    """Realised recall and tokens kept for each target, and the worst difference between target and realised."""
    ways = [("", data.scored, data.calibrations)]
    if data.other is not None:
        ways.append(("_other", data.other[0], [data.other[1]] * len(data.measured)))
    rows = []
    for suffix, scored, used in ways:
        apart = []
        for recall in RECALLS:
            kept = [
                conformal.keep(score, context.sizes, recall, calibration)
                for score, context, calibration in zip(scored, data.contexts, used, strict=True)
            ]
            pairs = list(zip(data.contexts, kept, strict=True))
            realised = mean([context.survives(flags.tolist()) for context, flags in pairs])
            tokens = mean([tokens_kept(context, flags) for context, flags in pairs])
            percent, n = round(100 * recall), len(kept)
            rows.append(Row(f"recall_{percent}{suffix}", realised, "share", n))
            rows.append(Row(f"tokens_at_{percent}{suffix}", tokens, "share", n))
            apart.append(round(abs(realised - recall), 6))
        rows.append(at_most(f"recall_error{suffix}", max(apart), 0.01, unit="share", n=len(data.measured)))
    return rows


def unanswerable_rows(data: Data) -> list[Row]:
    """How often everything is kept because nothing stands out: with the answer's document, and with it taken away."""
    with_answer = [conformal.relevant(score, used) for score, used in zip(data.scored, data.calibrations, strict=True)]
    without = [
        conformal.relevant(scores(one.bare, one.names, used.weights), used)
        for one, used in zip(data.measured, data.calibrations, strict=True)
    ]
    n = len(with_answer)
    return [
        Row("abstained_answerable", 1 - mean(with_answer), "share", n),
        Row("abstained_unanswerable", 1 - mean(without), "share", n),
    ]


def times(data: Data, vectors: Vectors, seed: int) -> list[Row]:
    """Milliseconds for one context: the query embedded, units read and scored, and the set chosen.

    Warm: the units' vectors are known. Cold: they are embedded too.
    """
    chosen = random.Random(seed).sample(data.contexts, min(200, len(data.contexts)))
    shipped = conformal.shipped()

    def one(context: Context, rows: Callable[[], NDArray[np.float32]]) -> float:
        begun = time.perf_counter()
        query = vectors.embed([context.question])[0]
        found = evidence.scores(context.question, context.units, query, rows())
        conformal.keep(found, context.sizes, 0.99, shipped)
        return 1000 * (time.perf_counter() - begun)

    warm = [one(context, lambda c=context: vectors.units(c.units)) for context in chosen]  # type: ignore[misc]
    cold = [one(context, lambda c=context: vectors.fresh(c.units)) for context in chosen[:COLD]]  # type: ignore[misc]
    return [
        Row("warm_p50_ms", percentile(warm, 50), "ms", len(warm)),
        at_most("warm_p99_ms", percentile(warm, 99), 100.0, unit="ms", n=len(warm)),
        Row("cold_p50_ms", percentile(cold, 50), "ms", len(cold)),
        Row("cold_p99_ms", percentile(cold, 99), "ms", len(cold)),
    ]


def peer_rows(data: Data, python: Path, most: int) -> list[Row]:
    every = max(1, len(data.contexts) // most)
    kept = run_peers(python, data.contexts[::every][:most], SHARES, data.name)
    return [row for found in kept for row in _peer(found)]


def _peer(found: Kept) -> list[Row]:
    percent, n = round(100 * found.share), len(found.survived)
    return [
        Row(f"survive_{percent}", mean(found.survived), "share", n, system=found.system),
        Row(f"kept_{percent}", mean(found.kept), "share", n, system=found.system),
    ]


def named(rows: Sequence[Row], data: str, first: bool) -> list[Row]:
    """Rows of the first file keep their plain names, another file's name follows its metrics'; NQ's have bars."""
    out = []
    for row in rows:
        bar = BARS.get(row.metric) if row.system == "trimtab" and data.startswith("nq") else None
        label = row.metric if first else f"{row.metric}_{data}"
        made = replace(row, metric=label)
        out.append(made if bar is None else replace(made, bar=bar, holds=row.value >= bar))
    return out


def for_people(row: Row) -> bool:
    """Whether a row is for the table too: ours but for what is nearly 1, and whether rivals' answers survive."""
    if row.system == "trimtab":
        return not row.metric.startswith(("kept_20", "kept_30", "survive_20", "survive_30"))
    return row.metric.startswith(("survive_5", "survive_10", "kept_10"))


def tokens_kept(context: Context, kept: NDArray[np.bool_]) -> float:
    return float(np.asarray(context.sizes)[kept].sum() / sum(context.sizes))


def mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def percentile(values: Sequence[float], at: float) -> float:
    return float(np.percentile(values, at))


if __name__ == "__main__":
    sys.exit(main())

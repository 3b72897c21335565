"""Fits the evidence model: weights by which the evidence of a question comes first, and what conformal sets need.

Pure numpy, no chance in it: the same contexts give the same numbers. In what is calibrated every file counts the same;
in the weights a file counts by the root of its length.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from context_sets import FOLDS, Context
from context_vectors import Vectors
from numpy.typing import NDArray

from trimtab.compression import conformal, evidence
from trimtab.compression.conformal import Calibration

Floats = NDArray[np.float64]
_Block = tuple[Floats, NDArray[np.bool_]]

LEVELS = [round(0.5 + 0.01 * step, 3) for step in range(40)] + [round(0.9 + 0.001 * step, 3) for step in range(100)]
HEAT = 2.75  # chosen by cross-validation: the smallest difference between files in what is realised
ABSTAINED = 0.01  # the share of answerable contexts that may be kept whole because nothing stands out
_PARTS = 10  # for doubts; with fewer, weights fitted without one would be so much worse that sets grow too large
# What hardly varies in the files (accents, in English ones) must not get weights that are absurd where it does.
_TRUST, _TRUSTED = 0.5, ("agreed*", "foreign*", "accented*")
_RIDGE, _STEPS, _TOP = 2e-3, 25, 44  # penalty; Newton steps; units of a context that are fitted on


@dataclass(frozen=True)
class Measured:
    """One context as numbers: rows are units. `bare` are the rows' values when the document with the answer is gone."""

    context: Context
    names: tuple[str, ...]
    rows: Floats
    bare: Floats


def measure(context: Context, vectors: Vectors) -> Measured:
    units, query = context.units, vectors.query(context.question)
    rows = vectors.units(units)
    found = evidence.Reader(units).measure(context.question, query, rows)
    others = [at for at, unit in enumerate(units) if unit.document != context.gold]
    bare = evidence.Reader([units[at] for at in others]).measure(context.question, query, rows[others])
    return Measured(context, tuple(found), np.stack(list(found.values()), 1), np.stack(list(bare.values()), 1))


def fit(sets: Sequence[Sequence[Measured]]) -> dict[str, Any]:
    """What calibration.json says. Doubts are of scores by weights that were fitted without the context's passage."""
    weights = ranked(sets)
    apart = [ranked([[one for one in made if _part(one) != part] for made in sets]) for part in range(_PARTS)]
    doubts, shares, best = [], [], []
    for made in sets:
        for one in made:
            score = scores(one.rows, one.names, apart[_part(one)])
            doubts.append(easiest(one.context, conformal.doubt(score, HEAT)))
            best.append(float(score.max()))
            shares.append(1 / len(made))
    return {
        "weights": {name: round(weight, 5) + 0.0 for name, weight in weights.items()},
        "levels": LEVELS,
        "doubts": [round(value, 5) for value in conformal.quantiles(doubts, shares, LEVELS)],
        "heat": HEAT,
        "least": round(float(np.quantile(best, ABSTAINED)), 4),
    }


def _part(one: Measured) -> int:
    return one.context.fold * _PARTS // FOLDS


def calibration(sets: Sequence[Sequence[Measured]]) -> Calibration:
    return Calibration.read(fit(sets))


def ranked(sets: Sequence[Sequence[Measured]]) -> dict[str, float]:
    """All weights: of the units against one another, and of the context as a whole."""
    measured = [one for made in sets for one in made]
    shares = np.array([len(made) ** -0.5 for made in sets for _ in made])
    shares /= shares.sum()
    weights = rank_weights(measured, shares)
    return weights | context_weights(measured, shares, weights)


def scores(rows: Floats, names: Sequence[str], weights: Mapping[str, float]) -> Floats:
    """As `evidence.Reader.scores` makes them, from rows that were measured before."""
    return evidence.combined(dict(zip(names, rows.T, strict=True)), weights)


def easiest(context: Context, values: Floats) -> float:
    """The least value that takes in one whole set of evidence."""
    return min(max(float(values[unit]) for unit in one) for one in context.evidence)


def rank_weights(measured: Sequence[Measured], share: Floats) -> dict[str, float]:
    """A conditional logit: the log-likelihood that a unit drawn by belief is evidence, with a ridge penalty.

    Several units may be evidence, so each step shares a context's gain among them by what is believed so far (EM).
    """
    names = measured[0].names
    spread = np.concatenate([one.rows for one in measured]).std(axis=0)
    used = spread > 1e-9
    spread = np.maximum(spread, [_TRUST if name.startswith(_TRUSTED) else 0.0 for name in names])
    blocks = [_block(one, used, spread) for one in measured]
    found = np.zeros(int(used.sum()))
    loss = _loss(blocks, share, found)
    for _ in range(_STEPS):
        step, size = _newton_step(blocks, share, found), 1.0
        while (after := _loss(blocks, share, found - size * step)) > loss and size > 1e-4:
            size /= 2
        if loss - after < 1e-7:
            break
        found, loss = found - size * step, after
    return dict(
        zip([name for name, use in zip(names, used, strict=True) if use], (found / spread[used]).tolist(), strict=True)
    )


def _loss(blocks: Sequence[_Block], share: Floats, at: Floats) -> float:
    total = _RIDGE * float(at @ at)
    for (rows, right), weight in zip(blocks, share, strict=True):
        score = rows @ at
        powers = np.exp(score - score.max())
        total += weight * float(np.log(powers.sum()) - np.log(max(float(powers[right].sum()), 1e-300)))
    return total


def _newton_step(blocks: Sequence[_Block], share: Floats, at: Floats) -> Floats:
    slope, bend = 2 * _RIDGE * at, 2 * _RIDGE * np.eye(len(at))
    for (rows, right), weight in zip(blocks, share, strict=True):
        belief = softmax(rows @ at)
        aim = np.where(right, belief, 0.0)
        centred = rows - belief @ rows
        slope = slope + weight * (rows.T @ (belief - aim / max(float(aim.sum()), 1e-300)))
        bend += weight * (centred.T * belief) @ centred
    return np.asarray(np.linalg.solve(bend, slope), dtype=np.float64)


def _block(one: Measured, used: NDArray[np.bool_], spread: Floats) -> _Block:
    """The evidence of a context and its strongest rivals, by what an untrained mixture says."""
    column = {name: at for at, name in enumerate(one.names)}
    rough = one.rows[:, [column[name] for name in ("words", "meaning", "document_words", "document_best")]].sum(axis=1)
    right = np.zeros(len(rough), dtype=np.bool_)
    right[[unit for alternative in one.context.evidence for unit in alternative]] = True
    picked = np.argsort(-np.where(right, np.inf, rough), kind="stable")[:_TOP]
    return one.rows[picked][:, used] / spread[used], right[picked]


def context_weights(measured: Sequence[Measured], shares: Floats, weights: Mapping[str, float]) -> dict[str, float]:
    """A logistic regression that tells contexts with the answer from the same ones without it."""
    names: list[str] = []
    rows: list[list[float]] = []
    for one in measured:
        for values in (one.rows, one.bare):
            columns = dict(zip(one.names, values.T, strict=True))
            about = evidence.context(evidence.raw(columns, weights), columns)
            names = list(about)
            rows.append(list(about.values()))
    table, aim, weight = np.array(rows), np.tile([1.0, 0.0], len(measured)), np.repeat(shares / 2, 2)
    spread = np.maximum(table.std(axis=0), 1e-9)
    spread[0] = 1.0  # the constant
    table = table / spread
    found = np.zeros(len(names))
    for _ in range(_STEPS):
        likely = 1 / (1 + np.exp(-table @ found))
        slope = table.T @ (weight * (likely - aim)) + 1e-4 * found
        bend = (table.T * (weight * likely * (1 - likely))) @ table + 1e-4 * np.eye(len(found))
        found -= np.linalg.solve(bend, slope)
    return dict(zip(names, (found / spread).tolist(), strict=True))


def softmax(values: Floats) -> Floats:
    powers = np.exp(values - values.max())
    return np.asarray(powers / powers.sum(), dtype=np.float64)

"""A prior over models that was fitted on the answers of many: what their lengths share, as kernel regressions.

The basis of a prompt is what kernel ridge regressions on its embedding and its cues predict of the models' common
ordering (the mean of their normal scores) and of the first ways in which they differ from it. Fitting needs each
prompt answered by several models. Needs numpy; imported only where such a prior is used.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import length_cues
from .length_cues import Cues
from .length_prior import LEVELS, Population

Floats = NDArray[np.float64]

GAMMA = 1.5  # of the embedding's kernel
CUE_GAMMA = 0.3
CUE_SHARE = 0.5
RIDGE = 0.4
OTHERS = 2  # ways in which models differ that are kept
FOLDS = 5


class KernelPrior:
    """`vectors` (n, d) and `cues` (n, c, standardised) of the prompts fitted on, `weights` (n, outputs)."""

    def __init__(
        self, population: Population, vectors: NDArray[Any], cues: Floats, scale: Floats, weights: Floats, level: Floats
    ) -> None:
        self.population = population
        self._vectors, self._cues = np.asarray(vectors, dtype=np.float32), cues.astype(np.float32)
        self._scale, self._weights, self._level = scale, weights, level
        self._cue_norms = (self._cues**2).sum(axis=1)

    def basis(self, cues: Cues, vector: NDArray[np.float32] | None) -> tuple[float, ...]:
        """Without a vector the middle of the prompts fitted on: such a forecast knows the model only."""
        if vector is None:
            return tuple(float(x) for x in self._level)
        own = ((table(cues) - self._scale[0]) / self._scale[1]).astype(np.float32)
        near = np.exp(GAMMA * (2 * (self._vectors @ vector) - 2))
        alike = np.exp(-CUE_GAMMA * np.maximum(0, self._cue_norms - 2 * (self._cues @ own) + own @ own))
        kernel = near + CUE_SHARE * alike + near * alike
        return tuple(float(x) for x in self._level + kernel @ self._weights)

    def save(self, path: Path) -> None:
        """Arrays only; nothing in the file is run when it is read."""
        held = io.BytesIO()
        text = json.dumps(self.population.to_json())
        np.savez_compressed(
            held, vectors=self._vectors.astype(np.float16), cues=self._cues, scale=self._scale, weights=self._weights,
            level=self._level, population=np.frombuffer(text.encode(), dtype=np.uint8),
        )  # fmt: skip
        path.write_bytes(held.getvalue())

    @classmethod
    def load(cls, path: Path) -> KernelPrior:
        """Raises OSError, KeyError or ValueError."""
        with np.load(path, allow_pickle=False) as file:
            population = Population.from_json(json.loads(file["population"].tobytes()))
            parts = [file[name] for name in ("vectors", "cues", "scale", "weights", "level")]
        return cls(population, *parts)


def table(cues: Cues) -> Floats:
    """The cues as numbers, with the rule's own guess twice as heavy as each of them."""
    return np.array([*cues.values, 2 * length_cues.log_guess(cues)])


def fit(vectors: NDArray[Any], cues: Sequence[Cues], lengths: Floats) -> KernelPrior:
    """`lengths`: tokens, (prompts, models), NaN where a model has no answer. Raises ValueError below 20 prompts.

    The population is fitted on predictions for prompts that were left out, so that it trusts the basis as far as it
    holds for a prompt that is new.
    """
    if len(cues) < 20 or lengths.shape[1] < 3:
        raise ValueError("at least 20 prompts, each answered by at least 3 models, are needed")
    raw = np.stack([table(one) for one in cues])
    scale = np.stack([raw.mean(axis=0), (raw.std(axis=0) + 1e-9) * np.sqrt(raw.shape[1])])
    cue_table = (raw - scale[0]) / scale[1]
    vectors = np.asarray(vectors, dtype=np.float64)
    kernel = _kernel(vectors, cue_table)
    targets = _targets(lengths)
    held_out = np.empty_like(targets)
    parts = np.random.default_rng(0).permutation(len(cues)) % FOLDS
    for part in range(FOLDS):
        here, there = np.flatnonzero(parts != part), np.flatnonzero(parts == part)
        level = targets[here].mean(axis=0)
        solved = np.linalg.solve(kernel[np.ix_(here, here)] + RIDGE * np.eye(len(here)), targets[here] - level)
        held_out[there] = level + kernel[np.ix_(there, here)] @ solved
    level = targets.mean(axis=0)
    weights = np.linalg.solve(kernel + RIDGE * np.eye(len(cues)), targets - level)
    return KernelPrior(population(held_out, lengths), vectors, cue_table, scale, weights, level)


def population(basis: Floats, lengths: Floats) -> Population:
    """How the models' log-lengths depend on a basis: each model's own line, and the spread of the lines."""
    design = np.column_stack([np.ones(len(basis)), basis])
    lines, left = [], []
    for model in range(lengths.shape[1]):
        known = np.isfinite(lengths[:, model])
        logs = np.log(np.maximum(1.0, lengths[known, model]))
        if np.ptp(logs) == 0:
            continue  # the same answer to everything: not a model to learn from
        line = np.linalg.lstsq(design[known], logs, rcond=None)[0]
        residuals = logs - design[known] @ line
        # The line's place is its median: answers' logs lean to the short side.
        line[0] += np.median(residuals)
        lines.append(line)
        left.append(residuals - np.median(residuals))
    noise = float(np.median([np.median(np.abs(one)) for one in left])) * 1.4826
    together = np.concatenate(left) / noise
    spread = np.atleast_2d(np.cov(np.array(lines).T)) + 1e-4 * np.eye(design.shape[1])
    return Population(
        mean=tuple(float(x) for x in np.median(lines, axis=0)),
        covariance=tuple(tuple(float(x) for x in row) for row in spread),
        noise=noise,
        tail=tuple(float(x) for x in np.quantile(together, LEVELS)),
    )


def _kernel(vectors: Floats, cues: Floats) -> Floats:
    near = np.exp(GAMMA * (2 * (vectors @ vectors.T) - 2))
    norms = (cues**2).sum(axis=1)
    alike = np.exp(-CUE_GAMMA * np.maximum(0, norms[:, None] + norms[None] - 2 * cues @ cues.T))
    out: Floats = near + CUE_SHARE * alike + near * alike
    return out


def _targets(lengths: Floats) -> Floats:
    """(prompts, 1 + OTHERS): the mean normal score, and the first directions in which models part from it."""
    scores = np.stack([_normal_scores(column) for column in lengths.T if np.nanstd(column) > 0], axis=1)
    common = scores.mean(axis=1)
    slope = scores.T @ common / (common @ common)
    left, values, _ = np.linalg.svd(scores - np.outer(common, slope), full_matrices=False)
    others = left[:, :OTHERS] * values[:OTHERS] / np.sqrt(scores.shape[1])
    return np.column_stack([common, others])


def _normal_scores(column: Floats) -> Floats:
    """Ranks as the normal distribution's quantiles; 0 where the answer is missing."""
    out = np.zeros(len(column))
    known = np.flatnonzero(np.isfinite(column))
    ranks = np.empty(len(known))
    ranks[np.argsort(column[known], kind="stable")] = np.arange(1, len(known) + 1)
    normal = NormalDist()
    out[known] = [normal.inv_cdf((rank - 0.5) / len(known)) for rank in ranks]
    return out

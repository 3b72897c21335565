"""Fitting a calibration to labelled prompts: a space, and one head for each model. A few seconds for some thousands.

Knows no files and no embedder: vectors, features and labels are handed in, and what comes out is for a person to review
before anybody uses it. Reproducible: the same rows in the same order give the same calibration.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from .cascade import Deferral
from .domain import Domain
from .heads import Calibration, Space, logistic

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.floating[Any]]

LANDMARKS = 60
_ROUNDS = 15
# The share of a calibration's own prompts that may count as far, for each of the two distances.
_FAR = 0.01
# Chosen by cross-validation on MMLU and GSM8K; from 10 to 100 it matters little.
PENALTY = 30.0


def fit_space(
    vectors: Array, features: Array, topics: Sequence[str] | None = None, landmarks: int = LANDMARKS
) -> Space:
    """`topics`: a label for each prompt, where there are some; else topics are found by clustering."""
    count = max(1, min(landmarks, len(vectors) // 10))
    places = clusters(vectors, count, seed=1)
    if topics is None:
        found = clusters(vectors, max(1, count // 2), seed=2)
    else:
        named = np.array(topics)
        found = np.stack([vectors[named == name].mean(axis=0) for name in sorted(set(topics))])
    return Space(_unit(found), places, features.mean(axis=0), features.std(axis=0) + 1e-2)


def fit_domain(vectors: Array, features: Array) -> Domain:
    """What is far is measured on one half of the prompts by the domain of the other: no prompt is far from itself."""
    half = np.arange(len(vectors)) % 2 == 0
    found = _domain(vectors[half], features[half]).distances(vectors[~half], features[~half])
    far = np.quantile(found, 1 - _FAR, axis=0)
    return replace(_domain(vectors, features), far=(float(far[0]), float(far[1])))


def _domain(vectors: Array, features: Array) -> Domain:
    mean, spread = features.mean(axis=0), features.std(axis=0) + 1e-2
    places = clusters(vectors, max(1, min(LANDMARKS, len(vectors) // 10)), seed=4)
    return Domain(places, mean, spread, _whitening((features - mean) / spread))


def clusters(vectors: Array, count: int, seed: int) -> Array:
    """Spherical k-means: unit centres, each begun far from the ones before it (k-means++)."""
    random = np.random.default_rng(seed)
    centres = [vectors[random.integers(len(vectors))]]
    apart = 1 - vectors @ centres[0]
    for _ in range(count - 1):
        weight = np.maximum(apart, 0) + 1e-9
        centres.append(vectors[random.choice(len(vectors), p=weight / weight.sum())])
        apart = np.minimum(apart, 1 - vectors @ centres[-1])
    held = np.stack(centres)
    for _ in range(_ROUNDS):
        nearest = (vectors @ held.T).argmax(axis=1)
        held = np.stack(
            [vectors[nearest == at].mean(axis=0) if (nearest == at).any() else held[at] for at in range(count)]
        )
        held = _unit(held)
    return held


def fit_head(context: Array, good: Array, penalty: float) -> Array:
    """Logistic regression by Newton's method; `penalty` on all weights but the last, which is the constant's."""
    context, good = context.astype(np.float64), good.astype(np.float64)
    ridge = np.full(context.shape[1], penalty / 4)
    ridge[-1] = 1e-4
    head = np.zeros(context.shape[1])
    for _ in range(12):
        guess = logistic(context @ head)
        slope = context.T @ (good - guess) - ridge * head
        curve = (context.T * (guess * (1 - guess) + 1e-6)) @ context + np.diag(ridge)
        step = np.linalg.solve(curve, slope)
        head += step
        if np.abs(step).max() < 1e-5:
            break
    return head.astype(np.float32)


def fit(
    vectors: Array,
    features: Array,
    labels: Mapping[str, Array],
    *,
    name: str,
    embedder: str,
    about: str,
    topics: Sequence[str] | None = None,
    kinds: Sequence[str] | None = None,
    penalty: float = PENALTY,
    extra: Mapping[str, Any] | None = None,
) -> Calibration:
    """`labels`: for each model, 1 where it answered well and 0 where not. `kinds`: which domain a prompt is of, if
    there are several. Raises ValueError for too few rows."""
    if len(vectors) < 50 or any(len(good) != len(vectors) for good in labels.values()):
        raise ValueError("a calibration needs at least 50 prompts, and a label of each for every model")
    space = fit_space(vectors, features, topics)
    named = np.array(kinds or [""] * len(vectors))
    domains = tuple(fit_domain(vectors[named == kind], features[named == kind]) for kind in sorted(set(named.tolist())))
    context = space.context(vectors, features)
    heads = {model: fit_head(context, good, penalty) for model, good in labels.items()}
    spread: tuple[float, ...] = ()
    if len(heads) == 2:
        small, large = (logistic(context @ head) for head in heads.values())
        spread = tuple(float(value) for value in np.quantile(large - small, np.linspace(0, 1, 101)))
    return Calibration(name, embedder, about, space, domains, heads, spread, dict(extra or {}))


def cross_guesses(
    vectors: Array, features: Array, labels: Mapping[str, Array], topics: Sequence[str] | None = None, parts: int = 5
) -> Array:
    """(n, models): what heads say of rows they were not fitted on, for fit_deferral."""
    found = np.zeros((len(vectors), len(labels)), dtype=np.float32)
    for part in range(parts):
        held = np.arange(len(vectors)) % parts == part
        named = None if topics is None else [topic for topic, out in zip(topics, held, strict=True) if not out]
        space = fit_space(vectors[~held], features[~held], named)
        known, asked = (space.context(vectors[rows], features[rows]) for rows in (~held, held))
        for at, good in enumerate(labels.values()):
            found[held, at] = logistic(asked @ fit_head(known, good[~held], PENALTY))
    return found


def fit_deferral(checks: Array, guesses: Array, good: Array, penalty: float = 10.0) -> Deferral:
    """`checks`: (n, len(cascade.NAMES)); `guesses`: (n, 2), what the heads gave the small and the large model, from
    heads that were not fitted on these rows; `good`: whether the small model's answer was."""
    figures = np.concatenate([checks, guesses], axis=1)
    mean, spread = figures.mean(axis=0), figures.std(axis=0) + 1e-2
    standard = np.clip((figures - mean) / spread, -4, 4)
    head = fit_head(np.concatenate([standard, np.ones((len(standard), 1))], axis=1), good, penalty)
    return Deferral(*(tuple(float(each) for each in row) for row in (mean, spread, head)))


def _whitening(standard: Array) -> Array:
    """Shrunk towards independence, so that figures which never varied together do not make everything far."""
    covariance = 0.9 * np.cov(standard.T) + 0.1 * np.eye(standard.shape[1])
    values, axes = np.linalg.eigh(covariance)
    found: Array = (axes / np.sqrt(values)).astype(np.float32)
    return found


def _unit(rows: Array) -> Array:
    found: Array = (rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)).astype(np.float32)
    return found

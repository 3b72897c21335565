"""Models and prompts that a prior has not seen: its forecasts after so many of a model's answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from length_scores import ordered, pinball, tau
from length_sets import Floats, Lengths, share
from numpy.typing import NDArray

from trimtab.routing import length_kernel
from trimtab.routing.length_calibration import Calibration
from trimtab.routing.length_prior import LEVELS, Prior

FOLDS = 5
ANSWERS = (0, 20, 50, 200)


@dataclass
class Split:
    """A prior that was fitted; `known`: prompts it was fitted on, with the unseen models' answers, of which some are
    shown; `new`: prompts nobody has seen; `reference`: the fitted models' answers to these, for the noise ceiling."""

    prior: Prior
    known: Lengths
    new: Lengths
    reference: Floats


def splits(data: Lengths, train: Lengths | None) -> Iterator[Split]:
    """With `train`: fitted on it, tested on the models and prompts of `data` that it lacks. Without: each fifth of the
    prompts, and each third of the models, by what was fitted on the others."""
    if train is not None:
        yield from _apart(data, train)
        return
    for fold in range(FOLDS):
        test = np.array([share(prompt, FOLDS) == fold for prompt in data.prompts])
        for third in range(3):
            yield _split(data, data, np.flatnonzero(~test), np.flatnonzero(test), third)


def _apart(data: Lengths, train: Lengths) -> Iterator[Split]:
    seen = set(train.prompts)
    new = np.array([at for at, prompt in enumerate(data.prompts) if prompt not in seen], dtype=np.intp)
    if not len(new):
        raise ValueError("every prompt of --data is in --train; give --data alone to have it split")
    for third in range(3):
        yield _split(train, data, np.arange(len(train.prompts)), new, third)


def _split(train: Lengths, data: Lengths, known: NDArray[np.intp], new: NDArray[np.intp], third: int) -> Split:
    """Models of this third are unseen, whichever file they are in."""
    fitted = [at for at, model in enumerate(train.models) if share(model, 3) != third]
    here = [at for at, model in enumerate(train.models) if share(model, 3) == third and model in set(data.models)]
    names = [train.models[at] for at in here]
    there = [data.models.index(name) for name in names]
    base = train.part(known, fitted)
    prior = length_kernel.fit(base.vectors, base.cues, base.tokens)
    shared = [data.models.index(name) for name in base.models if name in data.models]
    return Split(prior, train.part(known, here), data.part(new, there), data.tokens[new][:, shared])


@dataclass
class Score:
    tau: float
    ceiling: float
    error: float
    error_median: float
    pinball: tuple[float, ...]
    covered: tuple[float, ...]
    n: int


def scores(split: Split, answers: int, seed: int, prior: Prior | None = None) -> Iterator[Score]:
    """One for each unseen model whose answers differ in length; `answers` of them are shown, drawn by the seed."""
    prior = prior or split.prior
    shown = [prior.basis(cue, vector) for cue, vector in zip(split.known.cues, split.known.vectors, strict=True)]
    asked = [prior.basis(cue, vector) for cue, vector in zip(split.new.cues, split.new.vectors, strict=True)]
    middle = np.nanmedian(split.reference, axis=1)
    for model in range(len(split.new.models)):
        true = split.new.tokens[:, model]
        rows = np.flatnonzero(np.isfinite(true))
        if not ordered(split.known.tokens[:, model]) or len(rows) < 20:
            continue
        drawn = np.random.default_rng(seed + model).permutation(
            np.flatnonzero(np.isfinite(split.known.tokens[:, model]))
        )[:answers]
        calibration = Calibration(prior.population)
        for at in drawn:
            calibration.learn(shown[at], int(split.known.tokens[at, model]))
        found = np.array([calibration.quantiles(asked[at]) for at in rows])
        told = split.known.tokens[drawn, model]
        usual = float(np.median(told)) if len(told) else float(np.exp(prior.population.mean[0]))
        yield _score(true[rows], found, middle[rows], usual)


def _score(true: Floats, found: Floats, middle: Floats, usual: float) -> Score:
    return Score(
        tau(found[:, 0], true),
        tau(middle, true),
        float(np.abs(found[:, 0] - true).mean()),
        float(np.abs(usual - true).mean()),
        tuple(pinball(true, found[:, at], level) for at, level in enumerate(LEVELS)),
        tuple(float((true <= found[:, at]).mean()) for at in range(len(LEVELS))),
        len(true),
    )

"""Sets hold what they promise on data they were not calibrated on, and a bad calibration file is refused."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.compression import conformal
from trimtab.compression.conformal import BadCalibration, Calibration, doubt, keep, quantiles, relevant, within

LEVELS = [0.5, 0.8, 0.9, 0.95, 0.99]
GOOD: dict[str, Any] = {
    "levels": [0.5, 0.9],
    "doubts": [0.1, 1.0],
    "least": -1.0,
    "heat": 2.0,
    "weights": {"words": 1.0},
}
SCORES = st.lists(st.integers(-240, 240), min_size=1, max_size=40).map(lambda eighths: np.array(eighths) / 8)


def questions(n: int, seed: int) -> list[tuple[np.ndarray, int]]:
    """Scores of a question's units, and which one is the evidence: drawn by a softmax, now and then a hard one."""
    chance = np.random.default_rng(seed)
    made = []
    for _ in range(n):
        scores = chance.normal(0, chance.choice([0.5, 4.0]), size=30)
        belief = np.exp(scores - scores.max())
        made.append((scores, int(chance.choice(30, p=belief / belief.sum()))))
    return made


def calibrated(on: list[tuple[np.ndarray, int]], heat: float = 2.0) -> Calibration:
    doubts = [float(doubt(scores, heat)[unit]) for scores, unit in on]
    return Calibration(tuple(LEVELS), tuple(quantiles(doubts, [1.0] * len(doubts), LEVELS)), -100.0, heat)


SMALL = calibrated(questions(200, seed=3))


@pytest.mark.parametrize("recall", [0.8, 0.9, 0.95, 0.99])
def test_realised_recall_is_the_target_on_new_questions(recall: float) -> None:
    calibration = calibrated(questions(4000, seed=1))
    held = np.mean([keep(scores, [1] * 30, recall, calibration)[unit] for scores, unit in questions(4000, seed=2)])
    assert abs(held - recall) < 0.015


def test_a_clear_answer_keeps_less_than_an_unclear_one() -> None:
    calibration = calibrated(questions(2000, seed=1))
    clear = keep(np.array([20.0] + [0.0] * 29), [1] * 30, 0.9, calibration)
    unclear = keep(np.linspace(0.1, 0, 30), [1] * 30, 0.9, calibration)
    assert clear.tolist() == [True] + [False] * 29
    assert unclear.sum() > 10


@settings(deadline=None)
@given(SCORES, st.floats(0.01, 0.999), st.floats(0.01, 0.999))
def test_more_recall_never_keeps_less_and_the_best_always_stays(scores: np.ndarray, one: float, other: float) -> None:
    less, more = sorted((one, other))
    small, large = (keep(scores, [1] * len(scores), recall, SMALL) for recall in (less, more))
    assert (small <= large).all()
    assert small[scores.argmax()]


@settings(deadline=None)
@given(SCORES, st.integers(-50, 50))
def test_the_level_of_the_scores_does_not_matter(scores: np.ndarray, shift: float) -> None:
    assert doubt(scores, 2.0) == pytest.approx(doubt(scores + shift, 2.0))


@settings(deadline=None)
@given(SCORES)
def test_equal_scores_are_kept_or_left_together(scores: np.ndarray) -> None:
    twice = np.concatenate([scores, scores])
    found = doubt(twice, 2.0)
    assert (found[: len(scores)] == found[len(scores) :]).all()
    order = np.argsort(-twice, kind="stable")
    assert (np.diff(found[order]) >= -1e-12).all()


def test_beyond_what_was_measured_everything_stays() -> None:
    assert keep(np.array([50.0, -50.0, 0.0]), [1, 1, 1], 0.9999, SMALL).all()


def test_nothing_is_kept_of_nothing() -> None:
    assert keep(np.zeros(0), [], 0.9, SMALL).shape == (0,)
    assert not relevant(np.zeros(0), Calibration.read(GOOD))


def test_relevant_is_a_matter_of_the_best_unit() -> None:
    calibration = Calibration.read(GOOD)
    assert relevant(np.array([-9.0, -1.0]), calibration)
    assert not relevant(np.array([-9.0, -1.1]), calibration)


def test_quantiles_correct_for_a_small_sample() -> None:
    """Nine values: the 0.9 quantile is the ninth, ceil((9 + 1) x 0.9), not the eighth or an average."""
    assert quantiles(list(range(1, 10)), [1.0] * 9, [0.5, 0.9, 0.99]) == [5.0, 9.0, 9.0]


def test_quantiles_count_by_weight() -> None:
    """A hundred zeros of one file and four ones of another, each file with the same weight."""
    assert quantiles([0.0] * 100 + [1.0] * 4, [0.01] * 100 + [0.25] * 4, [0.4, 0.6]) == [0.0, 1.0]


@settings(deadline=None)
@given(SCORES, st.integers(0, 400))
def test_what_is_taken_fits(scores: np.ndarray, budget: int) -> None:
    sizes = [1 + at * 7 % 50 for at in range(len(scores))]
    kept = within(scores, sizes, budget)
    left = budget - int(np.array(sizes)[kept].sum())
    assert left >= 0
    assert all(size > left for size, taken in zip(sizes, kept, strict=True) if not taken)


def test_the_shorter_of_two_that_are_as_likely_goes_first() -> None:
    assert within(np.array([1.0, 1.0]), [30, 10], 35).tolist() == [False, True]


@pytest.mark.parametrize(
    "change",
    [
        {"levels": [0.9, 0.5]},
        {"doubts": [1.0, 0.1]},
        {"doubts": [1.0]},
        {"levels": [], "doubts": []},
        {"least": "low"},
        {"least": math.nan},
        {"heat": 0},
        {"heat": math.inf},
        {"weights": {"words": None}},
        {"weights": [1.0]},
        {"doubts": None},
    ],
)
def test_a_bad_calibration_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(BadCalibration):
        Calibration.read({**GOOD, **change})


@pytest.mark.parametrize("missing", sorted(GOOD))
def test_a_calibration_lacks_nothing(missing: str) -> None:
    with pytest.raises(BadCalibration):
        Calibration.read({key: value for key, value in GOOD.items() if key != missing})


def test_the_shipped_calibration_reads_and_is_small() -> None:
    shipped = conformal.shipped()
    assert shipped.limit(0.5) < shipped.limit(0.95) < shipped.limit(0.99) < math.inf
    assert shipped.weights["cosine"] > 0
    path = conformal._SHIPPED
    assert path.stat().st_size < 20_000
    assert Calibration.read(json.loads(path.read_text())) == shipped

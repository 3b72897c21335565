"""Heads learn what is there to be learnt, know what they do not know, and survive being written down."""

from __future__ import annotations

import json

import numpy as np
import pytest

from trimtab.routing import fitting
from trimtab.routing.domain import distance
from trimtab.routing.features import NAMES, features
from trimtab.routing.heads import Calibration, from_json, gain_of, neighbours, shipped, to_json

SIZE = 32


def _world(count: int, seed: int) -> tuple[fitting.Array, fitting.Array, dict[str, fitting.Array]]:
    """Two clusters of prompts; the small model is good in the first only, the large one in both."""
    random = np.random.default_rng(seed)
    side = random.integers(2, size=count)
    vectors = random.normal(0, 0.15, (count, SIZE))
    vectors[np.arange(count), side] += 1
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    form = random.normal(0, 1, (count, len(NAMES)))
    small = np.where(side == 0, random.random(count) < 0.9, random.random(count) < 0.2)
    large = random.random(count) < 0.9
    labels = {"small": small.astype(np.float32), "large": large.astype(np.float32)}
    return vectors.astype(np.float32), form.astype(np.float32), labels


@pytest.fixture(scope="module")
def made() -> Calibration:
    vectors, form, labels = _world(600, 1)
    return fitting.fit(vectors, form, labels, name="made", embedder="none", about="a made-up world")


def test_the_gain_is_where_the_small_model_fails(made: Calibration) -> None:
    vectors, form, labels = _world(200, 2)
    gains = [gain_of(made.guess(vectors[at], tuple(form[at])).good, "small", "large") for at in range(len(vectors))]
    hard = vectors[:, 1] > vectors[:, 0]
    assert np.mean(np.array(gains)[hard]) > 0.4
    assert np.mean(np.array(gains)[~hard]) < 0.15
    assert len(labels["small"]) == len(gains)


def test_prompts_of_elsewhere_are_far(made: Calibration) -> None:
    vectors, form, _ = _world(200, 3)
    assert np.mean(distance(made.domains, vectors, form) > 1) < 0.1
    assert np.mean(distance(made.domains, -vectors, form) > 1) > 0.95
    assert np.mean(distance(made.domains, vectors, form + 4) > 1) > 0.95


def test_written_and_read_it_says_the_same(made: Calibration) -> None:
    vectors, form, _ = _world(20, 4)
    read = from_json(json.loads(json.dumps(to_json(made))))
    for vector, row in zip(vectors, form, strict=True):
        one, other = made.guess(vector, tuple(row)), read.guess(vector, tuple(row))
        assert one.good == pytest.approx(other.good, abs=0.01)
        assert one.distance == pytest.approx(other.distance, rel=0.05)
    assert to_json(from_json(to_json(read)))["heads"] == to_json(read)["heads"]


@pytest.mark.parametrize(
    "change", [{"format": 0}, {"features": []}, {"heads": {}}, {"heads": {"a": [1.0]}}, {"domains": []}]
)
def test_what_is_no_calibration_is_refused(made: Calibration, change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="calibration"):
        from_json({**to_json(made), **change})


@pytest.mark.parametrize("vector", [np.zeros(3), np.full(SIZE, np.nan)])
def test_a_vector_of_another_kind_is_refused(made: Calibration, vector: fitting.Array) -> None:
    with pytest.raises(ValueError, match="vector"):
        made.guess(vector.astype(np.float32), tuple([0.0] * len(NAMES)))


def test_a_new_model_starts_from_its_neighbours() -> None:
    vectors, _, labels = _world(100, 5)
    easy, hard = np.eye(SIZE, dtype=np.float32)[:2]
    assert neighbours(vectors[:0], labels["small"][:0], easy, prior=0.4) == 0.4
    assert neighbours(vectors, labels["small"], easy, 0.5) > 0.65
    assert neighbours(vectors, labels["small"], hard, 0.5) < 0.4


def test_the_shipped_one_knows_its_own_kind() -> None:
    """Its centres stand in for prompts; a text of another form is far wherever its vector is."""
    held = shipped()
    vector = held.domains[0].places[0] / np.linalg.norm(held.domains[0].places[0])
    guess = held.guess(vector, features("Prove that there are infinitely many primes."))
    assert guess.distance > 1
    assert all(0 <= good <= 1 for good in guess.good.values())
    assert "mmlu" in held.about
    assert "gsm8k" in held.about


def test_a_calibration_needs_rows() -> None:
    vectors, form, labels = _world(40, 6)
    with pytest.raises(ValueError, match="50"):
        fitting.fit(vectors, form, labels, name="", embedder="", about="")

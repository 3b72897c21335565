"""The alarm rings for a change, not for a calibration that was always off."""

from __future__ import annotations

import random

import pytest

from trimtab.routing.drift import RINGS_S, USUAL, Drift


@pytest.mark.parametrize("expected", [0.2, 0.7, 0.95])
def test_a_constant_error_is_no_drift(expected: float) -> None:
    dice, drift = random.Random(1), Drift()
    assert not any(drift.seen("small", expected, float(dice.random() < 0.7), 0.0) for _ in range(3_000))


def test_a_change_rings_once_for_a_day_and_then_begins_anew() -> None:
    dice, drift = random.Random(2), Drift()
    for _ in range(500):
        drift.seen("small", 0.7, float(dice.random() < 0.9), 0.0)
    rang = [at for at in range(300) if drift.seen("small", 0.7, float(dice.random() < 0.4), 10.0)]
    assert len(rang) == 1
    assert rang[0] < 100
    assert drift.rings(10.0)
    assert drift.rings(10.0 + RINGS_S - 1)
    assert not drift.rings(10.0 + RINGS_S)
    assert not any(drift.seen("small", 0.7, float(dice.random() < 0.4), 1e6) for _ in range(1_000)), "the new usual"


def test_each_model_has_its_own_usual() -> None:
    dice, drift = random.Random(3), Drift()
    for _ in range(USUAL * 20):
        assert not drift.seen("small", 0.5, float(dice.random() < 0.2), 0.0)
        assert not drift.seen("large", 0.5, float(dice.random() < 0.9), 0.0)

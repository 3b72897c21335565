"""The bandit learns from feedback, forgets, explores no more than it may, and is still while frozen."""

from __future__ import annotations

import random

import numpy as np
import pytest

from trimtab.routing.bandit import Bandit, DriftAlarm

CONTEXT = np.array([1.0, 0.0, 0.5])


def test_without_feedback_it_corrects_nothing() -> None:
    assert Bandit(3).correction("small", CONTEXT) == 0.0


def test_feedback_moves_the_arm_it_is_about_where_it_was_seen() -> None:
    bandit = Bandit(3)
    for _ in range(100):
        bandit.learn("small", CONTEXT, reward=0.0, expected=0.6)
    assert bandit.correction("small", CONTEXT) == pytest.approx(-0.6, abs=0.1)
    assert bandit.correction("large", CONTEXT) == 0.0
    assert bandit.correction("small", np.array([0.0, 1.0, 0.0])) == pytest.approx(0.0, abs=0.01)


def test_it_forgets_when_the_world_turns() -> None:
    bandit = Bandit(3, discount=0.98)
    for reward in (0.0,) * 300 + (1.0,) * 300:
        bandit.learn("small", CONTEXT, reward, expected=0.5)
    assert bandit.correction("small", CONTEXT) > 0.3


@pytest.mark.parametrize("most", [0.0, 0.01, 0.05])
def test_exploration_is_capped(most: float) -> None:
    dice, bandit = random.Random(4), Bandit(3, most)
    picks = [bandit.pick("large", ["small"], CONTEXT, dice.random()) for _ in range(20_000)]
    assert sum(pick.explored for pick in picks) / len(picks) <= most
    assert all(pick.arm == ("small" if pick.explored else "large") for pick in picks)


def test_the_cap_holds_against_unlucky_numbers() -> None:
    bandit = Bandit(3, 0.01)
    assert sum(bandit.pick("large", ["small"], CONTEXT, 0.0).explored for _ in range(1_000)) <= 10


def test_frozen_it_neither_explores_nor_learns() -> None:
    bandit = Bandit(3, 1.0)
    bandit.frozen = True
    bandit.learn("small", CONTEXT, 0.0, 1.0)
    assert bandit.correction("small", CONTEXT) == 0.0
    assert not bandit.pick("large", ["small"], CONTEXT, 0.0).explored


def test_many_updates_stay_finite() -> None:
    dice, bandit = np.random.default_rng(1), Bandit(3, discount=0.9)
    for _ in range(5_000):
        bandit.learn("small", dice.normal(size=3), float(dice.random()), 0.5)
    assert abs(bandit.correction("small", CONTEXT)) <= 1
    assert np.isfinite(bandit.doubt("small", CONTEXT))


def test_saved_and_restored() -> None:
    bandit, other = Bandit(3), Bandit(3)
    bandit.learn("small", CONTEXT, 0.0, 1.0)
    other.restore(bandit.saved())
    assert other.correction("small", CONTEXT) == bandit.correction("small", CONTEXT) != 0
    with pytest.raises(ValueError, match="another context"):
        Bandit(4).restore(bandit.saved())


def test_the_alarm_rings_for_a_shift_and_not_for_noise() -> None:
    dice, alarm = random.Random(2), DriftAlarm()
    assert not any(alarm.seen(0.8, float(dice.random() < 0.8)) for _ in range(2_000))
    assert any(alarm.seen(0.8, float(dice.random() < 0.5)) for _ in range(300))
    alarm.reset()
    assert not alarm.rings


def test_corrections_are_those_of_the_inverse() -> None:
    dice, bandit = np.random.default_rng(3), Bandit(40, discount=0.99)
    for _ in range(400):
        bandit.learn("small", dice.normal(size=40) * 3, float(dice.random()), expected=0.5)
    for _ in range(20):
        context = dice.normal(size=40) / 6
        exact = context @ (bandit._inverse("small") @ bandit._moments["small"])
        assert bandit.correction("small", context) == pytest.approx(exact, abs=1e-6)

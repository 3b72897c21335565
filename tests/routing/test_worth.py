"""APGR and CPT, against cases that can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.routing.worth import NoGap, curve, intervals, worth


def _random(seed: int, count: int = 400) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    small = (random.random(count) < 0.5).astype(float)
    large = (random.random(count) < 0.9).astype(float)
    return random.random(count), small, large


def test_a_coin_is_worth_half_and_half_the_calls_close_half_the_gap() -> None:
    random = np.random.default_rng(1)
    small, large = np.zeros(20_000), np.ones(20_000)
    found = worth(random.random(20_000), small, large)
    assert found.apgr == pytest.approx(0.5, abs=0.01)
    assert found.cpt50 == pytest.approx(50, abs=1)
    assert found.cpt80 == pytest.approx(80, abs=1)


def test_who_knows_closes_the_gap_at_once() -> None:
    small = np.repeat([0.0, 1.0], [100, 900])
    large = np.ones(1_000)
    found = worth(large - small, small, large)
    assert found.cpt50 == pytest.approx(5, abs=0.5)
    assert found.apgr > 0.9


@given(st.integers(0, 500))
def test_turned_round_it_is_worth_what_a_coin_leaves(seed: int) -> None:
    score, small, large = _random(seed)
    if large.mean() <= small.mean():
        return
    forward, back = worth(score, small, large), worth(-score, small, large)
    assert forward.apgr + back.apgr == pytest.approx(1, abs=0.05)


@given(st.integers(0, 500))
def test_a_curve_begins_with_the_small_model_and_ends_with_the_large(seed: int) -> None:
    score, small, large = _random(seed)
    share, quality = curve(score, small, large)
    assert share[0] == 0
    assert share[-1] == 1
    assert quality[0] == pytest.approx(small.mean())
    assert quality[-1] == pytest.approx(large.mean())
    assert (np.diff(share) >= 0).all()


def test_without_a_gap_there_is_nothing_to_route_for() -> None:
    with pytest.raises(NoGap):
        worth(np.arange(4.0), np.ones(4), np.zeros(4))


def test_intervals_hold_the_figure_they_are_of() -> None:
    score, small, large = _random(3)
    found = worth(score, small, large)
    for value, (low, high) in zip(found, intervals(score, small, large, 100, 0), strict=True):
        assert low <= value <= high

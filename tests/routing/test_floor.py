"""The bounds are Clopper and Pearson's, and a promise is broken no more often than it says."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.routing.floor import LEAST_AUDITS, Audit, allowed, binomial, lower, upper


# From the tables of the beta distribution: P(X <= 3 of 100) and the like, one-sided 95 %.
@pytest.mark.parametrize(("hits", "of", "bound"), [(3, 100, 0.0757107), (0, 60, 0.0487029), (0, 1, 0.95), (5, 5, 1.0)])
def test_upper_bounds(hits: int, of: int, bound: float) -> None:
    assert upper(hits, of, 0.05) == pytest.approx(bound, abs=1e-6)
    assert lower(of - hits, of, 0.05) == pytest.approx(1 - bound, abs=1e-6)


@given(st.integers(0, 300), st.integers(1, 300), st.floats(0, 1))
def test_a_binomial_is_a_probability_that_falls_with_the_share(hits: int, of: int, share: float) -> None:
    found = binomial(min(hits, of), of, share)
    assert 0 <= found <= 1
    assert binomial(min(hits, of), of, min(1.0, share + 0.1)) <= found + 1e-9


def _drawn(dice: random.Random, count: int) -> list[Audit]:
    """Risk grows with the score: the small model fails with probability `score`, the large one hardly."""
    scores = [dice.random() for _ in range(count)]
    return [Audit(score, dice.random() > score * 0.5, dice.random() > 0.1) for score in scores]


def test_a_floor_is_broken_no_more_often_than_it_says() -> None:
    dice, broken, served = random.Random(11), 0, 0.0
    for _ in range(200):
        highest = allowed(_drawn(dice, 400), 0.9).highest
        if highest is None:
            continue
        served += highest
        # The truth: up to t the small model is good 1 - t/4 of the time, the large one 0.9 everywhere.
        quality = highest * (1 - highest / 4) + (1 - highest) * 0.9
        broken += quality < 0.9 * 0.9
    assert broken <= 10
    assert served > 10


def test_few_audits_bear_nothing() -> None:
    found = allowed([Audit(0.0, True, True)] * (LEAST_AUDITS - 1), 0.5)
    assert found.highest is None
    assert str(LEAST_AUDITS) in found.reason


def test_a_small_model_that_is_always_right_may_answer_everything() -> None:
    assert allowed([Audit(at / 500, True, True) for at in range(500)], 0.95).highest == 499 / 500


def test_a_small_model_that_is_always_wrong_may_answer_no_more_than_the_floor_gives_away() -> None:
    audits = [Audit(at / 500, False, True) for at in range(500)]
    assert allowed(audits, 0.96).highest is None
    assert (allowed(audits, 0.8).highest or 0) < 0.2


def test_the_first_failure_ends_the_sequence() -> None:
    """A safe stretch behind a risky one is not served: it was never tested."""
    audits = [Audit(at / 1_000, at >= 500, True) for at in range(1_000)]
    assert allowed(audits, 0.96).highest is None


@given(st.integers(60, 200), st.floats(0.5, 0.99), st.integers(0, 9))
def test_a_stricter_floor_never_serves_more(count: int, floor: float, seed: int) -> None:
    audits = _drawn(random.Random(seed), count)
    strict, lax = allowed(audits, floor).highest, allowed(audits, floor - 0.3).highest
    assert strict is None or (lax is not None and strict <= lax)


@pytest.mark.parametrize("floor", [-0.1, 1.1])
def test_a_floor_is_a_share(floor: float) -> None:
    with pytest.raises(ValueError, match="between"):
        allowed([], floor)

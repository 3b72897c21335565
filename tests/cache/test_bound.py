"""The bound keeps its promise: against exact distributions, and on streams whose true error is known."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.cache.bound import Evidence, Rate, gamma_cdf, lowest, rates

GRID = tuple(i / 10 for i in range(10))


def poisson_at_most(k: int, mean: float) -> float:
    return math.fsum(math.exp(i * math.log(mean) - mean - math.lgamma(i + 1)) for i in range(k + 1))


def binomial_at_most(k: int, n: int, p: float) -> float:
    return math.fsum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k + 1))


@given(st.integers(1, 150), st.floats(0.05, 300))
def test_the_gamma_function_is_the_tail_of_a_poisson_distribution(k: int, mean: float) -> None:
    assert gamma_cdf(k, mean) == pytest.approx(1 - poisson_at_most(k - 1, mean), abs=1e-9)


def test_the_gamma_function_rises_from_zero_to_one() -> None:
    values = [gamma_cdf(3.7, x / 10) for x in range(400)]
    assert values == sorted(values)
    assert values[0] == 0
    assert values[-1] == pytest.approx(1)


@given(st.integers(100, 3000), st.integers(0, 30))
def test_with_equal_weights_the_bound_is_at_least_clopper_and_pearsons(n: int, wrong: int) -> None:
    everything = Evidence((0.5,), n, (n,), (n,), (wrong,))
    upper = rates(everything)[0][1].upper(0.95)
    assert binomial_at_most(wrong, n, upper) <= 0.05 + 1e-6
    # And not far above it where errors are rare.
    assert upper <= wrong / n + 4 * math.sqrt(wrong + 1) / n + 4 / n


def test_without_a_wrong_one_the_bound_is_the_rule_of_three() -> None:
    assert rates(Evidence((0.5,), 1000, (1000,), (1000,), (0,)))[0][1].upper(0.95) == pytest.approx(3e-3, rel=0.01)


def test_what_nobody_judged_may_be_wrong_altogether() -> None:
    unknown = Rate().with_part(0.01, 0, 0)
    assert not unknown.stays_below(0.99, 0.95)
    assert lowest(Evidence(GRID, 100, (10,) * 10, (0,) * 10, (0,) * 10), 0.5) is None


def test_without_look_ups_nothing_is_served() -> None:
    assert lowest(Evidence(GRID, 0, (0,) * 10, (0,) * 10, (0,) * 10), 0.5) is None


def test_the_sequence_ends_at_the_first_score_that_fails() -> None:
    # The strictest part is bad; those below are faultless, and still not served.
    evidence = Evidence((0.1, 0.5, 0.9), 1000, (300, 300, 300), (300, 300, 300), (0, 0, 100))
    assert lowest(evidence, 0.05) is None
    good_on_top = Evidence((0.1, 0.5, 0.9), 1000, (300, 300, 300), (300, 300, 300), (100, 0, 0))
    assert lowest(good_on_top, 0.05) == 0.5


@given(st.lists(st.tuples(st.integers(0, 200), st.floats(0, 1)), min_size=10, max_size=10), st.floats(0.002, 0.3))
def test_a_stricter_promise_never_serves_more(parts: list[tuple[int, float]], limit: float) -> None:
    found = tuple(float(n) for n, _ in parts)
    wrong = tuple(float(round(n * share)) for n, share in parts)
    evidence = Evidence(GRID, sum(found) + 10, found, found, wrong)
    lax, strict = lowest(evidence, limit * 1.5), lowest(evidence, limit)
    sure = lowest(evidence, limit, 0.999)
    assert strict is None or (lax is not None and lax <= strict)
    assert sure is None or (strict is not None and strict <= sure)


@given(st.lists(st.integers(0, 100), min_size=10, max_size=10), st.integers(0, 9))
def test_another_wrong_answer_never_lowers_the_bound(judged: list[int], at: int) -> None:
    found = tuple(2.0 * n for n in judged)
    before = Evidence(GRID, sum(found) + 1, found, tuple(judged), tuple(n // 10 for n in judged))
    wrong = list(before.wrong)
    wrong[at] = min(judged[at], wrong[at] + 1)
    after = Evidence(GRID, before.lookups, found, before.judged, tuple(wrong))
    for (_, low), (_, high) in zip(rates(before), rates(after), strict=True):
        assert high.upper(0.95) >= low.upper(0.95) - 2e-6


@pytest.mark.parametrize("audited", [1.0, 0.3, 0.1])
def test_the_promise_is_kept_at_the_score_that_is_chosen(audited: float) -> None:
    """Streams of which we know how often each score is wrong; all of them judged, or only a sample."""
    rng = random.Random(7)
    true = [0.6 * (1 - score) ** 3 for score in GRID]  # rarer with the score
    share = [0.05] * 10
    broken = 0
    for _ in range(300):
        found, judged, wrong = [0.0] * 10, [0.0] * 10, [0.0] * 10
        for _ in range(3000):
            part = rng.randrange(20)
            if part < 10:
                found[part] += 1
                if rng.random() < audited:
                    judged[part] += 1
                    wrong[part] += rng.random() < true[part]
        allowed = lowest(Evidence(GRID, 3000, tuple(found), tuple(judged), tuple(wrong)), 0.01)
        if allowed is not None:
            broken += sum(s * t for s, t, g in zip(share, true, GRID, strict=True) if g >= allowed) > 0.01
    assert broken <= 300 * 0.05 + 3 * math.sqrt(300 * 0.05 * 0.95)


@pytest.mark.parametrize(
    "values",
    [
        ((0.5, 0.1), 1, (1, 1), (1, 1), (0, 0)),
        ((0.1, 0.1), 1, (1, 1), (1, 1), (0, 0)),
        ((0.1,), 1, (1, 1), (1,), (0,)),
        ((0.1,), -1, (1,), (1,), (0,)),
        ((0.1,), 1, (math.nan,), (1,), (0,)),
        ((0.1,), 1, (1,), (math.inf,), (0,)),
    ],
)
def test_evidence_that_is_none_is_refused(values: tuple) -> None:
    with pytest.raises(ValueError, match="evidence"):
        Evidence(*values)

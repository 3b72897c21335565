"""Forecasts of length: ordered, learning, shrinking, separate by tenant."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.routing import length_cues, length_kernel
from trimtab.routing.length import Key, LengthPlanner
from trimtab.routing.length_calibration import Calibration
from trimtab.routing.length_prior import HandPrior, Population, shipped

KEY = Key("model", "tenant", "route")


@given(st.text(max_size=400), st.none() | st.integers(1, 5_000))
def test_quantiles_never_descend_and_keep_the_clients_limit(prompt: str, limit: int | None) -> None:
    told = LengthPlanner().forecast(KEY, prompt, max_tokens=limit)
    assert 1 <= told.p50 <= told.p90 <= told.p99 <= told.p999
    assert limit is None or told.p999 <= limit


def test_counts_and_words_move_the_rule() -> None:
    def rule(text: str) -> float:
        return length_cues.hand_made(length_cues.read(text))

    assert rule("Answer in one word: is the sky blue?") < 5
    assert rule("Describe Rome in under 50 words.") < 70
    assert 600 < rule("Write an essay of 500 words about Rome.") < 800
    assert rule("Give me 20 ideas for a party.") > 3 * rule("Give me 5 ideas for a party.")
    assert rule("Briefly explain rain.") < rule("Explain rain in great detail.")
    assert rule("Erkläre Regen in zehn Sätzen.") == pytest.approx(26 * 10 * 1.05)
    assert rule("What is the capital of France?") < rule("How do I plan a holiday?")


def test_a_number_without_a_unit_is_no_count() -> None:
    assert length_cues.read("I have 3 apples and eat 2.").asked is None


def test_a_hostile_prompt_is_read_by_its_ends_only() -> None:
    for unit in ("1 ", "a", "ten ", "``` ", "\n", "?"):
        long = length_cues.read(unit * 100_000)
        assert len(long.values) == len(length_cues.NAMES)
        assert all(np.isfinite(long.values))


def test_answers_teach_the_level_of_a_route() -> None:
    planner = LengthPlanner()
    before = planner.forecast(KEY, "Tell me about rain")
    for _ in range(60):
        planner.learn(KEY, before.basis, 900)
    after = planner.forecast(KEY, "Tell me about rain")
    assert after.seen == 60
    assert 700 < after.p50 < 1_100
    assert abs(before.p50 - 900) > abs(after.p50 - 900)


def test_few_answers_are_shrunk_towards_the_population() -> None:
    planner = LengthPlanner()
    start = planner.forecast(KEY, "Tell me about rain")
    planner.learn(KEY, start.basis, 3_000)
    assert start.p50 < planner.forecast(KEY, "Tell me about rain").p50 < 1_500


def test_a_model_that_changes_is_followed() -> None:
    calibration = Calibration(shipped())
    for tokens in [100] * 500 + [800] * 1_500:
        calibration.learn((0.0,), tokens)
    assert 600 < calibration.quantiles((0.0,))[0] < 900


def test_nothing_passes_between_tenants() -> None:
    planner, other = LengthPlanner(), Key("model", "other", "route")
    before = planner.forecast(other, "Hello there")
    for _ in range(50):
        planner.learn(KEY, before.basis, 2_000)
    assert planner.forecast(other, "Hello there") == before


def test_a_new_route_starts_from_its_tenants_others_and_forgets_on_demand() -> None:
    planner = LengthPlanner()
    first = planner.forecast(KEY, "Hello there")
    for _ in range(50):
        planner.learn(KEY, first.basis, 2_000)
    sibling = Key("model", "tenant", "another")
    assert planner.forecast(sibling, "Hello there").p50 > 4 * first.p50
    planner.forget("tenant")
    assert planner.forecast(sibling, "Hello there") == first


def test_keys_are_bounded() -> None:
    planner = LengthPlanner(most_keys=10)
    for at in range(50):
        planner.learn(Key("m", f"tenant {at}"), (0.0,), 5)
    assert len(planner) == 10


def test_the_tail_covers_what_it_says() -> None:
    draw = random.Random(5)
    calibration = Calibration(shipped())
    for _ in range(400):
        calibration.learn((0.0,), int(draw.lognormvariate(5, 0.8)))
    p50, p90, p99, _ = calibration.quantiles((0.0,))
    fresh = [draw.lognormvariate(5, 0.8) for _ in range(4_000)]
    assert 0.42 < sum(one <= p50 for one in fresh) / 4_000 < 0.58
    assert 0.85 < sum(one <= p90 for one in fresh) / 4_000 < 0.95
    assert sum(one <= p99 for one in fresh) / 4_000 > 0.97


def test_a_broken_population_is_refused() -> None:
    good = shipped().to_json()
    for change in ({"tail": [0, 2, 1, 3]}, {"noise": 0}, {"covariance": [[1.0]]}):
        with pytest.raises(ValueError, match=next(iter(change))):
            Population.from_json({**good, **change})


def test_a_prior_of_several_models_orders_prompts_of_one_it_never_saw(tmp_path) -> None:  # type: ignore[no-untyped-def]
    draw = np.random.default_rng(1)
    vectors = draw.normal(size=(160, 12))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cues = [length_cues.read(f"question {at}") for at in range(160)]
    true = 5 + 2 * vectors[:, 0]
    lengths = np.exp(true[:, None] + draw.normal(0, 0.2, size=(160, 8)))
    lengths[3, 2] = np.nan
    prior = length_kernel.fit(vectors[:120], cues[:120], lengths[:120])
    prior.save(tmp_path / "prior.npz")
    again = length_kernel.KernelPrior.load(tmp_path / "prior.npz")
    planner = LengthPlanner(again)
    told = [planner.forecast(KEY, f"question {at}", vectors[at].astype(np.float32)).p50 for at in range(120, 160)]
    assert np.corrcoef(np.log(told), true[120:])[0, 1] > 0.7
    assert planner.forecast(KEY, "no vector").p50 > 1


def test_the_hand_made_prior_has_one_number() -> None:
    with pytest.raises(ValueError, match="one number"):
        HandPrior(Population((1.0,), ((1.0,),), 1.0, (0.0, 1.0, 2.0, 3.0)))

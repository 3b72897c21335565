"""The router is a total function: some model always answers, and in doubt it is the large one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.routing.choose import Aim, Candidate, Known, Needs, choose, ranked
from trimtab.routing.floor import Allowed
from trimtab.routing.rules import Rule

SMALL, LARGE = Candidate("small", cost=10), Candidate("large", cost=200)
EASY = Known({"small": 0.9, "large": 0.92}, 0.3)
HARD = Known({"small": 0.2, "large": 0.9}, 0.3)
FAR = replace(EASY, distance=1.4)
VALUE = Aim("value", microusd_per_good=1_000)
BORNE = Aim("floor", floor=Allowed(0.1, "900 audits bear a floor of 0.9"))


@pytest.mark.parametrize(
    ("aim", "known", "model"),
    [
        (VALUE, EASY, "small"),
        (VALUE, HARD, "large"),
        (replace(VALUE, microusd_per_good=100), HARD, "small"),
        (BORNE, EASY, "small"),
        (BORNE, HARD, "large"),
        (Aim("floor"), EASY, "large"),
        (Aim("floor", floor=Allowed(None, "3 of 60 audits")), EASY, "large"),
        (Aim("large_share", is_large=lambda gain: gain is None or gain > 0.5), EASY, "small"),
        (Aim("large_share", is_large=lambda gain: gain is None or gain > 0.5), HARD, "large"),
        (Aim("large_share"), EASY, "large"),
        (Aim("small_only"), FAR, "small"),
        (Aim("large_only"), EASY, "large"),
    ],
)
def test_goals(aim: Aim, known: Known, model: str) -> None:
    assert choose(SMALL, LARGE, Needs(), aim, known).model == model


@pytest.mark.parametrize("aim", [VALUE, BORNE, Aim("large_share", is_large=lambda gain: False), Aim("floor")])
@pytest.mark.parametrize(
    "known",
    [None, FAR, replace(EASY, distance=float("nan")), Known({"large": 0.9}, 0.1), Known({}, 0.0)],
)
def test_in_doubt_the_large_model_and_the_reason_says_so(aim: Aim, known: Known | None) -> None:
    found = choose(SMALL, LARGE, Needs(), aim, known)
    assert found.model == "large"
    assert any(word in found.reason for word in ("nothing is known", "out of domain", "not calibrated"))


def test_without_money_even_doubt_goes_to_the_small_model() -> None:
    aim = Aim("usd_per_day", is_large=lambda gain: False)
    assert choose(SMALL, LARGE, Needs(), aim, FAR).model == "small"


@pytest.mark.parametrize(
    ("lacks", "needs"),
    [
        ({"context": 100}, Needs(tokens=101)),
        ({"longest_answer": 50}, Needs(output=51)),
        ({"tools": False}, Needs(tools=True)),
        ({"vision": False}, Needs(vision=True)),
        ({"json": False}, Needs(json=True)),
        ({"schema": False}, Needs(schema=True)),
        ({"audio": False}, Needs(audio=True)),
    ],
)
def test_who_cannot_is_not_asked(lacks: dict[str, Any], needs: Needs) -> None:
    """Whatever rule or policy says, unless it names one model and no other."""
    for aim in (Aim("small_only"), VALUE, BORNE):
        assert choose(replace(SMALL, **lacks), LARGE, needs, aim, EASY, Rule("small", tag="a")).ranked == ("large",)
        assert choose(SMALL, replace(LARGE, **lacks), needs, aim, HARD, Rule("large", tag="a")).ranked == ("small",)


def test_a_rule_goes_before_the_goal() -> None:
    found = choose(SMALL, LARGE, Needs(), VALUE, EASY, Rule("large", name="legal", tag="a"))
    assert (found.model, found.reason) == ("large", "rule legal")


def test_only_means_only() -> None:
    """Neither a capability nor health lets the other one in."""
    ill, blind = replace(SMALL, healthy=False), replace(SMALL, vision=False)
    for small in (SMALL, ill, blind):
        assert choose(small, LARGE, Needs(vision=True), Aim("small_only", alone=True), None).ranked == ("small",)
        rule = Rule("small", tag="a", only=True)
        assert choose(small, LARGE, Needs(vision=True), VALUE, None, rule).ranked == ("small",)
        assert choose(LARGE, small, Needs(), Aim("large_only", alone=True), None).ranked == (small.name,)
    assert "it has no vision" in choose(blind, LARGE, Needs(vision=True), Aim("small_only", alone=True), None).reason
    rule = Rule("large", tag="a")
    assert choose(SMALL, LARGE, Needs(), Aim("small_only", alone=True), None, rule).model == "large", "rules go first"


def test_a_doubt_has_a_kind() -> None:
    found = choose(SMALL, LARGE, Needs(), BORNE, Known({}, 0.0, "no embedder is installed"))
    assert (found.model, found.why, found.reason) == ("large", "unknown", "no embedder is installed: the large model")
    assert choose(SMALL, LARGE, Needs(), BORNE, Known({}, 0.0, "drift", "drift")).why == "drift"
    assert choose(SMALL, LARGE, Needs(), BORNE, FAR).why == "out of domain"
    assert choose(SMALL, LARGE, Needs(), Aim("floor"), EASY).why == "unproven"


def test_the_healthy_one_is_asked_first() -> None:
    assert choose(SMALL, replace(LARGE, healthy=False), Needs(), VALUE, HARD).ranked == ("small", "large")
    assert choose(replace(SMALL, healthy=False), LARGE, Needs(), VALUE, EASY).ranked == ("large", "small")


candidates = st.builds(
    Candidate,
    name=st.just("small"),
    context=st.none() | st.integers(0, 100),
    tools=st.booleans(),
    json=st.booleans(),
    cost=st.integers(0, 1_000),
    healthy=st.booleans(),
)
aims = st.builds(
    Aim,
    goal=st.sampled_from(["floor", "large_share", "usd_per_day", "small_only", "large_only", "value"]),
    floor=st.none() | st.just(Allowed(0.2, "audits")),
    microusd_per_good=st.integers(0, 10_000),
)
knowns = st.none() | st.builds(
    Known,
    good=st.dictionaries(st.sampled_from(["small", "large"]), st.floats(0, 1)),
    distance=st.floats(allow_nan=True),
)


@given(candidates, candidates, st.builds(Needs, tokens=st.integers(0, 200), tools=st.booleans()), aims, knowns)
def test_somebody_always_answers(one: Candidate, other: Candidate, needs: Needs, aim: Aim, known: Known | None) -> None:
    found = choose(one, replace(other, name="large"), needs, aim, known)
    assert found.ranked
    assert set(found.ranked) <= {"small", "large"}
    assert found.reason


def test_many_models_are_ranked_by_quality_less_cost() -> None:
    models = [
        Candidate("a", cost=100),
        Candidate("b", cost=10),
        Candidate("c", tools=False),
        Candidate("d", healthy=False),
    ]
    good = {"a": 0.9, "b": 0.6, "c": 1.0, "d": 1.0}
    assert ranked(models, good, Aim("value", microusd_per_good=1_000), Needs(tools=True)) == ["a", "b", "d"]
    assert ranked(models, good, Aim("value", microusd_per_good=100), Needs(tools=True)) == ["b", "a", "d"]

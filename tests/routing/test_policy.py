"""A route follows one goal at most, and says which."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from trimtab.routing.policy import OutputPolicy, RoutePolicy


@pytest.mark.parametrize(
    ("written", "goal"),
    [
        ({}, "large_only"),
        ({"floor": 0.98}, "floor"),
        ({"large_share": 0}, "large_share"),
        ({"usd_per_day": 10}, "usd_per_day"),
        ({"small_only": True}, "small_only"),
        ({"large_only": True}, "large_only"),
        ({"large_only": False}, "large_only"),
        ({"value": "0.002", "usd_per_s": 0.001}, "value"),
    ],
)
def test_the_goal(written: dict[str, object], goal: str) -> None:
    assert RoutePolicy.model_validate(written).goal == goal


@pytest.mark.parametrize(
    "written",
    [{"floor": 0.9, "large_share": 0.3}, {"small_only": True, "large_only": True}, {"floor": 0, "usd_per_day": 0}],
)
def test_two_goals_are_refused_by_name(written: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="several goals") as caught:
        RoutePolicy.model_validate(written)
    assert all(goal in str(caught.value) for goal in written)


@pytest.mark.parametrize("written", [{"floor": 1.01}, {"floor": -0.1}, {"large_share": True}, {"usd_per_day": -1}])
def test_values_out_of_range(written: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        RoutePolicy.model_validate(written)


def test_money_is_exact() -> None:
    assert RoutePolicy.model_validate({"usd_per_day": 0.1}).microusd_per_day == 100_000
    with pytest.raises(ValidationError, match="six decimals"):
        RoutePolicy.model_validate({"usd_per_day": "0.0000001"})


def test_everything_has_a_default() -> None:
    assert RoutePolicy().microusd_per_day is None
    assert OutputPolicy().plan


RULES = [
    {"goes": "large", "name": "legal", "tag": "legal", "only": True},
    {"goes": "small", "header": {"X-Team": "search"}},
    {"goes": "gpt-4.1", "prompt": "prove*theorem"},
    {"goes": "large", "prompt": ["diagnos", "patient"]},
]


def test_rules_are_read_in_their_order() -> None:
    rules = RoutePolicy.model_validate({"rules": RULES}).compiled
    assert [(rule.goes, rule.only) for rule in rules] == [
        ("large", True),
        ("small", False),
        ("gpt-4.1", False),
        ("large", False),
    ]
    assert rules[1].header == ("x-team", "search")
    assert rules[2].prompt == ("prove*theorem",)


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ({"rules": [{"goes": "large"}]}, "needs a tag, a header or a prompt"),
        ({"rules": [{"goes": "large", "prompt": "*"}]}, "at least one character"),
        ({"rules": [{"goes": "large", "header": {"a": "1", "b": "2"}}]}, "one header"),
        ({"rules": [{"tag": "x"}]}, "goes"),
        ({"usd_per_s": 1}, "without `value`"),
        ({"judge": "m"}, "without a goal"),
        ({"small_only": True, "audit": 0.1}, "without a goal"),
        ({"floor": 0.9, "explore": 0.5}, "less than or equal"),
    ],
)
def test_what_makes_no_sense_is_said(written: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        RoutePolicy.model_validate(written)


def test_a_promise_is_audited_and_not_explored() -> None:
    floor, share = RoutePolicy(floor=0.9), RoutePolicy(large_share=0.3)
    assert (floor.audited, floor.explored) == (0.02, 0.0)
    assert (share.audited, share.explored) == (0.0, 0.01)
    assert RoutePolicy(large_share=0.3, frozen=True).explored == 0.0
    assert not RoutePolicy().scores
    assert RoutePolicy(small_only=True).only
    assert not RoutePolicy().only

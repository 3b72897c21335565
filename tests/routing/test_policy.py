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

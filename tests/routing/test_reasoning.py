from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trimtab.routing.reasoning import Thinking, plan, whole

BUDGET = Thinking("budget", 1_024, 16_000)


@given(st.floats(0, 1), st.none() | st.integers(0, 40_000), st.booleans())
def test_never_below_the_providers_minimum(hard: float, room: int | None, allowed: bool) -> None:
    made = plan(BUDGET, hard, allowed, room=room)
    assert made.budget is None or BUDGET.minimum <= made.budget <= min(BUDGET.maximum, room or BUDGET.maximum)
    assert made.ours == (made.budget is not None)
    assert allowed or not made.ours


def test_what_the_client_asked_for_stays() -> None:
    made = plan(BUDGET, 0.9, True, asked=5_000)
    assert (made.effort, made.budget, made.reserve, made.ours) == (None, None, 5_000, False)


def test_harder_prompts_think_more() -> None:
    assert plan(BUDGET, 0.1, True).reserve < plan(BUDGET, 0.5, True).reserve < plan(BUDGET, 1.0, True).reserve
    assert [plan(Thinking("effort"), hard, True).effort for hard in (0.1, 0.5, 0.9)] == ["low", "medium", "high"]


def test_thinking_is_reserved_beside_the_answer() -> None:
    assert whole(500, plan(BUDGET, 1.0, True)) == 16_500
    assert plan(None, 1.0, True).reserve == 0

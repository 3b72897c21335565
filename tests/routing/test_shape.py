from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.routing.length import Forecast
from trimtab.routing.shape import Shape, ShapePolicy, appended, held_out, plan

LONG = Forecast(400, 600, 900, 1_200, 50, ())


def test_off_unless_asked_for() -> None:
    assert plan(ShapePolicy(), LONG, "u", counts=False, structured=False) == Shape(None, "off")


def test_no_hint_where_length_or_form_is_the_clients() -> None:
    policy = ShapePolicy(style="token_budget")
    assert plan(policy, LONG, "u", counts=True, structured=False).hint is None
    assert plan(policy, LONG, "u", counts=False, structured=True).hint is None
    assert plan(policy, LONG._replace(p50=60), "u", counts=False, structured=False).hint is None


def test_a_unit_keeps_its_arm_and_the_holdout_has_its_share() -> None:
    policy = ShapePolicy(style="token_budget", holdout=0.2)
    out = [held_out(f"conversation {at}", policy) for at in range(4_000)]
    assert 0.17 < sum(out) / 4_000 < 0.23
    assert out == [held_out(f"conversation {at}", policy) for at in range(4_000)]


@given(st.text(), st.text())
def test_the_prefix_keeps_its_bytes(turn: str, unit: str) -> None:
    assert appended(turn, plan(ShapePolicy(style="chain_of_draft"), LONG, unit, False, False)).startswith(turn)


def test_a_hint_that_is_not_measured_is_refused() -> None:
    with pytest.raises(ValueError, match="holdout"):
        ShapePolicy(style="token_budget", holdout=0)

"""Rules hold when all of their parts do, and read any prompt once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.routing.rules import Rule, first


def test_all_parts_must_hold() -> None:
    rule = Rule("large", tag="legal", header=("X-Team", "a"), prompt=("contract",))
    assert first([rule], {"legal"}, {"x-team": "a"}, "This CONTRACT says") is rule
    assert first([rule], {"legal"}, {"x-team": "b"}, "This contract says") is None
    assert first([rule], set(), {"x-team": "a"}, "This contract says") is None
    assert first([rule], {"legal"}, {"x-team": "a"}, "This letter says") is None


def test_the_first_rule_that_holds_wins() -> None:
    rules = [Rule("small", tag="b"), Rule("large", tag="a"), Rule("small", tag="a")]
    assert first(rules, {"a"}, {}, "") is rules[1]


@given(st.lists(st.text("abc", min_size=1, max_size=3), min_size=1, max_size=5), st.text("abc .", max_size=4))
def test_pieces_in_their_order_are_found_whatever_is_between(pieces: list[str], between: str) -> None:
    rule = Rule("large", prompt=("*".join(pieces),))
    assert first([rule], set(), {}, between.join(pieces)) is rule


def test_pieces_out_of_order_are_not() -> None:
    assert first([Rule("large", prompt=("write*proof",))], set(), {}, "a proof that I write") is None


def test_a_prompt_that_would_make_an_expression_backtrack_is_read_once() -> None:
    rule = Rule("large", prompt=("a*a*a*a*a*a*a*a*a*a*b",))
    assert first([rule], set(), {}, "a" * 40_000) is None


@pytest.mark.parametrize("prompt", [(), ("*",), (" ",)])
def test_a_rule_goes_by_something(prompt: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="rule"):
        Rule("small", prompt=prompt)

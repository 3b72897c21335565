"""Checks fail for what is certainly no good, and the shipped deferral trusts right sums more than wrong ones."""

from __future__ import annotations

from dataclasses import replace
from math import isfinite
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.routing.cascade import NAMES, Answered, Deferral, agree, checks, failed, repetition
from trimtab.routing.heads import shipped
from trimtab.routing.schema import conforms

PROMPT = "Ann has 16 eggs, eats 3 and sells the rest at 2 dollars each. How many dollars does she make?"
RIGHT = "Ann has 16 - 3 = 13 eggs left.\nShe makes 13 * 2 = 26 dollars.\n#### 26"
WRONG = "Ann has 16 - 3 = 12 eggs left.\nHowever, she makes 12 * 2 = 25 dollars"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"text": "  "}, "empty"),
        ({"cut": True}, "cut"),
        ({"text": "I'm sorry, but I can't help with that."}, "refuses"),
        ({"text": "the same six words once again " * 40}, "repeats"),
        ({"kind": "json"}, "not JSON"),
        ({"kind": "json", "text": '{"a": 1}', "schema": {"required": ["b"]}}, "schema"),
        ({"kind": "code", "text": "```python\ndef f(:\n```"}, "parse"),
        ({"kind": "code", "text": "```python\ndef f():"}, "not closed"),
    ],
)
def test_what_fails_for_certain(changes: dict[str, Any], why: str) -> None:
    answer = replace(Answered(PROMPT, RIGHT), **changes)
    assert why in (failed(answer) or "")
    assert _shipped().score(answer, 0.99, 0.1) == 1.0


@pytest.mark.parametrize(
    "answer",
    [
        Answered(PROMPT, RIGHT),
        Answered("", '{"b": [1, 2]}', kind="json", schema={"properties": {"b": {"type": "array"}}}),
        Answered("", "```python\ndef f():\n    return 1\n```", kind="code"),
    ],
)
def test_what_does_not(answer: Answered) -> None:
    assert failed(answer) is None


def _shipped() -> Deferral:
    held = shipped().extra["cascade"]
    return Deferral(*(tuple(held[name]) for name in ("mean", "spread", "weights")))


def test_right_sums_are_trusted_more_than_wrong_ones() -> None:
    held = _shipped()
    assert held.score(Answered(PROMPT, RIGHT), 0.6, 0.9) < held.score(Answered(PROMPT, WRONG), 0.6, 0.9) - 0.2


@given(st.text(max_size=100), st.text(st.sampled_from("0123456789+-*/=().,$% ab\n`#"), max_size=200))
def test_checks_of_any_answer_are_finite(prompt: str, text: str) -> None:
    found = checks(Answered(prompt, text))
    assert len(found) == len(NAMES)
    assert all(isfinite(value) for value in found)


@pytest.mark.parametrize("piece", ["```", "```python\n", "1+1=", "x = ", "#", "word ", "{", "["])
def test_long_answers_of_one_piece(piece: str) -> None:
    for kind in ("free", "json", "code"):
        answer = Answered(piece * 20_000, piece * 20_000, kind=kind)
        assert -1 <= _shipped().score(answer, 0.5, 0.9) <= 1


def test_two_draws_agree_by_their_final_number() -> None:
    assert agree("it is 26", "3 + 23 = 26") == 1.0
    assert agree("it is 26", "it is 25") == 0.0
    assert 0 < agree("the sea is blue", "the sea is green") < 1


def test_a_list_is_no_repetition() -> None:
    assert repetition("\n".join(f"{at}. item number {at} of the list with {at * 7} words" for at in range(60))) < 0.2


def test_a_deferral_of_other_checks_is_refused() -> None:
    with pytest.raises(ValueError, match="other checks"):
        Deferral((0.0,), (1.0,), (0.0, 0.0))


@pytest.mark.parametrize(
    ("value", "schema", "fits"),
    [
        ({"a": 1}, {"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": False}, True),
        ({"a": 1, "b": 2}, {"properties": {"a": {}}, "additionalProperties": False}, False),
        ({"a": True}, {"properties": {"a": {"type": "integer"}}}, False),
        ([1, "x"], {"type": "array", "items": {"type": ["integer", "string"]}}, True),
        ([1, 2], {"maxItems": 1}, False),
        ("c", {"enum": ["a", "b"]}, False),
        (1, {"enum": [True]}, False),
        (2.0, {"type": "integer"}, True),
        ({}, {"$ref": "#/x"}, True),
        (3, {"anyOf": [{"type": "string"}, {"minimum": 3}]}, True),
        (None, False, False),
    ],
)
def test_schemas(value: Any, schema: Any, fits: bool) -> None:
    assert conforms(value, schema) is fits

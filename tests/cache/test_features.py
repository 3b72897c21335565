"""Features of two questions: symmetric, bounded, linear in the length, and about what they are named for."""

from __future__ import annotations

import math
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.cache.features import NAMES, features, names

AT = {name: at for at, name in enumerate(names())}


@given(st.text(max_size=200), st.text(max_size=200), st.floats(-1, 1))
def test_the_order_of_the_two_does_not_matter(a: str, b: str, cosine: float) -> None:
    found = features(a, b, cosine)
    assert found == features(b, a, cosine)
    assert len(found) == len(NAMES) + 1 == len(names())
    assert all(map(math.isfinite, found))


@given(st.text(min_size=1, max_size=200))
def test_a_question_has_everything_in_common_with_itself(text: str) -> None:
    found = features(text, text, 1.0)
    for alone in ("fewest_alone", "most_alone", "letters_alone", "numbers", "names", "negations"):
        assert found[AT[alone]] == 0
    assert found[AT["length"]] == 1


@pytest.mark.parametrize(
    ("name", "a", "b", "value"),
    [
        ("numbers", "How do I lose 10 pounds?", "How do I lose 20 pounds?", 2),
        ("negations", "Can I park here?", "Can't I park here?", 1),
        ("names", "Who is the king of Norway?", "Who is the king of Sweden?", 2),
        ("names", "Who is the king of NORWAY?", "who is the king of norway?", 0),
        ("asking", "Where is it sold?", "When is it sold?", 0),
        ("asking", "Is it sold?", "Do they sell it?", 0.5),
        ("covered", "How do I learn baking?", "How do I learn baking at home in Rome?", 1),
        ("most_alone", "How do I learn baking?", "How do I learn baking at home in Rome?", 2),
        ("ending", "What is a good way to bake bread?", "Where can I get bread?", 1),
    ],
)
def test_a_feature_is_what_it_is_called(name: str, a: str, b: str, value: float) -> None:
    assert features(a, b, 0.9)[AT[name]] == value


@pytest.mark.parametrize("text", ["a" * 100_000, "a'" * 50_000, "1 " * 50_000, "\u2019" * 100_000, "é" * 100_000, ""])
def test_only_the_beginning_of_a_long_text_is_read(text: str) -> None:
    began = time.process_time()
    features(text, text + "b", 0.5)
    assert time.process_time() - began < 1

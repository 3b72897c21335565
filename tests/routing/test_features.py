"""Features are finite figures of any text, and say what they are named for."""

from __future__ import annotations

from math import isfinite

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.routing.features import NAMES, features


def _of(prompt: str) -> dict[str, float]:
    return dict(zip(NAMES, features(prompt), strict=True))


@given(st.text(st.characters(), max_size=200))
def test_any_text_has_finite_features(prompt: str) -> None:
    assert all(isfinite(value) for value in features(prompt))


@pytest.mark.parametrize("piece", ["1", "A. ", "\n", " \t", "(", "a,", "é", "1.", "\ud800"])
def test_long_texts_of_one_piece(piece: str) -> None:
    found = features(piece * 100_000)
    assert len(found) == len(NAMES)
    assert all(isfinite(value) for value in found)


def test_they_say_what_they_are_named_for() -> None:
    choice = _of("Which of these is NOT true?\nA. 1\nB. 200 or more of them\nC. no\nAnswer:")
    plain = _of("Write me a story about the sea")
    assert choice["options"] > plain["options"] == 0
    assert choice["negations"] > plain["negations"]
    assert choice["largest_number"] > plain["largest_number"]
    assert choice["option_spread"] > 0
    assert _of("Prove it")["reasons"] > 0


def test_a_long_prompt_is_read_at_both_ends() -> None:
    middle = "words and words " * 5_000
    assert _of(middle + "prove this theorem")["reasons"] > _of(middle)["reasons"]
    assert _of("prove this theorem" + middle)["reasons"] > _of(middle)["reasons"]

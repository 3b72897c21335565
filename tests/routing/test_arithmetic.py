"""Equations are worked out again as written; what cannot be read is passed over."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.routing.arithmetic import sums


@pytest.mark.parametrize(
    "text",
    [
        "She has 16 - 3 = 13 eggs.",
        "9 * $2 = $<<9*2=18>>18",
        "3 x (4 + 2.5) = 19.5",
        "20% of 50 = 10",
        "(12 / 20) x 100 = 60%",
        "1/4 = 25%",
        "10 / 3 = 3.33",
        "1,000 × 2 = 2,000",
        "3 − 5 = -2",
        "2/2 * 1/2 = 1/2",
    ],
)
def test_right_ones(text: str) -> None:
    found = sums(text)
    assert (found.right >= 1, found.wrong) == (True, 0)


@pytest.mark.parametrize("text", ["2 + 2 = 5", "100 / 7 = 14.5", "20% of 50 = 11", "6 * 7 = $41"])
def test_wrong_ones(text: str) -> None:
    assert (sums(text).right, sums(text).wrong) == (0, 1)


@pytest.mark.parametrize("text", ["", "x = 5", "a == b", "1 / 0 = 3", "(((1 = 2", "= = =", "2 + = 4", "y = mx + b"])
def test_what_cannot_be_read_is_not_counted(text: str) -> None:
    assert (sums(text).right, sums(text).wrong) == (0, 0)


@given(st.integers(0, 10_000), st.integers(0, 10_000), st.sampled_from("+-*"), st.integers(-3, 3))
def test_a_result_is_right_when_it_is(a: int, b: int, sign: str, off: int) -> None:
    value = {"+": a + b, "-": a - b, "*": a * b}[sign] + off
    found = sums(f"so {a} {sign} {b} = {value} apples")
    assert (found.right, found.wrong) == ((1, 0) if off == 0 else (0, 1))


@pytest.mark.parametrize("piece", ["1+", "(", "=", "1=", "-", "1,", "$ "])
def test_long_texts_of_one_piece(piece: str) -> None:
    found = sums(piece * 50_000 + "1+1=2")
    assert found.right + found.wrong <= 200


def test_the_final_number_is_the_last() -> None:
    assert sums("3 + 4 = 7\n#### 1,234.5").final == 1234.5
    assert sums("none").final is None

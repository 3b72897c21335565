"""Amounts of money survive exactly, or are refused; nothing is rounded on the quiet."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.protocol.money import dollars, microdollars

AMOUNTS = st.integers(min_value=0, max_value=10**13)


@given(AMOUNTS)
def test_six_decimals_survive_however_they_are_written(micro: int) -> None:
    written = f"{micro // 10**6}.{micro % 10**6:06d}"
    assert microdollars(dollars(written)) == micro
    assert microdollars(dollars(float(written))) == micro  # what YAML makes of it: 13 digits fit a float
    assert microdollars(dollars(Decimal(written))) == micro


@given(AMOUNTS, st.integers(min_value=1, max_value=999))
def test_a_seventh_decimal_is_refused_not_rounded(micro: int, rest: int) -> None:
    written = f"{micro // 10**6}.{micro % 10**6:06d}{rest:03d}"
    with pytest.raises(ValueError, match="six decimals"):
        microdollars(dollars(written))


def test_many_zeros_are_still_the_same_amount() -> None:
    assert microdollars(dollars("1.5" + "0" * 60)) == 1_500_000
    with pytest.raises(ValueError, match="six decimals"):
        microdollars(dollars("1." + "0" * 40 + "1"))


@pytest.mark.parametrize("value", [True, None, "", "two", "1,5", "$2", "nan", "inf", float("nan"), -1, "-0.01", [], {}])
def test_what_is_no_amount(value: object) -> None:
    with pytest.raises(ValueError, match="must be an amount"):
        dollars(value)


@pytest.mark.parametrize("value", ["1e999999999", "1e-999999999", 10**30])
def test_absurd_exponents_cost_nothing(value: object) -> None:
    with pytest.raises(ValueError, match="out of the range"):
        dollars(value)

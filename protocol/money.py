"""Money, exact: decimal dollars as people write them, integer micro-dollars as the ledger keeps them.

Knows nothing of prices, tenants or tokens.
"""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from fractions import Fraction

MICRO = 1_000_000
_LARGEST_EXPONENT = 12  # a trillion dollars: anything above is a slip of the finger, or an attack on bignum arithmetic
_SMALLEST_EXPONENT = -30


def dollars(value: object) -> Decimal:
    """The decimal number that was written. Raises ValueError for anything but a finite number that is not negative.

    A float is read by its shortest spelling, which is exactly what stood in the file up to 15 digits.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str | Decimal):
        raise ValueError("must be an amount of US dollars")
    try:
        amount = Decimal(repr(value) if isinstance(value, float) else value)
    except InvalidOperation:
        raise ValueError("must be an amount of US dollars, with a point and no sign, such as 2.50") from None
    if not amount.is_finite() or amount < 0:
        raise ValueError("must be an amount of US dollars that is finite and not negative")
    if amount and not _SMALLEST_EXPONENT <= amount.adjusted() <= _LARGEST_EXPONENT:
        raise ValueError("is out of the range of amounts that make sense")
    return amount


def microdollars(amount: Decimal) -> int:
    """Integer micro-dollars. Raises ValueError rather than round: more than six decimals cannot be kept."""
    micro = Fraction(amount) * MICRO
    if micro.denominator != 1:
        raise ValueError("has more than six decimals; micro-dollars are the smallest unit that is kept")
    return micro.numerator

"""Arithmetic in an answer, done again: which of its equations hold, and what number it ends with.

Reads `3 x (4 + 2.5) = 19.5` as people and models write it, with currency, percent and thousands separators. Linear
time; nothing is evaluated but numbers, brackets and the four operations. Knows no model and no prompt.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite

_LONGEST, _DEEPEST, _MOST_EQUATIONS = 120, 20, 200
_NUMBER = re.compile(r"\d{1,15}(?:,\d{3}){0,4}(?:\.\d{1,15})?|\.\d{1,15}")
_OPERATORS = {"×": "*", "x": "*", "X": "*", "·": "*", "÷": "/", "−": "-", "–": "-"}
# What may stand between the parts of a written sum: units of money, white space, a markdown escape.
_SILENT = frozenset(" \t$€£\\")
_IN_A_SUM = frozenset("0123456789.,()+-*/%") | frozenset(_OPERATORS) | _SILENT
_RESULT = re.compile(r"[ \t$€£\\]{0,4}(-?[ \t$€£\\]{0,2})(" + _NUMBER.pattern + r")(?:[ \t]?/[ \t]?(\d{1,15}))?")


@dataclass(frozen=True, slots=True)
class Sums:
    """`right` and `wrong` equations; their `results` as written, in order; every `number` of the text, in order."""

    right: int
    wrong: int
    results: tuple[float, ...]
    numbers: tuple[float, ...]

    @property
    def final(self) -> float | None:
        """The number that the text ends with."""
        return self.numbers[-1] if self.numbers else None


def sums(text: str) -> Sums:
    """Every equation between a sum and a number that can be read; others are passed over, not counted as wrong."""
    text = text.replace("% of ", "% * ")
    right = wrong = 0
    results: list[float] = []
    at = text.find("=")
    while at >= 0 and right + wrong < _MOST_EQUATIONS:
        stated = _RESULT.match(text, at + 1)
        value = _left_of(text, at) if stated else None
        if stated and value is not None:
            written, tolerance = _written(stated)
            results.append(written)
            wanted = (value, 100 * value) if text.startswith("%", stated.end()) else (value,)
            if any(abs(each - written) <= tolerance + 1e-9 * abs(each) for each in wanted):
                right += 1
            else:
                wrong += 1
        at = text.find("=", at + 1)
    return Sums(right, wrong, tuple(results), numbers(text))


def numbers(text: str) -> tuple[float, ...]:
    return tuple(float(found.replace(",", "")) for found in _NUMBER.findall(text))


def _written(stated: re.Match[str]) -> tuple[float, float]:
    """The number after the sign of equality, and by how much rounding may have moved it."""
    digits = stated[2].replace(",", "")
    value = float(digits)
    places = len(digits.partition(".")[2])
    if stated[3] and float(stated[3]):
        return (-value if "-" in stated[1] else value) / float(stated[3]), 0.0
    # What is written with places may have been rounded to them; a whole number has to be exact.
    return (-value if "-" in stated[1] else value), (0.51 * 10.0**-places if places else 1e-9)


def _left_of(text: str, at: int) -> float | None:
    """The value of the sum that ends before `at`; None where there is none, or no operation in it."""
    start = at
    while start > 0 and at - start < _LONGEST and text[start - 1] in _IN_A_SUM:
        start -= 1
    parts = _parts(text[start:at])
    # Words run into the sum ("total is (3 + 4"): the longest end of it that can be read is meant.
    for skipped in range(min(len(parts), 6)):
        rest = parts[skipped:]
        if sum(part in "+-*/" for part in rest) == 0:
            return None
        value = _Sum(rest).value()
        if value is not None:
            return value
    return None


def _parts(written: str) -> list[str]:
    parts: list[str] = []
    at = 0
    while at < len(written):
        found = _NUMBER.match(written, at)
        if found:
            parts.append(found[0])
            at = found.end()
            continue
        sign = _OPERATORS.get(written[at], written[at])
        if sign not in _SILENT:
            parts.append(sign)
        at += 1
    return parts


class _Sum:
    """Recursive descent over the parts of a sum; the depth is bounded by `_DEEPEST`."""

    def __init__(self, parts: list[str]) -> None:
        self._parts, self._at, self._depth = parts, 0, 0

    def value(self) -> float | None:
        try:
            found = self._terms()
        except (ValueError, ZeroDivisionError, OverflowError):
            return None
        return found if self._at == len(self._parts) and isfinite(found) else None

    def _next(self, wanted: str) -> str | None:
        if self._at < len(self._parts) and self._parts[self._at] in tuple(wanted):
            self._at += 1
            return self._parts[self._at - 1]
        return None

    def _terms(self) -> float:
        total = self._factors()
        while sign := self._next("+-"):
            term = self._factors()
            total = total + term if sign == "+" else total - term
        return total

    def _factors(self) -> float:
        product = self._atom()
        while sign := self._next("*/"):
            factor = self._atom()
            product = product * factor if sign == "*" else product / factor
        return product

    def _atom(self) -> float:
        if self._next("-"):
            return -self._bounded(self._atom)
        if self._next("("):
            inner = self._bounded(self._terms)
            if not self._next(")"):
                raise ValueError("a bracket that is not closed")
            return self._percent(inner)
        if self._at == len(self._parts):
            raise ValueError("a sum that ends too early")
        part = self._parts[self._at]
        self._at += 1
        return self._percent(float(part.replace(",", "")))

    def _percent(self, value: float) -> float:
        return value / 100 if self._next("%") else value

    def _bounded(self, step: Callable[[], float]) -> float:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise ValueError("brackets too deep")
        value = step()
        self._depth -= 1
        return value

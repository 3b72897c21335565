"""Numbers that differ: digits, words, ordinals, fractions, Roman numerals, percent, thousands and decimal marks.

A number is compared by its value. "One" counts only where the other wording has another number in its place, because
English says it of anything ("which one", "one should").
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from fractions import Fraction

from . import lexicon
from .wording import Wording

_SMALL = lexicon.row(
    """
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
    seventeen eighteen nineteen
    """
)
_TENS = {w: 10 * i for i, w in enumerate(lexicon.row("twenty thirty forty fifty sixty seventy eighty ninety"), 2)}
_ORDINALS = lexicon.row(
    """
    zeroth first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth
    fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth
    """
)
_VALUES: dict[str, int] = (
    {w: i for i, w in enumerate(_SMALL)}
    | _TENS
    | {w: i for i, w in enumerate(_ORDINALS) if w != "second"}
    | {w[:-1] + "ieth": value for w, value in _TENS.items()}
    | {"fourty": 40, "ninteen": 19, "dozen": 12, "dozens": 12, "twice": 2, "thrice": 3, "double": 2, "triple": 3}
    | {"hundredth": 100, "thousandth": 1000, "half": -1, "quarter": -2, "halves": -1}
)
_SCALES = {
    "hundred": 100, "hundreds": 100, "thousand": 10**3, "thousands": 10**3, "lakh": 10**5, "lakhs": 10**5, "lac": 10**5,
    "lacs": 10**5, "crore": 10**7, "crores": 10**7, "million": 10**6, "millions": 10**6, "billion": 10**9,
    "billions": 10**9, "trillion": 10**12, "trillions": 10**12, "k": 10**3, "m": 10**6, "mn": 10**6, "bn": 10**9,
    "grand": 10**3,
}  # fmt: skip
# A single letter may be one and may be none: it is an excuse, and no number.
_ROMAN = dict(
    zip(
        lexicon.row("ii iii iv vi vii viii ix xi xii xiii xiv xv xvi xvii xviii xix xx"),
        (2, 3, 4, 6, 7, 8, 9, *range(11, 21)),
        strict=True,
    )
)
_WORDS = frozenset(_VALUES) | frozenset(_SCALES) - {"k", "m", "mn", "bn", "grand"} | {"second"}
_NUMERALS = _WORDS | _ROMAN.keys()
_ROMAN_ONE = re.compile(r"\b(?:War|Part|Phase|Type|Class|Chapter|Volume|Act|Level|Stage|Tier|Schedule|Section) I\b")
_DIGITS = re.compile(
    r"(?<!\d)([-−]?)(\d+(?:[.,]\d+)*)(?:(st|nd|rd|th|k|m|bn|b)(?![a-z])|( ?%| ?percent\b| ?per cent\b))?"
)
_FRACTION = re.compile(r"(?<![\d/])(\d{1,4}) ?/ ?(\d{1,4})(?![\d/])")
# "Second" is a time after these, or may be: then it goes with 2 and with nothing.
_BEFORE_A_TIME = frozenset(["a", "per", "each", "one", "split", "every", "last"])
_LONGEST = 400  # digits that are read as a number; more are compared as they stand
_PERCENT = frozenset(("percent", "percentage", "pct"))
Value = tuple[Fraction, bool]


def numbers(asked: Wording, stored: Wording) -> str | None:
    if not (_any(asked) or _any(stored)):
        return None
    ours, theirs = values(asked), values(stored)
    left, right = ours - theirs, theirs - ours
    return "number" if _unexcused(left, theirs, asked, stored) or _unexcused(right, ours, stored, asked) else None


# What may stand for a number and is not always one.
_EXCUSES = {
    (Fraction(1), False): frozenset(("one", "first", "1st", "i", "a", "an")),
    (Fraction(2), False): frozenset(("second", "both", "couple", "pair")),
    (Fraction(5), False): frozenset("v"),
    (Fraction(10), False): frozenset("x"),
}
_ONE = (Fraction(1), False)
_NAMED_AGAIN = 100  # from here on it is a year or a sum that is named again ("Rio 2016: ... in 2016"), not another one


def _unexcused(left: Counter[Value], has: Counter[Value], wording: Wording, other: Wording) -> bool:
    """Whether a number is left that the other wording does not have (it `has` those) in any way."""
    for value in left:
        if value in has and abs(value[0]) >= _NAMED_AGAIN:
            continue
        words = _EXCUSES.get(value)
        if value == _ONE and "one" in wording.bag:
            continue
        if words is None or words.isdisjoint(other.bag):
            return True
    return False


def _any(wording: Wording) -> bool:
    return not _NUMERALS.isdisjoint(wording.bag) or wording.digital or " I" in wording.text


def _numeric(word: str) -> bool:
    return not word.isalpha() and any(map(str.isnumeric, word))


def values(wording: Wording) -> Counter[Value]:
    """Every number of the text as (value, whether it is a share of a hundred)."""
    found: Counter[Value] = Counter()
    text = wording.lower
    if wording.digital:
        if not text.isascii():
            text = "".join(str(unicodedata.digit(c)) if unicodedata.digit(c, None) is not None else c for c in text)
        text = _fractions(text, found)
        _digits(text, found)
    if not _WORDS.isdisjoint(wording.bag):
        _spoken(wording.words, found)
    if " I" in wording.text:
        found[_ONE] += len(_ROMAN_ONE.findall(wording.text))
    if not _ROMAN.keys().isdisjoint(wording.bag):
        for word in wording.words:
            if word in _ROMAN:
                found[Fraction(_ROMAN[word]), False] += 1
    return found


def _fractions(text: str, found: Counter[Value]) -> str:
    def take(match: re.Match[str]) -> str:
        below = int(match[2])
        if not below or int(match[1]) >= below:  # 24/7, 9/11: a name, whose parts are compared
            return match[0].replace("/", " ")
        found[Fraction(int(match[1]), below), False] += 1
        return " "

    return _FRACTION.sub(take, text) if "/" in text else text


def _digits(text: str, found: Counter[Value]) -> None:
    for match in _DIGITS.finditer(text):
        sign, digits, tail, percent = match.groups()
        at = match.start()
        negative = sign and (at == 0 or not (text[at - 1].isalnum() or text[at - 1] in ")].,"))
        after = text[match.end() : match.end() + 12].split(None, 1)[:1]
        next_word = after[0].rstrip("?.,!;:)") if after else ""
        scale = _SCALES.get(tail or "", 1) if tail not in (None, "b") else 10**9 if tail == "b" else 1
        if not tail and text[match.end() : match.end() + 1] == " " and next_word not in ("k", "m"):
            scale = _SCALES.get(next_word, 1)
        for value in _readings(digits):
            found[(-value if negative else value) * scale, bool(percent)] += 1


def _readings(digits: str) -> list[Fraction]:
    """1,000, 10,00,000 and 1.000.000 are whole; 3.5 and 3,5 are not; 1,2,3 are three numbers; 3.10.1 is a version."""
    if len(digits) > _LONGEST:
        return [Fraction(int.from_bytes(digits.encode()))]
    if digits.isdigit():
        return [_whole(digits)]
    marks = [c for c in digits if c in ".,"]
    groups = re.split(r"[.,]", digits)
    grouped = all(len(group) in (2, 3) for group in groups[1:]) and len(groups[-1]) == 3 and len(groups[0]) <= 3
    if set(marks) == {","}:
        if grouped and groups[0] != "0":
            return [_whole("".join(groups))]
        return [_decimal(groups)] if len(marks) == 1 else [_whole(group) for group in groups]
    if set(marks) == {"."}:
        if len(marks) == 1:
            return [_decimal(groups)]
        return [_whole("".join(groups))] if grouped and len(groups[1]) == 3 else [_whole(group) for group in groups]
    if marks.count(marks[-1]) == 1:  # both: the last one is the decimal mark
        return [_decimal(["".join(groups[:-1]), groups[-1]])]
    return [_whole(group) for group in groups]


def _whole(digits: str) -> Fraction:
    return Fraction(int(digits or "0"))


def _decimal(groups: list[str]) -> Fraction:
    return Fraction(int("".join(groups)), 10 ** len(groups[1]))


def _spoken(words: list[str], found: Counter[Value]) -> None:
    """Numbers in words, put together: "two hundred and five", "twenty-one", "three million"."""
    total = part = 0
    open_ = False
    fresh = True  # whether a unit may still follow the ten before it
    for at, word in enumerate([*words, ""]):
        value = _VALUES.get(word)
        if word == "second" and not (at and (words[at - 1] in _BEFORE_A_TIME or _numeric(words[at - 1]))):
            value = 2
        if value is not None and value >= 0:
            joined = (
                open_
                and (part % 100 == 0 or (part % 10 == 0 and part % 100 >= 20 and 0 < value < 10))
                and not (part == 0 and fresh)
            )
            if open_ and not joined:
                found[Fraction(total + part), False] += 1
                total = part = 0
            part, open_, fresh = part + value, True, False
        elif word in _SCALES and len(word) > 2:
            if not open_ and at and _numeric(words[at - 1]):
                continue  # 5 million was read with its digits
            scale = _SCALES[word]
            if scale == 100:
                part = (part or 1) * scale
            else:
                total, part = total + (part or 1) * scale, 0
            open_, fresh = True, False
        elif word == "and" and open_ and part % 100 == 0 and at + 1 < len(words) and words[at + 1] in _VALUES:
            continue
        else:
            if open_:
                percent = word in _PERCENT
                found[Fraction(total + part), percent] += 1
                total = part = 0
                open_, fresh = False, True
            if value is not None:
                found[Fraction(1, -2 * value), False] += 1

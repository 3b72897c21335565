"""Units, currencies, days, months and times of day that differ: km and miles, USD and EUR, Monday and Tuesday."""

from __future__ import annotations

import re
from functools import cache

from . import lexicon
from .wording import Wording

_SYMBOLS = {"$": "dollar", "€": "euro", "£": "gbp", "₹": "rupee", "¥": "yen", "₽": "ruble", "₩": "won", "฿": "baht"}
# A letter or two that are a unit only next to digits.
_ATTACHED = re.compile(
    r"\d ?(km|m|cm|mm|mi|ft|in|kg|g|mg|lb|lbs|oz|l|ml|gb|mb|kb|tb|hz|khz|mhz|ghz|kw|mw|w|v|mah|c|f|h|hr|hrs|min|mins|s"
    r"|sec|secs|ms|d|wk|yr|yrs|am|pm|a\.m|p\.m|rs|usd|eur|inr|gbp|mph|kmph|kph|bc|ad|bce|ce)\b"
)
_MARKED = re.compile(r"[°º] ?([cfk])\b|\b(rs|am|pm|a\.m|p\.m|bc|bce)\b")
_MARKS = frozenset(("rs", "am", "pm", "bc", "bce"))
_AS_MONTH = re.compile(
    r"\b(?:in|on|of|by|since|until|till|from|to|before|after|during|this|next|last|late|early|mid|and|or|-"
    r"|\d(?:st|nd|rd|th)?,?) (may|march)\b|\b(may|march) \d"
)


def units(asked: Wording, stored: Wording) -> str | None:
    ours, theirs = _found(asked), _found(stored)
    if ours == theirs:
        return None
    for kind in ours.keys() | theirs.keys():
        one, other = ours.get(kind, _NONE), theirs.get(kind, _NONE)
        if one == other:
            continue
        if kind in ("month", "weekday"):
            return "date"
        if one and other and (one - other) and (other - one):
            return "date" if kind in ("daytime", "era", "relative", "season", "clock") else "unit"
    return "unit" if _of_a_number(asked, stored) else None


_NONE: frozenset[str] = frozenset()


def _found(wording: Wording) -> dict[str, frozenset[str]]:
    """What the text names of each dimension."""
    table = _units()
    found: dict[str, set[str]] = {}
    for word in wording.bag & table.keys():
        kind, unit = table[word]
        found.setdefault(kind, set()).add(unit)
    text = wording.lower
    if "$" in text or not text.isascii():
        for symbol in _SYMBOLS.keys() & set(text):
            found.setdefault("money", set()).add(_SYMBOLS[symbol])
    if "may" in wording.bag or "march" in wording.bag:
        for one, other in _AS_MONTH.findall(" ".join(text.split())):
            found.setdefault("month", set()).add(one or other)
    attached = _attached()
    for short in () if not wording.digital else _ATTACHED.findall(text):
        kind, unit = attached[short.replace(".", "")]
        found.setdefault(kind, set()).add(unit)
    marked = "°" in text or "º" in text or not _MARKS.isdisjoint(wording.bag) or "a.m" in text or "p.m" in text
    for mark, word in _MARKED.findall(text) if marked else ():
        kind, unit = attached[(mark or word).replace(".", "")]
        found.setdefault(kind, set()).add(unit)
    return {kind: frozenset(units) for kind, units in found.items()}


def _of_a_number(asked: Wording, stored: Wording) -> bool:
    """Whether one number has units of two dimensions: 5 kg and 5 km."""
    if not (asked.digital and stored.digital):
        return False
    ours, theirs = _next_to_digits(asked), _next_to_digits(stored)
    return any(number in theirs and theirs[number] != unit for number, unit in ours.items())


def _next_to_digits(wording: Wording) -> dict[str, str]:
    table, attached = _units(), _attached()
    found: dict[str, str] = {}
    for word, after in zip(wording.words, wording.words[1:], strict=False):
        if word.isdigit() and (after in table or after in attached):
            found[word] = (table.get(after) or attached[after])[1]
    return found


@cache
def _units() -> dict[str, tuple[str, str]]:
    """Every word for a unit, and what it measures and stands for."""
    return {word: (row.split()[0], row.split()[1]) for row in lexicon.lines("units.txt") for word in row.split()[1:]}


@cache
def _attached() -> dict[str, tuple[str, str]]:
    return {
        word: (row.split()[0], row.split()[1]) for row in lexicon.lines("unit_signs.txt") for word in row.split()[2:]
    }


@cache
def units_and_dates() -> frozenset[str]:
    """Every word that is compared here, and so no name."""
    return frozenset(_units()) | frozenset(_attached()) | {"may", "march"}

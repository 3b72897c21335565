"""What a prompt looks like: cheap figures beside its vector, for the heads, the bandit and the drift alarm.

Any text, linear time: what is read is bounded, and every pattern is a run of characters of one class or a word from a
list. Knows no model, no vector and no policy.
"""

from __future__ import annotations

import re
from math import log1p

# Longer prompts are read at both ends: the task is stated at one of them.
_HEAD, _TAIL = 4_000, 2_000

NAMES = (
    "characters",
    "words",
    "word_length",
    "long_words",
    "variety",
    "digits",
    "numbers",
    "largest_number",
    "symbols",
    "code",
    "lines",
    "options",
    "option_length",
    "option_spread",
    "negations",
    "quantities",
    "reasons",
    "judgements",
    "questions",
    "capitals",
    "beyond_ascii",
    "stem_length",
)

_WORD = re.compile(r"[^\W\d_]+")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)?")
_OPTION = re.compile(r"^[ \t]{0,8}[(]?[A-Ha-h1-9][.):][ \t](.*)$", re.MULTILINE)
_SYMBOLS = b"+-*/=<>^%$|_\\"
_FURTHER_SYMBOLS = "€£√∑∫≤≥±×÷"
_CODE = b"{}[];`#"
_DIGITS, _CAPITALS = b"0123456789", b"ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_NEGATIONS = _words("not no except least never cannot neither nor false incorrect without none")
_QUANTITIES = _words(
    "each every half twice double triple per percent times total remaining left more less fewer third quarter"
    " average rate ratio than"
)
_REASONS = _words(
    "prove proof derive show why explain justify theorem lemma integral probability equation function group ring"
    " hence therefore diagnose diagnosis patient symptoms evaluate compare design implement"
)
_JUDGEMENTS = _words(
    "statement statements true wrong correct best likely following according both all above would should"
)


def features(prompt: str) -> tuple[float, ...]:
    """One figure for each of `NAMES`; all finite, counts as their logarithms, shares between 0 and 1."""
    text = prompt if len(prompt) <= _HEAD + _TAIL else f"{prompt[:_HEAD]}\n{prompt[-_TAIL:]}"
    words = [word.lower() for word in _WORD.findall(text)]
    options = [found.group(1) for found in _OPTION.finditer(text)]
    ascii = text.encode("ascii", "ignore")
    beyond = [] if len(ascii) == len(text) else [character for character in text if character > "\x7f"]
    return (
        log1p(len(prompt)),
        log1p(len(words)),
        _mean([len(word) for word in words]),
        _share(sum(len(word) > 8 for word in words), len(words)),
        _share(len(set(words)), len(words)),
        _share(_of(ascii, _DIGITS) + sum(map(str.isdigit, beyond)), len(text)),
        *_numbers(text),
        _share(_of(ascii, _SYMBOLS) + sum(character in _FURTHER_SYMBOLS for character in beyond), len(text)),
        _share(_of(ascii, _CODE), len(text)),
        log1p(text.count("\n")),
        log1p(len(options)),
        *_options(options),
        *(log1p(_among(words, kind)) for kind in (_NEGATIONS, _QUANTITIES, _REASONS, _JUDGEMENTS)),
        log1p(text.count("?")),
        _share(_of(ascii, _CAPITALS) + sum(map(str.isupper, beyond)), len(text)),
        _share(len(beyond), len(text)),
        log1p(max(0, len(text) - sum(map(len, options)))),
    )


def _numbers(text: str) -> tuple[float, float]:
    """How many there are, and the size of the largest; very long runs of digits count as 1e15."""
    found = _NUMBER.findall(text)
    sizes = [float(each.replace(",", ".")) if len(each) < 16 else 1e15 for each in found]
    return log1p(len(found)), log1p(max(sizes, default=0.0))


def _options(options: list[str]) -> tuple[float, float]:
    """The mean length of what can be chosen from, and how unequal the lengths are."""
    sizes = [log1p(len(option)) for option in options]
    return _mean(sizes), (max(sizes) - min(sizes) if sizes else 0.0)


def _among(words: list[str], kind: frozenset[str]) -> int:
    return sum(word in kind for word in words)


def _of(text: bytes, kind: bytes) -> int:
    """How many of these characters there are; ten times as fast as to look at each."""
    return len(text) - len(text.translate(None, kind))


def _mean(values: list[int] | list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0

"""What two questions have in common word by word: numbers for the verifier, beside its network and the cosine.

Symmetric: the order of the two never matters. Pure, and linear in the length; of long texts only the beginning is read
(the verifier does not compare long texts). Knows no weights: what the numbers mean was fitted (calibration.json).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise

READ = 2_000  # characters of each text

NAMES = (
    "words",  # shared words, as a share of all (Jaccard)
    "content",  # the same of words that are not too common
    "covered",  # the share of the shorter's content words that the longer has
    "grams",  # shared triples of letters
    "neighbours",  # shared pairs of adjacent words
    "fewest_alone",  # content words that only one side has, on the side that has fewer of them
    "most_alone",
    "letters_alone",  # letters of all of those, in tens
    "shortest",  # words of the shorter
    "length",  # shorter / longer, in words
    "opening",  # the first word is the same
    "ending",  # the last content word is the same
    "asking",  # the same question word, 0.5 where neither has one
    "numbers",  # numbers that one side alone has
    "names",  # capitalised words, past the first, that one side alone has in any form
    "negations",  # how far apart the counts of negations are
)

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")
_COMMON = frozenset(
    word
    for line in (
        "a an the is are was were be been am do does did can could should would will shall may might must have has had",
        "i you he she it we they me him her us them my your his its our their mine yours this that these those there",
        "here of in on at to for from with by about as into and or but if so than then what which who whom whose when",
        "where why how get some any much many more most very just best way good one s t",
    )
    for word in line.split()
)
_ASKING = frozenset(("what", "which", "who", "whom", "whose", "when", "where", "why", "how"))
_NEGATIONS = frozenset(("not", "no", "never", "without", "none", "nobody", "nothing", "cannot", "neither", "nor"))
_ENDINGS = ("ing", "edly", "ies", "ied", "ers", "ed", "es", "ly", "er", "s")


class Reading:
    """One question, read once."""

    def __init__(self, text: str) -> None:
        self.raw: list[str] = _WORD.findall(text[:READ].replace("\u2019", "'"))
        self.words = [_folded(word) for word in self.raw]
        self.bag = frozenset(self.words)
        self.content = [word for word in self.words if word not in _COMMON]
        self.content_bag = frozenset(self.content)
        self.negations = sum(word in _NEGATIONS or word.endswith("n't") for word in (raw.lower() for raw in self.raw))
        self.asking = next((word for word in self.words if word in _ASKING), None)

    @cached_property
    def grams(self) -> frozenset[str]:
        joined = " " + " ".join(self.words) + " "
        return frozenset(joined[at : at + 3] for at in range(len(joined) - 2))

    @cached_property
    def neighbours(self) -> frozenset[tuple[str, str]]:
        return frozenset(pairwise(["", *self.words, ""]))

    @cached_property
    def numbers(self) -> frozenset[str]:
        return frozenset(word for word in self.words if word[0].isdigit())

    @cached_property
    def names(self) -> frozenset[str]:
        return frozenset(_folded(word) for word in self.raw[1:] if word[0].isupper() and word != "I")


def features(asked: str, stored: str, cosine: float) -> list[float]:
    """The cosine and the values of NAMES, in that order."""
    return [cosine, *compared(Reading(asked), Reading(stored))]


def compared(a: Reading, b: Reading) -> list[float]:
    """The values of NAMES."""
    only_a, only_b = a.content_bag - b.content_bag, b.content_bag - a.content_bag
    fewer = min(len(a.content_bag), len(b.content_bag))
    short, long = sorted((len(a.words), len(b.words)))
    return [
        _shared(a.bag, b.bag),
        _shared(a.content_bag, b.content_bag),
        len(a.content_bag & b.content_bag) / fewer if fewer else 0.0,
        _shared(a.grams, b.grams),
        _shared(a.neighbours, b.neighbours),
        float(min(len(only_a), len(only_b))),
        float(max(len(only_a), len(only_b))),
        (sum(map(len, only_a)) + sum(map(len, only_b))) / 10,
        float(short),
        short / long if long else 1.0,
        float(a.words[:1] == b.words[:1]),
        float(a.content[-1:] == b.content[-1:]),
        0.5 if a.asking is None and b.asking is None else float(a.asking == b.asking),
        float(len(a.numbers ^ b.numbers)),
        float(len(a.names - b.bag) + len(b.names - a.bag)),
        float(abs(a.negations - b.negations)),
    ]


def _shared(a: frozenset[str] | frozenset[tuple[str, str]], b: frozenset[str] | frozenset[tuple[str, str]]) -> float:
    return len(a & b) / (len(a | b) or 1)


def _folded(word: str) -> str:
    """The word in lower case without a common ending: enough to find the same word again, no linguistics."""
    word = word.lower()
    word = word.removesuffix("'s")
    if len(word) > 4:
        for ending in _ENDINGS:
            if word.endswith(ending) and len(word) - len(ending) > 2:
                return word[: -len(ending)]
    return word


def names(extra: Sequence[str] = ()) -> tuple[str, ...]:
    """The names of `features`, after those of `extra`."""
    return (*extra, "cosine", *NAMES)

"""A word of one wording whose opposite stands in the other: "buy" and "sell", "legal" and "illegal", "cheapest" and
"most expensive".

Opposites are WordNet's, a list of our own for what it lacks, and those that prefixes and endings make.
"""

from __future__ import annotations

from functools import cache

from . import lexicon
from .stems import stem
from .wording import Wording, surplus

_DENYING = ("un", "in", "im", "ir", "il", "dis", "non", "de", "mis", "anti", "counter", "ab", "mal", "a")
_LEAST_REST = {"in": 4, "im": 4, "de": 4, "a": 5, "ab": 5, "mal": 5, "il": 4, "ir": 4}
_FACING = tuple(
    (row.split("/")[0], row.split("/")[1])
    for row in lexicon.row(
        """
        over/under up/down in/out pre/post en/de inter/intra up/off hyper/hypo macro/micro im/ex in/ex
        multi/single pro/anti on/off ante/post fore/back sub/super max/min ortho/hetero homo/hetero mono/poly
        endo/exo in/de as/de ac/de over/in on/un en/dis grand/great early/late inner/outer left/right
        """
    )
)


_HEADS = (*_DENYING, *(one for one, _ in _FACING))


def antonym(asked: Wording, stored: Wording) -> str | None:
    ours, theirs = surplus(asked, stored), surplus(stored, asked)
    if not ours or not theirs:
        return None
    known = _known()
    lemmas = _degrees()
    ours |= {lemmas[word] for word in ours & lemmas.keys()}
    theirs |= {lemmas[word] for word in theirs & lemmas.keys()}
    for word in ours:
        opposites = known.get(word)
        if opposites is not None and not opposites.isdisjoint(theirs):
            return "antonym"
    return "antonym" if _made(ours, theirs) or _made(theirs, ours) else None


def _made(ours: set[str], theirs: set[str]) -> bool:
    """Whether a word of ours is one of theirs with a denying prefix or ending, or one that faces its own."""
    for word in ours:
        if not word.startswith(_HEADS) and not word.endswith(("les", "less")):
            continue
        for prefix in _DENYING:
            if word.startswith(prefix):
                rest = word[len(prefix) :]
                if len(rest) >= _LEAST_REST.get(prefix, 3) and rest in theirs:
                    return True
        if word.endswith(("les", "less")):
            base = word[:-3] if word.endswith("les") else word[:-4]
            if len(base) > 2 and not {base, base + "ful", base + "y", base + "ed", stem(base + "ful")}.isdisjoint(
                theirs
            ):
                return True
        for one, other in _FACING:
            if word.startswith(one) and len(word) > len(one) + 2 and other + word[len(one) :] in theirs:
                return True
    return False


@cache
def _known() -> dict[str, frozenset[str]]:
    pairs: dict[str, set[str]] = {}
    unlike = {frozenset(row.split()) for row in lexicon.lines("no_opposites.txt")}
    for name in ("antonyms.txt", "opposites.txt"):
        for row in lexicon.lines(name):
            left, _, right = row.partition(" / ") if " / " in row else row.partition(" ")
            for one in left.split():
                for other in right.split():
                    if frozenset((one, other)) not in unlike:
                        a, b = stem(one), stem(other)
                        if a != b:
                            pairs.setdefault(a, set()).add(b)
                            pairs.setdefault(b, set()).add(a)
    return {word: frozenset(opposites) for word, opposites in pairs.items()}


@cache
def _degrees() -> dict[str, str]:
    """Comparatives and superlatives of short words that have an opposite, as stems, and what they are degrees of."""
    found: dict[str, str] = {}
    for word in [row for name in ("antonyms.txt", "opposites.txt") for row in lexicon.lines(name)]:
        for base in word.replace(" / ", " ").split():
            if 2 < len(base) < 8 and not base.endswith(("er", "est", "ing", "ed", "ly", "ness")):
                for ending in ("er", "est"):
                    found.setdefault(stem(_degree(base, ending)), stem(base))
    return {degree: base for degree, base in found.items() if degree != base and degree not in _NO_DEGREE}


_NO_DEGREE = lexicon.words(
    """
    user number paper power water enter offer under over after letter master matter other
    """
)


def _degree(base: str, ending: str) -> str:
    if base.endswith("y") and base[-2] not in "aeiou":
        return base[:-1] + "i" + ending
    if base.endswith("e"):
        return base + ending[1:]
    if base[-1] not in "aeiouwxy" and base[-2] in "aeiou" and base[-3] not in "aeiou":
        return base + base[-1] + ending
    return base + ending

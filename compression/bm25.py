"""Words that a question and a text share, weighed by how rare they are in this context: BM25.

It knows nothing of units, vectors or languages. Words are cut where Unicode ends them; scripts that are written
without spaces are cut into pairs of characters. The formula is in Robertson and Zaragoza (2009), section 3.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Kana, CJK ideographs, Thai, Lao, Khmer, Myanmar: no spaces between words. Hangul has spaces, but glues particles on.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
_RUN = re.compile(f"[{_UNSPACED}]+|[^\\W_{_UNSPACED}]+")
_IS_UNSPACED = re.compile(f"[{_UNSPACED}]")
_FIRST_UNSPACED = "\u0e00"
_STEM = 6  # characters: a prefix of this length stands for a word and its endings in every alphabet


def terms(text: str) -> list[str]:
    """The words of a text in order: case and accents folded, cut to stems, or pairs of characters."""
    found: list[str] = []
    for run in _RUN.findall(folded(text)):
        if run[0] >= _FIRST_UNSPACED and len(run) > 1 and _IS_UNSPACED.match(run):
            found += [run[at : at + 2] for at in range(len(run) - 1)]
        else:
            found.append(run[:_STEM])
    return found


def folded(text: str) -> str:
    """Lower case, without accents. ASCII needs no table."""
    lower = text.casefold()
    if lower.isascii():
        return lower
    parts = unicodedata.normalize("NFKD", lower)
    return unicodedata.normalize("NFC", "".join(mark for mark in parts if not unicodedata.combining(mark)))


def counts(query: Sequence[str], bags: Sequence[Mapping[str, int]]) -> Floats:
    """How often each text has each word of the query: shape (texts, words)."""
    return np.array([[bag.get(term, 0) for term in query] for bag in bags], dtype=np.float64).reshape(
        len(bags), len(query)
    )


def bag(found: Sequence[str]) -> Counter[str]:
    return Counter(found)


def bags(texts: Sequence[str]) -> list[Counter[str]]:
    return [bag(terms(text)) for text in texts]


def rarity(found: Floats | NDArray[np.bool_]) -> Floats:
    """What each word is worth, from how few of the texts have it: shape (words,); never below zero."""
    texts = len(found)
    having = (found > 0).sum(axis=0)
    return np.asarray(np.log1p((texts - having + 0.5) / (having + 0.5)), dtype=np.float64)


def weigh(found: Floats, lengths: Floats, worth: Floats, k1: float = 1.2, b: float = 0.75) -> Floats:
    """BM25 of each text, from `counts`, the texts' lengths in words and `rarity`: shape (texts,)."""
    usual = max(float(lengths.mean()), 1.0)
    damped = found * (k1 + 1) / (found + k1 * (1 - b + b * lengths / usual)[:, None])
    return np.asarray(damped @ worth, dtype=np.float64)

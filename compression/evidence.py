"""How much each unit bears on a question: words that they share, closeness of meaning, and what stands around it.

It knows what units and vectors are, not where either came from, and not how much may be kept: `conformal.py` decides.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from . import bm25
from .units import Unit

Floats = NDArray[np.float64]
Vectors = NDArray[np.float32] | NDArray[np.float64]

# Weights of the standardised parts, chosen on development data of three languages; see benchmarks/context_calibrate.py.
_WORDS, _MEANING, _AROUND, _DOCUMENT_WORDS, _DOCUMENT_MEANING = 0.7, 1.0, 0.5, 1.0, 1.0


def embedded_text(unit: Unit) -> str:
    """What a unit's vector must be of: a sentence alone often does not name what it is about, its heading does."""
    return f"{unit.heading}. {unit.text}" if unit.heading else unit.text


def scores(query: str, units: Sequence[Unit], query_vector: Vectors, vectors: Vectors) -> Floats:
    """One score a unit, higher is likelier evidence; comparable within one call.

    `vectors` are the unit-length vectors of `embedded_text(unit)`, one row a unit; `query_vector` that of the query.
    """
    if not units:
        return np.zeros(0)
    documents = _numbered([unit.document for unit in units])
    words, document_words = _shared_words(query, units, documents)
    meaning = np.asarray(vectors, dtype=np.float64) @ np.asarray(query_vector, dtype=np.float64)
    best = np.full(documents.max() + 1, -np.inf)
    np.maximum.at(best, documents, meaning)
    return (
        _WORDS * standard(words)
        + _MEANING * standard(meaning)
        + _AROUND * standard(_smoothed(meaning, documents))
        + _DOCUMENT_WORDS * standard(document_words[documents])
        + _DOCUMENT_MEANING * standard(best[documents])
    )


def standard(values: Floats) -> Floats:
    """Mean 0 and deviation 1; all zero where the values do not differ."""
    spread = float(values.std())
    return (values - values.mean()) / spread if spread > 1e-9 else np.zeros_like(values)


def _numbered(documents: Sequence[int]) -> NDArray[np.intp]:
    return np.unique(np.array(documents), return_inverse=True)[1]


def _shared_words(query: str, units: Sequence[Unit], documents: NDArray[np.intp]) -> tuple[Floats, Floats]:
    """BM25 of each unit, counting its heading's words as its own, and of each document, counting a heading once."""
    asked = list(dict.fromkeys(bm25.terms(query)))
    bags = bm25.bags([unit.text for unit in units])
    headings = {unit.heading: bag for unit, bag in zip(units, bm25.bags([unit.heading for unit in units]), strict=True)}
    own, lengths = bm25.counts(asked, bags), np.array([bag.total() for bag in bags], dtype=np.float64)
    above = bm25.counts(asked, [headings[unit.heading] for unit in units])
    first = np.unique(documents, return_index=True)[1]
    whole = np.zeros((len(first), len(asked)))
    np.add.at(whole, documents, own)
    whole += above[first]
    with_heading = own + above
    return (
        bm25.weigh(with_heading, lengths, bm25.rarity(with_heading)),
        bm25.weigh(whole, np.bincount(documents, lengths).astype(np.float64), bm25.rarity(whole)),
    )


def _smoothed(values: Floats, documents: NDArray[np.intp]) -> Floats:
    """Half a unit's own value, half the mean of its neighbours' in the same document."""
    same = documents[1:] == documents[:-1]
    total, count = np.zeros_like(values), np.zeros_like(values)
    total[1:] += np.where(same, values[:-1], 0.0)
    count[1:] += same
    total[:-1] += np.where(same, values[1:], 0.0)
    count[:-1] += same
    return np.where(count > 0, (values + total / np.maximum(count, 1)) / 2, values)

"""What can be measured of units and a question: shared words, closeness of meaning, surroundings, the kind of answer.

Some hundred scale-free numbers a unit, each by its name. Which of them count, and how much, `evidence.py` says.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from . import bm25, columns, cues
from .columns import Floats, Indices
from .units import Unit

Vectors = NDArray[np.float32] | NDArray[np.float64]

_GRAM = 4  # characters: parts of compounds and of inflected words that two texts share
_ACCENTED = re.compile("[À-ɏ]")
_FULLY_ACCENTED = 0.02  # share of such letters in a language that uses them
_LONG, _PART = 12, 6  # units: more than the one are taken as documents of the other
_SEPARATE = frozenset({"record", "row", "line"})
_CHECK_EVERY = 256  # units between two looks at the clock


class Measurer:
    """Units read once, for any number of questions. `check` is called now and then, and may raise."""

    def __init__(self, units: Sequence[Unit], check: Callable[[], None] = lambda: None) -> None:
        self.units = units
        self._terms, self._held, self._folded = [], [], []
        for at, unit in enumerate(units):
            if at % _CHECK_EVERY == 0:
                check()
            self._terms.append(bm25.terms(unit.text))
            self._held.append(cues.Held(unit.text))
            self._folded.append(bm25.folded(unit.text))
        self._bags = [bm25.bag(terms) for terms in self._terms]
        self._lengths = np.array([len(terms) for terms in self._terms], dtype=np.float64)
        self._documents = _parts(units)
        own = [unit.document for unit in units]
        self._begins = np.array([at == 0 or own[at] != own[at - 1] for at in range(len(own))], dtype=np.bool_)
        self._headings = {unit.heading: _Heading(unit.heading) for unit in units}
        self._accents = _accents("".join(unit.text for unit in units[:64]))

    def measure(self, query: str, query_vector: Vectors, vectors: Vectors) -> dict[str, Floats]:
        """Every measurement by name: one value a unit."""
        found = self._words(query)
        found |= self._meaning(np.asarray(vectors, dtype=np.float64), np.asarray(query_vector, dtype=np.float64))
        found |= self._places(found)
        found |= self._grams(query)
        found |= self._trust(query, found)
        return found | self._answers(query, found)

    def _words(self, query: str) -> dict[str, Floats]:
        """BM25 of units (a heading's words count as theirs) and documents, and shares of the question's words."""
        asked = list(dict.fromkeys(bm25.terms(query)))
        own = bm25.counts(asked, self._bags)
        above = bm25.counts(asked, [self._headings[unit.heading].bag for unit in self.units])
        both, documents = own + above, self._documents
        whole = self._summed(own) + above[np.unique(documents, return_index=True)[1]]
        lengths = np.bincount(documents, self._lengths).astype(np.float64)
        worth, document_worth = bm25.rarity(both), bm25.rarity(whole)
        around = both + columns.before(own, documents) + columns.after(own, documents)
        there = (whole > 0).any(axis=0)
        return {
            "words": columns.standard(bm25.weigh(both, self._lengths, worth)),
            "document_words": columns.standard(bm25.weigh(whole, lengths, document_worth)[documents]),
            "near_share": columns.share(around, worth * there),
            "document_share": columns.share(whole, document_worth * there)[documents],
            "any_share": columns.share(whole, np.ones(len(asked)))[documents],
            "pairs": self._pairs(query),
        }

    def _pairs(self, query: str) -> Floats:
        """The share of the question's neighbouring words that are neighbours here too, the rare ones counting more."""
        asked = bm25.terms(query)
        wanted = list(pairwise(asked))
        held = [set(pairwise(terms)) for terms in self._terms]
        found = np.array([[pair in one for pair in wanted] for one in held], dtype=np.float64)
        found = found.reshape(len(held), len(wanted))
        return columns.share(found, bm25.rarity(found) * found.any(axis=0))

    def _meaning(self, vectors: Floats, query: Floats) -> dict[str, Floats]:
        documents = self._documents
        close = vectors @ query
        spread = float(close.std()) + 1e-9
        best = columns.best(close, documents)
        means = self._summed(vectors * self._lengths[:, None] + 1e-12)
        means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
        return {
            "meaning": columns.standard(close),
            "cosine": close,
            "around": columns.standard(columns.smoothed(close, documents)),
            "below_best": (close - best[documents]) / spread,
            "document_best": columns.standard(best[documents]),
            "document_gap": (best[documents] - best.max()) / spread,
            "document_mean": columns.standard((means @ query)[documents]),
        }

    def _places(self, found: Mapping[str, Floats]) -> dict[str, Floats]:
        """Where a unit stands: in which document by rank, where in it, and how long it is."""
        documents = self._documents
        unit = 0.7 * found["words"] + found["meaning"] + 0.5 * found["around"]
        document = (
            columns.standard(columns.best(unit, documents)[documents])
            + found["document_words"]
            + found["document_best"]
        )
        by_document = columns.best(document, documents)
        rank = np.unique(np.round(-by_document, 6), return_inverse=True)[1]
        new = self._begins
        length = np.clip(np.log((self._lengths + 1) / 20), -2, 2)
        return {
            "document_rank": np.log1p(rank[documents]),
            "document_behind": document - by_document.max(),
            "length": length,
            "length_squared": length**2,
            "first": new.astype(np.float64),
            "second": np.concatenate([[False], new[:-1] & ~new[1:]]).astype(np.float64),
            "last": np.concatenate([new[1:], [True]]).astype(np.float64),
            "pronoun": np.array([held.pronoun for held in self._held], dtype=np.float64),
        }

    def _grams(self, query: str) -> dict[str, Floats]:
        """Shares of the question's longer words by their parts of four characters."""
        wanted = sorted(
            {
                word[at : at + _GRAM]
                for word in cues.WORD.findall(bm25.folded(query))
                for at in range(len(word) - _GRAM + 1)
            }
        )
        own = np.array([[gram in text for gram in wanted] for text in self._folded], dtype=np.float64)
        above = np.array(
            [[gram in self._headings[unit.heading].folded for gram in wanted] for unit in self.units], dtype=np.float64
        )
        shape = (len(self.units), len(wanted))
        own, above = own.reshape(shape), above.reshape(shape)
        both = np.maximum(own, above)
        whole = self._summed(both) > 0
        worth, document_worth = bm25.rarity(both) * both.any(axis=0), bm25.rarity(whole) * whole.any(axis=0)
        return {
            "grams": columns.standard(columns.share(both, worth)),
            "own_grams": columns.share(own, worth),
            "document_grams": columns.standard(columns.share(whole, document_worth)[self._documents]),
        }

    def _trust(self, query: str, found: Mapping[str, Floats]) -> dict[str, Floats]:
        """How far to trust the vectors: less where the words disagree, or the text is not the English that the bundled
        model reads."""
        agreed = float((found["words"] * found["meaning"]).mean())
        letters = [letter for letter in query if letter.isalpha()]
        foreign = sum(letter > "ɏ" for letter in letters) / max(len(letters), 1)
        accented = max(self._accents, 0.0) * (1 - foreign)
        by = {
            "agreed": (agreed, ("meaning", "document_best", "words", "around")),
            "foreign": (
                foreign,
                (
                    "meaning",
                    "document_best",
                    "words",
                    "document_words",
                    "grams",
                    "cosine",
                    "around",
                    "near_share",
                ),
            ),
            "accented": (accented, ("meaning", "document_best", "words", "document_words", "grams")),
        }
        out = {f"{how}*{name}": share * found[name] for how, (share, names) in by.items() for name in names}
        return out | {"foreign": np.full(len(self.units), foreign), "accented": np.full(len(self.units), accented)}

    def _answers(self, query: str, found: Mapping[str, Floats]) -> dict[str, Floats]:
        """What a unit holds, for each kind of question apart."""
        asked = cues.words(query)
        said = {heading: asked | cues.words(heading) for heading in self._headings}
        new = [held.beyond(query, said[unit.heading]) for held, unit in zip(self._held, self.units, strict=True)]
        counted = np.log1p(np.array(new, dtype=np.float64))
        always = np.array([held.always for held in self._held], dtype=np.float64)
        year, date, number, place, by, being, cause = always.T
        columns = (counted[:, 0], counted[:, 1], year, date, number, counted[:, 2], place, by, being, cause)
        held = dict(zip(cues.CUES, columns, strict=True)) | {name: found[name] for name in ("first", "length")}
        kinds = dict(zip(cues.KINDS, cues.kinds(query), strict=True))
        out = {f"{kind}:{name}": is_kind * values for kind, is_kind in kinds.items() for name, values in held.items()}
        return out | {"pronoun*near_share": found["pronoun"] * found["near_share"]}

    def _summed(self, rows: Floats) -> Floats:
        out = np.zeros((int(self._documents.max()) + 1, rows.shape[1]))
        np.add.at(out, self._documents, rows)
        return out


def _parts(units: Sequence[Unit]) -> Indices:
    """What counts as one document for each unit, numbered in order.

    Most of what tells evidence is said of documents, and was learnt on ones of a few sentences. So a long one is taken
    in parts, its sections where it has any, and every record, row and line for itself.
    """
    lengths = Counter(unit.document for unit in units)
    found: list[int] = []
    last: Unit | None = None
    filled = 0
    for unit in units:
        fresh = last is None or unit.document != last.document
        if last is not None and lengths[unit.document] > _LONG:
            fresh |= unit.kind in _SEPARATE or filled >= _PART or unit.heading != last.heading
        found.append((found[-1] if found else -1) + int(fresh))
        last, filled = unit, 1 if fresh else filled + 1
    return np.array(found, dtype=np.intp)


class _Heading:
    def __init__(self, text: str) -> None:
        self.bag = bm25.bag(bm25.terms(text))
        self.folded = bm25.folded(text)


def _accents(text: str) -> float:
    """0 for text without accented letters, 1 for as many as German or French have."""
    return min(len(_ACCENTED.findall(text)) / max(len(text), 1) / _FULLY_ACCENTED, 1.0)

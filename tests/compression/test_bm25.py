"""Words are cut the same way in every script, and BM25 prefers what is rare, frequent and short."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.compression import bm25


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("The Physics, physics!", ["the", "physic", "physic"]),
        ("Röntgen ROENTGEN", ["rontge", "roentg"]),
        ("谁是伯爵？", ["谁是", "是伯", "伯爵"]),
        ("在880年代", ["在", "880", "年代"]),
        ("Straße", ["strass"]),
        ("a_b-c", ["a", "b", "c"]),
        ("", []),
    ],
)
def test_terms(text: str, found: list[str]) -> None:
    assert bm25.terms(text) == found


def test_endings_are_folded_in_every_alphabet() -> None:
    assert bm25.terms("volcanoes") == bm25.terms("volcano eruptions")[:1]
    assert bm25.terms("столицами") == bm25.terms("столица")[:1]


@settings(deadline=None)
@given(st.text(max_size=200))
def test_terms_take_any_text(text: str) -> None:
    for term in bm25.terms(text):
        assert 0 < len(term) <= 6
        assert not any(letter.isspace() for letter in term)


def scores(query: str, texts: list[str]) -> list[float]:
    asked = bm25.terms(query)
    words = bm25.bags(texts)
    found = bm25.counts(asked, words)
    lengths = np.array([bag.total() for bag in words], dtype=np.float64)
    return bm25.weigh(found, lengths, bm25.rarity(found)).tolist()


def test_it_is_the_formula() -> None:
    """Worked by hand for one word: log1p(idf) x tf (k1 + 1) / (tf + k1 (1 - b + b length / usual))."""
    found = scores("comet", ["comet comet tail", "a dog barks"])
    idf = np.log1p((2 - 1 + 0.5) / 1.5)
    assert found == pytest.approx([idf * 2 * 2.2 / (2 + 1.2), 0.0])


def test_a_rare_word_counts_for_more_than_a_common_one() -> None:
    found = scores("the comet", ["the dog", "the cat", "comet here", "the the the"])
    assert max(found) == found[2]


def test_a_short_text_is_preferred_to_a_long_one() -> None:
    short, long = scores("comet", ["the comet", "the comet and many other things that nobody has asked about at all"])
    assert short > long


@settings(deadline=None)
@given(
    st.lists(st.text(alphabet="ab 谁是", max_size=20), min_size=1, max_size=6), st.text(alphabet="ab 谁是", max_size=10)
)
def test_scores_are_never_negative_and_zero_without_a_shared_word(texts: list[str], query: str) -> None:
    asked = set(bm25.terms(query))
    for text, score in zip(texts, scores(query, texts), strict=True):
        assert score >= 0
        assert (score > 0) == bool(asked & set(bm25.terms(text)))


@pytest.mark.parametrize("text", ["a" * 100_000, "谁" * 100_000, "a谁" * 50_000, "é" * 100_000, "_" * 100_000])
def test_an_odd_text_costs_no_more_than_its_length(text: str) -> None:
    begun = time.process_time()
    bm25.terms(text)
    assert time.process_time() - begun < 5  # a quadratic pattern would take minutes

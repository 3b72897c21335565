"""The unit that answers scores best, whatever the script, and odd input scores without an error."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.compression import conformal, cues, evidence
from trimtab.compression.units import Unit

FILLER = (
    "The harbour was rebuilt after a storm.",
    "Many visitors come to the market in autumn.",
    "Its library holds old maps of the coast.",
    "The river freezes in most winters.",
)


def unit(text: str, document: int = 0, heading: str = "") -> Unit:
    return Unit(text, heading, document, 0, len(text), "sentence")


def town(number: int) -> list[Unit]:
    return [unit(text, number, f"Town {number}") for text in FILLER]


def scored(hashed: Any, query: str, units: list[Unit]) -> np.ndarray:
    vectors = hashed.vectors([evidence.embedded_text(one) for one in units])
    return evidence.scores(query, units, hashed.vectors([query])[0], vectors)


@pytest.mark.parametrize(
    ("query", "fact"),
    [
        ("Who discovered the comet Halvorsen?", "The comet Halvorsen was discovered by Ludovika Brandt."),
        ("Wer entdeckte den Kometen Halvorsen?", "Der Komet Halvorsen wurde von Ludovika Brandt entdeckt."),
        ("谁发现了哈尔沃森彗星？", "卢多维卡·布兰特发现了哈尔沃森彗星。"),
    ],
)
def test_the_fact_is_best(hashed_words: Any, query: str, fact: str) -> None:
    units = [*town(0), unit(fact, 1, "Sky"), *town(2)]
    assert scored(hashed_words, query, units).argmax() == 4


@pytest.mark.parametrize(
    ("query", "better", "worse"),
    [
        ("when was the mill built", "The mill was built in 1874.", "The mill was built with care."),
        ("who built the mill", "The mill was built by Ada Kerr.", "The mill was built with care."),
        ("how many wheels has the mill", "The mill has 14 wheels.", "The mill has wooden wheels."),
    ],
)
def test_what_is_asked_for_tips_the_scales(hashed_words: Any, query: str, better: str, worse: str) -> None:
    units = [*town(0), unit(worse, 1), unit(better, 2), *town(3)]
    found = scored(hashed_words, query, units)
    assert found[5] > found[4]


def test_a_heading_counts_for_its_units(hashed_words: Any) -> None:
    fact = "It was discovered by Ludovika Brandt."
    units = [*town(0), unit(fact, 1, "Ernst Holm"), unit(fact, 2, "Comet Halvorsen"), *town(3)]
    assert scored(hashed_words, "Who discovered the comet Halvorsen?", units).argmax() == 5


def test_what_is_embedded_names_the_heading() -> None:
    assert evidence.embedded_text(unit("It shone.", heading="Comet")) == "Comet. It shone."
    assert evidence.embedded_text(unit("It shone.")) == "It shone."


def test_the_best_score_tells_whether_there_is_evidence(hashed_words: Any) -> None:
    query = "Who discovered the comet Halvorsen?"
    fact = unit("The comet Halvorsen was discovered by Ludovika Brandt.", 1, "Comet Halvorsen")
    with_it = scored(hashed_words, query, [*town(0), fact, *town(2)])
    without = scored(hashed_words, query, [*town(0), *town(2)])
    assert with_it.max() > without.max() + 1


def test_a_reader_asked_twice_says_the_same(hashed_words: Any) -> None:
    units = [*town(0), unit("The comet Halvorsen was bright.", 1)]
    vectors = hashed_words.vectors([evidence.embedded_text(one) for one in units])
    reader = evidence.Reader(units)
    for query in ("Which comet was bright?", "Does the river freeze?"):
        asked = hashed_words.vectors([query])[0]
        assert (reader.scores(query, asked, vectors) == evidence.scores(query, units, asked, vectors)).all()


def test_every_weight_that_ships_is_measured(hashed_words: Any) -> None:
    units = town(0)
    reader = evidence.Reader(units)
    query = hashed_words.vectors(["where"])[0]
    found = reader.measure("where", query, hashed_words.vectors([one.text for one in units]))
    names = {*found, *evidence.context(np.zeros(4), found)}
    assert set(conformal.shipped().weights) <= names
    assert all(values.shape == (4,) and np.isfinite(values).all() for values in found.values())


def test_the_clock_is_looked_at(hashed_words: Any) -> None:
    class Late(Exception):
        pass

    def late() -> None:
        raise Late

    with pytest.raises(Late):
        evidence.Reader(town(0), late)


@settings(deadline=None)
@given(
    texts=st.lists(st.text(max_size=60), min_size=1, max_size=8),
    query=st.text(max_size=40),
    documents=st.lists(st.integers(0, 3), min_size=8, max_size=8).map(sorted),
    seed=st.integers(0, 9),
)
def test_any_text_scores_finite(texts: list[str], query: str, documents: list[int], seed: int) -> None:
    units = [unit(text, document) for text, document in zip(texts, documents, strict=False)]
    vectors = np.random.default_rng(seed).normal(size=(len(units) + 1, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    found = evidence.scores(query, units, vectors[-1], vectors[:-1])
    assert found.shape == (len(units),)
    assert np.isfinite(found).all()


def test_no_units_no_scores() -> None:
    assert evidence.scores("who", [], np.zeros(4), np.zeros((0, 4))).shape == (0,)


@pytest.mark.parametrize(
    "text",
    ["A'" * 50_000, "Aa " * 33_000, "1," * 50_000, "in " * 33_000, "is A" * 25_000, "谁" * 100_000, "A. " * 33_000],
)
def test_an_odd_unit_costs_no_more_than_its_length(hashed_words: Any, text: str) -> None:
    units = [unit(text), unit("The comet Halvorsen was bright.", 1)]
    vectors = hashed_words.vectors(["a", "b"])
    begun = time.process_time()
    evidence.scores("who is A " + text[:2000], units, vectors[0], vectors)
    assert time.process_time() - begun < 10  # a quadratic pattern would take minutes


@pytest.mark.parametrize(
    ("question", "kind"),
    [
        ("Who wrote it?", "who"),
        ("In which year did it end?", "when"),
        ("Wann endete es?", "when"),
        ("Where is Assam?", "where"),
        ("How many people came?", "many"),
        ("Wie viele kamen?", "many"),
        ("Why did it fail?", "why"),
        ("这是什么时候？", "when"),
        ("谁来了？", "who"),
        ("Кто это?", "other"),
    ],
)
def test_kinds_of_questions(question: str, kind: str) -> None:
    assert dict(zip(cues.KINDS, cues.kinds(question), strict=True))[kind]

"""Where sentences end: nothing lost, hard cases whole, linear on hostile texts."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.compression.sentences import sentences


def cut(text: str) -> list[str]:
    return [text[start:end] for start, end in sentences(text)]


@pytest.mark.parametrize(
    "expected",
    [
        ["Dr. Smith met J. R. R. Tolkien at 5 p.m. on Jan. 3.", "They talked."],
        ["It costs 3.50 dollars.", "See https://example.com/a.b?c=d. for more."],
        ['She said "Stop!" and left.', '"Why?" he asked.', "Nobody knew."],
        ["Am 3. Oktober wurde z. B. gefeiert.", "Der 2. Weltkrieg endete 1945.", "Danach kam der Frieden."],
        ["Der Verein wurde im 19. Jahrhundert gegründet.", "Er besteht noch."],
        ["Wait... what happened?", "Nothing!"],
        ["Acme Inc. makes anvils.", "He works for Acme Inc.", "The firm is old."],
        ["In 1990.", "That was late."],
        ["¿Dónde está?", "Aquí."],
    ],
)
def test_spaced(expected: list[str]) -> None:
    assert cut(" ".join(expected)) == expected


def test_scripts_without_spaces() -> None:
    assert cut("北京是首都。它很大！真的吗？“是的。”他说。") == [
        "北京是首都。",
        "它很大！",
        "真的吗？",
        "“是的。”",
        "他说。",
    ]


def test_hindi_and_arabic() -> None:
    assert cut("यह एक है। यह दो है।") == ["यह एक है।", "यह दो है।"]
    assert len(cut("هل أنت هنا؟ نعم أنا هنا.")) == 2


TEXTS = st.text(alphabet=st.sampled_from("aB1 .!?…。！\n\"')]é中"), max_size=200)


@given(TEXTS)
def test_covers_everything_but_white_space(text: str) -> None:
    found = sentences(text)
    at = 0
    for start, end in found:
        assert not text[at:start].strip()
        assert text[start:end] == text[start:end].strip() != ""
        at = end
    assert not text[at:].strip()


@given(TEXTS, st.integers(0, 50), st.integers(0, 50))
def test_a_part_is_cut_within_its_bounds(text: str, skip: int, leave: int) -> None:
    end = max(0, len(text) - leave)
    start = min(skip, end)
    assert all(start <= a < b <= end for a, b in sentences(text, start, end))


@pytest.mark.parametrize("piece", [".", "!x", "a. ", "1. ", "der 1. A", ".\n", '."', "[...] ", ". " + " " * 99, "“"])
def test_hostile_texts_cost_no_more_than_their_length(piece: str) -> None:
    before = time.perf_counter()
    sentences((piece * 200_000)[:200_000])
    # Linear is a tenth of a second; to look back over the text from every mark would be minutes.
    assert time.perf_counter() - before < 10

"""Counting: never a download, exact where the vocabulary is here, close and said to be an estimate where it is not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.protocol import tokens

TEXTS = {
    "english": "The quick brown fox jumps over the lazy dog. " * 20,
    "code": "def add(a: int, b: int) -> int:\n    return a + b\n" * 20,
    "german": "Die Geschwindigkeit der Verarbeitung hängt von der Länge der Eingabe ab. " * 20,
    "chinese": "模型的大小决定了它需要多少内存。" * 20,
    "numbers": "On 2024-03-17 we sold 12,345 units at 9.99 each. " * 20,
}


@given(st.text(), st.text())
def test_an_estimate_is_never_negative_and_grows_with_the_text(a: str, b: str) -> None:
    assert 0 <= tokens.estimate(a) <= len(a.encode()) + 1
    assert tokens.estimate(a + " " + b) >= tokens.estimate(a) - 1


@pytest.mark.parametrize("kind", TEXTS)
def test_a_long_text_counts_as_its_pieces_do(kind: str) -> None:
    """It is counted window by window: a word may be cut at each window's end, and no more."""
    text = TEXTS[kind] * (100_000 // len(TEXTS[kind]))
    each = [tokens.estimate(text[at : at + 10_000]) for at in range(0, len(text), 10_000)]
    assert abs(tokens.estimate(text) - sum(each)) <= 3 * len(each)
    short = [tokens.estimate(text[at : at + 500]) for at in range(0, 10_000, 500)]
    assert abs(each[0] - sum(short)) <= 2 * len(short)


@pytest.mark.parametrize("kind", TEXTS)
def test_the_rule_is_near_the_real_tokenizer(kind: str) -> None:
    counted, exact = tokens.count(TEXTS[kind], "gpt-4o")
    if not exact:
        pytest.skip("tiktoken's o200k vocabulary is not on this machine")
    assert abs(tokens.estimate(TEXTS[kind]) - counted) <= 0.3 * counted


@pytest.mark.parametrize(
    ("model", "family"),
    [
        ("gpt-4o-mini", "o200k_base"),
        ("openai/gpt-4.1", "o200k_base"),
        ("o3", "o200k_base"),
        ("gpt-4-turbo", "cl100k_base"),
        ("text-embedding-3-small", "cl100k_base"),
        ("claude-sonnet-4-5", None),
        ("smollm2", None),
        ("", None),
    ],
)
def test_families(model: str, family: str | None) -> None:
    assert tokens.family(model) == family


def test_an_unknown_model_is_an_estimate() -> None:
    assert tokens.count("hello there", "somebody-elses-model") == (tokens.estimate("hello there"), False)

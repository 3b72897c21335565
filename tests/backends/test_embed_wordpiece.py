"""BERT's word pieces from the vocabulary in the package: the ids that the model's own tokenizer.json gives."""

from __future__ import annotations

import gzip
import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("tokenizers")

from tokenizers import Tokenizer

from trimtab.backends.embed_text import MOST_CHARS, readable
from trimtab.backends.embed_wordpiece import Pieces, bert_uncased

ROOT = Path(__file__).resolve().parent.parent.parent
MODELS = Path(os.environ.get("TRIMTAB_MODELS", Path.home() / ".cache/trimtab/models"))
TOKENIZER = MODELS / "all-MiniLM-L6-v2" / "tokenizer.json"

OURS = Pieces(bert_uncased(), 256)

# What the model's own tokenizer.json gives for these, so that the test needs no file.
KNOWN = {
    "": [101, 102],
    "hello world": [101, 7592, 2088, 102],
    "Hello, WORLD!": [101, 7592, 1010, 2088, 999, 102],
    "unaffable naïve Café": [101, 14477, 20961, 3468, 15743, 7668, 102],
    "東京 tower 123.45": [101, 1879, 1755, 3578, 13138, 1012, 3429, 102],
    "x" * 101: [101, 100, 102],
    "\u200bzero\x00width\ufffd": [101, 5717, 9148, 11927, 2232, 102],
    "[CLS] a [MASK] b": [101, 101, 1037, 103, 1038, 102],
}


@pytest.mark.parametrize(("text", "ids"), KNOWN.items())
def test_known_texts(text: str, ids: list[int]) -> None:
    assert OURS.read([text]) == [ids]


@pytest.fixture(scope="module")
def theirs() -> Pieces:
    if not TOKENIZER.is_file():
        pytest.skip(f"needs {TOKENIZER.name} of all-MiniLM-L6-v2")
    return Pieces(Tokenizer.from_file(str(TOKENIZER)), 256)


SCRIPTS = [
    "Der Äpfel wegen fuhr Frau Müller-Lüdenscheidt für 12,50 € nach Köln; daß sie’s tat …",
    "Привет, мир! Ёлка и йод.",
    "今日は東京で会議があります。ガギグゲゴ ｶﾞｷﾞ",
    "안녕하세요 세계 — 각자의 길",
    "مرحبا بالعالم، كيف حالُكَ؟",
    "नमस्ते दुनिया क्षत्रिय",
    "สวัสดีชาวโลก",
    "Ελληνικά: Ὀδυσσεύς ΣΊΣΥΦΟΣ",
    "İstanbul ıi ǅ ﬁne ﬀ Ⅷ ½",
    "👩‍👩‍👧‍👦 🇩🇪 emoji\u200d e\u0301 \u0301alone",
    "def f(x: int) -> str:\n\treturn f'{x!r}' # ok\r\n",
    "https://example.org/a?b=c&d=%20#e user@example.org 2024-11-21T07:15:28Z",
    "a\u00adb c\u2028d\u0085e\ufeff \ue000 \U000e0041",
    "𝕳𝖊𝖑𝖑𝖔 𠮷野家 \U0002f800",
    "don't rock-n-roll _under_score_ ``quotes'' «guillemets»",
    "word " * 400,
    "東" * 400,
]


@pytest.mark.parametrize("text", SCRIPTS)
def test_every_script(theirs: Pieces, text: str) -> None:
    assert OURS.read([text]) == theirs.read([text])


@given(st.lists(st.text(max_size=80), max_size=4))
def test_any_text(theirs: Pieces, texts: list[str]) -> None:
    assert OURS.read(texts) == theirs.read(texts)


def test_the_vocabulary_is_the_published_one() -> None:
    packed = (ROOT / "backends/vocabulary/bert-uncased.txt.gz").read_bytes()
    text = gzip.decompress(packed)
    assert hashlib.sha256(text).hexdigest() == "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"
    assert b"Apache License" in (ROOT / "backends/vocabulary/README.md").read_bytes()


@given(st.text(st.characters(), max_size=50), st.integers(2, 40))
def test_never_more_than_the_window_and_never_an_error(text: str, window: int) -> None:
    [ids] = Pieces(bert_uncased_once(), window).read([text])
    assert 2 <= len(ids) <= window
    assert (ids[0], ids[-1]) == (101, 102)


def bert_uncased_once(made: list[Tokenizer] = []) -> Tokenizer:  # noqa: B006 - one for all examples
    if not made:
        made.append(bert_uncased())
    return made[0]


def test_a_cut_text_keeps_its_beginning() -> None:
    words = [f"word{i}" for i in range(500)]
    [whole] = Pieces(bert_uncased(), 5000).read([" ".join(words)])
    [cut] = OURS.read([" ".join(words)])
    assert cut == [*whole[:255], 102]


def test_only_the_beginning_of_a_huge_text_is_looked_at() -> None:
    assert len(readable("x" * 10**7)) == MOST_CHARS
    assert OURS.read([" " * 10**7 + "unseen"]) == [[101, 102]]


@given(st.text(st.characters(), max_size=30))
def test_readable_leaves_a_sound_text_alone_and_mends_the_others(text: str) -> None:
    mended = readable(text)
    mended.encode()
    if not any("\ud800" <= c <= "\udfff" for c in text):
        assert mended == text


def test_surrogates_that_belong_together_become_their_character() -> None:
    assert readable("\ud83d\ude00 \ud83d") == "😀 \ufffd"

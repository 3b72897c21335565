"""Text to tokens and back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.backends.engine.gguf import GGUF
from trimtab.backends.engine.tokenizer import Detokenizer, Tokenizer
from trimtab.protocol.errors import ModelUnavailable


@pytest.fixture(scope="module")
def tokenizer(tiny):
    return Tokenizer(GGUF(tiny).metadata)


@given(st.text())
def test_text_survives(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


@given(st.lists(st.sampled_from(["<|im_end|>", "<|im_start|>", "<|im", "_end|>", "<", "|>", "a", " "])).map("".join))
def test_users_cannot_write_control_tokens(tokenizer, text):
    assert not set(tokenizer.encode(text)) & set(tokenizer.control.values())


def test_merges_are_used(tokenizer):
    assert [tokenizer.text(t) for t in tokenizer.encode("hello world")] == ["hello", " world"]


def test_digits_stay_single_as_this_model_was_trained(tokenizer):
    assert len(tokenizer.encode("12")) == 2


@given(st.lists(st.integers(0, 269)))
def test_pieces_are_whole_characters_and_add_up(tokenizer, ids):
    detokenizer = Detokenizer(tokenizer)
    pieces = [detokenizer.feed(i) for i in ids]
    assert "".join(pieces) + detokenizer.flush() == tokenizer.decode(ids)


def test_half_a_character_is_never_emitted(tokenizer):
    detokenizer = Detokenizer(tokenizer)
    ids = tokenizer.encode("🙂")
    assert len(ids) == 4
    assert [detokenizer.feed(i) for i in ids] == ["", "", "", "🙂"]


@given(st.text())
def test_the_lower_bound_holds(tokenizer, text):
    assert tokenizer.least_tokens(text) <= len(tokenizer.encode(text))


def test_an_unknown_split_is_named(write_gguf):
    with pytest.raises(ModelUnavailable, match="klingon"):
        Tokenizer(GGUF(write_gguf(**{"tokenizer.ggml.pre": "klingon"})).metadata)


def test_another_kind_of_tokenizer_is_named(write_gguf):
    with pytest.raises(ModelUnavailable, match="bert"):
        Tokenizer(GGUF(write_gguf(**{"tokenizer.ggml.model": "bert"})).metadata)

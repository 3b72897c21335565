"""Text to tokens and back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.backends.engine.checkpoint import Vocabulary
from trimtab.backends.engine.gguf import GGUF
from trimtab.backends.engine.gguf_checkpoint import vocabulary_of
from trimtab.backends.engine.tokenizer import Detokenizer, Tokenizer
from trimtab.protocol.errors import ModelUnavailable


@pytest.fixture(scope="module")
def tokenizer(tiny):
    return Tokenizer(vocabulary_of(GGUF(tiny).metadata))


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
        Tokenizer(vocabulary_of(GGUF(write_gguf(**{"tokenizer.ggml.pre": "klingon"})).metadata))


@pytest.mark.parametrize("pre", ["{{{", "{}", '{"type": "Klingon"}', "{" * 5000])
def test_a_damaged_split_is_an_error(tiny, pre):
    with pytest.raises(ModelUnavailable, match="splits words"):
        Tokenizer(vocabulary_of(GGUF(tiny).metadata | {"tokenizer.ggml.pre": pre}))


def test_another_kind_of_tokenizer_is_named(write_gguf):
    with pytest.raises(ModelUnavailable, match="bert"):
        vocabulary_of(GGUF(write_gguf(**{"tokenizer.ggml.model": "bert"})).metadata)


@pytest.mark.parametrize(("key", "value"), [("tokens", "x"), ("tokens", [1, 2]), ("token_type", [3]), ("merges", 7)])
def test_a_damaged_vocabulary_is_an_error(tiny, key, value):
    with pytest.raises(ModelUnavailable, match="damaged"):
        vocabulary_of(GGUF(tiny).metadata | {f"tokenizer.ggml.{key}": value})


def test_merges_of_unknown_tokens_are_an_error(tiny):
    vocabulary = vocabulary_of(GGUF(tiny).metadata)
    with pytest.raises(ModelUnavailable, match="damaged"):
        Tokenizer(Vocabulary(vocabulary.texts, [("q", "q")], "smollm", vocabulary.control))


@pytest.fixture(scope="module")
def marked(tiny):
    """A tokenizer with the marker <tool_call>."""
    metadata = GGUF(tiny).metadata
    kinds = [*metadata["tokenizer.ggml.token_type"], 4]
    more = {"tokenizer.ggml.tokens": [*metadata["tokenizer.ggml.tokens"], "<tool_call>"]}
    return Tokenizer(vocabulary_of(metadata | more | {"tokenizer.ggml.token_type": kinds}))


def test_a_marker_has_text_but_users_cannot_write_it(marked):
    token = marked.placed["<tool_call>"]
    assert token not in marked.encode("a <tool_call> b")
    assert marked.decode(marked.encode("a <tool_call> b")) == "a <tool_call> b"
    assert Detokenizer(marked).feed(token) == "<tool_call>"
    assert "<tool_call>" not in marked.control


# Words as these models were trained to cut them; None: as in GPT-2.
CUTS = {
    "qwen2": ["It", "'s", " ", "2", "0", "2", "6", ",", " naïve", " 東京", "!!", "\n\n", " ", " x"],
    "llama-bpe": ["It", "'s", " ", "202", "6", ",", " naïve", " 東京", "!!", "\n\n", " ", " x"],
    "gpt-2": ["It", "'s", " 2026", ",", " naïve", " 東京", "!!", "\n\n ", " x"],
}


@pytest.mark.parametrize("split", CUTS)
def test_words_are_cut_as_the_model_was_trained(tiny, split):
    """Every word of more than one letter is made a token, so that the tokens are the words."""
    vocabulary, words = vocabulary_of(GGUF(tiny).metadata), CUTS[split]
    letters = {b: t for t, b in byte_letters()}
    texts, merges = list(vocabulary.texts), []
    for word in words:
        grown = ""
        for letter in (letters[b] for b in word.encode()):
            if grown:
                merges.append((grown, letter))
                texts.append(grown + letter)
            grown += letter
    texts = list(dict.fromkeys(texts))
    tokenizer = Tokenizer(Vocabulary(texts, list(dict.fromkeys(merges)), split, vocabulary.control))
    assert [tokenizer.text(t) for t in tokenizer.encode("".join(words))] == words


def byte_letters():
    plain = set(range(33, 127)) | set(range(161, 173)) | set(range(174, 256))
    spare = 256
    for b in range(256):
        yield (chr(b) if b in plain else chr(spare)), b
        spare += b not in plain


@pytest.mark.parametrize("split", ["qwen2", "llama-bpe", "smollm", "gpt-2"])
@pytest.mark.parametrize("piece", [" ", "\n", "a", "1", "'", "'s", " \n", "é", "🙂", "<|im_", "a "])
def test_a_hundred_thousand_letters_are_read_at_once(tiny, split, piece):
    vocabulary = vocabulary_of(GGUF(tiny).metadata)
    tokenizer = Tokenizer(Vocabulary(vocabulary.texts, vocabulary.merges, split, vocabulary.control))
    text = piece * (100_000 // len(piece))
    assert tokenizer.decode(tokenizer.encode(text)) == text


@given(st.text(), st.text())
def test_the_answer_does_not_depend_on_how_the_prompt_ended(tokenizer, prompt, answer):
    """An answer's first piece is its own: a prompt that ends in half a character lends it no bytes."""
    ids = tokenizer.encode(prompt + "🙂")[:-1]
    detokenizer = Detokenizer(tokenizer)
    pieces = [detokenizer.feed(i) for i in tokenizer.encode(answer)]
    assert len(ids) >= 3
    assert "".join(pieces) + detokenizer.flush() == answer


def test_no_character_comes_twice_or_is_dropped_at_the_end(tokenizer):
    detokenizer = Detokenizer(tokenizer)
    text = "漢字かな" * 50
    ids = tokenizer.encode(text)
    assert "".join(map(detokenizer.feed, ids)) == text
    assert detokenizer.flush() == ""
    detokenizer = Detokenizer(tokenizer)
    assert "".join(map(detokenizer.feed, ids[:-1])) + detokenizer.flush() == text[:-1] + "\ufffd"

"""Text to token ids and back, from a checkpoint's vocabulary and merges (byte-level BPE).

What users write never becomes a control token or a marker: neither is in the vocabulary that `encode` uses. Only
`template.py` places them. Knows nothing of chats or of the model.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable
from typing import Any

from tokenizers import Regex, models, pre_tokenizers
from tokenizers import Tokenizer as Bpe

from ...protocol.errors import ModelUnavailable
from .checkpoint import Vocabulary

# The splits that models were trained with, by the name GGUF files give them: facts of each model.
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_GPT2 = ("default", "gpt-2", "gpt2", "olmo", "mpt")
_SINGLE_DIGITS = ("smollm", "starcoder", "refact", "command-r", "codeshell")
_WHOLE_WORDS = ("llama-bpe", "llama3", "llama-v3")  # a word that is a token is that token, merges or not
_PATTERNS = {"llama-bpe": _LLAMA3, "llama3": _LLAMA3, "llama-v3": _LLAMA3, "qwen2": _QWEN2, "deepseek-r1-qwen": _QWEN2}

# Tokens that end an answer, whatever the file names as its one end token.
_ENDS = ("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>", "<|end|>", "<|eom_id|>")


class Tokenizer:
    """A model's tokenizer. `placed` has the id of each token that only a template may place, by its text, `control`
    those of them that have no text in an answer; `ends` are the ids that end an answer."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        """Raises ModelUnavailable when the merges do not fit the tokens, or words are split in an unknown way."""
        texts, control = vocabulary.texts, vocabulary.control
        hidden = control | vocabulary.markers
        self.size = len(texts)
        self.control = {texts[i]: i for i in sorted(control)}
        self.placed = {texts[i]: i for i in sorted(hidden)}
        self.bytes = [b"" if i in control else _to_bytes(text) for i, text in enumerate(texts)]
        self.longest = max((len(b) for b in self.bytes), default=1)
        self.ends = vocabulary.ends | {self.control[t] for t in _ENDS if t in self.control}
        self.bos = self.control.get("<|endoftext|>", vocabulary.begin)
        self.starts_with_bos = vocabulary.add_begin
        self.begin, self.end = (None if i is None else texts[i] for i in (vocabulary.begin, vocabulary.end))
        self._texts = texts
        self._bpe = _bpe(vocabulary, {t: i for i, t in enumerate(texts) if i not in hidden})

    def encode(self, text: str) -> list[int]:
        """The ids of plain text; never a control token, whatever the text says."""
        ids: list[int] = self._bpe.encode(text, add_special_tokens=False).ids
        return ids

    def encode_places(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """`encode`, and where each token stands: (start, end) in characters; several may share a character."""
        encoded = self._bpe.encode(text, add_special_tokens=False)
        return encoded.ids, encoded.offsets

    def decode(self, ids: Iterable[int]) -> str:
        """The text of whole answers; control tokens have none."""
        return b"".join(self.bytes[i] for i in ids).decode("utf-8", "replace")

    def text(self, token: int) -> str:
        """One token as people read it, control tokens by their name."""
        return self.bytes[token].decode("utf-8", "replace") or self._texts[token]

    def described(self) -> dict[str, Any]:
        """The content of a tokenizer.json that says the same."""
        whole: dict[str, Any] = json.loads(self._bpe.to_str())
        plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
        whole["added_tokens"] = [
            {"id": i, "content": text, "special": text in self.control, **plain} for text, i in self.placed.items()
        ]
        return whole | {
            "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
        }

    def least_tokens(self, text: str) -> int:
        """A lower bound of `len(encode(text))` that costs nothing: refuses a huge prompt before it is encoded."""
        return len(text.encode("utf-8", "replace")) // self.longest


class Detokenizer:
    """Text of a growing answer, piece by piece; never half a character."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._bytes = tokenizer.bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, token: int) -> str:
        return self._decoder.decode(self._bytes[token])

    def flush(self) -> str:
        """What is left of a character that was cut off: U+FFFD, as decoding the whole answer gives."""
        return self._decoder.decode(b"", final=True)


def _bpe(vocabulary: Vocabulary, ids: dict[str, int]) -> Any:
    ignore = vocabulary.whole_words or vocabulary.split in _WHOLE_WORDS
    try:
        bpe = Bpe(models.BPE(vocab=ids, merges=vocabulary.merges, ignore_merges=ignore))
    except Exception as e:  # the library raises bare Exception
        raise ModelUnavailable("the weights' tokenizer is damaged", detail=str(e)) from e
    bpe.pre_tokenizer = _splits(vocabulary.split)
    return bpe


def _splits(pre: str) -> Any:
    if pre.startswith("{"):
        return _described(pre)
    if pre in _GPT2:
        return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if pre in _SINGLE_DIGITS:
        digits = pre_tokenizers.Digits(individual_digits=True)
        return pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    if pre in _PATTERNS:
        words = pre_tokenizers.Split(Regex(_PATTERNS[pre]), "isolated")
        return pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    raise ModelUnavailable(f"the weights' tokenizer splits words as '{pre}', which the engine does not know")


def _described(description: str) -> Any:
    """A pre-tokenizer as tokenizer.json describes it."""
    model = {"type": "BPE", "vocab": {}, "merges": []}
    try:
        whole = {"version": "1.0", "pre_tokenizer": json.loads(description), "model": model}
        return Bpe.from_str(json.dumps(whole)).pre_tokenizer
    except Exception as e:  # the library raises bare Exception
        raise ModelUnavailable("the weights' tokenizer splits words in an unknown way", detail=str(e)) from e


def _alphabet() -> dict[str, int]:
    """GPT-2's printable stand-in for each byte: itself where printable, else the next free code from 256 on."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [b for b in range(256) if b not in plain]
    return {chr(b): b for b in plain} | {chr(256 + i): b for i, b in enumerate(rest)}


_BYTE_OF = _alphabet()


def _to_bytes(token: str) -> bytes:
    # A token outside the alphabet is one that was added in plain text.
    return bytes(_BYTE_OF[c] for c in token) if all(c in _BYTE_OF for c in token) else token.encode()

"""Texts as BERT's word pieces, cut to a model's window: the tokenizer of the bundled MiniLM, or any tokenizer.json.

The same ids as the model's own tokenizer.json gives (tests/backends/test_embed_wordpiece.py holds them against it).
"""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing

from ..protocol.errors import ModelUnavailable
from .embed_text import readable

_VOCABULARY = Path(__file__).parent / "vocabulary" / "bert-uncased.txt.gz"
_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def bert_uncased() -> Tokenizer:
    """BERT's own, from the vocabulary that ships with this package."""
    pieces = gzip.decompress(_VOCABULARY.read_bytes()).decode().splitlines()
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    model = WordPiece(vocabulary, unk_token=_SPECIAL[1], max_input_chars_per_word=100)
    tokenizer = Tokenizer(model)
    tokenizer.add_special_tokens(_SPECIAL)
    tokenizer.normalizer = BertNormalizer(
        clean_text=True, handle_chinese_chars=True, strip_accents=None, lowercase=True
    )
    tokenizer.pre_tokenizer = BertPreTokenizer()
    ends = [(name, vocabulary[name]) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    return tokenizer


class Pieces:
    """A tokenizer with a window: never more ids than that, special ones included."""

    def __init__(self, tokenizer: Tokenizer, window: int) -> None:
        tokenizer.no_padding()
        tokenizer.enable_truncation(window)
        self._tokenizer = tokenizer

    @classmethod
    def from_file(cls, path: Path, window: int) -> Pieces:
        """Raises ModelUnavailable."""
        try:
            return cls(Tokenizer.from_file(str(path)), window)
        except Exception as e:  # the library raises nothing more exact
            raise ModelUnavailable("the embedding model's tokenizer cannot be read", detail=f"{path}: {e}") from e

    def read(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text."""
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast([readable(text) for text in texts])]

"""Counting tokens by model family, for estimates: what an upstream reports always wins over what is counted here.

OpenAI's families are counted with tiktoken when its vocabulary is already on disk (TIKTOKEN_CACHE_DIR, or the copy in
an installed litellm); nothing is ever downloaded on a request's path. Everything else gets a rule fitted to English,
German, Chinese text and code: within about 30 % of the real tokenizers, and honest about it (`exact` is False).
"""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tiktoken

# The file name under which tiktoken keeps each vocabulary (the sha1 of the address it came from).
_FILES = {
    "cl100k_base": "9b5ad71b2ce5302211f9c61530b329a4922fc6a4",
    "o200k_base": "fb374d419588a4632f3f557e76b4b70aebbca790",
}
_O200K = re.compile(r"^(openai/)?(gpt-4o|gpt-4\.1|gpt-4\.5|gpt-5|o[1-9]|chatgpt|gpt-oss)")
_CL100K = re.compile(r"^(openai/)?(gpt-4|gpt-3\.5|text-embedding)")
_SHORT = 1_000  # characters
_WINDOW = 16_384  # characters: a search holds the interpreter to its end, and other requests wait for it
_PIECE = re.compile(r"[A-Za-zÀ-ɏ]+|\d{1,3}|[^\S\n]+|\n+|[^\x00-\x7f]|[^\sA-Za-z\d]+")


def estimate(text: str) -> int:
    """A tokenizer-free count: Latin words by length, digits by threes, characters of other scripts one by one."""
    if len(text) <= _SHORT:
        return round(sum(map(_weight, _PIECE.findall(text))) + 0.49)
    pieces = Counter[str]()  # in a long text most come often: each is weighed once
    for at in range(0, len(text), _WINDOW):
        pieces.update(_PIECE.findall(text, at, at + _WINDOW))
    return round(sum(_weight(piece) * times for piece, times in pieces.items()) + 0.49)


def _weight(piece: str) -> float:
    first = piece[0]
    if first.isalpha() and first < "\u0250":
        return 1.0 if len(piece) <= 8 else 1.0 + (len(piece) - 8) / 6
    if not first.isascii():
        return 0.75
    if first.isdigit():
        return 1.0
    if first.isspace() and first != "\n":
        return 0.0 if len(piece) == 1 else 1.0
    return 1.0 if len(piece) <= 2 else 1.0 + (len(piece) - 2) / 4


def estimate_bytes(body: bytes) -> int:
    """A count for a body that nobody wants to parse: four bytes a token, never less than one."""
    return len(body) // 4 + 1


def count(text: str, model: str = "") -> tuple[int, bool]:
    """Tokens of `text` as `model` would count them, and whether the count is the model's own tokenizer's."""
    encoding = _encoding(family(model))
    if encoding is None:
        return estimate(text), False
    return len(encoding.encode_ordinary(text)), True


def family(model: str) -> str | None:
    """The tokenizer family of a model name, or None when we have no tokenizer for it."""
    if _O200K.match(model):
        return "o200k_base"
    if _CL100K.match(model):
        return "cl100k_base"
    return None


@functools.cache
def _encoding(name: str | None) -> tiktoken.Encoding | None:
    folder = None if name is None else _vocabulary_folder(name)
    if name is None or folder is None:
        return None
    import tiktoken

    before = os.environ.get("TIKTOKEN_CACHE_DIR")
    os.environ["TIKTOKEN_CACHE_DIR"] = str(folder)
    try:
        return tiktoken.get_encoding(name)
    finally:
        if before is None:
            del os.environ["TIKTOKEN_CACHE_DIR"]
        else:
            os.environ["TIKTOKEN_CACHE_DIR"] = before


def _vocabulary_folder(name: str) -> Path | None:
    folders = [os.environ.get("TIKTOKEN_CACHE_DIR"), os.environ.get("DATA_GYM_CACHE_DIR")]
    folders.append(os.path.join(tempfile.gettempdir(), "data-gym-cache"))
    spec = importlib.util.find_spec("litellm")
    if spec is not None and spec.origin is not None:
        folders.append(str(Path(spec.origin).parent / "litellm_core_utils" / "tokenizers"))
    for folder in folders:
        if folder and (Path(folder) / _FILES[name]).is_file():
            return Path(folder)
    return None

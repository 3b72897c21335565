"""An embedder that is real and tiny: words hashed into unit vectors, so texts with the same words are near."""

from __future__ import annotations

import asyncio
import re
import zlib
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

_WORD = re.compile(r"\w{4,}")  # "of" and "the" make no two texts alike


class HashedWords:
    """`delay` in seconds is waited once for texts that were not asked for before; `error` is raised instead."""

    model = "hashed"
    dimensions = 256

    def __init__(self) -> None:
        self.delay = 0.0
        self.error: Exception | None = None
        self.calls = 0
        self.warm: set[str] = set()

    async def embed(self, texts: Sequence[str], *, tenant: str = "") -> NDArray[np.float32]:
        self.calls += 1
        if self.error is not None:
            raise self.error
        new = set(texts) - self.warm
        self.warm |= new
        if new and self.delay:
            await asyncio.sleep(self.delay)
        return self.vectors(texts)

    def vectors(self, texts: Sequence[str]) -> NDArray[np.float32]:
        rows = np.zeros((len(texts), self.dimensions), dtype=np.float32)
        for row, text in zip(rows, texts, strict=True):
            for word in _WORD.findall(text.lower()):
                row[zlib.crc32(word.encode("utf-8", "replace")) % self.dimensions] += 1
            row[0] += 1e-3
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture
def hashed_words() -> HashedWords:
    return HashedWords()

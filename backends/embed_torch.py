"""An embedding model run by sentence-transformers, on the CPU or a CUDA device: any model it knows by name or folder.

The only file that imports sentence-transformers. The last bits of torch's sums depend on the shape of a batch. On the
CPU texts therefore run one at a time, and a text's vector never varies; on a CUDA device they run together, and it may,
by the last bit of half precision (docs/embeddings.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer  # pyright: ignore[reportMissingImports]

from ..protocol.errors import ModelUnavailable
from .embed import Device, Prepared
from .embed_text import readable

_MOST_TEXTS = {"cpu": 1, "cuda": 512}
_MOST_TOKENS = {"cpu": 512, "cuda": 32_768}


class TorchEncoder:
    """Raises ModelUnavailable when the model cannot be found, fetched or loaded."""

    def __init__(self, model: str, device: Device, threads: int) -> None:
        if device == "cpu":
            torch.set_num_threads(threads)
        try:
            self._model = SentenceTransformer(model, device=device)
        except Exception as e:  # files, network, format, device: it raises whatever its parts raise
            raise ModelUnavailable("the embedding model cannot be loaded", detail=f"{model}: {str(e)[:200]}") from e
        self.most_texts, self.most_tokens = _MOST_TEXTS[device], _MOST_TOKENS[device]
        self.dimensions = self.encode(self.prepare(["a"])).shape[1]

    def prepare(self, texts: Sequence[str]) -> list[Prepared]:
        clean = [readable(text) for text in texts]
        return [Prepared(text, size) for text, size in zip(clean, self._sizes(clean), strict=True)]

    def encode(self, batch: Sequence[Prepared]) -> NDArray[np.floating[Any]]:
        found: NDArray[np.floating[Any]] = self._model.encode(
            [prepared.form for prepared in batch],
            batch_size=len(batch),
            show_progress_bar=False,
            convert_to_numpy=True,
        )
        return found

    def _sizes(self, texts: list[str]) -> list[int]:
        tokens = self._model.tokenizer(texts, truncation=True, max_length=self._model.max_seq_length)
        return [len(ids) for ids in tokens["input_ids"]]

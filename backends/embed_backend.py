"""`POST /v1/embeddings` answered by the embedder of this process: `backend: embed` in the configuration.

OpenAI's wire format, `encoding_format` and `dimensions` included. Texts that are longer than the model's window are cut
to it, and `usage` counts what the model read, its two special tokens included.
"""

from __future__ import annotations

import asyncio
import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from ..protocol.errors import InvalidRequest, NotSupported, UpstreamTimeout
from ..protocol.messages import Answer, Request, Usage
from .base import Call, Stream
from .embed import EmbedOptions, open_embedder

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_MOST_TEXTS = 2048  # as OpenAI has it
_FEW_TEXTS = 32  # written on the event loop in well under a millisecond


class EmbedBackend:
    """Takes the fields of EmbedOptions. Raises MissingExtra."""

    def __init__(self, **options: Any) -> None:
        self._embedder = open_embedder(EmbedOptions(**options))

    async def start(self) -> None:
        """Begin to load; calls that come before the model is there wait for it."""
        await self._embedder.start()

    async def close(self) -> None:
        await self._embedder.close()

    def ready(self) -> bool:
        return self._embedder.ready()

    async def complete(self, call: Call) -> Answer:
        """Raises InvalidRequest, NotSupported, UpstreamTimeout, or what the embedder raises."""
        if call.kind != "embeddings":
            raise NotSupported("this model only makes embeddings: POST /v1/embeddings", param="model")
        wanted = read_wanted(call.request)
        try:
            async with asyncio.timeout(call.timeouts.total):
                vectors, tokens = await self._embedder.embed_counted(wanted.texts, tenant=call.tenant)
        except TimeoutError:
            raise UpstreamTimeout("total", call.timeouts.total) from None
        usage = Usage(prompt=sum(tokens))
        if len(wanted.texts) <= _FEW_TEXTS:
            return Answer(write(call.request.model, wanted, vectors, usage), usage)
        return Answer(await asyncio.to_thread(write, call.request.model, wanted, vectors, usage), usage)

    async def stream(self, call: Call) -> Stream:
        raise NotSupported("embeddings are not streamed", param="stream")


@dataclass(frozen=True, slots=True)
class Wanted:
    """A request for embeddings, checked; `dimensions` None: all there are."""

    texts: tuple[str, ...]
    dimensions: int | None
    base64: bool


def read_wanted(request: Request) -> Wanted:
    """Raises InvalidRequest, which names the field."""
    form = request.get("encoding_format")
    if form not in (None, "float", "base64"):
        raise InvalidRequest("'encoding_format' must be 'float' or 'base64'", param="encoding_format")
    dimensions = request.get("dimensions")
    if dimensions is not None and (type(dimensions) is not int or dimensions < 1):
        raise InvalidRequest("'dimensions' must be a whole number of at least 1", param="dimensions")
    return Wanted(_texts(request.get("input")), dimensions, form == "base64")


def _texts(given: Any) -> tuple[str, ...]:
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not texts:
        raise InvalidRequest("'input' must be a string or a list of at least one string", param="input")
    if len(texts) > _MOST_TEXTS:
        raise InvalidRequest(f"'input' may hold at most {_MOST_TEXTS} texts, here are {len(texts)}", param="input")
    if isinstance(texts[0], int | list):
        raise InvalidRequest(
            "this model takes texts, not token numbers, which are another model's "
            "(LangChain's OpenAIEmbeddings sends texts with check_embedding_ctx_length=False)",
            param="input",
        )
    if not all(isinstance(text, str) for text in texts):
        raise InvalidRequest("'input' must hold strings only", param="input")
    return tuple(texts)


def write(model: str, wanted: Wanted, vectors: NDArray[np.float32], usage: Usage) -> bytes:
    """The body of the answer. Raises InvalidRequest for more dimensions than the model has."""
    rows = shortened(vectors, wanted.dimensions)
    values = (
        [base64.b64encode(row.astype("<f4").tobytes()).decode() for row in rows] if wanted.base64 else rows.tolist()
    )
    data = [{"object": "embedding", "index": i, "embedding": value} for i, value in enumerate(values)]
    counted = {"prompt_tokens": usage.prompt, "total_tokens": usage.prompt}
    return msgspec.json.encode({"object": "list", "data": data, "model": model, "usage": counted})


def shortened(vectors: NDArray[np.float32], dimensions: int | None) -> NDArray[np.float32]:
    """The first `dimensions` of each vector, of unit length again."""
    full = vectors.shape[1]
    if dimensions is None or dimensions == full:
        return vectors
    if dimensions > full:
        raise InvalidRequest(f"'dimensions' may be at most {full} for this model", param="dimensions")
    cut = vectors[:, :dimensions].copy()
    lengths = (cut * cut).sum(axis=1, keepdims=True) ** 0.5
    cut[lengths[:, 0] == 0, 0] = 1  # nothing of the vector lies in what is kept
    lengths[lengths == 0] = 1
    cut /= lengths
    return cut

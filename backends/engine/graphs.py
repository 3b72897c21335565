"""Captured steps: a whole decoding or verifying pass as one launch, for each size of batch that comes up.

A pass of a small batch takes a GPU less time than its hundreds of launches take the host. A CUDA graph is those
launches recorded once; before a replay only the numbers in the batch's own buffers change (batch_kept.py). A batch is
padded to its bucket: sequences, the most rows of one, and rows in all, each to a power of two (from 64 rows on to a
multiple of 64).

Decoding's buckets are captured when a model is loaded, since every answer needs them, and their kernels are compiled
then. A bucket of verification is captured when it comes a second time: the first runs without a graph over the same
buffers, which warms it up and is what the step needed anyway. Many sizes come only once.

Prompts, and masks that have no fixed size (global tokens, chosen pages), run without. Knows rows and logits; how a
recording is made is handed in.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import torch

from ...kernels.dispatch import use_triton
from .attention import Sight
from .attention_kernels import is_prompt
from .batch import Batch, Rows
from .batch_kept import KeptBatch, Size
from .memory import Memory
from .model import Model

log = logging.getLogger("trimtab.engine")

# Of a function that launches work on the device and gives where the result will be: how to launch all of it once more.
# To capture does not compute anything.
Launch = Callable[[], torch.Tensor]
Capture = Callable[[Launch], Launch]

MOST_ROWS = 512  # a larger pass takes the device longer than its launches take the host
_MOST_NODES = 64  # of a tree
_MOST_BUCKETS = 256
_EVEN = 64
_ALIKE = 0.1  # of the logits: padded products may round otherwise, a wrong pass is off by all of them


class Graphs:
    """Captured steps of one engine, all over one memory. One thread's."""

    def __init__(
        self, model: Model, memory: Memory, sight: Sight, context: int, capture: Capture, most_rows: int = MOST_ROWS
    ) -> None:
        """`context` tokens at most in a sequence; `most_rows` in a step. Room for their logits is taken now."""
        self._model, self._memory, self._sight, self._capture = model, memory, sight, capture
        self._pages = -(-context // memory.page)
        self._most = min(MOST_ROWS, _padded(most_rows))
        shape, device = model.shape, memory.values.device
        self._logits = torch.zeros((self._most, shape.vocabulary), device=device)
        self._attended = torch.zeros((self._most, shape.heads, shape.head), dtype=memory.dtype, device=device)
        self._steps: dict[Size, _Step] = {}
        self._off = False

    @staticmethod
    def can(memory: Memory, sight: Sight) -> bool:
        """Whether steps over this memory can be captured: by kernels, and with masks of a fixed size."""
        return use_triton(memory.values) and sight.best is None and not sight.marks

    @property
    def given_up(self) -> bool:
        """Whether nothing is captured any more."""
        return self._off

    def logits(self, sequences: Sequence[Rows]) -> torch.Tensor | None:
        """Float32 [rows, vocabulary], of all rows in the order given, good until the next call; None for a step that
        is not to be captured, of which nothing is computed then."""
        size = None if self._off else self._size(sequences)
        return None if size is None else self._computed(size, sequences)

    def warm(self, most: int) -> None:
        """Capture decoding of up to `most` sequences, over batches of nobody: nothing is written to any page."""
        sizes = [Size(1 << n, 1, 1 << n, False) for n in range((most - 1).bit_length() + 1)]
        for i, size in enumerate(size for size in sizes if size.rows <= self._most):
            if self._off:
                return
            log.info("capturing decoding of %d sequences (%d of %d)", size.sequences, i + 1, len(sizes))
            for _ in range(2):
                self._computed(size, [])

    def check(self) -> None:
        """Give graphs up where a replay does not say what the same rows say without one: what is wrong with a device or
        its driver shall not show in answers. Writes the first page, so it is for a time when nobody has any."""
        for rows in ([Rows([1, 2, 3], 0, [1], range(3))], [Rows([4], 3, [1], range(1))]):
            batch = Batch(rows, self._memory, self._model.shape.heads, self._sight, self._model.tiles)
            usual, found = self._model.forward(batch, self._memory), None
            for _ in range(3):  # to warm up, to capture, to replay once more
                found = self.logits(rows)
            if found is not None and not bool((found - usual).norm() <= _ALIKE * usual.norm()):
                return self._give_up("a replayed one gave other logits")
        return None

    def _computed(self, size: Size, sequences: Sequence[Rows]) -> torch.Tensor | None:
        step, launch = self._steps.get(size), None
        if step is not None:
            launch = step.replay or self._captured(step)
        elif len(self._steps) < _MOST_BUCKETS:
            step = self._opened(size)
            launch = step.record
        if step is None or launch is None:
            return None
        step.batch.fill(sequences)
        found = launch()[: sum(len(s.tokens) for s in sequences)]
        self._steps[size] = step  # it has run: its kernels are compiled, as a capture needs
        return found

    def _opened(self, size: Size) -> _Step:
        heads = self._model.shape.heads
        batch = KeptBatch(size, self._pages, self._memory, heads, self._sight, self._attended)
        return _Step(batch, self._model, self._memory, self._logits[: size.rows])

    def _captured(self, step: _Step) -> Launch | None:
        try:
            step.replay = self._capture(step.record)
        except Exception as why:  # whatever it is, the step can be computed without
            self._give_up(f"one could not be captured: {why}")
        return step.replay

    def _give_up(self, why: str) -> None:
        self._off = True
        self._steps.clear()
        log.warning("steps run without CUDA graphs from now on: %s", why)

    def _size(self, sequences: Sequence[Rows]) -> Size | None:
        """The bucket of a step; None where it has none."""
        counts = [len(s.tokens) for s in sequences]
        group = self._model.shape.heads // self._model.shape.kv_heads
        if any(len(s.wanted) < count for s, count in zip(sequences, counts, strict=True)):
            return None  # a prompt's rows, most of which nobody asks about
        if any(not s.paths and is_prompt(count, group) for s, count in zip(sequences, counts, strict=True)):
            return None
        if any(s.before + n > self._pages * self._memory.page for s, n in zip(sequences, counts, strict=True)):
            return None
        tree = any(s.paths for s in sequences)
        size = size_of(counts, tree)
        # Behind a mask of its own a chain would see all of itself, and no window.
        wide = not tree or (size.each <= _MOST_NODES and (self._sight.window or size.each) >= size.each)
        return size if wide and size.rows <= self._most else None


class _Step:
    """The pass over one bucket. `record` launches it and tells where its logits will be."""

    def __init__(self, batch: KeptBatch, model: Model, memory: Memory, logits: torch.Tensor) -> None:
        self.batch = batch
        self.replay: Launch | None = None
        self._model, self._memory, self._logits = model, memory, logits

    @torch.inference_mode()
    def record(self) -> torch.Tensor:
        self._logits.copy_(self._model.forward(self.batch, self._memory))
        return self._logits


def size_of(counts: Sequence[int], tree: bool) -> Size:
    """The bucket for sequences of so many rows each."""
    sequences, each = _power(len(counts)), _power(max(counts))
    return Size(sequences, each, min(_padded(sum(counts)), sequences * each), tree)


class CudaGraphs:
    """The Capture of a CUDA device. What all its graphs need for a moment is one pool: they never run at once."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, launch: Launch) -> Launch:
        graph = torch.cuda.CUDAGraph()
        # Other threads may use the device meanwhile (an embedder's): only this one's launches are recorded.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            found = launch()

        def replay() -> torch.Tensor:
            graph.replay()
            return found

        return replay


def _padded(rows: int) -> int:
    return _power(rows) if rows <= _EVEN else -(-rows // _EVEN) * _EVEN


def _power(number: int) -> int:
    return 1 << max(number - 1, 0).bit_length()

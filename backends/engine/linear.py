"""One weight matrix, and products with it whose rows do not depend on one another.

The row rule: row i of a product has the same bits whatever other rows there are. So there is one form of the weights
for every count of rows, and each form keeps the rule in its own way:

- int8, the CPU's default, with VNNI in vectors of 512 bits: the file's own 4-bit blocks, or 8 bits in blocks of 32, by
  our own native functions (linear_native.py, kernels/native_product.py). Sums within a block are exact integers, and
  blocks are added in one order.
- int8 on other CPUs: oneDNN's packed int8 with a scale for each output. A row x is written as 16-bit whole numbers in
  its own scale, and these as two 8-bit digits: two rows of one integer product, joined afterwards as 256 * high + low.
  The sums are exact integers, so nothing can depend on their order, and only the weights' own rounding is left:
  activations in one digit would cost a small model 2 to 4 % of perplexity, in two they cost nothing that shows. A
  second row is almost free, because a product of few rows waits for the weights to come from memory.
- float32 and bfloat16 on a CPU: oneDNN's packed weights, at least four rows at a time. Plain `F.linear` takes another
  order of sums for few rows, and packs the weights at every call.
- int4, only when asked for: the file's own 4-bit blocks in bfloat16 sums. Least memory where int8 is oneDNN's; its cost
  grows with every row.
- a GPU computes in bfloat16, where cuBLAS promises no row rule; int8 and int4 are there kept as such, and multiplied by
  the kernels room.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
import torch
import torch.nn.functional as F

from ...kernels.switch import native, serves
from .blocks import Floats
from .checkpoint import FourBits
from .packed_int4 import packed_product

if TYPE_CHECKING:
    from .linear_native import Blocks

Compute = Literal["int8", "bfloat16", "float32", "int4"]
Product = Callable[[torch.Tensor], torch.Tensor]

_ONEDNN: bool = torch._C._has_mkldnn
_EACH_COUNT = 16  # up to so many rows each count has a program of its own; above, each multiple of it
_LEAST_ROWS = 4  # below it oneDNN may sum a float's row in another order
_ROWS_AT_ONCE = 64  # of weights, to be rounded: few enough for a cache
_TOP = 32512.0  # the largest whole number a row is written in: 127 * 256
# Added to a float32 v of at most 2^15, it leaves round(v) + 128 * 257 in the two lowest bytes: the two digits of v,
# each with 128 added to it.
_TO_DIGITS = 1.5 * 2**23 + 128 * 257
# As tensors: to make one of a number takes as long as the sum.
_TOPS, _TO_DIGIT = torch.tensor(_TOP), torch.tensor(_TO_DIGITS)


class Source(Protocol):
    """What of a checkpoint is read here."""

    def floats(self, name: str) -> Floats: ...

    def four_bits(self, name: str) -> FourBits | None: ...


def best_compute(device: torch.device) -> Compute:
    """How this machine computes best: a fact of the machine, not of a timing, so that answers repeat.

    Without VNNI or AMX, oneDNN's int8 products can overflow 16 bits on the way: such a CPU computes in float32.
    """
    if device.type == "cuda":
        return "bfloat16"
    exact = torch.cpu._is_vnni_supported() or torch.cpu._is_amx_tile_supported()
    return "int8" if exact and _ONEDNN else "float32"


class Linear:
    """y = x Wᵀ for one matrix, or several of the same input stacked. `y` has the dtype of `x`, rows first."""

    def __init__(self, source: Source, names: tuple[str, ...], compute: Compute, device: torch.device) -> None:
        product = _packed(source, names, device) if compute == "int4" else None
        # The weights as native functions read them; None where the product is another's.
        self.blocks: Blocks | None = None
        if compute == "int8" and native(device):
            product, self.blocks = _native(source, names)
        self._product = product or _made((source.floats(name) for name in names), compute, device)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self._product(x).to(x.dtype)


def _native(source: Source, names: tuple[str, ...]) -> tuple[Product | None, Blocks | None]:
    """None where the sizes do not fit."""
    from .linear_native import in_blocks
    from .native import BlockProduct

    blocks = in_blocks(source, names)
    return (None, None) if blocks is None else (BlockProduct(blocks), blocks)


def _made(weights: Iterable[Floats], compute: Compute, device: torch.device) -> Product:
    """`weights` come one by one, so that only one of them is in memory in float32."""
    if compute == "int8" and serves(device):
        from .linear_kernels import Int8OfKernels

        return Int8OfKernels(weights, device)
    if device.type == "cpu" and compute == "int8" and _ONEDNN:
        return Int8(weights)
    dtype = torch.bfloat16 if compute != "float32" and (_ONEDNN or device.type != "cpu") else torch.float32
    weight = torch.cat([torch.from_numpy(w).to(device, dtype) for w in weights])
    if device.type != "cpu":
        return _Plain(weight)
    return _Prepacked(weight) if _ONEDNN else _Blocks(weight)


def _packed(source: Source, names: tuple[str, ...], device: torch.device) -> Product | None:
    """The product over the file's own 4-bit values; None where some matrix has none that can be packed."""
    parts = [source.four_bits(name) for name in names]
    whole = [part for part in parts if part is not None]
    if len(whole) < len(parts):
        return None
    if serves(device):
        from .linear_kernels import int4_product

        return int4_product(whole, device)
    return packed_product(whole, device)


class Int8:
    """Exact integer products: weights int8 with a scale for each output, rows in two digits (module's docstring)."""

    def __init__(self, weights: Iterable[Floats]) -> None:
        """`weights` float32 [outputs, inputs], stacked; fewer than 2^16 inputs, so that no sum leaves 32 bits."""
        whole, scales = zip(*map(rounded, weights), strict=True)
        assert whole[0].shape[1] < 1 << 16
        self._scale = torch.cat(scales) / _TOP
        self._weight = torch.ops.onednn.qlinear_prepack(whole[0] if len(whole) == 1 else torch.cat(whole), None)
        self._zeros = torch.zeros(len(self._scale), dtype=torch.int32)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """float32 [rows, outputs]. A row with an infinity or a NaN gives no numbers; a row of zeros gives zeros."""
        rows = x.shape[0]
        x = _at_least(x.float(), padded(rows))
        top = x.abs().amax(-1, keepdim=True)
        digits = _digits(x * (_TOPS / top))
        sums = torch.ops.onednn.qlinear_pointwise(
            digits, 1.0, 128, self._weight, self._scale, self._zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )
        # 256 is a power of two, so whether the machine fuses this into one rounding changes nothing.
        y: torch.Tensor = sums[: len(x)]
        return y.add_(sums[len(x) :], alpha=256).mul_(top)[:rows]


def rounded(weight: Floats) -> tuple[torch.Tensor, torch.Tensor]:
    """int8 [outputs, inputs] and float32 [outputs] whose product is nearest to the weights."""
    whole = np.empty(weight.shape, dtype=np.int8)
    scale = np.empty(len(weight), dtype=np.float32)

    def round_rows(start: int) -> None:
        rows = slice(start, start + _ROWS_AT_ONCE)
        part = np.abs(weight[rows])
        top = part.max(axis=1, keepdims=True)
        scale[rows] = top[:, 0] / np.float32(127)
        np.multiply(weight[rows], np.float32(127) / np.where(top > 0, top, np.float32(1)), out=part)
        np.rint(part, out=whole[rows], casting="unsafe")

    # Not by torch: its threads wait for one another after every step, and a busy machine keeps them waiting.
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        list(threads.map(round_rows, range(0, len(weight), _ROWS_AT_ONCE)))
    return torch.from_numpy(whole), torch.from_numpy(scale)


def _digits(v: torch.Tensor) -> torch.Tensor:
    """[rows, n] of at most 32512 -> uint8 [2 rows, n]: the low digits of every row, then the high ones, + 128 each."""
    rows, n = v.shape
    v.add_(_TO_DIGIT)
    return v.view(torch.uint8).as_strided((2, rows, n), (1, 4 * n, 4)).reshape(2 * rows, n)


class _Prepacked:
    """float32 or bfloat16 weights in oneDNN's own layout."""

    def __init__(self, weight: torch.Tensor) -> None:
        self._dtype = weight.dtype
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight, 64)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.shape[0]
        x = _at_least(x.to(self._dtype), max(_LEAST_ROWS, padded(rows)))
        y: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, None, "none", [], "")
        return y[:rows]


def swift(name: str, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """A plain product in float32, whatever the matrix is called; oneDNN's is twice as fast as MKL's on other makers'
    CPUs."""
    if not _ONEDNN:
        return F.linear(x, weight)
    y: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
    return y


class _Blocks:
    """Without oneDNN: always the same count of rows at a time, so that their sums have one order."""

    def __init__(self, weight: torch.Tensor) -> None:
        self._weight = weight

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.shape[0]
        x = _at_least(x, -(-rows // 16) * 16)
        return torch.cat([F.linear(block, self._weight) for block in torch.split(x, 16)])[:rows]


class _Plain:
    def __init__(self, weight: torch.Tensor) -> None:
        self._weight = weight

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x.to(self._weight.dtype), self._weight)


def padded(rows: int) -> int:
    """How many rows are computed for so many. oneDNN writes and keeps a program for each count: of 256 counts it would
    keep all, some 100 KiB each, and the first step with each would wait for it."""
    return rows if rows <= _EACH_COUNT else -(-rows // _EACH_COUNT) * _EACH_COUNT


def _at_least(x: torch.Tensor, rows: int) -> torch.Tensor:
    missing = rows - x.shape[0]
    return x if missing <= 0 else F.pad(x, (0, 0, 0, missing))

"""A weight matrix in the blocks that a CPU's own products read (kernels/native_product.py).

The values of a file in 4-bit blocks of 32 are kept as they are; other weights are rounded to 8 bits in blocks of 32.
Knows matrices; nothing of models.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from ...kernels.native_product import BLOCK, BYTES, ORDER
from .blocks import Bytes, Floats
from .checkpoint import FourBits

_STRIP = 16  # outputs
_STRIPS_AT_ONCE = 8  # to be rounded: few enough for a cache
_LEAST = np.finfo(np.float32).tiny  # what is smaller counts as nothing


class Source(Protocol):
    """What of a checkpoint is read here."""

    def floats(self, name: str) -> Floats: ...

    def four_bits(self, name: str) -> FourBits | None: ...


@dataclass(frozen=True, slots=True)
class Blocks:
    """One matrix, or several of the same input stacked: `bits` 4 or 8; `weights` uint8 [strips, bytes]; `finals`
    float32 [`outputs`], padded to a multiple of 16; `rows` are the outputs without the padding."""

    bits: int
    weights: Bytes
    finals: Floats
    rows: int

    @property
    def outputs(self) -> int:
        return len(self.finals)

    @property
    def width(self) -> int:
        """Columns."""
        return int(self.weights.shape[1]) // BYTES[self.bits] * BLOCK


def in_blocks(source: Source, names: tuple[str, ...]) -> Blocks | None:
    """None where the sizes do not fit: columns are blocks of 32, and what others are stacked on strips of 16."""
    fours = [four for four in map(source.four_bits, names) if four is not None and _fits(four)]
    if len(fours) == len(names):
        packed = [_packed4(four) for four in fours]
    else:
        floats = [source.floats(name) for name in names]
        if floats[0].shape[1] % BLOCK:
            return None
        packed = [_packed8(weights) for weights in floats]
    if any(part.rows % _STRIP for part in packed[:-1]):
        return None
    weights, finals = (_stacked([getattr(part, name) for part in packed]) for name in ("weights", "finals"))
    return Blocks(packed[0].bits, weights, finals, sum(part.rows for part in packed))


def _stacked(parts: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _fits(four: FourBits) -> bool:
    return four.order is None and four.group % BLOCK == 0


def _packed4(four: FourBits) -> Blocks:
    rows, width = len(four.values), 2 * four.values.shape[1]
    each = four.group // BLOCK
    scales, leasts = (_padded(np.repeat(a, each, axis=1) if each > 1 else a) for a in (four.scales, four.leasts))
    finals = _finals(np.maximum(np.abs(scales), np.abs(leasts)))
    out = _empty(len(scales), width, 4)
    # Four bytes, eight columns, of an output stay together.
    fours = _padded(four.values).view(np.uint32).reshape(len(out), _STRIP, -1, 4)
    out[:, :, :256].view(np.uint32).reshape(*out.shape[:2], 4, _STRIP)[:] = fours.transpose(0, 2, 3, 1)
    _put(out[:, :, 256:288], scales / finals[:, None])
    _put(out[:, :, 288:], leasts / finals[:, None])
    return Blocks(4, out.reshape(len(out), -1), finals, rows)


def _packed8(weights: Floats) -> Blocks:
    """Rounded to nearest, in units of a half: what is kept of a block in 8 bits already is what it was."""
    rows, width = weights.shape
    padded = _padded(weights)
    out, finals = _empty(len(padded), width, 8), np.empty(len(padded), dtype=np.float32)

    def pack(first: int) -> None:
        strips = slice(first, first + _STRIPS_AT_ONCE)
        own = slice(first * _STRIP, (first + _STRIPS_AT_ONCE) * _STRIP)
        part = padded[own].reshape(-1, width // BLOCK, BLOCK)
        top = np.abs(part).max(axis=2) / np.float32(127)
        finals[own] = _finals(top)
        scales = (top / finals[own, None]).astype(np.float16).astype(np.float32)
        units = scales * finals[own, None]
        whole = np.rint(part * (1 / np.where(units < _LEAST, np.float32(1), units))[..., None])
        np.clip(whole, -127, 127, out=whole)
        whole += 128
        values = np.take(whole.astype(np.uint8), ORDER, axis=-1)
        fours = values.view(np.uint32).reshape(-1, _STRIP, width // BLOCK, 8).transpose(0, 2, 3, 1)
        out[strips, :, :512] = np.ascontiguousarray(fours).view(np.uint8).reshape(len(fours), -1, 512)
        _put(out[strips, :, 512:], scales)

    # Not by torch: its threads wait for one another after every step, and a busy machine keeps them waiting.
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        list(threads.map(pack, range(0, len(out), _STRIPS_AT_ONCE)))
    return Blocks(8, out.reshape(len(out), -1), finals, rows)


def _empty(outputs: int, width: int, bits: int) -> Bytes:
    return np.empty((outputs // _STRIP, width // BLOCK, BYTES[bits]), dtype=np.uint8)


def _padded(a: npt.NDArray[Any]) -> npt.NDArray[Any]:
    missing = -len(a) % _STRIP
    return np.ascontiguousarray(np.pad(a, ((0, missing), (0, 0))) if missing else a)


def _finals(tops: Floats) -> Floats:
    """A power of two for each output, in which its scales are halves of at most 2^15."""
    top = tops.max(axis=1)
    power = np.ceil(np.log2(np.where(top > 0, top, np.float32(1)))) - 15
    # Rows whose training has come to nothing have such small numbers; divided by zero they would be none.
    return np.asarray(np.maximum(np.exp2(power), _LEAST), dtype=np.float32)


def _put(out: Bytes, scales: npt.NDArray[Any]) -> None:
    """float32 [outputs, blocks] as halves [strips, blocks, 16]."""
    halves = scales.astype(np.float16).reshape(len(out), _STRIP, -1).transpose(0, 2, 1)
    out[:] = np.ascontiguousarray(halves).view(np.uint8)

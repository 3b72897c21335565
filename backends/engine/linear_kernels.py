"""Products by the kernels room with weights of 8 and of 4 bits: on a GPU, or in the interpreter for tests.

Weights are what linear.py and a checkpoint have; nothing is rounded anew, but 8-bit weights to their nearest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch

from ...kernels.int4_weight import GROUPS, pack_int4
from ...kernels.w4a16 import w4a16
from ...kernels.w8a16 import Int8Weight, w8a16
from .blocks import Floats
from .checkpoint import FourBits
from .linear import rounded
from .packed_int4 import alike, whole


class Int8OfKernels:
    """8 bits a weight, a scale for each output."""

    def __init__(self, weights: Iterable[Floats], device: torch.device) -> None:
        """`weights` float32 [outputs, inputs], stacked."""
        codes, scales = zip(*((c.to(device), s.to(device)) for c, s in map(rounded, weights)), strict=True)
        self._weight = Int8Weight(torch.cat(codes), torch.cat(scales)[None], 0)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return w8a16(x, self._weight)


def int4_product(parts: Sequence[FourBits], device: torch.device) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """The product with several matrices of the same input, stacked; None where the kernel has no such groups."""
    return Int4OfKernels(parts, device) if alike(parts) and parts[0].group in GROUPS else None


class Int4OfKernels:
    """A checkpoint's own 4-bit values."""

    def __init__(self, parts: Sequence[FourBits], device: torch.device) -> None:
        order = parts[0].order
        held = ([part.scales for part in parts], [part.leasts for part in parts])
        scales, zeros, offsets = _levels(*map(np.concatenate, held))
        self._weight = pack_int4(
            torch.from_numpy(np.concatenate([whole(part) for part in parts])),
            scales,
            group=parts[0].group,
            zeros=zeros,
            offsets=offsets,
            order=None if order is None else torch.from_numpy(order),
        ).to(device)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return w4a16(x, self._weight)


def _levels(scales: Floats, leasts: Floats) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """(scales, zeros, offsets) of q * scale + least: whole zeros where there are such, none where all are 8; numbers in
    16 bits where these hold them exactly, as nearly all files' do."""
    zeros = np.rint(np.divide(-leasts, scales, out=np.full_like(scales, 8), where=scales != 0))
    if np.array_equal(-zeros * scales, leasts) and zeros.min() >= 0 and zeros.max() <= 15:
        none = bool((zeros == 8).all())
        return _narrow(scales)[0], None if none else torch.from_numpy(zeros.astype(np.uint8)), None
    narrow, offsets = _narrow(scales, leasts)
    return narrow, None, offsets


def _narrow(*held: Floats) -> list[torch.Tensor]:
    wide = [torch.from_numpy(x) for x in held]
    narrow = [x.half() for x in wide]
    return narrow if all(torch.equal(a.float(), b) for a, b in zip(narrow, wide, strict=True)) else wide

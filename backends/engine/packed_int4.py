"""Products with 4-bit weights as a checkpoint has them, in torch's packed layout for CPUs.

Knows FourBits; nothing of files or of models.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from .checkpoint import FourBits

_GROUPS = (32, 64, 128, 256)  # what torch's product takes


def packed_product(parts: Sequence[FourBits], device: torch.device) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """The product with several matrices of the same input, stacked; None where torch cannot pack them.

    They must have one group size and one order of columns, and together a multiple of 16 rows.
    """
    first = parts[0]
    rows = sum(len(part.values) for part in parts)
    if device.type != "cpu" or not alike(parts) or first.group not in _GROUPS or rows % 16:
        return None
    return PackedInt4(parts)


def alike(parts: Sequence[FourBits]) -> bool:
    """Whether they may be stacked: one group size, one order of columns."""
    first = parts[0]
    return all(part.group == first.group and _same(part.order, first.order) for part in parts)


class PackedInt4:
    """bfloat16 products; scales are rounded to bfloat16 too. Rows are independent of one another."""

    def __init__(self, parts: Sequence[FourBits]) -> None:
        values = np.concatenate([whole(part) for part in parts])
        self._weight = torch.ops.aten._convert_weight_to_int4pack_for_cpu(torch.from_numpy(values), 1)
        scales = torch.from_numpy(np.concatenate([part.scales for part in parts]))
        leasts = torch.from_numpy(np.concatenate([part.leasts for part in parts]))
        # torch computes (value - 8) * scale + offset.
        both = torch.stack((scales, leasts + 8 * scales), dim=-1)
        self._scales = both.transpose(0, 1).contiguous().bfloat16()
        self._group = parts[0].group
        order = parts[0].order
        self._order = None if order is None else torch.from_numpy(order)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        x = x.bfloat16() if self._order is None else x.bfloat16()[:, self._order]
        y: torch.Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(x, self._weight, self._group, self._scales)
        return y


def whole(part: FourBits) -> np.ndarray[tuple[int, ...], np.dtype[np.int32]]:
    """One value a cell: int32 [rows, columns]."""
    rows, half = part.values.shape
    out = np.empty((rows, half, 2), dtype=np.int32)
    out[..., 0] = part.values & 0xF
    out[..., 1] = part.values >> 4
    return out.reshape(rows, 2 * half)


def _same(a: np.ndarray[tuple[int, ...], np.dtype[np.int64]] | None, b: object) -> bool:
    return a is b or (a is not None and isinstance(b, np.ndarray) and np.array_equal(a, b))

"""The tensors that hold every sequence's keys and values, in pages. Who owns a page is pages.py's business.

On a CPU a page of keys is kept with its positions last, [kv_heads, head, page]: scores are then sums of whole rows,
which one operation makes for any set of pages without gathering them (attention.py). On a GPU the kernels want
[kv_heads, page, head].
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from ...kernels.switch import serves
from .memory_scales import FP8, Scales
from .shape import Shape

if TYPE_CHECKING:
    from .attention_quest import Bounds

PAGE = 64  # tokens: each page is one fixed partial sum of attention, and the grain at which prefixes are shared


@dataclass(frozen=True, slots=True)
class Places:
    """The places of new rows in one layer: of each number of each key, and of each value. Where keys are not turned,
    both are slots: page * page size + place in it."""

    keys: torch.Tensor
    values: torch.Tensor


class Memory:
    """Keys and values of `pages` pages and of page 0, which stays zeros.

    `keys` [layers, pages + 1, kv_heads, head, page] if `turned`, else [..., page, head]; `values`
    [layers, pages + 1, kv_heads, page, head].
    """

    def __init__(
        self,
        shape: Shape,
        pages: int,
        dtype: torch.dtype,
        device: torch.device,
        page: int = PAGE,
        turned: bool | None = None,
        fp8: bool = False,
    ) -> None:
        """`turned` None: as the device wants it. Rows are of `dtype`; `fp8`: they are kept in 8 bits, not turned."""
        self.page, self.pages, self.dtype = page, pages, dtype
        self.bounds: Bounds | None = None  # kept where pages are chosen by them (attention_quest.py)
        self.turned = not (fp8 or serves(device)) if turned is None else turned
        across = (shape.layers, pages + 1, shape.kv_heads)
        keys = (shape.head, page) if self.turned else (page, shape.head)
        self.scales = Scales(*across, device) if fp8 else None
        kept = FP8 if fp8 else dtype
        self.keys = _zeros((*across, *keys), kept, device)
        self.values = _zeros((*across, page, shape.head), kept, device)

    def places(self, slots: Sequence[int]) -> Places:
        """Where new rows go: slot = page * page size + place in it."""
        kv_heads, head = self.values.shape[2], self.values.shape[4]
        device = self.keys.device
        slot = torch.tensor(slots, device=device)
        if not self.turned:
            return Places(slot, slot)
        slot = slot[:, None]
        blocks = slot // self.page * kv_heads + torch.arange(kv_heads, device=device)  # [rows, kv_heads]
        values = (blocks * self.page + slot % self.page).view(-1)
        widths = torch.arange(head, device=device)
        keys = ((blocks[..., None] * head + widths) * self.page + (slot % self.page)[..., None]).view(-1)
        return Places(keys, values)

    def write(self, layer: int, places: Places, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Put [rows, kv_heads, head] keys and values in their places. Keys are turned: kernels write others."""
        head, dtype = values.shape[-1], self.values.dtype
        keys, values = keys.to(dtype), values.to(dtype)
        self.values[layer].view(-1, head).index_copy_(0, places.values, values.reshape(-1, head))
        self.keys[layer].view(-1).scatter_(0, places.keys, keys.reshape(-1))

    def scales_of(self, layer: int) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Of keys and of values, [pages + 1, kv_heads] each; none where these are kept as they are."""
        return (None, None) if self.scales is None else (self.scales.keys[layer], self.scales.values[layer])

    def copy(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Copy whole pages, (from, to) each."""
        for there, here in pairs:
            self.keys[:, here] = self.keys[:, there]
            self.values[:, here] = self.values[:, there]
            if self.scales is not None:
                self.scales.copy(there, here)

    def move(self, slots: Sequence[int], to: Sequence[int]) -> None:
        """Copy single positions from slots to slots. All are read before any is written."""
        a, b = torch.tensor(slots, device=self.keys.device), torch.tensor(to, device=self.keys.device)
        (p, i), (q, j) = (a // self.page, a % self.page), (b // self.page, b % self.page)
        if self.scales is not None:
            self.scales.move(self.keys, self.values, (p, i), (q, j))
            return
        if self.turned:
            self.keys[:, q, :, :, j] = self.keys[:, p, :, :, i]
        else:
            self.keys[:, q, :, j] = self.keys[:, p, :, i]
        self.values[:, q, :, j] = self.values[:, p, :, i]


def pages_for(shape: Shape, megabytes: int, dtype: torch.dtype, page: int = PAGE) -> int:
    """How many pages fit in a budget; at least two."""
    one = 2 * shape.layers * shape.kv_heads * shape.head * page * dtype.itemsize
    return max(2, (megabytes << 20) // one)


_NUMBERS = {torch.float32: np.float32, torch.float16: np.float16}


def _zeros(size: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    if device.type != "cpu" or dtype not in _NUMBERS:
        return torch.zeros(size, dtype=dtype, device=device)
    # The system gives memory when a page is first written, so an idle engine stays small; in its small pages, since a
    # token writes a little in many places.
    room = mmap.mmap(-1, math.prod(size) * dtype.itemsize)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        room.madvise(mmap.MADV_NOHUGEPAGE)
    return torch.from_numpy(np.frombuffer(room, dtype=_NUMBERS[dtype]).reshape(size))

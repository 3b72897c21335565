"""What keys and values that are kept in 8 bits are to be multiplied by: a scale for each page and head.

The kernels room sets a page's scale when its first row is written (kernels/kv_scale.py). A page that is copied takes it
along; a single position that is moved to another page is written in that page's. Knows pages, nothing of who has them.
"""

from __future__ import annotations

import torch

FP8 = torch.float8_e4m3fn
_LARGEST = 448.0  # a larger number would become a NaN


class Scales:
    """`keys`, `values` float32 [layers, pages, kv_heads]."""

    def __init__(self, layers: int, pages: int, kv_heads: int, device: torch.device) -> None:
        self.keys = torch.ones((layers, pages, kv_heads), device=device)
        self.values = torch.ones_like(self.keys)

    def copy(self, there: int, here: int) -> None:
        """One whole page's."""
        self.keys[:, here] = self.keys[:, there]
        self.values[:, here] = self.values[:, there]

    def move(self, keys: torch.Tensor, values: torch.Tensor, from_: _Place, to: _Place) -> None:
        """Copy single positions of [layers, pages, kv_heads, page, head] keys and values, (pages, places in them) each.
        Scales are powers of two, so that a number stays as it is wherever 8 bits of the other page hold it."""
        (p, i), (q, j) = from_, to
        for kept, scale in ((keys, self.keys), (values, self.values)):
            bits = kept.view(torch.uint8)  # not every operation knows numbers of 8 bits
            read = bits[:, p, :, i].view(FP8).float() * scale[:, p].transpose(0, 1)[..., None]  # [moved, layers, ...]
            found = (read / scale[:, q].transpose(0, 1)[..., None]).clamp(-_LARGEST, _LARGEST)
            bits[:, q, :, j] = found.to(FP8).view(torch.uint8)


_Place = tuple[torch.Tensor, torch.Tensor]

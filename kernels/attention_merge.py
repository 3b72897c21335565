"""Joins what several programs read of one block's keys.

    lse = log2 sum_c 2^lse_c,   o = sum_c o_c 2^(lse_c - lse)         (Flash-Decoding; arXiv 2501.01005, section 2.2)

where chunk c left its normalised output o_c and the base-2 log of its sum of weights; a chunk that saw nothing left
-inf and weighs nothing.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl


def reference_merge(partial: torch.Tensor, lse: torch.Tensor) -> torch.Tensor:
    """partial [chunks, ..., d], lse [chunks, ...] base 2 -> [..., d]; zeros where every chunk saw nothing."""
    most = lse.amax(0, keepdim=True)
    weight = torch.exp2(lse - torch.where(torch.isinf(most), 0.0, most))[..., None]
    total = weight.sum(0)
    return torch.where(total > 0, (partial * weight).sum(0) / total.clamp_min(1e-30), 0.0)

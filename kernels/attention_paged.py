"""Attention over paged keys and values: decoding and verification of guesses in one kernel.

    o_i = sum_j p_ij v_j / sum_j p_ij,   p_ij = 2^(log2(e) cap(scale q_i·k_j) - m_i)      (attention_rows.py: who sees whom)

taken online over tiles of keys (FlashAttention, arXiv 2205.14135). What makes it one kernel for q = 1 and for q = 16:

- Rows are packed: row m of a block is new row m // G, query head kv * G + m % G, where G heads share a key/value head
  (GQA, arXiv 2305.13245). A tile of keys is read once for all of them, and the matrix units' 16 rows are used.
- Keys are split over programs whatever the number of new rows (Flash-Decoding), by a plan made on the host.
- A tree of guesses is 64 bits a row.

Nothing is read that no row of the block sees: pages behind a sequence's end or outside its window may hold anything.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from . import attention_checks as check
from .attention_merge import merge_partials
from .attention_plan import Plan
from .attention_plan import plan as make_plan
from .attention_rows import attend, read_pages, visible


def reference_paged_attention(
    q: torch.Tensor, k_pages: torch.Tensor, v_pages: torch.Tensor, page_table: torch.Tensor, q_start: torch.Tensor,
    kv_len: torch.Tensor, *, scale: float, window: int = 0, sinks: int = 0, globals_: torch.Tensor | None = None,
    tree: torch.Tensor | None = None, soft_cap: float = 0.0, k_scale: torch.Tensor | None = None,
    v_scale: torch.Tensor | None = None, pages_top_k: torch.Tensor | None = None, dtype: torch.dtype = torch.float64,
) -> torch.Tensor:
    """What `paged_attention` computes, one sequence at a time, in `dtype`; rows of no sequence are zeros."""
    out = torch.zeros(q.shape, dtype=dtype, device=q.device)
    starts, lengths = q_start.tolist(), kv_len.tolist()
    for s, length in enumerate(lengths):
        rows = slice(starts[s], starts[s + 1])
        words = None if tree is None else tree[rows]
        known = None if globals_ is None else globals_[s]
        seen = visible(rows.stop - rows.start, length, window, sinks, known, words)
        if pages_top_k is not None:
            seen = chosen(seen, pages_top_k[s], k_pages.shape[2], q.shape[1])
        k = read_pages(k_pages, page_table[s], length, k_scale, dtype)
        v = read_pages(v_pages, page_table[s], length, v_scale, dtype)
        out[rows] = attend(q[rows].to(dtype), k, v, seen, scale, soft_cap)
    return out


def chosen(seen: torch.Tensor, pages: torch.Tensor, page: int, heads: int) -> torch.Tensor:
    """[new, length] and a sequence's [kv_heads, k] pages -> [new, heads, length]."""
    page_of = torch.arange(seen.shape[1]) // page
    among = torch.stack([torch.isin(page_of, each.cpu().long()) for each in pages])
    return seen[:, None, :] & among.repeat_interleave(heads // pages.shape[0], 0)[None]

"""Attention of one sequence's rows in plain torch: which keys a row sees, and what it reads from them.

The words all attention kernels share, and the arithmetic of their references. Knows nothing of tiles or batches.

    o_i = sum_j p_ij v_j / sum_j p_ij,   p_ij = exp(cap(scale q_i·k_j)) if row i sees key j, else 0
    cap(s) = s, or c tanh(s / c)                                 (Gemma 2, arXiv 2408.00118)

A row at position p sees key j when j <= p and either j > p - window (Longformer, arXiv 2004.05150), or j < sinks
(StreamingLLM, arXiv 2309.17453), or j is one of the sequence's global positions. In a tree of guesses the new rows see
their own ancestors instead of all rows before them (SpecInfer, arXiv 2305.09781), whatever the window, and stand as
deep as they have ancestors.
"""

from __future__ import annotations

import torch


def positions(new: int, length: int, tree: torch.Tensor | None) -> torch.Tensor:
    """Where each of the `new` last rows of `length` stands: [new] int64."""
    if tree is None:
        return torch.arange(length - new, length)
    return length - new + lineage(tree).sum(1) - 1


def lineage(tree: torch.Tensor) -> torch.Tensor:
    """[new] words of 64 bits -> [new, new] bool: which new rows each of them sees."""
    new = tree.shape[0]
    bits = (tree.cpu()[:, None] >> torch.arange(new)[None, :]) & 1
    return bits.bool() | torch.eye(new, dtype=torch.bool)


def visible(
    new: int,
    length: int,
    window: int = 0,
    sinks: int = 0,
    globals_: torch.Tensor | None = None,
    tree: torch.Tensor | None = None,
) -> torch.Tensor:
    """[new, length] bool: the rule above. Rows before position 0 (a length below `new`) see nothing."""
    at, key = positions(new, length, tree)[:, None], torch.arange(length)[None, :]
    near = torch.ones(new, length, dtype=torch.bool)
    if window:
        near = (key > at - window) | (key < sinks)
        if globals_ is not None:
            near |= torch.isin(key, globals_.cpu().long())
    if tree is None:
        return near & (key <= at)
    first = length - new
    seen = near & (key < first)
    seen[:, max(first, 0) :] = lineage(tree)[:, max(-first, 0) :]
    return seen


def read_pages(
    pages: torch.Tensor, table: torch.Tensor, length: int, scale: torch.Tensor | None, dtype: torch.dtype
) -> torch.Tensor:
    """The first `length` keys (or values) of a sequence: [length, kv_heads, d] in `dtype`, scales applied."""
    page = pages.shape[2]
    owned = table[: -(-length // page)].long()
    read = pages[owned].to(dtype)
    if scale is not None:
        each = scale.to(dtype).expand(1, 1) if scale.numel() == 1 else scale[owned].to(dtype)
        read = read * each[:, :, None, None]
    return read.transpose(1, 2).reshape(-1, pages.shape[1], pages.shape[3])[:length]


def attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, seen: torch.Tensor, scale: float, soft_cap: float = 0.0
) -> torch.Tensor:
    """q [new, heads, d], k and v [length, kv_heads, d], seen [new, length] or [new, heads, length] -> [new, heads, d].

    A row that sees nothing gives zeros. A key that a row does not see may hold anything, NaN too.
    """
    group = q.shape[1] // k.shape[1]
    seen = seen.to(q.device) if seen.dim() == 3 else seen.to(q.device)[:, None, :].expand(-1, q.shape[1], -1)
    any_row = seen.any(0).view(k.shape[1], group, -1).any(1).T[:, :, None]
    k, v = k.where(any_row, 0.0), v.where(any_row, 0.0)
    scores = torch.einsum("nhd,lhd->nhl", q, k.repeat_interleave(group, 1)) * scale
    if soft_cap:
        scores = soft_cap * torch.tanh(scores / soft_cap)
    scores = scores.masked_fill(~seen, float("-inf"))
    most = scores.amax(-1, keepdim=True).clamp_min(torch.finfo(scores.dtype).min) if scores.shape[-1] else scores
    weights = torch.exp(scores - most) if scores.shape[-1] else scores
    total = weights.sum(-1, keepdim=True)
    read = torch.einsum("nhl,lhd->nhd", weights, v.repeat_interleave(group, 1))
    return torch.where(total > 0, read / total.clamp_min(torch.finfo(read.dtype).tiny), 0.0)

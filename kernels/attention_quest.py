"""Which pages a decoding row should read: Quest's bound on what a page can hold.

    u(page) = sum_c max(q_c kmin_c(page), q_c kmax_c(page))  >=  q·k for every key of the page

(Quest, arXiv 2406.10774). Under grouped queries a page is read for a whole group, so its bound is the greatest over the
group's heads and the sequence's new rows. The k pages with the greatest bounds are read; the first page (where the
sinks are) and those that hold new rows always are. This loses what the other pages hold: it is never on by itself.
"""

from __future__ import annotations

import torch

from . import attention_checks as check
from .dispatch import FLOATS, jit, on, power_of_two, tl, use_triton

ALWAYS = float("inf")


def reference_page_bounds(
    k_pages: torch.Tensor, pages: torch.Tensor, filled: torch.Tensor, k_min: torch.Tensor, k_max: torch.Tensor
) -> None:
    """Plain torch, one page at a time, in place."""
    for at, count in zip(pages.tolist(), filled.tolist(), strict=True):
        if at >= 0 and count > 0:
            k_min[at] = k_pages[at, :, :count].float().amin(1).to(k_min.dtype)
            k_max[at] = k_pages[at, :, :count].float().amax(1).to(k_max.dtype)


def reference_page_scores(
    q: torch.Tensor, k_min: torch.Tensor, k_max: torch.Tensor, page_table: torch.Tensor, q_start: torch.Tensor,
    kv_len: torch.Tensor, page: int, dtype: torch.dtype = torch.float64,
) -> torch.Tensor:  # fmt: skip
    """[sequences, kv_heads, most_pages] in `dtype`: the bound, infinite for pages always read, -inf behind the end."""
    sequences, most = page_table.shape
    kv_heads = k_min.shape[1]
    scores = torch.full((sequences, kv_heads, most), -ALWAYS, dtype=dtype, device=q.device)
    starts = q_start.tolist()
    for s, length in enumerate(kv_len.tolist()):
        rows = q[starts[s] : starts[s + 1]].to(dtype)
        used = -(-length // page)
        if not used or not len(rows):
            continue
        own = page_table[s, :used].long()
        grouped = rows.view(len(rows), kv_heads, -1, q.shape[2])
        least, most_of = k_min[own].to(dtype)[:, None, :, None], k_max[own].to(dtype)[:, None, :, None]
        bound = torch.maximum(grouped * least, grouped * most_of).sum(-1)
        scores[s, :, :used] = bound.amax((1, 3)).T
        scores[s, :, 0] = ALWAYS
        scores[s, :, max(0, length - len(rows)) // page : used] = ALWAYS
    return scores


@jit
def _bounds_kernel(
    k_ptr, k_page, k_head, k_slot, pages_ptr, filled_ptr, min_ptr, max_ptr, bound_page, bound_head,
    PAGE: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    at = tl.load(pages_ptr + tl.program_id(0)).to(tl.int64)
    filled = tl.load(filled_ptr + tl.program_id(0))
    if (at < 0) | (filled <= 0):
        return
    head = tl.program_id(1)
    slot = tl.arange(0, PAGE)
    columns = tl.arange(0, WIDTH)
    inside = (slot < filled)[:, None] & (columns[None, :] < D)
    keys = tl.load(
        k_ptr + at * k_page + head * k_head + slot[:, None] * k_slot + columns[None, :], mask=inside, other=0
    )
    keys = keys.to(tl.float32)
    least = tl.min(tl.where(inside, keys, float("inf")), 0)
    most = tl.max(tl.where(inside, keys, float("-inf")), 0)
    kept = at * bound_page + head * bound_head + columns
    tl.store(min_ptr + kept, least.to(min_ptr.dtype.element_ty), mask=columns < D)
    tl.store(max_ptr + kept, most.to(max_ptr.dtype.element_ty), mask=columns < D)


@jit
def _scores_kernel(
    q_ptr, q_row, q_head, min_ptr, max_ptr, bound_page, bound_head, table_ptr, table_row, start_ptr, length_ptr,
    scores_ptr, kv_heads, most_pages,
    GROUP: tl.constexpr, PAGE: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr, PAGES: tl.constexpr,
):  # fmt: skip
    sequence = tl.program_id(1) // kv_heads
    kv = tl.program_id(1) % kv_heads
    listed = tl.program_id(0) * PAGES + tl.arange(0, PAGES)
    row0 = tl.load(start_ptr + sequence)
    new = tl.load(start_ptr + sequence + 1) - row0
    length = tl.load(length_ptr + sequence)
    used = tl.where(new > 0, tl.cdiv(length, PAGE), 0)
    columns = tl.arange(0, WIDTH)
    there = (listed < used) & (listed < most_pages)
    page = tl.load(table_ptr + sequence.to(tl.int64) * table_row + listed, mask=there, other=0).to(tl.int64)
    at = page[:, None] * bound_page + kv * bound_head + columns[None, :]
    inside = there[:, None] & (columns[None, :] < D)
    least = tl.load(min_ptr + at, mask=inside, other=0.0).to(tl.float32)
    most = tl.load(max_ptr + at, mask=inside, other=0.0).to(tl.float32)
    score = tl.full([PAGES], float("-inf"), tl.float32)
    for m in range(new * GROUP):
        at_q = q_ptr + (row0 + m // GROUP).to(tl.int64) * q_row + (kv * GROUP + m % GROUP) * q_head + columns
        q = tl.load(at_q, mask=columns < D, other=0.0).to(tl.float32)[None, :]
        score = tl.maximum(score, tl.sum(tl.maximum(q * least, q * most), 1))
    held = (listed == 0) | (listed >= tl.maximum(0, length - new) // PAGE)
    score = tl.where(there, tl.where(held, float("inf"), score), float("-inf"))
    kept = (sequence.to(tl.int64) * kv_heads + kv) * most_pages + listed
    tl.store(scores_ptr + kept, score, mask=listed < most_pages)


def page_bounds(
    k_pages: torch.Tensor, pages: torch.Tensor, filled: torch.Tensor, k_min: torch.Tensor, k_max: torch.Tensor
) -> None:
    """Takes the least and greatest of every column of some pages' keys, in place.

    k_pages       [pages, kv_heads, page, d]
    pages         [n] int32: which pages; -1 does nothing
    filled        [n] int32: how many of its slots are written
    k_min, k_max  [pages, kv_heads, d], fp32, fp16 or bf16, contiguous

    Raises ValueError, naming the argument, before anything is launched.
    """
    device = k_pages.device
    check.tensor("k_pages", k_pages, (None, None, None, None), FLOATS, device)
    check.power_of_two("k_pages: page", k_pages.shape[2], 1, 256)
    check.tensor("pages", pages, (None,), (torch.int32,), device)
    check.lengths("filled", filled, pages.shape[0], device)
    check_bounds(k_min, k_max, (k_pages.shape[0], k_pages.shape[1], k_pages.shape[3]), device)
    if not use_triton(k_pages):
        return reference_page_bounds(k_pages, pages, filled, k_min, k_max)
    if pages.shape[0]:
        page, d = k_pages.shape[2:]
        with on(k_pages):
            _bounds_kernel[(pages.shape[0], k_pages.shape[1])](
                k_pages, *k_pages.stride()[:3], pages, filled, k_min, k_max, *k_min.stride()[:2],
                PAGE=page, D=d, WIDTH=power_of_two(d), num_warps=4,
            )  # fmt: skip
    return None


def quest_pages(
    q: torch.Tensor, k_min: torch.Tensor, k_max: torch.Tensor, page_table: torch.Tensor, q_start: torch.Tensor,
    kv_len: torch.Tensor, *, page: int, k: int,
) -> torch.Tensor:  # fmt: skip
    """The `pages_top_k` of `paged_attention`: [sequences, kv_heads, k] int32, distinct, -1 where there are fewer pages.

    q, page_table, q_start, kv_len as there; k_min, k_max from `page_bounds`. The pages that are always read (the first,
    and those of the new rows) count among the k, which must be enough for them. Raises ValueError, naming the argument.
    """
    check.queries(q, check.heads_of("k_min", k_min, 3))
    check_bounds(k_min, k_max, (None, k_min.shape[1], q.shape[2]), q.device)
    check.tensor("page_table", page_table, (None, None), (torch.int32,), q.device)
    sequences, most = page_table.shape
    check.lengths("q_start", q_start, sequences + 1, q.device)
    check.lengths("kv_len", kv_len, sequences, q.device)
    check.power_of_two("page", page, 1, 256)
    if k < 1:
        raise ValueError(f"k: expected at least 1, got {k}")
    scores = page_scores(q, k_min, k_max, page_table, q_start, kv_len, page)
    best, chosen = scores.topk(min(k, most), 2)
    chosen = chosen.to(torch.int32).masked_fill(best == -ALWAYS, -1)
    return torch.nn.functional.pad(chosen, (0, k - chosen.shape[2]), value=-1)


def page_scores(
    q: torch.Tensor, k_min: torch.Tensor, k_max: torch.Tensor, page_table: torch.Tensor, q_start: torch.Tensor,
    kv_len: torch.Tensor, page: int,
) -> torch.Tensor:  # fmt: skip
    """[sequences, kv_heads, most_pages] fp32; arguments are checked by the caller."""
    if not use_triton(q):
        return reference_page_scores(q, k_min, k_max, page_table, q_start, kv_len, page, torch.float32)
    (sequences, most), kv_heads, d = page_table.shape, k_min.shape[1], q.shape[2]
    scores = torch.empty((sequences, kv_heads, most), dtype=torch.float32, device=q.device)
    if scores.numel():
        with on(q):
            _scores_kernel[(-(-most // 32), sequences * kv_heads)](
                q, *q.stride()[:2], k_min, k_max, *k_min.stride()[:2], page_table, page_table.stride(0), q_start,
                kv_len, scores, kv_heads, most,
                GROUP=q.shape[1] // kv_heads, PAGE=page, D=d, WIDTH=power_of_two(d), PAGES=32, num_warps=4,
            )  # fmt: skip
    return scores


def check_bounds(k_min: torch.Tensor, k_max: torch.Tensor, shape: tuple[int | None, ...], device: torch.device) -> None:
    check.tensor("k_min", k_min, shape, FLOATS, device)
    check.tensor("k_max", k_max, tuple(k_min.shape), (k_min.dtype,), device)
    for name, x in (("k_min", k_min), ("k_max", k_max)):
        if not x.is_contiguous():
            raise ValueError(f"{name}: must be contiguous")

"""Attention over paged keys and values: decoding and verification of guesses in one kernel.

    o_i = sum_j p_ij v_j / sum_j p_ij                    (attention_rows.py: who sees whom, and what p is)

taken online over tiles of keys (attention_tile.py). What makes it one kernel for q = 1 and for q = 16:

- Rows are packed: row m of a block is new row m // G, query head kv * G + m % G, where G heads share a key/value head
  (GQA, arXiv 2305.13245). A tile of keys is read once for all of them, and the matrix units' 16 rows are used.
- Keys are split over programs whatever the number of new rows (Flash-Decoding), by a plan made on the host.
- A tree of guesses is 64 bits a row.

Nothing is read that no row of the block sees: pages behind a sequence's end or outside its window may hold anything.
"""

from __future__ import annotations

from itertools import pairwise

import torch

from . import attention_checks as check
from .attention_merge import merge_partials
from .attention_placed import Placed, check_plan, place
from .attention_plan import Plan
from .attention_plan import plan as make_plan
from .attention_rows import attend, read_pages, visible
from .attention_tile import fold, popcount, read_tile
from .dispatch import jit, multiprocessors, on, power_of_two, tl, tuned, use_triton


def reference_paged_attention(
    q: torch.Tensor, k_pages: torch.Tensor, v_pages: torch.Tensor, page_table: torch.Tensor, q_start: torch.Tensor,
    kv_len: torch.Tensor, *, scale: float, window: int = 0, sinks: int = 0, globals_: torch.Tensor | None = None,
    tree: torch.Tensor | None = None, soft_cap: float = 0.0, k_scale: torch.Tensor | None = None,
    v_scale: torch.Tensor | None = None, pages_top_k: torch.Tensor | None = None, dtype: torch.dtype = torch.float64,
) -> torch.Tensor:  # fmt: skip
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


@jit
def _paged_kernel(
    q_ptr,
    q_row,
    q_head,
    k_ptr,
    k_page,
    k_head,
    k_slot,
    v_ptr,
    v_page,
    v_head,
    v_slot,
    table_ptr,
    table_row,
    start_ptr,
    length_ptr,
    items_ptr,
    globals_ptr,
    globals_row,
    globals_count,
    tree_ptr,
    chosen_ptr,
    chosen_row,
    chosen_head,
    chosen_count,
    k_scale_ptr,
    k_scale_page,
    k_scale_head,
    v_scale_ptr,
    v_scale_page,
    v_scale_head,
    out_ptr,
    out_row,
    out_head,
    partial_ptr,
    lse_ptr,
    kv_heads,
    window,
    sinks,
    sink_tiles,
    inner,
    outer,
    GROUP: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    TILE: tl.constexpr,
    PAGE: tl.constexpr,
    D: tl.constexpr,
    WIDTH: tl.constexpr,
    WINDOWED: tl.constexpr,
    CAPPED: tl.constexpr,
    SCALED: tl.constexpr,
):
    kv = tl.program_id(0) % kv_heads
    item = items_ptr + tl.program_id(0) // kv_heads * 6
    sequence = tl.load(item)
    if sequence < 0:
        return
    block, first, last = tl.load(item + 1), tl.load(item + 2), tl.load(item + 3)
    gap, slot = tl.load(item + 4), tl.load(item + 5)
    row0 = tl.load(start_ptr + sequence)
    new = tl.load(start_ptr + sequence + 1) - row0
    length = tl.load(length_ptr + sequence)
    before = length - new

    m = tl.arange(0, BLOCK)
    row = (block * BLOCK + m) // GROUP
    head = kv * GROUP + (block * BLOCK + m) % GROUP
    real = row < new
    columns = tl.arange(0, WIDTH)
    inside = real[:, None] & (columns[None, :] < D)
    rows = (row0 + row).to(tl.int64)
    q = tl.load(q_ptr + rows[:, None] * q_row + head[:, None] * q_head + columns[None, :], mask=inside, other=0.0)

    at = before + row
    lowest = before + block * BLOCK // GROUP
    end = tl.minimum(length, before + (block * BLOCK + BLOCK - 1) // GROUP + 1)
    if tree_ptr is not None:
        words = tl.load(tree_ptr + rows, mask=real, other=0) | (tl.full([BLOCK], 1, tl.int64) << row.to(tl.int64))
        at = before + popcount(words).to(tl.int32) - 1
        lowest, end = before, length
    lowest = lowest - window

    k_base = k_ptr + kv.to(tl.int64) * k_head
    v_base = v_ptr + kv.to(tl.int64) * v_head
    if SCALED == 1:
        inner = inner * tl.load(k_scale_ptr)
    best = tl.full([BLOCK], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    acc = tl.zeros([BLOCK, WIDTH], tl.float32)
    n = tl.arange(0, TILE)

    for tile in range(first, last):
        if chosen_ptr is not None:
            listed = (tile * TILE + n) // PAGE
            chosen_at = chosen_ptr + sequence.to(tl.int64) * chosen_row + kv * chosen_head + listed
            page_of = tl.load(chosen_at, mask=listed < chosen_count, other=-1)
            key = page_of * PAGE + n % PAGE
            present = (page_of >= 0) & (key < end)
        else:
            key = tl.where(tile < sink_tiles, tile, tile + gap) * TILE + n
            present = key < end
            if WINDOWED:
                present &= (key > lowest) | (key < sinks)
        page = tl.load(table_ptr + sequence.to(tl.int64) * table_row + key // PAGE, mask=present, other=0).to(tl.int64)
        k = read_tile(k_base, k_page, k_slot, page, key % PAGE, columns, present, D, WIDTH)
        v = read_tile(v_base, v_page, v_slot, page, key % PAGE, columns, present, D, WIDTH)
        seen = real[:, None] & present[None, :]
        if tree_ptr is not None:
            child = tl.minimum(tl.maximum(key - before, 0), 63).to(tl.int64)
            seen &= (key < before)[None, :] | (((words[:, None] >> child[None, :]) & 1) != 0)
        else:
            seen &= key[None, :] <= at[:, None]
        if WINDOWED:
            near = (key[None, :] > at[:, None] - window) | (key < sinks)[None, :]
            if tree_ptr is not None:
                near |= (key >= before)[None, :]
            seen &= near
        k_scale, v_scale = 1.0, 1.0
        if SCALED == 2:
            k_scale = tl.load(k_scale_ptr + page * k_scale_page + kv * k_scale_head, mask=present, other=0.0)
            v_scale = tl.load(v_scale_ptr + page * v_scale_page + kv * v_scale_head, mask=present, other=0.0)
        best, total, acc = fold(
            q, k, v, seen, best, total, acc, inner, outer, k_scale, v_scale, CAPPED, SCALED == 2, True
        )

    if globals_ptr is not None:
        # Those that the window and the sinks have not shown already, each row for itself; one item does it for a block.
        for at_global in range(0, tl.where(first == 0, globals_count, 0), TILE):
            known = globals_ptr + sequence.to(tl.int64) * globals_row + at_global + n
            key = tl.load(known, mask=at_global + n < globals_count, other=-1)
            present = (key >= sinks) & (key < tl.minimum(end, length))
            if tree_ptr is not None:
                present &= key < before
            page_at = table_ptr + sequence.to(tl.int64) * table_row + key // PAGE
            page = tl.load(page_at, mask=present, other=0).to(tl.int64)
            slot_of = tl.where(present, key % PAGE, 0)
            k = read_tile(k_base, k_page, k_slot, page, slot_of, columns, present, D, WIDTH)
            v = read_tile(v_base, v_page, v_slot, page, slot_of, columns, present, D, WIDTH)
            seen = real[:, None] & present[None, :] & (key[None, :] <= at[:, None] - window)
            k_scale, v_scale = 1.0, 1.0
            if SCALED == 2:
                k_scale = tl.load(k_scale_ptr + page * k_scale_page + kv * k_scale_head, mask=present, other=0.0)
                v_scale = tl.load(v_scale_ptr + page * v_scale_page + kv * v_scale_head, mask=present, other=0.0)
            best, total, acc = fold(
                q, k, v, seen, best, total, acc, inner, outer, k_scale, v_scale, CAPPED, SCALED == 2, True
            )

    read = acc / tl.where(total > 0.0, total, 1.0)[:, None]
    if SCALED == 1:
        read = read * tl.load(v_scale_ptr)
    if slot < 0:
        at_out = out_ptr + rows[:, None] * out_row + head[:, None] * out_head + columns[None, :]
        tl.store(at_out, read.to(out_ptr.dtype.element_ty), mask=inside)
    else:
        kept = (slot.to(tl.int64) * kv_heads + kv) * ROWS + m
        tl.store(partial_ptr + kept[:, None] * D + columns[None, :], read, mask=inside)
        lse = tl.where(total > 0.0, best + tl.log2(tl.where(total > 0.0, total, 1.0)), float("-inf"))
        tl.store(lse_ptr + kept, lse, mask=real)


def paged_attention(
    q: torch.Tensor, k_pages: torch.Tensor, v_pages: torch.Tensor, page_table: torch.Tensor, q_start: torch.Tensor,
    kv_len: torch.Tensor, *, scale: float, window: int = 0, sinks: int = 0, globals_: torch.Tensor | None = None,
    tree: torch.Tensor | None = None, soft_cap: float = 0.0, k_scale: torch.Tensor | None = None,
    v_scale: torch.Tensor | None = None, pages_top_k: torch.Tensor | None = None, plan: Plan | Placed | None = None,
    out: torch.Tensor | None = None,
) -> torch.Tensor:  # fmt: skip
    """Each sequence's new rows over its keys and values: [rows, heads, d], of q's dtype.

    q            [rows, heads, d], fp32, fp16 or bf16; d from 16 to 256; heads a multiple of kv_heads
    k_pages      [pages, kv_heads, page, d], q's dtype or fp8 (e4m3); any strides with a contiguous last axis
    v_pages      as k_pages
    page_table   [sequences, most_pages] int32; entries behind a sequence's end are not looked at
    q_start      [sequences + 1] int32: sequence s has rows q_start[s] up to q_start[s + 1]
    kv_len       [sequences] int32, the new rows' keys included, which must have been written
    scale        of q·k. window, sinks, soft_cap: 0 is none (attention_rows.py)
    globals_     [sequences, n] int32: distinct positions seen in spite of the window, -1 pads
    tree         [rows] int64: bit i of a row's word: it sees new row i of its sequence. At most 64 new rows
    k_scale      fp32: one number, or [pages, kv_heads], by which stored keys are to be multiplied; v_scale likewise,
                 of the same form
    pages_top_k  [sequences, kv_heads, k] int32: distinct indices into the page table, -1 pads; nothing else is read
    plan         of this batch, these masks (attention_plan.py). Without one the lengths are read from the device
    out          [rows, heads, d] of q's dtype; rows of no sequence are left as they are

    Raises ValueError, naming the argument, before anything is launched.
    """
    out = check.paged_arguments(
        q,
        k_pages,
        v_pages,
        page_table,
        q_start,
        kv_len,
        scale,
        window,
        sinks,
        globals_,
        tree,
        soft_cap,
        k_scale,
        v_scale,
        pages_top_k,
        out,
    )
    if not use_triton(q):
        found = reference_paged_attention(
            q, k_pages, v_pages, page_table, q_start, kv_len, scale=scale, window=window, sinks=sinks,
            globals_=globals_, tree=tree, soft_cap=soft_cap, k_scale=k_scale, v_scale=v_scale,
            pages_top_k=pages_top_k, dtype=torch.float32,
        )  # fmt: skip
        return out.copy_(found)
    kv_heads, page, d = k_pages.shape[1:]
    top_k = 0 if pages_top_k is None else pages_top_k.shape[2]
    if plan is None:
        starts = q_start.tolist()
        plan = make_plan(
            [end - start for start, end in pairwise(starts)], kv_len.tolist(),
            heads=q.shape[1], kv_heads=kv_heads, page=page, sms=multiprocessors(q.device), window=window,
            sinks=sinks, top_k=top_k, tree=tree is not None, block=16 if check.heavy(q) else None,
        )  # fmt: skip
    placed = place(plan, q.device, d=d) if isinstance(plan, Plan) else plan
    check_plan(placed, q, page_table.shape[0], kv_heads, window, sinks, top_k, tree is not None)
    if placed.plan.block > 64 and check.heavy(q):
        raise ValueError("plan: fp32 heads wider than 128 take blocks of at most 64 rows; a GPU's memory holds no more")
    launch(
        placed, q, k_pages, v_pages, page_table, q_start, kv_len, scale, globals_ if window else None, tree, soft_cap,
        k_scale, v_scale, pages_top_k, out,
    )  # fmt: skip
    return out


def launch(
    placed: Placed, q: torch.Tensor, k_pages: torch.Tensor, v_pages: torch.Tensor, page_table: torch.Tensor,
    q_start: torch.Tensor, kv_len: torch.Tensor, scale: float, globals_: torch.Tensor | None,
    tree: torch.Tensor | None, soft_cap: float, k_scale: torch.Tensor | None, v_scale: torch.Tensor | None,
    pages_top_k: torch.Tensor | None, out: torch.Tensor,
) -> None:  # fmt: skip
    plan = placed.plan
    kv_heads, page, d = k_pages.shape[1:]
    scaled = check.scales("k_scale", k_scale, k_pages.shape[0], kv_heads, q.device)
    by_page = (
        (k_scale.stride(), v_scale.stride())
        if scaled == 2 and k_scale is not None and v_scale is not None
        else ((0, 0), (0, 0))
    )
    log2e = 1.4426950408889634
    if not plan.items:
        return
    with on(q):
        _paged_kernel[(len(plan.items) * kv_heads,)](
            q, q.stride(0), q.stride(1),
            k_pages, k_pages.stride(0), k_pages.stride(1), k_pages.stride(2),
            v_pages, v_pages.stride(0), v_pages.stride(1), v_pages.stride(2),
            page_table, page_table.stride(0), q_start, kv_len, placed.items,
            globals_, 0 if globals_ is None else globals_.stride(0), 0 if globals_ is None else globals_.shape[1],
            tree,
            pages_top_k, *((0, 0, 0) if pages_top_k is None else (*pages_top_k.stride()[:2], pages_top_k.shape[2])),
            k_scale, *by_page[0], v_scale, *by_page[1],
            out, out.stride(0), out.stride(1), placed.partial, placed.lse,
            kv_heads, plan.window, plan.sinks if plan.window else 0,
            -(-plan.sinks // plan.tile) if plan.window else 0,
            scale / soft_cap if soft_cap else scale * log2e, soft_cap * log2e,
            GROUP=plan.group, BLOCK=plan.block, ROWS=plan.rows, TILE=plan.tile, PAGE=page,
            D=d, WIDTH=power_of_two(d), WINDOWED=plan.window > 0, CAPPED=soft_cap > 0, SCALED=scaled,
            **tuned("paged_attention", q.device, warps(plan, q), block=plan.block, d=d),
        )  # fmt: skip
    merge_partials(placed.partial, placed.lse, placed.merges, q_start, out, block=plan.block, group=plan.group)


def warps(plan: Plan, q: torch.Tensor) -> dict[str, int]:
    """What a program takes when no table says otherwise.

    Half of the stages go to the page table: five keep two tiles in flight. At 64 rows, or with keys of more than 256
    bytes, that would fill shared memory. In fp32 the products are made of single multiplications, in more registers.
    """
    wide = q.shape[2] * q.element_size() > 256
    many = plan.block >= 32 if q.dtype == torch.float32 else plan.block > 64
    return {"num_warps": 8 if many else 4, "num_stages": 3 if wide or plan.block == 64 else 5}

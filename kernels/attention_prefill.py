"""Attention of prompts: many new rows of each sequence over themselves and over what the pages hold before them.

    o_i = sum_j p_ij v_j / sum_j p_ij                    (attention_rows.py: who sees whom, and what p is)

FlashAttention-2's loop (arXiv 2307.08691): a program holds a block of one head's rows and goes over the keys in tiles,
masking only where an edge of what is seen passes through a tile. The prefix comes from pages, through the table; the
new rows' own keys and values come straight from the projection, contiguous, so that a Hopper GPU's copy engine can
fetch them (FlashAttention-3, arXiv 2407.08608). Blocks with the most keys start first.
"""

from __future__ import annotations

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from . import attention_checks as check
from .attention_rows import attend, read_pages, visible
from .attention_sweep import over_new, over_pages, zones
from .attention_tile import fold, read_tile
from .dispatch import jit, on, power_of_two, tl, triton, tuned, use_triton


def reference_prefill_attention(
    q: torch.Tensor, k: torch.Tensor | None, v: torch.Tensor | None, q_start: torch.Tensor, *, scale: float,
    k_pages: torch.Tensor | None = None, v_pages: torch.Tensor | None = None, page_table: torch.Tensor | None = None,
    prefix_len: torch.Tensor | None = None, window: int = 0, sinks: int = 0, globals_: torch.Tensor | None = None,
    soft_cap: float = 0.0, k_scale: torch.Tensor | None = None, v_scale: torch.Tensor | None = None,
    dtype: torch.dtype = torch.float64,
) -> torch.Tensor:  # fmt: skip
    """What `prefill_attention` computes, one sequence at a time, in `dtype`; rows of no sequence are zeros."""
    out = torch.zeros(q.shape, dtype=dtype, device=q.device)
    starts = q_start.tolist()
    before = [0] * (len(starts) - 1) if prefix_len is None else prefix_len.tolist()
    for s, prefix in enumerate(before):
        rows = slice(starts[s], starts[s + 1])
        new = rows.stop - rows.start
        keys, values = [], []
        if k_pages is not None and v_pages is not None and page_table is not None:
            length = prefix if k is not None else prefix + new
            keys.append(read_pages(k_pages, page_table[s], length, k_scale, dtype))
            values.append(read_pages(v_pages, page_table[s], length, v_scale, dtype))
        if k is not None and v is not None:
            keys.append(k[rows].to(dtype))
            values.append(v[rows].to(dtype))
        seen = visible(new, prefix + new, window, sinks, None if globals_ is None else globals_[s])
        out[rows] = attend(q[rows].to(dtype), torch.cat(keys), torch.cat(values), seen, scale, soft_cap)
    return out


@jit
def _prefill_kernel(
    q_ptr, q_row, q_head, k_ptr, k_row, k_head, v_ptr, v_row, v_head,
    k_pages_ptr, k_page, k_page_head, k_slot, v_pages_ptr, v_page, v_page_head, v_slot,
    table_ptr, table_row, start_ptr, prefix_ptr, globals_ptr, globals_row, globals_count,
    k_scale_ptr, k_scale_page, k_scale_head, v_scale_ptr, v_scale_page, v_scale_head,
    out_ptr, out_row, out_head, heads, window, sinks, inner, outer,
    GROUP: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr, PAGE: tl.constexpr, D: tl.constexpr,
    WIDTH: tl.constexpr, WINDOWED: tl.constexpr, CAPPED: tl.constexpr, SCALED: tl.constexpr,
    DESCRIPTORS: tl.constexpr, SPECIALISED: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(0) % heads
    # How many blocks there are is asked of the grid: as an argument, some values of it would be compiled anew.
    block = (tl.num_programs(0) - 1 - tl.program_id(0)) // heads
    sequence = tl.program_id(1)
    row0 = tl.load(start_ptr + sequence)
    new = tl.load(start_ptr + sequence + 1) - row0
    if block * BLOCK >= new:
        return
    prefix = 0
    if prefix_ptr is not None:
        prefix = tl.load(prefix_ptr + sequence)
    kv = head // GROUP
    row = block * BLOCK + tl.arange(0, BLOCK)
    columns = tl.arange(0, WIDTH)
    inside_q = (row < new)[:, None] & (columns[None, :] < D)
    rows = (row0 + row).to(tl.int64)
    q = tl.load(q_ptr + rows[:, None] * q_row + head * q_head + columns[None, :], mask=inside_q, other=0.0)
    at = prefix + row
    first_at = prefix + block * BLOCK
    last_at = prefix + tl.minimum(new, (block + 1) * BLOCK) - 1
    best = tl.full([BLOCK], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    acc = tl.zeros([BLOCK, WIDTH], tl.float32)

    if k_pages_ptr is not None:
        end = prefix
        if k_ptr is None:
            end = prefix + new
        sink_tiles, gap, edge, inside, last = zones(first_at, last_at, 0, end, window, sinks, TILE, WINDOWED)
        pages_k = k_pages_ptr + kv.to(tl.int64) * k_page_head
        pages_v = v_pages_ptr + kv.to(tl.int64) * v_page_head
        table = table_ptr + sequence.to(tl.int64) * table_row
        lowest = first_at - window
        if WINDOWED:
            best, total, acc = over_pages(
                q, best, total, acc, 0, edge - gap, gap, sink_tiles, end, lowest, at, window, sinks,
                pages_k, k_page, k_slot, pages_v, v_page, v_slot, table,
                k_scale_ptr + kv * k_scale_head, k_scale_page, v_scale_ptr + kv * v_scale_head, v_scale_page,
                inner, outer, TILE, PAGE, D, WIDTH, WINDOWED, CAPPED, SCALED, True,
            )  # fmt: skip
        best, total, acc = over_pages(
            q, best, total, acc, edge, inside, 0, 0, end, lowest, at, window, sinks,
            pages_k, k_page, k_slot, pages_v, v_page, v_slot, table,
            k_scale_ptr + kv * k_scale_head, k_scale_page, v_scale_ptr + kv * v_scale_head, v_scale_page,
            inner, outer, TILE, PAGE, D, WIDTH, WINDOWED, CAPPED, SCALED, False,
        )  # fmt: skip
        best, total, acc = over_pages(
            q, best, total, acc, inside, last, 0, 0, end, lowest, at, window, sinks,
            pages_k, k_page, k_slot, pages_v, v_page, v_slot, table,
            k_scale_ptr + kv * k_scale_head, k_scale_page, v_scale_ptr + kv * v_scale_head, v_scale_page,
            inner, outer, TILE, PAGE, D, WIDTH, WINDOWED, CAPPED, SCALED, True,
        )  # fmt: skip
    if k_ptr is not None:
        new_k = k_ptr + row0.to(tl.int64) * k_row + kv * k_head
        new_v = v_ptr + row0.to(tl.int64) * v_row + kv * v_head
        k_tiles, v_tiles = 0, 0
        if DESCRIPTORS:
            k_tiles = tl.make_tensor_descriptor(new_k, [new, D], [k_row, 1], [TILE, WIDTH])
            v_tiles = tl.make_tensor_descriptor(new_v, [new, D], [v_row, 1], [TILE, WIDTH])
        sink_tiles, gap, edge, inside, last = zones(first_at, last_at, prefix, new, window, sinks, TILE, WINDOWED)
        if WINDOWED:
            best, total, acc = over_new(
                q, best, total, acc, 0, edge - gap, gap, sink_tiles, prefix, new, at, window, sinks,
                new_k, k_row, new_v, v_row, k_tiles, v_tiles, inner, outer,
                TILE, D, WIDTH, WINDOWED, CAPPED, True, DESCRIPTORS, False,
            )  # fmt: skip
        best, total, acc = over_new(
            q, best, total, acc, edge, inside, 0, 0, prefix, new, at, window, sinks,
            new_k, k_row, new_v, v_row, k_tiles, v_tiles, inner, outer,
            TILE, D, WIDTH, WINDOWED, CAPPED, False, DESCRIPTORS, SPECIALISED,
        )  # fmt: skip
        best, total, acc = over_new(
            q, best, total, acc, inside, last, 0, 0, prefix, new, at, window, sinks,
            new_k, k_row, new_v, v_row, k_tiles, v_tiles, inner, outer,
            TILE, D, WIDTH, WINDOWED, CAPPED, True, DESCRIPTORS, False,
        )  # fmt: skip

    if globals_ptr is not None:
        n = tl.arange(0, TILE)
        for start in range(0, globals_count, TILE):
            known = globals_ptr + sequence.to(tl.int64) * globals_row + start + n
            key = tl.load(known, mask=start + n < globals_count, other=-1)
            # What the window and the sinks have shown already is left out, for each row by itself.
            there = (key >= sinks) & (key <= last_at - window)
            stored = 0
            k = tl.zeros([TILE, WIDTH], q.dtype)
            v = tl.zeros([TILE, WIDTH], q.dtype)
            k_scale, v_scale = 1.0, 1.0
            if k_pages_ptr is not None:
                stored = prefix
                if k_ptr is None:
                    stored = prefix + new
                present = there & (key < stored)
                page = tl.load(table + key // PAGE, mask=present, other=0).to(tl.int64)
                slot = tl.where(present, key % PAGE, 0)
                k += read_tile(pages_k, k_page, k_slot, page, slot, columns, present, D, WIDTH).to(q.dtype)
                v += read_tile(pages_v, v_page, v_slot, page, slot, columns, present, D, WIDTH).to(q.dtype)
                if SCALED:
                    at_k = k_scale_ptr + kv * k_scale_head + page * k_scale_page
                    at_v = v_scale_ptr + kv * v_scale_head + page * v_scale_page
                    k_scale = tl.load(at_k, mask=present, other=1.0)
                    v_scale = tl.load(at_v, mask=present, other=1.0)
            if k_ptr is not None:
                present = there & (key >= stored)
                rows_of = tl.where(present, key - prefix, 0).to(tl.int64)
                k += read_tile(new_k, k_row, 0, rows_of, rows_of, columns, present, D, WIDTH)
                v += read_tile(new_v, v_row, 0, rows_of, rows_of, columns, present, D, WIDTH)
            seen = there[None, :] & (key[None, :] <= at[:, None] - window)
            best, total, acc = fold(
                q, k, v, seen, best, total, acc, inner, outer, k_scale, v_scale, CAPPED, SCALED, True
            )  # fmt: skip

    read = acc / tl.where(total > 0.0, total, 1.0)[:, None]
    at_out = out_ptr + rows[:, None] * out_row + head * out_head + columns[None, :]
    tl.store(at_out, read.to(out_ptr.dtype.element_ty), mask=inside_q)


def prefill_attention(
    q: torch.Tensor, k: torch.Tensor | None, v: torch.Tensor | None, q_start: torch.Tensor, *, scale: float,
    k_pages: torch.Tensor | None = None, v_pages: torch.Tensor | None = None, page_table: torch.Tensor | None = None,
    prefix_len: torch.Tensor | None = None, window: int = 0, sinks: int = 0, globals_: torch.Tensor | None = None,
    soft_cap: float = 0.0, k_scale: torch.Tensor | None = None, v_scale: torch.Tensor | None = None,
    longest: int | None = None, library: bool = False, out: torch.Tensor | None = None,
) -> torch.Tensor:  # fmt: skip
    """Each sequence's new rows over its prefix and themselves, causally: [rows, heads, d], of q's dtype.

    q           [rows, heads, d], fp32, fp16 or bf16; d from 16 to 256; heads a multiple of kv_heads
    k, v        [rows, kv_heads, d] of q's dtype: the new rows' own. None: they are in the pages, behind the prefix
    q_start     [sequences + 1] int32: sequence s has rows q_start[s] up to q_start[s + 1]
    k_pages     [pages, kv_heads, page, d], q's dtype or fp8 (e4m3), and v_pages alike: the prefix
    page_table  [sequences, most_pages] int32; entries behind a sequence's end are not looked at
    prefix_len  [sequences] int32: how many keys come before the new rows. None: none do
    window, sinks, globals_, soft_cap, k_scale, v_scale: as in `paged_attention`; the scales are of what pages hold
    longest     the most new rows of one sequence; without it q_start is read from the device
    library     a lone first chunk without masks of its own may be computed by torch's SDPA (cuDNN or flash), which
                may round otherwise than this kernel does

    Raises ValueError, naming the argument, before anything is launched.
    """
    out = check.prefill_arguments(
        q, k, v, q_start, scale, k_pages, v_pages, page_table, prefix_len, window, sinks, globals_, soft_cap, k_scale,
        v_scale, longest, out,
    )  # fmt: skip
    if not use_triton(q):
        found = reference_prefill_attention(
            q, k, v, q_start, scale=scale, k_pages=k_pages, v_pages=v_pages, page_table=page_table,
            prefix_len=prefix_len, window=window, sinks=sinks, globals_=globals_, soft_cap=soft_cap,
            k_scale=k_scale, v_scale=v_scale, dtype=torch.float32,
        )  # fmt: skip
        return out.copy_(found)
    if longest is None:
        longest = int((q_start[1:] - q_start[:-1]).max()) if q_start.shape[0] > 1 else 0
    plain = not window and not soft_cap and prefix_len is None and q_start.shape[0] == 2 and longest == q.shape[0]
    if library and plain and k is not None and v is not None:
        return out.copy_(by_library(q, k, v, scale))
    launch(
        q, k, v, q_start, scale, k_pages, v_pages, page_table, prefix_len, window, sinks if window else 0,
        globals_ if window else None, soft_cap, k_scale, v_scale, longest, out,
    )  # fmt: skip
    return out


def by_library(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> torch.Tensor:
    """One sequence's first chunk through SDPA: cuDNN's kernel on a Hopper GPU is ahead of any written in Triton."""
    order = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    with sdpa_kernel(order, set_priority=True):
        found = torch.nn.functional.scaled_dot_product_attention(
            q.transpose(0, 1)[None], k.transpose(0, 1)[None], v.transpose(0, 1)[None],
            is_causal=True, scale=scale, enable_gqa=q.shape[1] != k.shape[1],
        )  # fmt: skip
    return found[0].transpose(0, 1)


def launch(
    q: torch.Tensor, k: torch.Tensor | None, v: torch.Tensor | None, q_start: torch.Tensor, scale: float,
    k_pages: torch.Tensor | None, v_pages: torch.Tensor | None, page_table: torch.Tensor | None,
    prefix_len: torch.Tensor | None, window: int, sinks: int, globals_: torch.Tensor | None, soft_cap: float,
    k_scale: torch.Tensor | None, v_scale: torch.Tensor | None, longest: int, out: torch.Tensor,
) -> None:  # fmt: skip
    sequences, (_, heads, d) = q_start.shape[0] - 1, q.shape
    kv_heads = k.shape[1] if k is not None else k_pages.shape[1] if k_pages is not None else heads
    page = 1 if k_pages is None else k_pages.shape[2]
    defaults = sizes(q.dtype, d)
    chosen = tuned("prefill_attention", q.device, defaults, rows=longest, d=d)
    block = min(chosen.pop("block"), max(16, power_of_two(longest)))
    tile, descriptors = chosen.pop("tile"), bool(chosen.pop("descriptors")) and copyable(k, v)
    specialised = bool(chosen.pop("specialised")) and descriptors
    blocks = -(-longest // block)
    if not blocks * sequences:
        return
    log2e = 1.4426950408889634
    scaled = k_scale is not None
    by_page = [(0, 0) if x is None or x.numel() == 1 else x.stride() for x in (k_scale, v_scale)]
    if descriptors and q.is_cuda:
        # A descriptor made on the device needs a little memory there, from torch's own allocator.
        triton.set_allocator(lambda size, alignment, stream: torch.empty(size, dtype=torch.int8, device=q.device))
    with on(q):
        _prefill_kernel[(blocks * heads, sequences)](
            q, q.stride(0), q.stride(1),
            k, *((0, 0) if k is None else k.stride()[:2]), v, *((0, 0) if v is None else v.stride()[:2]),
            k_pages, *((0, 0, 0) if k_pages is None else k_pages.stride()[:3]),
            v_pages, *((0, 0, 0) if v_pages is None else v_pages.stride()[:3]),
            page_table, 0 if page_table is None else page_table.stride(0), q_start, prefix_len,
            globals_, 0 if globals_ is None else globals_.stride(0), 0 if globals_ is None else globals_.shape[1],
            q if k_scale is None else k_scale, *by_page[0], q if v_scale is None else v_scale, *by_page[1],
            out, out.stride(0), out.stride(1), heads, window, sinks,
            scale / soft_cap if soft_cap else scale * log2e, soft_cap * log2e,
            GROUP=heads // kv_heads, BLOCK=block, TILE=tile, PAGE=page, D=d, WIDTH=power_of_two(d),
            WINDOWED=window > 0, CAPPED=soft_cap > 0, SCALED=scaled, DESCRIPTORS=descriptors,
            SPECIALISED=specialised, **chosen,
        )  # fmt: skip


def sizes(dtype: torch.dtype, d: int) -> dict[str, int]:
    """What a program takes when no table says otherwise. In fp32, which the matrix units do not multiply exactly, a
    product is made of single multiplications: small blocks, or their numbers do not fit the registers."""
    if dtype == torch.float32:
        return {"block": 32, "tile": 16, "num_warps": 8, "num_stages": 2, "descriptors": 0, "specialised": 0}
    tile = 64 if d <= 128 else 32
    return {"block": 128, "tile": tile, "num_warps": 8, "num_stages": 3, "descriptors": 0, "specialised": 0}


def copyable(k: torch.Tensor | None, v: torch.Tensor | None) -> bool:
    """Whether the copy engine can take it: a power of two wide, every row at a multiple of 16 bytes."""
    return all(
        x is not None
        and power_of_two(x.shape[2]) == x.shape[2]
        and x.data_ptr() % 16 == 0
        and all(stride * x.element_size() % 16 == 0 for stride in x.stride()[:2])
        for x in (k, v)
    )

"""After a tree of guesses has been verified: the accepted nodes' keys and values move to where they belong.

    slot(base + j) = slot(base + accepted_j),   j = 0, 1, ...,   accepted_0 < accepted_1 < ...

New row i of a tree was written at position `base + i`. Its accepted nodes are one path, in rising order, so what is
read stands at or behind where it is written. All is read before anything is written: the nodes may overlap.
A chain is in place already and needs none of this.
"""

from __future__ import annotations

import torch

from . import attention_checks as check
from .dispatch import FLOATS, jit, on, power_of_two, tl, use_triton


def reference_compact_accepted(
    k_pages: torch.Tensor,
    v_pages: torch.Tensor,
    page_table: torch.Tensor,
    base: torch.Tensor,
    accepted: torch.Tensor,
) -> None:
    """Plain torch, one sequence at a time, in place."""
    page = k_pages.shape[2]
    for table, first, nodes in zip(page_table, base.tolist(), accepted, strict=True):
        kept = nodes[nodes >= 0].long()
        if not len(kept):
            continue
        source, target = first + kept, first + torch.arange(len(kept), device=kept.device)
        for pages in (k_pages, v_pages):
            moved = pages[table[source // page].long(), :, source % page].clone()
            pages[table[target // page].long(), :, target % page] = moved


@jit
def _compact_kernel(
    pages_ptr, pages_page, pages_head, pages_slot, table_ptr, table_row, base_ptr, accepted_ptr, accepted_row, most,
    PAGE: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr, NODES: tl.constexpr,
):  # fmt: skip
    sequence = tl.program_id(0).to(tl.int64)
    j = tl.arange(0, NODES)
    columns = tl.arange(0, WIDTH)
    node = tl.load(accepted_ptr + sequence * accepted_row + j, mask=j < most, other=-1)
    base = tl.load(base_ptr + sequence)
    # A node that is in its place already (the root, and a chain's beginning) is neither read nor written.
    moves = node > j
    source = base + node
    target = base + j
    from_page = tl.load(table_ptr + sequence * table_row + source // PAGE, mask=moves, other=0).to(tl.int64)
    to_page = tl.load(table_ptr + sequence * table_row + target // PAGE, mask=moves, other=0).to(tl.int64)
    head = pages_ptr + tl.program_id(1).to(tl.int64) * pages_head
    inside = moves[:, None] & (columns[None, :] < D)
    read_at = head + (from_page * pages_page + (source % PAGE) * pages_slot)[:, None] + columns[None, :]
    write_at = head + (to_page * pages_page + (target % PAGE) * pages_slot)[:, None] + columns[None, :]
    moved = tl.load(read_at, mask=inside)
    # Another warp may hold what this one is about to write over.
    tl.debug_barrier()
    tl.store(write_at, moved, mask=inside)


def compact_accepted(
    k_pages: torch.Tensor,
    v_pages: torch.Tensor,
    page_table: torch.Tensor,
    base: torch.Tensor,
    accepted: torch.Tensor,
) -> None:
    """Moves the accepted nodes of each sequence's tree into contiguous slots, in place.

    k_pages, v_pages  [pages, kv_heads, page, d], any dtype
    page_table        [sequences, most_pages] int32
    base              [sequences] int32: the position of new row 0
    accepted          [sequences, most] int32: the accepted rows of the tree, rising, then -1; at most 64

    Raises ValueError, naming the argument, before anything is launched.
    """
    floats = (*FLOATS, check.FP8)
    check.tensor("k_pages", k_pages, (None, None, None, None), floats, k_pages.device)
    check.power_of_two("k_pages: page", k_pages.shape[2], 1, 256)
    check.tensor("v_pages", v_pages, tuple(k_pages.shape), (k_pages.dtype,), k_pages.device)
    check.tensor("page_table", page_table, (None, None), (torch.int32,), k_pages.device)
    sequences = page_table.shape[0]
    check.lengths("base", base, sequences, k_pages.device)
    check.tensor("accepted", accepted, (sequences, None), (torch.int32,), k_pages.device)
    most = accepted.shape[1]
    if most > 64:
        raise ValueError(f"accepted: at most 64 nodes, got {most}")
    if not use_triton(k_pages):
        return reference_compact_accepted(k_pages, v_pages, page_table, base, accepted)
    page, d = k_pages.shape[2:]
    if not sequences or not most:
        return None
    with on(k_pages):
        for pages in (k_pages, v_pages):
            # Bits are moved, not numbers: the same kernel serves every dtype of that size.
            bits = pages.view(torch.uint8) if pages.dtype == check.FP8 else pages
            _compact_kernel[(sequences, k_pages.shape[1])](
                bits, bits.stride(0), bits.stride(1), bits.stride(2), page_table, page_table.stride(0), base, accepted,
                accepted.stride(0), most, PAGE=page, D=d, WIDTH=power_of_two(d), NODES=power_of_two(max(most, 2)),
                num_warps=4,
            )  # fmt: skip
    return None

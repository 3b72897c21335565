"""How a block of a prompt's rows goes over its keys: those in pages, and the new rows' own.

Three stretches of tiles: an edge (the sinks, and where the window begins), an inside where all rows see all keys and
nothing is masked, and the diagonal. Functions of the device only, for attention_prefill.py.
"""

from __future__ import annotations

from .attention_tile import fold, read_tile
from .dispatch import jit, tl


@jit
def seen_by(key, at, window, sinks, WINDOWED: tl.constexpr):
    seen = key[None, :] <= at[:, None]
    if WINDOWED:
        seen &= (key[None, :] > at[:, None] - window) | (key < sinks)[None, :]
    return seen


@jit
def over_pages(
    q, best, total, acc, first, last, gap, sink_tiles, end, lowest, at, window, sinks,
    k_ptr, k_page, k_slot, v_ptr, v_page, v_slot, table_ptr, k_scale_ptr, k_scale_page, v_scale_ptr, v_scale_page,
    inner, outer, TILE: tl.constexpr, PAGE: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr,
    WINDOWED: tl.constexpr, CAPPED: tl.constexpr, SCALED: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Tiles `first` to `last` of what the pages hold; without MASKED every row sees every key of them."""
    n = tl.arange(0, TILE)
    columns = tl.arange(0, WIDTH)
    for tile in range(first, last):
        key = tl.where(tile < sink_tiles, tile, tile + gap) * TILE + n
        present = key >= 0
        if MASKED:
            present = key < end
            if WINDOWED:
                present &= (key > lowest) | (key < sinks)
        page = tl.load(table_ptr + key // PAGE, mask=present, other=0).to(tl.int64)
        k = read_tile(k_ptr, k_page, k_slot, page, key % PAGE, columns, present, D, WIDTH)
        v = read_tile(v_ptr, v_page, v_slot, page, key % PAGE, columns, present, D, WIDTH)
        k_scale, v_scale = 1.0, 1.0
        if SCALED:
            k_scale = tl.load(k_scale_ptr + page * k_scale_page, mask=present, other=0.0)
            v_scale = tl.load(v_scale_ptr + page * v_scale_page, mask=present, other=0.0)
        seen = present[None, :]
        if MASKED:
            seen &= seen_by(key, at, window, sinks, WINDOWED)
        best, total, acc = fold(
            q, k, v, seen, best, total, acc, inner, outer, k_scale, v_scale, CAPPED, SCALED, MASKED
        )  # fmt: skip
    return best, total, acc


@jit
def over_new(
    q, best, total, acc, first, last, gap, sink_tiles, prefix, new, at, window, sinks,
    k_ptr, k_row, v_ptr, v_row, k_tiles, v_tiles, inner, outer,
    TILE: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr, WINDOWED: tl.constexpr, CAPPED: tl.constexpr,
    MASKED: tl.constexpr, DESCRIPTORS: tl.constexpr, SPECIALISED: tl.constexpr,
):  # fmt: skip
    """Tiles `first` to `last` of the new rows' own keys."""
    n = tl.arange(0, TILE)
    columns = tl.arange(0, WIDTH)
    for tile in tl.range(first, last, warp_specialize=SPECIALISED):  # pyright: ignore
        start = tl.where(tile < sink_tiles, tile, tile + gap) * TILE
        key = start + n
        if DESCRIPTORS:
            k = k_tiles.load([start, 0])
            v = v_tiles.load([start, 0])
        else:
            rows = key.to(tl.int64)
            if MASKED:
                k = read_tile(k_ptr, k_row, 0, rows, rows, columns, key < new, D, WIDTH)
                v = read_tile(v_ptr, v_row, 0, rows, rows, columns, key < new, D, WIDTH)
            else:
                k = read_tile(k_ptr, k_row, 0, rows, rows, columns, key >= 0, D, WIDTH)
                v = read_tile(v_ptr, v_row, 0, rows, rows, columns, key >= 0, D, WIDTH)
        seen = (key < new)[None, :]
        if MASKED:
            seen &= seen_by(prefix + key, at, window, sinks, WINDOWED)
        best, total, acc = fold(q, k, v, seen, best, total, acc, inner, outer, 1.0, 1.0, CAPPED, False, MASKED)
    return best, total, acc


@jit
def zones(first_at, last_at, offset, end, window, sinks, TILE: tl.constexpr, WINDOWED: tl.constexpr):
    """Of keys `offset` to `offset + end`, in tiles: (sinks, left out, edge, inside, end).

    Tiles 0 to `edge` are the sinks and the window's lower edge, with `left out` skipped between them; from there to
    `inside` all rows see all keys; from there to `end` the diagonal passes.
    """
    last = tl.cdiv(tl.maximum(0, tl.minimum(end, last_at + 1 - offset)), TILE)
    inside = tl.minimum(tl.maximum(0, first_at + 1 - offset), end) // TILE
    if WINDOWED:
        sink_tiles = tl.minimum(tl.cdiv(tl.maximum(0, sinks - offset), TILE), last)
        lower = tl.minimum(tl.maximum(0, first_at - window + 1 - offset) // TILE, last)
        gap = tl.maximum(0, lower - sink_tiles)
        edge = tl.cdiv(tl.maximum(0, last_at - window + 1 - offset), TILE)
        edge = tl.minimum(tl.maximum(edge, sink_tiles + gap), last)
        return sink_tiles, gap, edge, tl.minimum(tl.maximum(inside, edge), last), last
    return 0, 0, 0, tl.minimum(inside, last), last

"""By what the keys and values of a page are divided before they are kept in 8 bits: known from the page's first row.

    scale[page, head] <- 2^ceil(log2(max |x|)) / 2            x: the row whose slot is the page's first

A number of 8 bits (e4m3) has the same relative error from 2^-6 to 448, so a scale only has to be about right: the first
row's largest number is kept between 1 and 2, and later rows may be 224 times larger, or 64 times smaller, before
anything is lost. Rows do differ: the values of a text's first token are often a small part of the others'. A page's
scale depends on nothing but its first token, whatever was computed beside it and in however many pieces; as a power of
two it divides exactly. Keys are measured normed and before they are turned, which changes a number by 1.41 at most.

Written by a launch of its own, before write_kv.py: rows of one page are written by programs that do not wait for one
another.
"""

from __future__ import annotations

import torch

from .dispatch import jit, on, power_of_two, require, require_floats, tl, use_triton

_LEAST = 64  # the exponent, 127 too large, of the least scale: a row of zeros has none of its own


def reference_page_scales(x: torch.Tensor, slots: torch.Tensor, scale: torch.Tensor, page: int) -> None:
    """Plain torch, in place: x [rows, kv_heads, d], normed already."""
    opens = (slots >= 0) & (slots % page == 0)
    most = x[opens].float().abs().amax(-1)
    exponent = ((most.view(torch.int32) + 0x7FFFFF) >> 23) - 1
    scale[slots[opens] // page] = (exponent.clamp_min(_LEAST) << 23).view(torch.float32)


@jit
def _scale_of(x, LEAST: tl.constexpr):
    bits = tl.max(tl.abs(x), 0).to(tl.int32, bitcast=True)
    return (tl.maximum(((bits + 0x7FFFFF) >> 23) - 1, LEAST) << 23).to(tl.float32, bitcast=True)


@jit
def _page_scales_kernel(
    k_ptr, k_row, k_head, v_ptr, v_row, v_head, norm_ptr, slots_ptr, k_scale_ptr, v_scale_ptr, kv_heads, page_size,
    eps, D: tl.constexpr, WIDTH: tl.constexpr, LEAST: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    slot = tl.load(slots_ptr + row)
    if (slot < 0) | (slot % page_size != 0):
        return
    column = tl.arange(0, WIDTH)
    inside = column < D
    k = tl.load(k_ptr + row * k_row + head * k_head + column, mask=inside, other=0.0).to(tl.float32)
    v = tl.load(v_ptr + row * v_row + head * v_head + column, mask=inside, other=0.0).to(tl.float32)
    if norm_ptr is not None:
        weight = tl.load(norm_ptr + column, mask=inside, other=0.0).to(tl.float32)
        k = k * tl.rsqrt(tl.sum(k * k, 0) / D + eps) * weight
    kept = slot // page_size * kv_heads + head
    tl.store(k_scale_ptr + kept, _scale_of(k, LEAST))
    tl.store(v_scale_ptr + kept, _scale_of(v, LEAST))


def page_scales(
    k: torch.Tensor,
    v: torch.Tensor,
    slots: torch.Tensor,
    k_scale: torch.Tensor,
    v_scale: torch.Tensor,
    *,
    page: int,
    k_norm: torch.Tensor | None = None,
    eps: float = 1e-6,
) -> None:
    """Sets the scales of the pages that some rows open, in place; of other pages nothing is changed.

    k, v              [rows, kv_heads, d], float16, bfloat16 or float32, the last axis contiguous
    slots             [rows] int64: page number * page + place in the page, or -1
    k_scale, v_scale  [pages, kv_heads] float32, contiguous
    page              slots of a page
    k_norm            [d], the weights of the heads' norm, as in write_kv

    Raises ValueError, naming the argument, before anything is launched.
    """
    _check(k, v, slots, k_scale, v_scale, page, k_norm)
    if not use_triton(k):
        normed = k.float()
        if k_norm is not None:
            normed = normed * torch.rsqrt(normed.square().mean(-1, keepdim=True) + eps) * k_norm.float()
        reference_page_scales(normed, slots, k_scale, page)
        reference_page_scales(v, slots, v_scale, page)
        return
    rows, kv_heads, d = k.shape
    if rows == 0:
        return
    with on(k):
        _page_scales_kernel[(rows, kv_heads)](
            k, *k.stride()[:2], v, *v.stride()[:2], k_norm, slots, k_scale, v_scale, kv_heads, page, eps,
            D=d, WIDTH=power_of_two(d), LEAST=_LEAST, num_warps=1,
        )  # fmt: skip


def _check(
    k: torch.Tensor, v: torch.Tensor, slots: torch.Tensor, k_scale: torch.Tensor, v_scale: torch.Tensor, page: int,
    k_norm: torch.Tensor | None,
) -> None:  # fmt: skip
    require_floats("k", k)
    require(k.ndim == 3 and k.stride(-1) == 1, "k", "must be [rows, kv_heads, d], the last axis contiguous")
    require(v.shape == k.shape and v.dtype == k.dtype and v.stride(-1) == 1, "v", "must be like k")
    require(slots.shape == k.shape[:1] and slots.dtype == torch.int64, "slots", "must be [rows] int64")
    require(page > 0, "page", f"must be 1 or more, not {page}")
    for name, scale in (("k_scale", k_scale), ("v_scale", v_scale)):
        fits = scale.ndim == 2 and scale.shape[1] == k.shape[1] and scale.is_contiguous()
        require(fits and scale.dtype == torch.float32, name, "must be [pages, kv_heads] float32, contiguous")
    require_floats("k_norm", k_norm)
    require(k_norm is None or k_norm.shape == k.shape[2:], "k_norm", "must be [d]")
    for name, tensor in (("v", v), ("slots", slots), ("k_scale", k_scale), ("v_scale", v_scale), ("k_norm", k_norm)):
        require(tensor is None or tensor.device == k.device, name, "must be on k's device")

"""What happens to a token's query, key and value between their projection and attention, in one pass.

    q, k <- u / sqrt(mean(u^2) + eps) * weight            where the model norms heads (Qwen3)
    q, k <- (a cos - b sin, a sin + b cos)                rotary positions, Su et al., arXiv 2104.09864
    k_pages[slot] <- k / k_scale,  v_pages[slot] <- v / v_scale

A pair (a, b) is columns (i, i + rotated / 2) in halves (Llama in safetensors, Qwen) or (2i, 2i + 1) interleaved (Llama
in GGUF); columns beyond `rotated` pass. Done apart, these are five trips to memory over the same small vectors. One
program does a few heads of one row: of the queries, or of keys and values together. Pages are laid out as attention
reads them; a row whose slot is -1 (padding of a captured graph) writes none.
"""

from __future__ import annotations

import torch

from .dispatch import blocks, jit, on, power_of_two, require, require_floats, tl, tuned, use_triton

_FP8_LARGEST = 448.0  # of float8_e4m3fn; beyond it a cast gives NaN


def reference_rotate(
    x: torch.Tensor,
    positions: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    interleaved: bool,
    norm: torch.Tensor | None,
    eps: float,
) -> torch.Tensor:
    """One of q and k [rows, heads, d], normed and rotated, in plain torch; in float64 when x is."""
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    up = x.to(wide)
    if norm is not None:
        up = up * torch.rsqrt(up.square().mean(-1, keepdim=True) + eps) * norm.to(wide)
    half = cos.shape[1]
    c, s = cos[positions].to(wide).unsqueeze(1), sin[positions].to(wide).unsqueeze(1)
    turned, rest = up[..., : 2 * half], up[..., 2 * half :]
    a, b = (turned[..., 0::2], turned[..., 1::2]) if interleaved else (turned[..., :half], turned[..., half:])
    first, second = a * c - b * s, a * s + b * c
    both = torch.stack((first, second), -1).flatten(-2) if interleaved else torch.cat((first, second), -1)
    return torch.cat((both, rest), -1).to(x.dtype)


def reference_store(x: torch.Tensor, pages: torch.Tensor, slots: torch.Tensor, scale: torch.Tensor | None) -> None:
    """Writes x [rows, kv_heads, d] into pages, in plain torch."""
    kept = slots >= 0
    page, place = slots[kept] // pages.shape[2], slots[kept] % pages.shape[2]
    values = x[kept].to(torch.promote_types(x.dtype, torch.float32))
    if scale is not None:
        each = scale.reshape(1, 1, 1) if scale.numel() == 1 else scale[page].unsqueeze(-1)
        values = values / each
    if pages.dtype == torch.float8_e4m3fn:
        values = values.clamp(-_FP8_LARGEST, _FP8_LARGEST)
    pages[page, :, place] = values.to(pages.dtype)


@jit
def _turn_and_store(
    x_ptr, x_stride, out_ptr, out_stride, norm_ptr, head, heads, c, s, eps, scale,
    D: tl.constexpr, HALF: tl.constexpr, WIDE: tl.constexpr, REST: tl.constexpr,
    INTERLEAVED: tl.constexpr, NORM: tl.constexpr, SATURATE: tl.constexpr,
):  # fmt: skip
    """Norms and rotates a tile of one row's heads; `x_stride` and `out_stride` lead from one head to the next."""
    i = tl.arange(0, WIDE)
    low = i * 2 if INTERLEAVED else i
    high = low + 1 if INTERLEAVED else low + HALF
    inside = (head < heads)[:, None] & (i < HALF)[None, :]
    x_at = x_ptr + head[:, None] * x_stride
    out_at = out_ptr + head[:, None] * out_stride
    a = tl.load(x_at + low[None, :], mask=inside, other=0.0).to(tl.float32)
    b = tl.load(x_at + high[None, :], mask=inside, other=0.0).to(tl.float32)
    factor = 1.0
    if NORM:
        squares = tl.sum(a * a + b * b, axis=1)
        if REST:
            j = 2 * HALF + tl.arange(0, REST)
            r = tl.load(x_at + j[None, :], mask=(head < heads)[:, None] & (j < D)[None, :], other=0.0).to(tl.float32)
            squares += tl.sum(r * r, axis=1)
        factor = tl.rsqrt(squares / D + eps)[:, None]
        a = a * factor * tl.load(norm_ptr + low, mask=i < HALF, other=0.0).to(tl.float32)[None, :]
        b = b * factor * tl.load(norm_ptr + high, mask=i < HALF, other=0.0).to(tl.float32)[None, :]
    first = _stored((a * c[None, :] - b * s[None, :]), scale, SATURATE)
    second = _stored((a * s[None, :] + b * c[None, :]), scale, SATURATE)
    tl.store(out_at + low[None, :], first.to(out_ptr.dtype.element_ty), mask=inside)
    tl.store(out_at + high[None, :], second.to(out_ptr.dtype.element_ty), mask=inside)
    if REST:
        j = 2 * HALF + tl.arange(0, REST)
        outside = (head < heads)[:, None] & (j < D)[None, :]
        r = tl.load(x_at + j[None, :], mask=outside, other=0.0).to(tl.float32)
        if NORM:
            r = r * factor * tl.load(norm_ptr + j, mask=j < D, other=0.0).to(tl.float32)[None, :]
        tl.store(out_at + j[None, :], _stored(r, scale, SATURATE).to(out_ptr.dtype.element_ty), mask=outside)


@jit
def _stored(x, scale, SATURATE: tl.constexpr):
    x = x / scale[:, None]
    if SATURATE:
        x = tl.minimum(tl.maximum(x, -448.0), 448.0)
    return x


@jit
def _scales(scale_ptr, stride, page, head, heads, KIND: tl.constexpr):
    """[heads in the tile]: 1, the one scale, or the page's for each head."""
    if KIND == 0:
        scale = tl.full(head.shape, 1.0, tl.float32)
    elif KIND == 1:
        scale = tl.load(scale_ptr + head * 0)
    else:
        scale = tl.load(scale_ptr + page * stride + head, mask=head < heads, other=1.0)
    return scale


@jit
def _write_kv_kernel(
    q_ptr, q_row, q_head, k_ptr, k_row, k_head, v_ptr, v_row, v_head, out_ptr, out_row, out_head,
    k_pages_ptr, kp_page, kp_head, kp_place, v_pages_ptr, vp_page, vp_head, vp_place,
    k_scale_ptr, k_scale_stride, v_scale_ptr, v_scale_stride, q_norm_ptr, k_norm_ptr,
    slots_ptr, positions_ptr, cos_ptr, sin_ptr, table_stride, heads, kv_heads, page_size, eps,
    D: tl.constexpr, HALF: tl.constexpr, WIDE: tl.constexpr, REST: tl.constexpr, FULL: tl.constexpr,
    INTERLEAVED: tl.constexpr, Q_NORM: tl.constexpr, K_NORM: tl.constexpr, K_SCALE: tl.constexpr,
    V_SCALE: tl.constexpr, FP8: tl.constexpr, BLOCK_H: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    q_blocks = (heads + BLOCK_H - 1) // BLOCK_H
    block = tl.program_id(1)
    i = tl.arange(0, WIDE)
    position = tl.load(positions_ptr + row).to(tl.int64)
    c = tl.load(cos_ptr + position * table_stride + i, mask=i < HALF, other=0.0)
    s = tl.load(sin_ptr + position * table_stride + i, mask=i < HALF, other=0.0)
    if block < q_blocks:
        head = block * BLOCK_H + tl.arange(0, BLOCK_H)
        one = tl.full([BLOCK_H], 1.0, tl.float32)
        _turn_and_store(
            q_ptr + row * q_row, q_head, out_ptr + row * out_row, out_head, q_norm_ptr, head, heads, c, s, eps, one,
            D, HALF, WIDE, REST, INTERLEAVED, Q_NORM, False,
        )  # fmt: skip
    else:
        slot = tl.load(slots_ptr + row)
        if slot >= 0:
            page = slot // page_size
            place = slot % page_size
            head = (block - q_blocks) * BLOCK_H + tl.arange(0, BLOCK_H)
            k_at = k_pages_ptr + page * kp_page + place * kp_place
            v_at = v_pages_ptr + page * vp_page + place * vp_place
            scale = _scales(k_scale_ptr, k_scale_stride, page, head, kv_heads, K_SCALE)
            _turn_and_store(
                k_ptr + row * k_row, k_head, k_at, kp_head, k_norm_ptr, head, kv_heads, c, s, eps, scale,
                D, HALF, WIDE, REST, INTERLEAVED, K_NORM, FP8,
            )  # fmt: skip
            scale = _scales(v_scale_ptr, v_scale_stride, page, head, kv_heads, V_SCALE)
            j = tl.arange(0, FULL)
            inside = (head < kv_heads)[:, None] & (j < D)[None, :]
            v = tl.load(v_ptr + row * v_row + head[:, None] * v_head + j[None, :], mask=inside, other=0.0)
            v = _stored(v.to(tl.float32), scale, FP8)
            tl.store(v_at + head[:, None] * vp_head + j[None, :], v.to(v_pages_ptr.dtype.element_ty), mask=inside)


def write_kv(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    k_pages: torch.Tensor,
    v_pages: torch.Tensor,
    slots: torch.Tensor,
    positions: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    *,
    interleaved: bool = False,
    q_norm: torch.Tensor | None = None,
    k_norm: torch.Tensor | None = None,
    eps: float = 1e-6,
    k_scale: torch.Tensor | None = None,
    v_scale: torch.Tensor | None = None,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Writes the keys and values of `rows` tokens into their pages, and returns their rotated queries.

    q                 [rows, heads, d], float16, bfloat16 or float32; only the last axis of any tensor is contiguous
    k, v              [rows, kv_heads, d], dtype of q; left as they are
    k_pages, v_pages  [pages, kv_heads, page, d], dtype of q or float8_e4m3fn; written
    slots             [rows] int64: page number * page + place in the page, or -1 to write nothing; all different
    positions         [rows] int32 or int64: rows of the tables
    cos, sin          [positions, rotated / 2] float32, rotated <= d
    q_norm, k_norm    [d], the weights of the heads' norm
    k_scale, v_scale  float32, one element or [pages, kv_heads]; what is stored is the value over its scale
    out               [rows, heads, d], dtype of q; may be q
    """
    _check(q, k, v, k_pages, v_pages, slots, positions, cos, sin, q_norm, k_norm, k_scale, v_scale, out)
    turned = torch.empty(q.shape, dtype=q.dtype, device=q.device) if out is None else out
    if not use_triton(q):
        places = positions.long()
        turned.copy_(reference_rotate(q, places, cos, sin, interleaved, q_norm, eps))
        reference_store(reference_rotate(k, places, cos, sin, interleaved, k_norm, eps), k_pages, slots, k_scale)
        reference_store(v, v_pages, slots, v_scale)
        return turned
    rows, heads, d = q.shape
    if rows == 0:
        return turned
    half, kv_heads = cos.shape[1], k.shape[1]
    choice = tuned("write_kv", q.device, {"BLOCK_H": 8, "num_warps": 2}, rows=rows, heads=heads, d=d)
    per_row = blocks(heads, choice["BLOCK_H"]) + blocks(kv_heads, choice["BLOCK_H"])
    with on(q):
        _write_kv_kernel[(rows, per_row)](
            q, *q.stride()[:2], k, *k.stride()[:2], v, *v.stride()[:2], turned, *turned.stride()[:2],
            k_pages, *k_pages.stride()[:3], v_pages, *v_pages.stride()[:3],
            k_scale, _stride(k_scale), v_scale, _stride(v_scale), q_norm, k_norm,
            slots, positions, cos, sin, cos.stride(0), heads, kv_heads, k_pages.shape[2], eps,
            D=d, HALF=half, WIDE=power_of_two(half), REST=power_of_two(d - 2 * half) if d > 2 * half else 0,
            FULL=power_of_two(d), INTERLEAVED=interleaved, Q_NORM=q_norm is not None, K_NORM=k_norm is not None,
            K_SCALE=_scale_kind(k_scale), V_SCALE=_scale_kind(v_scale), FP8=k_pages.dtype == torch.float8_e4m3fn,
            **choice,
        )  # fmt: skip
    return turned


def _scale_kind(scale: torch.Tensor | None) -> int:
    return 0 if scale is None else 1 if scale.numel() == 1 else 2


def _stride(scale: torch.Tensor | None) -> int:
    return scale.stride(0) if scale is not None and scale.ndim == 2 else 0


def _check(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    k_pages: torch.Tensor,
    v_pages: torch.Tensor,
    slots: torch.Tensor,
    positions: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    q_norm: torch.Tensor | None,
    k_norm: torch.Tensor | None,
    k_scale: torch.Tensor | None,
    v_scale: torch.Tensor | None,
    out: torch.Tensor | None,
) -> None:
    require_floats("q", q)
    require(q.ndim == 3, "q", "must be [rows, heads, d]")
    rows, _, d = q.shape
    require(k.ndim == 3 and k.shape[0] == rows and k.shape[2] == d, "k", "must be [rows, kv_heads, d] like q")
    require(k.dtype == q.dtype, "k", "must be of q's dtype")
    require(k_pages.ndim == 4, "k_pages", "must be [pages, kv_heads, page, d]")
    pages, kv_heads, _, wide = k_pages.shape
    require((kv_heads, wide) == tuple(k.shape[1:]), "k_pages", "must have k's heads and width")
    require(k_pages.dtype in (q.dtype, torch.float8_e4m3fn), "k_pages", "must be of q's dtype or float8_e4m3fn")
    require(cos.dtype == torch.float32, "cos", "must be float32")
    require(cos.ndim == 2 and 0 < 2 * cos.shape[1] <= d, "cos", "must be [positions, rotated / 2], rotated <= d")
    alike = (("v", v, k), ("v_pages", v_pages, k_pages), ("sin", sin, cos), ("out", out, q))
    for name, one, other in alike:
        if one is not None:
            require(one.shape == other.shape and one.dtype == other.dtype, name, f"must be {tuple(other.shape)} alike")
    require(cos.stride(0) == sin.stride(0), "cos", "must be strided as sin")
    require(slots.shape == (rows,) and slots.dtype == torch.int64, "slots", "must be [rows] int64")
    whole = positions.dtype in (torch.int32, torch.int64)
    require(positions.shape == (rows,) and whole, "positions", "must be [rows] int32 or int64")
    for name, norm in (("q_norm", q_norm), ("k_norm", k_norm)):
        require_floats(name, norm)
        require(norm is None or norm.shape == (d,), name, "must be [d]")
    for name, scale in (("k_scale", k_scale), ("v_scale", v_scale)):
        fits = scale is None or scale.numel() == 1 or scale.shape == (pages, kv_heads)
        right = scale is None or scale.dtype == torch.float32
        require(fits and right, name, "must be float32, one element or [pages, kv_heads]")
    held = {"q": q, "k": k, "v": v, "k_pages": k_pages, "v_pages": v_pages, "slots": slots, "positions": positions,
            "cos": cos, "sin": sin, "q_norm": q_norm, "k_norm": k_norm, "k_scale": k_scale, "v_scale": v_scale,
            "out": out}  # fmt: skip
    for name, tensor in held.items():
        if tensor is not None:
            require(tensor.device == q.device, name, "must be on q's device")
            require(tensor.shape[-1:] in ((), (1,)) or tensor.stride(-1) == 1, name, "last axis must be contiguous")

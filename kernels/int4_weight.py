"""A matrix of 4-bit weights in the one layout that our kernels read, and the ways into it from the layouts of files.

    w[n, k] = scale[g, n] * (q[n, k] - zero[g, n])        GPTQ (arXiv 2210.17323), AWQ (arXiv 2306.00978), Q4_0
    w[n, k] = scale[g, n] * q[n, k] + offset[g, n]        GGUF's Q4_1, Q4_K
    g = k // group,  q in 0..15

A span is 128 columns of one row in 32 words of 16 bits: word i holds columns i, 32 + i, 64 + i and 96 + i, lowest bits
first. So one load gives four tiles, each contiguous in k and each inside one group, and two neighbours of a tile lie in
one register as a tensor core's 16-bit operand wants them: nothing is shuffled between threads. Spans lie one after the
other, each with all its rows, so that a block of rows is one run of memory:

    codes [spans, out, 32] int16

Columns beyond `in` are there when `in` is no multiple of a span; their scale is 0. Knows nothing of how it is
multiplied.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .dispatch import blocks, require

GROUPS = (32, 64, 128)
SPAN = 128
PLANE = 32  # columns of a span that the same 4 bits of its words hold
_SYMMETRIC = 8  # the zero of 4-bit codes where a file names none
_AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # the column that each 4 bits of an AWQ word hold
_BITS = tuple(range(0, 32, 4))


@dataclass(frozen=True, slots=True)
class Int4Weight:
    """`scales`, and `zeros` (uint8) or `offsets` (dtype of scales), are [groups, out]; with neither, zero is 8.
    With `order` [in] (act-order GPTQ), weight column k belongs to input column order[k]."""

    codes: torch.Tensor
    scales: torch.Tensor
    zeros: torch.Tensor | None
    offsets: torch.Tensor | None
    order: torch.Tensor | None
    group: int
    columns: int

    @property
    def rows(self) -> int:
        return self.codes.shape[1]

    @property
    def nbytes(self) -> int:
        held = (self.codes, self.scales, self.zeros, self.offsets)
        return sum(tensor.numel() * tensor.element_size() for tensor in held if tensor is not None)

    def to(self, device: torch.device) -> Int4Weight:
        zeros, offsets, order = (t if t is None else t.to(device) for t in (self.zeros, self.offsets, self.order))
        codes, scales = self.codes.to(device), self.scales.to(device)
        return Int4Weight(codes, scales, zeros, offsets, order, self.group, self.columns)


def pack_int4(
    q: torch.Tensor,
    scales: torch.Tensor,
    *,
    group: int,
    zeros: torch.Tensor | None = None,
    offsets: torch.Tensor | None = None,
    order: torch.Tensor | None = None,
) -> Int4Weight:
    """Codes `q` [out, in] of 0..15 (any integer dtype), `scales`, `zeros`, `offsets` [out, groups]."""
    require(group in GROUPS, "group", f"must be one of {GROUPS}, not {group}")
    require(q.ndim == 2 and not q.is_floating_point() and q.numel() > 0, "q", "must be integers [out, in]")
    rows, columns = q.shape
    require(bool(((q >= 0) & (q < 16)).all()), "q", "must be from 0 to 15")
    require(zeros is None or offsets is None, "offsets", "cannot be given beside zeros")
    require(order is None or order.shape == (columns,), "order", "must be [in]")
    for name, held in (("scales", scales), ("zeros", zeros), ("offsets", offsets)):
        require(held is None or held.shape == (rows, blocks(columns, group)), name, "must be [out, groups]")
    spans = blocks(columns, SPAN)
    padded = torch.zeros(rows, spans * SPAN, dtype=torch.int32, device=q.device)
    padded[:, :columns] = q
    planes = padded.view(rows, spans, 4, PLANE).permute(2, 1, 0, 3)
    words = planes[0] | planes[1] << 4 | planes[2] << 8 | planes[3] << 12
    codes = torch.where(words >= 1 << 15, words - (1 << 16), words).to(torch.int16).contiguous()
    groups = spans * SPAN // group
    return Int4Weight(
        codes,
        _by_group(scales, groups),
        None if zeros is None else _by_group(zeros.to(torch.uint8), groups),
        None if offsets is None else _by_group(offsets.to(scales.dtype), groups),
        order,
        group,
        columns,
    )


def _by_group(held: torch.Tensor, groups: int) -> torch.Tensor:
    out = torch.zeros(groups, held.shape[0], dtype=held.dtype, device=held.device)
    out[: held.shape[1]] = held.T
    return out


def unpack_int4(weight: Int4Weight) -> torch.Tensor:
    """The codes again, [out, in] uint8: what `pack_int4` was given."""
    planes = torch.stack([(weight.codes >> shift) & 15 for shift in (0, 4, 8, 12)], 2).to(torch.uint8)
    return planes.transpose(0, 1).reshape(weight.rows, -1)[:, : weight.columns].contiguous()


def dense(weight: Int4Weight, dtype: torch.dtype) -> torch.Tensor:
    """The weights as numbers, [out, in] in the order of the input's columns."""

    def spread(held: torch.Tensor) -> torch.Tensor:
        return held.T.to(dtype).repeat_interleave(weight.group, 1)[:, : weight.columns]

    codes = unpack_int4(weight).to(dtype)
    scales = spread(weight.scales)
    if weight.offsets is not None:
        values = codes * scales + spread(weight.offsets)
    else:
        zeros = _SYMMETRIC if weight.zeros is None else spread(weight.zeros)
        values = (codes - zeros) * scales
    if weight.order is None:
        return values
    placed = torch.empty_like(values)
    placed[:, weight.order] = values
    return placed


def from_gptq(
    qweight: torch.Tensor,
    qzeros: torch.Tensor,
    scales: torch.Tensor,
    group: int,
    g_idx: torch.Tensor | None = None,
    zeros_less_one: bool = True,
) -> Int4Weight:
    """`qweight` int32 [in/8, out], `qzeros` int32 [groups, out/8], `scales` [groups, out], as AutoGPTQ writes them: its
    first format stores each zero less one. Columns whose groups are scattered (act-order) are sorted by group, once."""
    codes = _words(qweight, 0).T
    zeros = (_words(qzeros, 1) + int(zeros_less_one)) & 15
    order = None
    if g_idx is not None and not bool((g_idx == torch.arange(len(g_idx), device=g_idx.device) // group).all()):
        order = g_idx.argsort(stable=True)
        counts = torch.bincount(g_idx, minlength=scales.shape[0])
        require(bool((counts[:-1] == group).all()), "g_idx", f"every group must have {group} columns")
        codes = codes[:, order]
    return pack_int4(codes, scales.T, group=group, zeros=_unless_symmetric(zeros.T), order=order)


def from_awq(qweight: torch.Tensor, qzeros: torch.Tensor, scales: torch.Tensor, group: int) -> Int4Weight:
    """`qweight` int32 [in, out/8], `qzeros` int32 [groups, out/8], `scales` [groups, out], as AutoAWQ's GEMM layout."""
    place = torch.tensor(_AWQ_ORDER, device=qweight.device).argsort()
    codes, zeros = (
        _words(words, 1).view(len(words), -1, 8)[:, :, place].reshape(len(words), -1) for words in (qweight, qzeros)
    )
    return pack_int4(codes.T, scales.T, group=group, zeros=_unless_symmetric(zeros.T))


def from_gguf(raw: torch.Tensor, kind: str) -> Int4Weight:
    """Blocks of 32 weights as they stand in a file: uint8 [out, in/32, 18] for Q4_0 (scale, 16 bytes of codes) or
    [out, in/32, 20] for Q4_1 (scale, offset, codes). Byte i holds weights i and 16 + i."""
    require(kind in ("Q4_0", "Q4_1"), "kind", f"must be Q4_0 or Q4_1, not {kind}")
    head = 2 if kind == "Q4_0" else 4
    require(raw.dtype == torch.uint8 and raw.ndim == 3 and raw.shape[2] == head + 16, "raw", f"is no array of {kind}")
    numbers = raw[:, :, :head].contiguous().view(torch.float16)
    packed = raw[:, :, head:]
    codes = torch.cat((packed & 15, packed >> 4), 2).reshape(raw.shape[0], -1)
    return pack_int4(codes, numbers[:, :, 0], group=32, offsets=None if head == 2 else numbers[:, :, 1])


def _words(words: torch.Tensor, axis: int) -> torch.Tensor:
    """Each int32 along `axis` becomes its eight codes, lowest bits first."""
    shifts = torch.tensor(_BITS, dtype=torch.int32, device=words.device)
    if axis == 0:
        return ((words.unsqueeze(1) >> shifts[:, None]) & 15).flatten(0, 1)
    return ((words.unsqueeze(2) >> shifts) & 15).flatten(1, 2)


def _unless_symmetric(zeros: torch.Tensor) -> torch.Tensor | None:
    return None if bool((zeros == _SYMMETRIC).all()) else zeros

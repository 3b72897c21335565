"""Products with 4-bit and 8-bit weights, beside cuBLAS in 16 bits and torch's own int4 product. Few rows: bytes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from case import Absent, Bar, Case, Inputs, Thunk, relative_error, tolerance_of

from trimtab.kernels.int4_weight import Int4Weight, dense, pack_int4, unpack_int4
from trimtab.kernels.w4a16 import w4a16
from trimtab.kernels.w8a16 import Int8Weight, pack_int8, unpack_int8, w8a16

SHAPES = ((28672, 4096), (4096, 14336))  # of an 8B Llama: gate and up, down
SLICE = 256  # columns of the output that are checked in float64


def cases(rehearse: bool) -> list[Case]:
    if rehearse:
        found = [four(rows, 70, 576, 64, torch.float16) for rows in (1, 20, 70)]
        return [*found, four(3, 40, 160, 32, torch.float16, offsets=True), eight(3, 70, 576, torch.float16)]
    found = []
    for out, columns in SHAPES:
        for rows, bar in ((1, Bar(2.6, 3.3)), (16, Bar(2.2, 3.0)), (64, None), (256, Bar(0.7, 0.9)), (2048, None)):
            bars = {"vs_cublas": bar} if bar else {}
            found.append(four(rows, out, columns, 128, torch.bfloat16, bars))
        found.append(four(1, out, columns, 32, torch.bfloat16, {"vs_cublas": Bar(2.1, 2.7)}, offsets=True))
        for rows, bar in ((1, Bar(1.5, 1.8)), (16, Bar(1.4, 1.75)), (256, None)):
            found.append(eight(rows, out, columns, torch.bfloat16, {"vs_cublas": bar} if bar else {}))
    return found


def inputs_of(device: torch.device, seed: int, rows: int, columns: int, dtype: torch.dtype) -> torch.Tensor:
    source = torch.Generator(device).manual_seed(seed)
    return torch.randn(rows, columns, generator=source, device=device).to(dtype)


def four(
    rows: int,
    out: int,
    columns: int,
    group: int,
    dtype: torch.dtype,
    bars: dict[str, Bar] | None = None,
    *,
    offsets: bool = False,
) -> Case:
    def make(device: torch.device, seed: int) -> Inputs:
        source = torch.Generator(device).manual_seed(seed)
        q = torch.randint(0, 16, (out, columns), generator=source, device=device, dtype=torch.uint8)
        scales = (torch.rand(out, columns // group, generator=source, device=device) * 0.02 + 0.001).to(dtype)
        levels = -7.5 * scales if offsets else None
        weight = pack_int4(q, scales, group=group, offsets=levels)
        return {"x": inputs_of(device, seed, rows, columns, dtype), "weight": weight}

    def ours(inputs: Inputs) -> Thunk:
        y = torch.full((rows, out), float("nan"), dtype=dtype, device=inputs["x"].device)
        return lambda: w4a16(inputs["x"], inputs["weight"], out=y)

    def cublas(inputs: Inputs) -> Thunk:
        return linear(inputs["x"], dense(inputs["weight"], dtype))

    def check(inputs: Inputs, output: torch.Tensor) -> float:
        part = narrowed(inputs["weight"], min(SLICE, out))
        return relative_error(output[:, :SLICE], inputs["x"].double() @ dense(part, torch.float64).T)

    weight_bytes = out * columns // 2 + out * (columns // group) * dtype.itemsize * (2 if offsets else 1)
    return Case(
        name=f"w4a16/{out}x{columns}_g{group}{'_offsets' if offsets else ''}_m{rows}",
        make=make,
        systems={"trimtab": ours, "cublas": cublas, "torch_int4": tinygemm},
        check=check,
        tolerance=tolerance_of(dtype),
        bytes=weight_bytes + rows * (columns + out) * dtype.itemsize,
        flops=2 * rows * out * columns,
        bars=bars or {},
    )


def narrowed(weight: Int4Weight, rows: int) -> Int4Weight:
    """The first rows of a weight."""
    zeros, offsets = (held if held is None else held[:, :rows] for held in (weight.zeros, weight.offsets))
    return replace(weight, codes=weight.codes[:, :rows], scales=weight.scales[:, :rows], zeros=zeros, offsets=offsets)


def linear(x: torch.Tensor, weight: torch.Tensor) -> Thunk:
    return lambda: F.linear(x, weight)


def tinygemm(inputs: Inputs) -> Thunk:
    """torch's int4 product: (q - 8) * scale + zero in bfloat16, a byte's high bits the even column."""
    x, weight = inputs["x"], inputs["weight"]
    if not x.is_cuda or x.dtype != torch.bfloat16:
        raise Absent("torch's int4 product wants CUDA and bfloat16")
    if weight.zeros is not None:
        raise Absent("not written for integer zeros")
    q = unpack_int4(weight)
    packed = torch.ops.aten._convert_weight_to_int4pack((q[:, ::2] << 4 | q[:, 1::2]).contiguous(), 8)
    scales = weight.scales[: weight.columns // weight.group]
    zeros = torch.zeros_like(scales)
    if weight.offsets is not None:
        zeros = weight.offsets[: len(scales)] + 8 * scales
    levels = torch.stack((scales, zeros), 2).bfloat16().contiguous()
    return lambda: torch.ops.aten._weight_int4pack_mm(x, packed, weight.group, levels)


def eight(rows: int, out: int, columns: int, dtype: torch.dtype, bars: dict[str, Bar] | None = None) -> Case:
    def make(device: torch.device, seed: int) -> Inputs:
        weight = pack_int8(inputs_of(device, seed + 1, out, columns, torch.float32))
        return {"x": inputs_of(device, seed, rows, columns, dtype), "weight": weight}

    def ours(inputs: Inputs) -> Thunk:
        y = torch.full((rows, out), float("nan"), dtype=dtype, device=inputs["x"].device)
        return lambda: w8a16(inputs["x"], inputs["weight"], out=y)

    def cublas(inputs: Inputs) -> Thunk:
        return linear(inputs["x"], unpack_int8(inputs["weight"], dtype))

    def check(inputs: Inputs, output: Any) -> float:
        weight = inputs["weight"]
        part = Int8Weight(weight.codes[:SLICE], weight.scales[:, :SLICE], weight.group)
        return relative_error(output[:, :SLICE], inputs["x"].double() @ unpack_int8(part, torch.float64).T)

    return Case(
        name=f"w8a16/{out}x{columns}_m{rows}",
        make=make,
        systems={"trimtab": ours, "cublas": cublas},
        check=check,
        tolerance=tolerance_of(dtype),
        bytes=out * columns + out * 4 + rows * (columns + out) * dtype.itemsize,
        flops=2 * rows * out * columns,
        bars=bars or {},
    )

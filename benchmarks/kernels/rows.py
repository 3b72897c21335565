"""Kernels that treat each row alone: norm, SwiGLU, a token's way into the pages. Bound by bytes, or by their launch."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from case import Absent, Bar, Case, Inputs, Thunk, relative_error, tolerance_of

from trimtab.kernels.kv_write import reference_rotate, reference_store, write_kv
from trimtab.kernels.norm import reference_rms_norm, rms_norm
from trimtab.kernels.swiglu import reference_swiglu, swiglu

EPS = 1e-5


def cases(rehearse: bool) -> list[Case]:
    if rehearse:
        return [
            norm(3, 576, torch.float16),
            gated(3, 1536, torch.float16),
            kv(5, 9, 3, 64, torch.float16),
        ]
    bf16 = torch.bfloat16
    return [
        norm(1, 4096, bf16),
        norm(256, 4096, bf16),
        norm(8192, 4096, bf16, Bar(0.75, 0.9)),
        gated(1, 14336, bf16),
        gated(256, 14336, bf16),
        gated(8192, 14336, bf16, Bar(0.8, 0.92)),
        kv(1, 32, 8, 128, bf16),
        kv(256, 32, 8, 128, bf16),
        kv(8192, 32, 8, 128, bf16, Bar(0.5, 0.8)),
    ]


def random_rows(device: torch.device, seed: int, dtype: torch.dtype, *shapes: tuple[int, ...]) -> list[torch.Tensor]:
    source = torch.Generator(device).manual_seed(seed)
    return [torch.randn(shape, generator=source, device=device, dtype=torch.float32).to(dtype) for shape in shapes]


def norm(rows: int, columns: int, dtype: torch.dtype, of_copy: Bar | None = None) -> Case:
    """The norm after the residual sum. Every call adds x to the stream once more: the check makes its own inputs."""

    def make(device: torch.device, seed: int) -> Inputs:
        x, stream, weight = random_rows(device, seed, dtype, (rows, columns), (rows, columns), (columns,))
        return {"x": x, "stream": stream * 8, "weight": weight, "before": (stream * 8).clone()}

    def ours(inputs: Inputs) -> Thunk:
        out = torch.full_like(inputs["x"], float("nan"))
        return lambda: rms_norm(inputs["x"], inputs["weight"], EPS, residual=inputs["stream"], out=out)

    def plain(x: torch.Tensor, stream: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        stream.add_(x)
        return F.rms_norm(stream, (columns,), weight, EPS)

    def check(inputs: Inputs, output: torch.Tensor) -> float:
        total = (inputs["x"].float() + inputs["before"].float()).to(dtype)
        inputs["stream"].copy_(inputs["before"])
        return relative_error(output, reference_rms_norm(total.double(), inputs["weight"].double(), EPS)[0])

    return Case(
        name=f"norm/{rows}x{columns}",
        make=make,
        systems={"trimtab": ours, **torch_peers(plain, ("x", "stream", "weight"))},
        check=check,
        tolerance=tolerance_of(dtype),
        bytes=4 * rows * columns * dtype.itemsize,
        bars={"of_copy": of_copy, "vs_torch": Bar(1.0)} if of_copy else {"vs_torch": Bar(1.0)},
    )


def gated(rows: int, columns: int, dtype: torch.dtype, of_copy: Bar | None = None) -> Case:
    def make(device: torch.device, seed: int) -> Inputs:
        both = random_rows(device, seed, dtype, (rows, 2 * columns))[0]
        return {"gate": both[:, :columns], "up": both[:, columns:]}

    def ours(inputs: Inputs) -> Thunk:
        out = torch.full((rows, columns), float("nan"), dtype=dtype, device=inputs["up"].device)
        return lambda: swiglu(inputs["gate"], inputs["up"], out=out)

    def plain(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        return F.silu(gate) * up

    return Case(
        name=f"swiglu/{rows}x{columns}",
        make=make,
        systems={"trimtab": ours, **torch_peers(plain, ("gate", "up"))},
        check=lambda inputs, output: relative_error(
            output, reference_swiglu(inputs["gate"].double(), inputs["up"].double())
        ),
        tolerance=tolerance_of(dtype),
        bytes=3 * rows * columns * dtype.itemsize,
        bars={"of_copy": of_copy, "vs_torch": Bar(1.0)} if of_copy else {"vs_torch": Bar(1.0)},
    )


def kv(rows: int, heads: int, kv_heads: int, d: int, dtype: torch.dtype, of_copy: Bar | None = None) -> Case:
    page = 16

    def make(device: torch.device, seed: int) -> Inputs:
        q, k, v = random_rows(device, seed, dtype, (rows, heads, d), (rows, kv_heads, d), (rows, kv_heads, d))
        source = torch.Generator(device).manual_seed(seed)
        angles = torch.outer(
            torch.arange(rows + 1, device=device), 5e5 ** -(torch.arange(d // 2, device=device) * 2 / d)
        )
        pages = -(-rows // page) + 1
        k_pages, v_pages = (torch.zeros(pages, kv_heads, page, d, dtype=dtype, device=device) for _ in "kv")
        slots = torch.randperm(pages * page, generator=source, device=device)[:rows]
        positions = torch.arange(rows, device=device)
        return {"q": q, "k": k, "v": v, "k_pages": k_pages, "v_pages": v_pages, "slots": slots,
                "positions": positions, "cos": angles.cos(), "sin": angles.sin()}  # fmt: skip

    def ours(inputs: Inputs) -> Thunk:
        out = torch.full_like(inputs["q"], float("nan"))
        return lambda: write_kv(**inputs, out=out)

    def plain(**inputs: Any) -> torch.Tensor:
        at, cos, sin = inputs["positions"], inputs["cos"], inputs["sin"]
        q, k = (reference_rotate(inputs[name], at, cos, sin, False, None, EPS) for name in ("q", "k"))
        reference_store(k, inputs["k_pages"], inputs["slots"], None)
        reference_store(inputs["v"], inputs["v_pages"], inputs["slots"], None)
        return q

    def check(inputs: Inputs, output: torch.Tensor) -> float:
        at, cos, sin = inputs["positions"], inputs["cos"], inputs["sin"]
        exact, key = (reference_rotate(inputs[n].double(), at, cos, sin, False, None, EPS) for n in ("q", "k"))
        stored = inputs["k_pages"][inputs["slots"] // page, :, inputs["slots"] % page]
        return max(relative_error(output, exact), relative_error(stored, key))

    return Case(
        name=f"kv_write/{rows}x{heads}+{kv_heads}x{d}",
        make=make,
        systems={"trimtab": ours, "torch": lambda inputs: lambda: plain(**inputs)},
        check=check,
        tolerance=tolerance_of(dtype),
        bytes=2 * rows * (heads + 2 * kv_heads) * d * dtype.itemsize + rows * d * 4,
        bars={"of_copy": of_copy, "vs_torch": Bar(1.0)} if of_copy else {"vs_torch": Bar(1.0)},
    )


def torch_peers(function: Any, names: tuple[str, ...]) -> dict[str, Any]:
    """Plain torch, and the same compiled; compiling starts at the first call, before anything is timed."""

    def eager(inputs: Inputs) -> Thunk:
        return lambda: function(*(inputs[name] for name in names))

    def compiled(inputs: Inputs) -> Thunk:
        if not inputs[names[0]].is_cuda:
            raise Absent("compiled for CUDA only")
        fast = torch.compile(function, dynamic=False)
        return lambda: fast(*(inputs[name] for name in names))

    return {"torch": eager, "compiled": compiled}

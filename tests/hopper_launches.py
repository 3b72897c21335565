"""Compiles what the launchers launch, for a Hopper GPU, on a machine that has none: `python tests/hopper_launches.py`.

Launchers are called as the engine calls them, with tensors on the CPU, while Triton is told that the device is an
sm_90 and a launch ends after compiling. So the very specialisations, constants and block sizes of a real call are
built: an argument that is 1 becomes a constant, a branch that the interpreter never types is typed. Prints one line of
JSON for each kernel that was compiled. (hopper.py compiles kernels by their signatures instead.)
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["TRIMTAB_KERNELS"] = "triton"

import torch
import triton
from triton.backends.compiler import GPUTarget

from trimtab.kernels import w4a16 as w4a16_file
from trimtab.kernels.int4_weight import pack_int4
from trimtab.kernels.kv_scale import page_scales
from trimtab.kernels.kv_write import write_kv
from trimtab.kernels.norm import rms_norm
from trimtab.kernels.sampling import sample
from trimtab.kernels.swiglu import swiglu
from trimtab.kernels.verify import verify_walk
from trimtab.kernels.w8a16 import pack_int8, w8a16

BF16, FP16, FP8 = torch.bfloat16, torch.float16, torch.float8_e4m3fn
Call = tuple[str, Callable[[], Any]]


class NoDevice:
    """What Triton asks a driver before it compiles."""

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int = 0) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)


def row_calls() -> Iterator[Call]:
    x, weight = torch.randn(4, 4096).to(BF16), torch.ones(4096).to(BF16)
    yield "norm", lambda: rms_norm(x, weight, 1e-5)
    yield "norm of a sum", lambda: rms_norm(x, weight, 1e-5, residual=x.clone())
    yield "norm 576 fp16", lambda: rms_norm(x[:, :576].to(FP16), weight[:576].to(FP16), 1e-5)
    yield "swiglu", lambda: swiglu(*x.split(2048, dim=1))


def kv_calls() -> Iterator[Call]:
    q, k = torch.randn(4, 32, 128).to(BF16), torch.randn(4, 8, 128).to(BF16)
    table, at, norm = torch.randn(9, 64), torch.arange(4), torch.ones(128)
    each = torch.ones(3, 8)
    for of in (None, norm):
        yield f"page scales norm={of is not None}", lambda of=of: page_scales(k, k, at, each, each, page=16, k_norm=of)
    for kept, scale in ((BF16, None), (FP8, each), (FP8, each[:1, :1])):
        pages = torch.zeros(3, 8, 16, 128).to(kept)
        for interleaved, of in ((False, norm), (True, None)):
            more: dict[str, Any] = {"interleaved": interleaved, "q_norm": of, "k_norm": of}
            more |= {"k_scale": scale, "v_scale": scale}
            name = f"kv write {kept} scale={scale is not None} interleaved={interleaved} norm={of is not None}"
            yield name, lambda p=pages, m=more: write_kv(q, k, k, p, p, at, at, table, table, **m)


def product_calls() -> Iterator[Call]:
    for group, kind in ((128, ""), (128, "zeros"), (64, "zeros"), (32, "offsets")):
        levels = torch.randint(0, 16, (1024, 4096 // group))
        more: dict[str, Any] = {kind: levels if kind == "zeros" else levels.half()} if kind else {}
        four = pack_int4(torch.randint(0, 16, (1024, 4096)), torch.ones(levels.shape).half(), group=group, **more)
        for rows in (1, 256, 2048):
            for dtype in (BF16, FP16) if rows == 1 else (BF16,):
                x = torch.randn(rows, 4096).to(dtype)
                yield (
                    f"4 bits, g{group} {kind}, {rows} rows {dtype}",
                    lambda x=x, w=four: w4a16_file.w4a16(x, w, x[0, :1024]),
                )
        if group == 128 and not kind:
            x = torch.randn(256, 4096)
            yield f"4 bits, g{group} {kind}, 256 rows fp32", lambda x=x, w=four: w4a16_file.w4a16(x, w)
    eight = torch.randn(1024, 4096)
    for group in (0, 32):
        weight = pack_int8(eight, group)
        for rows, dtype in ((1, BF16), (256, BF16), (256, BF16 if group else torch.float32)):
            x = torch.randn(rows, 4096).to(dtype)
            yield f"8 bits, g{group}, {rows} rows {dtype}", lambda x=x, w=weight: w8a16(x, w, x[0, :1024])


def token_calls() -> Iterator[Call]:
    same, whole = torch.ones(4), torch.arange(4)
    for dtype in (BF16, torch.float32):
        logits = torch.randn(4, 50000).to(dtype)
        yield f"sample {dtype}", lambda x=logits: sample(x, same, whole.int(), same, same, whole, whole, floors=same)
    starts = torch.tensor([0, 4], dtype=torch.int32)
    yield "verify chain", lambda: verify_walk(whole, whole, starts)
    yield "verify tree", lambda: verify_walk(whole, whole, starts, whole.int())


def taken(compiled: Any) -> dict[str, Any]:
    """What the assembler says that one kernel takes."""
    assembler = Path(triton.__file__).parent / "backends/nvidia/bin/ptxas"
    command = [str(assembler), "-v", "--gpu-name", "sm_90a", "/dev/stdin", "-o", "/dev/null"]
    said = subprocess.run(command, input=compiled.asm["ptx"], text=True, capture_output=True, check=True).stderr
    return {
        "registers": int(re.findall(r"Used (\d+) registers", said)[0]),
        "spilled": sum(map(int, re.findall(r"(\d+) bytes spill", said))),
        "shared": compiled.metadata.shared,
        "warps": compiled.metadata.num_warps,
        "wgmma": compiled.asm["ptx"].count("wgmma.mma_async"),
    }


def main() -> None:
    launch, made = triton.runtime.JITFunction.run, []

    def compile_only(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
        made.append((self.__name__, launch(self, *args, grid=grid, warmup=True, **options)))

    triton.runtime.JITFunction.run = compile_only
    triton.runtime.driver.set_active(NoDevice())
    # As on a device: codes are unpacked by PTX, which the interpreter cannot run.
    choose = w4a16_file._choice
    w4a16_file._choice = lambda *args: {**choose(*args), "ASM": 1}
    seen = set()
    for calls in (row_calls, kv_calls, product_calls, token_calls):
        for name, call in calls():
            call()
            for kernel, compiled in made:
                if compiled.hash not in seen:
                    seen.add(compiled.hash)
                    print(json.dumps({"name": name, "kernel": kernel, **taken(compiled)}))
            made.clear()


if __name__ == "__main__":
    main()

"""Compiles kernels for a Hopper GPU (sm_90a) on a machine that has none: `python tests/hopper.py attention`.

Triton brings the assembler with it. What the interpreter lets pass (types that do not match, a variable that changes
its shape in a loop) fails here, and the assembler says what a kernel takes: registers, spills, shared memory. Prints
one line of JSON for each variant. TRITON_INTERPRET must not be set: the kernels would not be compiled at all.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Variant = tuple[str, Any, dict[str, str], dict[str, Any], int, int]

CODES = {"start": "i32", "length": "i32", "table": "i32", "items": "i32", "globals": "i32", "chosen": "i32"}
CODES |= {"merges": "i32", "base": "i32", "accepted": "i32", "filled": "i32", "prefix": "i32", "tree": "i64"}
CODES |= {"partial": "fp32", "lse": "fp32", "k_scale": "fp32", "v_scale": "fp32", "scores": "fp32"}
SCALARS = {"inner": "fp32", "outer": "fp32"}


def build(kernel: Any, types: dict[str, str], constants: dict[str, Any], warps: int, stages: int) -> dict[str, Any]:
    """`types` of pointers that CODES does not know, by name without `_ptr`; every other argument is an int32."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = kernel.arg_names
    signature = {name: "constexpr" if name in constants else type_of(name, types) for name in names}
    even = [name for name in names if name not in constants and (name.endswith("_ptr") or stride(name))]
    source = ASTSource(
        fn=kernel,
        signature=signature,
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in even},
    )
    options = {"num_warps": warps, "num_stages": stages}
    made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    assembler = Path(triton.__file__).parent / "backends/nvidia/bin/ptxas"
    command = [str(assembler), "-v", "--gpu-name", "sm_90a", "/dev/stdin", "-o", "/dev/null"]
    said = subprocess.run(command, input=made.asm["ptx"], text=True, capture_output=True, check=True).stderr
    return {
        "registers": int(re.findall(r"Used (\d+) registers", said)[0]),
        "spilled": sum(map(int, re.findall(r"(\d+) bytes spill", said))),
        "shared": made.metadata.shared,
        "wgmma": made.asm["ptx"].count("wgmma.mma_async"),
        "copies": made.asm["ptx"].count("cp.async.bulk.tensor"),
    }


def type_of(name: str, types: dict[str, str]) -> str:
    if not name.endswith("_ptr"):
        return SCALARS.get(name, "i32")
    name = name.removesuffix("_ptr")
    return "*" + (types.get(name) or CODES[name])


def stride(name: str) -> bool:
    """Rows, heads, slots and pages of stored numbers begin at multiples of 16; int32 tables need not."""
    ends = ("_row", "_head", "_page", "_slot")
    return name.endswith(ends) and not name.startswith(("table", "globals", "chosen", "accepted", "k_scale", "v_scale"))


def attention() -> Iterator[Variant]:
    from trimtab.kernels import attention_compact, attention_merge, attention_paged, attention_prefill, attention_quest

    paged, prefill = attention_paged._paged_kernel, attention_prefill._prefill_kernel
    none: dict[str, Any] = {f"{name}_ptr": None for name in ("tree", "globals", "chosen", "k_scale", "v_scale")}
    flags = {"WINDOWED": False, "CAPPED": False, "SCALED": 0}
    llama = {"GROUP": 4, "TILE": 64, "PAGE": 16, "D": 128, "WIDTH": 128, **flags}

    def typed(of: str, kept: str | None = None) -> dict[str, str]:
        stored = dict.fromkeys(("k", "v", "k_pages", "v_pages"), kept or of)
        return {**stored, "q": of, "out": of}

    def rows(block: int, used: int, *given: str, **changed: Any) -> dict[str, Any]:
        constants = {**none, **llama, "BLOCK": block, "ROWS": used, **changed}
        return {name: value for name, value in constants.items() if name.removesuffix("_ptr") not in given}

    bf16 = typed("bf16")
    yield "paged q=1", paged, bf16, rows(16, 4), 4, 5
    yield "paged q=8", paged, bf16, rows(32, 32), 4, 5
    yield "paged q=16", paged, bf16, rows(64, 64), 4, 3
    yield "paged tree of 32", paged, bf16, rows(128, 128, "tree"), 8, 5
    yield "paged fp32", paged, typed("fp32"), rows(16, 4), 4, 3
    yield "paged fp32 q=8", paged, typed("fp32"), rows(32, 32), 8, 3
    yield "paged bf16 256 wide", paged, bf16, rows(16, 4, D=256, WIDTH=256), 4, 3
    yield "paged fp16 capped", paged, typed("fp16"), rows(16, 4, CAPPED=True), 4, 5
    yield "paged fp8", paged, typed("bf16", "fp8e4nv"), rows(16, 4, "k_scale", "v_scale", SCALED=1), 4, 5
    yield "paged fp8 by page", paged, typed("bf16", "fp8e4nv"), rows(16, 4, "k_scale", "v_scale", SCALED=2), 4, 5
    yield "paged window", paged, bf16, rows(16, 4, "globals", "tree", WINDOWED=True), 4, 5
    yield "paged quest", paged, bf16, rows(16, 4, "chosen"), 4, 5

    def prompt(*left_out: str, **changed: Any) -> dict[str, Any]:
        constants = {**llama, "BLOCK": 128, "SCALED": False, "DESCRIPTORS": False, "SPECIALISED": False, **changed}
        return {**constants, **dict.fromkeys([f"{name}_ptr" for name in left_out])}

    stored, unscaled = ("k_pages", "v_pages", "table", "prefix"), {"k_scale": "bf16", "v_scale": "bf16"}
    yield "prefill first", prefill, {**bf16, **unscaled}, prompt("globals", *stored), 8, 3
    copied = prompt("globals", *stored, DESCRIPTORS=True, TILE=128)
    yield "prefill descriptors", prefill, {**bf16, **unscaled}, copied, 8, 2
    yield "prefill paged", prefill, {**bf16, **unscaled}, prompt("globals", "k", "v"), 8, 5
    yield "prefill fresh window", prefill, {**bf16, **unscaled}, prompt(WINDOWED=True, CAPPED=True), 8, 3
    narrow = {**bf16, "k_pages": "fp8e4nv", "v_pages": "fp8e4nv"}
    yield "prefill fresh fp8", prefill, narrow, prompt("globals", SCALED=True), 8, 3

    wide = prompt("globals", D=256, WIDTH=256, TILE=32)
    yield "prefill bf16 256 wide", prefill, {**bf16, **unscaled}, wide, 8, 3
    exact = {**typed("fp32"), "k_scale": "fp32", "v_scale": "fp32"}
    yield "prefill fp32", prefill, exact, prompt("globals", BLOCK=32, TILE=16), 8, 2

    merge = {"ROWS": 4, "BLOCK": 16, "GROUP": 4, "D": 128, "WIDTH": 128, "CHUNKS": 16}
    yield "merge", attention_merge._merge_kernel, bf16, merge, 4, 3
    moved = {"PAGE": 16, "D": 128, "WIDTH": 128, "NODES": 16}
    yield "compact", attention_compact._compact_kernel, {"pages": "bf16"}, moved, 4, 3
    yield "compact fp8", attention_compact._compact_kernel, {"pages": "u8"}, moved, 4, 3
    bounds = {"k": "bf16", "pages": "i32", "min": "bf16", "max": "bf16"}
    yield "quest bounds", attention_quest._bounds_kernel, bounds, {"PAGE": 16, "D": 128, "WIDTH": 128}, 4, 3
    scored = {"GROUP": 4, "PAGE": 16, "D": 128, "WIDTH": 128, "PAGES": 32}
    yield "quest scores", attention_quest._scores_kernel, {**bounds, "q": "bf16"}, scored, 4, 3


if __name__ == "__main__":
    for name, kernel, types, constants, warps, stages in {"attention": attention}[sys.argv[1]]():
        print(json.dumps({"name": name, **build(kernel, types, constants, warps, stages)}))

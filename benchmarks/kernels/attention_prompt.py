"""Prompts: many new rows, causal. Bound by arithmetic; over pages too, and with a window."""

from __future__ import annotations

from typing import Any

import torch
from attention_inputs import Batch, Prompt
from case import Bar, Case, Inputs, Ratio, Thunk, tolerance_of
from torch.nn.attention import SDPBackend

from trimtab.kernels.attention_prefill import prefill_attention


def cases(rehearse: bool) -> list[Case]:
    if rehearse:
        small: dict[str, Any] = {"heads": 4, "kv_heads": 2, "d": 64, "dtype": torch.float32}
        return [
            first("prompt/small", Prompt(70, **small)),
            first("prompt/small_window", Prompt(150, window=20, sinks=4, **small)),
            chunk("prompt/small_paged", Batch((90,), rows=30, **small)),
        ]
    ahead = {"vs_sdpa_flash": Bar(1.0), "vs_flex": Bar(1.0)}
    return [
        first("prompt/2k", Prompt(2048), ahead),
        first("prompt/8k", Prompt(8192), {**ahead, "tflops": Bar(430.0), "vs_sdpa_cudnn": Bar(0.6, 0.9)}),
        first("prompt/32k", Prompt(32768), ahead),
        first("prompt/8k_d64", Prompt(8192, d=64), {"tflops": Bar(330.0, 420.0)}),
        first("prompt/64k", Prompt(65536)),
        first("prompt/64k_window4k", Prompt(65536, window=4096, sinks=64), {"vs_flex": Bar(0.9, 1.2)}),
        chunk("prompt/512_on_8k", Batch((8192,), rows=512), {"vs_gather_sdpa": Bar(1.5)}),
        chunk("prompt/512_on_64k", Batch((65536,), rows=512), {"vs_gather_sdpa": Bar(1.5)}),
        chunk("prompt/8x512_on_8k", Batch((8192,) * 8, rows=512), {"vs_gather_sdpa": Bar(1.5)}),
    ]


def ratios() -> list[Ratio]:
    return [Ratio("window_over_full", "prompt/64k_window4k", "prompt/64k", Bar(1 / 5, 1 / 7, ceiling=True))]


def first(name: str, prompt: Prompt, bars: dict[str, Bar] | None = None) -> Case:
    """One prompt from its beginning. Full attention is every peer's; a window is only FlexAttention's."""

    def prepare(inputs: Inputs) -> Thunk:
        out = torch.full_like(inputs["q"], float("nan"))
        masks = {"window": prompt.window, "sinks": prompt.sinks, "longest": prompt.rows, "scale": prompt.d**-0.5}
        return lambda: prefill_attention(**inputs, **masks, out=out)

    systems = {"trimtab": prepare, "flex": prompt.flex()}
    if not prompt.window:
        systems |= {
            "sdpa_flash": prompt.sdpa(SDPBackend.FLASH_ATTENTION),
            "sdpa_cudnn": prompt.sdpa(SDPBackend.CUDNN_ATTENTION),
        }
    return Case(
        name=name,
        make=prompt.make,
        systems=systems,
        check=prompt.check,
        tolerance=tolerance_of(prompt.dtype),
        bytes=prompt.bytes,
        flops=prompt.flops,
        bars=bars or {},
    )


def chunk(name: str, batch: Batch, bars: dict[str, Bar] | None = None) -> Case:
    """The next rows of a long prompt, whose keys are all in pages."""

    def prepare(inputs: Inputs) -> Thunk:
        given = {key: value for key, value in inputs.items() if key != "kv_len"}
        prefix, out = inputs["kv_len"] - batch.rows, torch.full_like(inputs["q"], float("nan"))
        return lambda: prefill_attention(k=None, v=None, prefix_len=prefix, longest=batch.rows, out=out, **given)

    seen = sum(length - batch.rows + (batch.rows + 1) // 2 for length in batch.lengths)
    return Case(
        name=name,
        make=batch.make,
        systems={"trimtab": prepare, "gather_sdpa": batch.sdpa(gather=True), "flex": batch.flex()},
        check=batch.check,
        tolerance=tolerance_of(batch.dtype),
        bytes=batch.bytes,
        flops=4 * seen * batch.rows * batch.heads * batch.d,
        bars=bars or {},
    )

"""Decoding: one new row of each sequence over its paged keys. Bound by the bytes of keys and values."""

from __future__ import annotations

import random
from typing import Any

import torch
from attention_inputs import FP8, Batch
from case import Bar, Case, Ratio, tolerance_of

from trimtab.kernels.attention_paged import paged_attention, reference_paged_attention
from trimtab.kernels.attention_placed import place
from trimtab.kernels.attention_plan import plan
from trimtab.kernels.attention_quest import page_bounds, quest_pages
from trimtab.kernels.dispatch import multiprocessors


def cases(rehearse: bool) -> list[Case]:
    if rehearse:
        small: dict[str, Any] = {"heads": 4, "kv_heads": 2, "d": 64, "dtype": torch.float32}
        return [
            case("decode/small", Batch((70, 70), **small)),
            case("decode/small_ragged", Batch((5, 90), **small)),
            case("decode/small_window", Batch((100,), window=20, sinks=4, **small)),
            quest("decode/small_quest", Batch((200,), **small), 4),
        ]
    found = []
    for name, batch, bar in [
        ("b1_32k", Batch((32768,)), Bar(0.6, 0.7)),
        ("b1_128k", Batch((131072,)), Bar(0.8, 0.9)),
        ("b32_4k", Batch((4096,) * 32), Bar(0.8, 0.9)),
        ("b64_4k", Batch((4096,) * 64), Bar(0.8, 0.9)),
        ("b256_4k", Batch((4096,) * 256), Bar(0.8, 0.9)),
        ("b64_4k_gqa8", Batch((4096,) * 64, heads=64), Bar(0.8, 0.9)),
        ("b64_4k_d64", Batch((4096,) * 64, d=64), Bar(0.75, 0.85)),
        ("b64_4k_page64", Batch((4096,) * 64, page=64), Bar(0.8, 0.9)),
        ("b64_ragged", Batch(zipf(64, 1024, 131072)), Bar(0.75, 0.88)),
        ("b64_4k_fp8", Batch((4096,) * 64, kept=FP8), Bar(0.6, 0.75)),
        ("b8_64k_window4k", Batch((65536,) * 8, window=4096, sinks=64), Bar(0.5, 0.7)),
    ]:
        bars = {"of_copy": bar} | ({"vs_sdpa": Bar(5.0)} if name == "b1_128k" else {})
        found.append(case(f"decode/{name}", batch, bars))
    return [*found, quest("decode/b1_128k_quest256", Batch((131072,)), 256)]


def ratios() -> list[Ratio]:
    return [
        Ratio("fp8_over_bf16", "decode/b64_4k_fp8", "decode/b64_4k", Bar(1 / 1.6, 1 / 1.85, ceiling=True)),
        Ratio("quest_over_all", "decode/b1_128k_quest256", "decode/b1_128k", Bar(0.35, 0.25, ceiling=True)),
    ]


def zipf(sequences: int, least: int, most: int) -> tuple[int, ...]:
    """Lengths whose r-th longest is about most / r."""
    lengths = [max(least, most // rank) for rank in range(1, sequences + 1)]
    random.Random(0).shuffle(lengths)
    return tuple(lengths)


def case(name: str, batch: Batch, bars: dict[str, Bar] | None = None) -> Case:
    systems = {"trimtab": batch.ours(), "sdpa": batch.sdpa(gather=False), "gather_sdpa": batch.sdpa(gather=True)}
    return Case(
        name=name,
        make=batch.make,
        systems={**systems, "flex": batch.flex()},
        check=batch.check,
        tolerance=tolerance_of(batch.dtype),
        bytes=batch.bytes,
        flops=batch.flops,
        bars=bars or {},
    )


def quest(name: str, batch: Batch, k: int) -> Case:
    """Choosing the pages is timed too. Checked against the reference that reads the same pages."""

    def prepare(inputs: dict[str, Any]) -> Any:
        pages, kv_heads, page, d = inputs["k_pages"].shape
        every = torch.arange(pages, dtype=torch.int32, device=inputs["q"].device)
        k_min, k_max = (torch.empty(pages, kv_heads, d, dtype=batch.dtype, device=every.device) for _ in range(2))
        page_bounds(inputs["k_pages"], every, torch.full_like(every, page), k_min, k_max)
        asked = {name: inputs[name] for name in ("q", "page_table", "q_start", "kv_len")}
        inputs["chosen"] = quest_pages(k_min=k_min, k_max=k_max, page=page, k=k, **asked)
        arguments = {name: value for name, value in inputs.items() if name != "chosen"}

        def run() -> torch.Tensor:
            chosen = quest_pages(k_min=k_min, k_max=k_max, page=page, k=k, **asked)
            return paged_attention(**arguments, pages_top_k=chosen, plan=placed)

        sizes = {"heads": batch.heads, "kv_heads": kv_heads, "page": page, "sms": multiprocessors(every.device)}
        shape = plan([batch.rows] * len(batch.lengths), batch.lengths, top_k=k, **sizes)
        placed = place(shape, every.device, d=d)
        return run

    def check(inputs: dict[str, Any], output: torch.Tensor) -> float:
        chosen = inputs["chosen"]
        arguments = {name: value for name, value in inputs.items() if name != "chosen"}
        exact = reference_paged_attention(**arguments, pages_top_k=chosen)
        return float((output.double() - exact).norm() / exact.norm())

    read = (
        2 * k * batch.page * batch.kv_heads * batch.d + 2 * sum(batch.lengths) // batch.page * batch.kv_heads * batch.d
    )
    return Case(
        name=name,
        make=batch.make,
        systems={"trimtab": prepare},
        check=check,
        tolerance=tolerance_of(batch.dtype),
        bytes=read * torch.empty((), dtype=batch.dtype).element_size(),
    )

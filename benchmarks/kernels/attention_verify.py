"""Verifying guesses: several new rows of each sequence, a chain or a tree. Should cost what decoding one row costs."""

from __future__ import annotations

from typing import Any

import torch
from attention_inputs import Batch
from case import Bar, Case, Ratio, tolerance_of


def cases(rehearse: bool) -> list[Case]:
    if rehearse:
        small: dict[str, Any] = {"heads": 4, "kv_heads": 2, "d": 64, "dtype": torch.float32}
        return [
            case("verify/small_q4", Batch((70, 90), rows=4, **small)),
            case("verify/small_tree8", Batch((70,), rows=8, tree=bushy(8), **small)),
        ]
    found = []
    for batch, length in ((1, 32768), (1, 131072), (8, 8192), (8, 65536)):
        for rows in (1, 2, 4, 8, 16):
            bars = {"vs_split_off": Bar(4.0)} if (batch, length, rows) == (1, 32768, 8) else {}
            found.append(case(f"verify/{label(batch, length)}_q{rows}", Batch((length,) * batch, rows=rows), bars))
        for rows in (16, 32):
            tree = Batch((length,) * batch, rows=rows, tree=bushy(rows))
            found.append(case(f"verify/{label(batch, length)}_tree{rows}", tree))
    return found


def ratios() -> list[Ratio]:
    found = []
    for at in (label(1, 32768), label(1, 131072), label(8, 8192), label(8, 65536)):
        one = f"verify/{at}_q1"
        found.append(Ratio("q8_over_q1", f"verify/{at}_q8", one, Bar(1.25, 1.10, ceiling=True)))
        found.append(Ratio("tree32_over_q1", f"verify/{at}_tree32", one, Bar(1.5, 1.3, ceiling=True)))
    return found


def label(batch: int, length: int) -> str:
    return f"b{batch}_{length // 1024}k"


def bushy(nodes: int) -> tuple[int, ...]:
    """Ancestor words of a tree in which every node has two children, numbered level by level."""
    words = [1]
    for node in range(1, nodes):
        words.append(words[(node - 1) // 2] | 1 << node)
    return tuple(words)


def case(name: str, batch: Batch, bars: dict[str, Bar] | None = None) -> Case:
    return Case(
        name=name,
        make=batch.make,
        systems={
            "trimtab": batch.ours(),
            "split_off": batch.ours(split=False),
            "sdpa": batch.sdpa(gather=False),
            "gather_sdpa": batch.sdpa(gather=True),
            "flex": batch.flex(),
        },
        check=batch.check,
        tolerance=tolerance_of(batch.dtype),
        bytes=batch.bytes,
        flops=batch.flops,
        bars=bars or {},
    )

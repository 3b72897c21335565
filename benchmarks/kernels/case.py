"""What a kernel benchmark is made of: one case is one kernel at one shape, beside its peers.

A topic (`attention_decode.py`, `matmul.py`, ...) is a file in this folder with

    def cases(rehearse: bool) -> list[Case]        rehearse: sizes that the interpreter does in a second, all alike else
    def ratios() -> list[Ratio]                    bars between two cases; may be left out

and `run.py` finds it by that name. Everything is made on the device and nothing is timed here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

Inputs = dict[str, Any]
Thunk = Callable[[], Any]  # one call of what is timed: no allocation that could be avoided, no wait for the device


class Absent(Exception):
    """A peer that this machine or this torch does not have; says why."""


@dataclass(frozen=True)
class Bar:
    """What a figure is held to. `aim` is what we hope for, and is only printed."""

    must: float
    aim: float | None = None
    ceiling: bool = False

    def holds(self, value: float) -> bool:
        return value <= self.must if self.ceiling else value >= self.must


@dataclass(frozen=True)
class Case:
    """One kernel at one shape.

    name       unique: topic/shape, for example "decode/b1_32k_gqa4_bf16"
    make       (device, seed) -> fresh random inputs; never zeros. Several sets are made, to be larger than the L2.
    systems    name -> prepare(inputs) -> thunk. "trimtab" is ours and must be there; preparing (packing weights,
               building masks, compiling) is not timed. A peer that cannot run raises `Absent` when prepared.
    check      (inputs, output) -> relative error, of all or of a slice, against float64. Peers are checked as well.
    tolerance  the largest error that passes
    bytes      the fewest bytes one call must read and write
    flops      the operations it must do
    bars       metric of this case -> bar: "of_copy" (share of the measured copy bandwidth), "of_matmul", "gbps",
               "tflops", "ms", or "vs_PEER" (how many times as fast as the peer)
    """

    name: str
    make: Callable[[torch.device, int], Inputs]
    systems: Mapping[str, Callable[[Inputs], Thunk]]
    check: Callable[[Inputs, Any], float]
    tolerance: float
    bytes: int
    flops: int = 0
    bars: Mapping[str, Bar] = field(default_factory=dict)


@dataclass(frozen=True)
class Ratio:
    """time(over) / time(under) of our own kernel at two cases, for example verify q=8 over q=1."""

    metric: str
    over: str
    under: str
    bar: Bar


def relative_error(output: torch.Tensor, exact: torch.Tensor) -> float:
    """The norm of the difference over the norm of the float64 truth; inf for anything that is not a number."""
    difference = (output.double() - exact).norm() / exact.norm().clamp_min(1e-300)
    return float(difference) if bool(torch.isfinite(difference)) else float("inf")


def tolerance_of(dtype: torch.dtype) -> float:
    return {torch.float64: 1e-12, torch.float32: 2e-5, torch.float16: 3e-3, torch.bfloat16: 1.5e-2}[dtype]

"""A model in 4 bits, layer by layer: calibrate, round, go on with the rounded layer, and measure what it cost.

The result is a folder as model hubs have them, in GPTQ's layout, which this engine and others read. Knows the method
and the model; nothing of the command line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from ...protocol.errors import ModelUnavailable
from .checkpoint import Checkpoint
from .gptq import Hessian, to_least_error
from .hub_writer import HubWriter
from .linear import swift
from .perplexity import Cost, compared, last_states
from .reference import Reference, Tensors
from .rounding import Rounded, to_nearest

Method = Literal["gptq", "rtn"]

# Matrices of the same input are rounded together: they share its second moments.
TOGETHER: tuple[tuple[str, ...], ...] = (("q", "k", "v"), ("o",), ("gate", "up"), ("down",))


@dataclass(frozen=True, slots=True)
class Plan:
    """How to round. `group` inputs share a scale; `symmetric`: zero is always in the middle of the grid."""

    method: Method = "gptq"
    bits: int = 4
    group: int = 32
    symmetric: bool = False

    def check(self, checkpoint: Checkpoint) -> None:
        """Raises ModelUnavailable when some matrix cannot be cut into such groups."""
        s = checkpoint.shape
        widths = {"hidden": s.hidden, "attention": s.heads * s.head, "mlp": s.mlp}
        for name, width in widths.items():
            if self.group % 2 or width % self.group:
                raise ModelUnavailable(
                    f"groups of {self.group} do not fit this model: its {name} width is {width}",
                    detail="name an even --group that divides " + ", ".join(map(str, sorted(set(widths.values())))),
                )


def quantize(
    checkpoint: Checkpoint,
    plan: Plan,
    calibrate: list[list[int]],
    measure: list[list[int]],
    out: Path | None = None,
    seen: Callable[[int, int], None] = lambda done, layers: None,
    before: list[torch.Tensor] | None = None,
) -> Cost:
    """Round every layer's matrices, write the model to the folder `out` if there is to be one, and measure it.

    `calibrate` and `measure` are texts as token ids; they should be different ones. `seen` is told after each layer;
    `before` is what the last layer gives for `measure`, if it is known.
    """
    plan.check(checkpoint)
    reference, layers = Reference(checkpoint), checkpoint.shape.layers
    if before is None:
        before = last_states(reference, measure, product=swift, seen=lambda i: seen(i + 1, 2 * layers))
    writer = HubWriter(out, checkpoint, plan.group) if out else None
    with torch.inference_mode():
        known = reference.embedded(calibrate if plan.method == "gptq" else [])
        states = reference.embedded(measure)
        for i in range(layers):
            tensors = reference.layer(i)
            rounded = rounded_layer(reference, tensors, plan, known)
            if writer:
                writer.layer(i, tensors, rounded)
            tensors = {**tensors, **{name: matrix.floats() for name, matrix in rounded.items()}}
            known = [reference.run_layer(tensors, x, swift) for x in known]
            states = [reference.run_layer(tensors, x, swift) for x in states]
            seen(layers + i + 1, 2 * layers)
    if writer:
        writer.close()
    return compared(reference, before, states, measure, swift)


def rounded_layer(reference: Reference, w: Tensors, plan: Plan, known: list[torch.Tensor]) -> Mapping[str, Rounded]:
    """A layer's matrices in few bits; `known` is what comes into the layer, one text after another."""
    out: dict[str, Rounded] = {}
    moments = _moments(reference, w, known)
    for names in TOGETHER:
        weight = torch.cat([w[name] for name in names])
        if plan.method == "gptq":
            whole = to_least_error(weight, moments[names].damped(), plan.bits, plan.group, plan.symmetric)
        else:
            whole = to_nearest(weight, plan.bits, plan.group, plan.symmetric)
        start = 0
        for name in names:
            out[name] = whole.rows(start, start + len(w[name]))
            start += len(w[name])
    return out


def _moments(reference: Reference, w: Tensors, known: list[torch.Tensor]) -> dict[tuple[str, ...], Hessian]:
    moments = {names: Hessian(w[names[0]].shape[1]) for names in TOGETHER}
    firsts = {names[0]: names for names in TOGETHER}

    def watched(name: str, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        if name in firsts:
            moments[firsts[name]].add(x)
        return swift(name, x, weight)

    for x in known:
        reference.run_layer(w, x, watched)
    return moments

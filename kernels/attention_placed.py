"""A plan on the device: its items, and room for the partial results of programs that share a block.

Made once a step and used by every layer; under a captured CUDA graph another plan takes its place in the same memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .attention_plan import Plan


@dataclass(slots=True)
class Placed:
    """A plan on the device, with room for partial results: made once a step, used by every layer."""

    plan: Plan
    items: torch.Tensor
    merges: torch.Tensor
    partial: torch.Tensor
    lse: torch.Tensor
    sequences: int  # of the batch, as far as it has rows

    def update(self, plan: Plan) -> None:
        """Puts another plan of the same grid in this one's place, in the same memory: before a captured graph is
        replayed. Raises ValueError when its grid differs."""
        if (len(plan.items), len(plan.merges)) != (len(self.plan.items), len(self.plan.merges)):
            raise ValueError("plan: its grid is another; give both most_sequences and most_rows")
        if kind(plan) != kind(self.plan):
            raise ValueError(f"plan: made for {kind(plan)}, this one for {kind(self.plan)}")
        self.plan, self.sequences = plan, sequences_of(plan)
        self.items.copy_(integers(plan.items, 6, self.items.is_cuda), non_blocking=True)
        self.merges.copy_(integers(plan.merges, 4, self.merges.is_cuda), non_blocking=True)


def kind(plan: Plan) -> tuple[int | bool, ...]:
    """What a kernel is compiled or launched for, apart from the items."""
    return (plan.tile, plan.block, plan.rows, plan.group, plan.kv_heads, plan.window, plan.sinks, plan.top_k, plan.tree)


def sequences_of(plan: Plan) -> int:
    """One more than the last sequence that has rows."""
    return 1 + max((item[0] for item in plan.items), default=-1)


def integers(table: tuple[tuple[int, ...], ...], columns: int, pinned: bool) -> torch.Tensor:
    made = torch.tensor(table, dtype=torch.int32).view(-1, columns)
    return made.pin_memory() if pinned else made


def place(plan: Plan, device: torch.device, *, d: int) -> Placed:
    """Copies a plan to the device and sets aside room for `d` wide partial results."""
    size = (plan.partials, plan.kv_heads, plan.rows)
    pinned = device.type == "cuda"
    return Placed(
        plan,
        integers(plan.items, 6, pinned).to(device, non_blocking=True),
        integers(plan.merges, 4, pinned).to(device, non_blocking=True),
        torch.empty((*size, d), dtype=torch.float32, device=device),
        torch.empty(size, dtype=torch.float32, device=device),
        sequences_of(plan),
    )


def check_plan(
    placed: Placed, q: torch.Tensor, sequences: int, kv_heads: int, window: int, sinks: int, top_k: int, tree: bool
) -> None:
    """That the plan was made for this call: it would read too little, or write elsewhere."""
    plan = placed.plan
    made_for = (plan.kv_heads, plan.group, plan.window, plan.sinks if window else sinks, plan.top_k, plan.tree)
    if made_for != (kv_heads, q.shape[1] // kv_heads, window, sinks, top_k, tree):
        raise ValueError(f"plan: made for (kv_heads, group, window, sinks, top_k, tree) = {made_for}")
    if placed.sequences > sequences:
        raise ValueError(f"plan: made for {placed.sequences} sequences, there are {sequences}")
    if placed.items.device != q.device or placed.partial.shape[3] != q.shape[2]:
        raise ValueError("plan: placed on another device, or for heads of another width")

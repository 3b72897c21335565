"""Attention over pages by the kernels room: Triton on a GPU, its plain torch anywhere else.

One call a layer for all sequences, planned once for all layers; answers that verify a tree of guesses have a call of
their own, since a tree's rows see one another by masks of 64 bits. Knows pages and rows, nothing of requests.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ...kernels.attention_paged import paged_attention
from ...kernels.attention_placed import Placed, place
from ...kernels.attention_plan import plan
from ...kernels.dispatch import multiprocessors, use_triton
from .attention import Sight, Span
from .memory import Memory


class Paged:
    """The rows of `spans`, which follow one another; all of them trees, or none."""

    def __init__(self, spans: Sequence[Span], memory: Memory, heads: int, sight: Sight) -> None:
        self.row, self.count = spans[0].row, sum(span.count for span in spans)
        self._memory, self._sight = memory, sight
        device = memory.values.device
        ends = [span.row + span.count - self.row for span in spans]
        lengths = [span.before + span.count for span in spans]
        used = [span.pages[: -(-length // memory.page)] for span, length in zip(spans, lengths, strict=True)]
        most = max(map(len, used))
        table = [[*pages, *[0] * (most - len(pages))] for pages in used]
        self._table = torch.tensor(table, dtype=torch.int32, device=device)
        self._starts = torch.tensor([0, *ends], dtype=torch.int32, device=device)
        self._lengths = torch.tensor(lengths, dtype=torch.int32, device=device)
        words = [sum(1 << row for row in path) for span in spans for path in span.paths]
        self._tree = torch.tensor([_signed(word) for word in words], device=device) if words else None
        self._plan: Placed | None = None
        if use_triton(memory.values):
            kv_heads, head = memory.values.shape[2], memory.values.shape[4]
            made = plan(
                [span.count for span in spans],
                lengths,
                heads=heads,
                kv_heads=kv_heads,
                page=memory.page,
                sms=multiprocessors(memory.values.device),
                window=sight.window or 0,
                sinks=sight.sinks,
                tree=bool(words),
            )
            self._plan = place(made, device, d=head)

    def attend(self, q: torch.Tensor, layer: int) -> torch.Tensor:
        """[count, heads, head] queries, scaled, to what they see, of the same shape."""
        out: torch.Tensor = paged_attention(
            q.to(self._memory.values.dtype).contiguous(),
            self._memory.keys[layer],
            self._memory.values[layer],
            self._table,
            self._starts,
            self._lengths,
            scale=1.0,
            window=self._sight.window or 0,
            sinks=self._sight.sinks,
            tree=self._tree,
            plan=self._plan,
        )
        return out.to(q.dtype)


def _signed(word: int) -> int:
    """64 bits as torch's int64 has them."""
    return word - (1 << 64) if word >> 63 else word

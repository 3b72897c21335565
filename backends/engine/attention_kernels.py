"""Attention over pages by the kernels room: Triton on a GPU, its plain torch anywhere else.

One call a layer for all decoding and verifying answers, one for those whose guesses are trees, whose rows see one
another by masks of 64 bits, and one for prompts; each planned once for all layers. Knows pages and rows, nothing of
requests.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ...kernels.attention_paged import paged_attention
from ...kernels.attention_placed import Placed, place
from ...kernels.attention_plan import plan
from ...kernels.attention_prefill import prefill_attention
from ...kernels.dispatch import multiprocessors, use_triton
from .attention import Sight, Span
from .memory import Memory

_BLOCK = 128  # rows of one key head that one program of the paged kernel holds; what has more is a prompt


def is_prompt(rows: int, group: int) -> bool:
    """Whether so many new rows of one sequence, `group` heads to a key head, are read by the prompts' kernel."""
    return rows * group > _BLOCK


class Pages:
    """What both kernels must know of `spans`, whose rows follow one another: their pages and lengths, on the device."""

    def __init__(self, spans: Sequence[Span], memory: Memory, sight: Sight) -> None:
        self.row, self.count = spans[0].row, sum(span.count for span in spans)
        self._memory, self._device = memory, memory.values.device
        self._window, self._sinks = sight.window or 0, sight.sinks
        self._scale = memory.values.shape[4] ** -0.5
        used = [span.pages[: -(-(span.before + span.count) // memory.page)] for span in spans]
        most = max(map(len, used))
        self._table = self._int32([[*pages, *[0] * (most - len(pages))] for pages in used])
        self._starts = self._int32([0, *[span.row + span.count - self.row for span in spans]])

    def _int32(self, values: Sequence[int] | Sequence[Sequence[int]]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int32, device=self._device)


class Paged(Pages):
    """A few rows of each sequence; all of them trees of guesses, or none."""

    def __init__(self, spans: Sequence[Span], memory: Memory, heads: int, sight: Sight) -> None:
        super().__init__(spans, memory, sight)
        lengths = [span.before + span.count for span in spans]
        self._lengths = self._int32(lengths)
        words = [sum(1 << row for row in path) for span in spans for path in span.paths]
        self._tree = torch.tensor([_signed(word) for word in words], device=self._device) if words else None
        self._plan: Placed | None = None
        if use_triton(memory.values):
            kv_heads, head = memory.values.shape[2], memory.values.shape[4]
            sizes = {"heads": heads, "kv_heads": kv_heads, "page": memory.page, "sms": multiprocessors(self._device)}
            masks = {"window": self._window, "sinks": self._sinks}
            made = plan([span.count for span in spans], lengths, **sizes, **masks, tree=bool(words))
            self._plan = place(made, self._device, d=head)

    def attend(self, q: torch.Tensor, layer: int) -> torch.Tensor:
        """[count, heads, head] queries to what they see, of the same shape; scores are scaled here."""
        keys, values = self._memory.keys[layer], self._memory.values[layer]
        out: torch.Tensor = paged_attention(
            q, keys, values, self._table, self._starts, self._lengths,
            scale=self._scale, window=self._window, sinks=self._sinks, tree=self._tree, plan=self._plan,
        )  # fmt: skip
        return out


class Prompts(Pages):
    """Many rows of each sequence, one after another, behind what its pages hold already."""

    def __init__(self, spans: Sequence[Span], memory: Memory, heads: int, sight: Sight) -> None:
        super().__init__(spans, memory, sight)
        self._before = self._int32([span.before for span in spans])
        self._longest = max(span.count for span in spans)

    def attend(self, q: torch.Tensor, layer: int) -> torch.Tensor:
        """As `Paged.attend`."""
        out: torch.Tensor = prefill_attention(
            q, None, None, self._starts,
            scale=self._scale, k_pages=self._memory.keys[layer], v_pages=self._memory.values[layer],
            page_table=self._table, prefix_len=self._before, window=self._window, sinks=self._sinks,
            longest=self._longest,
        )  # fmt: skip
        return out


def _signed(word: int) -> int:
    """64 bits as torch's int64 has them."""
    return word - (1 << 64) if word >> 63 else word

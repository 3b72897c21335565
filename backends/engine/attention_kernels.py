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
from ...kernels.attention_quest import quest_pages
from ...kernels.dispatch import multiprocessors, use_triton
from .attention import Sight, Span
from .attention_quest import WHOLE_LAYERS
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
        self._globals = self._int32(_even([span.marked for span in spans])) if any(s.marked for s in spans) else None

    def _int32(self, values: Sequence[int] | Sequence[Sequence[int]]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int32, device=self._device)


class Paged(Pages):
    """A few rows of each sequence; all of them trees of guesses, or none."""

    def __init__(self, spans: Sequence[Span], memory: Memory, heads: int, sight: Sight) -> None:
        super().__init__(spans, memory, sight)
        self._lengths = self._int32([span.before + span.count for span in spans])
        words = [sum(1 << row for row in path) for span in spans for path in span.paths]
        self._tree = torch.tensor([_signed(word) for word in words], device=self._device) if words else None
        self._plan = self._planned(spans, heads)

    def _planned(self, spans: Sequence[Span], heads: int, top_k: int = 0) -> Placed | None:
        if not use_triton(self._memory.values):
            return None
        _, _, kv_heads, page, head = self._memory.values.shape
        sizes = {"heads": heads, "kv_heads": kv_heads, "page": page, "sms": multiprocessors(self._device)}
        masks = {"window": self._window, "sinks": self._sinks, "top_k": top_k}
        lengths = [span.before + span.count for span in spans]
        made = plan([span.count for span in spans], lengths, **sizes, **masks, tree=self._tree is not None)
        return place(made, self._device, d=head)

    def attend(self, q: torch.Tensor, layer: int) -> torch.Tensor:
        """[count, heads, head] queries to what they see, of the same shape; scores are scaled here."""
        return self._read(q, layer, None, self._plan)

    def _read(self, q: torch.Tensor, layer: int, chosen: torch.Tensor | None, planned: Placed | None) -> torch.Tensor:
        keys, values = self._memory.keys[layer], self._memory.values[layer]
        k_scale, v_scale = self._memory.scales_of(layer)
        out: torch.Tensor = paged_attention(
            q, keys, values, self._table, self._starts, self._lengths, scale=self._scale, window=self._window,
            sinks=self._sinks, globals_=self._globals, tree=self._tree, pages_top_k=chosen, plan=planned,
            k_scale=k_scale, v_scale=v_scale,
        )  # fmt: skip
        return out


class PagedBest(Paged):
    """A few rows of each answer, which read the best of its pages: chosen for all new rows of an answer together, where
    a CPU chooses for each row (attention_quest.py)."""

    def __init__(self, spans: Sequence[Span], memory: Memory, heads: int, sight: Sight) -> None:
        super().__init__(spans, memory, sight=Sight(), heads=heads)
        page = memory.page
        own = max((span.before + span.count - 1) // page - span.before // page + 1 for span in spans)
        self._k = max(sight.best or 0, own + 1)
        self._chosen_plan = self._planned(spans, heads, self._k)

    def attend(self, q: torch.Tensor, layer: int) -> torch.Tensor:
        """As `Paged.attend`."""
        bounds = self._memory.bounds
        if layer < WHOLE_LAYERS or bounds is None:
            return super().attend(q, layer)
        chosen = quest_pages(
            q, bounds.least[layer], bounds.most[layer], self._table, self._starts, self._lengths,
            page=self._memory.page, k=self._k,
        )  # fmt: skip
        return self._read(q, layer, chosen, self._chosen_plan)


class Prompts(Pages):
    """Many rows of each sequence, one after another, behind what its pages hold already."""

    def __init__(self, spans: Sequence[Span], memory: Memory, heads: int, sight: Sight) -> None:
        super().__init__(spans, memory, sight)
        self._before = self._int32([span.before for span in spans])
        self._longest = max(span.count for span in spans)

    def attend(self, q: torch.Tensor, layer: int) -> torch.Tensor:
        """As `Paged.attend`."""
        k_scale, v_scale = self._memory.scales_of(layer)
        out: torch.Tensor = prefill_attention(
            q, None, None, self._starts,
            scale=self._scale, k_pages=self._memory.keys[layer], v_pages=self._memory.values[layer],
            page_table=self._table, prefix_len=self._before, window=self._window, sinks=self._sinks,
            globals_=self._globals, longest=self._longest, k_scale=k_scale, v_scale=v_scale,
        )  # fmt: skip
        return out


def _even(rows: Sequence[Sequence[int]]) -> list[list[int]]:
    """Padded with -1 to the longest."""
    longest = max(map(len, rows))
    return [[*row, *[-1] * (longest - len(row))] for row in rows]


def _signed(word: int) -> int:
    """64 bits as torch's int64 has them."""
    return word - (1 << 64) if word >> 63 else word

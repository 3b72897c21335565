"""Answers that read only the pages whose keys may matter most to them: Quest (arXiv 2406.10774) on a CPU.

    bound of a page = sum over c of max(q_c least_c, q_c most_c)  >=  q . k for every key of the page

A page is chosen for all heads that share its keys, by the greatest of their bounds; the first page and the row's own
are always read, and so is everything in the first two layers, whose attention is spread wide. A row's choice depends
on its own query and on full pages behind it alone, so speculation and batching still change no answer. Prompts are
read whole: what is lost is lost in the answer's own rows. `Noting` and `Chosen` are torch's way; quest_native.py puts
the same rule on a tape. Knows pages and rows; nothing of requests.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .attention import Bags, Blocks, Sight, Span, owners, tables
from .memory import Memory

WHOLE_LAYERS = 2


class Bounds:
    """The least and greatest of every column of every full page's keys: [layers, pages + 1, kv_heads, head]."""

    def __init__(self, memory: Memory) -> None:
        layers, pages, kv_heads, _, head = memory.values.shape
        self.least = torch.zeros((layers, pages, kv_heads, head), dtype=memory.keys.dtype, device=memory.keys.device)
        self.most = torch.zeros_like(self.least)

    def note(self, memory: Memory, layer: int, pages: torch.Tensor) -> None:
        """These pages are full now."""
        along = -1 if memory.turned else -2
        keys = memory.keys[layer, pages]
        self.least[layer, pages], self.most[layer, pages] = keys.amin(along), keys.amax(along)


def filled(spans: Sequence[Span], page: int) -> list[int]:
    """The pages that are full when the rows of `spans` are written."""
    ends = [(span, (span.before + span.count) // page) for span in spans]
    return [span.pages[i] for span, end in ends for i in range(span.before // page, end)]


class Noting:
    """A part without rows, in front of the others: it keeps the bounds of the pages that the batch fills."""

    row = count = 0

    def __init__(self, spans: Sequence[Span], memory: Memory) -> None:
        self._memory = memory
        self._full = torch.tensor(filled(spans, memory.page), dtype=torch.int64, device=memory.values.device)

    def attend(self, q: torch.Tensor, layer: int) -> torch.Tensor:
        if len(self._full) and self._memory.bounds is not None:
            self._memory.bounds.note(self._memory, layer, self._full)
        return q


class Chosen:
    """A few rows of any sequences, each of which reads the best pages of its own; no trees."""

    def __init__(self, spans: Sequence[Span], memory: Memory, heads: int, sight: Sight) -> None:
        self.row, self.count = spans[0].row, sum(span.count for span in spans)
        self._memory, self._owner = memory, owners(memory, heads)
        self._whole = Bags(spans, memory, heads, Sight())
        table, _ = tables(spans, memory.page, Sight())
        most = table.shape[1]
        # One column more, of the page that nobody owns: where a row reads fewer pages than another.
        self._table = torch.nn.functional.pad(torch.from_numpy(table), (0, 1))
        self._rows = torch.tensor([p for span in spans for p in span.positions()])
        exact = torch.tensor([span.exact for span in spans for _ in range(span.count)])
        limit = torch.where(self._rows < exact, most, sight.best or most)
        number, own = torch.arange(most), (self._rows // memory.page)[:, None]
        self._always, self._behind = (number == 0) | (number == own), number > own
        self._width = min(most, int(limit.max()))
        self._left_out = torch.arange(self._width) >= limit[:, None]

    def attend(self, q: torch.Tensor, layer: int) -> torch.Tensor:
        """As `Bags.attend`."""
        most = self._table.shape[1] - 1
        if layer < WHOLE_LAYERS or (self._width == most and not bool(self._left_out.any())):
            return self._whole.attend(q, layer)
        best = self._bounds(q, layer).sort(stable=True, descending=True).indices[..., : self._width]
        # In the order of their positions: the law adds page after page.
        numbers = best.masked_fill(self._left_out[:, None], most).sort(-1).values  # [rows, kv_heads, width]
        rows = torch.arange(self.count)[:, None, None]
        own = self._table[rows, numbers][:, self._owner.long()]
        kv_heads, page = self._memory.values.shape[2], self._memory.page
        keys = (numbers[..., None] * page + torch.arange(page)).flatten(2)[:, self._owner.long()]
        bias = torch.zeros(keys.shape).masked_fill_(keys > self._rows[:, None, None], -torch.inf)
        return Blocks(self._memory, own * kv_heads + self._owner[:, None]).attend(q, layer, bias)

    def _bounds(self, q: torch.Tensor, layer: int) -> torch.Tensor:
        """[rows, kv_heads, pages], infinite for what is always read, minus infinite for what lies ahead."""
        bounds = self._memory.bounds
        assert bounds is not None
        kv_heads, head = self._memory.values.shape[2], self._memory.values.shape[4]
        grouped = q.view(self.count, 1, kv_heads, -1, head)
        pages = self._table[:, :-1].long()
        # Sums of each page alone, in one order: a product of matrices might take another beside other rows.
        high = (grouped.clamp(min=0) * bounds.most[layer, pages][:, :, :, None]).sum(-1)
        low = (grouped.clamp(max=0) * bounds.least[layer, pages][:, :, :, None]).sum(-1)
        found = (high + low).amax(-1).transpose(1, 2)
        found = found.masked_fill(self._always[:, None], torch.inf)
        return found.masked_fill(self._behind[:, None], -torch.inf)

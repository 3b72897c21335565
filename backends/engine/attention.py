"""Attention over pages on a CPU, such that a row's bits depend on its own keys alone.

The law, for one row and head: scores are fused multiply-adds over the head's width, in order, in powers of two; the
largest is taken off; each page's exponentials are summed, and each page's values weighed, position after position;
then the pages' sums are added, page after page. Masked positions add exact zeros, so padding changes nothing.

Two forms compute that law to the bit. `Bags` serves any few rows of many sequences at once: embedding bags are exactly
such sums, and read the pages where they lie. `Tile` serves many rows of one sequence with matrix products, whose sums
over up to 128 terms are the same chain on machines with fused multiply-adds; `chained` asks this machine. Knows
nothing of layers' weights or of requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from .lanes import exp2_
from .memory import Memory

_LOG2_E = 1.4426950408889634
_FEW_PAGES = 4  # as many sums take less time than a bag of them
_TILE_FLOATS = 1 << 20  # scores of a tile: what the second-level cache holds
_TILE_WORTH = 1 << 14  # scores from which one sequence's own matrix products are worth their calls
_ROWS = 16  # a tile's rows are padded to a multiple: threads share them out, and fewer than four go another way


@dataclass(frozen=True, slots=True)
class Sight:
    """Which keys a row may see beside those up to its own position: all (the default), or a part of them.

    With a `window`, the last so many, the first `sinks` (arXiv 2309.17453) and wherever one of the tokens `marks`
    stands: global tokens, which all see (arXiv 2004.05150). With `best`, the rows of an answer read so many pages each,
    those whose keys may matter most (attention_quest.py). Approximations that the model's owner asks for, one or the
    other.
    """

    window: int | None = None
    sinks: int = 0
    marks: frozenset[int] = frozenset()
    best: int | None = None

    def pages(self, first: int, last: int, page: int, marked: Sequence[int] = ()) -> list[int]:
        """The numbers of the pages that rows at positions `first` to `last` can see any of."""
        every = range(last // page + 1)
        if self.window is None:
            return list(every)
        near = max(0, first - self.window + 1) // page
        known = {position // page for position in marked}
        return [i for i in every if i >= near or i * page < self.sinks or i in known]

    def hidden(self, keys: torch.Tensor, rows: torch.Tensor, known: torch.Tensor | None = None) -> torch.Tensor:
        """Whether positions `keys` are hidden from `rows`; both broadcast. `known`: whether a key is a global one."""
        late = keys > rows
        if self.window is None:
            return late
        outside = (keys <= rows - self.window) & (keys >= self.sinks)
        return late | (outside if known is None else outside & ~known)


@dataclass(frozen=True, slots=True)
class Span:
    """The new rows of one sequence: `count` flat rows from `row` on, at positions from `before` on.

    `pages` hold everything up to the last new row. A tree of guesses has `paths`: for each row the rows from the first
    new one to itself that it follows; its keys are stored in row order, its position is that of its depth. `marked` are
    the positions of global tokens; rows at positions below `exact` see all whatever `Sight.best` says.
    """

    row: int
    count: int
    before: int
    pages: Sequence[int]
    paths: Sequence[Sequence[int]] = ()
    marked: Sequence[int] = ()
    exact: int = 0

    def positions(self) -> list[int]:
        if self.paths:
            return [self.before + len(path) - 1 for path in self.paths]
        return list(range(self.before, self.before + self.count))


def in_tile(count: int, before: int, heads: int) -> bool:
    """Whether so many new rows of one sequence are worth matrix products of their own."""
    return count >= _ROWS and count * heads * (before + count) >= _TILE_WORTH


class Blocks:
    """The law over pages named for each row and head: `blocks` int32 [rows, heads, pages], numbers of one head's keys
    in one page. `order` [rows, positions] says where each position's key is stored, if not in place."""

    def __init__(self, memory: Memory, blocks: torch.Tensor, order: torch.Tensor | None = None) -> None:
        page, head = memory.page, memory.values.shape[4]
        self._memory, self._order, self._pages = memory, order, blocks.shape[-1]
        self._keys = _places(blocks, head)
        self._values = self._keys if head == page and order is None else _places(blocks, page)
        if order is not None:
            each = order[:, None].expand(-1, blocks.shape[1], -1)
            self._values = self._values.view(each.shape).gather(-1, each).view(-1)
        bags = blocks.numel()
        self._key_ends, self._value_ends = _ends(bags, head), _ends(bags, page)
        self._merged, self._merge_ends = torch.arange(bags, dtype=torch.int32), _ends(bags // self._pages, self._pages)

    def attend(self, q: torch.Tensor, layer: int, bias: torch.Tensor) -> torch.Tensor:
        """[rows, heads, head] queries to what they see, of the same shape; `bias` broadcasts to
        [rows, heads, positions]."""
        memory, (count, heads, head) = self._memory, q.shape
        q = q * _scale(head)
        weights = q[:, :, None].expand(-1, -1, self._pages, -1).reshape(-1)
        scores = _bags(memory.keys[layer].view(-1, memory.page), self._keys, self._key_ends, weights)
        scores = scores.view(count, heads, -1)
        if self._order is not None:
            scores = scores.gather(-1, self._order[:, None].expand(-1, heads, -1))
        scores += bias
        exp2_(scores.sub_(scores.amax(-1, keepdim=True)))
        sums = self._joined(scores.view(-1, memory.page).sum(-1, keepdim=True))
        parts = _bags(memory.values[layer].view(-1, head), self._values, self._value_ends, scores.view(-1))
        return self._joined(parts).div_(sums).view(count, heads, head)

    def _joined(self, shares: torch.Tensor) -> torch.Tensor:
        """The pages' shares [rows * heads * pages, width] added, page after page."""
        if self._pages > _FEW_PAGES:
            return _bags(shares, self._merged, self._merge_ends)
        first, *others = shares.view(-1, self._pages, shares.shape[-1]).unbind(1)
        for share in others:
            first = first + share
        return first


class Bags:
    """Rows of any sequences, each with its own pages; padded to the most pages among them."""

    def __init__(self, spans: Sequence[Span], memory: Memory, heads: int, sight: Sight) -> None:
        self.row, self.count = spans[0].row, sum(span.count for span in spans)
        table, bases = tables(spans, memory.page, sight)
        order = _orders(spans, table.shape[1] * memory.page) if any(span.paths for span in spans) else None
        owner = owners(memory, heads)
        blocks = torch.from_numpy(table)[:, None] * memory.values.shape[2] + owner[:, None]
        self._blocks = Blocks(memory, blocks, order)
        rows = torch.tensor([p for span in spans for p in span.positions()])
        keys = (torch.from_numpy(bases)[:, :, None] + torch.arange(memory.page)).view(self.count, -1)
        hidden = sight.hidden(keys, rows[:, None], _known(spans, keys))
        self._bias = torch.zeros(hidden.shape).masked_fill_(hidden, -torch.inf)[:, None]

    def attend(self, q: torch.Tensor, layer: int) -> torch.Tensor:
        """[count, heads, head] queries to what they see, of the same shape."""
        return self._blocks.attend(q, layer, self._bias)


def owners(memory: Memory, heads: int) -> torch.Tensor:
    """int32 [heads]: whose keys each head reads."""
    return torch.arange(heads, dtype=torch.int32) // (heads // memory.values.shape[2])


class Tile:
    """Many rows of one sequence, one after another."""

    def __init__(self, spans: Sequence[Span], memory: Memory, heads: int, sight: Sight) -> None:
        [span] = spans
        self.row, self.count = span.row, span.count
        self._memory, self._heads = memory, heads
        page, end = memory.page, span.before + span.count
        numbers = sight.pages(span.before, end - 1, page, span.marked)
        self._pages = [span.pages[i] for i in numbers]
        width = _TILE_FLOATS // (heads * len(numbers) * page)
        step = max(_ROWS, width - width % _ROWS)
        self._padding = -span.count % _ROWS
        padded = span.count + self._padding
        self._pieces = []
        for a in range(0, padded, step):
            b = min(a + step, padded)
            n = sum(i * page < span.before + b for i in numbers)
            keys = (torch.tensor(numbers[:n])[:, None] * page + torch.arange(page)).view(-1)
            rows = torch.arange(span.before + a, span.before + b)[:, None]
            hidden = sight.hidden(keys, rows, _known([span], keys[None]))
            first = int(hidden.any(0).nonzero()[0]) if bool(hidden.any()) else n * page
            bias = torch.zeros((b - a, 1, n * page - first)).masked_fill_(hidden[:, None, first:], -torch.inf)
            self._pieces.append((a, b, n, first, bias))

    def attend(self, q: torch.Tensor, layer: int) -> torch.Tensor:
        """As `Bags.attend`."""
        q = q * _scale(q.shape[-1])
        q = F.pad(q, (0, 0, 0, 0, 0, self._padding)) if self._padding else q
        memory, (count, heads, head) = self._memory, q.shape
        keys = torch.cat([memory.keys[layer, i] for i in self._pages], dim=-1)  # [kv_heads, head, positions]
        values = memory.values[layer]
        kv_heads = keys.shape[0]
        packed = q.view(count, kv_heads, -1, head).transpose(0, 1)
        out = torch.empty((count, kv_heads, heads // kv_heads, head))
        for a, b, n, first, bias in self._pieces:
            rows = packed[:, a:b].reshape(kv_heads, -1, head)
            scores = torch.bmm(rows, keys[:, :, : n * memory.page])
            scores.view(kv_heads, b - a, -1, n * memory.page)[..., first:] += bias
            exp2_(scores.sub_(scores.amax(-1, keepdim=True)))
            shares = scores.view(*scores.shape[:2], n, memory.page)
            sums = shares.sum(-1)
            total = sums[:, :, 0].clone()
            seen = torch.bmm(shares[:, :, 0], values[self._pages[0]])
            for i in range(1, n):
                total += sums[:, :, i]
                seen.baddbmm_(shares[:, :, i], values[self._pages[i]])
            seen.div_(total[..., None])
            out[a:b] = seen.view(kv_heads, b - a, -1, head).transpose(0, 1)
        return out.view(count, heads, head)[: self.count]


def _scale(head: int) -> float:
    """Of scores, so that weights are powers of two."""
    return _LOG2_E * float(head**-0.5)


def chained(head: int, page: int) -> bool:
    """Whether this machine's matrix products add in the same order as bags do, so that `Tile` may stand for `Bags`."""
    generator = torch.Generator().manual_seed(0)
    for terms, width in ((head, page), (head, 5 * page), (page, head)):
        table = torch.randn((terms, width), generator=generator)
        for rows in (_ROWS, 2 * _ROWS, 3 * _ROWS, 7 * _ROWS, 16 * _ROWS):
            weights = torch.randn((rows, terms), generator=generator)
            bag = _bags(
                table, torch.arange(terms, dtype=torch.int32).repeat(rows), _ends(rows, terms), weights.view(-1)
            )
            base = torch.randn((1, rows, width), generator=generator)
            added = torch.baddbmm(base, weights[None], table[None])
            if not (
                torch.equal(torch.bmm(weights[None], table[None])[0], bag) and torch.equal(added[0], base[0] + bag)
            ):
                return False
    return True


def _bags(
    table: torch.Tensor, places: torch.Tensor, ends: torch.Tensor, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """Sums of rows of `table`, each in the order of its places."""
    # As F.embedding_bag, whose checks take longer than the sums do.
    out: torch.Tensor = torch.embedding_bag(table, places, ends, False, 0, False, weights, True)[0]
    return out


def _places(blocks: torch.Tensor, each: int) -> torch.Tensor:
    """The rows of a table that has `each` for every block, for all of `blocks` in order."""
    return (blocks[..., None] * each + torch.arange(each, dtype=torch.int32)).view(-1)


def _ends(bags: int, each: int) -> torch.Tensor:
    return torch.arange(0, bags * each + 1, each, dtype=torch.int32)


def tables(spans: Sequence[Span], page: int, sight: Sight) -> tuple[np.ndarray, np.ndarray]:
    """For each row the pages it reads and the position each begins with, padded with page 0 at no position: int32 and
    int64 [rows, most pages]."""
    rows: list[Sequence[int]] = []
    for span in spans:
        if span.paths:  # a tree's rows are ordered anew, over all its pages
            rows += [range(len(span.pages))] * span.count
        elif sight.window is None:
            whole = range((span.before + span.count - 1) // page + 1)
            rows += [whole] * span.count
        else:
            rows += [sight.pages(p, p, page, span.marked) for p in span.positions()]
    table = np.zeros((len(rows), max(map(len, rows))), dtype=np.int32)
    bases = np.full(table.shape, np.iinfo(np.int32).max // 2, dtype=np.int64)
    owners = [span for span in spans for _ in range(span.count)]
    for i, (span, numbers) in enumerate(zip(owners, rows, strict=True)):
        table[i, : len(numbers)] = [span.pages[n] for n in numbers]
        bases[i, : len(numbers)] = np.array(numbers) * page
    return table, bases


def _known(spans: Sequence[Span], keys: torch.Tensor) -> torch.Tensor | None:
    """Which of each row's `keys` [rows, positions] are global tokens; None where there are none. One row stands for all
    of a single span."""
    if not any(span.marked for span in spans):
        return None
    parts = torch.split_with_sizes(keys, [span.count for span in spans] if len(keys) > 1 else [1])
    return torch.cat([torch.isin(x, torch.tensor(span.marked)) for x, span in zip(parts, spans, strict=True)])


def _orders(spans: Sequence[Span], width: int) -> torch.Tensor:
    """For each row, where among its stored keys the key of each position is."""
    orders = np.tile(np.arange(width), (sum(span.count for span in spans), 1))
    at = 0
    for span in spans:
        for path in span.paths or [()] * span.count:
            orders[at, span.before : span.before + len(path)] = [span.before + i for i in path]
            at += 1
    return torch.from_numpy(orders)

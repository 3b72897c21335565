"""Which pages each sequence holds: taken as its rows are computed, shared where they are known, given back at its end.

Joins the pool that counts pages, the tree that knows their beginnings, and the memory whose pages they are. Knows
nothing of steps or of who goes first.
"""

from __future__ import annotations

from collections.abc import Sequence as List

from .memory import Memory
from .pages import PagePool
from .prefixes import PrefixTree
from .sequence import Reading, Sequence


class Holdings:
    """`reuse`: pages of a prompt may serve other sequences; `answers`: those of an answer too."""

    def __init__(self, memory: Memory, *, reuse: bool, answers: bool) -> None:
        self.pool = PagePool(memory.pages)
        self.prefixes = PrefixTree(self.pool, memory.page)
        self._memory, self._reuse, self._answers = memory, reuse, answers

    def begin(self, s: Sequence, running: List[Sequence]) -> bool:
        """Find what is computed already. False, and nothing is changed, when the rest has no room beside what those
        that run have yet to read, and a page more of each."""
        size = self._memory.page
        beside = sum(max(0, -(-len(other.tokens) // size) - len(other.pages)) + 1 for other in running)
        pages = self.prefixes.find(s.tenant, s.tokens[: s.reusable]) if self._reuse else []
        needed = -(-(len(s.tokens) - len(pages) * size) // size) + beside
        if beside and needed > self.pool.available:
            self.pool.drop(pages)
            return False
        s.pages, s.computed, s.known = pages, len(pages) * size, len(pages)
        return True

    def reserve(self, s: Sequence, rows: int) -> bool:
        """Pages for `rows` more rows, the one that is being filled its own. False when there are none."""
        size = self._memory.page
        at = s.computed // size  # the page that the first row goes to
        shared = at < len(s.pages) and self.pool.shared(s.pages[at])
        lacking = -(-(s.computed + rows) // size) - len(s.pages)
        pages = self.pool.take(max(0, lacking) + shared)
        if pages is None:
            return False
        if shared:
            own = pages.pop()
            self._memory.copy([(s.pages[at], own)])
            self.pool.drop([s.pages[at]])
            s.pages[at] = own
        s.pages += pages
        return True

    def share(self, first: Sequence, fork: Sequence) -> None:
        """All that the first has computed is the other's too."""
        fork.computed, fork.pages, fork.known = first.computed, list(first.pages), first.known
        for page in fork.pages:
            self.pool.hold(page)

    def compact(self, s: Sequence, before: int, rows: List[int]) -> None:
        """Move the keys and values of a path through a tree, `rows` of it behind `before` tokens, to where a chain
        would have put them."""
        size = self._memory.page
        moves = [(before - 1 + row, before + i) for i, row in enumerate(rows) if row != i + 1]
        slots = [[s.pages[n // size] * size + n % size for n in side] for side in zip(*moves, strict=True)]
        if slots:
            self._memory.move(slots[0], slots[1])

    def advance(self, s: Sequence, count: int) -> None:
        """So many more tokens are computed; pages of the prompt that are full may serve others from now on."""
        s.computed += count
        if s.known < min(s.computed, s.prompt) // self._memory.page:
            self._keep(s, s.prompt)

    def let_go(self, s: Sequence) -> None:
        """Its pages are free, or cached, from now on."""
        self._keep(s, len(s.tokens) if self._answers else s.prompt)
        self.pool.drop(s.pages)
        s.pages, s.computed, s.known = [], 0, 0

    def _keep(self, s: Sequence, most: int) -> None:
        """Let the pages of the first `most` tokens, as far as they are computed, serve other sequences too."""
        most = min(most, s.computed, s.task.shared if isinstance(s.task, Reading) else most)
        if self._reuse and most // self._memory.page > s.known:
            self.prefixes.insert(s.tenant, s.tokens[:most], s.pages, s.known)
            s.known = most // self._memory.page

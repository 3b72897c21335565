"""Which page of the memory for keys and values belongs to whom. Counts only; the tensors are memory.py's.

A page is free, used by one or more sequences, or cached: kept by the prefix tree with nobody using it. Cached pages are
given to whoever needs one, the longest unused first. free + cached + used = total, always.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

NOWHERE = 0  # a page of zeros that nobody owns: what stands where a table of pages is shorter than another


class PagePool:
    """Pages 1 to `total`. Whatever is taken or held is dropped once by each who did."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._free = list(range(total, 0, -1))  # the last freed is used first: an idle engine touches little memory
        self._users = [0] * (total + 1)
        self._kept = [False] * (total + 1)
        self.used = 0  # pages with a user
        self._unused: dict[int, None] = {}  # kept pages without a user, the longest unused first
        self.forgotten: Callable[[int], None] = lambda page: None  # told of a kept page that goes to somebody else

    @property
    def free(self) -> int:
        return len(self._free)

    @property
    def cached(self) -> int:
        return len(self._unused)

    @property
    def counts(self) -> tuple[int, int, int]:
        """Free, cached and used."""
        return self.free, self.cached, self.used

    @property
    def available(self) -> int:
        """How many could be taken now."""
        return len(self._free) + len(self._unused)

    def take(self, count: int) -> list[int] | None:
        """So many pages with one user each; None, and nothing is changed, when there are not so many."""
        if count > self.available:
            return None
        return [self._next() for _ in range(count)]

    def hold(self, page: int) -> None:
        """One more user of a page that is used or kept."""
        assert self._users[page] or self._kept[page]
        self._unused.pop(page, None)
        self.used += self._users[page] == 0
        self._users[page] += 1

    def drop(self, pages: Iterable[int]) -> None:
        """One user less of each, the last of the list first, so that a prefix outlives what follows it."""
        for page in reversed(list(pages)):
            assert self._users[page] > 0
            self._users[page] -= 1
            if self._users[page]:
                continue
            self.used -= 1
            if self._kept[page]:
                self._unused[page] = None
            else:
                self._free.append(page)

    def keep(self, page: int) -> None:
        """The prefix tree wants this page, which somebody uses, to outlast its users."""
        assert self._users[page] > 0
        self._kept[page] = True

    def shared(self, page: int) -> bool:
        """Whether writing to it would be seen by another: it must be copied first."""
        return self._users[page] > 1 or self._kept[page]

    def check(self) -> None:
        """Raises AssertionError when a page is lost or counted twice."""
        assert self.used == sum(users > 0 for users in self._users)
        assert self.free + self.cached + self.used == self.total, (self.free, self.cached, self.used, self.total)
        assert len(set(self._free)) == len(self._free)
        assert not any(self._users[page] or self._kept[page] for page in self._free)

    def _next(self) -> int:
        if self._free:
            page = self._free.pop()
        else:
            page = next(iter(self._unused))
            del self._unused[page]
            self._kept[page] = False
            self.forgotten(page)
        self._users[page] = 1
        self.used += 1
        return page

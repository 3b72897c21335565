"""Which pages already hold the keys and values of a prompt's beginning: a tree over tokens, a page an edge.

A child is found by the page's own tokens, never by a hash of them, so a hit is right by construction. Each tenant has
a tree of its own. Knows pages by number and nothing of what is in them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from .pages import PagePool


@dataclass(slots=True, eq=False)
class _Node:
    """The page behind these tokens; a tenant's root has none."""

    page: int = 0
    tokens: tuple[int, ...] = ()
    parent: _Node | None = None
    tenant: str = ""
    children: dict[tuple[int, ...], _Node] = field(default_factory=dict)


class PrefixTree:
    """The kept pages of a pool. A page whose children are used is used itself, so the longest unused is a leaf."""

    def __init__(self, pool: PagePool, size: int) -> None:
        """`size` tokens a page."""
        self._pool, self._size = pool, size
        self._roots: dict[str, _Node] = {}
        self._nodes: dict[int, _Node] = {}
        pool.forgotten = self._forget

    def __len__(self) -> int:
        return len(self._nodes)

    def find(self, tenant: str, tokens: Sequence[int]) -> list[int]:
        """The pages of the longest known beginning of `tokens`, whole pages only; the caller holds them."""
        node, pages = self._roots.get(tenant), []
        for at in range(0, len(tokens) - self._size + 1, self._size):
            node = None if node is None else node.children.get(tuple(tokens[at : at + self._size]))
            if node is None:
                break
            self._pool.hold(node.page)
            pages.append(node.page)
        return pages

    def insert(self, tenant: str, tokens: Sequence[int], pages: list[int], known: int = 0) -> None:
        """Keep `pages`, which hold `tokens` from the beginning; what does not fill a page is left out.

        Where another has computed the same page meanwhile, `pages` is changed to that one and the caller's own dropped:
        they hold the same bits. The first `known` pages are in the tree already.
        """
        whole = min(len(tokens) // self._size, len(pages))
        if whole <= known:
            return
        node = self._nodes[pages[known - 1]] if known else self._roots.setdefault(tenant, _Node(tenant=tenant))
        for i in range(known, whole):
            key = tuple(tokens[i * self._size : (i + 1) * self._size])
            child = node.children.get(key)
            if child is None:
                child = _Node(pages[i], key, node, tenant)
                node.children[key] = self._nodes[pages[i]] = child
                self._pool.keep(pages[i])
            elif child.page != pages[i]:
                self._pool.hold(child.page)
                self._pool.drop([pages[i]])
                pages[i] = child.page
            node = child

    def _forget(self, page: int) -> None:
        node = self._nodes.pop(page)
        assert node.parent is not None
        assert not node.children
        del node.parent.children[node.tokens]
        if node.parent.parent is None and not node.parent.children:
            self._roots.pop(node.tenant, None)

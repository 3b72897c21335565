"""The port of speculation: who may guess what an answer says next.

A guess changes how many tokens one pass of the model yields, never which: the target's own token is drawn first
(`verify.py`). So a drafter needs no probabilities and may be wrong at will. Knows nothing of models or tensors.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Draft:
    """Guessed tokens, each behind its parent: an index into `tokens` before its own, or -1 for the answer so far.

    No `parents` means a chain. `confidence` is, for each token, the drafter's own estimate that it is right if its
    parent is; the controller corrects it by what it has seen. `source` names who guessed, for figures and learning;
    `sources` does so for each token where several drafters' guesses were joined.
    """

    tokens: tuple[int, ...] = ()
    parents: tuple[int, ...] = ()
    confidence: tuple[float, ...] = ()
    source: str = ""
    sources: tuple[str, ...] = ()

    @property
    def chain(self) -> bool:
        return not self.parents

    def parent(self, node: int) -> int:
        return self.parents[node] if self.parents else node - 1

    def source_of(self, node: int) -> str:
        return self.sources[node] if self.sources else self.source

    def cut(self, length: int) -> Draft:
        """The first `length` tokens; a tree's nodes come parents first, so that what is left is a tree again."""
        if length >= len(self.tokens):
            return self
        shorter = (self.tokens[:length], self.parents[:length], self.confidence[:length])
        return Draft(*shorter, self.source, self.sources[:length])

    def only(self, nodes: Collection[int]) -> Draft:
        """Some of the nodes, whose parents must be among them; a chain again where it is one."""
        kept = sorted(nodes)
        if len(kept) == len(self.tokens) or not kept or kept[-1] == len(kept) - 1:
            return self.cut(len(kept))
        place = {-1: -1} | {node: i for i, node in enumerate(kept)}
        parents = tuple(place[self.parent(node)] for node in kept)
        return Draft(
            tuple(self.tokens[node] for node in kept),
            () if parents == tuple(range(-1, len(kept) - 1)) else parents,
            tuple(self.confidence[node] for node in kept),
            self.source,
            tuple(self.sources[node] for node in kept) if self.sources else (),
        )


NOTHING = Draft()


class Drafter(Protocol):
    """Guesses for one answer. Made when the answer begins, closed when it ends, however it ends."""

    name: str

    def propose(self, tokens: Sequence[int], most: int) -> Draft:
        """At most `most` tokens behind `tokens`, the prompt and the answer so far, which only ever grow."""
        ...

    def close(self, tokens: Sequence[int], whole: bool) -> None:
        """The answer is over; `whole` if it ended by itself and may serve later ones."""
        ...

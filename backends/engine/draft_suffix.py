"""Guesses from the request's own words: what followed when the last few tokens stood in the prompt or answer before.

Suffix decoding (arXiv 2411.04975) and prompt lookup, with the index of `draft_ngrams.py` in place of a tree. The index
is made a slice at a time, so a prompt of any length never holds up a step.
"""

from __future__ import annotations

from collections.abc import Sequence

from .draft import NOTHING, Draft
from .draft_ngrams import HARDLY, Ngrams, follow

_SLICE = 4096  # tokens indexed a call: some milliseconds


class SuffixDrafter:
    """A Drafter of one answer; `least` is the shortest match that it makes a guess from."""

    name = "suffix"

    def __init__(self, least: int = 1) -> None:
        self._index = Ngrams()
        self._least = least

    @property
    def known(self) -> int:
        """How many tokens are indexed."""
        return self._index.grown

    def prepare(self, tokens: Sequence[int]) -> bool:
        """Index one more slice, for instance while the prompt is being read; whether there is nothing left to do."""
        return self._index.grow(tokens, _SLICE)

    def propose(self, tokens: Sequence[int], most: int) -> Draft:
        # A long prompt that nobody prepared is known from its beginning on, slice by slice.
        if most <= 0 or not tokens:
            return NOTHING
        self.prepare(tokens)
        match = self._index.find(tokens, tokens, self._least)
        if match is None:
            return NOTHING
        said, sure = follow(tokens, match, most, HARDLY)
        return Draft(tuple(said), (), tuple(sure), self.name)

    def close(self, tokens: Sequence[int], whole: bool) -> None:
        """Nothing is kept of an answer beyond it; `draft_trie.py` keeps the finished ones."""

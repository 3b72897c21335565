"""Keeping an answer a JSON object: which tokens may come next, and how to close it before the tokens run out."""

from __future__ import annotations

from collections.abc import Sequence

from .json_prefix import JsonPrefix

_ENDGAME = 80  # tokens; the longest way to close an object is shorter


class JsonGrammar:
    """Walks along one answer of at most `most` tokens; `vocabulary` has the bytes of each token."""

    def __init__(self, vocabulary: Sequence[bytes], most: int) -> None:
        self._vocabulary = vocabulary
        self._left = most
        self._state = JsonPrefix()

    @property
    def complete(self) -> bool:
        return self._state.complete

    def accepts(self, token: int) -> bool:
        """Whether the answer stays a JSON object that can still be closed in time."""
        data = self._vocabulary[token]
        after = self._state.after(data) if data else None
        if after is None:
            return False
        return self._left > _ENDGAME or len(after.closing()) < self._left

    def way_out(self) -> int:
        """The token of the next byte that closes the object; every byte is a token of a byte-level vocabulary."""
        return self._vocabulary.index(self._state.closing()[:1])

    def take(self, token: int) -> None:
        """Go on to the state after `token`, which `accepts` allowed."""
        after = self._state.after(self._vocabulary[token])
        assert after is not None
        self._state = after
        self._left -= 1

"""Guesses from answers that are finished: one tenant's own, never another's.

Who asks alike is answered alike, and the tail of the prompt is kept with each answer, so that the very first tokens of
one can be guessed too (REST, arXiv 2311.08252; suffix decoding, arXiv 2411.04975). A guess found shows in how fast an
answer comes, so what one tenant was told must not speed up another's: every lookup is salted.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from .draft import NOTHING, Draft
from .draft_ngrams import HARDLY, Match, Ngrams, branch, follow

_LENGTHS = (2, 4, 8)  # three entries of an index a token, some 400 bytes
_TAIL = 32  # tokens of the prompt kept with an answer
_LONGEST = 2048  # tokens of one answer that are kept
_SEAM = -1


class AnswerStore:
    """Finished answers, at most `tokens` a tenant and `total` in all; what was not said again for longest goes first.

    A tenant's answers are two generations: new ones fill the young, and when that is half of what may be kept it
    becomes the old one, whose predecessor is dropped whole. For one thread, the engine's.
    """

    def __init__(self, tokens: int = 50_000, total: int = 400_000) -> None:
        self._tokens, self._total = tokens, total
        self._tenants: OrderedDict[bytes, _Kept] = OrderedDict()

    def __len__(self) -> int:
        """Tokens kept, of all tenants."""
        return sum(len(kept) for kept in self._tenants.values())

    def add(self, salt: bytes, prompt: Sequence[int], answer: Sequence[int]) -> None:
        """Keep an answer; costs a few microseconds a token."""
        if not answer or self._tokens <= 0:
            return
        kept = self._tenants.get(salt)
        if kept is None:
            kept = self._tenants[salt] = _Kept()
        self._tenants.move_to_end(salt)
        room = max(1, self._tokens // 2 - 1)
        kept.add([*prompt[-_TAIL:], *answer[:_LONGEST]][-room:], room)
        while len(self) > self._total and len(self._tenants) > 1:
            self._tenants.popitem(last=False)

    def find(self, salt: bytes, tokens: Sequence[int]) -> tuple[list[int], Match] | None:
        """The text, and its places behind the longest run that `tokens` ends with."""
        kept = self._tenants.get(salt)
        return None if kept is None else kept.find(tokens)


class TrieDrafter:
    """A Drafter of one answer over the store. With `tree`, several continuations are guessed at once."""

    name = "trie"

    def __init__(self, store: AnswerStore, salt: bytes, prompt: int, *, tree: bool = False) -> None:
        """`prompt` is the number of the prompt's tokens: behind them the answer begins."""
        self._store, self._salt, self._prompt, self._tree = store, salt, prompt, tree

    def propose(self, tokens: Sequence[int], most: int) -> Draft:
        found = self._store.find(self._salt, tokens) if most > 0 else None
        if found is None:
            return NOTHING
        text, match = found
        if not self._tree:
            said, sure = follow(text, match, most, HARDLY)
            return Draft(tuple(said), (), tuple(sure), self.name)
        said, parents, sure = branch(text, match, most)
        chain = all(parent == i - 1 for i, parent in enumerate(parents))
        return Draft(tuple(said), () if chain else tuple(parents), tuple(sure), self.name)

    def close(self, tokens: Sequence[int], whole: bool) -> None:
        if whole:
            self._store.add(self._salt, tokens[: self._prompt], tokens[self._prompt :])


class _Generation:
    def __init__(self) -> None:
        self.text: list[int] = []
        self.index = Ngrams(_LENGTHS)
        self.known: set[int] = set()  # hashes of the pieces: one said again takes no new room


class _Kept:
    """One tenant's answers."""

    def __init__(self) -> None:
        self._young, self._old = _Generation(), _Generation()

    def __len__(self) -> int:
        return len(self._young.text) + len(self._old.text)

    def add(self, piece: list[int], room: int) -> None:
        name = hash(tuple(piece))
        if name in self._young.known:
            return
        if len(self._young.text) + len(piece) >= room:
            self._young, self._old = _Generation(), self._young
        young = self._young
        young.known.add(name)
        young.text += [*piece, _SEAM]
        young.index.grow(young.text, len(piece) + 1)

    def find(self, tokens: Sequence[int]) -> tuple[list[int], Match] | None:
        best: tuple[list[int], Match] | None = None
        for part in (self._young, self._old):
            match = part.index.find(part.text, tokens)
            if match is not None and (best is None or match.length > best[1].length):
                best = part.text, match
        return best

"""Several drafters of one answer as one: the most promising guess of any, or all of them joined in a tree.

Which is most promising is the judge's word: how likely each token is, corrected by what has been seen.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence

from .draft import NOTHING, Draft, Drafter

Judge = Callable[[Draft], Sequence[float]]


def trusting(draft: Draft) -> Sequence[float]:
    """The judge that believes each drafter."""
    return draft.confidence


_ENOUGH = 1.0  # tokens that cheap drafters must promise for one that costs not to be asked


class BestDrafter:
    """A Drafter that asks each of `drafters`, in order of preference where they promise the same.

    `costly` are asked only where those have little to say.
    """

    name = "best"

    def __init__(
        self,
        drafters: Sequence[Drafter],
        judge: Judge = trusting,
        *,
        tree: bool = False,
        costly: Sequence[Drafter] = (),
    ) -> None:
        self._drafters, self._judge, self._tree = tuple(drafters), judge, tree
        self._costly = tuple(costly)

    def propose(self, tokens: Sequence[int], most: int) -> Draft:
        drafts = [draft for drafter in self._drafters if (draft := drafter.propose(tokens, most)).tokens]
        if self._costly and all(self.lacks(draft) for draft in drafts):
            drafts += [draft for drafter in self._costly if (draft := drafter.propose(tokens, most)).tokens]
        return self.best(drafts, most)

    def lacks(self, draft: Draft) -> bool:
        """Whether it promises so little that a drafter that costs may be asked too."""
        return promise(draft, self._judge(draft)) < _ENOUGH

    def best(self, drafts: Sequence[Draft], most: int) -> Draft:
        """The most promising of some drafts, or all of them joined."""
        drafts = [draft for draft in drafts if draft.tokens]
        if len(drafts) < 2:
            return drafts[0] if drafts else NOTHING
        return join(drafts, self._judge, most) if self._tree else max(drafts, key=lambda d: promise(d, self._judge(d)))

    def close(self, tokens: Sequence[int], whole: bool) -> None:
        for drafter in (*self._drafters, *self._costly):
            drafter.close(tokens, whole)


def promise(draft: Draft, chances: Sequence[float]) -> float:
    """How many of the draft's tokens are expected to be right; `chances` is each one's if its parent is."""
    return sum(paths(draft, chances))


def paths(draft: Draft, chances: Sequence[float]) -> list[float]:
    """For each token how likely it and all before it are right."""
    out: list[float] = []
    for i, chance in enumerate(chances):
        parent = draft.parent(i)
        out.append(chance if parent < 0 else chance * out[parent])
    return out


def join(drafts: Sequence[Draft], judge: Judge, most: int) -> Draft:
    """One tree of the likeliest `most` tokens of several drafts; what they agree on stands in it once."""
    tokens: list[int] = []
    parents: list[int] = []
    own: list[tuple[float, float, str]] = []  # the judge's chance, the drafter's confidence, who says so
    known: dict[tuple[int, int], int] = {}
    for draft in drafts:
        chances = judge(draft)
        place: list[int] = []  # of each of the draft's nodes in the tree
        for i, token in enumerate(draft.tokens):
            parent = draft.parent(i)
            key = (place[parent] if parent >= 0 else -1, token)
            says = (chances[i], draft.confidence[i], draft.source_of(i))
            if key not in known:
                known[key] = len(tokens)
                tokens.append(token)
                parents.append(key[0])
                own.append(says)
            elif says[0] > own[known[key]][0]:
                own[known[key]] = says
            place.append(known[key])
    whole = Draft(tuple(tokens), tuple(parents), tuple(c for _, c, _ in own), "best", tuple(s for _, _, s in own))
    return _likeliest(whole, [chance for chance, _, _ in own], most)


def _likeliest(draft: Draft, chances: Sequence[float], most: int) -> Draft:
    likely = paths(draft, chances)
    kept = heapq.nsmallest(most, range(len(likely)), key=lambda i: (-likely[i], i))
    return draft.only(kept)

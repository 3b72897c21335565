"""What one sequence gets of one step, and what that means in rows. Decides nothing and computes nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence as List
from dataclasses import dataclass

from .batch import Rows
from .draft import NOTHING, Draft
from .sample import Law
from .sequence import Reading, Sequence
from .verify import paths


@dataclass(slots=True)
class Turn:
    """`count` of the sequence's own tokens are computed, and a draft behind the last one.

    `row` is the first of its `wanted` rows of logits, which are those of its last tokens.
    """

    sequence: Sequence
    count: int
    draft: Draft = NOTHING
    row: int = 0
    wanted: int = 0

    @property
    def whole(self) -> bool:
        """Whether the next token is known after it."""
        return self.count == self.sequence.pending

    @property
    def rows(self) -> int:
        return self.count + len(self.draft.tokens)

    @property
    def ends(self) -> int:
        """How many of its rows may be followed by a new token: the last ones."""
        return 1 + len(self.draft.tokens)

    @property
    def first_end(self) -> int:
        """The first of them, among the step's rows of logits."""
        return self.row + self.wanted - self.ends

    def wants(self) -> range:
        """Which of its rows need logits."""
        s = self.sequence
        if isinstance(s.task, Reading):
            return range(max(0, len(s.tokens) - len(s.task.following) - s.computed), self.count)
        if s.scored and s.computed < s.prompt:
            return range(self.count)
        return range(self.count - 1 if self.whole else self.count, self.rows)

    def to_compute(self, marks: frozenset[int]) -> Rows:
        """Its tokens, for the forward pass; `marks` are the tokens that all see."""
        s, draft = self.sequence, self.draft
        tokens = s.tokens[s.computed : s.computed + self.count]
        tree = [] if draft.chain else paths(draft)
        return Rows([*tokens, *draft.tokens], s.computed, s.pages, self.wants(), tree, s.marked(marks), s.prompt)

    def path(self, row: int) -> List[int]:
        """The draft's rows up to `row` that are behind one another; row 0 is the answer itself."""
        return range(1, row + 1) if self.draft.chain else paths(self.draft)[row][1:]

    def law(self, row: int) -> Law:
        """How the draft's row is drawn: what was said before it are the answer's tokens and the draft's up to there."""
        s, path, said = self.sequence, self.path(row), self.sequence.said
        if path and (s.sampling.frequency_penalty or s.sampling.presence_penalty):
            said = said + Counter(self.draft.tokens[i - 1] for i in path)
        return Law(s.sampling, s.answered + len(path), said)

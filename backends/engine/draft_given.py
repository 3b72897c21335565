"""Guesses from a text that came with the request: the client's `prediction`, or an answer to a question much like it.

The text is walked beside the answer. Where the two part, the walk looks for the last few tokens of the answer in the
text, near where it stood, and goes on from there; while it is lost it says nothing much, and another drafter speaks.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...protocol.errors import InvalidRequest
from ...protocol.messages import Request
from .draft import NOTHING, Draft
from .draft_best import join, trusting
from .draft_ngrams import Ngrams, confidence

_MOST = 32_768  # tokens of the text; what is longer is no answer to be
_OTHERS = 3  # further places that a tree goes on from
_DOUBT = 0.6  # how sure those are, beside a match as long anywhere
_NEAR = 24  # tokens around the walk within which a single token in common is enough to go on from


class GivenDrafter:
    """A Drafter of one answer beside `given`, tokens of the text; `prompt` is the number of the prompt's tokens.

    With `tree` it also goes on from other places in the text that the last tokens stand before.
    """

    name = "given"

    def __init__(self, given: Sequence[int], prompt: int, *, tree: bool = False) -> None:
        self._given = list(given[:_MOST])
        self._index = Ngrams()
        self._index.grow(self._given, _MOST)
        self._prompt, self._seen, self._tree = prompt, prompt, tree
        self._at = 0  # what comes next, if the walk is right
        self._run = 1  # tokens in common up to here, the beginning as one; below zero: how many have differed
        self._right, self._tried = 1.0, 2.0  # of the guesses while walking, the recent ones counted most
        self._said: Sequence[int] = ()

    def propose(self, tokens: Sequence[int], most: int) -> Draft:
        for i in range(self._seen, len(tokens)):
            self._step(tokens, i)
        self._seen = max(self._seen, len(tokens))
        drafts = [draft for draft in (self._onward(most), *self._elsewhere(tokens, most)) if draft.tokens]
        return drafts[0] if len(drafts) == 1 else join(drafts, trusting, most) if drafts else NOTHING

    def _onward(self, most: int) -> Draft:
        self._said = said = self._given[self._at : self._at + max(0, most)]
        return Draft(tuple(said), (), tuple(self._sure(i) for i in range(len(said))), self.name)

    def _elsewhere(self, tokens: Sequence[int], most: int) -> list[Draft]:
        answer = tokens[max(self._prompt, len(tokens) - 64) :] if self._tree and most > 0 else []
        match = self._index.find(self._given, answer) if answer else None
        if match is None:
            return []
        nearest = sorted((p for p in match.places if p != self._at), key=lambda p: (abs(p - self._at), p))
        sure = tuple(_DOUBT * confidence(match.length + i) for i in range(most))
        texts = [self._given[place : place + most] for place in nearest[:_OTHERS]]
        return [Draft(tuple(said), (), sure[: len(said)], self.name) for said in texts]

    def agrees(self, draft: Draft) -> int:
        """How many of a chain's tokens, whoever guessed them, the text had there as well."""
        both = zip(draft.tokens, self._said, strict=False)
        return next((i for i, (a, b) in enumerate(both) if a != b), min(len(draft.tokens), len(self._said)))

    def close(self, tokens: Sequence[int], whole: bool) -> None:
        """Nothing is kept."""

    def _sure(self, i: int) -> float:
        share = self._right / self._tried
        known = confidence(max(self._run, 0) + i)
        # A text that was followed so far is followed on; one that was not is worth what any match is.
        return max(0.02, 0.5 * (known + share)) if self._run + i > 0 else 0.5 * share

    def _step(self, tokens: Sequence[int], i: int) -> None:
        right = self._at < len(self._given) and self._given[self._at] == tokens[i]
        self._right, self._tried = 0.9 * self._right + right, 0.9 * self._tried + 1
        self._at += 1  # a word in another's place: the rest may go on behind it
        if right:
            self._run = self._run + 1 if self._run > 0 else 1
            return
        self._run = min(self._run, 0) - 1
        self._find(tokens[max(0, i - 7) : i + 1])

    def _find(self, context: Sequence[int]) -> None:
        match = self._index.find(self._given, context)
        if match is None:
            return
        place = min(match.places, key=lambda place: (abs(place - self._at), place))
        if match.length > 1 or abs(place - self._at) <= _NEAR:
            self._at, self._run = place, match.length


def read_prediction(request: Request) -> str | None:
    """The text of OpenAI's `prediction` field. Raises InvalidRequest when it is none."""
    if "prediction" not in request.fields:
        return None
    prediction = request.get("prediction")
    if prediction is None:
        return None
    if not isinstance(prediction, dict) or prediction.get("type", "content") != "content":
        raise InvalidRequest("'prediction' must be an object of type 'content'", param="prediction")
    content = prediction.get("content")
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(isinstance(p, dict) and isinstance(p.get("text"), str) for p in content):
        return "".join(part["text"] for part in content)
    raise InvalidRequest("'prediction.content' must be a text or a list of text parts", param="prediction.content")

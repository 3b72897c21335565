"""Whole demonstrations left out of few-shot and chain-of-thought prompts, never a token inside one.

Which ones stay is decided by the question that follows them: those most like it, and unlike each other (DYNAICL, arXiv
2305.11170, and CoT-Influx, arXiv 2312.08901, show that fewer, well chosen ones do as well; both train a chooser, this
one needs none). The choice is a function of the demonstrations and the first question after them, so it is the same on
every later turn. A note says how many were left out; what carries the note is not cut again.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ..protocol.exchange import Part
from ..protocol.tokens import estimate
from .abstain import everything
from .bm25 import terms
from .deadline import Deadline
from .example_blocks import Blocks, blocks
from .example_pairs import Pairs, pairs
from .policy import DemonstrationPolicy
from .proposal import Proposal
from .question import follows_up
from .spans import Conversation, Span

Floats = NDArray[np.float64]
Vectors = Mapping[str, Sequence[float] | NDArray[np.float32]]

_LEAST_KEPT = 2
_WIDTH = 1024  # words are hashed into so many columns: memory that no text can drive up
_REDUNDANT = 0.3  # what likeness to one already kept costs, against likeness to the question
_SHORT_ANSWER = 40  # characters; answers this short that recur are classes, and each class stays shown
# A question with one of these is about the examples: they were no examples, or all of them count.
_ABOUT_EXAMPLES = re.compile(
    r"(?<!\w)(?:examples?|above|so far|previous(?:ly)?|earlier|beispiele?|oben|bisher\w*|vorher\w*|exemples?|ejemplos?)"
    r"(?!\w)|示例|例子|以上|上面|之前",
    re.IGNORECASE,
)
_ABOUT_ONE = re.compile(
    r"\b(?:first|second|third|fourth|fifth|last|which|all|each|every|both|list|again|erste[nrs]?|zweite[nrs]?|dritte[nrs]?"
    r"|letzte[nrs]?|welche[nrs]?|alle|jede[nrs]?)\b|第[一二三四五六七八九十\d]|哪|所有|全部",
    re.IGNORECASE,
)
_NUMBERED = re.compile(r"\A\W{0,6}example ?#?\d{0,4}\W{1,6}", re.IGNORECASE)  # what begins the unanswered one
_NOTED = re.compile(r"\[\d{1,4} examples? left out\]\n")


def demonstrations(
    conversation: Conversation, policy: DemonstrationPolicy, deadline: Deadline, vectors: Vectors | None = None
) -> Proposal:
    """Leave out the demonstrations that help the question least, down to `keep` of their tokens. Raises OutOfTime.

    `vectors` has unit vectors of the texts that `wanted` names, by text; without them, words alone decide.
    """
    made = Proposal(lossy=True)
    _in_messages(conversation, policy, deadline, vectors, made)
    for span in conversation.spans:
        if span.kind == "text" and span.protected is None and span.message not in made.dropped:
            deadline.check()
            _in_text(span, policy, deadline, vectors, made)
    return made


def wanted(conversation: Conversation, deadline: Deadline) -> list[str]:
    """The texts whose vectors would help to choose: each demonstration, and the question."""
    found = _free_pairs(conversation)
    texts = [] if found is None else [*_pair_texts(found), found.question.text]
    for span in conversation.spans:
        inside = blocks(span.text, deadline) if span.kind == "text" and span.protected is None else None
        if inside is not None:
            texts += [*_block_texts(span.text, inside), span.text[inside.question :]]
    return texts


def _in_messages(
    conversation: Conversation,
    policy: DemonstrationPolicy,
    deadline: Deadline,
    vectors: Vectors | None,
    made: Proposal,
) -> None:
    found = _free_pairs(conversation)
    if found is None:
        return
    if _about_examples(found.question.text, found.alike):
        where = f"messages[{found.demonstrations[0].asked.message}]"
        made.parts.append(Part("demonstrations", where, count=0, why="the question is about them"))
        return
    texts, answers = _pair_texts(found), [pair.answered.text.strip() for pair in found.demonstrations]
    kept = chosen(texts, answers, found.question.text, policy.keep, deadline, vectors)
    gone = [i for i in range(len(texts)) if i not in kept]
    if gone:
        for i in gone:
            made.dropped |= {found.demonstrations[i].asked.message, found.demonstrations[i].answered.message}
        first = found.demonstrations[min(kept)].asked
        made.texts[first] = _note(len(gone)) + first.text
        made.parts.append(_part(f"messages[{found.demonstrations[0].asked.message}]", texts, gone))


def _free_pairs(conversation: Conversation) -> Pairs | None:
    found = pairs(conversation)
    if found is None or any(pair.asked.protected for pair in found.demonstrations):
        return None
    return None if any(_NOTED.match(pair.asked.text) for pair in found.demonstrations) else found


def _in_text(
    span: Span, policy: DemonstrationPolicy, deadline: Deadline, vectors: Vectors | None, made: Proposal
) -> None:
    found = blocks(span.text, deadline)
    if found is None or _NOTED.search(span.text):
        return
    texts = _block_texts(span.text, found)
    question = span.text[found.question :]
    if _about_examples(_NUMBERED.sub("", question), alike=True):
        made.parts.append(
            Part("demonstrations", f"messages[{span.message}]", count=0, why="the question is about them")
        )
        return
    # The last one stays: what leads over to the question may stand at its end.
    kept = chosen(texts, found.answers, question, policy.keep, deadline, vectors, always=len(texts) - 1)
    gone = [i for i in range(len(texts)) if i not in kept]
    if gone:
        before = span.text[: found.demonstrations[0][0]]
        stay = [span.text[a:b] for i, (a, b) in enumerate(found.demonstrations) if i in kept]
        made.texts[span] = "".join([before, _note(len(gone)), *stay, question])
        made.parts.append(_part(f"messages[{span.message}]", texts, gone))


def _about_examples(question: str, alike: bool) -> bool:
    """Whether a question needs the examples themselves; one of their own template only does where it says so."""
    if _ABOUT_EXAMPLES.search(question):
        return True
    return not alike and (
        _ABOUT_ONE.search(question) is not None or follows_up(question) or everything(question) is not None
    )


def chosen(
    texts: Sequence[str],
    answers: Sequence[str],
    question: str,
    keep: float,
    deadline: Deadline,
    vectors: Vectors | None = None,
    always: int | None = None,
) -> set[int]:
    """Which demonstrations stay: at least two, and at least `keep` of their tokens. Greedy: each time the one most
    like the question, less its likeness to those that stay already (maximal marginal relevance)."""
    sizes = np.array([estimate(text) for text in texts], dtype=np.float64)
    alike = _Likeness([*texts, question], vectors)
    relevant = alike.to(len(texts))[:-1]
    goal = keep * sizes.sum()
    kept = set(_one_of_each_class(answers, relevant)) | (set() if always is None else {always})
    penalty = np.zeros(len(texts))
    for already in kept:
        penalty = np.maximum(penalty, alike.to(already)[:-1])
    while len(kept) < min(_LEAST_KEPT, len(texts)) or sizes[list(kept)].sum() < goal:
        deadline.check()
        gain = relevant - _REDUNDANT * penalty
        gain[list(kept)] = -np.inf
        pick = int(gain.argmax())
        kept.add(pick)
        penalty = np.maximum(penalty, alike.to(pick)[:-1])
    return kept


def _one_of_each_class(answers: Sequence[str], relevant: Floats) -> list[int]:
    """The most relevant demonstration of each class, where the answers are classes."""
    if any(len(answer) > _SHORT_ANSWER for answer in answers) or 2 * len(set(answers)) > len(answers):
        return []
    best: dict[str, int] = {}
    for i in np.argsort(-relevant, kind="stable"):
        best.setdefault(answers[int(i)], int(i))
    return list(best.values())


class _Likeness:
    """How alike texts are: cosines of rarity-weighed words, averaged with those of their vectors where all have one."""

    def __init__(self, texts: Sequence[str], vectors: Vectors | None) -> None:
        rows = np.zeros((len(texts), _WIDTH))
        for row, text in zip(rows, texts, strict=True):
            np.add.at(row, [zlib.crc32(term.encode("utf-8", "replace")) % _WIDTH for term in terms(text)], 1.0)
        having = (rows > 0).sum(axis=0)
        rows = np.log1p(rows) * np.log1p((len(texts) - having + 0.5) / (having + 0.5))
        self._rows = rows / np.maximum(np.sqrt((rows * rows).sum(axis=1, keepdims=True)), 1e-12)
        self._vectors: Floats | None = None
        if vectors is not None and all(text in vectors for text in texts):
            self._vectors = np.array([vectors[text] for text in texts], dtype=np.float64)

    def to(self, one: int) -> Floats:
        """The likeness of every text to one of them: shape (texts,)."""
        # einsum, not a product of matrices: so little work must not wake a library's threads.
        alike = np.einsum("ij,j->i", self._rows, self._rows[one])
        if self._vectors is not None:
            alike = (alike + np.einsum("ij,j->i", self._vectors, self._vectors[one])) / 2
        return np.asarray(alike)


def _pair_texts(found: Pairs) -> list[str]:
    return [f"{pair.asked.text}\n{pair.answered.text}" for pair in found.demonstrations]


def _block_texts(text: str, found: Blocks) -> list[str]:
    return [text[start:end] for start, end in found.demonstrations]


def _note(count: int) -> str:
    return f"[{count} example{'' if count == 1 else 's'} left out]\n\n"


def _part(where: str, texts: Sequence[str], gone: Sequence[int]) -> Part:
    return Part("demonstrations", where, tokens=sum(estimate(texts[i]) for i in gone), count=len(gone))

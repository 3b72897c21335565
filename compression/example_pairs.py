"""Few-shot prompts as messages: pairs of user and assistant at a conversation's beginning that follow one template.

Memory would tell an example from a real turn; a request alone does not. So the template is read from the first four
pairs, and the pairs that are examples end where a user's message breaks it. Where none does, they end at the largest
power of two that there are: a conversation that grows then keeps its choice until the pairs have doubled.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from .spans import Conversation, Message, Span

_LEAST = 4  # pairs; fewer show no template
_MOST = 512
_LABEL = re.compile(r"\W{0,6}([A-Za-z][A-Za-z' /-]{0,30}?) {0,2}#?\d{0,4}\*{0,2}[:：]")
_FRAME = 8  # characters that texts must begin or end with alike to have been made from one template
_FEW_WORDS = 5


@dataclass(frozen=True, slots=True)
class Pair:
    """An example: the user's span and the assistant's."""

    asked: Span
    answered: Span


@dataclass(frozen=True, slots=True)
class Pairs:
    """The examples at a conversation's beginning, and the first question after them; whether that is one more of their
    template."""

    demonstrations: tuple[Pair, ...]
    question: Span
    alike: bool


@dataclass(frozen=True, slots=True)
class _Template:
    """What texts of one kind share: a first label, a beginning or an ending. All empty: nothing."""

    label: str
    head: str
    tail: str

    @classmethod
    def of(cls, texts: Sequence[str]) -> _Template:
        labels = {_label(text) for text in texts}
        head, tail = _beginning(texts), _beginning([text[::-1] for text in texts])[::-1]
        return cls(labels.pop() if len(labels) == 1 else "", _long(head), _long(tail))

    def __bool__(self) -> bool:
        return bool(self.label or self.head or self.tail)

    def fits(self, text: str) -> bool:
        return _label(text) == self.label if self.label else text.startswith(self.head) and text.endswith(self.tail)


def pairs(conversation: Conversation) -> Pairs | None:
    """The examples that a conversation begins with; None where it does not."""
    run = _run(conversation)
    if len(run) < _LEAST:
        return None
    asked = _Template.of([pair.asked.text for pair in run[:_LEAST]])
    answers = [pair.answered.text for pair in run[:_LEAST]]
    answered = _Template.of(answers)
    if not asked or not (answered or _few(answers)):
        return None
    count = 0
    while count < len(run) and asked.fits(run[count].asked.text) and _answer_fits(answered, run[count].answered.text):
        count += 1
    return _ended(conversation, run, count, asked)


def _ended(conversation: Conversation, run: Sequence[Pair], count: int, asked: _Template) -> Pairs | None:
    question = _question_after(conversation, run[count - 1]) if count else None
    if question is None or asked.fits(question.text):
        count = 1 << (count.bit_length() - 1) if count else 0
        question = _question_after(conversation, run[count - 1]) if count else None
    if count < _LEAST or question is None:
        return None
    return Pairs(tuple(run[:count]), question, asked.fits(question.text))


def _run(conversation: Conversation) -> list[Pair]:
    """The alternating pairs from the first message on that is not a system's: plain texts, free to go."""
    messages = list(conversation.messages[: 2 * _MOST + 8])
    while messages and messages[0].role in ("system", "developer"):
        messages.pop(0)
    found: list[Pair] = []
    for user, assistant in zip(messages[::2], messages[1::2], strict=False):
        asked, answered = _only_text(user, "user"), _only_text(assistant, "assistant")
        if asked is None or answered is None or user.frozen or assistant.frozen or len(found) == _MOST:
            break
        found.append(Pair(asked, answered))
    return found


def _only_text(message: Message, role: str) -> Span | None:
    alone = message.role == role and len(message.spans) == 1 and message.spans[0].kind == "text"
    return message.spans[0] if alone else None


def _question_after(conversation: Conversation, pair: Pair) -> Span | None:
    at = pair.answered.message + 1
    return _only_text(conversation.messages[at], "user") if at < len(conversation.messages) else None


def _label(text: str) -> str:
    match = _LABEL.match(text)
    return match[1].lower() if match is not None else ""


def _beginning(texts: Sequence[str]) -> str:
    """What all texts begin with: what the first and the last of them in sorted order do."""
    low, high = min(texts), max(texts)
    return low[: next((i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), min(len(low), len(high)))]


def _long(text: str) -> str:
    return text if len(text) >= _FRAME else ""


def _few(answers: Sequence[str]) -> bool:
    """Whether the answers are a few words each, and some of them the same: classes."""
    return len(set(answers)) <= len(answers) // 2 and all(len(answer.split()) <= _FEW_WORDS for answer in answers)


def _answer_fits(template: _Template, text: str) -> bool:
    return template.fits(text) if template else len(text.split()) <= _FEW_WORDS

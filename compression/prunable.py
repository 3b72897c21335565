"""What of a conversation could be pruned, and the question that each message's documents came with.

Causal: what is said of a message depends on it and on those before it, so a conversation that grows keeps its pruned
beginning. Only a question that the caller names outweighs this, and only for what is new since the last answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from .abstain import everything, wants_all, words
from .deadline import Deadline
from .documents import blocks
from .lossless import refers
from .material import Material, beside, pruned_before, read, size
from .prefix import extend
from .question import follows_up, question, shortened
from .spans import Conversation, Message, Span
from .unit import Unit

SMALL = 2000  # bytes: a conversation's first so many stay as they are, so that it begins the same once it is longer
LEAST_RESULT = 400  # tokens of a tool's result below which it is left alone
LEAST_DOCUMENTS = 150  # tokens of a user message's documents, likewise
MOST_TEXT = 600_000  # characters of a message: a longer one cannot be scored in any time that a request has
MOST_UNITS = 5000  # in one message: likewise
_LONGEST_ARGUMENTS = 500  # characters
_PUNCTUATION = re.compile(r'[{}\[\]":,\\]+')


@dataclass(frozen=True, slots=True)
class Prunable:
    """One message that has documents or a long result. `why` says why nothing may be left out of it; None: it may.

    `material` is None where `why` was clear without it. Its texts are what the `spans` say as they were read.
    """

    message: int
    query: str
    spans: tuple[Span, ...] = ()
    material: Material | None = None
    why: str | None = None

    @property
    def units(self) -> tuple[Unit, ...]:
        return self.material.units if self.material is not None else ()


@dataclass(frozen=True, slots=True)
class Key:
    """Two fingerprints for a message: of all up to it, and of this with the question that the caller named.

    `new`: it came after the last answer, so a named question counts for it, whatever was decided before.
    """

    history: bytes
    asked: bytes
    new: bool


# How a span is read. Where a later stage rewrites it, it is read as it will be then: what is decided must be the same
# when the request comes a second time, rewritten.
Says = Callable[[Span], str]


def _as_it_is(span: Span) -> str:
    return span.text


def keys(conversation: Conversation, seed: bytes, named: str | None) -> list[Key]:
    """One key a message. `seed` holds whatever else decides: tenant, policy."""
    last_answer = max((m.index for m in conversation.messages if m.role == "assistant"), default=-1)
    made: list[Key] = []
    digest = seed
    for message in conversation.messages:
        digest = extend(digest, conversation.raw[message.start : message.end])
        new = message.index > last_answer
        said = (named or "").encode("utf-8", "surrogatepass")
        made.append(Key(digest, extend(digest, said) if new and named else digest, new))
    return made


def candidates(conversation: Conversation) -> list[int]:
    """The messages that are worth a closer look, by their size: cheap."""
    later = (message for message in conversation.messages if message.end > SMALL)
    return [message.index for message in later if any(_large(span) for span in message.spans)]


def prunable(
    conversation: Conversation, wanted: Sequence[int], named: str | None, deadline: Deadline, says: Says = _as_it_is
) -> Iterator[Prunable]:
    """A closer look at some messages; those without documents are left out. Raises OutOfTime."""
    asked = _questions(conversation, says, deadline)
    last_user = max((m.index for m in conversation.messages if m.role == "user"), default=0)
    for index in wanted:
        deadline.check()
        message = conversation.messages[index]
        by_name = named is not None and index >= last_user
        query = shortened(named) if named is not None and by_name else asked(index)
        found = _look(message, query, by_name, deadline, says)
        if found is not None:
            yield found


def _large(span: Span) -> bool:
    least = {"text": LEAST_DOCUMENTS, "result": LEAST_RESULT}.get(span.kind)
    return span.protected is None and least is not None and size(span.text) >= least


def _look(message: Message, query: str, named: bool, deadline: Deadline, says: Says) -> Prunable | None:
    spans = tuple(span for span in message.spans if span.protected is None and span.kind in ("text", "result"))
    if any(pruned_before(span.text) for span in spans):
        return Prunable(message.index, query, why="it was pruned before")
    if any(refers(span.text) for span in spans):
        return Prunable(message.index, query, why="it refers to what was said before it")
    texts = [says(span) for span in spans]
    if sum(map(len, texts)) > MOST_TEXT:
        return Prunable(message.index, query, why="it is too long to be scored in time")
    results = message.role != "user"
    # A question that wants everything wants it of all kinds of material, and is asked before anything is cut.
    why = everything(query)
    if why is not None and (results or any(blocks(text, deadline) for text in texts)):
        return Prunable(message.index, query, why=why)
    material = read(texts, results=results, deadline=deadline)
    covered = sum(size(unit.text) for unit in material.units)
    if not material.units or covered < (LEAST_RESULT if results else LEAST_DOCUMENTS):
        return None
    why = everything(query, material.kind)
    if why is None and not results and not named:
        # "Summarise each of them first" may stand beside a question with a label of its own.
        why = wants_all("\n".join(beside(passage.text, passage.blocks) for passage in material.passages))
    if why is None and len(material.units) > MOST_UNITS:
        why = "it has more pieces than can be scored in time"
    return Prunable(message.index, query, spans, material, why)


def _questions(conversation: Conversation, says: Says, deadline: Deadline) -> Callable[[int], str]:
    """The question that was being asked when a message came, by its index."""
    messages = conversation.messages

    @cache
    def own(index: int) -> str:
        """What a user's message asks, without its documents."""
        texts = [says(span) for span in messages[index].spans if span.kind == "text"]
        long = sum(map(len, texts)) > MOST_TEXT
        return question("\n".join(text if long else beside(text, blocks(text, deadline)) for text in texts))

    def before(index: int) -> str:
        """The last question that says something, before a message."""
        for earlier in range(index - 1, -1, -1):
            if messages[earlier].role == "user" and words(own(earlier)):
                return own(earlier)
        return ""

    def asked(index: int) -> str:
        if messages[index].role != "user":
            return f"{before(index)}\n{_arguments(messages, index)}".strip()
        said = own(index)
        if not said.strip():
            return before(index)
        return f"{before(index)}\n{said}".strip() if follows_up(said) else said

    return asked


def _arguments(messages: Sequence[Message], index: int) -> str:
    """The arguments of the call that a result answers: results stand in the order of their calls."""
    first = index
    while first > 0 and messages[first - 1].role == messages[index].role:
        first -= 1
    calls = [s.text for s in messages[first - 1].spans if s.kind == "arguments"] if first > 0 else []
    said = calls[index - first] if index - first < len(calls) else ""
    return _PUNCTUATION.sub(" ", said[:_LONGEST_ARGUMENTS]).strip()

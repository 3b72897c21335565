"""Leaving out tools that do not bear on the question: whole tool objects, the others byte for byte.

The margin is what makes it safe. A tool goes only where the best one leads it by more than any right tool was ever led
on the calibration half of BFCL's live_multiple, and a quarter more; and only for a plain question: one that asks for
several things, is written in a script whose joining words are not known here, or resembles no tool, keeps them all.

Tools stand before everything else in a provider's cache, so the choice is made for the first question and never
narrowed: when a later turn names a tool that was left out, or would have kept it, all of them are back from then on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..protocol.exchange import Part
from .bm25 import bags, counts, rarity, terms, weigh
from .deadline import Deadline
from .policy import ToolsPolicy
from .spans import Conversation, Message
from .tool_list import Tool, apart, read, spliced

Floats = NDArray[np.float64]
Vectors = Mapping[str, Sequence[float] | NDArray[np.float32]]

_FEWEST = 4  # tools; of fewer, none is left out
_LEAST_KEPT = 2
_MOST = 1_000
RESEMBLES = 0.4  # cosine of the question and the nearest tool, below which nothing is left out
_NAME, _PARAMETERS = 2.0, 0.5  # what a word in a name, or in the parameters, counts against one in the description

# Fitted by benchmarks/tool_choice.py (conditional logit over the tools of a row), with vectors and without; then the
# margin for each target of recall. What asks for more recall than the rows can show leaves nothing out.
_WEIGHTS = np.array([0.727, 1.316, 0.562, 1.170, 2.297])
_WEIGHTS_OF_WORDS = np.array([0.805, 2.441, 0.490])
_MARGINS = ((0.95, 0.02), (0.98, 0.98), (0.99, 1.13), (0.995, 2.57))
# None for 0.995: by words alone the right tool of an agent's turn was missed in one of a hundred.
_MARGINS_OF_WORDS = ((0.95, 1.25), (0.98, 2.23), (0.99, 3.98))

_SEVERAL = re.compile(
    r"\b(?:and|also|then|plus|as well|after|next|finally|both|each|und|y|et|e|dan|og)\b"
    r"|[;&\n]|和|并|以及|还|，|[.?!。？！]\s+\S",
    re.IGNORECASE,
)
_UNKNOWN_SCRIPT = re.compile(r"[^\W\d_\u0000-\u024f\u4e00-\u9fff]")
_NAMES = re.compile(r"[\w.-]+")


@dataclass(slots=True)
class ToolsProposal:
    """`raw` is the field's new bytes, None where all tools stay; `parts` says what was done, or why not."""

    raw: bytes | None = None
    parts: list[Part] = field(default_factory=list)


def tools(
    conversation: Conversation,
    raw: bytes,
    policy: ToolsPolicy,
    deadline: Deadline,
    vectors: Vectors | None = None,
    tool_choice: bytes = b"",
) -> ToolsProposal:
    """Leave out what the first question has no use for. `raw` is the `tools` (or `functions`) field, `tool_choice`
    that field's bytes; `vectors` has unit vectors of all texts that `wanted` names. Raises OutOfTime."""
    found = read(raw)
    margin = _margin(policy.recall, vectors is not None)
    why = _reason_to_keep(conversation, raw, found, margin)
    if why is not None:
        return _all(why)
    assert margin is not None
    turns = _questions(conversation)
    if vectors is not None and not all(text in vectors for text in _texts(turns, found)):
        return _all("a vector is missing")
    named = _named(conversation.messages[: turns[0].index + 1], conversation.raw)
    named |= set(_NAMES.findall(tool_choice.decode("utf-8", "replace")))
    kept = [tool.name in named or not tool.name for tool in found]
    stays = _stays(turns[0], found, margin, vectors) | np.array(kept)
    if stays.all():
        return _all("no tool is clearly out of question")
    deadline.check()
    later = _named(conversation.messages[turns[0].index + 1 :], conversation.raw)
    if any(not stay and tool.name in later for stay, tool in zip(stays, found, strict=True)):
        return _all("a later turn names one that was left out")
    for turn in turns[1:]:
        deadline.check()
        if (_stays(turn, found, margin, vectors) & ~stays).any():
            return _all("a later question may need one that was left out")
    gone = [tool for stay, tool in zip(stays, found, strict=True) if not stay]
    tokens = sum(tool.place[1] - tool.place[0] for tool in gone) // 4
    part = Part("tools that do not bear on the question", "tools", tokens=tokens, count=len(gone))
    return ToolsProposal(spliced(raw, [tool.place for tool in found], stays.tolist()), [part])


def wanted(conversation: Conversation, raw: bytes) -> list[str]:
    """The texts whose vectors `tools` reads: each question and each tool; none where nothing would be left out."""
    found = read(raw)
    if _reason_to_keep(conversation, raw, found, 0.0) is not None:
        return []
    return _texts(_questions(conversation), found)


def _texts(turns: Sequence[Message], found: Sequence[Tool]) -> list[str]:
    """Each question that is plain, and each tool."""
    questions = [text for text in map(_text, turns) if not several(text)]
    return [*questions, *(_said(tool) for tool in found)]


def _reason_to_keep(conversation: Conversation, raw: bytes, found: Sequence[Tool], margin: float | None) -> str | None:
    if not _FEWEST <= len(found) <= _MOST:
        return "too few tools" if len(found) < _FEWEST else "too many tools"
    if b"cache_control" in raw or any(message.frozen for message in conversation.messages):
        return "cached prefix"
    turns = _questions(conversation)
    if not turns:
        return "no question"
    if several(_text(turns[0])):
        return "the question may ask for several things"
    return "no margin is known for so high a recall, without an embedder" if margin is None else None


def _questions(conversation: Conversation) -> list[Message]:
    return [message for message in conversation.messages if message.role == "user"]


def _text(message: Message) -> str:
    return "\n".join(span.text for span in message.spans)


def several(question: str) -> bool:
    """Whether it may ask for more than one thing. An empty one may ask for anything."""
    plain = question.strip()
    return not plain or _SEVERAL.search(plain) is not None or _UNKNOWN_SCRIPT.search(plain) is not None


def _stays(turn: Message, found: Sequence[Tool], margin: float, vectors: Vectors | None) -> NDArray[np.bool_]:
    """Which tools one question keeps."""
    question = _text(turn)
    everything = np.ones(len(found), dtype=np.bool_)
    if several(question):
        return everything
    of_words = words_score(question, [(tool.name, tool.description, tool.parameters) for tool in found])
    if vectors is None:
        scores = features(of_words) @ _WEIGHTS_OF_WORDS
    else:
        said = np.array([vectors[_said(tool)] for tool in found], dtype=np.float64)
        # einsum: so little work must not wake a library's threads.
        cosines = np.einsum("ij,j->i", said, np.asarray(vectors[question], dtype=np.float64))
        if cosines.max() < RESEMBLES:
            return everything
        scores = features(of_words, cosines) @ _WEIGHTS
    least = min(scores.max() - margin, np.sort(scores)[-min(_LEAST_KEPT, len(scores))])
    return np.asarray(scores >= least)


def words_score(question: str, texts: Sequence[tuple[str, str, str]]) -> Floats:
    """BM25 of each tool, given as name, description and words of its parameters: shape (tools,)."""
    query = list(dict.fromkeys(terms(question)))
    weights = (_NAME, 1.0, _PARAMETERS)
    columns = [[apart(text[0]) for text in texts], [text[1] for text in texts], [text[2] for text in texts]]
    found = sum(w * counts(query, bags(column)) for w, column in zip(weights, columns, strict=True))
    lengths = sum(
        w * np.array([len(terms(text)) for text in column], dtype=np.float64)
        for w, column in zip(weights, columns, strict=True)
    )
    matrix, sizes = np.asarray(found, dtype=np.float64), np.asarray(lengths, dtype=np.float64)
    return weigh(matrix, sizes, rarity(matrix))


def features(of_words: Floats, cosines: Floats | None = None) -> Floats:
    """What the weights are for: shape (tools, 3), or (tools, 5) with cosines."""
    columns = [of_words / max(float(of_words.max()), 1e-9), np.log1p(of_words), of_words / (of_words.sum() + 1e-9)]
    if cosines is not None:
        columns += [cosines, cosines / max(float(cosines.max()), 1e-6)]
    return np.stack(columns, axis=1)


def _margin(recall: float, with_vectors: bool) -> float | None:
    margins = _MARGINS if with_vectors else _MARGINS_OF_WORDS
    return next((margin for level, margin in margins if level >= recall), None)


def _named(messages: Sequence[Message], raw: bytes) -> set[str]:
    """Every word of the messages that could be a tool's name, also those of tool calls."""
    found: set[str] = set()
    for message in messages:
        texts = [raw[message.start : message.end].decode("utf-8", "replace"), *(span.text for span in message.spans)]
        for text in texts:
            words = set(_NAMES.findall(text))
            found |= words | {word.strip(".-") for word in words}
    return found


def _said(tool: Tool) -> str:
    return f"{tool.name}: {tool.description}"


def _all(why: str) -> ToolsProposal:
    return ToolsProposal(None, [Part("tools that do not bear on the question", "tools", count=0, why=why)])

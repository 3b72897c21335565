"""Prose without the words that a small model finds least surprising (Selective Context, arXiv 2310.06201; LLMLingua,
arXiv 2310.05736).

Only documents and tool results, only their prose, only whole words; code, JSON, tables, headings, lists, instructions
and system text stay, and so do numbers, names, negations and questions. A text that was condensed says so at its
beginning, and one that says so is left alone. What became of a text is remembered, also that it was left because time
ran out: the next request of a conversation sees the same beginning.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np

from ..protocol.errors import TrimtabError
from ..protocol.exchange import Part
from .deadline import Deadline, OutOfTime
from .documents import blocks, data_ranges
from .literals import literals
from .material import beside
from .policy import ProsePolicy
from .proposal import Proposal
from .prose_words import Scored, Words, by_word, going, without, words
from .question import question
from .segments import segments
from .spans import Conversation, Span

MARK = "[condensed]"
_LEAST = 400  # characters of prose; less is not worth a model's time
_MOST_KEPT = 4_000  # texts in memory
_WINDOW = 800  # characters: about the 200 tokens of LLMLingua's windows
_BEFORE = 2_400  # characters of what was kept that condition the next window


class Scorer(Protocol):
    """A model that says how probable a text is, token by token, given another one before it."""

    async def logprobs(self, text: str, given: str = "") -> Scored: ...


@dataclass(frozen=True, slots=True)
class Area:
    """A piece of a span from its first prose to its last, `text[start:end]`, with its words and what it is read for."""

    span: Span
    start: int
    end: int
    found: Words
    question: str


@dataclass(frozen=True, slots=True)
class Condensed:
    """An area's new text, and how many words and tokens it is without."""

    text: str
    words: int
    tokens: int


class Prose:
    """Condenses by one scorer. One instance serves all requests of an event loop.

    `windows`: score a window at a time, given what was kept of the ones before, as LLMLingua does; else all at once.
    `contrast`: weigh words by what the question makes likelier (LongLLMLingua), where there is a question. A second
    reading; on single NQ passages with SmolLM2-135M it kept no more answers than none, so it is not the default.
    """

    def __init__(self, scorer: Scorer, *, windows: bool = False, contrast: bool = False) -> None:
        self._scorer = scorer
        self._windows, self._contrast = windows, contrast
        self._kept: OrderedDict[bytes, Condensed | None] = OrderedDict()

    async def __call__(self, conversation: Conversation, policy: ProsePolicy, deadline: Deadline) -> Proposal:
        """The prose of a conversation down to `keep` of its tokens, area by area; raises OutOfTime before the first.

        An area is judged by itself, so what becomes of a message does not depend on those after it.
        """
        found = await asyncio.to_thread(lambda: list(areas(conversation, deadline)))
        done: list[tuple[Area, Condensed]] = []
        late = 0
        for area in found:
            made = await self._remembered(area, policy.keep, deadline)
            if made is not None:
                done.append((area, made))
            late += made is None
        return _proposal(done, late)

    async def _remembered(self, area: Area, keep: float, deadline: Deadline) -> Condensed | None:
        asked = area.question if self._contrast else ""
        parts = (area.span.text[area.start : area.end], asked, repr(keep))
        key = hashlib.sha256("\0".join(parts).encode("utf-8", "replace")).digest()
        if key not in self._kept:
            try:
                async with asyncio.timeout(deadline.left):
                    self._kept[key] = await self._condensed(area, keep)
            except (TrimtabError, TimeoutError):
                self._kept[key] = None
            while len(self._kept) > _MOST_KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]

    async def _condensed(self, area: Area, keep: float) -> Condensed:
        text, found = area.span.text, area.found
        bounds = _windows(found) if self._windows else [(0, len(found.starts))]
        out: list[str] = []
        at, removed, tokens = area.start, 0, 0.0
        for first, last in bounds:
            end = area.end if last == len(found.starts) else int(found.starts[last])
            part = _some(found, first, last, at)
            kept = "".join(out)[-_BEFORE:]
            logs, sizes = by_word(part, await self._scorer.logprobs(text[at:end], kept))
            asked = None
            if self._contrast and area.question:
                asked, _ = by_word(part, await self._scorer.logprobs(text[at:end], f"{area.question}\n\n{kept}"))
            gone = going(part, logs, sizes, keep, asked)
            out.append(without(text[at:end], 0, end - at, part, gone))
            removed, tokens, at = removed + int(gone.sum()), tokens + float(sizes[gone].sum()), end
        return Condensed("".join(out), removed, round(tokens))


def areas(conversation: Conversation, deadline: Deadline) -> Iterator[Area]:
    """The prose that may be condensed, oldest first. Raises OutOfTime."""
    asked = ""
    for message in conversation.messages:
        for span in message.spans:
            if span.role == "user" and span.kind == "text":
                asked = question(beside(span.text, blocks(span.text, deadline)))
            if span.protected is None and len(span.text) >= _LEAST and MARK not in span.text:
                yield from _of_span(span, asked, deadline)


def _of_span(span: Span, asked: str, deadline: Deadline) -> Iterator[Area]:
    text = span.text
    whole = [(0, len(text))] if span.kind == "result" else _documents(text, deadline)
    if not whole:
        return
    prose = [(s.start, s.end) for s in segments(text, deadline) if s.kind == "prose"]
    for a, b in whole:
        inside = [(max(a, start), min(b, end)) for start, end in prose if start < b and end > a]
        if sum(end - start for start, end in inside) < _LEAST:
            continue
        start, end = inside[0][0], inside[-1][1]
        sacred = [(at + x, at + y) for at, to in inside for x, y, _ in literals(text[at:to], deadline)]
        found = words(text, inside, sacred)
        deadline.check()
        if found.free.any():
            yield Area(span, start, end, found, asked)


def _documents(text: str, deadline: Deadline) -> list[tuple[int, int]]:
    """The bodies of the documents in a user's text, where the user speaks of what they say and not of how."""
    data = data_ranges(text, deadline)
    bodies = [(block.body_start, block.body_end) for block in blocks(text, deadline)] if data else []
    return [(a, b) for a, b in bodies if any(x <= a and b <= y for x, y in data)]


def _windows(found: Words) -> list[tuple[int, int]]:
    """Runs of words of about _WINDOW characters, as (first, last) numbers of words."""
    number = (found.starts - found.starts[0]) // _WINDOW
    cuts = [0, *(np.flatnonzero(np.diff(number)) + 1).tolist(), len(number)]
    return list(pairwise(cuts))


def _some(found: Words, first: int, last: int, shift: int) -> Words:
    """Some of the words, their offsets counted from `shift`."""
    cut = slice(first, last)
    return Words(found.starts[cut] - shift, found.ends[cut] - shift, found.segment[cut], found.free[cut])


def _proposal(done: list[tuple[Area, Condensed]], late: int) -> Proposal:
    made = Proposal(lossy=True)
    by_span: dict[Span, list[tuple[Area, Condensed]]] = {}
    for area, condensed in done:
        if condensed.words:
            by_span.setdefault(area.span, []).append((area, condensed))
    for span, changes in by_span.items():
        made.texts[span] = _spliced(span.text, changes)
        tokens, count = sum(c.tokens for _, c in changes), sum(c.words for _, c in changes)
        made.parts.append(Part("unsurprising words", f"messages[{span.message}]", tokens=tokens, count=count))
    if late:
        made.parts.append(Part("unsurprising words", count=0, why=f"{late} texts could not be scored in time"))
    return made


def _spliced(text: str, changes: list[tuple[Area, Condensed]]) -> str:
    out, at = [], 0
    for i, (area, condensed) in enumerate(changes):
        out += [text[at : area.start], f"{MARK} " if i == 0 else "", condensed.text]
        at = area.end
    return "".join([*out, text[at:]])


__all__ = ["MARK", "Area", "Condensed", "OutOfTime", "Prose", "Scored", "Scorer", "areas"]

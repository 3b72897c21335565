"""A labelled summary in place of turns that were dropped, where a tenant asks for one (RECOMP's abstractive mode).

The summary rolls: what stood before an earlier cut is in the summary that was made there, so each move of the cut
costs one call over what it newly dropped. Summaries are kept by a hash of what they were made from; where one cannot
be had in time, the turns stay in. This module does the waiting; where to cut is `turns.py`'s business.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from typing import Protocol

from ..protocol.errors import TrimtabError
from ..protocol.exchange import Part
from .deadline import Deadline
from .proposal import Proposal
from .spans import Conversation
from .turns import NOTE, Cuts, Turn, dropping, note_place

_MOST_KEPT = 2_000  # summaries in memory
_MOST_OF_ONE = 8_000  # characters of one message that the small model is shown


class Summariser(Protocol):
    """A model that sums up; `model` is its name, for the label. May raise anything of the error tree."""

    @property
    def model(self) -> str: ...

    async def __call__(self, text: str, most_tokens: int) -> str: ...


class Summaries:
    """Summaries by content. One instance serves all requests of an event loop."""

    def __init__(self, most_tokens: int = 256) -> None:
        """`most_tokens`: how long a summary may be."""
        self._most_tokens = most_tokens
        self._kept: OrderedDict[bytes, str] = OrderedDict()

    async def summarised(
        self, conversation: Conversation, cuts: Cuts, summariser: Summariser, deadline: Deadline, whose: str = ""
    ) -> Proposal:
        """`turns.dropping` with a note at the head of the first kept user's message. `whose` keeps tenants apart.

        An empty proposal that says why, where there is no place for the note, or no summary in time.
        """
        plain = dropping(cuts)
        if not plain:
            return plain
        place = note_place(conversation, cuts)
        if place is None:
            return _left("no text to put a summary into")
        try:
            async with asyncio.timeout(deadline.left):
                summary = await self._rolled(conversation, cuts, summariser, whose)
        except (TrimtabError, TimeoutError):
            return _left("no summary in time")
        note = f"{NOTE}{cuts.at} earlier turns, made by {summariser.model}: {summary}]\n\n"
        saved = plain.parts[0].tokens - len(note.encode()) // 4
        if not summary or saved <= 0:
            return _left("the summary is no shorter")
        parts = [plain.parts[0], Part("a summary", f"messages[{place.message}]", tokens=-(len(note.encode()) // 4))]
        return Proposal({place: note + place.text}, plain.dropped, parts, lossy=True)

    async def _rolled(self, conversation: Conversation, cuts: Cuts, summariser: Summariser, whose: str) -> str:
        summary, before = "", 0
        for cut in cuts.moves:
            text = _transcript(conversation, cuts.turns[before:cut])
            text = f"{NOTE}what came before: {summary}]\n\n{text}" if summary else text
            summary = await self._one(text, summariser, whose)
            before = cut
        return summary

    async def _one(self, text: str, summariser: Summariser, whose: str) -> str:
        parts = (whose, summariser.model, str(self._most_tokens), text)
        key = hashlib.sha256("\0".join(parts).encode("utf-8", "replace")).digest()
        if key not in self._kept:
            said = await summariser(text, self._most_tokens)
            # One line: the blank line behind the note then tells its end.
            self._kept[key] = " ".join(said.split())
            while len(self._kept) > _MOST_KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]


def _transcript(conversation: Conversation, turns: tuple[Turn, ...]) -> str:
    messages = [conversation.messages[index] for turn in turns for index in turn.messages]
    lines = [f"{m.role}: {span.text[:_MOST_OF_ONE]}" for m in messages for span in m.spans if span.text]
    return "\n".join(lines)


def _left(why: str) -> Proposal:
    return Proposal(parts=[Part("oldest turns", "messages", count=0, why=why)])

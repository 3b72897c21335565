"""Whole turns dropped from the beginning of a long history.

A turn is a user's message and everything up to the next one, so a tool call is never parted from its result. The cut
is found by a walk over the turns in their order, with a hysteresis: it stays where it is until what stands behind it
has outgrown the policy, then moves far enough to stay for a long time. Each step of the walk sees only what stood
before that user's message, so a conversation that grows keeps its beginning between two moves of the cut.

This module knows nothing of what the turns say. `summaries.py` puts words in their place where a tenant asks for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..protocol.exchange import Part
from .deadline import Deadline
from .policy import TurnsPolicy
from .proposal import Proposal
from .spans import Conversation, Message, Span

NOTE = "[Summary of "
MARK = "[Earlier turns left out: "
_STAY = ("system", "developer")
_FRAME = 4  # tokens of a message beside its text


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn, with the messages of it that may go (`messages`, by index) and their size in tokens (an estimate)."""

    messages: tuple[int, ...]
    tokens: int


@dataclass(frozen=True, slots=True)
class Cuts:
    """The droppable part of a history and each place in it where the cut has been, the last of which counts."""

    turns: tuple[Turn, ...]
    moves: tuple[int, ...]  # indices into `turns`: the first one that stays

    @property
    def at(self) -> int:
        return self.moves[-1] if self.moves else 0

    @property
    def first_kept(self) -> int:
        """Index of the user's message that the remaining history begins with."""
        return self.turns[self.at].messages[0]


def turns(conversation: Conversation, policy: TurnsPolicy, deadline: Deadline) -> Proposal:
    """Leave out the oldest turns; the last two stay, and so do system messages and the cached prefix."""
    return marked(conversation, find(conversation, policy, deadline))


def find(conversation: Conversation, policy: TurnsPolicy, deadline: Deadline) -> Cuts:
    """Walk the history and say where the cut is. Raises OutOfTime."""
    if conversation.field != "messages" or len(conversation.raw) <= policy.above:  # no token is less than a byte
        return Cuts((), ())
    found = tuple(_turns(conversation, deadline))
    return Cuts(found, tuple(_walk([turn.tokens for turn in found], policy)))


def marked(conversation: Conversation, cuts: Cuts) -> Proposal:
    """`dropping`, and the model is told how many there were: what it does not know of, it makes up."""
    proposal, place = dropping(cuts), note_place(conversation, cuts)
    if proposal and place is not None:
        proposal.texts[place] = f"{MARK}{cuts.at}]\n\n{place.text}"
    return proposal


def note_place(conversation: Conversation, cuts: Cuts) -> Span | None:
    """The text of the first kept user's message, which a note about the turns before it may be put into."""
    if not cuts.turns:
        return None
    spans = conversation.messages[cuts.first_kept].spans
    return next((span for span in spans if span.kind == "text" and span.protected is None), None)


def dropping(cuts: Cuts) -> Proposal:
    gone = cuts.turns[: cuts.at]
    if not gone:
        return Proposal()
    dropped = {index for turn in gone for index in turn.messages}
    where = f"messages[{min(dropped)}:{max(dropped) + 1}]"
    part = Part("oldest turns", where, tokens=sum(turn.tokens for turn in gone), count=len(gone))
    return Proposal(dropped=dropped, parts=[part], lossy=True)


def _walk(tokens: Sequence[int], policy: TurnsPolicy) -> list[int]:
    """The places that the cut takes, one after another. At each turn's beginning: if the finished turns behind the cut
    have more than `above` tokens, forget the oldest until `keep` of that is left, though never the one just ended."""
    moves: list[int] = []
    cut, behind = 0, 0
    for now in range(1, len(tokens)):
        behind += tokens[now - 1]
        if behind <= policy.above:
            continue
        before = cut
        while behind > policy.keep * policy.above and cut < now - 1:
            behind -= tokens[cut]
            cut += 1
        if cut > before:
            moves.append(cut)
    return moves


def _turns(conversation: Conversation, deadline: Deadline) -> list[Turn]:
    """The turns after the cached prefix, oldest first; what stands before the first user's message is of none."""
    groups: list[list[Message]] = []
    for message in conversation.messages:
        deadline.check()
        if message.role == "user":
            groups.append([])
        if groups:
            groups[-1].append(message)
    merged: list[list[Message]] = []
    for group in groups:
        if merged and _answers_the_one_before(group):
            merged[-1] += group
        else:
            merged.append(group)
    free = [group for group in merged if not any(message.frozen for message in group)]
    return [_turn(group) for group in free]


def _answers_the_one_before(group: Sequence[Message]) -> bool:
    """Whether a result comes before any call: it belongs to a call of the turn before."""
    first = next((m.role for m in group[1:] if m.role not in ("user", *_STAY)), None)
    return first in ("tool", "function")


def _turn(group: Sequence[Message]) -> Turn:
    going = [message for message in group if message.role not in _STAY]
    return Turn(tuple(message.index for message in going), sum(map(_tokens, going)))


def _tokens(message: Message) -> int:
    """Four bytes a token: exact counting would cost more than the tier may take."""
    return _FRAME + sum(len(_without_note(span.text).encode("utf-8", "replace")) // 4 for span in message.spans)


def _without_note(text: str) -> str:
    # A note of ours must not bring the next cut nearer, or compressing twice would cut twice.
    end = text.find("]\n\n") if text.startswith((NOTE, MARK)) else -1
    return text if end < 0 else text[end + 3 :]

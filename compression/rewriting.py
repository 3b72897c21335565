"""The lossless tier with a memory: each message is worked on once, and afterwards is what it became.

The tier is causal, so what became of a message is kept under the fingerprint of the conversation up to it. The next
turn finds its history done, and reads only what is new. Where there is no time for that, the history stays as it was
sent.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from dataclasses import replace

import msgspec

from ..protocol.exchange import Part
from .deadline import Deadline, OutOfTime
from .draft import Draft
from .lossless import lossless
from .memo import Outcome, Recent, Sizes
from .prefix import Option, chain, seed
from .proposal import Proposal
from .sending import Sending, Versions
from .spans import Conversation, Message, Span

LEAST = 1500  # bytes: a conversation's first so many stay as they are, so that it begins the same once it is longer
REFERENCES = "duplicate blocks"  # the lossless tier's word for a text that points into an earlier message
REFUSED = "verifier refused"  # and for what its inspector did not let pass
_MOST_PARTS = 32
_WHERE = re.compile(r"messages\[(\d{1,6})\]")


class Rewriting:
    """Safe to use from several threads. `size`: bytes of new messages that are kept."""

    def __init__(self, sizes: Sizes, size: int) -> None:
        self._sizes = sizes
        self._memo: Recent[Outcome] = Recent(size)
        self._lock = threading.Lock()
        self.refused = 0  # texts that the verifier sent back

    def __call__(
        self, draft: Draft, head: Option, tenant: str, on: bool, deadline: Deadline, patience: Deadline
    ) -> tuple[Versions, tuple[Part, ...], OutOfTime | None]:
        """The request as it came and as it could be, words for the receipt, and what cut the tier short. `on` False:
        only what is in the draft. The tier has until `deadline`, everything until `patience`: raises OutOfTime."""
        conversation = draft.conversation
        outcomes, late = [Outcome()] * len(conversation.messages), None
        if on:
            outcomes, late = self._outcomes(draft, tenant, deadline)
        changed: list[bytes | None] = [None] * len(draft.first.messages)
        after, leans = [0] * len(changed), [False] * len(changed)
        sizes = self._sizes.of(conversation, patience)
        for i, (at, outcome) in enumerate(zip(draft.index, outcomes, strict=True)):
            # The same beginning may have been sent before its mark was set; what is marked now goes as it came.
            own = None if conversation.messages[i].frozen else outcome.changed
            changed[at] = _bytes(conversation, i) if own is None else own
            after[at] = sizes[i] if own is None else max(0, sizes[i] - outcome.saved)
            leans[at] = any(part.what == REFERENCES for part in outcome.parts)
        before = self._sizes.of(draft.first, patience) if draft.lossy else sizes
        parts = relabelled([part for outcome in outcomes for part in outcome.parts], draft.index)
        return Versions(draft.first, tuple(changed), tuple(before), tuple(after), head, tuple(leans)), parts, late

    def _outcomes(self, draft: Draft, tenant: str, deadline: Deadline) -> tuple[list[Outcome], OutOfTime | None]:
        conversation = draft.conversation
        messages = conversation.messages
        digests = chain((_bytes(conversation, i) for i in range(len(messages))), seed(tenant))
        known = self._known(digests, messages)
        done = len(known)
        if done == len(messages):
            return known, None
        try:
            view = _view(draft, known, deadline)
            proposal = lossless(view, deadline)
        except OutOfTime as e:
            return known + [Outcome()] * (len(messages) - done), e
        fresh = _by_message(view, proposal, done)
        for digest, outcome in zip(digests[done:], fresh, strict=True):
            self._memo.put(digest, outcome, outcome.size)
        with self._lock:
            self.refused += sum(part.what == REFUSED for part in proposal.parts)
        return known + fresh, None

    def _known(self, digests: Sequence[bytes], messages: Sequence[Message]) -> list[Outcome]:
        """The outcomes of the longest beginning that was worked on before, or is too short to be worked on."""
        known: list[Outcome] = []
        for digest, message in zip(digests, messages, strict=True):
            outcome = Outcome() if message.end <= LEAST else self._memo.get(digest)
            if outcome is None:
                break
            known.append(outcome)
        return known


def _bytes(conversation: Conversation, index: int) -> bytes:
    message = conversation.messages[index]
    return conversation.raw[message.start : message.end]


def _view(draft: Draft, known: Sequence[Outcome], deadline: Deadline) -> Conversation:
    """The conversation as the model will see its beginning, which may be referred to and not changed. Raises
    OutOfTime."""
    conversation = draft.conversation
    if any(outcome.changed is not None for outcome in known):
        raw, at, out = conversation.raw, 0, []
        for message, outcome in zip(conversation.messages, known, strict=False):
            if outcome.changed is not None:
                out += [raw[at : message.start], outcome.changed]
                at = message.end
        request = draft.request.with_fields(**{conversation.field: msgspec.Raw(b"".join([*out, raw[at:]]))})
        conversation = Conversation.read(request, deadline) or conversation
    return replace(
        conversation,
        messages=tuple(m if i >= len(known) else _settled(m) for i, m in enumerate(conversation.messages)),
    )


def _settled(message: Message) -> Message:
    spans = tuple(s if s.protected is not None else replace(s, protected="settled") for s in message.spans)
    return replace(message, spans=spans)


def _by_message(view: Conversation, proposal: Proposal, first: int) -> list[Outcome]:
    """A proposal taken apart into what it does to each message from `first` on."""
    texts: dict[int, dict[Span, str]] = {}
    for span, text in proposal.texts.items():
        texts.setdefault(span.message, {})[span] = text
    parts: dict[int, list[Part]] = {}
    for part in proposal.parts:
        found = _WHERE.match(part.where)
        parts.setdefault(int(found[1]) if found else first, []).append(part)
    made = []
    for i in range(first, len(view.messages)):
        own, said = texts.get(i, {}), parts.get(i, [])
        # As the parts have it, so that a receipt adds up; to count both texts again would cost more than the tier.
        saved = sum(part.tokens for part in said) if own else 0
        made.append(Outcome(view.message_bytes(i, own) if own else None, saved, tuple(said)))
    return made


def relabelled(parts: Sequence[Part], index: Sequence[int]) -> tuple[Part, ...]:
    """Parts that name messages by their place after some were dropped, with the places the client knows."""

    def moved(part: Part) -> Part:
        found = _WHERE.match(part.where)
        at = int(found[1]) if found else -1
        if not 0 <= at < len(index) or index[at] == at:
            return part
        return msgspec.structs.replace(part, where=f"messages[{index[at]}]{part.where[found.end() if found else 0 :]}")

    return tuple(moved(part) for part in parts)


def shown(parts: Sequence[Part], sending: Sending) -> tuple[Part, ...]:
    """What belongs on the receipt: of a message that goes as it came only why it does; a long list summed up."""
    kept = [part for part in parts if part.why is not None or _goes(part, sending)]
    if len(kept) <= _MOST_PARTS:
        return tuple(kept)
    sums: dict[tuple[str, str | None], Part] = {}
    for part in kept:
        key = (part.what, part.why)
        sum_ = sums.get(key)
        if sum_ is None:
            sums[key] = part
        else:
            tokens, count = sum_.tokens + part.tokens, sum_.count + part.count
            sums[key] = Part(part.what, "messages", tokens, count, part.why)
    return tuple(list(sums.values())[:_MOST_PARTS])


def _goes(part: Part, sending: Sending) -> bool:
    if part.where == "tools":
        return sending.head
    found = _WHERE.match(part.where)
    at = int(found[1]) if found else -1
    return sending.taken[at] if 0 <= at < len(sending.taken) else sending.raw is not None

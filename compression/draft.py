"""A request on its way through the opt-in tiers: what is left of it, and where that stood when it came."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import msgspec

from ..protocol.exchange import Part
from ..protocol.messages import Request
from .deadline import Deadline
from .proposal import Proposal
from .spans import Conversation


@dataclass(frozen=True, slots=True)
class Draft:
    """A request as the tiers have left it so far. `index` says where each message of `conversation` stood in `first`;
    `tools` is that field if the tools tier shortened it; `keep` is the share of the client's tokens that is left, tools
    counted as all there: an answer does not grow longer by fewer of them."""

    request: Request
    first: Conversation
    conversation: Conversation
    index: tuple[int, ...]
    parts: tuple[Part, ...] = ()
    keep: float = 1.0
    tools: bytes | None = None

    @classmethod
    def begin(cls, request: Request, deadline: Deadline | None = None) -> Draft | None:
        """None where the request cannot be read safely, or has no messages. Raises OutOfTime."""
        conversation = Conversation.read(request, deadline)
        if conversation is None or not conversation.messages:
            return None
        return cls(request, conversation, conversation, tuple(range(len(conversation.messages))))

    @property
    def lossy(self) -> bool:
        """Whether a tier changed anything."""
        return self.conversation is not self.first or self.tools is not None

    @property
    def tools_tokens(self) -> int:
        """About four bytes each."""
        raw = self.request.fields.get("tools", b"") if self.tools is None else self.tools
        return len(bytes(raw)) // 4

    def after(self, proposal: Proposal, deadline: Deadline) -> Draft | None:
        """The draft with a proposal carried out; None where the result cannot be read, or nothing is left. Raises
        OutOfTime."""
        raw = self.conversation.rewrite(proposal.texts, proposal.dropped)
        request = self.request.with_fields(**{self.conversation.field: msgspec.Raw(raw)})
        conversation = Conversation.read(request, deadline)
        if conversation is None or not conversation.messages:
            return None
        index = tuple(at for i, at in enumerate(self.index) if i not in proposal.dropped)
        return replace(self, request=request, conversation=conversation, index=index).saying(proposal.parts)

    def saying(self, parts: Sequence[Part]) -> Draft:
        """The draft with more words for the receipt."""
        return replace(self, parts=(*self.parts, *parts))

    def without(self, what: str, why: str) -> Draft:
        """The draft as it is, and why a tier did nothing."""
        return self.saying([Part(what, count=0, why=why)])

    def has_lost(self, keep: Sequence[str], after: Draft, deadline: Deadline) -> bool:
        """Whether a text that stood in a message stands in none of them in `after`. Raises OutOfTime."""

        def stands(text: str, draft: Draft) -> bool:
            for span in draft.conversation.spans:
                deadline.check()
                if text in span.text:
                    return True
            return False

        return any(stands(text, self) and not stands(text, after) for text in keep)

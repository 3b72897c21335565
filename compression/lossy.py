"""The tiers that an answer could change by, in their order, each only where the tenant asked for it.

    tools           that do not bear on the question   tool_choice.py
    old turns       dropped, or summarised             turns.py, summaries.py
    demonstrations  dropped whole                      demonstrations.py
    prose           its least surprising words         surprise.py

Large things first, so that nothing is spent on what goes anyway. After each tier stands a check: what would leave less
than the policy's floor, or would lose a text that the caller wants kept, is not done. The tiers are imported when a
tenant first uses them: some need numpy.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from ..protocol.exchange import Exchange, Part
from ..protocol.messages import Request
from .deadline import Deadline, OutOfTime
from .memo import Sizes
from .policy import CompressionPolicy
from .pool import Busy, Pool
from .proposal import Proposal
from .spans import Conversation

if TYPE_CHECKING:
    from .summaries import Summaries, Summariser

_COUNTING_SECONDS = 0.2
SUMMARY_SECONDS = 10.0  # a whole answer of a small model; where there is none by then, the turns stay


@dataclass(frozen=True, slots=True)
class Draft:
    """A request as the tiers have left it so far. `index` says where each message of `conversation` stood in `first`;
    `keep` is the share that is left of the request's tokens, counted from what the client sent."""

    request: Request
    first: Conversation
    conversation: Conversation
    index: tuple[int, ...]
    parts: tuple[Part, ...] = ()
    keep: float = 1.0

    @classmethod
    def begin(cls, request: Request) -> Draft | None:
        """None where the request cannot be read safely, or has no messages."""
        conversation = Conversation.read(request)
        if conversation is None or not conversation.messages:
            return None
        return cls(request, conversation, conversation, tuple(range(len(conversation.messages))))

    @property
    def lossy(self) -> bool:
        return self.conversation is not self.first

    def after(self, proposal: Proposal) -> Draft | None:
        """The draft with a proposal carried out; None where the result cannot be read, or nothing is left."""
        raw = self.conversation.rewrite(proposal.texts, proposal.dropped)
        request = self.request.with_fields(**{self.conversation.field: msgspec.Raw(raw)})
        conversation = Conversation.read(request)
        if conversation is None or not conversation.messages:
            return None
        index = tuple(at for i, at in enumerate(self.index) if i not in proposal.dropped)
        return replace(self, request=request, conversation=conversation, index=index)


Tier = Callable[[Draft, Exchange], Awaitable[Proposal]]


class Lossy:
    """Runs the tiers that a policy names. What a tier cannot do in time is left out, with a word on the receipt."""

    def __init__(
        self,
        pool: Pool,
        sizes: Sizes,
        clock: Callable[[], float],
        summariser: Callable[[Exchange], Summariser | None] | None = None,
    ) -> None:
        self._pool = pool
        self._sizes = sizes
        self._clock = clock
        self._summariser = summariser
        self._summaries: Summaries | None = None

    async def __call__(self, draft: Draft, exchange: Exchange, policy: CompressionPolicy) -> Draft:
        """The draft after every tier that did something; `deadline_ms` bounds those without a model together."""
        whole = await self._client_tokens(draft, exchange)
        deadline = Deadline(policy.deadline_ms / 1000, self._clock)
        for what, tier in self._tiers(policy, deadline):
            try:
                proposal = await tier(draft, exchange)
            except (OutOfTime, Busy) as e:
                draft = _left(draft, what, e.message)
                continue
            draft = await self._carried_out(draft, what, proposal, exchange, policy.floor, whole)
        return draft

    def _tiers(self, policy: CompressionPolicy, deadline: Deadline) -> list[tuple[str, Tier]]:
        tiers: list[tuple[str, Tier]] = []
        if policy.turns.enabled:
            tiers.append(("oldest turns", partial(self._turns, policy, deadline)))
        if policy.demonstrations.enabled:
            tiers.append(("demonstrations", partial(self._demonstrations, policy, deadline)))
        return tiers

    async def _carried_out(
        self, draft: Draft, what: str, proposal: Proposal, exchange: Exchange, floor: float, whole: int
    ) -> Draft:
        if not proposal:
            return replace(draft, parts=(*draft.parts, *proposal.parts))
        made = draft.after(proposal)
        if made is None:
            return _left(draft, what, "the result could not be read")
        keep = await self._tokens(made.conversation) / max(1, whole)
        if keep < floor:
            return _left(draft, what, f"it would leave {keep:.0%}, and the floor is {floor:.0%}")
        if _lost(draft.conversation, made.conversation, exchange.facts.get("keep") or ()):
            return _left(draft, what, "a text that the caller keeps would go")
        return replace(made, parts=(*draft.parts, *proposal.parts), keep=min(keep, draft.keep))

    async def _client_tokens(self, draft: Draft, exchange: Exchange) -> int:
        """What the client sent, before any stage: the floor is a share of that."""
        if exchange.working is exchange.original:
            return await self._tokens(draft.first)
        sent = await self._pool.run(lambda _: Conversation.read(exchange.original), self._patience())
        return await self._tokens(sent or draft.first)

    async def _tokens(self, conversation: Conversation) -> int:
        return sum(await self._pool.run(lambda d: self._sizes.of(conversation, d), self._patience()))

    def _patience(self) -> Deadline:
        return Deadline(_COUNTING_SECONDS, self._clock)

    async def _turns(self, policy: CompressionPolicy, deadline: Deadline, draft: Draft, exchange: Exchange) -> Proposal:
        from .turns import dropping, find

        cuts = await self._pool.run(lambda d: find(draft.conversation, policy.turns, d), deadline)
        summariser = self._summariser(exchange) if policy.turns.summarise and self._summariser else None
        if summariser is None or not cuts.moves:
            return dropping(cuts)
        if self._summaries is None:
            from .summaries import Summaries

            self._summaries = Summaries()
        patience = Deadline(SUMMARY_SECONDS, self._clock)
        whose = exchange.tenant.name
        return await self._summaries.summarised(draft.conversation, cuts, summariser, patience, whose)

    async def _demonstrations(
        self, policy: CompressionPolicy, deadline: Deadline, draft: Draft, exchange: Exchange
    ) -> Proposal:
        from .demonstrations import demonstrations

        return await self._pool.run(lambda d: demonstrations(draft.conversation, policy.demonstrations, d), deadline)


def _left(draft: Draft, what: str, why: str) -> Draft:
    return replace(draft, parts=(*draft.parts, Part(what, count=0, why=why)))


def _lost(before: Conversation, after: Conversation, keep: Sequence[str]) -> bool:
    """Whether a text that stood in the messages stands in none of them any more."""
    if not keep:
        return False
    texts = [span.text for span in before.spans], [span.text for span in after.spans]
    return any(any(text in t for t in texts[0]) and not any(text in t for t in texts[1]) for text in keep)

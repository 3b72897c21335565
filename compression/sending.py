"""Which way a request is sent on: as it came, changed, or as it was sent last time and changed from there on.

It puts together what the gate and the memory know apart: messages in two versions become three candidates with their
sizes and their cached beginnings, and the choice becomes the bytes of the field. It changes nothing of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from ..protocol.tokens import estimate
from .deadline import Deadline
from .gate import NO_GAIN, Candidate, Decision, Terms, decide
from .memo import Sizes
from .prefix import Option, PrefixMemory, Walk, chain, seed
from .proposal import Proposal
from .spans import Conversation, Span

UNDER_WAY = 3.0  # requests that a conversation with an answer or with tools in it is expected to bring yet


@dataclass(frozen=True, slots=True)
class Versions:
    """A conversation as it came and as it could be: per message the new bytes (None: left out) and both token counts.

    `head` is what stands before the messages for the model, the tools, in both versions. `leans` says of each message
    whether its changed version refers to a changed one before it; empty: none does.
    """

    conversation: Conversation
    changed: tuple[bytes | None, ...]
    tokens: tuple[int, ...]
    tokens_changed: tuple[int, ...]
    head: Option
    leans: tuple[bool, ...] = ()

    @classmethod
    def of(
        cls, conversation: Conversation, proposal: Proposal, sizes: Sizes, head: Option, deadline: Deadline
    ) -> Versions:
        """What a proposal makes of a conversation. Raises OutOfTime."""
        own: dict[int, dict[Span, str]] = {}
        for span, text in proposal.texts.items():
            own.setdefault(span.message, {})[span] = text
        tokens = sizes.of(conversation, deadline)
        changed: list[bytes | None] = []
        after: list[int] = []
        for i, size in enumerate(tokens):
            texts = own.get(i, {})
            gone = i in proposal.dropped
            changed.append(None if gone else conversation.message_bytes(i, texts))
            after.append(0 if gone else max(0, size - sum(estimate(s.text) - estimate(t) for s, t in texts.items())))
        return cls(conversation, tuple(changed), tuple(tokens), tuple(after), head)

    def original(self, index: int) -> bytes:
        message = self.conversation.messages[index]
        return self.conversation.raw[message.start : message.end]

    @property
    def options(self) -> list[Option]:
        """The pieces as the memory wants them, the head first."""
        made, turn = [self.head], 0
        for i, message in enumerate(self.conversation.messages):
            turn += message.role == "user"
            made.append(Option(self.original(i), self.changed[i], self.tokens[i], self.tokens_changed[i], turn))
        return made

    def pieces(self, head: bytes, taken: Sequence[bool]) -> Iterator[bytes]:
        """What is sent when those messages that are `taken` are changed, behind a head."""
        yield head
        for i, take in enumerate(taken):
            piece = self.changed[i] if take else self.original(i)
            if piece is not None:
                yield piece

    def marked(self) -> int:
        """Tokens up to the last `cache_control` mark, the head included; 0 without one."""
        frozen = [size for size, m in zip(self.tokens, self.conversation.messages, strict=True) if m.frozen]
        return self.head.tokens + sum(frozen) if frozen else 0

    def upright(self, taken: Sequence[bool]) -> tuple[bool, ...]:
        """The same choice without changed messages that lean on one which goes as it came."""
        if not any(self.leans):
            return tuple(taken)
        out, whole = [], True
        for i, take in enumerate(taken):
            stands = take and (whole or not self.leans[i])
            out.append(stands)
            whole = whole and (stands or self.changed[i] == self.original(i))
        return tuple(out)

    def assemble(self, taken: Sequence[bool]) -> bytes:
        """The field with the changed version of every message that is `taken`; what stands between them stays."""
        messages, raw = self.conversation.messages, self.conversation.raw
        out, last = [raw[: messages[0].start]] if messages else [raw], -1
        for i, message in enumerate(messages):
            piece = self.changed[i] if taken[i] else self.original(i)
            if piece is None:
                continue
            if last >= 0:
                out.append(raw[messages[i - 1].end : message.start])
            out.append(piece)
            last = i
        return b"".join([*out, raw[messages[-1].end :]]) if messages else raw


@dataclass(frozen=True, slots=True)
class Sending:
    """How a request goes on. `raw` None: the field as it came. `taken` says per message, and `head` for the tools,
    whether the changed version goes. `digests` is what to hand to `PrefixMemory.store` once it does go."""

    decision: Decision
    raw: bytes | None
    head: bool
    taken: tuple[bool, ...]
    tokens_before: int
    tokens_after: int
    digests: tuple[bytes, ...]


def choose(
    versions: Versions,
    memory: PrefixMemory,
    tenant: str,
    target: str,
    terms: Terms,
    now: float,
    keep: float = 1.0,
) -> Sending:
    """The cheapest of the three ways. `keep`: the share of the request that lossy tiers leave; `now`: in seconds.

    `terms.marked`, `again` and `grows` are filled in here.
    """
    options = versions.options
    if all(option.changed == option.original for option in options):
        return _as_it_came(options, target)
    walk = memory.walk(tenant, target, options, now)
    every = (True,) * len(options)
    ways = [(False,) * len(options), (walk.choice[0], *versions.upright(walk.choice[1:]))]
    if not walk.remembered or None in versions.changed:
        # What was sent stays as it was sent, also where no provider holds it: all of it changes only if turns go.
        ways.append(every)
    beginnings = (walk.original, walk.mixed, walk.changed)
    candidates = [
        Candidate(_tokens(options, way), beginning, keep if i else 1.0)
        for i, (way, beginning) in enumerate(zip(ways, beginnings, strict=False))
    ]
    decision = decide(candidates, _expecting(terms, versions, walk, memory.again(tenant, target)), walk.instead)
    if not decision.chosen and decision.reason == NO_GAIN:
        decision = replace(decision, reason="the provider's cache may hold it as it was sent before")
    taken = ways[decision.chosen]
    pieces = [o.changed if take else o.original for o, take in zip(options, taken, strict=True)]
    digests = chain((piece for piece in pieces if piece is not None), seed(target))
    raw = versions.assemble(taken[1:]) if decision.chosen else None
    size = candidates[decision.chosen].tokens
    return Sending(decision, raw, taken[0], taken[1:], candidates[0].tokens, size, digests)


def _expecting(terms: Terms, versions: Versions, walk: Walk, rate: float) -> Terms:
    """The terms with what is to be expected of this conversation. `rate`: how many of this tenant's go on."""
    if walk.mixed > walk.original:
        # A change was made before. It is not taken back for what the next turns may bring.
        again, grows = 0.0, False
    elif versions.head.tokens or any(m.role == "assistant" for m in versions.conversation.messages):
        again, grows = UNDER_WAY, True
    else:
        again, grows = rate / (1 - rate), False  # as often as a coin of this weight falls on the same side
    return replace(terms, marked=versions.marked(), again=again, grows=grows)


def _tokens(options: Sequence[Option], way: Sequence[bool]) -> int:
    return sum(o.tokens_changed if take else o.tokens for o, take in zip(options, way, strict=True))


def _as_it_came(options: Sequence[Option], target: str) -> Sending:
    size = sum(option.tokens for option in options)
    digests = chain((option.original for option in options), seed(target))
    return Sending(Decision(0, NO_GAIN, None), None, False, (False,) * (len(options) - 1), size, size, digests)

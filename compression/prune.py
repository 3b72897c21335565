"""The `prune` stage: leave out passages and parts of tool results that do not bear on the question.

It waits for the embedder, hands the work to the pool, asks the gate, and writes the receipt; what may go is decided by
pruner.py. Where the vectors come too late, the request goes on whole, and they are warm for the next one.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from ..protocol.errors import TrimtabError
from ..protocol.exchange import Exchange, Part, Price
from .deadline import Deadline, OutOfTime
from .gate import Terms, worth_trying
from .memo import Outcome, Recent, Sizes
from .policy import CompressionPolicy
from .pool import Busy, Pool
from .prefix import PrefixMemory
from .prunable import SMALL
from .pruning import Plan, Wish, left, plan, prune, versions
from .sending import Sending, choose
from .spans import Conversation

if TYPE_CHECKING:
    from .conformal import Calibration
    from .lossy import Embedder

LEFT_WHOLE = "left_whole"  # a fact of an exchange: something that could be pruned goes as it came
LARGE = 8_000_000  # bytes above which there is no time to look
_EXPECTED_SECONDS = 0.05  # that pruning adds to a request, for the tenants who put a price on time
_LOOKING_UP = 0.1  # seconds at most for what was decided before; a few thousandths for most requests
_QUICKLY = 128 << 10  # bytes that can be read on the event loop
_EXPECTED_OUTPUT = 512  # tokens of an answer, where the client sets no lower cap
_MEMORY = 16 << 20  # bytes of pruned messages that are remembered


class Prune:
    """Without an embedder it leaves every request alone. `clock` gives monotonic seconds; `pool` and `memory` may be
    shared. `counts` says how often it did what, and why it did not: for the metrics."""

    name = "prune"
    waits = False  # on its own deadline only, which is the tenant's

    def __init__(
        self,
        embedder: Embedder | None = None,
        pool: Pool | None = None,
        memory: PrefixMemory | None = None,
        sizes: Sizes | None = None,
        calibration: Calibration | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.counts: Counter[str] = Counter()
        self._embedder = embedder
        self._pool = pool or Pool(name="prune")
        self._memory = PrefixMemory() if memory is None else memory  # an empty one is false
        self._sizes = sizes or Sizes()
        self._calibration = calibration
        self._clock = clock
        self._outcomes: Recent[Outcome] = Recent(_MEMORY)

    def close(self) -> None:
        """Wait for the threads; a deadline's length at most."""
        self._pool.close()

    async def __call__(self, exchange: Exchange) -> None:
        policy = exchange.policy(CompressionPolicy)
        if not policy.context.enabled:
            exchange.note(self.name, "off", "the tenant's policy")
            return
        wish = _wish(exchange, policy)
        why = self._why_not(exchange, wish)
        if why is not None:
            self._leave(exchange, why)
            return
        try:
            await self._attend(exchange, wish, policy.context.deadline_ms / 1000)
        except (OutOfTime, Busy) as e:
            self._unread(exchange)
            self._leave(exchange, e.message)

    def _why_not(self, exchange: Exchange, wish: Wish) -> str | None:
        working = exchange.working
        size = len(bytes(working.fields.get("messages" if working.kind == "chat" else "prompt", b"")))
        if self._embedder is None:
            return "no embedder is configured"
        if exchange.facts.get("compress") is False:
            return "the caller asked for it"
        if working.kind == "embeddings" or size < SMALL:
            return "too small"
        if size > LARGE:
            return "too large"
        if not worth_trying(round((1 - wish.terms.floor) * size / 4), _EXPECTED_SECONDS, wish.terms):
            return "waiting would cost more than it could save"
        return None

    async def _attend(self, exchange: Exchange, wish: Wish, seconds: float) -> None:
        """Raises OutOfTime or Busy where there is nothing to tell yet."""
        started = self._clock()
        deadline = Deadline(seconds, self._clock)
        size = len(exchange.working.body)
        # Past the deadline too, what was pruned before has to look as it did: looking it up has a time of its own.
        grace = Deadline(seconds + _LOOKING_UP, self._clock)
        made = await self._pool.run(
            lambda d: plan(exchange.working, wish, self._outcomes, deadline, d), grace, size, whose=wish.tenant
        )
        if made is None:
            self._leave(exchange, "a shape that cannot be changed safely")
            return
        late = made.late or (await self._work(made, wish, deadline) if made.jobs else None)
        if made.sources:
            exchange.facts["sources"] = (*exchange.facts.get("sources", ()), *made.sources)
        if made.changes:
            grace = Deadline(seconds + _LOOKING_UP, self._clock)
            sending = await self._pool.run(
                lambda d: self._weigh(exchange, made, wish, d), grace, size, whose=wish.tenant
            )
            self._send(exchange, made, sending, late, started)
            return
        if late is not None:
            self._sent_whole(exchange, made.conversation)
        why = late or next((part.why for part in made.parts if part.why), "no documents found")
        self._leave(exchange, why, made.parts)

    async def _work(self, made: Plan, wish: Wish, deadline: Deadline) -> str | None:
        """Prune what is new; why that was not done, if it was not. Giving up the wait does not stop the embedder."""
        assert self._embedder is not None
        try:
            async with asyncio.timeout(deadline.left):
                vectors: Any = await self._embedder.embed(made.texts, tenant=wish.tenant)
        except TimeoutError:
            return "the embedder was too slow"
        except TrimtabError as e:
            return e.message
        try:
            size = len(made.conversation.raw)
            found = await self._pool.run(
                lambda d: prune(made, wish, vectors, self._calibration, d), deadline, size, whose=wish.tenant
            )
        except (OutOfTime, Busy) as e:
            return e.message
        for index, outcome in found.items():
            made.decided(index, outcome, self._outcomes)
        return None

    def _weigh(self, exchange: Exchange, made: Plan, wish: Wish, deadline: Deadline) -> Sending:
        """On a thread: ask the gate between what came and what was made of it."""
        both, keep = versions(made, _tools(exchange), self._sizes, deadline)
        return choose(both, self._memory, wish.tenant, _target(exchange), wish.terms, self._clock(), keep)

    def _send(self, exchange: Exchange, made: Plan, sending: Sending, late: str | None, started: float) -> None:
        self._memory.store(exchange.tenant.name, _target(exchange), sending.digests, self._clock())
        parts: list[Part] = []
        for index, outcome in sorted(made.known.items()):
            if outcome.changed is None or sending.taken[index]:
                parts += outcome.parts
            else:
                exchange.facts[LEFT_WHOLE] = True
                parts.append(left(index, sending.decision.reason or "it was sent whole before"))
        if sending.raw is None:
            self._leave(exchange, sending.decision.reason or "nothing to gain", parts)
            return
        exchange.working = exchange.working.with_fields(**{made.conversation.field: msgspec.Raw(sending.raw)})
        exchange.facts["pruned_tokens"] = sending.tokens_before - sending.tokens_after
        self.counts["pruned"] += 1
        exchange.note(
            self.name,
            "pruned",
            late,
            tokens_before=sending.tokens_before,
            tokens_after=sending.tokens_after,
            saved_microusd=sending.decision.saved_microusd,
            ms=round((self._clock() - started) * 1000, 3),
            parts=parts,
        )

    def _sent_whole(self, exchange: Exchange, conversation: Conversation) -> None:
        """Remember that it went as it came: pruned on the next turn, it would not be what the provider holds."""
        exchange.facts[LEFT_WHOLE] = True
        raw = conversation.raw
        pieces = [_tools(exchange), *(raw[message.start : message.end] for message in conversation.messages)]
        self._memory.remember(exchange.tenant.name, _target(exchange), pieces, self._clock())

    def _unread(self, exchange: Exchange) -> None:
        """The same where there was no thread to read it on, if it can be read here in a millisecond or two."""
        small = len(exchange.working.body) <= _QUICKLY
        conversation = Conversation.read(exchange.working) if small else None
        if conversation is not None:
            self._sent_whole(exchange, conversation)

    def _leave(self, exchange: Exchange, why: str, parts: list[Part] | None = None) -> None:
        self.counts[why] += 1
        exchange.note(self.name, "left alone", why, parts=parts or [])


def _wish(exchange: Exchange, policy: CompressionPolicy) -> Wish:
    target = exchange.targets[0] if exchange.targets else None
    price, backend, model = (target.price, target.backend, target.upstream_model) if target else (Price(), "", "")
    most = exchange.working.max_output
    output = _EXPECTED_OUTPUT if most is None else min(most, _EXPECTED_OUTPUT)
    terms = Terms.of(price, backend, model, usd_per_s=policy.usd_per_s, floor=policy.floor, output=output)
    named, strings = exchange.facts.get("query"), tuple(exchange.facts.get("keep") or ())
    return Wish(exchange.tenant.name, policy.context.recall, terms, named, strings, policy.lossless)


def _target(exchange: Exchange) -> str:
    return exchange.targets[0].name if exchange.targets else ""


def _tools(exchange: Exchange) -> bytes:
    return bytes(exchange.working.fields.get("tools", b""))

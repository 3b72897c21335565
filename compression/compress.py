"""The `compress` stage: the same request in fewer tokens.

The tiers that an answer could change by come first (lossy.py), each only where the tenant asked for it, then the
lossless one, then the gate. Lossless comes last so that a reference to an earlier block never points to one that went,
and so that what it is said to save is saved of what is really sent. The gate weighs the whole change and has the last
word.

The stage bounds itself: it works on the few threads of `pool.py`, and when a tier's time is over the request goes on as
it was, but for the beginning that was worked out on an earlier turn. Where no thread is free in time, all of it does.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import msgspec

from ..protocol.errors import InvalidRequest
from ..protocol.exchange import Exchange, Part, Target
from ..protocol.messages import Request
from .deadline import Deadline, OutOfTime
from .draft import Draft
from .gate import Terms, worth_trying
from .lossy import Embedder, Lossy
from .memo import Recent, Sizes
from .policy import CompressionPolicy
from .pool import Busy, Pool
from .prefix import PrefixMemory, chain, extend, seed
from .prune import LEFT_WHOLE
from .rewriting import LEAST, Rewriting, shown
from .sending import Sending, Versions, choose
from .spans import Conversation
from .tools_field import CompactTools, tools_field

if TYPE_CHECKING:
    from .summaries import Summariser
    from .surprise import Scorer

_GRACE = 0.015  # seconds for reading and for the arithmetic, beside the tiers' own deadline
_PATIENCE = 0.4  # more for a free thread, where the beginning was changed before: to send it whole would cost its cache
_QUICKLY = 128 << 10  # bytes that can be read on the event loop: a millisecond or two
_BEGINNING = 1024  # bytes of the messages that tell one from another; no message changes before LEAST of them
_OUTPUT = 512  # expected tokens of an answer
_NO_TARGET = Target("", "", "")
_FIELDS = ("messages", "prompt", "tools")


@dataclass(frozen=True, slots=True)
class _Job:
    """What the threads need to know of an exchange."""

    request: Request
    tenant: str
    target: Target
    terms: Terms
    policy: CompressionPolicy
    now: float
    begun: tuple[bytes, bytes]  # fingerprints of the tools, and of how the conversation begins
    patience: float = 0.0  # seconds
    left_whole: bool = False  # whether `prune` must know how this goes on


@dataclass(frozen=True, slots=True)
class _Done:
    """What came out: the fields to set, the gate's word, words for the receipt, and what cut it short."""

    fields: dict[str, msgspec.Raw]
    sending: Sending
    parts: tuple[Part, ...]
    late: OutOfTime | None
    spelling: tuple[bytes, ...] = ()  # fingerprints of what is sent, where `prune` must know them


class Compress:
    """`counts` says how often it did what, and why it did not: for the metrics."""

    name = "compress"
    waits = False

    def __init__(
        self,
        pool: Pool | None = None,
        memory: PrefixMemory | None = None,
        clock: Callable[[], float] = time.monotonic,
        summariser: Callable[[Exchange], Summariser | None] | None = None,
        scorer: Callable[[str | None], Scorer | None] | None = None,
        memo_bytes: int = 32 << 20,
        pruned: PrefixMemory | None = None,
    ) -> None:
        """`pool` and `memory` may be shared, `pruned` is the `prune` stage's memory. `summariser` gives a request's
        own, `scorer` the model of a name that reads prose, if there is one."""
        self.counts: Counter[str] = Counter()
        self._pool = pool or Pool()
        self._memory = PrefixMemory() if memory is None else memory  # an empty one is false
        self._pruned = pruned
        self._clock = clock
        self._sizes = Sizes()
        self._lossy = Lossy(self._pool, self._sizes, clock, summariser, scorer)
        self._rewriting = Rewriting(self._sizes, memo_bytes)
        self._tools = CompactTools(memo_bytes // 8)
        self._changed: Recent[bool] = Recent(memo_bytes // 8)  # beginnings of conversations that were changed
        self._pace = 0.0  # seconds a byte, a running mean

    @property
    def embedder(self) -> Embedder | None:
        """Who says what is alike for the opt-in tiers; may be changed at any time."""
        return self._lossy.embedder

    @embedder.setter
    def embedder(self, embedder: Embedder | None) -> None:
        self._lossy.embedder = embedder

    def close(self) -> None:
        """Wait for the threads; a deadline's length at most."""
        self._pool.close()

    async def __call__(self, exchange: Exchange) -> None:
        policy = exchange.policy(CompressionPolicy)
        off = _off(exchange, policy)
        if off is not None:
            exchange.note(self.name, "off", off)
            return
        size = _size(exchange.working)
        if size < LEAST:
            self._leave(exchange, "too small", "too small")
            return
        started = self._clock()
        job = _job(exchange, policy, started)
        if any(self._changed.get(beginning) for beginning in job.begun):
            job = replace(job, patience=_PATIENCE)
        if not worth_trying(size // 4, self._pace * size, job.terms):
            self._pace *= 0.99  # one slow request must not be the last
            self._leave(exchange, "not worth the wait", "waiting would cost more than it could save")
            return
        try:
            done = await self._done(exchange, job, size)
        except (OutOfTime, Busy) as e:
            self._sent_whole(job, size)
            self._leave(exchange, e.code, e.message, started)
            return
        self._pace += 0.1 * ((self._clock() - started) / size - self._pace)
        if done is None:
            self._leave(exchange, "unreadable", "a shape that cannot be changed safely", started)
        else:
            self._send(exchange, job, done, started)

    async def _done(self, exchange: Exchange, job: _Job, size: int) -> _Done | None:
        """None where the request cannot be read safely. Raises OutOfTime or Busy."""
        if not _any_lossy(job.policy):
            return await self._pool.run(
                lambda d: self._weighed(Draft.begin(job.request, d), job, d), self._time(job), size, whose=job.tenant
            )
        first = await self._pool.run(lambda d: Draft.begin(job.request, d), self._time(job), size, whose=job.tenant)
        if first is None:
            return None
        draft = await self._lossy(first, exchange, job.policy, job.patience)
        job = replace(job, now=self._clock())
        done = await self._pool.run(lambda d: self._weighed(draft, job, d), self._time(job), size, whose=job.tenant)
        if done is not None and draft.lossy and not done.sending.decision.chosen:
            # Refused for what an answer could lose by it, perhaps; what it cannot lose by stands on its own.
            plain = replace(first, parts=_refused(draft, done))
            return await self._pool.run(lambda d: self._weighed(plain, job, d), self._time(job), size, whose=job.tenant)
        return done

    def _time(self, job: _Job) -> Deadline:
        return Deadline(job.policy.deadline_ms / 1000 + _GRACE + job.patience, self._clock)

    def _weighed(self, draft: Draft | None, job: _Job, patience: Deadline) -> _Done | None:
        """On a thread: rewrite, weigh, and put the fields together. Raises OutOfTime."""
        if draft is None:
            return None
        patience.check()
        deadline = Deadline(job.policy.deadline_ms / 1000, self._clock)
        head = self._tools.head(job.request, draft.tools, patience)
        versions, more, late = self._rewriting(draft, head, job.tenant, job.policy.lossless, deadline, patience)
        patience.check()
        sending = choose(versions, self._memory, job.tenant, job.target.name, job.terms, job.now, draft.keep)
        fields, parts = tools_field(job.request, head, sending, job.policy.lossless)
        if sending.raw is not None:
            fields[draft.first.field] = msgspec.Raw(sending.raw)
        spelling = _spelling(job, versions, sending, fields) if job.left_whole and self._pruned is not None else ()
        return _Done(fields, sending, (*parts, *shown((*draft.parts, *more), sending)), late, spelling)

    def _sent_whole(self, job: _Job, size: int) -> None:
        """Remember a request as it came, or the next turn would change what a provider holds of it by then."""
        conversation = Conversation.read(job.request) if size <= _QUICKLY else None
        if conversation is not None:
            # With all the time it takes: a fingerprint of other bytes than the next turn's would say nothing to it.
            head = self._tools.head(job.request, None, Deadline(_PATIENCE, self._clock)).original
            said = (conversation.raw[m.start : m.end] for m in conversation.messages)
            self._memory.store(job.tenant, job.target.name, chain((head, *said), seed(job.target.name)), job.now)

    def _leave(self, exchange: Exchange, label: str, reason: str, started: float | None = None) -> None:
        self.counts[label] += 1
        exchange.note(self.name, "left alone", reason, ms=None if started is None else self._ms(started))

    def _send(self, exchange: Exchange, job: _Job, done: _Done, started: float) -> None:
        sending = done.sending
        self._memory.store(job.tenant, job.target.name, sending.digests, job.now)
        if done.fields and self._pruned is not None:
            # What `prune` left whole stays whole, also where a client sends what was made of it.
            self._pruned.respelt(job.tenant, job.target.name, done.spelling, job.now)
        if done.fields:
            # Changed tools are cached for every conversation that has them, and however little was said in it yet.
            for beginning in job.begun if done.sending.head else job.begun[1:]:
                self._changed.put(beginning, True, 128)
            exchange.working = exchange.working.with_fields(**done.fields)
        did = "compacted" if done.fields else "left alone"
        reason = sending.decision.reason if sending.raw is None else None
        if done.late is not None:
            self.counts[done.late.code] += 1
            reason = done.late.message
        self.counts[did] += 1
        self.counts["verifier refused"] = self._rewriting.refused + self._tools.refused
        exchange.note(
            self.name,
            did,
            reason,
            tokens_before=sending.tokens_before,
            tokens_after=sending.tokens_after,
            saved_microusd=sending.decision.saved_microusd,
            ms=self._ms(started),
            parts=list(done.parts),
        )

    def _ms(self, started: float) -> float:
        return round((self._clock() - started) * 1000, 3)


def _off(exchange: Exchange, policy: CompressionPolicy) -> str | None:
    if exchange.facts.get("compress") is False:
        return "the caller asked for it"
    if exchange.working.kind == "embeddings":
        return "embeddings are of the text as it is"
    if not policy.lossless and not _any_lossy(policy):
        return "the tenant's policy"
    return None


def _any_lossy(policy: CompressionPolicy) -> bool:
    tiers = (policy.turns.enabled, policy.demonstrations.enabled, policy.prose.enabled)
    return any(tiers) or policy.tools.enabled or policy.tools.share


def _size(request: Request) -> int:
    """Bytes of what could be changed; the whole body's where that is small already."""
    if len(request.body) < LEAST and not request.edited:
        return len(request.body)
    return sum(len(bytes(request.fields[name])) for name in _FIELDS if name in request.fields)


def _job(exchange: Exchange, policy: CompressionPolicy, now: float) -> _Job:
    target = exchange.targets[0] if exchange.targets else _NO_TARGET
    terms = Terms.of(
        target.price,
        target.backend,
        target.upstream_model,
        output=_expected_output(exchange.working),
        usd_per_s=policy.usd_per_s,
        floor=policy.floor,
    )
    tenant, left_whole = exchange.tenant.name, bool(exchange.facts.get(LEFT_WHOLE))
    begun = _begun(exchange.working, tenant)
    return _Job(exchange.working, tenant, target, terms, policy, now, begun, left_whole=left_whole)


def _spelling(job: _Job, versions: Versions, sending: Sending, fields: Mapping[str, msgspec.Raw]) -> tuple[bytes, ...]:
    """The request's fingerprints as it goes on, with the tools spelt as they are sent."""
    tools = fields.get("tools", job.request.fields.get("tools", b""))
    return chain(versions.pieces(bytes(tools), sending.taken), seed(job.target.name))


def _begun(request: Request, tenant: str) -> tuple[bytes, bytes]:
    """Whose conversation it is: by its tools, and by these and its first bytes."""
    tools = extend(seed(tenant), bytes(request.fields.get("tools", b"")))
    said = request.fields.get("messages", request.fields.get("prompt", b""))
    return tools, extend(tools, bytes(said)[:_BEGINNING])


def _expected_output(request: Request) -> int:
    try:
        most = request.max_output
    except InvalidRequest:
        return _OUTPUT  # whoever answers will say what is wrong with it
    return _OUTPUT if most is None else min(most, _OUTPUT)


def _refused(draft: Draft, done: _Done) -> tuple[Part, ...]:
    """What the tiers would have done, with the gate's reason why they did not."""
    why = done.sending.decision.reason
    return tuple(msgspec.structs.replace(part, tokens=0, count=0, why=part.why or why) for part in draft.parts)

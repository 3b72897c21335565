"""The `prune` stage: leave out passages and parts of tool results that do not bear on the question.

The stage waits for the embedder, hands the work to the pool, remembers what it decided, and asks the gate; what may go
is decided by pruner.py. Where the vectors come too late, the request goes on whole; they are warm for the next one.
numpy is imported with the first request of a tenant that prunes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from ..protocol.errors import TrimtabError
from ..protocol.exchange import Exchange, Part, Price
from ..protocol.tokens import estimate, estimate_bytes
from .deadline import Deadline, OutOfTime
from .gate import Terms, expansion, worth_trying
from .memo import Outcome, Recent, Sizes
from .policy import CompressionPolicy
from .pool import Pool
from .prefix import Option, PrefixMemory, extend
from .prunable import Key, Prunable, candidates, keys, prunable
from .sending import Sending, Versions, choose
from .spans import Conversation

if TYPE_CHECKING:
    from ..backends.embed import Embedder
    from .conformal import Calibration

SMALL = 2000  # bytes of messages below which nothing can be worth the look
HARMLESS = 0.5  # the share of a request down to which the gate expects no longer answers
_EXPECTED_SECONDS = 0.05  # that pruning adds to a request, for the tenants who put a price on time
_EXPECTED_OUTPUT = 512  # tokens of an answer, where the client sets no lower cap
_MEMORY = 16 << 20  # bytes of pruned messages that are remembered


@dataclass(slots=True)
class _Plan:
    """One request on its way through the stage: what is known of each message, and what is still to do."""

    conversation: Conversation
    keys: list[Key]
    known: dict[int, Outcome]
    jobs: list[Prunable]
    late: str | None = None

    @property
    def parts(self) -> list[Part]:
        return [part for _, outcome in sorted(self.known.items()) for part in outcome.parts]


class Prune:
    """Without an embedder it leaves every request alone. `clock` gives monotonic seconds."""

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
        self._embedder = embedder
        self._pool = pool or Pool(name="prune")
        self._memory = memory or PrefixMemory()
        self._sizes = sizes or Sizes()
        self._calibration = calibration
        self._clock = clock
        self._outcomes: Recent[Outcome] = Recent(_MEMORY)

    async def __call__(self, exchange: Exchange) -> None:
        policy = exchange.policy(CompressionPolicy)
        why = self._why_not(exchange, policy)
        if why is not None:
            exchange.note(self.name, "off" if not policy.context.enabled else "left alone", why)
            return
        deadline = Deadline(policy.context.deadline_ms / 1000, self._clock)
        length = len(exchange.working.body)
        plan = await self._pool.run(lambda d: self._plan(exchange, policy, d), deadline, length)
        if plan is None:
            exchange.note(self.name, "left alone", "the messages cannot be read safely")
            return
        late = plan.late
        if plan.jobs:
            late = await self._work(exchange, policy, plan, deadline)
        if any(outcome.changed is not None for outcome in plan.known.values()):
            # Past the deadline too: what was pruned before has to look as it did.
            grace = Deadline(policy.context.deadline_ms / 1000, self._clock)
            sending = await self._pool.run(lambda d: self._send(exchange, policy, plan), grace, length)
            self._apply(exchange, plan, sending, late)
        else:
            if late is not None:
                self._sent_whole(exchange, plan.conversation)
            why = late or next((part.why for part in plan.parts if part.why), "no documents found")
            exchange.note(self.name, "left alone", why, parts=plan.parts)

    def _why_not(self, exchange: Exchange, policy: CompressionPolicy) -> str | None:
        if not policy.context.enabled:
            return "the tenant does not prune"
        if self._embedder is None:
            return "no embedder is configured"
        if exchange.facts.get("compress") is False:
            return "the caller does not want it"
        working = exchange.working
        raw = working.fields.get("messages" if working.kind == "chat" else "prompt", b"")
        if working.kind == "embeddings" or len(bytes(raw)) < SMALL:
            return "too small"
        most = (1 - policy.floor) * estimate_bytes(bytes(raw))
        if not worth_trying(round(most), _EXPECTED_SECONDS, _terms(exchange, policy)):
            return "the wait is worth more than it could save"
        return None

    def _plan(self, exchange: Exchange, policy: CompressionPolicy, deadline: Deadline) -> _Plan | None:
        """What there is to prune; what was decided about a message before is not looked at again."""
        conversation = Conversation.read(exchange.working)
        if conversation is None:
            return None
        named = exchange.facts.get("query")
        made = keys(conversation, self._seed(exchange, policy), named)
        plan = _Plan(conversation, made, {}, [])
        unknown: list[int] = []
        for index in candidates(conversation):
            known = self._outcomes.get(made[index].asked)
            if known is None:
                unknown.append(index)
            else:
                plan.known[index] = known
        try:
            found = {one.message: one for one in prunable(conversation, unknown, named, deadline)}
        except OutOfTime as e:
            plan.late = e.message
            return plan
        for index in unknown:
            one = found.get(index)
            if one is not None and one.why is None:
                plan.jobs.append(one)
            else:
                self._decided(plan, index, Outcome(parts=(_left(index, one.why),) if one and one.why else ()))
        return plan

    def _decided(self, plan: _Plan, index: int, outcome: Outcome) -> None:
        """Remember what becomes of a message, for this request and for those that go on from it."""
        plan.known[index] = outcome
        for digest in {plan.keys[index].asked, plan.keys[index].history}:
            self._outcomes.put(digest, outcome, outcome.size)

    def _seed(self, exchange: Exchange, policy: CompressionPolicy) -> bytes:
        """Whatever decides beside the messages; the tenant's name keeps what is remembered apart."""
        strings = tuple(exchange.facts.get("keep") or ())
        context = policy.context
        said = repr((exchange.tenant.name, context.recall, policy.floor, strings))
        return extend(b"prune", said.encode("utf-8", "surrogatepass"))

    async def _work(self, exchange: Exchange, policy: CompressionPolicy, plan: _Plan, deadline: Deadline) -> str | None:
        """Prune what is new; why that was not done, if it was not."""
        try:
            vectors = await self._vectors(exchange, plan.jobs, deadline)
        except TimeoutError:
            return "the embedder was too slow"
        except TrimtabError as e:
            return e.message
        strings = tuple(exchange.facts.get("keep") or ())
        try:
            made = await self._pool.run(
                lambda d: self._prune(plan, policy, _terms(exchange, policy), strings, vectors, d),
                deadline,
                len(plan.conversation.raw),
            )
        except OutOfTime as e:
            return e.message
        for index, outcome in made.items():
            self._decided(plan, index, outcome)
        return None

    async def _vectors(self, exchange: Exchange, jobs: Sequence[Prunable], deadline: Deadline) -> Any:
        """One row a text: each job's question, then its units. A wait that is given up does not stop the embedder."""
        from .evidence import embedded_text

        assert self._embedder is not None
        texts: list[str] = []
        for job in jobs:
            assert job.material is not None
            texts += [job.query, *(embedded_text(unit) for unit in job.material.units)]
        async with asyncio.timeout(deadline.left):
            return await self._embedder.embed(texts, tenant=exchange.tenant.name)

    def _prune(
        self,
        plan: _Plan,
        policy: CompressionPolicy,
        terms: Terms,
        strings: Sequence[str],
        vectors: Any,
        deadline: Deadline,
    ) -> dict[int, Outcome]:
        from .conformal import shipped
        from .material import without
        from .pruner import Terms as Wanted
        from .pruner import select

        calibration = self._calibration or shipped()
        made: dict[int, Outcome] = {}
        at = 0
        for job in plan.jobs:
            assert job.material is not None
            after = at + 1 + len(job.material.units)
            floor = _worthwhile_floor(plan.conversation.messages[job.message].end // 4, terms)
            wanted = Wanted(policy.context.recall, floor, strings)
            selection = select(
                job.material, job.query, vectors[at], vectors[at + 1 : after], wanted, calibration, deadline
            )
            at = after
            if selection.why is not None:
                made[job.message] = Outcome(parts=(_left(job.message, selection.why),))
                continue
            texts = {
                span: without(passage, job.material.units, selection.kept)
                for span, passage in zip(job.spans, job.material.passages, strict=True)
            }
            saved = sum(estimate(span.text) - estimate(text) for span, text in texts.items())
            changed = plan.conversation.message_bytes(job.message, texts)
            where = f"messages[{job.message}]"
            parts = [Part(_named(kind, count), where, count=count) for kind, count in sorted(selection.counts.items())]
            parts[0] = Part(parts[0].what, where, saved, parts[0].count)
            made[job.message] = Outcome(changed, saved, tuple(parts))
        return made

    def _send(self, exchange: Exchange, policy: CompressionPolicy, plan: _Plan) -> Sending:
        """Ask the gate, per message, between what came and what was made of it."""
        conversation = plan.conversation
        tokens = self._sizes.of(conversation)
        changed: list[bytes | None] = []
        after: list[int] = []
        for message, whole in zip(conversation.messages, tokens, strict=True):
            outcome = plan.known.get(message.index)
            if outcome is None or outcome.changed is None:
                changed.append(conversation.raw[message.start : message.end])
                after.append(whole)
            else:
                changed.append(outcome.changed)
                after.append(max(1, whole - outcome.saved))
        tools = bytes(exchange.working.fields.get("tools", b""))
        size = estimate_bytes(tools) if tools else 0
        versions = Versions(conversation, tuple(changed), tuple(tokens), tuple(after), Option(tools, tools, size, size))
        keep = sum(after) / max(1, sum(tokens))
        terms = _terms(exchange, policy)
        target = _target(exchange)
        sending = choose(versions, self._memory, exchange.tenant.name, target, terms, self._clock(), keep)
        self._memory.store(exchange.tenant.name, target, sending.digests, self._clock())
        return sending

    def _sent_whole(self, exchange: Exchange, conversation: Conversation) -> None:
        """Remember that it went as it came: pruned on the next turn, it would not be what the provider holds."""
        pieces = [conversation.raw[message.start : message.end] for message in conversation.messages]
        tools = bytes(exchange.working.fields.get("tools", b""))
        self._memory.remember(exchange.tenant.name, _target(exchange), [tools, *pieces], self._clock())

    def _apply(self, exchange: Exchange, plan: _Plan, sending: Sending, late: str | None) -> None:
        parts: list[Part] = []
        for index, outcome in sorted(plan.known.items()):
            if outcome.changed is None or sending.taken[index]:
                parts += outcome.parts
            else:
                parts.append(_left(index, "it was sent whole before, and the provider may hold it"))
        if sending.raw is None:
            exchange.note(self.name, "left alone", sending.decision.reason, parts=parts)
            return
        field = plan.conversation.field
        exchange.working = exchange.working.with_fields(**{field: msgspec.Raw(sending.raw)})
        exchange.facts["pruned_tokens"] = sending.tokens_before - sending.tokens_after
        exchange.note(
            self.name,
            "pruned",
            late,
            tokens_before=sending.tokens_before,
            tokens_after=sending.tokens_after,
            saved_microusd=sending.decision.saved_microusd,
            parts=parts,
        )


def _target(exchange: Exchange) -> str:
    return exchange.targets[0].name if exchange.targets else ""


def _terms(exchange: Exchange, policy: CompressionPolicy) -> Terms:
    target = exchange.targets[0] if exchange.targets else None
    price, backend, model = (target.price, target.backend, target.upstream_model) if target else (Price(), "", "")
    output = exchange.working.max_output
    expected = _EXPECTED_OUTPUT if output is None else min(output, _EXPECTED_OUTPUT)
    return Terms.of(price, backend, model, usd_per_s=policy.usd_per_s, floor=policy.floor, output=expected)


def _worthwhile_floor(tokens: int, terms: Terms) -> float:
    """How little of a request of so many tokens is worth keeping: below half of it, answers are expected to grow."""
    if terms.floor >= HARMLESS:
        return terms.floor
    saved = (HARMLESS - terms.floor) * tokens * terms.weights.input
    lost = (expansion(terms.floor) - 1) * terms.output * terms.weights.output
    return terms.floor if saved > lost else HARMLESS


def _left(message: int, why: str) -> Part:
    return Part("left whole", f"messages[{message}]", why=why)


def _named(kind: str, count: int) -> str:
    names = {"item": "list item", "row": "table row", "code": "code block"}
    name = names.get(kind, kind)
    return f"{name} left out" if count == 1 else f"{name}s left out"

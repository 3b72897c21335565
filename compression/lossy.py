"""The tiers that an answer could change by, in their order, each only where the tenant asked for it.

    tools           that do not bear on the question   tool_choice.py
    old turns       dropped, or summarised             turns.py, summaries.py
    demonstrations  dropped whole                      demonstrations.py
    prose           without unsurprising words         surprise.py

Large things first, so that nothing is spent on what goes anyway. After each tier stands a check: what would leave less
than the policy's floor, or would lose a text that the caller wants kept, is not done. The tiers are imported on the
threads and when a tenant first uses them: they need numpy.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from ..protocol.errors import TrimtabError
from ..protocol.exchange import Exchange, Part
from .deadline import Deadline, OutOfTime
from .draft import Draft
from .memo import Recent, Sizes
from .policy import CompressionPolicy
from .pool import Busy, Pool
from .prefix import extend
from .proposal import Proposal
from .spans import Conversation
from .tool_sharing import share

if TYPE_CHECKING:
    from .summaries import Summaries, Summariser
    from .surprise import Prose, Scorer
    from .tool_choice import ToolsProposal

T = TypeVar("T")
Vectors = Mapping[str, Any]  # a text's unit vector: a row of numpy's, which is not imported here

TOOLS = "tools that do not bear on the question"
_TOOL_SETS = 8 << 20  # bytes of tool sets that are kept
TURNS = "oldest turns"
DEMONSTRATIONS = "demonstrations"
PROSE = "unsurprising words"
SUMMARY_SECONDS = 10.0  # a whole answer of a small model; where there is none by then, the turns stay
_COUNTING_SECONDS = 0.2
_LOADING_SECONDS = 2.0  # numpy, once
_MOST_READERS = 256


class Embedder(Protocol):
    """What this room needs of one: unit vectors, in order. May raise anything of the error tree."""

    async def embed(self, texts: Sequence[str], *, tenant: str = "") -> Any: ...


@dataclass(slots=True)
class _Run:
    """One request, and the seconds that are left for what needs no model."""

    exchange: Exchange
    policy: CompressionPolicy
    whole: int  # tokens of what the client sent, before any stage
    tools: int  # those of them that are the tools
    seconds: float

    def too_little(self, keep: float) -> str | None:
        floor = self.policy.floor
        return f"it would leave {keep:.0%}, and the floor is {floor:.0%}" if keep < floor else None


class Lossy:
    """Runs the tiers that a policy names. What a tier cannot do in time is left out, with a word on the receipt.

    `embedder` may be set and changed at any time; without one, words alone decide what is alike.
    """

    def __init__(
        self,
        pool: Pool,
        sizes: Sizes,
        clock: Callable[[], float],
        summariser: Callable[[Exchange], Summariser | None] | None = None,
        scorer: Callable[[str | None], Scorer | None] | None = None,
    ) -> None:
        """`scorer` gives the model of a name that reads prose (None: the first there is), if there is one."""
        self.embedder: Embedder | None = None
        self._pool = pool
        self._sizes = sizes
        self._clock = clock
        self._summariser = summariser
        self._scorer = scorer
        self._summaries: Summaries | None = None
        self._introductions: Recent[tuple[tuple[bytes, Part] | None]] = Recent(_TOOL_SETS)
        # One for each tenant: what is warm must not tell one what another has sent.
        self._readers: OrderedDict[tuple[str, str | None], tuple[Scorer, Prose]] = OrderedDict()

    async def __call__(
        self, draft: Draft, exchange: Exchange, policy: CompressionPolicy, patience: float = 0.0
    ) -> Draft:
        """The draft after every tier that did something; `patience`: seconds beside the policy's deadline to wait for a
        thread. Raises OutOfTime or Busy before the first."""
        whole = await self._client_tokens(draft, exchange)
        run = _Run(exchange, policy, whole, draft.tools_tokens, policy.deadline_ms / 1000 + patience)
        if "tools" in draft.request.fields and (policy.tools.enabled or policy.tools.share):
            draft = await self._shorter_tools(draft, run)
        if policy.turns.enabled:
            draft = await self._tier(draft, run, TURNS, self._turns)
        if policy.demonstrations.enabled:
            draft = await self._tier(draft, run, DEMONSTRATIONS, self._demonstrations)
        if policy.prose.enabled:
            draft = await self._tier(draft, run, PROSE, self._prose)
        return draft

    async def _tier(self, draft: Draft, run: _Run, what: str, tier: Callable[[Draft, _Run], Any]) -> Draft:
        try:
            proposal: Proposal = await tier(draft, run)
            if not proposal:
                return draft.saying(proposal.parts)
            made = await self._timed(run, lambda d: draft.after(proposal, d))
            if made is None:
                return draft.without(what, "the result could not be read")
            texts = await self._tokens(made.conversation)
            lost = await self._lost(draft, made, run)
        except (OutOfTime, Busy) as e:
            return draft.without(what, e.message)
        except ImportError as e:
            return draft.without(what, f"{e.name} is not installed")
        why = run.too_little((texts + made.tools_tokens) / max(1, run.whole))
        if why is None and lost:
            why = "a text that the caller keeps would go"
        keep = (texts + run.tools) / max(1, run.whole)
        return replace(made, keep=min(keep, draft.keep)) if why is None else draft.without(what, why)

    async def _lost(self, draft: Draft, made: Draft, run: _Run) -> bool:
        """Whether a text went that the caller wants kept. Looking for many in much takes a thread its time."""
        keep: Sequence[str] = run.exchange.facts.get("keep") or ()
        return bool(keep) and await self._pool.run(
            lambda d: draft.has_lost(keep, made, d), self._patience(), whose=run.exchange.tenant.name
        )

    async def _shorter_tools(self, draft: Draft, run: _Run) -> Draft:
        """Fewer tools, then what several of them begin with said once."""
        if b"cache_control" in bytes(draft.request.fields["tools"]) or any(m.frozen for m in draft.first.messages):
            return draft.without(TOOLS, "they stand before a mark for the provider's cache")
        if run.policy.tools.enabled:
            draft = await self._tools(draft, run)
        return await self._shared(draft, run) if run.policy.tools.share else draft

    async def _shared(self, draft: Draft, run: _Run) -> Draft:
        raw = bytes(draft.request.fields["tools"]) if draft.tools is None else draft.tools
        # Known from the first turn on: to miss a deadline here would change what stands before everything else.
        key = extend(b"shared", raw)
        known = self._introductions.get(key)
        if known is None:
            try:
                known = (await self._timed(run, lambda deadline: share(raw, deadline)),)
            except (OutOfTime, Busy) as e:
                return draft.without(TOOLS, e.message)
            self._introductions.put(key, known, 256 + sum(len(made[0]) for made in known if made))
        (made,) = known
        return draft if made is None else replace(draft, tools=made[0]).saying([made[1]])

    async def _tools(self, draft: Draft, run: _Run) -> Draft:
        raw, choice = (bytes(draft.request.fields.get(name, b"")) for name in ("tools", "tool_choice"))

        def texts(_: Deadline) -> list[str]:
            from .tool_choice import wanted

            return wanted(draft.conversation, raw)

        def chosen(deadline: Deadline) -> ToolsProposal:
            from .tool_choice import tools

            return tools(draft.conversation, raw, run.policy.tools, deadline, vectors, choice)

        try:
            vectors = await self._vectors(texts, run)
            made = await self._timed(run, chosen)
        except (OutOfTime, Busy) as e:
            return draft.without(TOOLS, e.message)
        except ImportError as e:
            return draft.without(TOOLS, f"{e.name} is not installed")
        if made.raw is None:
            return draft.saying(made.parts)
        shorter = replace(draft, tools=made.raw)
        keep = 1 - (draft.tools_tokens - shorter.tools_tokens) / max(1, run.whole)
        why = run.too_little(keep)
        return shorter.saying(made.parts) if why is None else draft.without(TOOLS, why)

    async def _turns(self, draft: Draft, run: _Run) -> Proposal:
        from .turns import find, marked

        policy = run.policy.turns
        cuts = await self._timed(run, lambda deadline: find(draft.conversation, policy, deadline))
        summariser = self._summariser(run.exchange) if policy.summarise and self._summariser and cuts.moves else None
        if summariser is None:
            return marked(draft.conversation, cuts)
        if self._summaries is None:
            from .summaries import Summaries

            self._summaries = Summaries()
        patience = Deadline(SUMMARY_SECONDS, self._clock)
        whose = run.exchange.tenant.name
        return await self._summaries.summarised(draft.conversation, cuts, summariser, patience, whose)

    async def _demonstrations(self, draft: Draft, run: _Run) -> Proposal:
        def texts(deadline: Deadline) -> list[str]:
            from .demonstrations import wanted

            return wanted(draft.conversation, deadline)

        def left(deadline: Deadline) -> Proposal:
            from .demonstrations import demonstrations

            return demonstrations(draft.conversation, run.policy.demonstrations, deadline, vectors)

        vectors = await self._vectors(texts, run)
        return await self._timed(run, left)

    async def _prose(self, draft: Draft, run: _Run) -> Proposal:
        policy = run.policy.prose
        scorer = self._scorer(policy.scorer) if self._scorer is not None else None
        if scorer is None:
            return Proposal(parts=[Part(PROSE, count=0, why="no model is configured that could read it")])
        key = (run.exchange.tenant.name, policy.scorer)
        known = self._readers.pop(key, None)
        if known is None or known[0] is not scorer:
            known = scorer, await self._pool.run(lambda _: _reader(scorer), Deadline(_LOADING_SECONDS, self._clock))
        self._readers[key] = known
        if len(self._readers) > _MOST_READERS:
            self._readers.popitem(last=False)
        return await known[1](draft.conversation, policy, Deadline(policy.deadline_ms / 1000, self._clock))

    async def _timed(self, run: _Run, work: Callable[[Deadline], T]) -> T:
        """Work of a tier without a model: all of it together has the policy's `deadline_ms`."""
        started = self._clock()
        try:
            return await self._pool.run(work, Deadline(run.seconds, self._clock), whose=run.exchange.tenant.name)
        finally:
            run.seconds = max(0.0, run.seconds - (self._clock() - started))

    async def _vectors(self, texts: Callable[[Deadline], list[str]], run: _Run) -> Vectors | None:
        """Unit vectors by text; None where there is no embedder, or not in time: the tiers can do without."""
        if self.embedder is None:
            return None
        wanted = list(dict.fromkeys(await self._timed(run, texts)))
        if not wanted:
            return None
        try:
            async with asyncio.timeout(run.policy.context.deadline_ms / 1000):
                made = await self.embedder.embed(wanted, tenant=run.exchange.tenant.name)
        except (TimeoutError, TrimtabError):
            return None
        return dict(zip(wanted, made, strict=True))

    async def _client_tokens(self, draft: Draft, exchange: Exchange) -> int:
        """What the client sent, before any stage: the floor is a share of that."""
        sent: Conversation | None = draft.first
        if exchange.working is not exchange.original:
            sent = await self._pool.run(lambda d: Conversation.read(exchange.original, d), self._patience())
        return await self._tokens(sent or draft.first) + draft.tools_tokens

    async def _tokens(self, conversation: Conversation) -> int:
        return sum(await self._pool.run(lambda d: self._sizes.of(conversation, d), self._patience()))

    def _patience(self) -> Deadline:
        return Deadline(_COUNTING_SECONDS, self._clock)


def _reader(scorer: Scorer) -> Prose:
    from .surprise import Prose

    return Prose(scorer)

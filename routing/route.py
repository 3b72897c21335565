"""The `route` stage: who should answer?

It gathers the facts of one request (what it needs, how the two models do, what is thought of the prompt), lets the
router decide, and ranks the targets. What it waits for is the prompt's vector, within the policy's deadline, and only
where a goal needs one. Whatever it cannot find out, the large model answers and the receipt says so. A request without
a pair, or of a tenant without a goal, costs next to nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from ..protocol.embedded import Embeds, asked, embed_once
from ..protocol.errors import InvalidRequest, TrimtabError
from ..protocol.exchange import Exchange, Routed, Target
from .asking import LATER, NOTHING, Asking, Decision, State, Thought, asking
from .choose import Known, able
from .features import features
from .needs import incomparable, session_of
from .pins import session_key
from .plan import conversation
from .policy import RoutePolicy
from .recorder import Sampled
from .router import Router
from .rules import Rule
from .second_look import FACT as LOOK
from .second_look import SecondLook, first_try

if TYPE_CHECKING:
    from .bound import Bound
    from .standing import Standing

log = logging.getLogger("trimtab.routing")

FACT = "routed"  # where the decision rides on the exchange


class World(Protocol):
    """What the stage is to know of the gateway around it. Nothing here waits."""

    @property
    def embedder(self) -> Embeds | None: ...

    def route(self, exchange: Exchange) -> str:
        """The name of the route that was asked for, aliases resolved."""
        ...

    def state(self, target: Target, stream: bool) -> State: ...

    def bound(self, route: str) -> Bound | str:
        """The route's calibration, or why there is none."""
        ...

    def standing(self, tenant: str, route: str, bound: Bound) -> Standing:
        """What is remembered of the tenant's route; read from where it is kept, if need be, behind our back."""
        ...

    def decided(self, decision: Decision) -> None:
        """A decision was made; for metrics, and for what is to be read afresh behind our back."""
        ...


class Alone:
    """A World in which nothing is known: rules and capabilities decide, else the large model."""

    embedder: Embeds | None = None

    def route(self, exchange: Exchange) -> str:
        return exchange.receipt.model

    def state(self, target: Target, stream: bool) -> State:
        return State()

    def bound(self, route: str) -> Bound | str:
        return "there are no calibrations here"

    def standing(self, tenant: str, route: str, bound: Bound) -> Standing:
        raise LookupError("nothing is remembered without a calibration")

    def decided(self, decision: Decision) -> None: ...


class Route:
    """`chance`: uniform in 0 to 1, decides what is audited."""

    name = "route"
    waits = True

    def __init__(self, router: Router, world: World, chance: Callable[[], float]) -> None:
        self.router = router
        self._world = world
        self._chance = chance

    async def __call__(self, exchange: Exchange) -> None:
        if exchange.pair is None:
            exchange.note(self.name, "off", "there is nothing to choose between")
            return
        policy = exchange.policy(RoutePolicy)
        small, large = (next(t for t in exchange.targets if t.name == name) for name in exchange.pair)
        stream = exchange.original.stream
        ask = asking(
            exchange, policy, (small, large), (self._world.state(small, stream), self._world.state(large, stream))
        )
        text = _text(exchange) if policy.scores or policy.compiled else None
        rule = self.router.rule(ask, text)
        thought = NOTHING
        if policy.scores:
            thought = await self._thought(ask, text) if rule is None else self._remembered(ask)
        looks = rule is None and text is not None and _tries(ask, thought)
        decision = Decision(ask, first_try(ask.names, thought), thought) if looks else None
        decision = decision or self.router.decide(ask, thought, rule)
        self._sample(decision, rule)
        self._rank(decision)
        if decision.choice.check:
            exchange.facts[LOOK] = SecondLook(self.router, decision, text or "", self._looked)
        else:
            self._world.decided(decision)
        if decision.audit:  # last: a stage that fails is undone, and what listens is closed with it
            exchange.recorder = Sampled(exchange.recorder, decision)

    # What is thought of the prompt.

    async def _thought(self, ask: Asking, text: str | None) -> Thought:
        route = self._world.route(ask.exchange)
        bound = self._world.bound(route)
        if isinstance(bound, str):
            return Thought(Known({}, 0.0, bound, "uncalibrated"))
        if ask.policy.cascade.enabled:
            bound = bound.looking()
        standing = self._world.standing(ask.exchange.tenant.name, route, bound)
        session = self._session(ask, route)
        if text is None:
            return Thought(Known({}, 0.0, "there is no text to go by"), standing, session=session)
        if ask.policy.value is not None and not bound.fitted:
            doubt = "`value` wants a calibration of this very pair, and the route has none"
            return Thought(Known({}, 0.0, doubt, "uncalibrated"), standing, session=session)
        vector, doubt = await self._vector(ask, text)
        if vector is None:
            return Thought(Known({}, 0.0, doubt), standing, session=session)
        try:
            guess = bound.guess(vector, features(text), ask.names)
        except ValueError as e:
            return Thought(Known({}, 0.0, str(e), "uncalibrated"), standing, session=session)
        known = self.router.known(ask, standing, guess.good, guess.distance, guess.context)
        deferral = bound.deferral if ask.policy.cascade.enabled else None
        return Thought(known, standing, guess.context, guess.good, session, deferral)

    async def _vector(self, ask: Asking, text: str) -> tuple[Any, str]:
        """The text's vector, or None and why there is none."""
        embedder = self._world.embedder
        if embedder is None:
            return None, "no embedder is installed (pip install 'trimtab[embed]')"
        deadline = ask.policy.deadline_ms
        try:
            async with asyncio.timeout(deadline / 1000):
                return await embed_once(ask.exchange, embedder, text), ""
        except TimeoutError:
            return None, f"its vector takes longer than {deadline} ms"
        except TrimtabError as e:
            return None, e.message

    def _remembered(self, ask: Asking) -> Thought:
        """Where a rule decides nothing need be thought, but the share counts it and the conversation is pinned."""
        route = self._world.route(ask.exchange)
        bound = self._world.bound(route)
        if isinstance(bound, str):
            return NOTHING
        if ask.policy.cascade.enabled:
            bound = bound.looking()
        standing = self._world.standing(ask.exchange.tenant.name, route, bound)
        return Thought(standing=standing, session=self._session(ask, route))

    def _session(self, ask: Asking, route: str) -> bytes:
        named = session_of(ask.exchange)
        return session_key(ask.exchange.tenant.name, route, conversation(ask.exchange) if named is None else named)

    # What follows from the decision.

    def _sample(self, decision: Decision, rule: Rule | None) -> None:
        """A fair sample of what was thought about, whatever was decided, is to be answered by both models."""
        ask = decision.asking
        known = decision.thought.known
        if decision.gain is None or known is None or known.distance > 1 or known.doubt or rule is not None:
            return
        if ask.exchange.receipt.kind in LATER or incomparable(ask.exchange) is not None:
            return
        if self._chance() >= ask.policy.audited:
            return
        decision.audit = True

    def _rank(self, decision: Decision) -> None:
        ask, choice = decision.asking, decision.choice
        exchange, (small, large) = ask.exchange, ask.names
        by_name = {target.name: target for target in exchange.targets}
        others = [name for name in by_name if name not in (small, large, *choice.ranked)]
        exchange.targets = tuple(by_name[name] for name in (*choice.ranked, *others))
        price = {candidate.name: candidate.cost for candidate in ask.candidates}
        priced = all(target.price.known for target in ask.targets) and choice.model in price
        gain = decision.gain
        exchange.receipt.lines = [line for line in exchange.receipt.lines if line.stage != self.name]
        exchange.note(
            self.name,
            choice.model,
            choice.reason,
            score=None if gain is None else round(gain, 4),
            saved_microusd=price[large] - price[choice.model] if priced and choice.model != large else None,
        )
        exchange.receipt.routed = routed(decision)
        exchange.facts[FACT] = decision

    def _looked(self, decision: Decision) -> None:
        """The small model's answer was seen, and the decision is the final one."""
        self._rank(decision)
        self._world.decided(decision)


def _tries(ask: Asking, thought: Thought) -> bool:
    """Whether the small model may answer first: where its answer can be looked at, and is worth looking at."""
    known, policy = thought.known, ask.policy
    if not policy.cascade.enabled or not policy.scores or known is None or known.doubt or not known.distance <= 1:
        return False
    if not set(ask.names) <= known.good.keys() or incomparable(ask.exchange) is not None:
        return False
    return all(candidate.healthy and able(candidate, ask.needs) is None for candidate in ask.candidates)


def routed(decision: Decision) -> Routed:
    """What a receipt keeps of a decision, so that another policy can be held against it later."""
    ask, thought = decision.asking, decision.thought
    known = thought.known
    distance = None if known is None or not known.good else known.distance
    return Routed(
        small=ask.names[0],
        large=ask.names[1],
        chose=decision.choice.model,
        goal=ask.policy.goal,
        why=decision.choice.why,
        good={} if known is None else {name: round(value, 4) for name, value in known.good.items()},
        distance=None if distance is None else round(distance, 3),
        prompt_tokens=ask.prompt,
        costs={candidate.name: candidate.cost for candidate in ask.candidates},
        prices={t.name: (t.price.input, t.price.cached_input, t.price.output) for t in ask.targets if t.price.known},
        session="" if thought.session is None else thought.session.hex(),
        chance=decision.chance,
        audited=decision.audit,
        calibration="" if thought.standing is None else thought.standing.key.digest,
    )


def _text(exchange: Exchange) -> str | None:
    try:
        return asked(exchange.original)
    except InvalidRequest:  # bytes that are no UTF-8, say, which some upstreams take
        return None

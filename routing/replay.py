"""What a policy would have done to recorded traffic: the live router over a log, request by request, in its own time.

The log's clock is the router's, so a share, a day's money, warm prefixes and audits come about as they would have.
Two things are left out, since nothing in a log bears them: exploring, and models that fail. Pure; knows no files.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ..protocol.exchange import Caller, Exchange, Price, Receipt, Target, Tenant
from ..protocol.messages import Request, Usage
from .asking import Asking, Thought
from .choose import Candidate, Known
from .floor import Audit, allowed
from .needs import needs
from .pins import session_key
from .policy import RoutePolicy
from .router import Router
from .standing import Standing
from .standings import Key

_TENANT = "replay"
_WORK_OUT_EVERY = 25  # audits, as bounds take tens of milliseconds


class Pair(NamedTuple):
    """The two models, by name and price."""

    small: str
    large: str
    prices: Mapping[str, Price]


@dataclass(frozen=True, slots=True)
class Recorded:
    """One request of a log. `good`: what is thought of either model's answer, `distance` of the prompt; `truth`: how
    good they were, where that is known. `tokens`: of the prompt, and of an answer by model. `at` in seconds."""

    at: float
    good: Mapping[str, float]
    distance: float | None
    prompt_tokens: int
    tokens: Mapping[str, int]
    text: str | None = None
    truth: Mapping[str, float] | None = None
    session: str | None = None
    tags: tuple[str, ...] = ()
    answered_by: str | None = None


@dataclass(slots=True)
class Outcome:
    """What became of each request, in the log's order: who answered, micro-dollars (audits in `audit_microusd`), how
    good the answer was, or is thought to be. `why`: the kinds of reasons."""

    at: list[float] = field(default_factory=list)
    models: list[str] = field(default_factory=list)
    microusd: list[int] = field(default_factory=list)
    quality: list[float] = field(default_factory=list)
    why: Counter[str] = field(default_factory=Counter)
    audits: int = 0
    audit_microusd: int = 0

    def add(self, row: Recorded, model: str, microusd: int, why: str) -> None:
        self.at.append(row.at)
        self.models.append(model)
        self.microusd.append(microusd)
        self.quality.append((row.truth or row.good).get(model, float("nan")))
        self.why[why] += 1


def cost(row: Recorded, model: str, pair: Pair) -> int:
    """Micro-dollars of the request at that model."""
    usage = Usage(prompt=row.prompt_tokens, completion=row.tokens.get(model, 0))
    return pair.prices.get(model, Price()).of(usage)


def replay(
    rows: Sequence[Recorded], pair: Pair, policy: RoutePolicy, spread: tuple[float, ...] = (), seed: int = 0
) -> Iterator[Outcome]:
    """The outcome so far, once for each row: the same object, so that a bar can move. `rows` by time."""
    chance = random.Random(seed).random  # noqa: S311
    clock = _Clock()
    router = Router(clock, chance)
    standing = Standing(Key(_TENANT, "", ""), spread, 1)
    money = router.money(_TENANT)
    outcome = Outcome()
    targets = tuple(Target(name, "", name, pair.prices.get(name, Price())) for name in (pair.small, pair.large))
    for row in rows:
        clock.now = row.at
        ask = _asking(row, pair, policy, (targets[0], targets[1]))
        decision = router.decide(ask, _thought(row, policy, standing), router.rule(ask, row.text))
        model = decision.choice.model
        charged = cost(row, model, pair)
        outcome.add(row, model, charged, decision.choice.why)
        money.settle(0, charged if model == pair.large else 0)
        router.settle_pin(decision, model, row.prompt_tokens + row.tokens.get(model, 0))
        if row.truth is not None and decision.gain is not None and chance() < policy.audited:
            _audit(row, pair, model, decision.gain, standing, outcome)
            if policy.floor is not None and outcome.audits % _WORK_OUT_EVERY == 0:
                standing.audits.bear(policy.floor, allowed(standing.audits.rows(), policy.floor))
        yield outcome


def always(rows: Sequence[Recorded], model: str, pair: Pair) -> Outcome:
    """One model for everything."""
    outcome = Outcome()
    for row in rows:
        outcome.add(row, model, cost(row, model, pair), "only")
    return outcome


def as_recorded(rows: Sequence[Recorded], pair: Pair) -> Outcome | None:
    """Whoever answered when it was recorded; None if the log does not say."""
    outcome = Outcome()
    for row in rows:
        if row.answered_by is None:
            return None
        outcome.add(row, row.answered_by, cost(row, row.answered_by, pair), "recorded")
    return outcome


class _Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def _asking(row: Recorded, pair: Pair, policy: RoutePolicy, targets: tuple[Target, Target]) -> Asking:
    request = Request.build("chat", {"model": "replay", "messages": [{"role": "user", "content": row.text or ""}]})
    receipt = Receipt(id="", tenant=_TENANT, at=row.at, tags=list(row.tags))
    exchange = Exchange("", request, request, Caller(Tenant(_TENANT)), receipt, (), row.at, targets=targets)
    small, large = (Candidate(target.name, cost=cost(row, target.name, pair)) for target in targets)
    return Asking(exchange, policy, targets, (small, large), needs(exchange, row.prompt_tokens, 0), row.prompt_tokens)


def _thought(row: Recorded, policy: RoutePolicy, standing: Standing) -> Thought:
    session = None if row.session is None else session_key(_TENANT, "", row.session)
    if not policy.scores:
        return Thought(session=session)
    if not row.good or row.distance is None:
        return Thought(Known({}, 0.0), standing, session=session)
    return Thought(Known(row.good, row.distance), standing, good=row.good, session=session)


def _audit(row: Recorded, pair: Pair, answered: str, gain: float, standing: Standing, outcome: Outcome) -> None:
    """Both models answer: the other one is paid for, and what came of it is evidence."""
    truth = row.truth or {}
    if row.distance is None or row.distance > 1 or not {pair.small, pair.large} <= truth.keys():
        return
    standing.audited(Audit(gain, truth[pair.small] >= 0.5, truth[pair.large] >= 0.5), row.at)
    outcome.audits += 1
    outcome.audit_microusd += cost(row, pair.large if answered == pair.small else pair.small, pair)

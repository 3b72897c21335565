"""What became of decisions, and what is learnt from it: what callers say, that they ask the same again at once, and
what audits find.

Decisions are remembered for a while, by request; whoever speaks of one later finds in it what the heads read. A word of
praise or blame corrects the heads for its tenant's route alone, and rings the alarm when it moves. It is no evidence
for a floor: whoever speaks was not sampled. Bounded, in this process; keeps no texts.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..protocol.exchange import Exchange
from .asking import Decision
from .evidence import rounded
from .floor import Audit

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .standing import Standing

log = logging.getLogger("trimtab.routing")

MOST = 10_000
RETRY_S = 60.0
# How much a word weighs beside an audit's: a retry may have many reasons, a correction was written by hand.
RETRIED, CORRECTED = 0.25, 2.0


@dataclass(slots=True)
class Outcome:
    """An answer that went out, and what was thought before. `retried`: the same was asked again at once."""

    tenant: str
    model: str
    standing: Standing
    context: NDArray[Any]
    good: Mapping[str, float]
    frozen: bool
    at: float
    retried: bool = False


class Learning:
    def __init__(self, most: int = MOST) -> None:
        self.counts: Counter[str] = Counter()
        self._most = most
        self._outcomes: OrderedDict[str, Outcome] = OrderedDict()
        self._asked: OrderedDict[bytes, Outcome] = OrderedDict()

    def answered(self, decision: Decision, model: str, request_id: str, now: float) -> None:
        """One of the pair has answered; a request that is the same as one answered within the minute speaks against
        that one's answer."""
        thought, policy = decision.thought, decision.asking.policy
        if thought.standing is None or thought.context is None or thought.good is None or model not in thought.good:
            return
        exchange = decision.asking.exchange
        outcome = Outcome(
            exchange.tenant.name, model, thought.standing, thought.context, thought.good, policy.frozen, now
        )
        _keep(self._outcomes, request_id, outcome, self._most)
        _keep(self._asked, _words(exchange), outcome, self._most)

    def asked(self, exchange: Exchange, now: float) -> None:
        """Before a request is answered: was the same answered a moment ago? Each answer is doubted so once."""
        before = self._asked.get(_words(exchange))
        if before is None or before.retried or not 0 <= now - before.at <= RETRY_S:
            return
        before.retried = True
        self.counts["retried"] += 1
        self._learn(before, 0.0, RETRIED, now)

    def said(self, tenant: str, request_id: str, wrong: bool, corrected: bool, now: float) -> bool:
        """A caller's word on an answer; whether there was something to learn it for."""
        outcome = self._outcomes.get(request_id)
        if outcome is None or outcome.tenant != tenant:
            return False
        self.counts["wrong" if wrong else "right"] += 1
        self._learn(outcome, 0.0 if wrong else 1.0, CORRECTED if corrected else 1.0, now)
        return not outcome.frozen

    def audited(self, decision: Decision, good: Mapping[str, bool], now: float) -> None:
        """Both models have answered; `good` by model."""
        thought = decision.thought
        standing, context, expected = thought.standing, thought.context, thought.good
        if standing is None or context is None or expected is None:
            return
        small, large = decision.asking.names
        score = rounded(expected[large] - expected[small])
        standing.audited(Audit(score, good[small], good[large]), now)
        for model in (small, large):
            outcome = Outcome("", model, standing, context, expected, decision.asking.policy.frozen, now)
            self._learn(outcome, float(good[model]), 1.0, now)

    def _learn(self, outcome: Outcome, reward: float, weight: float, now: float) -> None:
        standing, model = outcome.standing, outcome.model
        expected = outcome.good[model]
        corrected = min(1.0, max(0.0, expected + standing.bandit.correction(model, outcome.context)))
        if weight >= 1 and standing.drift.seen(model, corrected, reward, now):
            self.counts["drift"] += 1
            log.warning("the answers to %s's route %r are not what they were", standing.key.tenant, standing.key.route)
            standing.alarmed = True
        if not outcome.frozen:
            standing.bandit.learn(model, outcome.context, reward, expected, weight)


def _keep(held: OrderedDict[Any, Outcome], key: Any, outcome: Outcome, most: int) -> None:
    held[key] = outcome
    held.move_to_end(key)
    if len(held) > most:
        held.popitem(last=False)


def _words(exchange: Exchange) -> bytes:
    """Whose words they are, and which: everything that was said so far."""
    raw = exchange.original.fields.get("messages") or exchange.original.fields.get("prompt") or b""
    who = f"{exchange.tenant.name}\0{exchange.receipt.model}\0{exchange.receipt.end_user or ''}\0"
    return hashlib.blake2b(who.encode("utf-8", "surrogatepass") + bytes(raw), digest_size=12).digest()

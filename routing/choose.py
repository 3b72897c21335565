"""Who should answer this request: the router's decision, from facts that are handed in.

First what a model can do at all (`able`), then the operator's rules, then the policy's goal; last, whether the
conversation's cached prefix is worth more than the switch (affinity.py). Without enough in-domain evidence, or for a
prompt far from what was calibrated, the large model answers and the reason says so. Pure: no clock, no random, no I/O;
the state of a share or a budget is worked out by the caller's `share`, `floor` and `pacing` objects beforehand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from .floor import Allowed
from .rules import Rule

Goal = Literal["floor", "large_share", "usd_per_day", "small_only", "large_only", "value"]


@dataclass(frozen=True, slots=True)
class Needs:
    """What the request cannot do without. `tokens`: its prompt and the planned answer; `output`: the answer alone."""

    tokens: int = 0
    output: int = 0
    tools: bool = False
    vision: bool = False
    json: bool = False


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model as it is now. `context`, `longest_answer`: in tokens, None if unknown; `cost`: of this request in
    micro-dollars, planned answer and cached prefix included; `healthy`: its breaker is closed."""

    name: str
    context: int | None = None
    longest_answer: int | None = None
    tools: bool = True
    vision: bool = True
    json: bool = True
    cost: int = 0
    healthy: bool = True
    latency_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Known:
    """What is thought of the prompt. `good`: P(good) by model, `distance`: above 1 is out of domain."""

    good: Mapping[str, float]
    distance: float

    def gain(self, small: str, large: str) -> float:
        return self.good[large] - self.good[small]


@dataclass(frozen=True, slots=True)
class Aim:
    """The policy's goal with what it needs now. `floor`: see floor.allowed; `is_large`: whether a gain is within the
    share that the large model may answer (share.LiveShare, at the asked or the paced share), asked at most once.
    `microusd_per_good`: what one good answer is worth (the other side of lambda); `microusd_per_s`: a second's wait."""

    goal: Goal
    floor: Allowed | None = None
    is_large: Callable[[float | None], bool] | None = None
    microusd_per_good: int = 0
    microusd_per_s: int = 0


@dataclass(frozen=True, slots=True)
class Choice:
    """`ranked`: whom to try, in order. `advantage`: what the first is worth over the second, in micro-dollars, for
    affinity.stay; `sure`: whether a switch back is not to be considered (a rule, a capability, a promise)."""

    ranked: tuple[str, ...]
    reason: str
    advantage: int = 0
    sure: bool = True
    known: Known | None = None

    @property
    def model(self) -> str:
        return self.ranked[0]


def able(candidate: Candidate, needs: Needs) -> str | None:
    """Why it cannot answer this, in words; None if it can, as far as is known."""
    if candidate.context is not None and needs.tokens > candidate.context:
        return f"{needs.tokens} tokens do not fit {candidate.context}"
    if candidate.longest_answer is not None and needs.output > candidate.longest_answer:
        return f"an answer of {needs.output} tokens is longer than {candidate.longest_answer}"
    for need in ("tools", "vision", "json"):
        if getattr(needs, need) and not getattr(candidate, need):
            return f"it has no {need}"
    return None


def choose(
    small: Candidate, large: Candidate, needs: Needs, aim: Aim, known: Known | None, rule: Rule | None = None
) -> Choice:
    """Never raises, and always ranks at least one model: where neither is able, the large one may say so itself.

    `known` None: there is no calibration or no vector for this prompt.
    """
    missing = {each.name: able(each, needs) for each in (small, large)}
    if missing[small.name]:
        return _alone(large, f"{small.name} cannot: {missing[small.name]}")
    if missing[large.name]:
        return _alone(small, f"{large.name} cannot: {missing[large.name]}")
    if not small.healthy or not large.healthy:
        return _by_health(small, large)
    if rule is not None:
        first, other = (small, large) if rule.goes == "small" else (large, small)
        return Choice((first.name, other.name), f"rule {rule.name or rule.goes}", known=known)
    if aim.goal == "small_only":
        return Choice((small.name,), "the policy says small_only", known=known)
    if aim.goal == "large_only":
        return Choice((large.name,), "the policy says large_only", known=known)
    return _by_goal(small, large, aim, known)


def _alone(candidate: Candidate, reason: str) -> Choice:
    return Choice((candidate.name,), reason)


def _by_health(small: Candidate, large: Candidate) -> Choice:
    first, other = (large, small) if large.healthy or not small.healthy else (small, large)
    return Choice((first.name, other.name), f"{other.name} is not healthy")


def _by_goal(small: Candidate, large: Candidate, aim: Aim, known: Known | None) -> Choice:
    doubt = _doubt(small, large, known)
    if doubt or known is None:
        # It counts within the share: what cannot be judged is the first to go to the large model.
        within = aim.is_large(None) if aim.is_large else True
        if not within and aim.goal == "usd_per_day":
            return _small(small, large, f"{doubt}, but the day's money is spent", known)
        return _large(small, large, f"{doubt}: the large model", known)
    gain = known.gain(small.name, large.name)
    if aim.goal == "floor":
        return _by_floor(small, large, aim, known, gain)
    if aim.goal == "value":
        worth = _worth(small, large, aim, gain)
        picked = _large if worth > 0 else _small
        return picked(small, large, f"a gain of {gain:.2f} is worth {worth:+d} microusd", known, abs(worth))
    if aim.is_large is None:
        return _large(small, large, f"nothing holds the policy's {aim.goal}: the large model", known)
    picked = _large if aim.is_large(gain) else _small
    side = "within" if picked is _large else "beyond"
    return picked(small, large, f"{aim.goal}: a gain of {gain:.2f} is {side} the share", known)


def _doubt(small: Candidate, large: Candidate, known: Known | None) -> str:
    if known is None:
        return "nothing is known of this prompt"
    if not {small.name, large.name} <= known.good.keys():
        return "a model of the pair is not calibrated"
    if not known.distance <= 1:
        return f"out of domain (distance {known.distance:.1f})"
    return ""


def _by_floor(small: Candidate, large: Candidate, aim: Aim, known: Known, gain: float) -> Choice:
    held = aim.floor or Allowed(None, "no audits")
    if held.highest is None or not gain <= held.highest:
        why = held.reason if held.highest is None else f"a gain of {gain:.2f} is over {held.highest:.2f}"
        return _large(small, large, f"floor: {why}", known, sure=True)
    return _small(small, large, f"floor: {held.reason}", known)


def _worth(small: Candidate, large: Candidate, aim: Aim, gain: float) -> int:
    """Quality minus lambda x cost, both in money, of the large model over the small one."""
    slower = large.latency_s - small.latency_s
    return round(gain * aim.microusd_per_good - slower * aim.microusd_per_s) - (large.cost - small.cost)


def _large(
    small: Candidate, large: Candidate, reason: str, known: Known | None, worth: int = 0, sure: bool = True
) -> Choice:
    return Choice((large.name, small.name), reason, worth, sure and worth == 0, known)


def _small(small: Candidate, large: Candidate, reason: str, known: Known | None, worth: int = 0) -> Choice:
    """The small model because nothing speaks against it: a warm prefix at the large one may."""
    return Choice((small.name, large.name), reason, worth or max(0, large.cost - small.cost), False, known)


def ranked(candidates: Sequence[Candidate], good: Mapping[str, float], aim: Aim, needs: Needs) -> list[str]:
    """More than two models, best first: those able, by quality minus lambda x cost; the unhealthy come last."""

    def value(each: Candidate) -> float:
        quality = good.get(each.name, 0.0) * aim.microusd_per_good
        return quality - each.cost - each.latency_s * aim.microusd_per_s

    fit = [each for each in candidates if able(each, needs) is None]
    return [each.name for each in sorted(fit, key=lambda each: (not each.healthy, -value(each)))]

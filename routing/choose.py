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
# What decided: a capability, health, a rule, a policy of one model; doubt of three kinds; a promise; the goal itself.
Why = Literal[
    "able", "healthy", "rule", "only", "unknown", "uncalibrated", "out of domain", "unproven", "floor", "goal",
    "no money", "explored", "stayed", "drift", "cascade", "answer",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Needs:
    """What the request cannot do without. `tokens`: its prompt and the planned answer; `output`: the answer alone."""

    tokens: int = 0
    output: int = 0
    tools: bool = False
    vision: bool = False
    audio: bool = False
    json: bool = False
    schema: bool = False


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model as it is now. `context`, `longest_answer`: in tokens, None if unknown; `cost`: of this request in
    micro-dollars, with the planned answer and without what a cached prefix saves (affinity.py); `healthy`: its breaker
    lets calls through; `latency_s`: until its first byte, 0 if unknown."""

    name: str
    context: int | None = None
    longest_answer: int | None = None
    tools: bool = True
    vision: bool = True
    audio: bool = True
    json: bool = True
    schema: bool = True
    cost: int = 0
    healthy: bool = True
    latency_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Known:
    """What is thought of the prompt. `good`: P(good) by model, `distance`: above 1 is out of domain. `doubt`: why that
    is not to be believed, if it is not, and `kind`, of which kind the doubt is."""

    good: Mapping[str, float]
    distance: float
    doubt: str = ""
    kind: Why = "unknown"

    def gain(self, small: str, large: str) -> float:
        return self.good[large] - self.good[small]


@dataclass(frozen=True, slots=True)
class Aim:
    """The policy's goal with what it needs now. `alone`: the goal names the one model that may answer. `floor`: see
    floor.allowed; `is_large`: whether a gain is within the share that the large model may answer (share.LiveShare, at
    the asked or the paced share), asked at most once. `microusd_per_good`: what one good answer is worth (the other
    side of lambda); `microusd_per_s`: a second's wait."""

    goal: Goal
    alone: bool = False
    floor: Allowed | None = None
    is_large: Callable[[float | None], bool] | None = None
    microusd_per_good: int = 0
    microusd_per_s: int = 0


@dataclass(frozen=True, slots=True)
class Choice:
    """`ranked`: whom to try, in order. `why`: the reason's kind, for a metric. `advantage`: what the first is worth
    over the second, in micro-dollars, for affinity.stay; `sure`: whether a switch back is not to be considered (a rule,
    a capability, a promise). `check`: the first one's answer is to be checked before it goes out, and the second is
    asked if it will not do (cascade.py)."""

    ranked: tuple[str, ...]
    reason: str
    why: Why = "goal"
    advantage: int = 0
    sure: bool = True
    known: Known | None = None
    check: bool = False

    @property
    def model(self) -> str:
        return self.ranked[0]


def able(candidate: Candidate, needs: Needs) -> str | None:
    """Why it cannot answer this, in words; None if it can, as far as is known."""
    if candidate.context is not None and needs.tokens > candidate.context:
        return f"{needs.tokens} tokens do not fit {candidate.context}"
    if candidate.longest_answer is not None and needs.output > candidate.longest_answer:
        return f"an answer of {needs.output} tokens is longer than {candidate.longest_answer}"
    for need in ("tools", "vision", "audio", "json", "schema"):
        if getattr(needs, need) and not getattr(candidate, need):
            return f"it has no {need}"
    return None


def choose(
    small: Candidate, large: Candidate, needs: Needs, aim: Aim, known: Known | None, rule: Rule | None = None
) -> Choice:
    """Never raises, and always ranks at least one model: where neither is able, the large one may say so itself.

    `known` None: there is no calibration or no vector for this prompt.
    """
    first, other = (small, large) if rule is not None and rule.goes == "small" else (large, small)
    if rule is not None and rule.only:
        return Choice((first.name,), f"rule {rule.name or rule.goes}", "rule", known=known)
    if rule is None and aim.alone:
        return _only(small if aim.goal == "small_only" else large, aim, needs, known)
    missing = {each.name: able(each, needs) for each in (small, large)}
    if missing[small.name]:
        return _alone(large, f"{small.name} cannot: {missing[small.name]}")
    if missing[large.name]:
        return _alone(small, f"{large.name} cannot: {missing[large.name]}")
    if not small.healthy or not large.healthy:
        return _by_health(small, large)
    if rule is not None:
        return Choice((first.name, other.name), f"rule {rule.name or rule.goes}", "rule", known=known)
    if aim.goal == "small_only":
        return Choice((small.name, large.name), "the policy says small_only", "only", known=known)
    if aim.goal == "large_only":
        return Choice((large.name, small.name), "the large model, as nothing else was asked for", "only", known=known)
    return _by_goal(small, large, aim, known)


def _only(candidate: Candidate, aim: Aim, needs: Needs, known: Known | None) -> Choice:
    """Nobody stands in, come what may: who asks for what this model cannot do is told so by the model itself."""
    missing = able(candidate, needs)
    reason = f"the policy says {aim.goal}" + (f", though {missing}" if missing else "")
    return Choice((candidate.name,), reason, "only", known=known)


def _alone(candidate: Candidate, reason: str) -> Choice:
    return Choice((candidate.name,), reason, "able")


def _by_health(small: Candidate, large: Candidate) -> Choice:
    first, other = (large, small) if large.healthy or not small.healthy else (small, large)
    return Choice((first.name, other.name), f"{other.name} is not healthy", "healthy")


def _by_goal(small: Candidate, large: Candidate, aim: Aim, known: Known | None) -> Choice:
    why, doubt = _doubt(small, large, known)
    if doubt or known is None:
        # It counts within the share: what cannot be judged is the first to go to the large model.
        within = aim.is_large(None) if aim.is_large else True
        if not within and aim.goal == "usd_per_day":
            return _small(small, large, f"{doubt}, but the day's money is spent", known, why="no money")
        return _large(small, large, f"{doubt}: the large model", known, why=why)
    gain = known.gain(small.name, large.name)
    if aim.goal == "floor":
        return _by_floor(small, large, aim, known, gain)
    if aim.goal == "value":
        worth = _worth(small, large, aim, gain)
        reason = f"a gain of {gain:.2f} is worth {worth:+d} microusd"
        if worth > 0:
            return _large(small, large, reason, known, worth, sure=False)
        return _small(small, large, reason, known, -worth)
    if aim.is_large is None:
        return _large(small, large, f"nothing holds the policy's {aim.goal}: the large model", known, why="unknown")
    picked = _large if aim.is_large(gain) else _small
    side = "within" if picked is _large else "beyond"
    return picked(small, large, f"{aim.goal}: a gain of {gain:.2f} is {side} the share", known)


def _doubt(small: Candidate, large: Candidate, known: Known | None) -> tuple[Why, str]:
    if known is None:
        return "unknown", "nothing is known of this prompt"
    if known.doubt:
        return known.kind, known.doubt
    if not {small.name, large.name} <= known.good.keys():
        return "uncalibrated", "a model of the pair is not calibrated"
    if not known.distance <= 1:
        return "out of domain", f"out of domain (distance {known.distance:.1f})"
    return "goal", ""


def _by_floor(small: Candidate, large: Candidate, aim: Aim, known: Known, gain: float) -> Choice:
    held = aim.floor or Allowed(None, "no audits")
    if held.highest is None:
        return _large(small, large, f"floor: {held.reason}", known, why="unproven")
    if not gain <= held.highest:
        return _large(small, large, f"floor: a gain of {gain:.2f} is over {held.highest:.2f}", known, why="floor")
    return _small(small, large, f"floor: {held.reason}", known, why="floor")


def _worth(small: Candidate, large: Candidate, aim: Aim, gain: float) -> int:
    """Quality minus lambda x cost, both in money, of the large model over the small one."""
    slower = large.latency_s - small.latency_s
    return round(gain * aim.microusd_per_good - slower * aim.microusd_per_s) - (large.cost - small.cost)


def _large(
    small: Candidate,
    large: Candidate,
    reason: str,
    known: Known | None,
    worth: int = 0,
    sure: bool = True,
    why: Why = "goal",
) -> Choice:
    return Choice((large.name, small.name), reason, why, worth, sure, known)


def _small(
    small: Candidate, large: Candidate, reason: str, known: Known | None, worth: int | None = None, why: Why = "goal"
) -> Choice:
    """The small model because nothing speaks against it: a warm prefix at the large one may."""
    advantage = max(0, large.cost - small.cost) if worth is None else worth
    return Choice((small.name, large.name), reason, why, advantage, False, known)


def ranked(candidates: Sequence[Candidate], good: Mapping[str, float], aim: Aim, needs: Needs) -> list[str]:
    """More than two models, best first: those able, by quality minus lambda x cost; the unhealthy come last."""

    def value(each: Candidate) -> float:
        quality = good.get(each.name, 0.0) * aim.microusd_per_good
        return quality - each.cost - each.latency_s * aim.microusd_per_s

    fit = [each for each in candidates if able(each, needs) is None]
    return [each.name for each in sorted(fit, key=lambda each: (not each.healthy, -value(each)))]

"""The router at work: what it remembers of tenants, put beside the facts of one request, gives a decision.

`choose.py` decides; here stands what it needs (the share's quantile, the day's money, what audits bear), and what may
change its mind: a little exploring, and a conversation's warm prefix. Nothing here waits. Clocks and random numbers are
handed in; knows no embedder, no store and no backend.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .affinity import Pin, lost_prefix, stay
from .asking import Asking, Decision, Thought
from .choose import Aim, Choice, Known, choose
from .floor import Allowed
from .money import DayMoney
from .needs import headers_of, incomparable
from .pins import Pins
from .route_policy import RoutePolicy
from .rules import Rule, first
from .standings import Standings

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .standing import Standing

_MOST_TENANTS = 10_000


class Router:
    """`wall`: seconds since the epoch; `chance`: uniform in 0 to 1. One event loop's, not safe between threads."""

    def __init__(self, wall: Callable[[], float], chance: Callable[[], float]) -> None:
        self.standings = Standings()
        self.pins = Pins()
        self._wall = wall
        self._chance = chance
        self._money: OrderedDict[str, DayMoney] = OrderedDict()

    def money(self, tenant: str) -> DayMoney:
        found = self._money.get(tenant)
        if found is None:
            found = self._money[tenant] = DayMoney(self._wall())
            if len(self._money) > _MOST_TENANTS:
                self._money.popitem(last=False)
        else:
            self._money.move_to_end(tenant)
        return found

    def rule(self, ask: Asking, text: str | None) -> Rule | None:
        """The first rule that holds and names a model of this route; what it `goes` to is then `small`, `large` or
        another model's name."""
        policy, exchange = ask.policy, ask.exchange
        if not policy.compiled:
            return None
        small, large = ask.names
        sides = {small: "small", large: "large", "small": "small", "large": "large"}
        known = [*sides, *(target.name for target in exchange.targets)]
        rules = [rule for rule in policy.compiled if rule.goes in known]
        found = first(rules, exchange.receipt.tags, headers_of(exchange), text or "")
        return None if found is None else replace(found, goes=sides.get(found.goes, found.goes))

    def known(
        self, ask: Asking, standing: Standing, good: Mapping[str, float], distance: float, context: NDArray[Any]
    ) -> Known:
        """What the heads say, put right by what was learnt since; but for a floor, whose audits are of the heads' own
        scores. Nothing is believed while the alarm rings."""
        if standing.drift.rings(self._wall()):
            return Known(good, distance, "answers are not what they were (drift alarm)", "drift")
        if ask.policy.floor is None:
            good = {
                model: min(1.0, max(0.0, value + standing.bandit.correction(model, context)))
                for model, value in good.items()
            }
        return Known(good, distance)

    def decide(self, ask: Asking, thought: Thought, rule: Rule | None) -> Decision:
        """Never raises for what a request holds."""
        (small, large), standing = ask.candidates, thought.standing
        asked = _Once(self._is_large(ask.policy, ask, standing))
        if rule is not None and rule.goes not in ("small", "large"):
            others = () if rule.only else (large.name, small.name)
            choice = Choice((rule.goes, *others), f"rule {rule.name or rule.goes}", "rule", known=thought.known)
        else:
            choice = choose(small, large, ask.needs, self._aim(ask, standing, asked), thought.known, rule)
        decision = Decision(ask, choice, thought)
        return self._counted(decision, counted=asked.was)

    def settle_pin(self, decision: Decision, model: str, tokens: int) -> None:
        """The conversation is with `model` now, whose cache may hold so many tokens of it."""
        if decision.thought.session is not None:
            self.pins.put(decision.thought.session, Pin(model, self._wall(), tokens))

    # What the goal needs now.

    def _aim(self, ask: Asking, standing: Standing | None, is_large: Callable[[float | None], bool]) -> Aim:
        policy = ask.policy
        return Aim(
            policy.goal,
            alone=policy.only,
            floor=self._floor(ask, standing) if policy.floor is not None else None,
            is_large=is_large if standing is not None and policy.goal in ("large_share", "usd_per_day") else None,
            microusd_per_good=policy.microusd_per_good,
            microusd_per_s=policy.microusd_per_s,
        )

    def _floor(self, ask: Asking, standing: Standing | None) -> Allowed:
        unaudited = incomparable(ask.exchange)
        if unaudited is not None:
            return Allowed(None, unaudited)
        borne = standing.audits.borne(ask.policy.floor or 0.0) if standing is not None else None
        return borne or Allowed(None, "what was audited before is being read")

    def _is_large(
        self, policy: RoutePolicy, ask: Asking, standing: Standing | None
    ) -> Callable[[float | None], bool] | None:
        if standing is None:
            return None
        live = standing.share
        share = self._part(policy, ask)

        def within(gain: float | None) -> bool:
            if gain is None:
                if policy.usd_per_day is not None and share <= 0:
                    live.take_small()
                    return False
                live.take_large()
                return True
            return live.is_large(gain, share)

        return within

    def _part(self, policy: RoutePolicy, ask: Asking) -> float:
        per_day = policy.microusd_per_day
        if per_day is None:
            return policy.large_share or 0.0
        now, money = self._wall(), self.money(ask.exchange.tenant.name)
        money.arrived(ask.candidates[1].cost, now)
        return money.share(per_day, now)

    # What may change its mind.

    def _counted(self, decision: Decision, counted: bool = False) -> Decision:
        ask, standing = decision.asking, decision.thought.standing
        policy = ask.policy
        broke = policy.usd_per_day is not None and self._broke(ask)
        if standing is not None and not counted:
            self._take(standing, decision)
        if decision.choice.why == "goal":
            self._explore(decision, broke)
        if broke and decision.choice.why not in ("able", "rule"):
            decision.choice = replace(decision.choice, ranked=(ask.names[0],), why="no money")
        self._stay(decision)
        if standing is not None:
            standing.share.turned(decision.choice.model == ask.names[1])
        return decision

    def _broke(self, ask: Asking) -> bool:
        money = self.money(ask.exchange.tenant.name)
        return money.share(ask.policy.microusd_per_day or 0, self._wall()) <= 0

    def _take(self, standing: Standing, decision: Decision) -> None:
        if decision.choice.model == decision.asking.names[1]:
            standing.share.take_large()
        else:
            standing.share.take_small()

    def _explore(self, decision: Decision, broke: bool) -> None:
        """A little of the traffic goes to the other model, so that what is thought of it stays true."""
        ask, standing, choice = decision.asking, decision.thought.standing, decision.choice
        explored = ask.policy.explored
        if standing is None or not explored or decision.thought.context is None or len(choice.ranked) < 2:
            return
        other = choice.ranked[1]
        if broke and other == ask.names[1]:
            return
        standing.bandit.most_explored = explored
        pick = standing.bandit.pick(choice.model, [other], decision.thought.context, self._chance())
        decision.chance = pick.chance
        if pick.explored:
            decision.explored = True
            reason = f"explored: {choice.reason}"
            decision.choice = replace(choice, ranked=(other, choice.model), reason=reason, why="explored", sure=True)

    def _stay(self, decision: Decision) -> None:
        """A conversation stays with its model where that is worth more than the choice."""
        choice, session = decision.choice, decision.thought.session
        if choice.sure or session is None or len(choice.ranked) < 2:
            return
        now = self._wall()
        pin = self.pins.get(session, now)
        if pin is None or pin.model not in choice.ranked[1:2]:
            return
        price = next(target.price for target in decision.asking.targets if target.name == pin.model)
        lost = lost_prefix(pin, price.input, price.cached_input, now)
        found = stay(pin, choice.model, choice.advantage, lost)
        if found.stays:
            decision.stayed = True
            ranked = (pin.model, choice.model)
            decision.choice = replace(choice, ranked=ranked, reason=f"{found.reason} ({choice.reason})", why="stayed")


class _Once:
    """Asks the share, and knows whether it was asked: then it has counted the request already."""

    def __init__(self, ask: Callable[[float | None], bool] | None) -> None:
        self._ask = ask
        self.was = False

    def __call__(self, gain: float | None) -> bool:
        self.was = True
        return self._ask(gain) if self._ask is not None else True

"""The router over simulated traffic: promises hold whatever comes, and in doubt the large model answers."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.protocol.exchange import Caller, Exchange, Price, Receipt, Target, Tenant
from trimtab.protocol.messages import Request
from trimtab.routing.affinity import Pin
from trimtab.routing.asking import Asking, Decision, State, Thought, asking
from trimtab.routing.choose import Known
from trimtab.routing.evidence import rounded
from trimtab.routing.floor import Audit, allowed
from trimtab.routing.policy import RoutePolicy
from trimtab.routing.router import Router
from trimtab.routing.standing import Standing
from trimtab.routing.standings import Key, Standings

NOON = 20_000 * 86_400 + 43_200.0
SMALL = Target("small", "fake", "small", Price(100_000, 50_000, 400_000, known=True))
LARGE = Target("large", "fake", "large", Price(2_000_000, 500_000, 8_000_000, known=True))
SPARE = Target("spare", "fake", "spare")
CONTEXT = np.ones(4)


class World:
    """A router with a clock and dice of its own, and one tenant's route."""

    def __init__(self, seed: int = 1, **policy: Any) -> None:
        self.now, self.dice = NOON, random.Random(seed)
        self.router = Router(lambda: self.now, self.dice.random)
        self.policy = RoutePolicy(**policy)
        self.standing = Standing(Key("acme", "auto", "x"), (), len(CONTEXT))

    def ask(
        self, tags: list[str] | None = None, states: tuple[State, State] = (State(), State()), **fields: Any
    ) -> Asking:
        messages = [{"role": "user", "content": "hi"}]
        request = Request.build("chat", {"model": "auto", "messages": messages, "max_tokens": 100, **fields})
        receipt = Receipt("r", "acme", 0.0, model="auto", tags=tags or [])
        exchange = Exchange("r", request, request, Caller(Tenant("acme")), receipt, [], 0.0)
        exchange.targets, exchange.pair = (LARGE, SMALL, SPARE), ("small", "large")
        return asking(exchange, self.policy, (SMALL, LARGE), states)

    def thought(self, gain: float, distance: float = 0.5, session: bytes | None = None) -> Thought:
        good = {"small": 0.5 - gain / 2, "large": 0.5 + gain / 2}
        known = self.router.known(self.ask(), self.standing, good, distance, CONTEXT)
        return Thought(known, self.standing, CONTEXT, good, session)

    def decide(self, gain: float, distance: float = 0.5, session: bytes | None = None, **ask: Any) -> Decision:
        asked = self.ask(**ask)
        thought = self.thought(gain, distance, session)
        return self.router.decide(asked, thought, self.router.rule(asked, "hi"))

    def audit(self, gain: float, small_good: bool, count: int) -> None:
        for _ in range(count):
            self.standing.audited(Audit(rounded(gain), small_good, True), self.now)
        if self.policy.floor is not None:
            self.standing.audits.work_out(self.policy.floor)


gains = st.lists(st.tuples(st.floats(-1, 1), st.floats(0, 2)), min_size=1, max_size=80)


@given(gains, st.integers(0, 300), st.floats(-0.5, 0.5), st.floats(0.5, 0.99))
@settings(max_examples=60)
def test_below_a_floor_the_small_model_answers_only_what_audits_bear(
    asked: list[tuple[float, float]], audits: int, proven: float, floor: float
) -> None:
    world = World(floor=floor)
    world.audit(proven, True, audits)
    borne = allowed(world.standing.audits.rows(), floor).highest
    for gain, distance in asked:
        found = world.decide(gain, distance)
        if found.choice.model == "small":
            assert borne is not None
            assert gain <= borne + 1e-9
            assert distance <= 1
        assert not found.explored


@given(gains, st.integers(0, 50))
@settings(max_examples=40)
def test_out_of_domain_the_large_model_answers_under_every_goal(asked: list[tuple[float, float]], seed: int) -> None:
    for policy in ({"floor": 0.5}, {"large_share": 0.0, "explore": 0.1}, {"value": 1}, {"usd_per_day": 1000}):
        world = World(seed, **policy)
        for gain, distance in asked:
            if distance > 1:
                assert world.decide(gain, distance).choice.model == "large"


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("explore", [0.0, 0.01])
def test_the_share_comes_about_with_exploring_and_staying(share: float, explore: float) -> None:
    world = World(large_share=share, explore=explore)
    large = 0
    for at in range(2_000):
        session = b"%d" % (at // 4)
        found = world.decide(world.dice.gauss(0.2, 0.1), session=session)
        large += found.choice.model == "large"
        world.router.settle_pin(found, found.choice.model, 40)
    assert large / 2_000 == pytest.approx(share, abs=0.02)
    assert world.standing.share.realised == pytest.approx(large / 2_000)


def test_what_goes_to_the_large_model_for_other_reasons_is_made_up_for() -> None:
    world = World(large_share=0.3, rules=[{"goes": "large", "tag": "legal"}])
    got = []
    for at in range(2_000):
        tagged = at % 5 == 0
        found = world.decide(
            world.dice.gauss(0.2, 0.1), 2.0 if at % 20 == 1 else 0.5, tags=["legal"] if tagged else None
        )
        got.append(found.choice.model)
        assert not tagged or got[-1] == "large"
    assert got.count("large") / 2_000 == pytest.approx(0.3, abs=0.02)


@pytest.mark.parametrize("explore", [0.01, 0.05])
def test_exploring_is_capped_and_told(explore: float) -> None:
    world = World(large_share=0.5, explore=explore)
    found = [world.decide(world.dice.gauss(0.2, 0.1)) for _ in range(4_000)]
    explored = [one for one in found if one.explored]
    assert 0 < len(explored) / 4_000 <= explore * 1.3
    assert all(one.choice.why == "explored" and one.chance == explore for one in explored)
    assert not any(World(large_share=0.5, frozen=True).decide(0.2).explored for _ in range(500))


@given(st.lists(st.tuples(st.floats(-0.5, 0.5), st.integers(0, 600)), max_size=120), st.integers(0, 30_000))
@settings(max_examples=40)
def test_a_days_money_is_never_overdrawn(asked: list[tuple[float, int]], microusd: int) -> None:
    """Every answer costs what was planned, and comes later."""
    world = World(usd_per_day=f"{microusd / 1e6:.6f}", explore=0.0)
    money, spent, flying = world.router.money("acme"), 0, []
    for gain, seconds in asked:
        world.now += seconds
        found = world.decide(gain)
        if found.choice.model == "large":
            cost = found.asking.candidates[1].cost
            money.hold(cost)
            flying.append(cost)
        if len(flying) > 3:
            money.settle(flying[0], flying[0])
            spent += flying.pop(0)
        assert spent + sum(flying) <= microusd
        if spent + sum(flying) + found.asking.candidates[1].cost > microusd:
            assert "large" not in world.decide(gain).choice.ranked


def test_a_conversation_stays_both_ways_while_that_pays() -> None:
    world = World(large_share=0.0, explore=0.0)
    world.router.pins.put(b"s", Pin("large", world.now, 100_000))
    assert world.decide(0.1, session=b"s").choice.model == "large", "the lost prefix is worth more than the saving"
    assert world.decide(0.1, session=b"t").choice.model == "small"
    world.router.pins.put(b"s", Pin("large", world.now, 10))
    assert world.decide(0.1, session=b"s").choice.model == "small"
    world.router.pins.put(b"s", Pin("large", world.now - 301, 100_000))
    assert world.decide(0.1, session=b"s").choice.model == "small", "the provider has let go of it"
    upwards = World(value=0.01, explore=0.0)
    upwards.router.pins.put(b"s", Pin("small", upwards.now, 500_000))
    assert upwards.decide(0.3, session=b"s").choice.model == "small", "nor does it go up for less than it loses"
    assert upwards.decide(0.3).choice.model == "large"


def test_a_promise_outweighs_a_warm_prefix() -> None:
    world = World(floor=0.9)
    world.router.pins.put(b"s", Pin("small", world.now, 10_000_000))
    assert world.decide(0.1, session=b"s").choice.model == "large"


def test_a_rule_may_name_any_model_of_the_route_and_no_other() -> None:
    rules = [
        {"goes": "elsewhere", "tag": "a"},
        {"goes": "spare", "tag": "b", "only": True},
        {"goes": "spare", "tag": "c"},
    ]
    world = World(large_share=0.5, rules=rules)
    assert world.router.rule(world.ask(tags=["a"]), "hi") is None
    assert world.decide(0.1, tags=["b"]).choice.ranked == ("spare",)
    assert world.decide(0.1, tags=["c"]).choice.ranked == ("spare", "large", "small")


def test_health_is_a_fact() -> None:
    ill = State(healthy=False)
    assert World(large_share=0.0).decide(0.1, states=(ill, State())).choice.ranked == ("large", "small")
    assert World(large_share=1.0).decide(0.1, states=(State(), ill)).choice.ranked == ("small", "large")


def test_waiting_is_weighed_against_what_answers_are_worth() -> None:
    slow = (State(latency_s=0.1), State(latency_s=20.0))
    assert World(value=1).decide(0.1, states=slow).choice.model == "large"
    assert World(value=1, usd_per_s=1).decide(0.1, states=slow).choice.model == "small"


def test_the_alarm_is_heeded_and_forgets() -> None:
    world = World(large_share=0.0, explore=0.0)
    assert world.decide(0.1).choice.model == "small"
    world.standing.drift._until = world.now + 10
    found = world.decide(0.1)
    assert (found.choice.model, found.choice.why) == ("large", "drift")
    world.now += 11
    assert world.decide(0.1).choice.model == "small"


def test_what_was_learnt_moves_a_share_and_no_floor() -> None:
    for policy, moves in (({"large_share": 0.5}, True), ({"floor": 0.9}, False)):
        world = World(**policy)
        for _ in range(200):
            world.standing.bandit.learn("small", CONTEXT, 0.0, 0.5)
        known = world.thought(0.0).known
        assert isinstance(known, Known)
        assert (known.good["small"] < 0.2) is moves
        assert 0 <= known.good["small"] <= 1


def test_standings_are_bounded() -> None:
    held = Standings(most=3)
    made = [held.of(Key("t", "r", str(at)), lambda at=at: Standing(Key("t", "r", str(at)), (), 1)) for at in range(5)]  # type: ignore[misc]
    assert len(held) == 3
    assert held.all() == made[2:]
    assert held.of(Key("t", "r", "2"), lambda: pytest.fail("it was there")) is made[2]

"""What is said of an answer is learnt once, for whom it concerns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from trimtab.protocol.exchange import Caller, Exchange, Receipt, Target, Tenant
from trimtab.protocol.messages import Request, Usage
from trimtab.routing.asking import Decision, State, Thought, asking
from trimtab.routing.choose import Choice
from trimtab.routing.learning import RETRY_S, Learning
from trimtab.routing.policy import RoutePolicy
from trimtab.routing.recorder import Heard, Sampled
from trimtab.routing.standing import Standing
from trimtab.routing.standings import Key

CONTEXT = np.ones(3)
GOOD = {"small": 0.6, "large": 0.8}


def decision(standing: Standing, text: str = "hi", tenant: str = "acme", frozen: bool = False, **more: Any) -> Decision:
    request = Request.build("chat", {"model": "auto", "messages": [{"role": "user", "content": text}]})
    receipt = Receipt("r", tenant, 0.0, model="auto", **more)
    exchange = Exchange("r", request, request, Caller(Tenant(tenant)), receipt, [], 0.0)
    targets = Target("small", "fake", "small"), Target("large", "fake", "large")
    ask = asking(exchange, RoutePolicy(large_share=0.3, frozen=frozen), targets, (State(), State()))
    return Decision(ask, Choice(("small", "large"), "x"), Thought(None, standing, CONTEXT, GOOD))


@pytest.fixture
def standing() -> Standing:
    return Standing(Key("acme", "auto", "x"), (), 3)


def small(standing: Standing) -> float:
    return standing.bandit.correction("small", CONTEXT)


def test_blame_and_praise(standing: Standing) -> None:
    learning = Learning()
    learning.answered(decision(standing), "small", "r1", 0.0)
    assert learning.said("acme", "r1", wrong=True, corrected=False, now=1.0)
    blamed = small(standing)
    assert blamed < 0
    assert learning.said("acme", "r1", wrong=True, corrected=True, now=1.0)
    assert small(standing) < blamed
    assert not learning.said("zenith", "r1", wrong=True, corrected=False, now=1.0), "another tenant's"
    assert not learning.said("acme", "r2", wrong=True, corrected=False, now=1.0), "never heard of"
    assert standing.bandit.correction("large", CONTEXT) == 0


def test_a_frozen_route_learns_nothing_and_still_alarms(standing: Standing) -> None:
    learning = Learning()
    learning.answered(decision(standing, frozen=True), "small", "r1", 0.0)
    for at in range(400):
        assert not learning.said("acme", "r1", wrong=at >= 200, corrected=False, now=1.0)
    assert small(standing) == 0
    assert standing.alarmed


def test_the_same_again_within_a_minute_is_a_doubt_each_answer_has_once(standing: Standing) -> None:
    learning = Learning()
    first = decision(standing)
    learning.asked(first.asking.exchange, 0.0)
    learning.answered(first, "small", "r1", 0.0)
    learning.asked(decision(standing, tenant="zenith").asking.exchange, 1.0)
    learning.asked(decision(standing, text="other").asking.exchange, 1.0)
    learning.asked(decision(standing, end_user="u").asking.exchange, 1.0)
    learning.asked(first.asking.exchange, RETRY_S + 1)
    assert small(standing) == 0
    for now in (10.0, 11.0):
        learning.asked(first.asking.exchange, now)
    assert learning.counts["retried"] == 1
    assert small(standing) < 0


def test_audits_are_evidence_and_lessons(standing: Standing) -> None:
    learning = Learning()
    learning.audited(decision(standing), {"small": False, "large": True}, 0.0)
    assert [tuple(row) for row in standing.audits.rows()] == [(0.2, False, True)]
    assert small(standing) < 0 < standing.bandit.correction("large", CONTEXT)


def test_it_is_bounded(standing: Standing) -> None:
    learning = Learning(most=3)
    for at in range(5):
        learning.answered(decision(standing, text=str(at)), "small", f"r{at}", 0.0)
    assert not learning.said("acme", "r1", wrong=True, corrected=False, now=0.0)
    assert learning.said("acme", "r2", wrong=True, corrected=False, now=0.0)


class Inner:
    shared = True

    def __init__(self) -> None:
        self.told: list[Any] = []

    def unshared(self, then: Any) -> None:
        self.told.append("unshared")

    def event(self, block: bytes) -> None:
        self.told.append(block)

    def done(self, target: str, usage: Usage | None, body: bytes | None = None) -> None:
        self.told.append((target, body))

    def close(self, error: BaseException | None = None) -> None:
        self.told.append("closed")


def test_a_recorder_listens_beside_another(standing: Standing) -> None:
    inner, held = Inner(), decision(standing)
    sampled = Sampled(inner, held)
    assert sampled.shared
    sampled.unshared(lambda: None)
    sampled.event(b"a")
    sampled.event(b"b")
    assert held.whole is None, "it is not complete"
    sampled.done("small", None)
    sampled.close()
    assert inner.told == ["unshared", b"a", b"b", ("small", None), "closed"]
    assert held.whole == Heard("small", None, (b"a", b"b"))


def test_an_answer_that_is_too_long_to_keep_is_not_audited(standing: Standing) -> None:
    held = decision(standing)
    alone = Sampled(None, held)
    assert not alone.shared
    for _ in range(3):
        alone.event(b"x" * 500_000)
    alone.done("small", None)
    assert held.whole is None

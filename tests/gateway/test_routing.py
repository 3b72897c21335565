"""The router through a real gateway: bundled embedder, the calibration that ships, two scripted models."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import pytest
from desk import PATIENT, Desk, calls, problem, prove, routed, say
from harness import OTHER_KEY, Serve

from trimtab.backends.fake_server import FakeServer
from trimtab.gateway.config import Config
from trimtab.protocol.errors import Overloaded

pytest.importorskip("onnxruntime")

PROOFS = [
    "Prove that there are infinitely many primes.",
    "Prove that every continuous function on a compact metric space is uniformly continuous. Give every step.",
    "Let f be holomorphic on the unit disc with |f| <= 1 and f(0) = 0. Show that |f(z)| <= |z|.",
]
CLINICAL = [
    "A 54-year-old man presents with crushing chest pain radiating to the left arm and ST elevation in II, III and aVF."
    " What is the most likely diagnosis and what should be done first?",
    "Patient: 61F, HbA1c 9.1, eGFR 38, on metformin 1g bd. Adjust her diabetes medication and justify.",
    "A 23 year old woman with fever, neck stiffness and a petechial rash arrives in the emergency department.",
]


# Nothing asked for.


async def test_without_a_goal_the_large_model_answers_and_nothing_is_embedded(
    serve: Serve, upstream: FakeServer, session: aiohttp.ClientSession
) -> None:
    async with serve(routed(upstream)) as running:
        desk = Desk(running, session)
        assert running.gateway.live.pruning.embedder is None
        assert await desk.ask(problem(1)) == "large"
        line = await desk.line()
        assert (line["did"], line["reason"]) == ("large", "the large model, as nothing else was asked for")
        assert await desk.ask("hi", model="small") == "small"
        assert (await desk.line())["did"] == "off"
        assert "x-trimtab-route" not in desk.last
        upstream.use({"models": {"large": {"faults": {"status": 500}}}})
        assert await desk.ask(problem(2)) == "small", "it stands in"


@pytest.mark.parametrize(
    ("goal", "model", "other"), [("small_only", "small", "large"), ("large_only", "large", "small")]
)
async def test_only_means_only(
    serve: Serve, upstream: FakeServer, session: aiohttp.ClientSession, goal: str, model: str, other: str
) -> None:
    """Neither a sick upstream nor a request that is too much for it brings the other one in."""
    config = routed(upstream, **{goal: True})
    config["models"][model]["supports"] = []
    async with serve(config) as running:
        desk = Desk(running, session)
        assert await desk.ask(problem(1)) == model
        assert await desk.ask(problem(1), tools=[{"type": "function", "function": {"name": "f"}}]) == model
        upstream.use({"models": {model: {"faults": {"status": 500}}}})
        await desk.ask(problem(2), status=500)
        assert calls(upstream, other) == 0


# A floor.


async def test_a_floor_is_borne_by_audits_of_ones_own_and_not_before(
    serve: Serve, upstream: FakeServer, session: aiohttp.ClientSession
) -> None:
    say(upstream)
    config = routed(upstream, floor=0.9, audit=1.0)
    async with serve(config) as running:
        desk, other = Desk(running, session), Desk(running, session, OTHER_KEY)
        assert await desk.ask(problem(0)) == "large"
        await running.idle()
        assert await desk.ask(problem(1)) == "large"
        assert "of 60 audits" in (await desk.line())["reason"]
        await prove(desk)
        assert running.gateway.routing.audits.counts["both good"] >= 80
        assert await desk.ask(problem(5)) == "small"
        receipt = await desk.receipt()
        line = next(line for line in receipt["lines"] if line["stage"] == "route")
        assert "bear a floor of 0.9" in line["reason"]
        assert desk.last["x-trimtab-route"] == "small"
        assert desk.last["x-trimtab-route-reason"] == line["reason"]
        usage = receipt["usage"]
        saved = (usage["prompt"] * (2 - 0.1) + usage["completion"] * (8 - 0.4)) / 1e6
        assert receipt["saved_usd"] == pytest.approx(saved, abs=2e-6)
        assert line["saved_microusd"] == receipt["saved_microusd"]
        assert await other.ask(problem(5)) == "large", "another tenant has proven nothing"
        assert (await other.line())["reason"].startswith("floor: ")
        for prompt in (*PROOFS, *CLINICAL):
            assert await desk.ask(prompt) == "large", prompt
            assert "out of domain" in (await desk.line())["reason"]
    # The same ledger, another process: what was proven stays proven, for that tenant.
    async with serve(config) as running:
        desk, other = Desk(running, session), Desk(running, session, OTHER_KEY)
        await desk.ask(problem(6))
        await running.idle()
        await desk.ask(problem(7))
        await running.idle()
        assert await desk.ask(problem(8)) == "small"
        await other.ask(problem(6))
        await running.idle()
        assert await other.ask(problem(7)) == "large"
    # Another large model: nothing is proven of it.
    config["models"]["large"]["model"] = "larger"
    async with serve(config) as running:
        desk = Desk(running, session)
        await desk.ask(problem(6))
        await running.idle()
        assert await desk.ask(problem(9)) == "large"
        assert "of 60 audits" in (await desk.line())["reason"]


async def test_a_small_model_that_is_no_good_is_never_asked(
    serve: Serve, upstream: FakeServer, session: aiohttp.ClientSession
) -> None:
    say(upstream, small="13", large="12")
    async with serve(routed(upstream, floor=0.9, audit=1.0)) as running:
        desk = Desk(running, session)
        await prove(desk, 70)
        assert running.gateway.routing.audits.counts == {"lost": 70}
        assert await desk.ask(problem(3)) == "large"
        assert "do not bear a floor of 0.9" in (await desk.line())["reason"]


async def test_a_judge_says_which_answers_are_good(
    serve: Serve, upstream: FakeServer, session: aiohttp.ClientSession
) -> None:
    say(upstream, small="13", large="12", spare={"text": "good good"})
    async with serve(routed(upstream, floor=0.9, audit=1.0, judge="spare")) as running:
        desk = Desk(running, session)
        await prove(desk, 3)
        assert running.gateway.routing.audits.counts == {"both good": 3}
        asked = [json.loads(seen.body) for seen in upstream.seen if json.loads(seen.body)["model"] == "spare"]
        assert all(problem(at) in asked[at]["messages"][1]["content"] for at in range(3))
        say(upstream, small="13", large="12", spare={"text": "I cannot say"})
        await prove(desk, 2, first=3)
        assert running.gateway.routing.audits.counts == {"both good": 3, "lost": 2}


async def test_streams_are_audited_and_tools_are_not(
    serve: Serve, upstream: FakeServer, session: aiohttp.ClientSession
) -> None:
    say(upstream)
    async with serve(routed(upstream, floor=0.9, audit=1.0)) as running:
        desk = Desk(running, session)
        await desk.ask(problem(0), stream=True)
        await running.idle()
        assert running.gateway.routing.audits.counts == {"both good": 1}
        await desk.ask(problem(1), tools=[{"type": "function", "function": {"name": "f"}}])
        await running.idle()
        assert running.gateway.routing.audits.counts == {"both good": 1}
        assert (await desk.line())["reason"] == "floor: requests with tools are not audited"


async def test_audits_are_the_tenants_own_requests_within_its_limits(
    serve: Serve, upstream: FakeServer, session: aiohttp.ClientSession
) -> None:
    say(upstream)
    config = routed(upstream, floor=0.9, audit=1.0)
    config["tenants"]["acme"]["limits"] = {"requests_per_minute": 3}
    async with serve(config) as running:
        desk = Desk(running, session)
        for at in range(2):
            await desk.ask(problem(at))
            await running.idle()
        assert running.gateway.routing.audits.counts == {"both good": 1, "not allowed": 1}
        await running.settled()
        async with session.get(f"{running.base_url}/usage", headers=desk.head) as response:
            assert (await response.json())["requests"] == 3


async def test_an_answer_that_was_cut_is_bad_and_one_that_failed_is_nothing(
    serve: Serve, upstream: FakeServer, session: aiohttp.ClientSession
) -> None:
    upstream.use({"models": {"small": {"text": "12", "finish": "length"}, "large": {"text": "12"}}})
    async with serve(routed(upstream, floor=0.9, audit=1.0)) as running:
        desk = Desk(running, session)
        await prove(desk, 2)
        assert running.gateway.routing.audits.counts == {"lost": 2}
        upstream.use({"models": {"small": {"faults": {"status": 500}}, "large": {"text": "12"}}})
        await prove(desk, 2, first=2)
        assert running.gateway.routing.audits.counts == {"lost": 2, "not allowed": 2}


# Proofs and clinical cases.


@pytest.mark.parametrize("goal", [{"large_share": 0.0}, {"large_share": 0.3}, {"floor": 0.5}, {"usd_per_day": 10}])
async def test_proofs_and_clinical_cases_go_to_the_large_model(
    serve: Serve, upstream: FakeServer, session: aiohttp.ClientSession, goal: dict[str, Any]
) -> None:
    async with serve(routed(upstream, **goal)) as running:
        desk = Desk(running, session)
        for prompt in (*PROOFS, *CLINICAL):
            assert await desk.ask(prompt) == "large", prompt


# A share, money, worth.


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
async def test_the_share_that_is_asked_for_comes_about(
    serve: Serve, upstream: FakeServer, session: aiohttp.ClientSession, share: float
) -> None:
    async with serve(routed(upstream, large_share=share, explore=0.0)) as running:
        desk = Desk(running, session)
        got = [await desk.ask(problem(at)) for at in range(100)]
        assert got.count("large") / 100 == pytest.approx(share, abs=0.06)
        assert (
            f'trimtab_route_large_share{{route="auto",tenant="acme"}} {got.count("large") / 100}'
            in await desk.metrics()
        )
        line = await desk.line()
        good = (await desk.receipt())["routed"]["good"]
        assert line["score"] == pytest.approx(good["large"] - good["small"], abs=2e-4)


async def test_a_days_money_is_kept_over_a_restart(
    serve: Serve, upstream: FakeServer, session: aiohttp.ClientSession
) -> None:
    config = routed(upstream, usd_per_day=0.002, explore=0.0)
    async with serve(config) as running:
        desk = Desk(running, session)
        got = [await desk.ask(problem(at)) for at in range(40)]
        await running.settled()
        assert "large" in got
        assert got[-1] == "small"
        spent = await running.gateway.ledger.spent_on("acme", ("large",), 0)
        assert 0 < spent <= 2_000
        other = Desk(running, session, OTHER_KEY)
        assert "large" in [await other.ask(problem(at)) for at in range(20)], "each tenant has money of its own"
    config["tenants"]["acme"]["policy"]["route"]["usd_per_day"] = spent / 1e6
    async with serve(config) as running:
        desk = Desk(running, session)
        assert await desk.ask(problem(41)) == "small", "a restart is no fresh money"
        assert await desk.ask(PROOFS[0]) == "small"
        assert "the day's money is spent" in (await desk.line())["reason"]
        upstream.use({"models": {"small": {"faults": {"status": 500}}}})
        before = calls(upstream, "large")
        await desk.ask(problem(42), status=500)
        assert calls(upstream, "large") == before, "without money it does not stand in either"


async def test_worth_needs_a_calibration_of_the_very_pair(
    serve: Serve, upstream: FakeServer, session: aiohttp.ClientSession
) -> None:
    async with serve(routed(upstream, value=1)) as running:
        desk = Desk(running, session)
        assert await desk.ask(problem(1)) == "large"
        assert "calibration of this very pair" in (await desk.line())["reason"]


# Rules and capabilities.


async def test_rules_go_before_the_goal(serve: Serve, upstream: FakeServer, session: aiohttp.ClientSession) -> None:
    rules = [
        {"goes": "small", "name": "cheap\r\nx-evil: ü", "tag": "cheap"},
        {"goes": "large", "tag": "legal", "only": True},
        {"goes": "small", "header": {"X-Team": "search"}},
        {"goes": "spare", "prompt": ["translate * german", "übersetze"]},
        {"goes": "elsewhere", "tag": "legal"},
    ]
    config = routed(upstream, large_only=True, rules=rules)
    config["routes"]["auto"]["fallbacks"] = ["spare"]
    config["models"]["elsewhere"] = {"backend": "fake"}
    config["routes"]["other"] = {"small": "elsewhere", "large": "large"}
    async with serve(config) as running:
        desk = Desk(running, session)
        assert await desk.ask("hi") == "large"
        assert await desk.ask("hi", headers={"x-trimtab-tags": "a, cheap"}) == "small"
        assert (await desk.line())["reason"] == "rule cheap\r\nx-evil: ü"
        assert desk.last["x-trimtab-route-reason"] == "rule cheap??x-evil: ?"
        assert await desk.ask("hi", headers={"x-team": "search"}) == "small"
        assert await desk.ask("hi", headers={"x-team": "sales"}) == "large"
        assert await desk.ask("Please TRANSLATE this to German.") == "spare"
        assert await desk.ask("Übersetze das.") == "spare"
        upstream.use({"models": {"large": {"faults": {"status": 500}}, "small": {"faults": {"status": 500}}}})
        assert await desk.ask("hi", headers={"x-trimtab-tags": "cheap"}) == "spare", "the route's fallback"
        upstream.use({"models": {"large": {"faults": {"status": 500}}}})
        assert await desk.ask("hi", headers={"x-trimtab-tags": "legal"}) == "spare", "but never the small one"
        assert calls(upstream, "small") == 3


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"response_format": {"type": "json_object"}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}}},
        {
            "messages": [
                {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}]}
            ]
        },
        {"messages": [{"role": "user", "content": "word " * 9_000}]},
        {"max_tokens": 3_000},
    ],
)
async def test_who_cannot_is_not_asked(
    serve: Serve, upstream: FakeServer, session: aiohttp.ClientSession, fields: dict[str, Any]
) -> None:
    config = routed(upstream, rules=[{"goes": "small", "header": {"x-a": "1"}}])
    config["models"]["small"] |= {"supports": [], "context_tokens": 8_000, "max_output_tokens": 2_000}
    async with serve(config) as running:
        desk = Desk(running, session)
        assert await desk.ask("hi", headers={"x-a": "1"}) == "small"
        messages = fields.get("messages", [{"role": "user", "content": "hi"}])
        assert (
            await desk.ask(messages, headers={"x-a": "1"}, **{k: v for k, v in fields.items() if k != "messages"})
            == "large"
        )
        assert "small cannot" in (await desk.line())["reason"]


async def test_what_does_not_fit_the_small_model_goes_to_the_large_one(
    serve: Serve, upstream: FakeServer, session: aiohttp.ClientSession
) -> None:
    """Also where nobody said how much fits."""
    error = {"status": 400, "body": {"error": {"message": "too long", "code": "context_length_exceeded"}}}
    upstream.use({"models": {"small": {"faults": error}}})
    async with serve(routed(upstream, rules=[{"goes": "small", "tag": "a"}])) as running:
        desk = Desk(running, session)
        assert await desk.ask("hi", headers={"x-trimtab-tags": "a"}) == "large"
        assert (await desk.receipt())["attempts"] == 2


async def test_a_model_that_rests_is_not_asked_first(
    serve: Serve, upstream: FakeServer, session: aiohttp.ClientSession
) -> None:
    async with serve(routed(upstream)) as running:
        desk = Desk(running, session)
        breaker = running.gateway.live.catalogue.named("large").breaker  # type: ignore[union-attr]
        for _ in range(5):
            breaker.failure(running.gateway._clock())
        assert await desk.ask("hi") == "small"
        assert (await desk.line())["reason"] == "large is not healthy"
        assert (await desk.receipt())["attempts"] == 1


# Faults.


class _Ill:
    model, dimensions = "all-MiniLM-L6-v2-int8", 384

    def __init__(self, how: str) -> None:
        self._how = how

    async def embed(self, texts: list[str], *, tenant: str = "") -> Any:
        if self._how == "slow":
            await asyncio.sleep(60)
        if self._how == "broken":
            raise RuntimeError("a bug")
        raise Overloaded("too many texts wait")


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("slow", "longer than 50 ms"),
        ("full", "too many texts wait"),
        ("broken", "RuntimeError"),
        ("none", "no embedder"),
    ],
)
async def test_without_a_vector_the_large_model_answers(
    serve: Serve, upstream: FakeServer, session: aiohttp.ClientSession, how: str, reason: str
) -> None:
    config = routed(upstream, large_share=0.0)
    config["tenants"]["acme"]["policy"]["route"]["deadline_ms"] = 50
    async with serve(config) as running:
        desk = Desk(running, session)
        ill: Any = None if how == "none" else _Ill(how)
        running.gateway.routing.embedder = ill
        assert await desk.ask(problem(1)) == "large"
        assert reason in (await desk.line())["reason"]


async def test_another_embedders_vectors_are_not_read(
    serve: Serve, upstream: FakeServer, session: aiohttp.ClientSession
) -> None:
    async with serve(routed(upstream, large_share=0.0)) as running:
        other: Any = _Ill("full")
        other.model = "/models/other"
        running.gateway.routing.embedder = other
        desk = Desk(running, session)
        assert await desk.ask(problem(1)) == "large"
        assert "and others are made here" in (await desk.line())["reason"]


async def test_the_books_may_be_away(serve: Serve, upstream: FakeServer, session: aiohttp.ClientSession) -> None:
    """What was audited cannot be read or kept: the large model answers, and audits go on."""
    say(upstream)

    async def away(*_: Any) -> Any:
        raise RuntimeError("no store")

    async with serve(routed(upstream, floor=0.9, audit=1.0)) as running:
        books: Any = running.gateway.routing._books
        books.tallies = books.tally = away
        desk = Desk(running, session)
        for at in range(3):
            assert await desk.ask(problem(at)) == "large"
            await running.idle()
        assert "of 60 audits" in (await desk.line())["reason"]
        del books.tallies, books.tally


async def test_a_small_model_that_is_down_is_stood_in_for(
    serve: Serve, upstream: FakeServer, session: aiohttp.ClientSession
) -> None:
    upstream.use({"models": {"small": {"faults": {"status": 500}}}})
    async with serve(routed(upstream, large_share=0.0)) as running:
        desk = Desk(running, session)
        assert await desk.ask(problem(1)) == "large"
        assert (await desk.line())["did"] == "small"
        assert (await desk.receipt())["saved_usd"] == 0, "nothing was saved after all"
        assert 'trimtab_route_fallbacks_total{chosen="small",tenant="acme"} 1.0' in await desk.metrics()


# A conversation.


def turns(count: int, opening: str) -> list[dict[str, Any]]:
    said = [{"role": "system", "content": "Background. " * 800}, {"role": "user", "content": opening}]
    for at in range(count):
        said += [{"role": "assistant", "content": "12"}, {"role": "user", "content": problem(at)}]
    return said


async def test_a_conversation_stays_where_its_prefix_is_warm(
    serve: Serve, upstream: FakeServer, session: aiohttp.ClientSession
) -> None:
    config = routed(upstream, large_share=0.0, explore=0.0)
    config["models"]["small"]["price"] = {"input": 1.5, "output": 6}  # not that much cheaper than a warm prefix
    async with serve(config) as running:
        desk, other = Desk(running, session), Desk(running, session, OTHER_KEY)
        assert await desk.ask(turns(0, PROOFS[0])) == "large"
        await running.settled()
        assert await desk.ask(turns(1, PROOFS[0])) == "large"
        assert (await desk.line())["reason"].startswith("stays with large: switching would lose")
        assert await desk.ask(turns(1, PROOFS[1])) == "small", "another conversation"
        assert await other.ask(turns(1, PROOFS[0])) == "small", "another tenant's"
        await running.settled()
        assert await desk.ask(turns(2, PROOFS[1])) == "small"
        named = {"x-trimtab-session": "s1"}
        assert await desk.ask(PROOFS[0] + " word" * 3_000, headers=named) == "large"
        await running.settled()
        assert await desk.ask(problem(1), headers=named) == "large", "the caller's own name for it"
        assert await desk.ask(problem(1)) == "small"


# Learning.


async def test_words_are_learnt_from_and_only_ones_own(
    serve: Serve, upstream: FakeServer, session: aiohttp.ClientSession
) -> None:
    async with serve(routed(upstream, large_share=0.0, explore=0.0)) as running:
        desk, other = Desk(running, session), Desk(running, session, OTHER_KEY)
        assert await desk.ask(problem(1)) == "small"
        before = (await desk.receipt())["routed"]["good"]["small"]
        status, told = await desk.word("wrong")
        assert (status, told["model"], told["counted"], told["learnt"]) == (200, "small", True, True)
        assert (await desk.word("wrong"))[1]["counted"] is False
        other.last = desk.last
        assert (await other.word("wrong"))[0] == 404
        for at in range(8):
            await desk.ask(problem(1) + " " * at)
            assert (await desk.word(None, correction="It is 13."))[1]["verdict"] == "wrong"
        await desk.ask(problem(1))
        assert (await desk.receipt())["routed"]["good"]["small"] < before - 0.1
        await other.ask(problem(1))
        assert (await other.receipt())["routed"]["good"]["small"] == before
        assert (await desk.word("right", correction="12"))[0] == 400
        assert 'trimtab_route_words_total{word="wrong"} 9.0' in await desk.metrics()


async def test_a_frozen_tenant_teaches_nothing(
    serve: Serve, upstream: FakeServer, session: aiohttp.ClientSession
) -> None:
    async with serve(routed(upstream, large_share=0.0, frozen=True)) as running:
        desk = Desk(running, session)
        await desk.ask(problem(1))
        good = (await desk.receipt())["routed"]["good"]
        assert (await desk.word("wrong"))[1]["learnt"] is False
        await desk.ask(problem(1) + " ")
        assert (await desk.receipt())["routed"]["good"] == pytest.approx(good, abs=0.005)


async def test_a_word_on_what_no_router_chose(
    serve: Serve, upstream: FakeServer, session: aiohttp.ClientSession
) -> None:
    async with serve(routed(upstream, small_only=True)) as running:
        desk = Desk(running, session)
        await desk.ask("hi", model="large")
        assert (await desk.word("wrong"))[0] == 409
        await desk.ask("hi")
        status, told = await desk.word("wrong")
        assert (status, told["learnt"]) == (200, False)


async def test_to_ask_the_same_again_at_once_is_a_doubt(
    serve: Serve, upstream: FakeServer, session: aiohttp.ClientSession
) -> None:
    async with serve(routed(upstream, large_share=0.0, explore=0.0)) as running:
        desk = Desk(running, session)
        for _ in range(3):
            await desk.ask(problem(1))
            await running.settled()
        assert running.gateway.routing.learning.counts == {"retried": 2}
        await desk.ask(problem(2))
        assert running.gateway.routing.learning.counts == {"retried": 2}


async def test_the_alarm_sends_everything_to_the_large_model(
    serve: Serve, upstream: FakeServer, session: aiohttp.ClientSession
) -> None:
    say(upstream)
    async with serve(routed(upstream, floor=0.9, audit=1.0)) as running:
        desk, routing = Desk(running, session), running.gateway.routing
        await prove(desk, 100)
        assert await desk.ask(problem(5)) == "small"
        say(upstream, small="13")
        for at in range(100, 220):
            await desk.ask(problem(at))
            await routing.idle()
            if routing.learning.counts["drift"]:
                break
        assert routing.learning.counts["drift"] == 1
        assert await desk.ask(problem(5)) == "large"
        assert "drift alarm" in (await desk.line())["reason"]
        assert 'trimtab_route_drift{route="auto",tenant="acme"} 1.0' in await desk.metrics()
        standing = routing.stage.router.standings.all()[0]
        assert len(standing.audits) == 0, "what was proven before is not proven any more"


# Reloads.


async def test_a_reload_changes_the_policy_and_keeps_what_is_known(
    serve: Serve, upstream: FakeServer, session: aiohttp.ClientSession
) -> None:
    say(upstream)
    config = routed(upstream, floor=0.9, audit=1.0)
    async with serve(config) as running:
        desk = Desk(running, session)

        async def reload(**route: Any) -> None:
            config["tenants"]["acme"]["policy"]["route"] = route
            await running.gateway.apply(Config.model_validate(config, context={"environ": {}}))

        await prove(desk, 90)
        assert await desk.ask(problem(5)) == "small"
        await reload(floor=0.999, **PATIENT)
        await desk.ask(problem(6))
        await running.idle()
        assert await desk.ask(problem(7)) == "large"
        assert "do not bear a floor of 0.999" in (await desk.line())["reason"]
        await reload(floor=0.8, **PATIENT)
        await desk.ask(problem(6))
        await running.idle()
        assert await desk.ask(problem(7)) == "small"
        await reload(large_only=True)
        assert await desk.ask(problem(7)) == "large"
        await reload(rules=[{"goes": "small", "tag": "x"}])
        assert await desk.ask(problem(7), headers={"x-trimtab-tags": "x"}) == "small"

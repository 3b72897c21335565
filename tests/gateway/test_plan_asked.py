"""Thinking budgets and hints in the running gateway: who is asked what, and what is measured."""

from __future__ import annotations

import itertools
import json
from typing import Any

import aiohttp
import anthropic
import openai
import pytest
from harness import KEY, Running, Serve, over

from trimtab.backends.fake_server import FakeServer
from trimtab.gateway.cli import main
from trimtab.protocol.exchange import Caller, Exchange, Receipt, Tenant
from trimtab.protocol.messages import Request
from trimtab.routing import shape
from trimtab.routing.length_cues import read
from trimtab.routing.plan import conversation
from trimtab.routing.reasoning import hardness

HARD: Any = [{"role": "user", "content": "Solve this step by step, compute 12 * 34 + 5 and write Python code for it."}]
EASY: Any = [{"role": "user", "content": "hi there"}]
LONG: Any = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Tell me the history of Rome."}]


def thinking(upstream: FakeServer, by: str = "effort", allowed: bool = True, **model: Any) -> dict[str, Any]:
    config = over(upstream, thinking={"by": by, "minimum": 1_024, "maximum": 8_000}, **model)
    config["tenants"]["acme"]["policy"] = {"output": {"reasoning": allowed}}
    return config


def shaped(upstream: FakeServer, **rules: Any) -> dict[str, Any]:
    config = over(upstream)
    config["tenants"]["acme"]["policy"] = {"output": {"shape": {"style": "token_budget", **rules}}}
    return config


@pytest.fixture
def every_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also short answers are worth a hint."""
    monkeypatch.setattr(shape, "LEAST_WORTH", 1.0)


def client(running: Running) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=running.base_url, api_key=KEY, max_retries=0)


async def sent(running: Running, upstream: FakeServer, messages: Any = HARD, **more: Any) -> dict[str, Any]:
    async with client(running) as api:
        await api.chat.completions.create(model="m", messages=messages, **more)
    return dict(json.loads(upstream.seen[-1].body))


# Thinking.


def test_what_asks_for_thought_is_hard_and_small_talk_is_not() -> None:
    hard, easy = (hardness(read(turns[-1]["content"])) for turns in (HARD, EASY))
    assert hard > 0.75
    assert easy < 0.2
    assert all(0 <= hardness(read(text)) <= 1 for text in ("", "?" * 10_000, "prove solve code why " * 99))


async def test_an_effort_is_asked_for_where_the_tenant_allows(serve: Serve, upstream: FakeServer) -> None:
    async with serve(thinking(upstream)) as running:
        assert (await sent(running, upstream))["reasoning_effort"] == "high"
        assert (await sent(running, upstream, EASY))["reasoning_effort"] == "low"
    async with serve(thinking(upstream, allowed=False)) as running:
        assert "reasoning_effort" not in await sent(running, upstream)


async def test_a_budget_is_never_below_the_providers_least(serve: Serve, upstream: FakeServer) -> None:
    async with serve(thinking(upstream, "budget", max_output_tokens=16_000)) as running:
        hard, easy = await sent(running, upstream), await sent(running, upstream, EASY)
        assert easy["thinking"]["type"] == "enabled"
        assert 1_024 <= easy["thinking"]["budget_tokens"] < hard["thinking"]["budget_tokens"] <= 8_000
        # Providers count thinking in the limit: there is room for both.
        assert hard["max_tokens"] == 16_000
        # A client's limit stands, and the answer's own part of it comes first.
        tight = await sent(running, upstream, max_tokens=600)
        assert "thinking" not in tight
        assert tight["max_tokens"] == 600


@pytest.mark.parametrize(
    "own", [{"reasoning_effort": "medium"}, {"extra_body": {"thinking": {"type": "enabled", "budget_tokens": 2_000}}}]
)
@pytest.mark.parametrize("by", ["effort", "budget"])
async def test_a_clients_own_effort_or_budget_stands(
    serve: Serve, upstream: FakeServer, own: dict[str, Any], by: str
) -> None:
    async with serve(thinking(upstream, by)) as running:
        body = await sent(running, upstream, **own)
    given = {**own, **own.get("extra_body", {})}
    assert body.get("reasoning_effort") == given.get("reasoning_effort")
    assert body.get("thinking") == given.get("thinking")


async def test_anthropics_requests_are_planned_too_and_their_budgets_stand(serve: Serve, upstream: FakeServer) -> None:
    async with (
        serve(thinking(upstream)) as running,
        anthropic.AsyncAnthropic(base_url=running.url, api_key=KEY, max_retries=0) as api,
    ):
        await api.messages.create(model="m", max_tokens=20_000, messages=HARD)
        assert json.loads(upstream.seen[-1].body)["reasoning_effort"] == "high"
        own: Any = {"type": "enabled", "budget_tokens": 2_000}
        await api.messages.create(model="m", max_tokens=20_000, messages=HARD, thinking=own)
        assert json.loads(upstream.seen[-1].body)["reasoning_effort"] == "low"


async def test_a_model_that_is_not_told_how_much_to_think_is_asked_for_nothing(
    serve: Serve, upstream: FakeServer
) -> None:
    config = thinking(upstream)
    config["models"]["m"]["thinking"] = None
    async with serve(config) as running:
        assert set(await sent(running, upstream)) == {"model", "messages"}


# Hints.


async def test_a_hint_comes_last_and_every_byte_before_it_stays(
    serve: Serve, upstream: FakeServer, every_answer: None
) -> None:
    body = b'{"model":"m", "messages": [ {"role":"system", "content": "Be  kind."},%s ], "top_k":1.0e0}'
    last = b'{"role": "user", "content": "Tell me the history of Rome."}'
    async with (
        serve(shaped(upstream, holdout=1e-9)) as running,
        aiohttp.ClientSession(headers={"authorization": f"Bearer {KEY}"}) as session,
        session.post(running.base_url + "/chat/completions", data=body % last) as response,
    ):
        assert response.status == 200
    seen = upstream.seen[-1].body
    assert b'[ {"role":"system", "content": "Be  kind."},{' in seen
    assert b'"top_k":1.0e0' in seen
    turns = json.loads(seen)["messages"]
    assert turns[-1]["content"].startswith("Tell me the history of Rome.\n\nAnswer in about ")


async def test_parts_of_a_turn_get_the_hint_as_a_part_of_its_own(
    serve: Serve, upstream: FakeServer, every_answer: None
) -> None:
    parts = [{"type": "text", "text": "Tell me the history of Rome."}]
    async with serve(shaped(upstream, holdout=1e-9)) as running:
        body = await sent(running, upstream, [{"role": "user", "content": parts}])
    assert body["messages"][0]["content"][0] == parts[0]
    assert body["messages"][0]["content"][1]["text"].startswith("Answer in about")


@pytest.mark.parametrize(
    ("messages", "more"),
    [
        ([{"role": "user", "content": "Tell me the history of Rome in 20 words."}], {}),
        ([{"role": "user", "content": "Briefly tell me the history of Rome."}], {}),
        ([{"role": "user", "content": "Write Python code that tells the history of Rome."}], {}),
        (LONG, {"response_format": {"type": "json_object"}}),
        ([*LONG, {"role": "assistant", "content": "Rome"}], {}),
    ],
)
async def test_no_hint_where_it_does_not_belong(
    serve: Serve, upstream: FakeServer, every_answer: None, messages: Any, more: dict[str, Any]
) -> None:
    async with serve(shaped(upstream, holdout=1e-9)) as running:
        assert (await sent(running, upstream, messages, **more))["messages"] == messages
    async with serve(over(upstream)) as running:
        assert (await sent(running, upstream, LONG))["messages"] == LONG


async def test_a_conversation_keeps_its_arm(serve: Serve, upstream: FakeServer, every_answer: None) -> None:
    hinted = set()
    async with serve(shaped(upstream, holdout=0.5)) as running:
        for number in range(12):
            turns = [{"role": "user", "content": f"Tell me the history of place {number}."}]
            arms = []
            for _ in range(3):
                body = await sent(running, upstream, turns)
                arms.append("Answer in about" in body["messages"][-1]["content"])
                turns += [{"role": "assistant", "content": "Old."}, {"role": "user", "content": "Tell me all of it."}]
            assert len(set(arms)) == 1
            hinted.add(arms[0])
    assert hinted == {True, False}


async def test_what_hints_do_is_measured_against_the_holdout(
    serve: Serve, upstream: FakeServer, every_answer: None, tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Hinted answers are 60 tokens, the others 300: the measurement finds it, and the forecast does not follow it."""
    async with serve(shaped(upstream, holdout=0.5)) as running:
        path = running.gateway.ledger.path
        ids: dict[bool, str] = {}
        for number in itertools.count():
            effect = running.gateway.planning.effects.of("acme", "token_budget")
            if min(effect.hint.answers, effect.holdout.answers) >= 25:
                break
            turns: Any = [{"role": "user", "content": f"Tell me the history of place {number}."}]
            arm = not shape.held_out(_unit(turns), shape.ShapePolicy(style="token_budget", holdout=0.5))
            upstream.use({"tokens": 60 if arm else 300})
            async with client(running) as api:
                raw = await api.chat.completions.with_raw_response.create(model="m", messages=turns)
            ids[arm] = raw.headers["x-request-id"]
        for arm, verdict in ((True, "wrong"), (False, "right")):
            await running.settled()
            async with aiohttp.ClientSession(headers={"authorization": f"Bearer {KEY}"}) as session:
                said = {"request_id": ids[arm], "verdict": verdict}
                async with session.post(running.base_url + "/feedback", json=said) as response:
                    assert (await response.json())["counted"] is True
        metrics = running.gateway.render_metrics().decode()
        change = running.gateway.planning.effects.of("acme", "token_budget").change
    assert change is not None
    assert -0.85 < change.low <= change.change <= change.high < -0.7
    assert 'trimtab_hint_length_change{bound="middle",style="token_budget",tenant="acme"} -0.' in metrics
    assert 'trimtab_hint_verdicts{arm="hint",style="token_budget",tenant="acme",verdict="wrong"} 1.0' in metrics
    written = tmp_path / "c.yaml"
    written.write_text(f"ledger: {{path: {path}}}\nmodels: {{m: {{backend: fake}}}}\n")
    assert main(["lengths", "-c", str(written), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    [hints] = told["hints"]
    assert hints["change"]["change"] == pytest.approx(change.change)
    assert (hints["hint"]["wrong"], hints["holdout"]["right"]) == (1, 1)
    levels = {row["route"]: row["p50"] for row in told["routes"]}
    assert levels["/hint"] < 120 < 200 < levels[""]
    assert main(["lengths", "-c", str(written)]) == 0
    assert "token_budget" in capsys.readouterr().out


def _unit(turns: Any) -> str:
    request = Request.parse("chat", json.dumps({"messages": turns}, separators=(",", ":")).encode())
    return conversation(Exchange("r", request, request, Caller(Tenant("acme")), Receipt("r", "acme", 0.0), [], 0.0))

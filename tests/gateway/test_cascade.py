"""The live cascade: the small model's answer is seen before its client sees it, through a real gateway."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import openai
import pytest
from desk import Desk, calls, problem, routed, say
from harness import KEY, Serve

from trimtab.backends.base import Call
from trimtab.backends.fake_server import FakeServer
from trimtab.backends.openai import OpenAIBackend
from trimtab.protocol.messages import Answer

pytest.importorskip("onnxruntime")

LOOKS: dict[str, Any] = {"cascade": {"enabled": True}}
GOOD = "She buys 3 more bags with 4 apples each: 3 * 4 = 12. 12 + 4 = 16. Half of 16 is 16 / 2 = 8. The answer is 8."


def _cascading(upstream: FakeServer, **route: Any) -> dict[str, Any]:
    return routed(upstream, **LOOKS, **route)


def _charged(receipt: dict[str, Any]) -> list[dict[str, Any]]:
    return [charge for charge in receipt.get("charges", []) if charge["stage"] == "cascade"]


async def _streamed(running: Any, question: str) -> tuple[str, str, int]:
    """Who answered, the text, the number of chunks with text; by the client that people use."""
    async with openai.AsyncOpenAI(base_url=running.base_url, api_key=KEY) as client:
        raw = await client.chat.completions.with_raw_response.create(
            model="auto", messages=[{"role": "user", "content": question}], stream=True, temperature=1
        )
        parts = [chunk.choices[0].delta.content or "" async for chunk in raw.parse() if chunk.choices]
        return raw.headers["x-trimtab-model"], "".join(parts), sum(bool(part) for part in parts)


async def test_a_good_answer_of_the_small_model_goes_out(
    serve: Serve, upstream: FakeServer, session: aiohttp.ClientSession
) -> None:
    say(upstream, small=GOOD, large="8")
    async with serve(_cascading(upstream, large_share=0.0)) as running:
        desk = Desk(running, session)
        assert await desk.ask(problem(1)) == "small"
        assert json.loads(desk.text)["choices"][0]["message"]["content"] == GOOD
        assert "its answer was looked at" in (await desk.line())["reason"]
        receipt = await desk.receipt()
        assert _charged(receipt) == []
        assert [line["stage"] for line in receipt["lines"]].count("route") == 1
        assert calls(upstream, "large") == 0


@pytest.mark.parametrize("bad", ["", "I cannot help with that.", "and so on " * 80])
async def test_an_answer_that_fails_a_check_is_paid_for_and_the_large_model_asked(
    bad: str, serve: Serve, upstream: FakeServer, session: aiohttp.ClientSession
) -> None:
    say(upstream, small=bad, large="The answer is 8.")
    async with serve(_cascading(upstream, large_share=0.0)) as running:
        desk = Desk(running, session)
        assert await desk.ask(problem(1)) == "large"
        assert json.loads(desk.text)["choices"][0]["message"]["content"] == "The answer is 8."
        receipt = await desk.receipt()
        (charge,) = _charged(receipt)
        assert charge["model"] == "small"
        assert receipt["target"] == "large"
        assert receipt["cost_microusd"] >= charge.get("microusd", 0)
        assert receipt["routed"]["why"] == "answer"
        assert (calls(upstream, "small"), calls(upstream, "large")) == (1, 1)


async def test_only_the_answer_that_is_looked_at_is_to_be_judged_by_its_probability(
    serve: Serve, upstream: FakeServer, session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    complete, judged = OpenAIBackend.complete, []

    async def seen(self: OpenAIBackend, call: Call) -> Answer:
        judged.append((call.request.model, call.judged))
        return await complete(self, call)

    monkeypatch.setattr(OpenAIBackend, "complete", seen)
    say(upstream, small="", large="The answer is 8.")
    async with serve(_cascading(upstream, large_share=0.0)) as running:
        await Desk(running, session).ask(problem(1))
    assert [flag for _, flag in judged] == [True, False], judged


async def test_both_calls_are_in_the_books_to_the_micro_dollar(
    serve: Serve, upstream: FakeServer, session: aiohttp.ClientSession
) -> None:
    say(upstream, small="I am sorry, but no.", large="The answer is 8.")
    async with serve(_cascading(upstream, large_share=0.0)) as running:
        desk = Desk(running, session)
        await desk.ask(problem(1))
        receipt = await desk.receipt()
        config = running.gateway.live.config.models
        used = receipt["usage"]
        price = config["large"].resolved_price()
        large = round((used["prompt"] * price.input + used["completion"] * price.output) / 1e6)
        (charge,) = _charged(receipt)
        price = config["small"].resolved_price()
        small = round((charge["usage"]["prompt"] * price.input + charge["usage"]["completion"] * price.output) / 1e6)
        assert charge["microusd"] == pytest.approx(small, abs=1)
        assert receipt["cost_microusd"] == pytest.approx(large + small, abs=1)


async def test_a_share_is_given_out_by_what_the_answers_show(
    serve: Serve, upstream: FakeServer, session: aiohttp.ClientSession
) -> None:
    say(upstream, small=GOOD, large="The answer is 8.")
    async with serve(_cascading(upstream, large_share=0.3)) as running:
        desk = Desk(running, session)
        models = [await desk.ask(problem(at)) for at in range(60)]
        assert 12 <= models.count("large") <= 24
        assert calls(upstream, "small") == 60, "each answer was seen before it was decided"


async def test_a_stream_is_held_back_until_it_can_be_judged_and_then_goes_on(
    serve: Serve, upstream: FakeServer
) -> None:
    words = " ".join(f"word{at}" for at in range(200))
    say(upstream, small=words, large="large")
    config = routed(upstream, large_share=0.0, cascade={"enabled": True, "hold_tokens": 16})
    async with serve(config) as running:
        model, text, chunks = await _streamed(running, problem(1))
        assert (model, text) == ("small", words)
        assert chunks > 100, "what was held is not melted into one"


async def test_of_a_stream_that_will_not_do_nothing_is_seen(serve: Serve, upstream: FakeServer) -> None:
    say(upstream, small="I cannot answer that question, as I am only small.", large="The answer is 8.")
    async with serve(_cascading(upstream, large_share=0.0)) as running:
        model, text, _ = await _streamed(running, problem(1))
        assert (model, text) == ("large", "The answer is 8.")


async def test_a_repeat_from_the_cache_is_the_large_models_answer_alone(
    serve: Serve, upstream: FakeServer, session: aiohttp.ClientSession
) -> None:
    """What was held back and thrown away is in no record."""
    say(upstream, small="I cannot answer that.", large="The answer is 8.")
    config = _cascading(upstream, large_share=0.0)
    async with serve(config) as running:
        desk = Desk(running, session)
        for _ in range(2):
            await desk.ask(problem(1), temperature=0, stream=True)
            assert "cannot" not in desk.text
            assert "8." in desk.text
        assert desk.last["x-trimtab-cache"] == "hit"


async def test_a_small_model_that_fails_costs_nothing_but_time(
    serve: Serve, upstream: FakeServer, session: aiohttp.ClientSession
) -> None:
    upstream.use({"models": {"small": {"faults": {"status": 500}}, "large": {"text": "The answer is 8."}}})
    async with serve(_cascading(upstream, large_share=0.0)) as running:
        desk = Desk(running, session)
        assert await desk.ask(problem(1)) == "large"
        assert _charged(await desk.receipt()) == []


@pytest.mark.parametrize("fault", [{"cut_after": 3}, {"error_after": 3}])
async def test_a_stream_that_breaks_while_it_is_held_is_the_large_models(
    fault: dict[str, Any], serve: Serve, upstream: FakeServer
) -> None:
    words = " ".join(f"word{at}" for at in range(50))
    upstream.use({"models": {"small": {"text": words, "faults": fault}, "large": {"text": "The answer is 8."}}})
    async with serve(_cascading(upstream, large_share=0.0)) as running:
        model, text, _ = await _streamed(running, problem(1))
        assert (model, text) == ("large", "The answer is 8.")


async def test_who_leaves_while_a_stream_is_held_stops_the_small_model(
    serve: Serve, upstream: FakeServer, session: aiohttp.ClientSession
) -> None:
    upstream.use({"models": {"small": {"text": "word " * 500, "between_s": 0.02}, "large": {"text": "8"}}})
    async with serve(_cascading(upstream, large_share=0.0)) as running:
        desk = Desk(running, session)
        task = asyncio.ensure_future(desk.ask(problem(1), stream=True))
        while not upstream.seen:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await running.settled()
        assert calls(upstream, "large") == 0


@pytest.mark.parametrize(
    "more",
    [
        {"n": 2},
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]},
    ],
)
async def test_what_cannot_be_looked_at_is_decided_beforehand(
    more: dict[str, Any], serve: Serve, upstream: FakeServer, session: aiohttp.ClientSession
) -> None:
    async with serve(_cascading(upstream, large_share=1.0)) as running:
        desk = Desk(running, session)
        await desk.ask(problem(1), **more)
        assert calls(upstream, "small") == 0


async def test_out_of_domain_the_large_model_is_asked_at_once(
    serve: Serve, upstream: FakeServer, session: aiohttp.ClientSession
) -> None:
    async with serve(_cascading(upstream, large_share=0.0)) as running:
        desk = Desk(running, session)
        assert await desk.ask("Schreib mir bitte ein Gedicht über den Herbst in Hamburg, mit Reimen.") == "large"
        assert calls(upstream, "small") == 0


async def test_an_answer_that_is_no_json_though_it_was_asked_for_goes_to_the_large_model(
    serve: Serve, upstream: FakeServer, session: aiohttp.ClientSession
) -> None:
    schema = {"type": "object", "properties": {"answer": {"type": "integer"}}, "required": ["answer"]}
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    async with serve(_cascading(upstream, large_share=0.0)) as running:
        desk = Desk(running, session)
        say(upstream, small='{"answer": "eight"}', large='{"answer": 8}')
        assert await desk.ask(problem(1), response_format=form) == "large"
        say(upstream, small='{"answer": 8}', large='{"answer": 9}')
        assert await desk.ask(problem(2), response_format=form) == "small"


async def test_asked_twice_the_small_model_is_paid_twice(
    serve: Serve, upstream: FakeServer, session: aiohttp.ClientSession
) -> None:
    say(upstream, small=GOOD, large="8")
    async with serve(routed(upstream, large_share=0.0, cascade={"enabled": True, "samples": 2})) as running:
        desk = Desk(running, session)
        assert await desk.ask(problem(1)) == "small"
        assert len(_charged(await desk.receipt())) == 1
        assert calls(upstream, "small") == 2


async def test_the_small_models_text_is_the_large_ones_draft(
    serve: Serve, upstream: FakeServer, session: aiohttp.ClientSession
) -> None:
    say(upstream, small="I cannot say more than 8.", large="The answer is 8.")
    config = _cascading(upstream, large_share=0.0)
    config["models"]["large"]["prediction"] = True
    async with serve(config) as running:
        desk = Desk(running, session)
        assert await desk.ask(problem(1)) == "large"
        sent = json.loads(upstream.seen[-1].body)
        assert sent["prediction"] == {"type": "content", "content": "I cannot say more than 8."}

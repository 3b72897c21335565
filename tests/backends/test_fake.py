"""The scripted backend: deterministic, exact to the token, and wrong in just the ways its script says."""

from __future__ import annotations

import asyncio
import itertools
import json
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.backends.fake import FakeBackend
from trimtab.backends.fake_reply import Reply
from trimtab.backends.fake_script import Garble, Wire, read_script
from trimtab.backends.fake_sse import pieces
from trimtab.protocol.errors import InvalidRequest, UpstreamAnswered, UpstreamCut, UpstreamGarbled
from trimtab.protocol.messages import Request

GARBLES = ["crlf", "no_space", "event_fields", "bom", "comments", "split_utf8", "usage_null", "usage_running"]


def reply(script: dict[str, Any], **fields: Any) -> Reply:
    asked = {"model": "fake", "messages": [], "stream_options": {"include_usage": True}, **fields}
    return Reply(read_script(script).for_call(asked["model"], 1), Request.build("chat", asked), 1)


def body(script: dict[str, Any], **fields: Any) -> bytes:
    return b"".join(piece.data for piece in pieces(reply(script, **fields)))


async def read(backend: FakeBackend, call: Any) -> bytes:
    stream = await backend.stream(call)
    try:
        return b"".join([piece async for piece in stream])
    finally:
        await stream.aclose()


# ---- the script


@pytest.mark.parametrize(
    "script",
    [
        {"txet": "a"},
        {"faults": {"cut": 1}},
        {"faults": {"garble": ["mangle"]}},
        {"faults": {"wire": "teleport"}},
        {"tool_calls": [{"nam": "x"}]},
        {"models": {"m": {"oops": 1}}},
        {"tokens": "many"},
    ],
)
def test_an_unknown_or_ill_typed_field_is_refused(script):
    with pytest.raises(ValueError, match="script"):
        FakeBackend(script)


def test_options_in_a_models_name():
    made = read_script({"text": "a", "faults": {"retry_after": 2}}).for_call(
        "fake-t20-d5-n7-cut3-crlf-no_done-hello", 1
    )
    assert (made.first_byte_s, made.between_s, made.tokens, made.text) == (0.02, 0.005, 7, "a")
    assert (made.faults.cut_after, made.faults.retry_after) == (3, 2)
    assert made.faults.garble == {"crlf", "no_done"}


def test_a_models_own_script_is_laid_over_the_common_one():
    script = read_script({"text": "a", "prompt_tokens": 5, "models": {"big": {"text": "b"}}})
    assert (script.for_call("big", 1).text, script.for_call("big", 1).prompt_tokens) == ("b", 5)
    assert script.for_call("small", 1).text == "a"


@given(st.text())
def test_any_models_name_can_be_asked_for(name):
    usual, script = read_script({}), read_script({}).for_call("fake-" + name, 1)
    options = {"echo", *get_args(Garble), *get_args(Wire)}
    assert script == usual or any(word in options or word[-1:].isdigit() for word in name.split("-"))


@pytest.mark.parametrize(
    ("faults", "struck"),
    [({"first": 2}, [1, 2]), ({"every": 3}, [3, 6, 9]), ({"first": 7, "every": 3}, [3, 6]), ({}, list(range(1, 10)))],
)
async def test_in_which_calls_a_fault_strikes(call, faults, struck):
    backend = FakeBackend({"faults": {"status": 500, **faults}})
    failed = []
    for number in range(1, 10):
        try:
            await backend.complete(call())
        except UpstreamAnswered:
            failed.append(number)
    assert failed == struck
    assert (backend.counts.failed, backend.counts.completed) == (len(struck), 9 - len(struck))


# ---- what is answered


def test_the_same_call_gives_the_same_bytes():
    script = {"reasoning": "hm", "tool_calls": [{"name": "f"}]}
    assert body(script) == body(script)
    assert reply(script).plain() == reply(script).plain()


@given(size=st.integers(1, 400), together=st.integers(1, 9), garble=st.sets(st.sampled_from(GARBLES)))
def test_however_the_bytes_are_cut_they_and_their_tokens_are_the_same(size, together, garble):
    common = {"faults": {"garble": sorted(garble)}}
    whole = list(pieces(reply(common)))
    for cut in ({"cut_bytes": size}, {"together": together}, {"cut_bytes": size, "together": together}):
        parts = list(pieces(reply({**common, **cut})))
        assert b"".join(p.data for p in parts) == b"".join(p.data for p in whole)
        assert sum(p.tokens for p in parts) == sum(p.tokens for p in whole)
        if "cut_bytes" in cut:
            assert max(len(p.data) for p in parts) <= size


@given(garble=st.sets(st.sampled_from(GARBLES)))
def test_legal_oddities_change_no_event(garble):
    def said(raw: bytes) -> list[str]:
        lines = raw.decode("utf-8-sig").replace("\r\n", "\n").split("\n")
        chunks = [json.loads(line[5:]) for line in lines if line.startswith("data:") and "DONE" not in line]
        return [c["choices"][0]["delta"].get("content", "") for c in chunks if c["choices"]]

    assert said(body({"faults": {"garble": sorted(garble)}})) == said(body({}))


def test_split_utf8_splits_in_the_middle_of_a_character():
    parts = [p.data for p in pieces(reply({"faults": {"garble": ["split_utf8"]}}))]

    def whole(data: bytes) -> bool:
        try:
            data.decode()
        except UnicodeDecodeError:
            return False
        return True

    assert not all(map(whole, parts))
    assert whole(b"".join(parts))


def test_the_ways_a_stream_can_be_wrong():
    good = body({"tokens": 4}).decode()
    assert good.endswith("data: [DONE]\n\n")
    wrong = {g: body({"tokens": 4, "faults": {"garble": [g]}}).decode() for g in ["no_done", "no_newline", "no_finish"]}
    assert "[DONE]" not in wrong["no_done"]
    assert wrong["no_newline"].endswith("[DONE]")
    assert '"finish_reason":"' not in wrong["no_finish"]
    assert "[DONE]" in wrong["no_finish"]
    assert "}\ndata: {" in body({"faults": {"garble": ["two_in_event"]}}).decode()
    assert "}{" in body({"faults": {"garble": ["two_on_line"]}}).decode()
    assert len(body({"huge_bytes": 50_000, "faults": {"garble": ["huge_line"]}})) > 50_000
    broken = body({"faults": {"garble": ["broken_json"]}}).decode().split("\n\n")[2]
    with pytest.raises(json.JSONDecodeError):
        json.loads(broken.removeprefix("data: "))


def test_usage_in_every_place_an_upstream_puts_it(events):
    def usages(*garble: str) -> list[Any]:
        chunks = events(body({"tokens": 3, "faults": {"garble": list(garble)}}))[:-1]
        return [(bool(c["choices"]), c["usage"] and c["usage"]["completion_tokens"]) for c in chunks if "usage" in c]

    assert usages() == [(False, 3)]
    assert usages("usage_absent") == []
    assert usages("usage_with_choices") == [(True, 3)]
    assert usages("usage_running") == [(True, 1), (True, 2), (True, 3), (False, 3)]
    assert usages("usage_null")[:-1] == [(True, None)] * 5
    assert usages("usage_null")[-1] == (False, 3)


@given(cap=st.integers(0, 40), n=st.integers(1, 3), words=st.integers(0, 12))
def test_a_cap_cuts_the_answer_and_says_so(cap, n, words):
    made = reply({"text": ["w"] * words}, max_tokens=cap, n=n)
    plain = json.loads(made.plain())
    kept = min(cap, words)
    assert plain["usage"]["completion_tokens"] == kept * n
    assert [c["finish_reason"] for c in plain["choices"]] == ["length" if cap < words else "stop"] * n
    assert sum(p.tokens for p in pieces(made)) == kept * n


def test_json_and_echo_answers():
    assert json.loads(json.loads(reply({"json": {"a": [1]}}).plain())["choices"][0]["message"]["content"]) == {"a": [1]}
    echoed = json.loads(json.loads(reply({"echo": True}, vendor=1.5).plain())["choices"][0]["message"]["content"])
    assert echoed["vendor"] == 1.5


async def test_embeddings_depend_on_the_text_alone(call):
    backend = FakeBackend({"dimensions": 16})
    vectors = []
    for text in ["one", "two", "one"]:
        answer = await backend.complete(call("embeddings", input=text))
        vectors.append(json.loads(answer.body)["data"][0]["embedding"])
    assert vectors[0] == vectors[2] != vectors[1]
    assert sum(x * x for x in vectors[0]) == pytest.approx(1)
    tokens = await backend.complete(call("embeddings", input=[[1, 2], [3]], dimensions=4))
    assert [len(d["embedding"]) for d in json.loads(tokens.body)["data"]] == [4, 4]


# ---- what is counted


@pytest.mark.parametrize("script", [{}, {"reasoning": "a b c"}, {"together": 3}, {"cut_bytes": 100}])
async def test_spent_is_exact_wherever_the_reader_stops(call, script):
    full = [piece.tokens for piece in pieces(reply({"prompt_tokens": 9, **script}))]
    for stop in range(len(full) + 1):
        backend = FakeBackend({"prompt_tokens": 9, **script})
        stream = await backend.stream(call(stream=True))
        for _ in range(stop):
            await anext(stream)
        await stream.aclose()
        assert stream.spent().completion == sum(full[:stop])
        assert stream.spent().prompt == 9
        assert backend.counts.completion_tokens == sum(full[:stop])
        assert (backend.counts.completed, backend.counts.aborted) == ((1, 0) if stop == len(full) else (0, 1))
        assert backend.counts.open == 0


async def test_every_call_ends_once_and_the_totals_are_the_sum_of_the_records(call):
    backend = FakeBackend({"faults": {"status": 500, "every": 5}})
    for number, asked in enumerate([call(), call(stream=True)] * 10):
        try:
            if not asked.request.stream:
                await backend.complete(asked)
                continue
            stream = await backend.stream(asked)
            for _ in range(number):
                await anext(stream)
            await stream.aclose()
        except UpstreamAnswered:
            pass
    counts, records = backend.counts, backend.records
    assert counts.calls == counts.completed + counts.aborted + counts.failed == 20
    assert counts.failed == 4
    assert counts.open == 0
    assert counts.prompt_tokens == sum(r.usage.prompt for r in records)
    assert counts.completion_tokens == sum(r.usage.completion for r in records)
    assert {(r.request_id, r.tenant) for r in records} == {("req-1", "acme")}


async def test_records_are_bounded(call):
    backend = FakeBackend(keep=3)
    for _ in range(5):
        await backend.complete(call())
    assert [r.number for r in backend.records] == [3, 4, 5]
    assert backend.counts.calls == 5


# ---- time


async def test_delays_are_slept_with_the_clock_it_was_given(call):
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    script = {"tokens": 2, "accept_s": 1.0, "first_byte_s": 2.0, "between_s": 3.0}
    backend = FakeBackend(script, sleep=sleep)
    await read(backend, call(stream=True))
    assert [s for s in slept if s] == [1.0, 2.0, 3.0, 3.0, 3.0, 3.0, 3.0]  # role, two tokens, finish, usage, [DONE]
    slept.clear()
    await backend.complete(call())
    assert [s for s in slept if s] == [1.0, 2.0]


async def test_a_fast_stream_still_lets_others_run(call):
    turns = itertools.count()

    async def other() -> None:
        while True:
            next(turns)
            await asyncio.sleep(0)

    running = asyncio.ensure_future(other())
    await read(FakeBackend({"tokens": 50}), call(stream=True))
    running.cancel()
    assert next(turns) > 40


async def test_comments_for_ever_are_a_stream_without_an_event(call):
    backend = FakeBackend({"between_s": 0.001, "faults": {"garble": ["comments_forever"], "hang_after": 1}})
    stream = await backend.stream(call(stream=True))
    got = [await anext(stream) for _ in range(20)]
    await stream.aclose()
    assert got[0].startswith(b"data: ")
    assert all(piece.startswith(b":") for piece in got[1:])


# ---- failures that only a whole backend shows


async def test_a_200_that_holds_an_error_is_one(call):
    with pytest.raises(UpstreamAnswered) as caught:
        await FakeBackend({"faults": {"status": 200, "body": {"error": {"message": "x"}}}}).complete(call())
    assert caught.value.http_status == 502
    with pytest.raises(UpstreamGarbled):
        await FakeBackend({"faults": {"status": 200, "body": "<html>"}}).complete(call())


async def test_a_fault_of_the_wire_needs_a_wire(call):
    with pytest.raises(InvalidRequest, match="rst"):
        await FakeBackend({"faults": {"wire": "rst"}}).complete(call())


async def test_a_cut_plain_answer(call):
    backend = FakeBackend({"faults": {"cut_after": 0}})
    with pytest.raises(UpstreamCut):
        await backend.complete(call())
    assert (backend.counts.failed, backend.counts.completion_tokens) == (1, 0)

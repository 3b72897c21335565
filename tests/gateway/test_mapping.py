"""What holds for every mapped protocol: a stream says what the whole answer says, however it is cut on its way."""

from __future__ import annotations

import json
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.gateway import anthropic, responses
from trimtab.gateway.mapping import Mapping
from trimtab.gateway.sse import SSEParser
from trimtab.protocol.errors import (
    InvalidRequest,
    RequestTooLarge,
    UpstreamAnswered,
    UpstreamCut,
    UpstreamError,
    UpstreamGarbled,
)
from trimtab.protocol.messages import Request

Json = dict[str, Any]

ASKED: dict[ModuleType, Json] = {
    anthropic: {"model": "auto", "max_tokens": 100, "messages": [{"role": "user", "content": "hi"}], "stream": True},
    responses: {"model": "auto", "input": "hi", "stream": True},
}
both = pytest.mark.parametrize("mapping", ASKED, ids=lambda m: m.__name__.rsplit(".", 1)[-1])


def asked(mapping: Any) -> Request:
    request: Request = mapping.to_chat(json.dumps(ASKED[mapping]).encode())
    return request


def chunk(delta: Json | None = None, finish: str | None = None, **more: Any) -> bytes:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    body = {"id": "chatcmpl-7", "object": "chat.completion.chunk", "created": 5, "model": "up", "choices": choices}
    return b"data: " + json.dumps({**body, **more}).encode() + b"\n\n"


def events(stream: bytes) -> list[Json]:
    read = SSEParser().feed(stream)
    decoded = [json.loads(event.data) for event in read]
    assert [event.event for event in read] == [event["type"] for event in decoded]
    return decoded


def fold_anthropic(stream: bytes) -> Json:
    """The message that Anthropic's events add up to; one block is open at a time, and each is closed."""
    first, *rest, delta, stop = events(stream)
    message: Json = first["message"]
    assert (first["type"], delta["type"], stop) == ("message_start", "message_delta", {"type": "message_stop"})
    inputs: dict[int, str] = {}
    opened = -1
    for event in rest:
        content = message["content"]
        if event["type"] == "content_block_start":
            assert opened == -1
            assert event["index"] == len(content)
            opened = event["index"]
            content.append(event["content_block"])
            continue
        assert event["index"] == opened
        if event["type"] == "content_block_stop":
            opened = -1
        elif event["delta"]["type"] == "input_json_delta":
            inputs[opened] = inputs.get(opened, "") + event["delta"]["partial_json"]
        else:
            field = event["delta"]["type"].removesuffix("_delta")
            content[-1][field] += event["delta"][field]
    assert opened == -1
    for place, text in inputs.items():
        message["content"][place]["input"] = json.loads(text)
    return {**message, **delta["delta"], "usage": {**message["usage"], **delta["usage"]}}


def fold_responses(stream: bytes) -> Json:
    """The response that OpenAI's events add up to; its last event must agree with what its deltas said."""
    told = events(stream)
    assert [event["sequence_number"] for event in told] == list(range(len(told)))
    first, second, *rest, last = told
    assert (first["type"], second["type"]) == ("response.created", "response.in_progress")
    assert first["response"] == second["response"]
    output: list[Json] = []
    for event in rest:
        kind = event["type"].removeprefix("response.")
        if kind == "output_item.added":
            assert event["output_index"] == len(output)
            output.append(event["item"])
            continue
        assert event["output_index"] == len(output) - 1
        item = output[-1]
        if kind == "output_item.done":
            assert {**item, "status": ""} == {**event["item"], "status": ""}
            output[-1] = event["item"]
        elif kind == "content_part.added":
            item["content"].append(event["part"])
        elif kind == "content_part.done":
            assert item["content"][event["content_index"]] == event["part"]
        elif kind == "function_call_arguments.delta":
            item["arguments"] += event["delta"]
        elif kind.endswith(".delta"):
            part = item["content"][event["content_index"]]
            part["refusal" if kind.startswith("refusal") else "text"] += event["delta"]
        else:
            assert kind.endswith(".done")
    assert last["type"] == f"response.{last['response']['status']}"
    assert last["response"]["output"] == output
    return {**first["response"], **last["response"], "output": output}


FOLDS = {anthropic: fold_anthropic, responses: fold_responses}

_text = st.text(max_size=12)
_arguments = st.dictionaries(st.text(max_size=3), st.integers() | st.text(max_size=4) | st.booleans(), max_size=3)


@st.composite
def answers(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """The same answer twice: whole, and as a stream whose tool calls may be interleaved."""
    said = {
        field: draw(st.lists(_text.filter(bool), max_size=3)) for field in ("reasoning_content", "content", "refusal")
    }
    calls = draw(st.lists(_arguments, max_size=3))
    finish = draw(st.sampled_from(["stop", "length", "content_filter"])) if not calls else "tool_calls"
    usage = {"prompt_tokens": draw(st.integers(5, 99)), "completion_tokens": draw(st.integers(0, 99))}
    usage["total_tokens"] = sum(usage.values())
    details = {"prompt_tokens_details": {"cached_tokens": draw(st.integers(0, 5))}}
    message: Json = {"role": "assistant", **{field: "".join(pieces) or None for field, pieces in said.items()}}
    written = [json.dumps(call) for call in calls]
    if calls:
        message["tool_calls"] = [
            {"id": f"c{n}", "type": "function", "function": {"name": f"f{n}", "arguments": w}}
            for n, w in enumerate(written)
        ]
    choice = {"index": 0, "message": message, "finish_reason": finish}
    whole = {"id": "chatcmpl-7", "created": 5, "model": "up", "choices": [choice], "usage": {**usage, **details}}
    chunks = [chunk({"role": "assistant", "content": ""})]
    chunks += [chunk({field: piece}) for field, pieces in said.items() for piece in pieces]
    chunks += [chunk({"tool_calls": [delta]}) for delta in draw(_call_deltas(written))]
    chunks += [chunk({}, finish), chunk(usage={**usage, **details}), b"data: [DONE]\n\n"]
    return json.dumps(whole).encode(), b": hello\n\n" + b"".join(chunks)


@st.composite
def _call_deltas(draw: st.DrawFn, written: list[str]) -> list[Json]:
    """The calls' beginnings in their order, then their arguments in pieces, one call after another or shuffled."""
    interleaved = draw(st.booleans())
    openers: list[Json] = []
    pieces: list[list[Json]] = []
    for n, text in enumerate(written):
        cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=3)))
        parts = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        openers.append({"index": n, "id": f"c{n}", "type": "function", "function": {"name": f"f{n}", "arguments": ""}})
        pieces.append([{"index": n, "function": {"arguments": part}} for part in parts])
    if not interleaved:
        return [delta for opener, own in zip(openers, pieces, strict=True) for delta in (opener, *own)]
    deltas = list(openers)
    while any(pieces):
        own = draw(st.sampled_from([p for p in pieces if p]))
        deltas.append(own.pop(0))
    return deltas


@both
@given(answers())
def test_the_stream_folds_to_the_whole_answer(mapping: Any, answer: tuple[bytes, bytes]) -> None:
    whole, stream = answer
    request = asked(mapping)
    translator = mapping.stream(request)
    told = translator.feed(stream) + translator.finish()
    assert FOLDS[mapping](told) == json.loads(mapping.from_chat(whole, request))


@both
@given(answers(), st.lists(st.integers(0, 2000), max_size=30))
def test_any_split_of_the_stream_says_the_same(mapping: Any, answer: tuple[bytes, bytes], cuts: list[int]) -> None:
    stream = answer[1]
    request = asked(mapping)
    whole, pieced = mapping.stream(request), mapping.stream(request)
    places = sorted({min(c, len(stream)) for c in cuts})
    pieces = [stream[a:b] for a, b in zip([0, *places], [*places, len(stream)], strict=True)]
    assert b"".join(map(pieced.feed, pieces)) + pieced.finish() == whole.feed(stream) + whole.finish()


@both
@given(answers(), st.data())
def test_a_cut_stream_never_ends_well(mapping: Any, answer: tuple[bytes, bytes], data: st.DataObject) -> None:
    stream = answer[1]
    end = stream.index(b'"finish_reason": "')  # of the chunk that says how it ended
    place = data.draw(st.integers(0, end))
    translator = mapping.stream(asked(mapping))
    told = translator.feed(stream[:place])
    with pytest.raises(UpstreamCut) as cut:
        translator.finish()
    told = events(told + translator.fail(cut.value))
    good = {"message_stop", "message_delta", "response.completed", "response.incomplete"}
    assert told[-1]["type"] == "error"
    assert not good & {event["type"] for event in told}
    assert translator.feed(stream[place:]) + translator.finish() + translator.fail(cut.value) == b""


@both
def test_a_module_is_a_mapping(mapping: Mapping) -> None:
    assert mapping.path.startswith("/v1/")
    assert json.loads(mapping.error(RequestTooLarge("too much"), "req_1"))[
        "request_id" if mapping is anthropic else "error"
    ]


@both
def test_the_end_comes_once(mapping: Any) -> None:
    translator = mapping.stream(asked(mapping))
    assert translator.feed(chunk({"content": "a"}, "stop") + b"data: [DONE]\n\n")
    assert translator.feed(chunk({"content": "more"})) == b""
    assert translator.finish() == b""
    assert translator.fail(UpstreamCut("late")) == b""


@both
def test_an_upstream_that_forgets_done_has_still_answered(mapping: Any) -> None:
    translator = mapping.stream(asked(mapping))
    told = translator.feed(chunk({"content": "a"}, "stop")) + translator.finish()
    assert events(told)[-1]["type"] in ("message_stop", "response.completed")


@both
def test_an_error_inside_the_stream_is_raised_and_told(mapping: Any) -> None:
    translator = mapping.stream(asked(mapping))
    inside = b'data: {"error": {"message": "slow down", "type": "requests", "code": 429}}\n\n'
    with pytest.raises(UpstreamAnswered) as raised:
        translator.feed(chunk({"content": "a"}) + inside)
    assert raised.value.http_status == 429
    told = events(translator.fail(raised.value))
    assert told[-1]["error"]["message"] == "slow down"
    assert any("a" in json.dumps(event.get("delta", "")) for event in told[:-1])  # what came before it is not lost


@both
@pytest.mark.parametrize(
    "stream",
    [
        b"data: <html>\n\n",
        b"data: [DONE]\n\n",
        chunk({"content": ["x"]}),
        chunk({"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]}),
        b'data: {"choices": 3}\n\n',
        b'data: {"choices": [' + b"[" * 5000 + b"\n\n",
    ],
)
def test_garbled_streams_are_refused(mapping: Any, stream: bytes) -> None:
    with pytest.raises(UpstreamGarbled):
        mapping.stream(asked(mapping)).feed(stream)


@both
@pytest.mark.parametrize("body", [b"", b"[]", b"<html>", b"{}", b'{"choices": []}', b'{"choices": [{"index": 0}]}'])
def test_garbled_answers_are_refused(mapping: Any, body: bytes) -> None:
    with pytest.raises(UpstreamGarbled):
        mapping.from_chat(body, asked(mapping))


@both
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5), st.lists, max_leaves=5), st.data())
def test_no_shape_of_a_request_escapes_the_error_tree(mapping: Any, odd: Any, data: st.DataObject) -> None:
    names = ["messages", "input", "system", "tools", "tool_choice", "thinking", "text", "reasoning", "metadata", "stop"]
    body = {
        **ASKED[mapping],
        data.draw(st.sampled_from([*names, "response_format", "max_tokens", "include", "n"])): odd,
    }
    whole = json.dumps({"choices": [{"index": 0, "message": {"content": "x"}, "stop_reason": "x"}]}).encode()
    try:
        request = mapping.to_chat(json.dumps(body).encode())
    except InvalidRequest:
        return
    assert json.loads(request.body)["messages"]
    assert json.loads(mapping.from_chat(whole, request))["model"] == ASKED[mapping]["model"]


@both
def test_calls_that_all_say_index_zero_are_told_apart_by_id(mapping: Any) -> None:
    calls = [
        {"index": 0, "id": f"c{n}", "type": "function", "function": {"name": "f", "arguments": json.dumps({"n": n})}}
        for n in range(3)
    ]
    stream = b"".join(chunk({"tool_calls": [call]}) for call in calls) + chunk({}, "tool_calls") + b"data: [DONE]\n\n"
    translator = mapping.stream(asked(mapping))
    told = FOLDS[mapping](translator.feed(stream))
    found = [(b.get("call_id") or b["id"], b.get("input") or json.loads(b["arguments"])) for b in _blocks(told)]
    assert found == [(f"c{n}", {"n": n}) for n in range(3)]


@both
def test_a_call_whose_name_comes_late_is_whole(mapping: Any) -> None:
    stream = (
        chunk({"tool_calls": [{"index": 0, "id": "c", "type": "function"}]})
        + chunk({"tool_calls": [{"index": 0, "function": {"name": "f"}}]})
        + chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"a":1}'}}]}, "tool_calls")
    )
    translator = mapping.stream(asked(mapping))
    (block,) = _blocks(FOLDS[mapping](translator.feed(stream) + translator.finish()))
    assert (block.get("call_id") or block["id"], block["name"]) == ("c", "f")


@both
def test_a_call_goes_on_while_another_is_read(mapping: Any) -> None:
    """The first call streams at once; the second is told as soon as the first is complete, not at the end."""
    translator = mapping.stream(asked(mapping))
    first = {"index": 0, "id": "a", "function": {"name": "f", "arguments": '{"x'}}
    second = {"index": 1, "id": "b", "function": {"name": "g", "arguments": "{"}}
    assert b"{" in translator.feed(chunk({"tool_calls": [first]}))
    assert translator.feed(chunk({"tool_calls": [second]})) == b""
    told = translator.feed(chunk({"tool_calls": [{"index": 0, "function": {"arguments": '":1}'}}]}))
    assert b'"name":"g"' in told


@both
def test_text_after_a_call_is_kept(mapping: Any) -> None:
    call = {"index": 0, "id": "a", "function": {"name": "f", "arguments": "{"}}
    stream = chunk({"tool_calls": [call]}) + chunk({"content": "late"})
    stream += chunk({"tool_calls": [{"index": 0, "function": {"arguments": "}"}}]}, "tool_calls")
    translator = mapping.stream(asked(mapping))
    told = json.dumps(FOLDS[mapping](translator.feed(stream) + translator.finish()))
    assert '"text": "late"' in told


@both
def test_a_call_that_goes_on_after_its_end_is_garbled(mapping: Any) -> None:
    translator = mapping.stream(asked(mapping))
    for index, text in ((0, "{}"), (1, "{}"), (0, " ")):
        translator.feed(
            chunk({"tool_calls": [{"index": index, "id": f"c{index}", "function": {"name": "f", "arguments": text}}]})
        )
    with pytest.raises(UpstreamGarbled, match="went on"):
        translator.feed(chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"a":1}'}}]}))


@both
def test_a_missing_usage_is_estimated_alike(mapping: Any) -> None:
    request = asked(mapping)
    translator = mapping.stream(request)
    told = FOLDS[mapping](translator.feed(chunk({"content": "some words here"}, "stop")) + translator.finish())
    choice = {"index": 0, "message": {"role": "assistant", "content": "some words here"}, "finish_reason": "stop"}
    whole = json.loads(
        mapping.from_chat(json.dumps({"id": "chatcmpl-7", "created": 5, "choices": [choice]}).encode(), request)
    )
    assert told == whole
    assert told["usage"]["output_tokens"] == 3
    assert told["usage"]["input_tokens"] > 0


@both
def test_only_upstream_errors_come_out_of_a_stream(mapping: Any) -> None:
    """Bytes that are no chat stream at all, in any order, raise from the error tree or say nothing."""

    @given(
        st.lists(
            st.sampled_from([b"data: ", b"\n\n", b"{", b"}", b'"choices"', b":", b"[", b"]", b'{"delta":{}}', b"1"])
        )
    )
    def check(pieces: list[bytes]) -> None:
        translator = mapping.stream(asked(mapping))
        try:
            for piece in pieces:
                translator.feed(piece)
            translator.finish()
        except UpstreamError:
            return

    check()


def _blocks(told: Json) -> list[Json]:
    blocks: list[Json] = told.get("content") or told["output"]
    return blocks

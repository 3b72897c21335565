"""What was kept comes back: in its own form to the byte, in the other with every field."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.cache.recording import Recorded, datas, of_stream, unfit
from trimtab.cache.replay import Replay, joined, parted
from trimtab.protocol.messages import Usage

BASE = {"id": "chatcmpl-1", "object": "chat.completion", "created": 5, "model": "m", "system_fingerprint": "fp"}
USAGE = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}


def whole(*choices: dict[str, Any], **fields: Any) -> bytes:
    return json.dumps({**BASE, "choices": list(choices), "usage": USAGE, **fields}).encode()


def choice(index: int = 0, finish: str = "stop", **message: Any) -> dict[str, Any]:
    said = {"role": "assistant", "content": None, **message}
    return {"index": index, "message": said, "finish_reason": finish, "logprobs": None}


texts = st.text(max_size=80)
calls = st.lists(
    st.builds(
        lambda n, a: {"id": f"call_{n}", "type": "function", "function": {"name": f"f{n}", "arguments": json.dumps(a)}},
        st.integers(0, 99),
        st.dictionaries(texts, st.integers(), max_size=3),
    ),
    min_size=1,
    max_size=3,
    unique_by=lambda call: call["id"],
)
messages = st.fixed_dictionaries(
    {"content": st.none() | texts},
    optional={"reasoning_content": texts, "refusal": st.none() | texts, "tool_calls": calls, "x_new": st.integers()},
)


@given(st.lists(messages, min_size=1, max_size=3))
def test_apart_and_together_again_is_the_same(said: list[dict[str, Any]]) -> None:
    body = whole(*(choice(place, **message) for place, message in enumerate(said)))
    again = json.loads(joined(parted(body, None)))
    want = json.loads(body)
    for one in (*again["choices"], *want["choices"]):
        one.pop("logprobs", None)
        # An empty text and none at all are the same to say, and a stream knows no difference.
        for name in ("content", "refusal", "reasoning_content"):
            one["message"][name] = one["message"].get(name) or None
    assert again == want


def test_logprobs_and_fields_of_tomorrow_survive() -> None:
    logprobs = {"content": [{"token": "a", "logprob": -0.5}], "refusal": None}
    body = whole({**choice(content="a"), "logprobs": logprobs, "x_choice": 1}, x_answer={"deep": [1]})
    again = json.loads(joined(parted(body, None)))
    assert again == json.loads(body)


def test_a_stream_has_its_words_apart_and_its_usage_last() -> None:
    events = [json.loads(data) for data in datas(parted(whole(choice(content="It is  high.\n")), None))]
    deltas = [event["choices"][0]["delta"].get("content") for event in events[1:-2]]
    assert deltas == ["It", " is", "  high.\n"]
    assert events[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert events[-2]["choices"][0]["finish_reason"] == "stop"
    assert events[-1]["usage"] == USAGE
    assert events[-1]["choices"] == []


def test_usage_that_only_we_know_is_told() -> None:
    body = json.dumps({**BASE, "choices": [choice(content="a")]}).encode()
    last = json.loads(datas(parted(body, Usage(prompt=3, completion=4)))[-1])
    assert last["usage"]["total_tokens"] == 7


def test_calls_that_are_all_numbered_zero_stay_apart() -> None:
    def event(**call: Any) -> bytes:
        delta = {"tool_calls": [{"index": 0, **call}]}
        return b"data: " + json.dumps({**BASE, "choices": [{"index": 0, "delta": delta}]}).encode() + b"\n\n"

    events = event(id="a", function={"name": "f", "arguments": ""}) + event(function={"arguments": "{}"})
    events += event(id="b", function={"name": "g", "arguments": "{"}) + event(function={"arguments": "}"})
    told = json.loads(joined(events))["choices"][0]["message"]["tool_calls"]
    assert [(call["id"], call["function"]) for call in told] == [
        ("a", {"name": "f", "arguments": "{}"}),
        ("b", {"name": "g", "arguments": "{}"}),
    ]


def test_plain_completions_go_both_ways() -> None:
    body = json.dumps(
        {"id": "cmpl-1", "object": "text_completion", "choices": [{"index": 0, "text": "a b", "finish_reason": "stop"}]}
    ).encode()
    events = [json.loads(data) for data in datas(parted(body, None))]
    assert "".join(event["choices"][0]["text"] for event in events) == "a b"
    assert json.loads(joined(parted(body, None)))["choices"][0]["text"] == "a b"


@pytest.mark.parametrize("size", [0, 1, 3, 2_000, 40_000])
async def test_a_kept_stream_is_handed_out_at_events_and_whole(size: int) -> None:
    events = b"".join(b'data: {"n":%d,"x":"%s"}\n\n' % (n, b"y" * (n % 97)) for n in range(size))
    stream = await Replay(Recorded("stream", events, "m")).stream()
    pieces = [piece async for piece in stream]
    assert b"".join(pieces) == events + b"data: [DONE]\n\n"
    assert all(piece.endswith(b"\n\n") for piece in pieces)
    assert all(len(piece) < 40_000 for piece in pieces)


def recorded(*chunks: dict[str, Any]) -> Recorded:
    return of_stream([b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks], "m", None)


END = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
TEXT = {"choices": [{"index": 0, "delta": {"content": "a"}}]}


@pytest.mark.parametrize(
    ("answer", "choices", "fit"),
    [
        (recorded(TEXT, END), 1, True),
        (recorded(TEXT), 1, False),
        (recorded(END), 1, False),
        (recorded(TEXT, END), 2, False),
        (recorded(TEXT, {"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]}), 1, False),
        (recorded(TEXT, {"choices": [{"index": 0, "delta": {}, "finish_reason": "content_filter"}]}), 1, False),
        (recorded(TEXT, {"error": {"message": "x"}}, END), 1, False),
        (recorded({"choices": [{"index": 0, "delta": {"refusal": "no"}}]}, TEXT, END), 1, False),
        (of_stream([b": ping\n\n", b"data: {\n\n"], "m", None), 1, False),
        (
            of_stream([b'data: {"choices":\ndata: [{"index":0,"text":"a","finish_reason":"stop"}]}\n\n'], "m", None),
            1,
            True,
        ),
        (Recorded("whole", whole(choice(content="a")), "m"), 1, True),
        (Recorded("whole", whole(choice(content="a", finish="length")), "m"), 1, False),
        (Recorded("whole", whole(choice(content="")), "m"), 1, False),
        (Recorded("whole", whole(choice(content="a", refusal="no")), "m"), 1, False),
        (Recorded("whole", whole(choice(tool_calls=[{"id": "c"}], finish="tool_calls")), "m"), 1, True),
        (Recorded("whole", whole(), "m"), 1, False),
        (Recorded("whole", b"", "m"), 1, False),
    ],
)
def test_only_what_is_whole_is_fit(answer: Recorded, choices: int, fit: bool) -> None:
    assert (unfit(answer, "chat", choices) is None) == fit


def test_vectors_are_fit_and_an_empty_list_is_not() -> None:
    assert unfit(Recorded("whole", b'{"data":[{"embedding":[1]}]}', "m"), "embeddings", 1) is None
    assert unfit(Recorded("whole", b'{"data":[]}', "m"), "embeddings", 1) is not None


def test_comments_and_done_are_left_out_of_what_is_kept() -> None:
    kept = of_stream([b": ping\n\ndata: {}\n\n", b"data:[DONE]\n\n"], "m", None)
    assert kept.body == b"data: {}\n\n"


@pytest.mark.parametrize("calls", [b'{"a":1}', b'["x"]', b'[{"function":{"arguments":1}},{"function":3}]', b"7"])
async def test_what_cannot_be_told_in_the_other_form_is_not_there(calls: bytes) -> None:
    """The upstream's own bytes still are."""
    choice = b'{"index":0,"delta":{"content":"a","tool_calls":%b},"finish_reason":"stop"}' % calls
    event = b'data: {"choices":[%b]}\n\n' % choice
    replay = Replay(Recorded("stream", event, "m"))
    told = await replay.whole()
    assert told is None or json.loads(told.body)["choices"]
    events = await replay.stream()
    assert events is not None
    assert b"".join([piece async for piece in events]) == event + b"data: [DONE]\n\n"

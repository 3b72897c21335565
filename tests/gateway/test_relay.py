"""The stream relay: any cutting of the bytes gives the same stream, and what it reports is what passed."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.gateway.relay import DONE, MAX_EVENT, StreamRelay
from trimtab.protocol.errors import UpstreamCut, UpstreamGarbled
from trimtab.protocol.messages import Usage


def event(delta: dict[str, Any] | None = None, finish: str | None = None, **more: Any) -> bytes:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    return b"data: " + json.dumps({"id": "c", "choices": choices, **more}, ensure_ascii=False).encode() + b"\n\n"


USAGE = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}
ROLE = event({"role": "assistant", "content": ""})
WORDS = [event({"content": word}) for word in ("Ahoy ", "wörld ", "🌊")]
FINISH = event({}, "stop")
WHOLE = b"".join([ROLE, *WORDS, FINISH, event(usage=USAGE), DONE])


def cut(data: bytes, points: list[int]) -> list[bytes]:
    edges = [0, *sorted({p % (len(data) + 1) for p in points}), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


def run(relay: StreamRelay, pieces: list[bytes]) -> bytes:
    return b"".join(relay.feed(piece) for piece in pieces) + relay.finish()


@given(st.lists(st.integers(0, 10_000), max_size=30))
def test_an_asked_for_stream_passes_byte_for_byte_however_it_is_cut(points: list[int]) -> None:
    relay = StreamRelay()
    assert run(relay, cut(WHOLE, points)) == WHOLE
    assert relay.usage == Usage(prompt=9, completion=3)
    assert relay.finished
    assert relay.done


@given(st.lists(st.integers(0, 10_000), max_size=30), st.booleans())
def test_usage_that_was_not_asked_for_is_taken_out_and_kept(points: list[int], nulls: bool) -> None:
    more = {"usage": None} if nulls else {}
    sent = b"".join([event({"content": "a"}, **more), event({}, "stop", **more), event(usage=USAGE), DONE])
    relay = StreamRelay(strip_usage=True)
    out = run(relay, cut(sent, points))
    assert b"usage" not in out
    assert json.loads(out.split(b"\n\n")[0][6:]) == json.loads(event({"content": "a"})[6:])
    assert relay.usage == Usage(prompt=9, completion=3)
    assert out.endswith(DONE)


def test_usage_on_the_last_chunk_with_choices_is_counted_and_the_choice_is_kept() -> None:
    """LiteLLM #36168: usage on a chunk with choices was dropped and the request billed four times over."""
    relay = StreamRelay(strip_usage=True)
    out = run(relay, [event({"content": "hi"}, "stop", usage=USAGE), DONE])
    assert relay.usage == Usage(prompt=9, completion=3)
    assert json.loads(out.split(b"\n\n")[0][6:])["choices"][0]["delta"] == {"content": "hi"}


@given(st.lists(st.integers(0, 10_000), max_size=30), st.sampled_from([b"\r\n", b"\r"]))
def test_other_line_ends_mean_the_same(points: list[int], newline: bytes) -> None:
    relay = StreamRelay()
    assert run(relay, cut(WHOLE.replace(b"\n", newline), points)) == WHOLE


def test_a_missing_done_is_added_when_the_answer_was_whole() -> None:
    relay = StreamRelay()
    assert run(relay, [ROLE, *WORDS, FINISH]).endswith(DONE)


def test_a_missing_last_newline_loses_nothing() -> None:
    relay = StreamRelay()
    assert run(relay, [WHOLE.rstrip(b"\n")]) == WHOLE


@given(st.integers(0, len(ROLE + b"".join(WORDS))))
def test_a_cut_stream_never_ends_well(length: int) -> None:
    relay = StreamRelay()
    passed = relay.feed((ROLE + b"".join(WORDS))[:length])
    assert b"[DONE]" not in passed
    assert passed == b"" or passed.endswith(b"\n\n"), "half an event is never sent"
    with pytest.raises(UpstreamCut):
        relay.finish()


@given(st.lists(st.integers(0, 10_000), max_size=10))
def test_an_error_in_a_200_stream_is_an_error(points: list[int]) -> None:
    """LiteLLM #40578, #25492: an in-band error became an empty success."""
    sent = ROLE + WORDS[0] + b'data: {"error": {"message": "boom", "type": "server_error", "code": 503}}\n\n' + DONE
    relay = StreamRelay()
    out = b"".join(relay.feed(piece) for piece in cut(sent, points) if relay.error is None)
    assert relay.error is not None
    assert relay.error.http_status == 503
    assert b"boom" not in out
    assert out.startswith(ROLE + WORDS[0]) or out == b""


def test_the_word_error_in_an_answer_is_no_error() -> None:
    relay = StreamRelay()
    talk = event({"content": '{"error": "not really", "usage": {"prompt_tokens": 1}}'})
    assert run(relay, [talk, FINISH, DONE]) == talk + FINISH + DONE
    assert relay.error is None
    assert relay.usage is None


def test_done_as_a_word_of_the_answer_does_not_end_it() -> None:
    relay = StreamRelay()
    talk = event({"content": "data: [DONE]"})
    relay.feed(talk)
    assert not relay.done
    assert relay.feed(FINISH) == FINISH


def test_an_event_without_an_end_is_given_up() -> None:
    relay = StreamRelay()
    for _ in range(MAX_EVENT >> 16):
        relay.feed(b"x" * (1 << 16))
    with pytest.raises(UpstreamGarbled):
        relay.feed(b"x")


@given(st.integers(0, 400))
def test_what_passed_is_counted_where_the_upstream_says_nothing(count: int) -> None:
    relay = StreamRelay()
    for _ in range(count):
        relay.feed(event({"content": "tok "}))
    assert relay.spent("unknown-model", 7) == Usage(prompt=7, completion=count, estimated=True)


def test_a_long_stream_is_counted_in_bounded_memory() -> None:
    relay = StreamRelay()
    chunk = event({"content": "tok "})
    for _ in range(5000):
        relay.feed(chunk)
    assert sum(map(len, relay._kept)) <= 2 * (64 << 10)
    assert relay.spent("unknown-model", 0).completion == 5000


def test_tool_calls_and_reasoning_count_as_generated() -> None:
    relay = StreamRelay()
    relay.feed(event({"reasoning_content": "hmm"}))
    relay.feed(event({"tool_calls": [{"index": 0, "id": "t", "function": {"name": "f", "arguments": "{}"}}]}))
    assert relay.spent("unknown-model", 0).completion == 2

"""An event may hold more than its data (HTML standard, section 9.2.6): no word of it may be missing from the record."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from trimtab.cache.recording import Recorded, of_stream, unfit
from trimtab.cache.replay import Replay


def event(delta: dict[str, Any], finish: str | None = None, before: bytes = b"") -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return before + b"data: " + json.dumps({"object": "chat.completion.chunk", "choices": [choice]}).encode() + b"\n\n"


def blocks(before: bytes) -> list[bytes]:
    """A stream with something before the data of the event that turns its meaning round."""
    return [
        event({"role": "assistant", "content": ""}),
        event({"content": "It is"}),
        event({"content": " not"}, before=before),
        event({"content": " safe."}),
        event({}, "stop"),
        b"data: [DONE]\n\n",
    ]


async def said(recorded: Recorded) -> str:
    answer = await Replay(recorded).whole()
    return str(json.loads(answer.body)["choices"][0]["message"]["content"])


@pytest.mark.parametrize(
    "before", [b"", b": keep-alive\n", b"id: 7\n", b"event: message\n", b"retry: 1000\nid: 7\n", b"\n"]
)
@pytest.mark.parametrize("together", [False, True])
async def test_no_word_is_lost_whatever_stands_before_it(before: bytes, together: bool) -> None:
    parts = [b"".join(blocks(before))] if together else blocks(before)
    recorded = of_stream(parts, "m", None)
    assert unfit(recorded, "chat", 1) is not None or await said(recorded) == "It is not safe."


async def test_a_stream_whose_events_have_names_is_kept() -> None:
    parts = [part if b"[DONE]" in part else b"event: message\n" + part for part in blocks(b"")]
    recorded = of_stream(parts, "m", None)
    assert unfit(recorded, "chat", 1) is None
    assert await said(recorded) == "It is not safe."


def test_what_went_wrong_is_not_put_right_by_a_later_word() -> None:
    ends = [{"index": 0, "delta": {"content": "It"}, "finish_reason": reason} for reason in ("content_filter", "stop")]
    events = [b'data: {"choices":[%b]}\n\n' % msgspec.json.encode(end) for end in ends]
    assert unfit(of_stream(events, "m", None), "chat", 1) == "it ended with 'content_filter'"

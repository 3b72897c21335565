"""What an answer says, and whether two say the same."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.cache.recording import Recorded
from trimtab.cache.said import compare, said


def whole(*messages: dict[str, Any]) -> Recorded:
    choices = [{"index": place, "message": message} for place, message in enumerate(messages)]
    return Recorded("whole", json.dumps({"choices": choices}).encode(), "m")


def stream(*deltas: dict[str, Any]) -> Recorded:
    events = [{"choices": [{"index": 0, "delta": delta}]} for delta in deltas]
    return Recorded("stream", b"".join(b"data: " + json.dumps(e).encode() + b"\n\n" for e in events), "m")


def test_the_text_of_both_forms() -> None:
    assert said(whole({"content": "It is high."})) == "It is high."
    assert said(stream({"role": "assistant"}, {"content": "It is "}, {"content": "high."}, {})) == "It is high."


@pytest.mark.parametrize(
    "odd",
    [
        whole({"content": None, "tool_calls": [{"id": "c"}]}),
        whole({"content": "a"}, {"content": "b"}),
        whole({"content": ""}),
        whole(),
        stream({"tool_calls": [{"index": 0}]}),
        stream({}),
        Recorded("whole", b"[]", "m"),
        Recorded("whole", b"{", "m"),
        Recorded("stream", b"data: 5\n\n", "m"),
        Recorded("whole", b'{"choices":5}', "m"),
    ],
)
def test_what_is_not_one_text_says_nothing(odd: Recorded) -> None:
    assert said(odd) is None


@pytest.mark.parametrize(
    ("one", "other", "cosine", "want"),
    [
        ("Paris.", "paris", None, "same"),
        ("It is **Paris**!", "It is Paris", 0.1, "same"),
        ("8,849 m", "8,848 m", 0.99, "different"),
        ("Paris", "Lyon", 0.9, "different"),
        ("It is Paris", "Paris", None, None),
        ("It is Paris", "Paris", 0.95, "same"),
        ("It is Paris", "The capital is Paris", 0.7, None),
        ("one two three four five", "six seven eight nine ten", None, "different"),
        (" ".join("abcdefghijklmnop"), " ".join("qrstuvwxyzabcdef"), 0.3, "different"),
        (" ".join("abcdefghijklmnop"), " ".join("qrstuvwxyzabcdef"), None, None),
    ],
)
def test_whether_two_say_the_same(one: str, other: str, cosine: float | None, want: str | None) -> None:
    assert compare(one, other, cosine) == want
    assert compare(other, one, cosine) == want


@given(st.text(max_size=60), st.text(max_size=60), st.none() | st.floats(-1, 1))
def test_it_takes_anything_and_sees_no_order(one: str, other: str, cosine: float | None) -> None:
    assert compare(one, other, cosine) == compare(other, one, cosine)
    assert compare(one, one, cosine) == "same"

"""A tool goes whole or not at all, only where it is clearly out of question, and never comes and goes over turns."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.compression.deadline import Deadline, OutOfTime
from trimtab.compression.policy import ToolsPolicy
from trimtab.compression.spans import Conversation
from trimtab.compression.tool_choice import tools, wanted
from trimtab.protocol.messages import Request

POLICY = ToolsPolicy(enabled=True, recall=0.99)  # what words alone can keep
LONG = Deadline(36_000)
QUESTION = "What is the weather forecast for Paris tomorrow?"


def tool(name: str, description: str, *parameters: str) -> dict[str, Any]:
    properties = {p: {"type": "string", "description": f"the {p}"} for p in parameters}
    function = {"name": name, "description": description, "parameters": {"type": "object", "properties": properties}}
    return {"type": "function", "function": function}


TOOLS = [
    tool("getWeatherForecast", "Gives the weather forecast of a city for tomorrow or another day.", "city", "day"),
    tool("send_email", "Sends a message by electronic mail.", "recipient", "subject", "body"),
    tool("book_flight", "Books an aeroplane seat.", "origin", "destination"),
    tool("stock.price", "Looks up a share's price at the exchange.", "ticker"),
    tool("translate_text", "Puts words into another language.", "text", "language"),
    tool("play_song", "Plays music.", "title", "artist"),
]


def asked(*said: str) -> list[dict[str, Any]]:
    roles = ("user", "assistant")
    return [{"role": roles[i % 2], "content": text} for i, text in enumerate(said)]


def left(
    messages: list[dict[str, Any]], listed: Any = TOOLS, policy: ToolsPolicy = POLICY, **more: Any
) -> tuple[list[str], str | None]:
    """The names that stay, and why all do."""
    conversation = Conversation.read(Request.build("chat", {"model": "m", "messages": messages}))
    assert conversation is not None
    raw = listed if isinstance(listed, bytes) else json.dumps(listed).encode()
    proposal = tools(conversation, raw, policy, LONG, **more)
    found = json.loads(proposal.raw or raw)
    return [t.get("function", t).get("name", t.get("type")) for t in found], proposal.parts[0].why


def test_the_right_tool_stays_and_others_go() -> None:
    names, why = left(asked(QUESTION))
    assert why is None
    assert "getWeatherForecast" in names
    assert 2 <= len(names) < len(TOOLS)


@pytest.mark.parametrize("indent", [None, 1, 3])
def test_what_stays_keeps_its_bytes(indent: int | None) -> None:
    odd = json.dumps(TOOLS, indent=indent).replace('"string"', '"str\\u0069ng"').encode()
    conversation = Conversation.read(Request.build("chat", {"model": "m", "messages": asked(QUESTION)}))
    assert conversation is not None
    made = tools(conversation, odd, POLICY, LONG).raw
    assert made is not None
    for listed in (json.loads(odd), json.loads(made)):
        assert listed[0]["function"]["name"] == "getWeatherForecast"
    each = [json.dumps(t, indent=indent).replace('"string"', '"str\\u0069ng"') for t in json.loads(made)]
    shift = "\n" + " " * (indent or 0)
    assert all(text.replace("\n", shift).encode() in made for text in each)


@pytest.mark.parametrize(
    ("messages", "more", "why"),
    [
        (asked("What is the weather in Paris and the price of a share?"), {}, "several"),
        (asked("What is the weather? Mail it to me."), {}, "several"),
        (asked("Какая завтра погода"), {}, "several"),
        (asked(""), {}, "several"),
        ([{"role": "system", "content": "x"}], {}, "no question"),
        ([{"role": "user", "content": QUESTION, "cache_control": {"type": "ephemeral"}}], {}, "cached"),
        (asked(QUESTION), {"policy": ToolsPolicy(enabled=True, recall=0.995)}, "so high a recall"),
        (asked(QUESTION), {"listed": TOOLS[:3]}, "too few"),
        (asked(QUESTION), {"listed": b"[]"}, "too few"),
        (asked(QUESTION), {"listed": [{**t, "cache_control": {"type": "ephemeral"}} for t in TOOLS]}, "cached"),
        (asked(QUESTION), {"vectors": {}}, "a vector is missing"),
    ],
)
def test_all_stay_where_it_is_not_sure(messages: list[dict[str, Any]], more: dict[str, Any], why: str) -> None:
    said = left(messages, **more)[1]
    assert said is not None
    assert why in said


@pytest.mark.parametrize("name", [t["function"]["name"] for t in TOOLS])
def test_a_tool_that_is_named_stays(name: str) -> None:
    assert name in left([{"role": "system", "content": f"use `{name}`."}, *asked(QUESTION)])[0]
    assert name in left(asked(QUESTION), tool_choice=json.dumps({"function": {"name": name}}).encode())[0]


@pytest.mark.parametrize("raw", [b'{"not": "a list"}', b"[1, 2, 3, 4, 5]", b"null", b"[", b"[" * 2000, b'"\xff"'])
def test_a_field_of_another_shape_is_left_alone(raw: bytes) -> None:
    conversation = Conversation.read(Request.build("chat", {"model": "m", "messages": asked(QUESTION)}))
    assert conversation is not None
    assert tools(conversation, raw, POLICY, LONG).raw is None


def test_what_has_no_name_stays() -> None:
    assert "web_search" in left(asked(QUESTION), [*TOOLS, {"type": "web_search"}])[0]


def test_a_list_of_functions_is_read_too() -> None:
    names, why = left(asked(QUESTION), [t["function"] for t in TOOLS])
    assert why is None
    assert "getWeatherForecast" in names


def test_the_choice_stays_until_a_dropped_tool_is_needed_and_then_all_are_back() -> None:
    said = [QUESTION, "It will rain.", "What is the weather forecast for Rome tomorrow?", "Sun.",
            "Play some music", "Playing.", QUESTION]  # fmt: skip
    sizes = [len(left(asked(*said[: n + 1]))[0]) for n in range(0, len(said), 2)]
    first = sizes[0]
    assert first < len(TOOLS)
    assert sizes == [first, first, len(TOOLS), len(TOOLS)]


def test_a_call_of_a_dropped_tool_brings_all_back() -> None:
    dropped = next(t["function"]["name"] for t in TOOLS if t["function"]["name"] not in left(asked(QUESTION))[0])
    call = {"id": "c", "type": "function", "function": {"name": dropped, "arguments": "{}"}}
    messages = [*asked(QUESTION), {"role": "assistant", "content": None, "tool_calls": [call]},
                {"role": "tool", "tool_call_id": "c", "content": "ok"}]  # fmt: skip
    assert len(left(messages)[0]) == len(TOOLS)


words = st.sampled_from(["weather", "mail", "flight", "share price", "song", "Paris", "tomorrow", "translate", "and"])
turns = st.lists(st.lists(words, max_size=4).map(" ".join), min_size=1, max_size=7)


@given(turns)
@settings(max_examples=60, deadline=None)
def test_tools_only_ever_come_back(said: list[str]) -> None:
    before: list[str] = []
    for end in range(1, len(said) + 1, 2):
        now = left(asked(*said[:end]))[0]
        assert end == 1 or now == before or len(now) == len(TOOLS)
        before = now


@given(turns, st.integers(0, 10))
@settings(max_examples=60, deadline=None)
def test_whole_objects_in_their_order(said: list[str], seed: int) -> None:
    listed = [*TOOLS[seed % 6 :], *TOOLS[: seed % 6]]
    names = left(asked(*said), listed)[0]
    assert names == [t["function"]["name"] for t in listed if t["function"]["name"] in names]
    assert len(names) >= 2


def test_vectors_take_part() -> None:
    conversation = Conversation.read(Request.build("chat", {"model": "m", "messages": asked(QUESTION)}))
    assert conversation is not None
    texts = wanted(conversation, json.dumps(TOOLS).encode())
    assert len(texts) == 1 + len(TOOLS)
    song = {text: [1.0, 0.0] if "song" in text or text == QUESTION else [0.0, 1.0] for text in texts}
    assert "play_song" in left(asked(QUESTION), vectors=song)[0]
    unlike = {text: [1.0, 0.0] if text == QUESTION else [0.1, 0.99] for text in texts}
    assert len(left(asked(QUESTION), vectors=unlike)[0]) == len(TOOLS)


def test_the_deadline_is_heeded() -> None:
    conversation = Conversation.read(Request.build("chat", {"model": "m", "messages": asked(QUESTION)}))
    assert conversation is not None
    with pytest.raises(OutOfTime):
        tools(conversation, json.dumps(TOOLS).encode(), POLICY, Deadline(1, clock=iter(range(0, 100, 2)).__next__))


@pytest.mark.parametrize("unit", ["a", "aA", "a.", "_", "? ", "and "])
def test_hostile_texts_cost_little(unit: str) -> None:
    text = (unit * 100_000)[:100_000]
    before = time.process_time()
    left(asked(text), [*TOOLS, tool("x" * 64, text, text[:1000])])
    assert time.process_time() - before < 5, "quadratic work would take minutes"

"""The lossless tier on whole conversations: what it may touch, and that nothing is lost, said twice or moved."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trimtab.compression import duplicates, log_lines
from trimtab.compression import lossless as tier
from trimtab.compression.deadline import Deadline, OutOfTime
from trimtab.compression.edit import Edit
from trimtab.compression.fences import fences
from trimtab.compression.lossless import compact_tools, lossless
from trimtab.compression.spans import Conversation
from trimtab.compression.verify import Refused
from trimtab.protocol.messages import Request

RECORD = {"id": 7, "name": "a  b", "score": 1.0, "big": 2**60, "tags": ["x", "y"], "none": None}
PRETTY = json.dumps([RECORD] * 4, indent=2)
SHORT = json.dumps([RECORD] * 4, separators=(",", ":"))
WAIT = "2024-03-01 10:00:00 WARN waiting for the lock of the database\n"
REPORT = "\n".join(f"2024-03-01 10:00:{i:02d} INFO worker {i} has started on its part of the work" for i in range(9))
PROSE = "The committee met in the spring and found that the bridge would need to be closed. " * 4


def ample() -> Deadline:
    return Deadline(60)


def result(text: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": "call_1", "content": text}


def read(*messages: dict[str, Any]) -> Conversation:
    conversation = Conversation.read(Request.build("chat", {"model": "m", "messages": list(messages)}))
    assert conversation is not None
    return conversation


def contents(*messages: dict[str, Any]) -> list[str]:
    """What each message says afterwards."""
    conversation = read(*messages)
    return [m["content"] for m in json.loads(conversation.rewrite(lossless(conversation, ample()).texts))]


def test_json_in_a_result() -> None:
    conversation = read({"role": "user", "content": "List them."}, result(PRETTY))
    proposal = lossless(conversation, ample())
    assert list(proposal.texts.values()) == [SHORT]
    (part,) = proposal.parts
    assert (part.what, part.where, part.count) == ("JSON whitespace", "messages[1]", 1)
    assert 0 < part.tokens < len(PRETTY)
    assert not proposal.lossy


@pytest.mark.parametrize("tool", ["read_file", "ReadFile", "fs.read_text_file", "cat", "View", "str_replace_editor"])
def test_what_was_read_out_of_a_file_stays(tool: str) -> None:
    text = json.dumps({"indent": [1, 2, 3], "kept": "as it is"}, indent=4)
    call = {"id": "c", "type": "function", "function": {"name": tool, "arguments": "{}"}}
    asked = {"role": "assistant", "content": None, "tool_calls": [call]}
    assert contents(asked, {"role": "tool", "tool_call_id": "c", "content": text})[-1] == text
    call["function"] = {"name": "get_weather", "arguments": "{}"}
    assert len(contents(asked, {"role": "tool", "tool_call_id": "c", "content": text})[-1]) < len(text)


def test_what_is_said_for_the_receipt() -> None:
    text = f"HTTP/1.1 200 OK\n\n{PRETTY}\n\n{WAIT * 20}\n" + "padded    \n\n" * 20
    proposal = lossless(read(result(REPORT), result(text), result(REPORT)), ample())
    assert [(part.what, part.where) for part in proposal.parts] == [
        ("JSON whitespace", "messages[1]"),
        ("trailing space", "messages[1]"),
        ("repeated log lines", "messages[1]"),
        ("duplicate blocks", "messages[2]"),
    ]
    assert all(part.tokens > 0 for part in proposal.parts)


@pytest.mark.parametrize("role", ["system", "developer", "assistant"])
def test_other_roles_say_what_they_said(role: str) -> None:
    said = f"{PRETTY}\n\n{WAIT * 20}"
    assert contents({"role": role, "content": said}, result(PRETTY)) == [said, SHORT]


def test_arguments_and_the_cached_prefix_stay() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": PRETTY}}
    marked = [{"type": "text", "text": PRETTY, "cache_control": {"type": "ephemeral"}}]
    conversation = read(
        result(PRETTY),
        {"role": "user", "content": marked},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        result(PRETTY),
    )
    proposal = lossless(conversation, ample())
    assert [(span.message, text) for span, text in proposal.texts.items()] == [(3, SHORT)]


def test_an_instruction_stays() -> None:
    said = f"Fold these lines as you like:\n{WAIT * 5}\nand the    \nspace.    \n"
    assert contents({"role": "user", "content": said}) == [said]


def test_data_in_a_users_text() -> None:
    said = (
        f"Which record is the seventh?\n\n<documents>\n<document>\n{PRETTY}\n</document>\n</documents>\n\nThank you.  "
    )
    assert contents({"role": "user", "content": said}) == [said.replace(PRETTY, SHORT)]


def test_fenced_code_stays() -> None:
    fenced = f"```json\n{PRETTY}\n```"
    assert contents(result(f"{PRETTY}\n\n{fenced}\n")) == [f"{SHORT}\n\n{fenced}\n"]


@pytest.mark.parametrize(
    "text",
    [
        "diff --git a/x b/x\n@@ -1,4 +1,4 @@\n" + " same    \n\n" * 20,
        "Here is the file:\n\n" + "".join(f"    {i}\u2192a line of a file    \n" for i in range(20)) + WAIT * 20,
        "def f(x):    \n    return g(x)    \n\n\n\n\n\n\n" * 20,
        "<html>    \n<body>    \n<p>text</p>    \n" * 20,
    ],
    ids=["diff", "listing", "code", "markup"],
)
def test_what_is_read_by_column_or_line_stays(text: str) -> None:
    assert contents(result(text), result(text)) == [text, text]


@pytest.mark.parametrize(
    "mark", ["x [repeated 3 times]", duplicates.reference(4, 0, "2024-03-01 10:00:00 INFO worker 0 has started on")]
)
def test_a_text_with_a_mark_of_ours_in_it_is_left_alone(mark: str) -> None:
    text = f"{mark}\n\n{PRETTY}\n\n{WAIT * 20}"
    assert contents(result(REPORT), result(text)) == [REPORT, text]


def test_a_json_result_stays_json_however_often_it_comes() -> None:
    assert contents(result(PRETTY), result(PRETTY)) == [SHORT, SHORT]


def test_a_legacy_prompt() -> None:
    prompt = f"Answer from the text.\n\n<document>\n{PRETTY}\n</document>\n\nWho is it?"
    conversation = Conversation.read(Request.build("completions", {"model": "m", "prompt": prompt}))
    assert conversation is not None
    proposal = lossless(conversation, ample())
    assert json.loads(conversation.rewrite(proposal.texts)) == prompt.replace(PRETTY, SHORT)
    assert [part.where for part in proposal.parts] == ["prompt"]


def test_what_the_verifier_refuses_goes_as_it_came_and_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    def lossy(text: str, deadline: Deadline) -> list[Edit]:
        found = text.find("waiting")
        return [Edit(found, found + 7, "", "repeated log lines", 1)] if found >= 0 else []

    monkeypatch.setattr(tier.log_lines, "edits", lossy)
    proposal = lossless(read(result(WAIT * 3), result(PRETTY)), ample())
    assert [(span.message, text) for span, text in proposal.texts.items()] == [(1, SHORT)]
    assert [(part.what, part.where) for part in proposal.parts] == [
        ("verifier refused", "messages[0]"),
        ("JSON whitespace", "messages[1]"),
    ]
    assert proposal.parts[0].count == 0  # nothing was changed there
    assert proposal.parts[0].why == "repeated log lines: what was left out cannot be had back"


# Conversations of everything that the tier looks for, and of what it must not touch.

blocks = st.sampled_from(
    [
        PRETTY,
        json.dumps(RECORD),
        "".join(json.dumps(RECORD) + "\n" for _ in range(3)),
        WAIT * 4 + "ok",
        WAIT * 4,
        REPORT,
        PROSE,
        PROSE + "  ",
        "```\n" + PRETTY + "\n" + WAIT * 3 + "```",
        "```",
        "",
        "\n\n\n\n",
        "padded    \n\n" * 8,
        "hard  \nbreak   \n",
        "{\n" + PRETTY,
        "diff --git a/x b/x",
        "a\tb\tc   ",
        "x [repeated 3 times]",
        duplicates.reference(9, 0, "2024-03-01 10:00:00 INFO worker 0 has started on"),
        "你好，世界。 " * 20,
        "<document>",
        "</document>",
        "Document [1] (Title: Bridges)",
        "Here is the data:",
    ]
)
texts = st.lists(st.one_of(blocks, st.text(max_size=30)), max_size=6).flatmap(
    lambda parts: st.sampled_from(["\n", "\n\n", "\r\n"]).map(lambda joint: joint.join(parts))
)
messages = st.lists(
    st.one_of(
        texts.map(result),
        texts.map(result),
        st.tuples(st.sampled_from(["user", "system", "assistant"]), texts).map(
            lambda pair: {"role": pair[0], "content": pair[1]}
        ),
        st.lists(texts, min_size=1, max_size=3).map(
            lambda several: {"role": "user", "content": [{"type": "text", "text": text} for text in several]}
        ),
    ),
    min_size=1,
    max_size=6,
)
relaxed = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def after(conversation: Conversation) -> Conversation:
    raw = conversation.rewrite(lossless(conversation, ample()).texts)
    again = Conversation.read(Request.build("chat", {"model": "m", "messages": json.loads(raw)}))
    assert again is not None
    return again


def in_full(conversation: Conversation, originals: Conversation) -> list[str]:
    """Every span with what was said once written out again, where the tier made a change."""
    said: dict[int, list[str]] = {}
    for span in conversation.spans:
        said.setdefault(span.message, []).append(span.text)
    full = []
    for span, original in zip(conversation.spans, originals.spans, strict=True):
        text = span.text
        if text != original.text:
            out = []
            for line in text.split("\n"):
                found = duplicates.references(line)
                block = duplicates.expand(found[0], "\n".join(said[found[0].message]), 10**6) if found else line
                assert block is not None
                out += [unfolded for one in block.split("\n") for unfolded in [log_lines.expand(one, 10**6) or one]]
            text = "\n".join(out)
        full.append(text)
    return full


@given(messages)
@relaxed
def test_everything_can_be_had_back(given_: list[dict[str, Any]]) -> None:
    conversation = read(*given_)
    short = after(conversation)
    for full, original in zip(in_full(short, conversation), conversation.spans, strict=True):
        assert "".join(full.split()) == "".join(original.text.split())


@given(messages)
@relaxed
def test_only_what_may_change_changes(given_: list[dict[str, Any]]) -> None:
    conversation = read(*given_)
    proposal = lossless(conversation, ample())
    for span, text in proposal.texts.items():
        assert span.protected is None
        assert span.role in ("user", "tool")
        assert text != span.text
        assert len(text) < len(span.text)
        was = [span.text[start:end] for start, end in fences(span.text, ample())]
        assert [text[start:end] for start, end in fences(text, ample())] == was
    assert {part.what for part in proposal.parts} <= {
        "JSON whitespace",
        "trailing space",
        "repeated log lines",
        "duplicate blocks",
    }


@given(messages)
@relaxed
def test_a_second_time_changes_nothing(given_: list[dict[str, Any]]) -> None:
    assert lossless(after(read(*given_)), ample()).texts == {}


@given(messages, st.integers(0, 6))
@relaxed
def test_what_comes_later_changes_nothing(given_: list[dict[str, Any]], n: int) -> None:
    whole, beginning = read(*given_), read(*given_[:n])
    texts_of = {(span.message, span.start): text for span, text in lossless(whole, ample()).texts.items()}
    for message in beginning.messages:
        for span in message.spans:
            texts_of.setdefault((span.message, span.start), span.text)
    first = lossless(beginning, ample()).texts
    for span in beginning.spans:
        assert first.get(span, span.text) == texts_of[span.message, span.start]


@given(messages, st.integers(0, 6))
@relaxed
def test_a_history_that_is_settled_leads_to_the_same(given_: list[dict[str, Any]], n: int) -> None:
    """Worked on turn by turn, a conversation becomes what it becomes when it is worked on at once."""
    conversation = read(*given_)
    done = json.loads(conversation.rewrite(lossless(conversation, ample()).texts))
    view = read(*done[:n], *given_[n:])
    settled = tuple(
        m if m.index >= n else replace(m, spans=tuple(replace(s, protected="settled") for s in m.spans))
        for m in view.messages
    )
    view = replace(view, messages=settled)
    assert json.loads(view.rewrite(lossless(view, ample()).texts)) == done


@pytest.mark.parametrize(
    "text",
    [
        "x" * 10_000_000,
        json.dumps([RECORD] * 100_000, indent=2),
        "\n".join(f"2024-03-01 10:00:00 INFO line {i}" for i in range(100_000)),
        "[" * 400_000,
        "```\n" * 100_000,
        " " * 400_000,
        "[\n" * 200_000,
    ],
    ids=["10 MB", "10 MB of JSON", "100,000 lines", "nested", "fences", "space", "brackets"],
)
def test_odd_texts_end_by_the_deadline(text: str) -> None:
    conversation = read(result(text))
    ticks = iter(range(10**9))
    try:
        proposal = lossless(conversation, Deadline(1000, lambda: float(next(ticks))))
    except OutOfTime:
        return
    assert proposal.texts == {}


def test_it_stops_at_the_deadline() -> None:
    with pytest.raises(OutOfTime):
        lossless(read(result(PRETTY)), Deadline(-1))


@pytest.mark.parametrize("line", ["{}", "a: ", "# x", "[1] text"])
def test_looking_for_data_in_a_users_text_stops_at_the_deadline(line: str) -> None:
    conversation = read({"role": "user", "content": f"{line}\n" * 50_000})
    looks = iter([*[0.0] * 4, *[9.0] * 90_000])
    with pytest.raises(OutOfTime) as raised:
        lossless(conversation, Deadline(1.0, lambda: next(looks)))
    assert "data_ranges" in {entry.name for entry in raised.traceback}


def test_nothing_to_do_asks_for_no_time() -> None:
    assert not lossless(read({"role": "user", "content": "Hello"}), Deadline(60, lambda: 0.0))
    assert not lossless(read({"role": "system", "content": PRETTY}), Deadline(-1))


TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "find",
            "description": "Finds  a thing. 查找 \u200b",
            "parameters": {"type": "object", "properties": {"n": {"type": "number", "default": 1.0}}},
        },
    }
]


@pytest.mark.parametrize("indent", [None, 2, "\t"])
def test_tools_are_the_same_by_value_and_order(indent: int | str | None) -> None:
    raw = json.dumps(TOOLS, indent=indent).encode()
    short = compact_tools(raw, ample())
    assert short is not None
    assert len(short) < len(raw)
    assert json.loads(short) == TOOLS
    assert list(json.loads(short)[0]["function"]) == ["name", "description", "parameters"]
    assert b'"default":1.0' in short
    assert "查找 \\u200b".encode() in short
    assert compact_tools(short, ample()) is None


@pytest.mark.parametrize("raw", [b"[]", b"null", b"", b"[1, 2,]", b'[{"a": "\xff"}]', b"[" * 100_000, b'{"a": 1}'])
def test_tools_that_we_cannot_read_or_need_not(raw: bytes) -> None:
    assert compact_tools(raw, ample()) is None


def test_tools_that_the_verifier_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tier.json_text, "compact", lambda text: text.replace(" ", "").replace("1.0", "1"))
    with pytest.raises(Refused):
        compact_tools(json.dumps(TOOLS, indent=2).encode(), ample())

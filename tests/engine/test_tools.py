"""Tool calls in an answer's text: found whole and in pieces, never half a tag, and nothing lost that is none."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.backends.engine.tools import CLOSE, OPEN, ToolCall, ToolCalls, read_whole

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.sampled_from([OPEN, CLOSE, "<tool", '"', "\\"]),
    lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=5), v, max_size=3),
    max_leaves=5,
)
CALLS = st.tuples(st.text(min_size=1), st.dictionaries(st.text(max_size=5), VALUES, max_size=3))
PIECES = [OPEN, CLOSE, "<", "tool_call>", "</tool", " ", "\n", "hi", '{"name": "f", "arguments": {}}', '{"name"', "}"]


def written(name, arguments):
    return f"{OPEN}\n{json.dumps({'name': name, 'arguments': arguments})}\n{CLOSE}"


def streamed(pieces):
    reader = ToolCalls()
    return [part for piece in pieces for part in reader.feed(piece)] + reader.flush()


def folded(parts):
    """Texts joined and calls in their places."""
    out = []
    for part in parts:
        if isinstance(part, str) and out and isinstance(out[-1], str):
            out[-1] += part
        else:
            out.append(part)
    return out


def test_a_call_after_some_words():
    text, calls = read_whole(
        'Let me look.\n<tool_call>\n{"name": "weather", "arguments": {"city": "Zürich"}}\n</tool_call>'
    )
    assert text == "Let me look."
    assert calls == [ToolCall("weather", '{"city": "Zürich"}')]


@given(st.lists(CALLS, max_size=3))
def test_every_call_comes_back(calls):
    text, found = read_whole("\n".join(written(*call) for call in calls))
    assert [(call.name, json.loads(call.arguments)) for call in found] == calls
    assert text is None if calls else text == ""


@given(st.lists(st.sampled_from(PIECES)), st.data())
def test_how_the_text_is_cut_changes_nothing(pieces, data):
    text = "".join(pieces)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=10)))
    parts = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert folded(streamed(parts)) == folded(streamed(list(text))) == folded(streamed([text]))


@given(st.lists(st.sampled_from(PIECES)))
def test_nothing_is_lost_but_calls_and_the_space_beside_them(pieces):
    text = "".join(pieces)
    shown, calls = read_whole(text)
    if not calls:
        assert shown == text
    missing = len("".join(text.split())) - len("".join((shown or "").split()))
    one = len("".join((OPEN + '{"name": "f", "arguments": {}}' + CLOSE).split()))
    assert missing in (len(calls) * one, len(calls) * one - len(CLOSE))  # the last one may not have been closed


@given(st.lists(CALLS, min_size=1, max_size=2), st.text(st.characters(exclude_characters="<")))
def test_no_part_of_a_tag_is_ever_shown(calls, words):
    reader = ToolCalls()
    for letter in words + words.join(written(*call) for call in calls):
        assert not any("<" in part for part in reader.feed(letter) if isinstance(part, str))


def test_a_call_that_contains_the_closing_tag():
    arguments = {"text": f"write {CLOSE} and {OPEN}"}
    assert read_whole(written("f", arguments))[1] == [ToolCall("f", json.dumps(arguments))]


@pytest.mark.parametrize(
    "body", ["", "{", "[]", "3", '{"name": 3}', '{"arguments": {}}', '{"name": ""}', "[" * 100_000]
)
def test_what_is_no_call_is_text(body):
    text = f"a {OPEN}{body}{CLOSE} b"
    assert read_whole(text) == (text, [])


def test_a_call_cut_short_is_text_and_a_whole_one_without_its_end_is_a_call():
    assert read_whole(f'{OPEN}{{"name": "f", "argum') == (f'{OPEN}{{"name": "f", "argum', [])
    assert read_whole(f'{OPEN}{{"name": "f", "arguments": {{}}}}')[1] == [ToolCall("f", "{}")]


@pytest.mark.parametrize("arguments", ['{"arguments": "{\\"a\\": 1}"}', '{"parameters": {"a": 1}}'])
def test_other_ways_to_write_arguments(arguments):
    assert read_whole(f'{OPEN}{{"name": "f", {arguments[1:]}{CLOSE}')[1] == [ToolCall("f", '{"a": 1}')]


def test_the_form_of_openai():
    assert ToolCall("f", "{}").to_openai("call_1") == {
        "id": "call_1",
        "type": "function",
        "function": {"name": "f", "arguments": "{}"},
    }


@pytest.mark.parametrize("piece", ["<", "<tool_call", OPEN, CLOSE, " ", OPEN + '{"' + CLOSE, OPEN + "{}" + CLOSE])
def test_thirty_thousand_letters_that_are_no_call_come_back(piece):
    text = piece * (30_000 // len(piece))
    assert "".join(map(str, streamed(list(text)))) == text

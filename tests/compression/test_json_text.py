"""JSON is compacted by tokens: every value, spelling and order survives, and what is not JSON is left alone."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.compression.deadline import Deadline, OutOfTime
from trimtab.compression.edit import apply
from trimtab.compression.json_text import compact, edits, is_json, spelt_out

NUMBERS = ["0", "-0", "1.0", "1e-7", "1E+5", "0.10", "1152921504606846976", "1e400", "-12.500"]


def ample() -> Deadline:
    return Deadline(60)


def rewritten(text: str) -> str:
    return apply(text, edits(text, ample()))


def exactly(text: str) -> Any:
    """The value with the spelling of its numbers, the order of its keys and every key that is given twice."""
    return json.loads(
        text,
        parse_int=lambda s: ("int", s),
        parse_float=lambda s: ("float", s),
        object_pairs_hook=lambda pairs: ("object", pairs),
    )


space = st.text(alphabet=" \t\n\r", max_size=4)
words = st.one_of(
    st.text(max_size=12).map(json.dumps),
    st.sampled_from(['"\\u4f60"', '"a \\" b : , [ ] { }"', '"\\\\u0041 "', '"\\/  \\u003c"', '"{\\"a\\": 1}"', '"  "']),
)


@st.composite
def values(draw: st.DrawFn, depth: int = 3) -> str:
    """JSON as text, with odd spellings, any space between tokens, and now and then a key twice."""
    kind = draw(st.sampled_from(["number", "string", "word", "array", "object"] if depth else ["number", "string"]))
    if kind == "number":
        return draw(st.sampled_from(NUMBERS))
    if kind == "string":
        return draw(words)
    if kind == "word":
        return draw(st.sampled_from(["true", "false", "null"]))
    inner = draw(st.lists(values(depth=depth - 1), max_size=4))
    if kind == "array":
        parts = [draw(space) + one + draw(space) for one in inner]
        return "[" + (",".join(parts) or draw(space)) + "]"
    pairs = [draw(space) + draw(words) + draw(space) + ":" + draw(space) + one + draw(space) for one in inner]
    return "{" + (",".join(pairs) or draw(space)) + "}"


@given(values())
def test_a_value_keeps_its_tokens_and_loses_the_space_between_them(text: str) -> None:
    short = compact(text)
    assert short is not None
    assert exactly(short) == exactly(text)
    outside = re.sub(r'"(?:[^"\\]|\\.)*"', '""', short)
    assert not re.search(r"\s", outside)
    assert re.findall(r'"(?:[^"\\]|\\.)*"', short) == re.findall(r'"(?:[^"\\]|\\.)*"', text)


@given(st.lists(values(), min_size=1, max_size=4), st.sampled_from(["\n", "\nthen\n", "\n\n", "\r\n"]))
def test_in_a_text_every_line_is_the_same_or_json_of_the_same_value(found: list[str], between: str) -> None:
    text = between.join(found)
    once = rewritten(text)
    was, now = (spelt_out(t, ample()) for t in (text, once))
    assert "".join(now.split()) == "".join(was.split())
    assert rewritten(once) == once


def test_a_result_says_letters_where_it_said_escapes() -> None:
    written = json.dumps({"城市": "北京\u200b", "sign": "\u2028\n", "e": "é", "smile": "😀"}, indent=1)
    short = rewritten(written)
    assert json.loads(short) == json.loads(written)
    assert "北京" in short
    assert "é" in short
    assert "😀" in short
    assert "\\u200b" in short, "what cannot be seen stays an escape"
    assert "\\u2028" in short
    (edit,) = edits(written, ample())
    assert edit.what == "JSON escapes"


@given(st.text(alphabet='{}[]",:1a \n\\`', max_size=60))
def test_any_text_only_loses_space(text: str) -> None:
    once = rewritten(text)
    assert "".join(once.split()) == "".join(text.split())
    assert rewritten(once) == once


RECORD = {"id": 1, "name": "a  b", "tags": ["x", "y"], "score": 1.0, "none": None}


def test_the_whole_text() -> None:
    text = json.dumps([RECORD] * 3, indent=2)
    assert rewritten(text) == json.dumps([RECORD] * 3, separators=(",", ":"))


def test_json_lines() -> None:
    text = "".join(json.dumps(RECORD) + "\n" for _ in range(5))
    assert rewritten(text) == "".join(json.dumps(RECORD, separators=(",", ":")) + "\n" for _ in range(5))


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_a_value_on_lines_of_its_own(ending: str) -> None:
    pretty = json.dumps(RECORD, indent=2).replace("\n", ending)
    text = f"HTTP/1.1 200 OK{ending}{ending}{pretty}{ending}done {{ not json }}"
    short = json.dumps(RECORD, separators=(",", ":"))
    assert rewritten(text) == f"HTTP/1.1 200 OK{ending}{ending}{short}{ending}done {{ not json }}"


def test_two_values_one_after_the_other() -> None:
    pretty = json.dumps(RECORD, indent=2)
    short = json.dumps(RECORD, separators=(",", ":"))
    assert rewritten(f"{pretty}\n{pretty}") == f"{short}\n{short}"


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1, "b": [1, 2, 3],   }',
        '{"a": 1, /* why */ "b":      2}',
        '{"a": NaN, "b":              2}',
        '{"a": 1, "b": [1, 2,         3]',
        "{'a': 1, 'b': [1, 2,         3]}",
        '{"a": 01,     "b":           2}',
        '{"a": "\\ud800",     "b":    2}',
        '"{\\"a\\": 1,     \\"b\\":    2}"',
        'see {"a": 1, "b": [1, 2,         3]} there',
        '  {"a": 1,\n "b": [1, 2,         3]} there',
        "[INFO]     started     [worker]\n[INFO]     done       [worker]",
        "[ ]\n[ ]\n[ ]\n[ ]\n[       ]\n[         ]",
        '{"a": 1}',
        '\ufeff{"a": 1, "b":   [1, 2,         3]}',
    ],
)
def test_what_is_not_json_or_not_worth_it_is_left_alone(text: str) -> None:
    assert rewritten(text) == text


def test_nothing_is_looked_for_inside_a_broken_value() -> None:
    text = "[\n" + json.dumps(RECORD, indent=2) + ",\n]\n"
    assert rewritten(text) == text


def test_nesting_as_deep_as_can_be() -> None:
    for depth in (100, 100_000):
        text = "[ " * depth + "] " * depth
        assert rewritten(text) in (text, text.replace(" ", "") + " ")


@pytest.mark.parametrize(
    "text",
    [
        "[\n" * 50_000,
        '{"\n' * 50_000,
        '{"a":\n' * 50_000 + "}",
        '"' * 100_000,
        '["' + "\\" * 100_000,
        "[1,\n]\n" * 20_000,
    ],
    ids=["brackets", "braces", "closed once", "quotes", "backslashes", "broken"],
)
def test_long_and_hostile_texts_cost_no_more_than_their_length(text: str) -> None:
    assert rewritten(text) == text


def test_it_stops_at_the_deadline() -> None:
    with pytest.raises(OutOfTime):
        edits('{"a": 1, "b": 2}\n' * 1000, Deadline(-1))


def test_letters_for_their_escapes() -> None:
    text = json.dumps({"a": "你好 é", "b": "\u200b\u202e\n<\u00a0", "c": "😀", "d": "\\u4f60"}).replace("<", "\\u003c")
    short = spelt_out(text, ample())
    assert json.loads(short) == json.loads(text)
    assert "你好 é" in short
    assert "😀" in short
    assert "\\u200b\\u202e\\n\\u003c\\u00a0" in short  # what cannot be seen, or is ASCII, keeps its escape
    assert '"\\\\u4f60"' in short  # a backslash and a word
    assert spelt_out(short, ample()) == short


@given(values())
@settings(max_examples=50)
def test_letters_for_their_escapes_keep_every_value(text: str) -> None:
    assert exactly(spelt_out(text, ample())) == exactly(text)


def test_is_json() -> None:
    assert is_json(' {"a": 1}\n')
    assert not is_json('{"a": 1} x')
    assert not is_json("12")
    assert not is_json("")
    assert not is_json("[")

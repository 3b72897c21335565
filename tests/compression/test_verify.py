"""The verifier lets every true change through and no false one."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.compression.deadline import Deadline, OutOfTime
from trimtab.compression.edit import Edit, What, apply
from trimtab.compression.verify import Refused, same_json, verify

SAID = {0: "intro\nfirst line of the block\nsecond line\nthird line\nend", 1: "first line of the block\nother"}


def judged(was: str, new: str, what: What) -> bool:
    before, edit = f"a\n{was}\nz", Edit(2, 2 + len(was), new, what, 0)
    try:
        verify(before, apply(before, [edit]), [edit], lambda message: SAID.get(message, ""), Deadline(60))
    except Refused:
        return False
    return True


@pytest.mark.parametrize(
    ("what", "was", "new"),
    [
        ("JSON whitespace", '{"a": 1.0, "b": [1, "x  y"]}', '{"a":1.0,"b":[1,"x  y"]}'),
        ("JSON whitespace", '[\n\t"\\u00e9" , true\r\n]', '["\\u00e9",true]'),
        ("trailing space", "  \n\n\n\n\n   ", "\n\n\n   "),
        ("trailing space", "     \n", "  \n"),
        ("repeated log lines", "x\nx\nx", "x [repeated 3 times]"),
        ("repeated log lines", "x\r\nx\r", "x [repeated 2 times]\r"),
        (
            "duplicate blocks",
            "first line of the block\nsecond line\nthird line",
            '[same 3 lines as in message 1, beginning "first line of the block"]',
        ),
    ],
)
def test_true_changes(what: What, was: str, new: str) -> None:
    assert judged(was, new, what)


@pytest.mark.parametrize(
    ("what", "was", "new"),
    [
        ("JSON whitespace", '{"a": 1.0}', '{"a":1}'),
        ("JSON whitespace", '{"a": 1e3}', '{"a":1000}'),
        ("JSON whitespace", '{"a": 9007199254740993}', '{"a":9007199254740992}'),
        ("JSON whitespace", '{"a": -0}', '{"a":0}'),
        ("JSON whitespace", '{"a": 1, "b": 2}', '{"b":2,"a":1}'),
        ("JSON whitespace", '{"a": 1, "a": 2}', '{"a":2}'),
        ("JSON whitespace", '{"a": "x  y", "a": 1}', '{"a":"x y","a":1}'),
        ("JSON whitespace", '{"a": "é"}', '{"a":"\\u00e9"}'),
        ("JSON whitespace", '{"a": "x y"}', '{"a":"xy"}'),
        ("JSON whitespace", '[1, "2"]', "[1,2]"),
        ("JSON whitespace", "[1, 2]", "[12]"),
        ("JSON whitespace", "[1, 2,]", "[1,2,]"),
        ("JSON whitespace", "[1, NaN]", "[1,NaN]"),
        ("JSON whitespace", "[[], [1]]", "[[1],[]]"),
        ("trailing space", " \n", ""),
        ("trailing space", "  \n", "\n"),
        ("trailing space", "\n\n\n\n\n", "\n\n"),
        ("trailing space", " \n  ", "\n"),
        ("trailing space", " x\n", "\n"),
        ("trailing space", " \u00a0\n", "\n"),
        ("repeated log lines", "x\nx\nx", "x [repeated 2 times]"),
        ("repeated log lines", "x\nx\ny", "x [repeated 3 times]"),
        ("repeated log lines", "x\nx \nx", "x [repeated 3 times]"),
        ("repeated log lines", "x\nx\nx", "x"),
        ("repeated log lines", "x\nx\nx", "x [repeated 999999999 times]"),
        (
            "duplicate blocks",
            "first line of the block\nsecond line\nthird line",
            '[same 3 lines as in message 2, beginning "first line of the block"]',
        ),
        (
            "duplicate blocks",
            "first line of the block\nsecond line",
            '[same 3 lines as in message 1, beginning "first line of the block"]',
        ),
        (
            "duplicate blocks",
            "first line of the block\nsecond line",
            '[same 2 lines as in message 9, beginning "first line of the block"]',
        ),
        ("duplicate blocks", "first line of the block\nsecond line", "as above"),
    ],
)
def test_false_changes(what: What, was: str, new: str) -> None:
    assert not judged(was, new, what)


@pytest.mark.parametrize("after", ["a\n[1,2]\ny", "a\n[1,2]\nz ", "b\n[1,2]\nz", "a\n[1,2]", "a\n[1,2]\n"])
def test_nothing_else_may_change(after: str) -> None:
    edit = Edit(2, 8, "[1,2]", "JSON whitespace", 0)
    verify("a\n[1, 2]\nz", "a\n[1,2]\nz", [edit], str, Deadline(60))
    with pytest.raises(Refused):
        verify("a\n[1, 2]\nz", after, [edit], str, Deadline(60))


def test_edits_must_be_in_order() -> None:
    edits = [Edit(4, 6, "\n", "trailing space", 0), Edit(1, 3, "\n", "trailing space", 0)]
    with pytest.raises(Refused):
        verify("a \nb \nc", "a\nb\nc", edits, str, Deadline(60))


@given(st.recursive(st.none() | st.text(max_size=5) | st.integers(), st.lists), st.data())
def test_one_character_more_or_less_in_json_is_seen(value: object, data: st.DataObject) -> None:
    text = json.dumps(value, separators=(",", ":"))
    at = data.draw(st.integers(0, len(text) - 1))
    for other in (text[:at] + text[at + 1 :], text[:at] + "1" + text[at:], text[:at] + '"' + text[at:]):
        assert not same_json(text, other)


def test_strings_may_be_spelt_otherwise_only_where_that_is_asked_for() -> None:
    assert same_json('["\\u4f60"]', '["你"]', escapes=True)
    assert not same_json('["\\u4f60"]', '["你"]')
    assert not same_json('["\\u4f60"]', '["好"]', escapes=True)
    assert not same_json('["\\u4f60", "a"]', '["你"]', escapes=True)


def test_it_stops_at_the_deadline() -> None:
    edit = Edit(0, 6, "[1,2]", "JSON whitespace", 0)
    with pytest.raises(OutOfTime):
        verify("[1, 2]", "[1,2]", [edit], str, Deadline(-1))


def test_what_it_says_holds_no_text_of_the_request() -> None:
    edit = Edit(0, 10, '"secreT"', "JSON whitespace", 0)
    with pytest.raises(Refused) as refused:
        verify('  "secret"', '"secreT"', [edit], str, Deadline(60))
    assert "secre" not in refused.value.message

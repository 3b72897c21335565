"""Cutting texts into units: every character is in a unit or is white space, and structures stay whole."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.compression.deadline import Deadline, OutOfTime
from trimtab.compression.units import Unit, units


def kinds(text: str) -> list[tuple[str, str]]:
    return [(unit.kind, unit.text) for unit in units(text)]


LINES = st.sampled_from(
    [
        "# Head",
        "## Under",
        "**Bold**",
        "A sentence. And another one, Dr. No.",
        "- item one",
        "  - nested",
        "    goes on",
        "1. first",
        "| a | b |",
        "|---|---|",
        "| 1 | 2 |",
        "a,b,c",
        "1,2,3",
        "```py",
        "x = 1",
        "```",
        "    indented()",
        "2024-01-01 10:00:00 ERROR boom",
        "  at x.y(z)",
        "@@ -1,2 +1,2 @@",
        "+added",
        "-gone",
        "diff --git a/x b/x",
        "key: value",
        "You need:",
        "",
        "  ",
        "中文。第二句。",
        "[...]",
        '{"a": 1}',
        "\r",
    ]
)


@given(st.lists(LINES, max_size=30).map("\n".join))
def test_nothing_is_lost_but_white_space(text: str) -> None:
    found = units(text)
    at = 0
    for unit in found:
        assert not text[at : unit.start].strip()
        assert unit.text == text[unit.start : unit.end] != ""
        at = unit.end
    assert not text[at:].strip()


@given(st.lists(LINES, max_size=30).map("\n".join), st.integers(0, 9))
def test_parents_come_before_their_children(text: str, first: int) -> None:
    for index, unit in enumerate(units(text, first=first), first):
        assert unit.parent is None or first <= unit.parent < index


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=20,
)


@given(st.lists(st.dictionaries(st.text(max_size=4), JSON, max_size=3), min_size=2, max_size=8), st.integers(0, 2))
def test_the_records_of_an_array_are_its_elements(values: list[object], shape: int) -> None:
    text = (
        json.dumps(values),
        json.dumps({"n": 1, "results": values}, indent=2),
        "\n".join(json.dumps(value) for value in values),
    )[shape]
    found = units(text)
    assert [json.loads(unit.text) for unit in found] == values
    assert {unit.kind for unit in found} == {"record"}


@given(JSON)
def test_other_json_is_one_unit_or_records_that_parse(value: object) -> None:
    text = json.dumps([value, 1])
    found = units(text)
    said = [json.loads(unit.text) for unit in found]
    if {unit.kind for unit in found} == {"record"}:
        assert all(isinstance(record, dict) for record in said)
    else:
        assert said == [[value, 1]]


def test_arrays_of_several_kinds_are_left_alone() -> None:
    assert [unit.kind for unit in units('[{"a": 1}, 2, {"b": 3}]')] == ["code"]
    assert [unit.kind for unit in units('["a passage", "another"]')] == ["code"]


def test_an_inner_array_goes_with_its_record() -> None:
    found = units('{"x": [{"a": [{"b": 1}, {"b": 2}]}, {"a": []}]}')
    assert [unit.text for unit in found] == ['{"a": [{"b": 1}, {"b": 2}]}', '{"a": []}']


@pytest.mark.parametrize("text", ['{"a": [1, 2', '[{"a": 1}, {"b": ', '{"a": NaN}', "[{}" * 50_000, '{"a": "\ud800"}'])
def test_json_that_is_not_valid_is_one_unit(text: str) -> None:
    assert [unit.kind for unit in units(text)] == ["code"]


def test_a_table_keeps_its_head_over_its_rows() -> None:
    found = units("Prices.\n\n| name | price |\n|---|---:|\n| a | 1 |\n| b | 2 |\n")
    assert [unit.kind for unit in found] == ["sentence", "heading", "row", "row"]
    assert found[1].text == "| name | price |\n|---|---:|"
    assert [unit.parent for unit in found[2:]] == [1, 1]


def test_separated_values_keep_their_first_line() -> None:
    found = units('name,city,age\n"Doe, J",Rome,1\nb,Bonn,2\nc,Oslo,3\n')
    assert [unit.kind for unit in found] == ["heading", "row", "row", "row"]
    assert all(unit.parent == 0 for unit in found[1:])


def test_prose_with_commas_is_no_table() -> None:
    text = "\n".join(["Well, one, two things are said here, and more of them follow in the same way."] * 5)
    assert {unit.kind for unit in units(text)} == {"sentence"}


def test_sections_give_their_title_and_stay_above() -> None:
    found = units("# One\nA is b.\n## Two\nC is d.\n# Three\nE is f.", heading="Doc")
    assert [unit.heading for unit in found if unit.kind == "sentence"] == ["Doc / One", "Doc / Two", "Doc / Three"]
    by_text = {unit.text: unit for unit in found}
    assert found[by_text["C is d."].parent or 0].text == "## Two"
    assert found[by_text["## Two"].parent or 0].text == "# One"


def test_nested_items_stand_under_theirs() -> None:
    found = units("You need:\n- fruit\n  - red apples\n    from Rome\n- bread\n")
    assert [unit.text for unit in found] == ["You need:", "- fruit", "- red apples\n    from Rome", "- bread"]
    assert [unit.parent for unit in found] == [None, 0, 1, 0]


def test_a_stack_trace_goes_with_its_entry() -> None:
    found = units(
        "2024-01-01 10:00:00 INFO up\n2024-01-01 10:00:01 ERROR down\nTraceback (most recent call last):\n"
        '  File "x", line 1\nValueError: no\n2024-01-01 10:00:02 INFO up\n'
    )
    assert [unit.kind for unit in found] == ["line"] * 3
    assert found[1].text.endswith("ValueError: no")


def test_hunks_stand_under_their_file() -> None:
    found = units("diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+b\n@@ -9 +9 @@\n c\n+d\n")
    assert [(unit.kind, unit.parent) for unit in found] == [("heading", None), ("code", 0), ("code", 0)]


@pytest.mark.parametrize(
    "text",
    [
        "```py\n# not a heading\n\n- not an item\n```",
        "def f(x):\n    return x\n\nclass A:\n    y = 1\n",
        "<html>\n<body>\n<p>Hello.</p>\n</body>\n</html>",
        "name: x\nport: 80\nhosts: a\n",
    ],
)
def test_what_has_no_meaning_in_parts_is_one_unit(text: str) -> None:
    assert len(units(text)) == 1


def test_a_passage_that_its_template_indents_is_prose() -> None:
    long = "The quarry of Port Elgar stands ninety-six metres above the bay, behind a wall of stone."
    found = units(f"\n    {long} It burned in 1788, and was built again by a chemist.\n\n    x = 1\n    y = 2\n")
    assert [unit.kind for unit in found] == ["sentence", "sentence", "code"]


def test_wrapped_lines_are_one_sentence() -> None:
    text = (
        "The quick brown fox jumps over the lazy dog and then it goes on to the\n"
        "river, where it drinks. After that it sleeps for a long time in the shade\nof Oak Hill."
    )
    assert [unit.text.split()[0] for unit in units(text)] == ["The", "After"]


def test_short_lines_are_units_of_their_own() -> None:
    assert [unit.text for unit in units("Alice\nBob\nCarol")] == ["Alice", "Bob", "Carol"]


@pytest.mark.parametrize(
    "piece",
    [
        "- a\n",
        "a,b\n",
        "|a|\n|-|\n",
        "#\n",
        "# a\n",
        "```\n",
        "    a\n",
        "[",
        '{"a":',
        '"',
        "\\",
        "a: b\n",
        "<a>",
        "@@ -1\n",
        "x,y,z\nq\n",
        "\t",
        "12:00:00 a\n",
        "  - a\n" * 3,
        "--- a\n+++ b\n",
        "1.",
        "a\n\n",
        "*",
        "**a",
        "(a) ",
    ],
)
def test_hostile_texts_cost_no_more_than_their_length(piece: str) -> None:
    before = time.perf_counter()
    units((piece * 100_000)[:100_000])
    # Linear is under a second; to read the rest of the text from every line would be minutes.
    assert time.perf_counter() - before < 20


def test_a_deadline_ends_it() -> None:
    ticks = iter(range(1000))
    with pytest.raises(OutOfTime):
        units("A line. Another.\n\n" * 5000, deadline=Deadline(3, lambda: next(ticks)))


def test_a_unit_is_compared_by_value() -> None:
    assert units("One.") == [Unit("One.", "", 0, 0, 4, "sentence")]

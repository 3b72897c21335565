"""Shared beginnings of tool descriptions: said once, given back exactly, nothing else touched."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from trimtab.compression.deadline import Deadline
from trimtab.compression.tool_sharing import expand, share, shorten

INTRO = "This tool belongs to the file system, which lets users work with files and directories. Tool description: "
OTHER = "This tool belongs to the vehicle control system, which allows users to control various aspects of a car. "

WORDS = st.text("ab .:;", max_size=12)
DESCRIPTIONS = st.builds(lambda intro, rest: intro + rest, st.sampled_from(["", INTRO, OTHER, INTRO + OTHER]), WORDS)


def tool(name: str, description: str) -> dict[str, object]:
    schema = {"type": "object", "properties": {"a": {"type": "number", "default": 1.0, "description": INTRO.strip()}}}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": schema}}


def names(count: int) -> list[str]:
    return [f"tool_{i}" for i in range(count)]


def test_the_first_says_it_and_the_rest_refer() -> None:
    said = shorten(names(4), [INTRO + "Moves.", INTRO + "Copies.", INTRO + "Lists.", "Own words."])
    assert said == [INTRO + "Moves.", "As above: Copies.", "As above: Lists.", "Own words."]


def test_where_others_stand_between_the_name_is_said() -> None:
    said = shorten(names(3), [INTRO + "Moves.", "Own words, nobody else's.", INTRO + "Copies."])
    assert said[2] == "As in tool_0: Copies."


@given(st.lists(DESCRIPTIONS, max_size=8))
def test_the_originals_come_back(descriptions: list[str]) -> None:
    said = shorten(names(len(descriptions)), descriptions)
    assert expand(names(len(descriptions)), said, descriptions) == descriptions
    assert sum(map(len, said)) <= sum(map(len, descriptions))


@given(st.lists(DESCRIPTIONS, max_size=8), st.integers(0, 8))
def test_what_comes_later_changes_nothing_before_it(descriptions: list[str], cut: int) -> None:
    whole = shorten(names(len(descriptions)), descriptions)
    assert shorten(names(len(descriptions[:cut])), descriptions[:cut]) == whole[:cut]


@given(st.lists(DESCRIPTIONS, max_size=8))
def test_twice_is_once(descriptions: list[str]) -> None:
    once = shorten(names(len(descriptions)), descriptions)
    assert shorten(names(len(descriptions)), once) == once


@given(st.lists(DESCRIPTIONS, min_size=2, max_size=6), st.sampled_from([None, 2]))
def test_everything_else_of_a_tool_stays(descriptions: list[str], indent: int | None) -> None:
    tools = [tool(f"t{i}", description) for i, description in enumerate(descriptions)]
    shared = share(json.dumps(tools, indent=indent).encode(), Deadline(5))
    if shared is None:
        return
    after = json.loads(shared[0])
    assert b"1.0" in shared[0], "a number is spelt as it was"
    for old, new in zip(tools, after, strict=True):
        new["function"]["description"] = old["function"]["description"]  # type: ignore[index]
        assert new == old


def test_what_is_no_tool_set_is_left_alone() -> None:
    for raw in (b"{}", b"[1]", b'[{"function": 3}]', b'[{"function": {"name": 3}}]', b"[", b"[]", b'[{"x": "\xff"}]'):
        assert share(raw, Deadline(5)) is None


def test_a_description_that_already_refers_is_left_alone() -> None:
    theirs = ["As above: " + INTRO + "Moves.", "As above: " + INTRO + "Copies."]
    assert shorten(names(2), theirs) == theirs

"""YAML with its places: what is refused, and where everything stood."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from trimtab.gateway.problem import Mark, dotted
from trimtab.gateway.yaml_document import LARGEST, Document, parse

KEYS = st.text("abcdefghij_", min_size=1, max_size=6)
TREES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.text("abc: #{}[]'\"é\n", max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=12,
)


@given(TREES, st.booleans())
def test_reads_what_a_plain_reader_reads(tree: Any, flow: bool) -> None:
    text = yaml.safe_dump(tree, default_flow_style=flow, allow_unicode=True)
    document = parse(text, "f")
    assert not document.problems
    assert document.data == tree


@given(st.dictionaries(KEYS, st.dictionaries(KEYS, st.integers(), min_size=1, max_size=3), min_size=1, max_size=4))
def test_every_key_is_placed_on_its_line(tree: dict[str, dict[str, int]]) -> None:
    text = yaml.safe_dump(tree, sort_keys=False)
    document = parse(text, "f")
    expected: dict[tuple[str, ...], Mark] = {}
    above = ""
    for number, line in enumerate(text.splitlines(), 1):
        column = len(line) - len(line.lstrip()) + 1
        key = yaml.safe_load(line.strip().partition(":")[0])
        above = key if column == 1 else above
        expected[(key,) if column == 1 else (above, key)] = Mark(number, column)
    assert {path: document.mark(path) for path in expected} == expected


def test_a_path_that_is_not_there_is_placed_at_the_section_above() -> None:
    document = parse("a:\n  b: {c: 1}\n", "f")
    assert document.mark(("a", "b", "nope", "deeper")) == Mark(2, 3)
    assert document.mark(("nope",)) == Mark(1, 1)
    assert Document("f").mark(("x",)) == Mark()


def test_merged_keys_and_aliases() -> None:
    document = parse(
        "base: &b {x: 1, y: 2}\nnear: &n {z: 3}\none: {<<: *b, y: 9}\ntwo: {<<: [*n, *b]}\nthree: *b\n", "f"
    )
    assert not document.problems
    assert document.data["one"] == {"x": 1, "y": 9}
    assert document.data["two"] == {"x": 1, "y": 2, "z": 3}
    assert document.data["three"] == {"x": 1, "y": 2}


@pytest.mark.parametrize(
    ("text", "line", "column", "part"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, 1, "written twice; the first one stands in line 1"),
        ("a:\n  b: 1\n  b: 1\n", 3, 3, "a.b: is written twice"),
        ("a:\n\tb: 1\n", 2, 1, "spaces, not tabs"),
        ("a: b: c\n", 1, 5, "in quotes"),
        ("a: [1,\nb: 2\n", 3, 1, "flow sequence"),
        ("a: *nowhere\n", 1, 4, "undefined alias"),
        ("a: 1\n---\nb: 2\n", 2, 1, "single document"),
        ("a: \x01\n", 1, 4, "control character"),
        ("ok: 1\n1: 2\n", 2, 1, "a key must be text"),
        ("no: 1\n", 1, 1, "a key must be text"),
        ("? [a]\n: 1\n", 1, 3, "a key must be text"),
        ("a: !!python/object/apply:os.system ['true']\n", 1, 4, "not allowed"),
        ("a: !thing {b: 1}\n", 1, 4, "not allowed"),
        ("a: !!int abc\n", 1, 4, "is not a value"),
        ("a: !!float x\n", 1, 4, "is not a value"),
        ("a: &x [*x]\n", 1, 4, "contains itself"),
        ("&x {<<: *x}\n", 1, 1, "contains itself"),
        ("a: {<<: 3}\n", 1, 9, "`<<` merges sections only"),
    ],
)
def test_what_is_refused_and_where(text: str, line: int, column: int, part: str) -> None:
    problems = parse(text, "f.yaml").problems
    assert len(problems) == 1
    assert str(problems[0]).startswith(f"f.yaml:{line}:{column}: ")
    assert part in str(problems[0])


def test_a_version_that_looks_like_a_date_stays_text() -> None:
    assert parse("a: 2024-10-21\nb: 2024-13-45\n", "f").data == {"a": "2024-10-21", "b": "2024-13-45"}


def test_small_files_cannot_stand_for_huge_ones() -> None:
    levels = ["l0: &l0 [x, x, x, x, x, x, x, x, x, x]"]
    levels += [f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 10)}]" for i in range(1, 9)]
    document = parse("\n".join(levels), "f")
    assert [str(LARGEST) in problem.cause for problem in document.problems] == [True]


def test_deep_nesting_is_a_problem_and_no_crash() -> None:
    assert "nested" in parse("[" * 100_000, "f").problems[0].cause


def test_paths_read_well() -> None:
    assert dotted(("models", "gpt-4.1", "aliases", 0)) == 'models."gpt-4.1".aliases[0]'
    assert dotted(()) == ""

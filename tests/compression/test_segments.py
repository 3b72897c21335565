"""Segments cover a text, and only prose is called prose."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.compression.deadline import Deadline, OutOfTime
from trimtab.compression.segments import segments

SAMPLES = {
    "prose": [
        "The quick brown fox jumps over the lazy dog. It does so, as they say, every day.\n",
        "One line, and then,\nas letters do, a second one: it goes on (a bit)\nbefore it ends.\n",
        "Der Ausschuss tagte am 3. Oktober; beschlossen wurde, wie üblich, nichts.\n",
        "今天天气很好，我们去公园散步。\n",
        "Dear all,\nthanks for coming.\n",
        "[1] It was shown in 1901.\n",
    ],
    "code": [
        "```python\ndef f():\n    pass\n```\n",
        "~~~\nx\n\ny\n~~~\n",
        "> ```\n> quoted\n> ```\n",
        "```\nnever closed\n\n# not a heading\n",
        "````\n```\ninner\n```\n````\n",
        "def f(x):\n    return x\n",
        "int main() {\n  puts(s);\n  return 0;\n}\n",
        "    indented = True\n",
        "name: a\nport: 80\nhost: b\n",
    ],
    "json": ['{"a": 1}\n', "[1, 2,\n\n3]\n", '{"a": 1}\n{"b": 2}\n', json.dumps([{"k": "x\ny"}], indent=2) + "\n"],
    "csv": ["a,b,c\n1,2,3\n4,5,6\n", "a\tb\n1\t2\n3\t4\n", 'id;name;x\n1;"a; b";2\n2;c;3\n'],
    "markup": [
        "<p>Hello</p>\n",
        "<table>\n  <tr>\n    <td>1</td>\n  </tr>\n</table>\n",
        "<?xml version='1.0'?>\n<a/>\n",
    ],
    "log": [
        "2024-01-01 10:00:00 INFO started\n2024-01-01 10:00:01 ERROR failed\nTraceback (most recent call last):\n  x\n",
        "Jan  1 10:00:00 host sshd[1]: failed\n",
        "[2024-01-01T10:00:00Z] GET /\n",
    ],
    "diff": [
        "--- a/x\n+++ b/x\n@@ -1,2 +1,2 @@\n a\n-b\n+c\n",
        "diff --git a/x b/x\nindex 1..2 100644\n--- a/x\n+++ b/x\n@@ -1 +1 @@\n-b\n+c\n",
    ],
    "table": ["| x | y |\n|---|---|\n| 1 | 2 |\n", "x | y\n--- | ---\n1 | 2\n"],
    "list": ["- one\n- two\n  goes on\n", "1. one\n2. two\n", "* a\n    * b\n"],
    "heading": ["# Title\n", "### A longer one\n", "**Bold one**\n"],
    "blank": ["\n", "  \n\t\n"],
}


@pytest.mark.parametrize(("kind", "sample"), [(kind, sample) for kind, all_ in SAMPLES.items() for sample in all_])
def test_each_kind_is_told(kind: str, sample: str) -> None:
    assert [one.kind for one in segments(sample)] == [kind]
    if "never closed" not in sample:
        among = f"Some words before it.\n\n{sample}\nAnd some words after it.\n"
        start = among.index(sample)
        inside = {one.kind for one in segments(among) if one.start < start + len(sample) and one.end > start}
        assert inside == {kind} or kind == "blank"


@pytest.mark.parametrize("line_break", ["\n", "\r\n"])
def test_neighbours_of_different_kinds_are_kept_apart(line_break: str) -> None:
    text = "# A\nwords, they say\n- item\n```\ncode\n```\nmore words\n| a | b |\n|--|--|\n| 1 | 2 |\n".replace(
        "\n", line_break
    )
    kinds = ["heading", "prose", "list", "code", "prose", "table"]
    assert [one.kind for one in segments(text)] == kinds


lines = st.lists(
    st.sampled_from([sample for all_ in SAMPLES.values() for sample in all_]) | st.text(max_size=20), max_size=12
)


@given(lines)
def test_segments_cover_the_text_in_whole_lines(made: list[str]) -> None:
    text = "".join(made)
    found = segments(text)
    assert "".join(text[one.start : one.end] for one in found) == text
    edges = [0, *(one.end for one in found)]
    assert [one.start for one in found] == edges[:-1]
    for one in found:
        assert one.end > one.start
        assert one.end == len(text) or text[one.end - 1] == "\n"
    assert all(a.kind != b.kind for a, b in pairwise(found))


def test_a_deadline_is_asked() -> None:
    passed = iter([0.0, *[1.0] * 9])
    with pytest.raises(OutOfTime):
        segments("words\n" * 10, Deadline(0.5, clock=lambda: next(passed)))


N = 200_000  # characters
HOSTILE = [
    "[\n",
    "{",
    '{"a":',
    "```\n",
    "|",
    "| a |\n",
    "<a\n",
    "<",
    "- ",
    "-\n",
    "a,",
    '"',
    "\n",
    " ",
    "@@ -1\n",
    "a: b\n",
]
HOSTILE += ["--- a\n", "\t", "**", "#", "{}\n", "2024-01-01 ", "\r", "```", "a.b", "Error"]


@pytest.mark.timeout(20)
@pytest.mark.parametrize("piece", HOSTILE)
def test_a_hostile_text_takes_no_more_than_linear_time(piece: str) -> None:
    text = piece * (N // len(piece))
    assert segments(text)[-1].end == len(text)

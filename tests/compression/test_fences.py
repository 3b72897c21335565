"""Fenced code is found wherever it may stand; what is left around it are whole lines."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.compression.deadline import Deadline
from trimtab.compression.fences import fences, outside


def found(text: str) -> list[str]:
    return [text[start:end] for start, end in fences(text, Deadline(60))]


def around(text: str) -> list[str]:
    return [text[start:end] for start, end in outside(text, [(0, len(text))], fences(text, Deadline(60)))]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\n```py\nx\n```\nb", ["```py\nx\n```"]),
        ("````\n```\nx\n```\n````\nb", ["````\n```\nx\n```\n````"]),
        ("~~~\n```\n~~~ \nb", ["~~~\n```\n~~~ "]),
        (
            "- a\n      ```\n      x\n      ```\n> ```\n> y\n> ```",
            ["      ```\n      x\n      ```", "> ```\n> y\n> ```"],
        ),
        ("a\n```\nx", ["```\nx"]),
        ("a ``` b ``` c", []),
        ("```\nx\n```py\ny\n```", ["```\nx\n```py\ny\n```"]),
    ],
)
def test_fences(text: str, expected: list[str]) -> None:
    assert found(text) == expected


def test_outside_are_whole_lines() -> None:
    assert around("a\nb\n```\nx\n```\n\nc\n") == ["a\nb", "\nc"]
    assert list(outside("ab\ncd\nef", [(1, 7)], [])) == [(3, 5)]
    assert list(outside("abc", [(1, 2)], [])) == []


@given(st.text(alphabet="`~a\n >", max_size=80))
def test_what_is_outside_has_no_fence_of_its_own(text: str) -> None:
    for piece in around(text):
        assert found(piece) == []
    assert sum(map(len, around(text))) + sum(map(len, found(text))) <= len(text)


@pytest.mark.parametrize("text", ["```\n" * 30_000, "`" * 100_000, " > " * 40_000 + "```", "~~~\n" * 29_999 + "x"])
def test_hostile_texts(text: str) -> None:
    assert sum(map(len, found(text))) <= len(text)

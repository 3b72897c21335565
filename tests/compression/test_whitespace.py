"""Space at the ends of lines and long runs of blank lines go; hard breaks, indentation and tables stay."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.compression.deadline import Deadline, OutOfTime
from trimtab.compression.edit import apply
from trimtab.compression.whitespace import edits, shorter


def rewritten(text: str) -> str:
    return apply(text, edits(text, Deadline(60)))


def padded(*lines: str) -> str:
    """Lines with enough space behind others that together it is worth taking out."""
    return "\n".join(["a   \n"] * 10 + [*lines])


def test_trailing_space_goes() -> None:
    assert rewritten("one    \n\n  two \t\n\n" * 8) == "one\n\n  two\n\n" * 8


def test_two_blank_lines_are_enough() -> None:
    assert rewritten("one" + "\n" * 40 + "  two\n") == "one\n\n\n  two\n"


def test_a_hard_line_break_stays() -> None:
    assert rewritten(padded("Roses are red,  ", "violets are blue.      ", "End.")).endswith(
        "\nRoses are red,  \nviolets are blue.  \nEnd."
    )


def test_the_end_of_the_text_and_indentation_stay() -> None:
    assert rewritten(padded("    four", "\ttab", "last   ")).endswith("\n    four\n\ttab\nlast   ")


@pytest.mark.parametrize("text", ["a\tb   \n\n" * 20, "nothing to do\nhere\n\n\nat all\n", "a \nb", "", "\n", "   "])
def test_tables_and_tidy_texts_stay(text: str) -> None:
    assert rewritten(text) == text


@given(st.text(alphabet="ab \t\n\r", max_size=300))
def test_only_space_goes_and_only_once(text: str) -> None:
    once = rewritten(text)
    assert rewritten(once) == once
    assert once.split() == text.split()
    assert len(once) <= len(text)
    was, now = text.split("\n"), once.split("\n")
    assert [line.rstrip(" \t") for line in now if line.strip()] == [line.rstrip(" \t") for line in was if line.strip()]


@given(st.text(alphabet="ab  \n", max_size=300))
def test_no_hard_break_is_lost_or_made(text: str) -> None:
    def breaks(it: str) -> list[str]:
        return re.findall(r"(\S) {2,}\n(?= *\S)", it)

    assert breaks(rewritten(text)) == breaks(text)


@given(st.text(alphabet=" \t\n", max_size=20).filter(lambda run: "\n" in run))
def test_a_run_is_shortened_once(run: str) -> None:
    assert shorter(shorter(run)) == shorter(run)


@pytest.mark.parametrize("text", [" " * 100_000, " \t" * 50_000 + "x", "\n" * 100_000, ("a" + " " * 50) * 2000])
def test_long_runs_cost_no_more_than_their_length(text: str) -> None:
    assert rewritten(text).split() == text.split()


def test_it_stops_at_the_deadline() -> None:
    with pytest.raises(OutOfTime):
        edits("a   \n\n" * 100, Deadline(-1))

"""Repeated lines are folded so that they can be had back exactly, and nothing else is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.compression.deadline import Deadline, OutOfTime
from trimtab.compression.edit import apply
from trimtab.compression.log_lines import MARK, edits, expand, fold


def rewritten(text: str) -> str:
    return apply(text, edits(text, Deadline(60)))


def unfolded(text: str) -> str:
    """The text with every folded line written out; made for texts that held no mark before."""
    lines = text.split("\n")
    return "\n".join(line if (found := expand(line, 10_000_000)) is None else found for line in lines)


WAIT = "2024-03-01 10:00:00 WARN waiting for the lock of the database"


def test_a_run_is_folded() -> None:
    text = f"start\n{(WAIT + chr(10)) * 40}done"
    assert rewritten(text) == f"start\n{WAIT} [repeated 40 times]\ndone"
    assert unfolded(rewritten(text)) == text


def test_line_ends_of_another_system_are_kept() -> None:
    text = f"start\r\n{(WAIT + chr(13) + chr(10)) * 4}done\r\n"
    assert rewritten(text) == f"start\r\n{WAIT} [repeated 4 times]\r\ndone\r\n"
    assert unfolded(rewritten(text)) == text


lines = st.sampled_from(
    ["", "ok", WAIT, WAIT + " ", "  at com.example.Main.run(Main.java:1)", "---", "x" * 60, "é" * 40]
)


@given(st.lists(st.tuples(lines, st.integers(1, 6)), max_size=12), st.sampled_from(["\n", "\r\n"]))
def test_a_fold_can_be_undone_and_is_made_once(runs: list[tuple[str, int]], ending: str) -> None:
    text = ending.join(line for line, times in runs for _ in range(times))
    once = rewritten(text)
    assert unfolded(once) == text
    assert rewritten(once) == once


@given(st.text(alphabet="ab\n []", max_size=200))
def test_any_text_can_be_had_back(text: str) -> None:
    assert unfolded(rewritten(text)) == text


@pytest.mark.parametrize(
    "line",
    [
        "-" * 80,
        "1,2,3,4,5,6,7,8,9,10,11,12",
        "a;b;c;d;e;f;g;h;i;j;k;l;m;n",
        "| a | b | c | d | e | f | g |",
        "a\tb\tc\td\te\tf\tg\th\ti\tj\tk\tl",
        '{"level": "info", "message": "waiting"}',
        "[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]",
        WAIT + " [repeated 3 times]",
        "",
    ],
)
def test_rules_rows_values_and_marks_are_not_folded(line: str) -> None:
    assert fold(line, 50) is None
    assert rewritten("\n".join([line] * 50)) == "\n".join([line] * 50)


def test_lines_that_differ_in_a_number_are_all_kept() -> None:
    text = "\n".join(f"2024-03-01 10:00:{i:02d} INFO polling the queue, attempt {i}" for i in range(60))
    assert rewritten(text) == text


def test_what_is_not_worth_it_is_left_alone() -> None:
    assert rewritten("ok\nok\nok\nok\n") == "ok\nok\nok\nok\n"


def test_a_count_that_nobody_wrote_for_us_is_not_believed() -> None:
    assert expand("x [repeated 999999999 times]", 1000) is None
    assert expand("x [repeated 9999999999 times]", 1000) is None
    assert expand("x", 1000) is None


def test_marks_are_found_at_the_ends_of_lines_only() -> None:
    assert MARK.search("a\nb [repeated 2 times]\r\nc")
    assert not MARK.search("b [repeated 2 times] c")


def test_a_hundred_thousand_lines() -> None:
    assert rewritten("waiting\n" * 100_000) == "waiting [repeated 100000 times]\n"


def test_it_stops_at_the_deadline() -> None:
    with pytest.raises(OutOfTime):
        edits("a\na\nb\n" * 1000, Deadline(-1))

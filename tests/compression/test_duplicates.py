"""A block that was said before becomes a line that leads to it, and to nothing else."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.compression.deadline import Deadline, OutOfTime
from trimtab.compression.duplicates import Lines, Reference, Seen, expand, reference, references
from trimtab.compression.edit import apply

REPORT = "\n".join(f"2024-03-01 10:00:{i:02d} INFO worker {i} has started on its part of the work" for i in range(12))
PARAGRAPH = "The committee met in the spring and found that the bridge would need to be closed. " * 4


def said(texts: list[str], changeable: bool = True) -> list[str]:
    """What each message says after duplicates were taken out; one text a message."""
    seen, out = Seen(), []
    for message, text in enumerate(texts):
        where = [Lines(0, text.count("\n") + 1, lambda: changeable)]
        out.append(apply(text, seen.take(message, text, Deadline(60), where)))
    return out


def in_full(texts: list[str]) -> list[str]:
    """The inverse, for texts that held no reference before."""
    full = []
    for message, text in enumerate(texts):
        lines = []
        for line in text.split("\n"):
            found = references(line)
            block = expand(found[0], texts[found[0].message], 10**9) if found else line
            assert block is not None, (message, line)
            lines.append(block)
        full.append("\n".join(lines))
    return full


def test_a_whole_result_that_came_before() -> None:
    first = '[same 12 lines as in message 1, beginning "2024-03-01 10:00:00 INFO worker 0 has started on"]'
    assert said([REPORT, "other", REPORT]) == [REPORT, "other", first]


def test_a_part_of_a_text() -> None:
    text = f"Again:\n\n{REPORT}\n\n\nThat is all."
    out = said([f"First:\n{REPORT}\nmore", text])
    assert out[1].startswith("Again:\n\n[same 12 lines as in message 1, beginning ")
    assert out[1].endswith('"]\n\n\nThat is all.')
    assert in_full(out)[1] == text


def test_a_paragraph_within_one_text() -> None:
    text = f"{PARAGRAPH}\n\nin between\n\n{PARAGRAPH}\n"
    (out,) = said([text])
    assert out.count("[same 1 line as in message 1, ") == 1
    assert in_full([out]) == [text]


def test_a_single_line_inside_a_paragraph_stays() -> None:
    assert said([f"{PARAGRAPH}\nnext line", f"before\n{PARAGRAPH}\nafter"])[1] == f"before\n{PARAGRAPH}\nafter"


def test_short_blocks_stay() -> None:
    short = "this line is long enough to begin\na\nb"
    assert said([short, short]) == [short, short]


@pytest.mark.parametrize(
    "text",
    [
        "\n".join(json.dumps({"id": i, "name": "a name that is rather long"}) for i in range(20)),
        "\n".join(f"| {i} | a row of a table | with some more |" for i in range(20)),
        "\n".join(f"{i},a row of values,and,more,of,them" for i in range(20)),
    ],
)
def test_rows_and_values_stay(text: str) -> None:
    assert said([text, text]) == [text, text]


def test_what_may_not_change_is_only_taken_note_of() -> None:
    assert said([REPORT, REPORT], changeable=False) == [REPORT, REPORT]


def test_only_lines_in_the_given_range_are_replaced() -> None:
    seen = Seen()
    seen.take(0, REPORT, Deadline(60))
    (edit,) = seen.take(1, REPORT, Deadline(60), [Lines(2, 7, lambda: True)])
    assert apply(REPORT, [edit]).split("\n")[:2] == REPORT.split("\n")[:2]
    assert apply(REPORT, [edit]).split("\n")[3:] == REPORT.split("\n")[7:]
    assert references(edit.new)[0].lines == 5


def test_the_words_lead_to_one_line_only() -> None:
    head = "a beginning that is shared by the lines of this text: "
    block = "\n".join([head + "the second", *(f"line {i} that follows in the block" for i in range(9))])
    out = said([head + "the first\n\n" + block, block])
    # The block's first line begins as an earlier line does, so the reference is to the rest of it.
    assert out[1].startswith(head + 'the second\n[same 9 lines as in message 1, beginning "line 0 that')
    assert in_full(out)[1] == block


def test_a_reference_is_not_referred_to() -> None:
    out = said([REPORT, "\n".join([REPORT, PARAGRAPH]), "\n".join([REPORT, PARAGRAPH])])
    assert said(out) == out
    assert [[found.message for found in references(text)] for text in out] == [[], [0], [0]]
    assert in_full(out) == [REPORT, "\n".join([REPORT, PARAGRAPH]), "\n".join([REPORT, PARAGRAPH])]
    both = said(["\n".join([REPORT, PARAGRAPH, REPORT]), "\n".join([PARAGRAPH, REPORT])])
    assert said(both) == both  # nor is a block that ends with one


blocks = st.sampled_from(
    [REPORT, PARAGRAPH, "", "short", REPORT[:400], PARAGRAPH[:90], '{"a": 1}', "a line that is common"]
)


@given(st.lists(st.lists(blocks, max_size=6).map("\n".join), max_size=6))
def test_all_can_be_had_back_and_is_done_once(texts: list[str]) -> None:
    out = said(texts)
    assert in_full(out) == texts
    assert said(out) == out


@given(st.lists(st.lists(blocks, max_size=6).map("\n".join), max_size=6), st.integers(0, 6))
def test_what_comes_later_changes_nothing(texts: list[str], n: int) -> None:
    assert said(texts[:n]) == said(texts)[:n]


@given(st.lists(st.lists(blocks, max_size=6).map("\n".join), min_size=2, max_size=5), st.data())
def test_settled_texts_lead_to_the_same(texts: list[str], data: st.DataObject) -> None:
    n = data.draw(st.integers(0, len(texts)))
    out, seen = said(texts), Seen()
    for message, text in enumerate(out[:n]):
        assert seen.take(message, text, Deadline(60)) == []
    for message, text in enumerate(texts[n:], start=n):
        where = [Lines(0, text.count("\n") + 1, lambda: True)]
        assert apply(text, seen.take(message, text, Deadline(60), where)) == out[message]


def test_references_are_read_as_written() -> None:
    assert references(reference(12, 3, 'a "quoted" [head]')) == [Reference(12, 3, 'a "quoted" [head]')]
    assert references(reference(1, 0, "x")) == [Reference(1, 0, "x")]
    assert references(f"in a line: {reference(1, 0, 'x')}") == []


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (Reference(2, 0, "nowhere"), "one\ntwo"),
        (Reference(3, 0, "one"), "one\ntwo"),
        (Reference(2, 0, "on"), "one\ntwo"),
        (Reference(999_999_999, 0, "one"), "one\ntwo"),
        (Reference(2, 0, "two"), "one\ntwo\nthree and a half"),
    ],
)
def test_a_reference_that_leads_nowhere_is_not_followed(found: Reference, text: str) -> None:
    assert expand(found, text, 10) is None


@pytest.mark.parametrize(
    "text",
    [
        "the same line again and again\n" * 20_000,
        ("the same line again and again\n" + "x\n") * 10_000,
        (PARAGRAPH + "\n\n") * 1000,
        '[same 3 lines as in message 1, beginning "abc"]\n' * 10_000,
    ],
    ids=["one line", "two lines", "paragraphs", "references"],
)
def test_hostile_texts(text: str) -> None:
    out = said([text])
    assert len(out[0]) <= len(text)


def test_it_stops_at_the_deadline() -> None:
    with pytest.raises(OutOfTime):
        Seen().take(0, "some line of text\n" * 1000, Deadline(-1))

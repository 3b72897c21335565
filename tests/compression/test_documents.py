"""Documents are found where they are announced, and what a user asks for is never taken for one."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.compression.deadline import Deadline, OutOfTime
from trimtab.compression.documents import Block, blocks, data_ranges, instruction

PROSE = [
    "The Amazon rainforest covers most of the Amazon basin of South America, an area of seven million square km.",
    "Nikola Tesla was born in the village of Smiljan in 1856; his father was an Orthodox priest and a writer.",
    "The Normans were the people who in the 10th and 11th centuries gave their name to Normandy, in France.",
    "Oxygen is a chemical element with symbol O and atomic number 8, a member of the chalcogen group of elements.",
]
QUESTION = "Answer in one word. Which river is meant by the passage about the rainforest?"


def bodies(text: str) -> list[str]:
    return [text[one.body_start : one.body_end] for one in blocks(text)]


def titles(text: str) -> list[str]:
    return [one.title for one in blocks(text)]


FORMS: dict[str, Callable[[list[str]], str]] = {
    "tags": lambda d: (
        "<documents>\n"
        + "\n".join(f'<document index="{i}">\n{one}\n</document>' for i, one in enumerate(d))
        + f"\n</documents>\n\n{QUESTION}"
    ),
    "tags with sources": lambda d: (
        "<documents>\n"
        + "\n".join(
            f"<document>\n<source>{i}.pdf</source>\n<document_content>\n{one}\n</document_content>\n</document>"
            for i, one in enumerate(d)
        )
        + f"\n</documents>\n{QUESTION}"
    ),
    "tags on one line": lambda d: (
        "Read these.\n" + "".join(f"<doc id={i}>{one}</doc>\n" for i, one in enumerate(d)) + QUESTION
    ),
    "numbered in a context tag": lambda d: (
        "<context>\n" + "\n\n".join(f"[{i}] {one}" for i, one in enumerate(d)) + f"\n</context>\n\n{QUESTION}"
    ),
    "titled": lambda d: (
        "Write a high-quality answer using only the provided search results.\n\n"
        + "\n".join(f"Document [{i}](Title: T{i} (film)) {one}" for i, one in enumerate(d, 1))
        + f"\n\nQuestion: {QUESTION}\nAnswer:"
    ),
    "titled, question at once": lambda d: (
        "\n".join(f"Document [{i}] (Title: T) {one}" for i, one in enumerate(d, 1)) + f"\n{QUESTION}"
    ),
    "bracketed": lambda d: (
        "Use these search results:\n\n" + "\n\n".join(f"[{i}] {one}" for i, one in enumerate(d, 1)) + f"\n\n{QUESTION}"
    ),
    "passages": lambda d: "\n\n".join(f"Passage {i}:\n{one}" for i, one in enumerate(d, 1)) + f"\n\n{QUESTION}",
    "bold sources": lambda d: "\n".join(f"**Source {i}:** {one}" for i, one in enumerate(d, 1)) + f"\n{QUESTION}",
    "german": lambda d: "\n".join(f"Dokument {i}: {one}" for i, one in enumerate(d, 1)) + f"\n\nFrage: {QUESTION}",
    "chinese": lambda d: "\n".join(f"文档[{i}]：{one}" for i, one in enumerate(d, 1)) + f"\n\n问题：{QUESTION}",
    "headed": lambda d: (
        "## Retrieved documents\n\n"
        + "\n\n".join(f"### Document {i}\n{one}" for i, one in enumerate(d, 1))
        + f"\n\n## Question\n{QUESTION}"
    ),
    "chunks": lambda d: "Here are the retrieved passages:\n---\n" + "\n---\n".join(d) + f"\n---\n{QUESTION}",
    "chunks in a context": lambda d: "Context:\n" + "\n---\n".join(d) + f"\n\nQuestion: {QUESTION}",
    "chunks under a heading": lambda d: "# Context\n\n" + "\n\n---\n\n".join(d) + f"\n\n# Question\n{QUESTION}",
    "gaps in the numbers": lambda d: (
        "\n".join(f"Document [{i * 3}] {one}" for i, one in enumerate(d)) + f"\n\n{QUESTION}"
    ),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("count", [2, 3, 4])
def test_announced_documents_are_found_whole(form: str, count: int) -> None:
    text = FORMS[form](PROSE[:count])
    assert bodies(text) == PROSE[:count]
    asked = "".join(text[start:end] for start, end in instruction(text, blocks(text)))
    assert QUESTION in asked


ASIDES = ["Answer in one word.", "IMPORTANT: cite sources as [n].", "Antworte auf Deutsch.", "请用一句话回答。"]


@pytest.mark.parametrize("aside", ASIDES)
@pytest.mark.parametrize("form", ["numbered", "bracketed", "context", "heading", "chunks"])
def test_what_is_said_to_the_model_between_documents_is_instruction(form: str, aside: str) -> None:
    a, b, c, d = PROSE
    text = {
        "numbered": f"Document 1: {a}\n\nDocument 2: {b}\n\n{aside}\n\nDocument 3: {c}\n\nQuestion: {QUESTION}",
        "bracketed": f"Passages:\n\n[1] {a}\n\n[2] {b}\n\n{aside}\n\n[3] {c}\n\n{QUESTION}",
        "context": f"Context:\n{a}\n\n{b}\n\n{aside}\n\n{c}\n\n{d}\n\nQuestion: {QUESTION}",
        "heading": f"# Context\n\n{a}\n\n{b}\n\n{aside}\n\n{c}\n\n# Question\n\n{QUESTION}",
        "chunks": f"Context:\n{a}\n---\n{b}\n---\n{aside}\n---\n{c}\n\nQuestion: {QUESTION}",
    }[form]
    said = "".join(text[start:end] for start, end in instruction(text, blocks(text)))
    assert aside in said
    assert b not in said
    assert c not in said


def test_code_is_not_parted_where_it_speaks_of_answers() -> None:
    code = "```python\nask()\n\n# the answer\n\nprint(answer)\n```"
    context = f"{PROSE[0]}\n\n{code}\n\n{PROSE[1]}"
    assert bodies(f"Context:\n{context}\n\nQuestion: {QUESTION}") == [context]


@pytest.mark.parametrize("last", ["I want a short reply.", "Keep it brief and polite.", "Talk like a pirate."])
def test_a_short_line_after_the_context_may_be_a_request(last: str) -> None:
    context = "\n\n".join(PROSE)
    assert bodies(f"Context:\n{context}\n\n{last}\n\nQuestion: {QUESTION}") == [context]


def test_documents_of_an_example_are_instruction() -> None:
    example = "Source 1:\nThe sky is red in the evening.\nSource 2:\nWater is wet when the sky is red.\n"
    given = "\n".join(f"Source {i}:\n{one}" for i, one in enumerate(PROSE, 1))
    text = (
        f"Cite sources by number. For example:\n{example}Query: When is water wet?\nAnswer: In the evening [1][2].\n"
        f"Now it's your turn. Below are several numbered sources:\n------\n{given}\n------\nQuery: {QUESTION}\nAnswer: "
    )
    assert bodies(text) == PROSE


@pytest.mark.parametrize(
    ("lead", "found"),
    [
        ("Context information is below.", True),
        ("We have some more context below.", True),
        ("These are the rules for what is below.", False),
        ("My poem:", False),
    ],
)
def test_a_context_between_two_rules(lead: str, found: bool) -> None:
    context = "\n\n".join(PROSE)
    rule = "-" * 21
    ask = f"Given the context information and not prior knowledge, answer the query.\nQuery: {QUESTION}\nAnswer: "
    assert bodies(f"{lead}\n{rule}\n{context}\n{rule}\n{ask}") == ([context] if found else [])
    assert bodies(f"{lead}\n{rule}\n{context}\n{rule}\n{QUESTION}") == []


@pytest.mark.parametrize("form", ["context", "context, then what to do", "heading", "question first"])
def test_a_context_with_its_question_is_one_document(form: str) -> None:
    context = "\n\n".join(PROSE)
    text = {
        "context": f"Context: {context}\n\nQuestion: {QUESTION}",
        "context, then what to do": f"Context:\n{context}\n\nAnswer from the context only.\n\nQuestion: {QUESTION}",
        "heading": f"# Context\n\n{context}\n\nUse the context above.\n\n# Question\n\n{QUESTION}",
        "question first": f"Question: {QUESTION}\nContext: {context}\n\nAnswer:",
    }[form]
    assert bodies(text) == [context]


def test_titles_are_told() -> None:
    assert titles(FORMS["titled"](PROSE)) == [f"T{i} (film)" for i in range(1, 5)]
    assert titles(FORMS["tags with sources"](PROSE)) == [f"{i}.pdf" for i in range(4)]
    lines = "\n\n".join(f"Document {i}:\nTitle: T{i}\n{one}" for i, one in enumerate(PROSE)) + "\n\nWho?"
    assert titles(lines) == ["T0", "T1", "T2", "T3"]
    assert bodies(lines) == PROSE
    named = "\n".join(f'<file path="notes/{i}.md">\n{one}\n</file>' for i, one in enumerate(PROSE))
    assert titles(named) == [f"notes/{i}.md" for i in range(4)]


def test_retrieved_records_are_documents() -> None:
    records = [{"id": i, "title": f"T{i}", "text": one} for i, one in enumerate(PROSE)]
    for indent in (None, 2):
        for value in (records, {"query": "x", "results": records}):
            text = "Results:\n" + json.dumps(value, indent=indent) + f"\n\n{QUESTION}"
            assert [json.loads(one) for one in bodies(text)] == records
            assert titles(text) == ["T0", "T1", "T2", "T3"]


def test_records_without_texts_are_no_documents() -> None:
    assert blocks(json.dumps([{"role": "user", "content": one} for one in PROSE])) == ()
    assert blocks(json.dumps([{"id": i, "price": 3.5, "name": f"thing {i}"} for i in range(50)])) == ()


INSTRUCTIONS = {
    "numbered rules": "Follow these instructions:\n" + "\n".join(f"[{i}] {one}" for i, one in enumerate(PROSE)),
    "bracketed without a word about documents": "\n".join(f"[{i}] {one}" for i, one in enumerate(PROSE)),
    "a list": "\n".join(f"{i}. {one}" for i, one in enumerate(PROSE)),
    "steps": "\n".join(f"Step {i}: {one}" for i, one in enumerate(PROSE)),
    "questions": "\n".join(f"Question {i}: {one}?" for i, one in enumerate(PROSE)),
    "an author's context": "# Context\n" + "\n".join(PROSE) + "\n\n# Task\nWrite the function.\n# Rules\nBe brief.",
    "sections between rules": "\n\n---\n\n".join(PROSE),
    "source code": "## Source code\n" + "\n".join(PROSE) + "\n## Question\nWhy?",
    "a tag never closed": "<document>\n" + "\n".join(PROSE),
    "a tag in a sentence": "Wrap it as in <document>" + " ".join(PROSE) + "</document> and answer.",
    "an empty tag": "<context>\n</context>\n" + "\n".join(PROSE),
    "a file of code": '<file path="a/b.py">\n' + "\n".join(PROSE) + "\n</file>",
    "inside a fence": "```\n" + "\n".join(f"Document [{i}] {one}" for i, one in enumerate(PROSE)) + "\n```",
    "a mention": "Please compare document 3: it says that " + " ".join(PROSE),
    "one of them": "Document 1: " + " ".join(PROSE),
    "falling numbers": "\n".join(f"Document {9 - i}: {one}" for i, one in enumerate(PROSE)),
    "a short source": "Sources: use only peer-reviewed ones.\nQuestion: " + " ".join(PROSE),
    "examples": "Text: one\nQuestion: two?\nAnswer: three\n\nText: four\nQuestion: five?\nAnswer:" + " ".join(PROSE),
    "html": '<video>\n<source src="a.mp4">\n<source src="b.mp4">\n</video>\n' + "\n".join(PROSE),
    "plain": "\n\n".join(PROSE),
}


@pytest.mark.parametrize("name", INSTRUCTIONS)
def test_what_is_not_surely_a_document_is_instruction(name: str) -> None:
    text = INSTRUCTIONS[name]
    assert bodies(text) == []
    assert instruction(text, ()) == [(0, len(text))]


def test_the_question_is_not_part_of_the_last_document() -> None:
    for tail in ("\nWho was born in Smiljan?", "\n\nWho?", " Question: who?", "\nQ: who?", "\n\nAnswer in French."):
        for form in ("Document {}: {}", "Passage {}:\n{}", "[{}] {}"):
            text = "Documents below.\n\n" + "\n".join(form.format(i, one) for i, one in enumerate(PROSE, 1)) + tail
            found = [(one.start, one.end) for one in blocks(text)]
            assert found
            for start, end in found:
                assert tail.strip() not in text[start:end], (form, tail)


VALUE = json.dumps([{"a": i, "b": [1.0, "x"]} for i in range(30)], indent=2)


def test_json_on_lines_of_its_own_is_data() -> None:
    for text, wanted in (
        (VALUE, VALUE),
        (f"How many are there?\n\n{VALUE}\n\nAnswer with a number.", VALUE),
        (
            "How many?\n" + json.dumps({"k": "ü" * 220}, ensure_ascii=False),
            json.dumps({"k": "ü" * 220}, ensure_ascii=False),
        ),
    ):
        assert [text[start:end] for start, end in data_ranges(text)] == [wanted]


@pytest.mark.parametrize(
    "text",
    [
        f"How many: {VALUE}",
        f"{VALUE} is what I have, how many?",
        f"Fix the indentation:\n{VALUE}",
        f"Return it verbatim.\n{VALUE}",
        f"What is on line 7?\n{VALUE}",
        f"把它的格式改一下：\n{VALUE}",
        f"```json\n{VALUE}\n```",
        'Is this right?\n{"a": 1}\n' + " ".join(PROSE),
        f"What is wrong with it?\n{VALUE[:-1]}",
        "What?\n[" + "NaN, " * 100 + "1]",
    ],
)
def test_json_that_may_be_asked_about_is_instruction(text: str) -> None:
    assert data_ranges(text) == []


def test_documents_are_data_unless_their_form_is_asked_about() -> None:
    text = FORMS["tags"](PROSE)
    assert data_ranges(text) == [(one.start, one.end) for one in blocks(text)]
    assert data_ranges(text + " Quote the exact words.") == []


PIECES = "Document [1] |Document 2: |[3] |<doc>|</doc>|<documents>|</documents>|<title>|</title>|# Context\n|Context: "
PIECES += '|Question: |---\n|\n|\n\n|```\n|[{"text": "|"}]\n|{|(Title: |word |ü|？|)|\t|\r\n| '
pieces = st.lists(st.sampled_from([*PROSE, *PIECES.split("|")]), max_size=60)


@given(pieces)
def test_blocks_are_in_order_apart_and_inside_the_text(made: list[str]) -> None:
    text = "".join(made)
    found: tuple[Block, ...] = blocks(text)
    edges = [0, *(edge for one in found for edge in (one.start, one.end)), len(text)]
    assert edges == sorted(edges)
    for one in found:
        assert one.start <= one.body_start < one.body_end <= one.end
    left = instruction(text, found)
    covered = sorted([*left, *((one.start, one.end) for one in found)])
    assert "".join(text[start:end] for start, end in covered) == text
    for start, end in data_ranges(text):
        assert 0 <= start < end <= len(text)


N = 20_000
HOSTILE = {
    "tags": "<doc>" * N,
    "open and closed tags": "<doc>\n</docs>\n" * N,
    "attributes": "<doc " + "a=' " * N,
    "closers": "<doc>" + "</passage>" * N,
    "brackets": "[\n" * N,
    "braces": '{"a":\n' * N,
    "records": "[{}\n" * N,
    "numbers": "[1] x\n" * N,
    "rising": "".join(f"[{i % 9999}] {'x' * 9}\n" for i in range(N)),
    "headings": "# Context\n" * N + "# Question\n",
    "deeper headings": "# a\n## Context\n### b\n" * (N // 3) + "# Question\n",
    "rules": "---\n" * N,
    "labels": "Context: x\n" * N,
    "pairs": "Context: x\nQuestion: y\n" * N,
    "blank": "Document [1] x\n" + "\n" * N,
    "spaces": "<doc>" + " " * N + "<doc>" + " " * N + "</doc>",
    "stars": "**" * N,
    "hashes": "#" * N,
    "brackets open": "Document [1](Title: " + "(" * N,
    "fences": "```\n" * N,
    "requests": "Context:\n" + "Answer.\n\n" * N + "Question: x\n",
    "requests everywhere": "".join(f"Document {i}: x\n\nAnswer.\n\n" for i in range(9999)),
    "rules around requests": "Context below.\n---\n" + "Reply.\n\n" * N + "---\nQuestion: x\n",
    "one line": "x" * 10 * N + ":",
}


def test_a_deadline_is_asked() -> None:
    passed = iter([0.0, *[1.0] * 9])
    with pytest.raises(OutOfTime):
        blocks("\n".join(PROSE), Deadline(0.5, clock=lambda: next(passed)))


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_text_takes_no_more_than_linear_time(name: str) -> None:
    """Quadratic would be minutes. Whatever is found lies in the text, in order, and nothing twice."""
    text = HOSTILE[name]
    for found in ([(one.start, one.end) for one in blocks(text)], data_ranges(text)):
        edges = [edge for place in found for edge in place]
        assert edges == sorted(edges)
        assert not edges or (edges[0] >= 0 and edges[-1] <= len(text))


@pytest.mark.parametrize("around", ["format", "spaceship", "xformat", "第 3 行", "indentation"])
@pytest.mark.parametrize("offset", range(-14, 3))
def test_a_long_instruction_is_read_like_a_short_one(around: str, offset: int) -> None:
    """It is read in windows, and a word may stand where one of them ends."""
    rows = json.dumps([{"id": number, "name": "a row of the table"} for number in range(20)])
    for window in (8192, 8192 + 256):
        filling = "so " * ((window + offset) // 3) + "so "[: (window + offset) % 3]
        short, long = (data_ranges(f"{said}{around} then\n{rows}") for said in ("so ", filling))
        joined = filling[-1:].isalpha()  # then it is the end of another word
        assert bool(long) == bool(short) or joined


def test_reading_a_long_instruction_takes_no_longer_than_it_may() -> None:
    looks = iter([*[0.0] * 20, *[9.0] * 9_000])
    with pytest.raises(OutOfTime):
        data_ranges("Chapter 1. " + "Well, so it is. " * 30_000, Deadline(1.0, lambda: next(looks)))

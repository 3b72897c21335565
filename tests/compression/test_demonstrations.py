"""Demonstrations go whole; the question, what stands before them, and everything that is no few-shot prompt stay."""

from __future__ import annotations

import json
import random
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.compression.deadline import Deadline
from trimtab.compression.demonstrations import demonstrations, wanted
from trimtab.compression.example_blocks import blocks
from trimtab.compression.policy import DemonstrationPolicy
from trimtab.compression.spans import Conversation
from trimtab.protocol.messages import Request

POLICY = DemonstrationPolicy(enabled=True, keep=0.4)
LONG = Deadline(36_000)
NOTE = " left out]\n\n"
TOPICS = ["trains", "apples", "rivers", "violins", "glaciers", "bakeries", "lizards", "telescopes", "markets", "kites"]


def read(fields: dict[str, Any]) -> Conversation:
    kind = "chat" if "messages" in fields else "completions"
    conversation = Conversation.read(Request.build(kind, {"model": "m", **fields}))  # type: ignore[arg-type]
    assert conversation is not None
    return conversation


def applied(text: str, keep: float = 0.4) -> str:
    conversation = read({"prompt": text})
    proposal = demonstrations(conversation, DemonstrationPolicy(enabled=True, keep=keep), LONG)
    out: str = json.loads(conversation.rewrite(proposal.texts, proposal.dropped))
    return out


def chat(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    conversation = read({"messages": messages})
    proposal = demonstrations(conversation, POLICY, LONG)
    out: list[dict[str, Any]] = json.loads(conversation.rewrite(proposal.texts, proposal.dropped))
    return out


def shots(form: str, number: int = 10) -> list[str]:
    return [form.format(i=i, q=f"How many {t} are there if {i} of {i + 20} leave?", a=f"{i + 7} {t}", t=t)
            for i, t in enumerate(TOPICS[:number])]  # fmt: skip


FORMS = {
    "qa": ("Q: {q}\nA: {a}\n\n", "Q: What about glaciers and 30 of them?\nA:"),
    "cot": ("Question: {q}\nLet's think step by step\nNote: first {a}.\nThe answer is {a}\n\n",
            "Question: What about glaciers?\nLet's think step by step\n"),
    "input": ("### Example {i}\nInput: {q}\nOutput: {a}\n", "### Example 11\nInput: glaciers?\nOutput: "),
    "ruled": ("Question: {q}\nAnswer: {a}\n###\n", "Question: glaciers?\nAnswer:"),
    "bold": ("**Problem {i}:** {q}\n**Solution:** {a}\n\n", "**Problem 11:** glaciers?\n**Solution:**"),
    "example": ("Example {i}:\nText: {q}\nSentiment: {a}\n\n", "Text: glaciers?\nSentiment:"),
    "speakers": ("Human: {q}\nAI: {a}\n\n", "Human: glaciers?\nAI:"),
    "no label": ("Q: {q}\nA: {a}\n\n", "Q: And glaciers, what about them?"),
    "crlf": ("Q: {q}\r\nA: {a}\r\n\r\n", "Q: What about glaciers and 30 of them?\r\nA:"),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("preamble", ["", "Answer the questions. Be brief!\n\n"])
def test_whole_demonstrations_go(form: str, preamble: str) -> None:
    block, question = FORMS[form]
    made = shots(block)
    text = preamble + "".join(made) + question
    out = applied(text)
    assert out.startswith(preamble + "[")
    assert out.endswith(question)
    middle = out[len(preamble) : -len(question)]
    note, rest = middle.split("]\n\n", 1)
    kept = [shot for shot in made if shot in rest]
    assert rest == "".join(kept), "whole ones, in their order, byte for byte"
    assert note == f"[{len(made) - len(kept)} examples left out"
    assert 2 <= len(kept) < len(made)
    assert made[4] in kept, "the one about glaciers, which the question is about"
    assert len(rest) >= 0.38 * len("".join(made))
    assert applied(out) == out


@pytest.mark.parametrize(
    "text",
    [
        "".join(shots("Q: {q}\nA: {a}\n\n")),  # all answered: a list of questions
        "".join(shots("Human: {q}\nAI: {a}\n")) + "Human: and now?\nAI:",  # a transcript
        "".join(shots("Name: {t}\nEmail: {t}@example.org\n\n")) + "Name: me\nEmail:",  # records
        "".join(shots("INFO: {q}\nWARN: {a}\n")) + "INFO: x\nWARN:",
        "Q: one\nA: two\n\nQ: three\nA:",
        "```\n" + "".join(shots("Q: {q}\nA: {a}\n\n")) + "Q: x\nA:\n```",
        "".join(shots("Q: {q}\nA: {a}\n\n")[:2]) + "Q: What of it?\nA:",
        "",
    ],
)  # fmt: skip
def test_what_is_no_few_shot_prompt_stays(text: str) -> None:
    assert applied(text) == text


def test_a_class_is_still_shown() -> None:
    made = [f"Review: the {t} were {'fine' if i != 3 else 'dreadful'}, I thought so at once\nSentiment: "
            f"{'good' if i != 3 else 'bad'}\n\n" for i, t in enumerate(TOPICS)]  # fmt: skip
    out = applied("".join(made) + "Review: the bakeries were fine\nSentiment:", keep=0.2)
    assert "bad" in out
    assert "good" in out


def test_system_text_and_results_are_left_alone() -> None:
    block, question = FORMS["qa"]
    text = "".join(shots(block)) + question
    messages = [{"role": "system", "content": text}, {"role": "user", "content": "go"},
                {"role": "assistant", "content": text}]  # fmt: skip
    assert chat(messages) == messages


def few_shot(count: int, tail: int = 1) -> list[dict[str, Any]]:
    """A chat of `count` examples and `tail` real turns, the last of which is unanswered."""
    random.seed(count)
    made = [{"role": "system", "content": "Classify."}]
    for i in range(count):
        words = " ".join(random.choices(TOPICS, k=8))
        made += [{"role": "user", "content": f"Text: {words}"}, {"role": "assistant", "content": f"Label: {i % 3}"}]
    for i in range(tail):
        made += [{"role": "user", "content": f"What is there to say of {TOPICS[i]}?"}]
        made += [{"role": "assistant", "content": f"I see {i}"}] if i < tail - 1 else []
    return made


@pytest.mark.parametrize("count", [4, 6, 16])
def test_pairs_of_messages_go_whole(count: int) -> None:
    messages = few_shot(count)
    left = chat(messages)
    assert left[0] == messages[0]
    assert left[-1] == messages[-1]
    assert left[1]["content"].startswith("[")
    note, first = left[1]["content"].split(NOTE)
    assert int(note[1:].split()[0]) == (len(messages) - len(left)) / 2 > 0
    pairs = [(messages[i], messages[i + 1]) for i in range(1, len(messages) - 1, 2)]
    bare = [{**left[1], "content": first}, *left[2:]]
    assert all((bare[i], bare[i + 1]) in pairs for i in range(0, len(bare) - 1, 2))
    assert chat(left) == left


@given(st.integers(4, 20), st.integers(2, 6))
@settings(max_examples=30, deadline=None)
def test_the_choice_stays_over_later_turns(count: int, turns: int) -> None:
    whole = few_shot(count, turns)
    first = chat(whole[: 2 + 2 * count])
    for end in range(4 + 2 * count, len(whole) + 1, 2):
        assert chat(whole[:end])[: len(first)] == first


def test_a_templated_conversation_moves_only_when_it_doubles() -> None:
    messages = few_shot(40)[:-1]
    moves, before = 0, [messages[0]]
    for end in range(2, len(messages), 2):
        left = chat(messages[:end])
        moves += left[: len(before)] != before
        before = left
    assert moves <= 4  # at 4, 8, 16 and 32 pairs


def test_a_plain_conversation_is_no_few_shot_prompt() -> None:
    said = ["hi there", "can you help me?", "why is it so slow", "and now?", "thanks", "one more thing"]
    messages = [{"role": r, "content": c} for s in said for r, c in (("user", s), ("assistant", f"{s} indeed"))]
    messages.append({"role": "user", "content": "so?"})
    assert chat(messages) == messages


@pytest.mark.parametrize(
    "question",
    [
        "Now list the labels so far.",
        "Which of these is the longest?",
        "What was the first one?",
        "And that one in French?",
        "Summarise what I gave you",
        "Wie viele Beispiele waren das?",
        "第三个是什么？",
    ],
)
def test_all_stay_where_the_question_is_about_them(question: str) -> None:
    messages = [*few_shot(8)[:-1], {"role": "user", "content": question}]
    assert chat(messages) == messages


@pytest.mark.parametrize("last", ["Do it as in Example 4.", "Wie oben, aber mit 9?", "参考上面的例子"])
def test_all_stay_where_the_last_one_names_them(last: str) -> None:
    block, _ = FORMS["qa"]
    text = "".join(shots(block)) + f"Q: {last}\nA:"
    conversation = read({"prompt": text})
    made = demonstrations(conversation, DemonstrationPolicy(enabled=True, keep=0.25), LONG)
    assert not made.texts
    assert [part.why for part in made.parts] == ["the question is about them"]


def test_vectors_take_part() -> None:
    block, question = FORMS["qa"]
    conversation = read({"prompt": "".join(shots(block)) + question})
    texts = wanted(conversation, LONG)
    assert len(texts) == 11
    assert texts[-1] == question
    towards = {text: [1.0, 0.0] if i in (1, 7) else [0.0, 1.0] for i, text in enumerate(texts[:-1])}
    towards[question] = [1.0, 0.0]
    policy = DemonstrationPolicy(enabled=True, keep=0.25)
    out = next(iter(demonstrations(conversation, policy, LONG, towards).texts.values()))
    assert texts[1] in out or texts[7] in out


def test_the_receipt_says_what_went_and_never_the_text() -> None:
    block, question = FORMS["qa"]
    proposal = demonstrations(read({"prompt": "".join(shots(block)) + question}), POLICY, LONG)
    (part,) = proposal.parts
    assert (part.what, part.where) == ("demonstrations", "messages[0]")
    assert part.tokens > 0
    assert part.count > 0
    assert proposal.lossy


@pytest.mark.parametrize("unit", ["Q:", "Q: a\nA: b\n", "A" * 40, "#" * 9 + "\n", " ", "a:" * 30 + "\n", "```\n"])
def test_hostile_texts_cost_little(unit: str) -> None:
    text = (unit * 100_000)[:100_000]
    before = time.process_time()
    blocks(text, LONG)
    assert time.process_time() - before < 5, "quadratic work would take minutes"

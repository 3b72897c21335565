"""Words go whole, only from prose, only the least surprising, and what must be kept is kept byte for byte."""

from __future__ import annotations

import asyncio
import json
import random
import re
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.compression.deadline import Deadline, OutOfTime
from trimtab.compression.literals import literals
from trimtab.compression.policy import ProsePolicy
from trimtab.compression.prose_words import by_word, going, without, words
from trimtab.compression.spans import Conversation
from trimtab.compression.surprise import MARK, Prose
from trimtab.protocol.errors import Overloaded
from trimtab.protocol.messages import Request

LONG = Deadline(36_000)
COMMON = ["the", "of", "and", "to", "in", "that", "it", "was", "for", "on", "as", "with", "they", "at", "which"]
RARE = ["harvest", "glacier", "violin", "parliament", "sediment", "copper", "monastery", "turbine", "orchard", "tariff"]


@dataclass
class Scores:
    starts: Any
    ends: Any
    logprobs: Any


class Common:
    """A model of half-word tokens that finds common words likelier than rare ones, and those it was given."""

    def __init__(self, fails: int = 0) -> None:
        self.asked: list[tuple[str, str]] = []
        self.fails = fails

    async def logprobs(self, text: str, given: str = "") -> Scores:
        self.asked.append((text, given))
        if len(self.asked) <= self.fails:
            raise Overloaded("busy")
        spans, logs = [], []
        for m in re.finditer(r"\s*\S+\s*$|\s*\S+", text):
            word, middle = m[0].strip(), (m.start() + m.end()) // 2
            cost = -0.5 if word in COMMON else -6.0
            cost += 2.0 if word in given.split() else 0.0
            spans += [(m.start(), middle), (middle, m.end())] if m.end() - m.start() > 6 else [m.span()]
            logs += [cost / 2] * 2 if m.end() - m.start() > 6 else [cost]
        bounds = np.array(spans, dtype=np.int64).reshape(-1, 2)
        return Scores(bounds[:, 0], bounds[:, 1], np.array(logs, dtype=np.float32))


def prose(seed: int, sentences: int = 30, rare: float = 0.4) -> str:
    rng = random.Random(seed)
    made = []
    for _ in range(sentences):
        said = [rng.choice(RARE if rng.random() < rare else COMMON) for _ in range(rng.randint(6, 16))]
        said.insert(3, rng.choice(["not", "Mr. Ndiaye", "42 km", "https://example.org/a?b=1", "`x_1`", "green,"]))
        made.append(said[0].capitalize() + " " + " ".join(said[1:]) + rng.choice([".", ".", "?", "!"]))
    return " ".join(made)


def result(text: str, asked: str = "How long is the glacier") -> list[dict[str, Any]]:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    return [{"role": "system", "content": prose(9)}, {"role": "user", "content": asked},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c", "content": text}]  # fmt: skip


def condensed(
    messages: list[dict[str, Any]], tier: Prose | None = None, keep: float = 0.7, deadline: Deadline = LONG
) -> list[dict[str, Any]]:
    conversation = Conversation.read(Request.build("chat", {"model": "m", "messages": messages}))
    assert conversation is not None
    made = asyncio.run((tier or Prose(Common()))(conversation, ProsePolicy(enabled=True, keep=keep), deadline))
    out: list[dict[str, Any]] = json.loads(conversation.rewrite(made.texts, made.dropped))
    return out


def body(messages: list[dict[str, Any]]) -> str:
    text: str = messages[-1]["content"]
    return text.removeprefix(MARK + " ")


@pytest.mark.parametrize("keep", [0.6, 0.7, 0.8, 0.9])
@pytest.mark.parametrize("windows", [False, True])
def test_the_share_that_is_kept_is_the_one_asked_for(keep: float, windows: bool) -> None:
    text = prose(1, rare=0.3)
    left = body(condensed(result(text), Prose(Common(), windows=windows), keep=keep))
    tokens = [len(asyncio.run(Common().logprobs(t)).logprobs) for t in (left, text)]
    assert keep - 0.02 <= tokens[0] / tokens[1] <= keep + 0.05


@given(st.integers(0, 10**6), st.sampled_from([0.3, 0.6, 0.8]), st.booleans())
@settings(max_examples=60, deadline=None)
def test_whole_words_only_and_what_must_stay_stays(seed: int, keep: float, windows: bool) -> None:
    text = prose(seed) + "\n\n" + prose(seed + 1)
    left = body(condensed(result(text), Prose(Common(), windows=windows), keep=keep))
    was, now = iter(text.split()), left.split()
    assert all(word in was for word in now), "the words that are left are the text's, in their order"
    gone = Counter(text.split()) - Counter(now)
    assert set(gone) <= {*COMMON, *RARE, "green,"} | {w.capitalize() for w in (*COMMON, *RARE)}
    for a, b, _ in literals(text):
        assert text[a:b] in left
    assert left.count("\n") == text.count("\n")
    assert [c for c in left if c in ".?!"] == [c for c in text if c in ".?!"]
    assert not re.search(r" [.?!,]|  ", left)


def test_the_least_surprising_words_go_first() -> None:
    text = prose(3, rare=0.3)
    left = body(condensed(result(text, asked=""), keep=0.75))
    gone = Counter(text.lower().split()) - Counter(left.lower().split())
    assert sum(gone[w] for w in COMMON) > 0.95 * gone.total() > 0


def test_what_the_question_makes_likelier_stays_longer() -> None:
    text = " ".join(random.Random(1).choices(RARE, k=200)) + "."
    kept = {}
    for asked in ("How long is the glacier", "Who plays the violin"):
        left = body(condensed(result(text, asked), Prose(Common(), contrast=True), keep=0.5))
        kept[asked] = [left.count(word) / text.count(word) for word in ("glacier", "violin")]
    assert kept["How long is the glacier"][0] == 1.0 > kept["How long is the glacier"][1]
    assert kept["Who plays the violin"][1] == 1.0 > kept["Who plays the violin"][0]


KEPT = {
    "code": "```python\n" + "\n".join(f"the_of = in_it({i}) and to" for i in range(30)) + "\n```",
    "json": json.dumps([{"the": "of and to in that it was", "n": i} for i in range(30)], indent=1),
    "table": "| the | of |\n|---|---|\n" + "\n".join(f"| and to in | that it was {i} |" for i in range(30)),
    "list": "\n".join(f"- the of and to in that it was for {i}" for i in range(30)),
    "heading": "# The harvest of the orchard and to in that it",
}


@pytest.mark.parametrize("kind", KEPT)
def test_other_than_prose_stays(kind: str) -> None:
    text = f"{prose(4)}\n\n{KEPT[kind]}\n\n{prose(5)}\n"
    left = body(condensed(result(text)))
    assert KEPT[kind] in left
    assert len(left) < len(text)
    alone = result(KEPT[kind])
    assert condensed(alone) == alone


def test_instructions_answers_and_system_text_stay() -> None:
    long = prose(6)
    messages = [{"role": "system", "content": long}, {"role": "user", "content": long},
                {"role": "assistant", "content": long}, {"role": "user", "content": long}]  # fmt: skip
    assert condensed(messages) == messages


def test_documents_in_a_users_text_are_condensed_and_nothing_around_them() -> None:
    documents = [f"<document>\n{prose(i)}\n</document>" for i in (1, 2)]
    lead, ask = "Read the documents and mind that it was in the orchard.\n\n<documents>\n", "How long is the glacier"
    text = lead + "\n".join(documents) + "\n</documents>\n\n" + ask
    left = condensed([{"role": "user", "content": text}])[0]["content"]
    assert left.startswith(lead)
    assert left.endswith("</document>\n</documents>\n\n" + ask)
    assert left.count(MARK) == 1
    assert len(left) < 0.85 * len(text)


@given(st.integers(0, 10**6), st.sampled_from([0.5, 0.8]))
@settings(max_examples=25, deadline=None)
def test_twice_is_once(seed: int, keep: float) -> None:
    once = condensed(result(prose(seed)), keep=keep)
    assert once[-1]["content"].startswith(MARK)
    assert condensed(once, keep=keep) == once


@pytest.mark.parametrize("contrast", [False, True])
def test_a_growing_conversation_keeps_its_beginning(contrast: bool) -> None:
    tier, messages, before = Prose(Common(), contrast=contrast), [], []
    for i in range(4):
        messages = [*messages, *result(prose(i), f"What of {RARE[i]}")[1:], {"role": "assistant", "content": "so"}]
        left = condensed(messages, tier)
        assert left[: len(before)] == before
        assert condensed(messages, Prose(Common(), contrast=contrast)) == left, "also without what was remembered"
        before = left


@pytest.mark.parametrize("contrast", [False, True])
def test_a_text_is_scored_once(contrast: bool) -> None:
    scorer = Common()
    tier, messages = Prose(scorer, contrast=contrast), result(prose(1))
    first = condensed(messages, tier)
    assert len(scorer.asked) == 1 + contrast  # without the question, and with it
    assert condensed(messages, tier) == first
    assert len(scorer.asked) == 1 + contrast


def test_a_text_that_was_left_stays_left() -> None:
    scorer = Common(fails=1)
    tier, messages = Prose(scorer), result(prose(1))
    assert condensed(messages, tier) == messages
    assert condensed(messages, tier) == messages, "or its beginning would change from one turn to the next"
    assert len(scorer.asked) == 1
    with pytest.raises(OutOfTime):
        condensed(messages, deadline=Deadline(0))


def test_texts_without_words_to_spare_stay() -> None:
    for text in ("", "short", "不能没有空格的文字" * 100, "A1 B2 C3 " * 200, "x" * 5000):
        messages = result(text)
        assert condensed(messages) == messages


def test_offsets_of_words_and_tokens_meet() -> None:
    text = "  the harvest of copper, naïve and good."
    found = words(text, [(0, len(text))], [])
    scored = asyncio.run(Common().logprobs(text))
    logs, sizes = by_word(found, scored)
    assert sizes.sum() == len(scored.logprobs)
    assert logs.sum() == pytest.approx(scored.logprobs.sum())
    assert [text[a:b] for a, b in zip(found.starts, found.ends, strict=True)][:4] == [
        "the ",
        "harvest ",
        "of ",
        "copper, ",
    ]
    gone = going(found, logs, sizes, 0.5)
    assert "the" not in without(text, 0, len(text), found, gone)
    assert without(text, 0, len(text), found, gone).endswith("good.")


@pytest.mark.parametrize("unit", ["a ", "a", "' ", "a-", "a'", "\n", ", ", "é "])
def test_hostile_texts_cost_little(unit: str) -> None:
    text = (unit * 100_000)[:100_000]
    before = time.process_time()
    condensed(result(text))
    assert time.process_time() - before < 10, "quadratic work would take minutes"

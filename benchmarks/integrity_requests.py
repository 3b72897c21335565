"""Requests such as people send, and such as nobody should: strategies for hypothesis.

A request comes as bytes, with the same conversation as it was a turn earlier (None: it is the first) and with what of
it must be found again whatever was done to the rest.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

NUMBERS = ["1.0", "0", "-0", "1e-7", "1E+30", "1152921504606846976", "3.14159265358979312", "-12.50", "100"]
PHRASES = (
    "the server must not restart while a deploy is running unless it was asked for",
    "never delete 42 files in /var/log without Ms. Curie's user_id=7f3a (99.5% of $1,200.00, 3 kg)",
    "Zürich 北京 naïve ERROR timeout https://example.org/a?b=c#d v1.2.3 rm -rf don't only 2026-11-21",
)
WORDS = [word for phrase in PHRASES for word in phrase.split()]
QUESTIONS = [
    "How many files must not be deleted?",
    "Who wrote the report, and when?",
    "Summarise everything above.",
    "Was ist die Hauptstadt von Frankreich?",
    "谁写了这份报告？",
    "Do NOT change the numbers. What is 1.0 + 1e-7?",
    "",
    "?",
]
STYLES: list[dict[str, Any]] = [
    {},
    {"indent": 2},
    {"indent": 4, "ensure_ascii": False},
    {"separators": (",", ":")},
    {"indent": "\t", "separators": (", ", " : ")},
]
BROKEN = [
    '{"a": 1,}',
    "{'a': 1}",
    '{"a": NaN}',
    "[1, 2, 3",
    '{"a": 1} trailing',
    "// no\n{}",
    '{"a": "\\ud800"}',
    "[[[[" * 40,
]


@dataclass
class Facts:
    """What must be found again in what is sent on."""

    instructions: list[str] = field(default_factory=list)
    fences: list[str] = field(default_factory=list)


class _Number:
    """A number that is spelt as it stands."""

    def __init__(self, spelling: str) -> None:
        self.spelling = spelling


def _dumps(value: Any, style: dict[str, Any]) -> str:
    """JSON with the spellings of `_Number` kept."""
    marks: list[str] = []

    def plain(inner: Any) -> Any:
        if isinstance(inner, _Number):
            marks.append(inner.spelling)
            return f"\x00{len(marks) - 1}\x00"
        if isinstance(inner, dict):
            return {key: plain(item) for key, item in inner.items()}
        return [plain(item) for item in inner] if isinstance(inner, list) else inner

    text = json.dumps(plain(value), **style)
    for index, spelling in enumerate(marks):
        text = text.replace(json.dumps(f"\x00{index}\x00"), spelling)
    return text


_rng = random.Random(11)  # a phrase is one draw: to draw each word would take most of the time
_PHRASES = [" ".join(_rng.choices(WORDS, k=_rng.randint(1, 14))) for _ in range(600)]
_PARAGRAPHS = [
    "".join(f"{phrase.capitalize()}. " for phrase in _rng.sample(_PHRASES, _rng.randint(1, 12))) for _ in range(300)
]
words = st.sampled_from(_PHRASES)
odd = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
texts = st.one_of(words, words, odd)
leaves = st.one_of(st.sampled_from(NUMBERS).map(_Number), texts, st.booleans(), st.none())
keys = st.one_of(
    st.sampled_from(["id", "name", "text", "tags", "score", "a b", "ключ"]), st.text('ab"\\\n', max_size=3)
)
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(keys, inner, max_size=5), max_leaves=24
)
records = st.lists(
    st.fixed_dictionaries(
        {"id": st.integers(0, 10**6), "title": words, "text": words, "score": st.sampled_from(NUMBERS).map(_Number)}
    ),
    min_size=2,
    max_size=25,
)
json_texts = st.builds(_dumps, st.one_of(values, records), st.sampled_from(STYLES))
fences = st.builds(
    lambda lang, lines: f"```{lang}\n" + "\n".join(lines) + "\n```",
    st.sampled_from(["", "python", "json", "text"]),
    st.lists(st.one_of(words, st.just("    return 1.0   "), st.just("\t"), st.just(""), json_texts), max_size=6),
)
logs = st.builds(
    lambda lines, times, rest: "\n".join(
        [*(line for line, n in zip(lines, times, strict=False) for _ in range(n)), *rest]
    ),
    st.lists(words.map(lambda w: f"2026-11-21T06:50:45Z INFO {w}"), min_size=1, max_size=6),
    st.lists(st.integers(1, 9), min_size=1, max_size=6),
    st.lists(words, max_size=3),
)
tables = st.lists(st.lists(words, min_size=3, max_size=3), min_size=2, max_size=8).map(
    lambda rows: "\n".join("| " + " | ".join(row) + " |" for row in [rows[0], ["---"] * 3, *rows[1:]])
)
prose = st.sampled_from(_PARAGRAPHS)
padded = st.lists(st.one_of(words, st.just("   "), st.just("")), max_size=10).map(lambda lines: "  \t\n".join(lines))
blocks = st.one_of(json_texts, json_texts, fences, logs, tables, prose, padded, st.sampled_from(BROKEN), odd)
results = st.one_of(
    blocks,
    st.lists(blocks, min_size=2, max_size=4).map("\n\n".join),
    st.tuples(prose, prose).map(lambda p: p[0] + "\n\n" + p[0] + "\n\n" + p[1] + "\n\n" + p[0]),
)


@st.composite
def documents(draw: Any, facts: Facts) -> str:
    """A user's text: a question, perhaps with documents, perhaps with code."""
    question = draw(st.sampled_from(QUESTIONS))
    passages = draw(st.lists(st.tuples(words, prose), max_size=6))
    shape = draw(st.sampled_from(["none", "numbered", "xml", "fence", "before", "data"]))
    if question:
        facts.instructions.append(question)
    if shape == "numbered":
        return (
            "\n".join(f"Document [{i + 1}] (Title: {t}) {p}" for i, (t, p) in enumerate(passages))
            + f"\n\nQuestion: {question}"
        )
    if shape == "xml":
        inner = "\n".join(f'<document index="{i}">\n{p}\n</document>' for i, (_, p) in enumerate(passages))
        return f"<documents>\n{inner}\n</documents>\n\n{question}"
    if shape == "fence":
        fence = draw(fences)
        facts.fences.append(fence)
        return f"{question}\n\n{fence}\n"
    if shape == "before":
        return f"{draw(prose)}\n\n{question}"
    return f"{question}\n\n{draw(json_texts)}" if shape == "data" else question + "  \n   " + draw(odd)


@st.composite
def requests(draw: Any) -> tuple[bytes, bytes | None, Facts]:
    """A whole chat request, spelt in one of many ways."""
    facts = Facts()
    messages: list[dict[str, Any]] = []
    if draw(st.booleans()):
        messages.append(
            {"role": draw(st.sampled_from(["system", "developer"])), "content": draw(st.one_of(results, texts))}
        )
    for turn in range(draw(st.integers(1, 4))):
        messages.append({"role": "user", "content": _content(draw, draw(documents(facts)))})
        for call in range(draw(st.integers(0, 3))):
            call_id = f"call_{turn}_{call}"
            function = {"name": "look_up", "arguments": draw(json_texts)}
            called = {"id": call_id, "type": "function", "function": function}
            messages.append({"role": "assistant", "content": None, "tool_calls": [called]})
            messages.append({"role": "tool", "tool_call_id": call_id, "content": _content(draw, draw(results))})
        messages.append({"role": "assistant", "content": draw(st.one_of(texts, fences))})
    if draw(st.booleans()):
        messages.pop()
    marked = draw(st.integers(0, 5)) == 0
    if marked:
        last = draw(st.sampled_from(messages))
        if isinstance(last["content"], str):
            last["content"] = [{"type": "text", "text": last["content"], "cache_control": {"type": "ephemeral"}}]
    body: dict[str, Any] = {
        "model": "m",
        "messages": messages,
        "temperature": _Number("1.0"),
        "x_unknown": draw(values),
    }
    if draw(st.booleans()):
        schema = {"type": "object", "properties": {"q": {"type": "string", "default": _Number("1.0")}}}
        described = draw(st.lists(words, min_size=1, max_size=4))
        body["tools"] = [
            {"type": "function", "function": {"name": f"look_up_{i}", "description": d, "parameters": schema}}
            for i, d in enumerate(described)
        ]
    order, style = draw(st.permutations(list(body))), draw(st.sampled_from(STYLES))

    def spelt(messages: list[dict[str, Any]]) -> bytes:
        return _dumps({key: messages if key == "messages" else body[key] for key in order}, style).encode()

    turns = [i for i, message in enumerate(messages) if message["role"] == "user"]
    # A mark moves from turn to turn, and what stands before it is frozen.
    earlier = None if marked or len(turns) < 2 else spelt(messages[: turns[-1]])
    return spelt(messages), earlier, facts


def _content(draw: Any, text: str) -> Any:
    if draw(st.integers(0, 3)):
        return text
    return [{"type": "text", "text": text}, {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]

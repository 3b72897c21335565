"""A request's text: which it is, and that it is embedded once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from trimtab.protocol.embedded import LONGEST, asked, embed_once, vector_of
from trimtab.protocol.exchange import Caller, Exchange, Receipt, Tenant
from trimtab.protocol.messages import Kind, Request


def exchange(kind: Kind = "chat", **fields: Any) -> Exchange:
    request = Request.build(kind, {"model": "m", **fields})
    return Exchange("r", request, request, Caller(Tenant("acme")), Receipt("r", "acme", 0.0), [], 0.0)


class Counting:
    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []

    async def embed(self, texts: Sequence[str], *, tenant: str = "") -> Any:
        self.seen += [(text, tenant) for text in texts]
        return [[float(len(text))] for text in texts]


PART = {"type": "text", "text": "what is this?"}
IMAGE = {"type": "image_url", "image_url": {"url": "data:"}}


@pytest.mark.parametrize(
    ("messages", "text"),
    [
        ([{"role": "user", "content": "hi"}], "hi"),
        (
            [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}],
            "c",
        ),
        ([{"role": "user", "content": "call"}, {"role": "tool", "content": "result"}], "call"),
        ([{"role": "user", "content": [IMAGE, PART, PART]}], "what is this?\nwhat is this?"),
        ([{"role": "user", "content": [IMAGE]}], None),
        ([{"role": "user", "content": " "}], None),
        ([{"role": "system", "content": "x"}], None),
        ([1, "x", None], None),
        ({}, None),
        (None, None),
    ],
)
def test_what_is_asked(messages: Any, text: str | None) -> None:
    assert asked(exchange(messages=messages).original) == text


def test_what_a_completion_asks() -> None:
    assert asked(exchange("completions", prompt="Once").original) == "Once"
    assert asked(exchange("completions", prompt=["a", "b"]).original) is None
    assert asked(exchange("embeddings", input="Once").original) is None


async def test_a_text_is_embedded_once_however_many_ask() -> None:
    one, embedder = exchange(messages=[]), Counting()
    assert vector_of(one, "a") is None
    for _ in range(3):
        assert await embed_once(one, embedder, "a") == [1.0]
    assert vector_of(one, "a") == [1.0]
    assert vector_of(exchange(messages=[]), "a") is None, "it rides on its own exchange"
    long = "x" * (LONGEST + 5)
    await embed_once(one, embedder, long)
    assert embedder.seen == [("a", "acme"), ("x" * LONGEST, "acme")]
    assert vector_of(one, long) == [float(LONGEST)]

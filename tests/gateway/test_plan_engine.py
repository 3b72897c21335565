"""Continuation on the real engine: an answer under small caps is the uncut one."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from trimtab.backends.base import Call, Timeouts
from trimtab.gateway import continuation
from trimtab.protocol.errors import ModelUnavailable
from trimtab.protocol.messages import Request
from trimtab.routing.cap import Cap

pytest.importorskip("torch")

from trimtab.backends.engine.backend import EngineBackend
from trimtab.backends.engine.weights import DEFAULT, resolve

try:
    resolve(DEFAULT)
except ModelUnavailable:
    pytest.skip("the default weights have not been fetched", allow_module_level=True)

LENGTH = 10  # tokens that are compared


def call(question: str, most: int) -> Call:
    fields: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": question}], "temperature": 0}
    request = Request.build("chat", {**fields, "max_tokens": most})
    return Call("chat", request, "r", timeouts=Timeouts(first_token=120, total=300))


def short(asked: Call) -> Call:
    """The last part has no cap, and an answer may go on for long: what is compared is enough."""
    if asked.request.max_output is not None:
        return asked
    return replace(asked, request=asked.request.with_fields(max_tokens=LENGTH))


async def test_a_continued_answer_is_the_uncut_one() -> None:
    """At temperature 0, to the character. What could part them is a text whose tokens are not those that its tokenizer
    makes of it; the engine's sums do not depend on how many rows it reads at once."""
    backend = EngineBackend(DEFAULT)
    await backend.start()
    try:
        question = "Name three primary colours."
        uncut = await backend.complete(call(question, LENGTH))
        first = call(question, 4)
        whole = await continuation.complete(
            first,
            await backend.complete(first),
            Cap(4, ours=True),
            "engine",
            LENGTH,  # the room: the second part is the last
            lambda asked: backend.complete(short(asked)),
            lambda used: None,
        )
        texts = [json.loads(answer.body)["choices"][0]["message"]["content"] for answer in (uncut, whole)]
        assert len(texts[0]) > 20
        assert whole.usage is not None
        assert whole.usage.prompt > uncut.usage.prompt if uncut.usage else False
        assert texts[1].startswith(texts[0].rstrip("\ufffd"))
    finally:
        await backend.close()

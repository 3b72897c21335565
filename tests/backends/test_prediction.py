"""A draft goes to an upstream as OpenAI's `prediction`, where the request and the two go together."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from trimtab.backends.base import Call
from trimtab.backends.openai import with_prediction
from trimtab.protocol.messages import Kind, Request


def call(kind: Kind = "chat", **fields: Any) -> Call:
    base: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **fields}
    return Call(kind, Request.build(kind, base), "r", draft="Paris.")


def test_a_draft_is_a_prediction_and_nothing_else_changes() -> None:
    asked = call(temperature=0)
    sent = with_prediction(asked)
    assert sent.get("prediction") == {"type": "content", "content": "Paris."}
    assert {name: sent.fields[name] for name in asked.request.fields} == asked.request.fields


@pytest.mark.parametrize(
    "asked",
    [
        call("completions"),
        call(n=2),
        call(tools=[{"type": "function"}]),
        call(logprobs=True),
        call(max_completion_tokens=5),
        call(prediction={"type": "content", "content": "the client's own"}),
    ],
)
def test_where_it_does_not_go_the_request_stays_as_it_was(asked: Call) -> None:
    assert with_prediction(asked) is asked.request
    assert with_prediction(replace(asked, draft=None)) is asked.request

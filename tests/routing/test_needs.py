"""What a request needs is read off its bytes, and text that only speaks of it needs nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest

from trimtab.protocol.exchange import Caller, Exchange, Receipt, Tenant
from trimtab.protocol.messages import Kind, Request
from trimtab.routing.choose import Needs
from trimtab.routing.needs import answer_size, headers_of, incomparable, needs, prompt_size, session_of

TOOL = {"type": "function", "function": {"name": "f"}}


def exchange(kind: Kind = "chat", headers: Any = (), **fields: Any) -> Exchange:
    request = Request.build(kind, {"model": "m", "messages": [{"role": "user", "content": "hi"}], **fields})
    return Exchange("r", request, request, Caller(Tenant("acme")), Receipt("r", "acme", 0.0), headers, 0.0)


def image(url: str = "https://example.org/x.png") -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({}, Needs(150)),
        ({"tools": [TOOL]}, Needs(150, tools=True)),
        ({"functions": [{"name": "f"}]}, Needs(150, tools=True)),
        ({"tools": []}, Needs(150)),
        ({"tools": None}, Needs(150)),
        ({"messages": image()}, Needs(150, vision=True)),
        ({"messages": [{"role": "user", "content": json.dumps(image())}]}, Needs(150)),
        (
            {"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]},
            Needs(150, audio=True),
        ),
        ({"response_format": {"type": "json_object"}}, Needs(150, json=True)),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, Needs(150, schema=True)),
        ({"response_format": {"type": "text"}}, Needs(150)),
        ({"response_format": "nonsense"}, Needs(150)),
        ({"max_tokens": 900}, Needs(1_000, 900)),
        ({"max_completion_tokens": 20}, Needs(120, 20)),
    ],
)
def test_what_it_needs(fields: dict[str, Any], found: Needs) -> None:
    assert needs(exchange(**fields), 100, 50) == found


def test_a_prompts_size_follows_its_text_and_not_its_pictures_bytes() -> None:
    small, large = (
        prompt_size(exchange(messages=image("data:image/png;base64," + "A" * n)).working) for n in (9, 400_000)
    )
    assert small == large < 1_200
    assert prompt_size(exchange(messages=[{"role": "user", "content": "word " * 1_000}]).working) > 1_200
    assert prompt_size(exchange("completions", messages=None, prompt="word " * 1_000).working) > 1_200


def test_an_unplanned_answer() -> None:
    assert answer_size(exchange(), "m") == 512
    assert answer_size(exchange(max_tokens=20), "m") == 20
    assert answer_size(exchange(max_tokens=20_000), "m") == 512


@pytest.mark.parametrize(
    ("fields", "word"),
    [({"tools": [TOOL]}, "tools"), ({"n": 3}, "several"), ({"n": "x"}, "several"), ({}, None), ({"n": 1}, None)],
)
def test_what_can_be_audited(fields: dict[str, Any], word: str | None) -> None:
    reason = incomparable(exchange(**fields))
    assert reason is None if word is None else word in (reason or "")


def test_headers() -> None:
    held = exchange(headers=[(b"x-team", b"one"), (b"X-Team", b"two"), (b"x-trimtab-session", b"s" * 300)])
    assert headers_of(held)["x-team"] == "one"
    assert session_of(held) == "s" * 200
    assert session_of(exchange(headers=[(b"x-other", b"1")])) is None

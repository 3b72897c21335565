"""The digests: an equal key means the same request of the same owner under the same policy; nothing less."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.cache.key import DELIVERY, Place, Scope, place, repeats, twice, with_family
from trimtab.protocol.messages import Request

SECRET = b"s" * 32
SCOPE = Scope("acme", b"epoch-1")
BASE: dict[str, Any] = {
    "model": "m",
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi."},
        {"role": "user", "content": "How high is Everest?"},
    ],
    "temperature": 0,
    "seed": 7,
    "tools": [],
    "response_format": {"type": "text"},
    "user": "u1",
}

# One change for each field that a request can have, and each place inside the messages.
FLIPS: dict[str, dict[str, Any]] = {
    "model": {"model": "m2"},
    "temperature": {"temperature": 0.0001},
    "seed": {"seed": 8},
    "tools": {"tools": [{"type": "function", "function": {"name": "f"}}]},
    "tool_choice": {"tool_choice": "none"},
    "response_format": {"response_format": {"type": "json_object"}},
    "user": {"user": "u2"},
    "max_tokens": {"max_tokens": 5},
    "top_p": {"top_p": 0.5},
    "stop": {"stop": ["x"]},
    "logprobs": {"logprobs": True},
    "n": {"n": 2},
    "metadata": {"metadata": {"a": "b"}},
    "unknown": {"a_field_of_tomorrow": 1},
    "system": {"messages": [{"role": "system", "content": "Be long."}, *BASE["messages"][1:]]},
    "earlier turn": {"messages": [*BASE["messages"][:2], {"role": "assistant", "content": "Ho."}, BASE["messages"][3]]},
    "role": {"messages": [{**BASE["messages"][0], "role": "developer"}, *BASE["messages"][1:]]},
    "image": {
        "messages": [
            *BASE["messages"][:3],
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]},
        ]
    },
    "name": {"messages": [*BASE["messages"][:3], {**BASE["messages"][3], "name": "bob"}]},
}


def request(**changes: Any) -> Request:
    return Request.parse("chat", json.dumps({**BASE, **changes}).encode())


def at(asked: Request, scope: Scope = SCOPE, secret: bytes = SECRET) -> Place:
    return with_family(secret, place(secret, scope, asked), asked)


@pytest.mark.parametrize("flip", FLIPS)
def test_every_field_counts(flip: str) -> None:
    one, other = at(request()), at(request(**FLIPS[flip]))
    assert one.key != other.key
    assert other.family is None or other.family != one.family


@pytest.mark.parametrize(
    "scope",
    [
        replace(SCOPE, tenant="acmé"),
        replace(SCOPE, tenant="acm", epoch=b"eepoch-1"),
        replace(SCOPE, epoch=b"epoch-2"),
        replace(SCOPE, namespace="n"),
        replace(SCOPE, namespace="n", public=True),
        replace(SCOPE, public=True),
    ],
)
def test_whose_it_is_counts(scope: Scope) -> None:
    one, other = at(request()), at(request(), scope)
    assert {one.key, one.partition, one.family}.isdisjoint({other.key, other.partition, other.family})


def test_another_secret_makes_other_digests() -> None:
    one, other = at(request()), at(request(), secret=b"t" * 32)
    assert {one.key, one.partition, one.family}.isdisjoint({other.key, other.partition, other.family})


def test_how_it_is_delivered_does_not_count() -> None:
    assert {"stream", "stream_options"} == DELIVERY
    streamed = request(stream=True, stream_options={"include_usage": True})
    assert at(streamed).key == at(request()).key
    assert at(streamed).family == at(request()).family


def test_the_order_of_the_fields_does_not_count() -> None:
    backwards = Request.parse("chat", json.dumps(dict(reversed(BASE.items()))).encode())
    assert at(backwards).key == at(request()).key


def test_another_wording_of_the_last_question_is_of_the_same_family() -> None:
    other = request(messages=[*BASE["messages"][:3], {"role": "user", "content": "What is Everest's height?"}])
    assert at(other).family == at(request()).family
    assert at(other).key != at(request()).key
    assert at(other).question == "What is Everest's height?"


@pytest.mark.parametrize(
    "last",
    [
        {"role": "assistant", "content": "x"},
        {"role": "tool", "tool_call_id": "c", "content": "x"},
        {"role": "user", "content": "  "},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]},
        {"role": "user", "content": None},
        {"role": "user"},
        "hello",
    ],
)
def test_what_is_no_plain_question_has_no_family(last: Any) -> None:
    assert at(request(messages=[*BASE["messages"][:3], last])).family is None


def test_a_text_and_a_list_of_one_text_are_not_of_one_family() -> None:
    listed = request(messages=[*BASE["messages"][:3], {"role": "user", "content": [{"type": "text", "text": "Hi"}]}])
    assert at(listed).family not in (None, at(request()).family)


@pytest.mark.parametrize("messages", [[], "x", None, 5, [5]])
def test_odd_messages_have_a_key_all_the_same(messages: Any) -> None:
    assert at(request(messages=messages)).key != at(request()).key


fields = st.dictionaries(
    st.sampled_from(["model", "temperature", "user", "a", "ab", "b"]), st.one_of(st.integers(), st.text()), max_size=4
)


@given(fields, fields)
def test_keys_are_equal_where_the_requests_are(one: dict[str, Any], other: dict[str, Any]) -> None:
    a = Request.parse("completions", json.dumps(one).encode())
    b = Request.parse("completions", json.dumps(other).encode())
    assert (place(SECRET, SCOPE, a).key == place(SECRET, SCOPE, b).key) == (one == other)


written = st.sampled_from(["a", "ab", "", "\\", '"', '": 1, "a', "é", "\\u0061", "n\n"])
rows = st.lists(st.tuples(written, st.sampled_from(["1", '"x"', "[ ]", '{"a": 1, "a": 2}'])), max_size=5)


@given(rows, st.sampled_from([(",", ":"), (", ", ": "), (" , ", ":")]), st.booleans())
def test_whether_a_field_is_given_twice_is_told_whatever_the_spaces(
    pairs: list[tuple[str, str]], between: tuple[str, str], ascii: bool
) -> None:
    comma, colon = between
    body = "{" + comma.join([json.dumps(name, ensure_ascii=ascii) + colon + raw for name, raw in pairs]) + "}"
    names = [name for name, _ in pairs]
    assert twice(Request.parse("completions", body.encode())) == (len(set(names)) < len(names))
    assert repeats(body.encode()) == (len(set(names)) < len(names))


def test_the_kind_counts() -> None:
    body = json.dumps({"model": "m", "input": "x"}).encode()
    one, other = Request.parse("completions", body), Request.parse("embeddings", body)
    assert place(SECRET, SCOPE, one).key != place(SECRET, SCOPE, other).key


def test_the_public_name_gives_nothing_away() -> None:
    found = at(request())
    assert len(found.id) == 24
    assert int(found.id, 16) >= 0
    assert bytes.fromhex(found.id) == found.key[:12]

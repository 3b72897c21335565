"""What a caller may ask of the cache: it tightens, never loosens, and nonsense in the body is told."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.cache.wishes import NONE, take, wishes
from trimtab.protocol.errors import InvalidRequest
from trimtab.protocol.messages import Request


def request(**fields: Any) -> Request:
    return Request.parse("chat", json.dumps({"model": "m", "messages": [], **fields}).encode())


def test_the_field_goes_no_further_and_the_rest_keeps_its_bytes() -> None:
    body = b'{"model":"m","cache":{"no-store":true},"temperature":0.10,"messages":[]}'
    clean, said = take(Request.parse("chat", body))
    assert said == {"no-store": True}
    assert clean.encode() == b'{"model":"m","temperature":0.10,"messages":[]}'


@pytest.mark.parametrize("other", ["on", 1, [], {}, {"type": "ephemeral"}, {"ttl": 5, "type": "x"}, None])
def test_a_field_of_that_name_that_is_not_ours_stays(other: Any) -> None:
    asked = request(cache=other)
    assert take(asked) == (asked, {})


@pytest.mark.parametrize(
    "wrong",
    [
        {"no-store": "yes"},
        {"no-cache": 1},
        {"ttl": -1},
        {"ttl": "60"},
        {"ttl": True},
        {"s-maxage": "1"},
        {"namespace": ""},
        {"namespace": "a b"},
        {"namespace": "x" * 65},
        {"namespace": 5},
    ],
)
def test_a_wish_that_makes_no_sense_is_told_with_its_place(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as told:
        take(request(cache=wrong))
    assert told.value.param == f"cache.{next(iter(wrong))}"


@pytest.mark.parametrize(
    ("said", "headers", "read", "write", "max_age"),
    [
        ({}, [], True, True, None),
        ({"no-cache": True}, [], False, True, None),
        ({"no-store": True}, [], True, False, None),
        ({"use-cache": False}, [], False, False, None),
        ({"use-cache": True, "no-cache": True}, [], False, True, None),
        ({}, [(b"cache-control", b"no-cache")], False, True, None),
        ({}, [(b"cache-control", b"No-Store, max-age=0")], True, False, 0),
        ({}, [(b"cache-control", b"max-age=60, s-maxage=30")], True, True, 30),
        ({"s-maxage": 10}, [(b"cache-control", b"max-age=60")], True, True, 10),
        ({"s-maxage": 90}, [(b"cache-control", b"max-age=60")], True, True, 60),
        ({}, [(b"x-trimtab-cache", b"off")], False, False, None),
        ({}, [(b"cache-control", b"max-age=soon, =, ,,;")], True, True, None),
    ],
)
def test_body_and_headers_together(
    said: dict[str, Any], headers: list[tuple[bytes, bytes]], read: bool, write: bool, max_age: float | None
) -> None:
    wished = wishes(said, headers)
    assert (wished.read, wished.write, wished.max_age) == (read, write, max_age)


def test_who_says_nothing_wishes_nothing() -> None:
    assert wishes({}, [(b"accept", b"*/*")]) is NONE


@given(st.binary(max_size=200))
def test_no_header_can_loosen_what_the_body_said(value: bytes) -> None:
    said = {"no-cache": True, "no-store": True, "s-maxage": 5.0}
    wished = wishes(said, [(b"cache-control", value), (b"x-trimtab-cache", value)])
    assert wished.neither
    assert wished.max_age is not None
    assert wished.max_age <= 5

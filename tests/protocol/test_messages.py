"""Requests keep their bytes; what decides is read strictly."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.protocol.errors import InvalidRequest
from trimtab.protocol.exchange import Price
from trimtab.protocol.messages import Request, Usage, WireUsage

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
bodies = st.dictionaries(st.text(min_size=1), json_values, max_size=6)


@given(bodies, st.sampled_from([None, 1, 2]), st.booleans())
def test_an_untouched_request_is_sent_byte_for_byte(
    value: dict[str, Any], indent: int | None, ascii_only: bool
) -> None:
    body = json.dumps({"model": "m", **value}, indent=indent, ensure_ascii=ascii_only).encode("utf-8", "replace")
    assert Request.parse("chat", body).encode() == body


@given(bodies)
def test_an_edit_changes_one_field_and_keeps_the_order_and_spelling_of_the_rest(value: dict[str, Any]) -> None:
    value.pop("model", None)
    body = b'{"a": 1.50, "model": "old", "b": 1e5, ' + json.dumps(value).encode()[1:]
    if not value:
        body = b'{"a": 1.50, "model": "old", "b": 1e5}'
    request = Request.parse("chat", body)
    edited = request.with_fields(model="new")
    out = edited.encode()
    want = {**json.loads(body), "model": "new"}
    assert json.loads(out) == want
    assert list(json.loads(out)) == list(want)
    if not {"a", "b"} & set(value):
        assert b"1.50" in out
        assert b"1e5" in out
    assert request.encode() == body, "the original is never edited in place"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b'{"model": "m", }',
        b'{"model": NaN}',
        b'{"model": "m"} trailing',
        b'{"model": "\xff"}',
        b'{"a":' * 200_000 + b"1" + b"}" * 200_000,
        b'{"model": "cheap", "model": "dear"}',
        b'{"max_tokens": 1, "model": "m", "max_tokens": 99999}',
    ],
    ids=lambda body: repr(body[:24]),
)
def test_what_is_no_single_clear_json_object_is_refused(body: bytes) -> None:
    def read() -> None:
        request = Request.parse("chat", body)
        _ = request.model, request.get("a")

    with pytest.raises(InvalidRequest):
        read()


def test_a_key_that_only_looks_repeated_is_fine() -> None:
    body = b'{"model": "m", "messages": [{"role": "user", "content": "say \\"model\\""}], "x": {"model": 1}}'
    assert Request.parse("chat", body).model == "m"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model", 5),
        ("model", ""),
        ("stream", "yes"),
        ("n", 0),
        ("n", "2"),
        ("n", True),
        ("max_tokens", -1),
        ("max_tokens", "9"),
    ],
)
def test_a_deciding_field_of_the_wrong_kind_is_named(field: str, value: object) -> None:
    request = Request.build("chat", {"model": "m", field: value})
    with pytest.raises(InvalidRequest) as error:
        _ = request.model, request.stream, request.n, request.max_output
    assert error.value.param == field


@given(st.integers(0, 10**7), st.integers(0, 10**7), st.integers(0, 10**7))
def test_usage_survives_the_wire(prompt: int, completion: int, cached: int) -> None:
    usage = Usage(prompt=prompt, completion=completion, cached=min(prompt, cached))
    wire = msgspec.json.decode(msgspec.json.encode(usage.to_openai()), type=WireUsage)
    assert wire.to_usage() == usage


def test_a_price_counts_cached_tokens_once() -> None:
    price = Price(input=2_000_000, cached_input=500_000, output=8_000_000, known=True)
    assert price.of(Usage(prompt=1000, cached=800, completion=10)) == 200 * 2 + 400 + 80
    assert price.of(Usage()) == 0


@given(st.integers(0, 10**9), st.integers(0, 10**9), st.integers(0, 10**8))
def test_money_is_rounded_to_the_nearest_microdollar(tokens: int, completion: int, rate: int) -> None:
    price = Price(input=rate, cached_input=rate, output=rate, known=True)
    exact = (tokens + completion) * rate
    assert abs(price.of(Usage(prompt=tokens, completion=completion)) * 1_000_000 - exact) <= 500_000

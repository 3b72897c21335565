"""Half of a surrogate pair in a body: its bytes are kept, its values can be read, and nothing else becomes lax."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trimtab.protocol.errors import InvalidRequest
from trimtab.protocol.lone_surrogates import masked
from trimtab.protocol.messages import Request

# Surrogates often, alone, in pairs and in the wrong order, and the backslashes that could be taken for their escapes.
texts = st.text(st.sampled_from(["\ud83d", "\ude00", "\udc00", "a", "\\", '"', "u", "d", "8", "0", "\n", "é", "😀"]))
values = st.recursive(
    texts | st.integers() | st.booleans() | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


def by_json(value: Any) -> Any:
    """What Python's json reads, with U+FFFD for what cannot be encoded."""
    if isinstance(value, str):
        return re.sub("[\ud800-\udfff]", "\ufffd", value)
    if isinstance(value, list):
        return [by_json(item) for item in value]
    if isinstance(value, dict):
        return {by_json(key): by_json(item) for key, item in value.items()}
    return value


@given(st.dictionaries(texts, values, max_size=4), st.sampled_from([None, 1]))
@example({"a": "\ud83d\ud83d\ude00\ude00", "\ud83d": [{"\udc00": "\\\ud83d"}], "b": "\\ud83d"}, None)
def test_its_bytes_stay_and_its_values_are_those_of_any_reader(fields: dict[str, Any], indent: int | None) -> None:
    body = json.dumps(fields, indent=indent).encode()
    request = Request.parse("chat", body)
    assert request.encode() == body
    read = json.loads(body)
    assert list(request.fields) == list(read)
    for name, value in read.items():
        assert request.get(name) == by_json(value)
        assert json.loads(bytes(request.fields[name])) == value
    edited = request.with_fields(model="new")
    assert json.loads(edited.encode()) == {**read, "model": "new"}
    for raw in request.fields.values():
        assert bytes(raw) in edited.encode()
    assert Request.build("chat", request.fields).encode() == request.with_fields().encode()


@given(st.binary() | st.text(st.sampled_from('\\u"d8c0e{}: ')).map(str.encode))
@example(b"\\\\ud83d")
@example(b"\\\\\\ud83d")
@example(b"\\ud83d\0\0")
def test_masking_keeps_the_length_and_needs_no_second_time(raw: bytes) -> None:
    once = masked(raw)
    if once is not None:
        assert len(once) == len(raw)
        assert once != raw
        assert masked(once) is None


def test_an_ordinary_body_is_not_masked() -> None:
    for body in (b'{"a": 1}', b'{"a": "\\u00e9"}', b'{"a": "\\ud83d\\ude00"}', b'{"a": "\\\\ud83d"}'):
        assert masked(body) is None


HALF = b'{"half": "\\ud83d", '


@pytest.mark.parametrize(
    "rest",
    [
        b'"a": NaN}',
        b'"a": 1,}',
        b'"a": 01}',
        b'"a": "\\q"}',
        b'"a": "\\ud83"}',
        b'"a": "a\nb"}',
        b'"a": "\0"}',
        b'"a": "\xff"}',
        b'"a": 1} x',
        b'"a": 1',
        b'"a" 1}',
        b'"a": ' + b"[" * 200_000 + b"]" * 200_000 + b"}",
        b'"model": "cheap", "model": "dear"}',
        b'"model": "cheap", "mod\\u0065l": "dear"}',
        b'"max_tokens": 1, "model": "m", "max_tokens": 99999}',
    ],
    ids=lambda rest: repr(rest[:24]),
)
def test_it_excuses_nothing_else(rest: bytes) -> None:
    with pytest.raises(InvalidRequest):
        Request.parse("chat", HALF + rest)


@pytest.mark.parametrize("body", [b'["\\ud83d"]', b'"\\ud83d"', b"\\ud83d", b'{"\\ud83d}'])
def test_what_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        Request.parse("chat", body)


def test_two_halves_are_two_names() -> None:
    request = Request.parse("chat", b'{"\\ud83d": 1, "\\ude00": 2, "model": "m"}')
    assert request.with_fields(model="n").encode() == b'{"\\ud83d":1,"\\ude00":2,"model":"n"}'


def test_a_deciding_field_reads_as_no_name_that_is_configured() -> None:
    request = Request.parse("chat", b'{"model": "gpt\\ud83d", "stream": true}')
    assert request.model == "gpt\ufffd"
    assert request.stream
    with pytest.raises(InvalidRequest):
        _ = Request.parse("chat", b'{"model": "m", "n": "\\ud83d"}').n

"""The event stream parser against the standard: an independent, character by character reading is the oracle."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trimtab.gateway.sse import Event, SSEParser, encode_event
from trimtab.protocol.errors import UpstreamGarbled


def standard(stream: bytes) -> list[tuple[bytes, str | None]]:
    """The standard's own algorithm on a whole stream, written plainly; an unfinished event is dropped."""
    stream = stream.removeprefix(b"\xef\xbb\xbf")
    lines = re.split(rb"\r\n|\r|\n", stream)[:-1]  # the last piece has no line end: it is not a line yet
    events: list[tuple[bytes, str | None]] = []
    data, kind = b"", ""
    for line in lines:
        if line == b"":
            if data:
                events.append((data[:-1], kind or None))
            data, kind = b"", ""
        elif line.startswith(b":"):
            continue
        else:
            name, _, value = line.partition(b":")
            if value.startswith(b" "):
                value = value[1:]
            if name == b"data":
                data += value + b"\n"
            elif name == b"event":
                kind = value.decode()
    return events


def pieces(stream: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({min(c, len(stream)) for c in cuts})
    return [stream[a:b] for a, b in zip([0, *places], [*places, len(stream)], strict=True)]


def parse(parts: list[bytes]) -> list[tuple[bytes, str | None]]:
    parser = SSEParser()
    return [(e.data, e.event) for part in parts for e in parser.feed(part)]


_line_ends = [b"\n", b"\r", b"\r\n", b"\n\n", b"\r\r", b"\r\n\r\n"]
_fields = [b"data", b"data:", b"data: ", b"event: ", b"event:x", b":", b": hi", b"id: 1", b"retry: 10", b"  ", b"a:b"]
_events = [b"data: {}\n\n", b"data: [DONE]\n\n", "é€😀".encode(), b"\xef\xbb\xbf"]
_token = st.sampled_from(_line_ends) | st.sampled_from(_fields) | st.sampled_from(_events)
_stream = st.lists(_token, max_size=40).map(b"".join)
_cuts = st.lists(st.integers(0, 300), max_size=40)


@given(_stream, _cuts)
@example(b"\xef\xbb\xbfdata: a\r\n\r\n", [1, 2, 3, 12, 13])
@example(b"data: a\r\r\ndata: b\r\n\r\n", [9, 10, 11])
@example(b"\xef\xbb", [1])
def test_any_split_gives_what_the_standard_says(stream: bytes, cuts: list[int]) -> None:
    assert parse(pieces(stream, cuts)) == standard(stream)


@given(_stream)
def test_byte_by_byte_gives_what_the_standard_says(stream: bytes) -> None:
    assert parse([stream[i : i + 1] for i in range(len(stream))]) == standard(stream)


@given(_stream, _cuts)
def test_the_end_is_the_same_for_any_split(stream: bytes, cuts: list[int]) -> None:
    parser, whole = SSEParser(), SSEParser()
    got = [e for part in pieces(stream, cuts) for e in parser.feed(part)] + parser.finish()
    assert got == whole.feed(stream) + whole.finish()


@given(st.lists(st.tuples(st.binary(max_size=60), st.none() | st.from_regex(r"[a-z_.]{1,20}", fullmatch=True))), _cuts)
def test_what_is_encoded_is_read_back(events: list[tuple[bytes, str | None]], cuts: list[int]) -> None:
    stream = b"".join(encode_event(data, kind) for data, kind in events)
    assert parse(pieces(stream, cuts)) == [(re.sub(rb"\r\n|\r", b"\n", data), kind) for data, kind in events]


def test_fields() -> None:
    stream = b": comment\nid: 7\nevent: a\ndata: one\ndata:two\ndata\nnonsense\n\nevent: lost\n\ndata:  x\n\n"
    assert parse([stream]) == [(b"one\ntwo\n", "a"), (b" x", None)]


def test_a_missing_final_newline_is_forgiven_at_the_end_only() -> None:
    parser = SSEParser()
    assert parser.feed(b"data: a\n\ndata: [DONE]") == [Event(b"a")]
    assert parser.finish() == [Event(b"[DONE]")]
    assert parser.finish() == []


def test_a_name_with_a_line_end_is_refused() -> None:
    with pytest.raises(ValueError, match="one line"):
        encode_event(b"{}", "a\ndata: forged")


@given(st.integers(0, 40), _cuts)
def test_the_limit_does_not_depend_on_the_cuts(extra: int, cuts: list[int]) -> None:
    stream = b"data: ok\n\n\ndata: " + b"x" * (58 - 20 + extra) + b"\n\n"
    parser = SSEParser(max_event_bytes=64)
    longest = 6 + 58 - 20 + extra
    if longest <= 64:
        assert len([e for part in pieces(stream, cuts) for e in parser.feed(part)]) == 2
    else:
        with pytest.raises(UpstreamGarbled):
            [e for part in pieces(stream, cuts) for e in parser.feed(part)]


def test_an_endless_line_is_stopped_while_it_grows() -> None:
    parser = SSEParser(max_event_bytes=1000)
    for _ in range(10):
        assert parser.feed(b"x" * 100) == []
    with pytest.raises(UpstreamGarbled, match="1000 bytes"):
        parser.feed(b"x")

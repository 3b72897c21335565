"""Retrieved records: a JSON array or object on lines of its own whose objects carry text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from .block import Block, Page

_TEXTS = ("page_content", "content", "text", "snippet", "passage", "body", "chunk", "abstract", "document", "excerpt")
_TITLES = ("title", "name", "heading", "source", "path", "url")
_LISTS = ("results", "documents", "docs", "passages", "sources", "hits", "items", "chunks", "matches", "articles")
_LISTS_TOO = ("search_results", "records", "contexts")
_MOST_FAILURES = 20  # each may read to the end of the text
_LEAST_TEXT = 40

_SPACE = re.compile(r"[ \t\r\n]*+")


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


# Numbers are not looked at, and reading a very long one would cost more than a little.
_decoder = json.JSONDecoder(parse_constant=_no_constant, parse_int=str, parse_float=str)


def values(page: Page, first: int, last: int) -> Iterator[tuple[int, int, Any]]:
    """(start, end, value) of the arrays and objects that stand on lines of their own, outside fenced code."""
    failures, at = 0, page.start(first)
    for line in page.between(first, last):
        start = line.match.start("json") if line.kind == "json" else line.match.start()
        if line.kind not in ("json", "bracket") or start < at or failures == _MOST_FAILURES:
            continue
        page.check()
        try:
            value, end = _decoder.raw_decode(page.text, start)
        except (ValueError, RecursionError):
            failures += 1
            continue
        at = end
        if end <= page.start(last) and not page.text[end : page.start(page.line_of(end - 1) + 1)].strip(" \t\r\n"):
            yield start, end, value


def records(page: Page, first: int, last: int) -> list[Block]:
    """The objects with a text in them, of arrays of such (alone, or under a key such as `results`)."""
    out: list[Block] = []
    for start, _, value in values(page, first, last):
        if isinstance(value, list) and _carry_texts(value):
            out += _blocks(page.text, start)
        elif isinstance(value, dict):
            key = next((key for key in (*_LISTS, *_LISTS_TOO) if _carry_texts(value.get(key))), None)
            if key is not None:
                at = {name: place for name, place, _ in _members(page.text, start)}[key]
                out += _blocks(page.text, at)
    return out


def _carry_texts(value: Any) -> bool:
    """Whether it is a list of records with texts. Of a conversation every turn counts, so it is none."""
    return isinstance(value, list) and len(value) > 1 and all(isinstance(one, dict) and _text(one) for one in value)


def _text(record: dict[str, Any]) -> bool:
    return "role" not in record and any(
        isinstance(record.get(key), str) and len(record[key]) >= _LEAST_TEXT for key in _TEXTS
    )


def _blocks(text: str, array: int) -> Iterator[Block]:
    for start, end, record in _elements(text, array):
        title = next((record[key] for key in _TITLES if isinstance(record.get(key), str)), "")
        yield Block(start, end, "record", title, start, end)


def _elements(text: str, array: int) -> Iterator[tuple[int, int, Any]]:
    """(start, end, value) of the elements of a valid JSON array."""
    at = _skip(text, array + 1)
    while text[at] != "]":
        value, end = _decoder.raw_decode(text, at)
        yield at, end, value
        at = _skip(text, end)
        if text[at] == ",":
            at = _skip(text, at + 1)


def _members(text: str, start: int) -> Iterator[tuple[str, int, int]]:
    """(key, start, end) of the values of a valid JSON object."""
    at = _skip(text, start + 1)
    while text[at] != "}":
        key, end = _decoder.raw_decode(text, at)
        place = _skip(text, _skip(text, end) + 1)
        _, end = _decoder.raw_decode(text, place)
        yield key, place, end
        at = _skip(text, end)
        if text[at] == ",":
            at = _skip(text, at + 1)


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at

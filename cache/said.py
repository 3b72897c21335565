"""What a kept answer says, where it is nothing but one text: what drafts are made of, and audits compare. Pure."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any, Literal

import msgspec

from .recording import Recorded, datas

_decode = msgspec.json.Decoder().decode
_WORD = re.compile(r"[^\W_]+(?:[.,:]\d+)*", re.UNICODE)
_NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")
_SHORT = 12  # words: so short an answer says one thing, and says it in these words

ALIKE, UNLIKE = 0.93, 0.55  # cosines of two answers, above and below which they say the same, and do not


def said(recorded: Recorded) -> str | None:
    """The text of the one choice; None where there are several, tool calls, or no text."""
    try:
        if recorded.form == "whole":
            return _of_whole(_decode(recorded.body))
        return _of_stream([_decode(data) for data in datas(recorded.body)])
    except (msgspec.DecodeError, UnicodeDecodeError, AttributeError, TypeError, LookupError, RecursionError):
        return None


def _of_whole(answer: Any) -> str | None:
    choices = answer["choices"]
    message = choices[0].get("message") or {}
    if len(choices) != 1 or message.get("tool_calls") or message.get("function_call"):
        return None
    return message.get("content") or None


def _of_stream(chunks: list[Any]) -> str | None:
    pieces: list[str] = []
    for chunk in chunks:
        for choice in chunk.get("choices") or ():
            delta = choice.get("delta") or {}
            if choice.get("index", 0) != 0 or delta.get("tool_calls") or delta.get("function_call"):
                return None
            pieces.append(delta.get("content") or "")
    return "".join(pieces) or None


Verdict = Literal["same", "different"]


def compare(one: str, other: str, cosine: float | None = None) -> Verdict | None:
    """Whether two answers to what may be one question say the same; None where that cannot be told.

    Equal words say the same. Other numbers say something different. Short answers are different where their words are;
    longer ones are judged by the cosine of their vectors, if there is one, and only where it is clear.
    """
    a, b = _words(one), _words(other)
    if a == b:
        return "same"
    if Counter(_NUMBER.findall(one)) != Counter(_NUMBER.findall(other)) and min(len(a), len(b)) <= 2 * _SHORT:
        return "different"
    if max(len(a), len(b)) <= _SHORT and not set(a) & set(b):
        return "different"
    if cosine is None:
        return None
    if cosine >= ALIKE:
        return "same"
    return "different" if cosine <= UNLIKE else None


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())

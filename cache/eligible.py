"""May a request be answered from the cache: by its own repeat, or by an answer to another wording of it?

A reason is a few plain words for the receipt; None means that it may. Pure: it sees the request and the tenant's
policy, no store, no clock and no other request.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from ..protocol.errors import InvalidRequest
from ..protocol.messages import Request
from . import lexicon
from .key import ambiguous, twice
from .policy import CachePolicy

LONGEST_QUESTION = 2_000  # characters
_LEAST_CONTENT = 2  # words

# Fields whose answer rests on what the request does not hold, or happens elsewhere.
_STATE = ("previous_response_id", "conversation", "background", "web_search_options", "plugins", "data_sources")
_TOOLS = ("tools", "functions", "tool_choice", "function_call")
_WORDS = re.compile(r"[^\W_]+(?:'[^\W_]+)*")


def exact(request: Request, policy: CachePolicy) -> str | None:
    """Why the request may neither be answered from the exact cache nor kept in it."""
    if request.kind not in ("chat", "completions", "embeddings"):
        return "nothing that is cached"
    if twice(request):
        return "a field is given twice"
    if request.kind == "embeddings":
        return None
    if policy.when != "always" and not _temperature_zero(request):
        return "not deterministic: temperature is not 0"
    return _stateful(request) or _server_tools(request) or _elsewhere(request)


def fuzzy(request: Request, question: str, policy: CachePolicy) -> str | None:
    """Why no answer to another wording of `question`, the last user text, may be given."""
    semantic = policy.semantic
    if not semantic.enabled:
        return "the policy has no semantic cache"
    if request.kind != "chat":
        return "not a chat"
    if twice(request):
        return "a field is given twice"
    reason = _stateful(request) or _server_tools(request)
    if reason is not None:
        return reason
    if not _temperature_zero(request) and "sampling" not in semantic.allow:
        return "sampled: temperature is not 0"
    if any(request.fields.get(name) is not None and request.get(name) for name in _TOOLS):
        return "tools"
    if _count(request) != 1 or request.get("logprobs") or request.get("top_logprobs"):
        return "several choices or log probabilities"
    reason = _messages(request.get("messages")) or _question(question, policy)
    if reason is None and ambiguous(bytes(request.fields["messages"])):
        return "a message gives a field twice"
    return reason


def about_now(question: str) -> bool:
    """Whether the answer depends on when it is given: a shorter life."""
    return _says(question, "time_words.txt") or ("20" in question and bool(_THIS_YEAR.search(question)))


_THIS_YEAR = re.compile(r"\b20(?:2[4-9]|[3-9]\d)\b")


def _temperature_zero(request: Request) -> bool:
    value = request.get("temperature")
    return isinstance(value, int | float) and not isinstance(value, bool) and value == 0


def _count(request: Request) -> int:
    try:
        return max(request.n, request.choices)
    except InvalidRequest:  # whoever answers refuses it in its own words
        return 0


def _stateful(request: Request) -> str | None:
    if request.get("store") is True:
        return "stored by the provider: 'store' is true"
    for name in _STATE:
        if name in request.fields and request.get(name) not in (None, False):
            return f"rests on more than the request: '{name}'"
    if request.get("audio") is not None or request.get("modalities") not in (None, [], ["text"]):
        return "more than text: an image, a sound or a file"
    return None


def _server_tools(request: Request) -> str | None:
    tools = request.get("tools")
    if tools is None:
        return None
    if not isinstance(tools, list) or any(
        not isinstance(t, dict) or t.get("type", "function") != "function" for t in tools
    ):
        return "tools that the provider runs"
    return None


def _elsewhere(request: Request) -> str | None:
    """Whether a picture, a sound or a file is named by its address and not held: what lies there may change."""
    raw = request.fields.get("messages")
    if raw is None or b'_url"' not in bytes(raw):
        return None
    messages = request.get("messages")
    for message in messages if isinstance(messages, list) else ():
        content = message.get("content") if isinstance(message, dict) else None
        if isinstance(content, list) and any(map(_addressed, content)):
            return "rests on what lies at an address"
    return None


def _addressed(part: Any) -> bool:
    for name, value in part.items() if isinstance(part, dict) else ():
        url = value.get("url") if isinstance(value, dict) else value
        if name.endswith("_url") and isinstance(url, str) and not url.lower().startswith("data:"):
            return True
    return False


def _messages(messages: Any) -> str | None:
    """Text alone, in every turn, and no call of a tool or its result."""
    if not isinstance(messages, list):
        return "no messages"
    for message in messages:
        if not isinstance(message, dict):
            return "no messages"
        if message.get("role") in ("tool", "function") or message.get("tool_calls") or message.get("function_call"):
            return "calls of tools"
        content = message.get("content")
        if isinstance(content, list) and any(not isinstance(p, dict) or p.get("type") not in _TEXT for p in content):
            return "more than text: an image, a sound or a file"
        if message.get("audio") is not None:
            return "more than text: an image, a sound or a file"
    return None


_TEXT = frozenset(("text", "refusal"))


def _question(question: str, policy: CachePolicy) -> str | None:
    if len(question) > LONGEST_QUESTION:
        return f"a question of more than {LONGEST_QUESTION} characters"
    allow = policy.semantic.allow
    if "personal" not in allow and _says(question, "person_words.txt"):
        return "words of person"
    if "time" not in allow and _says(question, "time_words.txt"):
        return "words of time"
    words = [word for word in _WORDS.findall(question.lower()) if len(word) > 1 or not word.isascii()]
    stops = lexicon.light()
    content = sum(1 for word in words if word not in stops)
    han = sum(1 for char in question if "\u2e80" <= char <= "\u9fff" or "\uac00" <= char <= "\ud7af")
    return None if content >= _LEAST_CONTENT or han >= 4 else "too few words to tell"


def _says(question: str, name: str) -> bool:
    """Whether the question has a word or a row of words of a list, as whole words."""
    text = question.lower().replace("’", "'")
    if " me" in text or " us" in text:
        text = _ASKING_FOR.sub(" ", text)
    words = _WORDS.findall(text)
    single, several, parts = _phrases(name)
    if not single.isdisjoint(words):
        return True
    begun = several.keys() & words
    if begun:
        line = f" {' '.join(words)} "
        if any(phrase in line for first in begun for phrase in several[first]):
            return True
    return not text.isascii() and any(part in text for part in parts)


# "Tell me" asks; it says nothing of who does.
_ASKING_FOR = re.compile(r"\b(?:tell|give|show|explain to|help|let|teach|send|write|remind|assist) (?:me|us)\b")


@cache
def _phrases(name: str) -> tuple[frozenset[str], dict[str, list[str]], tuple[str, ...]]:
    """Single words; rows of words, between spaces, by their first; and those of scripts that put no space between
    words."""
    rows = [row.strip() for row in lexicon.lines(name)]
    several: dict[str, list[str]] = {}
    for row in rows:
        if " " in row:
            several.setdefault(row.split()[0], []).append(f" {row} ")
    return (
        frozenset(row for row in rows if (" " not in row and row.isalpha()) or ("'" in row and " " not in row)),
        several,
        tuple(row for row in rows if ord(row[0]) > 0x2E7F),
    )

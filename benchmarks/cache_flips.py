"""One request after another that differs from a first one in a single place: every field, every leaf, what headers say.

Pure. Of a body that has every field that a client may send, each leaf is changed, each list loses an entry and gains
one, each object gains a field, and each field of the top level is left out.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

DOT = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk"

CHAT: dict[str, Any] = {
    "model": "m",
    "messages": [
        {"role": "system", "content": "You answer in one word."},
        {"role": "developer", "content": "Never guess."},
        {
            "role": "user",
            "content": [{"type": "text", "text": "See?"}, {"type": "image_url", "image_url": {"url": DOT}}],
        },
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at": 1}'}}],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "a pixel"},
        {"role": "assistant", "content": "Yes.", "name": "a"},
        {"role": "user", "content": "What colour?", "name": "b"},
    ],
    "tools": [
        {
            "type": "function",
            "function": {
                "name": "look",
                "description": "Looks.",
                "strict": False,
                "parameters": {"type": "object", "properties": {"at": {"type": "integer"}}, "required": ["at"]},
            },
        }
    ],
    "tool_choice": "auto",
    "parallel_tool_calls": True,
    "temperature": 0,
    "top_p": 0.5,
    "seed": 7,
    "response_format": {
        "type": "json_schema",
        "json_schema": {"name": "s", "schema": {"type": "object", "properties": {"a": {"enum": ["b", "c"]}}}},
    },
    "user": "u-1",
    "metadata": {"team": "blue", "ticket": "17"},
    "n": 1,
    "stop": ["END"],
    "logprobs": True,
    "top_logprobs": 2,
    "max_tokens": 64,
    "max_completion_tokens": 64,
    "presence_penalty": 0.25,
    "frequency_penalty": 0.25,
    "logit_bias": {"50256": -100},
    "reasoning_effort": "low",
    "verbosity": "low",
    "service_tier": "default",
    "prompt_cache_key": "k",
    "safety_identifier": "s",
    "prediction": {"type": "content", "content": "Red."},
    "x_of_some_server": {"top_k": 5, "guided": [1, 2.5, None, True]},
}
COMPLETION: dict[str, Any] = {
    "model": "m",
    "prompt": "Once upon a time",
    "suffix": "the end",
    "temperature": 0,
    "max_tokens": 64,
    "logprobs": 2,
    "stop": "\n\n",
    "seed": 3,
    "user": "u-1",
}
EMBEDDING: dict[str, Any] = {
    "model": "m",
    "input": ["a text", "another"],
    "dimensions": 8,
    "encoding_format": "float",
    "user": "u-1",
}
BASES = {"chat": CHAT, "completions": COMPLETION, "embeddings": EMBEDDING}

# What says in a header, or in a field that is taken off, how the answer is to be come by.
CONTROLS: tuple[tuple[dict[str, Any], dict[str, str]], ...] = (
    ({"cache": {"namespace": "a"}}, {}),
    ({"cache": {"namespace": "b"}}, {}),
    ({"trimtab": {"query": "the colour"}}, {}),
    ({"trimtab": {"query": "the shape"}}, {}),
    ({"trimtab": {"keep": ["a pixel"]}}, {}),
    ({"trimtab": {"compress": False}}, {}),
    ({}, {"x-trimtab-query": "the size"}),
    ({}, {"openai-beta": "assistants=v2"}),
    ({}, {"anthropic-beta": "output-128k"}),
)


class Flip(NamedTuple):
    """`where` is the place that differs from the base; "" is the base itself."""

    where: str
    body: dict[str, Any]
    headers: Mapping[str, str] = MappingProxyType({})


def flips(base: dict[str, Any]) -> Iterator[Flip]:
    """The base, then each request that differs from it in one place."""
    yield Flip("", base)
    for name in base:
        if name != "model":
            yield Flip(f"-{name}", {key: value for key, value in base.items() if key != name})
    for path, value in _changes(base, ()):
        yield Flip("/".join(map(str, path)), _with(base, path, value))
    for fields, headers in CONTROLS:
        yield Flip(f"{fields or headers}", {**base, **fields}, headers)


# Places where another value is not just any value.
_OTHER: dict[tuple[Any, ...], Any] = {("model",): "m2", ("encoding_format",): "base64", ("n",): 2}


def _changes(value: Any, path: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """(place, what to put there instead) for everything inside."""
    if path in _OTHER:
        yield path, _OTHER[path]
    elif isinstance(value, dict):
        yield (*path, "x_new"), 1
        for key, inner in value.items():
            yield from _changes(inner, (*path, key))
    elif isinstance(value, list):
        yield path, value[:-1]
        yield path, [*value, value[-1]]
        for at, inner in enumerate(value):
            yield from _changes(inner, (*path, at))
    else:
        yield path, _other(value)


def _other(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    return f"{value}x" if isinstance(value, str) else "something"


def _with(base: dict[str, Any], path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    made = copy.deepcopy(base)
    at: Any = made
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = value
    return made

"""A prompt with labels: one line of a log or of a benchmark's file, from which a router can be fitted and judged.

    {"prompt": "...", "good": {"small": 1, "large": 1}}
    {"messages": [...], "good": {"small": 0.4, "large": 1}, "answers": {"small": "..."}, "tokens": {"prompt": 210,
     "small": 95, "large": 130}, "logprobs": {"small": -0.21}, "at": 1767225600.0, "model": "large", "session": "u17",
     "topic": "billing"}

`good` says how good each model's answer was, 0 to 1, by the model's name; `weak_ok`, `strong_ok`, `weak_answer` and
`strong_answer` (RouteLLM's) are understood as `small` and `large`. Whatever else a line has is left alone. Pure: lines
are handed in; knows no files, vectors or policies.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..protocol.embedded import text_of

SMALL, LARGE = "small", "large"
_NAMES = {"weak": SMALL, "strong": LARGE}


class Unreadable(ValueError):
    """A line that is no labelled prompt; says which line, what is wrong and what it should be."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """`tokens`: of the prompt under "prompt", of an answer under the model's name. `logprobs`: the mean of an answer's
    tokens, in nats, by its model. `at`: seconds since the epoch."""

    prompt: str
    good: Mapping[str, float] = field(default_factory=dict)
    answers: Mapping[str, str] = field(default_factory=dict)
    tokens: Mapping[str, int] = field(default_factory=dict)
    logprobs: Mapping[str, float] = field(default_factory=dict)
    at: float | None = None
    model: str | None = None
    session: str | None = None
    topic: str | None = None


def read(lines: Iterable[str]) -> Iterator[Labelled]:
    """Blank lines are skipped. Raises Unreadable."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as e:
            raise Unreadable(f"line {number} is no JSON: {e}") from None
        if not isinstance(row, dict):
            raise Unreadable(f"line {number} is no JSON object")
        try:
            yield labelled(row)
        except ValueError as e:
            raise Unreadable(f"line {number}: {e}") from None


def labelled(row: Mapping[str, Any]) -> Labelled:
    """Raises ValueError, in words for whoever wrote the line."""
    at = row.get("at")
    if at is not None and (isinstance(at, bool) or not isinstance(at, (int, float)) or not math.isfinite(at)):
        raise ValueError("'at' must be a number of seconds since 1970")
    return Labelled(
        _prompt(row),
        _good(row),
        {_name(key): text for key, text in _texts(row).items()},
        _tokens(row),
        _logprobs(row),
        None if at is None else float(at),
        _optional(row, "model"),
        _optional(row, "session"),
        _optional(row, "topic") or _optional(row, "subject"),
    )


def models(rows: Iterable[Labelled]) -> list[str]:
    """The names that have labels, the most frequent first, equal ones in their order."""
    counts: dict[str, int] = {}
    for row in rows:
        for name in row.good:
            counts[name] = counts.get(name, 0) + 1
    return sorted(counts, key=lambda name: -counts[name])


def _prompt(row: Mapping[str, Any]) -> str:
    prompt = row.get("prompt") if "prompt" in row else _last_words(row.get("messages"))
    if not isinstance(prompt, str) or not prompt.strip():
        raise ValueError("it needs a 'prompt' (a text), or 'messages' with a user's text")
    return prompt


def _last_words(messages: Any) -> str | None:
    """The text of the last user message of a chat; None where there is none."""
    for message in reversed(messages) if isinstance(messages, list) else ():
        if isinstance(message, dict) and message.get("role") == "user":
            return text_of(message.get("content"))
    return None


def _good(row: Mapping[str, Any]) -> dict[str, float]:
    given = row.get("good", {})
    if not isinstance(given, dict):
        raise ValueError('\'good\' must name the models: {"small": 1, "large": 0}')
    found = {**{key[: -len("_ok")]: row[key] for key in ("weak_ok", "strong_ok") if key in row}, **given}
    return {_name(model): _share(model, value) for model, value in found.items()}


def _share(model: str, value: Any) -> float:
    if isinstance(value, bool) or (isinstance(value, (int, float)) and 0 <= value <= 1):
        return float(value)
    raise ValueError(f"'good' of {model[:60]!r} must be true, false or a number from 0 to 1")


def _texts(row: Mapping[str, Any]) -> dict[str, str]:
    given = row.get("answers", {})
    found = given if isinstance(given, dict) else {}
    old = {key[: -len("_answer")]: row[key] for key in ("weak_answer", "strong_answer") if key in row}
    return {str(name): text for name, text in {**old, **found}.items() if isinstance(text, str)}


def _tokens(row: Mapping[str, Any]) -> dict[str, int]:
    given = row.get("tokens", {})
    if not isinstance(given, dict):
        raise ValueError('\'tokens\' must be counts by name: {"prompt": 200, "small": 90}')
    for name, count in given.items():
        if isinstance(count, bool) or not isinstance(count, int) or count < 0:
            raise ValueError(f"'tokens' of {name[:60]!r} must be a whole number")
    return {_name(name): count for name, count in given.items()}


def _logprobs(row: Mapping[str, Any]) -> dict[str, float]:
    given = row.get("logprobs", {})
    if not isinstance(given, dict):
        raise ValueError("'logprobs' must be means by name: {\"small\": -0.2}")
    for name, mean in given.items():
        if isinstance(mean, bool) or not isinstance(mean, (int, float)) or not -math.inf < mean <= 0:
            raise ValueError(f"'logprobs' of {name[:60]!r} must be a mean of logarithms, 0 at most")
    return {_name(name): float(mean) for name, mean in given.items()}


def _name(model: str) -> str:
    return _NAMES.get(model, model)


def _optional(row: Mapping[str, Any], name: str) -> str | None:
    value = row.get(name)
    return value if isinstance(value, str) and value else None

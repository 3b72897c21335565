"""What a session costs where the provider caches prefixes: a simulator of the bill.

A provider keeps the tokens of the last request of a session; the longest common beginning of the next one is read at
the cached price, in whole steps, from a least length on. Tools stand before the messages. Whitespace between the JSON
tokens of `tools` never reaches a model: tools are counted as compact JSON however they were sent, to nobody's credit.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any


@dataclass(frozen=True)
class Provider:
    """US dollars per million tokens; `least` and `step` in tokens; `write` is the factor on what enters the cache."""

    name: str
    input: float
    cached: float
    output: float
    least: int = 1024
    step: int = 128
    write: float = 1.0


PROVIDERS = (
    Provider("gpt-4.1", 2.00, 0.50, 8.00),
    Provider("gpt-5", 1.25, 0.125, 10.00),
    Provider("paid-writes", 3.00, 0.30, 15.00, step=1, write=1.25),
    Provider("uncached", 2.00, 2.00, 8.00),
)


@dataclass
class Session:
    """The bill of one session with one provider."""

    provider: Provider
    count: Callable[[str], Sequence[int]]
    _before: Sequence[int] = ()
    dollars: float = 0.0
    prompt: int = 0
    cached: int = 0

    def send(self, request: dict[str, Any], answer: dict[str, Any]) -> None:
        """Pay for one request and its answer."""
        prompt = [token for text in texts(request) for token in self.count(text)]
        common = _common(self._before, prompt)
        held = common // self.provider.step * self.provider.step if common >= self.provider.least else 0
        said = sum(len(self.count(text)) for text in _message(answer))
        fresh = len(prompt) - held
        price = fresh * self.provider.input * self.provider.write + held * self.provider.cached
        self.dollars += (price + said * self.provider.output) / 1e6
        self.prompt += len(prompt)
        self.cached += held
        self._before = prompt


def texts(request: dict[str, Any]) -> list[str]:
    """What of a request a model sees, in order."""
    tools = request.get("tools")
    shown = [json.dumps(tools, separators=(",", ":"), ensure_ascii=False)] if tools else []
    return shown + [text for message in request["messages"] for text in _message(message)]


def _message(message: dict[str, Any]) -> list[str]:
    content = message.get("content")
    parts = [content] if isinstance(content, str) else [part.get("text", "") for part in content or ()]
    calls = [call["function"] for call in message.get("tool_calls") or ()]
    return [f"\n<{message['role']}>", *parts, *(f"{call['name']}({call['arguments']})" for call in calls)]


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if a[:middle] == b[:middle] else (low, middle - 1)
    return low


def counter(name: str = "o200k_base") -> Callable[[str], Sequence[int]]:
    """Token ids of a text where tiktoken has the vocabulary on disk; else pieces that stand for tokens."""
    from trimtab.protocol import tokens

    encoding = tokens._encoding(name)
    if encoding is None:
        return cache(lambda text: tuple(hash(piece) for piece in tokens._PIECE.findall(text)))
    return cache(lambda text: tuple(encoding.encode_ordinary(text)))

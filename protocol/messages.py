"""The OpenAI wire types that every room speaks.

A request is kept as its own bytes plus the raw value of each top-level field (`Request`): nothing that we do not
understand is lost, number spelling and field order survive, and a 50 KB conversation costs one scan, not a tree of
objects. What is needed from an answer is decoded into small typed structs (`Usage`, `Delta`).

This module knows nothing of HTTP, tenants or backends.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from .errors import InvalidRequest
from .lone_surrogates import decoded, members, object_of

Kind = Literal["chat", "completions", "embeddings"]

PATHS: dict[Kind, str] = {"chat": "/chat/completions", "completions": "/completions", "embeddings": "/embeddings"}

_fields_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
_any_decoder = msgspec.json.Decoder()
_encode = msgspec.json.Encoder().encode

# Two readers of one body must not see two values of a field that decides who answers or what it costs.
_DECIDING = ("model", "stream", "n", "max_tokens", "max_completion_tokens", "messages", "user", "stream_options")
# A letter as an escape: no serialiser writes one (quotes, slashes, angle brackets they do), so this is rare or hostile.
_SPELT_OUT = re.compile(rb"\\u00(?:4[1-9A-Fa-f]|5[0-9AaFf]|6[1-9A-Fa-f]|7[0-9Aa])")
_DECIDING_KEYS = tuple((f'"{name}"'.encode(), name) for name in _DECIDING)


class Usage(msgspec.Struct, frozen=True, omit_defaults=True):
    """Tokens of one answer. `cached` and `reasoning` are parts of `prompt` and `completion`, not additions to them."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0
    reasoning: int = 0
    accepted: int = 0
    rejected: int = 0
    estimated: bool = False

    @property
    def total(self) -> int:
        return self.prompt + self.completion

    def __add__(self, other: Usage) -> Usage:
        """Of both calls together."""
        return Usage(
            self.prompt + other.prompt,
            self.completion + other.completion,
            self.cached + other.cached,
            self.reasoning + other.reasoning,
            self.accepted + other.accepted,
            self.rejected + other.rejected,
            self.estimated or other.estimated,
        )

    def to_openai(self) -> dict[str, Any]:
        """The `usage` object as OpenAI writes it."""
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.total,
            "prompt_tokens_details": {"cached_tokens": self.cached},
            "completion_tokens_details": {
                "reasoning_tokens": self.reasoning,
                "accepted_prediction_tokens": self.accepted,
                "rejected_prediction_tokens": self.rejected,
            },
        }


class _PromptDetails(msgspec.Struct):
    cached_tokens: int | None = None


class _CompletionDetails(msgspec.Struct):
    reasoning_tokens: int | None = None
    accepted_prediction_tokens: int | None = None
    rejected_prediction_tokens: int | None = None


class WireUsage(msgspec.Struct):
    """`usage` as upstreams send it; every field may be missing or null."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: _CompletionDetails | None = None

    def to_usage(self) -> Usage:
        p = self.prompt_tokens_details or _PromptDetails()
        c = self.completion_tokens_details or _CompletionDetails()
        prompt = max(0, self.prompt_tokens or 0)
        completion = self.completion_tokens
        if completion is None:
            completion = max(0, (self.total_tokens or prompt) - prompt)
        return Usage(
            prompt=prompt,
            completion=max(0, completion),
            cached=min(prompt, max(0, p.cached_tokens or 0)),
            reasoning=max(0, c.reasoning_tokens or 0),
            accepted=max(0, c.accepted_prediction_tokens or 0),
            rejected=max(0, c.rejected_prediction_tokens or 0),
        )


class Function(msgspec.Struct, omit_defaults=True):
    name: str | None = None
    arguments: str | None = None


class ToolCall(msgspec.Struct, omit_defaults=True):
    index: int = 0
    id: str | None = None
    type: str | None = None
    function: Function | None = None


class DeltaMessage(msgspec.Struct, omit_defaults=True):
    """What one chunk adds to one choice's message."""

    role: str | None = None
    content: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[ToolCall] | None = None


class DeltaChoice(msgspec.Struct, omit_defaults=True):
    index: int = 0
    delta: DeltaMessage | None = None
    text: str | None = None  # legacy completions
    finish_reason: str | None = None
    logprobs: msgspec.Raw = msgspec.Raw()


class Delta(msgspec.Struct, omit_defaults=True):
    """One chunk of a stream, with the fields that somebody here reads; the bytes themselves are what is relayed."""

    id: str = ""
    object: str = ""
    created: int = 0
    model: str = ""
    choices: list[DeltaChoice] = []
    usage: WireUsage | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """An OpenAI request: the bytes the client sent and the raw JSON of each top-level field.

    `with_fields` gives a changed copy; `encode` gives back the original bytes if nothing was changed. A lone surrogate
    (lone_surrogates.py) stays in the bytes, and reads as U+FFFD.
    """

    kind: Kind
    body: bytes
    fields: Mapping[str, msgspec.Raw]
    edited: bool = False
    _cache: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def parse(cls, kind: Kind, body: bytes) -> Request:
        """Read a body. Raises InvalidRequest when it is not one JSON object, or names a deciding field twice."""
        try:
            fields = _fields_decoder.decode(body)
        except RecursionError:
            raise InvalidRequest("the JSON body is nested too deeply") from None
        except (msgspec.DecodeError, UnicodeDecodeError) as e:
            return cls(kind, body, _odd_fields(body, e))
        for name in () if _once_each(body, fields) else _written_twice(body, fields):
            raise InvalidRequest(f"the field '{name}' is given twice", param=name)
        return cls(kind, body, fields)

    @classmethod
    def build(cls, kind: Kind, fields: Mapping[str, Any]) -> Request:
        """A request from Python values (the mapped protocols make theirs this way)."""
        raw = {name: msgspec.Raw(_encode(value)) for name, value in fields.items()}
        return cls(kind, _object(raw), raw)

    def get(self, name: str) -> Any:
        """The decoded value of a top-level field, or None; decoded once. Do not change what it returns."""
        if name in self._cache:
            return self._cache[name]
        raw = self.fields.get(name)
        try:
            value = None if raw is None else _value(raw)
        except RecursionError:
            raise InvalidRequest("the JSON body is nested too deeply", param=name) from None
        except (msgspec.DecodeError, UnicodeDecodeError) as e:
            raise InvalidRequest(f"the field '{name}' is not valid JSON: {_plain(e)}", param=name) from None
        self._cache[name] = value
        return value

    def with_fields(self, **values: Any) -> Request:
        """A copy with some top-level fields set (None removes one); the others keep their bytes and their order."""
        fields = dict(self.fields)
        for name, value in values.items():
            if value is None:
                fields.pop(name, None)
            else:
                fields[name] = value if isinstance(value, msgspec.Raw) else msgspec.Raw(_encode(value))
        return Request(self.kind, self.body, fields, edited=True)

    def encode(self) -> bytes:
        """The wire bytes: the client's own if nothing was edited, else each field's own bytes in their own order."""
        return _object(self.fields) if self.edited else self.body

    @property
    def model(self) -> str:
        """The model the client asked for. Raises InvalidRequest when it is missing or not a string."""
        value = self.get("model")
        if not isinstance(value, str) or not value:
            raise InvalidRequest("you must provide a 'model'", param="model")
        return value

    @property
    def stream(self) -> bool:
        value = self.get("stream")
        if value is not None and not isinstance(value, bool):
            raise InvalidRequest("'stream' must be true or false", param="stream")
        return bool(value)

    @property
    def include_usage(self) -> bool:
        options = self.get("stream_options")
        return isinstance(options, dict) and options.get("include_usage") is True

    @property
    def max_output(self) -> int | None:
        """The client's own cap on the answer's tokens, by either name. Raises InvalidRequest when it is no count."""
        caps = [
            _count(self.get(name), name, least=0)
            for name in ("max_completion_tokens", "max_tokens")
            if self.get(name) is not None
        ]
        return max(caps, default=None)  # an upstream may read either

    @property
    def choices(self) -> int:
        """How many choices the answer will have."""
        value = self.get("n")
        each = 1 if value is None else _count(value, "n", least=1)
        prompt = self.get("prompt") if self.kind == "completions" else None
        several = isinstance(prompt, list) and prompt and not isinstance(prompt[0], int)
        return each * (len(prompt) if several and isinstance(prompt, list) else 1)

    @property
    def n(self) -> int:
        """How many answers are asked for, at least one."""
        value = self.get("n")
        choices = 1 if value is None else _count(value, "n", least=1)
        best_of = self.get("best_of")
        return choices if best_of is None else max(choices, _count(best_of, "best_of", least=1))


def _count(value: Any, name: str, least: int) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**53:
        raise InvalidRequest(f"'{name}' must be a whole number from {least} to {2**53 - 1}", param=name)
    return value


def _value(raw: msgspec.Raw) -> Any:
    return decoded(_any_decoder, raw)


def _object(fields: Mapping[str, msgspec.Raw]) -> bytes:
    try:
        return _encode(fields)
    except UnicodeEncodeError:
        return object_of(fields)


def _odd_fields(body: bytes, refused: Exception) -> dict[str, msgspec.Raw]:
    """The fields of a body that msgspec refused, if that was for lone surrogates only. Raises InvalidRequest."""
    try:
        found = members(body)
    except RecursionError:
        raise InvalidRequest("the JSON body is nested too deeply") from None
    if found is None:
        raise InvalidRequest(f"the body is not a JSON object: {_plain(refused)}") from None
    names = [name for name, _ in found]
    for name in _DECIDING:
        if names.count(name) > 1:
            raise InvalidRequest(f"the field '{name}' is given twice", param=name)
    return dict(found)


def _plain(error: Exception) -> str:
    return str(error).split(" - at ")[0][:200]


def _once_each(body: bytes, fields: Mapping[str, msgspec.Raw]) -> bool:
    """Whether the body is these fields and nothing more, as the usual serialisers write it: with no space, or with one
    after each comma and colon. False only means: look closer."""
    compact = _encode(fields)
    if len(compact) == len(body):
        return compact == body
    spaced = b", ".join([b"%s: %s" % (_encode(name), bytes(raw)) for name, raw in fields.items()])
    return len(spaced) + 2 == len(body) and b"{" + spaced + b"}" == body


def _written_twice(body: bytes, fields: Mapping[str, msgspec.Raw]) -> list[str]:
    """The deciding fields that the top level gives twice; the slow, exact reading behind the cheap one."""
    counted = [name for needle, name in _DECIDING_KEYS if name in fields and body.count(needle) > 1]
    names = [name for name in _DECIDING if name in fields] if _SPELT_OUT.search(body) else counted
    if not names:
        return []
    outermost: list[str] = []

    def hook(pairs: list[tuple[str, Any]]) -> None:
        # The outermost object is the last one whose pairs are reported.
        outermost[:] = [key for key, _ in pairs]

    try:
        json.loads(body, object_pairs_hook=hook)
    except (ValueError, RecursionError) as e:
        raise InvalidRequest(f"the body is not valid JSON: {str(e)[:200]}") from None
    return [name for name in names if outermost.count(name) > 1]


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer: the bytes for the client, what it used, and the upstream's headers worth passing on.

    `mean_logprob`: of its tokens, in nats, where the backend itself knows it.
    """

    body: bytes
    usage: Usage | None = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    finish_reasons: tuple[str, ...] = ()
    mean_logprob: float | None = None

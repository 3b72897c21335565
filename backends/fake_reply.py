"""One answer of the fake upstream as OpenAI writes it: a plain body, or the chunks of a stream.

Pure: a script, a request and the call's number make the same answer every time. Every chunk between the opening and the
finish carries exactly one token, so tokens can be counted by whoever hands the chunks over. What goes wrong with the
bytes on the way is `backends/fake_sse.py`'s.
"""

from __future__ import annotations

import base64
import hashlib
import re
import struct
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import msgspec

from ..protocol.messages import Request, Usage
from ..protocol.tokens import estimate_bytes
from .fake_script import TEXT, Faults, Script

CREATED = 1_700_000_000
_encode = msgspec.json.Encoder().encode
_WORD = re.compile(r"\s*\S+|\s+")


class Token(NamedTuple):
    """One generated token. A tool call opens with a token that carries its name."""

    kind: Literal["content", "reasoning", "open", "arguments"]
    text: str
    tool: int = 0


class Chunk(NamedTuple):
    """One chunk of a stream and the tokens (of these, the reasoning tokens) that it carries."""

    fields: dict[str, Any]
    tokens: int = 0
    reasoning: int = 0


class Reply:
    """The answer to one request. `script` is the one for this very call. Raises InvalidRequest on a bad `n` or cap."""

    def __init__(self, script: Script, request: Request, number: int) -> None:
        self.script = script
        self.request = request
        self.number = number
        self.model = request.model
        self.garble = script.faults.garble
        self.choices = _choices(request)
        cap = request.max_output
        tokens = list(_tokens(script, request))
        self.tokens = tokens if cap is None else tokens[:cap]
        self.finish = "length" if cap is not None and cap < len(tokens) else script.finish
        if self.finish == "stop" and script.tool_calls:
            self.finish = "tool_calls"
        prompt = script.prompt_tokens
        self.prompt = estimate_bytes(request.encode()) if prompt is None else prompt

    def usage(self, completion: int | None = None, reasoning: int | None = None) -> Usage:
        """What the answer costs once `completion` tokens are out; the whole of it by default."""
        thought = sum(1 for token in self.tokens if token.kind == "reasoning")
        if self.request.kind == "embeddings":
            return Usage(prompt=self.prompt, cached=min(self.prompt, self.script.cached_tokens))
        return Usage(
            prompt=self.prompt,
            completion=self.choices * len(self.tokens) if completion is None else completion,
            cached=min(self.prompt, self.script.cached_tokens),
            reasoning=self.choices * thought if reasoning is None else reasoning,
        )

    def plain(self) -> bytes:
        """The whole body."""
        if self.request.kind == "embeddings":
            return _encode({**self._embeddings(), **self.script.extra})
        choices = [self._whole_choice(index) for index in range(self.choices)]
        body: dict[str, Any] = {**self._head(stream=False), "choices": choices}
        if "usage_null" in self.garble:
            body["usage"] = None
        elif "usage_absent" not in self.garble:
            body["usage"] = self.usage().to_openai()
        return _encode({**body, **self.script.extra})

    # ---- the parts of a body

    def _head(self, stream: bool) -> dict[str, Any]:
        if self.request.kind == "completions":
            name, kind = "cmpl", "text_completion"
        else:
            name, kind = "chatcmpl", "chat.completion.chunk" if stream else "chat.completion"
        return {
            "id": f"{name}-fake{self.number}",
            "object": kind,
            "created": CREATED,
            "model": self.model,
            "system_fingerprint": "fp_fake",
        }

    def _whole_choice(self, index: int) -> dict[str, Any]:
        content = [token.text for token in self.tokens if token.kind == "content"]
        finish = None if "no_finish" in self.garble else self.finish
        logprobs = self._logprobs(content)
        if self.request.kind == "completions":
            return {"index": index, "text": "".join(content), "logprobs": logprobs, "finish_reason": finish}
        message: dict[str, Any] = {"role": "assistant", "content": "".join(content), "refusal": None}
        reasoning = [token.text for token in self.tokens if token.kind == "reasoning"]
        if reasoning:
            message["reasoning_content"] = "".join(reasoning)
        calls = self._whole_calls()
        if calls:
            message.update(tool_calls=calls, content=message["content"] or None)
        return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": finish}

    def _whole_calls(self) -> list[dict[str, Any]]:
        opened = [token for token in self.tokens if token.kind == "open"]
        return [
            {
                "id": self._call_id(token.tool),
                "type": "function",
                "function": {
                    "name": token.text,
                    "arguments": "".join(t.text for t in self.tokens if t.kind == "arguments" and t.tool == token.tool),
                },
            }
            for token in opened
        ]

    def _call_id(self, tool: int) -> str:
        return f"call_fake{self.number}_{tool}"

    def _logprobs(self, texts: list[str]) -> dict[str, Any] | None:
        asked = self.request.get("logprobs")
        wanted = self.script.logprobs
        if wanted is False or (wanted is None and (asked is None or asked is False)):
            return None
        figures = [-0.125 * (len(text) % 8) for text in texts]
        if self.request.kind == "completions":
            return {"tokens": texts, "token_logprobs": figures, "top_logprobs": None, "text_offset": [0] * len(texts)}
        pairs = [
            {"token": text, "logprob": figure, "bytes": list(text.encode())}
            for text, figure in zip(texts, figures, strict=True)
        ]
        top = 0 if self.request.get("top_logprobs") is None else 1
        return {"content": [{**pair, "top_logprobs": [pair] * top} for pair in pairs], "refusal": None}

    def _embeddings(self) -> dict[str, Any]:
        size = self.request.get("dimensions") or self.script.dimensions
        packed = self.request.get("encoding_format") == "base64"
        data = []
        for index, text in enumerate(_inputs(self.request.get("input"))):
            vector = _vector(text, size)
            value = base64.b64encode(struct.pack(f"<{size}f", *vector)).decode() if packed else vector
            data.append({"object": "embedding", "index": index, "embedding": value})
        usage = {"prompt_tokens": self.prompt, "total_tokens": self.prompt}
        return {"object": "list", "model": self.model, "data": data, "usage": usage}

    # ---- the stream

    def chunks(self) -> Iterator[Chunk]:
        """The stream's chunks: the opening ones, one for each token, the closing ones, usage if it is asked for."""
        done = reasoning = 0
        if self.request.kind != "completions":
            for index in range(self.choices):
                yield Chunk(self._chunk(index, {"role": "assistant", "content": ""}))
        for token in self.tokens:
            for index in range(self.choices):
                thought = int(token.kind == "reasoning")
                done, reasoning = done + 1, reasoning + thought
                chunk = self._chunk(index, self._delta(token), token)
                if "usage_running" in self.garble:
                    chunk["usage"] = self.usage(done, reasoning).to_openai()
                yield Chunk(chunk, 1, thought)
        if "no_finish" not in self.garble:
            for index in range(self.choices):
                chunk = self._chunk(index, {}, finish=self.finish)
                if "usage_with_choices" in self.garble and index == self.choices - 1:
                    chunk["usage"] = self.usage().to_openai()
                yield Chunk(chunk)
        if self.request.include_usage and not self.garble & {"usage_absent", "usage_with_choices"}:
            usage = self.usage().to_openai()
            yield Chunk({**self._head(stream=True), "choices": [], "usage": usage, **self.script.extra})

    def _chunk(
        self, index: int, delta: dict[str, Any], token: Token | None = None, finish: str | None = None
    ) -> dict[str, Any]:
        logprobs = self._logprobs([token.text]) if token is not None and token.kind == "content" else None
        choice: dict[str, Any] = {"index": index, "logprobs": logprobs, "finish_reason": finish}
        if self.request.kind == "completions":
            choice["text"] = delta.get("content") or ""
        else:
            choice["delta"] = delta
        chunk = {**self._head(stream=True), "choices": [choice], **self.script.extra}
        if "usage_null" in self.garble:
            chunk["usage"] = None
        return chunk

    def _delta(self, token: Token) -> dict[str, Any]:
        if token.kind == "content":
            return {"content": token.text}
        if token.kind == "reasoning":
            return {"reasoning_content": token.text}
        if token.kind == "arguments":
            return {"tool_calls": [{"index": token.tool, "function": {"arguments": token.text}}]}
        function = {"name": token.text, "arguments": ""}
        call = {"index": token.tool, "id": self._call_id(token.tool), "type": "function", "function": function}
        return {"tool_calls": [call]}


def error_body(faults: Faults, status: int) -> bytes:
    """The body of a scripted status."""
    if isinstance(faults.body, str):
        return faults.body.encode()
    if faults.body is not None:
        return msgspec.json.encode(faults.body)
    kind, code = {
        401: ("invalid_request_error", "invalid_api_key"),
        404: ("invalid_request_error", "model_not_found"),
        429: ("requests", "rate_limit_exceeded"),
    }.get(status, ("server_error", None) if status >= 500 else ("invalid_request_error", None))
    error = {"message": f"the fake upstream's status {status}", "type": kind, "param": None, "code": code}
    return msgspec.json.encode({"error": error})


def _tokens(script: Script, request: Request) -> Iterator[Token]:
    if request.kind == "embeddings":
        return
    chat = request.kind == "chat"
    if chat:
        yield from (Token("reasoning", text) for text in _split(script.reasoning))
    texts = _split(_text(script, request))
    if script.tokens is not None and texts:
        texts = [texts[i % len(texts)] for i in range(script.tokens)]
    if script.continues and chat:
        texts = _after(texts, _begun(request))
    yield from (Token("content", text) for text in texts)
    for index, tool in enumerate(script.tool_calls if chat else []):
        yield Token("open", tool.name, index)
        yield from (Token("arguments", text, index) for text in _split(tool.arguments))


def _text(script: Script, request: Request) -> str | list[str]:
    if script.echo:
        return request.encode().decode()
    if script.json is not msgspec.UNSET:
        return _encode(script.json).decode()
    if script.text is not None:
        return script.text
    return "" if script.tool_calls else TEXT


def _begun(request: Request) -> str:
    """What the conversation's last turn has said already, if it is the assistant's."""
    messages = request.get("messages")
    last = messages[-1] if isinstance(messages, list) and messages else None
    said = last.get("content") if isinstance(last, dict) and last.get("role") == "assistant" else None
    return said if isinstance(said, str) else ""


def _after(texts: list[str], said: str) -> list[str]:
    """The tokens behind what was said, the one in which it ends cut; all of them where they begin otherwise."""
    whole = "".join(texts)
    if not said or not whole.startswith(said):
        return texts
    left, kept = len(said), list(texts)
    while kept and left >= len(kept[0]):
        left -= len(kept.pop(0))
    return [kept[0][left:], *kept[1:]] if kept else []


def _split(text: str | list[str]) -> list[str]:
    return _WORD.findall(text) if isinstance(text, str) else text


def _choices(request: Request) -> int:
    if request.kind == "embeddings":
        return 0
    prompts = request.get("prompt") if request.kind == "completions" else None
    many = len(prompts) if isinstance(prompts, list) and all(isinstance(p, str) for p in prompts) else 1
    return many * (request.n if request.get("best_of") is None else int(request.get("n") or 1))


def _inputs(value: Any) -> list[bytes]:
    """The texts of an embeddings request: one string, a list of them, one list of token numbers, or a list of such."""
    if isinstance(value, list) and not (value and isinstance(value[0], int)):
        return [_encode(item) for item in value]
    return [_encode(value)]


def _vector(text: bytes, size: int) -> list[float]:
    """A unit vector from the text's digest: equal texts, equal vectors."""
    digest = hashlib.shake_128(text).digest(2 * size)
    raw = [(value - 32767.5) / 32767.5 for value in struct.unpack(f"<{size}H", digest)]
    length = sum(value * value for value in raw) ** 0.5
    return [value / length for value in raw]

"""An answer as it went by, and whether it may be kept: only one that is complete, and ended as its model meant it to.

Pure: bytes in, a judgement out.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from ..protocol.messages import Kind, Usage, WireUsage
from .entry import Form

DONE = b"data: [DONE]"
_GOOD = frozenset({"stop", "tool_calls", "function_call", "eos"})  # the last is what some local servers write for stop


@dataclass(frozen=True, slots=True)
class Recorded:
    """A complete answer: `whole` JSON, or the events of a `stream` without `[DONE]`, each ended by a blank line."""

    form: Form
    body: bytes
    target: str
    usage: Usage | None = None


class _Said(msgspec.Struct, gc=False):
    content: str | None = None
    refusal: str | None = None
    tool_calls: msgspec.Raw = msgspec.Raw()
    function_call: msgspec.Raw = msgspec.Raw()

    @property
    def something(self) -> bool:
        return bool(self.content) or any(bytes(raw) not in (b"", b"null", b"[]") for raw in self._calls)

    @property
    def _calls(self) -> tuple[msgspec.Raw, msgspec.Raw]:
        return self.tool_calls, self.function_call


class _Choice(msgspec.Struct, gc=False):
    index: int = 0
    message: _Said | None = None
    delta: _Said | None = None
    text: str | None = None
    finish_reason: str | None = None


class _Chunk(msgspec.Struct, gc=False):
    choices: list[_Choice] = []
    usage: WireUsage | None = None
    data: msgspec.Raw = msgspec.Raw()
    error: msgspec.Raw = msgspec.Raw()


_chunk = msgspec.json.Decoder(_Chunk)
_chunks = msgspec.json.Decoder(list[_Chunk])


def of_stream(blocks: list[bytes], target: str, usage: Usage | None) -> Recorded:
    """The data of the events that a stream was made of, as one piece; what else they hold and `[DONE]` are left out."""
    whole = b"".join(blocks)
    body = whole.removesuffix(DONE + b"\n\n")
    if _one_line_each(body):
        return Recorded("stream", body, target, usage)
    events = map(_data_lines, whole.split(b"\n\n"))
    kept = [event for event in events if event and event.removeprefix(b"data:").strip() != b"[DONE]"]
    body = b"".join([event + b"\n\n" for event in kept])
    return Recorded("stream", body, target, usage)


def _one_line_each(body: bytes) -> bool:
    """Whether each event is one line with an object, as in nearly every stream."""
    return body.startswith(b"data: {") and body.count(b"\n") == 2 * body.count(b"\n\ndata: {") + 2


def _data_lines(event: bytes) -> bytes:
    """Without comments, names and ids, wherever they stand: a client reads the data behind them all the same."""
    return b"\n".join([line for line in event.split(b"\n") if line.startswith(b"data:")])


def unfit(recorded: Recorded, kind: Kind, choices: int) -> str | None:
    """Why this answer may not be kept, or None. `choices`: how many answers were asked for."""
    try:
        chunks = _read(recorded)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return "it cannot be read"
    if any(bytes(chunk.error) not in (b"", b"null") for chunk in chunks):
        return "it holds an error"
    if kind == "embeddings":
        return None if len(chunks) == 1 and bytes(chunks[0].data).startswith(b"[{") else "it holds no vectors"
    ended: dict[int, str] = {}
    said: set[int] = set()
    for chunk in chunks:
        for choice in chunk.choices:
            message = choice.message or choice.delta
            if choice.text or _something(choice):
                said.add(choice.index)
            if message is not None and message.refusal:
                return "the model refused"
            if choice.finish_reason is not None and ended.get(choice.index, "stop") in _GOOD:
                ended[choice.index] = choice.finish_reason  # what went wrong once is not put right by a later word
    if set(ended) != set(range(choices)):
        return "it is not complete"
    odd = next((reason for reason in ended.values() if reason not in _GOOD), None)
    if odd is not None:
        return f"it ended with '{odd[:40]}'"
    return None if said == set(ended) else "it says nothing"


def _something(choice: _Choice) -> bool:
    message = choice.message or choice.delta
    return message is not None and message.something


def _read(recorded: Recorded) -> list[_Chunk]:
    if recorded.form == "whole":
        return [_chunk.decode(recorded.body)]
    body = recorded.body
    if _one_line_each(body):  # read as one array, at a fraction of the cost
        return _chunks.decode(b"[" + body[6:-2].replace(b"\n\ndata: ", b",") + b"]")
    return [_chunk.decode(data) for data in datas(body)]


def datas(body: bytes) -> list[bytes]:
    """The data of each event, its lines joined as the event stream standard says."""
    found = []
    for event in body.split(b"\n\n"):
        lines = [line[5:].removeprefix(b" ") for line in event.split(b"\n") if line.startswith(b"data:")]
        if lines:
            found.append(b"\n".join(lines))
    return found

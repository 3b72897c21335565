"""Watching an OpenAI event stream go by: what it used, whether it ended well, and nothing lost on the way.

Bytes go through as they came, whole events at a time. Only events that name `usage` or `error` are looked into; the
rest is checked to be JSON in one pass that builds nothing, so a relayed stream costs little more than the copy. Pure.

It does not know where the bytes come from or go to.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import msgspec

from ..protocol import tokens
from ..protocol.errors import TrimtabError, UpstreamAnswered, UpstreamCut, UpstreamGarbled
from ..protocol.messages import Delta, DeltaMessage, Usage, WireUsage

MAX_EVENT = 4 << 20  # an upstream that sends more without an event's end is broken or hostile
_KEEP = 64 << 10  # raw bytes held for counting before they are folded into figures

DONE = b"data: [DONE]\n\n"
_BOM = b"\xef\xbb\xbf"
_FINISH = re.compile(rb'"finish_reason"\s*:\s*"(\w*)')
_USED = re.compile(rb'"usage"\s*:\s*\{')
_NULL = re.compile(rb',\s*"usage"\s*:\s*null(?=\s*[,}])')
_LAST = re.compile(rb"(?:^|\n)data: ?\[DONE\]\s*$")
_ANSWERED = re.compile(rb"(?:^|\n)data: ?\{")


class _Used(msgspec.Struct):
    usage: WireUsage | None = None


_usage = msgspec.json.Decoder(_Used)
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
_values = msgspec.json.Decoder(list[msgspec.Raw])
_delta = msgspec.json.Decoder(Delta)


class StreamRelay:
    """One stream on its way to a client.

    `feed` takes bytes as they arrive and returns the bytes to send; `finish` is called at the upstream's end.
    `strip_usage`: the client did not ask for usage, we did. `choices`: how many answers were
    asked for. A multi-line or CRLF stream is normalised to plain LF. `record`, once set, is given every block of whole
    events before anything is taken out of it.
    """

    __slots__ = (
        "_carriage",
        "_characters",
        "_kept",
        "_kept_size",
        "_mark",
        "_strip",
        "_tail",
        "_text",
        "_unfinished",
        "done",
        "error",
        "events",
        "finished",
        "reasons",
        "record",
        "started",
        "usage",
    )

    def __init__(self, *, strip_usage: bool = False, choices: int = 1) -> None:
        self._strip = strip_usage
        self._unfinished = choices
        self.record: Callable[[bytes], object] | None = None
        self._tail = b""
        self._mark: bytes | None = b""  # what may still become a byte order mark; None once that is settled
        self._carriage = False
        self._kept: list[bytes] = []
        self._kept_size = 0
        self._text: list[str] = []
        self._characters = 0
        self.events = 0  # chunks that carried content, as far as they were counted
        self.usage: Usage | None = None
        self.finished = False  # every choice gave its finish_reason
        self.reasons: tuple[str, ...] = ()  # these
        self.done = False  # [DONE] came
        self.started = False  # at least one data event came
        self.error: TrimtabError | None = None

    def feed(self, data: bytes) -> bytes:
        """Bytes to send on now: every event that is complete. Raises UpstreamGarbled for an event without an end."""
        if self.done or not data:
            return b""
        if self._mark is not None:
            data = self._without_mark(data)
        if b"\r" in data or self._carriage:
            data = self._plain_newlines(data)
        if self._tail:
            data = self._tail + data
            self._tail = b""
        if not data.endswith(b"\n\n"):
            end = data.rfind(b"\n\n") + 2
            if end == 1:
                end = 0
            self._tail = data[end:]
            if len(self._tail) > MAX_EVENT:
                raise UpstreamGarbled(f"the upstream sent an event of more than {MAX_EVENT >> 20} MB")
            data = data[:end]
        return self._watch(data) if data else b""

    def finish(self) -> bytes:
        """The upstream ended. The bytes still owed, with `[DONE]` if it forgot; raises UpstreamCut if it was cut."""
        rest = b""
        if self._tail.strip() and not self.done:
            # A last event without its blank line counts if it is whole.
            tail, self._tail = self._tail.rstrip(b"\n") + b"\n\n", b""
            if _whole(tail):
                rest = self._watch(tail)
        if self.error is not None or self.done:
            return rest
        if not self.finished:
            raise UpstreamCut("the upstream ended its stream in the middle of the answer")
        self.done = True
        return rest + DONE

    def spent(self, model: str, prompt: int) -> Usage:
        """What was used: the upstream's own figure, else a count of what passed, flagged as an estimate."""
        if self.usage is not None:
            return self.usage
        self._fold()
        text = "".join(self._text)
        counted, exact = tokens.count(text, model) if text else (0, True)
        # Without the model's own tokenizer, an upstream that sends one token a chunk counts better than a rule does.
        fine_grained = self.events > 0 and self._characters <= 8 * self.events
        completion = self.events if not exact and fine_grained else counted
        return Usage(prompt=prompt, completion=completion, estimated=True)

    def _watch(self, block: bytes) -> bytes:
        if not _sound(block):
            block = self._before_unsound(block)
        if self.record is not None:
            self.record(block)
        self.started = self.started or _ANSWERED.search(block) is not None
        if not self.finished:
            reasons = _FINISH.findall(block)
            if reasons:
                self._unfinished -= len(reasons)
                self.finished = self._unfinished <= 0
                self.reasons += tuple(reason.decode() for reason in reasons)
        if b"[DONE]" in block[-24:] and _LAST.search(block, max(0, len(block) - 64)):
            self.done = True
            if not self.finished and self.error is None:
                # It says that it is done, and no choice of it ever ended: cut somewhere behind the upstream.
                block = block[: block.rindex(b"data:")]
                self.error = UpstreamCut("the upstream ended its stream without a finish_reason")
        if b'"error"' in block:
            block = self._look_for_error(block)
        if b'"usage"' in block:
            block = self._take_usage(block)
        if self.usage is None and block:
            self._keep(block)
        return block

    def _before_unsound(self, block: bytes) -> bytes:
        """The events before the first whose data is not JSON, if there is one; that one is an error."""
        passed = []
        for event in block.split(b"\n\n"):
            if not _whole(event):
                self.error = UpstreamGarbled("the upstream sent an event that is not JSON")
                break
            passed.append(event)
        else:
            return block
        return b"\n\n".join(passed) + b"\n\n" if passed else b""

    def _look_for_error(self, block: bytes) -> bytes:
        passed = []
        for event in block.split(b"\n\n"):
            if b'"error"' in event and (body := _data(event)) and (error := _error_in(body)) is not None:
                self.error = error
                break
            passed.append(event)
        else:
            return block
        return b"\n\n".join(passed) + b"\n\n" if passed else b""

    def _take_usage(self, block: bytes) -> bytes:
        """Note the usage that events carry; take it out of them if the client did not ask for it."""
        if self._strip:
            # Upstreams that were asked for usage put a null into every chunk. Inside a string of JSON the quotes of
            # this pattern would be escaped, so what matches is a key.
            block = _NULL.sub(b"", block)
        found = _USED.search(block)
        while found is not None:
            previous = block.rfind(b"\n\n", 0, found.start())
            start = previous + 2 if previous >= 0 else 0
            end = block.find(b"\n\n", found.end()) + 2
            event = block[start : end - 2]
            after = end
            if self._strip:
                rest = self._without_usage(event)
                block = block[:start] + (rest + b"\n\n" if rest else b"") + block[end:]
                after = start + (len(rest) + 2 if rest else 0)
            else:
                self._note_usage(_data(event))
            found = _USED.search(block, after)
        return block

    def _without_usage(self, event: bytes) -> bytes:
        """The event with its usage noted and gone; nothing when it carried nothing else."""
        body = _data(event)
        try:
            fields = _fields.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return event
        if "usage" not in fields:
            return event
        self._note_usage(body)
        if bytes(fields.get("choices", b"")).strip() == b"[]":
            return b""
        del fields["usage"]
        return b"data: " + msgspec.json.encode(fields)

    def _note_usage(self, body: bytes) -> None:
        try:
            wire = _usage.decode(body).usage
        except (msgspec.DecodeError, UnicodeDecodeError):
            return
        if wire is not None:
            self.usage = wire.to_usage()
            self._kept.clear()
            self._kept_size = 0

    def _keep(self, block: bytes) -> None:
        self._kept.append(block)
        self._kept_size += len(block)
        if self._kept_size > _KEEP:
            self._fold()

    def _fold(self) -> None:
        """Turn the raw bytes held so far into text and a chunk count."""
        for text in texts(b"".join(self._kept)):
            self.events += 1
            self._characters += len(text)
            self._text.append(text)
        self._kept.clear()
        self._kept_size = 0

    def _without_mark(self, data: bytes) -> bytes:
        data = (self._mark or b"") + data
        if len(data) < len(_BOM) and _BOM.startswith(data):
            self._mark = data
            return b""
        self._mark = None
        return data.removeprefix(_BOM)

    def _plain_newlines(self, data: bytes) -> bytes:
        if self._carriage:
            data = b"\r" + data
        self._carriage = data.endswith(b"\r")
        if self._carriage:
            data = data[:-1]
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def texts(block: bytes) -> Iterator[str]:
    """What each event of a block has of the answer; events that cannot be read have nothing."""
    for event in block.split(b"\n\n"):
        body = _data(event)
        if not body.startswith(b"{"):
            continue
        try:
            choices = _delta.decode(body).choices
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue
        for choice in choices:
            if text := _content(choice.delta, choice.text):
                yield text


def _content(message: object, text: str | None) -> str:
    """Everything in a chunk that the model generated: content, refusal, reasoning, names and arguments of tools."""
    parts = [text or ""]
    if message is not None:
        for name in ("content", "refusal", "reasoning_content", "reasoning"):
            parts.append(getattr(message, name) or "")
        for call in getattr(message, "tool_calls", None) or ():
            if call.function is not None:
                parts += [call.function.name or "", call.function.arguments or ""]
    return "".join(parts)


class _WholeChoice(msgspec.Struct):
    message: DeltaMessage | None = None
    text: str | None = None


class _WholeAnswer(msgspec.Struct):
    choices: list[_WholeChoice] = []


_whole_answer = msgspec.json.Decoder(_WholeAnswer)


def generated(body: bytes) -> str:
    """Everything that the model generated in a whole answer; nothing when the body cannot be read so."""
    try:
        choices = _whole_answer.decode(body).choices
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
    return "".join(_content(choice.message, choice.text) for choice in choices)


def _data(event: bytes) -> bytes:
    """The data of one event, its lines joined as the event stream standard says."""
    if event.startswith(b"data: ") and b"\n" not in event:
        return event[6:]
    lines = [line[5:].removeprefix(b" ") for line in event.split(b"\n") if line.startswith(b"data:")]
    return b"\n".join(lines)


def _sound(block: bytes) -> bool:
    """Whether all events are JSON, read as one array at a fraction of the cost. False may also mean: look closer."""
    block = block.removesuffix(DONE)
    if not block.startswith(b"data: {"):
        return not block
    try:
        _values.decode(b"[" + block[6:-2].replace(b"}\n\ndata: {", b"},{") + b"]")
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


def _whole(event: bytes) -> bool:
    """Whether an event's data is an object, or [DONE], or there is none (a comment)."""
    body = _data(event.strip(b"\n")).strip()
    if body in (b"", b"[DONE]"):
        return True
    try:
        _fields.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


def _error_in(body: bytes) -> TrimtabError | None:
    """An error that came in-band, after a 200 (several gateways take it for an empty success)."""
    try:
        error = msgspec.json.decode(body).get("error")
    except (msgspec.DecodeError, UnicodeDecodeError, AttributeError, RecursionError):
        return None
    if not error:
        return None
    if not isinstance(error, dict):
        body = msgspec.json.encode({"error": {"message": str(error)[:500]}})
        error = {}
    code = error.get("status") or error.get("code")
    status = int(code) if isinstance(code, int | str) and str(code).isdigit() and 400 <= int(code) < 600 else 502
    return UpstreamAnswered(status, body)

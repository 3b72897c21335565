"""What the fake upstream is told to do: the script, its faults, and how a model's name picks a variant.

A script is data (a mapping from YAML or a test), so the same one drives the backend in this process
(`backends/fake.py`) and the server on a socket (`backends/fake_server.py`). Nothing here renders or sends anything.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal, get_args

import msgspec

TEXT = "A small flap turns the rudder, and the rudder turns the ship: 舵 → 🚢."

Garble = Literal[
    "split_utf8",  # pieces end in the middle of a character
    "crlf",  # lines end in \r\n (legal)
    "no_space",  # "data:{...}" (legal)
    "event_fields",  # "event:", "id:" and "retry:" lines around each event (legal)
    "bom",  # a byte order mark first (legal)
    "comments",  # a comment between any two events (legal)
    "comments_forever",  # comments for ever where `hang_after` would be silent (from the start without one)
    "two_in_event",  # two data lines in one event, no blank line between
    "two_on_line",  # two JSON objects on one data line
    "broken_json",  # the third event is cut off inside
    "huge_line",  # the third event carries `huge_bytes` of content
    "no_done",  # no [DONE]
    "no_newline",  # the last line has no line end
    "no_finish",  # no finish_reason, yet [DONE]
    "usage_absent",  # no usage, asked for or not
    "usage_null",  # "usage": null on every other chunk
    "usage_with_choices",  # usage on the chunk that carries finish_reason, none of its own
    "usage_running",  # the usage so far on every chunk
]

Wire = Literal[
    "close_mid_chunk",  # a chunk is announced, half of it comes, then FIN
    "rst",  # a reset
    "length_long",  # Content-Length promises more than is sent
    "length_short",  # Content-Length promises less than is sent
    "bad_chunk",  # a chunk size that is no number
    "close_delimited",  # neither length nor chunks: the end of the connection is the end of the answer (legal)
    "gzip",  # a compressed body (legal)
    "drip",  # one byte at a time, `between_s` (or 1 ms) apart
    "html",  # 200 with a web page
    "sse_error",  # an error status whose body is an event stream
]


class Faults(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What goes wrong, and in which calls: all of them, only the `first` K, only each `every`th (both: both hold).

    A chunk is one SSE data event, the opening one (the role) included; `..._after: 0` strikes before any. In a plain
    answer `cut_after` and `hang_after` strike halfway through the body, whatever their number.
    """

    status: int | None = None
    body: str | dict[str, Any] | None = None  # None: an OpenAI error object that fits the status
    retry_after: float | None = None  # seconds
    refuse: bool = False  # no connection
    silent: bool = False  # never an answer, not even a status
    error_after: int | None = None  # an error event in the 200 stream, then [DONE]; streams only
    error: dict[str, Any] | None = None
    cut_after: int | None = None  # the end, without finish_reason or [DONE]
    hang_after: int | None = None  # half-open: nothing more comes, and no end either
    garble: frozenset[Garble] = frozenset()
    wire: Wire | None = None  # the server's only
    wire_after: int = 2  # chunks before close_mid_chunk, rst and bad_chunk strike
    first: int | None = None
    every: int | None = None

    def strike(self, number: int) -> bool:
        """Whether call `number` (from 1) is one of those that fail."""
        return (self.first is None or number <= self.first) and (self.every is None or number % self.every == 0)


class Tool(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One tool call of the answer; several make parallel calls."""

    name: str
    arguments: str = "{}"


class Script(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is answered. Times in seconds.

    `text` is split before its spaces, or given token by token; `tokens` repeats or cuts it to a count. `echo` answers
    with the request itself, `json` with that value. `continues`: an answer that the last turn has begun is
    gone on with. `models` holds overrides for single model names.
    """

    text: str | list[str] | None = None  # None: TEXT, or nothing where there are tool calls
    tokens: int | None = None
    json: Any = msgspec.UNSET
    echo: bool = False
    continues: bool = False
    reasoning: str | list[str] = ""
    tool_calls: list[Tool] = []
    logprobs: bool | None = None  # None: as the request asks
    finish: str = "stop"
    prompt_tokens: int | None = None  # None: a quarter of the request's bytes
    cached_tokens: int = 0
    dimensions: int = 8  # of an embedding, unless the request names them
    accept_s: float = 0.0  # before the status
    first_byte_s: float = 0.0  # between the status and the first byte of the body
    between_s: float = 0.0  # between chunks
    together: int = 1  # chunks handed over in one piece
    cut_bytes: int | None = None  # the size of the pieces, whatever they hold
    huge_bytes: int = 1_000_000
    extra: dict[str, Any] = {}  # fields added to every answer and every chunk
    headers: dict[str, str] = {}
    key: str | None = None  # the key the server asks for; None takes any
    faults: Faults = Faults()
    models: dict[str, dict[str, Any]] = {}

    def with_changes(self, changes: Mapping[str, Any]) -> Script:
        """A copy with some fields set. `faults` are merged field by field. Raises ValueError on an unknown one."""
        fields = {name: getattr(self, name) for name in self.__struct_fields__ if name != "faults"}
        faults = {name: getattr(self.faults, name) for name in self.faults.__struct_fields__}
        changed = dict(changes)
        faults.update(changed.pop("faults", {}))
        return _convert({**fields, **changed, "faults": faults})

    def for_call(self, model: str, number: int) -> Script:
        """The script of call `number` for this model name, its faults dropped where they do not strike."""
        script = self.with_changes(self.models[model]) if model in self.models else self
        if model.startswith("fake-"):
            script = script.with_changes(_options(model))
        return script if script.faults.strike(number) else msgspec.structs.replace(script, faults=Faults())


def read_script(script: Mapping[str, Any]) -> Script:
    """The typed script of a mapping. Raises ValueError naming the field that is unknown or of the wrong type."""
    read = _convert(script)
    for changes in read.models.values():
        read.with_changes(changes)
    return read


def _convert(fields: Mapping[str, Any]) -> Script:
    try:
        return msgspec.convert(fields, Script)
    except msgspec.ValidationError as e:
        raise ValueError(f"the fake's script: {e}") from None


_OPTION = re.compile(r"([a-z]+)(\d{1,9})")
_TOP = {"t": ("first_byte_s", 0.001), "d": ("between_s", 0.001), "n": ("tokens", 1), "p": ("prompt_tokens", 1)}
_FAULT = {
    "e": "status",
    "cut": "cut_after",
    "hang": "hang_after",
    "err": "error_after",
    "first": "first",
    "every": "every",
}


def _options(model: str) -> dict[str, Any]:
    """The options in a name such as "fake-t20-d5-cut3-crlf"; words that are none of ours are part of the name.

    t, d: milliseconds before the first byte and between chunks; n, p: tokens of the answer and of the prompt;
    e: an error status; cut, hang, err: after so many chunks; first, every: in which calls; and any garble's name.
    """
    top: dict[str, Any] = {}
    faults: dict[str, Any] = {}
    for word in model.split("-")[1:]:
        if word == "echo":
            top["echo"] = True
        elif word in get_args(Garble):
            faults.setdefault("garble", []).append(word)
        elif word in get_args(Wire):
            faults["wire"] = word
        elif matched := _OPTION.fullmatch(word):
            name, number = matched[1], int(matched[2])
            if name in _TOP:
                field, unit = _TOP[name]
                top[field] = number * unit
            elif name in _FAULT:
                faults[_FAULT[name]] = number
    return {**top, "faults": faults} if faults else top

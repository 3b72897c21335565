"""The Responses API's input items as chat messages.

The structs are the validation. Items of OpenAI's own tools and references to stored items are refused by name: nothing
is stored here, and no such tool runs. Reasoning items are read over; chat has no place for them.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from ..protocol.errors import InvalidRequest
from .mapping import content, read, unsupported

Part = dict[str, Any]


class InputText(msgspec.Struct, tag_field="type", tag="input_text"):
    text: str


class OutputText(msgspec.Struct, tag_field="type", tag="output_text"):
    text: str


class Refusal(msgspec.Struct, tag_field="type", tag="refusal"):
    refusal: str


class InputImage(msgspec.Struct, tag_field="type", tag="input_image"):
    image_url: str | None = None
    detail: str | None = None


class InputFile(msgspec.Struct, tag_field="type", tag="input_file"):
    file_data: str | None = None
    file_id: str | None = None
    filename: str | None = None


class InputAudio(msgspec.Struct, tag_field="type", tag="input_audio"):
    input_audio: msgspec.Raw


Piece = InputText | OutputText | Refusal | InputImage | InputFile | InputAudio


class Kind(msgspec.Struct):
    type: str | None = None


class Message(msgspec.Struct):
    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[Piece]


class FunctionCall(msgspec.Struct):
    call_id: str
    name: str
    arguments: str


class FunctionOutput(msgspec.Struct):
    call_id: str
    output: str | list[Piece]


_items = msgspec.json.Decoder(list[msgspec.Raw])
_kind = msgspec.json.Decoder(Kind)
_message = msgspec.json.Decoder(Message)
_call = msgspec.json.Decoder(FunctionCall)
_output = msgspec.json.Decoder(FunctionOutput)


def to_messages(raw: msgspec.Raw) -> list[dict[str, Any]]:
    """A list of items as chat messages, in their order. Raises InvalidRequest naming the item at fault."""
    talk = _Talk()
    items = read(_items, raw, "input")
    for place, item in enumerate(items):
        where = f"input[{place}]"
        kind = read(_kind, item, where).type or "message"
        if kind == "message":
            talk.say(read(_message, item, where), where)
        elif kind == "function_call":
            talk.call(read(_call, item, where))
        elif kind == "function_call_output":
            talk.result(read(_output, item, where), where)
        elif kind == "item_reference":
            raise unsupported("a reference to a stored item", where, "nothing is stored here; send the item itself")
        elif kind != "reasoning":
            raise unsupported(f"an item of type '{kind}'", f"{where}.type")
    talk.show_images()
    return talk.messages


class _Talk:
    """The messages so far. Calls in a row are one assistant message's; images of a result follow as a user's."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self._images: list[Part] = []

    def say(self, message: Message, where: str) -> None:
        said: Any = message.content
        if isinstance(said, list):
            said = content(
                [part for place, piece in enumerate(said) for part in _parts(piece, f"{where}.content[{place}]")]
            )
        last = self._last()
        if message.role == "assistant" and last.get("tool_calls") and last["content"] is None:
            last["content"] = said  # the text of the turn whose calls came before it
            return
        self.show_images()
        self.messages.append({"role": message.role, "content": said})

    def call(self, item: FunctionCall) -> None:
        function = {"name": item.name, "arguments": item.arguments}
        last = self._last()
        if last.get("role") != "assistant":
            self.show_images()
            last = {"role": "assistant", "content": None}
            self.messages.append(last)
        last.setdefault("tool_calls", []).append({"id": item.call_id, "type": "function", "function": function})

    def result(self, item: FunctionOutput, where: str) -> None:
        said = item.output
        pieces = [InputText(said)] if isinstance(said, str) else said
        texts: list[Part] = []
        others: list[Part] = []
        for place, piece in enumerate(pieces):
            for part in _parts(piece, f"{where}.output[{place}]"):
                (texts if part["type"] == "text" else others).append(part)
        self.messages.append({"role": "tool", "tool_call_id": item.call_id, "content": content(texts)})
        if others:
            self._images += [{"type": "text", "text": f"From the result of tool call {item.call_id}:"}, *others]

    def show_images(self) -> None:
        if self._images:
            self.messages.append({"role": "user", "content": self._images})
            self._images = []

    def _last(self) -> dict[str, Any]:
        return self.messages[-1] if self.messages else {}


def _parts(piece: Piece, where: str) -> list[Part]:
    if isinstance(piece, InputText | OutputText):
        return [{"type": "text", "text": piece.text}]
    if isinstance(piece, Refusal):
        return [{"type": "refusal", "refusal": piece.refusal}]
    if isinstance(piece, InputAudio):
        return [{"type": "input_audio", "input_audio": piece.input_audio}]
    if isinstance(piece, InputImage):
        if piece.image_url is None:
            raise unsupported("an image that is a stored file", where, "send it as 'image_url', a data URL if need be")
        image: Part = {"url": piece.image_url}
        if piece.detail is not None:
            image["detail"] = piece.detail
        return [{"type": "image_url", "image_url": image}]
    file = {name: getattr(piece, name) for name in ("file_data", "file_id", "filename") if getattr(piece, name)}
    if "file_data" not in file and "file_id" not in file:
        raise InvalidRequest(f"{where} needs 'file_data' or 'file_id'", param=where)
    return [{"type": "file", "file": file}]

"""Anthropic's turns, and the content blocks in them, as chat messages.

The structs are the validation: what does not fit them is answered with the place where it stands. A block that chat has
no part for is refused by name.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from ..protocol.errors import InvalidRequest
from .mapping import content, unsupported

Part = dict[str, Any]


class Base64(msgspec.Struct, tag_field="type", tag="base64"):
    media_type: str
    data: str

    @property
    def uri(self) -> str:
        return f"data:{self.media_type};base64,{self.data}"


class Url(msgspec.Struct, tag_field="type", tag="url"):
    url: str


class File(msgspec.Struct, tag_field="type", tag="file"):
    file_id: str


class PlainText(msgspec.Struct, tag_field="type", tag="text"):
    data: str


class TextBlock(msgspec.Struct, tag_field="type", tag="text"):
    text: str
    cache_control: Any = None

    def part(self) -> Part:
        return _marked({"type": "text", "text": self.text}, self.cache_control)


class ImageBlock(msgspec.Struct, tag_field="type", tag="image"):
    source: Base64 | Url | File
    cache_control: Any = None


class Inside(msgspec.Struct, tag_field="type", tag="content"):
    """A document's source that is itself blocks."""

    content: str | list[TextBlock | ImageBlock]


class DocumentBlock(msgspec.Struct, tag_field="type", tag="document"):
    source: Base64 | Url | File | PlainText | Inside
    title: str | None = None
    context: str | None = None
    cache_control: Any = None


class SearchResultBlock(msgspec.Struct, tag_field="type", tag="search_result"):
    content: list[TextBlock]
    source: str
    title: str
    cache_control: Any = None


class ToolUseBlock(msgspec.Struct, tag_field="type", tag="tool_use"):
    id: str
    name: str
    input: msgspec.Raw
    cache_control: Any = None


Shown = TextBlock | ImageBlock | DocumentBlock | SearchResultBlock


class ToolResultBlock(msgspec.Struct, tag_field="type", tag="tool_result"):
    tool_use_id: str
    content: str | list[Shown] | None = None
    is_error: bool | None = None
    cache_control: Any = None


class ThinkingBlock(msgspec.Struct, tag_field="type", tag="thinking"):
    thinking: str


class RedactedBlock(msgspec.Struct, tag_field="type", tag="redacted_thinking"):
    pass


Block = Shown | ToolUseBlock | ToolResultBlock | ThinkingBlock | RedactedBlock


class Turn(msgspec.Struct):
    role: Literal["user", "assistant", "system"]
    content: str | list[Block]


def to_messages(turns: list[Turn]) -> list[dict[str, Any]]:
    """The turns as chat messages, in their order. A user turn with tool results becomes several messages."""
    messages: list[dict[str, Any]] = []
    for place, turn in enumerate(turns):
        where = f"messages[{place}].content"
        if isinstance(turn.content, str):
            messages.append({"role": turn.role, "content": turn.content})
        elif turn.role == "assistant":
            messages.append(_assistant(turn.content, where))
        else:
            messages += _user(turn.role, turn.content, where)
    return messages


def _assistant(blocks: list[Block], where: str) -> dict[str, Any]:
    parts: list[Part] = []
    calls: list[dict[str, Any]] = []
    for place, block in enumerate(blocks):
        if isinstance(block, ToolUseBlock):
            calls.append(_call(block, f"{where}[{place}].input"))
        elif isinstance(block, Shown):
            parts += _shown(block, f"{where}[{place}]")
        elif isinstance(block, ToolResultBlock):
            raise InvalidRequest("a 'tool_result' belongs in a user message", param=f"{where}[{place}]")
    message: dict[str, Any] = {"role": "assistant", "content": content(parts)}
    if calls:
        message["content"] = message["content"] or None
        message["tool_calls"] = calls
    return message


def _user(role: str, blocks: list[Block], where: str) -> list[dict[str, Any]]:
    """Tool results first, as chat wants them right after the calls; then everything else the turn says."""
    results: list[dict[str, Any]] = []
    parts: list[Part] = []
    images: list[Part] = []
    for place, block in enumerate(blocks):
        here = f"{where}[{place}]"
        if isinstance(block, ToolResultBlock):
            result, pictures = _result(block, here)
            results.append(result)
            images += pictures
        elif isinstance(block, Shown):
            parts += _shown(block, here)
        elif isinstance(block, ToolUseBlock):
            raise InvalidRequest("a 'tool_use' belongs in an assistant message", param=here)
    parts = images + parts
    if parts or not results:
        results.append({"role": role, "content": content(parts)})
    return results


def _call(block: ToolUseBlock, where: str) -> dict[str, Any]:
    arguments = bytes(block.input).decode()
    if not arguments.startswith("{"):
        raise InvalidRequest("a tool's input must be an object", param=where)
    call = {"id": block.id, "type": "function", "function": {"name": block.name, "arguments": arguments}}
    return _marked(call, block.cache_control)


def _result(block: ToolResultBlock, where: str) -> tuple[dict[str, Any], list[Part]]:
    """A tool's result, and its images: chat's tool messages hold text only."""
    parts: list[Part] = []
    images: list[Part] = []
    if isinstance(block.content, str):
        parts.append({"type": "text", "text": block.content})
    else:
        for place, shown in enumerate(block.content or ()):
            for part in _shown(shown, f"{where}.content[{place}]"):
                (parts if part["type"] == "text" else images).append(part)
    if block.is_error:
        first = parts.pop(0) if parts else {"type": "text", "text": ""}
        parts.insert(0, {**first, "text": f"Error: {first['text']}"})
    if images:
        images.insert(0, {"type": "text", "text": f"From the result of tool call {block.tool_use_id}:"})
    message = {"role": "tool", "tool_call_id": block.tool_use_id, "content": content(parts)}
    return _marked(message, block.cache_control), images


def _shown(block: Shown, where: str) -> list[Part]:
    if isinstance(block, TextBlock):
        return [block.part()]
    if isinstance(block, ImageBlock):
        return [_image(block, where)]
    if isinstance(block, SearchResultBlock):
        parts = [{"type": "text", "text": f"{block.title}\n{block.source}"}, *(text.part() for text in block.content)]
    else:
        parts = _document(block, where)
    return [*parts[:-1], _marked(parts[-1], block.cache_control)]


def _image(block: ImageBlock, where: str) -> Part:
    source = block.source
    if isinstance(source, File):
        raise unsupported("a stored file", f"{where}.source", "send the image as base64 or as a URL")
    url = source.url if isinstance(source, Url) else source.uri
    return _marked({"type": "image_url", "image_url": {"url": url}}, block.cache_control)


def _document(block: DocumentBlock, where: str) -> list[Part]:
    source = block.source
    parts: list[Part] = []
    about = "\n".join(line for line in (block.title, block.context) if line)
    if about:
        parts.append({"type": "text", "text": about})
    if isinstance(source, PlainText):
        parts.append({"type": "text", "text": source.data})
    elif isinstance(source, Inside):
        inside = [TextBlock(source.content)] if isinstance(source.content, str) else source.content
        for place, shown in enumerate(inside):
            parts += _shown(shown, f"{where}.source.content[{place}]")
    elif isinstance(source, Base64):
        name = block.title or "document.pdf"
        parts.append({"type": "file", "file": {"filename": name, "file_data": source.uri}})
    else:
        raise unsupported("a document by URL or stored file", f"{where}.source", "send it as text or as base64")
    return parts or [{"type": "text", "text": ""}]


def _marked(made: dict[str, Any], mark: Any) -> dict[str, Any]:
    """With its cache mark, if it bears one: litellm's providers read it."""
    return made if mark is None else {**made, "cache_control": mark}

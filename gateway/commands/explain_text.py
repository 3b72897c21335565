"""An explanation on the terminal: the stages as a list, then what changed in the messages, removed and added.

Colours where there is a terminal and NO_COLOR is not set; [-removed-] and {+added+} everywhere else.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import msgspec
from rich.console import Console
from rich.text import Text

from ...protocol.exchange import Exchange, Part, ReceiptLine
from ...protocol.messages import Request
from .diff import Op, Piece, folded, only_space, paired, pieces
from .explain import Told, visible

_STYLE: dict[Op, str] = {"same": "", "gone": "red", "new": "green", "cut": "dim"}
_MARKS: dict[Op, tuple[str, str]] = {"same": ("", ""), "gone": ("[-", "-]"), "new": ("{+", "+}"), "cut": ("", "")}
_MOST_PARTS = 12
_SAMPLE = 200  # characters of a text that lost nothing but space
_raws = msgspec.json.Decoder(list[msgspec.Raw])


def show(told: Told, full: bool = False, console: Console | None = None) -> None:
    """Print it. `full` leaves nothing out."""
    console = console or Console(highlight=False, soft_wrap=True)
    exchange = told.exchange
    for line in _head(told):
        console.print(line)
    for entry in exchange.receipt.lines:
        console.print()
        for line in _stage(entry, full):
            console.print(line)
    changes = list(_changes(exchange, full))
    console.print()
    if not changes:
        console.print(
            Text("the request would go on as it is, byte for byte" if _untouched(exchange) else "no text changes")
        )
    for title, found in changes:
        console.print(Text(visible(title), style="bold"))
        console.print(_written(found, coloured=console.color_system is not None and not console.no_color))
        console.print()
    for note in told.notes:
        console.print(Text(f"note: {note}", style="dim"))


def _head(told: Told) -> Iterator[Text]:
    exchange = told.exchange
    yield _row(
        "request", f"{exchange.original.kind}, {_holds(exchange.original)}, for the tenant {exchange.tenant.name}"
    )
    ranked = ", then ".join(_named(t.name, t.upstream_model) for t in exchange.targets)
    yield _row("model", f"{exchange.original.model} is answered by {ranked}")
    change = told.tokens_after - told.tokens_before
    share = f" ({change / told.tokens_before:+.1%})" if change and told.tokens_before else ""
    yield _row(
        "tokens", f"{told.tokens_before:,} before, {told.tokens_after:,} after{share}, counted here; stages estimate"
    )
    saved = told.saved_microusd
    if saved is not None:
        yield _row("saves", f"{saved / 1e6:.6f} USD, as far as this request can tell")


def _named(name: str, upstream: str) -> str:
    return name if name == upstream else f"{name} ({upstream})"


def _holds(request: Request) -> str:
    counted = [(name, request.get(name)) for name in ("messages", "tools")]
    words = [
        f"{len(value)} {name if len(value) != 1 else name[:-1]}" for name, value in counted if isinstance(value, list)
    ]
    return ", ".join([*words, f"{len(request.encode()):,} bytes"])


def _row(name: str, value: str) -> Text:
    return Text.assemble((f"{name:<10}", "bold"), value)


def _stage(line: ReceiptLine, full: bool) -> Iterator[Text]:
    acted = line.did not in ("off", "left alone", "left out", "undone")
    told = Text.assemble((f"{line.stage:<10}", "bold"), (line.did, "" if acted else "dim"))
    if line.tokens_before is not None:
        after = "" if line.tokens_after is None else f" to {line.tokens_after:,}"
        told.append(f" {line.tokens_before:,}{after} tokens")
    if line.length is not None:
        named = zip(("P50", "P90", "P99", "P99.9"), line.length, strict=True)
        told.append(" " + ", ".join(f"{name} {tokens:,}" for name, tokens in named) + " tokens")
    if line.saved_microusd is not None:
        told.append(f", saves {line.saved_microusd / 1e6:.6f} USD")
    if line.cost_microusd is not None:
        told.append(f", at most {line.cost_microusd / 1e6:.6f} USD")
    if line.reason:
        told.append(f": {visible(line.reason)}", "dim" if not acted else "")
    if line.ms is not None:
        told.append(f" ({line.ms:.1f} ms)", "dim")
    yield told
    shown = line.parts if full else line.parts[:_MOST_PARTS]
    for part in shown:
        yield _part(part)
    if len(shown) < len(line.parts):
        yield Text(f"{'':10}  and {len(line.parts) - len(shown)} more (--full shows them)", "dim")


def _part(part: Part) -> Text:
    told = Text(f"{'':10}  {part.where + ': ' if part.where else ''}{visible(part.what)}")
    if part.count > 1:
        told.append(f" ({part.count})")
    if part.tokens:
        told.append(f", {-part.tokens:+,} tokens", "green" if part.tokens > 0 else "red")
    if part.why:
        told.append(f": {visible(part.why)}", "dim")
    return told


def _untouched(exchange: Exchange) -> bool:
    return exchange.working.encode() == exchange.original.encode()


def _changes(exchange: Exchange, full: bool) -> Iterator[tuple[str, list[Piece]]]:
    """What changed, by message: a title, and the pieces of its text."""
    old, new = exchange.original, exchange.working
    for field in ("tools", "functions", "messages", "prompt"):
        before, after = old.fields.get(field), new.fields.get(field)
        if before is None or after is None or before == after:
            continue
        pairs = _messages(bytes(before), bytes(after)) if field == "messages" else None
        for title, a, b in [(field, _plain(before), _plain(after))] if pairs is None else pairs:
            found = pieces(a, b)
            yield title, found if full else _shown(found, b)


def _shown(found: list[Piece], after: str) -> list[Piece]:
    space = only_space(found)
    if not space:
        return folded(found)
    more = " …" if len(after) > _SAMPLE else ""
    return [
        Piece("cut", f"{space:,} characters of space are gone; it reads now: "),
        Piece("same", after[:_SAMPLE] + more),
    ]


def _messages(before: bytes, after: bytes) -> list[tuple[str, str, str]]:
    old, new = [[bytes(raw) for raw in _raws.decode(field)] for field in (before, after)]
    out: list[tuple[str, str, str]] = []
    for i, j in paired(old, new):
        a = None if i is None else json.loads(old[i])
        b = None if j is None else json.loads(new[j])
        if i is not None and j is not None and old[i] == new[j]:
            continue
        if a is None:
            out.append((f"new: {_who(b)}", "", said(b)))
        elif b is None:
            out.append((f"messages[{i}] is left out: {_who(a)}", said(a), ""))
        else:
            out.append((f"messages[{i}]: {_who(a)}", said(a), said(b)))
    return out


def _who(message: Any) -> str:
    if not isinstance(message, dict):
        return "?"
    name = message.get("name") or message.get("tool_call_id")
    return f"{message.get('role', '?')} {name}" if name else str(message.get("role", "?"))


def said(message: Any) -> str:
    """What a message says, as a person would read it: its texts, its calls as `name(arguments)`."""
    if not isinstance(message, dict):
        return json.dumps(message, ensure_ascii=False)
    content = message.get("content")
    lines = [content] if isinstance(content, str) else []
    for part in content if isinstance(content, list) else []:
        text = part.get("text") if isinstance(part, dict) else None
        lines.append(text if isinstance(text, str) else json.dumps(part, ensure_ascii=False))
    for call in message.get("tool_calls") or ():
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict):
            lines.append(f"{function.get('name')}({function.get('arguments')})")
    return "\n".join(lines)


def _plain(raw: msgspec.Raw) -> str:
    text = bytes(raw).decode("utf-8", "replace")
    value = json.loads(text) if text.startswith('"') else None
    return value if isinstance(value, str) else text


def _written(found: list[Piece], coloured: bool) -> Text:
    out = Text()
    for piece in found:
        if not coloured:
            before, after = _MARKS[piece.op]
            out.append(f"{before}{visible(piece.text)}{after}")
        elif piece.text.isspace() and piece.op in ("gone", "new"):
            out.append(piece.text, f"on {_STYLE[piece.op]}")  # space has no colour of its own
        else:
            out.append(visible(piece.text), _STYLE[piece.op])
    return out

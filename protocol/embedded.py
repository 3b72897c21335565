"""A request's text, embedded once: the first stage that needs its vector leaves it on the exchange for the others.

Also which text that is, so that they agree. Knows no model of vectors; whoever asks hands one in and sets the deadline.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from .exchange import Exchange
from .messages import Request

LONGEST = 8_000  # characters that are embedded; an encoder's window ends long before
_FACT = "vectors"


class Embeds(Protocol):
    """Texts in, unit vectors out, one a row."""

    async def embed(self, texts: Sequence[str], *, tenant: str = "") -> Any: ...


async def embed_once(exchange: Exchange, embedder: Embeds, text: str) -> Any:
    """The vector of `text`, float32 of unit length. Raises what the embedder raises; waits as long as it takes."""
    known = vector_of(exchange, text)
    if known is None:
        known = (await embedder.embed([text[:LONGEST]], tenant=exchange.tenant.name))[0]
        exchange.facts.setdefault(_FACT, {})[text[:LONGEST]] = known
    return known


def vector_of(exchange: Exchange, text: str) -> Any:
    """The vector if some stage has embedded the text already; else None. Never waits."""
    return exchange.facts.get(_FACT, {}).get(text[:LONGEST])


def asked(request: Request) -> str | None:
    """What is to be answered: the text of the last turn of a user, or the one prompt of a completion. None where there
    is no such text. Of a turn in several parts, its texts."""
    if request.kind == "completions":
        prompt = request.get("prompt")
        return prompt if isinstance(prompt, str) and prompt.strip() else None
    messages = request.get("messages") if request.kind == "chat" else None
    for message in reversed(messages) if isinstance(messages, list) else ():
        if isinstance(message, dict) and message.get("role") == "user":
            return text_of(message.get("content"))
    return None


def text_of(content: Any) -> str | None:
    """The text of a message's content, whatever its shape; None if it has none."""
    if isinstance(content, list):
        parts = [part["text"] for part in content if isinstance(part, dict) and isinstance(part.get("text"), str)]
        content = "\n".join(parts)
    return content if isinstance(content, str) and content.strip() else None

"""A text as tokenizers can take it."""

from __future__ import annotations

# More of one text is never read; a window of a few hundred tokens ends long before.
MOST_CHARS = 65_536


def readable(text: str) -> str:
    """The text with lone surrogates replaced, which no tokenizer takes; paired ones become their character."""
    text = text[:MOST_CHARS]
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text

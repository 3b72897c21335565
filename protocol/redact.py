"""Blotting out what looks like a key, in text that others wrote: a library's log line, an upstream's error."""

from __future__ import annotations

import re

_SECRET = re.compile(
    # A digit tells a key from a word such as key-value-store.
    r"\b(?:sk|tt|pk|key|xai|gsk)-(?=[A-Za-z_-]*\d)[A-Za-z0-9_-]{8,}"
    r"|(?i:bearer)\s+[A-Za-z0-9._~+/=-]{8,}|://[^/\s:@]+:[^/\s@]+@"
)


def redact(text: str) -> str:
    """The text with keys, bearer tokens and passwords in URLs replaced by [redacted]."""
    return _SECRET.sub("[redacted]", text)

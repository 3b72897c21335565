"""Logging: one line a record, on standard error, with anything that looks like a key blotted out.

Nothing here logs a key on purpose; the filter is for what a library or an upstream's message might carry.
"""

from __future__ import annotations

import logging
import re

_SECRET = re.compile(
    r"\b(?:sk|tt|pk|key|xai|gsk)-[A-Za-z0-9_-]{8,}|(?i:bearer)\s+[A-Za-z0-9._~+/=-]{8,}|://[^/\s:@]+:[^/\s@]+@"
)


def redact(text: str) -> str:
    """The text with keys, bearer tokens and passwords in URLs replaced by [redacted]."""
    return _SECRET.sub("[redacted]", text)


class _Redacting(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


def configure(level: str = "info") -> None:
    """Set up the process's logging. `level` is debug, info, warning or error."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Redacting("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for noisy in ("asyncio", "aiohttp.access", "uvicorn.access", "uvicorn.error"):
        logging.getLogger(noisy).setLevel("WARNING")

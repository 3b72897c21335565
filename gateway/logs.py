"""Logging: one line a record, on standard error, with anything that looks like a key blotted out.

Nothing here logs a key on purpose; the filter is for what a library or an upstream's message might carry.
"""

from __future__ import annotations

import logging

from ..protocol.redact import redact


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

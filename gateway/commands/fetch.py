"""`trimtab fetch WEIGHTS`: download a model of the catalogue, with a progress bar."""

from __future__ import annotations

import sys

from ...backends.engine.weights import obtain
from ...protocol.errors import TrimtabError


def run(weights: str) -> int:
    try:
        print(obtain(weights))
    except (TrimtabError, OSError, ValueError) as e:
        print(f"trimtab: {e}", file=sys.stderr)
        return 1
    return 0

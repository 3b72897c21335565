"""What somebody may have meant by a name that does not exist."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def suggestion(name: str, known: Iterable[str], shown: int = 12) -> str:
    """The nearest known names, else the known ones if they are few, ready to follow the cause of an error."""
    names = sorted(set(known))
    near = difflib.get_close_matches(name, names, n=2, cutoff=0.6)
    if near:
        return f"; did you mean {' or '.join(map(repr, near))}?"
    return f"; known here: {', '.join(names)}" if 0 < len(names) <= shown else ""

"""Which prompts a calibration was fitted on, so that nobody judges it on them: three bytes of a digest each.

One prompt in some hundreds of thousands is taken for one of a thousand that it is not; that one is left out for
nothing. Who has the file can test whether a prompt was among them: a calibration is its owner's, as the prompts are.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from typing import Any

_BYTES = 3


class Seen:
    def __init__(self, marks: frozenset[bytes] = frozenset()) -> None:
        self._marks = marks

    @classmethod
    def made(cls, prompts: Iterable[str]) -> Seen:
        return cls(frozenset(_mark(prompt) for prompt in prompts))

    @classmethod
    def of(cls, written: Any) -> Seen:
        """From what `to_json` gave; anything else knows no prompts. Raises ValueError for what is no base64."""
        if not isinstance(written, str):
            return cls()
        data = base64.b64decode(written, validate=True)
        return cls(frozenset(data[at : at + _BYTES] for at in range(0, len(data), _BYTES)))

    def to_json(self) -> str:
        return base64.b64encode(b"".join(sorted(self._marks))).decode()

    def __contains__(self, prompt: str) -> bool:
        return _mark(prompt) in self._marks

    def __len__(self) -> int:
        return len(self._marks)


def _mark(prompt: str) -> bytes:
    return hashlib.blake2b(prompt.strip().encode("utf-8", "surrogatepass"), digest_size=_BYTES).digest()

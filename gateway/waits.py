"""How long a model makes its callers wait, lately: averages that forget. A stream's first byte, and a whole answer."""

from __future__ import annotations

_WEIGHT = 0.1  # of the latest: some twenty answers are remembered


class Waits:
    """Seconds; 0 before the first answer."""

    __slots__ = ("first_byte", "whole")

    def __init__(self) -> None:
        self.first_byte = 0.0
        self.whole = 0.0

    def seen(self, seconds: float, stream: bool) -> None:
        if stream:
            self.first_byte = _blended(self.first_byte, seconds)
        else:
            self.whole = _blended(self.whole, seconds)

    def expected(self, stream: bool) -> float:
        """What whoever asks so waits; of the other kind, if nobody asked so before."""
        return (self.first_byte or self.whole) if stream else (self.whole or self.first_byte)


def _blended(known: float, seconds: float) -> float:
    return seconds if known == 0.0 else known + _WEIGHT * (seconds - known)

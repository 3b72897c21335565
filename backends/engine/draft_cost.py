"""What a step of the engine costs: seconds by its rows and by the keys and values it reads, fitted online.

    seconds = (a + b rows + c tokens of keys and values) · what is usual for about so many rows

Least squares over what is remembered for each power of two of rows: there old measurements give way to new ones of the
same kind, so what a step without drafts cost is still known after a thousand with them. The last factor is for kernels
that work in tiles, whose cost has stairs. One odd measurement (a page fault, a busy neighbour) moves nothing far.
Pure: times are handed in.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

_ROW = 0.05  # what is believed before any measurement: that a row more costs a twentieth of a step
_TRUST = np.diag([1.0, 8.0, 2.0])  # in that, as if it had been measured about once
_MOST_ROWS = 1024  # steps with more are all prompt, and say little of what a draft costs
_KEEP = 0.97  # of a measurement when another of about as many rows comes
_CLIP = 3.0  # usual errors; one that is larger counts as this much
_NEW = 0.5  # what may be an error while a number of rows is new

_Floats = npt.NDArray[np.float64]


@dataclass(slots=True)
class _Kind:
    """What is remembered of steps of about the same number of rows."""

    count: float = 0.0
    off: float = 1.0  # how far from the line such a step usually is
    seconds: float = 0.0  # the means
    rows: float = 0.0
    kv_tokens: float = 0.0
    squares: _Floats = field(default_factory=lambda: np.zeros((3, 3)))
    products: _Floats = field(default_factory=lambda: np.zeros(3))


class StepCost:
    """Learns from `learn`; `seconds` is meaningful in ratios before the first measurement, and in seconds after."""

    def __init__(self) -> None:
        self._line = (1.0, _ROW, 0.0)  # of a step's unit: for it, for a row, for a thousand tokens of keys and values
        self._unit = 1.0  # seconds, of the first step seen
        self._usual = 0.1  # the usual relative error
        self._kinds: dict[int, _Kind] = {}
        self.seen = 0

    def seconds(self, rows: int, kv_tokens: int) -> float:
        """Of one step of so many rows, which read so many tokens' keys and values."""
        return self._on_line(rows, kv_tokens) * self._habit(rows)

    def curve(self, first: int, last: int, kv_tokens: int) -> list[float]:
        """`seconds` for each number of rows from `first` to `last`; never falling, as more work is never less."""
        out: list[float] = []
        most = 0.0
        for rows in range(first, last + 1):
            most = max(most, self.seconds(rows, kv_tokens))
            out.append(most)
        return out

    def learn(self, rows: int, kv_tokens: int, seconds: float) -> None:
        """A step took so long; measurements that cannot be are left out."""
        if not 0 < seconds < 3600 or not 0 < rows <= _MOST_ROWS:
            return
        if self.seen == 0:
            self._unit = seconds / (1 + _ROW * rows)
        self.seen += 1
        kind = self._kinds.setdefault(_bucket(rows), _Kind())
        guess = self.seconds(rows, kv_tokens)
        error = seconds / guess - 1
        most = _CLIP * self._usual if kind.count >= 4 else max(_NEW, _CLIP * self._usual)
        self._usual = 0.95 * self._usual + 0.05 * min(abs(error), 2 * self._usual + 0.01)
        seconds = guess * (1 + max(-most, min(most, error)))
        x = np.array([1.0, rows, kv_tokens / 1000]) * (self._unit / guess)
        kind.squares = _KEEP * kind.squares + np.outer(x, x)
        kind.products = _KEEP * kind.products + x * (seconds / guess)
        kind.count = _KEEP * kind.count + 1
        kind.seconds += (seconds - kind.seconds) / kind.count
        kind.rows += (rows - kind.rows) / kind.count
        kind.kv_tokens += (kv_tokens - kind.kv_tokens) / kind.count
        self._fit()

    def _fit(self) -> None:
        squares = _TRUST * 0.1
        products = squares @ np.array([1.0, _ROW, 0.0])
        for kind in self._kinds.values():
            squares = squares + kind.squares
            products = products + kind.products
        line = np.linalg.solve(squares, products)
        for i in (2, 1, 0):  # nothing costs less than nothing: without it, the others are fitted again
            if line[i] < 0:
                squares[i, :] = squares[:, i] = 0.0
                squares[i, i], products[i] = 1.0, 0.0
                line = np.linalg.solve(squares, products)
        self._line = (float(line[0]), float(line[1]), float(line[2]))
        for kind in self._kinds.values():
            kind.off = kind.seconds / self._on_line(kind.rows, kind.kv_tokens)

    def _on_line(self, rows: float, kv_tokens: float) -> float:
        a, b, c = self._line
        return self._unit * max(1e-6, a + b * rows + c * kv_tokens / 1000)

    def _habit(self, rows: int) -> float:
        kind = self._kinds.get(_bucket(rows))
        return 1.0 if kind is None else 1 + (kind.off - 1) * kind.count / (kind.count + 2)


def _bucket(rows: int) -> int:
    return max(0, rows - 1).bit_length()  # 1 | 2 | 3-4 | 5-8 | 9-16 | ...

"""What a step of the engine costs: seconds by its rows and by the keys and values it reads, fitted online.

    seconds = (a + b rows + c tokens of keys and values) · what is usual for about so many rows

Least squares over what is remembered for each power of two of rows: there old measurements give way to new ones of the
same kind, so what a step without drafts cost is still known after a thousand with them. The last factor is for kernels
that work in tiles, whose cost has stairs. One odd measurement (a page fault, a busy neighbour) moves nothing far.
Pure: times are handed in.
"""

from __future__ import annotations

from dataclasses import dataclass

_ROW = 0.05  # what is believed before any measurement: that a row more costs a twentieth of a step
_TRUST = (0.1, 0.8, 0.2)  # in that, for each term of the line, as if it had been measured about once
_MOST_ROWS = 1024  # steps with more are all prompt, and say little of what a draft costs
_KEEP = 0.97  # of a measurement when another of about as many rows comes
_CLIP = 3.0  # usual errors; one that is larger counts as this much
_NEW = 0.5  # what may be an error while a number of rows is new
_EAGER, _SELDOM = 64, 8  # steps after each of which the line is fitted; later it is after every so many

_Line = tuple[float, float, float]


@dataclass(slots=True)
class _Kind:
    """What is remembered of steps of about the same number of rows."""

    count: float = 0.0
    off: float = 1.0  # how far from the line such a step usually is
    seconds: float = 0.0  # the means
    rows: float = 0.0
    kv_tokens: float = 0.0
    squares: tuple[float, ...] = (0.0,) * 6  # of the terms with one another: 00 01 02 11 12 22
    products: _Line = (0.0, 0.0, 0.0)  # of the terms with what was measured


class StepCost:
    """Learns from `learn`; `seconds` is meaningful in ratios before the first measurement, and in seconds after."""

    def __init__(self) -> None:
        self._line: _Line = (1.0, _ROW, 0.0)  # of a step's unit: for it, for a row, for a thousand tokens of keys
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
        scale = self._unit / guess
        a, b, c, y = scale, rows * scale, kv_tokens / 1000 * scale, seconds / guess
        new = (a * a, a * b, a * c, b * b, b * c, c * c)
        kind.squares = tuple([_KEEP * old + one for old, one in zip(kind.squares, new, strict=True)])
        p, q, r = kind.products
        kind.products = (_KEEP * p + a * y, _KEEP * q + b * y, _KEEP * r + c * y)
        kind.count = _KEEP * kind.count + 1
        kind.seconds += (seconds - kind.seconds) / kind.count
        kind.rows += (rows - kind.rows) / kind.count
        kind.kv_tokens += (kv_tokens - kind.kv_tokens) / kind.count
        # A kind's own mean follows at once; the line, which all share, moves slowly.
        if self.seen <= _EAGER or self.seen % _SELDOM == 0 or kind.count < 4:
            self._fit()
        else:
            kind.off = kind.seconds / self._on_line(kind.rows, kind.kv_tokens)

    def _fit(self) -> None:
        s = [_TRUST[0], 0.0, 0.0, _TRUST[1], 0.0, _TRUST[2]]
        p = [_TRUST[0], _TRUST[1] * _ROW, 0.0]
        for kind in self._kinds.values():
            s = [x + y for x, y in zip(s, kind.squares, strict=True)]
            p = [x + y for x, y in zip(p, kind.products, strict=True)]
        line = _solved(s, p)
        for i in (2, 1, 0):  # nothing costs less than nothing: without it, the others are fitted again
            if line[i] < 0:
                for place in _PLACES[i]:
                    s[place] = 0.0
                s[_OWN[i]], p[i] = 1.0, 0.0
                line = _solved(s, p)
        self._line = line
        for kind in self._kinds.values():
            kind.off = kind.seconds / self._on_line(kind.rows, kind.kv_tokens)

    def _on_line(self, rows: float, kv_tokens: float) -> float:
        a, b, c = self._line
        return self._unit * max(1e-6, a + b * rows + c * kv_tokens / 1000)

    def _habit(self, rows: int) -> float:
        kind = self._kinds.get(_bucket(rows))
        return 1.0 if kind is None else 1 + (kind.off - 1) * kind.count / (kind.count + 2)


_OWN = (0, 3, 5)  # where a term's square is among the six
_PLACES = ((0, 1, 2), (1, 3, 4), (2, 4, 5))  # and where all of its products are


def _solved(s: list[float], p: list[float]) -> _Line:
    """x of S x = p for a symmetric S of three by three (Cramer): numpy takes as long as a row costs."""
    a, b, c, d, e, f = s
    u, v, w = d * f - e * e, c * e - b * f, b * e - c * d
    scale = 1 / (a * u + b * v + c * w)
    k, m, n = a * f - c * c, b * c - a * e, a * d - b * b
    return (
        (u * p[0] + v * p[1] + w * p[2]) * scale,
        (v * p[0] + k * p[1] + m * p[2]) * scale,
        (w * p[0] + m * p[1] + n * p[2]) * scale,
    )


def _bucket(rows: int) -> int:
    return max(0, rows - 1).bit_length()  # 1 | 2 | 3-4 | 5-8 | 9-16 | ...

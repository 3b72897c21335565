"""Drawing tokens on a CPU by our own native function, where every token may be drawn: a tenth of the time.

The law and its noise are sample.py's. Knows laws and logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .native import Tape, base
from .sample import heat, noise_keys

if TYPE_CHECKING:
    from .sample import Law


def drawn_natively(rows: npt.NDArray[np.float32], laws: Sequence[Law]) -> list[int]:
    """The token of each of `rows` [rows, vocabulary]."""
    if rows.strides[1] != rows.itemsize:  # a row's numbers are read side by side
        rows = np.ascontiguousarray(rows)
    heats = np.array([heat(law.sampling) for law in laws], dtype=np.float32)
    keys = np.array([(*noise_keys(law.sampling.seed, law.position), 0) for law in laws], dtype=np.uint32)
    out = np.empty(len(rows), dtype=np.int64)
    tape = Tape()
    tape.add(base(), "drawn", rows, heats, keys, out, len(rows), rows.shape[1], rows.strides[0] // rows.itemsize)
    tape.run(1)
    tokens: list[int] = out.tolist()
    return tokens

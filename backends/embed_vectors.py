"""A vector as it is kept: half precision, with its scale and the number of tokens behind it.

Every vector that leaves the embedder has been through this form, fresh or from the cache: a text's vector is the same
bytes the first time and ever after. Halving the precision moves a vector by less than 1e-6 in cosine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def _form(dimensions: int) -> np.dtype[Any]:
    return np.dtype([("tokens", "<u4"), ("scale", "<f4"), ("vector", "<f2", (dimensions,))])


def pack(rows: NDArray[np.floating[Any]], tokens: Sequence[int]) -> list[bytes]:
    """One record for each row. A row without a direction (zero, or not a number) becomes the first axis."""
    packed = np.zeros(len(rows), _form(rows.shape[1]))
    for record, row, count in zip(packed, rows, tokens, strict=True):  # one at a time: nothing of the others gets in
        wide = row.astype(np.float64)
        length = float(np.sqrt(wide @ wide))
        if not (0 < length < float("inf")):
            wide = np.zeros_like(wide)
            wide[0] = length = 1.0
        half = (wide / length).astype(np.float16)
        kept = half.astype(np.float64)
        record["tokens"], record["vector"] = count, half
        record["scale"] = 1 / np.sqrt(kept @ kept)
    return [record.tobytes() for record in packed]


def unpack(records: Sequence[bytes], dimensions: int) -> tuple[NDArray[np.float32], tuple[int, ...]]:
    """The unit vectors, (n, dimensions) float32, and the tokens of each."""
    packed = np.frombuffer(b"".join(records), _form(dimensions))
    vectors = packed["vector"].astype(np.float32)
    vectors *= packed["scale"][:, None]
    return vectors, tuple(packed["tokens"].tolist())

"""A checkpoint whose rotary pairs are neighbours, read as one whose pairs are the halves of a head.

A head's columns of queries and keys are put in another order, the same for both: no score changes. Knows names and
tensors; nothing of files.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from .blocks import Floats
from .checkpoint import Checkpoint, FourBits, Vocabulary
from .shape import Shape

_TURNED = ("q", "k", "q_bias", "k_bias", "q_norm", "k_norm")


class Halves:
    """`checkpoint` with `shape.rope.interleaved` false."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._whole = checkpoint
        self.shape: Shape = replace(checkpoint.shape, rope=replace(checkpoint.shape.rope, interleaved=False))

    @property
    def vocabulary(self) -> Vocabulary:
        return self._whole.vocabulary

    @property
    def template(self) -> str | None:
        return self._whole.template

    def has(self, name: str) -> bool:
        return self._whole.has(name)

    def floats(self, name: str) -> Floats:
        found = self._whole.floats(name)
        return self._halved(found) if self._turns(name) else found

    def four_bits(self, name: str) -> FourBits | None:
        found = self._whole.four_bits(name)
        if found is None or not self._turns(name):
            return found
        values, scales, leasts = (self._halved(a) for a in (found.values, found.scales, found.leasts))
        return FourBits(values, scales, leasts, found.group, found.order)

    def fingerprint(self) -> bytes:
        return self._whole.fingerprint()

    def _turns(self, name: str) -> bool:
        return self._whole.shape.rope.interleaved and name.rpartition(".")[2] in _TURNED

    def _halved(self, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Of each head's rows the even ones, then the odd ones."""
        pairs = rows.reshape(-1, self.shape.head // 2, 2, *rows.shape[1:])
        return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(rows.shape)

"""4-bit matrices as model hubs have them: the layouts of GPTQ (AutoGPTQ, GPTQModel) and AWQ (AutoAWQ's GEMM).

Both keep four tensors for a matrix: `qweight` and `qzeros`, eight 4-bit values in each int32, `scales`, and for GPTQ
`g_idx`, the group of each input. weight = (q - zero) * scale. Knows nothing of files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from ...protocol.errors import ModelUnavailable
from .checkpoint import FourBits
from .hub_vocabulary import read_json

# AWQ's kernels want the outputs of a word in this order.
_AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
_IN_ORDER = tuple(range(8))

Words = npt.NDArray[np.int32]
Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Layout:
    """`group` inputs share a scale, all of them where it is -1. `zero_offset` was taken from zeros when stored."""

    method: Literal["gptq", "awq"]
    group: int
    zero_offset: int

    def dimensions(self, packed: tuple[int, ...]) -> tuple[int, ...]:
        """Of the matrix whose `qweight` has the dimensions `packed`."""
        if len(packed) != 2:
            return packed
        a, b = packed
        return (b, 8 * a) if self.method == "gptq" else (8 * b, a)


def layout_of(config: Mapping[str, Any], folder: Path) -> Layout | None:
    """How the folder's matrices are packed; None when they are not. Raises ModelUnavailable for other ways."""
    how = config.get("quantization_config")
    older = folder / "quantize_config.json"
    if how is None and older.is_file():
        how = {"quant_method": "gptq", **read_json(older)}
    if how is None:
        return None
    method, bits = (how.get("quant_method"), how.get("bits")) if isinstance(how, dict) else (None, None)
    group = how.get("group_size", 128) if isinstance(how, dict) else 0
    if method == "awq" and how.get("version", "gemm") != "gemm":
        method = f"awq ({how['version']})"
    if method not in ("gptq", "awq") or bits != 4 or not isinstance(group, int):
        raise ModelUnavailable(
            f"the weights are quantized by '{method}' in {bits} bits, which the engine does not read",
            detail="it reads 4-bit GPTQ and AWQ (gemm)",
        )
    return Layout(method, group, 1 if method == "gptq" and how.get("checkpoint_format") != "gptq_v2" else 0)


@dataclass(frozen=True, slots=True)
class Quantized:
    """One packed matrix: `stem` is its tensors' common name, `read` gives one of them."""

    layout: Layout
    stem: str
    read: Callable[[str], torch.Tensor]

    def four_bits(self) -> FourBits:
        """Raises ModelUnavailable when the four tensors do not fit one another."""
        words, zeros = self._words("qweight"), self._words("qzeros")
        scales = self.read(f"{self.stem}.scales").float().numpy().T
        if self.layout.method == "gptq":
            values, zero = _down(words), _across(zeros, _IN_ORDER)
        else:
            values, zero = _across(words, _AWQ_ORDER), _across(zeros, _AWQ_ORDER)
        inputs, outputs = values.shape
        group = inputs if self.layout.group <= 0 else self.layout.group
        if inputs % 2 or inputs % group or scales.shape != (outputs, inputs // group) or zero.T.shape != scales.shape:
            raise self._damaged(f"scales of {scales.shape[::-1]} do not fit {inputs} inputs in groups of {group}")
        order = self._order(inputs, group)
        if not np.isfinite(scales.sum()):
            raise self._damaged("scales that are no numbers")
        values = (values if order is None else values[order]).T
        least = -(zero.T.astype(np.float32) + self.layout.zero_offset) * scales
        pairs = np.bitwise_or(values[:, 0::2], values[:, 1::2] << np.uint8(4))
        return FourBits(
            pairs, np.ascontiguousarray(scales, dtype=np.float32), np.ascontiguousarray(least), group, order
        )

    def _order(self, inputs: int, group: int) -> npt.NDArray[np.int64] | None:
        """The inputs sorted by their group; None when they lie so already."""
        if self.layout.method == "awq" or group == inputs:
            return None
        groups = self.read(f"{self.stem}.g_idx").numpy()
        even = np.arange(inputs) // group
        if np.array_equal(groups, even):
            return None
        order = np.argsort(groups, kind="stable")
        if not np.array_equal(groups[order], even):
            raise self._damaged(f"g_idx does not put its {inputs} inputs into groups of {group}")
        return order.astype(np.int64)

    def _words(self, name: str) -> Words:
        tensor = self.read(f"{self.stem}.{name}")
        if tensor.dtype != torch.int32 or tensor.ndim != 2:
            raise self._damaged(f"{name} is no matrix of int32")
        return tensor.numpy()

    def _damaged(self, why: str) -> ModelUnavailable:
        return ModelUnavailable(f"the weights are damaged: {self.stem}: {why}", detail="fetch them again")


def _down(words: Words) -> Bytes:
    """Eight rows in each row of words: uint8 [8 rows, columns]."""
    rows, columns = words.shape
    return _nibbles(words).transpose(0, 2, 1).reshape(8 * rows, columns)


def _across(words: Words, order: tuple[int, ...]) -> Bytes:
    """Eight columns in each column of words; nibble i of a word is its column `order[i]`."""
    rows, columns = words.shape
    out = np.empty((rows, columns, 8), dtype=np.uint8)
    out[..., list(order)] = _nibbles(words)
    return out.reshape(rows, 8 * columns)


def _nibbles(words: Words) -> Bytes:
    """uint8 [rows, columns, 8], the lowest bits of a word first."""
    raw = np.ascontiguousarray(words).astype("<i4").view(np.uint8).reshape(*words.shape, 4)
    out = np.empty((*words.shape, 8), dtype=np.uint8)
    out[..., 0::2], out[..., 1::2] = raw & 0xF, raw >> 4
    return out

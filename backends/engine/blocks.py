"""Unpacking ggml's quantised blocks into float32 with numpy.

A tensor's bytes are rows of equal blocks; each function takes uint8 [n, bytes] and gives float32 [n, weights].
Layouts: ggml-common.h of the ggml project. Knows nothing of files or of tensors' names.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
_Scales = tuple[npt.NDArray[Any], npt.NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Kind:
    """One storage type: `weights` values packed in `size` bytes."""

    name: str
    weights: int
    size: int
    unpack: Callable[[Bytes], Floats]


def _f32(b: Bytes) -> Floats:
    return np.asarray(b.view("<f4"), dtype=np.float32)


def _f16(b: Bytes) -> Floats:
    return b.view("<f2").astype(np.float32)


def _bf16(b: Bytes) -> Floats:
    # bfloat16 is the upper half of a float32.
    return (b.view("<u2").astype(np.uint32) << 16).view(np.float32)


def nibbles(q: Bytes) -> Bytes:
    """The 4-bit values of Q4_0 and Q4_1: all low halves first, then all high halves."""
    return np.concatenate((q & np.uint8(0xF), q >> np.uint8(4)), axis=1)


def _q4_0(b: Bytes) -> Floats:
    return _f16(b[:, :2].copy()) * (nibbles(b[:, 2:]).astype(np.float32) - 8)


def _q4_1(b: Bytes) -> Floats:
    head = _f16(b[:, :4].copy())
    return head[:, :1] * nibbles(b[:, 4:]).astype(np.float32) + head[:, 1:]


def _q8_0(b: Bytes) -> Floats:
    return _f16(b[:, :2].copy()) * b[:, 2:].view(np.int8).astype(np.float32)


def _q4_k(b: Bytes) -> Floats:
    n = len(b)
    head = _f16(b[:, :4].copy())
    scale, least = _six_bits(b[:, 4:16])
    bytes_ = b[:, 16:].reshape(n, 4, 1, 32)
    q = np.concatenate((bytes_ & 0xF, bytes_ >> 4), axis=2).reshape(n, 8, 32).astype(np.float32)
    out = (head[:, :1] * scale)[:, :, None] * q - (head[:, 1:] * least)[:, :, None]
    return np.asarray(out.reshape(n, 256), dtype=np.float32)


def _six_bits(s: Bytes) -> _Scales:
    """Q4_K's eight scales and eight minima, six bits each, spread over twelve bytes."""
    low, mid, high = s[:, :4], s[:, 4:8], s[:, 8:]
    scale = np.concatenate((low & 63, (high & 0xF) | ((low >> 6) << 4)), axis=1)
    least = np.concatenate((mid & 63, (high >> 4) | ((mid >> 6) << 4)), axis=1)
    return scale, least


def _q6_k(b: Bytes) -> Floats:
    n = len(b)
    ql = b[:, :128].reshape(n, 2, 2, 32)  # half of the block, then low bytes of weights 0..31 | 32..63
    qh = b[:, 128:192].reshape(n, 2, 1, 32)
    low = np.concatenate((ql & 0xF, ql >> 4), axis=2)
    high = (qh >> np.array([0, 2, 4, 6], dtype=np.uint8)[None, None, :, None]) & 3
    q = (low | (high << 4)).astype(np.float32).reshape(n, 16, 16) - 32
    scale = b[:, 192:208].view(np.int8).astype(np.float32)
    d = _f16(b[:, 208:].copy())
    return np.asarray(((d * scale)[:, :, None] * q).reshape(n, 256), dtype=np.float32)


# ggml's numbers of the types we read.
KINDS = {
    0: Kind("F32", 1, 4, _f32),
    1: Kind("F16", 1, 2, _f16),
    2: Kind("Q4_0", 32, 18, _q4_0),
    3: Kind("Q4_1", 32, 20, _q4_1),
    8: Kind("Q8_0", 32, 34, _q8_0),
    12: Kind("Q4_K", 256, 144, _q4_k),
    14: Kind("Q6_K", 256, 210, _q6_k),
    30: Kind("BF16", 1, 2, _bf16),
}

# The names of the ones we do not read, so that an error can say them.
_OTHERS = {6: "Q5_0", 7: "Q5_1", 9: "Q8_1", 10: "Q2_K", 11: "Q3_K", 13: "Q5_K", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS"}
_OTHERS |= {18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 24: "I8", 25: "I16"}
_OTHERS |= {26: "I32", 27: "I64", 28: "F64", 29: "IQ1_M", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4"}


def name_of(number: int) -> str:
    return _OTHERS.get(number, f"number {number}")

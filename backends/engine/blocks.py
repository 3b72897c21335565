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


def _q5_0(b: Bytes) -> Floats:
    return _f16(b[:, :2].copy()) * (_five_bits(b[:, 2:]).astype(np.float32) - 16)


def _q5_1(b: Bytes) -> Floats:
    head = _f16(b[:, :4].copy())
    return head[:, :1] * _five_bits(b[:, 4:]).astype(np.float32) + head[:, 1:]


def _five_bits(b: Bytes) -> Bytes:
    """Nibbles with a fifth bit each: four bytes of those, the first weight's lowest, then the nibbles."""
    fifth = np.unpackbits(b[:, :4], axis=1, bitorder="little")
    return nibbles(b[:, 4:]) | fifth << np.uint8(4)


def _q8_0(b: Bytes) -> Floats:
    return _f16(b[:, :2].copy()) * b[:, 2:].view(np.int8).astype(np.float32)


def _q2_k(b: Bytes) -> Floats:
    head = _f16(b[:, 80:].copy())
    return _affine(head, b[:, :16] & 0xF, b[:, :16] >> 4, _two_bits(b[:, 16:80]))


def _q3_k(b: Bytes) -> Floats:
    n = len(b)
    third = np.unpackbits(b[:, :32, None], axis=2, bitorder="little").transpose(0, 2, 1).reshape(n, 256)
    q = _two_bits(b[:, 32:96]).astype(np.float32) - 4 * (1 - third)
    low = np.concatenate((b[:, 96:104] & 0xF, b[:, 96:104] >> 4), axis=1)
    high = (b[:, None, 104:108] >> np.array([0, 2, 4, 6], dtype=np.uint8)[None, :, None]) & 3
    scale = (low | (high.reshape(n, 16) << 4)).astype(np.float32) - 32
    d = _f16(b[:, 108:].copy())
    return np.asarray(((d * scale)[:, :, None] * q.reshape(n, 16, 16)).reshape(n, 256), dtype=np.float32)


def _two_bits(b: Bytes) -> Bytes:
    """Each 32 bytes hold 128 weights: the lowest two bits of all, then the next two."""
    shifts = np.array([0, 2, 4, 6], dtype=np.uint8)[None, None, :, None]
    pairs: Bytes = (b.reshape(len(b), 2, 1, 32) >> shifts) & np.uint8(3)
    return pairs.reshape(len(b), 256)


def _q4_k(b: Bytes) -> Floats:
    return _affine(_f16(b[:, :4].copy()), *_six_bits(b[:, 4:16]), _halves(b[:, 16:]))


def _q5_k(b: Bytes) -> Floats:
    fifth = np.unpackbits(b[:, 16:48, None], axis=2, bitorder="little").transpose(0, 2, 1).reshape(len(b), 256)
    return _affine(_f16(b[:, :4].copy()), *_six_bits(b[:, 4:16]), _halves(b[:, 48:]) | fifth << np.uint8(4))


def _halves(b: Bytes) -> Bytes:
    """Each 32 bytes hold 64 weights: all low halves, then all high ones."""
    b = b.reshape(len(b), 4, 1, 32)
    return np.concatenate((b & 0xF, b >> 4), axis=2).reshape(len(b), 256)


def _affine(head: Floats, scale: npt.NDArray[Any], least: npt.NDArray[Any], q: Bytes) -> Floats:
    """q * scale - least, group by group, both in units of the block's own (`head` [n, 2])."""
    grouped = q.reshape(*scale.shape, -1).astype(np.float32)
    grouped *= (head[:, :1] * scale)[:, :, None]
    grouped -= (head[:, 1:] * least)[:, :, None]
    return grouped.reshape(len(q), -1)


def _six_bits(s: Bytes) -> _Scales:
    """Q4_K's and Q5_K's eight scales and eight minima, six bits each, spread over twelve bytes."""
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
    6: Kind("Q5_0", 32, 22, _q5_0),
    7: Kind("Q5_1", 32, 24, _q5_1),
    8: Kind("Q8_0", 32, 34, _q8_0),
    10: Kind("Q2_K", 256, 84, _q2_k),
    11: Kind("Q3_K", 256, 110, _q3_k),
    12: Kind("Q4_K", 256, 144, _q4_k),
    13: Kind("Q5_K", 256, 176, _q5_k),
    14: Kind("Q6_K", 256, 210, _q6_k),
    30: Kind("BF16", 1, 2, _bf16),
}

# The names of the ones we do not read, so that an error can say them.
_OTHERS = {9: "Q8_1", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS"}
_OTHERS |= {18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 24: "I8", 25: "I16"}
_OTHERS |= {26: "I32", 27: "I64", 28: "F64", 29: "IQ1_M", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4"}


def fours(kind: str, b: Bytes) -> tuple[Bytes, Floats, Floats] | None:
    """What a block of 4-bit values has: q uint8 [n, weights], and of each 32 of them a scale and a least, so that a
    weight is q * scale + least. None of other kinds."""
    if kind == "Q4_0":
        scale = _f16(b[:, :2].copy())
        return nibbles(b[:, 2:]), scale, -8 * scale
    if kind == "Q4_1":
        head = _f16(b[:, :4].copy())
        return nibbles(b[:, 4:]), head[:, :1], head[:, 1:]
    if kind == "Q4_K":
        head, (scale, least) = _f16(b[:, :4].copy()), _six_bits(b[:, 4:16])
        return _halves(b[:, 16:]), head[:, :1] * scale, -(head[:, 1:] * least)
    return None


def name_of(number: int) -> str:
    return _OTHERS.get(number, f"number {number}")

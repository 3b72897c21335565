"""The vectorised unpacking of blocks against a plain reading of each layout, weight by weight."""

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.backends.engine.blocks import KINDS, fours

BY_NAME = {kind.name: kind for kind in KINDS.values()}
SCALES = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0]}
SCALES |= {"Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208]}


def half(b, at):
    return struct.unpack_from("<e", b, at)[0]


def plain(name, b):
    if name == "Q4_0":
        return [half(b, 0) * ((b[2 + i % 16] >> 4 * (i // 16) & 15) - 8) for i in range(32)]
    if name == "Q4_1":
        return [half(b, 0) * (b[4 + i % 16] >> 4 * (i // 16) & 15) + half(b, 2) for i in range(32)]
    if name == "Q8_0":
        return [half(b, 0) * struct.unpack_from("b", b, 2 + i)[0] for i in range(32)]
    if name in ("Q5_0", "Q5_1"):
        return q5(name, b)
    return {"Q2_K": q2_k, "Q3_K": q3_k, "Q4_K": q4_k, "Q5_K": q5_k, "Q6_K": q6_k}[name](b)


def q5(name, b):
    head = 2 if name == "Q5_0" else 4
    fifth = int.from_bytes(b[head : head + 4], "little")
    q = [b[head + 4 + i % 16] >> 4 * (i // 16) & 15 | (fifth >> i & 1) << 4 for i in range(32)]
    return [half(b, 0) * (v - 16) for v in q] if head == 2 else [half(b, 0) * v + half(b, 2) for v in q]


def q2_k(b):
    out = []
    for i in range(256):
        q = b[16 + 32 * (i // 128) + i % 32] >> 2 * (i % 128 // 32) & 3
        out.append(half(b, 80) * (b[i // 16] & 15) * q - half(b, 82) * (b[i // 16] >> 4))
    return out


def q3_k(b):
    out = []
    for i in range(256):
        g = i // 16
        scale = b[96 + g % 8] >> 4 * (g // 8) & 15 | (b[104 + g % 4] >> 2 * (g // 4) & 3) << 4
        q = b[32 + 32 * (i // 128) + i % 32] >> 2 * (i % 128 // 32) & 3
        q -= 0 if b[i % 32] >> (i // 32) & 1 else 4
        out.append(half(b, 108) * (scale - 32) * q)
    return out


def q4_k(b):
    out = []
    for i in range(256):
        scale, least = six_bits(b[4:16], i // 32)
        q = b[16 + 32 * (i // 64) + i % 32] >> 4 * (i // 32 % 2) & 15
        out.append(half(b, 0) * scale * q - half(b, 2) * least)
    return out


def q5_k(b):
    out = []
    for i in range(256):
        scale, least = six_bits(b[4:16], i // 32)
        q = b[48 + 32 * (i // 64) + i % 32] >> 4 * (i // 32 % 2) & 15 | (b[16 + i % 32] >> (i // 32) & 1) << 4
        out.append(half(b, 0) * scale * q - half(b, 2) * least)
    return out


def six_bits(s, j):
    if j < 4:
        return s[j] & 63, s[j + 4] & 63
    return s[j + 4] & 15 | s[j - 4] >> 6 << 4, s[j + 4] >> 4 | s[j] >> 6 << 4


def q6_k(b):
    out = []
    for i in range(256):
        part, quarter, at = i // 128, i % 128 // 32, i % 32
        low = b[64 * part + 32 * (quarter % 2) + at] >> 4 * (quarter // 2) & 15
        high = b[128 + 32 * part + at] >> 2 * quarter & 3
        scale = struct.unpack_from("b", b, 192 + i // 16)[0]
        out.append(half(b, 208) * scale * ((low | high << 4) - 32))
    return out


@pytest.mark.parametrize("name", SCALES)
@given(data=st.data())
def test_blocks_unpack_as_their_layout_says(name, data):
    kind = BY_NAME[name]
    blocks = []
    for _ in range(data.draw(st.integers(1, 3))):
        block = bytearray(data.draw(st.binary(min_size=kind.size, max_size=kind.size)))
        for at in SCALES[name]:
            struct.pack_into("<e", block, at, data.draw(st.floats(-100, 100, width=16)))
        blocks.append(bytes(block))
    raw = np.frombuffer(b"".join(blocks), np.uint8).reshape(-1, kind.size)
    got, parts = kind.unpack(raw), fours(name, raw)
    assert (parts is not None) == (name in ("Q4_0", "Q4_1", "Q4_K"))
    if parts is not None:
        q, scales, leasts = parts
        whole = q.reshape(len(blocks), -1, 32) * scales[..., None] + leasts[..., None]
        np.testing.assert_allclose(whole.reshape(got.shape), got, rtol=1e-5, atol=1e-3)
    assert got.dtype == np.float32
    assert got.shape == (len(blocks), kind.weights)
    np.testing.assert_allclose(got, [plain(name, b) for b in blocks], rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize(("name", "form"), [("F32", "<f"), ("F16", "<e")])
@given(values=st.lists(st.floats(-1000, 1000, width=16), min_size=1, max_size=8))
def test_plain_floats(name, form, values):
    raw = np.frombuffer(b"".join(struct.pack(form, v) for v in values), np.uint8)
    assert BY_NAME[name].unpack(raw.reshape(len(values), -1)).ravel().tolist() == values


@given(st.floats(-1000, 1000, width=32))
def test_bfloat16_is_the_upper_half_of_a_float(value):
    upper = struct.pack("<f", value)[2:]
    got = BY_NAME["BF16"].unpack(np.frombuffer(upper, np.uint8).reshape(1, 2)).item()
    assert got == struct.unpack("<f", b"\0\0" + upper)[0]

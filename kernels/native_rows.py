"""What stands between the products of a layer on a CPU: norms, gates, the rotation of heads and their way to pages.

Every row is computed by itself, in one order. What a product will read is written as it wants it (native_product.py):

    high, low      int8 [rows, width]: the digits
    scales, sums4  float32 [rows, blocks]: of a block, and the sum of what it stands for
    sums8, lows    int32 [rows, blocks]: -128 times the sum of the high digits, and of the low ones
    fine, fines    int32 [rows, blocks]: the blocks that have low digits; int64 [rows]: how many there are

A row with an infinity or a NaN keeps showing it: the scale of its block is none either. Knows numbers; nothing of
models.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .native import F16, F32, F32X16, I8, I32, I32X16, I64, LANES, Code, Program, Value, vector
from .native_product import BLOCK, BYTES, ORDER, ROWS

_LOG2_E = 1.4426950408889634
_MAGIC = 1.5 * 2**23  # added to a float32 of at most 2^22, it leaves the nearest whole number in the lowest bits
_MAGIC_BITS = 0x4B400000
# 2^f for f in [-0.5, 0.5], from the highest power down: ln(2)^k / k!, the last two moved to where the error is least.
_POWERS = (1.5469732e-4, 1.3399411e-3, 9.6180825e-3, 5.5503299e-2, 2.4022652e-1, 6.9314718e-1, 1.0)
_WRITTEN = (*ROWS, "held")
_FINE = 2.0  # times the mean of the blocks' largest numbers: from there on a block has two digits


def exp2(code: Code, x: Value) -> Value:
    """2 to the power of each lane, to some 1e-7 of it; below 2^-126 it is zero."""
    held = code.select(x < -126.0, code.number(x.type, -126.0), x)
    held = code.select(held > 127.5, code.number(x.type, 127.5), held)
    shifted = held + _MAGIC
    rest = held - (shifted - _MAGIC)
    power = code.number(x.type, _POWERS[0])
    for factor in _POWERS[1:]:
        power = code.fma(power, rest, code.number(x.type, factor))
    whole = code.bits(vector(I32, x.type.count), shifted) - (_MAGIC_BITS - 127)
    power = power * code.bits(x.type, whole << 23)
    return code.select(x < -126.0, code.number(x.type, 0.0), power)


def write_embedded(program: Program, bits: int) -> None:
    """`embedded4` or `embedded8`: rows `tokens` (int64) of a matrix in blocks (native_product.py) as numbers, x float32
    [rows, WIDTH]."""
    code = program.function(f"embedded{bits}", "rows", "tokens", "weights", "finals", "x", "WIDTH")
    blocks, size = code.WIDTH // BLOCK, BYTES[bits]
    for row in code.loop(code.part, code.load(I64, code.rows), code.parts):
        token = code.load(I64, code.tokens + row * 8)
        strip, lane = token // LANES, token % LANES
        final = code.load(F32, code.finals + token * 4)
        for block in code.loop(0, blocks):
            at, x = code.weights + (strip * blocks + block) * size, code.x + (row * code.WIDTH + block * BLOCK) * 4
            scale, least = (
                code.to(F32, code.load(F16, at + (size - behind) + lane * 2))
                for behind in (32 if bits == 8 else 64, 32)
            )
            for i, column in enumerate(ORDER):
                byte = at + lane * 4 + (i // 4 * 64 + i % 4) % (256 if bits == 4 else 512)
                value = code.load(I8, byte)
                if bits == 8:
                    number = code.to(F32, code.to(I32, value) & 0xFF) - 128.0
                    code.store(number * scale * final, x + column * 4)
                else:
                    number = code.to(F32, (code.to(I32, value) >> (4 if i >= 16 else 0)) & 0xF)
                    code.store((number * scale + least) * final, x + column * 4)
    code.done()


def write_normed(program: Program, epsilon: float) -> None:
    """`normed`: RMSNorm of x [*, WIDTH], rows `places` (int64) of it, times `weight`, written for products."""
    code = program.function("normed", "rows", "places", "x", "weight", *_WRITTEN, "WIDTH")
    for row in code.loop(code.part, code.load(I64, code.rows), code.parts):
        at = code.x + code.load(I64, code.places + row * 8) * code.WIDTH * 4
        squares = code.variable(code.number(F32X16, 0.0))
        for i in code.loop(0, code.WIDTH, LANES):
            v = code.load(F32X16, at + i * 4)
            squares.set(code.fma(v, v, squares.get()))
        mean = code.total(squares.get()) / code.to(F32, code.WIDTH)
        factor = code.spread(code.number(F32, 1.0) / code.root(mean + epsilon))

        def value(place: Value) -> Value:
            return code.load(F32X16, at + place) * factor * code.load(F32X16, code.weight + place)  # noqa: B023

        _write_row(code, row, value)
    code.done()


def write_plain(program: Program) -> None:
    """`plain`: rows x [rows, WIDTH] as they are, written for products."""
    code = program.function("plain", "rows", "x", *_WRITTEN, "WIDTH")
    for row in code.loop(code.part, code.load(I64, code.rows), code.parts):
        at = code.x + row * code.WIDTH * 4
        _write_row(code, row, lambda place: code.load(F32X16, at + place))  # noqa: B023
    code.done()


def write_gated(program: Program) -> None:
    """`gated`: silu(gate) * up of rows x [rows, BETWEEN], gate first and up from WIDTH on, written for products."""
    code = program.function("gated", "rows", "x", *_WRITTEN, "WIDTH", "BETWEEN")
    for row in code.loop(code.part, code.load(I64, code.rows), code.parts):
        at = code.x + row * code.BETWEEN * 4

        def value(place: Value) -> Value:
            gate, up = code.load(F32X16, at + place), code.load(F32X16, at + code.WIDTH * 4 + place)  # noqa: B023
            return gate / (exp2(code, gate * -_LOG2_E) + 1.0) * up

        _write_row(code, row, value)
    code.done()


def _write_row(code: Code, row: Value, value: Callable[[Value], Value]) -> None:
    """A row whose sixteen columns from byte `place` on are `value(place)`. It waits in `held`, where each part has room
    for one, until it is known which blocks stand out."""
    blocks = code.WIDTH // BLOCK
    held, scales = code.held + code.part * code.WIDTH * 4, code.scales + row * blocks * 4
    total = code.variable(code.number(F32, 0.0))
    for block in code.loop(0, blocks):
        places = [block * (BLOCK * 4) + first for first in (0, LANES * 4)]
        values = [value(place) for place in places]
        for place, v in zip(places, values, strict=True):
            code.store(v, held + place)
        # As whole numbers, among which a NaN is the largest.
        top = code.bits(F32, code.most(code.larger(*(code.bits(I32X16, v) & 0x7FFFFFFF for v in values))))
        total.set(total.get() + top)
        code.store(top, scales + block * 4)
    bound = total.get() * _FINE / code.to(F32, blocks)
    fines = code.variable(code.number(I64, 0))
    for block in code.loop(0, blocks):
        at = held + block * (BLOCK * 4)
        values = [code.load(F32X16, at), code.load(F32X16, at + LANES * 4)]
        fine = _write_block(code, row * blocks + block, values, bound)
        with code.when(fine):
            code.store(code.to(I32, block), code.fine + (row * blocks + fines.get()) * 4)
            fines.set(fines.get() + 1)
    code.store(fines.get(), code.fines + row * 8)


def _write_block(code: Code, block: Value, values: list[Value], bound: Value) -> Value:
    """32 columns: the largest number becomes 127, or 127 * 256 of a fine block. Whether it is one."""
    place = block * 4
    top = code.load(F32, code.scales + place)
    fine = top > bound
    factor = code.select(top > 0.0, code.number(F32, 127.0) / top, code.number(F32, 0.0))
    factor = code.spread(code.select(fine, factor * 256.0, factor))
    shift = code.spread(code.select(fine, code.number(I32, 0), code.number(I32, 8)))
    wholes = [(code.bits(I32X16, v * factor + _MAGIC) - _MAGIC_BITS) << shift for v in values]
    # The low digit is signed as well: what is above half of 256 counts as less than nothing of the next.
    highs = [(whole + 128).halved(8) for whole in wholes]
    lows = [whole - (high << 8) for whole, high in zip(wholes, highs, strict=True)]
    for digits, out in ((highs, code.high), (lows, code.low)):
        first, second = (code.to(vector(I8), part) for part in digits)
        code.store(code.shuffled(first, second, ORDER), out + block * BLOCK)
    total, high = code.total(wholes[0] + wholes[1]), code.total(highs[0] + highs[1])
    scale = top * (1 / 127)
    code.store(scale, code.scales + place)
    code.store(scale * (1 / 256) * code.to(F32, total), code.sums4 + place)
    code.store(high * -128, code.sums8 + place)
    code.store((total - (high << 8)) * -128, code.lows + place)
    return fine


def write_turned(
    program: Program,
    heads: int,
    kv_heads: int,
    head: int,
    page: int,
    epsilon: float,
    kept: Any = F32,
    *,
    biases: bool,
    norms: bool,
) -> None:
    """`turned`: rows qkv [rows, BETWEEN] of heads; queries are rotated in place, keys and values go to their pages.

    `turns` float32 [positions, head]: the cosines of a head's pairs (i, i + head / 2), then their sines. `slots` int64:
    page * page size + place in it; `keys` [pages, kv_heads, head, page], `values` [pages, kv_heads, page, head], floats
    or halves (`kept`). `bias` is added to a row before, if `biases`; heads of queries and keys are normed if `norms`.
    """
    code = program.function(
        "turned", "rows", "qkv", "positions", "slots", "turns", "keys", "values", "bias", "q_norm", "k_norm", "BETWEEN"
    )
    half, kind = head // 2, vector(F32, lanes(head // 2))
    step, size = kind.count, 2 if kept is F16 else 4

    def part(at: Value, bias: Value, i: Value) -> Value:
        v = code.load(kind, at + i * 4)
        return v + code.load(kind, bias + i * 4) if biases else v

    for row in code.loop(code.part, code.load(I64, code.rows), code.parts):
        turn = code.turns + code.load(I64, code.positions + row * 8) * (head * 4)
        slot = code.load(I64, code.slots + row * 8)
        block, place = slot // page * kv_heads, slot % page
        for weight, first, last in ((code.q_norm, 0, heads), (code.k_norm, heads, heads + kv_heads)):
            for h in code.loop(first, last):
                at, bias = code.qkv + (row * code.BETWEEN + h * head) * 4, code.bias + h * (head * 4)
                factor = _norm_factor(code, head, epsilon, kind, lambda i: part(at, bias, i)) if norms else None  # noqa: B023
                for i in code.loop(0, half, step):
                    a, b = part(at, bias, i), part(at, bias, i + half)
                    if factor is not None:
                        a = a * factor * code.load(kind, weight + i * 4)
                        b = b * factor * code.load(kind, weight + (i + half) * 4)
                    cosine, sine = code.load(kind, turn + i * 4), code.load(kind, turn + (i + half) * 4)
                    code.store(code.fma(a, cosine, b * sine * -1.0), at + i * 4)
                    code.store(code.fma(a, sine, b * cosine), at + (i + half) * 4)
                if first:
                    key = code.keys + ((block + h - heads) * (head * page) + place) * size
                    for i in code.loop(0, head):
                        code.store(code.to(kept, code.load(F32, at + i * 4)), key + i * (page * size))
        for h in code.loop(0, kv_heads):
            at = code.qkv + (row * code.BETWEEN + (h + heads + kv_heads) * head) * 4
            bias = code.bias + (h + heads + kv_heads) * (head * 4)
            value = code.values + ((block + h) * page + place) * (head * size)
            for i in code.loop(0, head, step):
                code.store(code.to(vector(kept, step), part(at, bias, i)), value + i * size)
    code.done()


def _norm_factor(code: Code, head: int, epsilon: float, kind: Any, part: Any) -> Value:
    squares = code.variable(code.number(kind, 0.0))
    for i in code.loop(0, head, kind.count):
        v = part(i)
        squares.set(code.fma(v, v, squares.get()))
    mean = code.total(squares.get()) * (1 / head)
    return code.spread(code.number(F32, 1.0) / code.root(mean + epsilon), kind.count)


def lanes(width: int) -> int:
    """As many lanes as divide it."""
    return next(n for n in (16, 8, 4, 2, 1) if width % n == 0)

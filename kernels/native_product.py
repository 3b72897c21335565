"""Products of rows with weights in blocks of 32: y = x Wᵀ, each row's bits independent of the others.

A row of x is whole numbers of 8 bits with a scale for each block: x = scale * high. Where a block's largest number is
far above those of the row's other blocks, that would drown what stands beside it: such a block is fine, and has a
second digit, x = scale * (high + low / 256). A weight is scale * w + least, with w of 4 bits, or scale * (w - 128),
with w of 8. Of one block

    sum(x * weight) = x scale * scale * sum(high * w) + least * sum(x)

where the sum over products of bytes is an exact integer (VNNI). Blocks are added in their order by fused multiply-adds,
then the low digits of the fine ones in theirs. With one digit everywhere that is how llama.cpp's CPU products are made
too (ggml-quants.c); here sixteen outputs are computed at once, so that no sum is over lanes, and up to eight rows share
one reading of the weights.

Weights lie in strips of sixteen outputs: for each block sixteen values' bytes in the lanes' order, then sixteen
scales, then (4 bits) sixteen leasts, in halves. `sets` of columns: four bytes of one output are the columns 8j + 0, 2,
4, 6 in the low halves and 8j + 1, 3, 5, 7 in the high ones; 8-bit weights and rows are in that order as well (`ORDER`).
"""

from __future__ import annotations

from .native import F16X16, F32, F32X16, I32, I32X16, I64, VOID, Code, Program, Value

BLOCK = 32
ROWS_AT_ONCE = 8
ORDER = [8 * j + 2 * i for j in range(4) for i in range(4)] + [8 * j + 2 * i + 1 for j in range(4) for i in range(4)]
BYTES = {4: 256 + 64, 8: 512 + 32}  # of one block of sixteen outputs


ROWS = ("high", "low", "scales", "sums4", "sums8", "lows", "fine", "fines")
_STRIP = (*ROWS, "weights", "finals", "y", "WIDTH", "OUTPUTS", "ADD")


def write_product(program: Program, bits: int) -> None:
    """`product`: rows that native_rows.py wrote, WIDTH columns each, times a matrix of OUTPUTS rows.

    Arguments: `rows`, where the count of rows is; the rows as native_rows.py describes them; `weights`; `finals`,
    float32 [OUTPUTS], what each output is multiplied by; `y` float32 [rows, OUTPUTS], which is added to if ADD. WIDTH
    is a multiple of 32, OUTPUTS of 16.
    """
    for count in range(1, ROWS_AT_ONCE + 1):
        _write_strip(program, bits, count)
    code = program.function("product", "rows", *_STRIP)
    strips, blocks, rows = code.OUTPUTS // 16, code.WIDTH // BLOCK, code.load(I64, code.rows)
    sizes = code.WIDTH, code.OUTPUTS, code.ADD
    for strip in code.loop(strips * code.part // code.parts, strips * (code.part + 1) // code.parts):
        weights, finals = code.weights + strip * blocks * BYTES[bits], code.finals + strip * 64
        for row in code.loop(0, rows, ROWS_AT_ONCE):
            bytes_, words = row * code.WIDTH, row * blocks * 4
            own = [code.high + bytes_, code.low + bytes_]
            own += [array + words for array in (code.scales, code.sums4, code.sums8, code.lows, code.fine)]
            own += [code.fines + row * 8, weights, finals, code.y + (row * code.OUTPUTS + strip * 16) * 4]
            left = rows - row
            for count in range(1, ROWS_AT_ONCE + 1):
                with code.when(left.compared(">=" if count == ROWS_AT_ONCE else "==", count)):
                    code.call(f"strip{count}", VOID, *own, *sizes)
    code.done()


def _write_strip(program: Program, bits: int, rows: int) -> None:
    """Sixteen outputs of so many rows."""
    code = program.inner(f"strip{rows}", *_STRIP)
    blocks = code.WIDTH // BLOCK
    totals = [code.variable(code.number(F32X16, 0.0)) for _ in range(rows)]
    none = code.number(I32X16, 0)
    for block in code.loop(0, blocks):
        here = code.weights + block * BYTES[bits]
        for line in range(0, BYTES[bits], 64):  # of the next strip: no machine foresees so many
            code.prefetch(here + blocks * BYTES[bits] + line)
        weights, scale, least = _weights(code, bits, here)
        for row, total in enumerate(totals):
            at, place = code.WIDTH * row + block * BLOCK, (blocks * row + block) * 4
            first = none if least is not None else code.spread_from(I32, code.sums8 + place)
            found = code.to(F32X16, _products(code, weights, code.high + at, first))
            total.set(code.fma(found * scale, code.spread_from(F32, code.scales + place), total.get()))
            if least is not None:
                total.set(code.fma(least, code.spread_from(F32, code.sums4 + place), total.get()))
    for row, total in enumerate(totals):
        for i in code.loop(0, code.load(I64, code.fines + row * 8)):
            block = code.to(I64, code.load(I32, code.fine + (blocks * row + i) * 4))
            weights, scale, least = _weights(code, bits, code.weights + block * BYTES[bits])
            at, place = code.WIDTH * row + block * BLOCK, (blocks * row + block) * 4
            first = none if least is not None else code.spread_from(I32, code.lows + place)
            found = code.to(F32X16, _products(code, weights, code.low + at, first))
            total.set(code.fma(found * scale, code.spread_from(F32, code.scales + place) * (1 / 256), total.get()))
    finals = code.load(F32X16, code.finals)
    for row, total in enumerate(totals):
        at, value = code.y + code.OUTPUTS * (4 * row), code.variable(total.get() * finals)
        with code.when(code.ADD > 0):
            value.set(value.get() + code.load(F32X16, at))
        code.store(value.get(), at)
    code.done()


def _weights(code: Code, bits: int, at: Value) -> tuple[list[Value], Value, Value | None]:
    """A block's bytes, four columns of sixteen outputs in each vector, its scales and its leasts."""
    if bits == 8:
        return [code.load(I32X16, at + 64 * j) for j in range(8)], code.to(F32X16, code.load(F16X16, at + 512)), None
    both = [code.load(I32X16, at + 64 * j) for j in range(4)]
    weights = [v & 0x0F0F0F0F for v in both] + [(v >> 4) & 0x0F0F0F0F for v in both]
    return weights, code.to(F32X16, code.load(F16X16, at + 256)), code.to(F32X16, code.load(F16X16, at + 288))


def _products(code: Code, weights: list[Value], q: Value, first: Value) -> Value:
    """`first` and the sums of products of unsigned weights and a row's signed bytes, in each lane."""
    for j, four in enumerate(weights):
        first = code.bytes_multiplied(first, four, code.spread_from(I32, q + 4 * j))
    return first

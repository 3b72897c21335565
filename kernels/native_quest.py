"""Which pages a row of an answer reads on a CPU: Quest's bound (arXiv 2406.10774) and the choice of the best.

    bound of a page = sum over c of max(q_c low_c, q_c high_c)  >=  q . k for every key of the page

Every row and key head choose by themselves: the greatest bound among the heads that share the key head counts, each
summed in one order; of pages with equal bounds the first; the first page and the row's own always. Knows pages and
numbers; nothing of models.
"""

from __future__ import annotations

from typing import Any

from .native import F16, F32, F32X16, I32, I32X16, I64, LANES, Code, Program, Value, vector
from .native_rows import lanes

_LOWEST = -(2**31)


def write_noted(program: Program, kv_heads: int, head: int, page: int, kept: Any = F32) -> None:
    """`noted`: the least and the greatest number, `low` and `high` [pages, kv_heads, head], of every column of `keys`
    [pages, kv_heads, head, page], for the `filled` pages (one int64) named in `pages` (int64)."""
    code = program.function("noted", "filled", "pages", "keys", "low", "high")
    size = 2 if kept is F16 else 4
    for unit in code.loop(code.part, code.load(I64, code.filled) * kv_heads, code.parts):
        block = code.load(I64, code.pages + unit // kv_heads * 8) * kv_heads + unit % kv_heads
        for column in code.loop(block * head, (block + 1) * head):
            at = code.keys + column * (page * size)
            tiles = (code.load(vector(kept), at + t * size) for t in range(0, page, LANES))
            first, *others = [code.to(F32X16, tile) for tile in tiles]
            low = high = first
            for tile in others:
                low, high = code.select(tile < low, tile, low), code.larger(tile, high)
            code.store(code.to(kept, code.least(low)), code.low + column * size)
            code.store(code.to(kept, code.most(high)), code.high + column * size)
    code.done()


def write_chosen(program: Program, heads: int, kv_heads: int, head: int, page: int, kept: Any = F32) -> None:
    """`chosen`: what each row reads of each key head, as attention takes it.

    `qkv` to `tables` are attention's for rows (native_attention.py); `low` and `high` are those of `noted`. A row reads
    all its pages if they are no more than its `limits` (int64), and so many of them if they are. Written for each row
    and key head: `lists` int32 [units, ROOM], the pages in order of position, and int64 `counts_each`, `ends_each` and
    `biases_each`. `bounds` has room for ROOM numbers a part; ROOM is a multiple of 16.
    """
    code = program.function(
        "chosen", "rows", "qkv", "low", "high", "starts", "counts", "ends", "biases", "limits", "tables", "bounds",
        "lists", "counts_each", "ends_each", "biases_each", "BETWEEN", "ROOM",
    )  # fmt: skip
    for unit in code.loop(code.part, code.load(I64, code.rows) * kv_heads, code.parts):
        row, kv = unit // kv_heads, unit % kv_heads
        count, end, limit, start = (
            code.load(I64, words + row * 8) for words in (code.counts, code.ends, code.limits, code.starts)
        )
        table, taken = code.tables + start * 4, code.lists + unit * code.ROOM * 4
        code.store(code.load(I64, code.biases + row * 8), code.biases_each + unit * 8)
        with code.when(count < limit + 1):
            for i in code.loop(0, count):
                code.store(code.load(I32, table + i * 4), taken + i * 4)
            code.store(count, code.counts_each + unit * 8)
            code.store(end, code.ends_each + unit * 8)
        with code.when(count > limit):
            group = heads // kv_heads
            queries = code.qkv + (row * code.BETWEEN + kv * (group * head)) * 4
            bounds = code.bounds + code.part * code.ROOM * 4
            for i in code.loop(1, count - 1):
                block = code.to(I64, code.load(I32, table + i * 4)) * kv_heads + kv
                code.store(_ordered(code, _bound(code, queries, block, group, head, kept)), bounds + i * 4)
            _take(code, bounds, table, taken, count - 1, limit - 2)
            code.store(limit, code.counts_each + unit * 8)
            code.store(end - (count - limit) * page, code.ends_each + unit * 8)
    code.done()


def _bound(code: Code, queries: Value, block: Value, group: int, head: int, kept: Any) -> Value:
    """The greatest of a group's bounds on a page of its keys."""
    kind, size = vector(F32, lanes(head)), 2 if kept is F16 else 4
    places = range(0, head, kind.count)
    low, high = (
        [code.to(kind, code.load(vector(kept, kind.count), of + (block * head + i) * size)) for i in places]
        for of in (code.low, code.high)
    )
    top = code.variable(code.number(F32, float("-inf")))
    for h in code.loop(0, group):
        bound = code.number(kind, 0.0)
        for i, least, most in zip(places, low, high, strict=True):
            q = code.load(kind, queries + (h * head + i) * 4)
            bound = code.fma(q, code.select(q > 0.0, most, least), bound)
        top.set(code.larger(code.total(bound), top.get()))
    return top.get()


def _ordered(code: Code, x: Value) -> Value:
    """A float as a whole number, such that the larger has the larger one; both zeros have one."""
    bits = code.bits(I32, x)
    return code.select(bits < 0, code.number(I32, _LOWEST) - bits, bits)


def _take(code: Code, bounds: Value, table: Value, taken: Value, own: Value, wanted: Value) -> None:
    """Write the first page, the `wanted` ones of 1 to `own` with the greatest bounds, and page `own`."""
    whole = (own + (LANES - 1)) // LANES * LANES
    lowest = code.number(I32, _LOWEST)
    code.store(lowest, bounds)
    for i in code.loop(own, whole):
        code.store(lowest, bounds + i * 4)

    def reached(bound: Value) -> Value:
        """How many bounds are as great."""
        found = code.variable(code.number(I32X16, 0))
        for i in code.loop(0, whole, LANES):
            great = code.load(I32X16, bounds + i * 4).compared(">=", code.spread(bound))
            found.set(found.get() + code.select(great, code.number(I32X16, 1), code.number(I32X16, 0)))
        return code.to(I64, code.total(found.get()))

    # The last bound that is wanted, bit by bit: the greatest that so many reach.
    last, bit = code.variable(lowest), code.variable(lowest)
    for _ in code.loop(0, 32):
        tried = last.get() + bit.get()
        last.set(code.select(reached(tried).compared(">=", wanted), tried, last.get()))
        bit.set(bit.get() >> 1)
    _write_taken(code, bounds, table, taken, own, wanted, last.get())


def _write_taken(code: Code, bounds: Value, table: Value, taken: Value, own: Value, wanted: Value, last: Value) -> None:
    greater = code.variable(code.number(I64, 0))
    for i in code.loop(1, own):
        with code.when(code.load(I32, bounds + i * 4) > last):
            greater.set(greater.get() + 1)
    equal, at = code.variable(wanted - greater.get()), code.variable(taken)

    def write(i: Value) -> None:
        code.store(code.load(I32, table + i * 4), at.get())
        at.set(at.get() + 4)

    write(code.whole(0))
    for i in code.loop(1, own):
        bound = code.load(I32, bounds + i * 4)
        with code.when(bound > last):
            write(i)
        with code.when(bound.compared("==", last) & (equal.get() > 0)):
            write(i)
            equal.set(equal.get() - 1)
    write(own)

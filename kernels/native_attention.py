"""Attention over pages on a CPU, one row at a time for all heads that share a key head.

The law, for one row and head: scores are fused multiply-adds over the head's width, in order; they are scaled into
powers of two, and the largest is taken off; the weights are summed, and the values weighed and added, position after
position. What a row may not see is in no sum, whatever stands there: so neither pages, nor the row's neighbours, nor
the places where a tree's rows are stored can change a bit. Knows pages and numbers; nothing of models.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .native import F16, F32, F32X16, I32, I64, LANES, Code, Program, Value, vector
from .native_rows import exp2, lanes

HEADS_AT_ONCE = 4
_LOG2_E = 1.4426950408889634


def write_attention(program: Program, heads: int, kv_heads: int, head: int, page: int, kept: Any = F32) -> None:
    """`attention`: `seen` [rows, heads * head] of queries in rows qkv [rows, BETWEEN].

    `keys` [pages, kv_heads, head, page] and `values` [pages, kv_heads, page, head] are floats or halves (`kept`). For
    each row, int64: `starts` and `counts`, its pages in `tables` (int32); `ends`, how many keys of them it may see;
    `biases`, where in `bias` (float32) what is added to the scores of all its pages' positions begins, negative for
    none. `scratch` has room for SCRATCH floats a part: four rows of scores. These words are for EACH so many of a row's
    key heads: one, where each reads pages of its own, or all of them.
    """
    code = program.function(
        "attention", "rows", "qkv", "keys", "values", "starts", "counts", "ends", "biases", "tables", "bias", "scratch",
        "seen", "BETWEEN", "SCRATCH", "EACH",
    )  # fmt: skip
    group = heads // kv_heads
    pieces = [(a, min(group, a + HEADS_AT_ONCE)) for a in range(0, group, HEADS_AT_ONCE)]
    sizes = _Sizes(heads, kv_heads, head, page, kept)
    units = code.load(I64, code.rows) * kv_heads
    # A part takes key heads in turn, so that one long row is shared out too.
    for unit in code.loop(code.part, units, code.parts):
        later = unit + code.parts
        own, following = _Keys(code, sizes, unit), _Keys(code, sizes, code.select(later < units, later, unit))
        for a, b in pieces:
            _Heads(code, sizes, own, following, range(a, b)).write()
    code.done()


@dataclass(frozen=True, slots=True)
class _Sizes:
    heads: int
    kv_heads: int
    head: int
    page: int
    kept: Any

    @property
    def bytes(self) -> int:
        """Of a number that is kept."""
        return 2 if self.kept is F16 else 4

    @property
    def block(self) -> int:
        """Bytes of one page's keys, or values, of one key head."""
        return self.head * self.page * self.bytes


class _Keys:
    """What a row reads of one key head."""

    def __init__(self, code: Code, sizes: _Sizes, unit: Value) -> None:
        self.code, self._sizes = code, sizes
        self.row, self.kv = unit // sizes.kv_heads, unit % sizes.kv_heads
        word = unit // code.EACH * 8
        self.count, self.end = code.load(I64, code.counts + word), code.load(I64, code.ends + word)
        self.bias = code.load(I64, code.biases + word)
        self._table = code.tables + code.load(I64, code.starts + word) * 4

    def at(self, i: Value) -> Value:
        """Where the i-th page's block begins, in bytes."""
        page = self.code.to(I64, self.code.load(I32, self._table + i * 4))
        return (page * self._sizes.kv_heads + self.kv) * self._sizes.block


class _Heads:
    """A row and some heads that share its key head. `following` is what will be read next."""

    def __init__(self, code: Code, sizes: _Sizes, keys: _Keys, following: _Keys, some: range) -> None:
        self.code, self.keys, self.following = code, keys, following
        self.head, self.page, self.kept, self.bytes, self.block = (
            sizes.head, sizes.page, sizes.kept, sizes.bytes, sizes.block
        )  # fmt: skip
        own = [keys.kv * (sizes.heads // sizes.kv_heads) + i for i in some]
        self.queries = [code.qkv + (keys.row * code.BETWEEN + h * self.head) * 4 for h in own]
        self.out = [code.seen + (keys.row * sizes.heads + h) * (self.head * 4) for h in own]
        width = code.SCRATCH // HEADS_AT_ONCE
        self.scores = [code.scratch + (code.part * code.SCRATCH + width * i) * 4 for i in range(len(own))]

    def write(self) -> None:
        code = self.code
        largest = self._scores()
        for scores, top in zip(self.scores, largest, strict=True):
            spread = code.spread(top)
            for i in code.loop(0, self.keys.count * self.page, LANES):
                code.store(exp2(code, code.load(F32X16, scores + i * 4) - spread), scores + i * 4)
        self._weigh()

    def _scores(self) -> list[Value]:
        """Write the scaled scores, hidden ones as minus infinity; the largest of each head."""
        code, tiles = self.code, self.page // LANES
        lowest = code.number(F32X16, float("-inf"))
        largest = [code.variable(lowest) for _ in self.queries]
        for i in code.loop(0, self.keys.count):
            at = self.keys.at(i)
            keys, values = code.keys + at, code.values + at
            left = self.keys.end - i * self.page
            last = code.select(left < self.page, left * self.head // self.page, code.number(I64, self.head)) - 1
            sums = [[code.variable(code.number(F32X16, 0.0)) for _ in range(tiles)] for _ in self.queries]
            for d in code.loop(0, self.head):
                self._fetch(values, code.select(d < last, d, last), self.head)
                columns = [self._load(keys, d * self.page + t * LANES, LANES) for t in range(tiles)]
                for query, own in zip(self.queries, sums, strict=True):
                    number = code.spread_from(F32, query + d * 4)
                    for column, total in zip(columns, own, strict=True):
                        total.set(code.fma(number, column, total.get()))
            seen = code.spread(code.to(I32, left))
            for t in range(tiles):
                visible = code.lanes(*range(t * LANES, (t + 1) * LANES)) < seen
                place = (i * self.page + t * LANES) * 4
                for own, scores, most in zip(sums, self.scores, largest, strict=True):
                    score = own[t].get() * float(_LOG2_E * self.head**-0.5)
                    score = code.select(visible, score, lowest)
                    own[t].set(score)
                    with code.when(self.keys.bias > -1):
                        bias = code.load(F32X16, code.bias + self.keys.bias * 4 + place)
                        own[t].set(code.select(bias > float("-inf"), score + bias, lowest))
                    code.store(own[t].get(), scores + place)
                    most.set(code.larger(own[t].get(), most.get()))
        return [code.most(most.get()) for most in largest]

    def _weigh(self) -> None:
        code = self.code
        kind = vector(F32, lanes(self.head))
        places = range(0, self.head, kind.count)
        sums = [code.variable(code.number(kind, 0.0)) for _ in self.queries]
        seen = [[code.variable(code.number(kind, 0.0)) for _ in places] for _ in self.queries]
        for i in code.loop(0, self.keys.count):
            values = code.values + self.keys.at(i)
            later = code.select(i < self.following.count, i, code.number(I64, 0))
            following = code.keys + self.following.at(later)
            left = self.keys.end - i * self.page
            here = code.select(left > self.page, code.number(I64, self.page), left)
            for position in code.loop(0, here):
                self._fetch(following, position, self.page)
                at = i * self.page + position
                with code.when(self._visible(at)):
                    columns = [self._load(values, position * self.head + place, kind.count) for place in places]
                    for scores, total, own in zip(self.scores, sums, seen, strict=True):
                        weight = code.spread_from(F32, scores + at * 4, kind.count)
                        total.set(total.get() + weight)
                        for column, added in zip(columns, own, strict=True):
                            added.set(code.fma(weight, column, added.get()))
        for out, total, own in zip(self.out, sums, seen, strict=True):
            for place, added in zip(places, own, strict=True):
                code.store(added.get() / total.get(), out + place * 4)

    def _visible(self, at: Value) -> Value:
        """Whether a position's value is added at all: what is hidden may be no number, left there by another."""
        code = self.code
        bias = code.variable(code.number(F32, 0.0))
        with code.when(self.keys.bias > -1):
            bias.set(code.load(F32, code.bias + (self.keys.bias + at) * 4))
        return bias.get() > float("-inf")

    def _load(self, block: Value, i: Value, count: int) -> Value:
        """Numbers of a block from the i-th on, as floats."""
        found = self.code.load(vector(self.kept, count), block + i * self.bytes)
        return self.code.to(vector(F32, count), found)

    def _fetch(self, block: Value, i: Value, of: int) -> None:
        """Begin to bring the i-th `of` so many shares of a block near, while another is computed with."""
        share = max(64, self.block // of)
        for line in range(0, share, 64):
            self.code.prefetch(block + i * share + line)

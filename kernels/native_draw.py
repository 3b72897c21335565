"""Drawing one token of each row of logits on a CPU: the largest of logit / temperature + Gumbel noise.

The noise is a hash of (keys of seed and position, token), whatever other rows there are: the law of
backends/engine/sample.py, whose `gumbel` it computes to the last bits of a logarithm. Knows numbers only.
"""

from __future__ import annotations

from .native import F32, F32X16, I32, I32X16, I64, LANES, Code, Program, Value

_ROUND = (0x85EBCA6B, 0xC2B2AE35)  # murmur3's finisher
_SPREAD = 0x9E3779B9
# log(1 + f) / f for f in [sqrt(1/2) - 1, sqrt(2) - 1], from the highest power down; and ln(2).
_LOG = (
    7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1, -1.6668057665e-1,
    2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1,
)  # fmt: skip
_LN2 = 0.6931471805599453


def write_drawn(program: Program) -> None:
    """`drawn`. Arguments: `logits` float32 [rows, STRIDE], of which the first WIDTH are tokens; for each row `heats`
    float32, one over its temperature, and `keys`, four int32 of which the last is not read; `out` int64 [rows]; ROWS.
    No token of minus infinity is drawn beside others; a row of none but such gives its first."""
    code = program.function("drawn", "logits", "heats", "keys", "out", "ROWS", "WIDTH", "STRIDE")
    iota = code.lanes(*range(LANES))
    for row in code.loop(code.part, code.ROWS, code.parts):
        at, heat = code.logits + row * code.STRIDE * 4, code.spread_from(F32, code.heats + row * 4)
        keys = [code.spread_from(I32, code.keys + row * 16 + 4 * i) for i in range(3)]
        best, token = code.variable(code.number(F32X16, float("-inf"))), code.variable(code.number(I32X16, 0))

        def look(first: Value, logits: Value) -> None:
            ids = iota + code.spread(code.to(I32, first))
            score = logits * heat + _noise(code, ids, keys)  # noqa: B023
            more = score > best.get()  # noqa: B023
            best.set(code.select(more, score, best.get()))  # noqa: B023
            token.set(code.select(more, ids, token.get()))  # noqa: B023

        whole = code.WIDTH // LANES * LANES
        for i in code.loop(0, whole, LANES):
            look(i, code.load(F32X16, at + i * 4))
        with code.when(whole < code.WIDTH):
            # The last tokens, beside others that were looked at: an id is never drawn twice.
            start = code.WIDTH - LANES
            look(start, code.load(F32X16, at + start * 4))
        code.store(_first_of_the_best(code, best.get(), token.get()), code.out + row * 8)
    code.done()


def _noise(code: Code, ids: Value, keys: list[Value]) -> Value:
    """-log(-log u), u one of 2^23 numbers between 0 and 1."""
    x = ids * _signed(_SPREAD) ^ keys[0]
    for key in keys[1:]:
        x = (x ^ x >> 16) * _signed(_ROUND[0])
        x = (x ^ x >> 13) * _signed(_ROUND[1])
        x = x ^ x >> 16 ^ key
    u = (code.to(F32X16, x >> 9) + 0.5) * 2.0**-23
    return _log(code, _log(code, u) * -1.0) * -1.0


def _log(code: Code, x: Value) -> Value:
    """Of positive numbers, none of them tiny."""
    bits = code.bits(I32X16, x)
    power = (bits - 0x3F3504F3).halved(23)
    f = code.bits(F32X16, bits - (power << 23)) - 1.0
    square, series = f * f, code.number(F32X16, _LOG[0])
    for factor in _LOG[1:]:
        series = code.fma(series, f, code.number(F32X16, factor))
    rest = code.fma(f * square, series, square * -0.5)
    return code.fma(code.to(F32X16, power), code.number(F32X16, _LN2), f + rest)


def _first_of_the_best(code: Code, best: Value, tokens: Value) -> Value:
    """The least token of those whose lane has the largest number."""
    top = code.spread(code.most(best))
    others = code.number(I32X16, 0x7FFFFFFF)
    kept = code.select(best < top, others, tokens)
    return code.to(I64, code.least(kept))


def _signed(word: int) -> int:
    return word - (1 << 32) if word >> 31 else word

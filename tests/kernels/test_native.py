"""Native functions of a CPU against the same in float64, and the laws their rows keep."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.kernels import native_product, native_rows
from trimtab.kernels.switch import native

if not native(torch.device("cpu")):
    pytest.skip("this CPU has no VNNI in vectors of 512 bits", allow_module_level=True)

from trimtab.backends.engine.native import Rows, Tape, address, base
from trimtab.backends.engine.request import Sampling
from trimtab.backends.engine.sample import Law, gumbel, heat
from trimtab.backends.engine.sample_native import drawn_natively
from trimtab.kernels.native import F32, F32X16, I32X16, I64, Program, works
from trimtab.kernels.native_attention import HEADS_AT_ONCE, write_attention

PAGE = 16


def compiled(write):
    program = Program()
    write(program)
    return program.compile()


def run(program, name, *arguments, parts=1):
    tape = Tape()
    tape.add(program, name, *arguments)
    tape.run(parts)


# ---- the language


def test_loops_branches_and_numbers():
    def write(program):
        code = program.function("f", "x", "y", "COUNT")
        for i in code.loop(0, code.COUNT):
            total = code.variable(code.number(F32, 0.0))
            for j in code.loop(0, i + 1, 2):
                total.set(total.get() + code.load(F32, code.x + j * 4))
            with code.when((i % 3).compared("==", 0)):
                total.set(total.get() * -1.0)
            code.store(total.get(), code.y + i * 4)
        code.done()

    x, y = np.arange(1, 21, dtype=np.float32), np.zeros(20, dtype=np.float32)
    run(compiled(write), "f", x, y, 20)
    assert y.tolist() == [sum(x[: i + 1 : 2]) * (-1 if i % 3 == 0 else 1) for i in range(20)]


def test_what_is_folded_over_lanes():
    def write(program):
        code = program.function("f", "x", "y")
        v = code.load(F32X16, code.x)
        code.store(code.total(v), code.y)
        code.store(code.most(v), code.y + 4)
        code.done()

    x, y = np.random.default_rng(0).integers(-50, 50, 16).astype(np.float32), np.zeros(2, dtype=np.float32)
    run(compiled(write), "f", x, y)
    assert y.tolist() == [x.sum(), x.max()]


def test_powers_of_two():
    def write(program):
        code = program.function("f", "x", "COUNT")
        for i in code.loop(0, code.COUNT, 16):
            code.store(native_rows.exp2(code, code.load(F32X16, code.x + i * 4)), code.x + i * 4)
        code.done()

    x = np.linspace(-125.9, 127, 16 * 5000).astype(np.float32)
    odd = np.array([-np.inf, -1e30, -127.0, np.nan, 0.0, -0.0, 1.0, -1.0] * 2, dtype=np.float32)
    found, edges = x.copy(), odd.copy()
    program = compiled(write)
    run(program, "f", found, len(found))
    run(program, "f", edges, 16)
    np.testing.assert_allclose(found, np.exp2(x.astype(np.float64)), rtol=2e-7)
    np.testing.assert_array_equal(edges[:8], np.array([0, 0, 0, np.nan, 1, 1, 2, 0.5], dtype=np.float32))


def test_a_machine_that_cannot_is_told_and_served_another_way(monkeypatch, caplog):
    assert works()

    def fails(self):
        raise RuntimeError("LLVM knows no such instruction")

    monkeypatch.setattr(Program, "compile", fails)
    assert not works()
    assert "no such instruction" in caplog.text


CONFINED = """
import ctypes
if ctypes.CDLL(None).prctl(65, 1, 0, 0, 0):  # PR_SET_MDWE: what was written never becomes code
    raise SystemExit("this system has no such rule")
import torch
from trimtab.kernels.switch import native
print(native(torch.device("cpu")))
"""


def test_a_system_that_lets_no_memory_become_code_ends_no_process():
    done = subprocess.run([sys.executable, "-c", CONFINED], capture_output=True, text=True, timeout=120)
    if "no such rule" in done.stderr:
        pytest.skip("this system has no such rule")
    assert (done.returncode, done.stdout) == (0, "False\n"), done.stderr


# ---- rows


def read(rows, count, width):
    """The numbers that were written for a product, and which blocks are fine."""
    order = np.argsort(native_product.ORDER)
    high, low, scales, sums4, sums8, lows, fine, fines = rows.arrays
    high, low = (digit[:count].astype(np.int64).reshape(count, -1, 32)[..., order] for digit in (high, low))
    marked = np.zeros(scales.shape, dtype=bool)[:count]
    for row in range(count):
        marked[row, fine[row, : fines[row]]] = True
    assert not low[~marked].any()
    np.testing.assert_array_equal(sums8[:count], -128 * high.sum(-1))
    np.testing.assert_array_equal(lows[:count], -128 * low.sum(-1))
    whole, scales = high + low / 256, scales[:count].astype(np.float64)
    np.testing.assert_allclose(sums4[:count], whole.sum(-1) * scales, rtol=1e-6)
    return (whole * scales[..., None]).reshape(count, width), marked


def test_rows_are_written_to_the_nearest_of_their_block():
    random = np.random.default_rng(1)
    x = random.standard_normal((7, 256)).astype(np.float32)
    x[1], x[2, 40], x[3] = 0, 3000, x[3] * 1e-30
    x[4] *= np.repeat(np.array([9, 1, 1, 1, 1, 1, 7, 1]), 32)
    rows = Rows(7, 256, 2)
    run(base(), "plain", np.array([7]), x, *rows.written, 256, parts=2)
    got, fine = read(rows, 7, 256)
    assert fine[2].tolist() == [False, True] + [False] * 6
    assert fine[4].tolist() == [True] + [False] * 5 + [True, False]
    assert not fine[[0, 1, 3]].any()
    step = np.abs(x.reshape(7, 8, 32)).max(-1) / np.where(fine, 127 * 256, 127)
    assert (np.abs(got - x).reshape(7, 8, 32) <= 0.5001 * step[..., None]).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_stays_none(bad):
    x = np.ones((2, 64), dtype=np.float32)
    x[1, 40] = bad
    rows = Rows(2, 64, 1)
    run(base(), "plain", np.array([2]), x, *rows.written, 64)
    scales = rows.arrays[2]
    assert np.isfinite(scales[:, 0]).all()
    assert np.isfinite(scales[0]).all()
    assert not np.isfinite(scales[1, 1])


def test_norms_and_gates():
    random = np.random.default_rng(2)
    x, weight = (random.standard_normal(s).astype(np.float32) for s in ((5, 64), 64))
    program = compiled(lambda p: native_rows.write_normed(p, 1e-5))
    rows, places = Rows(3, 64, 2), np.array([4, 0, 2])
    run(program, "normed", np.array([3]), places, x, weight, *rows.written, 64, parts=2)
    chosen = x[places].astype(np.float64)
    near(rows, chosen / np.sqrt((chosen**2).mean(1, keepdims=True) + 1e-5) * weight)
    both = (20 * random.standard_normal((4, 128))).astype(np.float32)
    rows = Rows(4, 64, 1)
    run(base(), "gated", np.array([4]), both, *rows.written, 64, 128)
    gate, up = both[:, :64].astype(np.float64), both[:, 64:]
    near(rows, gate / (1 + np.exp(-gate)) * up)


def near(rows, exact):
    got, fine = read(rows, *exact.shape)
    step = np.abs(exact.reshape(*fine.shape, 32)).max(-1) / np.where(fine, 127 * 256, 127)
    assert (np.abs(got - exact).reshape(*fine.shape, 32) <= 0.501 * step[..., None]).all()


@pytest.mark.parametrize(("head", "biases", "norms"), [(16, False, False), (64, True, False), (32, False, True)])
def test_heads_are_turned_and_find_their_places(head, biases, norms):
    random = np.random.default_rng(3)
    heads, kv_heads, count, pages = 4, 2, 5, 4
    width = (heads + 2 * kv_heads) * head
    program = compiled(
        lambda p: native_rows.write_turned(p, heads, kv_heads, head, PAGE, 1e-6, biases=biases, norms=norms)
    )
    qkv, bias, q_norm, k_norm = (
        random.standard_normal(s).astype(np.float32) for s in ((count, width), width, head, head)
    )
    positions, slots = np.array([0, 3, 9, 40, 2]), np.array([17, 3, 40, 63, 0])
    angles = np.outer(np.arange(50), 1 / 10 ** np.linspace(0, 4, head // 2))
    turns = np.concatenate((np.cos(angles), np.sin(angles)), 1).astype(np.float32)
    keys = np.zeros((pages, kv_heads, head, PAGE), dtype=np.float32)
    values = np.zeros((pages, kv_heads, PAGE, head), dtype=np.float32)
    x = (qkv.astype(np.float64) + (bias if biases else 0)).reshape(count, -1, head)
    run(program, "turned", np.array([count]), qkv, positions, slots, turns, keys, values, bias, q_norm, k_norm, width)
    for part, weight in ((slice(0, heads), q_norm), (slice(heads, heads + kv_heads), k_norm)):
        if norms:
            x[:, part] /= np.sqrt((x[:, part] ** 2).mean(-1, keepdims=True) + 1e-6) / weight
        a, b = np.split(x[:, part], 2, axis=-1)
        c, s = np.split(turns[positions][:, None].astype(np.float64), 2, axis=-1)
        x[:, part] = np.concatenate((a * c - b * s, a * s + b * c), -1)
    got = qkv.reshape(count, -1, head)
    np.testing.assert_allclose(got[:, :heads], x[:, :heads], atol=2e-6)
    page, place = slots // PAGE, slots % PAGE
    np.testing.assert_allclose(keys[page, :, :, place], x[:, heads : heads + kv_heads], atol=2e-6)
    np.testing.assert_allclose(values[page, :, place], x[:, heads + kv_heads :], atol=2e-6)
    assert np.count_nonzero(keys) == np.count_nonzero(values) == count * kv_heads * head


# ---- draws


def test_draws_follow_the_law():
    """A row of six likely tokens among 64 that hardly are: drawn as often as their chances say."""
    chances = np.full(70, 1e-9)
    chances[[3, 17, 33, 47, 63, 69]] = 0.4, 0.25, 0.15, 0.1, 0.07, 0.03
    logits = np.tile(np.log(chances).astype(np.float32), (4000, 1))
    laws = [Law(Sampling(seed=7), position) for position in range(4000)]
    drawn = np.bincount(drawn_natively(logits, laws), minlength=70) / 4000
    np.testing.assert_allclose(drawn, chances, atol=0.025)


@pytest.mark.parametrize("width", [16, 33, 70])
def test_draws_are_those_of_the_plain_law_wherever_a_row_lies(width):
    logits = np.random.default_rng(width).standard_normal((40, width)).astype(np.float32)
    logits[::3, : width // 2] = -np.inf
    laws = [Law(Sampling(temperature=0.7, seed=-5), position) for position in range(40)]
    heats = [row * np.float32(heat(law.sampling)) for row, law in zip(logits, laws, strict=True)]
    exact = [int((row + gumbel(-5, i, np.arange(width))).argmax()) for i, row in enumerate(heats)]
    wider = np.full((40, width + 5), 1e9, dtype=np.float32)
    wider[:, :width] = logits
    for rows in (logits, wider[:, :width], np.asfortranarray(logits)):
        assert drawn_natively(rows, laws) == exact


# ---- attention


class Attention:
    """Random keys and values of one sequence, and rows that read them."""

    def __init__(self, heads, kv_heads, head, length, seed=0):
        self.random = np.random.default_rng(seed)
        self.heads, self.kv_heads, self.head, self.length = heads, kv_heads, head, length
        self.program = compiled(lambda p: write_attention(p, heads, kv_heads, head, PAGE))
        self.pages = -(-length // PAGE)
        self.table = self.random.permutation(self.pages + 5)[: self.pages].astype(np.int32)
        draw = self.random.standard_normal
        self.keys = draw((self.pages + 5, kv_heads, head, PAGE)).astype(np.float32)
        self.values = draw((self.pages + 5, kv_heads, PAGE, head)).astype(np.float32)
        self.between = (heads + 2 * kv_heads) * head

    def queries(self, count):
        return self.random.standard_normal((count, self.between)).astype(np.float32)

    def seen(self, qkv, ends, bias=None, table=None, parts=1):
        """What rows see of the first `ends` keys, with `bias` [rows, keys of all pages]."""
        table, count = self.table if table is None else table, len(qkv)
        scratch = np.empty(parts * HEADS_AT_ONCE * len(table) * PAGE, dtype=np.float32)
        out = np.full((count, self.heads * self.head), np.nan, dtype=np.float32)
        starts, counts = np.zeros(count, dtype=np.int64), np.full(count, len(table))
        biases = np.full(count, -1) if bias is None else np.arange(count) * len(table) * PAGE
        run(
            self.program, "attention", np.array([count]), qkv, self.keys, self.values, starts, counts, np.array(ends),
            biases, table, np.zeros(1, dtype=np.float32) if bias is None else bias.astype(np.float32), scratch, out,
            self.between, scratch.size // parts, self.kv_heads, parts=parts,
        )  # fmt: skip
        return out

    def exact(self, qkv, ends, bias=None):
        keys = self.keys[self.table].transpose(0, 3, 1, 2).reshape(-1, self.kv_heads, self.head).astype(np.float64)
        values = self.values[self.table].transpose(0, 2, 1, 3).reshape(-1, self.kv_heads, self.head)
        out, group = [], self.heads // self.kv_heads
        for i, end in enumerate(ends):
            q = qkv[i, : self.heads * self.head].reshape(self.heads, self.head).astype(np.float64)
            scores = np.einsum("hd,nhd->hn", q, keys.repeat(group, 1)[:end]) / self.head**0.5
            scores += 0 if bias is None else bias[i][:end]
            p = np.exp(scores - scores.max(1, keepdims=True))
            out.append(np.einsum("hn,nhd->hd", p / p.sum(1, keepdims=True), values.repeat(group, 1)[:end]).ravel())
        return np.array(out)


@pytest.mark.parametrize(("heads", "kv_heads", "head"), [(4, 2, 16), (9, 3, 64), (7, 1, 32), (2, 2, 48), (6, 1, 128)])
def test_attention_is_attention(heads, kv_heads, head):
    a = Attention(heads, kv_heads, head, 100)
    ends = [1, 15, 16, 17, 64, 99, 100]
    qkv = a.queries(len(ends))
    np.testing.assert_allclose(a.seen(qkv, ends), a.exact(qkv, ends), atol=2e-6)


def test_what_is_biased_away_is_not_seen_and_changes_no_bit():
    a = Attention(4, 2, 16, 90)
    qkv = a.queries(3)
    whole = a.pages * PAGE
    bias = np.where(a.random.random((3, whole)) < 0.4, -np.inf, 0.0)
    bias[:, 90:], bias[:, 0] = -np.inf, 0.0
    got = a.seen(qkv, [whole] * 3, bias)
    np.testing.assert_allclose(got, a.exact(qkv, [whole] * 3, bias), atol=2e-6)
    # The same keys and values, moved together: the same bits.
    for row in range(3):
        kept = np.flatnonzero(bias[row] == 0)
        packed = Attention(4, 2, 16, 90)
        for to, at in enumerate(kept):
            here, there = (packed.table[to // PAGE], to % PAGE), (a.table[at // PAGE], at % PAGE)
            packed.keys[here[0], :, :, here[1]] = a.keys[there[0], :, :, there[1]]
            packed.values[here[0], :, here[1]] = a.values[there[0], :, there[1]]
        assert np.array_equal(packed.seen(qkv[row : row + 1], [len(kept)])[0], got[row])


@pytest.mark.parametrize("left", [np.nan, np.inf])
def test_what_is_biased_away_may_be_no_number(left):
    """A page has what others left in it."""
    a = Attention(4, 2, 16, 40)
    qkv, hidden = a.queries(1), a.random.random(a.pages * PAGE) < 0.4
    bias = np.where(hidden, -np.inf, 0.0)[None]
    before = a.seen(qkv, [a.pages * PAGE], bias)
    assert np.isfinite(before).all()
    for at in np.flatnonzero(hidden):
        a.keys[a.table[at // PAGE], :, :, at % PAGE] = a.values[a.table[at // PAGE], :, at % PAGE] = left
    assert np.array_equal(a.seen(qkv, [a.pages * PAGE], bias), before)


def test_rows_see_the_same_in_any_company_and_on_any_threads():
    a = Attention(9, 3, 64, 130)
    ends = [5, 130, 64, 77, 1, 128]
    qkv = a.queries(len(ends))
    alone = np.concatenate([a.seen(qkv[i : i + 1], [end]) for i, end in enumerate(ends)])
    for parts in (1, 2, 3):
        assert np.array_equal(a.seen(qkv, ends, parts=parts), alone)


def test_what_lies_behind_the_end_is_never_read():
    a = Attention(4, 2, 16, 40)
    qkv = a.queries(1)
    before = a.seen(qkv, [35])
    last = a.table[2]
    a.keys[last, :, :, 3:], a.values[last, :, 3:] = np.nan, np.nan
    assert np.array_equal(a.seen(qkv, [35]), before)


# ---- the tape


def test_threads_meet_after_every_function():
    """Each function reads what all parts of the one before wrote."""

    def write(program):
        code = program.function("shift", "x", "y", "COUNT")
        first, last = code.COUNT * code.part // code.parts, code.COUNT * (code.part + 1) // code.parts
        for i in code.loop(first, last):
            behind = code.COUNT - i - 1
            code.store(code.load(I64, code.x + behind * 8) + 1, code.y + i * 8)
        code.done()

    program, tape = compiled(write), Tape()
    a, b = np.arange(1000), np.zeros(1000, dtype=np.int64)
    for x, y in itertools.islice(itertools.cycle([(a, b), (b, a)]), 400):
        tape.add(program, "shift", x, y, 1000)
    for parts, runs in ((2, 3), (3, 2), (1, 1)):
        for _ in range(runs):
            before = a.copy()
            tape.run(parts)
            assert np.array_equal(a, before + 400)


def test_a_tape_stops_where_it_is_told():
    def write(program):
        code = program.function("one", "x")
        code.store(code.load(I64, code.x) + 1, code.x)
        code.done()

    program, tape, x = compiled(write), Tape(), np.zeros(1, dtype=np.int64)
    words = [tape.add(program, "one", x) for _ in range(5)]
    tape.run(1, 3)
    assert x[0] == 3
    y = np.zeros(1, dtype=np.int64)
    words[4][0] = address(y)
    tape.run(1)
    assert (x[0], y[0]) == (7, 1)


@given(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=16, max_size=16), st.integers(0, 31))
@settings(max_examples=30)
def test_shifts_are_of_bits(numbers, by):
    def write(program):
        code = program.function("f", "x")
        v = code.load(I32X16, code.x)
        code.store((v >> by) << 1, code.x)
        code.done()

    x = np.array(numbers, dtype=np.int32)
    expected = ((x.view(np.uint32) >> np.uint32(by)) << np.uint32(1)).astype(np.uint32)
    run(compiled(write), "f", x)
    assert np.array_equal(x.view(np.uint32), expected)

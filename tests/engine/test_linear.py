"""Products with a weight matrix: close to the exact ones, and each row by itself."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.backends.engine.checkpoint import FourBits, unpack
from trimtab.backends.engine.linear import Int8, Linear, best_compute
from trimtab.kernels.switch import native

CPU = torch.device("cpu")
FORMS = ["int8", "float32", "bfloat16", "int4"]
if native(CPU):
    from trimtab.backends.engine.native import BlockRows

needs_blocks = pytest.mark.skipif(not native(CPU), reason="this CPU has no VNNI in vectors of 512 bits")
SIZES = [(96, 64), (48, 1536), (80, 4864), (13, 40)]  # long rows: where sums are cut into pieces


class Matrix:
    """A checkpoint of one random matrix in 4 bits."""

    def __init__(self, outputs, inputs, seed=0):
        random = np.random.default_rng(seed)
        values = random.integers(0, 256, (outputs, inputs // 2), dtype=np.uint8)
        group = 32 if inputs % 32 == 0 else inputs
        shape = (outputs, inputs // group)
        # Halves, as files have them.
        scales = (random.uniform(0.5, 1.5, shape) / 8 / inputs**0.5).astype(np.float16).astype(np.float32)
        self.four = FourBits(values, scales, (-7.5 * scales).astype(np.float16).astype(np.float32), group)

    def floats(self, name):
        return unpack(self.four)

    def four_bits(self, name):
        return self.four


@pytest.fixture(scope="module")
def made():
    """made(form, size) -> the product and the exact weights."""
    kept = {}

    def get(form, size):
        if (form, size) not in kept:
            matrix = Matrix(*size)
            kept[form, size] = Linear(matrix, ("w",), form, CPU), torch.from_numpy(matrix.floats("w")).double()
        return kept[form, size]

    return get


def rows_of(count, inputs, seed):
    return torch.randn(count, inputs, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("form", "error"), [("int8", 0.01), ("float32", 1e-5), ("bfloat16", 0.01), ("int4", 0.02)])
@pytest.mark.parametrize("size", SIZES)
def test_a_product_is_close_to_the_exact_one(made, form, error, size):
    product, weight = made(form, size)
    x = rows_of(20, size[1], 1)
    exact = x.double() @ weight.T
    assert (product(x) - exact).std() < error * exact.std()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", SIZES)
def test_the_first_rows_do_not_see_the_others(made, form, size):
    product, _ = made(form, size)
    x = rows_of(65, size[1], 2)
    whole = product(x)
    for count in range(1, 66):
        assert torch.equal(product(x[:count].clone()), whole[:count]), count


@pytest.mark.parametrize("form", FORMS)
@given(data=st.data())
@settings(max_examples=40)
def test_rows_keep_their_bits_in_any_company(made, form, data):
    size = data.draw(st.sampled_from(SIZES))
    product, _ = made(form, size)
    x = rows_of(65, size[1], data.draw(st.integers(0, 9)))
    chosen = data.draw(st.lists(st.integers(0, 64), min_size=1, max_size=65))
    loud = 10.0 ** data.draw(st.integers(-3, 3))
    company = torch.cat((x[chosen], loud * x))[: data.draw(st.integers(len(chosen), len(chosen) + 65))]
    assert torch.equal(product(company)[: len(chosen)], product(x)[chosen])


def test_the_count_of_threads_changes_nothing(made):
    product, _ = made("int8", (48, 1536))
    x, before = rows_of(33, 1536, 3), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = product(x)
        torch.set_num_threads(3)
        assert torch.equal(product(x), one)
    finally:
        torch.set_num_threads(before)


def test_activations_cost_two_digits_nothing_that_shows():
    matrix = Matrix(48, 1536)
    weight = torch.from_numpy(matrix.floats("w")).double()
    scale = weight.abs().amax(1, keepdim=True) / 127
    rounded = (weight / scale).round() * scale
    x, rest = with_an_outlier()
    error = Int8([matrix.floats("w")])(x) - x.double() @ rounded.T
    assert error.std() < 0.005 * (rest.double() @ rounded.T).std()


@needs_blocks
def test_an_outlier_drowns_nothing_in_blocks():
    matrix = Matrix(48, 1536)
    product, weight = Linear(matrix, ("w",), "int8", CPU), torch.from_numpy(matrix.floats("w")).double()
    with_it, without = (product(x) - x.double() @ weight.T for x in with_an_outlier())
    assert without.std() < 0.008 * (with_an_outlier()[1].double() @ weight.T).std()
    assert with_it.std() < 1.05 * without.std()


def with_an_outlier():
    """Rows with one, as small models have them, which in one digit would drown the rest; and the rows without it."""
    x = rows_of(50, 1536, 4)
    rest = x.clone()
    x[:, 7] *= 300
    rest[:, 7] = 0
    return x, rest


@needs_blocks
@pytest.mark.parametrize("kind", ["4", "8"])
def test_blocks_keep_what_a_file_has(kind):
    """Rows of one number each read the weights back: those of 4-bit blocks, and of 8-bit ones of this grid."""
    matrix = Matrix(48, 128, 3)
    weight = matrix.floats("w")
    if kind == "8":
        units = np.random.default_rng(1).uniform(0.001, 1, (48, 4)).astype(np.float16).astype(np.float32)
        whole = np.random.default_rng(2).integers(-127, 128, (48, 4, 32)).astype(np.float32)
        whole[..., 0] = 127
        weight = (units[..., None] * whole).reshape(48, 128)
        matrix.floats, matrix.four_bits = lambda name: weight, lambda name: None
    product = Linear(matrix, ("w",), "int8", CPU)
    assert product.blocks.bits == int(kind)
    near = {"rtol": 2e-3, "atol": 1e-4} if kind == "4" else {"rtol": 1e-6, "atol": 1e-6}
    np.testing.assert_allclose(product(torch.eye(128)).T.numpy(), weight, **near)
    chosen = torch.tensor([40, 0, 47, 15, 16])
    rows = BlockRows(product.blocks)
    np.testing.assert_allclose(rows(chosen).numpy(), weight[chosen], **near)
    for missing in (-1, 48):
        with pytest.raises(IndexError):
            rows(torch.tensor([0, missing]))


@needs_blocks
def test_threads_that_cannot_be_started_are_not_waited_for(made, monkeypatch):
    product, x = made("int8", (96, 64))[0], rows_of(9, 64, 4)
    alone, start, left = product(x), threading.Thread.start, [1]

    def started(self):
        left[0] -= 1
        if left[0] < 0:
            raise RuntimeError("can't start new thread")
        start(self)

    def on_four_threads():
        torch.set_num_threads(4)
        monkeypatch.setattr(threading.Thread, "start", started)
        found.append(product(x))

    found = []
    try:
        with ThreadPoolExecutor(1) as pool:  # whose thread has no others yet
            pool.submit(on_four_threads).result()
    finally:
        torch.set_num_threads(1)
    assert torch.equal(found[0], alone)


@needs_blocks
@pytest.mark.parametrize("size", [1e-37, 1e-40, 1e-44])
def test_rows_of_next_to_nothing_harm_nobody(size):
    """As they stand in files, where training has let an output or a block of it die."""
    matrix, exact = Matrix(32, 64, 1), rows_of(32, 64, 2).numpy()
    exact[5] *= np.float32(size)
    exact[7, 32:] *= np.float32(size)
    matrix.floats, matrix.four_bits = lambda name: exact, lambda name: None
    x = rows_of(3, 64, 3)
    np.testing.assert_allclose(Linear(matrix, ("w",), "int8", CPU)(x), x.numpy() @ exact.T, atol=0.3)


@needs_blocks
@pytest.mark.parametrize("least", [0.0, 1e-8])
def test_scales_below_zero_are_scales(least):
    matrix = Matrix(16, 64, 1)
    scales, leasts = np.full((16, 2), -0.01, dtype=np.float32), np.full((16, 2), least, dtype=np.float32)
    matrix.four = FourBits(matrix.four.values, scales, leasts, 32)
    x = rows_of(3, 64, 3)
    np.testing.assert_allclose(Linear(matrix, ("w",), "int8", CPU)(x), x.numpy() @ matrix.floats("w").T, atol=0.05)


@needs_blocks
def test_stacked_matrices_are_one_and_odd_ones_are_left_to_others():
    parts = {"a": Matrix(32, 64, 1), "b": Matrix(16, 64, 2), "odd": Matrix(13, 64, 3)}

    class Both:
        def floats(self, name):
            return parts[name].floats(name)

        def four_bits(self, name):
            return parts[name].four

    x = rows_of(3, 64, 6)
    together = Linear(Both(), ("a", "b", "odd"), "int8", CPU)
    assert together.blocks.rows == 61
    alone = [Linear(Both(), (name,), "int8", CPU)(x) for name in parts]
    assert torch.equal(together(x), torch.cat(alone, dim=1))
    assert Linear(Both(), ("odd", "a"), "int8", CPU).blocks is None


def test_zeros_give_zeros_and_no_number_stays_none():
    product = Int8([rows_of(16, 32, 5).numpy()])
    x = torch.zeros(3, 32)
    x[1, 4] = float("nan")
    assert torch.equal(product(x)[[0, 2]], torch.zeros(2, 16))
    assert product(x)[1].isnan().all()


def test_an_empty_output_row_is_zero():
    weight = rows_of(16, 32, 6)
    weight[3] = 0
    assert torch.equal(Int8([weight.numpy()])(rows_of(4, 32, 7))[:, 3], torch.zeros(4))


def test_the_largest_sums_do_not_overflow():
    got = Int8([np.ones((16, (1 << 16) - 1), dtype=np.float32)])(torch.ones(2, (1 << 16) - 1))
    assert torch.allclose(got, torch.tensor(65535.0), rtol=1e-6)


def test_stacked_matrices_are_their_products_side_by_side():
    a, b = Matrix(32, 64, 1), Matrix(16, 64, 2)

    class Both:
        def floats(self, name):
            return {"a": a, "b": b}[name].floats(name)

        def four_bits(self, name):
            return {"a": a, "b": b}[name].four

    x = rows_of(5, 64, 8)
    for form in FORMS:
        together = Linear(Both(), ("a", "b"), form, CPU)(x)
        apart = torch.cat([Linear(Both(), (n,), form, CPU)(x) for n in "ab"], dim=1)
        assert torch.equal(together, apart), form


def test_columns_in_another_order_give_the_same_matrix():
    matrix = Matrix(16, 64)
    order = np.random.default_rng(0).permutation(64)
    matrix.four = FourBits(matrix.four.values, matrix.four.scales, matrix.four.leasts, 32, order)
    x = rows_of(4, 64, 9)
    exact = x.double() @ torch.from_numpy(matrix.floats("w")).double().T
    assert (Linear(matrix, ("w",), "int4", CPU)(x) - exact).std() < 0.02 * exact.std()


def test_the_default_is_a_fact_of_the_machine():
    assert best_compute(CPU) == best_compute(CPU) != "int4"
    assert best_compute(torch.device("cuda")) == "bfloat16"

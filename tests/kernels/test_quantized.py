"""Products with 4-bit and 8-bit weights: the layouts' inverses, the products, and that a row's bits are its own."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.kernels import split_k
from trimtab.kernels import w4a16 as w4a16_file
from trimtab.kernels.int4_weight import Int4Weight, dense, from_awq, from_gguf, from_gptq, pack_int4, unpack_int4
from trimtab.kernels.w4a16 import dequantize, reference_w4a16, w4a16
from trimtab.kernels.w8a16 import pack_int8, reference_w8a16, unpack_int8, w8a16

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
KINDS = st.sampled_from(["symmetric", "zeros", "offsets"])
SHAPES = st.sampled_from([(96, 576, 64), (40, 576, 32), (64, 1536, 128), (33, 160, 32), (1, 128, 128), (70, 200, 64)])


def random_weight(rows: int, columns: int, group: int, kind: str) -> tuple[torch.Tensor, Int4Weight]:
    q = torch.randint(0, 16, (rows, columns), device=DEVICE)
    shape = (rows, -(-columns // group))
    scales = (torch.rand(shape, device=DEVICE) * 0.1 + 0.01).half()
    more = {}
    if kind == "zeros":
        more["zeros"] = torch.randint(0, 16, shape, device=DEVICE)
    if kind == "offsets":
        more["offsets"] = torch.randn(shape, device=DEVICE).half()
    return q, pack_int4(q, scales, group=group, **more)


def strided(rows: int, columns: int, dtype: torch.dtype) -> torch.Tensor:
    """Rows with poison behind each of them, as far as a kernel's step may reach."""
    held = torch.full((rows, columns + 128), float("nan"), device=DEVICE, dtype=dtype)
    held[:, :columns] = torch.randn(rows, columns, device=DEVICE)
    return held[:, :columns]


def error(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float((found.double() - exact).norm() / exact.norm())


@given(shape=SHAPES, kind=KINDS)
def test_four_bits_come_back_as_they_went_in(shape: tuple[int, int, int], kind: str) -> None:
    q, weight = random_weight(*shape, kind)
    assert torch.equal(unpack_int4(weight), q.to(torch.uint8))
    assert weight.codes.numel() * 2 <= shape[0] * -(-shape[1] // 128) * 64
    torch.testing.assert_close(dequantize(weight, torch.float32), dense(weight, torch.float32))


@settings(max_examples=25)
@given(shape=SHAPES, kind=KINDS, rows=st.sampled_from([0, 1, 3, 16, 70]), bias=st.booleans(), half=st.booleans())
def test_four_bit_products_agree_with_float64(
    shape: tuple[int, int, int], kind: str, rows: int, bias: bool, half: bool
) -> None:
    dtype = torch.float16 if half else torch.float32
    check_product(shape, kind, rows, bias, dtype)


def check_product(shape: tuple[int, int, int], kind: str, rows: int, bias: bool, dtype: torch.dtype) -> None:
    _, weight = random_weight(*shape, kind)
    x = strided(rows, shape[1], dtype)
    added = torch.randn(shape[0], device=DEVICE).to(dtype) if bias else None
    out = torch.full((rows, shape[0]), float("nan"), device=DEVICE, dtype=dtype)
    assert w4a16(x, weight, added, out=out) is out
    if rows:
        exact = reference_w4a16(x.double(), weight, None if added is None else added.double())
        assert error(out, exact) < TOLERANCE[dtype]


@pytest.mark.parametrize("kind", ["symmetric", "zeros", "offsets"])
@pytest.mark.parametrize("group", [32, 64, 128])
def test_many_rows_scale_their_weights_first(kind: str, group: int) -> None:
    check_product((64, 416, group), kind, 66, False, torch.float16)


def test_only_a_matrix_of_whole_blocks_is_read_without_masks() -> None:
    for shape, block, whole in [((128, 256), 64, True), ((128, 288), 64, False), ((96, 256), 64, False)]:
        assert w4a16_file.whole_blocks(random_weight(*shape, 32, "zeros")[1], block) is whole


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["symmetric", "zeros", "offsets"])
@pytest.mark.parametrize("group", [32, 64, 128])
@pytest.mark.parametrize("rows", [1, 16, 64, 256, 2048])
def test_four_bit_products_in_bfloat16(kind: str, group: int, rows: int) -> None:
    check_product((1024, 4096, group), kind, rows, True, torch.bfloat16)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", ["symmetric", "zeros", "offsets"])
def test_codes_unpacked_in_ptx_are_the_same(dtype: torch.dtype, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, weight = random_weight(256, 1024, 128, kind)
    x = torch.randn(4, 1024, device=DEVICE).to(dtype)
    packed = w4a16(x, weight)
    monkeypatch.setattr(w4a16_file, "_unpacking", lambda *_: "")
    assert torch.equal(w4a16(x, weight), packed)


def test_ptx_that_unpacks_is_right_for_every_word() -> None:
    """The instructions, carried out on integers: what the interpreter cannot run."""
    for dtype, kind in ((torch.bfloat16, 0), (torch.float16, 1)):
        text = w4a16_file._unpacking(dtype, kind)
        pair = torch.tensor([0x1234, -0x0123], dtype=torch.int16)
        word = int(pair[0]) & 0xFFFF | (int(pair[1]) & 0xFFFF) << 16
        base, less = (
            int(text.split("lop3.b32 t, t, 0x000F000F, ")[1].split(",")[0], 16),
            int(text.split("c, ")[1][:10], 16),
        )
        for plane in range(4):
            assert f"shr.u32 t, $4, {4 * plane};" in text
            bits = word >> 4 * plane & 0x000F000F | base
            halves = torch.tensor([bits & 0xFFFF, bits >> 16]).to(torch.int16).view(dtype)
            found = halves - torch.tensor([less & 0xFFFF]).to(torch.int16).view(dtype)
            want = (pair >> 4 * plane & 15) - (8 if kind == 0 else 0)
            assert found.tolist() == want.tolist()


def test_split_parts_are_added_in_one_order() -> None:
    _, weight = random_weight(40, 1536, 128, "zeros")
    x = torch.randn(5, 1536, device=DEVICE)
    assert split_k.splits_for(1, 12, 132) > 1, "this shape is split"
    first = w4a16(x, weight)
    assert torch.equal(first, w4a16(x, weight))
    parts = torch.randn(3, 4, 1100, device=DEVICE)
    bias, out = torch.randn(1100, device=DEVICE), torch.empty(4, 1100, device=DEVICE)
    split_k.add_parts(parts, bias, out)
    torch.testing.assert_close(out, split_k.reference_add_parts(parts, bias))


@given(tiles=st.integers(1, 4000), steps=st.integers(1, 500))
def test_splits_leave_every_program_some_work(tiles: int, steps: int) -> None:
    splits = split_k.splits_for(tiles, steps, 132)
    assert splits == 1 or (steps // splits >= 4 and tiles * splits <= 264)


@pytest.mark.parametrize("product", ["four", "eight"])
def test_a_row_keeps_its_bits_among_others(product: str) -> None:
    x = torch.randn(70, 576, device=DEVICE)
    if product == "four":
        _, weight = random_weight(40, 576, 64, "zeros")
        together, alone = (w4a16(rows, weight, invariant=True) for rows in (x, x[69:]))
    else:
        eight = pack_int8(torch.randn(40, 576, device=DEVICE))
        together, alone = (w8a16(rows, eight, invariant=True) for rows in (x, x[69:]))
    assert torch.equal(together[69:], alone)


def words(codes: torch.Tensor, axis: int, order: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 6, 7)) -> torch.Tensor:
    """Eight codes along an axis into an int32, lowest bits first: what a file's writer does."""
    parts = codes.long().unflatten(axis, (-1, 8))
    out = sum(parts.select(axis + 1, column) << 4 * at for at, column in enumerate(order))
    return torch.where(out >= 1 << 31, out - (1 << 32), out).int()  # type: ignore[call-overload]


@pytest.mark.parametrize("scattered", [False, True])
@pytest.mark.parametrize("less_one", [False, True])
def test_gptq_files_are_read(scattered: bool, less_one: bool) -> None:
    q, zeros, scales = torch.randint(0, 16, (256, 40)), torch.randint(1, 16, (4, 40)), torch.rand(4, 40) + 0.1
    g_idx = torch.arange(256) // 64
    if scattered:
        g_idx = g_idx[torch.randperm(256)]
    weight = from_gptq(words(q, 0), words(zeros - int(less_one), 1), scales, 64, g_idx, less_one).to(DEVICE)
    want = ((q - zeros[g_idx]) * scales[g_idx]).T.double()
    assert error(dense(weight, torch.float64).cpu(), want) < 1e-6
    x = torch.randn(3, 256)
    assert error(w4a16(x.to(DEVICE), weight).cpu(), x.double() @ want.T) < 1e-5


def test_awq_files_are_read() -> None:
    q, zeros, scales = torch.randint(0, 16, (128, 48)), torch.randint(0, 16, (1, 48)), torch.rand(1, 48) + 0.1
    order = (0, 2, 4, 6, 1, 3, 5, 7)
    weight = from_awq(words(q, 1, order), words(zeros, 1, order), scales, 128)
    assert error(dense(weight, torch.float64), ((q - zeros) * scales).T.double()) < 1e-6


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1"])
def test_gguf_blocks_are_read(kind: str) -> None:
    head = 2 if kind == "Q4_0" else 4
    numbers = torch.randn(6, 5, head // 2).half()
    codes = torch.randint(0, 256, (6, 5, 16), dtype=torch.uint8)
    weight = from_gguf(torch.cat((numbers.view(torch.uint8), codes), 2), kind)
    q = torch.cat((codes & 15, codes >> 4), 2).double()
    scale = numbers[..., :1].double()
    want = (q - 8) * scale if kind == "Q4_0" else q * scale + numbers[..., 1:].double()
    assert error(dense(weight, torch.float64), want.flatten(1)) < 1e-12


def test_symmetric_zeros_cost_nothing() -> None:
    q, scales = torch.randint(0, 16, (128, 16)), torch.rand(1, 16)
    assert from_gptq(words(q, 0), words(torch.full((1, 16), 7), 1), scales, 128).zeros is None


@settings(max_examples=15)
@given(
    shape=st.sampled_from([(96, 576), (33, 160), (1, 7), (64, 1536)]),
    group=st.sampled_from([0, 32, 64, 128]),
    rows=st.sampled_from([0, 1, 5, 40]),
    bias=st.booleans(),
    half=st.booleans(),
)
def test_eight_bit_products_agree_with_float64(
    shape: tuple[int, int], group: int, rows: int, bias: bool, half: bool
) -> None:
    dtype = torch.float16 if half else torch.float32
    weight = pack_int8(torch.randn(shape, device=DEVICE), group)
    x = strided(rows, shape[1], dtype)
    added = torch.randn(shape[0], device=DEVICE).to(dtype) if bias else None
    out = torch.full((rows, shape[0]), float("nan"), device=DEVICE, dtype=dtype)
    w8a16(x, weight, added, out=out)
    if rows:
        exact = reference_w8a16(x.double(), weight, None if added is None else added.double())
        assert error(out, exact) < TOLERANCE[dtype]


@given(group=st.sampled_from([0, 32, 64, 128]), columns=st.sampled_from([7, 160, 576]))
def test_eight_bits_are_the_nearest(group: int, columns: int) -> None:
    weight = torch.randn(5, columns)
    packed = pack_int8(weight, group)
    step = packed.scales.T.repeat_interleave(group or columns, 1)[:, :columns]
    assert bool(((unpack_int8(packed) - weight).abs() <= step * 0.5001).all())


@pytest.mark.parametrize("name", ["x", "bias", "out"])
@pytest.mark.parametrize("product", ["four", "eight"])
def test_wrong_arguments_are_named(name: str, product: str) -> None:
    weight = random_weight(8, 64, 32, "zeros")[1] if product == "four" else pack_int8(torch.randn(8, 64, device=DEVICE))
    right = {"x": torch.randn(2, 64), "bias": torch.randn(8), "out": torch.empty(2, 8)}
    wrong = {"x": torch.randn(2, 63), "bias": torch.randn(7), "out": torch.empty(2, 8).half()}
    given = {key: value.to(DEVICE) for key, value in {**right, name: wrong[name]}.items()}
    with pytest.raises(ValueError, match=f"^{name}:"):
        (w4a16 if product == "four" else w8a16)(weight=weight, **given)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("name", "change"),
    [("group", {"group": 48}), ("q", {"q": torch.full((4, 64), 16)}), ("scales", {"scales": torch.rand(4, 3)})],
)
def test_weights_that_cannot_be_packed_are_refused(name: str, change: dict[str, object]) -> None:
    right = {"q": torch.randint(0, 16, (4, 64)), "scales": torch.rand(4, 1), "group": 64}
    with pytest.raises(ValueError, match=f"^{name}:"):
        pack_int4(**{**right, **change})  # type: ignore[arg-type]

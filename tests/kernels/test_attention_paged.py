"""The paged attention kernel against float64, on stores where whatever must not be read is NaN."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy
import pytest
import torch
from attention_cases import Store, close, poison, signed, some_tree, store
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.kernels.attention_paged import paged_attention, reference_paged_attention
from trimtab.kernels.attention_placed import place
from trimtab.kernels.attention_plan import plan

HEADS = [(9, 3), (32, 8), (14, 2), (4, 4)]


def planned(made: Store, *, tile: int = 16, sms: int = 4, **options: Any) -> Any:
    starts = made.q_start.tolist()
    q_lens = [end - start for start, end in pairwise(starts)]
    heads, kv_heads, page = made.q.shape[1], made.k_pages.shape[1], made.k_pages.shape[2]
    sizes = {"heads": heads, "kv_heads": kv_heads, "page": page, "sms": sms, "tile": tile}
    return plan(q_lens, made.kv_len.tolist(), **sizes, **options)


def agree(made: Store, shape: Any, **masks: Any) -> torch.Tensor:
    """Runs the kernel into poison, and compares with the reference."""
    scale = made.q.shape[2] ** -0.5
    found = paged_attention(*made.all, scale=scale, plan=shape, out=poison(made.q), **masks)
    close(found, reference_paged_attention(*made.all, scale=scale, **masks))
    return found


@st.composite
def batches(draw: st.DrawFn) -> dict[str, Any]:
    sequences = draw(st.integers(1, 2))
    kv_lens = [draw(st.sampled_from([0, 1, 15, 16, 17, 40, 75])) for _ in range(sequences)]
    return {
        "q_lens": [draw(st.integers(0, 5)) for _ in range(sequences)],
        "kv_lens": kv_lens,
        "heads": draw(st.sampled_from(HEADS)),
        "d": draw(st.sampled_from([64, 128])),
        "page": draw(st.sampled_from([1, 8, 16, 32])),
        "window": draw(st.sampled_from([0, 0, 1, 5, 33])),
        "sinks": draw(st.sampled_from([0, 3, 20])),
        "globals_": [[draw(st.integers(-1, 20)), draw(st.integers(21, 60))] for _ in range(sequences)],
        "soft_cap": draw(st.sampled_from([0.0, 2.0])),
        "fixed_split": draw(st.sampled_from([0, 0, 1, 2])),
        "tree": draw(st.booleans()),
        "seed": draw(st.integers(0, 99)),
    }


@pytest.mark.parametrize("name", ["float32", "float16", pytest.param("bfloat16", marks=pytest.mark.gpu)])
@settings(max_examples=16, derandomize=True)
@given(batches())
def test_it_agrees_with_float64(name: str, case: dict[str, Any]) -> None:
    heads, kv_heads = case["heads"]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    sizes = {"heads": heads, "kv_heads": kv_heads, "d": case["d"], "page": case["page"], "seed": case["seed"]}
    made = store(case["q_lens"], case["kv_lens"], **sizes, dtype=getattr(torch, name), device=device)
    words = [signed(some_tree(new, case["seed"]))[:new] for new in case["q_lens"]]
    masks = {
        "window": case["window"],
        "sinks": case["sinks"],
        "soft_cap": case["soft_cap"],
        "globals_": torch.tensor(case["globals_"], dtype=torch.int32, device=device),
        "tree": torch.cat(words).to(device) if case["tree"] else None,
    }
    shape = planned(
        made,
        tile=32,
        window=case["window"],
        sinks=case["sinks"],
        tree=case["tree"],
        fixed_split=case["fixed_split"],
    )
    agree(made, shape, **masks)


def test_a_width_that_is_no_power_of_two(device: torch.device) -> None:
    made = store([2], [37], d=80, device=device)
    agree(made, planned(made))


def test_a_tile_may_be_larger_or_smaller_than_a_page(device: torch.device) -> None:
    made = store([3], [70], page=32, device=device)
    for tile in (16, 32, 64):
        agree(made, planned(made, tile=tile))


def test_more_rows_than_a_block_holds(device: torch.device) -> None:
    made = store([21], [64], heads=8, kv_heads=2, device=device)
    shape = planned(made, block=16, window=10)
    assert max(item[1] for item in shape.items) == 5
    agree(made, shape, window=10)


def test_a_tree_of_64_nodes(device: torch.device) -> None:
    made = store([64], [90], heads=2, kv_heads=2, device=device)
    agree(made, planned(made, tree=True), tree=signed(some_tree(64)).to(device))


@pytest.mark.parametrize("words", [some_tree(64), [2 ** (i + 1) - 1 for i in range(64)]], ids=["bushy", "chain"])
def test_a_tree_in_blocks_with_a_window(words: list[int], device: torch.device) -> None:
    """A row's place is its depth, up to 64; a later block may hold rows that stand before an earlier one's; and an
    ancestor is seen once, be it global and outside the window."""
    made = store([64], [150], heads=1, kv_heads=1, device=device)
    known = torch.tensor([[20, 90]], dtype=torch.int32, device=device)
    for window in (70, 5):
        masks: dict[str, Any] = {"window": window, "sinks": 2}
        shape = planned(made, tree=True, block=16, tile=32, **masks)
        agree(made, shape, tree=signed(words).to(device), globals_=known, **masks)


def test_sinks_end_where_they_end(device: torch.device) -> None:
    """The key behind the last sink is in the first row's window and not in the last one's."""
    made = store([5], [40], device=device)
    for sinks in (2, 3, 4):
        masks: dict[str, Any] = {"window": 33, "sinks": sinks}
        agree(made, planned(made, **masks), **masks)


def test_a_chain_is_a_tree_with_one_branch(device: torch.device) -> None:
    made = store([5], [41], device=device)
    chain = agree(made, planned(made))
    tree = agree(made, planned(made, tree=True), tree=signed([2 ** (i + 1) - 1 for i in range(5)]).to(device))
    assert torch.equal(chain, tree)


def test_a_row_sees_its_ancestors_and_no_other_guess(device: torch.device) -> None:
    made = store([3], [20], device=device)
    words = signed([0b001, 0b011, 0b101]).to(device)
    before = agree(made, planned(made, tree=True), tree=words)
    parents = signed([0, 0b001, 0b001]).to(device)  # a row's own bit is implied
    assert torch.equal(agree(made, planned(made, tree=True), tree=parents), before)
    last_page = int(made.page_table[0, 1])
    made.k_pages[last_page, :, 2] += 1.0  # the key of new row 1, position 18
    after = agree(made, planned(made, tree=True), tree=words)
    assert torch.equal(before[[0, 2]], after[[0, 2]])
    assert not torch.equal(before[1], after[1])


def test_splitting_changes_no_more_than_rounding(device: torch.device) -> None:
    made = store([1, 2], [150, 3], device=device)
    whole = agree(made, planned(made, sms=1, block=16))
    split = agree(made, planned(made, sms=64, block=16))
    assert not planned(made, sms=1).merges
    assert planned(made, sms=64).merges
    torch.testing.assert_close(whole, split, atol=1e-5, rtol=1e-5)


def test_more_parts_than_are_merged_at_once(device: torch.device) -> None:
    made = store([1], [330], heads=2, kv_heads=1, device=device)
    shape = planned(made, fixed_split=1)
    assert shape.merges[0][3] == 21
    agree(made, shape)


@pytest.fixture
def even_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter multiplies by numpy, where a row's bits depend on its place in the matrix; a GPU's do not."""

    def matmul(a: Any, b: Any, dtype: Any = None) -> Any:
        return (a[:, :, None] * b[None]).sum(1, dtype=dtype)

    monkeypatch.setattr(numpy, "matmul", matmul)


@pytest.mark.usefixtures("even_rows")
def test_a_fixed_split_gives_the_same_bits_in_any_company(device: torch.device) -> None:
    long = store([4], [100], device=device)
    alone = agree(long, planned(long, fixed_split=2))
    table = torch.cat([long.page_table, long.page_table, long.page_table])
    starts = torch.tensor([0, 1, 4, 8], dtype=torch.int32, device=device)
    lengths = torch.tensor([97, 100, 100], dtype=torch.int32, device=device)
    rows = torch.cat([long.q[:1], long.q[1:], long.q])  # the first row by itself, the rest of them, and all together
    crowd = Store(rows, long.k_pages, long.v_pages, table, starts, lengths)
    found = agree(crowd, planned(crowd, fixed_split=2))
    assert torch.equal(found[:4], alone)
    assert torch.equal(found[4:], alone)


@pytest.mark.usefixtures("even_rows")
def test_a_fixed_split_with_a_window_is_cut_at_the_same_keys(device: torch.device) -> None:
    """The window of a row that comes with others begins with the first of them: nothing may move with it."""
    made = store([4], [100], device=device)
    masks: dict[str, Any] = {"window": 40, "sinks": 3}
    together = agree(made, planned(made, fixed_split=1, **masks), **masks)
    last = Store(made.q[3:], *made.all[1:4], torch.tensor([0, 1], dtype=torch.int32, device=device), made.kv_len)
    assert torch.equal(agree(last, planned(last, fixed_split=1, **masks), **masks)[0], together[3])


@pytest.mark.parametrize("tile", [16, 64])
def test_pages_outside_the_window_may_be_given_away(tile: int, device: torch.device) -> None:
    made = store([2], [130], device=device)
    masks: dict[str, Any] = {"window": 20, "sinks": 4}
    before = agree(made, planned(made, tile=tile, **masks), **masks)
    gone = made.page_table[0, 1:6].long()  # positions 16 to 95; the first row sees 109 and up, and 0 to 3
    made.k_pages[gone] = made.v_pages[gone] = float("nan")
    made.page_table[0, 1:6] = 2**30
    scale = made.q.shape[2] ** -0.5
    after = paged_attention(*made.all, scale=scale, plan=planned(made, tile=tile, **masks), **masks)
    assert torch.equal(before, after)


@pytest.mark.parametrize("form", ["one", "each"])
def test_scales_are_folded_in(form: str, device: torch.device) -> None:
    made = store([2, 1], [50, 20], device=device)
    pages, kv_heads = made.k_pages.shape[:2]
    k_scale = torch.rand(pages, kv_heads, device=device) + 0.5
    v_scale = torch.rand(pages, kv_heads, device=device) + 0.5
    if form == "one":
        k_scale, v_scale = k_scale[:1, 0], v_scale[0, 0]
    agree(made, planned(made), k_scale=k_scale, v_scale=v_scale)
    masks: dict[str, Any] = {"window": 8, "globals_": torch.tensor([[3], [-1]], dtype=torch.int32, device=device)}
    agree(made, planned(made, window=8), k_scale=k_scale, v_scale=v_scale, **masks)


def test_only_the_chosen_pages_are_read(device: torch.device) -> None:
    made = store([2], [100], device=device)
    among = torch.tensor([[[6, 0, 3, -1], [5, 6, -1, -1]]], dtype=torch.int32, device=device)
    shape = planned(made, top_k=4, tile=32)
    before = agree(made, shape, pages_top_k=among)
    gone = made.page_table[0, [1, 2, 4]].long()
    made.k_pages[gone] = made.v_pages[gone] = float("nan")
    scale = made.q.shape[2] ** -0.5
    after = paged_attention(*made.all, scale=scale, plan=shape, pages_top_k=among)
    assert torch.equal(before, after)


def test_strides_other_than_the_usual(device: torch.device) -> None:
    made = store([2, 3], [30, 9], device=device)
    rows = torch.cat([torch.randn_like(made.q), made.q], 2)[:, :, 64:]
    k_pages, v_pages = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in (made.k_pages, made.v_pages))
    other = Store(rows, k_pages, v_pages, *made.all[3:])
    out = torch.full((5, 8, 64), float("nan"), device=device)[:, ::2]
    found = paged_attention(*other.all, scale=0.125, plan=planned(other), out=out)
    assert found.data_ptr() == out.data_ptr()
    close(found, reference_paged_attention(*made.all, scale=0.125))


def test_rows_of_no_sequence_are_left_as_they_are(device: torch.device) -> None:
    made = store([2, 1], [9, 4], device=device)
    fewer = made.q_start.clone()
    fewer[2] = 2
    out = poison(made.q)
    paged_attention(*made.all[:4], fewer, made.kv_len, scale=1.0, out=out)
    assert out[2].isnan().all()
    assert not out[:2].isnan().any()


def test_rows_before_the_first_position_are_zeros(device: torch.device) -> None:
    """The padding of a captured graph: new rows with no keys at all."""
    made = store([3, 2], [0, 5], device=device)
    found = agree(made, planned(made))
    assert not found[:3].any()


def test_a_plan_is_made_from_the_lengths_when_none_is_given(device: torch.device) -> None:
    made = store([2, 1], [30, 12], device=device)
    agree(made, None)


def test_a_placed_plan_is_replaced_in_its_own_memory(device: torch.device) -> None:
    fixed: dict[str, Any] = {"most_sequences": 3, "most_rows": 2}
    first, second = store([1, 2], [20, 90], device=device), store([2, 2, 1], [64, 17, 3], device=device)
    placed = place(planned(first, **fixed), device, d=64)
    where = placed.items.data_ptr()
    agree(first, placed)
    placed.update(planned(second, **fixed))
    assert placed.items.data_ptr() == where
    agree(second, placed)
    with pytest.raises(ValueError, match=r"^plan: its grid"):
        placed.update(planned(second))
    with pytest.raises(ValueError, match=r"^plan: made for"):
        placed.update(planned(second, window=5, **fixed))


def test_a_plan_made_for_other_masks_is_refused(device: torch.device) -> None:
    made = store([1], [20], device=device)
    for options in ({"window": 4}, {"top_k": 2}, {"tree": True}):
        with pytest.raises(ValueError, match=r"^plan: "):
            paged_attention(*made.all, scale=1.0, plan=planned(made, **options))


def wrong(made: Store, **changed: Any) -> dict[str, Any]:
    names = ("q", "k_pages", "v_pages", "page_table", "q_start", "kv_len")
    return {**dict(zip(names, made.all, strict=True)), "scale": 1.0, **changed}


def test_a_wrong_argument_is_named(device: torch.device) -> None:
    made = store([2], [20], device=device)
    k, q = made.k_pages, made.q
    for name, value in [
        ("q", q[0]),
        ("q", q.double()),
        ("q", q[:, :3]),
        ("q", q[..., :60]),
        ("q", q.transpose(1, 2).contiguous().transpose(1, 2)),
        ("k_pages", k[0]),
        ("k_pages", k[..., :32]),
        ("k_pages", k.half()),
        ("k_pages", k[:, :, :12]),
        ("v_pages", made.v_pages[:-1]),
        ("page_table", made.page_table.long()),
        ("page_table", made.page_table[0]),
        ("q_start", made.q_start[:1]),
        ("kv_len", made.kv_len.long()),
        ("kv_len", made.kv_len.to("meta")),
        ("window", -1),
        ("sinks", -1),
        ("soft_cap", float("nan")),
        ("scale", float("inf")),
        ("globals_", torch.zeros(2, 1, dtype=torch.int32, device=device)),
        ("tree", torch.ones(3, dtype=torch.int64, device=device)),
        ("k_scale", torch.ones(2, 2, device=device)),
        ("v_scale", torch.ones(1, device=device)),
        ("pages_top_k", torch.zeros(1, 1, 1, dtype=torch.int32, device=device)),
        ("out", torch.empty_like(q).half()),
    ]:
        with pytest.raises(ValueError, match=f"^{name}: "):
            paged_attention(**wrong(made, **{name: value}))
    among = torch.zeros(1, 2, 1, dtype=torch.int32, device=device)
    with pytest.raises(ValueError, match=r"^window: "):
        paged_attention(**wrong(made, pages_top_k=among, window=3))


def test_blocks_too_large_for_a_gpu_are_refused(device: torch.device) -> None:
    """Exact products of 256 wide heads: 128 rows of them would take 290 KB of its 227."""
    made = store([9], [20], heads=16, kv_heads=1, d=256, device=device)
    with pytest.raises(ValueError, match=r"^plan: fp32"):
        paged_attention(*made.all, scale=0.1, plan=planned(made))
    agree(made, None)
    agree(made, planned(made, block=64))


@pytest.mark.gpu
@pytest.mark.parametrize("form", ["one", "each"])
def test_fp8_keys_and_values(form: str) -> None:
    made = store([1, 8, 3], [1000, 300, 77], heads=32, kv_heads=8, d=128, dtype=torch.bfloat16, device="cuda")
    pages = [made.k_pages.nan_to_num(0.0), made.v_pages.nan_to_num(0.0)]
    scales = [(x.float().abs().amax((2, 3)) / 448).clamp_min(1e-6) for x in pages]
    if form == "one":
        scales = [x.max()[None] for x in scales]
    stored = [
        (x.float() / (s if form == "one" else s[:, :, None, None])).to(torch.float8_e4m3fn)
        for x, s in zip(pages, scales, strict=True)
    ]
    narrow = Store(made.q, *stored, *made.all[3:])
    agree(narrow, planned(narrow, tile=64, sms=132), k_scale=scales[0], v_scale=scales[1])


@pytest.mark.gpu
def test_a_captured_graph_is_replayed_for_another_batch() -> None:
    sizes: dict[str, Any] = {"heads": 32, "kv_heads": 8, "d": 128, "dtype": torch.bfloat16, "device": "cuda"}
    fixed: dict[str, Any] = {"most_sequences": 3, "most_rows": 4, "tile": 64, "sms": 132}
    first, second = store([4, 1, 2], [3000, 20, 700], **sizes), store([1, 1, 4], [16, 2900, 721], seed=1, **sizes)
    longest = max(x.page_table.shape[1] for x in (first, second))
    rows, pages = 12, max(x.k_pages.shape[0] for x in (first, second))
    held = Store(
        torch.zeros(rows, 32, 128, dtype=torch.bfloat16, device="cuda"),
        torch.zeros(pages, 8, 16, 128, dtype=torch.bfloat16, device="cuda"),
        torch.zeros(pages, 8, 16, 128, dtype=torch.bfloat16, device="cuda"),
        torch.zeros(3, longest, dtype=torch.int32, device="cuda"),
        first.q_start.clone(),
        first.kv_len.clone(),
    )

    def fill(made: Store) -> None:
        for into, x in zip(held.all, made.all, strict=True):
            into[tuple(slice(size) for size in x.shape)].copy_(x)

    fill(first)
    placed = place(planned(first, **fixed), torch.device("cuda"), d=128)
    out = poison(held.q)
    paged_attention(*held.all, scale=0.1, plan=placed, out=out)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        paged_attention(*held.all, scale=0.1, plan=placed, out=out)
    for made in (second, first):
        fill(made)
        placed.update(planned(made, **fixed))
        out.fill_(float("nan"))
        graph.replay()
        close(out[: made.q.shape[0]], reference_paged_attention(*made.all, scale=0.1))

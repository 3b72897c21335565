"""The kernel of prompts against float64: over pages, over the new rows' own keys, over both; masks; ragged batches."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from attention_cases import close, poison, store
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.kernels import attention_prefill
from trimtab.kernels.attention_prefill import prefill_attention, reference_prefill_attention


def case(q_lens: list[int], prefixes: list[int], form: str, **sizes: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """`form`: the new rows' keys are "paged" with the prefix, come "fresh" beside it, or are all there is: "first"."""
    lengths = [a + b for a, b in zip(q_lens, prefixes, strict=True)] if form == "paged" else prefixes
    made = store(q_lens, lengths, **sizes)
    paged = {"k_pages": made.k_pages, "v_pages": made.v_pages, "page_table": made.page_table}
    before = {"prefix_len": torch.tensor(prefixes, dtype=torch.int32, device=made.q.device)}
    if form == "paged":
        return (made.q, None, None, made.q_start), {**paged, **before}
    kv_heads = made.k_pages.shape[1]
    random = torch.Generator().manual_seed(9)
    k, v = (torch.randn(len(made.q), kv_heads, made.q.shape[2], generator=random).to(made.q) for _ in "kv")
    return (made.q, k, v, made.q_start), ({**paged, **before} if form == "fresh" else {})


def agree(arguments: tuple[Any, ...], options: dict[str, Any], **more: Any) -> torch.Tensor:
    q = arguments[0]
    scale = q.shape[2] ** -0.5
    found = prefill_attention(*arguments, scale=scale, out=poison(q), **options, **more)
    wanted = {name: value for name, value in more.items() if name not in ("longest", "library")}
    close(found, reference_prefill_attention(*arguments, scale=scale, **options, **wanted))
    return found


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Edges in many tiles at lengths that the interpreter can bear."""
    use_tiles(monkeypatch, block=32, tile=16)


def use_tiles(monkeypatch: pytest.MonkeyPatch, **changed: int) -> None:
    def tuned(_kernel: str, _device: Any, defaults: dict[str, int], **_sizes: int) -> dict[str, int]:
        return {**defaults, **changed}

    monkeypatch.setattr(attention_prefill, "tuned", tuned)


@st.composite
def batches(draw: st.DrawFn) -> dict[str, Any]:
    sequences = draw(st.integers(1, 2))
    window = draw(st.sampled_from([0, 0, 1, 20, 50]))
    heads = draw(st.sampled_from([(9, 3), (4, 1), (14, 2), (32, 8)]))
    lengths = [0, 1, 16, 33, 50] if heads[0] < 32 else [0, 1, 17]  # a program each head: many are slow to interpret
    return {
        "q_lens": [draw(st.sampled_from(lengths)) for _ in range(sequences)],
        "prefixes": [draw(st.sampled_from([0, 1, 16, 47])) for _ in range(sequences)],
        "form": draw(st.sampled_from(["paged", "fresh", "first"])),
        "heads": heads,
        "d": draw(st.sampled_from([64, 128])),
        "page": draw(st.sampled_from([8, 16, 32])),
        "masks": {
            "window": window,
            "sinks": draw(st.sampled_from([0, 3, 40])),
            "soft_cap": draw(st.sampled_from([0.0, 2.0])),
        },
        "globals_": [[draw(st.integers(-1, 30)), draw(st.integers(31, 60))] for _ in range(sequences)],
    }


@pytest.mark.parametrize("name", ["float32", "float16", pytest.param("bfloat16", marks=pytest.mark.gpu)])
@settings(max_examples=10, derandomize=True)
@given(batches())
def test_it_agrees_with_float64(name: str, drawn: dict[str, Any]) -> None:
    heads, kv_heads = drawn["heads"]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    prefixes = [0] * len(drawn["q_lens"]) if drawn["form"] == "first" else drawn["prefixes"]
    sizes = {"heads": heads, "kv_heads": kv_heads, "d": drawn["d"], "page": drawn["page"]}
    arguments, options = case(
        drawn["q_lens"], prefixes, drawn["form"], dtype=getattr(torch, name), device=device, **sizes
    )
    known = torch.tensor(drawn["globals_"], dtype=torch.int32, device=device)
    with pytest.MonkeyPatch.context() as patch:
        use_tiles(patch, block=32, tile=16)
        agree(arguments, options, globals_=known, **drawn["masks"])


@pytest.mark.parametrize("form", ["paged", "fresh", "first"])
@pytest.mark.parametrize("window", [0, 24])
def test_the_blocks_used_on_a_gpu(form: str, window: int, device: torch.device) -> None:
    sizes: dict[str, Any] = {"heads": 2, "kv_heads": 1, "dtype": torch.float16}
    arguments, options = case([150], [0 if form == "first" else 70], form, **sizes, device=device)
    agree(arguments, options, window=window, sinks=2)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("form", ["paged", "fresh"])
@pytest.mark.parametrize("window", [0, 15, 16, 17])
def test_edges_may_fall_anywhere_in_a_tile(form: str, window: int, device: torch.device) -> None:
    """Of what all rows see, of the window and of the sinks: one key more or less changes the kind of a tile."""
    prefixes = [13, 14, 15, 16, 17, 30, 31, 32]
    arguments, options = case([3] * len(prefixes), prefixes, form, heads=2, kv_heads=1, device=device)
    agree(arguments, options, window=window, sinks=0 if window == 16 else 16)


@pytest.mark.usefixtures("small_tiles")
def test_chunks_give_what_the_whole_gives(device: torch.device) -> None:
    arguments, options = case([70], [0], "paged", device=device)
    whole = agree(arguments, options, longest=70)
    q, _, _, _ = arguments
    for start, end in ((0, 32), (32, 33), (33, 70)):
        options["prefix_len"] = torch.tensor([start], dtype=torch.int32, device=device)
        starts = torch.tensor([0, end - start], dtype=torch.int32, device=device)
        part = agree((q[start:end], None, None, starts), options)
        torch.testing.assert_close(part, whole[start:end], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("tile", [16, 64])
def test_pages_outside_the_window_may_be_given_away(
    tile: int, monkeypatch: pytest.MonkeyPatch, device: torch.device
) -> None:
    use_tiles(monkeypatch, block=32, tile=tile)
    arguments, options = case([20], [100], "fresh", device=device)
    before = agree(arguments, options, window=30, sinks=4)
    gone = options["page_table"][0, 1:4].long()  # positions 16 to 63; the first row sees 71 and up, and 0 to 3
    options["k_pages"][gone] = options["v_pages"][gone] = float("nan")
    options["page_table"][0, 1:4] = 2**30
    after = prefill_attention(*arguments, scale=0.125, window=30, sinks=4, **options)
    assert torch.equal(before, after)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("form", ["one", "each"])
def test_scales_belong_to_the_pages(form: str, device: torch.device) -> None:
    arguments, options = case([20, 5], [40, 17], "fresh", device=device)
    pages, kv_heads = options["k_pages"].shape[:2]
    scales = [torch.rand(pages, kv_heads, device=device) + 0.5 for _ in "kv"]
    if form == "one":
        scales = [scale[0, :1] for scale in scales]
    known = torch.tensor([[2, 41], [-1, 3]], dtype=torch.int32, device=device)
    agree(arguments, options, k_scale=scales[0], v_scale=scales[1])
    agree(arguments, options, k_scale=scales[0], v_scale=scales[1], window=6, globals_=known)


def test_descriptors_read_the_same(monkeypatch: pytest.MonkeyPatch, device: torch.device) -> None:
    arguments, options = case([45, 20], [30, 0], "fresh", device=device)
    use_tiles(monkeypatch, block=32, tile=16)
    plain = agree(arguments, options)
    use_tiles(monkeypatch, block=32, tile=16, descriptors=1)
    assert torch.equal(agree(arguments, options), plain)


def test_what_the_copy_engine_cannot_take_is_read_by_pointers(device: torch.device) -> None:
    aligned, narrow = torch.zeros(4, 2, 64, device=device), torch.zeros(4, 2, 80, device=device)
    assert attention_prefill.copyable(aligned, aligned)
    assert not attention_prefill.copyable(aligned, narrow)
    assert not attention_prefill.copyable(aligned, torch.zeros(4, 2, 65, device=device)[:, :, 1:])
    assert not attention_prefill.copyable(None, None)


def test_a_lone_first_chunk_may_go_to_the_library(monkeypatch: pytest.MonkeyPatch, device: torch.device) -> None:
    asked = []
    real = attention_prefill.by_library
    monkeypatch.setattr(attention_prefill, "by_library", lambda *rest: asked.append(1) or real(*rest))
    first, nothing = case([20], [0], "first", device=device)
    agree(first, nothing, library=True)
    assert asked == [1]
    agree(first, nothing, library=True, window=5)
    agree(*case([20], [3], "fresh", device=device), library=True)
    agree(*case([20, 1], [0, 0], "first", device=device), library=True)
    assert asked == [1]


def test_strides_other_than_the_usual(device: torch.device) -> None:
    (q, k, v, starts), _ = case([30], [0], "first", device=device)
    rows = torch.cat([q, k, v], 1)
    out = torch.full((30, 8, 64), float("nan"), device=device)[:, ::2]
    found = prefill_attention(rows[:, :4], rows[:, 4:6], rows[:, 6:], starts, scale=0.125, out=out)
    close(found, reference_prefill_attention(q, k, v, starts, scale=0.125))


def test_a_wrong_argument_is_named(device: torch.device) -> None:
    (q, k, v, starts), options = case([20], [30], "fresh", device=device)
    right = {"q": q, "k": k, "v": v, "q_start": starts, "scale": 1.0, **options}
    for name, value in [
        ("q", q[0]),
        ("q", q[:, :3]),
        ("k", k[0]),
        ("k", k[:-1]),
        ("k", k.half()),
        ("v", None),
        ("v", v[:, :1]),
        ("q_start", starts.long()),
        ("q_start", starts[None]),
        ("k_pages", None),
        ("k_pages", options["k_pages"][:, :1]),
        ("page_table", options["page_table"][:0]),
        ("prefix_len", options["prefix_len"].long()),
        ("window", -1),
        ("scale", 0.0),
        ("globals_", torch.zeros(3, 1, dtype=torch.int32, device=device)),
        ("v_scale", torch.ones(1, device=device)),
        ("longest", -1),
        ("out", q[:-1]),
    ]:
        with pytest.raises(ValueError, match=f"^{name}: "):
            prefill_attention(**{**right, name: value})
    with pytest.raises(ValueError, match=r"^k: "):
        prefill_attention(q, None, None, starts, scale=1.0)
    with pytest.raises(ValueError, match=r"^prefix_len: "):
        prefill_attention(q, k, v, starts, scale=1.0, prefix_len=options["prefix_len"])


@pytest.mark.gpu
@pytest.mark.parametrize("changed", [{}, {"descriptors": 1}, {"descriptors": 1, "specialised": 1}])
@pytest.mark.parametrize("d", [64, 128])
def test_long_prompts_on_a_gpu(changed: dict[str, int], d: int, monkeypatch: pytest.MonkeyPatch) -> None:
    use_tiles(monkeypatch, **changed)
    sizes: dict[str, Any] = {"heads": 8, "kv_heads": 2, "d": d, "dtype": torch.bfloat16, "device": "cuda"}
    for form in ("fresh", "paged"):
        arguments, options = case([700, 1, 130], [500, 300, 0], form, **sizes)
        agree(arguments, options)
        agree(arguments, options, window=100, sinks=4)

"""Sampling: which tokens may be drawn, how often each is, and that nothing but (row, seed, position) decides."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.backends.engine.request import Sampling
from trimtab.backends.engine.sample import Law, draw
from trimtab.kernels import dispatch
from trimtab.kernels.sampling import reference_floor, reference_sample, reference_uniform, sample

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
OFF = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
DTYPES = {"temperature": torch.float32, "top_k": torch.int32, "top_p": torch.float32, "min_p": torch.float32}


def asked(rows: int, seed: int = 0, **more: float) -> dict[str, torch.Tensor]:
    """The arguments of `sample` for rows that all ask the same, at positions and seeds of their own."""
    same = {
        name: torch.full((rows,), {**OFF, **more}[name], dtype=dtype, device=DEVICE) for name, dtype in DTYPES.items()
    }
    seeds = torch.arange(rows, device=DEVICE) * 0x1234567890AB + seed
    return {**same, "seed": seeds, "position": torch.arange(rows, device=DEVICE) + (1 << 33)}


def test_noise_is_philox_as_published() -> None:
    """The first known answer of Philox 4x32-10 that its authors publish with Random123: key and counter all zero."""
    words = reference_uniform(0, 0, 4096).view(4, 1024)[:, 0]
    published = [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    assert ((words * 2**32) - 0.5).tolist() == published


@settings(max_examples=25)
@given(
    rows=st.integers(1, 3),
    size=st.sampled_from([1, 2, 7, 576, 1000, 4097, 5000]),
    temperature=st.sampled_from([0.0, 0.3, 1.0, 5.0]),
    top_k=st.sampled_from([0, 1, 5, 5000]),
    top_p=st.sampled_from([1.0, 0.999, 0.5, 0.01, 0.0]),
    min_p=st.sampled_from([0.0, 0.02, 1.0]),
    spread=st.sampled_from([0.0, 1.0, 8.0]),
    noise=st.integers(0, 1 << 62),
)
def test_agrees_with_float64(
    rows: int, size: int, temperature: float, top_k: int, top_p: float, min_p: float, spread: float, noise: int
) -> None:
    torch.manual_seed(noise % 1000)
    logits = (torch.randn(rows, size + 5, device=DEVICE) * spread)[:, :size]
    asks = asked(rows, noise, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    floors = torch.full((rows,), float("nan"), device=DEVICE)
    out = torch.full((rows,), -7, device=DEVICE)
    sample(logits, **asks, floors=floors, out=out)
    for at in range(rows):
        row = logits[at].double()
        z = row / temperature if temperature > 0 else row
        kept = z >= float(floors[at]) - 1e-6
        if temperature > 0:
            assert_nucleus(z, kept, top_k, top_p, min_p)
            uniform = reference_uniform(int(asks["seed"][at]), int(asks["position"][at]), size).to(DEVICE)
            row = (z - (-torch.log1p(-uniform)).log()).masked_fill(~kept, float("-inf"))
        token = int(out[at])
        assert 0 <= token < size
        assert row[token] >= row.max() - 1e-4, "another token has the best score by more than rounding"


def assert_nucleus(z: torch.Tensor, kept: torch.Tensor, top_k: int, top_p: float, min_p: float) -> None:
    """The kept are those of the float64 law, but for tokens whose mass stands within rounding of the edge."""
    edges = [reference_floor(z, top_k, min(max(top_p * (1 + e), 0.0), 1.0), min_p) for e in (-1e-5, 1e-5)]
    edges = [edge if top_p < 1 else reference_floor(z, top_k, 1.0, min_p) for edge in edges]
    assert bool(kept[z >= max(edges) + 1e-5].all())
    assert not bool(kept[z < min(edges) - 1e-5].any())


def test_a_large_vocabulary() -> None:
    torch.manual_seed(0)
    logits = torch.randn(3, 49152, device=DEVICE) * 4
    logits[1] /= 40  # so flat that what may be drawn does not fit the scratch: bisected in memory
    asks = asked(3, temperature=0.8, top_p=0.95)
    found = sample(logits, **asks)
    want, _ = reference_sample(logits.double(), **asks)
    assert torch.equal(found, want)


def test_a_token_depends_on_nothing_but_its_row_seed_and_position() -> None:
    torch.manual_seed(1)
    logits = torch.randn(6, 3000, device=DEVICE)
    asks = asked(6, temperature=0.9, top_p=0.9, top_k=50)
    together = sample(logits, **asks)
    for at in (0, 3, 5):
        alone = {name: value[at : at + 1].clone() for name, value in asks.items()}
        assert sample(logits[at : at + 1], **alone).item() == together[at].item()
    moved = {**asks, "position": asks["position"] + 1}
    reseeded = {**asks, "seed": asks["seed"] + (1 << 40)}
    assert not torch.equal(sample(logits, **moved), together)
    assert not torch.equal(sample(logits, **reseeded), together)


def test_tokens_are_drawn_as_often_as_their_probability_says() -> None:
    law = torch.tensor([0.5, 0.25, 0.15, 0.06, 0.04])
    rows = 3000
    logits = law.log().expand(rows, 5).contiguous().to(DEVICE)
    with dispatch.forced("torch"):  # which the kernel is held to above; interpreted, this would take minutes
        drawn, kept = sample(logits, **asked(rows, seed=3)), sample(logits, **asked(rows, seed=3, top_p=0.7))
    counts = torch.bincount(drawn.cpu(), minlength=5)
    chi_squared = float(((counts - rows * law) ** 2 / (rows * law)).sum())
    assert chi_squared < 18.5, "one in a thousand for four degrees of freedom; the draws are fixed"
    counts = torch.bincount(kept.cpu(), minlength=5)
    assert counts[2:].sum() == 0
    assert abs(float(counts[0]) / rows - 2 / 3) < 0.03


def test_forbidden_tokens_are_never_drawn() -> None:
    logits = torch.full((4, 5000), float("-inf"), device=DEVICE)
    logits[:, 4321] = -30.0
    for more in ({}, {"top_k": 3}, {"top_p": 0.5}, {"temperature": 0.0}):
        assert sample(logits, **asked(4, **more)).tolist() == [4321] * 4


def test_the_first_of_equals_is_the_greedy_token() -> None:
    logits = torch.zeros(1, 6000, device=DEVICE)
    logits[0, [77, 2000, 5999]] = 3.0
    assert sample(logits, **asked(1, temperature=0.0)).tolist() == [77]


@pytest.mark.parametrize(("top_k", "top_p", "min_p"), [(3, 1.0, 0.0), (0, 0.6, 0.0), (0, 1.0, 0.2), (4, 0.7, 0.1)])
def test_what_may_be_drawn_is_what_the_engine_draws_on_a_cpu(top_k: int, top_p: float, min_p: float) -> None:
    """The noise is another, the law is the same."""
    logits = torch.tensor([[2.0, 1.7, 1.5, 1.2, 1.0, 0.9, 0.2, -1.0, -3.0]])
    laws = [
        Law(Sampling(temperature=0.8, top_k=top_k, top_p=top_p, min_p=min_p, seed=5), position=at) for at in range(300)
    ]
    kept = (logits[0] / 0.8 >= reference_floor(logits[0] / 0.8, top_k, top_p, min_p)).nonzero().flatten().tolist()
    with dispatch.forced("torch"):  # else the engine would draw with the kernel, interpreted
        assert set(draw(logits.expand(300, -1), laws)) == set(kept)


def test_the_torch_path_is_the_same_law() -> None:
    torch.manual_seed(2)
    logits = torch.randn(4, 500, device=DEVICE)
    asks = asked(4, temperature=0.7, top_p=0.8)
    with dispatch.forced("torch"):
        other = sample(logits, **asks)
    assert torch.equal(sample(logits, **asks), other)


@pytest.mark.parametrize("name", ["logits", "temperature", "top_k", "top_p", "min_p", "seed", "position", "out"])
def test_wrong_arguments_are_named(name: str) -> None:
    right = {
        "logits": torch.randn(2, 9, device=DEVICE),
        **asked(2),
        "out": torch.zeros(2, dtype=torch.int64).to(DEVICE),
    }
    wrong = right["logits"].T if name == "logits" else right[name][:1]
    with pytest.raises(ValueError, match=f"^{name}:"):
        sample(**{**right, name: wrong if name == "logits" else wrong.to(torch.float64)})


def test_no_rows() -> None:
    assert sample(torch.empty(0, 9, device=DEVICE), **asked(0)).shape == (0,)

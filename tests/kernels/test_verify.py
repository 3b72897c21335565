"""The walk over guesses: chains and trees, against the plain walk and against what it promises."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trimtab.kernels.verify import reference_verify_walk, verify_walk

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@st.composite
def batches(draw: st.DrawFn) -> tuple[list[list[int]], list[list[int]], list[list[int]]]:
    """(drawn, tokens, parents) of a few sequences; few different tokens, so that guesses often come true."""
    sizes = draw(st.lists(st.sampled_from([0, 1, 2, 5, 16, 64]), min_size=1, max_size=4))
    token = st.integers(0, draw(st.sampled_from([1, 3, 100])))
    drawn = [draw(st.lists(token, min_size=n, max_size=n)) for n in sizes]
    tokens = [draw(st.lists(token, min_size=n, max_size=n)) for n in sizes]
    parents = [[-1, *(draw(st.integers(0, at)) for at in range(n - 1))][:n] for n in sizes]
    return drawn, tokens, parents


def flat(lists: list[list[int]], dtype: torch.dtype = torch.int64) -> torch.Tensor:
    return torch.tensor([x for one in lists for x in one], dtype=dtype, device=DEVICE)


def starts_of(lists: list[list[int]]) -> torch.Tensor:
    ends = torch.tensor([0, *(len(one) for one in lists)]).cumsum(0)
    return ends.to(torch.int32).to(DEVICE)


@given(batches(), st.booleans())
def test_walks_as_the_plain_walk_does(batch: tuple[list[list[int]], ...], tree: bool) -> None:
    drawn, tokens, parents = batch
    above = flat(parents, torch.int32) if tree else None
    found = verify_walk(flat(drawn), flat(tokens), starts_of(drawn), above)
    for one, other in zip(
        found, reference_verify_walk(flat(drawn), flat(tokens), starts_of(drawn), above, 64), strict=True
    ):
        assert torch.equal(one, other)


@given(batches())
def test_what_is_emitted_is_what_one_token_at_a_time_would_be(batch: tuple[list[list[int]], ...]) -> None:
    drawn, tokens, parents = batch
    count, path, emitted = verify_walk(flat(drawn), flat(tokens), starts_of(drawn), flat(parents, torch.int32))
    for s, draws in enumerate(drawn):
        rows = path[s, : count[s]].tolist()
        assert len(rows) == bool(draws) + sum(tokens[s][row] == drawn[s][parents[s][row]] for row in rows[1:])
        assert emitted[s, : count[s]].tolist() == [draws[row] for row in rows]
        assert [parents[s][row] for row in rows[1:]] == rows[:-1]
        assert set(emitted[s, count[s] :].tolist()) <= {-1}
        if rows:  # it stopped because it had to
            assert not any(parents[s][c] == rows[-1] and tokens[s][c] == draws[rows[-1]] for c in range(1, len(draws)))


def test_parents_that_make_no_tree_cannot_hang_it() -> None:
    ones = torch.ones(4, dtype=torch.int64, device=DEVICE)
    starts = torch.tensor([0, 4], dtype=torch.int32, device=DEVICE)
    for above in ([3, 0, 1, 2], [0, 0, 1, 2], [-1, 1, 1, 3]):
        parents = torch.tensor(above, dtype=torch.int32, device=DEVICE)
        count = 4 if above[1] == 0 else 1
        assert verify_walk(ones, ones, starts, parents)[0].tolist() == [count]


@pytest.mark.parametrize("name", ["drawn", "tokens", "starts", "parents", "most", "out"])
def test_wrong_arguments_are_named(name: str) -> None:
    ones = torch.ones(4, dtype=torch.int64, device=DEVICE)
    right = {
        "drawn": ones,
        "tokens": ones,
        "starts": torch.tensor([0, 4], dtype=torch.int32, device=DEVICE),
        "parents": torch.zeros(4, dtype=torch.int32, device=DEVICE),
        "most": 8,
    }
    wrong = {
        "drawn": ones.int(),
        "tokens": ones[:2],
        "starts": right["starts"].long(),  # type: ignore[attr-defined]
        "parents": ones,
        "most": 65,
        "out": (torch.empty(1, dtype=torch.int32), torch.empty(1, 4, dtype=torch.int32), torch.empty(1, 8)),
    }
    with pytest.raises(ValueError, match=f"^{name}:"):
        verify_walk(**{**right, name: wrong[name]})  # type: ignore[arg-type]
